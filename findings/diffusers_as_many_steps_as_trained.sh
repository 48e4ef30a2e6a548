#!/usr/bin/env bash
# diffusers: DPM-Solver, UniPC, DEIS and SASolver with all 100 of 100 steps give NaN, PNDM 3.9 for 0.3; with ten, two thirds of the spread
#
# Versions: diffusers 0.42.1, torch 2.15.0
# Guess: More steps are nearer to the data; the most exact choice is each of the steps that were trained, which is also what a diffusion policy
#   does if no other number is given.
# Fact: These schedulers lay n + 1 points from the last step to the first and round them to whole steps: of 101 points for 100 steps two are one,
#   and what is divided by their distance is NaN, or in PNDM another number, without an error. With ten steps even a perfect model's
#   actions are too narrow, in DDPM most, as if demonstrations were averaged. variance_type="fixed_large" is too wide instead.
# Output: of numbers with mean 0.3 and spread 0.2, by their exact score, 100 steps: nan nan nan nan, PNDM 3.9 (0.11), DDPM 0.3 (0.19), DDIM 0.3
#   (0.19); 10 steps: DDPM 0.13, DDIM 0.15, DPM-Solver 0.15, UniPC 0.15, fixed_large 0.26
# Needs: Python 3.12 or newer (PYTHON=), torch (BORROW_SITE=SITE-PACKAGES of the same Python, else 3 GB)
# Date: 2026-12-01
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
if ! borrow venv; then
    install venv torch==2.15.0
fi
install venv --no-deps \
    anyio==4.16.0 certifi==2026.10.19.post1 charset-normalizer==3.5.3 click==8.5.1 diffusers==0.42.1 \
    filelock==4.3.1 fsspec==2026.9.0 h11==0.16.0 hf-xet==1.8.0 httpcore2==2.16.2 httpx2==2.16.2 \
    huggingface-hub==2.4.0 idna==3.20 importlib-metadata==10.2.0 lazy-importer==0.1.0 numpy==2.5.5 \
    packaging==26.4 pillow==13.0.0 pyyaml==6.0.4 regex==2026.11.19 requests==2.34.2 safetensors==0.8.0 \
    tqdm==4.70.1 truststore==0.10.5 typing-extensions==4.16.0 urllib3==2.8.0 zipp==4.1.2
venv/bin/python -W ignore - <<'PY'
import math

import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    PNDMScheduler,
    SASolverScheduler,
    UniPCMultistepScheduler,
)

MEAN, SPREAD = 0.3, 0.2


def sampled(kind, steps, **options):
    """Mean and spread of what a scheduler makes of noise with the exact noise prediction of a normal distribution."""
    scheduler = kind(num_train_timesteps=100, beta_schedule="squaredcos_cap_v2", **options)
    scheduler.set_timesteps(steps)
    torch.manual_seed(0)
    x = torch.randn(20_000, 1, 1, 1)
    for t in scheduler.timesteps:
        kept = scheduler.alphas_cumprod[t]
        noise = (1 - kept).sqrt() * (x - kept.sqrt() * MEAN) / (kept * SPREAD**2 + 1 - kept)
        x = scheduler.step(noise, t, x).prev_sample
    return x.mean().item(), x.std().item()


SOLVERS = (DPMSolverMultistepScheduler, UniPCMultistepScheduler, DEISMultistepScheduler, SASolverScheduler)
ALL = (*SOLVERS, PNDMScheduler, DDPMScheduler, DDIMScheduler)
every = {kind: sampled(kind, 100) for kind in ALL}
ten = {kind: sampled(kind, 10)[1] for kind in ALL}
large = sampled(DDPMScheduler, 10, variance_type="fixed_large")[1]
for kind in ALL:
    print(kind.__name__, "100 steps: mean", round(every[kind][0], 2), "spread", round(every[kind][1], 3), "10 steps: spread", round(ten[kind], 3))
print("fixed_large, 10 steps: spread", round(large, 3))
assert all(math.isnan(every[kind][0]) for kind in SOLVERS)
assert every[PNDMScheduler][0] > 2
assert all(abs(every[kind][0] - MEAN) < 0.01 and 0.18 < every[kind][1] < 0.21 for kind in (DDPMScheduler, DDIMScheduler))
assert 0.12 < ten[DDPMScheduler] < 0.14 and 0.14 < ten[DPMSolverMultistepScheduler] < 0.155 and large > 0.25
PY
