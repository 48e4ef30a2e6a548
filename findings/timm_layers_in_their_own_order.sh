#!/usr/bin/env bash
# timm: layers asked for as [3, 1] come as 1 and 3, and feature_info says that they are 3 and 1
#
# Versions: timm 1.0.31, torch 2.15.0
# Guess: forward_intermediates(x, indices=[3, 1]) and features_only with out_indices=(3, 1) give layer 3 first.
# Fact: The features always come from the lower layer to the upper one, and a layer that is asked for twice comes once. feature_info of
#   the features_only model, which says channels and strides of its outputs, is in the order that was asked for: it names
#   the first output with the numbers of the second.
# Output: indices [3, 1] and [1, 3] give the same list; [3, 3, 1] two tensors; ConvNeXt with out_indices=(3, 1): channels 80 and 320 come,
#   feature_info says 320 and 80
# Needs: Python 3.12 or newer (PYTHON=), torch (BORROW_SITE=SITE-PACKAGES of the same Python, else 3 GB)
# Date: 2026-12-01
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
if ! borrow venv; then
    install venv torch==2.15.0
fi
install venv --no-deps timm==1.0.31 torchvision==0.29.2 anyio==4.16.0 certifi==2026.10.19.post1 click==8.5.1 filelock==4.3.1 fsspec==2026.9.0 \
    h11==0.16.0 hf-xet==1.8.0 httpcore2==2.16.2 httpx2==2.16.2 huggingface-hub==2.4.0 idna==3.20 numpy==2.5.5 \
    packaging==26.4 pillow==13.0.0 pyyaml==6.0.4 regex==2026.11.19 safetensors==0.8.0 tokenizers==0.23.3 tqdm==4.70.1 \
    truststore==0.10.5 typer==0.29.2 typing-extensions==4.16.0
HF_HUB_OFFLINE=1 venv/bin/python -W ignore - <<'PY'
import timm
import torch

torch.manual_seed(0)
pictures = torch.randn(1, 3, 224, 224)
model = timm.create_model("vit_tiny_patch16_224", num_classes=0).eval()
with torch.no_grad():
    down, up, twice = (model.forward_intermediates(pictures, indices=each, intermediates_only=True) for each in ([3, 1], [1, 3], [3, 3, 1]))
    print("[3, 1] gives what [1, 3] gives:", all(map(torch.equal, down, up)), "- [3, 3, 1] gives", len(twice))
    assert all(map(torch.equal, down, up)) and not torch.equal(*up) and len(twice) == 2
    network = timm.create_model("convnext_atto", features_only=True, out_indices=(3, 1)).eval()
    come = [each.shape[1] for each in network(pictures)]
print("ConvNeXt: channels", come, "feature_info says", network.feature_info.channels())
assert come == [80, 320] and network.feature_info.channels() == [320, 80]
PY
