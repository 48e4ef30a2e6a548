"""The closed-loop study: demonstrations, labels, trainings and rollouts, as many cells at a time as there are cores.

python -m studies.run --folder study --rows core --regimes plentiful action-free --seeds 0 1 2 3 4

What is finished is not repeated, so that the same command goes on after an interruption; `--hours` ends it early.
Results are one JSON file for each cell in studies/results/closed_loop/; `studies.tables` reads them.
The other studies have a folder of results each (`--results`). Only one such command may use a folder (`--folder`) at a
time, and models that lie there are used whatever code made them: a study of another commit needs a folder of its own.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from lattok.utils.signals import raising
from studies.plan import (
    ACTS,
    CONTROLS,
    CORE,
    DEMONSTRATIONS,
    FEW_ACTIONS,
    FEW_SHOT,
    JOINT,
    LABELS,
    NOISE,
    RECIPE,
    REGIMES,
    ROWS,
    SOURCES,
    Cell,
    cells,
)

RESULTS = Path("studies/results/closed_loop")
GROUPS = {
    "core": CORE,
    "controls": CONTROLS,
    "sources": SOURCES,
    "few-shot": FEW_SHOT,
    "few-actions": FEW_ACTIONS,
    "joint": JOINT,
    "recipe": RECIPE,
    "acts": ("baseline", "flow", *ACTS),
    "all": tuple(ROWS),
}


def study_parser(text: str | None, *, results: bool = False) -> argparse.ArgumentParser:
    """Return a parser with the places of the study (of results if asked); `text` says first what the command does."""
    parser = argparse.ArgumentParser(description=(text or "").splitlines()[0])
    kept = "demonstrations, labels and policies; may be removed"
    parser.add_argument("--folder", type=Path, required=True, help=kept)
    if results:
        parser.add_argument("--results", type=Path, default=RESULTS)
    return parser


def rows_of(names: Sequence[str]) -> list[str]:
    """Rows by name, or groups of them."""
    return list(dict.fromkeys(row for name in names for row in GROUPS.get(name, (name,))))


def makes(cell: Cell) -> tuple[str, str, int] | None:
    """Return which labels a cell makes if nobody has: cells that share them do not begin at once."""
    labels = ROWS[cell.row].labels
    return None if labels is None else (LABELS[labels].of or labels, REGIMES[cell.regime].part, cell.seed)


def start(cell: Cell, folder: Path, results: Path) -> subprocess.Popen[bytes]:
    """Start a cell in a process of one thread; what it prints goes to a log."""
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "studies.cell", cell.name]
    one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "LP_NUM_THREADS"), "1")
    with open(folder / "logs" / f"{cell.name}.log", "ab") as log:
        return subprocess.Popen(
            [*command, "--folder", str(folder), "--results", str(results)],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **one},
        )


def main() -> None:
    parser = study_parser(__doc__, results=True)
    parser.add_argument("--regimes", nargs="+", default=["plentiful"], choices=list(REGIMES))
    parser.add_argument("--rows", nargs="+", default=["core"], choices=[*GROUPS, *ROWS])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--hours", type=float, default=2.5, help="no cell begins later than this")
    args = parser.parse_args()
    for regime in map(REGIMES.__getitem__, args.regimes):
        if not regime.dataset(args.folder).exists():
            from lattok.sim.collect import collect

            out = regime.dataset(args.folder)
            collect(regime.tasks, out, episodes=DEMONSTRATIONS, noise=NOISE, workers=args.jobs)
    todo = [
        cell
        for cell in cells(args.regimes, rows_of(args.rows), args.seeds)
        if not (args.results / f"{cell.name}.json").exists()
    ]
    print(f"{len(todo)} cells to do", flush=True)
    end, failed = time.monotonic() + 3600 * args.hours, []
    running: dict[Cell, subprocess.Popen[bytes]] = {}
    with raising():  # SIGTERM ends the cells, too
        try:
            while todo or running:
                for cell, process in list(running.items()):
                    if process.poll() is not None:
                        del running[cell]
                        failed += [cell.name] * bool(process.returncode)
                        print(f"{cell.name}: {'failed, see its log' if process.returncode else 'done'}", flush=True)
                made = {makes(cell) for cell in running} - {None}
                free = [cell for cell in todo if makes(cell) not in made]
                if free and len(running) < args.jobs and time.monotonic() < end:
                    todo.remove(free[0])
                    running[free[0]] = start(free[0], args.folder, args.results)
                elif not running:
                    break
                else:
                    time.sleep(1)
        finally:
            for process in running.values():
                process.terminate()
                process.wait()
    print(f"{len(todo)} cells not begun" if todo else "all cells done", *(f"; {name} failed" for name in failed))
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
