"""Writes the tables and sentences of docs/few_actions*.md again from the figures: part of `python scripts/recount.py`.

Each has to be on its page, word for word, however its lines are broken. Success is counted from single rollouts. The
figures of inferred actions are those of `inferred_actions.json`, which only the datasets themselves can repeat, and the
intervals of correlations those of `few_actions_predicts.json`.
"""

import math
import statistics

import numpy as np
from scipy.optimize import brentq
from scipy.stats import t

from scripts.recount import half, in_general, interval, mean, won

KNOWN, OTHER = "known tasks", "other tasks"
FREE, ONE, FIVE, FOUR, WORLD = "action-free", "one-known", "five-known", "four-tasks", "other-world-few"


class Figures:
    """What was counted: success by seed, figures of inferred actions by seed, success by seed in the other study."""

    def __init__(self, played, labels, before, predicts):
        self.played, self.labels, self.before, self.predicts = played, labels, before, predicts

    def won(self, regime, row, part="", seeds=None):
        there = sorted(seed for where, name, seed in self.played if (where, name) == (regime, row))
        return [won(half(self.played[regime, row, seed], part)) for seed in there if seeds is None or seed < seeds]

    def before_of(self, row):
        """Success with all actions known, in the study of docs/closed_loop.md."""
        return [self.before[at] for at in sorted(self.before) if at[:2] == ("plentiful", row)]

    def over(self, regime, row, other="idm", part=""):
        """Differences of success paired by seed, of the seeds that both have."""
        return minus(self.won(regime, row, part), self.won(regime, other, part))

    def general(self, regime, row, other="idm"):
        """The p value of a difference for tasks in general."""
        seeds = sorted({at[2] for at in self.played if at[:2] == (regime, row)})
        seeds = [seed for seed in seeds if (regime, other, seed) in self.played]
        return in_general([(self.played[regime, row, seed], self.played[regime, other, seed]) for seed in seeds])[2]

    def of(self, regime, row, figure="r2_xyz", part="all", place=None):
        """A figure of inferred actions by seed; `place`: of one dimension."""
        runs = [run[part] for name, run in sorted(self.labels.items()) if name.rpartition(".")[0] == f"{regime}.{row}"]
        return [run[figure] if place is None else run[figure][place] for run in runs]

    def of_over(self, regime, row, other="idm", part="all", figure="r2_xyz"):
        return minus(self.of(regime, row, figure, part), self.of(regime, other, figure, part))


def minus(one, two):
    return [a - b for a, b in zip(one, two, strict=False)]


def write(number, digits=3, signed=False):
    """Write a number as the pages do: without the zero before the point."""
    text = f"{number:+.{digits}f}" if signed else f"{number:.{digits}f}"
    return (text.replace("0.", ".", 1) if abs(number) < 1 else text).replace("-", "−")


def middle(values, digits=3):
    return write(np.mean(values), digits)  # of numpy, as in the tables: so half of a step is rounded as there


def pm(values, signed=False, digits=3):
    """Write a mean and the half width of its interval."""
    return f"{write(np.mean(values), digits, signed)} ± {write(interval(values)[1], digits)}"


def away(values):
    """Write how far a difference is from 0, where the page says in words whether that is above or below."""
    return f"{write(abs(np.mean(values)))} ± {write(interval(values)[1])}"


def p(number):
    """Write a p value after "p"."""
    return "< .001" if number < 0.001 else write(number)


def holm(*comparisons):
    """Return the corrected p values of comparisons that are corrected together, in their order."""
    raw = [interval(values)[2] for values in comparisons]
    order, largest, found = sorted(range(len(raw)), key=raw.__getitem__), 0.0, [0.0] * len(raw)
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(raw) - rank) * raw[place]))
        found[place] = largest
    return found


def welch(one, two):
    """Return the mean of independent values minus that of others, and the half width of its interval."""
    parts = [statistics.variance(values) / len(values) for values in (one, two)]
    freedom = sum(parts) ** 2 / sum(part**2 / (len(v) - 1) for part, v in zip(parts, (one, two), strict=True))
    return mean(one) - mean(two), math.sqrt(sum(parts)) * t.ppf(0.975, freedom)


def share(row, base, whole, paired):
    """Write the recovered share of what was lost, and the ends of its interval after Fieller.

    A share r is inside if row - (1 - r) base does not differ from r whole, by a t test (paired by seed, or Welch's).
    """

    def beyond(r):
        left, right = [a - (1 - r) * b for a, b in zip(row, base, strict=True)], [r * w for w in whole]
        found = interval(minus(left, right))[:2] if paired else welch(left, right)
        return abs(found[0]) - found[1]

    found = (mean(row) - mean(base)) / (mean(whole) - mean(base))
    ends = brentq(beyond, found - 2, found), brentq(beyond, found, found + 2)
    return "{:.0%} ({:.0%} to {:.0%})".format(found, *ends).replace("%", " %")


def shares(f):
    """Yield what the plan and the results say of all actions and of seeds, and the target of what is recovered."""
    whole, own = f.before_of("baseline"), f.won(FREE, "idm")
    (noisy,) = f.before_of("recipe-noisy")
    yield f"({write(noisy)}, row `recipe-noisy`; its Baseline with the same seed reaches {write(whole[0])})"
    gap, wide = welch(own, whole)
    yield f"The difference, {write(gap)} ({write(gap - wide)} to {write(gap + wide)}), could be none."
    own, blind = (f.over(FREE, *pair)[1:] for pair in (("idm", "baseline"), ("idm-blind_policy", "no_proprio")))
    yield f"alone, the gain of inferred actions is {pm(own)}, and without proprio it is {pm(blind)}."


def hopes(f):
    """Yield the table of targets, but for what stands elsewhere on the page."""
    blind, proprio = f.won(FREE, "idm-blind_policy"), f.won(FREE, "idm-proprio")
    yield f"| {pm(blind)}, and {pm(f.over(FREE, 'idm-blind_policy', 'no_proprio'))} above (p < .001) | met |"
    yield f"| {pm(f.won(FREE, 'idm'))} (`idm`), {pm(proprio)} (`idm-proprio`) | met |"
    yield f"| {pm(f.won(ONE, 'idm'))}; with proprio {pm(f.won(ONE, 'idm-proprio'))} | missed from pixels,"
    yield f"| `idm-video` has {middle(f.won(ONE, 'idm-video'))}."
    yield f"| {pm(f.of(FREE, 'idm'))} | missed |"
    video, back, control = (pm(f.of(FOUR, f"idm-{row}", part=OTHER)) for row in ("video", "reversible", "known_video"))
    yield f"| {video} (`idm-video`); `idm-reversible` {back} | missed | The control without other videos has {control}."
    yield f"| {away(f.over(FOUR, 'idm-video'))} above (`idm-video`) | met, but not by videos |"
    yield f"| The control without other videos is {away(f.over(FOUR, 'idm-known_video'))} above."
    yield f"| {away(f.of_over(ONE, 'idm-video'))} lower (`idm-video`) | missed |"


def label_tables(f):
    """Yield the tables of inferred actions."""
    both = ("r2_xyz", "systematic")
    free = [(FREE, row) for row in ("idm", "idm-shuffled", "proprio", "executed")]
    for regime, row in (*free, *((FIVE, row) for row in ("idm", "idm-video", "idm-proprio"))):
        figures = [middle(f.of(regime, row, name)) for name in both]
        sure = middle(f.of(regime, row, "confidence"), 2) if row.startswith("idm") else "–"
        yield f"| {' | '.join([*figures, sure, middle(f.won(regime, row, seeds=5))])} |"
    for row in ("idm", "idm-video", "idm-known_video", "idm-reversible", "executed"):
        figures = [middle(f.of(FOUR, row, name, part)) for name in both for part in (KNOWN, OTHER)]
        yield f"| {' | '.join([*figures, *(middle(f.won(FOUR, row, part)) for part in (KNOWN, OTHER))])} |"
    for row in ("one", "one-forward", "one-forward-differences", "one-reversal", "one-both"):
        figures = [f.of(FREE, row), *(f.of(FOUR, row, part=part) for part in (KNOWN, OTHER))]
        yield f"| {' | '.join(map(middle, figures))} |"
    for row in ("one-8", "one-kl", "one-fsq", "one-vq"):
        yield f"| {middle(f.of(FREE, row))} | – | – |"
    for row in ("idm", "idm-video", "idm-proprio"):
        figures = [middle(f.of(ONE, row, name)) for name in both]
        yield f"| {' | '.join([f'`{row}`', *figures, middle(f.won(ONE, row))])} |"
    for row in ("idm", "idm-past", "idm-proprio", "executed"):
        each = [middle(f.of(WORLD, row, "r2", place=place)) for place in range(5)]
        yield f"| {' | '.join([*each, middle(f.of(WORLD, row, 'systematic')), middle(f.won(WORLD, row))])} |"


def label_sentences(f):
    """Yield what is said of differences of inferred actions."""

    def told(regime, row, part="all", figure="r2_xyz"):
        values = f.of_over(regime, row, "idm", part, figure)
        return away(values), f"(p {p(interval(values)[2])}"

    (video, first), (back, second) = (told(FOUR, row, OTHER) for row in ("idm-video", "idm-reversible"))
    yield f"the R² of `idm-video` is {video} above that of `idm` {first}), and the R² of `idm-reversible` is {back}"
    yield f"is {back} above it {second})."
    known, control = told(FOUR, "idm-video", KNOWN), told(FOUR, "idm-known_video", OTHER)
    yield f"In the known tasks, `idm-video` is {known[0]} below `idm` {known[1]})."
    yield f"its R² is {control[0]} above that of `idm` {control[1]})."
    none = f.of_over(FOUR, "idm-video", "idm-known_video", OTHER)
    yield f"The difference between `idm-video` and the control is {pm(none)}."
    (video, first), (proprio, second) = (told(ONE, row) for row in ("idm-video", "idm-proprio"))
    yield f"The R² of `idm-video` is {video} below that of `idm` {first})."
    calm, third = told(ONE, "idm-proprio", figure="systematic")
    yield f"The R² of `idm-proprio` is {proprio} above that of `idm` {second}),"
    yield f"and its systematic error {calm} below {third})."
    less = pm(f.of_over(FIVE, "idm-proprio"), signed=True)
    yield f"no difference in R² of `idm-proprio` from `idm` was detected ({less})"
    pair = ("idm-reversible", "idm-video")
    errors = " and ".join(middle(f.of(FOUR, row, "systematic")) for row in pair)
    gains = " and ".join(middle(f.over(FOUR, row, "baseline")) for row in pair)
    yield f"over all tasks ({errors}), but the gain is about half as large ({gains})."


def elsewhere(f):
    """Yield the table of known actions from other data, and what is said of it."""
    where = "elsewhere"
    for name in ("same", "careless", "camera", "room"):
        figures = [pm(f.of(where, f"labels.{name}", key)) for key in ("r2_xyz", "r2_executed_xyz", "systematic")]
        acted = [f.won(where, f"{name}.{source}") for source in ("known", "inferred")]
        yield f"| {' | '.join([*figures, *(pm(values) if values else '–' for values in acted)])} |"
    one, two = (f.over(where, f"{name}.inferred", f"{name}.known") for name in ("careless", "room"))
    first, second = map(p, holm(one, two))
    yield f"They gain {pm(one)} with `careless` (p {first}) and {pm(two)} with `room` (p {second})."
    names = ("careless", "camera", "room")
    less = [f.of_over(where, f"labels.{name}", "labels.same") for name in names]
    first, second, third = holm(*less)
    yield f"we found no difference in R² from `same` ({pm(less[1])}, p {p(second)})."
    yield f"It is lower by {away(less[0])} with `careless` (p {p(first)}), and"
    yield f"by {away(less[2])} with `room` (p {p(third)})."


def label_ranks(f):
    """Yield the table of correlations; `python scripts/recount.py` counts their middles, but not their intervals."""
    parts = [part["correlations"] for part in (f.predicts, f.predicts["without_extremes"])]
    for title, name in {
        "systematic error": "systematic",
        "R²": "r2_xyz",
        "R² given the frame": "given_frame",
        "absolute error": "absolute",
        "rank correlation of confidence and error": "confidence",
    }.items():
        each = [[write(x, 2, signed=True) for x in part[name][k]] for k in ("sources", "within") for part in parts]
        yield f"| {title} | {' | '.join('{} ({} to {})'.format(*texts) for texts in each)} |"


PAGES = {
    "docs/few_actions.md": (shares, hopes),
    "docs/few_actions_labels.md": (label_tables, label_sentences, elsewhere, label_ranks),
}


def check(figures, root):
    """Print every sentence and line that its page lacks; return how many."""
    count = absent = 0
    for page, parts in PAGES.items():
        text = " ".join((root / page).read_text(encoding="utf-8").split())
        for claim in (claim for part in parts for claim in part(figures)):
            count += 1
            if " ".join(claim.split()) not in text:
                absent += 1
                print(f"{page} lacks: {claim}")
    print(f"{count} sentences and lines of tables, {absent} differ")
    return absent
