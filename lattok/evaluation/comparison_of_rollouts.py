"""Methods side by side by what they do: rollouts of real or simulated robots, scored 0 or 1 or graded."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import fmean

import numpy as np

from lattok.evaluation.page import check_folder, svg, write
from lattok.evaluation.report import Answer, Pictures, Report, Section, Table, TableRow
from lattok.evaluation.rollout_scores import Attempt, Columns, of_files, of_table
from lattok.evaluation.rollout_tests import DRAWS, LEVEL, SEEDS, UNITS, ByTask, Difference, compare, holm
from lattok.evaluation.wording import printed
from lattok.utils import checks
from lattok.version import __version__

QUESTION = "Which method does better?"
PERCENT = 10  # beyond it a score may be one in per cent
HOW = (
    "Each difference is the mean over tasks, each counting alike. With three or more training seeds of both methods, "
    "seeds are the unit, by a paired t test; else methods are exchanged within each task, or with equal starts the "
    "signs of differences flipped, in {draws:,} permutations. Intervals (95 %) hold the differences that this test "
    "does not reject. Holm's p allows for the number of comparisons; what could be seen is the true difference that "
    "as many rollouts find four times out of five, at the level of the smallest of these p values."
)


@dataclass(frozen=True)
class Comparison:
    """Two methods in a group of rollouts."""

    method: str
    against: str
    group: str
    test: Difference

    @property
    def name(self) -> str:
        return f"{self.method} − {self.against}" + (f", {self.group}" if self.group else "")

    @property
    def shown(self) -> str:
        return f"{self.name} ({UNITS[self.test.unit]})"

    @property
    def key(self) -> str:
        return f"{self.method} - {self.against}" + (f" ({self.group})" if self.group else "")


def compare_rollouts(
    results: Columns | str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    baseline: str | None = None,
    by: str | None = None,
    paired: bool = False,
    difference: float = 0.1,
    columns: Mapping[str, str] = {},
    out: str | os.PathLike[str] | None = None,
    seed: int = 0,
) -> Report:
    """Compare methods by single rollouts: differences with intervals, p values, and how many rollouts would show more.

    `results`: a mapping of columns or CSV files with `method`, `task`, `score` (or `success`), and where they are known
    `episode` and `seed` (of the training); or folders of `lattok rollout`, each a method, also as "NAME=FOLDER".
    `columns` maps these names to those of the file; `by` names a column whose values are compared separately. Without
    `baseline` every method is compared with every other. `paired`: episode N of a task begins alike for all methods, as
    it does in folders of `lattok rollout`. `difference` is the effect for which the number of further rollouts is
    computed, `seed` that of the permutations. Figures are `A - B/difference`, `/low`, `/high`, `/p`, `/holm` and
    `A/score`. With `out`, report.json and report.html are written there.

    Raises `LattokError` for what cannot be read, fewer than two methods, and methods without a task in common.
    """
    checks.positive(difference=difference)
    checks.whole(seed=seed)
    place = None if out is None else Path(out)
    if place is not None:
        check_folder(place)
    if isinstance(results, Mapping):
        sources, rows, alike = ["a table"], of_table(results, "results", columns, by), False
    else:
        paths = [results] if isinstance(results, str | os.PathLike) else list(results)
        sources = [os.fspath(path) for path in paths]
        rows, alike = of_files(paths, columns, by)
    methods = list(dict.fromkeys(row.method for row in rows))
    if len(methods) < 2:
        checks.fail("results", "rollouts of two methods or more", checks.listed(methods) or "none")
    if baseline is not None:
        checks.one_of("baseline", baseline, methods)
    pairs = [*combinations(methods, 2)] if baseline is None else [(m, baseline) for m in methods if m != baseline]
    draws, found, notes = np.random.default_rng(seed), list[Comparison](), _oddities(rows)
    groups = {group: _by_task(rows, group) for group in dict.fromkeys(row.group for row in rows)}
    for group, known in groups.items():
        for first, second in pairs:
            one, other = known.get(first, {}), known.get(second, {})
            if apart := sorted({*one} ^ {*other}):
                where = f" ({group})" if group else ""
                notes.append(f"{first} and {second}{where}: only one of them tried {checks.few_of(apart, 3)}")
            if {*one} & {*other}:
                found.append(Comparison(first, second, group, compare(one, other, paired or alike, draws)))
    if not found:
        checks.fail(
            "results",
            "two methods with rollouts of the same task",
            "no rollouts of a task that another method also has",
        )
    report = _report(found, groups, sources, difference, notes)
    if place is not None:
        write(report, place, overwrite=False)
    return report


def _oddities(rows: Sequence[Attempt]) -> list[str]:
    """Say where methods may be the same under other letters, or scores are of other scales."""
    scores = dict[str, list[float]]()
    for row in rows:
        scores.setdefault(row.method, []).append(row.score)
    alike = [f"{a} and {b} differ in capitals alone" for a, b in combinations(scores, 2) if a.lower() == b.lower()]
    shares = [method for method, found in scores.items() if 0 <= min(found) <= max(found) <= 1]
    large = {method: max(found) for method, found in scores.items() if max(found) > PERCENT}
    if shares and large:
        method, most = next(iter(large.items()))
        text = f"scores of {method} reach {most:g}, those of {shares[0]} lie between 0 and 1: are these other scales"
        alike.append(f"{text}, such as per cent")
    return alike


def _by_task(rows: Sequence[Attempt], group: str) -> dict[str, dict[str, list[Attempt]]]:
    """Return the rollouts of a group by method and task."""
    found: dict[str, dict[str, list[Attempt]]] = {}
    for row in rows:
        if row.group == group:
            found.setdefault(row.method, {}).setdefault(row.task, []).append(row)
    return found


def _report(
    found: Sequence[Comparison],
    groups: Mapping[str, Mapping[str, ByTask]],
    sources: Sequence[str],
    difference: float,
    notes: Sequence[str],
) -> Report:
    corrected = holm({each.key: each.test.p for each in found})
    figures, rows = dict[str, float](), list[TableRow]()
    for each in found:
        test, span = each.test, each.test.interval
        known: dict[str, float | None] = {"difference": test.difference, "p": test.p, "holm": corrected[each.key]}
        known["seen"] = test.detectable(len(found)) if test.variance else None
        known["more"] = test.more(difference, len(found))
        rows.append(TableRow(each.key, each.shown, tuple(known.values()), intervals=(span, *[None] * 4)))
        known["low"], known["high"] = span or (None, None)
        figures.update({f"{each.key}/{name}": value for name, value in known.items() if value is not None})
    columns = ("difference", "p", "Holm's p", "could be seen", f"more for {difference:g}")
    compared = Table("Differences", columns, tuple(rows), digits=("+.3f", ".2g", ".2g", ".2f", ".0f"))
    scores = list[Table]()
    for group, methods in groups.items():
        table = _scores(group, methods)
        ending = f" ({group})" if group else ""
        figures.update({f"{row.key}/score{ending}": row.values[0] for row in table.rows if row.values[0] is not None})
        scores.append(table)
    chart = svg.intervals("Differences", [(each.name, each.test.difference, each.test.interval) for each in found])
    names = {method for methods in groups.values() for method in methods}
    count = sum(len(rows) for methods in groups.values() for tasks in methods.values() for rows in tasks.values())
    drawn = Pictures("Differences of mean scores with their 95 % intervals.", (chart,), wide=True, top=True)
    how = HOW.format(draws=DRAWS)
    return Report(
        kind="rollouts",
        title=f"{checks.counted(count, 'rollout')} of {checks.counted(len(names), 'method')}",
        headline=_limits(found),
        verdicts=(),
        figures=figures,
        sections=(
            Section("How large are the differences?", how, (compared,), (drawn,), open=True),
            Section("What did each score?", "; ".join(notes), tuple(scores), open=True),
        ),
        provenance={"lattok": __version__, "models": {}, "dataset": {"name": checks.listed(sources)}},
        answer=_answer(found, corrected),
    )


def _scores(group: str, methods: Mapping[str, ByTask]) -> Table:
    """Show mean scores by method and task; over all tasks where a method has tried all."""
    tasks = list(dict.fromkeys(task for each in methods.values() for task in each))
    rows = list[TableRow]()
    for method, scores in methods.items():
        means = [fmean(row.score for row in scores[task]) if task in scores else None for task in tasks]
        tried = [mean for mean in means if mean is not None]
        rows.append(TableRow(method, method, (fmean(tried) if len(tried) == len(tasks) else None, *means)))
    return Table(f"Mean scores{f', {group}' if group else ''}", ("all", *tasks), tuple(rows), digits=".3f")


def to_text(report: Report) -> str:
    """Print a report of rollouts for a terminal: the answer, and a line for each comparison."""
    table = report.sections[0].tables[0]
    width = max(len(row.name) for row in table.rows)
    lines = [f"{'':<{width}}  difference  95 %               {'  '.join(table.columns[2:])}"]
    for row in table.rows:
        span = (
            "–" if row.intervals[0] is None else "[{}, {}]".format(*(table.shown(end, 0) for end in row.intervals[0]))
        )
        rest = "  ".join(f"{table.shown(row.values[i], i):>{len(table.columns[i])}}" for i in (2, 3, 4))
        lines.append(f"{row.name:<{width}}  {table.shown(row.values[0], 0):>10}  {span:<17}  {rest}")
    for section in report.sections[1:]:
        lines += [f"note: {note}" for note in section.text.split("; ") if note]
    said = [report.title, *(report.answer.text if report.answer else "").split("; "), report.headline]
    return "\n".join([each for each in said if each] + [""] + lines)


def _limits(found: Sequence[Comparison]) -> str:
    """Say what the rollouts cannot tell."""
    if all(each.test.unit == "seeds" for each in found):
        return ""
    return f"This is about these trained policies: fewer than {SEEDS} training seeds say nothing about training again."


def _answer(found: Sequence[Comparison], corrected: Mapping[str, float]) -> Answer:
    shown = [each for each in found if corrected[each.key] < LEVEL]
    if not shown:
        seen = [each.test.detectable(len(found)) for each in found if each.test.variance]
        least = f" So many rollouts find a difference of {min(seen):.2f} to {max(seen):.2f}." if seen else ""
        return Answer(QUESTION, None, f"No difference is detected.{least}")
    said = "; ".join(f"{each.name} {printed(each.test.difference, '+.3f')} {_p(corrected[each.key])}" for each in shown)
    rest = len(found) - len(shown)
    left = f" In {checks.counted(rest, 'other comparison')} no difference is detected." if rest else ""
    return Answer(QUESTION, True, f"{said}.{left}")


def _p(p: float) -> str:
    return "(p < .001)" if p < 0.001 else f"(p {p:.2g})"
