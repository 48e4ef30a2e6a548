"""Whole files: what a kill leaves stands in nobody's way, and nothing of the user's is touched."""

import os
import signal
import subprocess
import sys
import time
from multiprocessing import get_context

import pytest

from lattok.utils import files
from lattok.utils.checks import LattokError

FORK = get_context("fork")
LEFT = ".0123456789abcdef.lattok-tmp"
THEIRS = (
    "report.json.tmp",
    ".writable",
    ".writable.tmp",
    ".lattok-tmp",
    ".0123.lattok-tmp",
    "0123456789abcdef.lattok-tmp",
)


def test_two_writers_of_one_file_never_mix_their_bytes(tmp_path):
    path = tmp_path / "a"
    with files.whole_file(path) as one, files.whole_file(path) as other:
        assert one != other
        one.write_bytes(b"1" * 10)
        other.write_bytes(b"2" * 5)
    assert path.read_bytes() == b"1" * 10
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("work", ["check_writable", "write_text"])
def test_names_of_others_are_left_alone_and_leftovers_of_ours_go(work, tmp_path):
    for name in THEIRS:
        (tmp_path / name).write_text("thesis")
    (tmp_path / ".fedcba9876543210.lattok-tmp").mkdir()
    (tmp_path / ".ffffffffffffffff.lattok-tmp").symlink_to(tmp_path / ".writable")
    (tmp_path / LEFT).write_text("half")
    if work == "check_writable":
        files.check_writable(tmp_path)
    else:
        files.write_text(tmp_path / "report.json", "new")
    assert all((tmp_path / name).read_text() == "thesis" for name in THEIRS)
    assert {p.name for p in tmp_path.glob("*.lattok-tmp")} & {LEFT} == set()
    assert len(list(tmp_path.iterdir())) == len(THEIRS) + 2 + (work == "write_text")


def test_what_somebody_is_writing_is_not_swept(tmp_path):
    with files.whole_file(tmp_path / "a") as temporary:
        temporary.write_bytes(b"half")
        child = FORK.Process(target=files.check_writable, args=(tmp_path,))
        child.start()
        child.join()
        files.check_writable(tmp_path)
        assert temporary.read_bytes() == b"half"
    assert (tmp_path / "a").read_bytes() == b"half"


def _die_holding(path):
    with files.whole_file(path) as temporary:
        temporary.write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_writer_leaves_what_the_next_one_removes(tmp_path):
    child = FORK.Process(target=_die_holding, args=(tmp_path / "a",))
    child.start()
    child.join()
    assert [files.is_temporary(path) for path in tmp_path.iterdir()] == [True]
    assert files.is_free(tmp_path)
    files.check_writable(tmp_path)
    assert not list(tmp_path.iterdir())
    (tmp_path / "mine").write_text("x")
    assert not files.is_free(tmp_path)
    assert files.is_free(tmp_path / "new")
    assert not files.is_free(tmp_path / "mine")


def test_permissions_are_those_of_any_new_file(tmp_path):
    before = os.umask(0o027)
    try:
        files.write_text(tmp_path / "a", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def _busy():
    raise LattokError("somebody is here")


def test_a_lock_is_held_by_one_and_gone_with_its_holder(tmp_path):
    path = tmp_path / "lock"
    with files.alone(path, _busy), pytest.raises(LattokError, match="somebody is here"), files.alone(path, _busy):
        pytest.fail("two hold it")
    assert not path.exists()
    held = "import sys, time\nfrom pathlib import Path\nfrom lattok.utils import files\n"
    held += "with files.alone(Path(sys.argv[1]), None):\n print(1, flush=True)\n time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", held, str(path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"1\n"
    with pytest.raises(LattokError, match="somebody is here"), files.alone(path, _busy):
        pytest.fail("two hold it")
    process.kill()
    process.communicate()
    assert path.exists()
    with files.alone(path, _busy):
        pass
    assert not path.exists()


def _hold_often(path, log):
    held = 0
    while held < 100:  # a refusal takes far less time than a hold: so many attempts could all be refused
        try:
            with files.alone(path, _busy), open(log, "ab", buffering=0) as file:
                file.write(b"(")
                time.sleep(0.0001)
                file.write(b")")
            held += 1
        except LattokError:
            time.sleep(0.001)  # who spins keeps the holder from its processor: seconds for each hold on a busy machine


def test_locks_that_come_and_go_are_never_held_twice(tmp_path):
    workers = [FORK.Process(target=_hold_often, args=(tmp_path / "lock", tmp_path / "log")) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert (tmp_path / "log").read_text() == "()" * 300


def _fill(folder, after=None):
    with files.new_folder(folder, ("a", "b", "c")):
        for name in ("a", "b"):
            if name == after:
                os.kill(os.getpid(), signal.SIGKILL)
            files.write_text(folder / name, name)
        (folder / "c").mkdir()
        if after == "end":
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("after", ["a", "b", "end"])
def test_a_folder_that_a_kill_left_unfinished_is_begun_anew(after, tmp_path):
    folder = tmp_path / "new"
    child = FORK.Process(target=_fill, args=(folder, after))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert not files.is_free(folder)
    assert files.is_new(folder)
    (folder / "mine").write_text("x")
    with files.new_folder(folder, ("a", "b", "c")):
        assert {path.name for path in folder.iterdir()} == {files.UNFINISHED, "mine"}
        files.write_text(folder / "a", "a")
    assert {path.name for path in folder.iterdir()} == {"a", "mine"}
    assert not files.is_new(folder)


def test_a_folder_that_could_not_be_filled_goes(tmp_path):
    def fail():
        with files.new_folder(tmp_path / "new", ("a",)):
            (tmp_path / "new/a").write_text("half")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        fail()
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("text", ["", "mine", b"\xff"])
def test_a_mark_of_somebody_else_is_none(text, tmp_path):
    (tmp_path / files.UNFINISHED).write_bytes(text if isinstance(text, bytes) else text.encode())
    assert not files.is_new(tmp_path)
