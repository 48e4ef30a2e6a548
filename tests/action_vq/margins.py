"""How near the two nearest code vectors are, in float64: where rounding may decide, codes may differ."""

import copy

import torch
from torch import Tensor

from lattok import P2TActionVQ

ROUNDING = 1e-5  # relative margin below which float32 may pick the other code


@torch.no_grad()
def float64_codes(tokenizer: P2TActionVQ, chunks: Tensor) -> tuple[Tensor, Tensor]:
    """Codes [B, H] by the plain modules in float64, and margins (d2 - d1) / d2 of the squared distances."""
    model = copy.deepcopy(tokenizer).eval()
    for part in model.children():  # the tokenizer itself keeps float32
        part.double()
    rows = model.quantizer.codebook_vectors[0]
    codes, margins = [], []
    for block in chunks.double().split(256):
        latents = model.encoder(model.normalizer(block))
        distance = (latents.square().sum(-1, keepdim=True) - 2 * latents @ rows.T + rows.square().sum(-1)).clamp_min(0)
        near = distance.topk(2, largest=False)
        codes.append(near.indices[..., 0])
        margins.append((near.values[..., 1] - near.values[..., 0]) / near.values[..., 1])
    return torch.cat(codes), torch.cat(margins)
