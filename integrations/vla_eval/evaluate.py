"""Serve a policy and run one of the harness's benchmarks against it, in one process and with one command.

    python integrations/vla_eval/evaluate.py runs/la-direct libero

What stands in model_servers/libero.yaml and benchmarks/libero.yaml counts; results go to results/runs/la-direct/libero.
"""

import argparse
import os
import sys
from pathlib import Path

import vla_eval
from omegaconf.errors import InterpolationResolutionError
from vla_eval.cli.config_loader import load_config

from lattok.utils.checks import LattokError
from lattok_vla_eval import PolicyServer

FOLDER = Path(__file__).parent


def main(words: list[str] | None = None) -> None:
    """Evaluate; the harness prints success rates."""
    names = sorted(path.stem for path in (FOLDER / "benchmarks").glob("*.yaml"))
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", help="folder or Hub id of a policy, or a checkpoint of the LeRobot plugin")
    parser.add_argument("benchmark", choices=names)
    parser.add_argument("--out", help="folder for results (default: results/MODEL/BENCHMARK, MODEL with its path)")
    given = parser.parse_args(words)
    try:
        args = load_config(str(FOLDER / "model_servers" / f"{given.benchmark}.yaml"))["args"]
        config = load_config(str(FOLDER / "benchmarks" / f"{given.benchmark}.yaml"))
    except InterpolationResolutionError as error:
        found, hint = str(error).partition("\n")[0], "Set them before the command: TASK=lift_pot python ..."
        sys.exit(
            f"lattok: `benchmark`: expected all variables of {given.benchmark}.yaml to be set, got {found}. {hint}"
        )
    out = given.out or results_of(given.model) / given.benchmark
    try:
        server = PolicyServer(given.model, **args)
    except LattokError as error:
        sys.exit(f"lattok: {error}")
    vla_eval.evaluate(server, config, output_dir=out)


def results_of(model: str) -> Path:
    """Return the folder below results/ that is this model's alone: its Hub id, or its path from here or the root."""
    place = Path(os.path.abspath(model))  # without `..`; links stay, as they are names that somebody chose
    base = Path.cwd() if place.is_relative_to(Path.cwd()) else place.anchor
    return "results" / place.relative_to(base)


if __name__ == "__main__":
    main()
