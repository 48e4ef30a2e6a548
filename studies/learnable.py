"""What `lattok evaluate` says of the tokenizers of the study, before any policy acts by them.

python -m studies.learnable --folder study --seeds 0 1 2 3 4

Each tokenizer is the one that the policy of that seed acts by, judged on the episodes that it did not learn from.
Adds to studies/results/tokenizer_figures.json; what is there is not made again. A tokenizer takes CPU-minutes.
"""

import json
from pathlib import Path

import lattok
from benchmarks.common import environment, write_results
from studies.labels import ACTION, label_model
from studies.plan import ACTS, IN_TURN, LABELS, REGIMES, ROWS
from studies.run import study_parser

OUT = Path("studies/results/tokenizer_figures.json")
REGIME = "plentiful"
POLICIES = ("policy_error/draws", "policy_error/regression")  # of the small policy, too; the others are of controls
SOURCES = tuple(str(ROWS[row].labels) for row in ACTS if ROWS[row].options == IN_TURN)


def main() -> None:
    parser = study_parser(__doc__)
    parser.add_argument("--sources", nargs="+", default=list(SOURCES), choices=list(LABELS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    regime = REGIMES[REGIME]
    data = regime.dataset(args.folder)
    results = json.loads(args.out.read_text()) if args.out.exists() else {"runs": {}}
    here = environment()["commit"]
    if others := {each["commit"][:7] for each in results["runs"].values()} - {here[:7]}:
        raise SystemExit(f"{args.out} has figures of commit {others.pop()}, and this is {here}: they would not compare")
    for seed in args.seeds:
        for source in args.sources:
            name = f"{REGIME}.{source}.{seed}"
            if name not in results["runs"]:
                model = label_model(args.folder, data, source, regime, seed)
                figures = lattok.evaluate(model, data, action_key=ACTION, seed=seed).figures
                own = {key: value for key, value in figures.items() if "/" not in key or key in POLICIES}
                made = lattok.load(model).describe()["weights_sha256"]  # that of the policy's, see predicts.py
                results["runs"][name] = {"commit": here, "model": made, "all": own}
                results["environment"] = environment()
                write_results(args.out, results)
            found = results["runs"][name]["all"]
            print(name, {key: round(found[key], 4) for key in ("policy_error", "normalised_mse")})


if __name__ == "__main__":
    main()
