"""Datasets of very many files: a random sample speaks for all, where otherwise every file would be read before a step.

Of up to `MANY` chosen episodes, and of formats with many episodes a file, the sample is all of them.
"""

from collections.abc import Sequence

import numpy as np

from lattok.data.schema import RobotDataset
from lattok.data.views import unwrap
from lattok.types import Episode
from lattok.utils.checks import counted

MANY = 2**14  # episodes, each with a file of its own: to read them takes 5 s
SAMPLE = 2**12  # episodes: quantiles of 1 % are known to a sixth of that


def sample_of(dataset: RobotDataset, episodes: Sequence[Episode]) -> Sequence[Episode]:
    """Return the episodes that speak for these, in their order: the same ones each time."""
    if len(episodes) <= MANY or not unwrap(dataset).file_per_episode:
        return episodes
    places = np.random.default_rng(0).choice(len(episodes), SAMPLE, replace=False)
    return [episodes[place] for place in np.sort(places).tolist()]


def sample_text(dataset: RobotDataset, episodes: Sequence[Episode], fits: bool) -> str:
    """Say what is known of a sample alone, also what normalisers are fitted to if it `fits`; "" where it is all."""
    if len(sample := sample_of(dataset, episodes)) == len(episodes):
        return ""
    drawn = f"{len(sample):,} of {counted(len(episodes), 'episode')}, drawn at random"
    if not fits:
        return f"the hash that says whether data have changed is of {drawn}"
    read = "The rows of an episode are read when it is first drawn."
    return f"normalisers, and the hash that says whether data have changed, are of {drawn}. {read}"
