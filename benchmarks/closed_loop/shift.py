"""What a change of the scene costs the policies of the study: the same start states, nothing trained.

python -m benchmarks.closed_loop.shift --folder study        # adds "shift" to the result of each cell that has a policy
"""

import json

import torch

import lattok
from benchmarks.closed_loop.cell import counted
from benchmarks.closed_loop.plan import FEW_STARTS, WORLD
from benchmarks.closed_loop.run import study_parser
from benchmarks.common import write_results
from lattok.sim import Variation

SHIFTS = {
    "background": Variation(background=True),
    "light": Variation(light=True),
    "camera": Variation(camera=True),
    "distractors": Variation(distractors=3),
}


def main() -> None:
    args = study_parser(__doc__, results=True).parse_args()
    torch.set_num_threads(1)
    for path in sorted(args.results.glob("*.json")):
        result, policy = json.loads(path.read_text()), args.folder / "policies" / path.stem
        if "shift" in result or not (policy / "config.json").exists():
            continue
        model = lattok.LatentVLA.from_pretrained(policy)
        result["shift"] = {
            name: counted(model, WORLD, FEW_STARTS, variation=variation) for name, variation in SHIFTS.items()
        }
        write_results(path, result)
        print(
            path.stem,
            {name: sum(c[0] for c in counts.values()) for name, counts in result["shift"].items()},
            flush=True,
        )


if __name__ == "__main__":
    main()
