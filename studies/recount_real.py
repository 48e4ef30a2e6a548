"""Fits the maps of real robots again, by code that shares nothing with the study's, nor with lattok.

    python -m studies.recount_real --data FOLDER      # where the datasets of studies/real_sets.py are

Part 1, R² of the map from changes of the state: read from the Parquet files by pyarrow, fitted again by numpy, with
offsets and strengths of its own (frames -2 to 8; a strength for each number, from known episodes that are left out), in
the same draws of known episodes. Two implementations of one idea should say nearly the same: the table shows by how
much they differ.

Part 2, what a policy gains: another policy, kernel regression of chunks from the state, learns from known episodes
alone, from all with the others filled by that map, and from all measured ones; the share of the loss that is won back
is put beside the study's.

Bridge, which is stored as RLDS, is left out. The means of the tables are recounted by studies/recount.py.
"""

import argparse
import json
import pathlib
import re

import numpy as np
import pyarrow.parquet as pq

RESULTS = pathlib.Path(__file__).resolve().parent / "results"
OFFSETS = (-2, -1, 1, 2, 3, 4, 5, 6, 7, 8)
STRENGTHS = 10.0 ** np.arange(-6, 3)
SETS = {  # folder, columns of action and state, numbers of the state that commands belong to
    "g1": ("g1_bottle_v21", "action", "observation.state", list(range(26))),
    "piper": ("piper", "action", "observation.state", [0, 1, 2, 4, 5, 6]),
    "cloth": ("cloth", "action", "observation.state", list(range(12))),
    "open50": ("open50", "actions", "state", list(range(34))),
}
STEPS = {"g1": 3, "piper": 1, "cloth": 2, "open50": 3}  # rows of a step of the policies
HORIZON, WAVES = 8, 300  # steps of a chunk; random waves of the kernel


def episodes(folder, action, state):
    """Return actions [T, m] and states [T, s] by episode, and the names of the actions."""
    found = {}
    for path in sorted((folder / "data").rglob("*.parquet")):
        if "episode_index" not in pq.read_schema(path).names:
            continue  # a file that belongs to no episode
        table = pq.read_table(path, columns=["episode_index", action, state])
        index = table["episode_index"].to_numpy()
        actions, states = (np.stack(table[key].to_numpy()).astype(float) for key in (action, state))
        for episode in np.unique(index).tolist():
            found[episode] = actions[index == episode], states[index == episode]
    info = json.loads((folder / "meta/info.json").read_text())
    names = info["features"][action]["names"]
    while not isinstance(names[0] if isinstance(names, list) else None, str):
        names = names[0] if isinstance(names, list) else next(iter(names.values()))
    listed = folder / "meta/episodes.jsonl"  # v2.1 may have files of episodes that it does not list
    if listed.is_file():
        known = {json.loads(line)["episode_index"] for line in listed.read_text().splitlines()}
        found = {index: each for index, each in found.items() if index in known}
    return found, names


def changes(states):
    rows = np.clip(np.arange(len(states))[:, None] + np.array(OFFSETS), 0, len(states) - 1)
    return (states[rows] - states[:, None]).reshape(len(states), -1)


def fitted(x, y, strength):
    """Ridge regression of standardised inputs: a function."""
    shift, scale = x.mean(0), np.where(x.std(0) > 1e-9, x.std(0), 1)
    inputs = (x - shift) / scale
    square = inputs.T @ inputs + strength * len(x) * np.eye(x.shape[1])
    weight = np.linalg.solve(square, inputs.T @ (y - y.mean(0)))
    return lambda new: (new - shift) / scale @ weight + y.mean(0)


def read_by_map(data, known, anchors):
    """Return what the map reads of the hidden episodes: what is added to the state, [T, m] by episode."""
    x = {index: changes(states) for index, (_, states) in data.items()}
    y = {index: actions - states[:, anchors] for index, (actions, states) in data.items()}
    if len(known) > 1:
        folds = [(index, [other for other in known if other != index]) for index in known[:5]]
        parts = [
            (np.concatenate([x[i] for i in rest]), np.concatenate([y[i] for i in rest]), x[i], y[i])
            for i, rest in folds
        ]
    else:
        place = np.arange(len(x[known[0]])) * 3 // len(x[known[0]])
        one = x[known[0]], y[known[0]]
        parts = [(one[0][place != k], one[1][place != k], one[0][place == k], one[1][place == k]) for k in range(3)]
    errors = [sum(np.square(fitted(a, b, strength)(c) - d).sum(0) for a, b, c, d in parts) for strength in STRENGTHS]
    best = np.argmin(errors, 0)
    mine, target = np.concatenate([x[i] for i in known]), np.concatenate([y[i] for i in known])
    maps = [fitted(mine, target, strength) for strength in STRENGTHS]
    hidden = [index for index in data if index not in known]
    return {index: np.stack([each(x[index]) for each in maps])[best, :, np.arange(len(best))].T for index in hidden}


def again(data, known, anchors):
    """Return R² of each number over the hidden episodes."""
    y = {index: actions - states[:, anchors] for index, (actions, states) in data.items()}
    mean = np.concatenate([y[i] for i in known]).mean(0)
    wrong, spread = 0.0, 0.0
    for index, read in read_by_map(data, known, anchors).items():
        wrong = wrong + np.square(read - y[index]).sum(0)
        spread = spread + np.square(y[index] - mean).sum(0)
    return 1 - wrong / np.where(spread > 1e-9, spread, np.nan)


def chunks(data, indices, actions):
    """Return states [N, s] and the chunks that follow, [N, H * m]."""
    pairs = [
        (data[i][1][t], actions[i][t : t + HORIZON].ravel())
        for i in indices
        for t in range(len(actions[i]) - HORIZON + 1)
    ]
    states, targets = zip(*pairs, strict=True)
    return np.stack(states), np.stack(targets)


def kernel_regression(states, targets, strength):
    """Ridge regression from standardised states and random waves of them: a function."""
    shift, scale = states.mean(0), np.where(states.std(0) > 1e-9, states.std(0), 1)
    rng, width = np.random.default_rng(0), states.shape[1]
    turns, start = rng.standard_normal((width, WAVES)) / width**0.5, rng.uniform(0, 2 * np.pi, WAVES)

    def waves(new):
        where = (new - shift) / scale
        return np.concatenate([where, np.cos(where @ turns + start)], 1)

    found = fitted(waves(states), targets, strength)
    return lambda new: found(waves(new))


def policy_error(data, learns, actions, judges, variance):
    """Let a policy learn some episodes, each fifth of which chooses its strength; return its error of the judges."""
    spread = np.tile(variance, HORIZON)

    def error(some, others, right, strength):
        states, truth = chunks(data, others, right)
        gaps = kernel_regression(*chunks(data, some, actions), strength)(states) - truth
        return float(np.mean(np.square(gaps) / spread))

    held = learns[4::5] or learns[-1:]
    rest = [index for index in learns if index not in held] or learns
    strength = min(STRENGTHS, key=lambda each: error(rest, held, actions, each))
    return error(learns, judges, {index: data[index][0] for index in judges}, strength)


def won_back(data, known, anchors, step):
    """Return the errors of a policy from known episodes alone, from filled and from measured ones."""
    read = read_by_map(data, known, anchors)
    filled = {index: actions for index, (actions, _) in data.items()}
    filled |= {index: each + data[index][1][:, anchors] for index, each in read.items()}
    data = {index: (actions[::step], states[::step]) for index, (actions, states) in data.items()}
    filled = {index: each[::step] for index, each in filled.items()}
    indices = sorted(data)
    judges = indices[4::5]
    may = [index for index in indices if index not in judges]
    measured = {index: actions for index, (actions, _) in data.items()}
    variance = np.concatenate([measured[index] for index in may]).var(0)
    moves = variance > 1e-9
    data = {index: (actions[:, moves], states) for index, (actions, states) in data.items()}
    measured, filled = ({i: each[:, moves] for i, each in part.items()} for part in (measured, filled))
    taught = ((known, measured), (may, filled), (may, measured))
    return [policy_error(data, some, actions, judges, variance[moves]) for some, actions in taught]


def compare_policies(folder, kept):
    """Print what is won back in the study, and by the policy here."""
    print("\n| set, known episodes | draws | won back in the study | here | known, filled, all here |")
    print("|---|---|---|---|---|")
    for name, (place, action, state, anchors) in SETS.items():
        if not (folder / place).is_dir():
            continue
        data, _ = episodes(folder / place, action, state)
        for count in (1, 3, 10):
            cells = [cell for key, cell in kept.items() if re.fullmatch(rf"{name}\.{count}\.\d+", key)]
            if cells:
                told = np.mean([[cell["error"][row] for row in ("known", "proprio", "all")] for cell in cells], 0)
                own = np.mean([won_back(data, cell["known"], anchors, STEPS[name]) for cell in cells], 0)
                shares = [f"{(a - b) / (a - c):.0%}" if a > c else "–" for a, b, c in (told, own)]
                errors = ", ".join(f"{each:.2f}" for each in own)
                print(f"| {name}, {count} | {len(cells)} | {' | '.join(shares)} | {errors} |", flush=True)


def compare(folder, kept):
    """Print the study's R² beside those that are computed here, by set and known episodes."""
    print("| set, known episodes | draws | the study | again | largest difference of a draw |\n|---|---|---|---|---|")
    for name, (place, action, state, anchors) in SETS.items():
        if not (folder / place).is_dir():
            print(f"| {name} | not in {folder} | | | |")
            continue
        data, names = episodes(folder / place, action, state)
        for count in (1, 3, 10):
            pairs = []
            for key, cell in kept.items():
                if re.fullmatch(rf"{name}\.{count}\.\d+", key):
                    told = cell["r2"]["proprio"]
                    own = dict(zip(names, again(data, cell["known"], anchors), strict=True))
                    pairs.append((np.mean([*told.values()]), np.mean([own[each] for each in told])))
            if pairs:
                theirs, ours = np.array(pairs).T
                gap = np.abs(theirs - ours).max()
                print(
                    f"| {name}, {count} | {len(pairs)} | {theirs.mean():.2f} | {ours.mean():.2f} | {gap:.2f} |",
                    flush=True,
                )


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder with the datasets")
    folder = parser.parse_args().data
    compare(folder, json.loads((RESULTS / "real_robots.json").read_text()))
    compare_policies(folder, json.loads((RESULTS / "real_policies.json").read_text()))


if __name__ == "__main__":
    main()
