"""The recordings of real robots that the studies of them read, from a folder that is named; none of it is kept here."""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import lattok
from benchmarks.common import COMMIT
from lattok.data import Feature, LeRobotWriter, RobotDataset
from lattok.data.schema import dimension_names
from lattok.image_lam.base.features import FrozenFeatures
from lattok.utils import checks, files

RESULTS = Path(__file__).parent / "results"
DRAWS, KNOWN = 5, (1, 3, 10)
JUDGES = 5  # every fifth episode judges policies, latent actions and tokenizers
VECTORS = ("action", "observation.state")  # as copies call them
SIDE, SEEN = 64, "observation.images.seen"  # of copies with frames: pixels on a side, the camera


class RealSet(NamedTuple):
    """A real dataset, and what is judged of it."""

    folder: str
    prefix: str  # of the numbers that are judged
    added_to: Sequence[int] | None  # numbers of the state to which absolute commands belong; None: no such commands
    step: int  # frames of a step of policies and chunks
    columns: tuple[str, str] = VECTORS  # with the actions and the state
    camera: str = ""


SETS = {
    "g1": RealSet("g1_bottle_v21", "kRight", range(26), 3, camera="observation.images.cam_high"),
    "bridge": RealSet("bridge_dataset/1.0.0", "", None, 1, camera="observation.images.image_0"),
    "piper": RealSet("piper", "", (0, 1, 2, 4, 5, 6), 1),
    "cloth": RealSet("cloth", "", range(12), 2, camera="observation.images.cam0"),
    "open50": RealSet("open50", "right.", range(34), 3, columns=("actions", "state")),
}


class Recording(NamedTuple):
    """A set that was opened."""

    name: str
    chosen: RealSet
    dataset: RobotDataset

    @property
    def names(self) -> tuple[str, ...]:
        return dimension_names(self.dataset.features[self.chosen.columns[0]])

    @property
    def judged(self) -> list[int]:
        """Return the numbers of an action that are judged."""
        return [place for place, name in enumerate(self.names) if name.startswith(self.chosen.prefix)]

    def vectors(self, episode: int) -> tuple[np.ndarray, np.ndarray]:
        """Return actions [T, m] and states [T, s]."""
        read = self.dataset.columns(episode, list(self.chosen.columns))
        actions, states = (read[key].astype(float) for key in self.chosen.columns)
        return actions, states

    def commanded(self, episode: int) -> np.ndarray | float:
        """Return what of actions [T, m] the state as it is says."""
        places = self.chosen.added_to
        return 0.0 if places is None else self.vectors(episode)[1][:, list(places)]

    def added(self, episode: int, actions: np.ndarray | None = None) -> np.ndarray:
        """Return what is judged of actions [T, m], the measured ones unless others are given."""
        return (self.vectors(episode)[0] if actions is None else actions) - self.commanded(episode)

    def holders(self) -> tuple[list[int], list[int]]:
        """Return the episodes that may be known, and those that judge policies."""
        indices = [episode.index for episode in self.dataset.episodes]
        judges = indices[JUDGES - 1 :: JUDGES]
        return [index for index in indices if index not in judges], judges


def opened(data: Path, names: Sequence[str]) -> list[Recording]:
    """Open sets of a folder; refuse one without them."""
    if absent := [SETS[name].folder for name in names if not (data / SETS[name].folder).is_dir()]:
        checks.fail("data", "a folder with the real datasets", f"{data} without {checks.listed(absent)}")
    return [Recording(name, SETS[name], lattok.open_dataset(data / SETS[name].folder)) for name in names]


def drawn(episodes: Sequence[int], count: int, draw: int) -> list[int]:
    """Draw `count` of the episodes, the same ones each time."""
    chosen = np.random.default_rng([count, draw]).choice(len(episodes), count, replace=False)
    return sorted(episodes[place] for place in chosen.tolist())


def write_vectors(recording: Recording, folder: Path, more: Mapping[str, Mapping[int, np.ndarray]]) -> RobotDataset:
    """Write every `step`-th row as a dataset without cameras, if it is not there, and open it.

    `more` are further columns of actions, by episode.
    """
    if not folder.exists():
        chosen, step = recording.chosen, recording.chosen.step
        shapes = zip(VECTORS, (recording.dataset.features[key] for key in chosen.columns), strict=True)
        features = {key: Feature("float32", (*old.shape,), dimension_names(old)) for key, old in shapes}
        features |= dict.fromkeys(more, features["action"])
        with LeRobotWriter.create(folder, recording.dataset.fps / step, features) as writer:
            for episode in recording.dataset.episodes:
                columns = dict(zip(VECTORS, recording.vectors(episode.index), strict=True))
                columns |= {key: values[episode.index] for key, values in more.items()}
                told = episode.tasks[0] if episode.tasks else "unknown"
                writer.add_episode(
                    {key: each[::step].astype("float32") for key, each in columns.items()}, {}, task=told
                )
    return lattok.open_dataset(folder)


def write_frames(recording: Recording, folder: Path, side: int = SIDE) -> RobotDataset:
    """Write every `step`-th row with small frames of one camera, and as actions what is judged of them; open them."""
    dataset, chosen, judged = recording.dataset, recording.chosen, recording.judged
    features = FrozenFeatures("pixels", side, interpolation="bilinear")

    def small(frames: np.ndarray) -> np.ndarray:
        return features.resize(torch.from_numpy(frames)).numpy()

    if not folder.exists():
        names, state = tuple(recording.names[place] for place in judged), dataset.features[chosen.columns[1]]
        columns = {
            "action": Feature("float32", (len(judged),), names),
            "observation.state": Feature("float32", (*state.shape,), dimension_names(state)),
            SEEN: Feature("image", (side, side, 3), None),
        }
        with LeRobotWriter.create(folder, dataset.fps / chosen.step, columns) as writer:
            for episode in dataset.episodes:
                frames = dataset.frames(episode.index, [chosen.camera], transform=small)
                values = recording.added(episode.index)[:, judged], recording.vectors(episode.index)[1]
                rows = zip(VECTORS, (each[:: chosen.step].astype("float32") for each in values), strict=True)
                told = episode.tasks[0] if episode.tasks else "unknown"
                writer.add_episode(dict(rows), {SEEN: np.asarray(frames)[:: chosen.step, 0]}, task=told)
    return lattok.open_dataset(folder)


def arguments(text: str | None, names: Sequence[str]) -> argparse.ArgumentParser:
    """Return a parser with what all these studies ask for."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="Folder with the real datasets.")
    parser.add_argument("--folder", type=Path, required=True, help="Folder for models and copies.")
    parser.add_argument("--sets", nargs="+", choices=names, default=[*names])
    return parser


class Kept:
    """Outcomes in a file of studies/results, one after another: a study that is run again continues."""

    def __init__(self, name: str):
        self.path = RESULTS / f"{name}.json"
        self.found: dict[str, Any] = {}
        if self.path.is_file():
            self.found = json.loads(self.path.read_text(encoding="utf-8"))

    def add(
        self, key: str, outcome: Callable[[], Mapping[str, Any]], table: Callable[[Mapping[str, Any]], str]
    ) -> None:
        """Find an outcome and write the table of all, unless it is known."""
        if key in self.found:
            return
        self.found[key] = {"commit": COMMIT, **outcome()}
        files.write_json(self.path, self.found)
        files.write_text(self.path.with_suffix(".md"), table(self.found))
