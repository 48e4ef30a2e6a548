#!/usr/bin/env bash
# transformers: with a **kwargs in the model's forward, Trainer's loss and gradient are multiplied by the accumulated batches
#
# Versions: transformers 5.24.0, accelerate 1.15.0, torch 2.15.0
# Guess: gradient_accumulation_steps=8 averages eight batches, whatever else the forward of a policy takes.
# Fact: Trainer takes **kwargs for the promise that the model divides its loss by num_items_in_batch, and does not divide
#   it itself. A policy that returns the mean of its batch and has **kwargs logs eight times its loss and has eight times the gradient,
#   which is then clipped. model_accepts_loss_kwargs = False of the trainer says that it does not.
# Output: loss and norm of the gradient, 1 and 8 batches: 1 and 2, 1 and 2; with **kwargs 1 and 2, 8 and 16; with the trainer told 1 and 2
# Needs: Python 3.12 or newer (PYTHON=), torch (BORROW_SITE=SITE-PACKAGES of the same Python, else 3 GB)
# Date: 2026-12-01
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
if ! borrow venv; then
    install venv torch==2.15.0
fi
install venv --no-deps accelerate==1.15.0 psutil==7.2.2 transformers==5.24.0 \
    anyio==4.16.0 certifi==2026.10.19.post1 click==8.5.1 filelock==4.3.1 fsspec==2026.9.0 \
    h11==0.16.0 hf-xet==1.8.0 httpcore2==2.16.2 httpx2==2.16.2 huggingface-hub==2.4.0 idna==3.20 numpy==2.5.5 \
    packaging==26.4 pillow==13.0.0 pyyaml==6.0.4 regex==2026.11.19 safetensors==0.8.0 tokenizers==0.23.3 tqdm==4.70.1 \
    truststore==0.10.5 typer==0.29.2 typing-extensions==4.16.0
HF_HUB_OFFLINE=1 venv/bin/python -W ignore - <<'PY'
import contextlib
import io

import torch
from transformers import Trainer, TrainingArguments


class Plain(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.action = torch.nn.Parameter(torch.zeros(1))

    def forward(self, state, labels=None):
        return {"loss": (self.action - labels).square().mean()}


class WithOptions(Plain):
    def forward(self, state, labels=None, **options):
        return super().forward(state, labels)


data = [{"state": torch.zeros(1), "labels": torch.ones(1)} for _ in range(64)]


def trained(model, batches, told=False):
    options = {"max_steps": 1, "logging_steps": 1, "learning_rate": 0.0, "max_grad_norm": 1e9}
    quiet = {"report_to": [], "use_cpu": True, "disable_tqdm": True, "save_strategy": "no"}
    arguments = TrainingArguments("out", per_device_train_batch_size=2, gradient_accumulation_steps=batches, **options, **quiet)
    trainer = Trainer(model, arguments, train_dataset=data)
    if told:
        trainer.model_accepts_loss_kwargs = False
    with contextlib.redirect_stdout(io.StringIO()):
        trainer.train()
    log = next(row for row in trainer.state.log_history if "grad_norm" in row)
    print(type(model).__name__, batches, "batches: loss", log["loss"], "gradient", log["grad_norm"], "(told)" if told else "")
    return float(log["loss"]), float(log["grad_norm"])


assert trained(Plain(), 1) == trained(Plain(), 8) == trained(WithOptions(), 1) == (1, 2)
assert trained(WithOptions(), 8) == (8, 16)
assert trained(WithOptions(), 8, told=True) == (1, 2)
PY
