"""How surely policies that act by tokens predict the codes of chunks that they learned, and of chunks they never saw.

python -m studies.recited --folder study --out studies/results/recited_codes.json

Of every row of the study whose policies of all seeds are in the folder, and whose codes are predicted one by one: nats
of a code, given the true ones before it, and the share of codes that are met, of the first code of a chunk and of the
later ones. Of these, and of the Baseline: the squared error of the chunk that the policy acts by, in units of each
dimension's variance. All in a sixth of the episodes that the policy learned from, and in the held-out ones. Policies
that are in the results are not measured again.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

import lattok
from benchmarks.common import environment, write_results
from lattok.data import select_episodes
from lattok.samples.policy import PolicyWindows, WindowOptions
from lattok.vla.tokens import TokenHead
from studies.plan import ACTS, IN_TURN, REGIMES, ROWS, Cell
from studies.planned import BASE, STUDIES
from studies.run import study_parser

REGIME = "plentiful"
EVERY, BATCH = 6, 64  # episodes that were learned; samples at once
Rows = list[torch.Tensor]  # of a batch: nats and whether a code is met, [B, P, 2], NaN where there is none


def policies(folder: Path) -> Iterator[Cell]:
    """Yield the trained policies of a folder, of the Baseline and of rows whose codes are predicted one by one."""
    there = {Cell.of(path.parent.name) for path in folder.glob("policies/*/config.json")}
    for row in (BASE, *(row for row in ACTS if ROWS[row].options == IN_TURN)):
        own = [Cell(REGIME, row, seed) for seed in STUDIES["acting_by_tokens"].planned(REGIME)[row]]
        yield from own if {*own} <= there else ()


@contextmanager
def watched(head: Any) -> Iterator[Rows]:
    """Keep what a head is asked to learn, code by code."""
    found, judged = Rows(), head.judged

    def kept(*given: Any) -> Any:
        nats, met, there = judged(*given)
        found.append(torch.stack([nats, met.float()], -1).masked_fill(~there[..., None], torch.nan))
        return nats, met, there

    head.judged = kept
    try:
        yield found
    finally:
        del head.judged


def known(policy: lattok.LatentVLA, data: Path, episodes: list[int]) -> dict[str, float]:
    """Return the error of a policy's chunks in some episodes; and nats of codes and the share of codes that are met,
    of first and later codes of chunks."""
    config = policy.config
    given: dict[str, Any] = {"action_key": config.action_key, "state_key": config.state_key, "cameras": config.cameras}
    given |= {"size": config.image_size, "interpolation": config.interpolation, "episodes": episodes}
    windows = PolicyWindows(lattok.open_dataset(data), WindowOptions(config.horizon, **given))
    tokens, pairs = isinstance(policy.head, TokenHead), list[torch.Tensor]()  # what the policy and the expert did
    with watched(policy.head) if tokens else nullcontext(Rows()) as rows, torch.no_grad():
        for indices in torch.arange(len(windows)).split(BATCH):
            batch = windows.batch(indices)
            pairs.append(torch.stack([policy.imitate(batch)[0], batch.actions])[:, batch.valid])
            if tokens:
                policy(batch)
    done, wanted = torch.cat(pairs, 1)
    error = {"error": float(((done - wanted).square().mean(0) / wanted.var(0, correction=0)).mean())}
    if not tokens:
        return error
    first, later = (torch.cat([each[:, part].flatten(0, -2) for each in rows]) for part in (slice(1), slice(1, None)))
    means = {"first": first.nanmean(0).tolist(), "later": later.nanmean(0).tolist()}
    return error | {f"{what}_{name}": mean[k] for name, mean in means.items() for k, what in enumerate(("nats", "met"))}


def main() -> None:
    parser = study_parser(__doc__)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    results = json.loads(args.out.read_text()) if args.out.exists() else {"runs": {}}
    for cell in policies(args.folder):
        if cell.name in results["runs"]:
            continue
        data = REGIMES[cell.regime].dataset(args.folder)
        policy = lattok.LatentVLA.from_pretrained(args.folder / "policies" / cell.name).eval()
        seen, every = ({e.index for e in select_episodes(lattok.open_dataset(data), part)} for part in ("train", None))
        found = {"learned": known(policy, data, sorted(seen)[::EVERY])}
        found |= {"held_out": known(policy, data, sorted(every - seen))}
        made = policy.describe()["weights_sha256"]
        results["runs"][cell.name] = {"commit": environment()["commit"], "model": made, **found}
        results["environment"] = environment()
        write_results(args.out, results)
        print(cell.name, found, flush=True)


if __name__ == "__main__":
    main()
