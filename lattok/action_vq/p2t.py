"""Action tokenizer of "From Pixels to Tokens" (Lin et al., 2026), section 3.2.2 and appendix A.2.

    latents = Encoder(actions)          c in R^{H x d}       Eq. 2
    codes   = VQ(latents)               one code per step
    actions^ = Decoder(codebook[codes])

The encoder sees each step together with the spectrum of the whole chunk.

The losses are pure functions over valid elements. "mean" is over all that counts. "sum" is as printed: over the steps
and dimensions of a chunk, then the mean over the batch; relative to one another the terms are then those of the paper.
What autocast rounded is compared in float32.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from einops import rearrange
from torch import Tensor, nn
from typing_extensions import Self

from lattok.action_vq.base import MAX_HORIZON, ActionKind, Repair
from lattok.action_vq.chunks import Arrays, TrainedFit
from lattok.action_vq.learned import TrainedConfig, TrainedTokenizer, near_codes
from lattok.hub import checkpoint
from lattok.nn.blocks import PostNormBlock, upcast
from lattok.nn.normalize import read_statistics
from lattok.nn.quantize import MOST_CODES, QuantizerConfig, Start, VectorQuantizer, check_warm_up
from lattok.types import ActionBatch, LatentActions, LossTerms
from lattok.utils import checks
from lattok.utils.arrays import Values


@dataclass(frozen=True)
class ActionVQConfig(TrainedConfig):
    """Architecture and losses of `P2TActionVQ`. Defaults: LIBERO, P2T appendix A.2.

    Attributes:
        dim: width of a code
        codebook_size: codes to choose from
        fft: the encoder also sees the chunk's spectrum
        dilations: dilations of the encoder's convolutions
        depth: Transformer layers of the encoder, and of the context decoder
        heads: attention heads
        hidden: width inside the MLPs
        dropout: dropout in the Transformer layers, in training; 0 in short runs, where it costs reconstruction before
            it can help
        decoder: "step", the paper's MLP, decodes one code at a time; "context" sees all codes of the chunk
        commitment_weight: weight of the loss that keeps latents near their codes
        loss_reduction: how losses are reduced; "sum" over steps and dimensions is Eq. 16 to 18 as printed
        mask_weight: weight of the mask loss; the paper's 0.1 raises the error by a third
            (docs/decisions/action_tokenizers.md)
        mask_ratio: share of the steps that the mask loss leaves out
        mask_passes: passes of the mask loss; 2: Eq. 16 from unmasked latents; 1: as the published code, one masked pass
            for everything
        mask_detach_target: stops the gradient at the target of the mask loss
        codebook_start: how the codebook begins: from the first latents ("kmeans"), or at random, "uniform" in ±1/K or
            "normal" with deviation 1
        continuous_steps: training steps that pass latents through before the codebook starts, where codebook_start is
            kmeans; random codebooks start at once
        decay: decay per step of the moving averages that the codebook is made of
        revive_below: a code is dead below this share of the mean use; 0 switches revival off
    """

    dim: int = 128
    codebook_size: int = 256
    fft: bool = True
    dilations: tuple[int, ...] = (1, 2, 4)
    depth: int = 2
    heads: int = 4
    hidden: int = 256
    dropout: float = 0.1
    decoder: Literal["step", "context"] = "step"

    commitment_weight: float = 0.25
    loss_reduction: Literal["mean", "sum"] = "mean"
    mask_weight: float = 0.0
    mask_ratio: float = 0.15
    mask_passes: int = 2
    mask_detach_target: bool = False

    codebook_start: Start = "kmeans"
    continuous_steps: int = 0
    decay: float = 0.99
    revive_below: float = 0.03

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.counts(dim=self.dim, hidden=self.hidden, depth=self.depth, heads=self.heads)
        checks.counts(2, MOST_CODES, codebook_size=self.codebook_size)
        if not isinstance(self.dilations, tuple | list):
            checks.fail("dilations", "a number for each convolution", f"{self.dilations!r:.60}")
        checks.counts(1, MAX_HORIZON, **{f"dilations[{i}]": r for i, r in enumerate(self.dilations)})
        checks.at_least_zero(mask_weight=self.mask_weight, commitment_weight=self.commitment_weight)
        checks.one_of("mask_passes", self.mask_passes, (1, 2))
        checks.whole(continuous_steps=self.continuous_steps)
        checks.at_least_zero(revive_below=self.revive_below)
        checks.below_one(dropout=self.dropout, mask_ratio=self.mask_ratio, decay=self.decay)

    @property
    def loss_weights(self) -> dict[str, float]:
        """Return the weight of each loss term (Eq. 16)."""
        return self.weighted(reconstruction=1.0, commitment=self.commitment_weight, mask=self.mask_weight)


@dataclass(frozen=True)
class ActionVQFit(TrainedFit):
    """How a short run trains: about one minute on two cores. Recipes (`lattok.train`) also save, log and resume."""

    steps: int = 1000
    lr: float = 2e-3
    batch_size: int = 128


def reconstruction(predicted: Tensor, actions: Tensor, valid: Tensor, reduction: str = "mean") -> Tensor:
    """Return the squared error of what is valid (Eq. 16): predicted, actions, valid (bool) [B, H, m]."""
    return _reduced((upcast(predicted) - actions).square(), valid, reduction)


def commitment(latents: Tensor, rows: Tensor, valid: Tensor, reduction: str = "mean") -> Tensor:
    """Return |latents - sg(rows)|^2 of valid steps (Eq. 17), [B, H, d], [B, H]: only the encoder moves."""
    return _reduced((upcast(latents) - rows.detach()).square(), valid[..., None].expand_as(latents), reduction)


def masked_consistency(re_encoded: Tensor, latents: Tensor, masked: Tensor, reduction: str = "mean") -> Tensor:
    """Compare re-encoded with original latents [B, H, d] at masked steps [B, H] (Eq. 18)."""
    return _reduced((upcast(re_encoded) - upcast(latents)).square(), masked[..., None].expand_as(latents), reduction)


def _reduced(errors: Tensor, counts: Tensor, reduction: str) -> Tensor:
    """Reduce errors [B, H, n] where `counts` (bool, of the same shape) holds."""
    total = (errors * counts).sum()
    return total / max(1, len(errors)) if reduction == "sum" else total / counts.sum().clamp_min(1)


def draw_mask(valid: Tensor, ratio: float) -> Tensor:
    """Mask `ratio` of the valid steps of each sample, bool [B, H]: every one of them with that probability.

    Of n valid steps either ⌊n ratio⌋ or one more are masked, so that their mean is n ratio.
    """
    wanted = (valid.sum(1) * ratio + torch.rand(len(valid), device=valid.device)).floor()  # b
    order = torch.rand(valid.shape, device=valid.device).masked_fill(~valid, 2.0).argsort(1)
    return (order.argsort(1) < wanted[:, None]) & valid  # each step's place in a random order, the valid ones first


class Spectrum(nn.Module):
    """Discrete Fourier transform over the steps: [B, H, m] to [B, H, 2m], real parts then imaginary parts."""

    def forward(self, actions: Tensor) -> Tensor:
        if not len(actions):  # some builds of the transform refuse empty batches
            return actions.new_zeros(0, actions.shape[1], 2 * actions.shape[2])
        spectrum = torch.fft.fft(upcast(actions), dim=1)
        return torch.cat([spectrum.real, spectrum.imag], dim=-1).to(actions.dtype)


class Encoder(nn.Module):
    """Normalised actions [B, H, m] to latents [B, H, d]."""

    def __init__(self, config: ActionVQConfig):
        super().__init__()
        d = config.dim
        self.spectrum = Spectrum() if config.fft else None
        self.project = nn.Linear((3 if config.fft else 1) * config.action_dim, d)
        self.convs = nn.ModuleList(nn.Conv1d(d, d, 3, padding=r, dilation=r) for r in config.dilations)
        blocks = (PostNormBlock(d, config.heads, config.hidden, config.dropout) for _ in range(config.depth))
        self.transformer = nn.Sequential(*blocks)

    def forward(self, actions: Tensor) -> Tensor:
        if self.spectrum is not None:
            actions = torch.cat([actions, self.spectrum(actions)], dim=-1)  # b h 3m
        x = rearrange(self.project(actions), "b h d -> b d h")
        for conv in self.convs:
            x = conv(x).relu()
        return self.transformer(rearrange(x, "b d h -> b h d"))


class StepDecoder(nn.Module):
    """One code vector at a time through an MLP (paper): it can emit only as many actions as there are codes."""

    def __init__(self, config: ActionVQConfig):
        super().__init__()
        first, last = nn.Linear(config.dim, config.hidden), nn.Linear(config.hidden, config.action_dim)
        self.net = nn.Sequential(first, nn.ReLU(), last)

    def forward(self, quantized: Tensor) -> Tensor:
        return self.net(quantized)


class ContextDecoder(nn.Module):
    """A Transformer over all code vectors of the chunk: neighbours refine each step, so K does not bound it."""

    def __init__(self, config: ActionVQConfig):
        super().__init__()
        d = config.dim
        self.positions = nn.Parameter(torch.randn(config.horizon, d) * 0.02)
        blocks = (PostNormBlock(d, config.heads, config.hidden, config.dropout) for _ in range(config.depth))
        self.transformer = nn.Sequential(*blocks)
        self.out = nn.Linear(d, config.action_dim)

    def forward(self, quantized: Tensor) -> Tensor:
        return self.out(self.transformer(quantized + self.positions))


class P2TActionVQ(TrainedTokenizer):
    """Turns action chunks [B, H, m] in physical units into H codes each, and back.

    >>> tokenizer = P2TActionVQ.from_pretrained("org/name")     # or a folder
    >>> codes = tokenizer.encode(chunks)                         # int64 [B, H]
    >>> chunks = tokenizer.decode(codes)                         # float32 [B, H, m]
    """

    type = "action-vq"
    arxiv = "2605.04678"
    per_step = True
    config_class = ActionVQConfig
    config: ActionVQConfig
    fit_options = ActionVQFit

    def __init__(self, config: ActionVQConfig):
        super().__init__(config)
        self.encoder = Encoder(config)
        book = QuantizerConfig(config.dim, config.codebook_size, start=config.codebook_start, decay=config.decay)
        book = replace(book, continuous_steps=config.continuous_steps, revive_below=config.revive_below)
        self.quantizer = VectorQuantizer(book)
        self.decoder = ContextDecoder(config) if config.decoder == "context" else StepDecoder(config)
        self.vocab_size, self.tokens_per_chunk = config.codebook_size, config.horizon

    @classmethod
    def _begin(
        cls, chunks: Arrays, valid: Values | None, options: dict[str, Any], how: Any
    ) -> tuple[Self, ActionBatch]:
        model, batch = super()._begin(chunks, valid, {"dropout": 0.0, **options}, how)
        check_warm_up("continuous_steps", model.config.continuous_steps, how.steps)
        return model, batch

    def summary(self) -> str:
        c, fft = self.config, "with" if self.config.fft else "without"
        return (
            f"{c.action_dim} action dimensions, {c.codebook_size} codes of width {c.dim}, {len(c.dilations)} "
            f"convolutions, {c.depth} Transformer layers, {fft} FFT; normalisation: {c.normalize}"
        )

    def _encode(self, actions: Tensor, valid: Tensor | None = None) -> Tensor:
        return self.quantizer.codes_of(self.encoder(actions))

    def _decode(self, codes: Tensor) -> Tensor:
        return self.decoder(self.quantizer.lookup(codes))

    def _repair(self, codes: Tensor) -> Repair:
        """Let a code that is missing or outside 0..K-1 repeat its neighbour."""
        codes, bad, notes = self._held(codes)
        return Repair(codes, bad[..., None], notes)

    def _latent_actions(self, actions: Tensor, valid: Tensor | None) -> LatentActions:
        latents = self.encoder(actions)
        codes = self.quantizer.codes_of(latents)
        return LatentActions(codes, latents, self.quantizer.lookup(codes))

    def _terms(self, actions: Tensor, valid: Tensor, masked: Tensor | None = None) -> LossTerms:
        """Return the loss terms; `masked` [B, H] bool: whose latents are zeroed for the mask loss, drawn by default."""
        # one copy in float32 for the quantizer and all terms
        steps, config, latents = valid.any(-1), self.config, upcast(self.encoder(actions))
        one_pass, coded = config.mask_passes == 1, latents
        if one_pass:  # every term from a single masked pass, as the published code does
            masked = draw_mask(steps, config.mask_ratio) if masked is None else masked
            coded = latents.masked_fill(masked[..., None], 0.0)
        quantized = self.quantizer(coded, valid=steps)
        predicted = self.decoder(quantized.vectors)
        terms = {
            "reconstruction": reconstruction(predicted, actions, valid, config.loss_reduction),
            "commitment": commitment(coded, quantized.vectors, steps, config.loss_reduction),
        }
        if not one_pass and (masked is not None or config.mask_weight > 0):
            masked = draw_mask(steps, config.mask_ratio) if masked is None else masked
            # The masked pass asks for robust latents; it must not move the codebook.
            predicted = self.decoder(self.quantizer(latents.masked_fill(masked[..., None], 0.0), update=False).vectors)
        if masked is not None:
            # What is not there is padding on both sides: the decoder never learns it.
            again = self.encoder(torch.where(valid, predicted, actions))
            # Detached: only the re-encoded side learns, the latents are the target.
            target = latents.detach() if config.mask_detach_target else latents
            terms["mask"] = masked_consistency(again, target, masked, config.loss_reduction)
        if config.perturb:
            book = self.quantizer.codebook_vectors[0]
            moved = quantized.vectors
            if self.quantizer.started:
                moved = moved + self._shift(book[quantized.codes], book[near_codes(quantized.codes, book)])
            terms["perturbed"] = reconstruction(self.decoder(moved), actions, valid, config.loss_reduction)
        return terms


# Training of an imported model goes on as the published code trains; it also does not revive codes.
PUBLISHED = {"mask_weight": 1.0, "mask_passes": 1, "mask_detach_target": False, "revive_below": 0.0}
TRAINING = ("commitment_weight", "mask_ratio", "loss_reduction", "decay", *PUBLISHED)
LAYERS = {  # of a block: ours, published
    "attention.out": "self_attn.out_proj",
    "ff.0": "linear1",
    "ff.3": "linear2",
    "norm1": "norm1",
    "norm2": "norm2",
}
OURS_ALONE = ("normalizer.shift", "normalizer.scale", "quantizer.steps")


@checkpoint.importer(
    "p2t-action-vq",
    sign=r"vq\.ema_w$",
    mind="The file does not say which statistics actions were normalised with: `--statistics`.",
)
def p2t_action_vq(
    path: checkpoint.FilePath,
    horizon: int,
    *,
    heads: int = 4,
    dilations: Sequence[int] = (1, 2, 4),
    dropout: float = 0.1,
    statistics: checkpoint.Settings | None = None,
    normalize: str | None = None,
    action_names: Sequence[str] = (),
    action_kind: ActionKind = "unspecified",
    **training: Any,
) -> P2TActionVQ:
    """Read a published action tokenizer (P2T, tokenizer_step_N.pt or safetensors).

    `training` replaces options of further training, which by default follow the published code.

    Example: lattok convert p2t-action-vq tokenizer_step_50000.pt my-tokenizer --horizon 8

    Args:
        path: The checkpoint.
        horizon: Steps of an action chunk; the file does not hold it (8 on LIBERO, 25 on RoboTwin, 20 on JAKA).
        heads: Attention heads; the file does not hold it.
        dilations: Dilation of each convolution; the file does not hold it.
        dropout: In the Transformer layers, if it is trained further.
        statistics: A mapping or JSON file with the statistics that actions were normalised with in training: mean and
            std, q01 and q99, or min and max, one number per dimension; or meta/stats.json of a LeRobot dataset. Without
            it, actions are not normalised.
        normalize: Which of several statistics: mean_std, quantile or min_max (default: the first one found).
        action_names: Names of the action dimensions, for reports.
        action_kind: relative, absolute or unspecified.
    """
    checks.known_keys("options", training, TRAINING)
    known, kind = read_statistics(statistics, normalize)
    foreign = checkpoint.read_system(path, "p2t-action-vq")
    config = ActionVQConfig(
        horizon=horizon,
        heads=heads,
        dilations=tuple(dilations),
        dropout=dropout,
        normalize=kind,
        action_names=tuple(action_names),
        action_kind=action_kind,
        **sizes(foreign),
        **{**PUBLISHED, **training},
    )
    convolutions = checkpoint.numbered(foreign, r"encoder\.conv(\d+)\.") or len(dilations)
    checks.size("dilations", "numbers, one for each convolution in the file", len(dilations), convolutions)
    checks.divides(config.dim, f"the width {config.dim} in the file", heads=heads)
    model = checkpoint.converted(lambda: P2TActionVQ(config), foreign, key_map(config), str(path), kept=OURS_ALONE)
    model.quantizer.steps.fill_(config.continuous_steps + 1)  # the codebook has started, training must not restart it
    if known is not None:
        model.normalizer.set(known)
    return model


def key_map(config: ActionVQConfig) -> checkpoint.KeyMap:
    names = {"encoder.project": "encoder.in_proj", **{f"decoder.net.{i}": f"decoder.net.{i}" for i in (0, 2)}}
    names |= {f"encoder.convs.{i}": f"encoder.conv{i + 1}" for i in range(len(config.dilations))}
    book = {"vectors": "embedding", "cluster_sum": "ema_w", "cluster_size": "cluster_size"}
    tensors: dict[str, Any] = {f"quantizer.codebooks.0.{ours}": f"vq.{theirs}" for ours, theirs in book.items()}
    for i in range(config.depth):
        place, their_place = f"encoder.transformer.{i}", f"encoder.transformer.layers.{i}"
        names |= {f"{place}.{ours}": f"{their_place}.{theirs}" for ours, theirs in LAYERS.items()}
        for name in ("weight", "bias"):  # q, k and v stand on one another in both
            tensors[f"{place}.attention.qkv.{name}"] = f"{their_place}.self_attn.in_proj_{name}"
    return checkpoint.layer_names(names) | tensors


def sizes(foreign: Mapping[str, Tensor]) -> dict[str, Any]:
    """Find the config fields that follow from the shapes; published ones where a tensor is missing, said later."""
    size = partial(checkpoint.axis_of, foreign)
    action_dim = size("decoder.net.2.weight", 0, 7)
    return {
        "action_dim": action_dim,
        "dim": size("encoder.in_proj.weight", 0, 128),
        "codebook_size": size("vq.embedding", 0, 256),
        "hidden": size("decoder.net.0.weight", 0, 256),
        "depth": checkpoint.numbered(foreign, r"encoder\.transformer\.layers\.(\d+)\.") or 2,
        "fft": size("encoder.in_proj.weight", 1, 3 * action_dim) != action_dim,
    }
