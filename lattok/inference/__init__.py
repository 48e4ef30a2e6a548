"""Trained models for inference alone, faster: one door for all families.

labeller = lattok.for_inference(lam, precision="bfloat16")      # torch, CPU or CUDA
labeller = lattok.for_inference(lam, backend="onnxruntime")     # float32 on the CPU; extra `onnx`
fast = lattok.for_inference(tokenizer)                          # decodes by a table
"""

from __future__ import annotations

from typing import overload

from lattok.action_vq import P2TActionVQ
from lattok.image_lam import ImageLAM
from lattok.inference.action_vq import FastActionVQ
from lattok.inference.image_lam import FastImageLAM
from lattok.utils import checks

__all__ = ["FastActionVQ", "FastImageLAM", "for_inference"]


@overload
def for_inference(
    model: ImageLAM, backend: str = "torch", precision: str = "float32", threads: int = 1
) -> FastImageLAM: ...
@overload
def for_inference(model: P2TActionVQ) -> FastActionVQ: ...
def for_inference(model: object, backend: str = "torch", precision: str = "float32", threads: int = 1) -> object:
    """Return a faster form of a model for inference alone, with the weights as they are now.

    An `ImageLAM` becomes a labeller: by "onnxruntime" on the CPU in float32 with so many `threads` (extra `onnx`), or
    by "torch" also in "bfloat16", where a few codes differ; its `describe()` says how labels were made. A `P2TActionVQ`
    with the step decoder becomes a tokenizer that decodes by a table.
    """
    if isinstance(model, ImageLAM):
        return FastImageLAM(model, backend, precision, threads)
    if isinstance(model, P2TActionVQ):
        if (backend, precision, threads) != ("torch", "float32", 1):
            got = f"{precision} and {backend}"
            checks.fail("precision, backend", "float32 and torch for a tokenizer of actions", got)
        return FastActionVQ(model)
    hint = "Other models have no faster form: use them as they are."
    return checks.fail("model", "an ImageLAM or a P2TActionVQ", type(model).__name__, hint)
