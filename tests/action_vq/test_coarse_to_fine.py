"""What holds for every family whose codes go from coarse to fine: prefixes, repairs, masks, seeds, odd sizes;
limits, and synthetic chunks."""

import pytest
import torch

from lattok.action_vq.chunks import value_range
from lattok.action_vq.coarse_to_fine import CoarseToFine, Limits, synthetic, with_synthetic
from lattok.action_vq.quest import QueST
from tests.action_vq.families import cases, learned, learning, small
from tests.action_vq.walks import saturating, whole
from tests.errors import refused

FAMILIES = {name: family for name, (family, _) in cases(False).items() if issubclass(family, CoarseToFine)}
PREFIXES = (0, 1, 2, 4)  # OAT learns powers of two alone


@pytest.fixture(params=FAMILIES)
def tokenizer(request) -> CoarseToFine:
    return learned(request.param)


def error(tokenizer: CoarseToFine, chunks: torch.Tensor, codes: torch.Tensor) -> float:
    return float(((tokenizer.decode(codes) - chunks) / tokenizer.normalizer.scale).square().mean())


def weights(tokenizer: CoarseToFine) -> str:
    return tokenizer.describe()["weights_sha256"]


def test_every_code_makes_the_reconstruction_finer(tokenizer):
    chunks, others = saturating(), saturating(seed=1)
    codes = tokenizer.encode(chunks)
    assert codes.shape == (300, 4)
    assert codes.dtype == torch.int64
    assert len(codes.unique()) == 16
    assert not tokenizer.shared_vocabulary
    errors = [error(tokenizer, chunks, codes[:, :p]) for p in PREFIXES]
    assert errors[0] == pytest.approx(1.0, abs=1e-3)  # the mean action
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.5
    assert tokenizer.decode(codes)[..., 0].abs().max() <= 1 + 1e-5  # where the first dimension saturates
    assert error(tokenizer, others, tokenizer.encode(others)) < 0.6


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


@pytest.mark.parametrize("odd", [-2, -(2**63), -(2**80), 2**80])
def test_only_minus_one_is_padding(tokenizer, odd):
    for row in ([0, 0, 0, 0, odd], [0, 0, 0, odd]):
        _, info = tokenizer.decode([row], return_info=True)
        assert info.repaired.tolist() == [True]
    assert "1 codes too many" in tokenizer.decode([[0, 0, 0, 0, odd]], return_info=True)[1].notes[0]
    assert "1 outside 0..15" in tokenizer.decode([[0, 0, 0, odd]], return_info=True)[1].notes[0]
    assert not tokenizer.decode([[0, 0, 0, 0, -1]], return_info=True)[1].repaired.any()


@pytest.mark.parametrize("family", [*FAMILIES.values(), QueST])
def test_masked_steps_and_dimensions_change_nothing_whatever_they_hold(family):
    chunks = saturating(100)
    mask = whole(chunks)
    mask[::3, :, 2] = False
    mask[1::3, 4:] = False
    options = learning(family) | {"steps": 2}
    given = [chunks.masked_fill(~mask, filling) for filling in (0.0, 1e6, float("nan"))]
    fitted = [family.fit(each, mask, **options) for each in given]
    assert len({weights(each) for each in fitted}) == 1
    codes = [each.encode(values, mask) for each, values in zip(fitted, given, strict=True)]
    assert all(torch.equal(each, codes[0]) for each in codes)


def test_odd_sizes_work(tokenizer):
    assert tokenizer.decode(torch.zeros(2, 0, dtype=torch.long)).shape == (2, 6, 3)
    chunks = saturating()
    assert torch.equal(tokenizer.encode(chunks, whole(chunks)), tokenizer.encode(chunks))
    few = {"tokens": 2, "codebook_size": 4, "steps": 40, "synthetic": 0, "lr": 0.01}
    tiny = type(tokenizer).fit(torch.ones(2, 1, 1), **learning(type(tokenizer)) | small(type(tokenizer), few))
    torch.testing.assert_close(tiny.decode(tiny.encode(torch.ones(1, 1, 1))), torch.ones(1, 1, 1), rtol=0, atol=0.05)


@pytest.mark.parametrize("family", FAMILIES.values())
@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"steps": 2.5}, "`steps`: expected a whole number of at least ., got 2.5"),
        ({"steps": -1}, "`steps`: expected a whole number of at least ., got -1"),
        ({"synthetic": -1}, "`synthetic`: expected a whole number of at least 0, got -1"),
        ({"synthetic": 10**25}, "`synthetic`: expected at most 1,000,000,000, got 10000000000000000000000000"),
        ({"synthetic": 10.5}, "`synthetic`: expected a whole number of at least 0, got 10.5"),
        ({"sizes": 3}, "`options`: expected names among .*tokens.*, got sizes"),
    ],
)
def test_options_of_fit_that_make_no_sense_are_named(family, options, text):
    if "synthetic" in options and not small(family, options):  # it learns from the given chunks alone
        text = "`options`: expected names among .*tokens.*, got synthetic"
    refused(text, lambda: family.fit(saturating(4), **options))


def test_synthetic_chunks_stay_inside_the_data_and_leave_absent_dimensions_out():
    actions = saturating()
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
    assert limits(torch.tensor([[[-3.0, -3.0]]])).tolist() == [[[-3.0, -1.0]]]
