#!/usr/bin/env bash
# x-transformers: with three of its options a Decoder sees the future
#
# Versions: x-transformers 2.31.10, torch 2.15.0
# Guess: Decoder is causal: what comes later changes no earlier output, whichever options are on.
# Fact: Of its options that are on or off, orthog_residual, mv_split_residual and attn_orthog_projected_values (also per head) project
#   on the direction of the whole sequence at once, over all positions and numbers, so that each output depends on all inputs,
#   also in eval(). A policy that makes its actions one by one gets other outputs for a prefix than it was trained on. No other
#   option that was tried does so.
# Output: change of the first ten outputs by other inputs from ten on: 0 without, 0.014, 0.034 and 0.059 with them
# Needs: Python 3.12 or newer (PYTHON=), torch (BORROW_SITE=SITE-PACKAGES of the same Python, else 3 GB)
# Date: 2026-11-30
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
if ! borrow venv; then
    install venv torch==2.15.0
fi
install venv --no-deps einops==0.8.2 einx==0.4.3 frozendict==2.5.1 loguru==0.7.3 numpy==2.5.5 packaging==26.4 torch-einops-utils==0.2.0 \
    typing-extensions==4.16.0 x-transformers==2.31.10
venv/bin/python -W ignore - <<'PY'
import torch
from x_transformers import ContinuousTransformerWrapper, Decoder


@torch.no_grad()
def looks_ahead(**options):
    """How far the first ten outputs move when inputs from the tenth on are others."""
    torch.manual_seed(0)
    layers = Decoder(dim=32, depth=2, heads=4, **options)
    model = ContinuousTransformerWrapper(dim_in=4, dim_out=4, max_seq_len=32, attn_layers=layers).eval()
    for parameter in model.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))  # some begin at 0
    one = torch.randn(2, 16, 4)
    other = torch.cat([one[:, :10], torch.randn(2, 6, 4)], 1)
    assert torch.equal(model(one), model(one))
    return float((model(one) - model(other))[:, :10].abs().max())


names = ("orthog_residual", "mv_split_residual", "attn_orthog_projected_values", "attn_orthog_projected_values_per_head")
found = {name: looks_ahead(**{name: True}) for name in names}
others = [looks_ahead(), *(looks_ahead(**{name: True}) for name in ("gate_residual", "rotary_pos_emb", "attn_qk_norm"))]
print("moved:", found, "without, and with others:", others)
assert max(others) < 1e-5
assert min(found.values()) > 1e-3
PY
