"""What scripts/mutate.py changes of a file, and what it leaves alone."""

import json
import time

import pytest

from scripts import mutate

SOURCE = '''
@decorator(1)
class Model:
    """Text."""

    size: Literal[2] | None = 3

    @decorator(4)
    def method(self, x: Literal[5] | None = 6, *, y: Literal[7] = 8) -> Literal[9] | None:
        """Text."""
        z: Literal[10] | None = 11
        return [f"{12}" for _ in zip(x, y, strict=True)]
'''


def test_defaults_are_changed_and_annotations_decorators_and_texts_are_not(tmp_path, monkeypatch):
    monkeypatch.setattr(mutate, "ROOT", tmp_path)
    (tmp_path / "file.py").write_text(SOURCE)
    found = {mutant.what for mutant in mutate.mutants("file.py")}
    assert found == {f"{n} -> {other}" for n in (3, 6, 8, 11) for other in (n + 1, n - 1)}


ADDING = """
def total(n):
    found = 0
    while n > 0:
        n -= 1
        found += n
    return max(found, -7)
"""


def test_a_mutant_ends_by_a_failure_or_a_hang_and_survives_what_nobody_looks_at(tmp_path, monkeypatch):
    monkeypatch.setattr(mutate, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "adding.py").write_text(ADDING)
    (tmp_path / "test_adding.py").write_text("import adding\n\ndef test_total():\n    assert adding.total(4) == 6\n")
    (tmp_path / "own").mkdir()
    found = {each.what: each for each in mutate.mutants("adding.py")}
    fates = {"Gt -> GtE": False, "Sub -> Add": False, "7 -> 6": True}
    begun = time.perf_counter()
    for what, survives in fates.items():
        seconds = 1.0 if what == "Sub -> Add" else 60.0  # that one hangs; the others may be slow on a busy machine
        assert mutate.survives(found[what], ["test_adding.py"], str(tmp_path / "own"), seconds) == survives, what
    assert time.perf_counter() - begun < 300  # a hang is ended; how soon says how busy the machine is
    assert not list((tmp_path / "own").iterdir())


def test_mutants_of_packages_are_applied_and_a_file_that_no_test_imports_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(mutate, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(mutate, "OURS", ("adding_room", "test_room"))
    room = tmp_path / "adding_room"
    room.mkdir()
    (room / "__init__.py").write_text("from adding_room.part import ONE\n\nif ONE < 0:\n    raise ValueError\n")
    (room / "part.py").write_text("ONE = 1\n")
    (room / "alone.py").write_text("TWO = 2\n")
    (tmp_path / "test_room.py").write_text(
        "import pathlib\nimport adding_room.part\n\n"
        "def test_one():\n    assert pathlib.Path(adding_room.__file__).name == '__init__.py'\n"
    )
    run = ["mutate.py", "adding_room/__init__.py", "--tests", "test_room.py", "--jobs", "1", "--out", "report.json"]
    monkeypatch.setattr("sys.argv", run)
    mutate.main()
    report = json.loads((tmp_path / "report.json").read_text())["adding_room/__init__.py"]
    alive = ["3: condition -> False", "3: Lt -> LtE", "3: 0 -> 1", "3: 0 -> -1"]  # the two others raise
    assert report == {"mutants": 6, "survived": alive}
    monkeypatch.setattr("sys.argv", ["mutate.py", "adding_room/alone.py", *run[2:]])
    with pytest.raises(SystemExit, match=r"adding_room/alone\.py: not applied, .*test_room\.py"):
        mutate.main()


def test_the_tests_of_a_file_are_its_mirror_or_its_room_unless_others_are_named():
    assert mutate.tests_of("lattok/samples/augment.py") == ["tests/samples/test_augment.py"]
    assert mutate.tests_of("lattok/image_lam/clips/model.py") == ["tests/image_lam/clips"]
    assert mutate.tests_of("benchmarks/closed_loop/statistics.py") == ["tests/benchmarks/test_statistics.py"]
    assert "tests/vla/test_supervision.py" in mutate.tests_of("lattok/labels/reader.py")
    files = mutate.files_of(mutate.GUARDED)
    assert {"lattok/nn/quantize.py", "lattok/samples/order.py", "lattok/labels/spec.py"} <= set(files)
    assert all((mutate.ROOT / file).is_file() for file in mutate.TESTS)
    guards = {test.partition("::")[0] for file in {*files, *mutate.TESTS} for test in mutate.tests_of(file)}
    assert all((mutate.ROOT / test).exists() for test in guards)
