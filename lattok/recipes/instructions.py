"""Instructions as vectors, for stage 1: every distinct one is embedded once, before training.

A file of precomputed vectors (`text_features`) is a .safetensors or .npz with one array for each instruction, under the
instruction's own text: [words, D], or [D] for a single vector.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from lattok import checks, files
from lattok.image_lam.text import TextEncoder
from lattok.samples.batches import Instructions

BATCH = 64  # texts that are encoded at once


def embed(language: str, path: str | None, texts: Sequence[str]) -> Instructions:
    """Vectors of `texts`, by a frozen text encoder ("t5:MODEL"), or read from a file ("precomputed")."""
    if (language == "precomputed") != (path is not None):
        expected = "a file of vectors with language=precomputed, none with another"
        checks.fail("text_features", expected, f"{path or 'none'} with language={language}")
    texts = sorted(set(texts))
    if path is not None:
        return Instructions.joined(_chosen(read_vectors(Path(path).expanduser()), texts))
    encoder, words = TextEncoder(language).load(), dict[str, Tensor]()
    for start in range(0, len(texts), BATCH):
        batch = texts[start : start + BATCH]
        vectors, mask = encoder.encode(batch)
        words.update({text: row[used] for text, row, used in zip(batch, vectors, mask, strict=True)})
    return Instructions.joined(words)


def read_vectors(path: Path) -> dict[str, Tensor]:
    """Vectors [words, D] of each text in a file."""
    try:
        if path.suffix == ".safetensors":
            arrays = safetensors.torch.load_file(path)
        elif path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                arrays = {name: torch.from_numpy(archive[name]) for name in archive.files}
        else:
            return checks.fail("text_features", "a .safetensors or .npz file", str(path))
    except checks.LattokError:
        raise
    except Exception as error:  # both formats raise many kinds for a damaged file; the user needs one line
        checks.fail("text_features", f"a file of arrays; {str(path)!r} could not be read", files.first_line(error))
    vectors = {text: array[None] if array.ndim == 1 else array for text, array in arrays.items()}
    for text, array in vectors.items():
        if array.ndim != 2 or 0 in array.shape or not array.is_floating_point() or not bool(array.isfinite().all()):
            expected = f"finite floating-point vectors [words, D] for {text!r}"
            checks.fail("text_features", expected, f"{array.dtype} of shape {list(arrays[text].shape)}")
    return {text: array.float() for text, array in vectors.items()}


def _chosen(vectors: Mapping[str, Tensor], texts: Sequence[str]) -> dict[str, Tensor]:
    missing = [text for text in texts if text not in vectors]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        checks.fail("text_features", "vectors of every instruction", f"none of {missing[0]!r}{more}")
    widths = sorted({vectors[text].shape[1] for text in texts})
    if len(widths) > 1:
        checks.fail("text_features", "vectors of one width", f"widths {', '.join(map(str, widths))}")
    return {text: vectors[text] for text in texts}


def file_hash(path: str) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(Path(path).expanduser().read_bytes()).hexdigest()
