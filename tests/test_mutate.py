"""What scripts/mutate.py changes of a file, and what it leaves alone."""

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
        return f"{12}"
'''


def test_defaults_are_changed_and_annotations_decorators_and_texts_are_not(tmp_path, monkeypatch):
    monkeypatch.setattr(mutate, "ROOT", tmp_path)
    (tmp_path / "file.py").write_text(SOURCE)
    found = {mutant.what for mutant in mutate.mutants("file.py")}
    assert found == {f"{n} -> {other}" for n in (3, 6, 8, 11) for other in (n + 1, n - 1)}
