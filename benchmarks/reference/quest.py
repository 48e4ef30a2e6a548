"""QueST's tokenizer the straightforward way, as a baseline of benchmarks/speed/action_tokenizer.py.

Our re-implementation from a description of the published operations and tensor names, in torch's own modules; nothing
here is tuned and nothing is slowed down.
"""

from collections.abc import Mapping
from math import log2
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.reference.fsq import FSQ

LEVELS = {1024: (8, 5, 5, 5), 512: (8, 8, 8), 256: (8, 6, 5), 64: (8, 8)}  # by the size of the codebook


def table(count: int, dim: int) -> Tensor:
    """Sine and cosine of each frequency side by side, [count, dim]."""
    angles = torch.arange(count)[:, None] * 10000 ** (-torch.arange(0, dim, 2) / dim)
    return torch.stack([angles.sin(), angles.cos()], 2).flatten(1)


class Conv(nn.Module):
    """A causal or centred convolution over time [B, D, T], then a norm over time too, then Mish."""

    def __init__(self, dim: int, kernel: int, stride: int, causal: bool):
        super().__init__()
        self.padding = (kernel - 1, 0) if causal else (kernel // 2, kernel // 2)
        conv = nn.ModuleDict({"conv": nn.Conv1d(dim, dim, kernel, stride)})
        self.block = nn.ModuleDict({"0": conv, "2": nn.GroupNorm(8, dim)})

    def forward(self, x: Tensor) -> Tensor:
        conv: Any = self.block["0"]
        return F.mish(self.block["2"](conv["conv"](F.pad(x, self.padding))))


class StraightforwardQueST(nn.Module):
    """`encode` and `decode` of raw actions; tensors have the published names. Downsampling by a power of two."""

    def __init__(self, config: Mapping[str, Any]):
        super().__init__()
        dim, self.steps = config["encoder_dim"], config["skill_block_size"]
        levels = config["fsq_level"] or LEVELS[config["codebook_size"]]
        twos = int(log2(config["downsample_factor"]))
        kernels, strides = [5, *[3] * twos], [*[2] * twos, 1]
        causal, self.causal_decoder = config["use_causal_encoder"], config["use_causal_decoder"]
        self.action_proj = nn.Linear(config["action_dim"], dim)
        blocks = nn.ModuleList(Conv(dim, *each, causal) for each in zip(kernels, strides, strict=True))
        self.conv_block = nn.ModuleDict({"blocks": blocks})
        options: dict[str, Any] = {"activation": "gelu", "batch_first": True, "norm_first": True}
        sizes = 4 * dim, config["attn_pdrop"]
        layer = nn.TransformerEncoderLayer(dim, config["encoder_heads"], *sizes, **options)
        self.encoder = nn.TransformerEncoder(layer, config["encoder_layers"], enable_nested_tensor=False)
        back = nn.TransformerDecoderLayer(dim, config["decoder_heads"], *sizes, **options)
        self.decoder = nn.TransformerDecoder(back, config["decoder_layers"])
        projections = {"project_in": nn.Linear(dim, len(levels)), "project_out": nn.Linear(len(levels), dim)}
        self.vq, self.fsq = nn.ModuleDict(projections), FSQ(levels)
        self.action_head = nn.Linear(dim, config["action_dim"])
        self.causal_encoder = causal
        self.eval()

    @torch.no_grad()
    def encode(self, actions: Tensor) -> Tensor:
        """Actions [B, H, m] to codes [B, K]."""
        x = self.action_proj(actions).transpose(1, 2)
        blocks: Any = self.conv_block["blocks"]
        for block in blocks:
            x = block(x)
        x = x.transpose(1, 2) + table(x.shape[2], x.shape[1])
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1]) if self.causal_encoder else None
        return self.fsq.ids(self.fsq.quantize(self.vq["project_in"](self.encoder(x, mask))))

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Codes [B, K] to actions [B, H, m]."""
        memory = self.vq["project_out"](self.fsq.values(codes))
        queries = table(self.steps, memory.shape[2]).expand(len(codes), -1, -1)
        mask = nn.Transformer.generate_square_subsequent_mask(self.steps) if self.causal_decoder else None
        return self.action_head(self.decoder(queries, memory, tgt_mask=mask))
