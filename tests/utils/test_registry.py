"""Names lead to things: ours lie in packages of lattok, those of other packages are found by their entry points."""

import importlib
import sys

import pytest

from lattok.utils.registry import Registry
from tests.errors import refused

GROUP = "lattok.things"
YIELDING = Registry[type](GROUP, yielding=True)


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


def test_things_of_ours_are_those_of_all_modules_of_their_packages(tmp_path, monkeypatch):
    rooms = tmp_path / "house" / "rooms"
    rooms.mkdir(parents=True)
    (tmp_path / "house/__init__.py").write_text(
        f"from lattok.utils.registry import Registry\nTHINGS = Registry({GROUP!r}, 'house.rooms')"
    )
    (rooms / "__init__.py").write_text("")
    for name in ("second", "first"):
        (rooms / f"{name}.py").write_text(f"from house import THINGS\nTHINGS.add({name!r}, {{{name!r}: 1}})")
    monkeypatch.syspath_prepend(tmp_path)
    things = importlib.import_module("house").THINGS
    assert "house.rooms.first" not in sys.modules  # nothing is imported before somebody asks
    assert "first" in things
    assert "third" not in things
    assert list(things) == ["first", "second"]
    assert things["second"] == {"second": 1}


def test_a_package_brings_things_that_load_when_they_are_asked_for(package):
    package("otherthings", "loaded = True\nTHING = {'a': 1}", first_thing="otherthings:THING", broken="otherthings:NO")
    things = Registry[dict](GROUP)
    assert list(things) == ["broken", "first-thing"]
    assert "otherthings" not in sys.modules
    assert things["first-thing"] == {"a": 1}
    with pytest.raises(KeyError):
        things["second-thing"]
    refused(r"'broken' comes with the package otherthings, which fails \(Attr.*NO", lambda: things["broken"])


@pytest.mark.parametrize("leads_to", ["taken", "taken:Theirs"], ids=["its module", "the thing itself"])
def test_somebody_elses_thing_takes_the_place_of_ours_where_names_yield(package, leads_to):
    add = f"import {__name__} as test\ntest.YIELDING.add('taken', Theirs)\n" * (leads_to == "taken")
    package("taken", "class Theirs: pass\n" + add, taken=leads_to, missing="taken")
    YIELDING._known.clear()
    vars(YIELDING).pop("_theirs", None)
    sys.modules.pop("taken", None)
    ours = type("Ours", (), {"__module__": "lattok.things"})
    assert YIELDING.add("taken", ours) is ours
    assert [YIELDING["taken"].__name__ for _ in range(2)] == ["Theirs"] * 2
    refused("'missing' is not registered by taken, its entry point", lambda: YIELDING["missing"])


def test_two_things_of_one_name_are_refused_and_a_module_may_be_loaded_twice():
    things = Registry[type](GROUP)

    class Tap:
        pass

    Again = type("Tap", (), {"__module__": Tap.__module__, "__qualname__": Tap.__qualname__})
    things.add("tap", Tap)
    assert things.add("tap", Again) is things["tap"] is Again
    refused(r"'tap' is the name of tests\..*Tap: choose another one", lambda: things.add("tap", type("Other", (), {})))


def test_things_that_need_further_packages_are_imported_one_by_one(package, monkeypatch):
    package("light", f"from {__name__} import NAMED\nNAMED.add('light', dict)")
    package("heavy", "import no_such_package")
    things = Registry[type](GROUP, named={"light": "light", "heavy": "heavy"})
    monkeypatch.setattr(sys.modules[__name__], "NAMED", things, raising=False)
    assert list(things) == ["heavy", "light"]
    assert len(things) == 2
    assert things["light"] is dict
    assert "heavy" in things
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        things["heavy"]
