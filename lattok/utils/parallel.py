"""Work done beside other work: in other processes, and ahead of its use by a few threads.

    with Processes(partial(make_writer, folder)) as processes:
        for written in processes.map(files):
            ...

`make_writer(folder)` is called once in each of them and returns what does the jobs, `do(job)`. It is found there by its
name, so it stands in a module. A process ends when the pipe from its parent does, however the parent dies.
"""

import os
import pickle
import signal
import subprocess
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from queue import SimpleQueue
from threading import Event, Thread, local
from typing import Any, Generic, NamedTuple, TypeVar

from typing_extensions import Self

from lattok.utils import checks
from lattok.utils.devices import cores

ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "LP_NUM_THREADS")  # the last: Mesa's
START = "from lattok.utils.parallel import serve; serve({})"


class Processes:
    """`count` processes, by default one for each core, each with what `make()` returns to do the jobs.

    Jobs with the same `slot`, a number, go to the same process; errors name the job by `str`. Use it in a `with`: at
    the end of the block the processes end at once, whatever they do. Unlike those of multiprocessing they do not import
    the script that is run, which so needs no `if __name__ == "__main__"`.
    """

    def __init__(self, make: Callable[[], Callable[[Any], Any]], count: int | None = None):
        count = cores() if count is None else count
        checks.counts(workers=count)
        self.count = count
        self._make = make
        self._processes: list[subprocess.Popen[bytes]] = []
        self._pipes: list[Connection] = []
        self._waiting: deque[Any] = deque()
        self._own: list[deque[Any]] = [deque() for _ in range(count)]  # waiting for one process, that of their slot
        self._busy: dict[int, Any] = {}

    def __enter__(self) -> Self:
        threads = dict.fromkeys(ONE_THREAD, "1")
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        environment = os.environ | threads | {"PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
        try:
            for number in range(self.count):
                here, there = Pipe()
                self._pipes.append(here)
                with there:
                    process = subprocess.Popen(
                        [sys.executable, "-c", START.format(there.fileno())],
                        stdin=subprocess.DEVNULL,
                        stdout=2,  # what anything prints there is not the output of this program
                        pass_fds=[there.fileno()],
                        env=environment,
                        start_new_session=True,  # Ctrl-C is for the parent alone
                    )
                self._processes.append(process)
                self._send(number, self._make)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()
        for pipe in self._pipes:
            pipe.close()
        self._processes, self._pipes = [], []

    def submit(self, job: object) -> None:
        """Let a process do `job` when one is free; `results` has what comes of it."""
        slot = getattr(job, "slot", None)
        (self._waiting if slot is None else self._own[slot % self.count]).append(job)
        self._hand_out()

    def results(self) -> Iterator[tuple[Any, Any]]:
        """Yield every submitted job with what came of it, as they are finished; more may be submitted.

        What goes wrong in a job, or takes its process with it, is a `LattokError` that names the job.
        """
        while self._busy:
            pipe = wait([self._pipes[number] for number in self._busy])[0]
            number = self._pipes.index(pipe)  # pyright: ignore[reportArgumentType]
            job = self._busy.pop(number)
            try:
                answer = self._pipes[number].recv_bytes()
            except (EOFError, OSError):  # before its answer, or in the middle of it
                code = self._processes[number].wait()
                how = f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
                raise checks.LattokError(f"{job}: its process died ({how}).") from None
            value, why, trace = pickle.loads(answer)
            if why:
                raise checks.LattokError(f"{job}: {why}") from RuntimeError(trace)
            self._hand_out()
            yield job, value

    def map(self, jobs: Iterable[Any]) -> list[Any]:
        """Return what comes of `jobs`, in their order."""
        jobs = list(jobs)
        for job in jobs:
            self.submit(job)
        found = {id(job): value for job, value in self.results()}
        return [found[id(job)] for job in jobs]

    def _hand_out(self) -> None:
        """Give a job to every process that has none."""
        for number in range(self.count):
            queue = self._own[number] or self._waiting
            if number not in self._busy and queue:
                self._busy[number] = queue.popleft()
                self._send(number, self._busy[number])

    def _send(self, number: int, message: object) -> None:
        with suppress(OSError):  # it has died, which `results` finds
            self._pipes[number].send_bytes(pickle.dumps(message))


def serve(handle: int) -> None:
    """Do the jobs that come through a pipe, in a process of its own, until that ends."""
    pipe, jobs = Connection(handle), SimpleQueue[bytes]()
    Thread(target=_hear, args=(pipe, jobs), daemon=True).start()
    do = pickle.loads(jobs.get())()
    while True:
        try:
            sent = pickle.dumps((do(pickle.loads(jobs.get())), "", ""))
        except Exception as error:
            sent = pickle.dumps((None, checks.reason(error), traceback.format_exc()))
        pipe.send_bytes(sent)


def _hear(pipe: Connection, jobs: SimpleQueue[bytes]) -> None:
    """Take in jobs while others are done; the end of the pipe is the end of the process, in the middle of a job too."""
    try:
        while True:
            jobs.put(pipe.recv_bytes())
    finally:
        os._exit(0)


Value = TypeVar("Value")
# Python lets a thread that computes keep the interpreter for 5 ms, for which decoders then wait at every frame: two of
# them gave 1,237 frames of 224 x 224 a second with it and 2,412 with this
TURN_S = 5e-4
MOST_THREADS = 16  # four decode 826 frames of 640 x 480 in AV1 a second, of which an H100 labels 1,678
LEAST_PIECE = 32  # a decoder that starts within a video first decodes what it does not return


def threads_ahead() -> int:
    """Return how many threads work ahead: on every core but one, which computes, or on both where there are two."""
    return min(MOST_THREADS, max(2, cores() - 1), cores())


def piece_size(limit: int, most: int) -> int:
    """Return how large a piece of work is so that all threads have one within a limit, `most` at most."""
    return min(most, max(LEAST_PIECE, limit // threads_ahead() // LEAST_PIECE * LEAST_PIECE))


class Abandoned(Exception):
    """Work whose result is no longer wanted."""


_THREAD = local()


def check_wanted() -> None:
    """Raise `Abandoned` in a thread of a `Prefetcher` whose work is no longer wanted: long work asks now and then."""
    if getattr(_THREAD, "stopped", bool)():
        raise Abandoned


class Request(NamedTuple):  # something to do ahead: `work(*arguments)`
    arguments: tuple[object, ...]
    size: int  # in the unit of the limit


class Prefetcher(Generic[Value]):
    """Results of `work(*arguments)`, asked for in the order of `jobs` and computed before they are.

    What was computed and not yet taken is at most `limit` in size, or one job. An error in the work appears where its
    result is taken. Leaving the `with` gives up what is still to do and waits for the threads: see `check_wanted`.
    """

    def __init__(self, work: Callable[..., Value], jobs: Iterable[Request], limit: int, threads: int | None = None):
        self._work, self._limit = work, limit
        self._jobs = iter(jobs)
        self._next = next(self._jobs, None)
        self._begun: deque[tuple[Request, Future[Value]]] = deque()
        self._size = 0  # of what has begun
        self._stop = Event()
        self._pool = ThreadPoolExecutor(threads or threads_ahead(), thread_name_prefix="lattok-ahead")

    def __enter__(self) -> Self:
        self._turn = sys.getswitchinterval()
        sys.setswitchinterval(min(self._turn, TURN_S))
        self._fill()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._pool.shutdown(wait=True, cancel_futures=True)
        sys.setswitchinterval(self._turn)

    def __call__(self, *arguments: object) -> Value:
        """Return the result of the job with these arguments; those before it are given up."""
        while self._begun:
            job, future = self._begun.popleft()
            try:
                if job.arguments == arguments:
                    return future.result()
                future.cancel()
            finally:  # after an error the next job can still be asked for
                self._size -= job.size
                self._fill()
        raise RuntimeError(f"{arguments} are the arguments of no job that is left")

    def _fill(self) -> None:
        """Begin jobs while they fit."""
        while self._next is not None and (not self._begun or self._size + self._next.size <= self._limit):
            job, self._next = self._next, next(self._jobs, None)
            self._begun.append((job, self._pool.submit(self._run, *job.arguments)))
            self._size += job.size

    def _run(self, *arguments: object) -> Value:
        _THREAD.stopped = self._stop.is_set
        check_wanted()  # a thread may take a job that is about to be cancelled
        return self._work(*arguments)
