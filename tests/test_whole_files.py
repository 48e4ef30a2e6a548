"""Whole files: what a kill leaves stands in nobody's way, and nothing of the user's is touched."""

import os
import signal
import subprocess
import sys
from multiprocessing import get_context

import pytest

from lattok.utils import files, output
from lattok.utils.output import Busy

LEFT = ".0123456789abcdef.lattok-tmp"
THEIRS = (
    "report.json.tmp",
    ".writable",
    ".writable.tmp",
    ".lattok-tmp",
    ".0123.lattok-tmp",
    "0123456789abcdef.lattok-tmp",
)

FORK = get_context("fork")


def test_two_writers_of_one_file_never_mix_their_bytes(tmp_path):
    path = tmp_path / "a"
    with files.whole_file(path) as one, files.whole_file(path) as other:
        assert one != other
        one.write_bytes(b"1" * 10)
        other.write_bytes(b"2" * 5)
    assert path.read_bytes() == b"1" * 10
    assert list(tmp_path.iterdir()) == [path]


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
    assert output.is_free(tmp_path)
    files.check_writable(tmp_path)
    assert not list(tmp_path.iterdir())
    (tmp_path / "mine").write_text("x")
    assert not output.is_free(tmp_path)
    assert output.is_free(tmp_path / "new")
    assert not output.is_free(tmp_path / "mine")


def test_permissions_are_those_of_any_new_file(tmp_path):
    before = os.umask(0o027)
    try:
        files.write_text(tmp_path / "a", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def held(path):
    return output.Output(path.parent).locked(path)


def test_a_lock_is_held_by_one_and_gone_with_its_holder(tmp_path):
    path = tmp_path / "lock"
    with held(path), pytest.raises(Busy, match=f"`out`: another process is at work on {tmp_path}"), held(path):
        pytest.fail("two hold it")
    assert not path.exists()
    code = "import sys, time\nfrom pathlib import Path\nfrom lattok.utils.output import Output\n"
    code += "with Output('x').locked(Path(sys.argv[1])):\n print(1, flush=True)\n time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"1\n"
    with pytest.raises(Busy), held(path):
        pytest.fail("two hold it")
    process.kill()
    process.communicate()
    assert path.exists()
    with held(path):
        pass
    assert not path.exists()


def test_a_folder_that_could_not_be_filled_goes(tmp_path):
    def fail():
        with output.Output(tmp_path / "new").filled(("a",)):
            (tmp_path / "new/a").write_text("half")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        fail()
    assert not (tmp_path / "new").exists()


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
