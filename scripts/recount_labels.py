"""Recounts which figure of inferred actions goes with the gain: part of `python scripts/recount.py`.

The figures are those of `inferred_actions.json`, which only the datasets themselves can repeat; the gains are counted
from single rollouts, the rank correlations are scipy's. Intervals of correlations are not counted again.
"""

import numpy as np
from scipy.stats import spearmanr

from scripts.recount import won

SIGNS = {"r2_xyz": 1, "systematic": -1, "absolute": -1, "given_frame": 1, "confidence": 1}


def ranked(pairs):
    """Return the rank correlation of pairs, NaN of fewer than three that are numbers."""
    pairs = np.array([pair for pair in pairs if np.isfinite(pair).all()])
    return float(spearmanr(pairs[:, 0], pairs[:, 1]).statistic) if len(pairs) > 2 else float("nan")


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
