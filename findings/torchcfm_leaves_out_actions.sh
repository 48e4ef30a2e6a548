#!/usr/bin/env bash
# torchcfm: optimal transport matching leaves out four of ten actions of a batch and learns others twice or more
#
# Versions: torchcfm 1.0.7, torch 2.15.0, pot 0.9.7.post1
# Guess: ExactOptimalTransportConditionalFlowMatcher pairs each noise with one action of the batch: a permutation, as the
#   exact plan between two batches of one size is.
# Fact: It draws pairs from that plan with replacement: of 256 actions about 160 (1 - 1/e of them) are learned from,
#   some four times, and the observations that belong to them must be drawn along, which only
#   guided_sample_location_and_conditional_flow does, for one tensor. sample_plan(x0, x1, replace=False) is the
#   permutation; the matcher has no option for it.
# Output: different actions of 256: 153 to 168 in ten draws, the same one up to 6 times; replace=False: 256
# Needs: Python 3.12 or newer (PYTHON=), torch (BORROW_SITE=SITE-PACKAGES of the same Python, else 3 GB)
# Date: 2026-11-30
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
if ! borrow venv; then
    install venv torch==2.15.0
fi
install venv --no-deps torchcfm==1.0.7 pot==0.9.7.post1 numpy==2.5.5 scipy==1.17.1
venv/bin/python -W ignore - <<'PY'
import numpy as np
import torch
from torchcfm.conditional_flow_matching import ExactOptimalTransportConditionalFlowMatcher

torch.manual_seed(0), np.random.seed(0)
matcher = ExactOptimalTransportConditionalFlowMatcher(sigma=0.0)
different, most = [], 0
for _ in range(10):
    noise, actions = torch.randn(256, 14), torch.randn(256, 14)
    drawn = matcher.guided_sample_location_and_conditional_flow(noise, actions, y1=torch.arange(256))[-1]
    counts = drawn.bincount(minlength=256)
    different.append(int((counts > 0).sum()))
    most = max(most, int(counts.max()))
_, once = matcher.ot_sampler.sample_plan(noise, actions, replace=False)
print("different actions of 256:", different, "the same one up to", most, "times; replace=False", len(once.unique(dim=0)))
assert all(140 <= count <= 185 for count in different) and most >= 3
assert len(once.unique(dim=0)) == 256
PY
