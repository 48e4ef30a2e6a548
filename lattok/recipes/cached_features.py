"""Frozen features that a training run takes from a cache instead of computing them at every step."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from lattok.data import RobotDataset
from lattok.devices import device_called
from lattok.image_lam.feature_cache import Clip, FeatureCache, PixelsOf
from lattok.image_lam.features import FrozenFeatures
from lattok.progress import bar
from lattok.samples import FramePairs


def know_features(
    cache: FeatureCache,
    frozen: FrozenFeatures,
    device: str,
    datasets: Sequence[RobotDataset],
    parts: Sequence[FramePairs],
) -> None:
    """Let batches of frame pairs, one for each dataset, carry features from the cache, which is filled first.

    A full disk or a folder that cannot be written is a warning: the run then goes on as if there were no cache.
    """
    frozen.to(device_called(device))
    try:
        for dataset, pairs in zip(datasets, parts, strict=True):
            pixels = _decoded(pairs) if pairs.has_pixels else None
            with bar("features") as progress:
                pairs.features = cache.features(frozen, dataset, pairs.episodes, pairs.cameras, pixels, progress)
    except OSError as error:
        text = f"no feature cache in {cache.folder}: {error.strerror or error}. Features are computed at every step."
        warnings.warn(text, stacklevel=2)
        for pairs in parts:
            pairs.features = None
            if not pairs.has_pixels:
                pairs.read_pixels()


def _decoded(pairs: FramePairs) -> PixelsOf:
    """Frames that are there already, by clip."""
    ends = accumulate(episode.length for episode in pairs.episodes)
    starts = {e.index: end - e.length for e, end in zip(pairs.episodes, ends, strict=True)}

    def pixels(clip: Clip, first: int, last: int) -> np.ndarray:
        start = starts[clip.episode]
        return pairs.frames[start + first : start + last, pairs.cameras.index(clip.camera)]

    return pixels
