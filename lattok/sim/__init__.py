"""Closed loop: tasks in simulators, demonstrations of their scripted experts, rollouts of policies."""

from lattok.utils.checks import LattokError
from lattok.version import install_extra

try:
    from lattok.sim.collect import CollectionResult, collect
    from lattok.sim.rendering import Variation
    from lattok.sim.rollout import rollout
    from lattok.sim.scores import Rollouts
    from lattok.sim.worlds import SimEnv, find_tasks, make
except ModuleNotFoundError as error:
    if error.name not in ("gymnasium", "mujoco"):
        raise
    what = f"simulations need {error.name}, which is not installed"
    raise LattokError(f"{what}. Run: {install_extra('sim')}") from None

__all__ = ["CollectionResult", "Rollouts", "SimEnv", "Variation", "collect", "find_tasks", "make", "rollout"]
