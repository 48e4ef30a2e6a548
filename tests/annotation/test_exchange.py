"""Filling gaps: the annotated dataset is the old one or the new one, whatever happens."""

import os
import shutil
from contextlib import suppress

import pytest

from lattok.annotation import annotate, units
from lattok.data import open_dataset
from lattok.utils import output
from tests.annotation.fakes import MODELS, Stop, stop, tree
from tests.errors import refused


@pytest.fixture(params=["one step", "three renames"])
def exchange(request, monkeypatch):
    """Both ways in which folders change places."""
    if request.param == "three renames":
        monkeypatch.setattr(output, "_renameat2", lambda one, other: False)


@pytest.fixture
def out(source, torn, tmp_path):
    """An annotation with gaps of a dataset that is whole by now."""
    with pytest.warns(UserWarning, match="episodes labelled; not episode"):
        annotate(open_dataset(source.root), MODELS, tmp_path / "out")
    torn()
    return tmp_path / "out"


def again(source, out):
    return annotate(open_dataset(source.root), MODELS, out)


def test_a_refused_rename_loses_nothing(source, out, monkeypatch):
    before, calls, real = tree(out), iter(range(100)), os.rename
    monkeypatch.setattr(output, "_renameat2", lambda one, other: False)

    def rename(*paths):
        if next(calls) == 1:
            raise OSError(5, "Input/output error")
        real(*paths)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", rename)
        refused("Input/output error", again, source, out)
    assert tree(out) == before
    again(source, out)
    assert tree(out) == tree(annotate(source, MODELS, out.with_name("whole")))


@pytest.mark.parametrize("after", range(8))
def test_killed_around_the_exchange(source, out, monkeypatch, exchange, after):
    expected = tree(annotate(source, MODELS, out.with_name("whole")))
    before, calls = tree(out), iter(range(100))

    def counted(function):
        def wrapper(*args, **kwargs):
            if next(calls) == after:
                raise Stop
            result = function(*args, **kwargs)
            if next(calls) == after:
                raise Stop
            return result

        return wrapper

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", counted(os.rename))
        patch.setattr(output, "_renameat2", counted(output._renameat2))
        patch.setattr(units.Staging, "remove", counted(lambda self, but=(): shutil.rmtree(self.work)))
        with suppress(Stop):
            again(source, out)
            assert after > 2  # the exchange itself: before it, and after its first call
    assert not out.exists() or tree(out) in (before, expected)
    if out.with_name(".out.partial").exists():  # otherwise it was killed when all was done
        again(source, out)
    assert tree(out) == expected
    assert sorted(path.name for path in out.parent.iterdir()) == ["out", "tiny", "whole"]


def test_the_same_command_cleans_up_after_a_late_kill(source, out, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(units.Staging, "remove", stop)
        with pytest.raises(Stop):
            again(source, out)
    assert out.with_name(".out.partial").exists()
    after = tree(out)
    assert again(source, out) == out
    assert tree(out) == after
    assert sorted(path.name for path in out.parent.iterdir()) == ["out", "tiny"]
