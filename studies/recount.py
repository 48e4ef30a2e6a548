"""Recounts the studies from single rollouts; shares no code with what ran and wrote them.

    python -m studies.recount      # compares studies/results with the figures beside them and on the pages

Success from the outcomes, differences paired by seed (of all seeds and tasks, without seed 0, in either half of the
tasks), t intervals by their textbook formula, the same with tasks drawn at random, Holm's correction within each
family, McNemar by counting; of inferred actions, the rank correlations of `few_actions_predicts.json`. On the pages,
every "MEAN ± HALF" has to be an interval of some row, or of a difference of two rows. Words are not compared.
Tables of several robots from their cells, and from the single rollouts of their policies.
Exit code 1 and a line for everything that differs.
"""

import argparse
import collections
import itertools
import json
import math
import pathlib
import re
import sys
from typing import Any

import numpy as np
from scipy.special import betainc
from scipy.stats import binom, spearmanr, t

ROOT = pathlib.Path(__file__).resolve().parents[1]
RESULTS = ROOT / "studies/results"
STUDIES = "few_actions", "acting_by_tokens", "acting_by_tokens_again"
PAGES = "README.md", "docs/results.md", "docs/howto/few_actions.md", "docs/concepts/which_one.md", "studies/pages/*.md"
LABELS = ("closed_loop_details.md",)  # its intervals are of labels alone: closed_loop_refined.json
IMAGES = "la_align", "la_direct", "la_cond"  # rows whose latents are of images
SCENES = "scene", "layout", "distractors", "background", "light", "camera"
HALVES = "known tasks", "other tasks"
UNCOUNTED = {(".055", ".046")}  # an analysis by randomised blocks
PLUS_MINUS = re.compile(r"(?<![\w.])(\.\d+) ± (\.\d+)")
SIGNS = {"r2_xyz": 1, "systematic": -1, "absolute": -1, "given_frame": 1, "confidence": 1}
KNOWN = ("drawer-close", "faucet-close", "window-close", "door-lock")  # the tasks of `four-tasks` with known actions


def read(folder, scene="own"):
    """Return {(regime, row, seed): {(task, start): end}} of the rollouts in a scene."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text())
        place = content["cell"]
        found[place["regime"], place["row"], place["seed"]] = {
            (task, start): end for task, played in content["outcomes"][scene].items() for start, end, _ in played
        }
    return found


def read_elsewhere(path):
    """Return what `read` does, and figures of inferred actions, of the study with known actions from other data."""
    runs = {f"elsewhere.{name}": run for name, run in json.loads(path.read_text())["runs"].items()}
    played = {
        ("elsewhere", row.removeprefix("elsewhere."), int(seed)): {
            (task, start): end for task, each in run["outcomes"].items() for start, end, _ in each
        }
        for (row, _, seed), run in ((name.rpartition("."), run) for name, run in runs.items() if "outcomes" in run)
    }
    return played, {name: run for name, run in runs.items() if "all" in run}


def read_counts(folder):
    """Return {(regime, row, seed): success} of a study that has kept counts alone, not the single rollouts."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text())
        counts, place = content["own"].values(), content["cell"]
        found[place["regime"], place["row"], place["seed"]] = sum(c[0] for c in counts) / sum(c[2] for c in counts)
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


def in_general(pairs):
    """Return mean, half width and p of a difference, with seeds and tasks both drawn at random.

    Mean squares of seeds, tasks and the rest of differences [seed][task]; Satterthwaite's degrees of freedom.
    """
    tasks = sorted({task for task, _ in pairs[0][0]})
    table = [[won(of_task(a, task)) - won(of_task(b, task)) for task in tasks] for a, b in pairs]
    seeds, middle = len(table), mean([mean(row) for row in table])
    rows, columns = [mean(row) for row in table], [mean(column) for column in zip(*table, strict=True)]
    free = seeds - 1, len(tasks) - 1, (seeds - 1) * (len(tasks) - 1)
    rest = [x - r - c + middle for row, r in zip(table, rows, strict=True) for x, c in zip(row, columns, strict=True)]
    squares = (
        len(tasks) * math.fsum((r - middle) ** 2 for r in rows) / free[0],
        seeds * math.fsum((c - middle) ** 2 for c in columns) / free[1],
        math.fsum(x**2 for x in rest) / free[2],
    )
    whole = max(squares[0] + squares[1] - squares[2], squares[2])
    freedom = whole**2 / sum(square**2 / n for square, n in zip(squares, free, strict=True))
    error = math.sqrt(whole / seeds / len(tasks))
    return middle, error * t.ppf(0.975, freedom), 2 * t.sf(abs(middle) / error, freedom)


def of_task(rollouts, task):
    return {at: end for at, end in rollouts.items() if at[0] == task}


def won(rollouts):
    return mean([end == "success" for end in rollouts.values()])


def half(rollouts, part):
    """Return the rollouts in the tasks with known actions, or those in the other tasks; all of them for other parts."""
    if not part.endswith(" tasks"):
        return rollouts
    inside = part == "known tasks"
    return {at: end for at, end in rollouts.items() if (at[0].rpartition("/")[2] in KNOWN) == inside}


def compared(what, written, counted):
    """Yield mean, half width and p of an interval."""
    for name, one, two in zip(("mean", "half", "p"), written, counted, strict=False):
        yield f"{what} {name}", one, two


def recount(played, written):
    """Yield every figure as (what, as written, as counted here)."""
    families = collections.defaultdict(list)
    for regime, rows in written.items():
        for row, figure in rows.items():
            seeds = sorted(seed for kind, name, seed in played if (kind, name) == (regime, row))
            runs = [played[regime, row, seed] for seed in seeds[: figure["success"][3]]]
            for part in ("success", *(name for name in figure if name.endswith(" tasks"))):
                counted = interval([won(half(run, part)) for run in runs])
                yield from compared(f"{regime} {row} {part}", figure[part], counted)
            for other, told in figure["over"].items():
                shared = seeds[: told["difference"][3]]  # which are the first ones of both
                pairs = [(played[regime, row, s], played[regime, other, s]) for s in shared]
                counted = interval([won(a) - won(b) for a, b in pairs])
                what = f"{regime} {row} - {other}"
                yield from compared(what, told["difference"], counted)
                yield from compared(f"{what} in general", told["any"], in_general(pairs))
                for part, own in told["parts"].items():
                    some = [(half(a, part), half(b, part)) for a, b in pairs[part == "without seed 0" :]]
                    yield from compared(f"{what} {part}", own, interval([won(a) - won(b) for a, b in some]))
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


def ranked(pairs):
    """Return the rank correlation of pairs, NaN of fewer than three that are numbers."""
    pairs = np.array([pair for pair in pairs if np.isfinite(pair).all()])
    if len(pairs) <= 2:
        return float("nan")
    found: Any = spearmanr(pairs[:, 0], pairs[:, 1])
    return float(found.statistic)


def correlations(played, labels, told):
    """Yield gains, figures of labels and correlations as (what, as written, as counted here)."""
    found = {}
    for point in told["points"]:
        for seed, gain in point["gains"].items():
            at = point["regime"], point["row"], int(seed)
            mine = won(played[at]) - won(played[at[0], "baseline", at[2]])
            own = labels[".".join(map(str, at))]["all"]
            yield f"gain of {at}", gain, mine
            for name in SIGNS:
                yield f"{name} of {at}", point["figures"][seed].get(name, np.nan), own.get(name, np.nan)
            found[at] = mine, own
    kept = {at: each for at, each in found.items() if at[1] not in told["extremes"]}
    for title, some, written in (("all", found, told), ("without extremes", kept, told["without_extremes"])):
        yield f"{title}: sources", written["sources"], len({at[:2] for at in some})
        for name, sign in SIGNS.items():
            for kind, counted in (("sources", over_sources(some, name)), ("within", within(some, name))):
                yield f"{title}: {name} {kind}", written["correlations"][name][kind][0], sign * counted


def over_sources(found, name):
    """Return the rank correlation over the means of sources."""
    means = []
    for source in sorted({at[:2] for at in found}):
        own = [(each[1].get(name, np.nan), each[0]) for at, each in found.items() if at[:2] == source]
        means.append(np.mean(own, 0))
    return ranked(means)


def within(found, name):
    """Return the mean of the rank correlations over the sources of each regime and seed."""
    each = []
    for regime, seed in sorted({(at[0], at[2]) for at in found}):
        group = [(own.get(name, np.nan), gain) for at, (gain, own) in found.items() if (at[0], at[2]) == (regime, seed)]
        each.append(ranked(group))
    return float(np.nanmean(each))


def columns(text):
    """Yield the cells of each row of the tables in Markdown, without heads."""
    lines = [re.split(r" *\| *", line.strip("| ")) for line in text.splitlines()]
    rules = [place for place, cells in enumerate(lines) if set("".join(cells)) == {"-"}]
    heads = {place - 1 for place in rules}
    yield from (cells for place, cells in enumerate(lines) if cells != [""] and place not in heads | {*rules})


def compared_cells(what, cells, counted):
    """Yield every number of a row with the one that was counted, rounded to as many places."""
    written = re.findall(r"-?(?:\d+(?:\.\d+)?|\.\d+)", " ".join(cells))
    yield f"{what} numbers", len(written), len(counted)
    for text, number in zip(written, counted, strict=False):
        half = 0.5001 * 10.0 ** -len(text.partition(".")[2])
        yield what, float(text), float(text) if abs(float(text) - number) <= half else number


def real_robots(kept, rows):
    """Yield the tables of hidden actions of real robots, from R² by joint."""
    for where, *cells in rows:
        if ", " not in where:  # how often left-out known episodes choose the best route
            draws = [run for key, run in kept.items() if key.startswith(f"{where}.")]
            lost = []
            for run in draws:
                routes = [
                    (0.0, 0.0),
                    *((told, mean([*run["r2"][name].values()])) for name, told in run["left_out"].items()),
                ]
                lost.append(max(true for _, true in routes) - max(routes)[1])
            missed = [cost for cost in lost if cost > 0]
            yield from compared_cells(where, cells, [len(draws), len(draws) - len(missed), *missed])
            continue
        route, *cells = cells
        draws = [run["r2"] for key, run in kept.items() if key.startswith(where.replace(", ", ".") + ".")]
        values = [mean([*r2[route].values()]) for r2 in draws if route in r2]
        yield from compared_cells(f"{where} {route}", cells, [len(values), mean(values), min(values), max(values)])


def real_policies(kept, rows):
    """Yield the table of what a small policy gains, from the errors of its draws."""
    for where, *cells in rows:
        runs = [run["error"] for key, run in kept.items() if key.startswith(where.replace(", ", ".") + ".")]
        means = [mean([run[row] for run in runs]) for row in ("known", "proprio", "past proprio", "shuffled", "all")]
        lost = means[0] - means[-1]
        won = [100 * (means[0] - means[1]) / lost] if lost > 0 else []
        yield from compared_cells(where, cells, [len(runs), *means, *won])


def real_tokenizers(kept, rows):
    """Yield the table of tokenizers, from the figures of each seed of the policy."""
    for where, row, *cells in rows:
        row = row.removeprefix("*control:* ")
        runs = [run for key, run in kept.items() if key.rpartition(".")[0] == f"{where}.{row}"]
        names = [name for name in ("bits", "reconstruction", "error", "mean_of_draws") if name in runs[0]]
        yield from compared_cells(
            f"{where} {row}", cells, [*(mean([run[n] for run in runs]) for n in names), len(runs)]
        )


def real_video(kept, rows):
    """Yield the tables of what video alone reads, from R² by joint: plain, and averaged over three and five frames."""
    for where, *cells in rows:
        known, attempt = ("3.0", where) if not where.isdigit() else (where, cells.pop(0))
        runs = [run["r2"] for key, run in kept.items() if key.startswith(f"{attempt}.{known}")]
        values = [[mean([*r2[frames].values()]) for frames in "012"] for r2 in runs]
        means = [mean(each) for each in zip(*values, strict=True)]
        by_draw = [len(runs), *means, *(each[1] for each in values)]
        yield from compared_cells(f"{where} {attempt}", cells, by_draw if where.isdigit() else means)


REAL = real_robots, real_policies, real_tokenizers, real_video
ROBOTS = "new", "own", "own-1", "other", "worlds", "new-world"  # as the tables of several robots follow one another


def read_robots():
    """Return {part: {row: {seed: value}}} of several robots: R² by part, and the success of their policies."""
    found = collections.defaultdict(lambda: collections.defaultdict(dict))
    for path in (RESULTS / "several_robots").glob("*.json"):
        part, _, seed = path.stem.rpartition(".")
        for row, values in json.loads(path.read_text())["r2"].items():
            found[part][row][int(seed)] = mean(values)
    if (acts := RESULTS / "robots_act.json").is_file():
        for name, run in json.loads(acts.read_text())["runs"].items():
            row, _, seed = name.rpartition(".")
            ends = [end for played in run["outcomes"].values() for _, end, _ in played]
            found["acts"][row][int(seed)] = mean([end == "success" for end in ends])
    return found


def of_seeds(values):
    """Return what `interval` does, of fewer than three the mean alone."""
    return interval(values) if len(values) > 2 else (mean(values),)


def robots(rows, lines):
    """Yield the two tables of a part of several robots: each row, then differences with Holm's correction."""
    tests = []
    for name, other, *cells in lines:
        if other.isdigit():
            values = [*rows[name].values()]
            spread = [] if len(cells) == 1 else [min(values), max(values)]
            yield from compared_cells(name, [other, *cells], [len(values), *of_seeds(values)[:2], *spread])
            continue
        shared = sorted(rows[name].keys() & rows[other].keys())
        counted = of_seeds([rows[name][s] - rows[other][s] for s in shared])
        if len(counted) == 1:
            yield from compared_cells(f"{name} - {other}", cells, counted)
        else:
            tests.append((f"{name} - {other}", cells, counted))
    largest = 0.0
    for rank, (what, cells, counted) in enumerate(sorted(tests, key=lambda test: test[2][2])):
        largest = max(largest, min(1.0, (len(tests) - rank) * counted[2]))
        shown = [max(p, 0.001) for p in (counted[2], largest)]  # smaller ones are written as "< 0.001"
        yield from compared_cells(what, cells, [*counted[:2], *shown])


def check(figures, title):
    """Print every figure that differs; return how many there are, and how many differ."""
    count = wrong = 0
    for what, one, two in figures:
        count += 1
        if not (math.isclose(one, two, rel_tol=1e-6, abs_tol=1e-9) or (math.isnan(one) and math.isnan(two))):
            wrong += 1
            print(f"{what}: written {one}, counted {two}")
    print(f"{title}{count} figures, {wrong} differ")
    return count, wrong


def tables(played, labels):
    """Yield {row: {seed: value}} of each regime and scene: success, and figures of inferred actions."""
    closed, own, *planned = (read_counts(RESULTS / name) for name in ("closed_loop", "out_of_domain", *STUDIES))
    shifted = [read(RESULTS / "out_of_domain", scene) for scene in SCENES]
    changed = {at: won(each) for at, each in shifted[0].items()}
    of_images = [[changed["plentiful", row, seed] for row in IMAGES] for seed in range(5)]
    changed |= {("plentiful", "images", seed): mean(rows) for seed, rows in enumerate(of_images)}
    costs = {at: changed[at] - own[at] for at in own}
    found = [closed, own, changed, costs, *planned, planned[1] | planned[2]]  # the last: all ten seeds
    halves = ({at: half(each, part) for at, each in played.items()} for part in HALVES)
    found += [{at: won(each) for at, each in runs.items() if each} for runs in (played, *shifted, *halves)]
    for part, name in itertools.product(
        ("all", *HALVES), ("r2", "r2_xyz", "r2_executed_xyz", "systematic", "absolute")
    ):
        figures = {split(run): parts[part][name] for run, parts in labels.items() if name in parts.get(part, {})}
        for place in range(5):
            of_one = {at: value[place] for at, value in figures.items() if isinstance(value, list) and value[place:]}
            found.append(of_one or {at: value for at, value in figures.items() if not isinstance(value, list)})
    for values in found:
        by_regime = collections.defaultdict(lambda: collections.defaultdict(dict))
        for (regime, row, seed), value in values.items():
            by_regime[regime][row][seed] = value
        yield from by_regime.values()


def split(name):
    """Return regime, row and seed of a run's name."""
    regime, rest = name.split(".", 1)
    row, _, seed = rest.rpartition(".")
    return regime, row, int(seed)


def written_intervals(rows):
    """Yield the intervals of rows and of differences of two rows, of all shared seeds and of the first five."""
    for one, two in itertools.combinations_with_replacement(rows, 2):
        shared = sorted(set(rows[one]) & set(rows[two]))
        for seeds in {tuple(shared), tuple(shared[:5]), tuple(shared[1:])}:
            if len(seeds) > 1:
                values = [rows[one][s] - (rows[two][s] if one != two else 0) for s in seeds]
                middle, wide = np.mean(values), interval(values)[1]
                for digits in (2, 3):
                    yield tuple(f"{abs(number):.{digits}f}".removeprefix("0") for number in (middle, wide))


def real_intervals(kept):
    """Yield the intervals of what video adds to the state, over draws of known episodes, of each set of real robots."""
    gains = collections.defaultdict(list)
    for key, run in kept.items():
        if "both" in run["r2"]:
            both, state = (mean([*run["r2"][route].values()]) for route in ("both", "proprio"))
            gains[key.rpartition(".")[0]].append(both - state)
    for values in gains.values():
        for digits in (2, 3):
            numbers = np.mean(values), interval(values)[1]
            yield tuple(f"{abs(number):.{digits}f}".removeprefix("0") for number in numbers)


def pages(root, known):
    """Print every MEAN ± HALF on a page that nothing was counted for; return how many."""
    places = [place for name in PAGES for place in root.glob(name) if place.name not in LABELS]
    count = wrong = 0
    for place in sorted(places):
        for found in PLUS_MINUS.finditer(" ".join(place.read_text(encoding="utf-8").split())):
            count += 1
            if found.groups() not in known | UNCOUNTED:
                wrong += 1
                print(f"{place.relative_to(root)}: nothing counted is {found[0]}")
    print(f"pages: {count} intervals, {wrong} differ")
    return wrong


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--results", type=pathlib.Path, help="of one study alone; left out: all, and the pages")
    parser.add_argument("--root", type=pathlib.Path, default=ROOT, help="where the pages are")
    args = parser.parse_args()
    count = wrong = 0
    for results in [args.results] if args.results else [RESULTS / name for name in STUDIES]:
        written = json.loads(results.with_suffix(".json").read_text())
        rows = {name: rows for name, rows in written.items() if name != "environment"}
        some, differ = check(recount(read(results), rows), f"{results.name}: ")
        count, wrong = count + some, wrong + differ
    if args.results is None:
        played = read(RESULTS / "few_actions")
        labels = json.loads((RESULTS / "inferred_actions.json").read_text())["runs"]
        told = json.loads((RESULTS / "few_actions_predicts.json").read_text())
        wrong += check(correlations(played, labels, told), "correlations: ")[1]
        for table in REAL:
            if (kept := RESULTS / f"{table.__name__}.json").is_file():
                rows = columns(kept.with_suffix(".md").read_text())
                wrong += check(table(json.loads(kept.read_text()), rows), f"{table.__name__}: ")[1]
        parts = read_robots()
        sections = re.split(r"^\*\*.*\*\*$", (RESULTS / "several_robots.md").read_text(), flags=re.MULTILINE)[1:]
        texts = dict(zip([part for part in ROBOTS if part in parts], sections, strict=True))
        if "acts" in parts:
            texts["acts"] = (RESULTS / "robots_act.md").read_text()
        for part, text in texts.items():
            wrong += check(robots(parts[part], columns(text)), f"several robots, {part}: ")[1]
        elsewhere, recorded = read_elsewhere(RESULTS / "known_elsewhere.json")
        every = itertools.chain(tables(played | elsewhere, labels | recorded), parts.values())
        known = {each for rows in every for each in written_intervals(rows)}
        real = json.loads((RESULTS / "real_robots.json").read_text())
        wrong += pages(args.root, known | {*real_intervals(real)})
    sys.exit(bool(wrong or not count))


if __name__ == "__main__":
    main()
