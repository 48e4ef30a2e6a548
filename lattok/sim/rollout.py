"""Rollouts: does a policy do what it is told, from start states that all policies share?

    found = rollout(policy, "metaworld-pairs", episodes=10)
    found.score().success, found.score("metaworld-pairs/drawer-open").interval

Episode i of a task has seed `seed` + i, whoever acts. Environments stand side by side; those that need a plan get it in
one batch, and carry it out without images. Rounds are in step, so that results do not depend on the number of
processes, nor on `batch`, except that a neural network rounds otherwise in other batches, in the seventh digit.
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lattok.sim.agents import Agent, as_agent
from lattok.sim.rendering import OFF, Variation
from lattok.sim.scores import EpisodeResult, Rollouts, check_place
from lattok.sim.worlds import Environments, EpisodeOutcome, SimEnv, SimJob, TaskFacts, Workers, find_tasks
from lattok.utils import checks
from lattok.utils.checks import LattokError

SEEDS = 1_000_000  # of the first episode: demonstrations are collected from seed 0 on
ROUNDING = 1e-6  # of limits as float32
INSTRUCTIONS = ("own", "swapped", "blank")


class Turn(NamedTuple):  # state of an episode after a plan was carried out
    observation: dict[str, Any] | None  # None: the episode is over
    frames: list[np.ndarray]  # uint8 [H, V W, 3]: all cameras side by side, after each decision; none without a film
    decisions: int = 0  # so far
    beyond: int = 0  # numbers in the plan that exceeded the limits
    outcome: EpisodeOutcome = EpisodeOutcome()
    facts: TaskFacts | None = None  # of an episode that begins


def begin(env: SimEnv, seed: int, keys: Collection[str] | None, filmed: bool) -> Turn:
    """Begin an episode; its observations have these keys, by default all."""
    env.start(seed)
    return Turn(env.observe(keys), [_picture(env)] if filmed else [], facts=env.facts)


def carry_out(env: SimEnv, seed: int, keys: Collection[str] | None, filmed: bool, actions: np.ndarray) -> Turn:
    """Carry out a plan [n, m] in the running episode, as far as that goes."""
    low, high = env.action_space.low - ROUNDING, env.action_space.high + ROUNDING
    frames, beyond, over = [], 0, False
    for action in actions:
        env.act(action)
        beyond += int(((action < low) | (action > high)).sum())
        if filmed:
            frames.append(_picture(env))
        if over := env.outcome.decided or env.steps >= env.max_steps:
            break
    return Turn(None if over else env.observe(keys), frames, env.steps, beyond, env.outcome)


def _picture(env: SimEnv) -> np.ndarray:
    return np.concatenate([env.cameras.image(name) for name in env.cameras.names], axis=1)


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
        agent: A `LatentVLA`, a `lattok.types.Policy`, one of LeRobot, or a function of an observation and its
            instruction that returns a chunk [H, m].
        tasks: Names, such as "metaworld/reach", or of whole worlds.
        episodes: Episodes of each task.
        seed: Seed of the first episode. Demonstrations begin at 0, so the default shares no episode with them.
        execute: Actions of a chunk that are carried out before the next is planned (default: the policy's own, or all).
        repeat: Steps of the simulator that an action is held; by default as many as the world sets.
        ensemble: Plan at every decision, and execute the mean of all actions planned for it, the i-th oldest with
            weight exp(-ensemble i), as ACT does.
        instruction: own; swapped, the instruction of the other task in the scene; or blank, an empty one.
        variation: Changes of the scene, drawn for each episode from its seed.
        batch: Environments side by side.
        workers: Processes for the environments; 0: in this one.
        videos: Episodes of each task that are filmed.
        out: Folder for rollouts.json, speed.json, videos and their contact sheet. Results of the same model and options
            are replaced, others refused.
        progress: Called with episodes done and in all.

    Raises `LattokError` if the agent does not fit the tasks, or plans something that is no action.
    """
    checks.whole(workers=workers, videos=videos)
    asked = {"episodes": episodes, "seed": seed, "repeat": repeat, "ensemble": ensemble, "execute": execute}
    asked |= {"instruction": instruction, "variation": asdict(variation), "batch": batch}
    _check_options(**asked)
    actor, names = as_agent(agent), find_tasks(tasks)
    chosen = {"tasks": names, **asked, "execute": 1 if ensemble is not None else execute or actor.steps}
    described = actor.describe()
    folder = None if out is None else Path(out)
    if folder is not None:
        check_place(folder, described, chosen)
    plays, begun = _Plays(actor, names, chosen, min(videos, episodes)), time.perf_counter()
    count, made = min(workers, batch, plays.total), {"size": actor.size, "repeat": repeat, "variation": variation}
    with Workers(count, **made) if count else Environments(made, keep=0) as environments:
        plays.run(environments, progress)
    results = tuple(sorted(plays.results, key=lambda result: (names.index(result.task), result.seed)))
    rates, seconds = {name: facts.fps for name, facts in plays.facts.items()}, time.perf_counter() - begun
    found = Rollouts(results, described, chosen, tuple(plays.notes), seconds, plays.films, rates)
    if folder is not None:
        found.save(folder)
    return found


def _check_options(
    episodes: int, seed: int, ensemble: float | None, execute: int | None, instruction: str, batch: int, **_: Any
) -> None:
    checks.counts(1, 10**9, episodes=episodes, batch=batch)
    checks.counts(0, checks.WIDEST - episodes, seed=seed)
    checks.one_of("instruction", instruction, INSTRUCTIONS)
    if execute is not None:
        checks.counts(execute=execute)
    if ensemble is not None:
        checks.at_least_zero(ensemble=ensemble)
        if execute not in (None, 1):
            checks.fail("execute", "1 with `ensemble`, which plans at every decision", execute)


@dataclass
class _Rollout:
    seat: int  # its environment among others
    task: str
    seed: int
    filmed: bool
    decisions: int = 0
    beyond: int = 0
    frames: list[np.ndarray] = field(default_factory=list)
    chunks: list[tuple[int, np.ndarray]] = field(default_factory=list)  # recent ones, from the decision each begins at


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

    def run(self, environments: Workers | Environments, progress: Callable[[int, int], None] | None) -> None:
        seats = [self._next(number) for number in range(min(self.options["batch"], self.total))]
        jobs = [self._job(begin, episode) for episode in seats]
        while jobs:
            turns = dict(zip([job.slot for job in jobs], environments.map(jobs), strict=True))
            jobs, waiting = list[SimJob](), list[_Rollout]()
            for episode in [episode for episode in seats if episode.seat in turns]:
                turn = turns[episode.seat]
                episode.decisions = turn.decisions
                episode.beyond += turn.beyond
                episode.frames += turn.frames
                if turn.facts is not None and turn.facts.name not in self.facts:
                    self._check_task(turn.facts)
                if turn.observation is not None:
                    waiting.append(episode)
                    continue
                share = episode.beyond / (episode.decisions * len(self.facts[episode.task].action_names))
                outcome = (turn.outcome.success, turn.outcome.failure)
                result = EpisodeResult(episode.task, episode.seed, *outcome, episode.decisions, share)
                self.results.append(result)
                if episode.filmed:
                    self.films[result] = np.stack(episode.frames)
                if progress is not None:
                    progress(len(self.results), self.total)
                if self.left.total():
                    seats[episode.seat] = self._next(episode.seat, episode.task)
                    jobs.append(self._job(begin, seats[episode.seat]))
            if waiting:
                plans = self._plan(waiting, [turns[episode.seat].observation or {} for episode in waiting])
                jobs += [self._job(carry_out, episode, plan) for episode, plan in zip(waiting, plans, strict=True)]

    def _next(self, seat: int, before: str = "") -> _Rollout:
        """Choose the next episode of a seat: of the task it had `before` if one is left, else of that with the most."""
        task = before if self.left[before] else self.left.most_common(1)[0][0]
        number = self.options["episodes"] - self.left[task]
        self.left[task] -= 1
        return _Rollout(seat, task, self.options["seed"] + number, number < self.filmed)

    def _job(self, function: Callable[..., Turn], episode: _Rollout, *arguments: Any) -> SimJob:
        return SimJob(function, episode.task, episode.seed, (self.agent.keys, episode.filmed, *arguments), episode.seat)

    def _check_task(self, facts: TaskFacts) -> None:
        self.facts[facts.name] = facts
        if self.options["instruction"] == "swapped" and facts.opposite is None:
            expected, hint = "own or blank where no other task shares the scene", "Take metaworld-pairs or ogbench."
            checks.fail("instruction", expected, f"swapped for {facts.name}", hint)
        self.agent.check(facts)
        if (own := self.agent.fps) is not None and own != facts.fps:
            text = f"{facts.name} takes {facts.fps:g} decisions a second, and the policy learned from {own:g}"
            if self.options["repeat"] is None:
                way = f"repeat={facts.rate / own:g}" if facts.rate % own == 0 else "an explicit `repeat`"
                raise LattokError(f"{text}. Give {way}.")
            self.notes.append(text)
        if (text := self._text(facts)) and self.agent.instructions and text not in self.agent.instructions:
            self.notes.append(f"the policy never saw the instruction {text!r} ({facts.name})")

    def _text(self, facts: TaskFacts) -> str:
        return {"own": facts.instruction, "swapped": facts.opposite or "", "blank": ""}[self.options["instruction"]]

    def _plan(self, episodes: Sequence[_Rollout], observations: Sequence[Mapping[str, Any]]) -> list[np.ndarray]:
        """Return the actions [n, m] that each episode goes on with."""
        chunks = self.agent.plan(observations, [self._text(self.facts[episode.task]) for episode in episodes])
        plans = []
        for episode, chunk in zip(episodes, chunks, strict=True):
            plan = self._checked(episode, chunk)
            if self.options["ensemble"] is not None:
                plan = _mean_of(episode, plan, self.options["ensemble"])
            plans.append(plan[: self.options["execute"]])
        return plans

    def _checked(self, episode: _Rollout, given: Any) -> np.ndarray:
        names = self.facts[episode.task].action_names
        where = f"{episode.task}, seed {episode.seed}, decision {episode.decisions}"
        expected = f"a chunk [H, {len(names)}] ({', '.join(names)})"
        try:
            chunk = np.asarray(given)
            if chunk.dtype.kind not in "biuf":  # numpy turns None into nan, and forgets imaginary parts
                raise TypeError(f"{given!r:.60}")
        except (TypeError, ValueError, RuntimeError) as error:  # the last of torch
            raise LattokError(f"{where}: expected {expected}, got no numbers: {checks.first_line(error)}.") from None
        chunk = np.atleast_2d(chunk).astype(np.float64)
        if chunk.ndim != 2 or chunk.shape[1] != len(names) or not len(chunk):
            raise LattokError(f"{where}: expected {expected}, got shape {list(chunk.shape)}.")
        if len(wrong := np.argwhere(~np.isfinite(chunk))):
            step, dim = wrong[0]
            text = f"expected finite numbers, got {chunk[step, dim]} for {names[dim]} in step {step} of the chunk"
            raise LattokError(f"{where}: {text}.")
        if len(chunk) < (execute := self.options["execute"] or 1):
            checks.fail("execute", f"at most the {checks.counted(len(chunk), 'action')} of a chunk", execute)
        return chunk


def _mean_of(episode: _Rollout, chunk: np.ndarray, decay: float) -> np.ndarray:
    """Return the mean of all that was planned for the present decision, [1, m]."""
    now = episode.decisions
    episode.chunks = [(first, known) for first, known in episode.chunks if now - first < len(known)] + [(now, chunk)]
    weights = np.exp(-decay * np.arange(len(episode.chunks)))
    actions = np.stack([known[now - first] for first, known in episode.chunks])
    return (weights / weights.sum() @ actions)[None]
