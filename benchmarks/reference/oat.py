"""OAT's tokenizer the straightforward way, as a baseline of benchmarks/speed/action_tokenizer.py.

Our re-implementation from a description of the published operations and tensor names, in torch's own modules; none of
OAT's code was seen. Nothing here is tuned and nothing is slowed down.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.reference.fsq import FSQ


def table(count: int, dim: int) -> nn.Parameter:
    """Sines in the first half of the channels, cosines in the second, [1, dim, count]."""
    angles = torch.arange(count)[:, None] * 10000 ** (-torch.arange(dim // 2) / (dim // 2))
    return nn.Parameter(torch.cat([angles.sin(), angles.cos()], 1).T[None], requires_grad=False)


def norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:])


class Block(nn.Module):
    """Attention with normalised queries and keys, then a gated layer; no biases."""

    def __init__(self, dim: int, head_dim: int):
        super().__init__()
        inner, self.heads = int(2 * 4 * dim / 3), dim // head_dim
        self.attn = nn.ModuleDict({name: nn.Linear(dim, dim, bias=False) for name in ("wq", "wk", "wv", "proj")})
        sizes = {"fc1": (dim, inner), "fc2": (inner, dim), "fc3": (dim, inner)}
        self.mlp = nn.ModuleDict({name: nn.Linear(*size, bias=False) for name, size in sizes.items()})

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (
            self.attn[name](norm(x)).unflatten(2, (self.heads, -1)).transpose(1, 2) for name in ("wq", "wk", "wv")
        )
        mixed = F.scaled_dot_product_attention(norm(q), norm(k), v, mask)
        x = x + self.attn["proj"](mixed.transpose(1, 2).flatten(2))
        y = norm(x)
        return x + self.mlp["fc2"](F.silu(self.mlp["fc1"](y)) * self.mlp["fc3"](y))


class Encoder(nn.Module):
    """Normalised actions [B, H, m] to latents [B, K, d] of the registers."""

    def __init__(self, config: Mapping[str, Any]):
        super().__init__()
        dim, steps, count = config["emb_dim"], config["sample_horizon"], config["num_registers"]
        self.sample_emb = nn.ModuleDict({"patch_proj": nn.Linear(config["sample_dim"], dim)})
        self.pos_emb = nn.ParameterDict({"posembs": table(steps, dim)})
        self.registers = nn.Parameter(torch.randn(count, dim))
        blocks = nn.ModuleList(Block(dim, config["head_dim"]) for _ in range(config["depth"]))
        self.transformer = nn.ModuleDict({"blocks": blocks})
        self.head = nn.ModuleDict({"proj": nn.Linear(dim, config["latent_dim"])})
        mask = torch.ones(steps + count, steps + count, dtype=torch.bool).tril()
        mask[:steps, :steps] = True  # actions see all actions, registers what is before them
        self.register_buffer("mask", mask, persistent=False)
        self.mask: Tensor

    def forward(self, actions: Tensor) -> Tensor:
        x = self.sample_emb["patch_proj"](actions) + self.pos_emb["posembs"].transpose(1, 2)
        x = torch.cat([x, self.registers.expand(len(x), -1, -1)], 1)
        for block in self.transformer["blocks"]:
            x = block(x, self.mask)
        return self.head["proj"](norm(x[:, -len(self.registers) :]))


class Decoder(nn.Module):
    """Quantised latents [B, K, d] to normalised actions [B, H, m]."""

    def __init__(self, config: Mapping[str, Any]):
        super().__init__()
        dim, steps = config["emb_dim"], config["sample_horizon"]
        self.latent_proj = nn.ModuleDict({"proj": nn.Linear(config["latent_dim"], dim)})
        self.latent_pos_emb = nn.ParameterDict({"posembs": table(config["latent_horizon"], dim)})
        self.sample_pos_emb = nn.ParameterDict({"posembs": table(steps, dim)})
        self.nested_dropout = nn.ParameterDict({"dropout_mask_token": torch.randn(dim)})  # of tokens that are not kept
        options: dict[str, Any] = {"activation": "gelu", "batch_first": True, "norm_first": True}
        layer = nn.TransformerDecoderLayer(dim, dim // config["head_dim"], 4 * dim, config["pdropout"], **options)
        self.decoder = nn.TransformerDecoder(layer, config["depth"])
        self.head = nn.ModuleDict({"proj": nn.Linear(dim, config["sample_dim"])})
        self.mask = nn.Transformer.generate_square_subsequent_mask(steps) if config["use_causal_decoder"] else None

    def forward(self, quantized: Tensor) -> Tensor:
        memory = self.latent_proj["proj"](quantized) + self.latent_pos_emb["posembs"].transpose(1, 2)
        queries = self.sample_pos_emb["posembs"].transpose(1, 2).expand(len(quantized), -1, -1)
        return self.head["proj"](norm(self.decoder(queries, memory, tgt_mask=self.mask)))


class StraightforwardOAT(nn.Module):
    """`encode` and `decode` of actions in physical units; tensors have the published names."""

    def __init__(self, config: Mapping[str, Any]):
        super().__init__()
        self.encoder, self.decoder = Encoder(config["encoder"]), Decoder(config["decoder"])
        self.quantizer, dims = FSQ(config["quantizer"]["levels"]), config["encoder"]["sample_dim"]
        action = nn.ParameterDict({"scale": torch.ones(dims), "offset": torch.zeros(dims)})
        self.normalizer = nn.ModuleDict({"params_dict": nn.ModuleDict({"action": action})})
        self.eval()

    @torch.no_grad()
    def encode(self, actions: Tensor) -> Tensor:
        """Actions [B, H, m] to codes [B, K]."""
        action: Any = self.normalizer["params_dict"]["action"]
        latents = self.encoder(actions * action["scale"] + action["offset"])
        return self.quantizer.ids(self.quantizer.quantize(latents))

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Codes [B, K] to actions [B, H, m]."""
        action: Any = self.normalizer["params_dict"]["action"]
        return (self.decoder(self.quantizer.values(codes)) - action["offset"]) / action["scale"]
