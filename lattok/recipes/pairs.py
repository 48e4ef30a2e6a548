"""Frame pairs for the training of latent action models: read from each dataset, mixed, drawn step by step."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from lattok import checks
from lattok.data import RobotDataset
from lattok.image_lam import ImageLAM, ImageLAMConfig
from lattok.progress import bar
from lattok.recipes.common import Recipe
from lattok.recipes.instructions import Instructions
from lattok.samples import FramePairs
from lattok.samples.augment import Augmentation, Draws, augment, draw
from lattok.samples.mixture import MixedBatches, MixedPairs
from lattok.samples.order import SeededBatches
from lattok.seeds import derive_seed
from lattok.training import RUN
from lattok.types import PairBatch


def gaps_in_frames(config: ImageLAMConfig, fps: float) -> list[int]:
    """The stride and the further ones in frames, each longer than the one before it."""
    given = (config.stride, *config.extra_strides)
    frames = [checks.stride_in_frames(gap, fps) for gap in given]
    if sorted(set(frames)) != frames:
        got = ", ".join(f"{gap} ({count} frames)" for gap, count in zip(given, frames, strict=True))
        checks.fail("extra_strides", f"gaps that grow from the stride on, at {fps:g} fps", got)
    return frames


def read_pairs(
    recipe: Recipe[ImageLAM], model: ImageLAM, dataset: RobotDataset, cameras: tuple[str, ...], labelled: bool
) -> FramePairs:
    """All frame pairs of a dataset; their frames are decoded unless features from a cache are all that is needed."""
    data, gaps = recipe.data, gaps_in_frames(model.config, dataset.fps)
    with bar("decode") as progress:
        return FramePairs(
            dataset,
            gaps[0],
            cameras,
            action_key=data.action_key if labelled else None,
            episodes=data.episodes,
            transform=model.resize,
            labelled_fraction=data.labelled_fraction,
            labelled=data.labelled,
            seed=recipe.loop.seed,
            cache_dir=Path(recipe.out) / RUN,
            progress=progress,
            extra_strides=gaps[1:],
            action_target=model.config.action_target,
            action_steps=model.config.action_steps,
            pixels=data.feature_cache is None or model.config.flow_weight > 0,
        )


def attach_action_head(model: ImageLAM, pairs: FramePairs | MixedPairs) -> None:
    """A head for the labelled actions; those of a mixture come normalised, each dataset's with its own statistics."""
    if not pairs.labelled.any():
        return
    if isinstance(pairs, FramePairs):
        model.attach_action_head(torch.from_numpy(pairs.actions[pairs.labelled]))
    else:
        model.attach_action_head(torch.zeros(1, pairs.action_dim))


class PairBatches:
    """Random pairs of step t, and `labelled` extra ones whose actions are known; with `words` their instructions.

    Images are changed as `changes` says, all frames of a sample and camera in the same way: what differs
    between them is what moved.
    """

    def __init__(
        self,
        pairs: FramePairs | MixedPairs,
        size: int,
        labelled: int,
        seed: int,
        words: Instructions | None = None,
        changes: Augmentation | None = None,
    ):
        self.pairs, self.seed, self.changes = pairs, seed, changes
        self.draw = _draw(pairs, False, size, seed)
        self.known = torch.from_numpy(pairs.labelled.nonzero()[0])
        extra = labelled if len(self.known) else 0
        self.samples = size + extra  # per step
        self.draw_known = _draw(pairs, True, extra, derive_seed(seed, 1)) if extra else None
        self.words = words
        self.text_of = None if words is None else words.rows(pairs.tasks[task] for task in pairs.task_of)

    def __call__(self, step: int, process: int, processes: int) -> PairBatch:
        chosen = self.draw(step)
        if self.draw_known is not None:
            chosen = torch.cat([chosen, self.known[self.draw_known(step)]])
        chosen = chosen[process::processes]
        batch = self.pairs.batch(chosen)
        if self.changes is not None and self.changes.changes:
            draws = draw(self.changes, self.samples, batch.frames.shape[2], self.seed, step)[process::processes]
            batch = batch._replace(frames=_augmented(batch.frames, draws))
        if self.words is None or self.text_of is None:
            return batch
        rows = self.text_of[chosen]
        return batch._replace(text=self.words.vectors[rows], text_mask=self.words.mask[rows])


def _augmented(frames: Tensor, draws: Draws) -> Tensor:
    """Change frames uint8 [B, F, V, h, w, 3]: all F of a sample and camera in the same way."""
    count = frames.shape[1]
    alike = Draws(*(None if part is None else part.repeat(1, count, 1) for part in (draws.boxes, draws.colours)))
    return augment(frames.flatten(1, 2), alike).unflatten(1, (count, -1))


def _draw(pairs: FramePairs | MixedPairs, labelled: bool, size: int, seed: int) -> SeededBatches | MixedBatches:
    """Random pairs of every step, or random ones of the labelled pairs; in a mixture in its proportions."""
    if isinstance(pairs, FramePairs):
        return SeededBatches(int(pairs.labelled.sum()) if labelled else len(pairs), size, seed)
    return MixedBatches(pairs.known if labelled else pairs.sizes, pairs.weights, size, seed)
