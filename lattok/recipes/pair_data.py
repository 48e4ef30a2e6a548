"""What latent action models of video learn from: frame pairs, features from a cache, and instructions as vectors.

A file of precomputed vectors (`text_features`) is a .safetensors or .npz with one array for each instruction, under the
instruction's own text: [words, D], or [D] for a single vector.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from lattok.data import RobotDataset
from lattok.image_lam import TrainedPairModel
from lattok.image_lam.base.config import TrainedPairConfig
from lattok.image_lam.base.feature_cache import PixelsOf, Take
from lattok.image_lam.base.features import TextEncoder
from lattok.recipes.common import Recipe
from lattok.samples import FramePairs
from lattok.samples.batches import Instructions
from lattok.samples.stream import keep_frames
from lattok.utils import checks
from lattok.utils.devices import device_called
from lattok.utils.progress import bar

BATCH = 64  # texts that are encoded at once


def gaps_in_frames(config: TrainedPairConfig, fps: float) -> list[int]:
    """Return the stride and the further ones in frames, each longer than the one before it."""
    given = (config.stride, *config.extra_strides)
    frames = [checks.stride_in_frames(gap, fps, "extra_strides" if i else "stride") for i, gap in enumerate(given)]
    if sorted(set(frames)) != frames:
        got = ", ".join(f"{gap} ({count} frames)" for gap, count in zip(given, frames, strict=True))
        checks.fail("extra_strides", f"gaps that grow from the stride on, at {fps:g} fps", got)
    return frames


def read_pairs(
    recipe: Recipe[Any], model: TrainedPairModel, dataset: RobotDataset, cameras: tuple[str, ...], labelled: bool
) -> FramePairs:
    """Return all frame pairs of a dataset, without their frames."""
    data, gaps = recipe.data, gaps_in_frames(model.config, dataset.fps)
    return FramePairs(
        dataset,
        gaps[0],
        cameras,
        action_key=data.action_key if labelled else None,
        episodes=data.episodes,
        action_episodes=data.action_episodes,
        transform=model.resize,
        labelled_fraction=data.labelled_fraction,
        labelled=data.labelled,
        seed=recipe.loop.seed,
        extra_strides=gaps[1:],
        action_target=model.config.action.target,
        action_steps=model.config.action.steps,
    )


def frames_or_features(recipe: Recipe[Any], model: TrainedPairModel, parts: Sequence[FramePairs]) -> float | None:
    """Keep what batches carry, frames or features from the cache; where they do not fit, return the bytes there are.

    Features that fit into memory are computed before the first step, and then read in any order. A full disk or a
    folder that cannot be written is a warning: there is no cache then.
    """
    data, frozen = recipe.data, model.features
    window = data.window(model.config.image_size, parts[0].cameras)
    in_memory = partial(keep_frames, parts, window, data.memory_gb, recipe.loop.device)
    if data.feature_cache is None:
        return in_memory()
    cache, looks = data.cache(), model.config.loss.flow > 0 or model.pixels is not None  # at frames too
    memory = in_memory() if looks else None
    frozen.to(device_called(recipe.loop.device))

    def compute() -> None:
        for pairs in parts:
            where = pairs.frame_reader.dataset, pairs.episodes, pairs.cameras
            with bar("features") as progress:
                known = _decoded(pairs) if looks and memory is None else None
                pairs.features = cache.features(frozen, *where, known, progress)
            if not looks:
                pairs.frames = np.empty((len(pairs.frame_reader), 0), dtype=np.uint8)

    try:
        if looks:
            compute()
        else:
            for pairs in parts:
                pairs.reader = cache.reader(frozen, pairs.frame_reader)
            memory = in_memory(keep=compute)
        return memory
    except OSError as error:
        text = f"no feature cache in {cache.folder}: {error.strerror or error}. Features are computed at every step."
        checks.warn(text, stacklevel=2)
    for pairs in parts:
        pairs.reader, pairs.features = pairs.frame_reader, None
        if not looks:
            vars(pairs).pop("frames", None)
    return memory if looks else in_memory()


def _decoded(pairs: FramePairs) -> PixelsOf:
    """Return what gives frames that are there already, by take."""
    ends = accumulate(episode.length for episode in pairs.episodes)
    starts = {e.index: end - e.length for e, end in zip(pairs.episodes, ends, strict=True)}

    def pixels(take: Take, first: int, last: int) -> np.ndarray:
        start = starts[take.episode]
        return pairs.frames[start + first : start + last, pairs.cameras.index(take.camera)]

    return pixels


def embed(language: str, path: str | None, texts: Sequence[str]) -> Instructions:
    """Return vectors of `texts`, by a frozen text encoder ("t5:MODEL"), or read from a file ("precomputed")."""
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
    """Read the vectors [words, D] of each text in a file."""
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
        checks.fail("text_features", f"a file of arrays; {str(path)!r} could not be read", checks.first_line(error))
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
