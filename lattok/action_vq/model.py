"""Action tokenizer of "From Pixels to Tokens" (Lin et al., 2026), section 3.2.2 and appendix A.2.

    latents = Encoder(actions)          c in R^{H x d}       Eq. 2
    codes   = VQ(latents)               one code per step
    actions^ = Decoder(codebook[codes])

The encoder sees each step together with the spectrum of the whole chunk.

The losses are pure functions over valid elements. "mean" is over all that counts. "sum" is as printed: over the steps
and dimensions of a chunk, then the mean over the batch; relative to one another the terms are then those of the paper.
What autocast rounded is compared in float32.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
from einops import rearrange
from torch import Tensor, nn

from lattok.action_vq.base import Repair
from lattok.action_vq.chunks import TrainedFit
from lattok.action_vq.learned import TrainedConfig, TrainedTokenizer, near_codes
from lattok.nn.blocks import PostNormBlock, upcast
from lattok.nn.quantize import QuantizerConfig, VectorQuantizer
from lattok.types import ActionBatch, LatentActions, LossTerms
from lattok.utils import checks

QUICK_MODEL = {"dropout": 0.0}  # in a short run dropout costs reconstruction before it can help


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
        dropout: dropout in the Transformer layers, in training
        decoder: "step", the paper's MLP, decodes one code at a time; "context" sees all codes of the chunk
        commitment_weight: weight of the loss that keeps latents near their codes
        loss_reduction: how losses are reduced; "sum" over steps and dimensions is Eq. 16 to 18 as printed
        mask_weight: weight of the mask loss; the paper's 0.1 raises the error by a third
            (docs/decisions/action_tokenizers.md)
        mask_ratio: share of the steps that the mask loss leaves out
        mask_passes: passes of the mask loss; 2: Eq. 16 from unmasked latents; 1: as the published code, one masked pass
            for everything
        mask_detach_target: gives the target of the mask loss no gradient
        codebook_start: how the codebook begins: from the first latents ("kmeans"), or at random, "uniform" in ±1/K or
            "normal" with deviation 1
        continuous_steps: training steps that pass latents through before the codebook starts
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
    decoder: str = "step"

    commitment_weight: float = 0.25
    loss_reduction: str = "mean"
    mask_weight: float = 0.0
    mask_ratio: float = 0.15
    mask_passes: int = 2
    mask_detach_target: bool = False

    codebook_start: str = "kmeans"
    continuous_steps: int = 0
    decay: float = 0.99
    revive_below: float = 0.03

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.counts(dim=self.dim, hidden=self.hidden, depth=self.depth, heads=self.heads)
        checks.counts(2, codebook_size=self.codebook_size)
        checks.counts(**{f"dilations[{i}]": r for i, r in enumerate(self.dilations)})
        checks.at_least_zero(mask_weight=self.mask_weight, commitment_weight=self.commitment_weight)
        checks.one_of("decoder", self.decoder, ("step", "context"))
        checks.one_of("loss_reduction", self.loss_reduction, ("mean", "sum"))
        checks.one_of("mask_passes", self.mask_passes, (1, 2))
        checks.below_one(dropout=self.dropout, mask_ratio=self.mask_ratio)

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

    Of n valid steps either ⌊n ratio⌋ or one more are masked, so that their mean is n ratio; hence at least one where
    n ratio is 1 or more.
    """
    wanted = (valid.sum(1) * ratio + torch.rand(len(valid), device=valid.device)).floor()  # b
    order = torch.rand(valid.shape, device=valid.device).masked_fill(~valid, 2.0).argsort(1)
    return (order.argsort(1) < wanted[:, None]) & valid  # each step's place in a random order, the valid ones first


class Spectrum(nn.Module):
    """Discrete Fourier transform over the steps: [B, H, m] to [B, H, 2m], real parts then imaginary parts."""

    def forward(self, actions: Tensor) -> Tensor:
        if not len(actions):  # some builds of the transform refuse empty batches
            return actions.new_zeros(0, actions.shape[1], 2 * actions.shape[2])
        half = actions.dtype in (torch.float16, torch.bfloat16)
        spectrum = torch.fft.fft(actions.float() if half else actions, dim=1)
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

    def before(self, actions: Tensor) -> Tensor:
        """Return what the first ReLU sees, [B, d, H], which is linear in `actions`."""
        if self.spectrum is not None:
            actions = torch.cat([actions, self.spectrum(actions)], dim=-1)  # b h 3m
        x = rearrange(self.project(actions), "b h d -> b d h")
        return self.convs[0](x) if self.convs else x

    def forward(self, actions: Tensor) -> Tensor:
        x = self.before(actions)
        for conv in self.convs[1:]:
            x = conv(x.relu())
        x = x.relu() if self.convs else x
        return self.transformer(rearrange(x, "b d h -> b h d"))


class StepDecoder(nn.Module):
    """One code vector at a time through an MLP (paper): it can emit only as many actions as there are codes."""

    def __init__(self, config: ActionVQConfig):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(config.dim, config.hidden), nn.ReLU(), nn.Linear(config.hidden, config.action_dim)
        )

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
    quick_options = MappingProxyType(QUICK_MODEL)

    def __init__(self, config: ActionVQConfig):
        super().__init__(config)
        self.encoder = Encoder(config)
        book = QuantizerConfig(config.dim, config.codebook_size, start=config.codebook_start, decay=config.decay)
        book = replace(book, continuous_steps=config.continuous_steps, revive_below=config.revive_below)
        self.quantizer = VectorQuantizer(book)
        self.decoder = ContextDecoder(config) if config.decoder == "context" else StepDecoder(config)
        self.vocab_size, self.tokens_per_chunk = config.codebook_size, config.horizon

    def summary(self) -> str:
        c = self.config
        fft = "with" if c.fft else "without"
        return (
            f"{c.action_dim} action dimensions, {c.codebook_size} codes of width {c.dim}, {len(c.dilations)} "
            f"convolutions, {c.depth} Transformer layers, {fft} FFT; normalisation: {c.normalize}"
        )

    def _encode(self, actions: Tensor, valid: Tensor | None = None) -> Tensor:
        return self.quantizer(self.encoder(actions)).codes

    def _decode(self, codes: Tensor) -> Tensor:
        return self.decoder(self.quantizer.lookup(codes))

    def _repair(self, codes: Tensor) -> Repair:
        """Let a code that is missing or outside 0..K-1 repeat its neighbour."""
        codes, bad, notes = self._held(codes)
        return Repair(codes, bad[..., None], notes)

    def _latent_actions(self, actions: Tensor, valid: Tensor | None) -> LatentActions:
        latents = self.encoder(actions)
        codes = self.quantizer(latents).codes
        return LatentActions(codes, latents, self.quantizer.lookup(codes))

    def _terms(self, actions: Tensor, valid: Tensor, masked: Tensor | None = None) -> LossTerms:
        """Return the loss terms of a batch.

        `masked` [B, H] bool: the steps whose latents are zeroed for the mask loss; drawn at random by default.
        """
        steps, config, latents = valid.any(-1), self.config, self.encoder(actions)
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
            damaged = self.quantizer(latents.masked_fill(masked[..., None], 0.0), update=False).vectors
            predicted = self.decoder(damaged)
        if masked is not None:
            terms["mask"] = self._consistency(predicted, ActionBatch(actions, valid), latents, masked)
        if config.perturb:
            book = self.quantizer.codebook_vectors[0]
            moved = quantized.vectors + self._shift(book[quantized.codes], book[near_codes(quantized.codes, book)])
            terms["perturbed"] = reconstruction(self.decoder(moved), actions, valid, config.loss_reduction)
        return terms

    def _consistency(self, predicted: Tensor, batch: ActionBatch, latents: Tensor, masked: Tensor) -> Tensor:
        # What is not there is padding on both sides: the decoder never learns it.
        predicted = torch.where(batch.valid, predicted, batch.chunks)
        # Detached: only the re-encoded side learns, the latents are the target.
        target = latents.detach() if self.config.mask_detach_target else latents
        return masked_consistency(self.encoder(predicted), target, masked, self.config.loss_reduction)
