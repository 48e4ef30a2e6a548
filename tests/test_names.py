"""One word, one thing: a module or a class has a name of its own, or stands here with the reason why it shares one."""

import ast
from collections import defaultdict
from pathlib import Path

import lattok

ROOT = Path(lattok.__file__).parent
FAMILY = "the same part of every family of models"
METHOD = "what a method adds to a policy, and its recipe"
VERB = "cli has one module for each verb, under the verb's name"
MODULES = {
    "config": FAMILY,
    "convert": f"{FAMILY}; {VERB}",
    "lara": METHOD,
    "latbot": METHOD,
    "losses": FAMILY,
    "model": FAMILY,
}
CLASSES: dict[str, str] = {}


def shared(names: dict[str, list[str]]) -> dict[str, list[str]]:
    return {name: places for name, places in sorted(names.items()) if len(places) > 1}


def modules() -> dict[str, list[str]]:
    found = defaultdict(list)
    for path in sorted(ROOT.rglob("*.py")):
        if not path.stem.startswith("__"):
            found[path.stem].append(path.relative_to(ROOT).as_posix())
    return shared(found)


def classes() -> dict[str, list[str]]:
    """Classes by name; an underscore in front does not make it another word."""
    found = defaultdict(list)
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                found[node.name.lstrip("_")].append(path.relative_to(ROOT).as_posix())
    return shared(found)


def test_modules_have_names_of_their_own():
    found = modules()
    new = {name: places for name, places in found.items() if name not in MODULES}
    assert not MODULES.keys() - found.keys(), "these share their name with nothing any more"
    assert not new, f"rename all but one of these, or say in MODULES why they share a name: {new}"


def test_classes_have_names_of_their_own():
    found = classes()
    new = {name: places for name, places in found.items() if name not in CLASSES}
    assert not CLASSES.keys() - found.keys(), "these share their name with nothing any more"
    assert not new, f"rename all but one of these, or say in CLASSES why they share a name: {new}"
