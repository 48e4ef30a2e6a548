"""Finite scalar codes of chunks: bit allocation, packing against vector-quantize-pytorch, gradients, prefixes."""

import numpy as np
import pytest
import torch

from lattok.action_vq.fsq import FSQ, FSQConfig, principal_axes
from lattok.types import ActionBatch
from tests.action_vq.families import learning
from tests.action_vq.test_coarse_to_fine import error
from tests.action_vq.walks import saturating
from tests.errors import refused


def test_training_improves_on_the_linear_start(fsq):
    untrained = FSQ.fit(saturating(), **learning(FSQ) | {"steps": 1, "lr": 1e-9})
    chunks = saturating(seed=1)
    before = error(untrained, chunks, untrained.encode(chunks))
    assert error(fsq, chunks, fsq.encode(chunks)) < 0.9 * before


def test_each_bit_goes_to_the_component_with_the_largest_error():
    config = FSQConfig(2, horizon=2, tokens=3, codebook_size=4)
    # errors 16 9 1 1 -> 4 9 -> 4 2.25 -> 1 2.25 -> 1 .56 -> .25 .56 1 1: the first of equals
    assert config.allocate_bits(torch.tensor([16.0, 9.0, 1.0, 1.0])) == (0, 1, 0, 1, 0, 2)
    constant = config.allocate_bits(torch.zeros(4))
    assert sorted(constant) == [0, 0, 1, 1, 2, 3]


def test_codes_hold_the_level_indices_of_vector_quantize_pytorch(fsq):
    from vector_quantize_pytorch import FSQ as Rounding

    actions = fsq._prepare(saturating(), None)[0]
    theirs = Rounding(fsq.grid.sizes.tolist(), preserve_symmetry=True, return_indices=False)
    quantized = theirs.quantize(fsq.encoder(actions.flatten(1)))
    expected = theirs._scale_and_shift(quantized).round().long()
    codes, bits = fsq.encode(saturating()), fsq.config.bits
    for row, levels in zip(codes.tolist(), expected.tolist(), strict=True):
        text = "".join(f"{code:04b}" for code in row)
        got = ["".join(bit for bit, c in zip(text, bits, strict=True) if c == i) for i in range(len(levels))]
        assert [int(digits, 2) for digits in got] == levels
    decoded = fsq.limits(fsq.decoder(quantized).view(-1, 6, 3))
    torch.testing.assert_close(fsq.decode(codes), fsq.normalizer.inverse(decoded), rtol=1e-4, atol=1e-4)


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
    chunks = saturating(20)
    model(ActionBatch(chunks, torch.ones(20, 6, dtype=torch.bool)))["reconstruction"].backward()
    for part in (model.encoder.linear, model.decoder.linear, model.decoder.correction[-1]):
        assert part.weight.grad is not None
        assert part.weight.grad.abs().max() > 0


def test_principal_axes_against_numpy():
    rows = saturating().flatten(1)
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


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: FSQConfig(3, codebook_size=100), "`codebook_size`"),
        (lambda: FSQConfig(1, horizon=1), "`tokens`"),
        (lambda: FSQConfig(3, tokens=1, bits=(0, 1)), "`bits`"),
        (lambda: FSQConfig(3, tokens=1, bits=(0, 2) * 4), "`bits`"),
        (lambda: FSQ.fit(saturating(4), bits=(0,)), "`bits` cannot be given, it follows from the chunks"),
        (lambda: FSQ.fit(saturating(4), steps=0), "`steps`"),
    ],
)
def test_wrong_use_is_named(call, text):
    refused(text, call)
