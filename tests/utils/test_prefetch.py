"""Work done ahead: in order, within its bound, and gone when nobody waits for it."""

from __future__ import annotations

import threading
import time

import pytest

from lattok.utils.parallel import Abandoned, Ahead, Request


def test_results_come_in_order_and_within_the_bound(rng):
    sizes = rng.integers(1, 6, 40).tolist()
    begun, taken = [], []
    most = 0

    def work(i, stopped):
        nonlocal most
        begun.append(i)
        most = max(most, sum(sizes[j] for j in begun if j not in taken))
        time.sleep(0.001 * sizes[-i])
        return i * i

    with Ahead(work, [Request((i,), size) for i, size in enumerate(sizes)], limit=9, threads=3) as ahead:
        for i in range(40):
            taken.append(i)
            assert ahead(i) == i * i
    assert sorted(begun) == list(range(40))
    assert most <= 9


def test_a_job_larger_than_the_bound_is_done_alone():
    with Ahead(lambda i, stopped: i, [Request((i,), 100) for i in range(3)], limit=9) as ahead:
        assert [ahead(i) for i in range(3)] == [0, 1, 2]


def test_errors_come_where_the_result_is_taken():
    def work(i, stopped):
        return 1 // (i - 2)

    with Ahead(work, [Request((i,), 1) for i in range(5)], limit=9) as ahead:
        assert [ahead(0), ahead(1)] == [-1, -1]
        with pytest.raises(ZeroDivisionError):
            ahead(2)
        with pytest.raises(RuntimeError, match="no job that is left"):
            ahead(7)


def test_jobs_that_nobody_asks_for_are_passed_over():
    with Ahead(lambda i, stopped: i, [Request((i,), 1) for i in range(9)], limit=2) as ahead:
        assert [ahead(0), ahead(4), ahead(8)] == [0, 4, 8]


def test_leaving_stops_what_runs():
    running, ended = threading.Event(), []

    def work(i, stopped):
        running.set()
        while not stopped():
            time.sleep(0.001)
        ended.append(i)
        raise Abandoned

    with Ahead(work, [Request((i,), 1) for i in range(50)], limit=99, threads=2):
        running.wait()
    assert 1 <= len(ended) <= 2
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("lattok")]
