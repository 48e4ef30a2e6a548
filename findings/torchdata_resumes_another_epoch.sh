#!/usr/bin/env bash
# torchdata: a StatefulDataLoader with a sampler of torch, stopped in its second epoch, resumes with the order of the first
#
# Versions: torchdata 0.11.0, torch 2.15.0
# Guess: load_state_dict() of a StatefulDataLoader continues the epoch that was stopped, also with a
#   WeightedRandomSampler, by which mixtures of robots are drawn: what was drawn is not drawn again.
# Fact: Only shuffle=True stores the state of its random numbers. Any other sampler begins from its seed, as in a new
#   program, and as many rows are skipped as were drawn: the rest is in the order of the first epoch, so some rows
#   come twice and others not at all. In the first epoch all is well, which is what one tests. The README says that
#   samplers with a state_dict resume faster, not that others resume elsewhere.
# Output: 20 rows, stopped after 9 of the second epoch: WeightedRandomSampler, RandomSampler, BatchSampler: the rest
#   is that of epoch 1, 5 or 6 rows come twice; shuffle=True: the rest is that of epoch 2, each row comes once
# Needs: Python 3.12 or newer (PYTHON=), torch (BORROW_SITE=SITE-PACKAGES of the same Python, else 3 GB)
# Date: 2026-11-30
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
if ! borrow venv; then
    install venv torch==2.15.0
fi
install venv --no-deps torchdata==0.11.0 numpy==2.5.5 requests==2.34.2 certifi==2026.10.19.post1 charset-normalizer==3.5.3 idna==3.20 \
    urllib3==2.8.0
venv/bin/python -W ignore - <<'PY'
import torch
from torch.utils.data import BatchSampler, RandomSampler, WeightedRandomSampler
from torchdata.stateful_dataloader import StatefulDataLoader

ROWS = range(20)


def program(kind):
    """What a program makes when it begins."""
    torch.manual_seed(0)
    seed = torch.Generator().manual_seed(0)
    if kind == "weighted":
        sampler = WeightedRandomSampler(torch.ones(20), 20, replacement=False, generator=seed)
        return StatefulDataLoader(ROWS, batch_size=3, sampler=sampler)
    if kind == "random":
        return StatefulDataLoader(ROWS, batch_size=3, sampler=RandomSampler(ROWS, generator=seed))
    if kind == "batches":
        return StatefulDataLoader(ROWS, batch_sampler=BatchSampler(RandomSampler(ROWS), 3, False))
    return StatefulDataLoader(ROWS, batch_size=3, shuffle=True)


def rows(batches):
    return [row for batch in batches for row in batch.tolist()]


for kind in ("weighted", "random", "batches", "shuffle=True"):
    first, second = (lambda loader: (rows(loader), rows(loader)))(program(kind))
    stopped = program(kind)
    rows(stopped)
    batches = iter(stopped)
    before = rows(next(batches) for _ in range(3))
    state = stopped.state_dict()
    resumed = program(kind)
    resumed.load_state_dict(state)
    rest = rows(resumed)
    twice = 20 - len({*before, *rest})
    print(
        kind,
        "| rest of epoch 2:",
        rest == second[9:],
        "of epoch 1:",
        rest == first[9:],
        "| rows that come twice:",
        twice,
    )
    assert before == second[:9]
    assert (rest == second[9:], rest == first[9:], twice > 0) == (
        (True, False, False) if kind == "shuffle=True" else (False, True, True)
    )
PY
