"""Eight robots that speak other languages of actions: one inverse model or eight, and a new robot, judged by labels.

python -m studies.several_robots --folder study --parts new own other --seeds 0 1 2 3 4 5 6 7     # again, it continues

`folder` holds the demonstrations of studies.run, for parts of two worlds those of its regime other-world too. A cell
is one part of the plan with one seed; its outcomes are kept as studies/results/several_robots/PART.SEED.json, motions
that models read from video for policies as PART.SEED.npz, the tables as studies/results/several_robots.md. Cells of
other seeds can run beside these. The plan is studies/pages/several_robots.md.
"""

import argparse
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import lattok
from benchmarks.common import environment, write_results
from lattok.data import LeRobotWriter, RobotDataset
from lattok.data.pixels import resize_pixels
from lattok.data.schema import Feature
from lattok.utils import files
from lattok.utils.checks import LattokError
from studies.inferred import SPACE, r2
from studies.labels import EXECUTED
from studies.statistics import Interval
from studies.tables import planned_differences

RESULTS = Path("studies/results/several_robots")
ROBOTS = range(8)  # each acts in a task of its own
TAUGHT = 15  # episodes of a robot; the rest judge
SIDE = 64
WIDE = 7  # numbers of an action, where they are a redundant mix
JOINT = {"members": 1, "steps": 500, "batch_size": 64, "latent_dim": 16, "hidden": 0, "device": "cpu"}
ALONE = {**JOINT, "batch_size": 32}
ON_VIDEO = {"batch_size": 64}  # half of it from clips whose actions are known
REVERSAL = {"loss_reversal": 0.5, **ON_VIDEO}
NEW_KNOWN = (16, 32, 64)
OTHERS_KNOWN = 64  # actions of each robot that a new one follows
DEMONSTRATED = 2  # demonstrations of a robot whose actions are known
JUDGED_ELSEWHERE = 2  # robots of the third part
CANONICAL: Mapping[str, Mapping[str, Any]] = {
    "shared": {},
    "shared-4": {"latent_dim": 4},
    "shared-4-flow": {"latent_dim": 4, "loss_flow": 0.5, **ON_VIDEO},
    "shared-4-reversal": {"latent_dim": 4, **REVERSAL},
    "shared-4-reversible": {"latent_dim": 4, "reversible": 1},
    "shared-canonical": {"latent_dim": 4, "reversible": 1, "loss_flow": 0.5, **ON_VIDEO},
}
GATE, GATE_GAIN = 0.60, 0.10


class Language(NamedTuple):
    """How a robot writes a motion of x, y, z and gripper: action = matrix @ motion."""

    matrix: np.ndarray  # [m, 4]

    def said(self, motions: np.ndarray) -> np.ndarray:
        """Turn motions [T, 4] into actions [T, m]."""
        return (motions @ self.matrix.T).astype(np.float32)

    def meant(self, actions: np.ndarray) -> np.ndarray:
        """Turn actions [T, m] into motions [T, 4], the nearest ones."""
        return actions @ np.linalg.pinv(self.matrix).T


COMMON = Language(np.eye(SPACE + 1))  # in which motions stand for themselves


def languages(seed: int) -> list[Language]:
    """Draw a language for each robot: signed axes in another order, two rotations, two of `WIDE` numbers; each axis
    scaled by .5 to 2."""
    rng = np.random.default_rng([seed, len(ROBOTS)])
    kinds = rng.permutation(["rotated"] * 2 + ["wide"] * 2 + ["signed"] * (len(ROBOTS) - 4))
    found = []
    for kind in kinds:
        axes = np.eye(SPACE)[rng.permutation(SPACE)] * rng.choice([-1, 1], SPACE)
        if kind != "signed":
            axes = np.linalg.qr(rng.normal(size=(SPACE if kind == "rotated" else WIDE - 1, SPACE)))[0]
        axes = 2 ** rng.uniform(-1, 1, len(axes))[:, None] * axes
        found.append(Language(np.block([[axes, np.zeros((len(axes), 1))], [np.zeros((1, SPACE)), np.ones((1, 1))]])))
    return found


class Recordings(NamedTuple):
    """Frames [T, cameras, SIDE, SIDE, 3] and executed motions [T, 4] of the episodes of each robot, in its own task."""

    cameras: tuple[str, ...]
    tasks: tuple[str, ...]
    frames: list[list[np.ndarray]]
    motions: list[list[np.ndarray]]
    fps: float

    @classmethod
    def read(cls, path: Path) -> "Recordings":
        """Read demonstrations of the study."""
        dataset = lattok.open_dataset(path)
        frames: list[list[np.ndarray]] = [[] for _ in ROBOTS]
        motions: list[list[np.ndarray]] = [[] for _ in ROBOTS]
        for episode, (robot, _) in zip(dataset.episodes, places(dataset), strict=True):
            frames[robot].append(dataset.frames(episode.index, dataset.cameras, transform=small_frames))
            motions[robot].append(dataset.columns(episode.index, [EXECUTED])[EXECUTED])
        tasks = tuple(dict.fromkeys(episode.tasks[0] for episode in dataset.episodes))
        return cls(dataset.cameras, tasks, frames, motions, dataset.fps)

    @classmethod
    def of_two_worlds(cls, folder: Path) -> "Recordings":
        """Read both worlds: tasks of the other one follow, seen by cameras in the same places."""
        first, second = (cls.read(folder / name) for name in ("demonstrations", "demonstrations.other"))
        frames, motions = first.frames + second.frames, first.motions + second.motions
        return cls(first.cameras, first.tasks + second.tasks, frames, motions, first.fps)

    def known(self, robot: int, count: int, seed: int) -> list[np.ndarray]:
        """Draw so many scattered moments of the taught episodes of a robot: a mask [T] of each."""
        lengths = [len(each) for each in self.motions[robot][:TAUGHT]]
        rows = np.zeros(sum(lengths), bool)
        rows[np.random.default_rng([seed, robot, count]).permutation(len(rows))[:count]] = True
        return np.split(rows, np.cumsum(lengths)[:-1])

    def demonstrated(self, robot: int, count: int, seed: int) -> list[np.ndarray]:
        """Draw whole demonstrations of a robot: a mask [T] of each taught episode."""
        chosen = np.random.default_rng([seed, robot]).permutation(TAUGHT)[:count]
        return [np.full(len(each), place in chosen) for place, each in enumerate(self.motions[robot][:TAUGHT])]

    def write(self, out: Path, robots: Mapping[int, Language], known: Mapping[int, Sequence[np.ndarray]]) -> Path:
        """Write taught episodes of these robots as one dataset, with numbers of the widest; NaN where nobody knows."""
        width = max(len(language.matrix) for language in robots.values())
        features = {EXECUTED: Feature("float32", (width,), tuple(f"a{number}" for number in range(width)))}
        features |= {camera: Feature("image", (SIDE, SIDE, 3), None) for camera in self.cameras}
        out.parent.mkdir(parents=True, exist_ok=True)
        with LeRobotWriter.create(out, self.fps, features) as writer:
            for robot, language in robots.items():
                for place in range(TAUGHT):
                    actions = np.zeros((len(self.motions[robot][place]), width), np.float32)
                    said = language.said(self.motions[robot][place])
                    actions[:, : said.shape[1]] = said
                    mask = known[robot][place] if robot in known else np.zeros(len(actions), bool)
                    actions[~mask] = np.nan
                    seen = self.frames[robot][place]
                    shown = {camera: seen[:, number] for number, camera in enumerate(self.cameras)}
                    writer.add_episode({EXECUTED: actions}, shown, self.tasks[robot])
        return out

    def judge(self, model: Any, language: Language, tasks: Sequence[int]) -> float:
        """Return R² of x, y and z in the episodes of these tasks that judge, meant by what a model says."""
        guess = [self.read_motions(model, language, frames) for task in tasks for frames in self.frames[task][TAUGHT:]]
        truth = [motions for task in tasks for motions in self.motions[task][TAUGHT:]]
        return float(r2(np.concatenate(guess), np.concatenate(truth))[:SPACE].mean())

    def read_motions(self, model: Any, language: Language, frames: np.ndarray) -> np.ndarray:
        """Return motions [T, 4] that a model reads from an episode, as its language means them."""
        said = np.asarray(model.infer_actions(frames, model.unit_frames(self.fps)).actions)
        return language.meant(said[:, : len(language.matrix)])

    def taught(self, model: Any, language: Language, robot: int) -> list[np.ndarray]:
        """Return what a model reads from each taught episode of a robot."""
        return [self.read_motions(model, language, frames) for frames in self.frames[robot][:TAUGHT]]


def places(dataset: RobotDataset) -> list[tuple[int, int]]:
    """Return of each episode of the demonstrations: its robot, and its place among those of the robot."""
    tasks = list(dict.fromkeys(episode.tasks[0] for episode in dataset.episodes))
    counted, found = [0] * len(tasks), list[tuple[int, int]]()
    for episode in dataset.episodes:
        robot = tasks.index(episode.tasks[0])
        found.append((robot, counted[robot]))
        counted[robot] += 1
    return found


def small_frames(frames: np.ndarray) -> np.ndarray:
    """Bring frames uint8 [n, H, W, 3] to SIDE pixels, as preset `tiny` does."""
    return resize_pixels(torch.from_numpy(np.array(frames)), SIDE, "bilinear").numpy()


class Cell:
    """One part of the plan with one seed: what is trained lies in `folder`, which is removed at the end."""

    def __init__(self, recordings: Recordings, folder: Path, seed: int):
        self.recordings, self.folder, self.seed = recordings, folder, seed
        self.languages = languages(seed)
        self.motions: dict[str, np.ndarray] = {}  # by row, [F, 4] of all taught episodes in order of robots

    def dataset(self, name: str, robots: Sequence[int], known: Mapping[int, Sequence[np.ndarray]]) -> Path:
        out = self.folder / "data" / name
        if out.exists():
            return out
        return self.recordings.write(out, {robot: self.languages[robot] for robot in robots}, known)

    def each(self, name: str, known: Mapping[int, Sequence[np.ndarray]]) -> list[str]:
        """Write a dataset for each robot, and return them as a mixture of equal shares."""
        return [f"{self.dataset(f'{name}.{robot}', [robot], known)}:1.0" for robot in known]

    def train(self, name: str, data: Path | None, **options: Any) -> Any:
        out = self.folder / "models" / name
        given = {"episodes": "0:", "seed": self.seed, "action_key": EXECUTED, **options}
        recipe = lattok.InverseDynamicsRecipe.from_preset(data, out, "tiny", **given)
        return lattok.load(out) if (out / "config.json").exists() else lattok.train(recipe)

    def judged(self, model: Any, robot: int, tasks: Sequence[int] | None = None) -> float:
        return self.recordings.judge(model, self.languages[robot], [robot] if tasks is None else tasks)

    def own(self, count: int = DEMONSTRATED) -> dict[str, list[float]]:
        """Part 1: R² of each robot in its own task, by one model for each, or one for all."""
        known = {robot: self.recordings.demonstrated(robot, count, self.seed) for robot in ROBOTS}
        alone = [self.train(f"own.{r}", self.dataset(f"own.{r}", [r], known), **ALONE) for r in ROBOTS]
        shared = self.train("shared", None, mix=self.each("own", known), **JOINT)
        heads = [shared.for_dataset(f"own.{robot}") for robot in ROBOTS]
        padded = self.train("padded", self.dataset("padded", ROBOTS, known), **JOINT)
        models = {"idm-own": alone, "idm-padded": [padded] * len(ROBOTS), "shared": heads}
        swapped = {"shared-shuffled": [heads[self._other_head(robot)] for robot in ROBOTS]}
        found = {row: [self.judged(each[robot], robot) for robot in ROBOTS] for row, each in (models | swapped).items()}
        for row, each in models.items():
            read = [self.recordings.taught(each[robot], self.languages[robot], robot) for robot in ROBOTS]
            self.motions[row] = np.concatenate([motions for own in read for motions in own])
        oracle = self.oracle(known)
        return found | {"oracle": [self.recordings.judge(oracle, COMMON, [robot]) for robot in ROBOTS]}

    def demonstration(self) -> dict[str, list[float]]:
        """Part 1 with one demonstration of each robot."""
        return self.own(count=1)

    def oracle(self, known: Mapping[int, Sequence[np.ndarray]]) -> Any:
        """Train one model to which all languages are known."""
        out = self.folder / "data" / "oracle"
        if not out.exists():
            self.recordings.write(out, dict.fromkeys(ROBOTS, COMMON), known)
        return self.train("oracle", out, **JOINT)

    def _other_head(self, robot: int) -> int:
        """Return the next robot with as many numbers."""
        after = [(robot + step) % len(ROBOTS) for step in range(1, len(ROBOTS))]
        size = len(self.languages[robot].matrix)
        return next(other for other in after if len(self.languages[other].matrix) == size)

    def new(self) -> dict[str, list[float]]:
        """Part 2: R² of a new robot from few known actions, with the encoder of the seven others, or without."""
        robot = self.seed % len(ROBOTS)
        others = {r: self.recordings.known(r, OTHERS_KNOWN, self.seed) for r in ROBOTS if r != robot}
        self._encoders(None, mix=self.each("others", others))
        return self._from_few([robot])

    def _encoders(self, data: Path | None, **mixed: Any) -> None:
        """Train an encoder, and one that has learned nothing."""
        self.train("trunk", data, **mixed, **JOINT)
        self.train("untrained", data, **mixed, **{**JOINT, "steps": 1, "lr": 1e-9})

    def _from_few(self, tasks: Sequence[int]) -> dict[str, list[float]]:
        """Return R² of a new robot in its tasks, by models `trunk` and `untrained` and by its own."""
        found: dict[str, list[float]] = {}
        for count in NEW_KNOWN:
            known = {task: self.recordings.known(task, count // len(tasks), self.seed) for task in tasks}
            data = self.dataset(f"new.{count}", tasks, known)
            mean = self._mean(known)
            rows = {
                "idm-own": ALONE,
                "shared": {"init": "trunk", "freeze": "encoder"},
                "shared-untrained": {"init": "untrained", "freeze": "encoder"},
                "shared-trained_on": {"init": "trunk", **ALONE},
            }
            for row, options in rows.items():
                own = dict(options)
                if "init" in own:
                    own["init"] = str(self.folder / "models" / own["init"])
                try:
                    value = self.judged(self.train(f"{row}.{count}", data, **own), tasks[0], tasks)
                except LattokError as error:
                    if "no better than their mean" not in str(error):
                        raise
                    value = mean  # the head is refused, so nothing better is known
                found[f"{row}.{count}"] = [value]
        return found

    def _mean(self, known: Mapping[int, Sequence[np.ndarray]]) -> float:
        """Return R² of the mean of the known actions of these tasks."""
        motions = self.recordings.motions
        truth = np.concatenate([each for task in known for each in motions[task][TAUGHT:]])
        pairs = [pair for task in known for pair in zip(motions[task][:TAUGHT], known[task], strict=True)]
        taught = np.concatenate([each[mask] for each, mask in pairs])
        return float(r2(np.broadcast_to(taught.mean(0), truth.shape), truth)[:SPACE].mean())

    def other(self) -> dict[str, list[float]]:
        """Part 3: R² of two robots in the seven tasks that others acted, in their own languages; the gate."""
        known = {r: self.recordings.demonstrated(r, DEMONSTRATED, self.seed) for r in ROBOTS}
        mixed = self.each("somebody", known)
        judged = [(2 * self.seed + place) % len(ROBOTS) for place in range(JUDGED_ELSEWHERE)]
        rest = {robot: [task for task in ROBOTS if task != robot] for robot in judged}
        found: dict[str, list[float]] = {"own-reversal": []}
        for robot in judged:
            everything = self._in_one_language(robot, known[robot])
            model = self.train(f"reversal.{robot}", everything, **{**ALONE, **REVERSAL})
            found["own-reversal"].append(self.judged(model, robot, rest[robot]))
        for row, options in CANONICAL.items():
            model = self.train(row, None, mix=mixed, **{**JOINT, **options})
            heads = {robot: model.for_dataset(f"somebody.{robot}") for robot in judged}
            found[row] = [self.judged(heads[robot], robot, rest[robot]) for robot in judged]
        oracle = self.oracle(known)
        found["oracle"] = [self.recordings.judge(oracle, COMMON, rest[robot]) for robot in judged]
        return found

    def _in_one_language(self, robot: int, known: Sequence[np.ndarray]) -> Path:
        """Write the videos of all tasks as one robot sees them: known actions in its own task alone."""
        out = self.folder / "data" / f"everything.{robot}"
        if out.exists():
            return out
        return self.recordings.write(out, dict.fromkeys(ROBOTS, self.languages[robot]), {robot: known})


class Worlds(Cell):
    """Two robots in worlds of their own, each with eight tasks, both worlds in the recordings of the cell."""

    def __init__(self, recordings: Recordings, folder: Path, seed: int):
        super().__init__(recordings, folder, seed)
        self.languages = [Language(np.eye(own[0].shape[1])) for own in recordings.motions]  # each world's own numbers

    def worlds(self) -> dict[str, list[float]]:
        """Part 5: R² of each world's robot in its tasks, by one model for each, or one for both."""
        known = {task: self.recordings.demonstrated(task, DEMONSTRATED, self.seed) for task in range(2 * len(ROBOTS))}
        data = [self.dataset(f"world.{number}", tasks, known) for number, tasks in enumerate(WORLDS)]
        own = [self.train(f"own.{number}", path, **ALONE) for number, path in enumerate(data)]
        shared = self.train("shared", None, mix=[f"{path}:1.0" for path in data], **JOINT)
        padded = self.train("padded", self.dataset("padded", [*known], known), **JOINT)
        models = {
            "idm-own": own,
            "idm-padded": [padded] * len(WORLDS),
            "shared": [shared.for_dataset(path.name) for path in data],
        }
        found: dict[str, list[float]] = {}
        for row, each in models.items():
            found[row] = [self.judged(model, tasks[0], tasks) for model, tasks in zip(each, WORLDS, strict=True)]
            found |= {f"{row} ({name})": [value] for name, value in zip(NAMES, found[row], strict=True)}
        return found

    def new_world(self) -> dict[str, list[float]]:
        """Part 6: R² of the other world's robot from few known actions, with the encoder of the first one's."""
        first, second = WORLDS
        known = {task: self.recordings.known(task, OTHERS_KNOWN, self.seed) for task in first}
        self._encoders(self.dataset("others", first, known))
        return self._from_few(second)


WORLDS = ROBOTS, range(len(ROBOTS), 2 * len(ROBOTS))  # tasks of each
NAMES = "Meta-World", "OGBench"
TWO_WORLDS = {"worlds": Worlds.worlds, "new-world": Worlds.new_world}
PARTS = {"new": Cell.new, "own": Cell.own, "other": Cell.other, "own-1": Cell.demonstration, **TWO_WORLDS}
TITLES = {
    "new": "A new robot, from scattered known actions",
    "own": "Each robot in its own task, two demonstrations each",
    "own-1": "Each robot in its own task, one demonstration each",
    "other": "Two robots in the seven tasks of the others, two demonstrations each",
    "worlds": "Robots of two worlds, two demonstrations of each task",
    "new-world": "The robot of the other world, from scattered known actions",
}
FROM_FEW = (
    ("shared.32", "idm-own.32"),
    ("shared.16", "idm-own.16"),
    ("shared.64", "idm-own.64"),
    ("shared.32", "shared-untrained.32"),
    ("shared-trained_on.32", "idm-own.32"),
    ("shared-trained_on.32", "shared.32"),
)
COMPARED: Mapping[str, Sequence[tuple[str, str]]] = {
    "new": FROM_FEW,
    "new-world": FROM_FEW,
    "worlds": (
        ("shared", "idm-padded"),
        ("shared", "idm-own"),
        *((f"shared ({name})", f"idm-own ({name})") for name in NAMES),
    ),
    "own": (("shared", "idm-padded"), ("shared", "idm-own"), ("idm-own", "idm-padded"), ("oracle", "shared")),
    "own-1": (("shared", "idm-padded"), ("shared", "idm-own"), ("idm-own", "idm-padded"), ("oracle", "shared")),
    "other": tuple((row, "own-reversal") for row in CANONICAL),
}


def page(cells: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Return tables of the cells that have run: means over robots, then over seeds, and planned differences."""
    lines: list[str] = []
    for part, title in TITLES.items():
        runs = {int(key.rpartition(".")[2]): cell for key, cell in cells.items() if key.rpartition(".")[0] == part}
        if not runs:
            continue
        rows = list(dict.fromkeys(row for cell in runs.values() for row in cell))
        by_row = {row: {seed: float(np.mean(cell[row])) for seed, cell in runs.items()} for row in rows}
        lines += [f"**{title}**", "", "| row | seeds | R² of x, y, z | lowest and highest seed |", "|---|---|---|---|"]
        for row, values in by_row.items():
            span = f"{min(values.values()):.2f} to {max(values.values()):.2f}"
            lines.append(f"| {row} | {len(values)} | {Interval.of(list(values.values())).text()} | {span} |")
        lines += ["", *planned_differences(by_row, COMPARED[part]), ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="demonstrations; models are removed")
    parser.add_argument("--parts", nargs="*", default=[*PARTS], choices=[*PARTS])
    parser.add_argument("--seeds", type=int, nargs="+", default=[*ROBOTS])
    args = parser.parse_args()
    torch.set_num_threads(1)
    for part in args.parts:
        recordings: Recordings | None = None
        for seed in args.seeds:
            out = RESULTS / f"{part}.{seed}.json"
            if out.exists():
                continue
            both = part in TWO_WORLDS
            if recordings is None:
                read = Recordings.of_two_worlds if both else Recordings.read
                recordings = read(args.folder if both else args.folder / "demonstrations")
            work = args.folder / "robots" / f"{part}.{seed}"
            cell = (Worlds if both else Cell)(recordings, work, seed)
            found = PARTS[part](cell)
            if cell.motions:
                out.parent.mkdir(parents=True, exist_ok=True)
                kept: dict[str, Any] = {row: motions.astype(np.float16) for row, motions in cell.motions.items()}
                np.savez_compressed(out.with_suffix(".npz"), **kept)
            write_results(out, {**environment(), "r2": found})
            shutil.rmtree(work)
            print(part, seed, {row: round(float(np.mean(values)), 3) for row, values in found.items()}, flush=True)
    cells = {file.stem: files.read_json(file)["r2"] for file in sorted(RESULTS.glob("*.json"))}
    files.write_text(RESULTS.with_suffix(".md"), page(cells))


if __name__ == "__main__":
    main()
