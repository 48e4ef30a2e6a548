"""Serve a policy and run one of the harness's benchmarks against it, in one process and with one command.

    python integrations/vla_eval/evaluate.py runs/la-direct libero

What stands in model_servers/libero.yaml and benchmarks/libero.yaml counts, but for what `--arg` replaces; results go to
results/runs/la-direct/libero.
"""

import argparse
import inspect
import os
import sys
from pathlib import Path
from typing import Any

import vla_eval
import yaml
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
    text = "an entry of `args` in place of the one in model_servers/, as in n_action_steps=1; repeatable"
    parser.add_argument("--arg", metavar="NAME=VALUE", action="append", default=[], help=text)
    given = parser.parse_args(words)
    try:
        args = load_config(str(FOLDER / "model_servers" / f"{given.benchmark}.yaml"))["args"] | changes(given.arg)
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


def changes(texts: list[str]) -> dict[str, Any]:
    """Return {NAME: VALUE} of arguments of the server, whose values are YAML."""
    found, known = {}, [*inspect.signature(PolicyServer).parameters][1:-1]  # without `model` and the harness's own
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign or name not in known:
            sys.exit(f"lattok: `arg`: expected NAME=VALUE, NAME one of {', '.join(known)}, got {text!r}.")
        try:
            found[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            sys.exit(f"lattok: `arg`: expected YAML after {name}=, such as n_action_steps=1, got {value!r}.")
    return found


def results_of(model: str) -> Path:
    """Return the folder below results/ that is this model's alone: its Hub id, or its path from here or the root."""
    place = Path(os.path.abspath(model))  # without `..`; links stay, as they are names that somebody chose
    base = Path.cwd() if place.is_relative_to(Path.cwd()) else place.anchor
    return "results" / place.relative_to(base)


if __name__ == "__main__":
    main()
