"""Mutation testing: changes one thing in a file at a time and looks whether a test notices.

    python scripts/mutate.py lattok/nn/quantize.py lattok/samples --sample 120 --seed 0 --out survivors.json

A folder stands for its files, `--sample` draws so many mutants out of all of them. Each runs the tests in `TESTS` that
guard its file, or else those that mirror it, until one fails; what none notices is listed with its line. Who hangs is
killed after five times the time of the slowest test, in seconds of the processor, which others may keep busy; a file
that its tests do not import is an error. A process that has imported what the tests need forks for every mutant, so
that one costs seconds less; processes that a test spawns see no mutant. Mutated: comparisons, arithmetic, logic,
numbers and truth values, conditions, calls that bound or detach, whole statements. Not mutated: texts, annotations,
decorators, `strict=` of `zip`, `indent=` of JSON. Why not a package: mutmut leaves out decorated functions, which half
of `quantize.py` is, and cosmic-ray starts a new process for every mutant.
"""

import argparse
import ast
import copy
import faulthandler
import gc
import importlib.abc
import importlib.util
import json
import multiprocessing
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
FORK = multiprocessing.get_context("fork")
MEMORY = 8 * 2**30  # bytes of a mutant
UNCHANGED, SEEN = "unchanged", "seen.json"
NOT_APPLIED = 70  # no exit code of pytest
PATIENCE = 20
OURS = ("lattok", "tests", "benchmarks", "studies", "scripts", "conftest", "__main__")  # imported by each mutant itself
GUARDED = (
    "lattok/nn/kmeans.py",
    "lattok/nn/quantize.py",
    "lattok/nn/normalize.py",
    "lattok/action_vq/p2t.py",
    "lattok/image_lam/base/losses.py",
    "lattok/vla/supervision.py",
    "lattok/vla/lara.py",
    "lattok/data/episodes.py",
    "lattok/labels",
    "lattok/samples",
    "studies/statistics.py",
)
PUBLISHED = "tests/image_lam/published/test_published_lam.py"  # has what is asked of every published model
TESTS = {  # where not the mirror alone
    **{
        f"lattok/image_lam/published/{test.stem[5:]}.py": (str(test.relative_to(ROOT)), PUBLISHED)
        for test in sorted((ROOT / PUBLISHED).parent.glob("test_*.py"))
        if (ROOT / "lattok/image_lam/published" / f"{test.stem[5:]}.py").is_file()
    },
    "lattok/image_lam/published/published_lam.py": (
        PUBLISHED,
        "tests/image_lam/published/test_lapa.py",
        "tests/image_lam/published/test_villax.py",
    ),
    "lattok/image_lam/clips/decoder.py": (
        "tests/image_lam/clips/test_decoder.py",
        "tests/image_lam/clips/test_sana.py",  # needs the extra sana
    ),
    "lattok/nn/kmeans.py": ("tests/nn/test_quantize.py", "tests/action_vq/test_residual.py"),
    "lattok/nn/quantize.py": (
        "tests/nn/test_quantize.py",
        "tests/action_vq/test_p2t.py",
        "tests/action_vq/test_residual.py",
        "tests/image_lam/p2t/test_model.py",
    ),
    **{
        f"lattok/action_vq/{name}.py": tuple(f"tests/action_vq/test_{test}.py" for test in (name, "learned", "base"))
        for name in ("oat", "quest", "vqbet", "beast")
    },
    "lattok/action_vq/p2t.py": ("tests/action_vq/test_p2t.py", "tests/action_vq/test_p2t_parity.py"),
    "lattok/vla/supervision.py": ("tests/vla/test_losses.py", "tests/vla/test_supervision.py"),
    "lattok/vla/lara.py": ("tests/vla/test_lara.py",),
    "lattok/labels/reader.py": (
        "tests/labels/test_reader.py",
        "tests/vla/test_supervised.py",
        "tests/vla/test_supervision.py",
        "tests/samples/test_policy.py",
    ),
    "lattok/labels/sharing.py": ("tests/labels/test_sharing_labels.py",),
    "lattok/labels/sidecar.py": ("tests/labels/test_sidecar.py", "tests/annotation/test_fill_formats.py"),
    "lattok/labels/spec.py": ("tests/labels/test_columns.py", "tests/labels/test_reader.py"),
    "lattok/samples/frames.py": (
        "tests/samples/test_windows.py",
        "tests/samples/test_stream.py",
        "tests/samples/test_frames.py",
    ),
    "lattok/samples/batches.py": (
        "tests/samples/test_batches.py",
        "tests/recipes/test_lara_recipe.py::test_pairs_are_those_inside_the_episode_and_shares_know_how_many",
    ),
    "lattok/samples/policy.py": (
        "tests/samples/test_policy.py",
        "tests/annotation/test_fill.py::test_policies_learn_from_the_most_confident_and_draw_measured_ones_more_often",
    ),
    "studies/comparisons.py": ("studies/tests/test_tables.py", "studies/tests/test_planned.py"),
    "lattok/samples/frame_pairs.py": ("tests/samples/test_windows.py", "tests/samples/test_batches.py"),
    "lattok/samples/windows.py": ("tests/samples/test_windows.py", "tests/samples/test_batches.py"),
    "lattok/samples/order.py": ("tests/samples/test_batches.py", "tests/samples/test_stream.py"),
    **{
        f"lattok/annotation/{file}.py": tuple(f"tests/annotation/test_{name}.py" for name in names)
        for file, names in {
            "__init__": ("annotate", "fill", "gaps", "exchange"),
            "assembly": ("assembly", "annotate", "fill", "sources", "gaps"),
            "engines": ("pool", "annotate", "gaps"),
            "labels": ("annotate", "fill", "sources", "gaps"),
            "units": ("annotate", "gaps", "sources", "exchange"),
            "verify": ("verify", "sources", "tampering", "fill"),
        }.items()
    },
    "lattok/image_lam/inverse/config.py": (  # what is there by default is printed by --help
        "tests/image_lam/inverse/test_inverse.py",
        "tests/image_lam/inverse/test_robots.py",
        "tests/cli/test_app.py::test_stored_help_is_what_the_recipes_say",
    ),
    **{
        f"lattok/image_lam/inverse/{name}.py": tuple(f"tests/image_lam/inverse/test_{test}.py" for test in tests)
        for name, tests in {
            "model": ("inverse", "robots", "proprio_map"),
            "member": ("inverse", "robots"),
            "robots": ("robots", "inverse"),
            "states": ("inverse", "proprio_map"),
        }.items()
    },
    "lattok/action_vq/oat.py": ("tests/action_vq/test_oat.py", "tests/action_vq/test_coarse_to_fine.py"),
    "lattok/action_vq/bins.py": ("tests/action_vq/test_base.py", "tests/action_vq/test_families.py"),
    "lattok/data/episodes.py": (
        "tests/data/test_episodes.py",
        "tests/samples/test_windows.py",
    ),
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
    source: Callable[[], str]


def mutants(file: str) -> Iterator[Mutant]:
    """All single changes of a file, in the order of its lines."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    for number, node in enumerate(_places(tree)):
        for what, change in _changes(node):
            yield Mutant(file, node.lineno, what, partial(_changed, tree, number, change))


def _changed(tree: ast.Module, number: int, change: Any) -> str:
    """Return the file with a change of the place of this number."""
    changed = copy.deepcopy(tree)
    change(list(_places(changed))[number])
    return ast.unparse(ast.fix_missing_locations(changed))


def _places(node: ast.AST) -> Iterator[Any]:
    """A node and what of it may change: no texts, annotations, decorators, imports, or `strict=`, which only guards."""
    if _is_text(node) or isinstance(node, ast.Import | ast.ImportFrom | ast.JoinedStr):
        return
    if isinstance(node, ast.keyword) and node.arg in ("strict", "indent"):
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
        self.path, module = ROOT / mutant.file, Path(mutant.file).with_suffix("")
        self.package = module.name == "__init__"  # is imported by the name of its folder
        self.name = ".".join(module.parent.parts if self.package else module.parts)
        self.code, self.applied = compile(mutant.source(), str(self.path), "exec"), False

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if name != self.name:
            return None
        inside = [str(self.path.parent)] if self.package else None
        return importlib.util.spec_from_file_location(name, self.path, loader=self, submodule_search_locations=inside)

    def exec_module(self, module: Any) -> None:
        self.applied = True
        exec(self.code, module.__dict__)


class _Watch:
    """A plugin of pytest: ends a process whose test takes too long, and sees what the tests take and import.

    Seconds are those of the processor; a test that waits has `PATIENCE` times as many.
    """

    def __init__(self, seconds: float):
        self.seconds, self.slowest, self.nowhere = seconds, 0.0, os.open(os.devnull, os.O_WRONLY)

    def pytest_configure(self) -> None:
        from hypothesis import Phase, settings

        phases = (Phase.explicit, Phase.generate)  # the first failure is enough
        base = settings.get_profile("lattok")
        settings.register_profile("mutant", base, phases=phases, derandomize=True)
        settings.load_profile("mutant")
        self.pytest_runtest_logstart()

    def pytest_runtest_logstart(self) -> None:
        signal.setitimer(signal.ITIMER_PROF, self.seconds)
        faulthandler.dump_traceback_later(PATIENCE * self.seconds, exit=True, file=self.nowhere)

    def pytest_sessionfinish(self) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        faulthandler.cancel_dump_traceback_later()

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.slowest = max(self.slowest, report.duration)


def _in_child(mutant: Mutant, tests: Sequence[str], folder: str, seconds: float) -> None:
    """Run the tests on a mutant; the exit code is pytest's, or `NOT_APPLIED`. Write what they take and import."""
    import pytest

    gc.freeze()  # otherwise each mutant collects, and so copies, all that there is already
    os.setpgrp()
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    quiet = os.open(os.devnull, os.O_RDWR)
    for handle in (0, 1, 2):
        os.dup2(quiet, handle)
    sys.meta_path.insert(0, instead := _Instead(mutant))
    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--assert=plain", f"--basetemp={folder}/tests"]
    watch = _Watch(seconds)
    code = pytest.main([*options, *tests], plugins=[watch])
    if mutant.what == UNCHANGED:
        names = [name for name in sys.modules if not name.startswith(OURS)]
        Path(folder, SEEN).write_text(json.dumps([watch.slowest, names]))
    os._exit(code if instead.applied else NOT_APPLIED)


def survives(mutant: Mutant, tests: Sequence[str], folder: str, seconds: float) -> bool:
    """Run the tests in a process of their own; what they leave in `folder` goes with them. Ends the run where they
    did not import the mutant: it counts neither as killed nor as a survivor."""
    with tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as own:
        place = folder if mutant.what == UNCHANGED else own
        process = FORK.Process(target=_in_child, args=(mutant, tests, place, seconds))
        process.start()
        process.join()
        with suppress(ProcessLookupError):
            os.killpg(process.pid or 0, signal.SIGKILL)  # what a test has started
    if process.exitcode == NOT_APPLIED:
        sys.exit(f"{mutant.file}: not applied, since these tests do not import it: {' '.join(tests)}")
    return process.exitcode == 0


def tests_of(file: str) -> Sequence[str]:
    """Name the tests that guard a file: those in `TESTS`, or else its mirror, or all of its room."""
    first, *others = Path(file).parts
    folder = Path("studies/tests" if first == "studies" else "tests")
    path = folder.joinpath(*(others if first in ("lattok", "studies") else (first, others[-1])))
    mirror, room = path.with_name(f"test_{path.name}"), path.parent
    return TESTS.get(file) or [str(mirror if (ROOT / mirror).is_file() else room)]


def files_of(names: Sequence[str]) -> list[str]:
    """Replace each folder by its files."""
    found = [sorted((ROOT / name).glob("*.py")) if (ROOT / name).is_dir() else [ROOT / name] for name in names]
    return [str(path.relative_to(ROOT)) for paths in found for path in paths]


def _limit(file: str, tests: Sequence[str], folder: str) -> float:
    """Run the tests without a change, import what they do, and return how long one may take, in seconds."""
    unchanged = Mutant(file, 0, UNCHANGED, partial((ROOT / file).read_text, encoding="utf-8"))
    if not survives(unchanged, tests, folder, 600):
        sys.exit(f"tests fail without a change: {' '.join(tests)}")
    slowest, names = json.loads(Path(folder, SEEN).read_text())
    for name in names:
        with suppress(Exception):
            importlib.import_module(name)
    return 5 + 5 * slowest


def main() -> int:
    """Run mutants of the files and list those that nobody noticed. Exit code 1 where there are any."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", default=GUARDED, help="or folders")
    parser.add_argument("--tests", nargs="+", help="that guard all of them")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--sample", type=int, help="mutants that are drawn; all by default")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    import torch

    torch.set_num_threads(1)
    chosen = [mutant for file in files_of(arguments.files) for mutant in mutants(file)]
    if arguments.sample is not None and arguments.sample < len(chosen):
        picked = random.Random(arguments.seed).sample(range(len(chosen)), arguments.sample)
        chosen = [chosen[number] for number in sorted(picked)]
    report: dict[str, Any] = {}
    for file in dict.fromkeys(mutant.file for mutant in chosen):
        begun, found = time.perf_counter(), [mutant for mutant in chosen if mutant.file == file]
        with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(arguments.jobs) as pool:
            tests = arguments.tests or tests_of(file)
            run = partial(survives, tests=tests, folder=folder, seconds=_limit(file, tests, folder))
            alive, lines = [], (ROOT / file).read_text(encoding="utf-8").splitlines()
            for mutant, survived in zip(found, pool.map(run, found), strict=True):
                if survived:
                    alive.append(f"{mutant.line}: {mutant.what}")
                    print(f"  {alive[-1]}: {lines[mutant.line - 1].strip()}", flush=True)
        report[file] = {"mutants": len(found), "survived": alive}
        print(f"{file}: {len(found)} mutants, {len(alive)} survive, {time.perf_counter() - begun:.0f} s", flush=True)
        if arguments.out is not None:
            arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    survivors = sum(len(part["survived"]) for part in report.values())
    print(f"{len(chosen) - survivors} of {len(chosen)} mutants killed")
    return int(bool(survivors))


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # libraries that are imported and not used complain at the end
