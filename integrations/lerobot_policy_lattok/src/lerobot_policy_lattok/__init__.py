"""LeRobot imports this package by its name; the import registers `--policy.type=lattok`."""

from lerobot_policy_lattok.configuration_lattok import LattokConfig as LattokConfig

__all__ = ["LattokConfig"]
