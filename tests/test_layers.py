"""Import directions inside lattok, read from the source: a package imports only from levels below its own.

Counts every import: at the top, inside functions, under TYPE_CHECKING, relative, of a name that `lattok/__init__.py`
serves lazily, `lattok.x` as an attribute, and `import_module("lattok.x")`.
"""

import ast
import sys
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

import lattok

ROOT = Path(lattok.__file__).parent

# From the bottom to the top. A new module goes here, as low as it can. Siblings do not import each other.
LEVELS: tuple[frozenset[str], ...] = (
    frozenset({"version"}),
    frozenset({"utils"}),
    frozenset({"latent_actions"}),
    frozenset({"types"}),
    frozenset({"nn", "hub"}),
    frozenset({"training", "data"}),
    frozenset({"labels"}),
    frozenset({"samples"}),
    frozenset({"action_vq", "backbones"}),
    frozenset({"image_lam"}),
    frozenset({"vla"}),
    frozenset({"loading", "inference"}),
    frozenset({"evaluation", "annotation", "sim"}),
    frozenset({"recipes"}),
    frozenset({"convert", "cli"}),
)
ROOMS = frozenset({"p2t", "moto", "clips", "inverse", "published"})  # of image_lam, over its `base`; none knows another
FRONT = {"__init__", "__main__"}  # may name everything, but see the tests at the end
LEVEL_OF = {name: number for number, names in enumerate(LEVELS) for name in names}
TOP = len(LEVELS) - 1


def top_modules() -> set[str]:
    """Names of the modules and packages directly under lattok/ (folders without Python files are data)."""
    files = {path.stem for path in ROOT.glob("*.py")}
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and any(path.rglob("*.py"))}
    return files | folders


@cache
def sources() -> tuple[tuple[str, ast.Module], ...]:
    """Dotted name and syntax tree of every file; packages end in `.__init__`."""
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        name = ".".join(("lattok", *path.relative_to(ROOT).with_suffix("").parts))
        found.append((name, ast.parse(path.read_text(encoding="utf-8"), filename=str(path))))
    return tuple(found)


def targets(name: str, tree: ast.Module, homes: dict[str, str]) -> Iterator[tuple[int, str]]:
    """Line and dotted target, a module or a name in one, of everything that `name` imports from lattok.

    `homes` maps the names that `lattok` serves lazily to the modules they live in.
    """

    def resolve(module: str) -> str:
        parts = module.split(".")
        return homes.get(parts[1], module) if len(parts) == 2 else module

    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "lattok":
                    yield node.lineno, resolve(alias.name)
        elif isinstance(node, ast.ImportFrom):
            package = name.split(".")[: -node.level] if node.level else []
            module = ".".join([*package, *([node.module] if node.module else [])])
            if module == "lattok":
                yield from ((node.lineno, resolve(f"lattok.{alias.name}")) for alias in node.names)
            elif module.startswith("lattok."):
                yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "lattok":
            yield node.lineno, resolve(f"lattok.{node.attr}")
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            module = node.args[0].value
            if called in {"import_module", "__import__"} and isinstance(module, str) and module.startswith("lattok."):
                yield node.lineno, module


def violations(name: str, tree: ast.Module, homes: dict[str, str] | None = None) -> list[str]:
    """What `name` imports although its level forbids it, one line each."""
    own = name.split(".")[1]
    if own in FRONT or own not in LEVEL_OF:  # a module without a level fails a test of its own
        return []
    found = set()
    for line, target in targets(name, tree, lattok.HOMES if homes is None else homes):
        parts = target.split(".")
        other = parts[1] if len(parts) > 1 else ""
        if other in FRONT:
            found.add(f"{name}:{line}: imports {target}")
        if other == own or other not in LEVEL_OF:
            continue
        if LEVEL_OF[other] > LEVEL_OF[own]:
            found.add(f"{name}:{line}: {own} imports {other}, which is above it")
        elif LEVEL_OF[other] == LEVEL_OF[own] < TOP:
            found.add(f"{name}:{line}: {own} imports its sibling {other}")
    return sorted(found)


def between_rooms(name: str, tree: ast.Module) -> list[str]:
    """What a module of image_lam imports although its room forbids it, one line each."""
    package, room = name.split(".")[1], name.split(".")[2]
    if package != "image_lam" or room not in ROOMS | {"base"}:
        return []
    parts = [(line, target.split(".")) for line, target in targets(name, tree, lattok.HOMES)]
    others = {(line, part[2]) for line, part in parts if part[:2] == ["lattok", "image_lam"] and len(part) > 2}
    allowed = {room, "base"}
    return sorted(f"{name}:{line}: {room} imports {other}" for line, other in others if other not in allowed)


def test_rooms_of_latent_action_models_know_their_base_alone():
    trees = {name: tree for name, tree in sources() if name.count(".") > 1}
    wrong = [line for name, tree in trees.items() for line in between_rooms(name, tree)]
    assert not wrong, "\n".join(wrong)
    assert {name.split(".")[2] for name in trees if name.startswith("lattok.image_lam.")} == ROOMS | {
        "__init__",
        "base",
    }


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("lattok.image_lam.p2t.model", "from lattok.image_lam.moto.model import MotoLAM"),
        ("lattok.image_lam.base.trained", "from lattok.image_lam.p2t import model"),
        ("lattok.image_lam.published.adaworld", "import lattok.image_lam.p2t.convert"),
        ("lattok.image_lam.base.trained", "from lattok.image_lam import ImageLAM"),
    ],
)
def test_a_wrong_import_between_rooms_is_found(name: str, source: str):
    assert between_rooms(name, ast.parse(source))


def test_every_module_has_a_level():
    unplaced = top_modules() - FRONT - LEVEL_OF.keys()
    assert not unplaced, f"give these a place in LEVELS: {sorted(unplaced)}"


def test_levels_do_not_overlap():
    assert len(LEVEL_OF) == sum(map(len, LEVELS))


def test_imports_point_downwards():
    wrong = [line for name, tree in sources() for line in violations(name, tree)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("lattok.types", "from lattok.data import Dataset"),
        ("lattok.version", "from lattok.utils import checks"),
        ("lattok.nn.blocks", "import lattok.action_vq.p2t as m"),
        ("lattok.hub", "def f():\n    from lattok.cli import main"),
        ("lattok.training", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from lattok.data import Dataset"),
        ("lattok.nn.blocks", "from ..hub import save"),
        ("lattok.nn.quantize", "from .. import training"),
        ("lattok.action_vq.p2t", "from ..image_lam.model import ImageLAM"),
        ("lattok.action_vq.__init__", "from ..image_lam import ImageLAM"),
        ("lattok.action_vq.deep.model", "from ...vla import head"),
        ("lattok.backbones.table", "from lattok.image_lam import features"),
        ("lattok.vla.model", "from lattok.annotation import annotate"),
        ("lattok.data.formats.lerobot", "from lattok import annotation"),
        ("lattok.nn.blocks", "from lattok import open_dataset"),
        ("lattok.nn.blocks", "import lattok\nlattok.open_dataset('x')"),
        ("lattok.data.formats.lerobot", "import importlib\nimportlib.import_module('lattok.recipes')"),
        ("lattok.data.formats.lerobot", "from lattok.__main__ import main"),
    ],
)
def test_a_wrong_import_is_found(name: str, source: str):
    assert violations(name, ast.parse(source), homes={"open_dataset": "lattok.data"})


@pytest.mark.parametrize(
    ("name", "source"),
    [
        (
            "lattok.data.formats.lerobot",
            "from lattok import types\nfrom ..hub import save\nimport torch",
        ),
        ("lattok.data.formats.lerobot", "from .schema import Schema\nfrom lattok.data import windows"),
        ("lattok.hub", "from lattok import __version__"),
        ("lattok.nn.quantize", "from lattok.nn.blocks import MLP"),
        ("lattok.training.runlog", "from .quantize import usage"),
        ("lattok.image_lam.published.lapa", "from lattok.image_lam import features"),
        ("lattok.recipes.action_vq", "from lattok import evaluation, open_dataset\nfrom lattok.demo import table"),
        ("lattok.utils.checks", "import lattokens\nfrom data import x"),
    ],
)
def test_a_right_import_passes(name: str, source: str):
    assert not violations(name, ast.parse(source), homes={"open_dataset": "lattok.data"})


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Modules that import each other, directly or by way of others; one list per circle."""
    reached = {name: _reached(name, graph) for name in graph}
    found = {frozenset({name, *(other for other in reached[name] if name in reached[other])}) for name in graph}
    return sorted(sorted(circle) for circle in found if len(circle) > 1)


def _reached(start: str, graph: Mapping[str, set[str]]) -> set[str]:
    seen, waiting = set(), [start]
    while waiting:
        for other in graph[waiting.pop()] - seen:
            seen.add(other)
            waiting.append(other)
    return seen


@cache
def import_graph() -> dict[str, set[str]]:
    """What every module imports, as modules; a package stands for its `__init__`."""
    trees = {name.removesuffix(".__init__"): (name, tree) for name, tree in sources()}
    trees.pop("lattok")  # the face names everything, lazily
    graph: dict[str, set[str]] = {}
    for short, (name, tree) in trees.items():
        found = {_module_of(target, trees) for _, target in targets(name, tree, lattok.HOMES)}
        graph[short] = found - {short, ""}
    return graph


def _module_of(target: str, modules: Collection[str]) -> str:
    """The module that holds `target`, which is a module itself or a name in one."""
    while target not in modules and target:
        target = target.rpartition(".")[0]
    return target


def test_modules_do_not_import_each_other():
    wrong = [" <-> ".join(circle) for circle in circles(import_graph())]
    assert not wrong, "\n".join(wrong)


@pytest.mark.ci
def test_a_circle_is_found():
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"e"}, "e": set()}
    assert circles(graph) == [["a", "b", "c"]]
    assert circles({"a": {"b"}, "b": set()}) == []
    assert "lattok.image_lam.base.trained" in import_graph()["lattok.image_lam.p2t.model"]
    assert "lattok.utils.checks" in import_graph()["lattok.image_lam.p2t.model"]  # from lattok import checks


def loaded_at_import(tree: ast.Module) -> set[str]:
    """First parts of the modules that a file loads when it is imported (not in functions or TYPE_CHECKING)."""
    found, open_nodes = set(), list(tree.body)
    while open_nodes:
        node = open_nodes.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            open_nodes.extend(node.orelse)
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add("lattok" if node.level else (node.module or "").split(".")[0])
        open_nodes.extend(ast.iter_child_nodes(node))
    return found


def test_front_files_load_nothing_heavy():
    for name, tree in sources():
        if name in ("lattok.__init__", "lattok.__main__", "lattok.version"):
            assert loaded_at_import(tree) <= sys.stdlib_module_names | {"lattok"}  # see also test_import.py


def test_what_a_file_loads_is_read_right():
    source = "import os\nif TYPE_CHECKING:\n    import torch\ntry:\n    import numpy\nexcept E:\n    pass"
    source += "\ndef f():\n    import av"
    assert loaded_at_import(ast.parse(source)) == {"os", "numpy"}
