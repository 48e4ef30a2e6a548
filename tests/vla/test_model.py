from pathlib import Path

import numpy as np
import pytest
import torch

from lattok.nn.losses import draw_flow
from lattok.types import FlowDraws, LatentTarget
from lattok.vla import STRATEGIES, LatentVLA
from tests.errors import refused
from tests.learning import learn, unlearned
from tests.vla import fakes
from tests.vla.fakes import B, H, M, Recorder, batch, config, observation, policy, rows


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_learns_one_batch_by_heart(name: str):
    """Every parameter gets a gradient: otherwise several processes would wait for it."""
    model, data = policy(name).train(), batch(config(name))
    first, *_, last = learn(model, lambda: model(data), 24, 1e-2, model.config.loss_weights)
    assert unlearned(model) == []
    assert last["action"] < 0.4 * first["action"]
    if "latent" in last:
        assert last["latent"] < 0.8 * first["latent"]


@pytest.mark.parametrize("name", ["la_direct", "la_align", "la_tok_c"])
def test_losses_as_printed_sums(name: str):
    """Eq. 4 and 7: sums over steps, codes and dimensions, the mean over samples."""
    data = batch(config(name))
    terms = {how: policy(name, loss_reduction=how).eval()(data) for how in ("mean", "sum")}
    valid = data.valid.sum(1).double()
    each = policy(name).eval()
    with torch.no_grad():
        error = (each.action_normalizer(each.predict_chunk(data)) - each.action_normalizer(data.actions)).square()
        expected = (error.sum(-1) * data.valid).sum(1).mean()
        torch.testing.assert_close(terms["sum"]["action"], expected, rtol=1e-4, atol=1e-5)
    whole = batch(config(name))
    whole.valid.fill_(True)
    whole.latent.valid.fill_(True)
    assert float(valid.min()) < fakes.H
    elements = {"la_direct": fakes.H * fakes.P, "la_align": fakes.H, "la_tok_c": fakes.H * fakes.D}[name]
    full = {how: policy(name, loss_reduction=how).eval()(whole)["latent"] for how in ("mean", "sum")}
    torch.testing.assert_close(full["sum"], elements * full["mean"])


@pytest.mark.parametrize("name", STRATEGIES)
def test_alone_or_in_a_batch_with_longer_instructions_the_steps_of_a_chunk_differ(name: str):
    model = policy(name).eval()
    data = batch(model.config)
    together = model.predict_chunk(data)
    alone = torch.cat([model.predict_chunk(rows(data, [i])) for i in range(fakes.B)])
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=0)
    assert (together[:, 1:] - together[:, :-1]).abs().amax(-1).min() > 1e-3


def test_latents_cannot_see_the_placeholders_of_actions():
    """Eq. 9: actions are conditioned on the latent plan, never the reverse."""
    model = policy("la_cond").eval()
    data, latents = batch(model.config), fakes.H * fakes.P
    with torch.no_grad():
        before = model(data)
        model.placeholders[latents:] += torch.randn_like(model.placeholders[latents:])
        after = model(data)
        assert after["latent"] == before["latent"]
        assert after["action"] != before["action"]
        model.placeholders[:latents] += torch.randn_like(model.placeholders[:latents])
        assert model(data)["latent"] != after["latent"]


def test_the_loss_is_that_of_normalised_actions_over_valid_steps():
    model = policy("baseline").eval()
    data = batch(model.config)
    with torch.no_grad():
        loss = float(model(data)["action"])
        predicted = model.predict_chunk(data).double().numpy()
    shift, scale = model.action_normalizer.shift.double().numpy(), model.action_normalizer.scale.double().numpy()
    errors = (((predicted - shift) / scale - (data.actions.double().numpy() - shift) / scale) ** 2).mean(-1)
    expected = np.mean([errors[b][data.valid[b].numpy()].mean() for b in range(fakes.B)])
    assert loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["baseline", "la_align", "la_direct", "la_cond", "la_tok", "la_direct_c", "la_tok_c"])
def test_what_is_not_valid_changes_nothing(name: str):
    model = policy(name).eval()
    data = batch(model.config)
    actions = data.actions.masked_fill(~data.valid[..., None], torch.nan)
    latent = data.latent and LatentTarget(
        data.latent.codes.masked_fill(~data.latent.valid[..., None], -1),
        data.latent.embedding.masked_fill(~data.latent.valid[..., None, None], torch.nan),
        data.latent.valid,
    )
    with torch.no_grad():
        before, after = model(data), model(data._replace(actions=actions, latent=latent))
    assert before == after


def test_the_head_sees_the_second_half_of_the_layers_and_the_loss_its_own():
    """Eq. 3: K_layers = ⌈N/2⌉..N; Eq. 5: layer k."""
    made = config("la_align", image_size=16)
    model = LatentVLA(made, Recorder())
    assert model.layers == (2, 3, 4)
    assert model.supervision.layer_of == {"latent": 3}  # ⌈0.6 * 4⌉
    seen = model._run_backbone(batch(made), learning=True)
    torch.testing.assert_close(seen.supervised["latent"], (model.placeholders + 3).expand(fakes.B, -1, -1))


def test_the_prompt_is_that_of_the_paper():
    model = LatentVLA(config(), Recorder())
    model(batch(model.config))
    assert model.backbone.texts[0] == "open the drawer Please predict the next 4 robot actions:"


def test_bfloat16_keeps_the_normalisers_and_is_near(tmp_path: Path):
    model = policy("la_cond").eval()
    seen = observation(model.config)
    exact = model.predict_chunk(seen)
    half = model.to(torch.bfloat16)
    assert half.action_normalizer.scale.dtype == torch.float32
    assert half.placeholders.dtype == torch.bfloat16
    chunk = half.predict_chunk(seen)
    assert chunk.dtype == torch.float32
    torch.testing.assert_close(chunk, exact, atol=0.1, rtol=0.05)


def test_a_batch_with_lerobots_keys_is_the_same_batch():
    model = policy("la_direct", camera_sizes=((16, 16), (16, 16))).eval()
    data = batch(model.config)
    found: dict = {key: data.images[:, i].movedim(-1, 1) / 255 for i, key in enumerate(model.config.cameras)}
    found |= {"observation.state": data.proprio, "action": data.actions, "action_is_pad": ~data.valid}
    found |= {"latent.codes": data.latent.codes, "latent.embedding": data.latent.embedding.flatten(2)}
    found |= {"latent.valid": data.latent.valid, "task": data.texts, "index": torch.arange(4)}
    with torch.no_grad():
        assert model(found) == model(data)


def test_tokens_of_a_chunk_come_from_one_row():
    model = policy("la_tok", camera_sizes=((16, 16), (16, 16))).eval()
    data = batch(model.config)
    every = LatentTarget(data.latent.codes, None, torch.ones_like(data.latent.valid))
    found: dict = {key: data.images[:, i].movedim(-1, 1) / 255 for i, key in enumerate(model.config.cameras)}
    found |= {"observation.state": data.proprio, "action": data.actions, "task": data.texts}
    found |= {"latent.codes": data.latent.codes[..., 0], "latent.valid": torch.ones(4, dtype=torch.bool)}
    with torch.no_grad():
        full = data._replace(valid=torch.ones_like(data.valid), latent=every)
        assert model(found) == model(full)


def test_merging_is_for_policies_with_adapters(tmp_path: Path):
    refused("`policy`: expected one with a pretrained backbone", lambda: policy().merge(tmp_path / "merged"))


@pytest.mark.parametrize("head", ["regression", "flow"])
def test_dimensions_that_the_robot_lacks_teach_nothing_and_are_zero(head):
    """Whatever the batch has there; also for one of several datasets, each with its own."""
    model = policy(head=head, absent=((1,),))
    draws: FlowDraws = draw_flow((B, H, M), torch.Generator().manual_seed(0))
    given, found = batch(model.config)._replace(draws=draws), []
    for garbage in (0.0, 1e6):
        model.zero_grad()
        actions = given.actions + garbage * torch.tensor([0.0, 1.0, 0.0])
        loss = model(given._replace(actions=actions))["action"]
        loss.backward()
        found.append([loss, *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    chunk = model.predict_chunk(given)
    assert not chunk[..., 1].any()
    assert chunk[..., [0, 2]].all()
    mixed = LatentVLA.build(config(head=head, normalizers=("a", "b"), absent=((), (0, 2)), backbone_train="full"))
    assert mixed.for_dataset("a").config.absent == ((),)
    assert not mixed.for_dataset("b").predict_chunk(given)[..., [0, 2]].any()
