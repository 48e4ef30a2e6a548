"""What holds for every family whose codes go from coarse to fine: prefixes, repairs, masks, seeds, odd sizes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lattok import FSQ, ResidualVQ
from lattok.utils.checks import LattokError
from tests.action_vq import walks
from tests.action_vq.walks import saturating, whole

OPTIONS = {ResidualVQ: walks.RESIDUAL, FSQ: walks.FSQ}


@pytest.fixture(params=["residual", "fsq"])
def tokenizer(request) -> ResidualVQ | FSQ:
    return request.getfixturevalue(request.param)


def error(tokenizer: ResidualVQ | FSQ, chunks: torch.Tensor, codes: torch.Tensor) -> float:
    return float(((tokenizer.decode(codes) - chunks) / tokenizer.normalizer.scale).square().mean())


def weights(tokenizer: ResidualVQ | FSQ) -> str:
    return tokenizer.describe()["weights_sha256"]


def test_every_code_makes_the_reconstruction_finer(tokenizer):
    chunks, others = saturating(), saturating(seed=1)
    codes = tokenizer.encode(chunks)
    assert codes.shape == (300, 4)
    assert codes.dtype == torch.int64
    assert len(codes.unique()) == 16
    assert not tokenizer.shared_vocabulary
    errors = [error(tokenizer, chunks, codes[:, :p]) for p in range(5)]
    assert errors == sorted(errors, reverse=True)
    assert errors[4] < (0.15 if isinstance(tokenizer, ResidualVQ) else 0.25) * errors[0]
    assert error(tokenizer, others, tokenizer.encode(others)) < 0.3 * errors[0]


def test_the_end_of_a_row_may_be_missing_and_bad_codes_cut_it(tokenizer):
    codes = tokenizer.encode(saturating(3))
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
def test_every_integer_sequence_decodes(residual, fsq, rows):
    for tokenizer in (residual, fsq):
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


@pytest.mark.parametrize("family", OPTIONS)
def test_masked_steps_and_dimensions_change_nothing_whatever_they_hold(family):
    chunks = saturating(100)
    mask = whole(chunks)
    mask[::3, :, 2] = False
    mask[1::3, 4:] = False
    options = OPTIONS[family] | ({"steps": 5} if family is FSQ else {})
    given = [chunks.masked_fill(~mask, filling) for filling in (0.0, 1e6, float("nan"))]
    fitted = [family.fit(each, mask, **options) for each in given]
    assert len({weights(each) for each in fitted}) == 1
    codes = [each.encode(values, mask) for each, values in zip(fitted, given, strict=True)]
    assert all(torch.equal(each, codes[0]) for each in codes)


def test_the_seed_decides_everything(tokenizer):
    family = type(tokenizer)
    torch.rand(3)
    state = torch.get_rng_state()
    assert weights(family.fit(saturating(), **OPTIONS[family])) == weights(tokenizer)
    assert torch.equal(torch.get_rng_state(), state)  # the caller's generator is left alone
    other = family.fit(saturating(), **OPTIONS[family], seed=1)
    assert not torch.equal(other.encode(saturating()), tokenizer.encode(saturating()))


def test_odd_sizes_work(tokenizer):
    assert tokenizer.decode(torch.zeros(2, 0, dtype=torch.long)).shape == (2, 6, 3)
    chunks = saturating()
    assert torch.equal(tokenizer.encode(chunks, whole(chunks)), tokenizer.encode(chunks))
    more = {"steps": 2, "hidden": 4} if isinstance(tokenizer, FSQ) else {}
    tiny = type(tokenizer).fit(torch.ones(2, 1, 1), tokens=2, codebook_size=4, synthetic=0, **more)
    torch.testing.assert_close(tiny.decode(tiny.encode(torch.ones(1, 1, 1))), torch.ones(1, 1, 1), rtol=0, atol=0.05)


@pytest.mark.parametrize("family", OPTIONS)
@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"steps": 2.5}, "`steps`: expected a whole number of at least ., got 2.5"),
        ({"steps": -1}, "`steps`: expected a whole number of at least ., got -1"),
        ({"synthetic": -1}, "`synthetic`: expected a whole number of at least 0, got -1"),
        ({"synthetic": 10.5}, "`synthetic`: expected a whole number of at least 0, got 10.5"),
        ({"levels": 3}, "`options`: expected names among .*codebook_size.*, got levels"),
    ],
)
def test_options_of_fit_that_make_no_sense_are_named(family, options, text):
    with pytest.raises(LattokError, match=text):
        family.fit(saturating(4), **options)
