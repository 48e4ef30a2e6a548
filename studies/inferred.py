"""What actions that a model inferred are worth, before any policy learns from them: how far they are from the expert's.

python -m studies.inferred --folder study --regimes action-free --seeds 0 1 2 3 4

For every source that fills in actions (`plan.LABELS`), on the demonstrations whose actions it did not know: R^2 of the
expert's action and of the executed one, of each dimension and of x, y and z; the root mean square of the mean error
over task and fifth of an episode, which is what imitation learns of an error; the mean absolute error; how much of what
the scene at that moment leaves open is said (`given_frame`: 1 - squared error / that of the mean of the NEIGHBOURS
nearest states of the same task in other demonstrations); and the rank correlation of confidence and error.
`four-tasks` says the same of the tasks whose actions were known and of the others.
Adds to studies/results/inferred_actions.json; what is there is not made again. A source takes 2 to 10 CPU-minutes.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from scipy.spatial import KDTree

import lattok
from benchmarks.common import environment, write_results
from lattok.data import select_episodes
from lattok.sim.worlds.metaworld import INSTRUCTIONS
from studies.labels import ACTION, EXECUTED, filled_dataset
from studies.plan import LABELS, REGIMES
from studies.run import study_parser
from studies.statistics import correlation

OUT = Path("studies/results/inferred_actions.json")
SOURCES = (
    "idm",
    "idm-video",
    "idm-known_video",
    "idm-reversible",
    "idm-proprio",
    "idm-past",
    "idm-shuffled",
    "lam",
    "proprio",
    "executed",
)
FIFTHS, SPACE, NEIGHBOURS = 5, 3, 8
CONFIDENCE = "inferred.confidence"
SCENE = ("observation.state", "observation.environment_state")


def rows_of(folder: Path) -> dict[str, np.ndarray]:
    """Return the columns that count, of all frames of a dataset in order."""
    files = sorted(folder.glob("data/**/*.parquet"))
    there = set(pq.read_schema(files[0]).names)
    wanted = (ACTION, EXECUTED, *SCENE, "episode_index", "frame_index", CONFIDENCE)
    names = [name for name in wanted if name in there]
    tables = [pq.read_table(file, columns=names) for file in files]
    return {name: np.concatenate([np.stack(table[name].to_numpy()) for table in tables]) for name in names}


def r2(guess: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return 1 - squared error / squared distance from the mean, of each dimension."""
    return 1 - np.square(guess - truth).sum(0) / np.square(truth - truth.mean(0)).sum(0)


def systematic(error: np.ndarray, cells: np.ndarray) -> float:
    """Return the root mean square, over cells and x, y and z, of the mean error [n, m] in each cell [n]."""
    means = np.stack([error[cells == cell, :SPACE].mean(0) for cell in np.unique(cells)])
    return float(np.sqrt(np.square(means).mean()))


def from_scene(scene: np.ndarray, values: np.ndarray, task: np.ndarray, episode: np.ndarray) -> np.ndarray:
    """Return the mean of `values` [N, m] at the nearest of the scenes [N, s] of a task in its other episodes."""
    guess = np.empty_like(values)
    for number in np.unique(task):
        own = task == number
        spread = scene[own].std(0)
        places = (scene - scene[own].mean(0)) / np.where(spread > 0, spread, 1)
        for one in np.unique(episode[own]):
            here, others = own & (episode == one), np.flatnonzero(own & (episode != one))
            near = KDTree(places[others]).query(places[here], NEIGHBOURS)[1]
            guess[here] = values[others[near]].mean(1)
    return guess


def figures(filled: Path, data: Path, tasks: tuple[str, ...] = ()) -> dict[str, Any]:
    """Compare a filled dataset with the demonstrations where they differ: nobody knew these actions."""
    made, truth, dataset = rows_of(filled), rows_of(data), lattok.open_dataset(data)
    train = [episode.index for episode in select_episodes(dataset, "train")]
    task_of = {episode.index: episode.tasks[0] for episode in dataset.episodes}
    length = {episode.index: episode.length for episode in dataset.episodes}
    episode, numbers = truth["episode_index"], {task: i for i, task in enumerate(sorted({*task_of.values()}))}
    unknown = np.array([not np.array_equal(made[ACTION][episode == e], truth[ACTION][episode == e]) for e in task_of])
    rows = np.isin(episode, [e for e, hidden in zip(task_of, unknown, strict=True) if hidden and e in train])
    where = {"all": rows}
    if tasks:
        told = np.isin(episode, [e for e, text in task_of.items() if text in {INSTRUCTIONS[t] for t in tasks}])
        where |= {"known tasks": rows & told, "other tasks": rows & ~told}
    fifth = np.array([t * FIFTHS // length[e] for e, t in zip(episode, truth["frame_index"], strict=True)])
    task = np.array([numbers[task_of[e]] for e in episode])
    cells, found = task * FIFTHS + fifth, {}
    scene = from_scene(np.concatenate([truth[name] for name in SCENE], 1), truth[ACTION], task, episode)
    for name, chosen in where.items():
        guess, expert, done = made[ACTION][chosen], truth[ACTION][chosen], truth[EXECUTED][chosen]
        each, here = r2(guess, expert), np.square(scene[chosen] - expert)
        found[name] = {
            "rows": int(chosen.sum()),
            "r2": each.tolist(),
            "r2_xyz": float(each[:SPACE].mean()),
            "r2_executed_xyz": float(r2(guess, done)[:SPACE].mean()),
            "systematic": systematic(guess - expert, cells[chosen]),
            "absolute": float(np.abs(guess - expert)[:, :SPACE].mean()),
            "given_frame": 1 - float((np.square(guess - expert).mean(0) / here.mean(0))[:SPACE].mean()),
        }
        if CONFIDENCE in made:
            error = np.abs(guess - done)[:, :SPACE].mean(1)
            found[name]["confidence"] = -correlation(made[CONFIDENCE][chosen].reshape(-1), error)
    return found


def main() -> None:
    parser = study_parser(__doc__)
    parser.add_argument("--regimes", nargs="+", default=["action-free"], choices=list(REGIMES))
    parser.add_argument("--sources", nargs="+", default=list(SOURCES), choices=list(LABELS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    results = json.loads(args.out.read_text()) if args.out.exists() else {"runs": {}}
    for seed in args.seeds:
        for regime in args.regimes:
            for source in args.sources:
                name = f"{regime}.{source}.{seed}"
                if name not in results["runs"]:
                    data = REGIMES[regime].dataset(args.folder)
                    filled = filled_dataset(args.folder, data, source, REGIMES[regime], seed)
                    run = figures(filled, data, REGIMES[regime].acting_tasks)
                    results["runs"][name] = {"commit": environment()["commit"], **run}
                    results["environment"] = environment()
                    write_results(args.out, results)
                print(
                    name,
                    {key: round(part["r2_xyz"], 3) for key, part in results["runs"][name].items() if key != "commit"},
                )


if __name__ == "__main__":
    main()
