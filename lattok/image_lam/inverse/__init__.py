"""Inverse dynamics models: what the robot did, read from frames, or from its state, around a moment."""

from lattok.image_lam.inverse.config import InverseDynamicsConfig as InverseDynamicsConfig
from lattok.image_lam.inverse.inferred_actions import InferredActions as InferredActions
from lattok.image_lam.inverse.model import InverseDynamics as InverseDynamics
from lattok.image_lam.inverse.proprio_map import ProprioMap as ProprioMap
from lattok.image_lam.inverse.proprio_map import ProprioMapConfig as ProprioMapConfig
from lattok.image_lam.inverse.robots import RobotConfig as RobotConfig
