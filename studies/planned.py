"""Tables of the studies that were planned first (pages/few_actions*.md, pages/acting_by_tokens.md), from results.

python -m studies.planned few_actions        # reads studies/results/few_actions/, writes the tables
python -m studies.planned acting_by_tokens   # as .md and .json beside it, this one with a .png

Rows, seeds and families of comparisons are those of the plans, which were committed before any run. A row is shown once
it has all its seeds, a family once it has all its rows. Differences are paired by seed; p values are corrected after
Holm within each family.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from benchmarks.common import unnamed, write_results
from studies.comparisons import BASE, Runs, compare, cpu_minutes, read, successes
from studies.plan import ACTS, AGAIN, ALIGN_CONTROL, FEW_ACTIONS, FILMS, FOUR, FOUR_TASKS, MORE_USES, REGIMES, ROWS
from studies.statistics import Interval, holm, paired, smallest_seen
from studies.tables import finer_tables, p_text, seen, trees, verdict

RESULTS = Path("studies/results")
OWN = "idm"
PARTS = ("known tasks", "other tasks")
FEWER = ("baseline", "idm", "idm-video", "idm-proprio")
BEST, FRESH = ("p2t", "beast"), ("p2t", "beast", "oat")  # tokenizers whose policies are trained with fresh seeds
FILMS_AGAINST = (("films-idm", "films-shuffled"), ("films-idm", OWN), ("films-lam", OWN))
EIGHT = ("baseline", "idm", "idm-blind_policy", "no_proprio")  # the primary comparison, and the one without proprio
FOUND_BEFORE = 0.858  # the Baseline with the actions of all demonstrations, five seeds: studies/pages/closed_loop.md


class Family(NamedTuple):
    """Comparisons that are corrected together, of a regime. `margin`: they ask whether a row loses more than that."""

    title: str
    regime: str
    pairs: tuple[tuple[str, str], ...]
    margin: float | None = None


class Study(NamedTuple):
    """What was planned: seeds, from `first` on, by regime and row; and what is compared.

    `whole`, by regime: success with the actions of all demonstrations, or the regime whose Baseline has them.
    `one_commit`: the plan says that all rows are from one commit, but for groups that were `added`, each of one.
    """

    seeds: Mapping[str, Mapping[str, int]]
    families: tuple[Family, ...]
    whole: Mapping[str, float | str] = MappingProxyType({})
    one_commit: bool = False
    added: tuple[frozenset[str], ...] = ()
    first: int = 0

    def planned(self, regime: str) -> dict[str, range]:
        """Return the seeds of a regime by row."""
        return {row: range(self.first, self.first + count) for row, count in self.seeds.get(regime, {}).items()}


STUDIES: Mapping[str, Study] = MappingProxyType(
    {
        "few_actions": Study(
            {
                "action-free": {
                    row: 8 if row in EIGHT else 5 for row in (*FEW_ACTIONS, *MORE_USES, ALIGN_CONTROL, *FILMS)
                },
                "one-known": dict.fromkeys((*FEWER, *FILMS, AGAIN), 5),
                "five-known": dict.fromkeys(FEWER, 5),
                "four-tasks": dict.fromkeys(FOUR_TASKS, 5),
                "other-world": {"baseline": 5},
                "other-world-few": dict.fromkeys(("baseline", "idm", "idm-past", "executed", "idm-proprio"), 5),
            },
            (
                Family("Primary", "action-free", ((OWN, BASE),)),
                Family(
                    "What is better still",
                    "action-free",
                    tuple((row, OWN) for row in ("idm-video", "idm-proprio", "idm-la_align")),
                ),
                Family("Latents without filling in", "action-free", (("la_align-idm", BASE), (OWN, "la_align-idm"))),
                Family(
                    "What labels must be",
                    "action-free",
                    (
                        *((OWN, row) for row in ("idm-past", "idm-shuffled", "decoded", "proprio")),
                        ("executed", OWN),
                    ),
                ),
                Family("Without proprio", "action-free", (("idm-blind_policy", "no_proprio"),)),
                *(
                    Family(REGIMES[regime].title, regime, ((OWN, BASE), ("idm-video", OWN), ("idm-proprio", OWN)))
                    for regime in ("one-known", "five-known")
                ),
                Family("Other uses", "action-free", tuple((row, OWN) for row in MORE_USES)),
                Family("What the latents say", "action-free", (("la_align-idm", ALIGN_CONTROL), (ALIGN_CONTROL, BASE))),
                *(
                    Family(f"Films first, {count}", regime, (*((row, BASE) for row in FILMS), *FILMS_AGAINST))
                    for regime, count in (("action-free", "2 known"), ("one-known", "1 known"))
                ),
                Family("Films first, the Baseline run again", "one-known", tuple((row, AGAIN) for row in FILMS)),
                Family("Four tasks known", "four-tasks", (("idm-video", OWN), ("idm-reversible", OWN))),
                Family("What videos add", "four-tasks", (("idm-video", "idm-known_video"), ("idm-known_video", OWN))),
                Family("Second world", "other-world-few", ((OWN, BASE),)),
                Family("What labels must be, second world", "other-world-few", ((OWN, "idm-past"), ("executed", OWN))),
                Family(
                    "With proprio, second world", "other-world-few", tuple(("idm-proprio", row) for row in (OWN, BASE))
                ),
            ),
            {
                **dict.fromkeys(("action-free", "one-known", "five-known", "four-tasks"), FOUND_BEFORE),
                "other-world-few": "other-world",
            },
        ),
        "acting_by_tokens": Study(
            {"plentiful": dict.fromkeys((BASE, "flow", *ACTS), 5)},
            (
                Family("Primary", "plentiful", (("acts-rvq", BASE),), margin=0.03),
                Family(
                    "Against others",
                    "plentiful",
                    tuple(("acts-rvq", f"acts-{other}") for other in ("fast", "bins", "oat")),
                ),
                Family(
                    "What makes codes learnable",
                    "plentiful",
                    (("acts-rvq-perturbed", "acts-rvq"), ("acts-fsq-both", "acts-fsq"), ("acts-context", "acts-p2t")),
                ),
                Family(
                    "At once",
                    "plentiful",
                    tuple((f"acts-{name}-at_once", f"acts-{name}") for name in ("bins", "p2t", "rvq")),
                ),
                Family("Flow head", "plentiful", (("flow", BASE),)),
                Family(
                    "Mean of draws",
                    "plentiful",
                    tuple(("acts-rvq-mean", other) for other in ("acts-rvq", "acts-oat-mean", "acts-fast-mean", BASE)),
                ),
                Family(
                    "Mean of first codes",
                    "plentiful",
                    tuple(("acts-rvq-first", other) for other in ("acts-rvq-mean", "acts-rvq", "acts-oat-first", BASE)),
                ),
                Family(
                    "Median of draws",
                    "plentiful",
                    tuple(
                        ("acts-rvq-median", other)
                        for other in (BASE, "acts-rvq-mean", *(f"acts-{n}-median" for n in ("fast", "bins", "oat")))
                    ),
                ),
                Family(
                    "Mean of draws, P2T and BEAST",
                    "plentiful",
                    (
                        *(("acts-p2t-mean", other) for other in ("acts-p2t", "acts-oat-mean", BASE)),
                        *(("acts-beast-mean", other) for other in ("acts-beast", BASE)),
                    ),
                ),
            ),
            one_commit=True,
            added=(
                frozenset({"acts-rvq-first", "acts-oat-first"}),
                frozenset(f"acts-{name}-median" for name in ("rvq", "oat", "bins", "fast")),
                frozenset({"acts-p2t-mean", "acts-beast-mean"}),
            ),
        ),
        "acting_by_tokens_again": Study(
            {"plentiful": dict.fromkeys((BASE, *(f"acts-{name}{how}" for name in FRESH for how in ("", "-mean"))), 5)},
            (
                Family("Again", "plentiful", tuple((f"acts-{name}-mean", BASE) for name in BEST), margin=0.03),
                Family("Against OAT", "plentiful", tuple((f"acts-{name}-mean", "acts-oat-mean") for name in BEST)),
                Family("Mean of draws", "plentiful", tuple((f"acts-{name}-mean", f"acts-{name}") for name in FRESH)),
            ),
            one_commit=True,
            first=5,
        ),
    }
)


def whole(study: Study, regime: str, rows: Mapping[str, Runs]) -> dict[str, Runs]:
    """Return the rows of a regime that have all their seeds, with these."""
    planned = study.planned(regime).items()
    return {row: {s: rows[row][s] for s in own} for row, own in planned if {*own} <= rows.get(row, {}).keys()}


def figures_of(study: Study, regime: str, rows: Mapping[str, Runs]) -> dict[str, dict[str, Any]]:
    """Return the figures of a regime by row, with the planned comparisons as `over`."""
    there = whole(study, regime, rows)
    found: dict[str, dict[str, Any]] = {}
    for row, runs in there.items():
        named = {seed: run["environment"]["commit"][:7] for seed, run in runs.items()}  # git may say more digits
        found[row] = {
            "title": ROWS[row].title,
            "success": Interval.of(list(successes(runs).values())),
            "cpu_minutes": cpu_minutes(runs.values()),
            "commits": {name: [s for s, own in named.items() if own == name] for name in dict.fromkeys(named.values())},
            "over": {},
        }
        if all("decision" in run for run in runs.values()):
            each = [run["decision"] for run in runs.values()]
            codes = None if each[0]["codes"] is None else float(np.mean([one["codes"] for one in each]))
            waits = [one["cpu_ms"] for one in each]
            found[row]["decision"] = {
                "cpu_ms": float(np.mean(waits)),
                "codes": codes,
                "cpu_ms_range": [min(waits), max(waits)],
            }
        if regime == "four-tasks":
            found[row] |= {name: Interval.of(list(part_of(runs, name).values())) for name in PARTS}
    for family in study.families:
        if family.regime != regime or not {row for pair in family.pairs for row in pair} <= there.keys():
            continue
        compared = {pair: compare(there[pair[0]], there[pair[1]]) for pair in family.pairs}
        for pair, each in compared.items():
            each["parts"] = parts(regime, *(there[row] for row in pair))
        for pair, p in holm({pair: each["difference"].p for pair, each in compared.items()}).items():
            each, (_, half, _, seeds) = compared[pair], compared[pair]["difference"]
            least = [smallest_seen(half, seeds, tests) for tests in dict.fromkeys((1, len(compared)))]
            each |= {"holm": p, "tests": len(compared), "seen": least, "family": family.title, "margin": family.margin}
            found[pair[0]]["over"][pair[1]] = each
    return found


def part_of(runs: Runs, name: str) -> dict[int, float]:
    """Return success by seed in the four tasks of which actions are known, or in the other four."""
    inside = name == PARTS[0]
    tasks = [task for task in next(iter(runs.values()))["own"] if (task.rpartition("/")[2] in FOUR) == inside]
    each = [successes(runs, task) for task in tasks]
    return {seed: sum(task[seed] for task in each) / len(each) for seed in runs}


def parts(regime: str, runs: Runs, others: Runs) -> dict[str, Interval]:
    """Return the difference of two rows in either half of the tasks, or without the seed that chose settings."""
    if regime == "four-tasks":
        return {name: Interval.of(paired(part_of(runs, name), part_of(others, name))) for name in PARTS}
    if regime != "action-free":
        return {}
    later = [{seed: won for seed, won in successes(row).items() if seed} for row in (runs, others)]
    return {"without seed 0": Interval.of(paired(*later))}


def row_table(found: Mapping[str, Mapping[str, Any]], all_actions: float | None) -> str:
    """Return the rows of a regime in Markdown; `all_actions`: success where none is unknown."""
    lost = 0.0 if all_actions is None or BASE not in found else all_actions - found[BASE]["success"].mean
    four = [*PARTS] * (PARTS[0] in next(iter(found.values())))
    timed = any("decision" in figure for figure in found.values())
    head = ["row", "seeds", "success", *four, *["of what was lost"] * bool(lost), "CPU min"]
    head += ["CPU ms of a decision", "codes of a decision"] * timed
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row, figure in found.items():
        apart = row == BASE or not ROWS[row].options.get("proprio", True)  # the Baseline has proprio
        share = "" if apart or not lost else f"{(figure['success'].mean - found[BASE]['success'].mean) / lost:.0%}"
        back = [share] * bool(lost)
        parts = [figure[name].text() for name in PARTS if name in figure]
        cost = "" if figure["cpu_minutes"] is None else f"{figure['cpu_minutes']:.1f}"
        cells = [figure["title"], str(figure["success"].seeds), figure["success"].text(), *parts, *back, cost]
        if timed:
            numbers = (figure.get("decision", {}).get(name) for name in ("cpu_ms", "codes"))
            cells += ["" if number is None else f"{number:.1f}" for number in numbers]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def lost(difference: Interval, margin: float) -> str:
    """Say whether a row loses more than a margin: the whole interval must lie on one side of it."""
    low, high = difference.mean - difference.half, difference.mean + difference.half
    said = "loses" if high < -margin else "does not lose" if low > -margin else "open whether it loses"
    return f"{said} more than {margin:g}"


def family_table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the planned comparisons of a regime in Markdown."""
    lines = ["| family | row | against | difference | p | after Holm | what that says | seen with 80 % power |"]
    lines.append("|---" * 8 + "|")
    for figure in found.values():
        for other, each in figure["over"].items():
            cells = [each["family"], figure["title"], found[other]["title"], each["difference"].text(signed=True)]
            said = verdict(each) if each["margin"] is None else lost(each["difference"], each["margin"])
            cells += [p_text(each["difference"].p), p_text(each["holm"]), said, seen(each)]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def part_list(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Return what the planned comparisons of a regime say of a part of its tasks or seeds."""
    return "\n".join(
        f"- {figure['title']} against {found[other]['title']}, {name}: {difference.text(signed=True)}"
        for figure in found.values()
        for other, each in figure["over"].items()
        for name, difference in each["parts"].items()
    )


def running(study: Study, regime: str, rows: Mapping[str, Runs]) -> str:
    """Say which rows of a regime lack seeds."""
    there = {row: (len({*own} & {*rows.get(row, ())}), len(own)) for row, own in study.planned(regime).items()}
    left = [f"`{row}` {count} of {seeds}" for row, (count, seeds) in there.items() if count < seeds]
    return f"Seeds still to run: {', '.join(left)}." if left else ""


def check_commit(study: Study, results: Mapping[str, Mapping[str, Runs]]) -> None:
    """Stop where a plan asks for runs of one commit and these are of several, or of code that no commit holds."""
    groups: dict[Any, set[str]] = {}
    for rows in results.values() if study.one_commit else ():
        for row, runs in rows.items():
            group = next((added for added in study.added if row in added), None)
            groups.setdefault(group, set()).update(run["environment"]["commit"] for run in runs.values())
    for found in groups.values():
        if len({name[:7] for name in found}) > 1 or any(unnamed(name) for name in found):  # git may say more digits
            raise SystemExit(f"the plan asks for runs of one commit, and these are of {', '.join(sorted(found))}")


def page(study: Study, results: Mapping[str, Mapping[str, Runs]]) -> tuple[str, dict[str, Any]]:
    """Return what was found in Markdown, and its figures."""
    parts, everything = list[str](), dict[str, Any]()
    check_commit(study, results)
    for regime in study.seeds:
        rows = results.get(regime, {})
        found = everything[regime] = figures_of(study, regime, rows)
        texts = [f"### {REGIMES[regime].title}", running(study, regime, rows)]
        if found:
            with_all = study.whole.get(regime)
            if isinstance(with_all, str):
                with_all = everything[with_all][BASE]["success"].mean if everything[with_all] else None
            table = row_table(found, with_all)
            texts[1:1] = [table, family_table(found), part_list(found), finer_tables(found), trees(found)]
        parts += [text for text in texts if text]
    return "\n\n".join(parts) + "\n", everything


def plot(found: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draw the success of each row, with its interval, beside how long a decision takes, with the range over seeds."""
    import matplotlib.ticker

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows = sorted(found.values(), key=lambda row: row["success"].mean)
    size = {"figsize": (9, 1 + 0.25 * len(rows)), "width_ratios": (3, 2)}
    figure, (left, right) = plt.subplots(1, 2, sharey=True, layout="constrained", **size)
    for place, row in enumerate(rows):
        success, waits = row["success"], row["decision"]
        color = "C1" if waits["codes"] is None else "C0"
        left.errorbar(success.mean, place, xerr=success.half, fmt="o", color=color, capsize=3)
        right.plot(waits["cpu_ms_range"], [place, place], color=color)
        right.plot(waits["cpu_ms"], place, "o", color=color)
    left.set_yticks(range(len(rows)), [row["title"] for row in rows])
    left.set_xlabel("success, 95 % interval")
    right.set(xscale="log", xlabel="CPU ms of a decision, one thread")
    right.xaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
    right.xaxis.set_major_formatter("{x:g}")
    right.xaxis.set_minor_formatter("")
    for axis in (left, right):
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("study", choices=list(STUDIES))
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder in which each study has one")
    args = parser.parse_args()
    folder = args.results / args.study
    text, figures = page(STUDIES[args.study], read(folder))
    folder.with_suffix(".md").write_text(text)
    write_results(folder.with_suffix(".json"), figures)
    if timed := {row: each for rows in figures.values() for row, each in rows.items() if "decision" in each}:
        plot(timed, folder.with_suffix(".png"))
    print(text)


if __name__ == "__main__":
    main()
