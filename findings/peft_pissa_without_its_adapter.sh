#!/usr/bin/env bash
# peft: with PiSSA or OLoRA, disable_adapter() and unload() give a model that is not the one it began with
#
# Versions: peft 0.21.2, torch 2.15.0
# Guess: Inside disable_adapter() the model is the one before fine-tuning, as with plain LoRA: the reference of a policy.
# Fact: These two ways of beginning move the largest directions of each weight into the adapter and take them out of the weight.
#   Without the adapter the rest answers, before any step was trained. unload(), which promises the base model, gives it, too. And a
#   "pissa_niter_4" adapter draws another decomposition when it is loaded: untrained, saved and loaded it answers otherwise.
# Output: away from the model before: lora 0 %, pissa 58 %, olora 56 %, whether disabled or unloaded; pissa_niter_4 saved and
#   loaded: 9 to 40 % (random)
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
from copy import deepcopy

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

torch.manual_seed(0)
base = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 7)).eval()
seen = torch.randn(8, 32)


@torch.no_grad()
def away(model):
    """How far the actions are from those of the model before."""
    return float((model(seen) - base(seen)).norm() / base(seen).norm())


found = {}
for begin in (True, "pissa", "olora", "pissa_niter_4"):
    adapted = get_peft_model(
        deepcopy(base), LoraConfig(r=8, lora_alpha=8, target_modules=["0"], init_lora_weights=begin)
    )
    assert away(adapted) < 1e-4, "nothing is trained yet"
    with adapted.disable_adapter():
        disabled = away(adapted)
    adapted.save_pretrained("adapter")
    loaded = away(PeftModel.from_pretrained(deepcopy(base), "adapter"))
    found[begin] = disabled, away(adapted.unload()), loaded
    print(begin, "disabled {:.1%}, unloaded {:.1%}, saved and loaded {:.1%}".format(*found[begin]))
assert found[True] == (0, 0, 0)
for begin in ("pissa", "olora"):
    assert found[begin][0] > 0.3 and found[begin][1] > 0.3 and found[begin][2] < 1e-4
assert found["pissa_niter_4"][2] > 0.02
PY
