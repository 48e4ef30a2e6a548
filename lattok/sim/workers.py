"""Processes that hold simulators: a few cores' worth of episodes at a time.

    with Workers(size=64) as workers:
        for states in workers.map(SimJob(play, "metaworld/reach", seed) for seed in range(10)):
            ...

`play(env, seed, *arguments)` runs in another process and is found there by its name, so it stands in a module.

`begin` and `carry_out` are such functions: an episode a plan at a time, the half of a rollout that needs no policy.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from lattok.data.schema import Feature
from lattok.sim.env import EpisodeOutcome, SimEnv, make
from lattok.utils.processes import Processes

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


class EpisodeResult(NamedTuple):
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


KEPT = 8  # environments that a worker keeps open, of some 110 MB each; a new one costs half a second with its renderer


class SimJob(NamedTuple):
    """Call `function(env, seed, *arguments)` with an environment of `task`, as the last job has left it."""

    function: Callable[..., Any]
    task: str  # "metaworld/reach"
    seed: int
    arguments: tuple[Any, ...] = ()
    slot: int | None = None  # jobs of one slot go to one worker; while their task is the same, to one environment

    def __str__(self) -> str:
        return f"{self.task}, seed {self.seed}"


class Workers(Processes):
    """`count` processes, by default one for each core, whose environments are made with `options`, those of `make`."""

    def __init__(self, count: int | None = None, **options: Any):
        super().__init__(partial(_player, options), count)


def _player(options: dict[str, Any]) -> Callable[[SimJob], Any]:
    """Return what does the jobs of a process, with the environments that it keeps."""
    environments: dict[tuple[str, int | None], SimEnv] = {}

    def play(job: SimJob) -> Any:
        return job.function(_environment(environments, job, options), job.seed, *job.arguments)

    return play


def _environment(environments: dict[tuple[str, int | None], SimEnv], job: SimJob, options: dict[str, Any]) -> SimEnv:
    """Return the environment of a job. Many are too many: the oldest go, but for the last one of every slot."""
    key = (job.task, job.slot)
    env = environments.pop(key, None) or make(job.task, **options)
    environments[key] = env
    slots = [slot for _, slot in environments]
    spare = [old for number, old in enumerate(environments) if old[1] is None or old[1] in slots[number + 1 :]]
    for old in spare[: max(0, len(environments) - KEPT)]:
        if old != key:
            environments.pop(old).close()
    return env
