"""Processes with simulators: which environments they keep, and errors that name task and seed."""

import os
from collections.abc import Iterator
from importlib.util import find_spec

import pytest

if find_spec("metaworld") is None:
    pytest.skip("the sim extra is not installed", allow_module_level=True)

from lattok.sim.worlds import SimJob, Workers
from tests.errors import refused
from tests.sim import worker_jobs as jobs

DRAWER, FAUCET = "metaworld-pairs/drawer-open", "metaworld-pairs/faucet-open"


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with Workers(2, size=32) as workers:
        yield workers


@pytest.mark.ci
def test_a_slot_keeps_its_environment_and_others_share_one_for_each_task(workers: Workers) -> None:
    slots = [SimJob(jobs.count, DRAWER, seed, slot=slot) for seed in (0, -1, -1) for slot in range(4)]
    assert list(workers.map(slots)) == [1] * 4 + [2] * 4 + [3] * 4
    tasks = [DRAWER, FAUCET] * 3
    found = list(workers.map([SimJob(jobs.identify, task, 7, (1, "a")) for task in tasks]))
    assert [what[2:] for what in found] == [(task, 7, (1, "a")) for task in tasks]
    assert os.getpid() not in {process for process, *_ in found}
    assert len({what[:3] for what in found}) <= 4  # two processes, two tasks


def test_a_worker_uses_one_thread(workers: Workers) -> None:
    assert list(workers.map([SimJob(jobs.threads, DRAWER, 0)])) == [(1, "1")]


@pytest.mark.parametrize(
    ("function", "task", "why"),
    [
        (jobs.fail, DRAWER, r"KeyError: 'no such body\\nin the model'"),
        (jobs.count, "metaworld-pairs/drawer-opn", r"`tasks`: expected one of .* Did you mean .*drawer-open\?"),
    ],
)
def test_what_goes_wrong_is_one_line_with_task_and_seed(workers: Workers, function, task: str, why: str) -> None:
    refused(f"^{task}, seed 5: {why}$", lambda: list(workers.map([SimJob(function, task, 5)])))
    assert list(workers.map([SimJob(jobs.count, DRAWER, 0)])) == [1]  # and the process goes on
