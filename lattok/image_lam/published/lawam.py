"""Latent action model of LaWAM (Chen et al., 2026, "Latent world action models"), a variational one over DINOv3.

    features = norm(block of DINOv3)                             of both frames
    queries  = Transformer([tokens of both frames, queries])     patches do not see the queries
    latent   = mu(norm(mean of queries))                         one per pair, no codes
    features of o_{t+H} = Decoder(features of o_t | latent)      the latent sets shifts, scales and gates

As published, and kept, since the weights depend on it: sine tables of time, rows and columns all start at the first
channel and are added. Left out: the variance, for training only, and the head that predicts changes of proprioception.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lattok.hub import CONFIG, checkpoint
from lattok.hub.checkpoint import FilePath, Join, Settings, axis_of, layer_names, numbered, squeezed, stacked
from lattok.image_lam.base.convert import note_assumed, settings_near
from lattok.image_lam.base.features import IMAGENET, FrozenFeatures
from lattok.image_lam.published.dinov3 import HeldFeatures
from lattok.image_lam.published.published_lam import PublishedConfig, PublishedLAM, read_published, weights_of
from lattok.nn.blocks import Attention, PreNormBlock, feed_forward, sinusoids
from lattok.utils import checks

HEAD_WIDTH = 64  # of every published DINOv3 but the largest, whose heads are 128 wide
# what shapes do not tell, as the authors name it; LeRobot puts lam_ or dinov3_ before the same names
PUBLISHED = {
    "num_heads": 16,
    "latent_layer_to_use": -2,
    "norm_latents": True,
    "norm_latents_type": "ln",
    "enc_modal_mask": True,
    "image_hw": (256, 256),
    "num_attention_heads": None,
    "vq_type": "vae",
}
FIXED = {  # what is no choice here, and what no tensor tells of
    "enc_add_state": False,
    "multi_input": False,
    "rope_theta": 100.0,
    "layer_norm_eps": 1e-5,
    "hidden_act": "gelu",
}


@dataclass(frozen=True, kw_only=True)
class LawamConfig(PublishedConfig):
    """Architecture and preprocessing of `LawamLAM`. Defaults: as in LeRobot."""

    quantizer: ClassVar[str] = "none"
    least: ClassVar[Mapping[str, int]] = {"vit_registers": 0}

    stride: str = "1.6s"
    image_size: int = 256  # height of the frames
    image_width: int = 256
    wide_frames: str = "crop"  # wider than 4:3: cut to that in the middle, as in training, or "squeeze" (LeRobot)
    pixels: str = "normalized"
    mean: tuple[float, float, float] = IMAGENET[0]
    std: tuple[float, float, float] = IMAGENET[1]
    tokens: int = 1
    latent_dim: int = 32
    width: int = 1024
    heads: int = 16
    hidden: int = 4096  # of the feed-forward
    encoder_depth: int = 24
    decoder_depth: int = 12
    queries: int = 1
    modal_mask: bool = True  # patches do not see the queries
    latent_layer_norm: bool = True
    last_norm: bool = True  # of predicted features
    patch: int = 16
    vit_width: int = 768
    vit_depth: int = 11  # blocks of DINOv3 that are in use
    vit_heads: int = 12
    vit_hidden: int = 3072
    vit_registers: int = 4
    vit_last_norm: bool = False
    feature_norm: str = "ln"  # "ln" over channels, "l2" to unit length, "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.one_of("feature_norm", self.feature_norm, ("ln", "l2", "none"))
        checks.one_of("wide_frames", self.wide_frames, ("crop", "squeeze"))
        checks.divides(self.vit_width, f"the width {self.vit_width}", vit_heads=self.vit_heads)
        if self.vit_width // self.vit_heads % 4:
            checks.fail("vit_heads", f"heads of {self.vit_width} channels that are multiples of 4 wide", self.vit_heads)
        if self.image_size % self.patch or self.image_width % self.patch:
            checks.fail("image_size", f"multiples of the patch size {self.patch}", (self.image_size, self.image_width))


def added_sines(dim: int, *axes: tuple[int, int]) -> Tensor:
    """Table [n_1, ..., n_k, dim] of places on a grid: for each (count, channels) sines, all from the first channel."""
    table = torch.zeros(*(count for count, _ in axes), dim)
    for axis, (count, channels) in enumerate(axes):
        shape = [1] * len(axes)
        shape[axis] = count
        table[..., :channels] += sinusoids(torch.arange(count), channels).reshape(*shape, channels)
    return table


class QueryRead(nn.Module):
    """Queries attend once to all tokens, whose norm they do without: q = norm(q + attention); q + ff(q)."""

    def __init__(self, config: LawamConfig):
        super().__init__()
        width = config.width
        self.queries = nn.Parameter(torch.randn(config.queries, width) * 0.02)
        self.attention = Attention(width, config.heads)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.ff = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        """Read tokens [b, n, width] into [b, queries, width]."""
        queries = self.queries.expand(len(tokens), -1, -1).contiguous()
        queries = self.norm2(queries + self.attention.read(queries, self.norm1(tokens)))
        return queries + self.ff(queries)


class GatedBlock(nn.Module):
    """x += gate * f(norm(x) * (1 + scale) + shift) for attention and feed-forward; a condition gives all six."""

    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.modulation = nn.Linear(width, 6 * width)
        self.norm = partial(F.layer_norm, normalized_shape=(width,), eps=1e-6)
        self.attention = Attention(width, heads)
        self.ff = feed_forward(width, hidden, nn.GELU)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Transform x [b, n, width] under a condition [b, 1, width]."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(F.silu(condition)).chunk(6, -1)
        x = x + gate1 * self.attention(self.norm(x) * (1 + scale1) + shift1)
        return x + gate2 * self.ff(self.norm(x) * (1 + scale2) + shift2)


class LawamLAM(PublishedLAM):
    """LaWAM's latent action model: one continuous latent of a pair, over features of its own DINOv3."""

    type = "lawam-lam"
    arxiv = "2606.15768"
    config_class = LawamConfig
    config: LawamConfig

    def __init__(self, config: LawamConfig, features: FrozenFeatures | None = None):
        super().__init__(config, features)
        width, channels = config.width, config.vit_width
        self.numbers_per_frame = self.features.count * config.hidden
        rows, columns = (size // config.patch for size in self.features.frame_size)
        quarters = ((rows, width // 4), (columns, width // 4))
        self.places = nn.Buffer(added_sines(width, (2, width // 2), *quarters).flatten(1, 2), persistent=False)
        halves = ((rows, width // 2), (columns, width // 2))
        self.decoder_places = nn.Buffer(added_sines(width, *halves).flatten(0, 1), persistent=False)
        self.project_in = _linear_unless_equal(channels, width)
        self.read = QueryRead(config)
        heads, hidden = config.heads, config.hidden
        blocks = [PreNormBlock(width, heads, hidden=hidden, bias=True) for _ in range(config.encoder_depth)]
        for block in blocks:
            block.ff[1] = nn.ReLU()
        self.encoder = nn.ModuleList(blocks)
        self.project_out = _linear_unless_equal(width, config.latent_dim)
        self.norm = nn.LayerNorm(config.latent_dim) if config.latent_layer_norm else nn.Identity()
        self.mean_of = nn.Linear(config.latent_dim, config.latent_dim)
        self.decoder_in = _linear_unless_equal(channels, width)
        self.latent_up = nn.Linear(config.latent_dim, width)
        self.decoder = nn.ModuleList(GatedBlock(width, heads, hidden) for _ in range(config.decoder_depth))
        self.decoder_out = _linear_unless_equal(width, channels)
        self.last_norm = nn.LayerNorm(channels) if config.last_norm else nn.Identity()

    @classmethod
    def frozen_features(cls, config: LawamConfig) -> FrozenFeatures:
        return HeldFeatures(config)

    @staticmethod
    def holds_features(config: LawamConfig) -> bool:
        return True

    def of_frame(self, features: Tensor) -> Tensor:
        """Project features [n, N, D] to tokens [n, N, width]."""
        return self.project_in(features)

    def of_pair(self, now: Tensor, later: Tensor) -> Tensor:
        tokens = torch.cat([now + self.places[0], later + self.places[1]], 1)
        x, patches = torch.cat([tokens, self.read(tokens)], 1), tokens.shape[1]
        seen = None
        if self.config.modal_mask:
            seen = torch.ones(1, x.shape[1], x.shape[1], dtype=torch.bool, device=x.device)
            seen[:, :patches, patches:] = False
        for block in self.encoder:
            x = block(x, seen=seen)
        return self.mean_of(self.norm(self.project_out(x[:, patches:]).mean(1, keepdim=True)))

    def _predict(self, features: Tensor, vectors: Tensor) -> Tensor:
        x, condition = self.decoder_in(features) + self.decoder_places, self.latent_up(vectors)
        for block in self.decoder:
            x = block(x, condition)
        return self.last_norm(self.decoder_out(x))


def _linear_unless_equal(inputs: int, outputs: int) -> nn.Module:
    return nn.Identity() if inputs == outputs else nn.Linear(inputs, outputs)


@checkpoint.importer(
    "lawam-lam",
    sign=r"encoder\.QFormer\.queries$",
    mind="The default gap of 1.6 s is that of robots; videos of people had .4 s. Heads, image size, layer of "
    "DINOv3, norm and mask are in its settings alone: `--config`, or the file next to the checkpoint. Latents have "
    "no unit size: look at their range before you regress or quantize them.",
)
def lawam_lam(
    path: FilePath,
    config: Settings | None = None,
    *,
    wide_frames: str = "crop",
    cameras: tuple[str, ...] = ("image",),
    stride: str = "1.6s",
) -> LawamLAM:
    """Read LaWAM's latent action model (a LeRobot policy folder, lam.ckpt, a policy's .pt or safetensors).

    Example: lattok convert lawam-lam lam.ckpt my-lawam --config lam.yaml

    Args:
        path: The checkpoint, or the folder that it lies in.
        config: Settings that do not follow from shapes, with LeRobot's or the authors' names: a dictionary, or a
            .json or .yaml file (default: config.json in the folder of model.safetensors, or the only .yaml file next
            to another checkpoint, or published values).
        wide_frames: Frames wider than 4:3: crop (cut in the middle, as in training) or squeeze (as LeRobot does).
        cameras: The one camera of a dataset that the model looks at, short name allowed.
        stride: Gap of a frame pair: frames ("30") or seconds, "1.6s" as published for robots (".4s" for people).
    """
    (settings, assumed), path = _settings(config, Path(path).expanduser()), weights_of(path)
    foreign = read_published(path, "lawam-lam", "model.policy_backend.lam.", "policy_backend.lam.", "lam.")
    found = lawam_config(foreign, settings, wide_frames=wide_frames, cameras=tuple(cameras), stride=str(stride))
    names, unused = lawam_names(found, foreign), lawam_unused(found, foreign)
    model = checkpoint.converted(lambda: LawamLAM(found), foreign, names, str(path), unused)
    note_assumed(path.name, **{name: settings[name] or found.vit_heads for name in assumed})
    return model


def _settings(config: Settings | None, path: Path) -> tuple[dict[str, Any], list[str]]:
    """Read what shapes do not tell, under the authors' names; published values where nothing says otherwise, and of
    which settings."""
    beside = [path.parent / CONFIG] if path.suffix == checkpoint.SAFE else list(path.parent.glob("*.yaml"))
    near = [path / CONFIG] if path.is_dir() else beside
    settings = settings_near(config, near if len(near) == 1 else (), "model")
    inner = settings.get("dinov3_config")
    settings = {**settings, **(inner if isinstance(inner, Mapping) else {})}
    found, assumed = dict(PUBLISHED), list[str]()
    for name in PUBLISHED:
        others = [other for other in (name, f"lam_{name}", f"dinov3_{name}") if other in settings]
        found[name] = settings[others[-1]] if others else PUBLISHED[name]
        assumed += [name] if found[name] is None or not others else []
    checks.one_of("vq_type", found["vq_type"], ("vae",))
    for name, value in FIXED.items():
        for other in (name, f"lam_{name}", f"dinov3_{name}"):
            if checkpoint.as_number(settings.get(other, value)) != value:
                checks.fail(other, str(value), repr(settings[other]))
    return found, [name for name in assumed if name != "vq_type"]


def lawam_config(foreign: Mapping[str, Tensor], settings: Mapping[str, Any], **facts: Any) -> LawamConfig:
    """Find the configuration in the shapes of a file's tensors and in its settings."""
    size = partial(axis_of, foreign)
    vision, layer = "vision_encoder.model.", settings["latent_layer_to_use"]
    vit_width, blocks = size(f"{vision}embeddings.cls_token", 2, 768), numbered(foreign, rf"{_layers(foreign)}(\d+)\.")
    if not isinstance(layer, int) or not -blocks <= layer <= -1:
        checks.fail("latent_layer_to_use", f"a number from {-blocks} to -1", repr(layer))
    height_width = settings["image_hw"]
    if not (isinstance(height_width, list | tuple) and len(height_width) == 2):
        checks.fail("image_hw", "height and width", repr(height_width))
    return LawamConfig(
        image_size=height_width[0],
        image_width=height_width[1],
        latent_dim=size("vq.mu.weight", 0, 32),
        width=size("encoder.QFormer.queries", 2, 1024),
        queries=size("encoder.QFormer.queries", 1, 1),
        heads=settings["num_heads"],
        hidden=size("encoder.QFormer.layers.0.linear1.weight", 0, 4096),
        encoder_depth=numbered(foreign, r"encoder\.QFormer\.layers\.(\d+)\.") or 1,
        decoder_depth=numbered(foreign, r"decoder\.dec_layers\.(\d+)\.") or 1,
        modal_mask=bool(settings["enc_modal_mask"]),
        latent_layer_norm="vq.pre_norm.weight" in foreign,
        last_norm="decoder.last_ln.weight" in foreign,
        patch=size(f"{vision}embeddings.patch_embeddings.weight", 3, 16),
        vit_width=vit_width,
        vit_depth=blocks + 1 + layer,
        vit_heads=settings["num_attention_heads"] or max(1, vit_width // HEAD_WIDTH),
        vit_hidden=size(f"{_layers(foreign)}0.mlp.up_proj.weight", 0, 3072),
        vit_registers=size(f"{vision}embeddings.register_tokens", 1, 4),
        vit_last_norm=layer == -1,
        feature_norm=settings["norm_latents_type"] if settings["norm_latents"] else "none",
        **facts,
    )


def _layers(foreign: Mapping[str, Tensor]) -> str:
    """Return what stands before the numbers of DINOv3's blocks: transformers 5 put one more `model.` there."""
    new = "vision_encoder.model.model.layer."
    return new if any(name.startswith(new) for name in foreign) else "vision_encoder.model.layer."


def lawam_names(config: LawamConfig, foreign: Mapping[str, Tensor]) -> dict[str, str | Join]:
    vision, vit = "vision_encoder.model.", "features.network."
    tokens = (f"{vision}embeddings.cls_token", f"{vision}embeddings.register_tokens")
    names: dict[str, str | Join] = {f"{vit}prefix": Join(tokens, lambda *parts: torch.cat(parts, 1).squeeze(0))}
    layers = {f"{vit}patches": f"{vision}embeddings.patch_embeddings"}
    if config.vit_last_norm:
        layers[f"{vit}norm"] = f"{vision}norm"
    for i in range(config.vit_depth):
        ours, theirs = f"{vit}blocks.{i}", f"{_layers(foreign)}{i}"
        names |= {f"{ours}.scale{j}": f"{theirs}.layer_scale{j}.lambda1" for j in (1, 2)}
        names[f"{ours}.qkv.weight"] = stacked(*(f"{theirs}.attention.{letter}_proj.weight" for letter in "qkv"))
        biases = (f"{theirs}.attention.q_proj.bias", f"{theirs}.attention.v_proj.bias")  # keys have none
        names[f"{ours}.qkv.bias"] = Join(biases, lambda q, v: torch.cat([q, torch.zeros_like(q), v]))
        layers |= {f"{ours}.norm{j}": f"{theirs}.norm{j}" for j in (1, 2)}
        layers[f"{ours}.out"] = f"{theirs}.attention.o_proj"
        layers |= {f"{ours}.ff.0": f"{theirs}.mlp.up_proj", f"{ours}.ff.3": f"{theirs}.mlp.down_proj"}
    names["read.queries"] = squeezed("encoder.QFormer.queries")
    cross = "encoder.QFormer.q_cross_attn"
    names |= _packed("read.attention", f"{cross}.attn")
    layers |= {f"read.{part}": f"{cross}.{part}" for part in ("norm1", "norm2", "ff.0", "ff.2")}
    for i in range(config.encoder_depth):
        ours, theirs = f"encoder.{i}", f"encoder.QFormer.layers.{i}"
        names |= _packed(f"{ours}.attention", f"{theirs}.self_attn")
        layers |= {f"{ours}.norm{j}": f"{theirs}.norm{j}" for j in (1, 2)}
        layers |= {f"{ours}.ff.0": f"{theirs}.linear1", f"{ours}.ff.3": f"{theirs}.linear2"}
    for i in range(config.decoder_depth):
        ours, theirs = f"decoder.{i}", f"decoder.dec_layers.{i}"
        names |= _packed(f"{ours}.attention", f"{theirs}.attn")
        layers[f"{ours}.modulation"] = f"{theirs}.adaLN_modulation.1"
        layers |= {f"{ours}.ff.{j}": f"{theirs}.ffn.{j}" for j in (0, 3)}
    layers |= {"mean_of": "vq.mu", "latent_up": "decoder.action_in_proj"}
    if config.width != config.vit_width:
        layers |= {"project_in": "encoder.project_in", "decoder_in": "decoder.project_input"}
        layers["decoder_out"] = "decoder.project_output"
    if config.width != config.latent_dim:
        layers["project_out"] = "encoder.out_proj"
    if config.latent_layer_norm:
        layers["norm"] = "vq.pre_norm"
    if config.last_norm:
        layers["last_norm"] = "decoder.last_ln"
    return names | layer_names(layers)


def _packed(ours: str, theirs: str) -> dict[str, str | Join]:
    """Map an attention to the names that torch gives one."""
    names = layer_names({f"{ours}.out": f"{theirs}.out_proj"})
    return names | {f"{ours}.qkv.{x}": f"{theirs}.in_proj_{x}" for x in ("weight", "bias")}


def lawam_unused(config: LawamConfig, foreign: Mapping[str, Tensor]) -> list[str]:
    """List tensors that no label needs: the variance, the head of proprioception, and DINOv3 after the layer in use."""
    vision = "vision_encoder.model."
    known = [f"{vision}embeddings.mask_token", "vq.logvar.", "state_decoder."]
    known += [] if config.vit_last_norm else [f"{vision}norm."]
    blocks = numbered(foreign, rf"{_layers(foreign)}(\d+)\.")
    known += [f"{_layers(foreign)}{i}." for i in range(config.vit_depth, blocks)]
    return [name for name in foreign if name.startswith(tuple(known))]
