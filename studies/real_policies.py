"""What a small policy gains from filled actions of real robots: known episodes alone, each route, and all measured.

python -m studies.real_policies --data FOLDER --folder study    # again, it continues; `--known 3` for some alone

FOLDER holds the datasets of studies/real_sets.py; outcomes are kept in studies/results/real_policies.json. The policy
is the small one of `lattok evaluate`, without a tokenizer. The plan is studies/pages/real_robots.md.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from lattok.data import RobotDataset
from lattok.evaluation.evidence import Case, EvalOptions
from lattok.evaluation.evidence.tokenizer_evidence import Scale
from lattok.evaluation.questions.learnability import Inputs, ReferencePolicy, chunk_errors, policy_inputs
from lattok.samples import ActionWindows
from studies.real_robots import Said, from_states, shuffled
from studies.real_sets import DRAWS, KNOWN, SETS, Kept, Recording, arguments, drawn, opened, write_vectors

HORIZON = 8
ROWS = ("known", "proprio", "past proprio", "shuffled", "all")


class Chunks:
    """What stands in for a tokenizer where none is judged: the length of chunks."""

    horizon = HORIZON


def inputs(dataset: RobotDataset, episodes: Sequence[int], judges: Sequence[int], key: str) -> tuple[Inputs, Inputs]:
    """Return what a policy sees of episodes and of those that judge, with the chunks of a column."""
    options = EvalOptions(episodes=[*judges], action_key=key)
    split = options.split(dataset)._replace(train=[*episodes])
    windows = [ActionWindows(dataset, HORIZON, key, part) for part in (split.train, split.held_out)]
    found = policy_inputs(Case(Chunks(), dataset, split, options), *windows)
    assert found is not None
    return found


def error(
    dataset: RobotDataset, episodes: Sequence[int], judges: Sequence[int], key: str, scale: Scale, seed: int
) -> float:
    """Let a policy learn the actions of a column in some episodes; return its error of the measured ones in others."""
    train, _ = inputs(dataset, episodes, judges, key)
    _, judged = inputs(dataset, episodes, judges, "action")
    torch.manual_seed(seed)
    policy = ReferencePolicy(train.inputs.shape[1], len(scale.low), HORIZON, None)
    chunks, _ = policy.fit(train, torch.empty(0), scale.normalizer, seed).act(judged, scale.normalizer)
    return float(chunk_errors(scale, chunks, judged).mean())


def filled(recording: Recording, known: Sequence[int]) -> dict[str, Said]:
    """Return a column of actions for each row: what a route reads, and the measured ones of known episodes."""
    truth = {each.index: recording.vectors(each.index)[0] for each in recording.dataset.episodes}
    read = {route: from_states(recording, known, past=route != "proprio")[0] for route in ("proprio", "past proprio")}
    read["shuffled"] = shuffled(read["proprio"], recording)
    return {route: truth | said for route, said in read.items()}


def outcome(recording: Recording, count: int, draw: int, folder: Path) -> dict[str, Any]:
    """Return the error of every row of a draw."""
    may, judges = recording.holders()
    known = drawn(may, count, draw)
    columns = filled(recording, known)
    named = {row: f"action.{row.replace(' ', '_')}" for row in columns}
    copy = folder / f"policies.{recording.name}.{count}.{draw}"
    dataset = write_vectors(recording, copy, {named[row]: values for row, values in columns.items()})
    scale = Scale.fit(ActionWindows(dataset, HORIZON, "action", may).actions, recording.names)
    errors = {"known": error(dataset, known, judges, "action", scale, draw)}
    errors |= {row: error(dataset, may, judges, key, scale, draw) for row, key in named.items()}
    errors["all"] = error(dataset, may, judges, "action", scale, draw)
    return {"known": known, "error": errors}


def table(kept: Mapping[str, Any]) -> str:
    """Return mean errors over draws, and what the map of state changes wins back."""
    lines = [f"| set, known episodes | draws | {' | '.join(ROWS)} | won back |", "|---" * (3 + len(ROWS)) + "|"]
    for name in SETS:
        for count in KNOWN:
            cells = [kept[key]["error"] for draw in range(DRAWS) if (key := f"{name}.{count}.{draw}") in kept]
            if cells:
                means = {row: mean(cell[row] for cell in cells) for row in ROWS}
                lost = means["known"] - means["all"]
                share = f"{(means['known'] - means['proprio']) / lost:.0%}" if lost > 0 else "–"
                numbers = " | ".join(f"{means[row]:.3f}" for row in ROWS)
                lines.append(f"| {name}, {count} | {len(cells)} | {numbers} | {share} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = arguments(__doc__, [*SETS])
    parser.add_argument("--known", nargs="+", type=int, choices=KNOWN, default=[*KNOWN])
    given = parser.parse_args()
    torch.set_num_threads(1)
    kept = Kept("real_policies")
    recordings = opened(given.data, given.sets)
    for count in given.known:
        for draw in range(DRAWS):
            for recording in recordings:
                found = partial(outcome, recording, count, draw, given.folder)
                kept.add(f"{recording.name}.{count}.{draw}", found, table)
    print(table(kept.found))


if __name__ == "__main__":
    main()
