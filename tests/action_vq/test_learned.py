"""What trained families share: near codes against brute force, a second reconstruction, evened gradients."""

import numpy as np
import pytest
import torch
from torch import nn

from lattok.action_vq import FSQ, P2TActionVQ, QueST, VQBeT
from lattok.action_vq.base import families
from lattok.action_vq.learned import NEAR, TrainedTokenizer, balanced, near_codes, near_levels
from lattok.action_vq.p2t import ActionVQConfig
from lattok.action_vq.residual import least_squares, refit, search
from lattok.types import ActionBatch
from tests.action_vq.families import small
from tests.action_vq.walks import saturating, smooth, whole
from tests.errors import refused

TRAINED = {name: family for name, family in families().items() if issubclass(family, TrainedTokenizer)}
ALL = 1 - 1e-9  # of the codes


def batch(n: int = 40) -> ActionBatch:
    chunks = smooth(n)
    return ActionBatch(chunks, whole(chunks))


def test_near_codes_are_the_nearest_rows_and_each_is_drawn():
    torch.manual_seed(0)
    book, codes = torch.randn(12, 5), torch.arange(12).repeat(200)
    drawn = near_codes(codes, book)
    apart = np.linalg.norm(book.numpy()[:, None] - book.numpy()[None], axis=-1)
    for code in range(12):
        assert set(drawn[codes == code].tolist()) == set(np.argsort(apart[code])[1 : NEAR + 1].tolist())
    assert near_codes(torch.tensor([0, 1]), book[:2]).tolist() == [1, 0]


def test_near_codes_of_a_large_codebook_are_those_of_the_whole_table():
    book, few = torch.randn(500, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([[4, 9], [400, 4]])
    nearest = torch.cdist(book, book).fill_diagonal_(torch.inf).topk(NEAR, largest=False).indices
    drawn = torch.stack([near_codes(few, book, torch.Generator().manual_seed(seed)) for seed in range(200)])
    for place in ((0, 0), (0, 1), (1, 0), (1, 1)):
        assert set(drawn[:, place[0], place[1]].tolist()) == set(nearest[few[place]].tolist())


def test_near_levels_are_those_above_and_below():
    torch.manual_seed(0)
    top = torch.tensor([1.0, 2.0, 6.0])
    levels = torch.tensor([[0.0, 0, 0], [1, 1, 3], [1, 2, 6]]).repeat(100, 1, 1)
    drawn = near_levels(levels, top)
    assert bool(((drawn >= 0) & (drawn <= top)).all())
    assert bool(((drawn - levels).abs() == 1).all())
    assert set(drawn[:, 1, 2].tolist()) == {2.0, 4.0}


@pytest.mark.parametrize("share", [0.25, 0.75])
def test_a_share_of_the_codes_moves_and_no_gradient_with_them(share):
    torch.manual_seed(0)
    model = P2TActionVQ(ActionVQConfig(action_dim=3, perturb=share, dim=8, heads=2))
    rows = torch.zeros(5000, 4, requires_grad=True)
    moved = model._shift(rows, torch.ones(5000, 4, requires_grad=True))
    assert not moved.requires_grad
    assert set(moved.sum(-1).tolist()) == {0.0, 4.0}  # whole codes
    assert float(moved.mean()) == pytest.approx(share, abs=0.02)


@pytest.mark.parametrize("family", [P2TActionVQ, VQBeT, FSQ])
def test_the_second_reconstruction_is_of_the_other_code_where_there_are_two(family):
    """With two codes, or levels of one bit, the near one is known: here it is decoded by hand."""
    sizes = {name: size for name, size in small(family).items() if name not in ("tokens", "codebook_size")}
    sizes |= {} if family is P2TActionVQ else {"tokens": 1 if family is VQBeT else 2}
    model = family.fit(saturating(100), **sizes, codebook_size=2, perturb=ALL, normalize="mean_std")
    chunks, valid = batch()
    with torch.no_grad():
        terms = model(ActionBatch(chunks, valid))
        codes = model.encode(chunks)
        model.limits = nn.Identity()  # a loss looks at what is not cut off
        other = model.normalizer(model.decode(1 - codes))
    gap = other - model.normalizer(chunks)
    expected = gap.abs().mean() if family is VQBeT else gap.square().mean()
    torch.testing.assert_close(terms["perturbed"], expected)
    assert terms["perturbed"] != terms["reconstruction"]


def test_a_near_code_of_a_grid_differs_by_one_level_of_one_scalar():
    torch.manual_seed(0)
    model = QueST.fit(smooth(), **small(QueST) | {"levels": (4, 5, 3), "perturb": 0.5})
    quantized = model.grid.lookup(torch.arange(60).view(1, 60))
    gap = (model._near(quantized) - quantized) * torch.tensor([2.0, 2.0, 1.0])  # floor(L / 2) levels from 0 to 1
    assert bool(((gap != 0).sum(-1) == 1).all())
    assert gap.abs().max() == 1.0
    codes = model.grid.codes(model._near(quantized))
    assert int(codes.min()) >= 0
    assert int(codes.max()) < 60


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("option", ["perturb", "balance"])
def test_both_are_options_of_every_family_and_leave_others_as_they_were(name, option, tmp_path):
    family = TRAINED[name]
    plain, off, on = (family.fit(smooth(), **small(family), **{option: share}) for share in (0.0, 0.0, 0.5))
    assert plain.describe() == off.describe()
    assert on.describe()["weights_sha256"] != plain.describe()["weights_sha256"]
    assert on.describe()["config_sha256"] != plain.describe()["config_sha256"]
    assert getattr(type(on).from_pretrained(on.save_pretrained(tmp_path / "m")).config, option) == 0.5
    assert torch.isfinite(on.decode(on.encode(smooth()))).all()
    assert ("perturbed" in on.config.loss_weights) == (option == "perturb")
    refused(rf"`{option}`: expected a number in \[0", lambda: family.fit(smooth(), **small(family), **{option: 1}))


def test_rows_are_refitted_to_near_codes_as_to_any_others():
    torch.manual_seed(0)
    samples, books = torch.randn(50, 4), torch.randn(2, 2, 4)  # of two rows each is the other's neighbour
    valid, codes = torch.ones(50, 4, dtype=torch.bool), search(samples, books, 8)[0][:, 0]
    both = [torch.cat(pair) for pair in ((samples, samples), (valid, valid), (codes, 1 - codes))]
    torch.testing.assert_close(refit(samples, valid, books, ALL), least_squares(*both, books, 20.0))


def test_balance_is_computed_in_float32_under_autocast(monkeypatch):
    """Rounded moments of inputs with a common mean had directions in which the gradient pointed uphill."""
    torch.manual_seed(0)
    layer, x, solve, seen = nn.Linear(256, 4, bias=False), torch.randn(300, 256) * 0.1 + 3, torch.linalg.solve_ex, []
    monkeypatch.setattr(torch.linalg, "solve_ex", lambda mixed, wanted: seen.append(mixed) or solve(mixed, wanted))
    with torch.autocast("cpu", torch.bfloat16), balanced(layer, 0.95):
        layer(x).float().sum().backward()
    assert float(torch.linalg.eigvalsh(seen[0].double()).min()) == pytest.approx(0.05, abs=1e-3)


def test_gradients_are_evened_out_as_written():
    torch.manual_seed(0)
    net, rows = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)), torch.randn(30, 4) * torch.arange(1.0, 5)
    inner = net[:2](rows)
    plain = torch.autograd.grad(net(rows).square().sum(), list(net.parameters()))
    with balanced(net, 0.8):
        out = net(rows)
    evened = torch.autograd.grad(out.square().sum(), list(net.parameters()))
    torch.testing.assert_close(out, net(rows))
    for read, before, after in ((rows, plain[0], evened[0]), (inner, plain[2], evened[2])):
        read = read.detach().double().numpy()
        moments = read.T @ read / len(read)
        mixed = 0.2 * np.eye(len(moments)) + 0.8 * moments / np.diag(moments).mean()
        np.testing.assert_allclose(after.numpy(), before.numpy() @ np.linalg.inv(mixed), rtol=1e-3, atol=1e-4)
    assert torch.equal(plain[1], evened[1])
    torch.testing.assert_close(plain[3], evened[3])
    assert not any(layer._forward_hooks for layer in net)


def test_balance_of_inputs_that_are_all_zero_has_finite_gradients():
    layer = nn.Linear(3, 2)
    with balanced(layer, 0.9):
        layer(torch.zeros(4, 3)).sum().backward()
    assert layer.weight.grad is not None
    assert not layer.weight.grad.any()  # NaN would be any
