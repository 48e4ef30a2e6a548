#!/usr/bin/env bash
# transformers: V-JEPA 2 does not see the last frame of a clip of 15, and one frame counts as two
#
# Versions: transformers 5.24.0, torch 2.15.0
# Guess: Each frame of a clip changes the features, or a length that does not fit is refused.
# Fact: Two frames make a token of time. Of an odd number the last frame, the newest for a policy, is left out without a
#   word; only a clip of a single frame is filled up by repeating it.
# Output: tokens of time for 1, 2, 3, 15 and 16 frames: 1, 1, 1, 7, 8; features of 15 frames with another last frame are equal bit for bit
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
from transformers import VJEPA2Config, VJEPA2Model

torch.manual_seed(0)
sizes = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2, "crop_size": 32, "patch_size": 16}
predictor = {"pred_hidden_size": 32, "pred_num_attention_heads": 2, "pred_num_hidden_layers": 1, "pred_num_mask_tokens": 1}
model = VJEPA2Model(VJEPA2Config(frames_per_clip=16, tubelet_size=2, **sizes, **predictor)).eval()


@torch.no_grad()
def features(clip):
    return model(pixel_values_videos=clip, skip_predictor=True).last_hidden_state


tokens = {length: features(torch.randn(1, length, 3, 32, 32)).shape[1] // 4 for length in (1, 2, 3, 15, 16)}
print("frames: tokens of time", tokens)
assert tokens == {1: 1, 2: 1, 3: 1, 15: 7, 16: 8}
for length in (15, 16):
    clip = torch.randn(1, length, 3, 32, 32)
    other = clip.clone()
    other[:, -1] = 0
    same = torch.equal(features(clip), features(other))
    print(f"{length} frames, another last one: features {'equal' if same else 'differ'}")
    assert same == (length == 15)
PY
