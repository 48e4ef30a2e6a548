"""Steps before and after the policy: batch, device, and normalisers that leave everything as it is.

LeRobot addresses the normalisers by name when a run is resumed, so they must be there; the policy has its own.
"""

from __future__ import annotations

from typing import Any

from lerobot.processor import (
    AddBatchDimensionProcessorStep,
    DeviceProcessorStep,
    NormalizerProcessorStep,
    PolicyAction,
    PolicyProcessorPipeline,
    RenameObservationsProcessorStep,
    UnnormalizerProcessorStep,
)
from lerobot.processor.converters import policy_action_to_transition, transition_to_policy_action
from lerobot.utils.constants import POLICY_POSTPROCESSOR_DEFAULT_NAME, POLICY_PREPROCESSOR_DEFAULT_NAME

from lerobot_policy_lattok.configuration_lattok import LattokConfig

Preprocessor = PolicyProcessorPipeline[dict[str, Any], dict[str, Any]]
Postprocessor = PolicyProcessorPipeline[PolicyAction, PolicyAction]


def make_lattok_pre_post_processors(
    config: LattokConfig, dataset_stats: dict[str, Any] | None = None
) -> tuple[Preprocessor, Postprocessor]:
    """Make the steps; LeRobot finds this function by its name. Statistics are not needed: see the top of this file."""
    identity = config.normalization_mapping
    features = {**(config.input_features or {}), **(config.output_features or {})}
    before = [
        RenameObservationsProcessorStep(rename_map={}),
        AddBatchDimensionProcessorStep(),
        DeviceProcessorStep(device=config.device),
        NormalizerProcessorStep(features=features, norm_map=identity, stats=None, device=config.device),
    ]
    after = [
        UnnormalizerProcessorStep(features=config.output_features or {}, norm_map=identity, stats=None),
        DeviceProcessorStep(device="cpu"),
    ]
    return (
        Preprocessor(steps=before, name=POLICY_PREPROCESSOR_DEFAULT_NAME),
        Postprocessor(
            steps=after,
            name=POLICY_POSTPROCESSOR_DEFAULT_NAME,
            to_transition=policy_action_to_transition,
            to_output=transition_to_policy_action,
        ),
    )
