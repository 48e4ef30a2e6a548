"""What each extra costs: size, time to import, and its tests in a fresh environment.

python -m benchmarks.speed.extras --out benchmarks/results/extras.json   # half an hour
    --only EXTRA: those alone, the others stay as they are in the file; --no-tests: nor their tests

The wheel is built once. Each environment gets it with one extra (and pytest), runs the tests that need this extra from
the repository, and imports what the extra brought. Times are CPU time, the least of three processes with warm files,
and take in the interpreter's own start. Environments are made by uv and removed.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.common import environment, write_results

ROOT = Path(__file__).resolve().parents[2]
REPEATS = 3
BASE = "none"


class Extra(NamedTuple):
    """What shows that an extra works."""

    imports: str  # what somebody who uses it imports
    tests: tuple[str, ...]  # arguments of pytest
    needs: tuple[str, ...] = ()  # packages of these tests


EXTRAS = {
    BASE: Extra(
        "lattok.image_lam, lattok.action_vq",
        ("tests/test_loading.py", "tests/golden"),
    ),
    "sim": Extra("lattok.sim, metaworld, ogbench", ("tests/sim",)),
    "vla": Extra("lattok.vla, transformers", ("tests/backbones",)),
    "ray": Extra("lattok.annotation, ray", ("tests/annotation/test_ray.py",)),
    "hdf5": Extra("lattok.data, h5py", ("tests/data/formats/test_hdf5.py",)),
    "lpips": Extra("lattok, lpips", ("tests/image_lam/moto/test_perceptual.py",)),
    "sana": Extra("lattok.image_lam.clips.decoder, diffusers", ("tests/image_lam/clips/test_sana.py",)),
    "rerun": Extra("lattok, rerun", ("tests/evaluation/test_viewer.py",)),
    "tensorboard": Extra("lattok, tensorboard", ("tests/training/test_loop.py", "-k", "tensorboard or track")),
    "wandb": Extra("lattok, wandb", ("tests/training/test_loop.py", "-k", "wandb or track")),
    "notebooks": Extra("matplotlib, nbclient, jupytext", ("tests/test_notebooks.py",)),
}
SHARED = ("pytest", "hypothesis", "scipy")  # that tests of any room need


def build(folder: Path) -> Path:
    """Build the wheel of the working tree."""
    _run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT])
    return next(folder.glob("lattok-*.whl"))


def tried(name: str, wheel: Path, folder: Path, tests: bool) -> dict[str, Any]:
    """Install the wheel with an extra into `folder`, and return its figures."""
    extra, python = EXTRAS[name], folder / "bin" / "python"
    _run(["uv", "venv", "--quiet", "--python", sys.executable, folder])
    install = ["uv", "pip", "install", "--quiet", "--python", python]
    _run([*install, wheel if name == BASE else f"{wheel}[{name}]"])
    listed = subprocess.run(
        ["uv", "pip", "list", "--quiet", "--format", "json", "--python", python], capture_output=True, check=True
    )
    figures = {"packages": len(json.loads(listed.stdout)), "megabytes": _size(folder) / 1e6}
    figures |= {"lattok_s": _import_s(python, "lattok"), "import_s": _import_s(python, extra.imports)}
    if not tests:
        return figures
    _run([*install, *SHARED, *extra.needs])
    done = subprocess.run(
        [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *extra.tests], cwd=ROOT, capture_output=True, text=True
    )
    lines = done.stdout.strip().splitlines()
    if done.returncode:
        print(done.stdout[-4000:], done.stderr[-2000:], sep="\n")
    return figures | {"tests": lines[-1].strip("= ") if lines else done.stderr.strip()[-200:]}


def _import_s(python: Path, modules: str) -> float:
    took = []
    for _ in range(REPEATS + 1):  # the first one reads files and compiles
        before = os.times()
        _run([python, "-c", f"import {modules}"])
        after = os.times()
        took.append(after.children_user + after.children_system - before.children_user - before.children_system)
    return min(took[1:])


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _run(command: Sequence[object]) -> None:
    subprocess.run([str(part) for part in command], check=True, cwd=tempfile.gettempdir())


def table(found: dict[str, dict[str, Any]]) -> str:
    """Return the figures in Markdown; sizes of extras are what they add to the base."""
    base = found[BASE]
    lines = ["| extra | packages | size | imports | takes | its tests |", "|---|---|---|---|---|---|"]
    for name, figures in found.items():
        own = name == BASE
        packages = figures["packages"] if own else f"+{figures['packages'] - base['packages']}"
        size = figures["megabytes"] - (0 if own else base["megabytes"])
        lines.append(
            f"| {name if own else f'`{name}`'} | {packages} | {'' if own else '+'}{size:,.0f} MB "
            f"| `{EXTRAS[name].imports}` | {figures['import_s']:.2f} s | {figures.get('tests', '')} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", default=list(EXTRAS), choices=list(EXTRAS))
    parser.add_argument("--no-tests", action="store_false", dest="tests")
    parser.add_argument("--out", type=Path, help="a JSON file; the table lies next to it")
    args = parser.parse_args()
    os.environ.pop("PYTHONPATH", None)
    found: dict[str, dict[str, Any]] = {}
    if args.out and args.out.exists():
        found = json.loads(args.out.read_text())["extras"]
    with tempfile.TemporaryDirectory() as scratch:
        wheel = build(Path(scratch))
        for name in [name for name in EXTRAS if name in args.only or name == BASE not in found]:
            folder = Path(scratch) / "env"
            found[name] = found.get(name, {}) | tried(name, wheel, folder, args.tests)
            print(name, found[name], flush=True)
            shutil.rmtree(folder)
    found = {name: found[name] for name in EXTRAS if name in found}
    print(table(found))
    if args.out:
        write_results(args.out, {"environment": environment(), "extras": found})
        args.out.with_suffix(".md").write_text(table(found) + "\n")


if __name__ == "__main__":
    main()
