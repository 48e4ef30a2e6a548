"""Names lead to things: ours without an import, those of other packages by their entry points."""

import subprocess
import sys

import pytest

from lattok import LattokError
from lattok.registry import Registry

GROUP = "lattok.things"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A way to install a package with one module and entry points."""

    def install(name, source, **entries):
        (tmp_path / f"{name}.py").write_text(source)
        facts = tmp_path / f"{name}-1.0.dist-info"
        facts.mkdir()
        (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        lines = [f"{key.replace('_', '-')} = {value}" for key, value in entries.items()]
        (facts / "entry_points.txt").write_text("\n".join([f"[{GROUP}]", *lines]))

    monkeypatch.syspath_prepend(tmp_path)
    return install


def test_names_of_ours_are_read_from_the_source_and_imported_one_by_one():
    code = (
        "import sys; from lattok.registry import Registry;"
        "names = Registry('lattok.x', 'type', ('action_vq',));"
        "assert {'fast', 'fsq', 'residual-vq'} <= set(names) and 'fsq' in names and len(names) >= 5, list(names);"
        "print([name for name in ('torch', 'lattok.action_vq') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_package_brings_things_that_load_when_they_are_asked_for(package):
    package("otherthings", "loaded = True\nTHING = {'a': 1}", first_thing="otherthings:THING", broken="otherthings:NO")
    things = Registry[dict](GROUP)
    assert list(things) == ["broken", "first-thing"]
    assert "otherthings" not in sys.modules
    assert things["first-thing"] == {"a": 1}
    with pytest.raises(KeyError):
        things["second-thing"]
    with pytest.raises(LattokError, match=r"'broken' comes with the package otherthings, which fails \(Attr.*NO"):
        things["broken"]


def test_two_things_of_one_name_are_refused_and_a_module_may_be_loaded_twice():
    things = Registry[type](GROUP)

    class Tap:
        pass

    Again = type("Tap", (), {"__module__": Tap.__module__, "__qualname__": Tap.__qualname__})
    things.add("tap", Tap)
    assert things.add("tap", Again) is things["tap"] is Again
    with pytest.raises(LattokError, match=r"'tap' is the name of tests\..*Tap: choose another one for .*Other"):
        things.add("tap", type("Other", (), {}))
