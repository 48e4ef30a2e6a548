"""Residual codes of chunks: search against brute force, least squares, masks."""

import itertools

import pytest
import torch

from lattok.action_vq.residual import (
    BLOCK,
    ITERATIONS,
    MOST_SUMS,
    ResidualVQ,
    ResidualVQConfig,
    by_mask,
    least_squares,
    refit,
    search,
)
from lattok.nn.kmeans import residual_kmeans
from tests.action_vq.walks import saturating, whole
from tests.errors import refused


def test_decoding_is_a_sum_of_rows_cut_off_where_actions_saturate(residual):
    codes = residual.encode(saturating())
    rows = sum(residual.codebooks[level, codes[:, level]] for level in range(4)).view(-1, 6, 3)
    rows[..., 0] = torch.minimum(torch.maximum(rows[..., 0], residual.limits.low[0]), residual.limits.high[0])
    torch.testing.assert_close(residual.decode(codes), residual.normalizer.inverse(rows))
    assert torch.isinf(residual.limits.high[1:]).all()  # random walks have no limit
    torch.testing.assert_close(residual.decode(codes)[..., 0].abs().max(), torch.tensor(1.0))


def test_a_wide_search_finds_the_best_of_all_rows_of_codes():
    generator = torch.Generator().manual_seed(0)
    books, targets = torch.randn(3, 4, 5, generator=generator), torch.randn(40, 5, generator=generator)
    rows = torch.tensor(list(itertools.product(range(4), repeat=3)))
    sums = sum(books[level, rows[:, level]] for level in range(3))
    best = torch.cdist(targets.double(), sums.double()).argmin(1)
    codes, found = search(targets, books, beams=16)
    assert torch.equal(codes[:, 0], rows[best])
    torch.testing.assert_close(found[:, 0], sums[best])
    distance = (found - targets[:, None]).square().sum(-1)
    assert (distance[:, 1:] >= distance[:, :-1] - 1e-5).all()
    for b in range(40):  # all kept rows differ and stand for what they say
        assert len(torch.unique(codes[b], dim=0)) == 16
    torch.testing.assert_close(found, sum(books[level][codes[..., level]] for level in range(3)))


def test_one_beam_gives_the_codes_of_vector_quantize_pytorch():
    import vector_quantize_pytorch

    generator = torch.Generator().manual_seed(0)
    books, targets = torch.randn(4, 16, 6, generator=generator), torch.randn(200, 6, generator=generator)
    other = vector_quantize_pytorch.ResidualVQ(dim=6, num_quantizers=4, codebook_size=16).eval()
    for layer, book in zip(other.layers, books, strict=True):
        layer._codebook.embed.data.copy_(book[None])
        layer._codebook.initted.fill_(1)
    expected, indices, _ = other(targets[None])
    codes, found = search(targets, books, beams=1)
    assert torch.equal(codes[:, 0], indices[0])
    torch.testing.assert_close(found[:, 0], expected[0])


def test_refitting_lowers_the_error_of_the_sums():
    generator = torch.Generator().manual_seed(0)
    samples = torch.randn(2000, 4, generator=generator)
    books, errors = residual_kmeans(samples, 8, 3, ITERATIONS, generator), []
    for _ in range(4):
        errors.append(float((search(samples, books, 8)[1][:, 0] - samples).square().mean()))
        books = refit(samples, whole(samples), books)
    assert errors == sorted(errors, reverse=True)


def test_coordinate_descent_approaches_least_squares():
    generator = torch.Generator().manual_seed(0)
    samples = torch.randn(500, 4, generator=generator)
    books = residual_kmeans(samples, 3, 2, ITERATIONS, generator)
    codes = search(samples, books, 2)[0][:, 0]
    mask = torch.rand(samples.shape, generator=generator) < torch.tensor([1.0, 0.9, 0.5, 0.2])
    for _ in range(50):
        books = least_squares(samples.masked_fill(~mask, 1e3), mask, codes, books, inertia=0.5)
    design = torch.cat([torch.nn.functional.one_hot(code, 3) for code in codes.T], 1).double()
    sums = books[0][codes[:, 0]] + books[1][codes[:, 1]]
    for i, there in enumerate(mask.T):  # every entry has an equation system of its own
        expected = design @ (torch.linalg.pinv(design[there]) @ samples[there, i].double())
        torch.testing.assert_close(sums[there, i], expected[there].float(), rtol=1e-3, atol=1e-3)


def test_codes_are_chosen_by_what_is_there(residual):
    actions, garbage = residual._prepare(saturating(), None)[0], 10 * torch.randn(300, 6, 3)
    mask = whole(actions)
    mask[::3, 2:] = False
    mask[1::3, :, 1] = False

    def errors(codes: torch.Tensor) -> torch.Tensor:
        return ((residual._decode(codes) - actions).square() * mask).sum((1, 2))

    codes = residual._encode(actions, mask)
    assert torch.equal(residual._encode(torch.where(mask, actions, garbage), mask), codes)
    assert torch.equal(residual._encode(actions, whole(actions)), residual._encode(actions))
    assert torch.equal(codes[2::3], residual._encode(actions)[2::3])
    blind = errors(residual._encode(actions))
    for part in (slice(0, None, 3), slice(1, None, 3)):
        assert errors(codes)[part].mean() < 0.8 * blind[part].mean()


def test_a_wide_search_finds_the_best_decoding_of_what_is_there():
    torch.manual_seed(0)
    model = ResidualVQ(ResidualVQConfig(2, horizon=3, tokens=2, codebook_size=4, beams=16))
    model.table[:-1] = torch.randn(8, 6)
    model.limits.high[:] = 0.5
    rows = torch.tensor(list(itertools.product(range(4), repeat=2)))
    actions, mask = torch.randn(40, 3, 2), torch.arange(3)[:, None] < torch.randint(1, 4, (40, 1, 1))
    distance = ((model._decode(rows) - actions[:, None]).square() * mask[:, None]).sum((2, 3))
    codes = model._encode(actions, mask.expand_as(actions))
    found = ((model._decode(codes) - actions).square() * mask).sum((1, 2))
    torch.testing.assert_close(found, distance.amin(1))


def test_refits_do_not_learn_what_lies_under_a_mask():
    generator = torch.Generator().manual_seed(0)
    samples = torch.randn(2000, 4, generator=generator)
    books, mask = residual_kmeans(samples, 8, 3, ITERATIONS, generator), whole(samples)
    mask[::2, 2:] = False
    refitted = refit(samples, mask, books)
    assert torch.equal(refit(samples.masked_fill(~mask, -7.0), mask, books), refitted)
    assert not torch.equal(refit(samples, whole(samples), books), refitted)


def test_by_mask_gives_every_row_once_with_its_mask():
    mask = torch.rand(3000, 3, generator=torch.Generator().manual_seed(0)) < 0.8
    for valid in (mask, torch.ones_like(mask), mask[:0]):
        seen = torch.zeros(len(valid), dtype=torch.long)
        for rows, one in by_mask(valid, 1):
            assert len(valid[rows]) <= BLOCK
            assert (valid[rows] == one).all()
            seen[rows] += 1
        assert (seen == 1).all()


def test_wide_searches_take_fewer_chunks_at_a_time():
    """A small file asked for 64 GB: beams are written nowhere but in its config.json."""
    for valid in (torch.ones(50, 3, dtype=torch.bool), torch.rand(50, 3) < 0.5):
        most = max(len(valid[rows]) for rows, _ in by_mask(valid, MOST_SUMS // 4))
        assert most <= 4
    assert len([*by_mask(valid, 2 * MOST_SUMS)]) == len(valid)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: ResidualVQConfig(3, beams=0), "`beams`"),
        (lambda: ResidualVQConfig(3, codebook_size=1), "`codebook_size`"),
        (lambda: ResidualVQConfig(3, codebook_size=2**40), "`codebook_size`"),
        (lambda: ResidualVQConfig(3, tokens=10**9), "of all tokens, got 1,000,000,000 times 256"),
        (lambda: ResidualVQConfig(3, tokens=0), "`tokens`"),
    ],
)
def test_wrong_use_is_named(call, text):
    refused(text, call)
