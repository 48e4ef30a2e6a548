"""What scripts/mutate.py changes of a file, and what it leaves alone."""

import os
import subprocess
import sys
from pathlib import Path

from scripts import mutate

ROOT = Path(__file__).parents[1]

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


FATES = """
import sys
from pathlib import Path
from scripts import mutate

mutate.ROOT = Path.cwd()
sys.path.insert(0, "")
found = {each.what: each for each in mutate.mutants("adding.py")}
for what, seconds in {"Gt -> GtE": 60.0, "Sub -> Add": 1.0, "7 -> 6": 60.0}.items():  # the second hangs
    print(mutate.survives(found[what], ["test_adding.py"], "own", seconds))
"""


def test_a_mutant_ends_by_a_failure_or_a_hang_and_survives_what_nobody_looks_at(tmp_path):
    (tmp_path / "adding.py").write_text(ADDING)
    (tmp_path / "test_adding.py").write_text("import adding\n\ndef test_total():\n    assert adding.total(4) == 6\n")
    profile = "from hypothesis import settings\n\nsettings.register_profile('lattok')\n"
    (tmp_path / "conftest.py").write_text(profile)
    (tmp_path / "own").mkdir()
    # in a process of its own: it forks, and a fork of this one may wait for a lock that a thread of other tests has
    command = [sys.executable, "-c", FATES]
    where = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=where, capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout.split() == ["False", "False", "True"]
    assert not list((tmp_path / "own").iterdir())
