#!/usr/bin/env bash
# scikit-image, piq, torchmetrics, kornia, pytorch-msssim: SSIM of one pair of pictures is .75, .94, .69 or .64
#
# Versions: scikit-image 0.26.0, piq 0.8.0, torchmetrics 1.9.0, kornia 0.9.0, pytorch-msssim 1.0.0, torch 2.15.0
# Guess: SSIM of two pictures in [0, 1] is one number, as PSNR is, up to the pixels at the border.
# Fact: piq halves pictures from 384 pixels on before it compares them, which hides noise; scikit-image has flat windows of 7 pixels unless
#   told otherwise; kornia asks for the window, of 11 in the paper and of 5 in its examples. torchmetrics takes the range from the pictures
#   where it is not given, so darker pictures differ more. With Gaussian windows of 11, at full size, all agree to .001.
# Output: 512 pixels, noise 0.05: scikit-image .748, piq .939, torchmetrics .694, pytorch-msssim .693, kornia .694 (window 11) and .640
#   (window 5); 64 pixels: .836, .786, .789, .786, .789, .737
# Needs: Python 3.12 or newer (PYTHON=), torch (BORROW_SITE=SITE-PACKAGES of the same Python, else 3 GB)
# Date: 2026-12-01
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
if ! borrow venv; then
    install venv torch==2.15.0
fi
install venv --no-deps imageio==2.38.1 kornia==0.9.0 kornia-rs==0.2.0 lazy-loader==0.6 lightning-utilities==0.15.3 networkx==3.7 \
    numpy==2.5.5 packaging==26.4 pillow==13.0.0 piq==0.8.0 pytorch-msssim==1.0.0 scikit-image==0.26.0 scipy==1.18.1 setuptools==84.2.1 \
    tifffile==2026.11.8 torchmetrics==1.9.0 torchvision==0.29.2 typing-extensions==4.16.0
venv/bin/python -W ignore - <<'PY'
import kornia
import numpy as np
import piq
import pytorch_msssim
import torch
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity
from torchmetrics.functional.image import structural_similarity_index_measure


def scores(size):
    draws = np.random.default_rng(0)
    one = gaussian_filter(draws.random((size, size, 3)), (2, 2, 0))
    one = (one - one.min()) / (one.max() - one.min())
    other = np.clip(one + draws.normal(0, 0.05, one.shape), 0, 1)
    a, b = (torch.tensor(each).permute(2, 0, 1)[None].float() for each in (one, other))
    gaussian = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    found = {
        "scikit-image": structural_similarity(one, other, channel_axis=2, data_range=1.0),
        "piq": piq.ssim(a, b, data_range=1.0),
        "torchmetrics": structural_similarity_index_measure(a, b, data_range=1.0),
        "pytorch-msssim": pytorch_msssim.ssim(a, b, data_range=1.0),
        "kornia 11": kornia.metrics.ssim(a, b, 11).mean(),
        "kornia 5": kornia.metrics.ssim(a, b, 5).mean(),
        "scikit-image, Gaussian": structural_similarity(one, other, channel_axis=2, data_range=1.0, **gaussian),
        "piq, full size": piq.ssim(a, b, data_range=1.0, downsample=False),
        "half as bright, torchmetrics": structural_similarity_index_measure(a / 2, b / 2),
        "half as bright, its range given": structural_similarity_index_measure(a / 2, b / 2, data_range=1.0),
    }
    found = {name: float(value) for name, value in found.items()}
    print(size, {name: round(value, 3) for name, value in found.items()})
    return found


large, small = scores(512), scores(64)
alike = [large[name] for name in ("torchmetrics", "pytorch-msssim", "kornia 11", "scikit-image, Gaussian", "piq, full size")]
assert max(alike) - min(alike) < 1e-3
assert large["piq"] > large["torchmetrics"] + 0.2 and abs(small["piq"] - small["torchmetrics"]) < 0.01
assert large["scikit-image"] > large["torchmetrics"] + 0.04 > large["kornia 5"] + 0.08
assert large["half as bright, its range given"] > large["half as bright, torchmetrics"] + 0.05
PY
