"""Residual codes of chunks: search against brute force, least squares, prefixes, total decoding, artefacts."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lattok.action_vq.coarse import Limits, synthetic, value_range, with_synthetic
from lattok.action_vq.residual import (
    BLOCK,
    ITERATIONS,
    ResidualVQ,
    ResidualVQConfig,
    by_mask,
    least_squares,
    refit,
    search,
)
from lattok.nn.kmeans import residual_kmeans
from lattok.utils.checks import LattokError

SMALL = {"tokens": 4, "codebook_size": 16, "synthetic": 300, "steps": 2}


def smooth(n: int = 300, steps: int = 6, dims: int = 3, seed: int = 0) -> torch.Tensor:
    """Random walks that saturate at 1 in the first dimension."""
    generator = torch.Generator().manual_seed(seed)
    chunks = torch.randn(n, steps, dims, generator=generator).cumsum(1) * 0.3 + torch.arange(dims)
    chunks[..., 0] = chunks[..., 0].clamp(-1, 1)
    return chunks


def whole(chunks: torch.Tensor) -> torch.Tensor:
    return torch.ones(chunks.shape, dtype=torch.bool)


@pytest.fixture(scope="module")
def tokenizer() -> ResidualVQ:
    return ResidualVQ.fit(smooth(), **SMALL)


def error(tokenizer: ResidualVQ, chunks: torch.Tensor, codes: torch.Tensor) -> float:
    return float(((tokenizer.decode(codes) - chunks) / tokenizer.normalizer.scale).square().mean())


def test_every_code_makes_the_reconstruction_finer(tokenizer):
    chunks = smooth()
    codes = tokenizer.encode(chunks)
    assert codes.shape == (300, 4)
    assert codes.dtype == torch.int64
    assert not tokenizer.shared_vocabulary
    errors = [error(tokenizer, chunks, codes[:, :p]) for p in range(5)]
    assert errors == sorted(errors, reverse=True)
    assert errors[4] < 0.15 * errors[0]
    assert error(tokenizer, smooth(seed=1), tokenizer.encode(smooth(seed=1))) < 0.3 * errors[0]


def test_decoding_is_a_sum_of_rows_cut_off_where_actions_saturate(tokenizer):
    codes = tokenizer.encode(smooth())
    rows = sum(tokenizer.codebooks[level, codes[:, level]] for level in range(4)).view(-1, 6, 3)
    rows[..., 0] = torch.minimum(torch.maximum(rows[..., 0], tokenizer.limits.low[0]), tokenizer.limits.high[0])
    torch.testing.assert_close(tokenizer.decode(codes), tokenizer.normalizer.inverse(rows))
    assert torch.isinf(tokenizer.limits.high[1:]).all()  # random walks have no limit
    torch.testing.assert_close(tokenizer.decode(codes)[..., 0].abs().max(), torch.tensor(1.0))


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


def test_more_beams_reconstruct_better():
    chunks, errors = smooth(), []
    for beams in (1, 4, 16):
        tokenizer = ResidualVQ.fit(chunks, **SMALL, beams=beams)
        errors.append(error(tokenizer, chunks, tokenizer.encode(chunks)))
    assert errors[2] < errors[1] < errors[0]


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


def test_the_end_of_a_row_may_be_missing_and_bad_codes_cut_it(tokenizer):
    codes = tokenizer.encode(smooth(3))
    damaged = codes.clone()
    damaged[0, 2], damaged[1, 0], damaged[2, 3] = 16, -5, -1
    chunks, info = tokenizer.decode(damaged, return_info=True)
    torch.testing.assert_close(chunks[0], tokenizer.decode(codes[:1, :2])[0])
    torch.testing.assert_close(chunks[1], tokenizer.normalizer.shift.expand(6, 3))
    torch.testing.assert_close(chunks[2], tokenizer.decode(codes[2:, :3])[0])
    assert info.notes == (
        "1 outside 0..15; decoded from the first 2",
        "1 outside 0..15; decoded from the first 0",
        "1 of 4 codes missing; decoded from the first 3",
    )
    _, info = tokenizer.decode(codes[:, :1], return_info=True)
    assert info.notes == ("3 of 4 codes missing; decoded from the first 1",) * 3
    assert not tokenizer.decode(codes, return_info=True)[1].repaired.any()


@settings(max_examples=80)
@given(rows=st.lists(st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-2, 17), max_size=8), max_size=5))
def test_every_integer_sequence_decodes(tokenizer, rows):
    chunks, info = tokenizer.decode(rows, return_info=True)
    assert chunks.shape == (len(rows), 6, 3)
    assert torch.isfinite(chunks).all()
    for row, repaired in zip(rows, info.repaired, strict=True):
        legal = len(row) >= 4 and all(0 <= code < 16 for code in row[:4])
        assert bool(repaired) == (not legal or any(code != -1 for code in row[4:]))


@pytest.mark.parametrize("odd", [-2, -(2**63), -(2**80), 2**80])
def test_only_minus_one_is_padding(tokenizer, odd):
    for row in ([0, 0, 0, 0, odd], [0, 0, 0, odd]):
        _, info = tokenizer.decode([row], return_info=True)
        assert info.repaired.tolist() == [True]
    assert "1 codes too many" in tokenizer.decode([[0, 0, 0, 0, odd]], return_info=True)[1].notes[0]
    assert "1 outside 0..15" in tokenizer.decode([[0, 0, 0, odd]], return_info=True)[1].notes[0]
    assert not tokenizer.decode([[0, 0, 0, 0, -1]], return_info=True)[1].repaired.any()


def test_masked_steps_and_dimensions_change_nothing_whatever_they_hold():
    chunks = smooth(100)
    mask = whole(chunks)
    mask[::3, :, 2] = False
    mask[1::3, 4:] = False
    tables, codes = [], []
    for filling in (0.0, 1e6, float("nan")):
        tokenizer = ResidualVQ.fit(chunks.masked_fill(~mask, filling), mask, **SMALL)
        tables.append(tokenizer.table)
        codes.append(tokenizer.encode(chunks.masked_fill(~mask, filling), mask))
    assert torch.equal(tables[0], tables[1])
    assert torch.equal(tables[0], tables[2])
    assert torch.equal(codes[0], codes[1])
    assert torch.equal(codes[0], codes[2])


def test_codes_are_chosen_by_what_is_there(tokenizer):
    actions, garbage = tokenizer._prepare(smooth(), None)[0], 10 * torch.randn(300, 6, 3)
    mask = whole(actions)
    mask[::3, 2:] = False
    mask[1::3, :, 1] = False

    def errors(codes: torch.Tensor) -> torch.Tensor:
        return ((tokenizer._decode(codes) - actions).square() * mask).sum((1, 2))

    codes = tokenizer._encode(actions, mask)
    assert torch.equal(tokenizer._encode(torch.where(mask, actions, garbage), mask), codes)
    assert torch.equal(tokenizer._encode(actions, whole(actions)), tokenizer._encode(actions))
    assert torch.equal(codes[2::3], tokenizer._encode(actions)[2::3])
    blind = errors(tokenizer._encode(actions))
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
        for rows, one in by_mask(valid):
            assert len(valid[rows]) <= BLOCK
            assert (valid[rows] == one).all()
            seen[rows] += 1
        assert (seen == 1).all()


def test_datasets_of_other_shapes_are_fitted_together():
    large, small = smooth(100), smooth(80, steps=4, dims=2, seed=3)
    tokenizer = ResidualVQ.fit([large, small], **SMALL)
    padded = torch.nn.functional.pad(small, (0, 1))
    codes = tokenizer.encode(padded, whole(padded) & torch.tensor([True, True, False]))
    decoded = tokenizer.decode(codes)[:, :4, :2]
    assert (decoded - small).square().mean() < 0.3 * small.var()


def test_the_seed_decides_everything(tokenizer):
    torch.rand(3)
    state = torch.get_rng_state()
    assert torch.equal(ResidualVQ.fit(smooth(), **SMALL).table, tokenizer.table)
    assert torch.equal(torch.get_rng_state(), state)  # the global generator plays no part
    assert not torch.equal(ResidualVQ.fit(smooth(), **SMALL, seed=1).table, tokenizer.table)


def test_odd_sizes_work(tokenizer):
    assert tokenizer.encode(torch.zeros(0, 6, 3)).shape == (0, 4)
    assert tokenizer.decode(torch.zeros(0, 4, dtype=torch.long)).shape == (0, 6, 3)
    assert tokenizer.decode(torch.zeros(2, 0, dtype=torch.long)).shape == (2, 6, 3)
    tiny = ResidualVQ.fit(torch.ones(2, 1, 1), tokens=2, codebook_size=4, synthetic=0)
    torch.testing.assert_close(tiny.decode(tiny.encode(torch.ones(1, 1, 1))), torch.ones(1, 1, 1))
    half = smooth(5).half().transpose(0, 1).contiguous().transpose(0, 1)
    assert torch.equal(tokenizer.encode(half), tokenizer.encode(half.float().contiguous()))


def test_synthetic_chunks_stay_inside_the_data_and_leave_absent_dimensions_out():
    actions = smooth()
    mask = whole(actions)
    mask[..., 2] = False
    actions[..., 2] = 0.0
    made = synthetic(actions, mask, 1000, torch.Generator().manual_seed(0))
    low, high = value_range(actions, mask)
    assert ((made >= low) & (made <= high)).all()
    assert (made[..., 2] == 0).all()
    assert made[..., :2].std() > 0.5 * actions[..., :2].std()
    joined, joined_mask = with_synthetic(actions, mask, 50, torch.Generator().manual_seed(0))
    assert torch.equal(joined[:300], actions)
    assert torch.equal(joined_mask.any(1).any(0), torch.tensor([True, True, False]))


def test_only_values_that_actions_often_stop_at_are_limits():
    actions = torch.linspace(-1, 1, 1000).view(-1, 1, 1).repeat(1, 1, 2)
    actions[:50, :, 1], actions[-5:, :, 1] = -1.0, 1.0
    limits = Limits(2)
    limits.fit(actions, whole(actions))
    assert torch.isinf(limits.high).all()
    assert limits.low.tolist() == [-torch.inf, -1.0]
    assert limits.beyond(torch.tensor([[[-3.0, -3.0]]]), torch.ones(1, 1, 2, dtype=torch.bool)) == 0.5


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: ResidualVQ.fit(smooth(4), steps=-1), "`steps`: expected a whole number of at least 0, got -1"),
        (lambda: ResidualVQ.fit(smooth(4), steps=2.5), "`steps`: expected a whole number of at least 0, got 2.5"),
        (lambda: ResidualVQ.fit(smooth(4), synthetic=-1), "`synthetic`: expected a whole number of at least 0"),
        (lambda: ResidualVQ.fit(smooth(4), synthetic=10.5), "`synthetic`: expected a whole number .*, got 10.5"),
        (lambda: ResidualVQ.fit(smooth(0)), "`chunks`: expected at least one chunk, got none"),
        (lambda: ResidualVQ.fit(smooth(4), levels=3), "`options`: expected names among .*codebook_size.*, got levels"),
        (lambda: ResidualVQConfig(3, beams=0), "`beams`: expected a whole number of at least 1, got 0"),
        (lambda: ResidualVQConfig(3, codebook_size=1), "`codebook_size`: expected a whole number of at least 2, got 1"),
        (lambda: ResidualVQConfig(3, tokens=0), "`tokens`: expected a whole number of at least 1, got 0"),
    ],
)
def test_wrong_use_is_named(call, text):
    with pytest.raises(LattokError, match=text):
        call()
