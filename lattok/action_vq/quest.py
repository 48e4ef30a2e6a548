"""QueST's skill tokenizer (Mete et al., 2024, arXiv 2407.15840): a code for every few steps, in the order of time.

latents  = Encoder(convolutions over time, strides 2)(actions)     one for each `downsample` steps
codes    = FSQ(latents)                                            [8, 5, 5, 5] levels: 1,000 codes
actions^ = Decoder(time | quantized latents)

Published training: 32 steps a chunk, AdamW 1e-4 with weight decay 1e-4, batch 256, mean absolute error of raw actions.
Its encoder is not causal, since norms look at all steps, and never sees the last action; `published` keeps both.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lattok.action_vq.base import MAX_HORIZON, ActionKind, Repair
from lattok.action_vq.level_tokenizer import LAYER, ActionDecoder, LevelsConfig, LevelTokenizer, causal_mask
from lattok.hub import checkpoint
from lattok.nn.blocks import sinusoids
from lattok.utils import checks

GROUPS = 8  # of the norms after convolutions


@dataclass(frozen=True)
class QueSTConfig(LevelsConfig):
    """Architecture of `QueST`. Defaults: as published but for `published`; its chunks have 32 steps.

    Attributes:
        downsample: steps that a code describes, a power of two
        causal_encoder: codes do not depend on later steps
        decoder_heads: attention heads of the decoder; `heads` sets those of the encoder
        published: like the published code: norms over all steps, so no code is causal, and none sees the last action
    """

    downsample: int = 4
    causal_encoder: bool = True
    decoder_heads: int = 4
    published: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.counts(1, MAX_HORIZON, downsample=self.downsample)
        if self.downsample & (self.downsample - 1):
            checks.fail("downsample", "a power of two", self.downsample)
        checks.divides(self.dim, f"the width {self.dim}", decoder_heads=self.decoder_heads)
        if self.dim % GROUPS:
            checks.fail("dim", f"a multiple of {GROUPS}, the groups of its norms", self.dim)

    @property
    def convolutions(self) -> list[tuple[int, int]]:
        """Kernel and stride of each."""
        if self.downsample == 1:
            return [(3, 1), (2, 1)]
        twos = self.downsample.bit_length() - 1
        return [(5 if i == 0 else 3, 2 if i < twos else 1) for i in range(twos + 1)]

    @property
    def tokens(self) -> int:
        """Codes of a chunk."""
        if self.published and self.downsample == 1 and not self.causal_encoder:
            return self.horizon + 1  # zeros on both sides of an even kernel
        return -(-self.horizon // self.downsample)


class ConvBlock(nn.Module):
    """Convolution over time, norm of groups of channels, Mish: [B, D, T] to [B, D, T / stride].

    Ours sees, where it is causal, the steps up to the last one that an output stands for, and normalises each alone.
    """

    def __init__(self, config: QueSTConfig, kernel: int, stride: int):
        super().__init__()
        self.conv = nn.Conv1d(config.dim, config.dim, kernel, stride)
        self.norm = nn.GroupNorm(GROUPS, config.dim)
        self.published, around = config.published, kernel - stride
        self.padding = (around, 0) if config.causal_encoder else (around // 2, around - around // 2)
        if config.published:
            self.padding = (kernel - 1, 0) if config.causal_encoder else (kernel // 2, kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(F.pad(x, self.padding))
        if self.published:
            return F.mish(self.norm(x))
        steps = self.norm(x.transpose(1, 2).flatten(0, 1))  # (b t) d
        return F.mish(steps).unflatten(0, (-1, x.shape[2])).transpose(1, 2)


class QueST(LevelTokenizer):
    """Chunks [B, H, m] to a code for each `downsample` steps, in the order of time.

    >>> tokenizer = QueST.fit(chunks, steps=2000)                # [N, H, m] in physical units
    """

    type = "quest"
    arxiv = "2407.15840"
    config_class = QueSTConfig
    config: QueSTConfig
    loss = "l1"

    def __init__(self, config: QueSTConfig):
        super().__init__(config)
        self.vocab_size, self.tokens_per_chunk = config.codebook_size, config.tokens
        dim, scalars = config.dim, len(config.levels)
        self.embed = nn.Linear(config.action_dim, dim)
        self.convolutions = nn.ModuleList(ConvBlock(config, *sizes) for sizes in config.convolutions)
        sizes = dim, config.heads, 4 * dim, config.dropout
        self.encoder = nn.ModuleList(nn.TransformerEncoderLayer(*sizes, **LAYER) for _ in range(config.encoder_depth))
        self.to_latents, self.from_quantized = nn.Linear(dim, scalars), nn.Linear(scalars, dim)
        self.decoder = ActionDecoder(config, config.decoder_heads, sinusoids(torch.arange(config.horizon), dim))
        self.head = nn.Linear(dim, config.action_dim)
        self.places = nn.Buffer(sinusoids(torch.arange(config.tokens), dim), persistent=False)
        self.mask = nn.Buffer(causal_mask(config.tokens), persistent=False) if config.causal_encoder else None

    def _latents(self, actions: Tensor) -> Tensor:
        x = self.embed(actions).transpose(1, 2)  # b d h
        if not self.config.published and (beyond := -self.horizon % self.config.downsample):
            x = torch.cat([x, x[..., -1:].expand(-1, -1, beyond)], -1)  # the last action, as in short chunks
        for block in self.convolutions:
            x = block(x)
        x = x.transpose(1, 2) + self.places
        for layer in self.encoder:
            x = layer(x, self.mask, is_causal=self.mask is not None)
        return self.to_latents(x)

    def _actions(self, quantized: Tensor) -> Tensor:
        return self.head(self.decoder(self.from_quantized(quantized)))

    def _repair(self, codes: Tensor) -> Repair:
        """Let a code that is missing or out of range repeat its neighbour, and hold the steps that it stands for."""
        codes, bad, notes = self._held(codes)
        steps = bad.repeat_interleave(self.config.downsample, 1)[:, : self.horizon]
        return Repair(codes, steps[..., None], notes)


@checkpoint.importer(
    "quest",
    sign=r"conv_block\.blocks\.0\.block\.0\.(conv\.)?weight$",
    mind="It has no normaliser. Every code depends on all actions but the last one, which no code knows.",
)
def quest(
    path: checkpoint.FilePath,
    config: checkpoint.Settings,
    *,
    entry: str | None = None,
    prefix: str = "",
    action_names: tuple[str, ...] = (),
    action_kind: ActionKind = "unspecified",
) -> QueST:
    """Read a published skill tokenizer of QueST, which takes actions as they are.

    Example: lattok convert quest quest.pth my-tokenizer --config quest.yaml

    Args:
        path: The checkpoint, .pt, .pth or .safetensors.
        config: Settings that the tokenizer was built with, a dictionary or a .json or .yaml file: skill_block_size,
            encoder_heads, decoder_heads, use_causal_encoder, use_causal_decoder, fsq_level or codebook_size, and
            attn_pdrop if it is not 0.1. vq_type must be fsq.
        entry: Name under which a pickled training state holds the weights, such as state_dicts.ema_model.
        prefix: Prefix of the tokenizer's tensors in a larger file; other tensors are ignored.
        action_names: Names of the action dimensions, for reports.
        action_kind: relative, absolute or unspecified.
    """
    settings = checkpoint.published_settings(config)
    foreign = checkpoint.read_system(path, "quest", entry, prefixes=(prefix,))
    checks.one_of("vq_type", settings.get("vq_type", "fsq"), ("fsq",))
    causal = checkpoint.setting(settings, "use_causal_encoder", bool)
    first = "conv_block.blocks.0.block.0"
    convolution, other = (f"{first}.conv.weight", f"{first}.weight")[:: 1 if causal else -1]
    if convolution not in foreign and other in foreign:
        checks.fail("use_causal_encoder", f"{not causal}, as the convolutions of {path} are", causal)
    blocks = checkpoint.numbered(foreign, r"conv_block\.blocks\.(\d+)\.") or 3
    shortens = checkpoint.axis_of(foreign, convolution, 2, 5) == 5
    made = QueSTConfig(
        action_dim=checkpoint.axis_of(foreign, "action_proj.weight", 1, 7),
        horizon=checkpoint.setting(settings, "skill_block_size", int),
        normalize="identity",
        action_names=tuple(action_names),
        action_kind=action_kind,
        levels=_levels(settings),
        dim=checkpoint.axis_of(foreign, "action_proj.weight", 0, 256),
        heads=checkpoint.setting(settings, "encoder_heads", int),
        decoder_heads=checkpoint.setting(settings, "decoder_heads", int),
        encoder_depth=checkpoint.numbered(foreign, r"encoder\.layers\.(\d+)\.") or 2,
        decoder_depth=checkpoint.numbered(foreign, r"decoder\.layers\.(\d+)\.") or 4,
        causal_encoder=causal,
        causal_decoder=checkpoint.setting(settings, "use_causal_decoder", bool),
        dropout=checkpoint.setting(settings, "attn_pdrop", float, QueSTConfig.dropout),
        downsample=2 ** (blocks - 1) if shortens else 1,
        published=True,
    )
    unused = [name for name in foreign if name.endswith("inv_freq")]
    return checkpoint.converted(lambda: QueST(made), foreign, key_map(made), str(path), unused, kept=("shift", "scale"))


# published, by the size of a codebook that is asked for, or the next one below it
LEVELS = {
    16: (5, 3),
    64: (8, 8),
    256: (8, 6, 5),
    512: (8, 8, 8),
    1024: (8, 5, 5, 5),
    2048: (8, 8, 6, 5),
    4096: (7, 5, 5, 5, 5),
}


def _levels(settings: Mapping[str, Any]) -> tuple[int, ...]:
    if settings.get("fsq_level") is not None:
        return checkpoint.setting(settings, "fsq_level", tuple[int, ...])
    size = checkpoint.setting(settings, "codebook_size", int)
    below = 1 << max(0, size.bit_length() - 1)
    if below not in LEVELS:
        checks.fail("codebook_size", f"{checks.listed(map(str, LEVELS))}, or somewhat more", size)
    return LEVELS[below]


def key_map(config: QueSTConfig) -> checkpoint.KeyMap:
    with torch.device("meta"):
        names = list(QueST(config).saved_tensors())
    layers = {"embed": "action_proj", "to_latents": "vq.project_in", "from_quantized": "vq.project_out"}
    layers["head"] = "action_head"
    for i in range(len(config.convolutions)):
        theirs = f"conv_block.blocks.{i}.block"
        convolution = "0.conv" if config.causal_encoder else "0"
        layers |= {f"convolutions.{i}.conv": f"{theirs}.{convolution}", f"convolutions.{i}.norm": f"{theirs}.2"}
    inside = {name: name for name in names if name.startswith("decoder.")}
    inside |= {name: f"encoder.layers.{name.removeprefix('encoder.')}" for name in names if name.startswith("encoder.")}
    return checkpoint.layer_names(layers) | inside
