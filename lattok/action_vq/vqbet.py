"""VQ-BeT's residual VQ-VAE (Lee et al., 2024, section 3.2): one latent for a chunk, coded by levels of few codes each.

    latent = Encoder(chunk)                                 all of it at once, [H*m]
    code_g = argmin_k |left_g - C_g,k|^2                    left_1 = latent, left_g+1 = left_g - C_g,code_g
    chunk^ = Decoder(sum_g C_g,code_g)

    L = w |chunk - chunk^| + 5 sum_g |sg(C_g,code_g) - left_g|^2

Codebooks follow by moving averages. As published, the encoder gets the decoder's gradient once for each level.
"""

from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lattok.action_vq.coarse_to_fine import CoarseToFine
from lattok.action_vq.learned import TrainedConfig, TrainedTokenizer, near_codes
from lattok.hub import checkpoint
from lattok.nn.losses import action_loss
from lattok.nn.normalize import MOST_SIZE
from lattok.nn.quantize import QuantizerConfig, VectorQuantizer
from lattok.types import LatentActions, LossTerms
from lattok.utils import checks


@dataclass(frozen=True)
class VQBeTConfig(TrainedConfig):
    """Sizes and losses; the defaults are the published ones, but for `revive_below`.

    Attributes:
        tokens: codes of a chunk, one for each level
        codebook_size: codes to choose from in each level
        dim: width of the latent and of a code
        hidden: width inside the MLPs
        reconstruction_weight: weight of the absolute error of the decoded chunk
        commitment_weight: weight of the loss that keeps residuals near their codes
        decay: decay per step of the moving averages that codebooks are made of
        revive_below: a code is dead below this share of the mean use; 0 switches revival off
    """

    tokens: int = 2
    codebook_size: int = 16
    dim: int = 512
    hidden: int = 128
    reconstruction_weight: float = 1.0
    commitment_weight: float = 5.0
    decay: float = 0.8
    revive_below: float = 0.03

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.counts(tokens=self.tokens, dim=self.dim, hidden=self.hidden)
        checks.counts(2, codebook_size=self.codebook_size)
        checks.at_least_zero(reconstruction_weight=self.reconstruction_weight, commitment_weight=self.commitment_weight)
        checks.at_least_zero(revive_below=self.revive_below)
        checks.below_one(decay=self.decay)

    @property
    def loss_weights(self) -> dict[str, float]:
        return self.weighted(reconstruction=self.reconstruction_weight, commitment=self.commitment_weight)


class VQBeT(TrainedTokenizer, CoarseToFine):
    """Chunks [B, H, m] to `tokens` codes each, levels of one latent: the first p codes of a row decode on their own.

    >>> tokenizer = VQBeT.fit(chunks, steps=3000)                # [N, H, m] in physical units
    """

    type = "vqbet"
    arxiv = "2403.03181"
    config_class = VQBeTConfig
    config: VQBeTConfig
    loop_options = MappingProxyType({"weight_decay": 1e-4})  # published, as the learning rate is

    def __init__(self, config: VQBeTConfig):
        super().__init__(config)
        width = config.horizon * config.action_dim
        self.encoder = _mlp(width, config.hidden, config.dim)
        books = QuantizerConfig(config.dim, config.codebook_size, config.tokens, each_level=True)
        self.quantizer = VectorQuantizer(replace(books, decay=config.decay, revive_below=config.revive_below))
        self.decoder = _mlp(config.dim, config.hidden, width)

    def _terms(self, actions: Tensor, valid: Tensor) -> LossTerms:
        """Return the loss terms before clipping: an action beyond the limits still learns."""
        latents = self.encoder(actions.flatten(1))
        quantized = self.quantizer(latents)
        once_more = (self.config.tokens - 1) * (latents - latents.detach())  # zero, with the gradient of each level
        vectors = quantized.vectors + once_more
        terms = {"reconstruction": self._error(vectors, actions, valid), **quantized.losses}
        if self.config.perturb:
            codes, books = quantized.codes.view(len(actions), -1), self.quantizer.codebook_vectors
            pairs = [(book[code], book[near_codes(code, book)]) for code, book in zip(codes.T, books, strict=True)]
            moved = [self._shift(rows, near) for rows, near in pairs]
            terms["perturbed"] = self._error(vectors + sum(moved), actions, valid)
        return terms

    def _error(self, vectors: Tensor, actions: Tensor, valid: Tensor) -> Tensor:
        return action_loss(self.decoder(vectors).view_as(actions), actions, valid, "l1")

    def _encode(self, actions: Tensor, valid: Tensor | None = None) -> Tensor:
        return self.quantizer.codes_of(self.encoder(actions.flatten(1))).view(len(actions), self.config.tokens)

    def _latent_actions(self, actions: Tensor, valid: Tensor | None) -> LatentActions:
        latents = self.encoder(actions.flatten(1))
        codes = self.quantizer.codes_of(latents).view(len(actions), self.config.tokens)
        return LatentActions(codes, latents[:, None], self._vectors(codes)[:, None])

    def _decode(self, codes: Tensor) -> Tensor:
        return self.limits(self.decoder(self._vectors(codes)).view(-1, self.horizon, self.config.action_dim))

    def _vectors(self, codes: Tensor) -> Tensor:
        """Return the sums [B, d] of the rows of codes [B, P]; a negative one adds nothing."""
        if codes.is_cpu and codes.numel() and codes.numpy().min() >= 0:  # nearly always, in a third of the time
            return self.quantizer.lookup(codes).flatten(1)  # one level keeps its axis
        books = enumerate(self.quantizer.codebook_vectors)
        rows = [F.embedding(codes[:, i].clamp_min(0), book) * (codes[:, i, None] >= 0) for i, book in books]
        return torch.stack(rows).sum(0)


def _mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    first, second = nn.Linear(inputs, hidden), nn.Linear(hidden, hidden)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Linear(hidden, outputs))


OURS_ALONE = ("normalizer.shift", "normalizer.scale", "limits.low", "limits.high", "quantizer.steps")
LAYERS = {"0": "encoder.0", "2": "encoder.2", "4": "fc"}  # of an MLP: ours, published
PARTS = ("encoder", "decoder", "vq_embedding")  # entries of a published file, next to "optimizer"


@checkpoint.importer(
    "vqbet",
    sign=r"^vq_embedding\.layers\.0\._codebook\.embed$",
    mind="Actions are those that the model was trained on: the file has no normaliser but act_scale.",
)
def vqbet(path: checkpoint.FilePath, config: checkpoint.Settings) -> VQBeT:
    """Read a published residual VQ-VAE of VQ-BeT (trained_vqvae.pt, or safetensors).

    Further training follows the published code, without revival of codes.

    Example: lattok convert vqbet trained_vqvae.pt my-vqbet --config vqvae.yaml

    Args:
        path: The checkpoint; the optimizer in a .pt is ignored.
        config: Arguments of the model's constructor, in a .yaml or .json file or a dictionary: input_dim_h (steps),
            input_dim_w (action dimensions), and where they are not 1 act_scale, encoder_loss_multiplier.
    """
    given = checkpoint.published_settings(config)
    if missing := [name for name in ("input_dim_h", "input_dim_w") if name not in given]:
        checks.fail("config", "input_dim_h and input_dim_w", f"none of {', '.join(missing)}")
    foreign = checkpoint.read_system(path, "vqbet", parts=PARTS)
    embed = "vq_embedding.layers.0._codebook.embed"
    scale = checkpoint.setting(given, "act_scale", float, 1.0)
    if not 1 / MOST_SIZE <= scale <= MOST_SIZE:
        checks.fail("act_scale", f"a number from {1 / MOST_SIZE:g} to {MOST_SIZE:g}", scale)
    ours = VQBeTConfig(
        action_dim=given["input_dim_w"],
        horizon=given["input_dim_h"],
        tokens=checkpoint.numbered(foreign, r"vq_embedding\.layers\.(\d+)\.") or VQBeTConfig.tokens,
        codebook_size=checkpoint.axis_of(foreign, embed, 1, VQBeTConfig.codebook_size),
        dim=checkpoint.axis_of(foreign, embed, 2, VQBeTConfig.dim),
        hidden=checkpoint.axis_of(foreign, "encoder.fc.weight", 1, VQBeTConfig.hidden),
        reconstruction_weight=given.get("encoder_loss_multiplier", 1.0),
        revive_below=0.0,
        normalize="identity" if scale == 1 else "mean_std",
    )
    layers = {f"{net}.{own}": f"{net}.{theirs}" for net in PARTS[:2] for own, theirs in LAYERS.items()}
    names, books = checkpoint.layer_names(layers), "vq_embedding.layers.{}._codebook.{}"
    for i in range(ours.tokens):
        for own, theirs in {"vectors": "embed", "cluster_sum": "embed_avg", "cluster_size": "cluster_size"}.items():
            names[f"quantizer.codebooks.{i}.{own}"] = checkpoint.squeezed(books.format(i, theirs))
    flags = [books.format(i, "initted") for i in range(ours.tokens)]
    model = checkpoint.converted(lambda: VQBeT(ours), foreign, names, str(path), unused=flags, kept=OURS_ALONE)
    model.quantizer.steps.fill_(1)  # the codebooks have started, training must not restart them
    model.normalizer.scale.fill_(scale)
    return model
