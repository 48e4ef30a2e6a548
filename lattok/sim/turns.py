"""An episode a plan at a time: the half of a rollout that needs a simulator and no policy, also in another process."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np

from lattok.data.schema import Feature
from lattok.sim.env import EpisodeOutcome, SimEnv

ROUNDING = 1e-6  # of limits as float32


class TaskFacts(NamedTuple):
    """What a task says of itself."""

    name: str
    instruction: str
    opposite: str | None  # instruction of the other task in its scene
    rate: float  # steps of the simulator in a second
    fps: float  # decisions in a second
    features: dict[str, Feature]  # of its observations
    action_names: tuple[str, ...]


class Played(NamedTuple):
    """How an episode went."""

    task: str
    seed: int
    success: bool
    failure: bool  # the opposite was reached first
    decisions: int
    beyond: float  # share of the numbers in its actions that exceeded the limits


class Turn(NamedTuple):
    """What there is when a plan was carried out."""

    observation: dict[str, Any] | None  # None: the episode is over
    frames: list[np.ndarray]  # uint8 [H, V W, 3]: all cameras side by side, after each decision; none without a film
    decisions: int = 0  # so far
    beyond: int = 0  # numbers in the plan that exceeded the limits
    outcome: EpisodeOutcome = EpisodeOutcome()
    facts: TaskFacts | None = None  # of an episode that begins


def begin(env: SimEnv, seed: int, keys: Collection[str] | None, filmed: bool) -> Turn:
    """Begin an episode; its observations have these keys, by default all."""
    env.start(seed)
    facts = TaskFacts(env.name, env.instruction, env.opposite, env.rate, env.fps, env.features, env.action_names)
    return Turn(env.observe(keys), [_picture(env)] if filmed else [], facts=facts)


def carry_out(env: SimEnv, seed: int, keys: Collection[str] | None, filmed: bool, actions: np.ndarray) -> Turn:
    """Carry out a plan [n, m] in the running episode, as far as that goes."""
    low, high = env.action_space.low - ROUNDING, env.action_space.high + ROUNDING
    frames, beyond, over = [], 0, False
    for action in actions:
        env.act(action)
        beyond += int(((action < low) | (action > high)).sum())
        if filmed:
            frames.append(_picture(env))
        over = env.outcome.decided or env.steps >= env.max_steps
        if over:
            break
    return Turn(None if over else env.observe(keys), frames, env.steps, beyond, env.outcome)


def _picture(env: SimEnv) -> np.ndarray:
    return np.concatenate([*env.cameras.images().values()], axis=1)
