"""Latent action quantizer of LAPA (Ye et al., 2025, "Latent action pretraining from videos"), section 3.1.

    tokens  = Time(Space(patches(o_t), patches(o_{t+H})))        both frames of a pair, factorised attention
    latents = CNN(tokens of o_{t+H}) - CNN(tokens of o_t)        P positions
    codes   = nearest rows of the codebook (NSVQ)                P codes of K
    o_{t+H} = Decoder(patches(o_t), codebook[codes])

As published, and kept, since the weights depend on it: attention reads keys and values from tokens that are not
normalised; the convolution before the attention over time takes its input, stored place by place, for one stored frame
by frame; and the decoder's context mixes the channels of all codes of a pair. What differs: docs/systems.yaml.
"""

from abc import ABC
from dataclasses import dataclass
from functools import partial
from math import isqrt
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from lattok.hub import checkpoint
from lattok.hub.checkpoint import FilePath, Join, Tensors, axis_of, layer_names, numbered
from lattok.image_lam.base.convert import note_assumed
from lattok.image_lam.base.features import FrozenFeatures
from lattok.image_lam.published.published_lam import PublishedConfig, PublishedLAM, read_published
from lattok.utils import checks

PATCHES = {1: 8, 2: 8, 4: 8, 16: 16, 64: 16, 256: 32}  # of a side in published training, by codes of a pair
SECOND = {1: ((4, 4), 1, 0), 2: ((3, 4), 1, 0), 4: ((3, 3), 1, 0), 16: ((3, 3), 2, 1)}  # kernel, stride, padding
PARTS = {"space": "enc_spatial_transformer", "time": "enc_temporal_transformer", "decoder": "dec_spatial_transformer"}
NULLS = 2  # learned pairs of key and value that every cross-attention may look at
SCALE = 8.0  # of scores between unit vectors


@dataclass(frozen=True, kw_only=True)
class LAQConfig(PublishedConfig):
    """Architecture of the quantizers of LAPA, over pixels or features."""

    tokens: int = 4
    latent_dim: int = 32
    codebook_size: int = 8
    width: int = 1024
    heads: int = 16
    head_dim: int = 64
    space_depth: int = 8
    time_depth: int = 8
    decoder_depth: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.one_of("tokens", self.tokens, PATCHES)


@dataclass(frozen=True, kw_only=True)
class LapaConfig(LAQConfig):
    """Architecture and preprocessing of `LapaLAQ`. Defaults: as published (laq_openx.pt)."""

    stride: str = "30"
    image_size: int = 256
    patch: int = 32


class CosineAttention(nn.Module):
    """Scores of unit vectors. Queries are normalised tokens; keys and values of self-attention the tokens as they are,
    those of cross-attention a normalised context after a few learned ones."""

    def __init__(self, config: LAQConfig, cross: bool = False):
        super().__init__()
        self.heads, inner = config.heads, config.heads * config.head_dim
        self.norm = nn.LayerNorm(config.width)
        self.context_norm = nn.LayerNorm(config.width) if cross else nn.Identity()
        self.query = nn.Linear(config.width, inner, bias=False)
        self.key_value = nn.Linear(config.width, 2 * inner, bias=False)
        self.query_scale = nn.Parameter(torch.ones(config.head_dim))
        self.key_scale = nn.Parameter(torch.ones(config.head_dim))
        self.nulls = nn.Parameter(torch.randn(config.heads, 2 * NULLS, config.head_dim)) if cross else None
        self.out = nn.Linear(inner, config.width, bias=False)

    def forward(self, x: Tensor, bias: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        """Attend from x [b, n, width] to itself, or to a `context` [b, m, width]; `bias` [heads, n, n] of scores."""
        source = x if context is None else self.context_norm(context)
        q = rearrange(self.query(self.norm(x)), "b n (h d) -> b h n d", h=self.heads)
        k, v = rearrange(self.key_value(source), "b n (two h d) -> two b h n d", two=2, h=self.heads)
        if self.nulls is not None:
            null_k, null_v = rearrange(self.nulls, "h (n two) d -> two 1 h n d", two=2).expand(-1, len(x), -1, -1, -1)
            k, v = torch.cat([null_k, k], 2), torch.cat([null_v, v], 2)
        q, k = F.normalize(q, dim=-1) * self.query_scale, F.normalize(k, dim=-1) * self.key_scale
        mixed = F.scaled_dot_product_attention(q, k, v, bias, scale=SCALE)
        return self.out(rearrange(mixed, "b h n d -> b n (h d)"))


class PlaceConvolution(nn.Module):
    """A 3 x 3 x 3 convolution per channel over time, rows and columns that sees no later frame.

    Of at most two frames it reads the present and the last one: two sums of convolutions over space.
    """

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, 3, 3, 3) * 0.1)  # channel, time, row, column
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, video: Tensor) -> Tensor:
        """Turn [b, t, y, x, width], t at most 2, into the same shape."""
        frames = rearrange(video, "b t y x d -> t b d y x")
        convolve = partial(F.conv2d, padding=1, groups=frames.shape[2])
        parts = [convolve(frame, self.weight[:, None, 2], self.bias) for frame in frames]
        if len(parts) == 2:
            parts[1] = parts[1] + convolve(frames[0], self.weight[:, None, 1])
        return rearrange(torch.stack(parts), "t b d y x -> b t y x d")


class LapaBlock(nn.Module):
    """x += convolution(x); x += attention(x); in the decoder x += cross-attention(x, context); x += ff(x)."""

    def __init__(self, config: LAQConfig, cross: bool):
        super().__init__()
        inner = 8 * config.width // 3
        self.places = PlaceConvolution(config.width)
        self.attention = CosineAttention(config)
        self.cross = CosineAttention(config, cross=True) if cross else None
        self.norm = nn.LayerNorm(config.width)
        self.widen = nn.Linear(config.width, 2 * inner, bias=False)
        self.narrow = nn.Linear(inner, config.width, bias=False)

    def forward(self, x: Tensor, size: torch.Size, bias: Tensor | None, context: Tensor | None) -> Tensor:
        """Transform x [b', n, width], whose numbers in their order are taken for those of a video of `size`."""
        x = x + self.places(x.reshape(size)).reshape(x.shape)
        x = x + self.attention(x, bias)
        if self.cross is not None:
            x = x + self.cross(x, context=context)
        value, gate = self.widen(self.norm(x)).chunk(2, -1)
        return x + self.narrow(value * F.gelu(gate))


class LapaTransformer(nn.Module):
    def __init__(self, config: LAQConfig, depth: int, cross: bool = False):
        super().__init__()
        self.blocks = nn.ModuleList(LapaBlock(config, cross) for _ in range(depth))
        self.norm = nn.LayerNorm(config.width)

    def forward(self, x: Tensor, size: torch.Size, bias: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        for block in self.blocks:
            x = block(x, size, bias, context)
        return self.norm(x)


class OffsetBias(nn.Module):
    """A bias of scores from the offset of two places, sign(d) log(|d| + 1) in rows and columns, by a small network."""

    def __init__(self, config: LAQConfig):
        super().__init__()
        width = config.width
        steps = (nn.Linear(2, width), nn.LeakyReLU(0.1), nn.Linear(width, width), nn.LeakyReLU(0.1))
        self.net = nn.Sequential(*steps, nn.Linear(width, config.heads))

    def forward(self, side: int) -> Tensor:
        """Return the bias [heads, n, n] of a square of n = side^2 places; each offset is computed once."""
        device, most = next(self.parameters()).device, 2 * side - 1
        steps = torch.arange(1 - side, side, device=device)
        offsets = torch.cartesian_prod(steps, steps).to(torch.float32)
        bias = self.net(offsets.sign() * (offsets.abs() + 1).log())  # (most most) heads
        row, column = torch.cartesian_prod(*[torch.arange(side, device=device)] * 2).unbind(-1)
        index = (row[:, None] - row + side - 1) * most + (column[:, None] - column + side - 1)  # n n
        return rearrange(bias[index], "i j h -> h i j")


class CodeMaps(nn.Module):
    """Tokens of one frame to a small map of vectors, [b, n, width] to [b, P, d]: a projection and two convolutions."""

    def __init__(self, config: LAQConfig):
        super().__init__()
        self.project = nn.Linear(config.width, config.latent_dim)
        layers: list[nn.Module] = [nn.Conv2d(config.latent_dim, config.latent_dim, 3, stride=2, padding=1)]
        if config.tokens in SECOND:
            kernel, stride, padding = SECOND[config.tokens]
            layers += [nn.ReLU(), nn.Conv2d(config.latent_dim, config.latent_dim, kernel, stride, padding)]
        self.net = nn.Sequential(*layers)

    def forward(self, tokens: Tensor, side: int) -> Tensor:
        maps = self.net(rearrange(self.project(tokens), "b (y x) d -> b d y x", y=side))
        return rearrange(maps, "b d y x -> b (y x) d")


class LAQ(PublishedLAM, ABC):
    """What quantizers of LAPA share: attention over features of both frames, codes of their difference, a decoder."""

    config: Any

    def __init__(self, config: LAQConfig, features: FrozenFeatures | None = None):
        super().__init__(config, features)
        self.side = side = self.features.side
        self.numbers_per_frame = self.features.count * 16 * config.width // 3
        rows = columns = (side - 1) // 2 + 1  # that the convolutions make
        if config.tokens in SECOND:
            (height, width), stride, padding = SECOND[config.tokens]
            rows, columns = (max(0, (n + 2 * padding - k) // stride + 1) for n, k in ((rows, height), (columns, width)))
        if rows * columns != config.tokens:
            expected = f"a size whose {side} x {side} patches become {config.tokens} codes"
            checks.fail("image_size", expected, f"{config.image_size}, whose become {rows * columns}")
        self.embed: nn.Module = nn.Identity()  # features to tokens
        self.to_features: nn.Module = nn.Identity()
        self.offsets = OffsetBias(config)
        self.space = LapaTransformer(config, config.space_depth)
        self.time = LapaTransformer(config, config.time_depth)
        self.maps = CodeMaps(config)
        self.code_up = nn.Linear(config.latent_dim, config.width)
        self.decoder = LapaTransformer(config, config.decoder_depth, cross=True)

    def of_frame(self, features: Tensor) -> Tensor:
        """Embed features [n, N, D] as tokens [n, N, width]."""
        return self.embed(features)

    def of_pair(self, now: Tensor, later: Tensor) -> Tensor:
        x = torch.stack([now, later], 1)  # n 2 N width
        video = x.unflatten(2, (self.side, self.side)).shape
        x = self.space(x.flatten(0, 1), video, self.offsets(self.side)).unflatten(0, (-1, 2))
        x = rearrange(x, "n t k d -> (n k) t d")
        first, last = self.time(x, video).unflatten(0, (len(now), -1)).unbind(2)
        return self.maps(last, self.side) - self.maps(first, self.side)

    def _predict(self, features: Tensor, vectors: Tensor) -> Tensor:
        x = self.of_frame(features)
        video = x[:, None].unflatten(2, (self.side, self.side)).shape
        return self.to_features(self.decoder(x, video, self.offsets(self.side), self.context(vectors)))

    def context(self, vectors: Tensor) -> Tensor:
        """Turn code vectors [B, P, d] into what the decoder looks at, [B, P, width]: channels of all P are mixed."""
        batch, positions, dim = vectors.shape
        return self.code_up(vectors.reshape(batch, dim, positions).transpose(1, 2))  # P d, in the order of d P


class LapaLAQ(LAQ):
    """LAPA's quantizer of a pair of images: its codes are what its policies were pretrained on.

    Features are patches of pixels in [0, 1], ordered row, column, channel.
    """

    type = "lapa-laq"
    arxiv = "2410.11758"
    config_class = LapaConfig
    config: LapaConfig

    def __init__(self, config: LapaConfig, features: FrozenFeatures | None = None):
        super().__init__(config, features)
        inputs, width = self.features.dim, config.width
        self.embed = nn.Sequential(nn.LayerNorm(inputs), nn.Linear(inputs, width), nn.LayerNorm(width))
        self.to_features = nn.Linear(width, inputs)


@checkpoint.importer(
    "lapa-laq",
    sign=r"to_patch_emb_first_frame\.\d",
    mind="The default gap of 30 frames is that of its training script; no public file says that of `laq_openx.pt`. "
    "Two oddities stay, since the weights were trained with them: the convolution before attention over time mixes "
    "neighbouring places, and the decoder mixes the channels of all codes, so that no code belongs to one place.",
)
def lapa_laq(
    path: FilePath,
    *,
    tokens: int | None = None,
    image_size: int | None = None,
    cameras: tuple[str, ...] = ("image",),
    stride: str = "30",
) -> LapaLAQ:
    """Read LAPA's latent action quantizer (laq_openx.pt, vae.N.pt or safetensors).

    Example: lattok convert lapa-laq laq_openx.pt my-lapa --cameras front

    Args:
        path: The checkpoint.
        tokens: Codes of a pair, if two numbers fit the file: 4 or 16, 64 or 256 (default: the smaller one).
        image_size: Side of the frames in pixels (default: as in the published training with this number of codes).
        cameras: The one camera of a dataset that the model looks at, short name allowed.
        stride: Gap of a frame pair: frames ("30") or seconds ("1.6s").
    """
    foreign = read_published(path, "lapa-laq", "module.")
    config = lapa_config(foreign, tokens, image_size, cameras=tuple(cameras), stride=str(stride))
    return checkpoint.converted(lambda: LapaLAQ(config), foreign, lapa_names(config), str(path), laq_unused(foreign))


def lapa_config(foreign: Tensors, tokens: int | None, image_size: int | None, **facts: Any) -> LapaConfig:
    sizes = laq_sizes(foreign, tokens)
    width, inputs = (axis_of(foreign, "to_patch_emb_first_frame.2.weight", i, (1024, 3072)[i]) for i in range(2))
    patch = isqrt(inputs // 3)
    image_size = patch * PATCHES[sizes["tokens"]] if image_size is None else image_size
    return LapaConfig(image_size=image_size, patch=patch, width=width, **sizes, **facts)


def lapa_names(config: LapaConfig) -> dict[str, str | Join]:
    """Map our tensors to the published names; patches there are ordered channel, row, column."""

    def last(rows: Tensor) -> Tensor:
        return rearrange(rows, "(c p q) ... -> (p q c) ...", c=3, p=config.patch)

    embed = layer_names({f"embed.{i}": f"to_patch_emb_first_frame.{i + 1}" for i in (1, 2)})
    embed |= {f"embed.0.{x}": Join((f"to_patch_emb_first_frame.1.{x}",), last) for x in ("weight", "bias")}
    embed["embed.1.weight"] = Join(("to_patch_emb_first_frame.2.weight",), lambda weight: last(weight.T).T)
    embed |= {f"to_features.{x}": Join((f"to_pixels_first_frame.0.{x}",), last) for x in ("weight", "bias")}
    return laq_names(config) | embed


def laq_sizes(foreign: Tensors, tokens: int | None) -> dict[str, int]:
    """Find the config fields that shapes give, of the parts that models of pixels and of features share."""
    size, second = partial(axis_of, foreign), foreign.get("vq.cnn_encoder.2.weight")
    kernel = (0, 0) if second is None else tuple(second.shape[2:])
    possible = [n for n in PATCHES if (SECOND[n][0] if n in SECOND else (0, 0)) == kernel]
    if not possible:
        checks.fail("vq.cnn_encoder.2.weight", "a kernel of 4 x 4, 3 x 4 or 3 x 3", f"one of {list(kernel)}")
    if tokens is not None:
        checks.one_of("tokens", tokens, possible)
    elif len(possible) > 1:
        note_assumed("the file", tokens=possible[0])
    found = {
        "tokens": possible[0] if tokens is None else tokens,
        "codebook_size": size("vq.codebooks", 0, 8),
        "latent_dim": size("vq.codebooks", 1, 32),
        "heads": size("enc_spatial_transformer.layers.0.1.null_kv", 0, 16),
        "head_dim": size("enc_spatial_transformer.layers.0.1.q_scale", 0, 64),
    }
    for ours, theirs in PARTS.items():
        found[f"{ours}_depth"] = numbered(foreign, rf"{theirs}\.layers\.(\d+)\.") or 1
    return found


def laq_names(config: LAQConfig) -> dict[str, str | Join]:
    """Map our tensors to the published names, of the parts that models of pixels and of features share."""
    layers = {f"offsets.net.{2 * i}": f"spatial_rel_pos_bias.net.{i}{'.0' if i < 2 else ''}" for i in range(3)}
    layers |= {"maps.project": "vq.project_in", "code_up": "vq.project_out", "maps.net.0": "vq.cnn_encoder.0"}
    if config.tokens in SECOND:
        layers["maps.net.2"] = "vq.cnn_encoder.2"
    names: dict[str, str | Join] = {"codebook": "vq.codebooks"}
    for part, theirs in PARTS.items():
        names |= _norm(f"{part}.norm", f"{theirs}.norm_out")
        for i in range(getattr(config, f"{part}_depth")):
            ours, block = f"{part}.blocks.{i}", f"{theirs}.layers.{i}"
            names[f"{ours}.places.weight"] = Join((f"{block}.0.dsconv.weight",), lambda kernel: kernel.squeeze(1))
            names[f"{ours}.places.bias"] = f"{block}.0.dsconv.bias"
            names |= _attention(f"{ours}.attention", f"{block}.1")
            if part == "decoder":
                names |= _attention(f"{ours}.cross", f"{block}.2")
                names |= _norm(f"{ours}.cross.context_norm", f"{block}.2.context_norm")
                names[f"{ours}.cross.nulls"] = f"{block}.2.null_kv"
            layers[f"{ours}.norm"] = f"{block}.3.0"
            names |= {f"{ours}.widen.weight": f"{block}.3.1.weight", f"{ours}.narrow.weight": f"{block}.3.4.weight"}
    return names | layer_names(layers)


def laq_unused(foreign: Tensors) -> list[str]:
    """List tensors without effect: context norms and null keys, in attention of tokens to themselves."""
    own = ("1.context_norm.gamma", "1.context_norm.beta", "1.null_kv")
    return [name for name in foreign if "_transformer.layers." in name and name.endswith(own)]


def _norm(ours: str, theirs: str) -> dict[str, str | Join]:
    return {f"{ours}.weight": f"{theirs}.gamma", f"{ours}.bias": f"{theirs}.beta"}


def _attention(ours: str, theirs: str) -> dict[str, str | Join]:
    names = {"query.weight": "to_q.weight", "key_value.weight": "to_kv.weight", "out.weight": "to_out.weight"}
    names |= {"query_scale": "q_scale", "key_scale": "k_scale"}
    return {f"{ours}.{a}": f"{theirs}.{b}" for a, b in names.items()} | _norm(f"{ours}.norm", f"{theirs}.norm")
