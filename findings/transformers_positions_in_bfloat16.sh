#!/usr/bin/env bash
# transformers: model.to(torch.bfloat16) rounds the frequencies of its positions, from_pretrained(dtype=torch.bfloat16) does not
#
# Versions: transformers 5.24.0, torch 2.15.0
# Guess: Both give one model in bfloat16.
# Fact: The frequencies of rotary positions are a buffer. from_pretrained makes it in float32 whatever the weights are, .to() rounds it to three
#   digits, for the rest of the model's life: also .float() afterwards keeps the rounded ones. The angle of a token grows with its place, so
#   that at 1,000 tokens, two or three camera pictures, it is wrong by an eighth of a radian. Llama, Qwen2, Gemma alike.
# Output: largest error of the cosines at tokens 64, 1024 and 2047: 0.011, 0.137, 0.321 after .to(), 0 by from_pretrained; after .float()
#   they stay
# Needs: Python 3.12 or newer (PYTHON=), torch (BORROW_SITE=SITE-PACKAGES of the same Python, else 3 GB)
# Date: 2026-12-01
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
if ! borrow venv; then
    install venv torch==2.15.0
fi
install venv --no-deps anyio==4.16.0 certifi==2026.10.19.post1 click==8.5.1 filelock==4.3.1 fsspec==2026.9.0 h11==0.16.0 hf-xet==1.8.0 \
    httpcore2==2.16.2 httpx2==2.16.2 huggingface-hub==2.4.0 idna==3.20 numpy==2.5.5 packaging==26.4 pyyaml==6.0.4 regex==2026.11.19 \
    safetensors==0.8.0 tokenizers==0.23.3 tqdm==4.70.1 transformers==5.24.0 truststore==0.10.5 typer==0.29.2 typing-extensions==4.16.0
venv/bin/python -W ignore - <<'PY'
import torch
from transformers import GemmaConfig, GemmaModel, LlamaConfig, LlamaModel, Qwen2Config, Qwen2Model
from transformers.utils import logging

logging.disable_progress_bar()
SIZES = {"vocab_size": 100, "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
PLACES = [64, 1024, 2047]
places, hidden = torch.arange(2048)[None], torch.zeros(1, 1, 64)


def cosines(model):
    return model.rotary_emb(hidden, places)[0][0, PLACES].float()


for Config, Model in ((LlamaConfig, LlamaModel), (Qwen2Config, Qwen2Model), (GemmaConfig, GemmaModel)):
    model = Model(Config(**SIZES, intermediate_size=64, head_dim=32))
    model.save_pretrained(Model.__name__)
    exact = cosines(model)
    turned = model.to(torch.bfloat16)
    loaded = Model.from_pretrained(Model.__name__, dtype=torch.bfloat16)
    wrong = [round(each, 3) for each in (cosines(turned) - exact).abs().amax(1).tolist()]
    right = (cosines(loaded) - exact).abs().max().item()
    after = (cosines(turned.float()) - exact).abs().amax(1)[-1].item()
    print(Model.__name__, ".to()", wrong, "from_pretrained", right, ".float() afterwards", round(after, 3))
    assert wrong[0] < 0.05 and wrong[1] > 0.1 and wrong[2] > 0.2
    assert right == 0 and after > 0.2
PY
