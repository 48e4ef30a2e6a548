#!/usr/bin/env bash
# timm: ModelEmaV3(use_warmup=True) does not warm up unless update() is told the step, and keeps the weights of the start
#
# Versions: timm 1.0.31, torch 2.15.0
# Guess: With use_warmup=True, update(model) after each step begins with a small decay, as in ema-pytorch and torch-ema, which
#   count by themselves.
# Fact: The decay of a step comes from the argument step. Without it there is neither warm-up nor update_after_step: the average moves by a
#   ten-thousandth a step from the weights that training began with, and says nothing. After a short training, as of a policy, it is
#   nearly the untrained model.
# Output: weights of 0, then 100 steps at 1: 0.010 by update(model), 1.000 by update(model, step=k)
# Needs: Python 3.12 or newer (PYTHON=), torch (BORROW_SITE=SITE-PACKAGES of the same Python, else 3 GB)
# Date: 2026-12-01
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
if ! borrow venv; then
    install venv torch==2.15.0
fi
install venv --no-deps timm==1.0.31 torchvision==0.29.2 anyio==4.16.0 certifi==2026.10.19.post1 click==8.5.1 filelock==4.3.1 fsspec==2026.9.0 \
    h11==0.16.0 hf-xet==1.8.0 httpcore2==2.16.2 httpx2==2.16.2 huggingface-hub==2.4.0 idna==3.20 numpy==2.5.5 \
    packaging==26.4 pillow==13.0.0 pyyaml==6.0.4 regex==2026.11.19 safetensors==0.8.0 tokenizers==0.23.3 tqdm==4.70.1 \
    truststore==0.10.5 typer==0.29.2 typing-extensions==4.16.0
HF_HUB_OFFLINE=1 venv/bin/python -W ignore - <<'PY'
from timm.utils import ModelEmaV3
from torch import nn

model = nn.Linear(1, 1, bias=False)
nn.init.zeros_(model.weight)
silent, told = (ModelEmaV3(model, decay=0.9999, use_warmup=True) for _ in range(2))
nn.init.ones_(model.weight)  # where training went
for step in range(100):
    silent.update(model)
    told.update(model, step=step)
found = [average.module.weight.item() for average in (silent, told)]
print("update(model)", round(found[0], 3), "update(model, step=step)", round(found[1], 3))
assert found[0] < 0.02 and found[1] > 0.9
PY
