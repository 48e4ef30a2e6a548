"""Hidden actions of real robots: what each route to them says in episodes whose actions it does not know.

python -m studies.real_robots --data FOLDER --folder study      # again, it continues; `--video 0` leaves networks out

FOLDER holds `g1_bottle_v21` and `bridge_dataset`; outcomes are kept in studies/results/real_robots.json, the table in
studies/results/real_robots.md. The plan is studies/pages/real_robots.md.
"""

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import numpy as np

import lattok
from benchmarks.common import COMMIT
from lattok.data import RobotDataset
from lattok.data.schema import dimension_names
from lattok.image_lam.inverse import InverseDynamicsConfig
from lattok.recipes.idm import InverseOptions
from lattok.recipes.proprio import fit_proprio
from lattok.utils import checks, files

RESULTS = Path(__file__).parent / "results"
DRAWS, KNOWN = 5, (1, 3, 10)
NETWORK = {"members": 1, "batch_size": 32, "device": "cpu", "episodes": "0:", "seed": 0}


class RealSet(NamedTuple):
    """A real dataset, and what is judged of it."""

    folder: str
    prefix: str  # of the numbers that are judged
    commands: bool  # absolute ones: what they add to the state is judged
    offsets: tuple[int, ...]  # of networks


SETS = {
    "g1": RealSet("g1_bottle_v21", "kRight", True, (0, 6, 12)),
    "bridge": RealSet("bridge_dataset/1.0.0", "", False, (0, 1, 2)),
}


class Hidden(NamedTuple):
    """One draw of known episodes of a set."""

    name: str
    chosen: RealSet
    dataset: RobotDataset
    known: list[int]
    draw: int

    @property
    def key(self) -> str:
        return f"{self.name}.{len(self.known)}.{self.draw}"

    def columns(self, episode: int) -> tuple[np.ndarray, np.ndarray]:
        """Return states [T, s], and of actions what is judged, [T, m]."""
        read = self.dataset.columns(episode, ["action", "observation.state"])
        states = read["observation.state"].astype(float)
        return states, read["action"].astype(float) - (states if self.chosen.commands else 0.0)

    def judge(self, said: Mapping[int, np.ndarray]) -> dict[str, float]:
        """Return R² of each judged number over all frames of the hidden episodes."""
        truth = {index: self.columns(index)[1] for index in said}
        reference = np.concatenate([self.columns(index)[1] for index in self.known]).mean(0)
        errors = np.sum([np.square(said[index] - truth[index]).sum(0) for index in said], axis=0)
        squares = np.sum([np.square(truth[index] - reference).sum(0) for index in said], axis=0)
        names = dimension_names(self.dataset.features["action"])
        return {
            name: float(1 - errors[place] / squares[place])
            for place, name in enumerate(names)
            if name.startswith(self.chosen.prefix) and squares[place] > 1e-9
        }


def draws(data: Path) -> Iterator[Hidden]:
    """Yield the draws of all sets, the same each time."""
    for name, chosen in SETS.items():
        dataset = lattok.open_dataset(data / chosen.folder)
        for count in KNOWN:
            for draw in range(DRAWS):
                rng = np.random.default_rng([count, draw])
                known = sorted(rng.choice(len(dataset.episodes), count, replace=False).tolist())
                yield Hidden(name, chosen, dataset, known, draw)


def from_states(hidden: Hidden, past: bool) -> dict[int, np.ndarray]:
    """Fit the map of state changes, `past`: of earlier ones alone, and read the hidden episodes."""
    episodes = [hidden.dataset.episodes[index] for index in hidden.known]
    found = fit_proprio(InverseDynamicsConfig(), InverseOptions(from_="proprio"), hidden.dataset, episodes)
    assert found is not None
    if past:
        reach = tuple(sorted({-abs(each) for each in found.model.config.offsets}))
        options = InverseOptions(from_="proprio", state_offsets=reach)
        found = fit_proprio(InverseDynamicsConfig(), options, hidden.dataset, episodes)
        assert found is not None
    said = dict[int, np.ndarray]()
    for episode in hidden.dataset.episodes:
        if episode.index not in hidden.known:
            states = hidden.columns(episode.index)[0]
            read = found.model.infer_actions(None, 1, states=states.astype(np.float32)).actions
            said[episode.index] = np.asarray(read) - (states if hidden.chosen.commands else 0.0)
    return said


def from_video(hidden: Hidden, folder: Path, route: str) -> dict[int, np.ndarray]:
    """Train a network, alone or beside the map, and read the hidden episodes."""
    out = folder / f"{hidden.key}.{route}"
    options = {**NETWORK, "from_": route, "action_episodes": ",".join(map(str, hidden.known))}
    recipe = lattok.InverseDynamicsRecipe.from_preset(
        hidden.dataset.root, out, "tiny", **options, offsets=hidden.chosen.offsets
    )
    model: Any = lattok.load(out) if (out / "config.json").is_file() else lattok.train(recipe)
    said = dict[int, np.ndarray]()
    for episode in hidden.dataset.episodes:
        if episode.index not in hidden.known:
            frames = hidden.dataset.frames(episode.index, model.cameras, transform=model.resize)
            states = hidden.columns(episode.index)[0]
            given = {} if model.state_key is None else {"states": states.astype(np.float32)}
            read = model.infer_actions(frames, model.unit_frames(hidden.dataset.fps), **given).actions
            said[episode.index] = read - (states if hidden.chosen.commands else 0.0)
    return said


def shuffled(said: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
    """Give each hidden episode what was read of the next one."""
    indices = [*said]
    others = (said[indices[(place + 1) % len(indices)]] for place in range(len(indices)))
    rows = (np.resize(other, said[index].shape) for index, other in zip(indices, others, strict=True))
    return dict(zip(indices, rows, strict=True))


def outcomes(hidden: Hidden, folder: Path, video: int) -> dict[str, dict[str, float]]:
    """Return R² of each judged number by route."""
    said = from_states(hidden, past=False)
    found = {"proprio": said, "past proprio": from_states(hidden, past=True), "shuffled": shuffled(said)}
    if hidden.name == "g1" and len(hidden.known) == 3 and hidden.draw < video:
        found |= {route: from_video(hidden, folder, route) for route in ("video", "both")}
    return {route: hidden.judge(each) for route, each in found.items()}


def table(kept: Mapping[str, Any]) -> str:
    """Return the table of means over draws, with the lowest and the highest."""
    lines = ["| set, known episodes | route | draws | R² | lowest and highest draw |", "|---|---|---|---|---|"]
    for name in SETS:
        for count in KNOWN:
            cells = [kept[key] for draw in range(DRAWS) if (key := f"{name}.{count}.{draw}") in kept]
            for route in dict.fromkeys(route for cell in cells for route in cell["r2"]):
                each = [mean(cell["r2"][route].values()) for cell in cells if route in cell["r2"]]
                span = f"{min(each):.2f} to {max(each):.2f}"
                lines.append(f"| {name}, {count} | {route} | {len(each)} | {mean(each):.2f} | {span} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="Folder with the real datasets.")
    parser.add_argument("--folder", type=Path, required=True, help="Folder for models.")
    parser.add_argument("--video", type=int, default=1, help="Draws for which networks are trained.")
    given = parser.parse_args()
    if absent := [each.folder for each in SETS.values() if not (given.data / each.folder).is_dir()]:
        checks.fail("data", "a folder with the real datasets", f"{given.data} without {checks.listed(absent)}")
    path = RESULTS / "real_robots.json"
    kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for hidden in draws(given.data):
        wanted = hidden.name == "g1" and len(hidden.known) == 3 and hidden.draw < given.video
        if hidden.key in kept and ("video" in kept[hidden.key]["r2"] or not wanted):
            continue
        kept[hidden.key] = {"commit": COMMIT, "known": hidden.known, "r2": outcomes(hidden, given.folder, given.video)}
        files.write_json(path, kept)
        files.write_text(RESULTS / "real_robots.md", table(kept))
    print(table(kept))


if __name__ == "__main__":
    main()
