"""What flags of rows say of episodes: which failed, and what a human did where a policy acted."""

import re
from collections.abc import Collection, Iterator, Mapping

import numpy as np

from lattok.data import problems
from lattok.data.problems import Rows
from lattok.data.schema import Feature
from lattok.utils.findings import Finding

SUCCESS = re.compile(r"(next\.|observation\.)?(is_)?(episode_)?(is_)?success(ful)?", re.IGNORECASE)
REWARD = "next.reward"
HUMAN = re.compile(r"(.*[._])?(is_)?(human_)?intervention", re.IGNORECASE)


def flags_of(features: Mapping[str, Feature]) -> list[str]:
    """Return the columns of one number a row that are flags by their names."""
    single = [key for key, feature in features.items() if feature.shape == (1,) and feature.dtype != "string"]
    return [key for key in single if key == REWARD or SUCCESS.fullmatch(key) or HUMAN.fullmatch(key)]


def check_flags(rows: Rows, keys: Collection[str]) -> Iterator[Finding]:
    """Find episodes that never reach success where others do, by a flag or by a reward of 0 and 1, and rows in which a
    human took over."""
    reached = [key for key in keys if SUCCESS.fullmatch(key)]
    reached += [key for key in keys if key == REWARD and not reached and {*np.unique(rows.table(key))} == {0.0, 1.0}]
    for key in reached[:1]:
        best = np.array([rows.table(key)[span].max() for span in rows.spans()])
        index = np.array([rows.episodes[span.start] for span in rows.spans()])
        if (failed := best <= 0).any() and not failed.all():
            yield problems.FAILED.finding(index[failed].tolist(), all=len(best), sign=f"`{key}`")
    for key in (key for key in keys if HUMAN.fullmatch(key)):
        taken = rows.table(key)[:, 0] > 0
        if taken.any() and not taken.all():
            yield problems.INTERVENTIONS.finding(rows.episodes[taken].tolist(), column=key, share=taken.mean())
