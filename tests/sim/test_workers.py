"""Processes with simulators: order, slots, errors in one line, and none that outlives its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

if find_spec("metaworld") is None:
    pytest.skip("the sim extra is not installed", allow_module_level=True)

from lattok.checks import LattokError
from lattok.sim.workers import SimJob, Workers
from tests.sim import worker_jobs as jobs
from tests.sim.conftest import marked

DRAWER, FAUCET = "metaworld-pairs/drawer-open", "metaworld-pairs/faucet-open"


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with Workers(2, size=32) as workers:
        yield workers


def test_results_come_in_order_and_as_they_are_finished(workers: Workers) -> None:
    slow_first = [SimJob(jobs.wait, DRAWER, seed, (0.5 if seed == 0 else 0.0,)) for seed in range(4)]
    assert list(workers.map(slow_first)) == [0, 1, 2, 3]
    for job in slow_first:
        workers.submit(job)
    found = [value for _, value in workers.results()]
    assert sorted(found) == [0, 1, 2, 3]
    assert found[-1] == 0


def test_jobs_submitted_while_results_come_are_done_too(workers: Workers) -> None:
    workers.submit(SimJob(jobs.wait, DRAWER, 0, (0.0,)))
    seen = []
    for job, value in workers.results():
        seen.append(value)
        if job.seed < 3:
            workers.submit(job._replace(seed=job.seed + 1))
    assert seen == [0, 1, 2, 3]


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
    with pytest.raises(LattokError, match=f"^{task}, seed 5: {why}$"):
        list(workers.map([SimJob(function, task, 5)]))
    assert list(workers.map([SimJob(jobs.wait, DRAWER, 0, (0.0,))])) == [0]  # and the process goes on


@pytest.mark.parametrize(("function", "how"), [(jobs.leave, "exit code 3"), (jobs.crash, "signal SIGSEGV")])
def test_a_process_that_dies_is_one_line_too(function, how: str) -> None:
    why = rf"^{DRAWER}, seed 5: its process died \({how}\)\.$"
    with Workers(1) as workers, pytest.raises(LattokError, match=why):
        list(workers.map([SimJob(function, DRAWER, 5)]))


def test_a_pool_has_workers() -> None:
    with pytest.raises(LattokError, match="`workers`: expected a whole number of at least 1, got 0"):
        Workers(0)


PARENT = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
from lattok.sim.workers import SimJob, Workers
from tests.sim import worker_jobs as jobs
with Workers(1) as workers:
    list(workers.map([SimJob(jobs.wait, "metaworld-pairs/drawer-open", 0, (0.0,))]))
    workers.submit(SimJob(jobs.wait, "metaworld-pairs/drawer-open", 0, (600.0,)))
    print("ready", flush=True)
    list(workers.results())
"""


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="processes are looked for in /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_its_parent(number: signal.Signals) -> None:
    mark = f"LATTOK_MARK={os.getpid()}-{number}"
    environment = os.environ | dict([mark.split("=")])
    root = Path(__file__).parents[2]
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, cwd=root
    )
    with parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"ready\n"
        assert len(marked(mark)) == 2
        parent.send_signal(number)
        parent.wait(timeout=20)
    deadline = time.monotonic() + 10
    while marked(mark) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not marked(mark)
