"""What users hand over: arrays, tensors and nested lists become tensors; results go back as the kind that came.

Arrays in, arrays out; tensors in, tensors out; lists in, tensors out.
"""

from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from lattok.utils import checks

Values = Tensor | np.ndarray | list[Any]  # one array, in whichever kind
Result = TypeVar("Result")
WIDEST = 8  # bytes of a number that torch knows


def as_tensor(name: str, values: object) -> Tensor:
    """Turn a tensor, an array or a nested list into a dense torch tensor of real numbers with values in it."""
    if isinstance(values, list | tuple) and not hasattr(values, "_fields"):
        try:
            values = torch.stack(list(values)) if values and isinstance(values[0], Tensor) else np.asarray(values)
        except (ValueError, TypeError, RuntimeError, OverflowError):
            checks.fail(name, "rows of numbers, all of one length", f"a list of {len(values)} that are not")
    if hasattr(values, "__array_interface__") and not isinstance(values, np.ndarray):  # a picture of PIL
        values = np.array(values)
    if isinstance(values, np.ndarray):
        if isinstance(values, np.ma.MaskedArray):
            hint = "Use .filled(0), and valid= for what counts."
            checks.fail(name, "an array that is not masked", "a masked array", hint)
        if values.dtype.kind not in "biuf" or values.dtype.itemsize > WIDEST:
            checks.fail(name, "an array of real numbers", f"dtype {values.dtype}")
        values = torch.from_numpy(np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("=")))
    if not isinstance(values, Tensor):
        checks.fail(name, "a torch tensor, a numpy array or a nested list", type(values).__name__)
    if values.is_nested or values.layout != torch.strided:
        checks.fail(name, "a dense tensor", "a nested or sparse one", "Use .to_dense().")
    if values.is_quantized:
        checks.fail(name, "a tensor of plain numbers", f"dtype {values.dtype}", "Use .dequantize().")
    if values.is_meta:
        checks.fail(name, "a tensor with values", "one without, on the device meta")
    if values.is_complex():
        checks.fail(name, "real numbers", f"dtype {values.dtype}")
    return values


def in_pairs(now: Values, later: Values) -> Values:
    """Put frames [B, ...] and later ones together, [B, 2, ...], as arrays where the first are arrays."""
    pair = [as_tensor("frames", now), as_tensor("later", later)]
    if pair[0].shape != pair[1].shape:
        checks.fail("later", f"frames of shape {list(pair[0].shape)}, as the first ones have", list(pair[1].shape))
    if pair[0].dtype != pair[1].dtype:
        checks.fail("later", f"{pair[0].dtype}, as the first ones are", pair[1].dtype)
    return like(now, torch.stack([pair[0], pair[1].to(pair[0].device)], min(1, pair[0].ndim)))


def like(given: object, result: Result) -> Result:
    """Return `result`, a tensor, or a tuple or dataclass that holds some, as arrays where an array was given."""
    return _arrays(result) if isinstance(given, np.ndarray) else result


def _arrays(value: object) -> Any:
    if isinstance(value, Tensor):
        return value.numpy(force=True)
    if isinstance(value, tuple):
        parts = [_arrays(part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: _arrays(getattr(value, field.name)) for field in fields(value)})
    return value
