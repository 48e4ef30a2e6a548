"""Recounts the study of few actions from single rollouts; shares no code with what ran and wrote it.

    python scripts/recount.py      # compares benchmarks/results/few_actions/ with few_actions.json beside it

Success from the outcomes, differences paired by seed, t intervals by their textbook formula, Holm's correction within
each family, McNemar by counting. Exit code 1 and a line for every figure that differs.
"""

import argparse
import collections
import json
import math
import pathlib
import sys

from scipy.special import betainc
from scipy.stats import binom, t

HERE = pathlib.Path(__file__).resolve().parents[1] / "benchmarks/results/few_actions"


def read(folder):
    """Return {(regime, row, seed): {(task, start): end}}."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text())
        place = content["cell"]
        found[place["regime"], place["row"], place["seed"]] = {
            (task, start): end for task, played in content["outcomes"]["own"].items() for start, end, _ in played
        }
    return found


def mean(numbers):
    return math.fsum(numbers) / len(numbers)


def interval(numbers):
    """Return mean, half width of the 95 % interval, two-sided p of 0."""
    n, middle = len(numbers), mean(numbers)
    error = math.sqrt(math.fsum((x - middle) ** 2 for x in numbers) / (n - 1) / n)
    if error == 0:
        return middle, 0.0, float(middle == 0)
    ratio = middle / error
    return middle, error * t.ppf(0.975, n - 1), float(betainc((n - 1) / 2, 0.5, (n - 1) / (n - 1 + ratio**2)))


def won(rollouts):
    return mean([end == "success" for end in rollouts.values()])


def recount(played, written):
    """Yield every figure as (what, as written, as counted here)."""
    families = collections.defaultdict(list)
    for regime, rows in written.items():
        for row, figure in rows.items():
            seeds = range(figure["success"][3])
            yield f"{regime} {row} success", figure["success"][0], mean([won(played[regime, row, s]) for s in seeds])
            for other, told in figure["over"].items():
                pairs = [(played[regime, row, s], played[regime, other, s]) for s in range(told["difference"][3])]
                counted = interval([won(a) - won(b) for a, b in pairs])
                what = f"{regime} {row} - {other}"
                for name, one, two in zip(("mean", "half", "p"), told["difference"], counted, strict=False):
                    yield f"{what} {name}", one, two
                alone = sum(a[at] == "success" != b[at] for a, b in pairs for at in a)
                lost = sum(b[at] == "success" != a[at] for a, b in pairs for at in a)
                yield f"{what} alone", told["starts"]["alone"], alone
                yield f"{what} other", told["starts"]["other"], lost
                tail = sum(binom.pmf(k, alone + lost, 0.5) for k in range(min(alone, lost) + 1))
                yield f"{what} McNemar", told["starts"]["p"], min(1.0, 2 * tail) if alone != lost else 1.0
                families[regime, told["family"]].append((counted[2], what, told["holm"]))
    for members in families.values():
        largest = 0.0
        for rank, (p, what, told) in enumerate(sorted(members)):
            largest = max(largest, min(1.0, (len(members) - rank) * p))
            yield f"{what} Holm", told, largest


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=pathlib.Path, default=HERE)
    folder = parser.parse_args().results
    written = json.loads(folder.with_suffix(".json").read_text())
    written = {name: rows for name, rows in written.items() if name != "environment"}
    count = wrong = 0
    for what, one, two in recount(read(folder), written):
        count += 1
        if not math.isclose(one, two, rel_tol=1e-6, abs_tol=1e-9):
            wrong += 1
            print(f"{what}: written {one}, counted {two}")
    print(f"{count} figures, {wrong} differ")
    sys.exit(bool(wrong or not count))


if __name__ == "__main__":
    main()
