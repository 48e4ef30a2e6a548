"""Hidden actions of real robots: what each route to them says in episodes whose actions it does not know.

python -m studies.real_robots --data FOLDER --folder study      # again, it continues; `--video 0` leaves networks out

FOLDER holds the datasets of studies/real_sets.py; outcomes are kept in studies/results/real_robots.json, the table in
studies/results/real_robots.md. The plan is studies/pages/real_robots.md.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import numpy as np

import lattok
from lattok.image_lam.inverse import InverseDynamicsConfig
from lattok.recipes.idm import InverseOptions
from lattok.recipes.proprio import fit_proprio
from studies.real_sets import DRAWS, KNOWN, SETS, Kept, RealSet, Recording, arguments, drawn, opened, write_frames

NETWORK = {"members": 1, "batch_size": 32, "offsets": (0, 2, 4), "device": "cpu", "episodes": "0:", "seed": 0}
SMALL = "g1 at 10 Hz"  # with small frames, for networks
WITH_FRAMES = {"g1": SMALL, "bridge": "bridge at 5 Hz", "cloth": "cloth at 10 Hz"}
NETWORKS = ("video", "both")
WITH_STATE = ("proprio", "past proprio")
NOTHING = "nothing"
Said = dict[int, np.ndarray]  # actions [T, m] by episode


class Hidden(NamedTuple):
    """One draw of known episodes of a set."""

    recording: Recording
    known: list[int]
    draw: int

    @property
    def key(self) -> str:
        return f"{self.recording.name}.{len(self.known)}.{self.draw}"

    def judge(self, said: Mapping[int, np.ndarray]) -> dict[str, float]:
        """Return R² of each judged number over all frames of the hidden episodes."""
        recording = self.recording
        truth = {index: recording.added(index) for index in (*said, *self.known)}
        read = {index: recording.added(index, actions) for index, actions in said.items()}
        reference = np.concatenate([truth[index] for index in self.known]).mean(0)
        errors = np.sum([np.square(read[index] - truth[index]).sum(0) for index in said], axis=0)
        squares = np.sum([np.square(truth[index] - reference).sum(0) for index in said], axis=0)
        return {
            recording.names[place]: float(1 - errors[place] / squares[place])
            for place in recording.judged
            if squares[place] > 1e-9
        }


def draws(recording: Recording) -> Iterator[Hidden]:
    """Yield the draws of a set, the same each time."""
    indices = [episode.index for episode in recording.dataset.episodes]
    for count in KNOWN:
        for draw in range(DRAWS):
            yield Hidden(recording, drawn(indices, count, draw), draw)


def from_states(recording: Recording, known: Sequence[int], past: bool) -> tuple[Said, float]:
    """Fit the map of state changes, `past`: of earlier ones alone, and read all other episodes; also its R² in known
    ones that were left out."""
    dataset, (key, state) = recording.dataset, recording.chosen.columns
    episodes, config = [dataset.episodes[index] for index in known], InverseDynamicsConfig(state_key=state)
    found = fit_proprio(config, InverseOptions(from_="proprio", action_key=key), dataset, episodes)
    assert found is not None
    if past:
        reach = tuple(sorted({-abs(each) for each in found.model.config.offsets}))
        options = InverseOptions(from_="proprio", action_key=key, state_offsets=reach)
        found = fit_proprio(config, options, dataset, episodes)
        assert found is not None
    said = Said()
    for episode in dataset.episodes:
        if episode.index not in known:
            states = recording.vectors(episode.index)[1].astype(np.float32)
            said[episode.index] = np.asarray(found.model.infer_actions(None, 1, states=states).actions)
    return said, found.r2


def from_video(hidden: Hidden, folder: Path, route: str) -> Said:
    """Train a network, alone or beside the map, and read the hidden episodes."""
    recording, out = hidden.recording, folder / f"{hidden.key}.{route}"
    dataset = recording.dataset
    options = {**NETWORK, "from_": route, "action_episodes": ",".join(map(str, hidden.known))}
    recipe = lattok.InverseDynamicsRecipe.from_preset(dataset.root, out, "tiny", **options)
    model: Any = lattok.load(out) if (out / "config.json").is_file() else lattok.train(recipe)
    return read_hidden(hidden, model)


def read_hidden(hidden: Hidden, model: Any) -> Said:
    """Return what a network reads of the hidden episodes."""
    recording, said = hidden.recording, Said()
    dataset = recording.dataset
    for episode in dataset.episodes:
        if episode.index not in hidden.known:
            frames = dataset.frames(episode.index, model.cameras, transform=model.resize)
            states = recording.vectors(episode.index)[1].astype(np.float32)
            given = {} if model.state_key is None else {"states": states}
            said[episode.index] = model.infer_actions(frames, model.unit_frames(dataset.fps), **given).actions
    return said


def shuffled(said: Said, recording: Recording) -> Said:
    """Give each episode what was read of the next one; of commands, what that adds to the state."""
    added = [recording.added(index, actions) for index, actions in said.items()]
    others = (added[(place + 1) % len(added)] for place in range(len(added)))
    return {
        index: np.resize(other, actions.shape) + recording.commanded(index)
        for (index, actions), other in zip(said.items(), others, strict=True)
    }


def outcomes(hidden: Hidden, folder: Path, video: bool) -> dict[str, Any]:
    """Return R² of each judged number by route, and of those from the state also R² in known episodes left out."""
    recording, known = hidden.recording, hidden.known
    read = {route: from_states(recording, known, past=route != "proprio") for route in WITH_STATE}
    said = {route: each[0] for route, each in read.items()}
    said["shuffled"] = shuffled(said["proprio"], recording)
    if video:
        said |= {route: from_video(hidden, folder, route) for route in NETWORKS}
    r2 = {route: hidden.judge(each) for route, each in said.items()}
    return {"known": known, "left_out": {route: each[1] for route, each in read.items()}, "r2": r2}


def chosen_and_best(cell: Mapping[str, Any]) -> tuple[str, str, float]:
    """Return the route that left-out known episodes choose, the best one in the hidden episodes, and what R² the choice
    costs. To read nothing, the mean action, is a route, too."""
    told = {NOTHING: 0.0, **cell["left_out"]}
    true = {NOTHING: 0.0, **{route: mean(cell["r2"][route].values()) for route in cell["left_out"]}}
    chosen, best = max(told, key=told.__getitem__), max(true, key=true.__getitem__)
    return chosen, best, true[best] - true[chosen]


def table(kept: Mapping[str, Any]) -> str:
    """Return the table of means over draws, with the lowest and the highest, and of how often the best is chosen."""
    lines = ["| set, known episodes | route | draws | R² | lowest and highest draw |", "|---|---|---|---|---|"]
    for name in (*SETS, *WITH_FRAMES.values()):
        for count in KNOWN:
            cells = [kept[key] for draw in range(DRAWS) if (key := f"{name}.{count}.{draw}") in kept]
            for route in dict.fromkeys(route for cell in cells for route in cell["r2"]):
                each = [mean(cell["r2"][route].values()) for cell in cells if route in cell["r2"]]
                span = f"{min(each):.2f} to {max(each):.2f}"
                lines.append(f"| {name}, {count} | {route} | {len(each)} | {mean(each):.2f} | {span} |")
    lines += [
        "",
        "| set | draws | known episodes choose the best route | R² that is lost where not |",
        "|---|---|---|---|",
    ]
    for name in (*SETS, *WITH_FRAMES.values()):
        found = [chosen_and_best(cell) for key, cell in kept.items() if key.startswith(f"{name}.")]
        if found:
            lost = [cost for chosen, best, cost in found if chosen != best]
            lines.append(f"| {name} | {len(found)} | {len(found) - len(lost)} | {_costs(lost)} |")
    return "\n".join(lines) + "\n"


def _costs(lost: Sequence[float]) -> str:
    return " ".join(f"{cost:.2f}" for cost in lost) or "–"


def main() -> None:
    parser = arguments(__doc__, [*SETS])
    parser.add_argument("--video", type=int, default=DRAWS, help="Draws for which networks are trained.")
    given = parser.parse_args()
    kept = Kept("real_robots")
    recordings = opened(given.data, given.sets)
    for hidden in (hidden for recording in recordings for hidden in draws(recording)):
        kept.add(hidden.key, partial(outcomes, hidden, given.folder, False), table)
    for recording in recordings if given.video else []:
        if recording.name in WITH_FRAMES:
            small = write_frames(recording, given.folder / f"frames.{recording.name}")
            for hidden in draws(Recording(WITH_FRAMES[recording.name], RealSet("", "", None, 1), small)):
                if len(hidden.known) == 3 and hidden.draw < given.video:
                    kept.add(hidden.key, partial(outcomes, hidden, given.folder, True), table)
    print(table(kept.found))


if __name__ == "__main__":
    main()
