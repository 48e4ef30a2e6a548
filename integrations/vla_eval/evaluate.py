"""Serve a policy and run one of the harness's benchmarks against it, in one process and with one command.

    python integrations/vla_eval/evaluate.py runs/la-direct libero

What stands in model_servers/libero.yaml and benchmarks/libero.yaml counts; results go to results/la-direct/libero.
"""

import argparse
import sys
from pathlib import Path

import vla_eval
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
    parser.add_argument("--out", help="folder for results (default: results/MODEL/BENCHMARK)")
    given = parser.parse_args(words)
    args = load_config(str(FOLDER / "model_servers" / f"{given.benchmark}.yaml"))["args"]
    config = load_config(str(FOLDER / "benchmarks" / f"{given.benchmark}.yaml"))
    out = given.out or Path("results") / Path(given.model).name / given.benchmark
    try:
        server = PolicyServer(given.model, **args)
    except LattokError as error:
        sys.exit(f"lattok: {error}")
    vla_eval.evaluate(server, config, output_dir=out)


if __name__ == "__main__":
    main()
