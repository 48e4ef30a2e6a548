#!/usr/bin/env bash
# ema-pytorch: update() after each step counts every tenth time, so that beta 0.9 averages 100 steps and not 10
#
# Versions: ema-pytorch 0.8.3, torch 2.15.0
# Guess: EMA(model, beta=0.9).update() after each step averages with weights 0.9^k: it trails a weight that grows by one
#   a step by 9 to 10 steps.
# Fact: By default one call in ten counts (update_every=10) and takes the weight as it is then: the average trails by up
#   to 99 steps. In the first 100 steps (update_after_step=100) it is no average but a copy, up to nine steps old, and
#   then a warm-up holds the decay below beta. Set update_every=1, update_after_step=0.
# Output: after 100 steps 91 (a copy); after 3,000 it trails by 99, after 3,001 by 90; with update_every=1 always by 9
# Needs: Python 3.12 or newer (PYTHON=), torch (BORROW_SITE=SITE-PACKAGES of the same Python, else 3 GB)
# Date: 2026-11-30
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
if ! borrow venv; then
    install venv torch==2.15.0
fi
install venv --no-deps ema-pytorch==0.8.3
venv/bin/python -W ignore - <<'PY'
import torch
from ema_pytorch import EMA


def trails(**options):
    """By how many steps the average trails a weight that is the number of the step."""
    weight = torch.nn.Linear(1, 1, bias=False)
    average, found = EMA(weight, beta=0.9, **options), {}
    for step in range(1, 3010):
        weight.weight.data.fill_(step)
        average.update()
        found[step] = step - round(float(average.ema_model.weight), 2)
    return found


usual, each = trails(), trails(update_every=1, update_after_step=0)
print({step: (usual[step], each[step]) for step in (100, 3000, 3001, 3009)})
assert usual[100] == 9 and usual[91] == 0  # a copy of step 91
assert 9 <= min(usual[step] for step in range(3000, 3010)) and 95 <= max(usual[step] for step in range(3000, 3010)) <= 100
assert 8.9 <= each[3000] <= 10.1
PY
