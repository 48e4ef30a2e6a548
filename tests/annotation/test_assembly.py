"""Files of the output, several at once: the same bytes however many, and nothing kept of what was interrupted."""

import time

import numpy as np
import pytest

from lattok.annotation import annotate, assembly, units
from lattok.utils.checks import LattokError
from tests.annotation.fakes import MODELS, tree


def test_the_same_bytes_by_any_number_of_threads(source, tmp_path, monkeypatch):
    assert len({source.data_file(episode.index) for episode in source.episodes}) > 1
    monkeypatch.setattr(assembly, "cores", lambda: 1)
    expected = tree(annotate(source, MODELS, tmp_path / "alone"))
    monkeypatch.setattr(assembly, "cores", lambda: 3)
    assert tree(annotate(source, MODELS, tmp_path / "out")) == expected


def test_headers_of_arrays_are_parsed_by_one_thread_at_a_time(source, tmp_path, monkeypatch):
    """Python 3.11 raises a SystemError at times where two threads parse at once."""
    inside, real = [], np.load

    def slowly(*args, **options):
        inside.append(len(inside))
        time.sleep(0.02)
        inside.pop()
        return real(*args, **options)

    seen = []
    monkeypatch.setattr(units.np, "load", lambda *args, **options: seen.append(len(inside)) or slowly(*args, **options))
    monkeypatch.setattr(assembly, "cores", lambda: 3)
    annotate(source, MODELS, tmp_path / "out")
    assert len(seen) > 3
    assert set(seen) == {0}


def test_an_interrupt_between_two_files_keeps_the_labels(source, tmp_path, monkeypatch):
    expected = tree(annotate(source, MODELS, tmp_path / "expected"))
    measured: list[str] = []

    def interrupted(self, file, keys):
        measured.append(file)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(assembly.Assembly, "_measure", interrupted)
        with pytest.raises(KeyboardInterrupt, match="Run the same command to continue"):
            annotate(source, MODELS, tmp_path / "out")
    partial = tmp_path / ".out.partial" / "dataset"
    (partial / measured[0]).write_bytes(b"left by a killed run")
    assert tree(annotate(source, MODELS, tmp_path / "out")) == expected
    assert not (tmp_path / ".out.partial").exists()


def test_a_disk_that_refuses_says_so_and_labels_wait(source, tmp_path, monkeypatch):
    write = assembly.Assembly.write

    def in_the_way(self, *piece):
        self.staging.made.mkdir(parents=True, exist_ok=True)
        (self.staging.made / "data").write_text("no folder")
        return write(self, *piece)

    with monkeypatch.context() as patch:
        patch.setattr(assembly.Assembly, "write", in_the_way)
        with pytest.raises(LattokError, match="cannot write .*out: .*finished labels wait in"):
            annotate(source, MODELS, tmp_path / "out")
    assert tree(annotate(source, MODELS, tmp_path / "out"))
