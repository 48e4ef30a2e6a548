"""Controls without learning: residual k-means, uniform bins, and joint entropy that sees tokens repeat."""

import math

import pytest
import torch

from lattok.evaluation.evidence.tokenizer_evidence import Scale, Usage, level_allocation
from lattok.evaluation.evidence.unlearned import ResidualKMeans


def test_residual_kmeans_reconstructs_sums_of_two_grids():
    generator = torch.Generator().manual_seed(0)
    coarse = torch.tensor([[-10.0, 0.0], [10.0, 0.0], [0.0, 30.0]])
    fine = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])  # their mean is not zero: the coarse book absorbs it
    pick = torch.randint(3, (2, 400), generator=generator)
    vectors = coarse[pick[0]] + fine[pick[1]]
    kmeans = ResidualKMeans.fit(vectors, 3, levels=2)
    codes = kmeans.encode(vectors)
    assert codes.shape == (400, 2)
    assert codes.dtype == torch.int64
    torch.testing.assert_close(kmeans.decode(codes), vectors, atol=0.15, rtol=0)
    one_level = ResidualKMeans.fit(vectors, 3)
    assert (one_level.decode(one_level.encode(vectors)) - vectors).square().mean() > 0.1


def test_levels_are_those_that_are_raised_one_by_one():
    sizes = [*range(1, 300), *(root**dims + more for root in (3, 7, 100) for dims in (2, 3, 5) for more in (-1, 0, 1))]
    for dims in (1, 2, 3, 5, 7, 12):
        for size in (size for size in sizes if size ** (1 / dims) < 3000):
            levels, turn = [1] * dims, 0
            while math.prod([*levels[:turn], levels[turn] + 1, *levels[turn + 1 :]]) <= size:
                levels[turn] += 1
                turn = (turn + 1) % dims
            assert level_allocation(dims, size) == tuple(levels)
    assert level_allocation(1, 2**53) == (2**53,)
    for dims, root in ((2, 3**19), (3, 10**6), (7, 2**9 - 1), (40, 2)):
        assert level_allocation(dims, root**dims) == (root,) * dims
        assert level_allocation(dims, root**dims - 1)[-1] == root - 1


def test_uniform_bins_are_the_percentile_range_cut_in_equal_parts():
    actions = torch.linspace(0, 100, 101)[:, None]  # 1st and 99th percentile are 1 and 99
    steps = torch.tensor([[-50.0], [1.0], [25.4], [25.6], [98.0], [1000.0]])
    centres = Scale.fit(actions, ("x",)).binned(steps, 4).flatten()
    torch.testing.assert_close(centres, torch.tensor([13.25, 13.25, 13.25, 37.75, 86.75, 86.75]))


def test_dimensions_that_never_move_water_down_no_error_and_take_no_bins():
    """As the unused joints of many datasets: the mean action errs by 1, and all bins are those of what moves."""
    actions = torch.zeros(500, 8)
    actions[:, [2, 5]] = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
    scale, alone = (Scale.fit(each, tuple(map(str, range(each.shape[1])))) for each in (actions, actions[:, [2, 5]]))
    mean = scale.errors(actions.mean(0).expand_as(actions), actions)
    assert mean.error == pytest.approx(1, abs=1e-5)
    assert mean.normalised_l1 == pytest.approx(
        float((actions / actions.std(0, False)).nan_to_num(0.0).abs().sum() / 1000), abs=0.02
    )
    bins, own = scale.binned(actions, 256), alone.binned(actions[:, [2, 5]], 256)
    torch.testing.assert_close(bins[:, [2, 5]], own)
    assert scale.errors(bins, actions).error == pytest.approx(alone.errors(own, actions[:, [2, 5]]).error)
    still = Scale.fit(torch.ones(9, 2), ("x", "y"))
    assert still.errors(torch.ones(9, 2), torch.ones(9, 2)).error == 0


def test_padding_is_not_a_code():
    codes = torch.tensor([[0, 1, -1], [2, -1, -1]])
    usage = Usage.measure(codes, codes, 8)
    assert usage.held_out.used == usage.train.used == [3]
    assert usage.held_out.perplexity[0] == pytest.approx(3)


def test_a_position_with_a_codebook_of_its_own_is_counted_by_itself():
    codes = torch.stack([torch.arange(8).repeat(4), torch.zeros(32, dtype=torch.long)], 1)
    assert Usage.measure(codes, codes, 8).train.used == [8]
    assert Usage.measure(codes, codes, 8, shared=False).train.used == [8, 1]
