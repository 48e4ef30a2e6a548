"""Work in other processes: order, slots, errors in one line, and none that outlives its parent; work done ahead."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from lattok.utils.checks import LattokError
from lattok.utils.parallel import Abandoned, Prefetcher, Processes, Request, check_wanted, piece_size
from tests.errors import refused
from tests.process_jobs import Task, worker
from tests.sim.conftest import marked


@pytest.fixture(scope="module")
def processes() -> Iterator[Processes]:
    with Processes(partial(worker, "mine"), 2) as processes:
        yield processes


def test_results_come_in_order_and_as_they_are_finished(processes: Processes) -> None:
    slow_first = [Task("wait", seconds) for seconds in (0.5, 0.01, 0.02, 0.03)]
    assert list(processes.map(slow_first)) == [0.5, 0.01, 0.02, 0.03]
    for job in slow_first:
        processes.submit(job)
    assert [value for _, value in processes.results()] == [0.01, 0.02, 0.03, 0.5]


def test_jobs_submitted_while_results_come_are_done_too(processes: Processes) -> None:
    processes.submit(Task("wait", 0))
    seen = []
    for job, value in processes.results():
        seen.append(value)
        if value < 3e-3:
            processes.submit(job._replace(argument=value + 1e-3))
    assert seen == [0, 1e-3, 2e-3, 3e-3]


def test_a_slot_keeps_its_process_which_keeps_what_it_made() -> None:
    with Processes(partial(worker, "other"), 2) as processes:
        found = list(processes.map([Task("count", slot=slot) for slot in (0, 1, 2, 0)]))
    (a, *first), (b, *second), (c, *third), (d, *fourth) = found
    assert a == c == d != b
    assert os.getpid() not in (a, b)
    assert [first, second, third, fourth] == [[n, "other", "1"] for n in (1, 1, 2, 3)]


def test_what_goes_wrong_is_one_line_with_the_job(processes: Processes) -> None:
    refused(r"^task 5: KeyError: 'no such body\\nin the model'$", lambda: list(processes.map([Task("fail", 5)])))
    assert list(processes.map([Task("wait", 0)])) == [0]  # and the process goes on


@pytest.mark.parametrize(("name", "how"), [("leave", "exit code 3"), ("crash", "signal SIGSEGV")])
def test_a_process_that_dies_is_one_line_too(name: str, how: str) -> None:
    why = rf"^task 3: its process died \({how}\)\.$"
    with Processes(partial(worker, ""), 1) as processes, pytest.raises(LattokError, match=why):
        list(processes.map([Task(name, 3)]))


def test_a_process_that_dies_in_the_middle_of_its_answer_is_one_line_too() -> None:
    with Processes(partial(worker, ""), 1) as processes:
        processes.submit(Task("cut", 3))
        processes._processes[0].wait(30)
        refused(r"^task 3: its process died \(exit code 4\)\.$", lambda: list(processes.results()))


def test_there_is_at_least_one_process() -> None:
    refused("`workers`: expected a whole number of at least 1, got 0", lambda: Processes(partial(worker, ""), 0))


PARENT = """
import signal
from functools import partial
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
from lattok.utils.parallel import Abandoned, Prefetcher, Processes, Request
from tests.process_jobs import Task, worker
with Processes(partial(worker, ""), 1) as processes:
    list(processes.map([Task("wait", 0)]))
    processes.submit(Task("wait", 600))
    print("ready", flush=True)
    list(processes.results())
"""


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="processes are looked for in /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_its_parent(number: signal.Signals) -> None:
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
        parent.wait(timeout=60)
    deadline = time.monotonic() + 60  # a busy machine lets them notice late
    while marked(mark) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not marked(mark)


def test_results_come_in_order_and_within_the_bound(rng):
    sizes = rng.integers(1, 6, 40).tolist()
    begun, taken = [], []
    most = 0

    def work(i):
        nonlocal most
        begun.append(i)
        most = max(most, sum(sizes[j] for j in begun if j not in taken))
        time.sleep(0.001 * sizes[-i])
        return i * i

    with Prefetcher(work, [Request((i,), size) for i, size in enumerate(sizes)], limit=9, threads=3) as ahead:
        for i in range(40):
            taken.append(i)
            assert ahead(i) == i * i
    assert sorted(begun) == list(range(40))
    assert most <= 9


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 2), (3, 2), (4, 3), (8, 7), (64, 16)])
def test_every_core_but_one_has_a_piece_of_one_long_video(monkeypatch, cores, threads):
    """Where there are two cores, both have."""
    monkeypatch.setattr("lattok.utils.parallel.cores", lambda: cores)
    size = piece_size(2048, 512)
    assert size % 32 == 0
    assert size <= 512
    begun, first = [], threading.Event()
    everybody = threading.Barrier(threads + 1, action=first.set)

    def work(i):
        begun.append(i)
        if not first.is_set():
            everybody.wait(timeout=30)
        return i

    with Prefetcher(work, [Request((i,), size) for i in range(40)], limit=2048) as ahead:
        everybody.wait(timeout=30)  # so many pieces are in flight
        assert len(begun) * size <= 2048
        assert [ahead(i) for i in range(40)] == list(range(40))


def test_a_job_larger_than_the_bound_is_done_alone():
    with Prefetcher(lambda i: i, [Request((i,), 100) for i in range(3)], limit=9) as ahead:
        assert [ahead(i) for i in range(3)] == [0, 1, 2]


def test_errors_come_where_the_result_is_taken():
    def work(i):
        return 1 // (i - 2)

    with Prefetcher(work, [Request((i,), 1) for i in range(5)], limit=9) as ahead:
        assert [ahead(0), ahead(1)] == [-1, -1]
        with pytest.raises(ZeroDivisionError):
            ahead(2)
        with pytest.raises(RuntimeError, match="no job that is left"):
            ahead(7)


def test_jobs_that_nobody_asks_for_are_passed_over():
    with Prefetcher(lambda i: i, [Request((i,), 1) for i in range(9)], limit=2) as ahead:
        assert [ahead(0), ahead(4), ahead(8)] == [0, 4, 8]


def test_leaving_stops_what_runs():
    running, ended = threading.Event(), []

    def work(i):
        running.set()
        try:
            while True:
                check_wanted()
                time.sleep(0.001)
        except Abandoned:
            ended.append(i)
            raise

    with Prefetcher(work, [Request((i,), 1) for i in range(50)], limit=99, threads=2):
        running.wait()
    assert 1 <= len(ended) <= 2
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("lattok")]
