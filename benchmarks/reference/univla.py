"""Labelling with a UniVLA-like latent action model the straightforward way, for benchmarks/speed/annotate.py.

Our re-implementation from the published description and tensor names, in torch's own modules: features of both frames
of every pair, the whole encoder over all tokens of both frames, then the nearest code by distance. Nothing here is
tuned and nothing is slowed down; features come from timm, attention is torch's own.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lattok.image_lam import ImageLAM


class SelfAttention(nn.Module):
    """Multi-head attention over the second axis of [n, tokens, width]."""

    def __init__(self, width: int, heads: int, causal: bool):
        super().__init__()
        self.heads, self.causal = heads, causal
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.to_out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.to_q, self.to_k, self.to_v))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.to_out(mixed.transpose(1, 2).flatten(2))


class SpatioTemporalBlock(nn.Module):
    """Attention in each frame, causal attention over frames, feed-forward; each behind a norm, on a residual."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.spatial, self.temporal = SelfAttention(width, heads, False), SelfAttention(width, heads, True)
        self.ffn = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        frames, tokens = x.shape[1:3]
        x = x + self.spatial(self.norm1(x).flatten(0, 1)).unflatten(0, (-1, frames))
        by_place = self.norm2(x).transpose(1, 2).flatten(0, 1)
        x = x + self.temporal(by_place).unflatten(0, (-1, tokens)).transpose(1, 2)
        return x + self.ffn(self.norm3(x))


class StraightforwardLAM(nn.Module):
    """`codes` of frame pairs, with the weights of a lattok model with the paper's encoder and codebooks."""

    def __init__(self, lam: ImageLAM):
        super().__init__()
        config = lam.config
        self.features, self.cameras, self.tokens = lam.features, len(config.cameras), config.tokens
        self.queries, self.places = lam.encoder.queries, lam.encoder.places
        self.embed = lam.encoder.embed
        self.blocks = nn.Sequential(
            *(SpatioTemporalBlock(config.width, config.heads) for _ in range(config.encoder.depth))
        )
        for block, source in zip(self.blocks, lam.encoder.blocks, strict=True):
            block.load_state_dict(_published_names(source))
        streams = [stream for stream in (lam.control, lam.env) if stream is not None]
        self.heads = nn.ModuleList(stream.heads[0] for stream in streams)
        self.codebooks = [stream.quantizer.codebook_vectors[0] for stream in streams]
        self.eval()

    @torch.no_grad()
    def codes(self, pairs: Tensor) -> Tensor:
        """Frame pairs uint8 [B, 2, V, H, W, 3] to codes [B, streams * P]."""
        batch = len(pairs)
        patches = self.features(pairs.flatten(0, 2)).reshape(batch, 2, -1, self.features.dim)
        x = torch.cat([self.queries.expand(batch, 2, -1, -1), patches], 2)
        x = self.blocks(self.embed(x) + self.places)[:, 1]
        tokens = x[:, : len(self.queries)].split(self.tokens, 1)
        latents = [head(part) for head, part in zip(self.heads, tokens, strict=True)]
        found = [torch.cdist(z.float(), book).argmin(-1) for z, book in zip(latents, self.codebooks, strict=True)]
        return torch.cat(found, 1)


def _published_names(block: nn.Module) -> dict[str, Tensor]:
    """A lattok block's tensors under the names used here; explicit, so that nothing is left out."""
    tensors = {}
    for name, tensor in block.state_dict().items():
        name = name.replace("space.", "spatial.").replace("time.", "temporal.").replace("ff.3.", "ffn.2.")
        name = name.replace("ff.0.", "ffn.0.").replace(".out.", ".to_out.")
        if ".qkv." in name:
            for part, piece in zip("qkv", tensor.chunk(3), strict=True):
                tensors[name.replace("qkv", f"to_{part}")] = piece
        else:
            tensors[name] = tensor
    return tensors
