"""What the engine asks of Ray, by a Ray that answers as it is told: in no process but this one."""

import os
from collections import Counter
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lattok.annotation import engines
from lattok.annotation.engines import ATTEMPTS, IN_FLIGHT, START_S, RayEngine
from lattok.annotation.units import Unit, UnitLabels
from tests.errors import refused

GOOD = UnitLabels({"tok.codes": np.zeros((1, 1))}, {})
BAD = UnitLabels({}, {"tok": {0: "cannot be read"}})


class RayError(Exception):
    pass


class RayActorError(RayError):
    pass


class Actor:
    def __init__(self, ray: "FakeRay"):
        self.held = list[int]()  # units
        self.ready = SimpleNamespace(remote=lambda: Answer(self))
        self.label = SimpleNamespace(remote=lambda unit: ray.send(self, unit))


class Answer:
    """What will hold the labels of a unit, or says that its actor is there."""

    def __init__(self, actor: Actor, number: int | None = None, attempt: int = 0):
        self.actor, self.number, self.attempt = actor, number, attempt


class FakeRay:
    """Actors whose answers to `label` are those of `told`, by unit, one after the other: labels, or an error."""

    exceptions = SimpleNamespace(RayError=RayError, RayActorError=RayActorError)

    def __init__(self, told: dict[int, list[Any]] | None = None, workers: int = 2, start: bool = True):
        self.told, self.cpus, self.start = told or {}, float(workers), start
        self.timeouts, self.returns, self.killed = list[Any](), set[int](), list[Any]()
        self.asked = Counter[int]()  # by unit
        self.most, self.alone = 0, list[int]()  # units that one worker held; by those beside a unit that failed
        self.spawned = 0
        self.broken = False  # no worker comes up

    def is_initialized(self) -> bool:
        return False

    def init(self, **options: Any) -> None:
        self.options = options

    def shutdown(self) -> None: ...

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": self.cpus}

    def put(self, value: Any) -> Any:
        return value

    def remote(self, kind: type) -> Any:
        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=self.actor))

    def actor(self, work: Any, device: str, threads: int) -> Actor:
        self.spawned += 1
        self.threads = threads
        return Actor(self)

    def send(self, actor: Actor, unit: Unit) -> Answer:
        self.asked[unit.number] += 1
        actor.held.append(unit.number)
        self.most = max(self.most, len(actor.held))
        if self.asked[unit.number] > 1:
            self.alone.append(len(actor.held))
        return Answer(actor, unit.number, self.asked[unit.number])

    def wait(self, refs: list[Answer], num_returns: int, timeout: float | None) -> tuple[list[Answer], list[Answer]]:
        self.timeouts.append(timeout)
        self.returns.add(num_returns)
        if not self.start:
            return [], refs
        ready = next((ref for ref in refs if ref.number is None), refs[0])
        return [ready], [ref for ref in refs if ref is not ready]

    def get(self, ref: Answer) -> Any:
        if ref.number is None:
            if self.broken:
                raise RayError("no module named theirs")
            return None
        ref.actor.held.remove(ref.number)
        answers = self.told.get(ref.number, [GOOD])
        answer = answers[min(ref.attempt, len(answers)) - 1]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def kill(self, worker: Any) -> None:
        self.killed.append(worker)


def unit(number: int) -> Unit:
    return Unit(number, "data", number, number + 1, (number,), (1,))


def labelled(monkeypatch, ray: FakeRay, units: int, **options: Any) -> dict[int, UnitLabels]:
    monkeypatch.setattr(engines, "_ray", lambda: ray)
    monkeypatch.setattr(engines, "_asking_for_a_token", nullcontext)
    work: Any = SimpleNamespace(models={"tok": None})
    return {unit.number: labels for unit, labels in RayEngine(**options).label(work, [unit(n) for n in range(units)])}


def test_every_unit_is_labelled_and_workers_hold_two(monkeypatch):
    ray = FakeRay()
    assert labelled(monkeypatch, ray, 7) == dict.fromkeys(range(7), GOOD)
    assert ray.asked == dict.fromkeys(range(7), 1)
    assert (ray.most, ray.spawned, len(ray.killed), ray.returns) == (IN_FLIGHT, 2, 2, {1})
    assert ray.timeouts[0] == START_S
    assert set(ray.timeouts[1:]) == {None}  # a worker is there: its labels take as long as they take


def test_no_worker_that_starts_is_waited_for_no_longer_than_it_says(monkeypatch):
    ray = FakeRay(start=False)
    refused(f"expected one that starts within {START_S} seconds, got none. Other jobs", labelled, monkeypatch, ray, 3)
    assert (ray.timeouts, len(ray.killed)) == ([START_S], 2)


def test_workers_that_cannot_start_are_started_again_so_many_times_alone(monkeypatch):
    ray, units = FakeRay(), 3
    ray.broken = True
    refused("`engine`: workers cannot start: no module named theirs", labelled, monkeypatch, ray, units)
    assert ray.spawned == 2 + ATTEMPTS * (2 + units) - 1


@pytest.mark.parametrize(
    ("workers", "cpus", "cores", "threads"),
    [(3, 0.5, 2, 1), (2, 1, 2, 1), (3, 0.4, 2, 1), (2, 3, 6, 3), (None, 1, None, 1)],
)
def test_ray_is_started_with_the_cores_that_workers_need(monkeypatch, workers, cpus, cores, threads):
    ray = FakeRay(workers=8)
    labelled(monkeypatch, ray, 1, workers=workers, cpus=cpus)
    assert (ray.options["num_cpus"], ray.threads) == (cores, threads)


def test_a_ray_that_this_process_has_started_is_used_as_it_is(monkeypatch):
    for address in (None, "auto"):
        ray = FakeRay()
        ray.is_initialized = lambda: True
        assert labelled(monkeypatch, ray, 2, address=address) == {0: GOOD, 1: GOOD}
        assert not hasattr(ray, "options")
    refused("`address`: this process is connected to Ray", labelled, monkeypatch, ray, 2, address="ray://other:1")


@pytest.mark.parametrize(("address", "asks"), [(None, 1), ("auto", 0)])
def test_only_a_ray_of_our_own_asks_for_a_token_and_none_logs(monkeypatch, address, asks):
    ray, asked = FakeRay(), list[None]()
    monkeypatch.setattr(engines, "_ray", lambda: ray)
    monkeypatch.setattr(engines, "_asking_for_a_token", lambda: nullcontext(asked.append(None)))
    list(RayEngine(address).label(SimpleNamespace(models={"tok": None}), [unit(0)]))
    assert len(asked) == asks
    assert ray.options["address"] == (address or "local")
    assert (ray.options["log_to_driver"], ray.options["logging_level"]) == (False, "ERROR")


@pytest.mark.parametrize(
    ("resources", "options", "count"),
    [
        ({"CPU": 4.0, "GPU": 2.0}, {"gpus": 1}, 2),
        ({"CPU": 4.0, "GPU": 2.0}, {"gpus": 0.5}, 4),
        ({"CPU": 1.0}, {}, 1),
        ({"CPU": 4.0}, {"gpus": 1}, None),  # no GPU at all
        ({"CPU": 0.5}, {}, None),
        ({"CPU": 2.0}, {"workers": 3}, None),
        ({"CPU": 2.0}, {"workers": 2}, 2),
    ],
)
def test_there_are_as_many_workers_as_there_is_room_for(monkeypatch, resources, options, count):
    ray = FakeRay()
    ray.cluster_resources = lambda: resources
    monkeypatch.setattr(engines, "_ray", lambda: ray)
    if count is not None:
        assert RayEngine(**options).count(9) == count
        return
    refused("`workers`: expected room for", lambda: RayEngine(**options).count(9))


def test_the_token_is_there_while_ray_starts_and_what_was_there_before_afterwards(monkeypatch):
    read = list[tuple[str | None, ...]]()
    names = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")
    raylet = SimpleNamespace(
        Config=SimpleNamespace(initialize=lambda _: read.append(tuple(os.environ.get(name) for name in names))),
        AuthenticationTokenLoader=SimpleNamespace(instance=lambda: SimpleNamespace(reset_cache=lambda: None)),
    )
    monkeypatch.setattr(engines, "import_module", lambda _: raylet)
    monkeypatch.setenv("RAY_AUTH_MODE", "theirs")
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    with engines._asking_for_a_token():
        assert os.environ["RAY_AUTH_MODE"] == "token"
        assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    assert (os.environ["RAY_AUTH_MODE"], "RAY_AUTH_TOKEN" in os.environ) == ("theirs", False)
    assert [mode for mode, _ in read] == ["token", "theirs"]
    assert read[1][1] is None


@pytest.mark.parametrize(
    ("address", "said"), [(None, "`engine`: Ray cannot start"), ("far", "`address`: expected a Ray")]
)
def test_a_ray_that_does_not_answer_is_said(monkeypatch, address, said):
    ray = FakeRay()
    monkeypatch.setattr(ray, "init", lambda **options: (_ for _ in ()).throw(ConnectionError("no room")))
    assert "no room" in refused(said, labelled, monkeypatch, ray, 1, address=address)


def test_what_cannot_be_read_is_tried_once_more_by_another_worker(monkeypatch):
    ray = FakeRay({0: [BAD, GOOD], 1: [BAD, BAD]})
    assert labelled(monkeypatch, ray, 4) == {0: GOOD, 1: BAD, 2: GOOD, 3: GOOD}
    assert (ray.asked[0], ray.asked[1]) == (2, 2)
    alone = FakeRay({0: [BAD, GOOD]}, workers=1)
    assert labelled(monkeypatch, alone, 2) == {0: BAD, 1: GOOD}
    assert alone.asked[0] == 1  # the same worker reads the same


@pytest.mark.parametrize("error", [RayActorError("lost"), RayError("lost")])
def test_what_kills_its_workers_travels_alone_and_is_left_out(monkeypatch, error):
    ray = FakeRay({2: [error]})
    found = labelled(monkeypatch, ray, 6)
    assert {number for number, labels in found.items() if labels is GOOD} == {0, 1, 3, 4, 5}
    assert found[2].strange == 1
    assert found[2].failures["tok"][2].endswith(f"lost{')' * (type(error) is RayActorError)}, {ATTEMPTS} times")
    assert (ray.asked[2], set(ray.alone)) == (ATTEMPTS, {1})
    # a worker that died is started again once, when its other unit has come back too; after the last attempt not at all
    assert ray.spawned == 2 + (ATTEMPTS - 1) * (type(error) is RayActorError)
