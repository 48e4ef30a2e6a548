#!/usr/bin/env bash
# vector-quantize-pytorch: with affine_param=True stored codes decode to vectors without the scale and the offset
#
# Versions: vector-quantize-pytorch 1.32.0, torch 2.15.0
# Guess: get_output_from_indices(indices) is what forward returned, in eval(), as without affine_param.
# Fact: affine_param moves the codebook to the mean and the width of the data when it looks for the nearest code, and
#   forward returns that; get_output_from_indices, get_codes_from_indices and the codebook itself do not have it. What
#   is decoded from stored codes lies around 0, wherever the data lie. ResidualVQ does the same.
# Output: error of what forward returns, and of what its indices decode to: VectorQuantize 0.114 and 4.208, ResidualVQ
#   0.011 and 4.196; without affine_param 0.218 and 0.218, 0.021 and 0.021
# Needs: Python 3.12 or newer (PYTHON=), torch (BORROW_SITE=SITE-PACKAGES of the same Python, else 3 GB)
# Date: 2026-11-30
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
if ! borrow venv; then
    install venv torch==2.15.0
fi
install venv --no-deps einops==0.8.2 einx==0.4.3 frozendict==2.5.1 hoptorch==0.1.4 loguru==0.7.3 mpmath==1.3.0 numpy==2.5.5 \
    sympy==1.14.0 torch-einops-utils==0.2.0 vector-quantize-pytorch==1.32.0
venv/bin/python - <<'PY'
import torch
from vector_quantize_pytorch import ResidualVQ, VectorQuantize


def data():
    return torch.randn(64, 16, 8) * 0.5 + 2


def errors(quantizer, given):
    """Mean square of what forward returns, and of what its indices decode to."""
    quantizer.train()
    for _ in range(100):
        quantizer(data())
    quantizer.eval()
    quantized, indices, _ = quantizer(given)
    return [round(float((each - given).square().mean()), 3) for each in (quantized, quantizer.get_output_from_indices(indices))]


torch.manual_seed(0)
given = data()
for options in ({"affine_param": True}, {}):
    one = errors(VectorQuantize(dim=8, codebook_size=64, decay=0.9, **options), given)
    four = errors(ResidualVQ(dim=8, codebook_size=64, num_quantizers=4, decay=0.9, **options), given)
    print(options, "VectorQuantize", one, "ResidualVQ", four)
    if options:
        assert one[0] < 0.25 and four[0] < 0.1
        assert one[1] > 3 and four[1] > 3, "the offset of 2 is lost"
    else:
        assert one[0] == one[1] and four[0] == four[1]
PY
