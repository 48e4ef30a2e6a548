"""Codes that have collapsed and good ones."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from lattok.evaluation.evidence.unlearned import CodeStream
from lattok.evaluation.questions.codes import collapse
from lattok.evaluation.report import Verdict


def sample_streams() -> Iterator[tuple[torch.Tensor, ...]]:
    """Yield codes of sample/lam and of k-means on the frame change at equal bits, [n, 4] each, and which rows are held
    out: of all ten held-out episodes of the sample, and of each one alone."""
    with np.load(Path(__file__).with_name("sample_codes.npz")) as file:
        stored = dict(file)
    model, kmeans = (torch.from_numpy(stored[name]).long() for name in ("model", "kmeans"))
    episode, test = torch.from_numpy(stored["episode"]), range(4, 50, 5)
    for chosen in ([*test], *([index] for index in test)):
        yield model, kmeans, torch.isin(episode, torch.tensor(chosen, dtype=episode.dtype))


def judged(model: torch.Tensor, kmeans: torch.Tensor, held_out: torch.Tensor) -> Verdict:
    streams = (("model", model, False), ("residual_kmeans", kmeans, True))
    return collapse(*(CodeStream(key, key, x[~held_out], x[held_out], 16, control) for key, x, control in streams))


def test_good_codes_have_not_collapsed_although_one_episode_shows_few_of_them():
    few = 0
    for model, kmeans, held_out in sample_streams():
        verdict = judged(model, kmeans, held_out)
        assert verdict.holds, verdict.text
        assert verdict.text.endswith("no collapse")
        few += min(int(column.unique().numel()) for column in model[held_out].T) < 8
    assert few == 9  # of ten episodes; half of a codebook would be eight


def test_collapsed_codes_are_found_on_one_episode_and_on_ten():
    for model, kmeans, held_out in sample_streams():
        none = torch.zeros_like(model)
        collapsed = {
            "much of a codebook is idle": (none, model // 8),
            "the tokens repeat one another": (model[:, 1:2].expand(-1, 4), torch.cat([model[:, 1:2], none[:, 1:]], 1)),
        }
        for state, rows in collapsed.items():
            for codes in rows:
                verdict = judged(codes, kmeans, held_out)
                assert verdict.holds is False
                assert verdict.text.endswith(state)


def test_a_position_with_few_codes_is_no_collapse_where_rows_say_as_much_as_clusters():
    """As of a model of many tasks on one of them: three codes at the first position, all at the others."""
    rng = np.random.default_rng(0)
    model, kmeans = (torch.from_numpy(rng.integers(0, 16, (300, 4))) for _ in range(2))
    held_out = torch.arange(300) >= 250
    model[:, 0] %= 3
    assert judged(model, kmeans, held_out).holds
    assert not judged(model % 3, kmeans, held_out).holds
