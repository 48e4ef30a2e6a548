"""Policies of `lattok train vla` as checkpoints of LeRobot, for `lerobot-eval`, robots, or further training there."""

from __future__ import annotations

import os
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.utils.constants import POLICY_POSTPROCESSOR_DEFAULT_NAME, POLICY_PREPROCESSOR_DEFAULT_NAME

import lattok
from lattok.backbones.model import MERGED
from lattok.hub import PARTS
from lattok.utils import checks
from lattok.utils.options import flat
from lattok.utils.output import Output
from lattok.vla import LatentVLA, VLAConfig
from lerobot_policy_lattok.configuration_lattok import LattokConfig
from lerobot_policy_lattok.modeling_lattok import WEIGHTS, LattokPolicy
from lerobot_policy_lattok.processor_lattok import make_lattok_pre_post_processors

STATE, ACTION = "observation.state", "action"
PROCESSORS = (POLICY_PREPROCESSOR_DEFAULT_NAME, POLICY_POSTPROCESSOR_DEFAULT_NAME)
OWN = ("config.json", WEIGHTS, PARTS, *(f"{name}.json" for name in PROCESSORS))  # what a checkpoint holds


def export(model: LatentVLA | str | os.PathLike[str], folder: str | os.PathLike[str], device: str = "cpu") -> Path:
    """Write `model`, or the artefact of that name, as a checkpoint of LeRobot into `folder`; returns the folder.

    Raises `LattokError` for a folder that holds something, and for a policy that LeRobot's options cannot describe.
    """
    folder = Path(folder)
    place = Output(folder, "folder")
    place.check_new()
    if isinstance(model, str | os.PathLike):
        model = lattok.load(model)
    if not isinstance(model, LatentVLA):
        checks.fail("model", "a policy", type(model).__name__)
    model.check_acts()
    if model.config.backbone.name == MERGED:
        hint = "Export the policy with adapters that it was made from."
        checks.fail("model", "a policy over a base model with a name", "one with its adapters merged", hint)
    config = config_of(model.saved_config, device)
    with place.filled(OWN):
        LattokPolicy(config, model=model).save_pretrained(folder)
        for processor in make_lattok_pre_post_processors(config):
            processor.save_pretrained(folder)
    return folder


def config_of(made: VLAConfig, device: str = "cpu") -> LattokConfig:
    """Return the options of LeRobot that make the same architecture."""
    own = {field.name for field in fields(LattokConfig)}
    values: dict[str, Any] = {name: value for name, value in flat(made).items() if name in own}
    values = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
    plan, weighted = made.strategy, {}
    if plan.losses:
        loss = plan.losses[0]
        weighted = {"layer": loss.layer, "latent_weight": loss.weight}
        weighted |= {"align_projection": loss.options.get("projection")}
    inputs = {
        camera: PolicyFeature(FeatureType.VISUAL, (3, *size))
        for camera, size in zip(made.cameras, made.camera_sizes, strict=True)
    }
    if made.proprio_dim:
        inputs[made.state_key] = PolicyFeature(FeatureType.STATE, (made.proprio_dim,))
    if made.action_key != ACTION or (made.proprio_dim and made.state_key != STATE):
        checks.fail("model", f"a policy of `{ACTION}` and `{STATE}`", f"one of `{made.action_key}`, `{made.state_key}`")
    outputs = {ACTION: PolicyFeature(FeatureType.ACTION, (made.action_dim,))}
    values |= {"strategy": plan.name, "chunk_size": made.horizon, "proprio": made.proprio_dim > 0, **weighted}
    values |= {"input_features": inputs, "output_features": outputs}
    config = LattokConfig(**values, device=device, push_to_hub=False)
    again = config.model_config()
    if made.n_action_steps == made.horizon:
        made = replace(made, n_action_steps=None)
    if again != made:
        others = [name for name, value in flat(made).items() if flat(again)[name] != value]
        checks.fail("model", "a policy that LeRobot's options can describe", f"one with its own {', '.join(others)}")
    return config
