"""Pairs of frames: features pooled over the grid, and pairs exchanged for others."""

import numpy as np
import torch

from lattok.evaluation.evidence.pair_set import derangement, pool, pooled_side
from tests.evaluation.worlds import tiny_lam


def test_shuffling_never_keeps_a_pair_that_has_others():
    groups = np.array([4, 4, 4, 2, 9, 9])
    partner = derangement(groups, torch.Generator().manual_seed(0))
    assert sorted(partner.tolist()) == list(range(6))
    assert (partner == torch.arange(6)).tolist() == [False, False, False, True, False, False]
    assert groups[partner.numpy()].tolist() == groups.tolist()


def test_wide_features_are_pooled_over_the_grid():
    model = tiny_lam(image_size=64)  # 4 x 4 patches of 768 numbers
    assert pooled_side(model, 16 * 768) == 4
    assert pooled_side(model, 16 * 768 - 1) == 3
    assert pooled_side(model, 1) == 1
    features = torch.rand(2, 16, 768)
    torch.testing.assert_close(pool(features, model, 1), features.mean(1))
    torch.testing.assert_close(pool(features, model, 2)[:, :768], features[:, [0, 1, 4, 5]].mean(1))
