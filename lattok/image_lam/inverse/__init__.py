"""Inverse dynamics models: what the robot did, read from frames around a moment."""

from lattok.image_lam.inverse.config import InverseDynamicsConfig
from lattok.image_lam.inverse.model import InferredActions, InverseDynamics

__all__ = ["InferredActions", "InverseDynamics", "InverseDynamicsConfig"]
