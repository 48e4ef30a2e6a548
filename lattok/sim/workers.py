"""Processes that hold simulators: a few cores' worth of episodes at a time.

    with Workers(size=64) as workers:
        for states in workers.map(SimJob(play, "metaworld/reach", seed) for seed in range(10)):
            ...

`play(env, seed, *arguments)` runs in another process and is found there by its name, so it stands in a module.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from lattok.sim.env import SimEnv, make
from lattok.utils.processes import Processes

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
