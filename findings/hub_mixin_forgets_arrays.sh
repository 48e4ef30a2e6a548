#!/usr/bin/env bash
# huggingface_hub: a policy saved with its mean and std as arrays comes back without them, and one that lacks weights loads
#
# Versions: huggingface-hub 2.4.0, torch 2.15.0
# Guess: PyTorchModelHubMixin saves the arguments of __init__, or says which it cannot; from_pretrained refuses a file without weights.
# Fact: What is no plain number, text or list (an array, a tensor, even a numpy.float32) is written as its default: the policy
#   that is loaded has std 1 and no mean, and gives actions in other units. Weights that the file lacks stay as they were drawn
#   (strict=False by default). Neither gives a warning.
# Output: std=numpy.float32(2), mean=array([1, 2]): config.json has std 1.0 and mean null; std=2.0, mean=[1.0, 2.0] are kept; actions
#   differ by up to 2.4; two loads of a file without the weight of a layer: two layers
# Needs: Python 3.12 or newer (PYTHON=), torch (BORROW_SITE=SITE-PACKAGES of the same Python, else 3 GB)
# Date: 2026-12-01
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
if ! borrow venv; then
    install venv torch==2.15.0
fi
install venv --no-deps anyio==4.16.0 certifi==2026.10.19.post1 click==8.5.1 filelock==4.3.1 fsspec==2026.9.0 \
    h11==0.16.0 hf-xet==1.8.0 httpcore2==2.16.2 httpx2==2.16.2 huggingface-hub==2.4.0 idna==3.20 numpy==2.5.5 \
    packaging==26.4 pillow==13.0.0 pyyaml==6.0.4 regex==2026.11.19 safetensors==0.8.0 tokenizers==0.23.3 tqdm==4.70.1 \
    truststore==0.10.5 typer==0.29.2 typing-extensions==4.16.0
HF_HUB_OFFLINE=1 venv/bin/python -W ignore - <<'PY'
import contextlib
import io
import json
from pathlib import Path

import numpy as np
import torch
from huggingface_hub import PyTorchModelHubMixin
from safetensors.torch import load_file, save_file


class Policy(torch.nn.Module, PyTorchModelHubMixin):
    def __init__(self, dim=3, mean=None, std=1.0):
        super().__init__()
        self.layer = torch.nn.Linear(dim, 2)
        self.mean, self.std = 0.0 if mean is None else mean, std

    def forward(self, state):
        return torch.tanh(self.layer(state)) * float(self.std) + torch.as_tensor(self.mean)


def load(folder):
    with contextlib.redirect_stdout(io.StringIO()):
        return Policy.from_pretrained(folder)


torch.manual_seed(0)
state = torch.zeros(1, 3)
for name, mean, std in (("plain", [1.0, 2.0], 2.0), ("arrays", np.array([1.0, 2.0]), np.float32(2)), ("tensors", torch.tensor([1.0, 2.0]), np.float32(2))):
    policy = Policy(mean=mean, std=std)
    policy.save_pretrained(name)
    config = json.loads(Path(name, "config.json").read_text())
    off = float((load(name)(state) - policy(state)).abs().max().detach())
    print(name, config, f"actions differ by up to {off:.1f}")
    if name == "plain":
        assert config == {"dim": 3, "mean": [1.0, 2.0], "std": 2.0} and off == 0
    else:
        assert config == {"dim": 3, "mean": None, "std": 1.0} and off > 1
weights = load_file("plain/model.safetensors")
del weights["layer.weight"]
save_file(weights, "plain/model.safetensors")
one, other = load("plain"), load("plain")
print("without layer.weight:", one.layer.weight[0].tolist(), other.layer.weight[0].tolist())
assert not torch.equal(one.layer.weight, other.layer.weight)
PY
