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


def by_regime(f):
    """Yield the first table of the study."""
    world = "2 of 19, in [a second simulated world](few_actions_plans.md#the-third-plan-a-second-world)"
    for title, regime, base, row in (
        ("2 of 19 demonstrations (the primary comparison)", FREE, "baseline", "idm"),
        (
            "2 of 19, from pixels alone: policies without proprio (`no_proprio`, `idm-blind_policy`)",
            *(FREE, "no_proprio", "idm-blind_policy"),
        ),
        ("1 of 19", ONE, "baseline", "idm"),
        ("5 of 19", FIVE, "baseline", "idm"),
        (f"{world} (OGBench, another robot arm)", WORLD, "baseline", "idm"),
    ):
        gain, low, high = f.over(regime, row, base), f.won(regime, base), f.won(regime, row)
        others = [f.over(regime, name) for name in ("idm-video", "idm-proprio")] if regime in (ONE, FIVE) else []
        cells = [title, str(len(gain)), pm(low), pm(high), pm(gain), p(holm(gain, *others)[0])]
        yield f"| {' | '.join(cells)} |"


def by_row(f):
    """Yield the figures of the second table of the study, and what is said of its rows."""
    own, base = (middle(f.won(FREE, row, seeds=5)) for row in ("idm", "baseline"))
    yield f"With these seeds `idm` reaches {own} and `baseline` {base}."
    align = f.over(FREE, "la_align-idm", "baseline")
    for family, more in (
        (("idm-past", "idm-shuffled", "decoded", "proprio", "executed"), ()),
        (("idm-video", "idm-proprio", "idm-la_align"), ()),
        (("idm-careful", "latent_policy", "parallel", "pretrained"), ()),
        (("la_align-idm",), (align,)),
    ):
        gaps = [f.over(FREE, row) for row in family]
        for row, gap, corrected in zip(family, gaps, holm(*gaps, *more), strict=False):
            yield f"| {pm(f.won(FREE, row))} | {pm(gap, signed=True)} | {p(corrected)} |"
    yield f"gains {pm(align)} over `baseline` (p {p(holm(align, f.over(FREE, 'la_align-idm'))[0])})"
    general = p(f.general(FREE, "latent_policy"))
    yield f"(for tasks in general, `latent_policy` is not significantly worse: p {general})."
    control = "la_align-idm_shuffled"
    content, rest = f.over(FREE, "la_align-idm", control), f.over(FREE, control, "baseline")
    first, second = holm(content, rest)
    yield f"Success is then {pm(f.won(FREE, control))}, with no detectable difference from `baseline` ("
    yield f"({pm(rest)}, p {p(second)}). With the right latents it is {pm(content)} higher, which is not quite"
    yield f"significant (p {p(first)})"


def shares(f):
    """Yield what is said of all actions, and of what inferred actions recover."""
    whole, base, own = f.before_of("baseline"), f.won(FREE, "baseline"), f.won(FREE, "idm")
    yield f"with all actions known, success is {pm(whole)}."
    yield f"`idm` recovers {share(own, base, whole, paired=False)} of the difference"
    yield f"such a policy has one seed only ({middle(f.before_of('recipe-no_proprio'))}, row `recipe-no_proprio`"
    (noisy,) = f.before_of("recipe-noisy")
    yield f"({write(noisy)}, row `recipe-noisy`; its Baseline with the same seed reaches {write(whole[0])})"
    gap, wide = welch(own, whole)
    yield f"The difference, {write(gap)} ({write(gap - wide)} to {write(gap + wide)}), could be none."
    known, few = f.won("other-world", "baseline"), f.won(WORLD, "baseline")
    own, proprio = (share(f.won(WORLD, row), few, known, paired=True) for row in ("idm", "idm-proprio"))
    yield f"With all actions known, success is {pm(known)}. Inferred actions recover {own} of what is lost."
    yield f"That is {proprio} of what is lost"
    own, blind = (f.over(FREE, *pair)[1:] for pair in (("idm", "baseline"), ("idm-blind_policy", "no_proprio")))
    yield f"alone, the gain of inferred actions is {pm(own)}, and without proprio it is {pm(blind)}."


def other_numbers(f):
    """Yield what is said of one and of five known demonstrations."""
    video, proprio = ({where: f.over(where, row) for where in (ONE, FIVE)} for row in ("idm-video", "idm-proprio"))
    one, five = (holm(f.over(where, "idm", "baseline"), video[where], proprio[where]) for where in (ONE, FIVE))
    won = f.won(FIVE, "idm-video")
    yield f"with 5 ({pm(won)}, which is {away(video[FIVE])} below `idm`, p {p(five[1])})."
    yield f"With 1 it is {pm(f.won(ONE, 'idm-video'))} ({pm(video[ONE])}, p {p(one[1])})."
    general = [p(f.general(regime, "idm-video")) for regime in (FREE, FIVE, ONE)]
    yield f"none of these differences is significant (p {general[0]}, {general[1]} and {general[2]})."
    won = f.won(ONE, "idm-proprio")
    yield f"With 1 of 19 known it reaches {pm(won)} ({away(proprio[ONE])} above `idm`, p {p(one[2])})"
    won, general = f.won(FIVE, "idm-proprio"), f.general(FIVE, "idm-proprio")
    yield f"{pm(won)} ({away(proprio[FIVE])} below, p {p(five[2])}; for tasks in general p {p(general)})."


def four_tasks(f):
    """Yield what is said of tasks without any known action."""
    video, control, back = "idm-video", "idm-known_video", "idm-reversible"
    (first, last), (none, second) = (
        holm(f.over(FOUR, video), f.over(FOUR, back)),
        holm(f.over(FOUR, video, control), f.over(FOUR, control)),
    )
    halves = [middle(f.won(FOUR, "idm", part)) for part in (KNOWN, OTHER)]
    yield f"With `idm`, success is {halves[0]} in the known tasks and {halves[1]} in the others."
    yield f"With `idm-video` it is {pm(f.won(FOUR, video, OTHER))} in the others, and {pm(f.won(FOUR, video))} over all"
    yield f"`idm` reaches {pm(f.won(FOUR, 'idm'))}. The gain is {pm(f.over(FOUR, video))} (p {p(first)})."
    yield f"{pm(f.won(FOUR, control, OTHER))} in the others, and {pm(f.won(FOUR, control))} over all tasks."
    yield f"The control is {away(f.over(FOUR, control))} above `idm` (p {p(second)})."
    yield f"we found no difference ({pm(f.over(FOUR, video, control))}, p {p(none)})"
    general = [p(f.general(FOUR, row)) for row in (video, control)]
    yield f"For tasks in general the two gains are not significant (p {general[0]} and {general[1]})."
    yield f"With executed actions success is {pm(f.won(FOUR, 'executed'))}."
    yield f"success in `four-tasks` is {pm(f.won(FOUR, back))}. The difference from `idm`, {pm(f.over(FOUR, back))}, is"
    yield f"is not significant (p {p(last)}), though"


def second_world(f):
    """Yield what is said of the second world."""
    past, done = f.over(WORLD, "idm", "idm-past"), f.over(WORLD, "executed")
    first, second = holm(past, done)
    won = f.won(WORLD, "executed")
    yield f"With executed actions success is {pm(won)} ({away(done)} above `idm`, p {p(second)}), and"
    yield f"without frames after the action {pm(f.won(WORLD, 'idm-past'))} ({away(past)} below, p {p(first)};"
    yield f"p {p(first)}; for tasks in general p {p(f.general(WORLD, 'idm', 'idm-past'))})."
    own, base = (f.over(WORLD, "idm-proprio", row) for row in ("idm", "baseline"))
    assert max(holm(own, base)) < 0.001, "both p values, as the page says"
    yield f"brings success to {pm(f.won(WORLD, 'idm-proprio'))}: {pm(own)} above `idm` and {pm(base)} above `baseline`"


def hopes(f):
    """Yield the table of targets, but for what stands elsewhere on the page."""
    blind, proprio = f.won(FREE, "idm-blind_policy"), f.won(FREE, "idm-proprio")
    yield f"| {pm(blind)}, and {pm(f.over(FREE, 'idm-blind_policy', 'no_proprio'))} above (p < .001) | met |"
    yield f"| {pm(f.won(FREE, 'idm'))} (`idm`), {pm(proprio)} (`idm-proprio`) | met |"
    yield f"| {pm(f.won(ONE, 'idm'))}; with proprio {pm(f.won(ONE, 'idm-proprio'))} | missed from pixels,"
    yield f"| `idm-video` does not help ({middle(f.won(ONE, 'idm-video'))})."
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
    yield f"`idm-proprio` has the same R² as `idm` ({away(f.of_over(FIVE, 'idm-proprio'))} more)"
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
    yield from elsewhere_gains(f, "They gain {} with `careless` (p {}) and {} with `room` (p {}).")
    names = ("careless", "camera", "room")
    less = [f.of_over(where, f"labels.{name}", "labels.same") for name in names]
    first, second, third = holm(*less)
    yield f"we found no difference in R² from `same` ({pm(less[1])}, p {p(second)})."
    yield f"It is lower by {away(less[0])} with `careless` (p {p(first)}), and"
    yield f"by {away(less[2])} with `room` (p {p(third)})."


CARELESS = (
    "the gain is {} if that recording is careless (p {}), and {} if it is from a room that looks different (p {})."
)


def elsewhere_gains(f, said=CARELESS):
    """Yield what is said of gains with known actions from other data."""
    one, two = (f.over("elsewhere", f"{name}.inferred", f"{name}.known") for name in ("careless", "room"))
    first, second = map(p, holm(one, two))
    yield said.format(pm(one), first, pm(two), second)


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


def first_page(f):
    """Yield what README says."""
    whole, base, own = (middle(v, 2) for v in (f.before_of("baseline"), f.won(FREE, "baseline"), f.won(FREE, "idm")))
    yield f"falls from {whole} to {base}."
    yield f"success is {own}. This gain is {pm(f.over(FREE, 'idm', 'baseline'), digits=2)} (eight seeds, p < .001,"
    world, proprio = (pm(f.over(WORLD, row, "baseline"), digits=2) for row in ("idm", "idm-proprio"))
    yield f"In a second simulated world the gain is {world}, or {proprio} if the model also reads the robot's state."
    yield f"With actions from a latent action model, success is {middle(f.won(FREE, 'decoded'), 2)}."
    yield f"gains {pm(f.over(FREE, 'la_align-idm', 'baseline'), digits=2)}, but"
    low, high = middle(f.won(FOUR, "idm", OTHER), 2), pm(f.won(FOUR, "idm-known_video", OTHER), digits=2)
    yield f"raises success in the others from {low} to {high} ("


PAGES = {
    "docs/few_actions.md": (by_regime, by_row, shares, other_numbers, four_tasks, second_world, hopes, elsewhere_gains),
    "docs/few_actions_labels.md": (label_tables, label_sentences, elsewhere, label_ranks),
    "README.md": (first_page,),
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
