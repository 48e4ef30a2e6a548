"""Codes that have collapsed and good ones; their information about the direction of the action, where it is known."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from lattok.evaluation.evidence.latent_evidence import CodeStream, Target
from lattok.evaluation.evidence.probes import Bootstrap
from lattok.evaluation.questions.codes import (
    collapse,
    corrected_information,
    directions,
    information,
    mutual_information,
)
from lattok.evaluation.report import Verdict


def world(count: int, dims: int, seed: int) -> tuple[Target, Bootstrap]:
    generator = torch.Generator().manual_seed(seed)
    train, held_out = (torch.randn(n, dims, generator=generator) for n in (4 * count, count))
    return Target(train, np.arange(4 * count) // 40, held_out), Bootstrap(np.arange(count) // 40, 0)


def test_a_code_that_is_the_sign_of_the_action_says_one_bit():
    target, bootstrap = world(800, 1, 0)
    found = directions(target, [0], ("x",))
    assert found.names == ("x−", "x+")
    codes = [(actions > target.train.mean(0)).long() for actions in (target.train, target.held_out)]
    result = information(codes[0], codes[1], 4, found, target, bootstrap)
    assert result.positions[0] == pytest.approx(1, abs=0.01)
    assert result.bits == pytest.approx(1, abs=0.05)
    low, high = result.intervals[0] or (0.0, 0.0)
    assert low <= result.positions[0] <= high


def test_random_codes_say_nothing_although_they_seem_to():
    target, bootstrap = world(400, 3, 1)
    found = directions(target, [0, 1, 2], ("x", "y", "z"))
    codes = torch.randint(16, (2000, 2), generator=torch.Generator().manual_seed(2))
    assert mutual_information(codes[:400, 0], found.held_out) > 0.08  # of chance alone
    result = information(codes[400:], codes[:400], 16, found, target, bootstrap)
    assert abs(result.positions[0]) < 0.05
    assert result.bits < 0.03
    low, high = result.intervals[0] or (1.0, 1.0)
    assert low <= 0 <= high


def test_what_only_changes_slowly_is_not_information():
    """Two independent staircases agree by chance far more than shuffled rows would."""
    generator, found = torch.Generator().manual_seed(3), []
    for _ in range(30):
        a, b = (torch.randint(4, (25,), generator=generator).repeat_interleave(20) for _ in range(2))
        b = b.roll(int(torch.randint(20, (), generator=generator)))
        shuffled = b[torch.randperm(len(b), generator=generator)]
        found.append([corrected_information(a, b), mutual_information(a, b), mutual_information(a, shuffled)])
    corrected, plain, chance = np.mean(found, 0)
    assert plain - chance > 0.15
    assert abs(corrected) < 0.05


def test_plug_in_information_of_a_known_table():
    table = np.array([[30, 10], [20, 40]])
    rows = [(i, j) for i in range(2) for j in range(2) for _ in range(table[i, j])]
    a, b = torch.tensor(rows).T
    joint = table / 100
    expected = (joint * np.log2(joint / (joint.sum(1, keepdims=True) * joint.sum(0)))).sum()
    assert mutual_information(a, b) == pytest.approx(expected)


def test_the_direction_is_the_axis_that_departs_most_in_its_own_spread():
    train = torch.tensor([[1.0, 100.0], [-1.0, -100.0]])
    target = Target(train, np.zeros(2), torch.tensor([[0.5, 10.0], [-0.1, 90.0], [0.0, -50.0], [-0.9, 10.0]]))
    assert directions(target, [0, 1], ("x", "y")).held_out.tolist() == [1, 3, 2, 0]


def sample_streams() -> Iterator[tuple[torch.Tensor, ...]]:
    """Yield codes of sample/lam and of k-means on the frame change at equal bits, [n, 4] each, and which rows are held
    out: of all ten held-out episodes of the sample, and of each one alone."""
    stored = np.load(Path(__file__).with_name("sample_codes.npz"))
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
