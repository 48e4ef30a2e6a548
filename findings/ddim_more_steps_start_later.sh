#!/usr/bin/env bash
# diffusers: DDIM with 51 of 100 steps starts in the middle of the noise, and its samples are too wide
#
# Versions: diffusers 0.42.1, torch 2.15.0
# Guess: A diffusion policy that was trained with 100 steps is sampled with any smaller number: they are spread over
#   0..99, and more are not worse.
# Fact: The default of DDIM and DDPM (timestep_spacing "leading") takes every (100 // n)-th step from 0 on: 10 and
#   16 steps begin at 90, 50 at 98, but 51 at 50 and 60 at 59, where half of the variance should be signal and pure
#   noise is given. "trailing" begins at 99, yet goes back by 100 // n from step to step, and is no better. Take a
#   divisor of the number of training steps.
# Output: first step 10: 90, 50: 98, 51: 50, 60: 59; exact denoiser, data of deviation 0.5: 50 steps 0.487, 51 steps
#   0.619 (trailing 0.699), 60 steps 0.574
# Needs: Python 3.12 or newer (PYTHON=), torch (BORROW_SITE=SITE-PACKAGES of the same Python, else 3 GB)
# Date: 2026-11-28
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
venv/bin/python - <<'PY'
import torch
from diffusers import DDIMScheduler

NOISE = torch.randn(20_000, generator=torch.Generator().manual_seed(0))


def sampled(steps, **options):
    """First step, and deviation of samples with the exact denoiser of normal data of deviation 0.5."""
    scheduler = DDIMScheduler(num_train_timesteps=100, beta_schedule="squaredcos_cap_v2", clip_sample=False, **options)
    scheduler.set_timesteps(steps)
    x = NOISE
    for t in scheduler.timesteps:
        kept = scheduler.alphas_cumprod[t]
        x = scheduler.step((1 - kept) ** 0.5 * x / (kept * 0.25 + 1 - kept), t, x).prev_sample
    return int(scheduler.timesteps[0]), round(float(x.std()), 3)


found = {steps: sampled(steps) for steps in (10, 16, 50, 51, 60, 100)}
trailing = sampled(51, timestep_spacing="trailing")
print(found, "trailing 51", trailing)
assert {steps: first for steps, (first, _) in found.items()} == {10: 90, 16: 90, 50: 98, 51: 50, 60: 59, 100: 99}
assert abs(found[50][1] - 0.5) < 0.02 and abs(found[100][1] - 0.5) < 0.02
assert found[51][1] > 0.6 and trailing[0] == 99 and trailing[1] > 0.65
PY
