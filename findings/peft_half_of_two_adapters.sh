#!/usr/bin/env bash
# peft: half of one LoRA and half of another, by add_weighted_adapter("linear"), is neither their mean nor near it
#
# Versions: peft 0.21.2, torch 2.15.0
# Guess: add_weighted_adapter(["a", "b"], [0.5, 0.5], "mean", combination_type="linear") changes the weights by half
#   of what a does and half of what b does; the default type does so as well.
# Fact: "linear" adds the factors, not their products: A of one policy is multiplied with B of the other, and the
#   result is further from the mean than no adapter is. The default "svd" keeps the rank of one adapter, and loses
#   what does not fit. "cat", of twice the rank, is the mean. The docstring lists the types and does not say so (issue
#   643).
# Output: distance from the mean of both, as a share of its length: linear 1.06, svd 0.40, cat 0.00
# Needs: Python 3.12 or newer (PYTHON=), torch (BORROW_SITE=SITE-PACKAGES of the same Python, else 3 GB)
# Date: 2026-11-30
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
if ! borrow venv; then
    install venv torch==2.15.0
fi
install venv --no-deps accelerate==1.15.0 certifi==2026.10.19.post1 click==8.5.1 filelock==4.3.1 fsspec==2026.9.0 h11==0.16.0 \
    hf-xet==1.8.0 httpcore2==2.16.2 httpx2==2.16.2 anyio==4.16.0 idna==3.20 huggingface-hub==2.4.0 numpy==2.5.5 packaging==26.4 \
    peft==0.21.2 psutil==7.2.2 pyyaml==6.0.4 regex==2026.11.19 safetensors==0.8.0 tokenizers==0.23.3 tqdm==4.70.1 transformers==5.24.0 \
    truststore==0.10.5 typing-extensions==4.16.0
venv/bin/python -W ignore - <<'PY'
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

torch.manual_seed(0)
config = LoraConfig(r=4, lora_alpha=8, target_modules=["0"], init_lora_weights=False)  # as if both had been trained
model = get_peft_model(nn.Sequential(nn.Linear(16, 16)), config, "a")
model.add_adapter("b", config)
layer = model.base_model.model[0]
mean = (layer.get_delta_weight("a") + layer.get_delta_weight("b")) / 2
found = {}
for kind in ("linear", "svd", "cat"):
    model.add_weighted_adapter(["a", "b"], [0.5, 0.5], kind, combination_type=kind)
    found[kind] = float((layer.get_delta_weight(kind) - mean).norm() / mean.norm())
print("distance from the mean of both, as a share of its length:", {kind: round(far, 2) for kind, far in found.items()})
assert found["linear"] > 0.7 and 0.2 < found["svd"] < 0.6 and found["cat"] < 1e-5
PY
