"""Small policies and batches for tests."""

from typing import Any

import torch

from lattok.backbones import Backbone, BackboneOut, LoraSpec
from lattok.backbones.model import open_backbone
from lattok.labels import LatentSpec
from lattok.types import LatentTarget, PolicyBatch
from lattok.utils.options import built, options_of
from lattok.vla import LatentVLA, Strategy, VLAConfig, strategy_of
from lattok.vla.config import TokenSpec

CAMERAS = ("observation.images.front", "observation.images.wrist")
B, H, M, S, P, K, D = 4, 4, 3, 5, 2, 7, 6  # samples, horizon, actions, proprio, codes of a step, codebook, latents


def spec_for(strategy: Strategy, horizon: int, changes: dict[str, Any]) -> LatentSpec | None:
    """Labels that fit: P codes and vectors of each step, or a token of each step with a vector of its own."""
    if strategy.labels is None:
        return None
    values: dict[str, Any] = {
        "target": strategy.labels,
        "codes": P,
        "vectors": P,
        "codebook_size": K,
        "latent_dim": D,
        "steps": horizon,
    }
    if strategy.labels == "chunk":
        values |= {"codes": 1, "vectors": 1, "horizon": horizon, "per_step": True}
    return LatentSpec(**values | changes)


def config(strategy: str | Strategy = "baseline", latent: dict[str, Any] | None = None, **changes: Any) -> VLAConfig:
    """A policy with the scratch backbone of width 32; `latent` changes what its labels are."""
    plan = strategy_of(strategy)
    values: dict[str, Any] = {
        "action_dim": M,
        "cameras": CAMERAS,
        "camera_sizes": ((24, 32), (16, 16)),
        "proprio_dim": S,
        "proprio_names": tuple("abcde") if changes.get("proprio_dim", S) == S else (),
        "strategy": plan,
        "latent": spec_for(plan, changes.get("horizon", H), latent or {}),
        "horizon": H,
        "image_size": 16,
        "backbone_patch_size": 8,
        "backbone": "scratch",
        "backbone_train": "lora" if "backbone" in changes else "full",
        "backbone_width": 32,
        "backbone_depth": 3,
        "head_dim": 32,
        "head_heads": 4,
    }
    assert changes.keys() <= {option.name for option in options_of(VLAConfig)}
    return built(VLAConfig, values | changes)


def policy(strategy: str | Strategy = "baseline", seed: int = 0, tokenizer: Any = None, **changes: Any) -> LatentVLA:
    """An untrained policy whose normalisers do something; with a tokenizer it acts by tokens."""
    torch.manual_seed(seed)
    if tokenizer is not None:
        changes |= {"head": "tokens", "tokens": TokenSpec.of(tokenizer)}
    made = config(strategy, **changes)
    model = LatentVLA(made, open_backbone(made), tokenizer)
    model.action_normalizer.fit(3 + 2 * torch.randn(50, made.action_dim))
    if model.proprio_normalizer is not None:
        model.proprio_normalizer.fit(1 - torch.randn(50, made.proprio_dim))
    return model


def batch(of: VLAConfig, seed: int = 0, count: int = B, checked: bool = False) -> PolicyBatch:
    """A batch that fits, its last sample with steps beyond the episode and without labels there; `checked`, as those of
    the training loop are."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    valid = torch.ones(count, of.horizon, dtype=torch.bool)
    valid[-1, -2:] = False
    spec = of.latent or LatentSpec(steps=of.horizon, codes=1, vectors=1, latent_dim=D)
    codes = torch.randint(0, max(1, spec.codebook_size), (count, spec.steps, spec.codes), generator=generator)
    target = LatentTarget(codes, normal(count, spec.steps, spec.vectors, spec.latent_dim), valid.clone(), checked)
    images = torch.randint(0, 256, (count, len(of.cameras), of.image_size, of.image_size, 3), generator=generator)
    texts = [("open the drawer", "push", "turn the tap to the left", "close it")[i % 4] for i in range(count)]
    proprio = normal(count, of.proprio_dim) if of.proprio_dim else None
    latent = target if of.strategy.losses else None
    return PolicyBatch(
        images.to(torch.uint8), texts, proprio, 3 + normal(count, of.horizon, of.action_dim), valid, latent
    )


def rows(of: PolicyBatch, chosen: list[int] | range, **changes: Any) -> PolicyBatch:
    """Some samples of a batch, without what is known of the whole; `changes` are other fields of theirs."""

    def take(part: Any) -> Any:
        if isinstance(part, torch.Tensor):
            return part[list(chosen)]
        return type(part)(*map(take, part)) if isinstance(part, tuple) else part and [part[i] for i in chosen]

    names = ("images", "texts", "proprio", "actions", "valid", "latent", "draws", "later")
    return PolicyBatch(**{name: take(getattr(of, name)) for name in names} | changes)


def observation(of: VLAConfig, count: int = B, seed: int = 0) -> dict[str, Any]:
    """The same with LeRobot's keys: float images at the sizes of the cameras."""
    generator = torch.Generator().manual_seed(seed)
    seen: dict[str, Any] = {
        key: torch.rand((count, 3, *size), generator=generator)
        for key, size in zip(of.cameras, of.camera_sizes, strict=True)
    }
    seen["observation.state"] = torch.randn((count, of.proprio_dim), generator=generator)
    return seen | {"task": [f"task number {i}" for i in range(count)]}


class Recorder(Backbone):
    """A backbone that hands on what it was given: hidden state k is the input plus k."""

    hidden_size, num_layers, embedding_rms = 8, 4, 0.5

    def __init__(self, image_tokens: int = 3):
        super().__init__()
        self.image_tokens, self.weight = image_tokens, torch.nn.Parameter(torch.ones(8))

    def prepare(self, images: torch.Tensor, texts: list[str]) -> dict[str, torch.Tensor]:
        self.texts = texts
        return {"length": torch.tensor([len(text.split()) for text in texts])}

    def forward(self, inputs: dict, queries: torch.Tensor, layers: list[int]) -> BackboneOut:
        before = self.image_tokens + 2
        prefix = self.weight.expand(len(queries), before, -1) * torch.arange(before)[:, None]
        x = torch.cat([prefix, queries], 1)
        place = torch.arange(x.shape[1]).expand(len(x), -1)
        image = (place >= 2) & (place < before)
        return BackboneOut({k: x + k for k in layers}, slice(before, x.shape[1]), torch.ones_like(image), image)

    def adapt(self, train: str, lora: LoraSpec, gradient_checkpointing: bool = False) -> None:
        self.train_mode = train

    def saved_tensors(self) -> dict[str, torch.Tensor]:
        return dict(self.state_dict())
