#!/usr/bin/env bash
# transformers: in PaliGemma each token sees the ones behind it, unless token_type_ids are given, in train() too
#
# Versions: transformers 5.24.0, torch 2.15.0
# Guess: The picture is a prefix whose tokens see each other, and the text behind it is causal, as in a language model.
# Fact: Without token_type_ids the whole input is a prefix: every hidden state depends on all later tokens, so a loss of one's own
#   on the next action token is learned from the answer itself. Type 1 makes tokens causal; the processor sets it only where it is
#   given a suffix. attention_mask of ones and train() change nothing.
# Output: largest change of the nine states before the last token, when that is another one: 0.08 without types and with zeros, 0 with
#   types 0 for the prompt and 1 for the actions
# Needs: Python 3.12 or newer (PYTHON=), torch (BORROW_SITE=SITE-PACKAGES of the same Python, else 3 GB)
# Date: 2026-12-01
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
if ! borrow venv; then
    install venv torch==2.15.0
fi
install venv --no-deps transformers==5.24.0 anyio==4.16.0 certifi==2026.10.19.post1 click==8.5.1 filelock==4.3.1 fsspec==2026.9.0 \
    h11==0.16.0 hf-xet==1.8.0 httpcore2==2.16.2 httpx2==2.16.2 huggingface-hub==2.4.0 idna==3.20 numpy==2.5.5 \
    packaging==26.4 pillow==13.0.0 pyyaml==6.0.4 regex==2026.11.19 safetensors==0.8.0 tokenizers==0.23.3 tqdm==4.70.1 \
    truststore==0.10.5 typer==0.29.2 typing-extensions==4.16.0
HF_HUB_OFFLINE=1 venv/bin/python -W ignore - <<'PY'
import torch
from transformers import PaliGemmaConfig, PaliGemmaModel

torch.manual_seed(0)
sizes = {"num_attention_heads": 2, "num_hidden_layers": 2}
vision = {"model_type": "siglip_vision_model", "hidden_size": 16, "intermediate_size": 32, "patch_size": 14, "image_size": 28}
text = {"model_type": "gemma", "hidden_size": 32, "intermediate_size": 64, "num_key_value_heads": 1, "head_dim": 16, "vocab_size": 100}
config = PaliGemmaConfig(
    vision_config={**vision, **sizes, "projection_dim": 32}, text_config={**text, **sizes}, image_token_index=99, projection_dim=32
)
model = PaliGemmaModel(config)
tokens = torch.tensor([[99, 99, 99, 99, 1, 2, 3, 4, 5, 6]])  # picture, three of the prompt, three of the action
other = tokens.clone()
other[0, -1] = 50
pixels = torch.randn(1, 3, 28, 28)
types = {"none": None, "zeros": torch.zeros_like(tokens), "actions 1": torch.tensor([[0] * 7 + [1] * 3])}
for name, each in types.items():
    for training in (False, True):
        model.train(training)
        given = {"pixel_values": pixels, "attention_mask": torch.ones_like(tokens)}
        given |= {} if each is None else {"token_type_ids": each}
        with torch.no_grad():
            one, two = (model(input_ids=ids, **given).last_hidden_state for ids in (tokens, other))
        change = float((one - two)[0, :-1].abs().max())
        print(f"types {name}, training {training}: {change:.3f}")
        assert change < 1e-5 if name == "actions 1" else change > 0.02
PY
