"""Annotation in place: the dataset is the old one or the new one, whatever happens."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

import pytest

from lattok import files
from lattok.annotation import annotate, recover
from lattok.checks import LattokError
from lattok.data import open_dataset, staging
from tests.annotation.fakes import MODELS, FakeTokenizer, tree


@pytest.fixture(params=["one step", "three renames"])
def exchange(request, monkeypatch):
    """Both ways in which folders change places."""
    if request.param == "three renames":
        monkeypatch.setattr(files, "_renameat2", lambda one, other: False)
    return request.param


def test_in_place_is_as_a_copy(source, tmp_path, exchange):
    (source.root / ".git").mkdir()
    (source.root / ".git/config").write_text("kept")
    (source.root / "notes").mkdir(mode=0o750)
    os.chmod(source.data_file(0), 0o640)
    expected = tree(annotate(source, MODELS, tmp_path / "copy"))
    inode = source.video_span(0, source.cameras[0])[0].stat().st_ino
    assert annotate(source, MODELS, in_place=True) == source.root
    got = tree(source.root)
    assert got.pop(".git/config")
    assert got == expected
    assert oct((source.root / "notes").stat().st_mode)[-3:] == "750"
    assert oct(source.data_file(0).stat().st_mode)[-3:] == "640"
    assert source.video_span(0, source.cameras[0])[0].stat().st_ino == inode
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "tiny"]
    twice = annotate(open_dataset(source.root), {"more": FakeTokenizer()}, in_place=True)
    assert {"latent.codes", "more.codes"} <= set(open_dataset(twice).features)


class Stop(Exception):
    """A kill."""


def test_a_refused_rename_loses_nothing(source, monkeypatch):
    before, calls, real = tree(source.root), iter(range(100)), os.rename
    monkeypatch.setattr(files, "_renameat2", lambda one, other: False)

    def refused(*paths):
        if next(calls) == 1:
            raise OSError(5, "Input/output error")
        real(*paths)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", refused)
        with pytest.raises(LattokError, match="Input/output error"):
            annotate(source, MODELS, in_place=True)
    assert tree(source.root) == before
    annotate(source, MODELS, in_place=True)
    assert "latent.codes" in open_dataset(source.root).features


def test_a_second_annotation_that_began_before_the_first_ended(source):
    one, two = open_dataset(source.root), open_dataset(source.root)
    annotate(one, {"tok": FakeTokenizer()}, in_place=True)
    with pytest.raises(LattokError, match=r"`prefix`: expected one that the dataset does not use, got 'tok'"):
        annotate(two, {"tok": FakeTokenizer()}, in_place=True, embedding=False)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away")
def test_owners_stay(source):
    for path in (source.root, *source.root.rglob("*")):
        os.chown(path, 1234, 1234)
    annotate(source, MODELS, in_place=True)
    assert {(p.stat().st_uid, p.stat().st_gid) for p in (source.root, source.data_file(0))} == {(1234, 1234)}
    assert (source.root / "meta/info.json").stat().st_uid == 1234


@pytest.mark.parametrize("after", range(8))
def test_killed_around_the_exchange(source, tmp_path, monkeypatch, exchange, after):
    expected = tree(annotate(source, MODELS, tmp_path / "copy"))
    before, calls = tree(source.root), iter(range(100))

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
        patch.setattr(files, "_renameat2", counted(files._renameat2))
        patch.setattr(staging.Staging, "remove", counted(lambda self, but_units=False: shutil.rmtree(self.folder)))
        with suppress(Stop):
            annotate(source, MODELS, in_place=True)
            assert after > 2  # the exchange itself: before it, and after its first call
    recover(source.root)
    assert tree(source.root) in (before, expected)
    if tree(source.root) == before:
        annotate(open_dataset(source.root), MODELS, in_place=True)
    assert tree(source.root) == expected


def test_the_same_command_cleans_up_after_a_late_kill(source, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(staging.Staging, "remove", lambda *args, **options: (_ for _ in ()).throw(Stop()))
        with pytest.raises(Stop):
            annotate(source, MODELS, in_place=True)
    assert (tmp_path / ".tiny.partial").exists()
    after = tree(source.root)
    assert annotate(open_dataset(source.root), MODELS, in_place=True) == source.root
    assert tree(source.root) == after
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_a_damaged_dataset_stays_as_it_is(source, tmp_path):
    path = source.video_span(3, source.cameras[0])[0]
    content = path.read_bytes()
    path.write_bytes(content[:50])
    before = tree(source.root)
    with pytest.raises(LattokError, match="`in_place`: expected a dataset that can be read as a whole, got . of 7"):
        annotate(open_dataset(source.root), MODELS, in_place=True)
    assert tree(source.root) == before
    path.write_bytes(content)
    annotate(open_dataset(source.root), MODELS, in_place=True)
    assert "latent.codes" in open_dataset(source.root).features
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_what_in_place_refuses(source, tmp_path):
    with pytest.raises(LattokError, match="`out` and `in_place` were both given"):
        annotate(source, MODELS, tmp_path / "out", in_place=True)
    with pytest.raises(LattokError, match="`out`: expected a new folder, got none"):
        annotate(source, MODELS)
    link = tmp_path / "linked"
    shutil.copytree(source.root, link)
    video = next(Path(link).rglob("*.mp4"))
    video.unlink()
    video.symlink_to(next(source.root.rglob("*.mp4")))
    with pytest.raises(LattokError, match="`in_place`: expected a dataset of plain files, got the link .*mp4"):
        annotate(open_dataset(link), MODELS, in_place=True)
