#!/usr/bin/env bash
# diffusers: flow matching in two steps is one step, for the last of n steps goes from 0.001 to 0
#
# Versions: diffusers 0.42.1, torch 2.15.0
# Guess: FlowMatchEulerDiscreteScheduler.set_timesteps(n) divides the way from noise to data into n equal steps.
# Fact: The n times are spread from 1 to 1/1000, the last time of training, and 0 is put behind them: the last call of
#   the network moves the sample by a thousandth of the way (shift 1), and n - 1 do the work. Two steps give what one
#   does, and ten are as exact as nine. set_timesteps(sigmas=[1, (n - 1) / n, ..., 1 / n]) divides as guessed.
# Output: two steps: [1, 0.001, 0]; exact velocity, data of deviation 0.5: 1 step 0.0, 2 steps 0.001, 3 steps
#   0.2006, 10 steps 0.4238; with own sigmas 2 steps 0.2, 9 steps 0.4236, 10 steps 0.4308
# Needs: Python 3.12 or newer (PYTHON=), torch (BORROW_SITE=SITE-PACKAGES of the same Python, else 3 GB)
# Date: 2026-11-30
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
from diffusers import FlowMatchEulerDiscreteScheduler

NOISE = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
NOISE = NOISE / NOISE.std()


def sampled(steps, equal=False):
    """Times, and deviation of samples with the exact velocity of normal data of deviation 0.5."""
    scheduler = FlowMatchEulerDiscreteScheduler()
    if equal:
        scheduler.set_timesteps(sigmas=[1 - k / steps for k in range(steps)])
    else:
        scheduler.set_timesteps(steps)
    x = NOISE
    for s, t in zip(scheduler.sigmas[:-1], scheduler.timesteps, strict=True):
        velocity = (s - (1 - s) * 0.25) / ((1 - s) ** 2 * 0.25 + s**2) * x
        x = scheduler.step(velocity, t, x).prev_sample
    return [round(float(s), 4) for s in scheduler.sigmas], round(float(x.std()), 4)


found = {steps: sampled(steps) for steps in (1, 2, 3, 10)}
equal = {steps: sampled(steps, equal=True) for steps in (2, 9, 10)}
print("times of 3 steps", found[3][0], "widths", {n: width for n, (_, width) in found.items()})
print("own sigmas", {n: width for n, (_, width) in equal.items()})
assert found[2][0] == [1, 0.001, 0] and found[3][0] == [1, 0.5005, 0.001, 0]
assert abs(found[2][1] - found[1][1]) < 0.01 < abs(equal[2][1] - found[1][1])
assert abs(found[10][1] - equal[9][1]) < 0.001 < abs(found[10][1] - equal[10][1])
PY
