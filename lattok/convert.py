"""Published checkpoints as lattok models: `lattok.convert.p2t_action_vq(path)`. The maps stand beside each model."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from lattok import checks, files
from lattok.action_vq.convert import p2t_action_vq

__all__ = ["p2t_action_vq"]


def convert_p2t_action_vq(path: str, out: str, **facts: Any) -> None:
    """What `lattok convert p2t-action-vq` does: convert, say what was found, save into the new folder `out`."""
    folder = _new_folder(out)
    model = p2t_action_vq(path, **facts)
    config = model.config
    print(
        f"Found: {config.action_dim} action dimensions, {config.codebook_size} codes of width {config.dim}, "
        f"{len(config.dilations)} convolutions, {config.depth} Transformer layers, "
        f"{'with' if config.fft else 'without'} FFT; normalisation: {config.normalize}; "
        f"taken as given: horizon {config.horizon}, {config.heads} heads."
    )
    files.check_writable(folder)
    model.save_pretrained(folder)
    print(f"Saved in {out}. Judge it: {shlex.join(['lattok', 'evaluate', out])} DATASET")


def _new_folder(out: str) -> Path:
    """`out` as a path; what is already there is never overwritten."""
    folder = Path(out).expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        checks.fail("out", "a new or empty folder", f"{folder}, which holds something", "Choose another OUT.")
    return folder
