#!/usr/bin/env bash
# torch: cdist of 26 states gives a state a distance from itself, of 25 states none
#
# Versions: torch 2.15.0
# Guess: The distance of a state from itself is 0, and does not depend on how many others are compared.
# Fact: From 26 rows on cdist multiplies matrices, which cancels where values are large beside their differences: joints in degrees around 100,
#   or positions in millimetres. The distance from itself is then a few hundredths of the typical one, and the
#   nearest state another one. compute_mode="donot_use_mm_for_euclid_dist" is exact. scipy and scikit-learn are too.
# Output: 7 joints around 100, spread 1, in float32: largest distance from itself 0 of 25 rows, 0.125 of 26, at typical distances of 3.3; of
#   2,000 states with one 0.05 away and one 0.1, for 196 the nearest is another one
# Needs: Python 3.12 or newer (PYTHON=), torch (BORROW_SITE=SITE-PACKAGES of the same Python, else 3 GB)
# Date: 2026-12-01
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
if ! borrow venv; then
    install venv torch==2.15.0
fi
install venv --no-deps numpy==2.5.5
venv/bin/python -W ignore - <<'PY'
import torch

torch.manual_seed(0)
states = 100 + torch.randn(2000, 7)
EXACT = {"compute_mode": "donot_use_mm_for_euclid_dist"}
itself = {rows: torch.cdist(states[:rows], states[:rows]).diag().max().item() for rows in (25, 26)}
exact = torch.cdist(states[:26], states[:26], **EXACT)
print("from itself", itself, "exact", exact.diag().max().item(), "typical", round(exact.mean().item(), 2))
assert itself[25] == 0 == exact.diag().max() and itself[26] > 0.05

near = states + 0.05 * torch.nn.functional.normalize(torch.randn(2000, 7), dim=1)
twin = states + 0.1 * torch.nn.functional.normalize(torch.randn(2000, 7), dim=1)
book = torch.cat([near, twin])
wrong = {name: (torch.cdist(states, book, **how).argmin(1) != torch.arange(2000)).sum().item() for name, how in (("cdist", {}), ("exact", EXACT))}
print("of 2000 states, another one is nearest than the one at 0.05:", wrong)
assert wrong["exact"] == 0 and wrong["cdist"] > 20
PY
