"""Rollouts: does a policy do what it is told, from start states that all policies share?

    found = rollout(policy, "metaworld-pairs", episodes=10)
    found.score().success, found.score("metaworld-pairs/drawer-open").interval

Episode i of a task has seed `seed` + i, whoever acts. Environments stand side by side; those that need a plan get it in
one batch, and carry it out without images. Rounds are in step, so that results do not depend on the number of
processes. A neural network rounds otherwise in batches of another size, in the seventh digit; that apart, they do not
depend on `batch` either.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lattok.sim.agents import Agent, as_agent
from lattok.sim.env import SimEnv, find_tasks, make
from lattok.sim.rendering import OFF, Variation
from lattok.sim.scores import Rollouts, check_place
from lattok.sim.workers import EpisodeResult, SimJob, TaskFacts, Turn, Workers, begin, carry_out
from lattok.utils import checks
from lattok.utils.checks import LattokError

SEEDS = 1_000_000  # of the first episode: demonstrations are collected from seed 0 on
INSTRUCTIONS = ("own", "swapped", "blank")

Do = Callable[[Sequence[SimJob]], dict[int | None, Turn]]  # jobs -> what comes of each, by seat


def rollout(
    agent: Any,
    tasks: str | Sequence[str],
    episodes: int = 10,
    *,
    seed: int = SEEDS,
    execute: int | None = None,
    repeat: int | None = None,
    ensemble: float | None = None,
    instruction: str = "own",
    variation: Variation = OFF,
    batch: int = 8,
    workers: int = 0,
    videos: int = 0,
    out: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Rollouts:
    """Let `agent` play `episodes` episodes of each of the tasks, from the start states `seed`, `seed` + 1, ...

    Args:
        agent: A `LatentVLA`, a policy of LeRobot, or a function of an observation and its instruction that returns a
            chunk [H, m].
        tasks: Names, such as "metaworld/reach", or of whole worlds.
        episodes: Of each task.
        seed: That of the first episode. Demonstrations are collected from 0 on, so that the default shares none.
        execute: Actions of a chunk that are carried out before the next is planned; left out, as many as the policy
            says, or all.
        repeat: Steps of the simulator that an action is held; left out, as the world has it.
        ensemble: Plan at every decision, and carry out the mean of all that was planned for it, the i-th oldest
            weighed by exp(-ensemble i), as ACT does.
        instruction: own; swapped, that of the other task in the scene; or blank, none.
        variation: What of the scene is changed, drawn for each episode from its seed.
        batch: Environments side by side.
        workers: Processes for the environments; 0: in this one.
        videos: Episodes of each task that are filmed.
        out: Folder for rollouts.json, speed.json, videos and their contact sheet. Results of the same model and options
            are replaced, others refused.
        progress: Called with episodes done and in all.

    Raises `LattokError` where the agent does not fit the tasks, or what it plans is no action.
    """
    checks.counts(episodes=episodes, batch=batch)
    checks.whole(seed=seed, workers=workers, videos=videos)
    checks.one_of("instruction", instruction, INSTRUCTIONS)
    if execute is not None:
        checks.counts(execute=execute)
    if ensemble is not None:
        checks.at_least_zero(ensemble=ensemble)
        if execute not in (None, 1):
            checks.fail("execute", "1 with `ensemble`, which plans at every decision", execute)
    actor, names = as_agent(agent), find_tasks(tasks)
    chosen = {"tasks": names, "episodes": episodes, "seed": seed, "repeat": repeat, "ensemble": ensemble}
    chosen |= {"execute": 1 if ensemble is not None else execute or actor.steps, "instruction": instruction}
    chosen |= {"variation": asdict(variation), "batch": batch}
    described = actor.describe()
    folder = None if out is None else Path(out)
    if folder is not None:
        check_place(folder, described, chosen)
    plays = _Plays(actor, names, chosen, min(videos, episodes))
    begun = time.perf_counter()
    processes = min(workers, batch, plays.total)
    with _stage(processes, size=actor.size, repeat=repeat, variation=variation) as do:
        plays.run(do, progress)
    found = Rollouts(
        tuple(sorted(plays.results, key=lambda result: (names.index(result.task), result.seed))),
        described,
        chosen,
        tuple(plays.notes),
        time.perf_counter() - begun,
        plays.films,
        {name: facts.fps for name, facts in plays.facts.items()},
    )
    if folder is not None:
        found.save(folder)
    return found


@contextmanager
def _stage(workers: int, **options: Any) -> Iterator[Do]:
    """Do jobs, each in the environment of its seat, in this process or in `workers` others; yields what does them."""
    environments: dict[int | None, SimEnv] = {}

    def do(jobs: Sequence[SimJob]) -> dict[int | None, Turn]:
        for job in jobs:
            env = environments.get(job.slot)
            if env is None or env.name != job.task:
                if env is not None:
                    env.close()
                environments[job.slot] = make(job.task, **options)
        return {job.slot: job.function(environments[job.slot], job.seed, *job.arguments) for job in jobs}

    if workers:
        with Workers(workers, **options) as pool:
            yield partial(_elsewhere, pool)
        return
    try:
        yield do
    finally:
        for env in environments.values():
            env.close()


def _elsewhere(pool: Workers, jobs: Sequence[SimJob]) -> dict[int | None, Turn]:
    for job in jobs:
        pool.submit(job)
    return {job.slot: turn for job, turn in pool.results()}


class _Seat:
    """An environment among others, and what is known of the episode in it."""

    def __init__(self, number: int):
        self.number, self.task = number, ""

    def sit(self, task: str, seed: int, filmed: bool) -> None:
        """Begin an episode."""
        self.task, self.seed, self.filmed = task, seed, filmed
        self.decisions = self.beyond = 0
        self.frames: list[np.ndarray] = []
        self.recent: list[tuple[int, np.ndarray]] = []  # chunks, and the decision that each begins at

    def take(self, turn: Turn) -> None:
        """Note what has happened."""
        self.decisions = turn.decisions
        self.beyond += turn.beyond
        self.frames += turn.frames


class _Plays:
    """All episodes of a rollout: in which seat each is played, and what is planned for it."""

    def __init__(self, agent: Agent, tasks: Sequence[str], options: Mapping[str, Any], filmed: int):
        self.agent, self.options, self.filmed = agent, options, filmed
        self.left = Counter(dict.fromkeys(tasks, options["episodes"]))
        self.total = self.left.total()
        self.facts: dict[str, TaskFacts] = {}
        self.notes: list[str] = []
        self.results: list[EpisodeResult] = []
        self.films: dict[EpisodeResult, np.ndarray] = {}

    def run(self, do: Do, progress: Callable[[int, int], None] | None) -> None:
        """Play all of them."""
        seats = [_Seat(number) for number in range(min(self.options["batch"], self.total))]
        jobs = [self._next(seat) for seat in seats]
        while jobs:
            turns, jobs, waiting = do(jobs), [], []
            for seat in [seat for seat in seats if seat.number in turns]:
                turn = turns[seat.number]
                seat.take(turn)
                if turn.facts is not None:
                    self._meet(turn.facts)
                if turn.observation is not None:
                    waiting.append(seat)
                    continue
                self._note(seat, turn)
                if progress is not None:
                    progress(len(self.results), self.total)
                if self.left.total():
                    jobs.append(self._next(seat))
            if waiting:
                plans = self._plan(waiting, [turns[seat.number].observation or {} for seat in waiting])
                jobs += [self._job(carry_out, seat, plan) for seat, plan in zip(waiting, plans, strict=True)]

    def _next(self, seat: _Seat) -> SimJob:
        """Give a seat its next episode: of its own task if there is one, else of that with the most left."""
        task = seat.task if self.left[seat.task] else self.left.most_common(1)[0][0]
        number = self.options["episodes"] - self.left[task]
        self.left[task] -= 1
        seat.sit(task, self.options["seed"] + number, number < self.filmed)
        return self._job(begin, seat)

    def _job(self, function: Callable[..., Turn], seat: _Seat, *arguments: Any) -> SimJob:
        return SimJob(function, seat.task, seat.seed, (self.agent.keys, seat.filmed, *arguments), seat.number)

    def _note(self, seat: _Seat, turn: Turn) -> None:
        """Note an episode that is over."""
        numbers = turn.decisions * len(self.facts[seat.task].action_names)
        result = EpisodeResult(seat.task, seat.seed, *turn.outcome, turn.decisions, seat.beyond / numbers)
        self.results.append(result)
        if seat.filmed:
            self.films[result] = np.stack(seat.frames)

    def _meet(self, facts: TaskFacts) -> None:
        """Check a task when it is seen first."""
        if facts.name in self.facts:
            return
        self.facts[facts.name] = facts
        if self.options["instruction"] == "swapped" and facts.opposite is None:
            hint = "metaworld-pairs and ogbench have such scenes."
            checks.fail(
                "instruction", "own or blank where no other task shares the scene", f"swapped for {facts.name}", hint
            )
        self.agent.check(facts)
        own = self.agent.fps
        if own is not None and own != facts.fps:
            text = f"{facts.name} takes {facts.fps:g} decisions a second, and the policy learned from {own:g}"
            if self.options["repeat"] is None:
                way = f"repeat={facts.rate / own:g}" if facts.rate % own == 0 else "an explicit `repeat`"
                raise LattokError(f"{text}. Give {way}.")
            self.notes.append(text)
        text = self._text(facts)
        if text and self.agent.instructions and text not in self.agent.instructions:
            self.notes.append(f"the policy never saw the instruction {text!r} ({facts.name})")

    def _text(self, facts: TaskFacts) -> str:
        """Return what the policy is told to do."""
        return {"own": facts.instruction, "swapped": facts.opposite or "", "blank": ""}[self.options["instruction"]]

    def _plan(self, seats: Sequence[_Seat], observations: Sequence[Mapping[str, Any]]) -> list[np.ndarray]:
        """Return the actions [n, m] that each seat carries out next."""
        chunks = self.agent.plan(observations, [self._text(self.facts[seat.task]) for seat in seats])
        plans = []
        for seat, chunk in zip(seats, chunks, strict=True):
            plan = self._checked(seat, np.asarray(chunk, dtype=np.float64))
            if self.options["ensemble"] is not None:
                plan = _mean_of(seat, plan, self.options["ensemble"])
            plans.append(plan[: self.options["execute"]])
        return plans

    def _checked(self, seat: _Seat, chunk: np.ndarray) -> np.ndarray:
        names = self.facts[seat.task].action_names
        where = f"{seat.task}, seed {seat.seed}, decision {seat.decisions}"
        if chunk.ndim != 2 or chunk.shape[1] != len(names) or not len(chunk):
            expected = f"a chunk [H, {len(names)}] ({', '.join(names)})"
            raise LattokError(f"{where}: expected {expected}, got shape {list(chunk.shape)}.")
        wrong = np.argwhere(~np.isfinite(chunk))
        if len(wrong):
            step, dim = wrong[0]
            text = f"expected finite numbers, got {chunk[step, dim]} for {names[dim]} in step {step} of the chunk"
            raise LattokError(f"{where}: {text}.")
        execute = self.options["execute"] or 1
        if len(chunk) < execute:
            checks.fail("execute", f"at most the {len(chunk)} actions of a chunk", execute)
        return chunk


def _mean_of(seat: _Seat, chunk: np.ndarray, decay: float) -> np.ndarray:
    """Return the mean of all that was planned for the present decision, [1, m]."""
    now = seat.decisions
    seat.recent = [(first, known) for first, known in seat.recent if now - first < len(known)] + [(now, chunk)]
    weights = np.exp(-decay * np.arange(len(seat.recent)))
    actions = np.stack([known[now - first] for first, known in seat.recent])
    return (weights / weights.sum() @ actions)[None]
