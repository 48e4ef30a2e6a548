"""Latent action model of villa-X (Chen et al., 2025, "Enhancing latent action modeling"), its visual part.

    tokens  = Transformer(patches of both frames)                in each frame, and causally between them
    latents = Pool((tokens of o_t + tokens of o_{t+H}) / 2)      P learned queries
    codes   = nearest rows of the codebook                       P codes of K
    o_{t+H} = Decoder(patches of o_t, all latents as one token)

As published, and kept, since the weights depend on it: attention over time reads tokens that are not normalised, and
shares its gate with that in the frame. What differs: docs/systems.yaml.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from lattok.hub import checkpoint
from lattok.hub.checkpoint import FilePath, Join, Settings, axis_of, layer_names, numbered, squeezed, stacked
from lattok.image_lam.base.convert import settings_near
from lattok.image_lam.base.features import IMAGENET, FrozenFeatures
from lattok.image_lam.published.published_lam import PublishedConfig, PublishedLAM, read_published, weights_of
from lattok.nn.blocks import Attention
from lattok.utils import checks

SETTINGS = "model_config.json"
HEADS = {"heads": "encoder_n_heads", "pool_heads": "map_heads", "decoder_heads": "decoder_n_heads"}


@dataclass(frozen=True, kw_only=True)
class VillaXConfig(PublishedConfig):
    """Architecture and preprocessing of `VillaXLAM`. Defaults: those of the published class."""

    stride: str = "1"
    image_size: int = 224
    pixels: str = "bytes"
    mean: tuple[float, float, float] = IMAGENET[0]
    std: tuple[float, float, float] = IMAGENET[1]
    patch: int = 14
    tokens: int = 4
    latent_dim: int = 128
    codebook_size: int = 32
    width: int = 768
    heads: int = 8
    depth: int = 12
    hidden: int = 3072  # of the encoder's feed-forward
    head_norms: bool = True  # of queries and keys
    pool_heads: int = 8
    pool_hidden: int = 3072
    decoder_width: int = 768
    decoder_heads: int = 16
    decoder_depth: int = 8
    decoder_hidden: int = 3072
    decoder_head_norms: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.divides(self.width, f"the width {self.width}", heads=self.heads, pool_heads=self.pool_heads)
        checks.divides(self.decoder_width, f"the width {self.decoder_width}", decoder_heads=self.decoder_heads)


class NormedAttention(Attention):
    """Attention whose queries and keys go through a norm in each head, with `norms`."""

    def __init__(self, width: int, heads: int, norms: bool):
        super().__init__(width, heads)
        self.query_norm = nn.LayerNorm(width // heads) if norms else nn.Identity()
        self.key_norm = nn.LayerNorm(width // heads) if norms else nn.Identity()

    def forward(self, x: Tensor, causal: bool = False) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        q, k, v = rearrange(self.qkv(x), "b n (three h d) -> three b h n d", three=3, h=self.heads)
        mixed = F.scaled_dot_product_attention(self.query_norm(q), self.key_norm(k), v, is_causal=causal)
        return self.out(rearrange(mixed, "b h n d -> b n (h d)"))


class RootNorm(nn.Module):
    """x / max(|x| / sqrt(d), 1e-8) times a gain."""

    def __init__(self, width: int):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        root = math.sqrt(x.shape[-1])
        return F.normalize(x, dim=-1, eps=1e-8 * root) * root * self.gain


class GatedUnit(nn.Module):
    """Linear to two halves, the first times SiLU of the second, linear."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.widen, self.narrow = nn.Linear(width, 2 * hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.widen(x).chunk(2, -1)
        return self.narrow(value * F.silu(gate))


class VillaXBlock(nn.Module):
    """Attention in each frame, over both frames, feed-forward; a learned table shifts, scales and gates them."""

    def __init__(self, config: VillaXConfig):
        super().__init__()
        width, hidden = config.width, config.hidden
        self.table = nn.Parameter(torch.randn(6, width) * 0.02)  # shift, scale, gate of attention, then of the rest
        self.norm = partial(F.layer_norm, normalized_shape=(width,), eps=1e-6)
        self.space = NormedAttention(width, config.heads, config.head_norms)
        self.time = NormedAttention(width, config.heads, config.head_norms)
        self.ff = nn.Sequential(nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width))

    def forward(self, x: Tensor, times: Tensor | None) -> Tensor:
        """Transform [n, 2, N, width]; `times` [2, 1, width] stand for the frames in attention over them."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.table
        seen = (self.norm(x) * (1 + scale1) + shift1).flatten(0, 1)
        x = x + gate1 * self.space(seen).unflatten(0, (-1, 2))
        seen = rearrange(x if times is None else x + times, "n t k d -> (n k) t d")
        x = x + gate1 * rearrange(self.time(seen, causal=True), "(n k) t d -> n t k d", n=len(x))
        return x + gate2 * self.ff(self.norm(x) * (1 + scale2) + shift2)


class VillaXDecoderBlock(nn.Module):
    """x += gain * attention(norm(x)); x += gain * gated unit(norm(x))."""

    def __init__(self, config: VillaXConfig):
        super().__init__()
        width = config.decoder_width
        self.norm1, self.norm2 = RootNorm(width), RootNorm(width)
        self.gain1, self.gain2 = nn.Parameter(torch.ones(width)), nn.Parameter(torch.ones(width))
        self.attention = NormedAttention(width, config.decoder_heads, config.decoder_head_norms)
        self.ff = GatedUnit(width, config.decoder_hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.gain1 * self.attention(self.norm1(x))
        return x + self.gain2 * self.ff(self.norm2(x))


class LatentPool(nn.Module):
    """P learned queries read the tokens of a pair, [n, N, width] to [n, P, d]."""

    def __init__(self, config: VillaXConfig):
        super().__init__()
        width = config.width
        self.queries = nn.Parameter(torch.randn(config.tokens, width) * 0.02)
        self.project = nn.Linear(width, width)
        self.attention = Attention(width, config.pool_heads)
        self.norm1, self.norm2 = RootNorm(width), RootNorm(width)
        self.ff = GatedUnit(width, config.pool_hidden)
        self.out = nn.Linear(width, config.latent_dim)

    def forward(self, tokens: Tensor) -> Tensor:
        queries = self.queries.expand(len(tokens), -1, -1).contiguous()
        queries = self.norm1(queries + self.attention.read(queries, self.project(tokens)))
        return self.out(self.norm2(queries + self.ff(queries)))


class VillaXLAM(PublishedLAM):
    """villa-X's latent action model of a pair of images. Features are its normalised pixels in patches."""

    type = "villax-lam"
    arxiv = "2507.23682"
    config_class = VillaXConfig
    config: VillaXConfig

    def __init__(self, config: VillaXConfig, features: FrozenFeatures | None = None):
        super().__init__(config, features)
        inputs, places, width = self.features.dim, self.features.count, config.width
        self.numbers_per_frame = places * config.hidden
        self.embed = nn.Linear(inputs, width)
        self.places = nn.Buffer(torch.zeros(places, width))  # sine tables, stored as published
        self.times = nn.Buffer(torch.zeros(2, width))
        self.encoder = nn.ModuleList(VillaXBlock(config) for _ in range(config.depth))
        self.norm, self.pool = RootNorm(width), LatentPool(config)
        width = config.decoder_width
        self.decoder_embed = nn.Linear(inputs, width)
        self.decoder_places = nn.Buffer(torch.zeros(places, width))
        self.latent_up = nn.Linear(config.tokens * config.latent_dim, width)
        self.decoder = nn.Sequential(*(VillaXDecoderBlock(config) for _ in range(config.decoder_depth)))
        self.decoder_norm, self.to_features = RootNorm(width), nn.Linear(width, inputs)

    def of_frame(self, features: Tensor) -> Tensor:
        """Embed patches [n, N, D] as tokens [n, N, width]."""
        return self.embed(features) + self.places

    def of_pair(self, now: Tensor, later: Tensor) -> Tensor:
        x = torch.stack([now, later], 1)  # n 2 N width
        for i, block in enumerate(self.encoder):
            x = block(x, None if i else self.times[:, None])
        return self.pool(self.norm(x).mean(1))

    def _predict(self, features: Tensor, vectors: Tensor) -> Tensor:
        latent = self.latent_up(vectors.flatten(1))[:, None]
        x = torch.cat([latent, self.decoder_embed(features) + self.decoder_places], 1)
        return self.to_features(self.decoder_norm(self.decoder(x))[:, 1:])


@checkpoint.importer(
    "villax-lam",
    sign=r"encoder\.pe_spatial$",
    mind="It names no gap: the default is consecutive frames, as its published call takes them; choose one that "
    "shows a visible movement. Its attention over time reads tokens that are not normalised.",
    needed={"config": SETTINGS},
)
def villax_lam(
    path: FilePath, config: Settings | None = None, *, cameras: tuple[str, ...] = ("image",), stride: str = "1"
) -> VillaXLAM:
    """Read villa-X's latent action model (the folder with model.safetensors and model_config.json, or the first).

    Example: lattok convert villax-lam villa-x/lam my-villax --stride 0.5s

    Args:
        path: The checkpoint, or the folder that it lies in.
        config: Settings that do not follow from shapes, as in the published model_config.json: a dictionary or a file
            (default: the one next to the weights).
        cameras: The one camera of a dataset that the model looks at, short name allowed.
        stride: Gap of a frame pair: seconds ("0.5s") or frames, by default consecutive ones, as published.
    """
    path = weights_of(path)
    foreign = read_published(path, "villax-lam")
    if config is None and not (path.parent / SETTINGS).is_file():
        checks.fail("config", f"the published {SETTINGS}, here or next to the weights", "none")
    settings = settings_near(config, [path.parent / SETTINGS], "config")
    found = villax_config(foreign, settings, cameras=tuple(cameras), stride=str(stride))
    return checkpoint.converted(lambda: VillaXLAM(found), foreign, villax_names(found), str(path))


def villax_config(foreign: Mapping[str, Tensor], settings: Mapping[str, Any], **facts: Any) -> VillaXConfig:
    """Find the configuration in the shapes of a file's tensors and in its settings."""
    size, depth = partial(axis_of, foreign), partial(numbered, foreign)
    patch, places = size("encoder.embed.proj.weight", 3, 14), size("encoder.pe_spatial", 1, 256)
    return VillaXConfig(
        image_size=patch * math.isqrt(places),
        patch=patch,
        tokens=size("encoder.map_block.latents", 0, 4),
        latent_dim=size("vq.embedding.weight", 1, 128),
        codebook_size=size("vq.embedding.weight", 0, 32),
        width=size("encoder.map_block.latents", 1, 768),
        depth=depth(r"encoder\.layers\.(\d+)\.") or 1,
        hidden=size("encoder.layers.0.mlp.fc1.weight", 0, 3072),
        head_norms="encoder.layers.0.attn.q_norm.weight" in foreign,
        pool_hidden=size("encoder.map_block.mlp.1.weight", 1, 3072),
        decoder_width=size("decoder.action_embed.weight", 0, 768),
        decoder_depth=depth(r"decoder\.layers\.(\d+)\.") or 1,
        decoder_hidden=size("decoder.layers.0.mlp.2.weight", 1, 3072),
        decoder_head_norms="decoder.layers.0.attn.q_layernorm.weight" in foreign,
        **{ours: checkpoint.setting(settings, theirs, int) for ours, theirs in HEADS.items()},
        **facts,
    )


def villax_names(config: VillaXConfig) -> dict[str, str | Join]:
    names: dict[str, str | Join] = {"codebook": "vq.embedding.weight", "pool.queries": "encoder.map_block.latents"}
    names |= {"norm.gain": "encoder.norm.g", "decoder_norm.gain": "decoder.norm.g"}
    names |= {"places": squeezed("encoder.pe_spatial"), "decoder_places": squeezed("decoder.pe")}
    names["times"] = Join(("encoder.pe_temporal",), lambda table: table.squeeze(0)[:2])
    layers = {"latent_up": "decoder.action_embed", "to_features": "decoder.pred_head"}
    for ours, theirs in (("embed", "encoder"), ("decoder_embed", "decoder")):
        names[f"{ours}.weight"] = Join((f"{theirs}.embed.proj.weight",), lambda x: rearrange(x, "d c p q -> d (p q c)"))
        names[f"{ours}.bias"] = f"{theirs}.embed.proj.bias"
    for i in range(config.depth):
        ours, theirs = f"encoder.{i}", f"encoder.layers.{i}"
        names[f"{ours}.table"] = f"{theirs}.scale_shift_table"
        for part, other in (("space", "attn"), ("time", "attn_temp")):
            inside = {"qkv": "qkv", "out": "proj"}
            if config.head_norms:
                inside.update(query_norm="q_norm", key_norm="k_norm")
            layers |= {f"{ours}.{part}.{x}": f"{theirs}.{other}.{y}" for x, y in inside.items()}
        layers |= {f"{ours}.ff.0": f"{theirs}.mlp.fc1", f"{ours}.ff.2": f"{theirs}.mlp.fc2"}
    pool = "encoder.map_block"
    names |= {f"pool.norm{i}.gain": f"{pool}.{part}_norm.g" for i, part in ((1, "attn"), (2, "mlp"))}
    names |= _query_then_rest("pool.attention.qkv", f"{pool}.attn")
    layers |= {"pool.project": f"{pool}.pre_projection", "pool.attention.out": f"{pool}.attn.proj"}
    layers |= {"pool.ff.widen": f"{pool}.mlp.0.project", "pool.ff.narrow": f"{pool}.mlp.1"}
    layers["pool.out"] = f"{pool}.final_proj.0"
    for i in range(config.decoder_depth):
        ours, theirs = f"decoder.{i}", f"decoder.layers.{i}"
        names |= _query_then_rest(f"{ours}.attention.qkv", f"{theirs}.attn")
        for j, part in ((1, "attn"), (2, "mlp")):
            names[f"{ours}.norm{j}.gain"] = f"{theirs}.pre_norm_{part}.g"
            names[f"{ours}.gain{j}"] = f"{theirs}.layer_scale_{part}.gamma"
        layers |= {f"{ours}.attention.out": f"{theirs}.attn.proj", f"{ours}.ff.widen": f"{theirs}.mlp.0.project"}
        layers[f"{ours}.ff.narrow"] = f"{theirs}.mlp.2"
        if config.decoder_head_norms:
            norms = {"query": "q_layernorm", "key": "k_layernorm"}
            layers |= {f"{ours}.attention.{mine}_norm": f"{theirs}.attn.{other}" for mine, other in norms.items()}
    return names | layer_names(layers)


def _query_then_rest(ours: str, theirs: str) -> dict[str, str | Join]:
    return {f"{ours}.{x}": stacked(f"{theirs}.q.{x}", f"{theirs}.kv.{x}") for x in ("weight", "bias")}
