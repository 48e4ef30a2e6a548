"""Steps before and after the policy: the inner policy's own, so that a checkpoint's need no lattok."""

from __future__ import annotations

from typing import Any

from lerobot.policies.factory import make_pre_post_processors

from lerobot_policy_lattok.configuration_lattok_supervised import LattokSupervisedConfig


def make_lattok_supervised_pre_post_processors(
    config: LattokSupervisedConfig, dataset_stats: dict[str, Any] | None = None
) -> tuple[Any, Any]:
    """Make the steps; LeRobot finds this function by its name. Labels are found by the number of the frame."""
    return make_pre_post_processors(config.wrapped, dataset_stats=dataset_stats)
