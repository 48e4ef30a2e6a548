#!/usr/bin/env bash
# accelerate: with gradients of 4 batches accumulated, the last step of an epoch of 9 batches has a quarter of its gradient
#
# Versions: accelerate 1.15.0, torch 2.15.0
# Guess: accumulate() averages the batches of each step, also of the last one, for which fewer are left.
# Fact: Every loss is divided by gradient_accumulation_steps, and the end of the loader makes a step in any case: 1 batch
#   that is left counts a quarter, 2 a half. An epoch shorter than one step has no full step at all, so that a few
#   demonstrations are learned with a lower rate than asked for. Clipping and Adam hide it in part.
# Output: gradients of the steps, where each batch alone has 1: 8 batches 1.0 1.0, 9 batches 1.0 1.0 0.25, 10 batches 1.0
#   1.0 0.5, 1 batch 0.25
# Needs: Python 3.12 or newer (PYTHON=), torch (BORROW_SITE=SITE-PACKAGES of the same Python, else 3 GB)
# Date: 2026-11-30
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
if ! borrow venv; then
    install venv torch==2.15.0
fi
install venv --no-deps accelerate==1.15.0 anyio==4.16.0 certifi==2026.10.19.post1 click==8.5.1 filelock==4.3.1 fsspec==2026.9.0 h11==0.16.0 \
    hf-xet==1.8.0 httpcore2==2.16.2 httpx2==2.16.2 huggingface-hub==2.4.0 idna==3.20 numpy==2.5.5 packaging==26.4 psutil==7.2.2 \
    pyyaml==6.0.4 safetensors==0.8.0 tqdm==4.70.1 truststore==0.10.5 typing-extensions==4.16.0
venv/bin/python -W ignore - <<'PY'
import torch
from accelerate import Accelerator


def gradients(batches):
    """The gradient of every step of one epoch, where that of each batch is 1."""
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=4)
    model = torch.nn.Linear(1, 1, bias=False)
    model, optimizer, loader = accelerator.prepare(
        model, torch.optim.SGD(model.parameters(), lr=0.1), torch.utils.data.DataLoader(torch.ones(batches, 1), batch_size=1)
    )
    found = []
    for batch in loader:
        with accelerator.accumulate(model):
            accelerator.backward(model(batch).mean())
            if accelerator.sync_gradients:
                found.append(model.weight.grad.item())
            optimizer.step()
            optimizer.zero_grad()
    return found


found = {batches: gradients(batches) for batches in (8, 9, 10, 1)}
print(found)
assert found == {8: [1, 1], 9: [1, 1, 0.25], 10: [1, 1, 0.5], 1: [0.25]}
PY
