"""The action tokenizer: independent maths, padding, gradient routing, round trips, bad input."""

import numpy as np
import pytest
import torch

from lattok.action_vq import ActionVQConfig, P2TActionVQ
from lattok.action_vq import p2t as losses
from lattok.action_vq.p2t import Encoder
from lattok.types import ActionBatch
from tests.errors import refused

SMALL = {"action_dim": 3, "horizon": 6, "dim": 16, "codebook_size": 8, "heads": 2, "hidden": 24, "dropout": 0.0}


@pytest.fixture(params=["step", "context"])
def tokenizer(request):
    torch.manual_seed(0)
    model = P2TActionVQ(ActionVQConfig(**SMALL, decoder=request.param, mask_weight=0.1))
    model.normalizer.fit(torch.randn(100, 3) * torch.tensor([1.0, 5.0, 0.1]) + 2)
    model.train()(batch())
    return model.eval()


def batch(size=32, horizon=6):
    torch.manual_seed(1)
    return ActionBatch(torch.randn(size, horizon, 3), torch.ones(size, horizon, dtype=torch.bool))


def test_a_code_is_decoded_alone_or_in_context(tokenizer):
    codes = torch.zeros(8, 6, dtype=torch.int64)
    codes[:, 2] = torch.arange(8)
    actions = tokenizer.decode(codes)
    moved = (actions != actions[0]).any(0).any(-1)
    alone = [False, False, True, False, False, False]
    assert moved.tolist() == (alone if tokenizer.config.decoder == "step" else [True] * 6)


def test_padded_steps_do_not_change_codes_or_loss(tokenizer):
    chunks, valid = batch().chunks, torch.ones(32, 6, dtype=torch.bool)
    valid[:, 4:] = False
    garbage = chunks.masked_fill(~valid[..., None], 1e3)
    assert torch.equal(tokenizer.encode(chunks, valid), tokenizer.encode(garbage, valid))
    assert torch.equal(tokenizer.encode(chunks, valid), tokenizer.encode(chunks[:, :4], repair=True))
    for a, b in zip(_losses(tokenizer, chunks, valid), _losses(tokenizer, garbage, valid), strict=True):
        assert a == b


def _losses(tokenizer, chunks, valid):
    torch.manual_seed(0)
    return [float(value.detach()) for value in tokenizer(ActionBatch(chunks, valid)).values()]


def test_shorter_chunks_repeat_the_last_action(tokenizer):
    chunks = batch().chunks
    padded = torch.cat([chunks[:, :2], chunks[:, 1:2].expand(-1, 4, -1)], 1)
    assert torch.equal(tokenizer.encode(chunks[:, :2], repair=True), tokenizer.encode(padded))


@pytest.mark.parametrize("detach", [True, False])
def test_mask_target_detached_by_option(detach, monkeypatch):
    learn, real = [], losses.masked_consistency

    def spy(re_encoded, latents, masked, reduction):
        learn.append((re_encoded.requires_grad, latents.requires_grad))
        return real(re_encoded, latents, masked, reduction)

    monkeypatch.setattr(losses, "masked_consistency", spy)
    model = P2TActionVQ(ActionVQConfig(**SMALL, mask_weight=0.1, mask_detach_target=detach)).train()
    model(batch())["mask"].backward()
    assert learn == [(True, not detach)]


def test_every_norm_of_eq_16_to_18_as_a_mean_and_as_a_printed_sum(rng):
    """Loops over samples and steps; what does not count is NaN-free garbage."""
    a, b = rng.standard_normal((2, 4, 6, 5)).astype(np.float32)
    counts = rng.random((4, 6)) < 0.4
    counts[2] = False
    by_step = [((a[i, h] - b[i, h]) ** 2).sum() for i in range(4) for h in range(6) if counts[i, h]]
    mean, total = sum(by_step) / (5 * len(by_step)), sum(by_step) / 4
    one, other, mask = torch.from_numpy(a), torch.from_numpy(b), torch.from_numpy(counts)
    wide = mask[..., None].expand(-1, -1, 5)
    for reduction, expected in {"mean": mean, "sum": total}.items():
        for got in (
            losses.reconstruction(one, other, wide, reduction),
            losses.commitment(one, other, mask, reduction),
            losses.masked_consistency(one, other, mask, reduction),
        ):
            assert float(got) == pytest.approx(expected, rel=1e-5)
        assert losses.masked_consistency(one, other, torch.zeros_like(mask), reduction) == 0
        assert losses.reconstruction(one[:0], other[:0], wide[:0], reduction) == 0


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_one_element_of_one_sample_counts_whole(reduction):
    one, valid = torch.full((1, 3, 2), 5.0), torch.zeros(1, 3, 2, dtype=torch.bool)
    valid[0, 0, 0] = True
    assert losses.reconstruction(one, one - 3, valid, reduction) == 9


def test_commitment_moves_latents_and_not_what_stands_for_them():
    latents, rows = (torch.randn(4, 6, 5, requires_grad=True) for _ in range(2))
    losses.commitment(latents, rows, torch.ones(4, 6, dtype=torch.bool)).backward()
    assert rows.grad is None
    torch.testing.assert_close(latents.grad, 2 * (latents - rows).detach() / latents.numel())


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_models_loss_terms_have_the_reduction_of_its_config(reduction):
    """With sums they are those of means times what each is a mean of."""
    torch.manual_seed(0)
    model = P2TActionVQ(ActionVQConfig(**SMALL, mask_weight=0.1, loss_reduction=reduction)).train()
    masked = torch.zeros(32, 6, dtype=torch.bool)
    masked[:, 2] = True
    found = model(batch(), masked)
    torch.manual_seed(0)
    means = P2TActionVQ(ActionVQConfig(**SMALL, mask_weight=0.1)).train()(batch(), masked)
    factors = {"reconstruction": 6 * 3, "commitment": 6 * 16, "mask": 16}
    for name, factor in factors.items():
        torch.testing.assert_close(found[name], means[name] * (factor if reduction == "sum" else 1))


@pytest.mark.parametrize("ratio", [0.15, 0.3, 0.9])
def test_masked_shares_are_the_ratio_for_every_number_of_valid_steps(ratio):
    """The mean is the paper's ratio whatever H is, every valid step is as likely, and no mask is empty if it can be."""
    torch.manual_seed(0)
    valid = torch.arange(12)[None] < torch.tensor([1, 3, 7, 8, 12])[:, None]
    valid = valid.repeat_interleave(6000, 0)
    masked = losses.draw_mask(valid, ratio)
    assert not (masked & ~valid).any()
    for group, inside in zip(masked.split(6000), valid.split(6000), strict=True):
        n = int(inside[0].sum())
        share, drawn = group[:, :n].double().mean(0), group.sum(1)
        assert share.mean() == pytest.approx(ratio, abs=0.02)
        assert (share - ratio).abs().max() < 0.03
        assert {int(count) for count in drawn} <= {int(n * ratio), int(n * ratio) + 1}
        assert bool((drawn > 0).all()) or n * ratio < 1


def test_no_ratio_masks_nothing():
    assert not losses.draw_mask(torch.ones(50, 8, dtype=torch.bool), 0.0).any()
    assert losses.draw_mask(torch.zeros(5, 8, dtype=torch.bool), 0.5).sum() == 0
    assert losses.draw_mask(torch.ones(0, 8, dtype=torch.bool), 0.5).shape == (0, 8)


def test_the_masked_pass_waits_for_the_codebook_too():
    """In the last continuous step the first pass has counted that step already; the codebook has still not started."""
    torch.manual_seed(0)
    model = P2TActionVQ(ActionVQConfig(**SMALL, mask_weight=0.1, continuous_steps=3)).train()
    seen = []
    model.quantizer.register_forward_hook(lambda module, inputs, out: seen.append(torch.equal(out.vectors, inputs[0])))
    for _ in range(4):
        model(batch())
    assert seen == [True, True] * 3 + [False, False]


def test_one_pass_variant_quantizes_the_masked_latents():
    model = P2TActionVQ(ActionVQConfig(**SMALL, mask_passes=1, mask_weight=1.0, mask_ratio=0.5)).train()
    seen = []
    model.quantizer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    assert set(model(batch())) == {"reconstruction", "commitment", "mask"}
    assert len(seen) == 1
    zeroed = (seen[0] == 0).all(-1)
    assert zeroed.any(1).all()
    assert not zeroed.all()


def test_padding_counts_in_no_statistic_and_commitment_uses_the_codebook_before_its_update():
    model = P2TActionVQ(ActionVQConfig(**SMALL, mask_weight=0.0)).train()
    chunks, valid = batch()
    model(ActionBatch(chunks, valid))
    before, size = model.quantizer.codebook_vectors[0].clone(), model.quantizer.codebooks[0].cluster_size.sum()
    valid[:, 2:] = False
    terms = model(ActionBatch(chunks, valid))
    decayed = 0.99 * size + 0.01 * valid.sum()
    torch.testing.assert_close(model.quantizer.codebooks[0].cluster_size.sum(), decayed, rtol=0.02, atol=0.0)
    latents = model.encoder(model._prepare(chunks, valid)[0])
    nearest_rows = before[torch.cdist(latents, before[None]).argmin(-1)]
    expected = (latents - nearest_rows).square().mean(-1)[valid].mean()
    torch.testing.assert_close(terms["commitment"], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"horizon": 0}, "horizon"),
        ({"dilations": (1, 0)}, "dilations.1."),
        ({"dropout": 1.0}, "dropout"),
        ({"decoder": "x"}, "decoder"),
    ],
)
def test_bad_config(change, argument):
    refused(f"`{argument}`", ActionVQConfig, **{**SMALL, **change})


def test_the_spectrum_is_on_unless_it_is_switched_off():
    widths = [Encoder(ActionVQConfig(**SMALL, **options)).project.in_features for options in ({}, {"fft": False})]
    assert widths == [9, 3]
