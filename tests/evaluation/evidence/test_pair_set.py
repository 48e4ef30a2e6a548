"""Pairs of frames: features pooled over the grid, and pairs exchanged for others."""

from types import SimpleNamespace

import numpy as np
import torch

from lattok.evaluation.evidence.pair_set import Sight, derangement
from tests.evaluation.worlds import tiny_lam


def test_shuffling_never_keeps_a_pair_that_has_others():
    groups = np.array([4, 4, 4, 2, 9, 9])
    partner = derangement(groups, torch.Generator().manual_seed(0))
    assert sorted(partner.tolist()) == list(range(6))
    assert (partner == torch.arange(6)).tolist() == [False, False, False, True, False, False]
    assert groups[partner.numpy()].tolist() == groups.tolist()


def test_wide_features_are_pooled_over_the_grid():
    model = tiny_lam(image_size=64)  # 4 x 4 patches of 768 numbers
    sight = Sight.of(model)
    assert (sight.side(16 * 768), sight.side(16 * 768 - 1), sight.side(1)) == (4, 3, 1)
    features = torch.rand(2, 16, 768)
    torch.testing.assert_close(sight.pool(features, 1), features.mean(1))
    torch.testing.assert_close(sight.pool(features, 2)[:, :768], features[:, [0, 1, 4, 5]].mean(1))


def test_of_a_model_without_features_controls_see_pixels():
    model = SimpleNamespace(cameras=("left", "right"))
    sight = Sight.of(model)  # type: ignore[arg-type]
    frames = torch.randint(256, (3, 2, 48, 80, 3), dtype=torch.uint8)  # t v h w 3, of any size
    seen = sight.pool(sight(frames), 1).unflatten(1, (2, 16, 16, 3))  # the mean patch of each camera
    mean, std = sight.features.mean, sight.features.std
    wanted = (frames.float().mean((2, 3)) / 255 - mean) / std
    torch.testing.assert_close(seen.mean((2, 3)), wanted, atol=0.02, rtol=0)
