"""Recounts the studies of real robots; shares no code with what ran and wrote them, nor with lattok.

    python -m studies.recount_real --data FOLDER      # where the datasets of studies/real_sets.py are

R² of the map from changes of the state: read from the Parquet files by pyarrow, fitted again by numpy, with offsets and
strengths of its own (frames -2 to 8; a strength for each number, from known episodes that are left out), in the same
draws of known episodes. Two implementations of one idea should say nearly the same: the table shows by how much they
differ. Bridge, which is stored as RLDS, is left out. Then all means of the tables again, from the outcomes.
Exit code 1 and a line for every mean that differs.
"""

import argparse
import json
import pathlib
import re
import sys

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


def means():
    """Yield every mean of the tables that the outcomes do not give."""
    kept = json.loads((RESULTS / "real_robots.json").read_text())
    for line in (RESULTS / "real_robots.md").read_text().splitlines():
        if found := re.fullmatch(r"\| (.+), (\d+) \| (.+) \| (\d+) \| (-?[\d.]+) \| .*", line):
            name, count, route, draws, mean = found.groups()
            cells = [each for key, each in kept.items() if key.rpartition(".")[0] == f"{name}.{count}"]
            each = [np.mean([*cell["r2"][route].values()]) for cell in cells if route in cell["r2"]]
            if (len(each), f"{np.mean(each):.2f}") != (int(draws), mean):
                yield f"real_robots.md: {line}: {len(each)} draws, {np.mean(each):.2f}"
    kept = json.loads((RESULTS / "real_policies.json").read_text())
    for line in (RESULTS / "real_policies.md").read_text().splitlines():
        if found := re.fullmatch(r"\| (\w+), (\d+) \| (\d+) \| ([\d. |]+) \| (-?\d+)% \|", line):
            name, count, draws, cells, back = found.groups()
            rows = [each["error"] for key, each in kept.items() if key.rpartition(".")[0] == f"{name}.{count}"]
            mean = {row: np.mean([each[row] for each in rows]) for row in rows[0]}
            own = [f"{mean[row]:.3f}" for row in ("known", "proprio", "past proprio", "shuffled", "all")]
            won = f"{(mean['known'] - mean['proprio']) / (mean['known'] - mean['all']):.0%}"
            if (len(rows), own, won) != (int(draws), cells.split(" | "), f"{back}%"):
                yield f"real_policies.md: {line}: {len(rows)} draws, {' '.join(own)}, {won}"
    path = RESULTS / "real_tokenizers.json"
    kept = json.loads(path.read_text()) if path.exists() else {}
    for line in path.with_suffix(".md").read_text().splitlines() if kept else ():
        found = re.fullmatch(
            r"\| (\w+) \| (?:\*control:\* )?(.+) \| (\S+) \| (\S+) \| (\S+) \| (\S+) \| (\d+) \|", line
        )
        if found and found[1] != "set":
            rows = [each for key, each in kept.items() if key.startswith(f"{found[1]}.{found[2]}.")]
            for place, figure, digits in ((4, "reconstruction", 4), (5, "error", 3), (6, "mean_of_draws", 3)):
                if found[place] != "–" and found[place] != f"{np.mean([each[figure] for each in rows]):.{digits}f}":
                    yield f"real_tokenizers.md: {line}: {figure}"


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, help="of the datasets; without it means are compared alone")
    given = parser.parse_args()
    if given.data is not None:
        compare(given.data, json.loads((RESULTS / "real_robots.json").read_text()))
    wrong = [*means()]
    print("\n".join(wrong) or "all means of the tables are those of the outcomes")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
