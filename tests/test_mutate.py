"""What scripts/mutate.py changes of a file, and what it leaves alone."""

import time

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
