"""Closed loop: tasks in simulators, demonstrations of their scripted experts, rollouts of policies."""

from lattok.sim.env import SimEnv, find_tasks, make
from lattok.sim.rendering import Variation
from lattok.sim.rollout import rollout
from lattok.sim.scores import Rollouts

__all__ = ["Rollouts", "SimEnv", "Variation", "find_tasks", "make", "rollout"]
