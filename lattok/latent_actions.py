"""Latent actions: codes and vectors of frame pairs or chunks, in order; for a video also their validity and times."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from lattok.utils import checks
from lattok.utils.attributes import Suggests
from lattok.utils.files import whole_file

Array = TypeVar("Array", np.ndarray, Tensor)
PARTS = "a number, frames such as [10:20], seconds such as [0.5:2.0], or a mask such as [labels.valid]"


@dataclass(frozen=True, eq=False, repr=False)
class LatentActions(Suggests):
    """Latent actions of one stream; `env` holds the environment stream where there is one.

    >>> labels = lam.label_video("clip.mp4")
    >>> len(labels), labels[10:20], labels[0.5:2.0], labels[labels.valid]    # by frames, by seconds, by a mask
    >>> labels.to_pandas(), labels.to_parquet("labels.parquet")

    Residual quantizers have P levels for one latent: `latents` and `quantized` are then [B, 1, d].
    """

    drawn_by = "Codes beside the film: lattok label VIDEO --model MODEL. A table: to_pandas()."

    codes: Tensor  # [B, P] int64
    latents: Tensor  # [B, P, d] before quantization
    quantized: Tensor  # [B, P, d]
    env: "LatentActions | None" = None
    valid: Tensor | None = None  # [T] bool, of a video: False where a pair reaches past its end
    times: Tensor | None = None  # [T] float64 seconds from the first frame, of a video whose rate is known

    @classmethod
    def of_latents(cls, latents: Tensor, env: "LatentActions | None" = None) -> "LatentActions":
        """Return continuous latents [B, P, d], which have no codes."""
        return cls(torch.empty(len(latents), 0, dtype=torch.long, device=latents.device), latents, latents, env)

    def of_video(self, later: int, fps: float | None) -> "LatentActions":
        """Mark which labels of the T frames of a video at `fps` have all their `later` frames in it."""
        frames = torch.arange(len(self))
        times = None if fps is None else frames.double() / fps
        return replace(self, valid=frames + later < len(self), times=times)

    def __len__(self) -> int:
        return len(self.quantized)

    def __getitem__(self, part: Any) -> "LatentActions":
        """Return some of them: frames by number, slice or mask, or `labels[0.5:2.0]`, from one second to another.

        Raises `LattokError` for seconds where no rate is known, and for anything else."""
        rows = self._rows(part)
        return self._each(lambda values: values[_of_kind(rows, values)])

    def __repr__(self) -> str:
        sizes = [f"{name} {list(getattr(self, name).shape)}" for name in ("codes", "latents")]
        sizes += [] if self.env is None else [f"env.codes {list(self.env.codes.shape)}"]
        span = f", {self.times[0]:.3g} to {self.times[-1]:.3g} s" if self.times is not None and len(self) else ""
        said = f"LatentActions: {', '.join(sizes)}{span}"
        if self.valid is None:
            return said
        return f"{said}\n  {int(self.valid.sum())} of {len(self)} valid; the pairs of the others reach past the end"

    def to_arrow(self) -> Any:
        """Return a `pyarrow.Table` with a row each: `timestamp` and `valid` of a video; `codes` [P] and `embedding`
        [P * d], the latents, as lists, and those of the environment under `env.`."""
        import pyarrow as pa

        columns = {} if self.times is None else {"timestamp": pa.array(np.asarray(self.times))}
        columns |= {} if self.valid is None else {"valid": pa.array(np.asarray(self.valid))}
        for prefix, stream in {"": self, "env.": self.env}.items():
            for name, values in {} if stream is None else {"codes": stream.codes, "embedding": stream.latents}.items():
                if 0 not in values.shape[1:]:
                    columns[prefix + name] = rows_of(values)
        return pa.table(columns)

    def to_pandas(self) -> Any:
        """Return `to_arrow` as a DataFrame. Needs pandas."""
        try:
            return self.to_arrow().to_pandas()
        except ImportError:
            raise checks.LattokError("pandas is not installed: pip install pandas, or use to_arrow().") from None

    def to_parquet(self, path: str | os.PathLike[str]) -> Path:
        """Write `to_arrow` as a Parquet file."""
        return write_table(self.to_arrow(), path)

    def _each(self, change: Callable[[Any], Any]) -> "LatentActions":
        """Return the same with every tensor changed."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        given = {name: value for name, value in found.items() if value is not None}
        return replace(self, **{name: v._each(change) if name == "env" else change(v) for name, v in given.items()})

    def _rows(self, part: Any) -> Any:
        if isinstance(part, slice) and any(isinstance(end, float) for end in (part.start, part.stop)):
            if self.times is None:
                checks.fail("labels", "frames, since no rate is known", f"seconds {part}", "Give label_video fps=.")
            times = np.asarray(self.times)
            first, end = (None if at is None else int(np.searchsorted(times, at)) for at in (part.start, part.stop))
            return slice(first, end, part.step)
        if isinstance(part, slice | list | np.ndarray | Tensor):
            return part
        if not checks.is_int(part):
            checks.fail("labels", PARTS, repr(part)[:60])
        if not -len(self) <= part < len(self):
            raise IndexError(f"frame {part} of {len(self)}")  # ends a loop over all
        return slice(part % len(self), part % len(self) + 1)


def join(parts: Sequence[LatentActions]) -> LatentActions:
    """Join latent actions of several batches, one after the other."""
    env = [part.env for part in parts if part.env is not None]
    return LatentActions(
        torch.cat([part.codes for part in parts]),
        torch.cat([part.latents for part in parts]),
        torch.cat([part.quantized for part in parts]),
        join(env) if env else None,
    )


def rows_of(values: Any) -> Any:
    """Return an array or a tensor [T, ...] as a column of lists."""
    import pyarrow as pa

    flat = torch.as_tensor(values).flatten(1).numpy(force=True)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), flat.shape[1])


def write_table(table: Any, path: str | os.PathLike[str]) -> Path:
    """Write a `pyarrow.Table` as a Parquet file."""
    import pyarrow.parquet as pq

    path = Path(path).expanduser()
    with whole_file(path) as temporary:
        pq.write_table(table, temporary)
    return path


def _of_kind(rows: Any, values: Array) -> Any:
    """Return rows that choose from an array or a tensor."""
    if isinstance(rows, slice):
        return rows
    return torch.as_tensor(rows, device=values.device) if isinstance(values, Tensor) else np.asarray(rows)
