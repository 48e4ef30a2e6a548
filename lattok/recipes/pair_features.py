"""What batches of frame pairs carry: frames, or frozen features from a cache on disk."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from lattok.image_lam import TrainedPairModel
from lattok.image_lam.base.feature_cache import FeatureReader, open_features
from lattok.recipes.common import ImageOptions
from lattok.samples.frame_pairs import FramePairs
from lattok.samples.frames import all_gather
from lattok.samples.stream import keep_frames
from lattok.training import LoopOptions, init_process_group
from lattok.utils import checks
from lattok.utils.devices import device_called
from lattok.utils.progress import ProgressBar

Result = TypeVar("Result")


class CachedFeatures:
    """Features of all parts that a folder keeps, in place of their frames, or beside them where the model looks at
    both."""

    def __init__(self, folder: Path, dtype: str, model: TrainedPairModel, parts: Sequence[FramePairs]):
        self._folder, self._dtype, self._features, self._parts = folder, dtype, model.features, parts
        self.looks = model.config.loss.flow > 0 or model.pixels is not None  # at frames too

    def attempt(self, step: Callable[[], Result]) -> tuple[Result] | None:
        """Return what a step returns; None where it fails in any process, so that all go on alike."""
        result: tuple[Result] | None = None
        try:
            result = (step(),)
        except (OSError, checks.LattokError) as error:
            why = str(getattr(error, "strerror", None) or error).removesuffix(".")
            checks.warn(
                f"no feature cache in {self._folder}: {why}. Features are computed at every step.", stacklevel=3
            )
        return None if any(all_gather(result is None)) else result

    def open(self) -> None:
        """Let the parts read features, those that are missing when they are needed."""
        for pairs in self._parts:
            pairs.reader = self._reader(pairs)

    def compute(self) -> None:
        """Compute the features that are missing, and let batches carry those of all parts."""
        readers = [self._reader(pairs) for pairs in self._parts]
        for reader in readers:
            with ProgressBar("features") as progress:
                reader.compute(progress)
        for pairs, reader in zip(self._parts, readers, strict=True):
            pairs.features = reader
            if not self.looks:
                pairs.frames = np.empty((len(pairs.frame_reader), 0), dtype=np.uint8)

    def give_up(self) -> None:
        """Let the parts read frames alone."""
        for pairs in self._parts:
            pairs.reader, pairs.features = pairs.frame_reader, None
            if not self.looks:
                vars(pairs).pop("frames", None)

    def _reader(self, pairs: FramePairs) -> FeatureReader:
        return open_features(self._folder, self._features, pairs.frame_reader, dtype=self._dtype)


def frames_or_features(
    data: ImageOptions,
    loop: LoopOptions,
    model: TrainedPairModel,
    parts: Sequence[FramePairs],
    cache: CachedFeatures | None,
) -> float | None:
    """Keep what batches carry, frames or features from the cache; where they do not fit, return the bytes there are.
    Features that fit into memory are computed before the first step, and then read in any order. A full disk, a folder
    that cannot be written, and damage where frames are looked at too are warnings: there is no cache then."""
    window = data.window(model.config.image_size, parts[0].cameras)
    in_memory = partial(keep_frames, parts, window, data.memory_gb, loop.device)
    if cache is None:
        return in_memory()
    init_process_group(loop.device)
    memory = in_memory() if cache.looks else None
    model.features.to(device_called(loop.device))
    if cache.looks:
        if cache.attempt(cache.compute) is None:
            cache.give_up()
        return memory
    opened = cache.attempt(cache.open)
    kept = None if opened is None else cache.attempt(lambda: in_memory(keep=cache.compute))
    if kept is not None:
        return kept[0]
    cache.give_up()
    return in_memory()
