"""What each dataset has of its own in an inverse model of several: cameras, actions, state; their normalisers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lattok.nn.normalize import Normalizer
from lattok.utils import checks
from lattok.utils.options import SavedConfig, check_choices

MOST_ROBOTS = 256


@dataclass(frozen=True)
class RobotConfig(SavedConfig):
    """One dataset of a model of several.

    Attributes:
        name: what the dataset is called
        cameras: those that are looked at
        places: index of each of these among the cameras that the encoder knows
        action_dim: dimensions of an action
        action_names: what they are called
        state_dim: dimensions of the state, if it is read
        state_names: what they are called
        anchors: for each dimension of the action, the dimension of the state to which the output is added; -1: none
    """

    name: str
    cameras: tuple[str, ...]
    places: tuple[int, ...]
    action_dim: int
    action_names: tuple[str, ...] = ()
    state_dim: int = 0
    state_names: tuple[str, ...] = ()
    anchors: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_choices(self)


def check_robots(robots: Sequence[RobotConfig]) -> None:
    """Require several datasets with different names."""
    names = [robot.name for robot in robots]
    checks.counts(2, MOST_ROBOTS, **{"number of robots": len(names)})
    if len({*names}) < len(names):
        checks.fail("robots", "different names of datasets", ", ".join(names))


class Units(nn.Module):
    """Normalisers of a dataset's actions and of how its state changes, and the range [m] of its known actions."""

    def __init__(self, config: Any):
        super().__init__()
        self.action_normalizer = Normalizer(config.action_dim, config.action_clipped)
        self.state_normalizer = Normalizer(config.state_dim) if config.proprio else None
        self.low: Tensor = nn.Buffer(torch.full((config.action_dim,), -1.0))
        self.high: Tensor = nn.Buffer(torch.ones(config.action_dim))
