"""Closed loop: tasks in simulators, demonstrations of their scripted experts, rollouts of policies."""

from lattok.sim.env import SimEnv, find_tasks, make
from lattok.sim.rendering import Variation

__all__ = ["SimEnv", "Variation", "find_tasks", "make"]
