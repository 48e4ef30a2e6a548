"""Latent actions that another program wrote, as labels that policies learn from: codes, vectors, or both."""

import hashlib
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from lattok.data.schema import RobotDataset
from lattok.labels.given import GivenLabels, given_labels
from lattok.types import Gap, Labeller, LatentActions
from lattok.utils import checks


class ImportedLatents(Labeller):
    """Holds latent actions by the number of their episode."""

    label_source = "video"
    type: ClassVar[str] = "imported"
    cameras: tuple[str, ...] = ()  # they were made elsewhere: nothing is looked at
    state_key = language = None

    def __init__(self, dataset: RobotDataset, labels: Any, *, stride: Gap = None, made_by: str = ""):
        """`labels` as for `given_labels`. `stride`: the frames, or "0.2s", over which each describes the motion; by
        default until the next one. Raises `LattokError` for labels of lattok's own models."""
        self.given: GivenLabels = given_labels(dataset, labels)
        if self.given.spec is not None:
            hint = "They are used as they are: lattok train vla takes them by --labels, or as its DATASET."
            checks.fail("files", "labels of another program", f"{self.given.source}, which `annotate` wrote", hint)
        self.source, self._made_by = self.given.source, made_by
        asked = None if stride is None else checks.stride_in_frames(stride, dataset.fps)
        self._stride = asked or self.given.stride_frames(dataset.fps)
        self.trained_on = {"fps": dataset.fps}  # rows were brought to its frames
        self._episodes = [episode.index for episode in dataset.episodes]
        self._note_gaps(dataset)

    def _note_gaps(self, dataset: RobotDataset) -> None:
        """Refuse labels of no frame at all; say of how many frames there are none, but for ends of episodes."""
        lacking = {each.index: int((~self.labelled(each.index)).sum()) for each in dataset.episodes}
        whole = [each.index for each in dataset.episodes if lacking[each.index] == each.length]
        if len(whole) == len(lacking):
            checks.fail("files", "labels of some frames", f"none in {self.source}: all are NaN, infinite or below 0")
        if any(count > self._stride for count in lacking.values()):
            frames = f"{sum(lacking.values())} of {checks.counted(sum(e.length for e in dataset.episodes), 'frame')}"
            which = f", none of episodes {checks.few_of(whole, 5)}" if whole else ""
            checks.note(f"{self.source}: {frames} have no label and are not valid{which}")

    @property
    def codebook_size(self) -> int | None:
        return self.given.codebook_size

    def describe(self) -> dict[str, Any]:
        facts = {"type": self.type, "labels_sha256": self._sha256}
        return facts | ({"made_by": self._made_by} if self._made_by else {})

    def stride_frames(self, fps: float) -> int:
        return self._stride

    def resize(self, frames: np.ndarray) -> np.ndarray:
        return frames

    def labels_of(self, episode: int) -> LatentActions:
        """Return the latent actions of the T frames of an episode; zeros for frames without one."""
        return self.given.labels_of(episode)

    def labelled(self, episode: int) -> np.ndarray:
        """Return which frames of an episode have a label, [T]."""
        return self.given.labelled(episode)

    @cached_property
    def _sha256(self) -> str:
        """Hash all labels, with the episodes that they are of."""
        done = hashlib.sha256()
        for episode in self._episodes:
            found = self.labels_of(episode)
            parts = (found.codes.numpy(), found.latents.numpy(), self.labelled(episode))
            done.update(f"{episode}\n".encode() + b"".join(part.tobytes() for part in parts))
        return done.hexdigest()
