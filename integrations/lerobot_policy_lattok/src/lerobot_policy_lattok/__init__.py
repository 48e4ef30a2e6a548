"""LeRobot imports this package by its name; the import registers `--policy.type=lattok` and `lattok_supervised`."""

from lerobot_policy_lattok.configuration_lattok import LattokConfig as LattokConfig
from lerobot_policy_lattok.configuration_lattok_supervised import LattokSupervisedConfig as LattokSupervisedConfig

__all__ = ["LattokConfig", "LattokSupervisedConfig"]
