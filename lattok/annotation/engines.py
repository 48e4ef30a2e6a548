"""Who labels the units of a dataset: this process, or the workers of Ray: `engine=RayEngine(workers=4)`.

Every worker of Ray, over a cluster or the processes of one machine, holds the models once and reads the dataset under
the same path; labels travel back to this process, the only one that writes. A worker that dies is replaced and its
units are labelled again; a unit that takes three workers with it is left out. Extra `ray`.
"""

import os
import secrets
import signal
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from importlib import import_module
from threading import Lock
from types import ModuleType
from typing import Any

from lattok.annotation.labels import AHEAD_FRAMES, Work, jobs, label_decoded, piece_of_frames
from lattok.annotation.units import Unit, UnitLabels
from lattok.utils import checks, signals, watching
from lattok.utils.checks import LattokError
from lattok.utils.parallel import Prefetcher
from lattok.version import install_extra

ATTEMPTS = 3  # workers that a unit may cost
START_S = 300  # for the first worker to be there; a cluster may have to start machines
IN_FLIGHT = 2  # units per worker: the frames of one are decoded while the other is labelled


class LocalEngine:
    """Labels in this process; other threads decode video ahead."""

    device: str | None = None  # kind of device that labels; None: where the models are

    def label(self, work: Work, units: Sequence[Unit]) -> Iterator[tuple[Unit, UnitLabels]]:
        """Yield the labels of each unit as it is finished; every engine gives the same."""
        with Prefetcher(partial(piece_of_frames, work), jobs(work, units), AHEAD_FRAMES) as frames_of:
            for unit in units:
                yield unit, label_decoded(work, unit, frames_of)


class RayEngine:
    """Labels with `workers` actors of `cpus` cores and `gpus` (a fraction is fine) each.

    `address` is a running cluster's ("auto", "ray://host:10001"); without one Ray is started here for the duration of
    an annotation, and asks callers for a token, unless this process has started it. By default there are as many
    workers as resources.

    While Ray starts, its C code handles SIGTERM and aborts the process; afterwards your handler is back. `lattok
    annotate` has a process that survives this (`lattok.utils.watching`).
    """

    def __init__(self, address: str | None = None, workers: int | None = None, cpus: float = 1, gpus: float = 0):
        checks.counts(**({} if workers is None else {"workers": workers}))
        checks.positive(cpus=cpus)
        checks.at_least_zero(gpus=gpus)
        self.address, self.workers, self.cpus, self.gpus = address, workers, cpus, gpus
        self.device: str | None = "cuda" if gpus else "cpu"

    def label(self, work: Work, units: Sequence[Unit]) -> Iterator[tuple[Unit, UnitLabels]]:
        if units:
            with self._connected():
                yield from _Pool(self, work, units).run()

    @contextmanager
    def _connected(self) -> Iterator[None]:
        with signals.kept():
            ray = _ray()
        if ray.is_initialized():
            if self.address not in (None, "auto"):
                raise LattokError(f"`address`: this process is connected to Ray already, not to {self.address!r}.")
            yield
            return
        cores = None if self.workers is None else int(-(-self.workers * self.cpus // 1))
        own: dict[str, Any] = {"address": "local", "num_cpus": cores, "include_dashboard": False}
        with _asking_for_a_token() if self.address is None else nullcontext():
            try:
                with signals.kept(), watching.hushed():  # Ray's end the process with a stack
                    where = own if self.address is None else {"address": self.address}
                    ray.init(**where, log_to_driver=False, logging_level="ERROR")
                signals.check()
            except SystemExit:  # Ray's answer to SIGTERM while it starts
                raise signals.Interrupted(number=signal.SIGTERM) from None
            except Exception as error:  # Ray's own kinds differ between its versions
                signals.check()
                if self.address is None:
                    raise LattokError(
                        f"`engine`: Ray cannot start here: {checks.first_line(error).rstrip('.')}."
                    ) from None
                checks.fail("address", "a Ray cluster that answers", f"{self.address} ({checks.first_line(error)})")
            try:
                yield
            finally:
                ray.shutdown()

    def count(self, units: int) -> int:
        resources = _ray().cluster_resources()
        room = int(resources.get("CPU", 0) // self.cpus)
        if self.gpus:
            room = min(room, int(resources.get("GPU", 0) // self.gpus))
        if room < (self.workers or 1):
            has = f"{resources.get('CPU', 0):g} CPUs and {resources.get('GPU', 0):g} GPUs"
            wanted = f"{self.workers or 1} workers of {self.cpus:g} CPUs and {self.gpus:g} GPUs"
            checks.fail("workers", f"room for {wanted}", f"a cluster of {has}", "Ask for less of them.")
        return min(self.workers or room, units)


Engine = LocalEngine | RayEngine


class _Worker:
    """Lives in a process of its own."""

    def __init__(self, work: Work, device: str, threads: int):
        models = {prefix: model.to(device) for prefix, model in work.models.items()}
        self._work, self._threads = work._replace(models=models), threads
        self._one = Lock()  # units overlap in decoding alone

    def ready(self) -> None:
        """Return, once the models are on the device."""

    def label(self, unit: Unit) -> UnitLabels:
        wanted, decode = jobs(self._work, [unit]), partial(piece_of_frames, self._work)
        with Prefetcher(decode, wanted, AHEAD_FRAMES, self._threads) as frames_of, self._one:
            return label_decoded(self._work, unit, frames_of)


class _Pool:
    def __init__(self, engine: RayEngine, work: Work, units: Sequence[Unit]):
        self._ray, self._engine = _ray(), engine
        self._waiting = deque(units)
        self._failed: Counter[int] = Counter()  # by number of the unit
        self._flying: dict[Any, tuple[int, Unit]] = {}  # what will hold the labels -> worker, unit
        self._prefixes = tuple(work.models)
        try:
            self._work = self._ray.put(work)
        except Exception as error:  # pickling another package's model may raise anything
            why = checks.first_line(error.__cause__ if isinstance(error.__cause__, Exception) else error)
            raise LattokError(f"`models`: expected models that other processes can be given, got: {why}") from None
        self._starting: dict[Any, int] = {}  # what answers once a worker is there -> worker
        self._up: set[int] = set()  # workers that have answered
        count = engine.count(len(units))
        self._starts_left = ATTEMPTS * (count + len(units))
        self._workers: list[Any] = [None] * count
        for number in range(count):
            self._spawn(number)

    def run(self) -> Iterator[tuple[Unit, UnitLabels]]:
        try:
            while self._waiting or self._flying:
                self._fill()
                timeout = None if self._up else START_S
                answers, _ = self._ray.wait([*self._flying, *self._starting], num_returns=1, timeout=timeout)
                if not answers:
                    hint = "Other jobs hold the cluster, or it has lost machines: ask for less, or try again later."
                    checks.fail("workers", f"one that starts within {START_S} seconds", "none", hint)
                (ready,) = answers
                if ready in self._starting:
                    self._started(ready)
                    continue
                number, unit = self._flying.pop(ready)
                if (labelled := self._taken(ready, number, unit)) is not None:
                    yield unit, labelled
        finally:
            for worker in self._workers:
                self._ray.kill(worker)

    def _started(self, ready: object) -> None:
        number = self._starting.pop(ready)
        try:
            self._ray.get(ready)
            self._up.add(number)
        except self._ray.exceptions.RayError as error:
            why = checks.first_line(getattr(error, "cause", None) or error)
            self._starts_left -= 1
            if not self._starts_left:
                raise LattokError(f"`engine`: workers cannot start: {why}") from None
            self._spawn(number)

    def _taken(self, ready: object, number: int, unit: Unit) -> UnitLabels | None:
        """Labels of a unit; None if it is to be tried again."""
        errors = self._ray.exceptions
        self._failed[unit.number] += 1
        try:
            labelled = self._ray.get(ready)
            if not labelled.failures or self._failed[unit.number] > 1 or len(self._up) == 1:
                return labelled
            self._waiting.append(unit)  # it may be this worker's machine: another one tries
            return None
        except errors.RayActorError as error:
            why = f"the worker died ({checks.first_line(error)})"
            self._up.discard(number)
            if not any(other == number for other, _ in self._flying.values()):  # its other unit has come back too
                self._spawn(number)
        except errors.RayError as error:
            why = checks.first_line(getattr(error, "cause", None) or error)
        if self._failed[unit.number] < ATTEMPTS:
            self._waiting.appendleft(unit)
            return None
        lost = dict.fromkeys(unit.episodes, f"{why}, {ATTEMPTS} times")
        return UnitLabels({}, {prefix: dict(lost) for prefix in self._prefixes}, len(unit.episodes))

    def _fill(self) -> None:
        """Give workers what they have room for; a unit that failed travels alone, so that no other is blamed."""
        for _ in range(IN_FLIGHT):
            for number in sorted(self._up):
                load = [unit for other, unit in self._flying.values() if other == number]
                if not self._waiting or len(load) >= IN_FLIGHT:
                    continue
                if load and any(self._failed[unit.number] for unit in (self._waiting[0], *load)):
                    continue
                unit = self._waiting.popleft()
                self._flying[self._workers[number].label.remote(unit)] = (number, unit)

    def _spawn(self, number: int) -> None:
        engine = self._engine
        options = {"num_cpus": engine.cpus, "num_gpus": engine.gpus, "max_concurrency": IN_FLIGHT}
        worker = self._ray.remote(_Worker).options(**options)
        self._workers[number] = worker.remote(self._work, engine.device, max(1, int(engine.cpus)))
        self._starting[self._workers[number].ready.remote()] = number


@contextmanager
def _asking_for_a_token() -> Iterator[None]:
    """Let a Ray that is started meanwhile, which listens on all interfaces, ask callers for a token of its own."""
    raylet = import_module("ray._raylet")

    def read_again() -> None:  # in this order: its threads ask for the token as long as the mode says so
        raylet.Config.initialize("")
        raylet.AuthenticationTokenLoader.instance().reset_cache()

    own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    before = {name: os.environ.pop(name) for name in own if name in os.environ}
    os.environ.update(own)
    read_again()
    try:
        yield
    finally:
        for name in own:
            os.environ.pop(name, None)
        os.environ.update(before)
        read_again()


def _ray() -> ModuleType:
    os.environ.setdefault("RAY_TQDM_PATCH_PRINT", "0")  # print stays the user's own
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
        import ray.exceptions
    except ImportError:
        raise LattokError(f"`engine`: Ray is not installed. Run: {install_extra('ray')}") from None
    return ray
