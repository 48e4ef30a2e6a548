#!/usr/bin/env bash
# transformers, diffusers: after its last step the cosine schedule rises again, up to the full learning rate
#
# Versions: transformers 5.24.0, diffusers 0.42.1, torch 2.15.0
# Guess: get_cosine_schedule_with_warmup(optimizer, 10, 100) stays at 0 after step 100, as the linear schedule does.
# Fact: Its progress is not limited to 1, so the cosine goes on: a run that continues beyond the steps it was planned
#   for (resumed for longer, or counted in batches of one process) trains with a rising rate. So does get_scheduler("cosine") of
#   diffusers, and transformers' cosine with min_lr. The linear schedule, WSD and the cosine with restarts stay down.
# Output: rate at steps 100, 125, 150, 190: cosine 0, 0.179, 0.587, 1.0 in both; with min_lr 0.1: 0.1, 0.261, 0.628, 1.0; linear, WSD and
#   restarts 0, 0, 0, 0
# Needs: Python 3.12 or newer (PYTHON=), torch (BORROW_SITE=SITE-PACKAGES of the same Python, else 3 GB)
# Date: 2026-12-01
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
if ! borrow venv; then
    install venv torch==2.15.0
fi
install venv --no-deps transformers==5.24.0 diffusers==0.42.1 importlib-metadata==10.2.0 lazy-importer==0.1.0 requests==2.34.2 \
    charset-normalizer==3.5.3 urllib3==2.8.0 zipp==4.1.2 anyio==4.16.0 certifi==2026.10.19.post1 click==8.5.1 filelock==4.3.1 fsspec==2026.9.0 \
    h11==0.16.0 hf-xet==1.8.0 httpcore2==2.16.2 httpx2==2.16.2 huggingface-hub==2.4.0 idna==3.20 numpy==2.5.5 \
    packaging==26.4 pillow==13.0.0 pyyaml==6.0.4 regex==2026.11.19 safetensors==0.8.0 tokenizers==0.23.3 tqdm==4.70.1 \
    truststore==0.10.5 typer==0.29.2 typing-extensions==4.16.0
HF_HUB_OFFLINE=1 venv/bin/python -W ignore - <<'PY'
import torch
import transformers
from diffusers.optimization import get_scheduler


def rates(make):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    schedule, seen = make(optimizer), []
    for _ in range(200):
        seen.append(round(schedule.get_last_lr()[0], 3))
        optimizer.step()
        schedule.step()
    return [seen[step] for step in (100, 125, 150, 190)]


steps = {"num_warmup_steps": 10, "num_training_steps": 100}
found = {
    "cosine": rates(lambda each: transformers.get_cosine_schedule_with_warmup(each, **steps)),
    "cosine of diffusers": rates(lambda each: get_scheduler("cosine", each, **steps)),
    "min_lr": rates(lambda each: transformers.get_cosine_with_min_lr_schedule_with_warmup(each, min_lr=0.1, **steps)),
    "linear": rates(lambda each: transformers.get_linear_schedule_with_warmup(each, **steps)),
    "restarts": rates(lambda each: transformers.get_cosine_with_hard_restarts_schedule_with_warmup(each, **steps)),
    "WSD": rates(lambda each: transformers.get_wsd_schedule(each, 10, 50, num_training_steps=100)),
}
for name, values in found.items():
    print(name, values)
assert found["cosine"] == found["cosine of diffusers"] == [0.0, 0.179, 0.587, 1.0]
assert found["min_lr"] == [0.1, 0.261, 0.628, 1.0]
assert found["linear"] == found["restarts"] == found["WSD"] == [0.0, 0.0, 0.0, 0.0]
PY
