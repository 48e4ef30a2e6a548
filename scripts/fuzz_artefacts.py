"""Mutates small models of every family and run folders: python scripts/fuzz_artefacts.py --cases 300 --seed 0

Load, doctor, evaluate, annotate, card and resume, each in a child with 2 GB and 20 s. Prints how many were refused in
one line or went well, and every failure: a traceback, a crash, a hang, a change outside. Exit code 1
where there is a failure.

With --foreign models name what is not theirs: folders of this machine, links, code. A failure is
then also a file outside that was read or run. Whoever is asked something hears yes:

    yes | python scripts/fuzz_artefacts.py --foreign --cases 200
"""

import argparse
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ["OMP_NUM_THREADS"] = "1"  # threads of OpenMP do not survive a fork: children would wait for them for ever

from tests import fuzz_artefacts as fuzz


def main() -> int:
    """Run the cases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--foreign", action="store_true")
    args = parser.parse_args()
    table, failed, memory = Counter[tuple[str, str]](), 0, 0
    with tempfile.TemporaryDirectory() as scratch:
        for outcome in fuzz.run(args.cases, args.seed, Path(scratch), args.foreign):
            table[outcome.case.mutation if args.foreign else outcome.case.action, outcome.verdict] += 1
            memory = max(memory, outcome.memory)
            if outcome.verdict in fuzz.FAILURES:
                failed += 1
                print(f"{outcome.verdict}: {outcome.case}\n{outcome.detail}\n", flush=True)
    for (action, verdict), count in sorted(table.items()):
        print(f"{action:10} {verdict:10} {count:5}")
    print(f"{args.cases} cases, {failed} failures; at most {memory / 2**20:,.0f} MB more than before")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
