"""Levels of scalars, bit for bit as vector-quantize-pytorch rounds them, and the symmetric ones by plain numbers."""

import math

import pytest
import torch

from lattok.image_lam.base.bottlenecks import ScalarQuantizer, grid_levels
from lattok.nn.levels import LevelGrid

SIZES = [(8, 5, 5, 5), (3,), (7, 6, 5), (27, 26, 39), (1000, 1000), (16, 16, 8, 4)]


def latents_of(scalars: int, rows: int = 20_000) -> torch.Tensor:
    return 3 * torch.randn(1, rows, scalars, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("sizes", [*SIZES, (2, 3, 2)], ids=str)
def test_values_codes_and_gradients_are_those_of_vector_quantize_pytorch(sizes, symmetric):
    from vector_quantize_pytorch import FSQ

    if 2 in sizes and not symmetric:
        pytest.skip("two levels have to be symmetric")
    theirs, ours = FSQ(list(sizes), preserve_symmetry=symmetric, return_indices=False), LevelGrid(sizes, symmetric)
    found = []
    for quantize in (theirs.quantize, ours.quantize):
        latents = latents_of(len(sizes)).requires_grad_()
        values = quantize(latents)
        values.square().sum().backward()
        found.append((values.detach(), latents.grad))
    (values, gradient), (own_values, own_gradient) = found
    assert torch.equal(values, own_values)
    assert torch.equal(gradient, own_gradient)
    assert own_gradient.abs().max() > 0
    codes = ours.codes(own_values)
    assert torch.equal(codes, theirs.codes_to_indices(values).long())
    assert torch.equal(ours.lookup(codes), theirs.indices_to_codes(codes))


def test_symmetric_levels_by_plain_numbers():
    sizes = (4, 5, 2)
    latents = latents_of(3, 500)[0].double()
    values = LevelGrid(sizes, symmetric=True).quantize(latents)
    for row, got in zip(latents.tolist(), values.tolist(), strict=True):
        numbers = [math.floor((size - 1) * (math.tanh(x) + 1) / 2 + 0.5) for size, x in zip(sizes, row, strict=True)]
        expected = [2 * number / (size - 1) - 1 for size, number in zip(sizes, numbers, strict=True)]
        assert got == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_level_is_rounded_to_itself_and_every_code_has_one_row(symmetric):
    grid = LevelGrid((8, 5, 5, 5), symmetric)
    rows = grid.lookup(torch.arange(1000))
    assert len(rows.unique(dim=0)) == 1000
    assert torch.equal(grid.codes(rows), torch.arange(1000))
    assert torch.equal(grid.values(grid.numbers(rows)), rows)


@pytest.mark.parametrize(("dim", "size"), [(6, 16), (2, 16), (8, 1000)])
def test_the_scalar_bottleneck_is_the_fsq_of_vector_quantize_pytorch_with_the_same_weights(dim, size):
    from vector_quantize_pytorch import FSQ

    torch.manual_seed(0)
    ours, theirs = ScalarQuantizer(dim, size), FSQ(grid_levels(size), dim=dim, preserve_symmetry=True)
    theirs.load_state_dict({name.removeprefix("grid."): x for name, x in ours.state_dict().items()})
    latents = torch.randn(5, 3, dim)
    vectors, codes = theirs(latents)
    found = ours.eval()(latents)
    assert torch.equal(found.codes, codes.long())
    assert torch.equal(found.vectors, vectors)
    assert torch.equal(ours.lookup(codes), theirs.indices_to_codes(codes))


def test_numbers_stay_float32_whatever_is_the_default():
    try:
        torch.set_default_dtype(torch.float64)
        grid = LevelGrid((8, 5), symmetric=False)
        assert grid.quantize(torch.randn(3, 2, dtype=torch.float32)).dtype == torch.float32
        assert grid.lookup(torch.arange(40)).dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)
