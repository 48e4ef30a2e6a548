"""Inverse dynamics models: what the robot did, read from frames around a moment."""

from lattok.image_lam.inverse.config import InverseDynamicsConfig as InverseDynamicsConfig
from lattok.image_lam.inverse.model import InferredActions as InferredActions
from lattok.image_lam.inverse.model import InverseDynamics as InverseDynamics
