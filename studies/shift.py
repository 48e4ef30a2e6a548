"""What a change of the scene costs the policies of the study: nothing is trained.

python -m studies.shift --folder study    # adds "shift" to the result of each cell that has a policy

`scene` is the nearest to the out-of-domain scenes of "From Pixels to Tokens" (appendix F): another layout of the table,
and things on it that no demonstration shows. It has as many rollouts as the unchanged scene, the other changes fewer.
"""

import json
import os
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import torch

import lattok
from benchmarks.common import write_results
from lattok.sim import Variation
from studies.cell import counts, outcomes
from studies.plan import FEW_STARTS, STARTS, WORLD
from studies.run import study_parser


class Shift(NamedTuple):
    """A change of the scene, and in how many rollouts of each task it is seen."""

    title: str
    variation: Variation
    starts: int = FEW_STARTS


SHIFTS: Mapping[str, Shift] = MappingProxyType(
    {
        "scene": Shift("other layout, three distractors", Variation(layout=True, distractors=3), STARTS),
        "layout": Shift("other layout", Variation(layout=True)),
        "distractors": Shift("three distractors", Variation(distractors=3)),
        "background": Shift("other background", Variation(background=True)),
        "light": Shift("other light", Variation(light=True)),
        "camera": Shift("cameras moved", Variation(camera=True)),
    }
)


def add_shifts(path: Path, folder: Path) -> str:
    """Add what changes of the scene do to the policy of a result; return what was done, empty where nothing was."""
    result, policy = json.loads(path.read_text()), folder / "policies" / path.stem
    if "shift" in result or not (policy / "config.json").exists():
        return ""
    torch.set_num_threads(1)
    model = lattok.LatentVLA.from_pretrained(policy)
    found = {name: outcomes(model, WORLD, each.starts, variation=each.variation) for name, each in SHIFTS.items()}
    result.setdefault("outcomes", {}).update(found)
    result["shift"] = {name: {task: counts(ends) for task, ends in by_task.items()} for name, by_task in found.items()}
    write_results(path, result)
    won = {name: sum(count[0] for count in by_task.values()) for name, by_task in result["shift"].items()}
    return f"{path.stem} {won}"


def main() -> None:
    parser = study_parser(__doc__, results=True)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    with ProcessPoolExecutor(args.jobs, get_context("spawn")) as pool:
        for done in pool.map(partial(add_shifts, folder=args.folder), sorted(args.results.glob("*.json"))):
            if done:
                print(done, flush=True)


if __name__ == "__main__":
    main()
