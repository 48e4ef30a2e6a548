"""Mutation testing: changes one thing in a file at a time and looks whether a test notices.

    python scripts/mutate.py lattok/quantize.py lattok/normalize.py --jobs 2 --out survivors.json

Each mutant runs the tests in `TESTS` that guard its file, until one fails; what none notices is listed with its line.
A process that has imported torch and timm forks for every mutant, so that one costs seconds less. Mutated: comparisons,
arithmetic, logic, numbers and truth values, conditions, calls that bound or detach, whole statements. Not mutated:
texts, annotations, decorators. Why not a package: mutmut leaves out decorated functions, which half of `quantize.py`
is, and cosmic-ray starts a new process for every mutant.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib.abc
import importlib.util
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
FORK = multiprocessing.get_context("fork")
TESTS = {
    "lattok/quantize.py": (
        "tests/test_quantize.py",
        "tests/action_vq/test_model.py",
        "tests/action_vq/test_residual.py",
        "tests/image_lam/test_model.py",
    ),
    "lattok/normalize.py": ("tests/test_normalize.py",),
    "lattok/action_vq/losses.py": ("tests/action_vq/test_model.py", "tests/action_vq/test_parity.py"),
    "lattok/image_lam/losses.py": ("tests/image_lam/test_losses.py",),
    "lattok/vla/losses.py": ("tests/vla/test_losses.py", "tests/vla/test_supervision.py"),
    "lattok/labels/reader.py": (
        "tests/labels/test_reader.py",
        "tests/vla/test_supervised.py",
        "tests/vla/test_supervision.py",
    ),
    "lattok/samples/windows.py": ("tests/samples/test_windows.py",),
    "lattok/data/episodes.py": (
        "tests/data/test_episodes.py",
        "tests/samples/test_windows.py",
    ),
    "benchmarks/closed_loop/statistics.py": ("tests/benchmarks/test_statistics.py",),
}
COMPARE: dict[type, tuple[type, ...]] = {
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.GtE),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.LtE),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
}
ARITHMETIC: dict[type, type] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Add,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
NAMES = {
    "any": "all",
    "all": "any",
    "min": "max",
    "max": "min",
    "sum": "mean",
    "mean": "sum",
    "argmin": "argmax",
    "argmax": "argmin",
    "minimum": "maximum",
    "maximum": "minimum",
}
DROPPED = {"detach", "clone", "clamp", "clamp_min", "float", "double", "masked_fill", "square", "abs", "log2", "sqrt"}


class Mutant(NamedTuple):
    """One change of a file."""

    file: str
    line: int
    what: str
    source: str


def mutants(file: str) -> Iterator[Mutant]:
    """All single changes of a file, in the order of its lines."""
    text = (ROOT / file).read_text(encoding="utf-8")
    tree = ast.parse(text)
    places = list(_places(tree))
    for number, node in enumerate(places):
        for what, change in _changes(node):
            changed = copy.deepcopy(tree)
            change(list(_places(changed))[number])
            ast.fix_missing_locations(changed)
            yield Mutant(file, node.lineno, what, ast.unparse(changed))


def _places(node: ast.AST) -> Iterator[Any]:
    """A node and what it consists of, where either may change: no texts, annotations, decorators, or imports."""
    if _is_text(node) or isinstance(node, ast.Import | ast.ImportFrom | ast.JoinedStr):
        return
    if hasattr(node, "lineno"):
        yield node
    for name, value in ast.iter_fields(node):
        if name not in ("annotation", "returns", "decorator_list"):
            for part in value if isinstance(value, list) else [value]:
                if isinstance(part, ast.AST):
                    yield from _places(part)


def _is_text(node: ast.AST) -> bool:
    value = node.value if isinstance(node, ast.Expr) else node
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def _changes(node: Any) -> Iterator[tuple[str, Any]]:
    """What can be done to a node, in words and as a function of its copy."""

    def put(**values: Any) -> Any:
        return lambda n: [setattr(n, name, value) for name, value in values.items()]

    def become(make: Any) -> Any:
        def change(n: Any) -> None:
            new = make(n)
            n.__class__, n.__dict__ = new.__class__, new.__dict__

        return change

    if isinstance(node, ast.Compare):
        for other in COMPARE.get(type(node.ops[0]), ()):
            yield f"{type(node.ops[0]).__name__} -> {other.__name__}", put(ops=[other(), *node.ops[1:]])
    elif isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in ARITHMETIC:
        other = ARITHMETIC[type(node.op)]
        yield f"{type(node.op).__name__} -> {other.__name__}", put(op=other())
    elif isinstance(node, ast.BoolOp):
        other = ast.Or if isinstance(node.op, ast.And) else ast.And
        yield f"-> {other.__name__}", put(op=other())
    elif isinstance(node, ast.UnaryOp) and not isinstance(node.operand, ast.Constant):
        yield f"without {type(node.op).__name__}", become(lambda n: n.operand)
    elif isinstance(node, ast.Constant):
        yield from ((f"{node.value} -> {value}", put(value=value)) for value in _other_numbers(node.value))
    elif isinstance(node, ast.If | ast.IfExp):
        for value in (True, False):
            yield f"condition -> {value}", put(test=ast.Constant(value))
    elif isinstance(node, ast.Attribute) and node.attr in NAMES:
        yield f".{node.attr} -> .{NAMES[node.attr]}", put(attr=NAMES[node.attr])
    elif isinstance(node, ast.Name) and node.id in NAMES:
        yield f"{node.id} -> {NAMES[node.id]}", put(id=NAMES[node.id])
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in DROPPED:
        yield f"without .{node.func.attr}()", become(lambda n: n.func.value)
    if isinstance(node, ast.Expr | ast.AugAssign):
        yield "statement removed", become(lambda n: ast.Pass())


def _other_numbers(value: Any) -> tuple[Any, ...]:
    if isinstance(value, bool):
        return (not value,)
    if isinstance(value, int):
        return (value + 1, value - 1) if abs(value) < 100 else (2 * value,)
    if isinstance(value, float):
        return (2 * value,) if value else (1.0,)
    return ()


class _Instead(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports a mutant in place of its file."""

    def __init__(self, mutant: Mutant):
        self.name = mutant.file.removesuffix(".py").replace("/", ".")
        self.code = compile(mutant.source, str(ROOT / mutant.file), "exec")

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        return importlib.util.spec_from_loader(name, self) if name == self.name else None

    def exec_module(self, module: Any) -> None:
        exec(self.code, module.__dict__)


def _in_child(mutant: Mutant | None, tests: tuple[str, ...]) -> None:
    """Run the tests on a mutant; the exit code is pytest's."""
    import pytest

    quiet = os.open(os.devnull, os.O_RDWR)
    for handle in (0, 1, 2):
        os.dup2(quiet, handle)
    if mutant is not None:
        sys.meta_path.insert(0, _Instead(mutant))
    os._exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--assert=plain", *tests]))


def outcome(mutant: Mutant | None, tests: tuple[str, ...], seconds: float) -> str:
    """ "killed", "survived" or "timeout"."""
    process = FORK.Process(target=_in_child, args=(mutant, tests))
    process.start()
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()
        return "timeout"
    return "survived" if process.exitcode == 0 else "killed"


def main() -> int:
    """Run all mutants of the files and list those that nobody noticed. Exit code 1 where there are any."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", default=list(TESTS))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    import timm  # noqa: F401  the child has it then
    import torch

    torch.set_num_threads(1)
    report: dict[str, Any] = {}
    for file in arguments.files:
        tests, begun = TESTS[file], time.perf_counter()
        if outcome(None, tests, 3600) != "survived":
            sys.exit(f"{file}: its tests fail without a change: {' '.join(tests)}")
        limit = 10 + 5 * (time.perf_counter() - begun)
        found = list(mutants(file))
        with ThreadPoolExecutor(arguments.jobs) as pool:
            results = list(pool.map(lambda m, t=tests, s=limit: outcome(m, t, s), found))
        alive = [m for m, result in zip(found, results, strict=True) if result == "survived"]
        report[file] = {
            "mutants": len(found),
            "killed": results.count("killed"),
            "timeout": results.count("timeout"),
            "survived": [f"{m.line}: {m.what}" for m in alive],
        }
        print(f"{file}: {len(found)} mutants, {len(alive)} survive, {time.perf_counter() - begun:.0f} s", flush=True)
        lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
        for mutant in alive:
            print(f"  {mutant.line}: {mutant.what}: {lines[mutant.line - 1].strip()}", flush=True)
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return int(any(part["survived"] for part in report.values()))


if __name__ == "__main__":
    sys.exit(main())
