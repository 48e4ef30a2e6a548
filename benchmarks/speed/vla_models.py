"""Policies over a random Qwen3-VL for benchmarks/speed/vla_step.py: text layers as wide as wanted, a small image tower.

Two views of 224 x 224 are 98 image tokens; the instruction is as long as the sequence needs to be.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from lattok.backbones import SCRATCH, LoraSpec
from lattok.backbones.hf import HFBackbone
from lattok.backbones.pretrained import family_of
from lattok.labels import LatentSpec
from lattok.types import LatentTarget, PolicyBatch
from lattok.vla import STRATEGIES, LatentVLA, VLAConfig
from lattok.vla.observations import prompts

WIDE: dict[str, Any] = {  # text model of Qwen3-VL-2B
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151_936,
    "mrope_section": [24, 20, 20],
}
NARROW: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 512,
    "mrope_section": [4, 2, 2],
}
TOWER: dict[str, Any] = {  # image tower of Qwen3-VL-2B
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "depth": 24,
    "num_heads": 16,
    "num_position_embeddings": 2304,
    "deepstack_visual_indexes": [5, 11, 17],
}
DEPTH = 28  # text layers of Qwen3-VL-2B
BATCH, LENGTH, HORIZON, CODES, CODEBOOK = 8, 224, 8, 4, 16  # LENGTH: with H * P placeholders; the baseline has 200
IMAGE_TOKENS = 98  # 7 x 7 of each view
CHUNK_CODEBOOK, LATENT, ACTIONS, PROPRIO, VIEW = 256, 32, 7, 8, 224
CAMERAS = ("observation.images.front", "observation.images.wrist")
TEXT = "put the bowl on the plate and then close the drawer "


@dataclass(frozen=True)
class Setting:
    """What is measured, and where."""

    dims: Mapping[str, Any]
    layers: int  # text layers of the model that takes steps
    depth: int  # text layers of the narrow model whose hidden states are counted
    rounds: int
    dtype: torch.dtype  # of the base model
    device: torch.device
    strategies: tuple[str, ...]


def make_backbone(
    folder: Path,
    layers: int,
    dims: Mapping[str, Any],
    dtype: torch.dtype,
    device: torch.device,
    checkpointing: bool = False,
    tower: Mapping[str, Any] | None = None,
    train: str = "lora",
) -> HFBackbone:
    """A random Qwen3-VL that policies can share, with adapters unless `train` says otherwise; `folder` has that of
    `tests.backbones.tiny`, or an InternVL.

    So small is its image `tower` unless another is given.
    """
    torch.manual_seed(0)
    config: Any = transformers.AutoConfig.from_pretrained(folder)
    text = {**dims, "num_hidden_layers": layers}
    sections = text.pop("mrope_section", None)
    if sections is not None:
        config.text_config.rope_parameters["mrope_section"] = sections
        config.vision_config.out_hidden_size = dims["hidden_size"]
    if getattr(config.text_config, "layer_types", None):
        text["layer_types"] = config.text_config.layer_types[:1] * layers
    for name, value in text.items():
        setattr(config.text_config, name, value)
    for name, value in ({} if tower is None else tower).items():
        setattr(config.vision_config, name, value)
    model: Any = transformers.AutoModelForImageTextToText.from_config(config)
    processor = transformers.AutoProcessor.from_pretrained(folder)
    backbone = HFBackbone(model.to(device, dtype), processor, family_of(config), str(folder))
    backbone.adapt(train, LoraSpec(), checkpointing)
    backbone.adapt = lambda *arguments, **options: None  # every policy over it asks again
    return backbone


def make_policy(strategy: str, backbone: HFBackbone, device: torch.device) -> LatentVLA:
    """A policy over a backbone that others share."""
    plan = STRATEGIES[strategy]
    labels = LatentSpec("steps", HORIZON, CODES, CODEBOOK, CODES, LATENT)
    if plan.labels == "chunk":
        labels = LatentSpec("chunk", HORIZON, 1, CHUNK_CODEBOOK, 1, LATENT, horizon=HORIZON, per_step=True)
    config = VLAConfig(
        action_dim=ACTIONS,
        cameras=CAMERAS,
        camera_sizes=((VIEW, VIEW),) * 2,
        proprio_dim=PROPRIO,
        strategy=plan,
        latent=None if plan.labels is None else labels,
        horizon=HORIZON,
        image_size=VIEW,
    )
    torch.manual_seed(0)
    return LatentVLA(config, backbone).to(device).train()


def make_batch(policy: LatentVLA, device: torch.device, count: int = BATCH) -> PolicyBatch:
    """Random numbers that fit the policy, everything valid."""
    config, draw = policy.config, torch.Generator().manual_seed(0)
    horizon, views, side = config.horizon, len(config.cameras), config.image_size
    images = torch.randint(0, 256, (count, views, side, side, 3), generator=draw).to(torch.uint8)
    spec = config.latent or LatentSpec(steps=horizon, codes=1, codebook_size=1, latent_dim=LATENT)
    codes = torch.randint(0, max(1, spec.codebook_size), (count, spec.steps, spec.codes), generator=draw)
    vectors = torch.randn(count, spec.steps, spec.codes, spec.latent_dim, generator=draw)
    valid = torch.ones(count, horizon, dtype=torch.bool, device=device)
    proprio, actions = (torch.randn(count, *shape, generator=draw) for shape in ((PROPRIO,), (horizon, ACTIONS)))
    latent = LatentTarget(codes, vectors, valid, checked=True).to(device) if config.strategy.losses else None
    text = [instruction(policy)] * count
    return PolicyBatch(images.to(device), text, proprio.to(device), actions.to(device), valid, latent)


def make_observation(policy: LatentVLA, device: torch.device) -> dict[str, Any]:
    """One observation with LeRobot's keys."""
    seen: dict[str, Any] = {camera: torch.rand(1, 3, VIEW, VIEW, device=device) for camera in CAMERAS}
    return seen | {"observation.state": torch.randn(1, PROPRIO, device=device), "task": [instruction(policy)]}


def instruction(policy: LatentVLA) -> str:
    """One with which the prompt and H * P placeholders are `LENGTH` tokens, for H = `HORIZON`; a byte is a token."""
    if policy.config.backbone.name == SCRATCH:
        return TEXT
    images = torch.zeros(1, len(CAMERAS), VIEW, VIEW, 3, dtype=torch.uint8)
    shortest = policy.backbone.prepare(images, prompts(policy.config, ["x"]))["input_ids"].shape[1]
    wanted = LENGTH - HORIZON * CODES - shortest + 1
    return (TEXT * (1 + wanted // len(TEXT)))[:wanted].rstrip().ljust(wanted, ".")
