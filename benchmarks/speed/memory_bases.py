"""Models over base models for benchmarks/speed/memory.py: random weights, as wide as the published ones.

A byte is a token of their tokenizers, so that instructions are as long as the published prompt is in tokens.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.speed.vla_models import (
    ACTIONS,
    CAMERAS,
    CODEBOOK,
    CODES,
    LATENT,
    PROPRIO,
    TEXT,
    TOWER,
    WIDE,
    make_backbone,
    make_batch,
)
from lattok.backbones import SCRATCH
from lattok.backbones.model import open_backbone
from lattok.image_lam import MotoLAM
from lattok.image_lam.clips import ClipLAM
from lattok.labels import LatentSpec
from lattok.recipes import recipe_of
from lattok.types import PolicyBatch
from lattok.vla import STRATEGIES, LatentVLA
from lattok.vla.lara import JointLARA, LiveLAM
from lattok.vla.latbot import Distillation, taught_by

Made = tuple[nn.Module, Callable[[int], Any], Mapping[str, float]]  # a model, batches of n samples, weights of losses
Opener = Callable[[Any, int, int], Any]
LARGE = {"width": 1024, "depth": 24, "heads": 16, "hidden": 4096}  # ViT-L, as of MAE
HELD = {"features": "held", **{f"image_encoder_{name}": size for name, size in LARGE.items()}}
NAMES = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
BASE: dict[str, dict[str, Any]] = {  # presets of models over a backbone -> options beside them
    "vla/libero": {},
    "vla/libero --backbone-dtype bfloat16": {"backbone_dtype": "bfloat16"},
    "vla/libero --backbone-dtype bfloat16 --backbone-gradient-checkpointing": {
        "backbone_dtype": "bfloat16",
        "backbone_gradient_checkpointing": True,
    },
    "vla/robotwin": {},
    "vla/jaka": {},
    "vla/scratch": {},
    "lara/libero+lara": {},
    "latbot/libero+latbot": {},
    "latbot/libero+latbot+latbot_finetune": {"phase": "finetune"},
    "clip-lam/full": {},
    "clip-lam/tiny": {},
}
INTERN_TEXT = {name: value for name, value in WIDE.items() if name != "mrope_section"}  # InternVL3.5-2B's
INTERN_TOWER = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16}
INTERN_TOWER |= {"image_size": [448, 448], "patch_size": [14, 14]}
INTERN_TOKENS = 256  # of a frame
PROMPT = 120  # tokens of the paper's prompt for clips, with an instruction


def recipe_named(name: str) -> Any:
    """The recipe of an entry of `BASE`."""
    kind, _, preset = name.split()[0].partition("/")
    recipe: Any = recipe_of(kind)
    return recipe.from_preset("data", "out", preset, **BASE[name])


def opener(folder: Path, text: Mapping[str, Any] = WIDE, tower: Mapping[str, Any] = TOWER) -> Opener:
    """What opens the base model that a configuration names, with so many layers of text and images: a Qwen3-VL of these
    sizes, InternVL3.5-2B, or the backbone that has no base model."""
    from tests.backbones.tiny import tiny_backbone

    tiny = {name: tiny_backbone(name, folder / name) for name in ("qwen3_vl", "internvl")}

    def opened(config: Any, layers: int, depth: int) -> Any:
        base, cpu = config.backbone, torch.device("cpu")
        if base.name == SCRATCH:
            return open_backbone(config)
        kind, dims, sizes = "qwen3_vl", text, {**tower, "depth": depth, "deepstack_visual_indexes": [0, 1, 2]}
        if "InternVL" in base.name:
            kind, dims, sizes = "internvl", INTERN_TEXT, {**INTERN_TOWER, "num_hidden_layers": depth}
        options = base.gradient_checkpointing, sizes, base.train
        backbone = make_backbone(tiny[kind], layers, dims, getattr(torch, base.dtype), cpu, *options)
        if kind == "internvl":
            backbone.processor.image_processor.size = dict.fromkeys(("height", "width"), sizes["image_size"][0])
            backbone.processor.image_seq_length = INTERN_TOKENS
        return backbone

    return opened


def over_base(name: str, opened: Opener, layers: int, depth: int) -> Made:
    """A model as its recipe builds it. LARA's latent action model is Moto's, LatBot's teacher that of the paper."""
    recipe = recipe_named(name)
    if recipe.kind == "clip-lam":
        config = recipe.config(cameras=CAMERAS[:1], action_dim=ACTIONS, prompt="{task}")
        model = ClipLAM(config, opened(config, layers, depth))
        model.features.load(pretrained=False)
        return model, lambda n: clips(config, n), config.loss_weights
    side, horizon = recipe.model.image_size, recipe.model.horizon
    plan = STRATEGIES["la_cond" if recipe.kind == "vla" else "baseline"]
    labels = LatentSpec("steps", horizon, CODES, CODEBOOK, CODES, LATENT) if plan.labels else None
    known = {"cameras": CAMERAS, "camera_sizes": ((side, side),) * 2, "strategy": plan, "latent": labels}
    config = recipe.config(**known, action_dim=ACTIONS, action_names=NAMES, proprio_dim=PROPRIO)
    teacher: Any = None
    if recipe.kind == "latbot":
        teacher = over_base("clip-lam/full", opened, layers, depth)[0]
        config, acts = taught_by(config, teacher.config), config
        if recipe.data.phase == "finetune":
            config, teacher = taught_by(acts, config), None
    policy = LatentVLA(config, opened(config, layers, depth))

    def batch(n: int) -> PolicyBatch:
        return make_batch(policy, torch.device("cpu"), n)

    if teacher is not None:
        module, later = Distillation(policy, teacher, [0]), teacher.config.frames - 1
        return module, lambda n: with_later(batch(n), later), {"latent": 1.0}
    if recipe.kind == "lara":
        moto: Any = recipe_of("moto-lam")
        lam = MotoLAM(moto.from_preset("data", "out", "moto", **HELD).config(cameras=CAMERAS[:1]))
        lam.features.load(pretrained=False)
        joint = JointLARA(policy, LiveLAM(lam, [0]), recipe.data.align_layer)
        return joint, lambda n: with_later(batch(n), 1), joint.loss_weights()
    return policy, batch, config.loss_weights


def clips(config: Any, count: int) -> PolicyBatch:
    """Clips of one camera, their instruction and actions."""
    side, valid = config.image_size, torch.ones(count, config.horizon, dtype=torch.bool)
    images, texts = torch.zeros(count, 1, side, side, 3, dtype=torch.uint8), [(TEXT * 3)[:PROMPT]] * count
    batch = PolicyBatch(images, texts, None, torch.randn(count, config.horizon, ACTIONS), valid)
    return with_later(batch, config.frames - 1)


def with_later(batch: PolicyBatch, frames: int) -> PolicyBatch:
    """A batch with so many later frames, all inside their episodes."""
    places: Tensor = torch.cartesian_prod(torch.arange(len(batch.images)), torch.arange(frames))
    return batch._replace(later=torch.stack([batch.images] * frames, 1), pairs=places)
