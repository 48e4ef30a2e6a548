#!/usr/bin/env bash
# transformers 5.20 to 5.22: hidden states that are asked for by a list of layers are those of the next layers
#
# Versions: transformers 5.22.0 (5.20.0 does the same) against 5.24.0, torch 2.15.0
# Guess: output_hidden_states=(1, 3) gives the states 1 and 3 of those that output_hidden_states=True gives, and None
#   in place of the others.
# Fact: From 5.23 on it does. Before, the places 1 and 3 hold the states 2 and 4, without a word: whoever trains on
#   them and updates learns from one layer and acts by another. Ask for True where the version is not known.
# Output: 5.22.0: place 1 holds state 2, place 3 state 4; 5.24.0: 1 and 3
# Needs: Python 3.12 or newer (PYTHON=), torch (BORROW_SITE=SITE-PACKAGES of the same Python, else 3 GB)
# Date: 2026-11-28
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
environment before
if ! borrow venv; then
    install venv torch==2.15.0
fi
if ! borrow before; then
    install before torch==2.15.0
fi
install venv --no-deps transformers==5.24.0 anyio==4.16.0 certifi==2026.10.19.post1 click==8.5.1 filelock==4.3.1 fsspec==2026.9.0 \
    h11==0.16.0 hf-xet==1.8.0 httpcore2==2.16.2 httpx2==2.16.2 huggingface-hub==2.4.0 idna==3.20 numpy==2.5.5 \
    packaging==26.4 pyyaml==6.0.4 regex==2026.11.19 safetensors==0.8.0 tokenizers==0.23.3 tqdm==4.70.1 \
    truststore==0.10.5 typer==0.29.2 typing-extensions==4.16.0
install before --no-deps transformers==5.22.0 anyio==4.16.0 certifi==2026.10.19.post1 click==8.5.1 filelock==4.3.1 fsspec==2026.9.0 \
    h11==0.16.0 hf-xet==1.8.0 httpcore2==2.16.2 httpx2==2.16.2 huggingface-hub==2.4.0 idna==3.20 numpy==2.5.5 \
    packaging==26.4 pyyaml==6.0.4 regex==2026.11.19 safetensors==0.8.0 tokenizers==0.23.3 tqdm==4.70.1 \
    truststore==0.10.5 typer==0.29.2 typing-extensions==4.16.0
venv/bin/python - <<'PY'
import subprocess

ASK = """
import torch, transformers
from transformers import LlamaConfig, LlamaModel
sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2}
model = LlamaModel(LlamaConfig(vocab_size=20, **sizes)).eval()
with torch.no_grad():
    every, some = (model(torch.arange(6)[None], output_hidden_states=asked).hidden_states for asked in (True, (1, 3)))
print(transformers.__version__)
for place in (1, 3):
    print(*(number for number, states in enumerate(every) if torch.equal(states, some[place])))
"""
for folder, expected in (("before", ["2", "4"]), ("venv", ["1", "3"])):
    found = subprocess.check_output([f"{folder}/bin/python", "-W", "ignore", "-c", ASK], text=True).split()
    print(found[0], "places 1 and 3 hold", *found[1:])
    assert found[1:] == expected
PY
