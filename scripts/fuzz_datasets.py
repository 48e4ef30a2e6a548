"""Damages tiny datasets of every format and reads them: python scripts/fuzz_datasets.py --cases 500 --seed 0
In a third of the cases it also fills unknown actions in (annotate --as actions).
Makes hostile ones and opens, inspects, annotates and exports them: the same with --attack

Prints how many were refused with one line, read right, or read with other values where the format has no checksum, and
every failure: another exception, a crash, a hang, or other values that a checksum should have told. About 0.1 s a case.
Of attacks also: a file outside of the output changed or was opened, a secret from outside in the output,
another program ran (standard input says yes to all questions), 2 GB, 20 s. About 0.6 s a case.
Exit code 1 where there is a failure.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.data import fuzz, hostile_runs
from tests.data.specimens import WRITERS


def main() -> int:
    """Run the cases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--formats", nargs="+", choices=list(WRITERS), metavar="FORMAT", help=f"{', '.join(WRITERS)}")
    parser.add_argument("--attack", action="store_true", help="datasets made to harm instead of damaged ones")
    args = parser.parse_args()
    kind = hostile_runs if args.attack else fuzz
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        outcomes = list(kind.run(args.cases, args.seed, Path(scratch), args.formats))
    print(fuzz.summary(outcomes, time.perf_counter() - begun, kind.FAILURES))
    return int(any(outcome.verdict in kind.FAILURES for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
