"""Action tokenizer of "From Pixels to Tokens" (Lin et al., 2026), section 3.2.2 and appendix A.2.

    latents = Encoder(actions)          c in R^{H x d}       Eq. 2
    codes   = VQ(latents)               one code per step
    actions^ = Decoder(codebook[codes])

The encoder sees each step beside the spectrum of the whole chunk.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from lattok import checks
from lattok.action_vq import losses
from lattok.action_vq.config import ActionVQConfig
from lattok.hub import HubModel
from lattok.nn import PostNormBlock
from lattok.normalize import Normalizer
from lattok.quantize import QuantizerConfig, VectorQuantizer
from lattok.types import ActionBatch, LatentActions, LossTerms


class Spectrum(nn.Module):
    """Discrete Fourier transform over the steps: [B, H, m] to [B, H, 2m], real parts then imaginary parts."""

    def forward(self, actions: Tensor) -> Tensor:
        if not len(actions):  # some builds of the transform refuse empty batches
            return actions.new_zeros(0, actions.shape[1], 2 * actions.shape[2])
        spectrum = torch.fft.fft(actions.float(), dim=1)
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


class P2TActionVQ(HubModel):
    """Turns action chunks [B, H, m] in physical units into H codes each, and back.

    >>> tokenizer = P2TActionVQ.from_pretrained("org/name")     # or a folder
    >>> codes = tokenizer.encode(chunks)                         # int64 [B, H]
    >>> chunks = tokenizer.decode(codes)                         # float32 [B, H, m]
    """

    type = "action-vq"
    config_class = ActionVQConfig
    label_source = "actions"

    def __init__(self, config: ActionVQConfig):
        super().__init__()
        self.config = config
        self.normalizer = Normalizer(config.action_dim)
        self.encoder = Encoder(config)
        self.quantizer = VectorQuantizer(
            QuantizerConfig(
                dim=config.dim,
                size=config.codebook_size,
                start=config.codebook_start,
                continuous_steps=config.continuous_steps,
                decay=config.decay,
                revive_below=config.revive_below,
            )
        )
        self.decoder = ContextDecoder(config) if config.decoder == "context" else StepDecoder(config)

    @property
    def horizon(self) -> int:
        """Steps per chunk."""
        return self.config.horizon

    @property
    def action_dim(self) -> int:
        """Action dimensions m."""
        return self.config.action_dim

    @property
    def vocab_size(self) -> int:
        """Number of codes K."""
        return self.config.codebook_size

    @property
    def tokens_per_chunk(self) -> int:
        """One code per step."""
        return self.config.horizon

    @torch.no_grad()
    def encode(self, chunks: Tensor, valid: Tensor | None = None) -> Tensor:
        """Chunks [B, H, m] in physical units to codes int64 [B, H].

        Shorter chunks, and steps where `valid` [B, H] is false, repeat the last valid action (A.2); longer ones,
        another m or non-finite numbers raise `LattokError`. Windows truncate, `encode` does not.
        """
        return self.latent_actions(chunks, valid).codes

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Codes [B, H] in [0, K) to chunks [B, H, m] in physical units. Every such sequence decodes."""
        if not isinstance(codes, Tensor):
            checks.fail("codes", "a torch tensor", type(codes).__name__, "Use torch.from_numpy(codes).")
        checks.rank("codes", codes, "B H")
        checks.size("codes", "codes per chunk", codes.shape[1], self.horizon)
        if codes.dtype.is_floating_point or codes.dtype == torch.bool:
            checks.fail("codes", "integers", f"dtype {codes.dtype}")
        if len(codes) and (int(codes.min()) < 0 or int(codes.max()) >= self.vocab_size):
            checks.fail("codes", f"values in 0..{self.vocab_size - 1}", f"{int(codes.min())}..{int(codes.max())}")
        quantized = self.quantizer.lookup(codes.to(self.normalizer.shift.device).long())
        with self._inference():
            return self.normalizer.inverse(self.decoder(quantized))

    @torch.no_grad()
    def latent_actions(self, chunks: Tensor, valid: Tensor | None = None) -> LatentActions:
        """Like `encode`, with the latents and quantized vectors [B, H, d] beside the codes."""
        actions, _ = self._prepare(chunks, valid)
        with self._inference():
            latents = self.encoder(actions)
            codes = self.quantizer(latents).codes
        return LatentActions(codes, latents, self.quantizer.lookup(codes))

    def forward(self, batch: ActionBatch) -> LossTerms:
        """Loss terms of a batch; `config.loss_weights` weights them."""
        actions, valid = self._prepare(batch.chunks, batch.valid)
        latents = self.encoder(actions)
        if self.config.mask_passes == 1:
            return self._one_pass(actions, latents, valid)
        vectors = self.quantizer(latents, valid=valid).vectors
        terms = {
            "reconstruction": losses.reconstruction(self.decoder(vectors), actions, valid),
            "commitment": losses.commitment(latents, vectors, valid),
        }
        if self.config.mask_weight > 0:
            masked = losses.draw_mask(valid, self.config.mask_ratio)
            # The masked pass asks for robust latents; it must not move the codebook.
            damaged = self.quantizer(latents.masked_fill(masked[..., None], 0.0), update=False).vectors
            terms["mask"] = self._consistency(self.decoder(damaged), latents, masked)
        return terms

    def _one_pass(self, actions: Tensor, latents: Tensor, valid: Tensor) -> LossTerms:
        """The published code's single masked pass for every term."""
        masked = losses.draw_mask(valid, self.config.mask_ratio)
        damaged = latents.masked_fill(masked[..., None], 0.0)
        vectors = self.quantizer(damaged, valid=valid).vectors
        predicted = self.decoder(vectors)
        return {
            "reconstruction": losses.reconstruction(predicted, actions, valid),
            "commitment": losses.commitment(damaged, vectors, valid),
            "mask": self._consistency(predicted, latents, masked),
        }

    def _consistency(self, predicted: Tensor, latents: Tensor, masked: Tensor) -> Tensor:
        # Detached: only the re-encoded side learns, the latents are the target.
        target = latents.detach() if self.config.mask_detach_target else latents
        return losses.masked_consistency(self.encoder(predicted), target, masked, self.config.mask_reduction)

    def _prepare(self, chunks: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
        """Check, pad by the last valid action and normalise: ([B, H, m], [B, H])."""
        if not isinstance(chunks, Tensor):
            checks.fail("chunks", "a torch tensor", type(chunks).__name__, "Use torch.from_numpy(chunks).")
        checks.rank("chunks", chunks, "B H m")
        names = f" ({', '.join(self.config.action_names)})" if self.config.action_names else ""
        if chunks.shape[-1] != self.action_dim:
            checks.fail(
                "chunks",
                f"{self.action_dim} action dimensions{names}, as the tokenizer was trained on",
                f"{chunks.shape[-1]}",
                "Select or add columns, or train a tokenizer on this dataset.",
            )
        steps = chunks.shape[1]
        if not 1 <= steps <= self.horizon:
            checks.fail("chunks", f"1 to {self.horizon} steps", f"{steps}", "Cut longer chunks into windows.")
        chunks = chunks.to(self.normalizer.shift)
        if valid is None:
            valid = torch.ones(chunks.shape[:2], dtype=torch.bool)
        checks.rank("valid", valid, "B H")
        valid = valid.to(chunks.device, torch.bool)
        if valid.shape != chunks.shape[:2]:
            checks.fail("valid", f"shape {list(chunks.shape[:2])}", f"{list(valid.shape)}")
        if not bool(valid[:, 0].all()) or not bool((valid[:, 1:] <= valid[:, :-1]).all()):
            checks.fail("valid", "true steps first, then padding", "another order")
        last = valid.sum(1) - 1
        index = torch.minimum(torch.arange(self.horizon, device=chunks.device), last[:, None])  # b h
        chunks = chunks.gather(1, index[..., None].expand(-1, -1, self.action_dim))
        if not bool(torch.isfinite(chunks).all()):
            checks.fail("chunks", "finite actions", "NaN or infinity")
        inside = torch.arange(self.horizon, device=chunks.device) <= last[:, None]
        return self.normalizer(chunks), inside
