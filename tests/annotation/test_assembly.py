"""Files of the output by several processes: the same bytes for any number, and nothing left of what was interrupted."""

from __future__ import annotations

import os
import pickle

import pytest

from lattok.annotation import annotate, assembly
from lattok.utils.checks import LattokError
from lattok.utils.parallel import Processes
from tests.annotation.fakes import MODELS, tree


@pytest.fixture
def several(monkeypatch):
    """Let every file be enough for a process of its own, and say how many processes there are to be."""
    monkeypatch.setattr(assembly, "ROWS_PER_PROCESS", 1)
    begun: list[Processes] = []
    enter = Processes.__enter__
    monkeypatch.setattr(Processes, "__enter__", lambda processes: begun.append(processes) or enter(processes))

    def choose(count: int) -> list[Processes]:
        monkeypatch.setattr(assembly, "cores", lambda: count)
        return begun

    return choose


def test_the_same_bytes_by_any_number_of_processes(source, tmp_path, several):
    begun = several(1)
    expected = tree(annotate(source, MODELS, tmp_path / "alone"))
    assert not begun
    files = len({source.data_file(episode.index) for episode in source.episodes})
    several(3)
    assert tree(annotate(source, MODELS, tmp_path / "out")) == expected
    assert [processes.count for processes in begun] == [min(3, files)]
    assert files > 1


def test_an_interrupt_ends_the_processes_and_keeps_finished_files(source, tmp_path, several, monkeypatch):
    begun = several(2)
    pids: list[int] = []

    def interrupted(processes, pieces):
        for piece in pieces:
            processes.submit(piece)
        for number, (_, written) in enumerate(processes.results()):
            pids.extend(process.pid for process in processes._processes)
            yield written
            if number == 1:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Processes, "map", interrupted)
        with pytest.raises(KeyboardInterrupt, match="Run the same command to continue"):
            annotate(source, MODELS, tmp_path / "out")
    assert len(set(pids)) == 2
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    partial = tmp_path / ".out.partial" / "dataset"
    finished = {path: path.stat().st_ino for path in partial.rglob("*.parquet")}
    assert len(finished) >= 2
    several(1)
    expected = tree(annotate(source, MODELS, tmp_path / "expected"))
    assert tree(annotate(source, MODELS, tmp_path / "out")) == expected
    assert len(begun) == 1
    for path, number in finished.items():
        assert (tmp_path / "out" / path.relative_to(partial)).stat().st_ino == number
    assert not (tmp_path / ".out.partial").exists()


def test_a_disk_that_refuses_says_so_and_labels_wait(source, tmp_path, monkeypatch):
    def in_the_way(made, pieces):
        made.staging.made.mkdir(parents=True, exist_ok=True)
        (made.staging.made / "data").write_text("no folder")
        for piece in pieces:
            yield pickle.loads(pickle.dumps(made.writer()(piece)))  # as it comes from another process

    with monkeypatch.context() as patch:
        patch.setattr(assembly, "_by_processes", in_the_way)
        with pytest.raises(LattokError, match="cannot write .*out: .*finished labels wait in"):
            annotate(source, MODELS, tmp_path / "out")
    assert tree(annotate(source, MODELS, tmp_path / "out"))
