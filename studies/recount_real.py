"""Fits the maps of real robots again, by code that shares nothing with the study's, nor with lattok.

    python -m studies.recount_real --data FOLDER      # where the datasets of studies/real_sets.py are

R² of the map from changes of the state: read from the Parquet files by pyarrow, fitted again by numpy, with offsets and
strengths of its own (frames -2 to 8; a strength for each number, from known episodes that are left out), in the same
draws of known episodes. Two implementations of one idea should say nearly the same: the table shows by how much they
differ. Bridge, which is stored as RLDS, is left out. The means of the tables are recounted by studies/recount.py.
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


def again(data, known, anchors):
    """Return R² of each number over the hidden episodes."""
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
    wrong, spread = 0.0, 0.0
    for index in hidden:
        read = np.stack([each(x[index]) for each in maps])[best, :, np.arange(len(best))].T
        wrong = wrong + np.square(read - y[index]).sum(0)
        spread = spread + np.square(y[index] - target.mean(0)).sum(0)
    return 1 - wrong / np.where(spread > 1e-9, spread, np.nan)


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
    compare(parser.parse_args().data, json.loads((RESULTS / "real_robots.json").read_text()))


if __name__ == "__main__":
    main()
