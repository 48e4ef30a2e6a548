"""Heads and losses over the hidden states of any policy, and targets that do not fit them."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from lattok.labels import LatentSpec
from lattok.types import LatentTarget
from lattok.vla import supervision as losses
from lattok.vla.strategies import STRATEGIES, build_supervision, strategy_of
from lattok.vla.supervision import AlignLoss, CodeCrossEntropy, RegressionLoss
from tests.errors import refused
from tests.vla.labels import B, D, K, P, S, make_target

WIDTH = 16


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def supervisions():
    """Every head, with the states it takes: one for each step, or one for each code."""
    return {
        "align": AlignLoss(WIDTH, D),
        "align mlp": AlignLoss(WIDTH, D, projection="mlp"),
        "align by code": AlignLoss(WIDTH, D, states_per_step=P),
        "codes": CodeCrossEntropy(WIDTH, K, P),
        "codes by code": CodeCrossEntropy(WIDTH, K, P, states_per_step=P),
        "regress": RegressionLoss(WIDTH, D, P),
        "regress by code": RegressionLoss(WIDTH, D, P, states_per_step=P),
    }


NAMES = tuple(supervisions())


def test_align_is_a_norm_a_projection_and_the_cosine():
    """Eq. 5 with phi_align, and a state for each code pooled over them."""
    target, states = make_target(), torch.randn(B, S * P, WIDTH)
    loss = AlignLoss(WIDTH, D, states_per_step=P)
    pooled = states.reshape(B, S, P, WIDTH).mean(2)
    normed = (pooled - pooled.mean(-1, keepdim=True)) / (pooled.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    projected = normed @ loss.project.weight.T + loss.project.bias
    expected = losses.alignment(projected, target.embedding, target.valid)
    terms = loss(states, target)
    torch.testing.assert_close(terms["latent"], expected)
    cosine = F.cosine_similarity(projected, target.embedding.mean(2), dim=-1)
    means = [cosine[b][target.valid[b]].mean() for b in range(B) if target.valid[b].any()]
    torch.testing.assert_close(terms["latent_cosine"], torch.stack(means).mean())
    assert [name for name, _ in loss.named_parameters()] == [
        "norm.weight",
        "norm.bias",
        "project.weight",
        "project.bias",
    ]


def test_codes_are_predicted_from_their_own_states():
    """Eq. 6, 7: a head of K for the state of each code, or one of P times K for the state of the step."""
    target = make_target()
    shared, stacked = CodeCrossEntropy(WIDTH, K, P, states_per_step=P), CodeCrossEntropy(WIDTH, K, P)
    assert shared.head.weight.shape == (K, WIDTH)
    assert stacked.head.weight.shape == (P * K, WIDTH)
    states = torch.randn(B, S, P, WIDTH)
    terms = shared(states.flatten(1, 2), target)
    logits = torch.stack([shared.head(states[:, :, p]) for p in range(P)], 2)
    torch.testing.assert_close(terms["latent"], losses.code_cross_entropy(logits, target.codes, target.valid))
    assert terms["latent_accuracy"] == losses.code_accuracy(logits, target.codes, target.valid)
    one = torch.randn(B, S, WIDTH)
    logits = torch.stack(
        [one @ stacked.head.weight[p * K :][:K].T + stacked.head.bias[p * K :][:K] for p in range(P)], 2
    )
    torch.testing.assert_close(
        stacked(one, target)["latent"], losses.code_cross_entropy(logits, target.codes, target.valid)
    )


def test_vectors_are_predicted_from_their_own_states():
    """Section 5.4; a residual quantizer has one vector for several codes, which their states predict together."""
    target, states = make_target(), torch.randn(B, S, P, WIDTH)
    own = RegressionLoss(WIDTH, D, P, states_per_step=P)
    expected = losses.regression(own.head(states), target.embedding, target.valid)
    terms = own(states.flatten(1, 2), target)
    torch.testing.assert_close(terms["latent"], expected)
    cosine = torch.nn.functional.cosine_similarity(own.head(states), target.embedding, dim=-1)  # b s p
    each = [cosine[b][target.valid[b]].mean() for b in range(B) if target.valid[b].any()]
    torch.testing.assert_close(terms["latent_cosine"], torch.stack(each).mean())
    residual, one = RegressionLoss(WIDTH, D, 1, states_per_step=P), make_target(vectors=1)
    expected = losses.regression(residual.head(states.mean(2, keepdim=True)), one.embedding, one.valid)
    torch.testing.assert_close(residual(states.flatten(1, 2), one)["latent"], expected)
    step = RegressionLoss(WIDTH, D, P)
    expected = losses.regression(step.head(states[:, :, 0]).view(B, S, P, D), target.embedding, target.valid)
    torch.testing.assert_close(step(states[:, :, 0], target)["latent"], expected)
    assert [type(layer).__name__ for layer in step.head] == ["Linear", "GELU", "Linear"]


@pytest.mark.parametrize("name", NAMES)
def test_nothing_valid(name):
    loss, target = supervisions()[name], make_target()
    states = torch.randn(B, S * loss.states_per_step, WIDTH, requires_grad=True)
    terms = loss(states, target._replace(valid=torch.zeros(B, S, dtype=torch.bool)))
    assert all(value == 0 for value in terms.values())
    gradients = torch.autograd.grad(terms["latent"], [states, *loss.parameters()])
    assert all((gradient == 0).all() for gradient in gradients)  # there is one for every parameter, as DDP wants


@pytest.mark.parametrize("name", NAMES)
def test_each_sample_alone(name):
    """`reduction="none"`, the samples of a batch, and batches of one."""
    loss, target = supervisions()[name], make_target()
    states = torch.randn(B, S * loss.states_per_step, WIDTH)
    each = loss(states, target, "none")
    assert each["latent"].shape == (B,)
    labelled = target.valid.any(1)
    assert not labelled.all()  # a sample without labels counts neither above nor below the line
    torch.testing.assert_close(each["latent"][labelled].mean(), loss(states, target)["latent"])
    figures = {key: value for key, value in each.items() if key != "latent"}
    assert all(value.dim() == 0 for value in figures.values())
    for b in range(B):
        alone = loss(states[b : b + 1], LatentTarget(*(part[b : b + 1] for part in target[:3])))
        torch.testing.assert_close(each["latent"][b], alone["latent"])


def test_states_in_low_precision():
    target, states = make_target(), torch.randn(B, S, WIDTH)
    for loss in (AlignLoss(WIDTH, D), CodeCrossEntropy(WIDTH, K, P), RegressionLoss(WIDTH, D, P)):
        low = states.bfloat16()
        value = loss(low, target)["latent"]
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, loss(low.float(), target)["latent"])
        assert loss.bfloat16()(states, target)["latent"].dtype == torch.float32
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.isfinite(loss.float()(states, target)["latent"])


def test_built_from_strategies():
    """Heads as Table 7 has placeholders: for every step P of latents, or one of actions."""
    spec = LatentSpec(steps=S, codes=P, codebook_size=K, vectors=P, latent_dim=D)
    every = {name: build_supervision(name, WIDTH, spec) for name in STRATEGIES}
    built = {name: losses.get("latent") for name, losses in every.items()}
    assert {name for name, loss in built.items() if loss is None} == {"baseline", "ph_direct", "ph_cond"}
    found = {name: (type(loss).__name__, loss.states_per_step) for name, loss in built.items() if loss is not None}
    assert found == {
        "la_align": ("AlignLoss", 1),
        "la_direct": ("CodeCrossEntropy", P),
        "la_cond": ("CodeCrossEntropy", P),
        "la_tok": ("CodeCrossEntropy", P),
        "la_direct_c": ("RegressionLoss", P),
        "la_cond_c": ("RegressionLoss", P),
        "la_tok_c": ("RegressionLoss", P),
    }
    tokens = build_supervision("la_tok", WIDTH, LatentSpec("chunk", S, 1, K))  # tokens are steps of one code
    assert tokens["latent"].head.weight.shape == (K, WIDTH)
    residual = build_supervision("la_direct_c", WIDTH, replace(spec, vectors=1))["latent"]
    assert residual(torch.randn(B, S * P, WIDTH), make_target(vectors=1))["latent"] > 0
    mlp = build_supervision(strategy_of("la_align", projection="mlp"), WIDTH, spec)["latent"]
    assert isinstance(mlp.project, torch.nn.Sequential)
    for name, loss in built.items():
        assert loss is None or loss.weight == STRATEGIES[name].losses[0].weight
    refused("`latent`", lambda: build_supervision("la_tok", WIDTH, LatentSpec("chunk", S, vectors=1, latent_dim=D)))
    refused("`latent`", lambda: build_supervision("la_align", WIDTH, LatentSpec(codes=P, codebook_size=K)))


def test_targets_that_do_not_fit():
    target, states = make_target(), torch.randn(B, S, WIDTH)
    codes, align, regress = CodeCrossEntropy(WIDTH, K, P), AlignLoss(WIDTH, D), RegressionLoss(WIDTH, D, P)

    def unfit(loss, text, states=states, **changes):
        refused(text, loss, states, target._replace(**changes))

    unfit(codes, "`codes`", codes=None)
    unfit(align, "`embedding`", embedding=None)
    unfit(codes, "`codes`", codes=target.codes[..., :2])
    unfit(regress, "`embedding`", embedding=target.embedding[:, :, :1])
    unfit(align, "`embedding`", embedding=target.embedding[..., :4])
    unfit(codes, "`codes`", codes=target.codes + (target.codes == 6) * 3)
    unfit(codes, "`codes`", codes=target.codes * 0 - 1)
    unfit(codes, "`codes`", codes=target.codes.float())
    unfit(align, "`embedding`", embedding=target.embedding.long())
    unfit(codes, "`valid`", valid=target.valid.float())
    unfit(codes, "`valid`", valid=torch.tensor(True))
    unfit(codes, "`codes`", codes=target.codes[..., 0])
    unfit(codes, "`codes`", codes=target.codes[:, :4])
    unfit(codes, "`states`", states[:3])
    unfit(codes, "`states`", states[:, 0])
    unfit(codes, "`states`", states[..., :8])
    text = "`states`: expected 5 steps of 1 states.* got 4 states. Ask the data .*delta_timestamps.*resample"
    unfit(codes, text, states[:, :4])
    refused("`reduction`", codes, states, target, "max")


def test_arguments():
    refused("`states_per_step`", CodeCrossEntropy, WIDTH, K, 4, states_per_step=2)
    refused("`projection`", AlignLoss, WIDTH, D, projection="conv")
    refused("`dim`", RegressionLoss, 0, D)
