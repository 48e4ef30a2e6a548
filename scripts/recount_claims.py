"""Counts every figure in README's and the pages' summaries again: part of `python scripts/recount.py`.

A section of a page is a list of figures in the order in which they stand there, each counted from single rollouts (or,
in the study of docs/closed_loop.md, from the successes of each task). The words between them are free: a figure that
is not in the list, that is another one, or that stands elsewhere differs. Whole numbers are not compared.
"""

import itertools
import json
import re
import statistics

import numpy as np
from scipy.optimize import brentq
from scipy.stats import nct, t

from scripts.recount import in_general, interval, of_task, read, won
from scripts.recount_pages import (
    FIVE,
    FOUR,
    FREE,
    KNOWN,
    ONE,
    OTHER,
    WORLD,
    Figures,
    away,
    holm,
    middle,
    p,
    pm,
    share,
    welch,
    write,
)

FIGURE = re.compile(r"(?<![\w.])(?:(?:< |[+−])?\.\d+(?: ± \.\d+)?|(?!95|80)\d+ %|\d+ ms\b)")
TABLED = re.compile(r"(?<![\w.])([+-]?)0(\.\d{3})\b")  # -0.104 in a table that a study writes is −.104 of a page
WORDS = 60  # characters of the page that are shown before a figure
ALL = "plentiful"
BEAST, P2T, OAT, RVQ = "acts-beast", "acts-p2t", "acts-oat", "acts-rvq"
IMAGES, OF_ACTIONS = ("la_align", "la_direct", "la_cond"), "la_tok"
SCENES = "own", "scene", "layout", "distractors", "background", "light", "camera"


class Studies:
    """What was counted in each study; `tokens` are its first seeds, `fresh` the later ones, `ten` both."""

    def __init__(self, few, results):
        self.few, self.results = few, results
        first, fresh = (read(results / name) for name in ("acting_by_tokens", "acting_by_tokens_again"))
        self.tokens, self.fresh, self.ten = (Figures(each, {}, {}, {}) for each in (first, fresh, first | fresh))
        self.closed = Figures(read_tasks(results / "closed_loop"), {}, {}, {})
        self.changed = {scene: Figures(read(results / "out_of_domain", scene), {}, {}, {}) for scene in SCENES}

    def milliseconds(self, study, row):
        """The CPU time of a decision, mean of seeds, as a whole number."""
        files = sorted((self.results / study).glob(f"{ALL}.{row}.*.json"))
        return f"{statistics.mean(json.loads(file.read_text())['decision']['cpu_ms'] for file in files):.0f}"


def read_tasks(folder):
    """Return what `read` does, of counts of successes by task: which rollouts they were does not matter here."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text())
        place = content["cell"]
        found[place["regime"], place["row"], place["seed"]] = {
            (task, i): "success" if i < count[0] else ""
            for task, count in content["own"].items()
            for i in range(count[2])
        }
    return found


def seen(values, tests=1):
    """Return the true mean that a t test of these values finds with 80 % power, at 5 % over so many tests."""
    n, error = len(values), statistics.stdev(values) / len(values) ** 0.5
    bound = t.ppf(1 - 0.025 / tests, n - 1)
    return brentq(lambda x: nct.sf(bound, n - 1, x) - 0.8, 0, 20) * error  # of the other sign it finds none


def by_task(figures, regime, row, other, name):
    """Return the mean difference in one task."""
    seeds = sorted(s for where, each, s in figures.played if (where, each) == (regime, row))
    pairs = [[figures.played[regime, each, seed] for each in (row, other)] for seed in seeds]
    task = next(at[0] for at in pairs[0][0] if at[0].endswith(name))
    return statistics.mean(won(of_task(a, task)) - won(of_task(b, task)) for a, b in pairs)


def minus(gap, **given):
    """Write a difference with its sign."""
    return pm(gap, signed=True, **given)


def readme(s):
    """Yield README's figures, of two digits."""
    f, two = s.few, {"digits": 2}
    yield pm(s.ten.won(ALL, "baseline"), **two)
    for row in ("baseline", "idm", "proprio", "decoded"):
        yield pm(f.won(FREE, row), **two)
    gain = f.over(FREE, "idm", "baseline")
    yield from (pm(gain, **two), p(interval(gain)[2]), p(item_4(f)["proprio"]))
    yield from (pm(f.over(WORLD, row, "baseline"), **two) for row in ("idm", "idm-proprio"))
    yield pm(f.over(FIVE, "idm", "idm-proprio"), **two)
    yield pm(f.over(FREE, "idm", "idm-video"), **two)
    yield middle(f.won(FOUR, "idm", OTHER), 2)
    yield pm(f.won(FOUR, "idm-known_video", OTHER), **two)
    yield pm(f.over(FREE, "la_align-idm", "baseline"), **two)
    yield p(content(f)[0])


def item_4(f):
    """Return the corrected p values of the plan's fourth comparison."""
    rows = ("idm-past", "idm-shuffled", "decoded", "proprio", "executed")
    return dict(zip(rows, holm(*(f.over(FREE, row) for row in rows)), strict=True))


def content(f):
    """Return the corrected p values of the control with the latents of another episode."""
    control = "la_align-idm_shuffled"
    return holm(f.over(FREE, "la_align-idm", control), f.over(FREE, control, "baseline"))


def few_tables(f):
    """Yield the two tables of docs/few_actions.md."""
    for regime, base, row in (
        *((FREE, "baseline", "idm"), (FREE, "no_proprio", "idm-blind_policy")),
        *((where, "baseline", "idm") for where in (ONE, FIVE, WORLD)),
    ):
        gain = f.over(regime, row, base)
        others = [f.over(regime, name) for name in ("idm-video", "idm-proprio")] if regime in (ONE, FIVE) else []
        yield from (pm(f.won(regime, base)), pm(f.won(regime, row)), pm(gain), p(holm(gain, *others)[0]))
        yield p(f.general(regime, row, base))
    yield from (middle(f.won(FREE, row, seeds=5)) for row in ("idm", "baseline"))
    corrected = item_4(f)
    align = f.over(FREE, "la_align-idm", "baseline")
    for rows, more in (
        (("idm-video", "idm-proprio", "idm-la_align"), ()),
        (("idm-careful", "latent_policy", "parallel", "pretrained"), ()),
        (("la_align-idm",), (align,)),
    ):
        corrected |= zip(rows, holm(*(f.over(FREE, row) for row in rows), *more), strict=False)
    for row in (
        *("idm-past", "idm-shuffled", "proprio", "executed", "decoded", "idm-video", "idm-proprio", "idm-careful"),
        *("la_align-idm", "idm-la_align", "latent_policy", "parallel", "pretrained"),
    ):
        yield from (pm(f.won(FREE, row)), minus(f.over(FREE, row)), p(corrected[row]))


def few_free(s):
    """Yield items 1 to 4: what is recovered, the controls, latent actions, videos without actions."""
    f, ten, before = s.few, s.ten.won(ALL, "baseline"), s.few.before_of("baseline")
    own, base = f.won(FREE, "idm"), f.won(FREE, "baseline")
    gap, wide = welch(own, ten)
    yield from (pm(ten), write(gap), write(gap - wide), write(gap + wide), share(own, base, ten, paired=False))
    yield from (pm(before), share(own, base, before, paired=False), middle(f.before_of("recipe-no_proprio")))
    yield from (pm(f.won(FREE, "proprio")), minus(f.over(FREE, "proprio")), p(item_4(f)["proprio"]))
    align, control = f.over(FREE, "la_align-idm", "baseline"), "la_align-idm_shuffled"
    yield from (pm(align), p(holm(align, f.over(FREE, "la_align-idm"))[0]), pm(f.won(FREE, control)))
    first, rest = content(f)
    yield from (pm(f.over(FREE, control, "baseline")), p(rest), pm(f.over(FREE, "la_align-idm", control)), p(first))
    yield p(f.general(FREE, "latent_policy"))
    video = "idm-video"
    yield from (
        minus(f.over(FREE, video)),
        p(holm(*(f.over(FREE, r) for r in (video, "idm-proprio", "idm-la_align")))[0]),
    )
    for regime in (FIVE, ONE):
        gap = f.over(regime, video)
        corrected = holm(f.over(regime, "idm", "baseline"), gap, f.over(regime, "idm-proprio"))[1]
        yield from (pm(f.won(regime, video)), away(gap) if regime == FIVE else pm(gap), p(corrected))
    yield from (p(f.general(regime, video)) for regime in (FREE, FIVE, ONE))


def few_four(f):
    """Yield items 5 and 6: tasks without known actions."""
    video, control, back = "idm-video", "idm-known_video", "idm-reversible"
    first, last = holm(f.over(FOUR, video), f.over(FOUR, back))
    none, second = holm(f.over(FOUR, video, control), f.over(FOUR, control))
    yield from (middle(f.won(FOUR, "idm", part)) for part in (KNOWN, OTHER))
    yield from (pm(f.won(FOUR, video, OTHER)), pm(f.won(FOUR, video)), pm(f.won(FOUR, "idm")))
    yield from (pm(f.over(FOUR, video)), p(first), pm(f.won(FOUR, control, OTHER)), pm(f.won(FOUR, control)))
    yield from (away(f.over(FOUR, control)), p(second), pm(f.over(FOUR, video, control)), p(none))
    yield from (p(f.general(FOUR, row)) for row in (video, control))
    yield pm(f.won(FOUR, "executed"))
    yield from (pm(f.won(FOUR, back)), pm(f.over(FOUR, back)), p(last))


def few_rest(f):
    """Yield items 7 to 11: the second world, proprio, confidence, figures of labels, other data."""
    known, low = f.won("other-world", "baseline"), f.won(WORLD, "baseline")
    past, done = f.over(WORLD, "idm", "idm-past"), f.over(WORLD, "executed")
    first, second = holm(past, done)
    yield from (pm(known), share(f.won(WORLD, "idm"), low, known, paired=True))
    yield from (pm(f.won(WORLD, "executed")), away(done), p(second), pm(f.won(WORLD, "idm-past")), away(past), p(first))
    yield p(f.general(WORLD, "idm", "idm-past"))
    own, base = (f.over(WORLD, "idm-proprio", row) for row in ("idm", "baseline"))
    yield from (pm(f.won(WORLD, "idm-proprio")), pm(own), pm(base), p(max(holm(own, base))))
    yield share(f.won(WORLD, "idm-proprio"), low, known, paired=True)
    for regime in (ONE, FIVE):
        gap = f.over(regime, "idm-proprio")
        corrected = holm(f.over(regime, "idm", "baseline"), f.over(regime, "idm-video"), gap)[2]
        yield from (pm(f.won(regime, "idm-proprio")), away(gap), p(corrected))
    yield p(f.general(FIVE, "idm-proprio"))
    careful = [f.over(FREE, row) for row in ("idm-careful", "latent_policy", "parallel", "pretrained")]
    yield from (away(careful[0]), p(holm(*careful)[0]))
    yield from (write(x, 2) for x in f.predicts["without_extremes"]["correlations"]["systematic"]["within"][:2])
    one, two = (f.over("elsewhere", f"{name}.inferred", f"{name}.known") for name in ("careless", "room"))
    first, second = holm(one, two)
    yield from (pm(one), p(first), pm(two), p(second))


def few_actions(s):
    """Yield the tables and findings of docs/few_actions.md."""
    yield from few_tables(s.few)
    yield from few_free(s)
    yield from few_four(s.few)
    yield from few_rest(s.few)


def few_howto(s):
    """Yield what docs/howto/few_actions.md says is to be expected."""
    f = s.few
    for row in ("baseline", "idm", "no_proprio", "idm-blind_policy", "idm-past", "idm-shuffled", "decoded"):
        yield middle(f.won(FREE, row))
    yield from (pm(f.over(FREE, "idm", "proprio")), middle(f.won(FREE, "idm", seeds=5)), p(item_4(f)["proprio"]))
    yield from (middle(f.won(FREE, row)) for row in ("proprio", "executed"))
    gain = f.over(FREE, "idm", "baseline")
    yield from (pm(gain), p(interval(gain)[2]))
    yield from (middle(f.won(regime, row)) for regime in (ONE, FIVE, WORLD) for row in ("baseline", "idm"))
    yield from (middle(f.won("other-world", "baseline")), middle(f.won(WORLD, "idm-proprio")))


def tokens_short(s):
    """Yield what docs/acting_by_tokens.md says in short."""
    fresh, ten, means = s.fresh, s.ten, [f"{name}-mean" for name in (BEAST, P2T)]
    yield from (pm(fresh.won(ALL, row)) for row in (*means, "baseline"))
    for row in (BEAST, P2T):
        yield from (pm(fresh.won(ALL, row)), minus(fresh.over(ALL, row, "baseline")))
    yield p(max(holm(*(fresh.over(ALL, row, "baseline") for row in (BEAST, P2T)))))
    yield from (f"{s.milliseconds('acting_by_tokens_again', row)} ms" for row in (means[0], "baseline"))
    yield middle(s.tokens.won(ALL, "baseline"))
    for row in means:
        gap = ten.over(ALL, row, "baseline")
        yield from (pm(gap), p(interval(gap)[2]))
    yield from (away(ten.over(ALL, row, "baseline")) for row in (BEAST, P2T))


def tokens_all(s):
    """Yield the fresh seeds and the comparisons of docs/acting_by_tokens.md."""
    f, fresh, margin = s.tokens, s.fresh, ".03"  # the rule of comparison 1

    def against(figures, *pairs):
        """Return the differences of pairs of rows, and their p values corrected together."""
        gaps = [figures.over(ALL, *pair) for pair in pairs]
        return list(zip(gaps, holm(*gaps), strict=True))

    means = f"{BEAST}-mean", f"{P2T}-mean"
    for gap, corrected in against(fresh, *((row, "baseline") for row in means)):
        yield from (minus(gap), p(corrected))
    yield from (margin, *(p(fresh.general(ALL, row, "baseline")) for row in means))
    ahead = against(fresh, *((row, f"{OAT}-mean") for row in means))
    yield from (*(pm(gap) for gap, _ in ahead), p(max(corrected for _, corrected in ahead)))
    adds = against(fresh, *((f"{row}-mean", row) for row in (BEAST, P2T, OAT)))
    yield from (*(pm(gap) for gap, _ in adds), p(adds[2][1]))
    gap = f.over(ALL, RVQ, "baseline")  # comparison 1
    yield from (pm(f.won(ALL, RVQ)), margin, pm(f.won(ALL, "baseline")), minus(gap), p(interval(gap)[2]))
    yield write(by_task(f, ALL, RVQ, "baseline", "door-lock"), 2)
    yield write(by_task(f, ALL, RVQ, "baseline", "faucet-open"), signed=True)
    fast, bins, oat = against(f, *((RVQ, f"acts-{row}") for row in ("fast", "bins", "oat")))  # 2
    yield from (minus(fast[0]), p(fast[1]), minus(oat[0]), minus(bins[0]))
    yield from (write(seen(gap, tests), 2) for tests in (1, 3) for gap in (oat[0], bins[0]))
    learned = against(f, (f"{RVQ}-perturbed", RVQ), ("acts-fsq-both", "acts-fsq"), ("acts-context", P2T))  # 3
    yield from (minus(gap) for gap, _ in learned)
    yield from (write(end(corrected for _, corrected in learned), 2) for end in (min, max))
    rows = "acts-bins", P2T, RVQ
    once = dict(zip(rows, against(f, *((f"{row}-at_once", row) for row in rows)), strict=True))  # 4
    yield from (minus(once["acts-bins"][0]), minus(once[P2T][0]))
    yield f"{max(int(s.milliseconds('acting_by_tokens', f'{row}-at_once')) for row in once)} ms"
    yield from (f"{s.milliseconds('acting_by_tokens', row)} ms" for row in (P2T, "acts-bins"))
    yield from (away(once[RVQ][0]), p(once[RVQ][1]), p(interval(once[RVQ][0])[2]))
    gap = f.over(ALL, "flow", "baseline")  # 5
    yield from (pm(f.won(ALL, "flow")), away(gap), p(interval(gap)[2]))
    yield from (write(abs(by_task(f, ALL, "flow", "baseline", name))) for name in ("faucet-open", "door-lock"))
    yield from tokens_averages(f, against)
    beast, p2t = (f"{row}-mean" for row in (BEAST, P2T))  # 9
    pairs = (p2t, P2T), (p2t, f"{OAT}-mean"), (p2t, "baseline"), (beast, BEAST), (beast, "baseline")
    last = dict(zip(pairs, against(f, *pairs), strict=True))
    yield from (minus(last[row, "baseline"][0]) for row in (p2t, beast))
    yield margin
    three = [last[pair] for pair in ((p2t, P2T), (beast, BEAST), (p2t, f"{OAT}-mean"))]
    for gap, corrected in three:
        yield from (pm(gap), p(corrected))
    yield from (p(end(interval(gap)[2] for gap, _ in three)) for end in (min, max))


def tokens_averages(f, against):
    """Yield comparisons 6 to 8 of docs/acting_by_tokens.md."""
    mean, first, median = (f"{RVQ}-{name}" for name in ("mean", "first", "median"))
    likely, oat, fast, base = against(f, *((mean, row) for row in (RVQ, f"{OAT}-mean", "acts-fast-mean", "baseline")))
    yield from (
        pm(f.won(ALL, mean)),
        away(base[0]),
        p(base[1]),
        minus(fast[0]),
        p(fast[1]),
        minus(likely[0]),
        minus(oat[0]),
    )
    whole, likely, oat, base = against(f, *((first, row) for row in (mean, RVQ, f"{OAT}-first", "baseline")))
    for gap, corrected in (whole, base, oat):
        yield from (away(gap), p(corrected))
    yield from (minus(likely[0]), pm(f.won(ALL, f"{OAT}-first")))
    yield from (middle(f.won(ALL, row)) for row in (OAT, f"{OAT}-mean"))
    others = "baseline", mean, *(f"acts-{name}-median" for name in ("fast", "bins", "oat"))
    base, whole, fast, bins, oat = against(f, *((median, row) for row in others))
    yield minus(whole[0])
    for gap, corrected in (base, fast):
        yield from (minus(gap), p(corrected), p(interval(gap)[2]))
    yield from (minus(bins[0]), minus(oat[0]))
    gap = f.over(ALL, "acts-bins-median", "acts-bins")
    yield from (pm(f.won(ALL, "acts-bins-median")), middle(f.won(ALL, "acts-bins")), minus(gap), p(interval(gap)[2]))


STRATEGIES = "la_align", "la_direct", "la_cond", "la_tok", "ph_direct"


def scene_families(s):
    """The three families of comparisons in docs/out_of_domain.md."""
    own, scene, rows = s.changed["own"], s.changed["scene"], (*IMAGES, OF_ACTIONS)
    cost = {row: list(np.subtract(scene.won(ALL, row), own.won(ALL, row))) for row in ("baseline", *rows)}
    images = np.mean([scene.won(ALL, row) for row in IMAGES], axis=0)
    return (
        [scene.over(ALL, row, "baseline") for row in rows],
        [list(np.subtract(cost[row], cost["baseline"])) for row in rows],
        [list(images - scene.won(ALL, OF_ACTIONS))],
    )


def scene_tables(s):
    """Yield the tables of docs/out_of_domain.md."""
    for scene in SCENES:
        yield from (pm(s.changed[scene].won(ALL, row)) for row in ("baseline", *IMAGES, OF_ACTIONS))
    for gaps in scene_families(s):
        for gap, corrected in zip(gaps, holm(*gaps), strict=True):
            raw = interval(gap)[2]
            yield from (pm(gap, signed=True), p(raw), p(corrected), write(seen(gap, len(gaps))))


def scene_text(s):
    """Yield what docs/out_of_domain.md says of its results."""
    changed, (ahead, cost, images) = s.changed, scene_families(s)
    base = {scene: changed[scene].won(ALL, "baseline") for scene in SCENES}
    largest = max(ahead, key=lambda gap: abs(np.mean(gap)))
    lost = [
        np.mean(changed["own"].won(ALL, row)) - np.mean(changed["scene"].won(ALL, row))
        for row in ("baseline", *IMAGES, OF_ACTIONS)
    ]
    yield from (write(min(lost)), write(max(lost)), pm(base["own"]), pm(base["scene"]), pm(largest, signed=True))
    yield from (write(end(seen(gap, len(ahead)) for gap in ahead)) for end in (min, max))
    yield from (".33", ".53")  # of the paper's table
    yield from (*(pm(gap, signed=True) for gap in ahead), p(min(holm(*ahead))))
    place = max(range(len(cost)), key=lambda row: abs(np.mean(cost[row])))
    yield from (pm(cost[place]), p(interval(cost[place])[2]), p(holm(*cost)[place]))
    yield from (middle(changed["own"].won(ALL, row)) for row in ("la_direct", "baseline"))
    yield from (write(end(seen(gap, len(cost)) for gap in cost)) for end in (min, max))
    yield from (away(images[0]), p(interval(images[0])[2]), write(seen(images[0], 1)))
    yield from (middle(base[scene]) for scene in ("background", "layout"))
    costs = [np.mean(base["own"]) - np.mean(base[scene]) for scene in ("light", "distractors", "camera")]
    yield from (write(end(costs)) for end in (min, max))
    yield from (middle(changed["background"].won(ALL, row)) for row in ("la_align", "baseline"))


def strategies_seen(s):
    """Yield the least and the greatest difference that all actions known would have shown with 80 % power, without
    correction and with it."""
    for tests in (1, len(STRATEGIES)):
        found = [seen(s.closed.over(ALL, row, "baseline"), tests) for row in STRATEGIES]
        yield from (write(min(found), 2), write(max(found), 2))


def aligned(s):
    """Return the gain of LA-Align with few actions known, and its corrected p value."""
    gaps = [s.closed.over(FREE, row, "baseline") for row in STRATEGIES]
    return pm(gaps[0]), write(holm(*gaps)[0], 2)


def closed_short(s):
    """Yield what docs/closed_loop.md says in short."""
    yield from (
        middle(s.closed.won(ALL, "baseline"), 2),
        *strategies_seen(s),
        middle(s.closed.won(FREE, "baseline"), 2),
    )
    gain, corrected = aligned(s)
    yield from (gain, p(interval(s.closed.over(FREE, "la_align", "baseline"))[2]), corrected)
    yield from (pm(s.few.over(FREE, row, "baseline")) for row in ("idm", "la_align-idm"))


def results_page(s):
    """Yield what docs/results.md says of policies."""
    yield from (pm(s.closed.won(ALL, "baseline"), digits=2), *strategies_seen(s))
    yield from (middle(s.changed[scene].won(ALL, "baseline")) for scene in ("own", "scene"))
    ahead = scene_families(s)[0]
    yield from (write(end(seen(gap, len(ahead)) for gap in ahead)) for end in (min, max))
    yield from (middle(s.closed.won(FREE, "baseline"), 2), *aligned(s))
    yield from (pm(s.few.over(FREE, row, "baseline")) for row in ("la_align-idm", "idm"))
    yield from (pm(s.few.won(FREE, "proprio")), pm(s.few.over(FREE, "idm", "proprio")), p(item_4(s.few)["proprio"]))
    video = [s.few.over(FREE, row) for row in ("idm-video", "idm-proprio", "idm-la_align")]
    yield from (minus(video[0]), p(holm(*video)[0]))
    yield pm(s.ten.over(ALL, f"{BEAST}-mean", "baseline"))
    yield away(s.ten.over(ALL, BEAST, "baseline"))
    tasks = [by_task(s.closed, FREE, "la_align", "baseline", name) for name in ("window-close", "door-unlock")]
    yield from (write(tasks[0], 2), write(tasks[1], 2, signed=True))
    pairs = [tuple(s.closed.played[FREE, row, seed] for row in ("la_align", "baseline")) for seed in range(5)]
    half, test = these(s.closed, FREE, "la_align", "baseline")
    yield from (write(half), write(test))
    half, test = in_general(pairs)[1:]
    yield from (write(half), write(test, 2))
    yield pm(s.closed.over(FREE, "la_align-shuffled", "baseline"))
    yield pm(s.closed.over(FREE, "la_align", "la_align-shuffled"))
    yield pm(s.closed.over(FREE, "la_align-truth", "baseline"), digits=2)


def grid(figures, regime, row):
    """Return success as an array [seed, task]."""
    seeds = sorted(s for where, each, s in figures.played if (where, each) == (regime, row))
    played = [figures.played[regime, row, seed] for seed in seeds]
    return np.array([[won(of_task(run, task)) for task in sorted({at[0] for at in run})] for run in played])


def these(figures, regime, row, other):
    """Return the half width and p of a difference in these tasks: variance between seeds is pooled over tasks.

    It is multiplied by the mean F of seeds, over all pairs of rows with five seeds, if that is above 1.
    """
    rows = sorted({each for where, each, _ in figures.played if where == regime})
    tables = [table for table in (grid(figures, regime, each) for each in rows) if len(table) == 5]
    ratios = []
    for one, two in itertools.combinations(tables, 2):
        gap = one - two
        left = gap - gap.mean(1, keepdims=True) - gap.mean(0) + gap.mean()
        freedom = (gap.shape[0] - 1) * (gap.shape[1] - 1)
        ratios.append(gap.shape[1] * gap.mean(1).var(ddof=1) / ((left**2).sum() / freedom))
    gap = grid(figures, regime, row) - grid(figures, regime, other)
    freedom = gap.shape[1] * (gap.shape[0] - 1)
    error = float(gap.var(0, ddof=1).mean() * max(1, np.mean(ratios)) / gap.size) ** 0.5
    return error * t.ppf(0.975, freedom), 2 * t.sf(abs(gap.mean()) / error, freedom)


def which_one(s):
    """Yield what docs/concepts/which_one.md says of policies that learn from video, and that act by tokens."""
    f = s.few
    yield pm(f.over(FREE, "idm", "baseline"))
    yield pm(f.over(FREE, "idm-blind_policy", "no_proprio"))
    yield from (pm(f.over(FREE, "idm", "decoded")), p(item_4(f)["decoded"]))
    yield from (minus(f.over(FREE, "proprio")), p(item_4(f)["proprio"]))
    yield from (pm(f.over(regime, "idm", "baseline")) for regime in (ONE, WORLD))
    yield from (pm(f.over(WORLD, "idm-proprio", "baseline")), pm(f.over(FIVE, "idm", "idm-proprio")))
    yield from (middle(f.won(FOUR, row, OTHER)) for row in ("idm", "idm-known_video"))
    control = "idm-known_video"
    yield p(holm(f.over(FOUR, "idm-video", control), f.over(FOUR, control))[1])
    yield p(f.general(FOUR, control))
    align = f.over(FREE, "la_align-idm", "baseline")
    yield from (pm(align), p(holm(align, f.over(FREE, "la_align-idm"))[0]), p(content(f)[0]))
    yield from (pm(s.closed.over(FREE, "la_align", "baseline"), digits=2), aligned(s)[1])
    means = [f"{row}-mean" for row in (BEAST, P2T)]
    yield from (middle(s.fresh.won(ALL, row), 2) for row in (*means, "baseline"))
    yield from (pm(s.fresh.over(ALL, row, "baseline")) for row in means)
    yield from (middle(s.fresh.won(ALL, row), 2) for row in (BEAST, P2T))
    yield from (f"{s.milliseconds('acting_by_tokens_again', row)} ms" for row in (*means, "baseline"))
    yield from (pm(s.ten.over(ALL, row, "baseline")) for row in means)
    yield from (middle(s.tokens.won(ALL, f"{row}-mean"), 2) for row in (OAT, RVQ, "acts-fast"))


def which_one_strategies(s):
    """Yield what docs/concepts/which_one.md says that was measured of strategies."""
    yield pm(s.closed.over(FREE, "la_align", "baseline"))
    yield pm(s.few.over(FREE, "la_align-idm", "baseline"))
    yield from (minus(s.closed.over(regime, "lara", "flow"), digits=2) for regime in (FREE, ALL))


def faq(s):
    """Yield what docs/faq.md says of latent actions."""
    gain, corrected = aligned(s)
    yield from (middle(s.closed.won(FREE, "baseline"), 2), gain, corrected, pm(s.few.over(FREE, "idm", "baseline")))


SECTIONS = (  # page, the words with which a section begins and those before which it ends, its figures
    ("README.md", "## Does it help?", "## Learn more", readme),
    ("docs/few_actions.md", "**In short.**", "![Success with", few_actions),
    ("docs/acting_by_tokens.md", "**In short.**", "**Thresholds.** None", tokens_short),
    ("docs/acting_by_tokens.md", "**Fresh seeds** (5 to 9)", "![Success, and", tokens_all),
    ("docs/closed_loop.md", "**In short:**", "![Success with", closed_short),
    ("docs/out_of_domain.md", "**In short.**", "Seed 0 was", scene_text),
    ("benchmarks/results/out_of_domain.md", "| scene", "", scene_tables),
    ("docs/results.md", "In short:", "The page also explains", results_page),
    ("docs/concepts/which_one.md", "### A policy", "| labels that are vectors", which_one),
    ("docs/concepts/which_one.md", "### Strategies", "### Latent action models", which_one_strategies),
    ("docs/faq.md", "**Do latent actions help", "**My videos", faq),
    ("docs/howto/few_actions.md", "**What to expect.**", "**Which figure", few_howto),
)


def section(text, begin, end):
    """Return the figures of a section in their order, each with the words before it."""
    text = TABLED.sub(lambda it: it[1].replace("-", "−") + it[2], " ".join(text.split()))  # however lines are broken
    joined = text[text.index(begin) :]
    joined = joined[: joined.index(end) if end else None]
    return [(found.group(), joined[max(0, found.start() - WORDS) : found.start()]) for found in FIGURE.finditer(joined)]


def check(studies, root, show=False):
    """Print where a page has another figure than was counted, or `show` all of them; return how many differ."""
    count = wrong = 0
    for page, begin, end, counted in SECTIONS:
        told, before = zip(*section((root / page).read_text(encoding="utf-8"), begin, end), strict=True)
        own = [each for text in counted(studies) for each in FIGURE.findall(text)]
        count += len(own)
        for place, (one, two) in enumerate(itertools.zip_longest(told, own, fillvalue="no figure"), start=1):
            if show:
                words = before[place - 1] if place <= len(before) else ""
                print(f"{page} | {words.replace('|', '/')} | {one} | {two} | {counted.__name__}")
            if one != two:
                wrong += 1
                print(f"{page}, figure {place} from {begin!r} on: written {one}, counted {two}")
    print(f"{count} figures on pages, {wrong} differ")
    return wrong
