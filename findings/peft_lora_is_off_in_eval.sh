#!/usr/bin/env bash
# peft: LoRA on linear1 and linear2 of nn.TransformerEncoderLayer trains, and is ignored in eval()
#
# Versions: peft 0.21.2, torch 2.15.0, transformers 5.24.0
# Guess: A policy made of PyTorch's own encoder layers acts in eval() as it was trained, when dropout is 0.
# Fact: In eval() the layer takes its fast path, as its own weights are frozen, and reads linear1.weight and
#   linear2.weight itself. peft's layers answer with the weights of before: what LoRA has learned is not there, without
#   a warning, in validation and on the robot only. Merged weights are right, and so is
#   torch.backends.mha.set_fastpath_enabled(False).
# Output: distance to the actions in train(): eval() 1.788, under no_grad() 1.788, fast path disabled 0.0, merged 0.0;
#   distance of eval() to the policy without its adapter: 0.0
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


class Policy(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, nhead=4, dim_feedforward=64, dropout=0.0, batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, num_layers=2), nn.Linear(32, 7)

    def forward(self, observations):
        return self.head(self.encoder(observations))


# random adapters stand for trained ones
adapted = LoraConfig(r=4, target_modules=["linear1", "linear2"], init_lora_weights=False)
policy, observations = get_peft_model(Policy(), adapted), torch.randn(2, 5, 32)
trained = policy.train()(observations).detach()
policy.train()(observations).square().mean().backward()
assert all(weight.grad.abs().max() > 0 for name, weight in policy.named_parameters() if "lora_" in name)


def distance(actions, other=trained):
    return round(float((actions - other).detach().abs().max()), 3)


found = {"eval": distance(policy.eval()(observations))}
with torch.no_grad():
    fast = policy(observations)
    found["eval, no_grad"] = distance(fast)
    with policy.disable_adapter():
        found["no_grad and no adapter"] = distance(fast, policy(observations))
    torch.backends.mha.set_fastpath_enabled(False)
    found["no fast path"] = distance(policy(observations))
    torch.backends.mha.set_fastpath_enabled(True)
    found["merged"] = distance(policy.merge_and_unload()(observations))
print(found)
assert found["eval"] == found["eval, no_grad"] > 0.5
assert found["no_grad and no adapter"] == found["no fast path"] == found["merged"] == 0
PY
