"""Finite scalar codes of chunks: bit allocation, packing against vector-quantize-pytorch, gradients, prefixes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lattok.action_vq.fsq import FSQ, FSQConfig, principal_axes
from lattok.types import ActionBatch
from lattok.utils.checks import LattokError

SMALL = {"tokens": 4, "codebook_size": 16, "hidden": 32, "synthetic": 300, "steps": 60, "batch_size": 64}


def smooth(n: int = 300, steps: int = 6, dims: int = 3, seed: int = 0) -> torch.Tensor:
    """Random walks that saturate at 1 in the first dimension."""
    generator = torch.Generator().manual_seed(seed)
    chunks = torch.randn(n, steps, dims, generator=generator).cumsum(1) * 0.3 + torch.arange(dims)
    chunks[..., 0] = chunks[..., 0].clamp(-1, 1)
    return chunks


@pytest.fixture(scope="module")
def tokenizer() -> FSQ:
    return FSQ.fit(smooth(), **SMALL, device="cpu")


def error(tokenizer: FSQ, chunks: torch.Tensor, codes: torch.Tensor) -> float:
    return float(((tokenizer.decode(codes) - chunks) / tokenizer.normalizer.scale).square().mean())


def test_every_code_makes_the_reconstruction_finer(tokenizer):
    chunks = smooth()
    codes = tokenizer.encode(chunks)
    assert codes.shape == (300, 4)
    assert codes.dtype == torch.int64
    assert len(codes.unique()) == 16
    errors = [error(tokenizer, chunks, codes[:, :p]) for p in range(5)]
    assert errors == sorted(errors, reverse=True)
    assert errors[4] < 0.25 * errors[0]


def test_training_improves_on_the_linear_start(tokenizer):
    untrained = FSQ.fit(smooth(), **{**SMALL, "steps": 1}, lr=1e-9)
    chunks = smooth(seed=1)
    before = error(untrained, chunks, untrained.encode(chunks))
    assert error(tokenizer, chunks, tokenizer.encode(chunks)) < 0.9 * before


def test_each_bit_goes_to_the_component_with_the_largest_error():
    config = FSQConfig(2, horizon=2, tokens=3, codebook_size=4)
    # errors 16 9 1 1 -> 4 9 -> 4 2.25 -> 1 2.25 -> 1 .56 -> .25 .56 1 1: the first of equals
    assert config.give_bits(torch.tensor([16.0, 9.0, 1.0, 1.0])) == (0, 1, 0, 1, 0, 2)
    constant = config.give_bits(torch.zeros(4))
    assert sorted(constant) == [0, 0, 1, 1, 2, 3]


def test_codes_hold_the_level_indices_of_vector_quantize_pytorch(tokenizer):
    actions = tokenizer._prepare(smooth(), None)[0]
    quantized = tokenizer.rounding.quantize(tokenizer.encoder(actions.flatten(1)))
    expected = tokenizer.rounding._scale_and_shift(quantized).round().long()
    codes, bits = tokenizer.encode(smooth()), tokenizer.config.bits
    for row, levels in zip(codes.tolist(), expected.tolist(), strict=True):
        text = "".join(f"{code:04b}" for code in row)
        got = ["".join(bit for bit, c in zip(text, bits, strict=True) if c == i) for i in range(len(levels))]
        assert [int(digits, 2) for digits in got] == levels
    decoded = tokenizer.limits(tokenizer.decoder(quantized).view(-1, 6, 3))
    torch.testing.assert_close(tokenizer.decode(codes), tokenizer.normalizer.inverse(decoded), rtol=1e-4, atol=1e-4)


def test_an_unknown_bit_decodes_to_the_middle_of_what_is_known():
    torch.manual_seed(0)
    model = FSQ(FSQConfig(1, horizon=1, tokens=2, codebook_size=4, hidden=4))  # one component of 16 levels
    model.decoder.start_from(torch.ones(1, 1), torch.zeros(1))
    got = [float(model.decode([row])) for row in ([0], [1], [3], [2, 1])]
    expected = [2 * level / 15 - 1 for level in (1.5, 5.5, 13.5, 9)]
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_gradient_passes_the_rounding_to_encoder_and_decoder():
    torch.manual_seed(0)
    model = FSQ(FSQConfig(3, horizon=6, tokens=4, codebook_size=16, hidden=8))
    chunks = smooth(20)
    model(ActionBatch(chunks, torch.ones(20, 6, dtype=torch.bool)))["reconstruction"].backward()
    for part in (model.encoder.linear, model.decoder.linear, model.decoder.correction[-1]):
        assert part.weight.grad is not None
        assert part.weight.grad.abs().max() > 0
    assert {name for name, _ in model.named_parameters()} == {
        f"{part}.{layer}.{kind}"
        for part in ("encoder", "decoder")
        for layer in ("linear", "correction.0", "correction.2", "correction.4")
        for kind in ("weight", "bias")
    }


def test_principal_axes_against_numpy():
    rows = smooth().flatten(1)
    mean, variances, axes = principal_axes(rows, torch.ones_like(rows, dtype=torch.bool))
    expected = np.linalg.eigvalsh(np.cov(rows.numpy(), rowvar=False, bias=True))[::-1]
    np.testing.assert_allclose(variances.numpy(), expected, rtol=1e-3, atol=1e-5)
    projected = (rows - mean) @ axes
    torch.testing.assert_close(projected.square().mean(0), variances, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(axes.T @ axes, torch.eye(18), rtol=0, atol=1e-5)


def test_principal_axes_of_what_is_there():
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(4, 4, generator=generator)
    rows = torch.randn(20_000, 4, generator=generator) @ mixing.T + 3
    mask = torch.ones_like(rows, dtype=torch.bool)
    mask[::2, 2:], mask[1::4, 3:] = False, False
    mean, variances, axes = principal_axes(rows.masked_fill(~mask, 1e3), mask)
    torch.testing.assert_close(mean, torch.full((4,), 3.0), rtol=0, atol=0.1)
    torch.testing.assert_close(axes @ variances.diag() @ axes.T, mixing @ mixing.T, rtol=0, atol=0.2)
    never_together = torch.tensor([[True, False], [False, True]]).repeat(50, 1)
    assert torch.isfinite(principal_axes(rows[:100, :2], never_together)[2]).all()


@settings(max_examples=80)
@given(rows=st.lists(st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-2, 17), max_size=8), max_size=5))
def test_every_integer_sequence_decodes(tokenizer, rows):
    chunks, info = tokenizer.decode(rows, return_info=True)
    assert chunks.shape == (len(rows), 6, 3)
    assert torch.isfinite(chunks).all()
    for row, repaired in zip(rows, info.repaired, strict=True):
        legal = len(row) >= 4 and all(0 <= code < 16 for code in row[:4])
        assert bool(repaired) == (not legal or any(code != -1 for code in row[4:]))


def test_bad_codes_cut_the_row(tokenizer):
    codes = tokenizer.encode(smooth(2))
    damaged = codes.clone()
    damaged[0, 2], damaged[1, 0] = 16, -5
    chunks, info = tokenizer.decode(damaged, return_info=True)
    torch.testing.assert_close(chunks[0], tokenizer.decode(codes[:1, :2])[0])
    torch.testing.assert_close(chunks[1], tokenizer.normalizer.shift.expand(6, 3))
    assert info.notes == (
        "1 outside 0..15; decoded from the first 2",
        "1 outside 0..15; decoded from the first 0",
    )


def test_masked_steps_and_dimensions_change_nothing_whatever_they_hold():
    chunks = smooth(100)
    mask = torch.ones(chunks.shape, dtype=torch.bool)
    mask[::3, :, 2] = False
    mask[1::3, 4:] = False
    weights, codes = [], []
    for filling in (0.0, 1e6, float("nan")):
        tokenizer = FSQ.fit(chunks.masked_fill(~mask, filling), mask, **{**SMALL, "steps": 5}, device="cpu")
        weights.append(torch.cat([p.detach().flatten() for p in tokenizer.parameters()]))
        codes.append(tokenizer.encode(chunks.masked_fill(~mask, filling), mask))
    assert torch.equal(weights[0], weights[1])
    assert torch.equal(weights[0], weights[2])
    assert torch.equal(codes[0], codes[1])
    assert torch.equal(codes[0], codes[2])


def test_the_seed_decides_everything(tokenizer):
    torch.rand(3)
    state, codes = torch.get_rng_state(), tokenizer.encode(smooth())
    assert torch.equal(FSQ.fit(smooth(), **SMALL, device="cpu").encode(smooth()), codes)
    assert torch.equal(torch.get_rng_state(), state)  # the caller's generator is left alone
    assert not torch.equal(FSQ.fit(smooth(), **SMALL, device="cpu", seed=1).encode(smooth()), codes)


def test_a_mask_of_everything_changes_no_codes(tokenizer):
    chunks = smooth()
    assert torch.equal(tokenizer.encode(chunks, torch.ones_like(chunks, dtype=torch.bool)), tokenizer.encode(chunks))
    assert not tokenizer.shared_vocabulary


def test_odd_sizes_work(tokenizer):
    assert tokenizer.encode(torch.zeros(0, 6, 3)).shape == (0, 4)
    assert tokenizer.decode(torch.zeros(0, 4, dtype=torch.long)).shape == (0, 6, 3)
    assert tokenizer.decode(torch.zeros(2, 0, dtype=torch.long)).shape == (2, 6, 3)
    tiny = FSQ.fit(torch.ones(2, 1, 1), tokens=2, codebook_size=4, synthetic=0, steps=2, hidden=4)
    torch.testing.assert_close(tiny.decode(tiny.encode(torch.ones(1, 1, 1))), torch.ones(1, 1, 1), rtol=0, atol=0.05)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: FSQConfig(3, codebook_size=100), "`codebook_size`: expected a power of two, got 100"),
        (lambda: FSQConfig(1, horizon=1), r"`tokens`: expected at most 16 bits per number of a chunk \(16\), got 64"),
        (lambda: FSQConfig(3, tokens=1, bits=(0, 1)), "`bits`: expected 8 bits, got 2"),
        (lambda: FSQConfig(3, tokens=1, bits=(0, 2) * 4), r"`bits`: expected components 0, 1, ... without gaps"),
        (lambda: FSQ.fit(smooth(4), bits=(0,)), "`bits` cannot be given, it follows from the chunks"),
        (lambda: FSQ.fit(smooth(4), steps=0), "`steps`: expected a whole number of at least 1, got 0"),
        (lambda: FSQ.fit(smooth(4), synthetic=10.5), "`synthetic`: expected a whole number of at least 0, got 10.5"),
        (lambda: FSQ.fit(smooth(4), levels=3), "`options`: expected names among .*codebook_size.*, got levels"),
    ],
)
def test_wrong_use_is_named(call, text):
    with pytest.raises(LattokError, match=text):
        call()
