"""Processes that hold simulators: a few cores' worth of episodes at a time.

    with Workers(size=64) as workers:
        for states in workers.map(SimJob(play, "metaworld/reach", seed) for seed in range(10)):
            ...

`play(env, seed, *arguments)` runs in another process and is found there by its name, so it stands in a module.
A worker ends when the pipe from its parent does: however the parent dies, none is left.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import IO, Any, NamedTuple

from typing_extensions import Self

from lattok import checks
from lattok.checks import LattokError
from lattok.files import first_line
from lattok.sim.env import SimEnv, make

KEPT = 8  # environments that a worker keeps open, of 80 MB each; a new one costs half a second with its renderer
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "LP_NUM_THREADS")  # the last: Mesa's
START = "from lattok.sim.workers import serve; serve()"


class SimJob(NamedTuple):
    """Call `function(env, seed, *arguments)` with an environment of `task`, as the last job has left it."""

    function: Callable[..., Any]
    task: str  # "metaworld/reach"
    seed: int
    arguments: tuple[Any, ...] = ()
    slot: int | None = None  # jobs of one slot go to one worker; while their task is the same, to one environment


class Workers:
    """`count` processes, by default one for each core, whose environments are made with `options`, those of `make`.

    Use it in a `with`: at the end of the block the processes end at once, whatever they do.
    """

    def __init__(self, count: int | None = None, **options: Any):
        count = _cores() if count is None else count
        checks.counts(workers=count)
        self.count = count
        self._options = options
        self._processes: list[subprocess.Popen[bytes]] = []
        self._answers: SimpleQueue[tuple[int, Any]] = SimpleQueue()
        self._waiting: deque[SimJob] = deque()
        self._own: list[deque[SimJob]] = [deque() for _ in range(count)]  # waiting for one worker, that of their slot
        self._busy: dict[int, SimJob] = {}

    def __enter__(self) -> Self:
        """Start the processes."""
        threads = dict.fromkeys(ONE_THREAD, "1")
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        environment = os.environ | threads | {"PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
        try:
            for number in range(self.count):
                process = subprocess.Popen(
                    [sys.executable, "-c", START],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env=environment,
                    start_new_session=True,  # Ctrl-C is for the parent alone
                )
                self._processes.append(process)
                self._send(number, self._options)
                Thread(target=_listen, args=(number, process.stdout, self._answers), daemon=True).start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()
            for pipe in filter(None, (process.stdin, process.stdout)):
                with suppress(BrokenPipeError):  # what was not sent yet is for nobody
                    pipe.close()
        self._processes = []

    def submit(self, job: SimJob) -> None:
        """Let a worker do `job` when one is free; `results` has what comes of it."""
        (self._waiting if job.slot is None else self._own[job.slot % self.count]).append(job)
        self._hand_out()

    def results(self) -> Iterator[tuple[SimJob, Any]]:
        """Yield every submitted job with what its function returned, as they are finished; more may be submitted.

        What goes wrong in a job, or takes its process with it, is a `LattokError` that names task and seed.
        """
        while self._busy:
            number, answer = self._answers.get()
            job = self._busy.pop(number)
            if answer is None:
                code = self._processes[number].wait()
                raise LattokError(f"{job.task}, seed {job.seed}: its process died ({_ending(code)}).")
            value, why, trace = answer
            if why:
                raise LattokError(f"{job.task}, seed {job.seed}: {why}") from RuntimeError(trace)
            self._hand_out()
            yield job, value

    def map(self, jobs: Iterable[SimJob]) -> Iterator[Any]:
        """Yield what comes of `jobs`, in their order."""
        jobs = list(jobs)
        numbers = {id(job): number for number, job in enumerate(jobs)}
        for job in jobs:
            self.submit(job)
        found: dict[int, Any] = {}
        following = 0
        for job, value in self.results():
            found[numbers[id(job)]] = value
            while following in found:
                yield found.pop(following)
                following += 1

    def _hand_out(self) -> None:
        """Give a job to every worker that has none."""
        for number in range(self.count):
            queue = self._own[number] or self._waiting
            if number not in self._busy and queue:
                self._busy[number] = queue.popleft()
                self._send(number, self._busy[number])

    def _send(self, number: int, message: Any) -> None:
        pipe = self._processes[number].stdin
        assert pipe is not None
        with suppress(BrokenPipeError):  # it has died, which the other pipe tells
            pickle.dump(pickle.dumps(message), pipe)
            pipe.flush()


def _listen(number: int, pipe: IO[bytes], answers: SimpleQueue[tuple[int, Any]]) -> None:
    """Pass on what a worker says, and None at its end."""
    try:
        while True:
            answers.put((number, pickle.loads(pickle.load(pipe))))
    except Exception:  # the end of the pipe, in the middle of an answer too
        answers.put((number, None))


def _ending(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def serve() -> None:
    """Do the jobs that come through standard input, in a process of its own, until that ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what anything prints is no answer
    jobs: SimpleQueue[bytes] = SimpleQueue()
    Thread(target=_hear, args=(sys.stdin.buffer, jobs), daemon=True).start()
    options = pickle.loads(jobs.get())
    environments: dict[tuple[str, int | None], SimEnv] = {}
    while True:
        answer: tuple[Any, str, str]
        try:
            job: SimJob = pickle.loads(jobs.get())
            env = _environment(environments, job, options)
            answer = (job.function(env, job.seed, *job.arguments), "", "")
            sent = pickle.dumps(answer)
        except Exception as error:
            kind = "" if isinstance(error, LattokError) else f"{type(error).__name__}: "
            why = kind + first_line(error)
            sent = pickle.dumps((None, why, traceback.format_exc()))
        pickle.dump(sent, answers)
        answers.flush()


def _hear(pipe: IO[bytes], jobs: SimpleQueue[bytes]) -> None:
    """Take in jobs while others are done; the end of the pipe is the end of the process, in the middle of a job too."""
    try:
        while True:
            jobs.put(pickle.load(pipe))
    finally:
        os._exit(0)


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
