#!/usr/bin/env bash
# timm and transformers: DINOv2 with the same weights has other features at 224 pixels, but not with registers
#
# Versions: timm 1.0.31, transformers 5.24.0, torch 2.15.0
# Guess: The same weights give the same features in both. DINOv2 was trained at 518 pixels, and robots are seen at 224,
#   where both resize the position embeddings bicubically.
# Fact: timm smooths while it shrinks them (antialias), for all of its models. transformers does not for DINOv2, as its
#   authors did not, and does for DINOv2 with registers, as they did. A probe or a latent action model that was trained
#   on features of one library reads others in the other.
# Output: position embeddings apart at 518: 0 %, at 224: 5.9 %; with registers 0 % and 0 %
# Needs: Python 3.12 or newer (PYTHON=), torch (BORROW_SITE=SITE-PACKAGES of the same Python, else 3 GB)
# Date: 2026-11-30
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
if borrow venv; then
    install venv --no-deps timm==1.0.31 transformers==5.24.0 anyio==4.16.0 certifi==2026.10.19.post1 click==8.5.1 filelock==4.3.1 \
        fsspec==2026.9.0 h11==0.16.0 hf-xet==1.8.0 httpcore2==2.16.2 httpx2==2.16.2 huggingface-hub==2.4.0 idna==3.20 \
        numpy==2.5.5 packaging==26.4 pyyaml==6.0.4 regex==2026.11.19 safetensors==0.8.0 tokenizers==0.23.3 tqdm==4.70.1 \
        truststore==0.10.5 typer==0.29.2 typing-extensions==4.16.0
else
    install venv timm==1.0.31 torch==2.15.0 transformers==5.24.0
fi
venv/bin/python -W ignore - <<'PY'
import timm
import torch
import torch.nn.functional as F
from timm.layers import resample_abs_pos_embed
from transformers import Dinov2Config, Dinov2Model, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

WIDTH, SIDE, PATCH = 48, 37, 14
torch.manual_seed(0)
noise = torch.randn(1, WIDTH, 9, 9)
smooth = F.interpolate(noise, size=(SIDE, SIDE), mode="bicubic", align_corners=True).flatten(2).transpose(1, 2)
first = torch.zeros(1, 1, WIDTH)
sizes = {"hidden_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 3, "image_size": 518, "patch_size": PATCH}
apart = {}
for name, config, model in (
    ("vit_small_patch14_dinov2", Dinov2Config, Dinov2Model),
    ("vit_small_patch14_reg4_dinov2", Dinov2WithRegistersConfig, Dinov2WithRegistersModel),
):
    ours = timm.create_model(name, embed_dim=WIDTH, depth=1, num_heads=3, num_classes=0, dynamic_img_size=True)
    theirs = model(config(**sizes)).embeddings
    whole = ours.pos_embed.shape[1] > SIDE**2  # with a place for the class token
    ours.pos_embed.data = torch.cat([first, smooth], 1) if whole else smooth
    theirs.position_embeddings.data = torch.cat([first, smooth], 1)
    for pixels in (518, 224):
        side = pixels // PATCH
        prefix = {"num_prefix_tokens": int(whole)}
        a = resample_abs_pos_embed(ours.pos_embed.data, (side, side), old_size=(SIDE, SIDE), **prefix)[:, -(side**2) :]
        b = theirs.interpolate_pos_encoding(torch.zeros(1, side**2 + 1, WIDTH), pixels, pixels)[:, 1:].detach()
        apart[name, pixels] = float((a - b).norm() / b.norm())
        print(f"{name} at {pixels}: position embeddings are {apart[name, pixels]:.1%} apart")
plain, registers = "vit_small_patch14_dinov2", "vit_small_patch14_reg4_dinov2"
assert apart[plain, 518] == apart[registers, 518] == apart[registers, 224] == 0
assert apart[plain, 224] > 0.03
PY
