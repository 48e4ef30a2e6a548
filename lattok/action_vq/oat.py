"""OAT, ordered action tokenization (Liu et al., 2026, arXiv 2602.04215): registers that say a chunk coarse to fine.

latents  = Encoder([actions; registers])[registers]    register i sees all actions and registers 0..i
codes    = FSQ(latents)                                [8, 5, 5, 5] levels: 1,000 codes
actions^ = Decoder(time | memory)                      memory: what was kept of the quantized latents, k of them

While it learns, the decoder gets the first k registers alone (nested dropout), so that the first codes say most.
Published training: 32 steps a chunk, AdamW 5e-5 without weight decay, batch 256.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from lattok.action_vq.base import MAX_HORIZON, ActionKind
from lattok.action_vq.coarse_to_fine import CoarseToFine
from lattok.action_vq.level_tokenizer import ActionDecoder, LevelsConfig, LevelTokenizer, causal_mask
from lattok.hub import checkpoint
from lattok.nn.blocks import sinusoids
from lattok.nn.normalize import Normalization
from lattok.utils import checks

BIASED = {"uniform": 0, "linear_biased": 1, "quadratic_biased": 2, "cubic_biased": 3}  # chance of k tokens: k^n
STEPS = "encoder.pos_emb.posembs"  # in a published file


@dataclass(frozen=True)
class OATConfig(LevelsConfig):
    """Architecture of `OAT`. Defaults: as published; its chunks have 32 steps.

    Attributes:
        tokens: codes of a chunk, one for each register
        nested_dropout: how many tokens are kept in training: "pow2" 1, 2, 4, ... or all; "uniform" any number;
            "linear_biased", "quadratic_biased", "cubic_biased" larger ones more often; "disable" all
    """

    normalize: Normalization = "min_max"
    tokens: int = 8
    nested_dropout: Literal["pow2", "uniform", "linear_biased", "quadratic_biased", "cubic_biased", "disable"] = "pow2"

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.counts(1, MAX_HORIZON, tokens=self.tokens)


def chances(kind: str, tokens: int) -> Tensor:
    """Return in proportion how often 1, 2, ..., `tokens` are kept, [tokens]."""
    count = torch.arange(1, tokens + 1)
    if kind in BIASED:
        return count.float() ** BIASED[kind]
    power = (count & (count - 1)) == 0
    return ((count == tokens) | (power if kind == "pow2" else count < 0)).float()


def positions(count: int, dim: int) -> Tensor:
    """Tabulate sines in the first half of the channels and cosines in the second, [count, dim]."""
    return sinusoids(torch.arange(count), dim).unflatten(-1, (-1, 2)).transpose(-2, -1).flatten(-2)


def norm(x: Tensor) -> Tensor:
    """Normalise the last axis, without weights."""
    return F.layer_norm(x, x.shape[-1:])


class RegisterBlock(nn.Module):
    """x += attention(norm x), with normalised queries and keys; x += W2 (silu(W1 norm x) * W3 norm x); no biases."""

    def __init__(self, config: OATConfig):
        super().__init__()
        dim, inner = config.dim, 2 * 4 * config.dim // 3
        self.heads = config.heads
        self.query, self.key_value = nn.Linear(dim, dim, bias=False), nn.Linear(dim, 2 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)
        self.widen, self.narrow = nn.Linear(dim, 2 * inner, bias=False), nn.Linear(inner, dim, bias=False)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor, first: int = 0) -> Tensor:
        """Transform x [B, n, D], and return its rows from `first` on."""
        seen = norm(x)
        q = rearrange(self.query(seen[:, first:]), "b n (h d) -> b h n d", h=self.heads)
        k, v = rearrange(self.key_value(seen), "b n (two h d) -> two b h n d", two=2, h=self.heads)
        mixed = F.scaled_dot_product_attention(norm(q), norm(k), v, mask[first:])
        x = x[:, first:] + self.dropout(self.out(rearrange(mixed, "b h n d -> b n (h d)")))
        gate, value = self.widen(norm(x)).chunk(2, -1)
        return x + self.dropout(self.narrow(F.silu(gate) * value))


class OAT(LevelTokenizer, CoarseToFine):
    """Chunks [B, H, m] to `tokens` codes each, coarse to fine: the first p codes of a row decode on their own.

    >>> tokenizer = OAT.fit(chunks, steps=2000)                  # [N, H, m] in physical units
    >>> rough = tokenizer.decode(tokenizer.encode(chunks)[:, :3])
    """

    type = "oat"
    arxiv = "2602.04215"
    config_class = OATConfig
    config: OATConfig

    def __init__(self, config: OATConfig):
        super().__init__(config)
        dim, scalars, places = config.dim, len(config.levels), positions(config.horizon, config.dim)
        self.embed = nn.Linear(config.action_dim, dim)
        self.registers = nn.Parameter(0.02 * torch.randn(config.tokens, dim))
        self.blocks = nn.ModuleList(RegisterBlock(config) for _ in range(config.encoder_depth))
        self.to_latents, self.from_quantized = nn.Linear(dim, scalars), nn.Linear(scalars, dim)
        self.dropped = nn.Parameter(0.02 * torch.randn(dim))  # in the place of a token that is not kept, wherever
        self.decoder = ActionDecoder(config, config.heads, places)
        self.head = nn.Linear(dim, config.action_dim)
        mask = ~causal_mask(config.horizon + config.tokens)  # a register sees those up to itself,
        mask[: config.horizon, : config.horizon] = True  # an action all actions, and no register
        self.places, self.mask = nn.Buffer(places, persistent=False), nn.Buffer(mask, persistent=False)
        self.token_places = nn.Buffer(positions(config.tokens, dim), persistent=False)
        self.chances = nn.Buffer(chances(config.nested_dropout, config.tokens), persistent=False)

    def _latents(self, actions: Tensor) -> Tensor:
        x = self.embed(actions) + self.places
        x = torch.cat([x, self.registers.expand(len(x), -1, -1)], 1)  # b (h k) d
        for block in self.blocks[:-1]:
            x = block(x, self.mask)
        return self.to_latents(norm(self.blocks[-1](x, self.mask, self.horizon)))  # no action is asked for any more

    def _actions(self, quantized: Tensor, kept: Tensor | None = None) -> Tensor:
        """Decode the first `kept` [B] of quantized latents [B, K, d]: drawn in training, else all by default."""
        memory = self.from_quantized(quantized) + self.token_places
        if kept is None and self.training:
            kept = torch.multinomial(self.chances, len(memory), replacement=True) + 1
        if kept is not None:
            left = torch.arange(self.config.tokens, device=memory.device) < kept[:, None]
            memory = torch.where(left[..., None], memory, self.dropped)
        return self.head(norm(self.decoder(memory)))

    def _decode_block(self, codes: Tensor) -> Tensor:
        return self.limits(self._actions(self.grid.lookup(codes.clamp_min(0)), (codes >= 0).sum(1)))


@checkpoint.importer("oat", sign=r"decoder\.nested_dropout\.dropout_mask_token$")
def oat(
    path: checkpoint.FilePath,
    config: checkpoint.Settings,
    *,
    entry: str | None = None,
    prefix: str = "",
    action_names: tuple[str, ...] = (),
    action_kind: ActionKind = "unspecified",
) -> OAT:
    """Read a published tokenizer of OAT, with its normaliser.

    Example: lattok convert oat oat.safetensors my-tokenizer --config oat.yaml

    Args:
        path: The checkpoint, .pt or .safetensors.
        config: Settings that the tokenizer was built with, a dictionary or a .json or .yaml file: levels of the
            quantizer, head_dim of the encoder; head_dim, use_causal_decoder, token_dropout_mode, pdropout of decoder.
        entry: Name under which a pickled training state holds the weights, such as state_dicts.ema_model.
        prefix: Prefix of the tokenizer's tensors in a larger file; other tensors are ignored.
        action_names: Names of the action dimensions, for reports.
        action_kind: relative, absolute or unspecified.
    """
    settings = checkpoint.published_settings(config)
    foreign = checkpoint.read_system(path, "oat", entry, prefixes=(prefix,))
    dim = checkpoint.axis_of(foreign, "encoder.registers", 1, OATConfig.dim)
    head_dim = checkpoint.setting(settings, "encoder.head_dim", int)
    if checkpoint.setting(settings, "decoder.head_dim", int) != head_dim:
        checks.fail("decoder.head_dim", f"that of the encoder, {head_dim}", settings["decoder"]["head_dim"])
    checks.divides(dim, f"the width {dim} in the file", **{"encoder.head_dim": head_dim})
    if STEPS not in foreign:
        checks.fail(str(path), f"{STEPS}, which tells how many steps a chunk has", "none")
    made = OATConfig(
        action_dim=checkpoint.axis_of(foreign, "encoder.sample_emb.patch_proj.weight", 1, 7),
        horizon=checkpoint.axis_of(foreign, STEPS, 2, OATConfig.horizon),
        action_names=tuple(action_names),
        action_kind=action_kind,
        levels=checkpoint.setting(settings, "quantizer.levels", tuple[int, ...]),
        dim=dim,
        heads=dim // head_dim,
        encoder_depth=checkpoint.numbered(foreign, r"encoder\.transformer\.blocks\.(\d+)\.") or OATConfig.encoder_depth,
        decoder_depth=checkpoint.numbered(foreign, r"decoder\.decoder\.layers\.(\d+)\.") or OATConfig.decoder_depth,
        causal_decoder=checkpoint.setting(settings, "decoder.use_causal_decoder", bool),
        tokens=checkpoint.axis_of(foreign, "encoder.registers", 0, OATConfig.tokens),
        nested_dropout=checkpoint.setting(settings, "decoder.token_dropout_mode", str, OATConfig.nested_dropout),
        dropout=checkpoint.setting(settings, "decoder.pdropout", float, OATConfig.dropout),
    )
    unused = [name for name in foreign if name == "_dummy_variable" or "input_stats" in name or "posembs" in name]
    model = checkpoint.converted(lambda: OAT(made), foreign, key_map(made), str(path), unused, kept=("low", "high"))
    tables = {"encoder.pos_emb": model.places, "decoder.sample_pos_emb": model.places}
    for name, table in (tables | {"decoder.latent_pos_emb": model.token_places}).items():
        given = f"{name}.posembs"
        stored = foreign[given] if given in foreign else table.T[None]
        if stored.shape != (1, *table.T.shape) or not torch.allclose(stored[0].T.float(), table, atol=1e-3):
            checks.fail(str(path), f"sines and cosines of {len(table)} places as {name}.posembs", "another table")
    return model


def key_map(config: OATConfig) -> checkpoint.KeyMap:
    """Map our tensors to the published names; a published normaliser multiplies where ours divides."""
    with torch.device("meta"):
        layers = [name for name in OAT(config).saved_tensors() if name.startswith("decoder.layers.")]
    names = {"embed": "encoder.sample_emb.patch_proj", "to_latents": "encoder.head.proj"}
    names |= {"from_quantized": "decoder.latent_proj.proj", "head": "decoder.head.proj"}
    scale, offset = (f"normalizer.params_dict.action.{name}" for name in ("scale", "offset"))
    tensors: dict[str, str | checkpoint.Join] = {
        "registers": "encoder.registers",
        "dropped": "decoder.nested_dropout.dropout_mask_token",
        "normalizer.scale": checkpoint.Join((scale,), torch.reciprocal),
        "normalizer.shift": checkpoint.Join((offset, scale), lambda offset, scale: -offset / scale),
    }
    for i in range(config.encoder_depth):
        ours, theirs = f"blocks.{i}", f"encoder.transformer.blocks.{i}"
        tensors[f"{ours}.query.weight"] = f"{theirs}.attn.wq.weight"
        tensors[f"{ours}.key_value.weight"] = checkpoint.stacked(f"{theirs}.attn.wk.weight", f"{theirs}.attn.wv.weight")
        tensors[f"{ours}.out.weight"] = f"{theirs}.attn.proj.weight"
        tensors[f"{ours}.widen.weight"] = checkpoint.stacked(f"{theirs}.mlp.fc1.weight", f"{theirs}.mlp.fc3.weight")
        tensors[f"{ours}.narrow.weight"] = f"{theirs}.mlp.fc2.weight"
    return checkpoint.layer_names(names) | tensors | {name: f"decoder.{name}" for name in layers}
