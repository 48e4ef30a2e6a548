"""Policies that act by the codes of an action tokenizer, over tokenizers of every kind of length and vocabulary."""

import copy
import json
import shutil
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lattok
from lattok.action_vq import FAST, ResidualVQ, UniformBins
from lattok.backbones.model import open_backbone
from lattok.nn import losses
from lattok.types import Shares
from lattok.utils.checks import LattokError
from lattok.vla import LatentVLA
from lattok.vla.config import HeadConfig, TokenSpec
from lattok.vla.head import HeadBlock, noise_of
from lattok.vla.tokens import TOKENIZER, Classifier, TokenHead
from tests.action_vq.families import cases
from tests.errors import refused
from tests.learning import learn, unlearned
from tests.vla.fakes import B, H, M, batch, config, observation, rows

ORDERS = ("parallel", "autoregressive")


@cache
def tokenizer(kind: str) -> Any:
    """Fixed and shared, fixed with a codebook for each position, of varying number."""
    chunks = 3 + torch.randn(200, H, M, generator=torch.Generator().manual_seed(0)).cumsum(1)
    if kind == "bins":
        return UniformBins.fit(chunks, bins=16)
    if kind == "residual":
        return ResidualVQ.fit(chunks, tokens=3, codebook_size=8, steps=1, synthetic=100)
    return FAST.fit(chunks, vocab_size=128)


KINDS = ("bins", "residual", "fast")


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def policy(kind: str, order: str = "autoregressive", strategy: str = "baseline", **changes: Any) -> LatentVLA:
    torch.manual_seed(0)
    made = config(strategy, head="tokens", head_order=order, tokens=TokenSpec.of(tokenizer(kind)), **changes)
    return LatentVLA(made, open_backbone(made), tokenizer(kind))


def head_and_states(model: LatentVLA, count: int = B) -> tuple[TokenHead, Any, Any]:
    out = model._run_backbone(model._batch(batch(model.config, count=count), learning=False), learning=False)
    assert isinstance(model.head, TokenHead)
    return model.head, out.states, out.proprio


def test_each_position_is_read_by_weights_and_a_bias_of_its_own():
    torch.manual_seed(0)
    head, states = Classifier(4, 5, 3), torch.randn(2, 2, 5)
    nn.init.normal_(head.bias)
    for place in (0, 1):
        expected = F.linear(states[:, place], head.weight[2 + place], head.bias[2 + place])
        torch.testing.assert_close(head(states, first=2)[:, place], expected)


@pytest.mark.parametrize(("kind", "order"), [*((kind, "autoregressive") for kind in KINDS), ("fast", "parallel")])
def test_codes_are_learned_by_heart_and_decode_to_what_the_tokenizer_says(kind, order):
    model = policy(kind, order).train()
    data = model.prepared(batch(model.config))
    *_, last = learn(model, lambda: model(data), 60, 1e-2, {"action": 1.0})
    assert unlearned(model) == []
    assert last["action_accuracy"] == 1
    whole = range(B - 1)  # the last one has steps beyond its episode
    wanted = model.codec.tokenizer.decode(model.codec.tokenizer.encode(data.actions[whole]))
    torch.testing.assert_close(model.eval().predict_chunk(rows(data, whole)), wanted)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_minus_the_logarithm_of_the_codes_probability(kind, order):
    model = policy(kind, order).eval()
    head, states, proprio = head_and_states(model)
    data = model.prepared(batch(model.config))
    codes, end = data.tokens, head.spec.codes
    logits = head.logits(torch.where(codes < 0, end, codes), states, proprio).double()
    valid, each = data.valid.clone(), []
    valid[1] = False  # nobody knows its actions
    for row in (0, 2, 3):
        wanted = [int(code) for code in codes[row] if code >= 0]
        gone = len(codes[row]) - len(wanted)
        wanted += [end] * (gone if order == "parallel" else min(gone, 1))
        chances = [logits[row, i].softmax(-1)[code].log() for i, code in enumerate(wanted)]
        each.append(-torch.stack(chances).mean())
    terms, _ = head.learn(states, proprio, codes, valid)
    torch.testing.assert_close(terms["action"].double(), torch.stack(each).mean(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_chunks_that_nobody_knows_whole_teach_nothing_and_hurt_nobody(kind):
    """NaN where no action is known; a step in the middle that is not sure enough; nothing known in a whole batch."""
    model, data = policy(kind).eval(), batch(config())
    valid, actions = data.valid.clone(), data.actions.clone()
    valid[1], actions[1] = False, float("nan")
    valid[2, 1] = False
    terms = model(data._replace(valid=valid, actions=actions))
    torch.testing.assert_close(terms["action"], model(rows(data, [0, 3]))["action"])
    none = model(data._replace(valid=torch.zeros_like(valid), actions=torch.full_like(actions, float("nan"))))
    assert none["action"] == none["action_accuracy"] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_codes_chosen_one_by_one_are_those_of_a_whole_pass(kind):
    """Keys and values that are kept give what the pass over all codes gives; a code sees none behind it."""
    model = policy(kind).eval()
    head, states, proprio = head_and_states(model)
    with torch.no_grad():
        codes = head._one_by_one(B, states, proprio, None)
        logits = head.logits(codes, states, proprio)
        torch.testing.assert_close(logits.argmax(-1), codes)
        assert len(codes.unique()) > 1
        for i in range(codes.shape[1] - 1):
            other = codes.clone()
            other[:, i] = (other[:, i] + 1) % head.classes
            moved = (head.logits(other, states, proprio) - logits).abs().amax((0, 2))
            assert moved[: i + 1].max() < 1e-5
            assert moved[i + 1] > 1e-4


@pytest.mark.parametrize(("temperature", "likelier"), [(0.0, 2.0), (1.0, 4.5)])
def test_choosing_stops_where_every_row_has_ended(temperature, likelier, monkeypatch):
    """The codes are those of whole passes over all places; no step is run behind the longest row."""
    draws = 2 if temperature else 1
    model = policy("fast", head_temperature=temperature, head_draws=draws).eval()
    head, states, proprio = head_and_states(model)
    count, end, places = B * draws, head.spec.codes, head.spec.tokens
    head.out.bias.data[end] += likelier  # which makes rows short
    taken, advance = [], HeadBlock.advance
    monkeypatch.setattr(HeadBlock, "advance", lambda *args: taken.append(1) or advance(*args))
    monkeypatch.setattr("lattok.vla.tokens.noise_of", lambda *args: torch.randn(B, draws, places, generator=seeded()))
    found = head.sample(states, proprio, batch(model.config), 0)
    chances = torch.special.ndtr(torch.randn(B, draws, places, generator=seeded())).view(count, places)
    wanted = torch.zeros(count, places, dtype=torch.long)
    for i in range(places):
        for row in range(draws):
            logits = head.logits(wanted[row::draws], states, proprio)[:, i]
            below = (logits / max(temperature, 1e-9)).softmax(-1).cumsum(-1) < chances[row::draws, i, None]
            wanted[row::draws, i] = below.sum(-1) if temperature else logits.argmax(-1)
    lengths = [row.index(end) for row in wanted.tolist()]
    for row, length in zip(wanted, lengths, strict=True):
        row[length:] = -1
    assert torch.equal(found, wanted)
    assert len(set(lengths)) > 1 or not temperature
    assert max(lengths) > 0
    assert len(taken) == len(head.blocks) * (max(lengths) + 1) < len(head.blocks) * places


@pytest.mark.parametrize("order", ORDERS)
def test_drawn_codes_follow_from_seed_and_sample_alone(order):
    model, data = policy("fast", order, head_temperature=2.0).eval(), batch(config())
    chunks = model.predict_chunk(data, seed=3)
    assert torch.equal(chunks, model.predict_chunk(data, seed=3))
    assert not torch.equal(chunks, model.predict_chunk(data, seed=4))
    torch.testing.assert_close(model.predict_chunk(rows(data, [2]), seed=3)[0], chunks[2])
    model = policy("residual", order, head_temperature=2.0, head_draws=50).eval()
    head, states, proprio = head_and_states(model, count=1)
    logits = head.logits(torch.zeros(1, head.spec.tokens, dtype=torch.long), states, proprio)[0, 0].detach()
    one = batch(model.config, count=1)
    drawn = torch.cat([head.sample(states, proprio, one, seed)[:, 0] for seed in range(8)])
    drawn = torch.where(drawn < 0, head.spec.codes, drawn)
    wanted = (logits / 2).softmax(-1)
    assert float((torch.bincount(drawn, minlength=head.classes) / 400 - wanted).abs().max()) < 0.08


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_decision_is_the_mean_of_what_was_drawn(kind, order):
    model, data = policy(kind, order, head_temperature=2.0, head_draws=5).eval(), batch(config())
    head, states, proprio = head_and_states(model)
    codes = head.sample(states, proprio, data, 3)
    assert len(codes) == B * 5
    assert len(codes.unique(dim=0)) > B
    wanted = model.codec.tokenizer.decode(codes, repair=True).view(B, 5, H, M).mean(1)
    torch.testing.assert_close(model.predict_chunk(data, seed=3), wanted)
    torch.testing.assert_close(model.predict_chunk(rows(data, [2]), seed=3)[0], wanted[2])


@pytest.mark.parametrize("draws", [1, 4, 5])
def test_drawn_chunks_are_averaged_number_by_number(draws):
    model = policy("bins", head_temperature=2.0, head_draws=draws).eval()
    chunks = torch.randn(B * draws, H, M, generator=seeded())
    each = chunks.view(B, draws, H, M).numpy()
    assert torch.allclose(model.head.average_of_draws(chunks), torch.from_numpy(each.mean(1)))
    mean = model.predict_chunk(observation(model.config))
    model.head.average = "median"
    assert torch.allclose(model.head.average_of_draws(chunks), torch.from_numpy(np.median(each, 1)))
    assert torch.equal(mean, model.predict_chunk(observation(model.config))) == (draws == 1)
    with pytest.raises(LattokError, match="`head_average`"):
        model.head.average = "mode"


def test_several_draws_need_a_temperature():
    refused("`head_draws`", policy, "bins", head_draws=2)
    refused("`head_draws`", policy, "bins", head_temperature=1.0, head_draws=0)
    refused("`head_draws`", HeadConfig, temperature=1.0, draws=2)


@pytest.mark.parametrize("draws", [1, 3])
@pytest.mark.parametrize("order", ORDERS)
def test_a_policy_acts_by_the_first_codes_alone_where_these_decode(order, draws, monkeypatch):
    options: Any = {"head_temperature": 2.0, "head_draws": draws} if draws > 1 else {}
    whole, data = policy("residual", order, **options).eval(), batch(config())
    taken, advance = [], HeadBlock.advance
    monkeypatch.setattr(HeadBlock, "advance", lambda *args: taken.append(1) or advance(*args))
    codes = whole.head.sample(*head_and_states(whole)[1:], data, 3)
    few = policy("residual", order, head_codes=2, **options).eval()
    chunks = few.codec.tokenizer.decode(codes[:, :2]).view(B, draws, H, M).mean(1)  # a prefix, which needs no repair
    torch.testing.assert_close(few.predict_chunk(data, seed=3), chunks)
    assert len(taken) == len(few.head.blocks) * (3 + 2) * (order == "autoregressive")
    whole.head.codes = 2
    assert whole.saved_config == few.config
    torch.testing.assert_close(whole.predict_chunk(data, seed=3), chunks)


def test_the_first_codes_are_those_that_there_are_and_decode_alone():
    assert policy("residual", head_codes=3).head.codes == 3
    refused("`head_codes`", policy, "residual", head_codes=4)
    for kind in ("bins", "fast"):
        refused("`head_codes`", policy, kind, head_codes=2)
    refused("`head_codes`", HeadConfig, codes=2)
    kinds = {name for name, (family, _) in FAMILIES.items() if family.prefixes}
    assert {"residual-vq", "fsq", "oat", "vqbet"} == kinds


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"temperature": 0.7}, "`head_temperature`"),
        ({"name": "flow", "order": "parallel"}, "`head_order`"),
        ({"name": "tokens", "flow_steps": 9}, "`head_flow_steps`"),
    ],
)
def test_options_of_another_head_are_refused(options, text):
    refused(text, HeadConfig, **options)


def test_how_a_trained_policy_draws_is_saved_with_it(tmp_path):
    model, data = policy("bins").eval(), batch(config())
    model.head.temperature, model.head.draws = 0.7, 4
    loaded = lattok.load(model.save_pretrained(tmp_path / "policy"))
    assert (loaded.head.temperature, loaded.config.head.draws) == (0.7, 4)
    assert torch.equal(loaded.predict_chunk(data), model.predict_chunk(data))


@pytest.mark.parametrize("seed", [np.int64(0), 0.0, False, None, -1, torch.tensor(0)])
def test_a_seed_is_a_whole_number(seed):
    """Others that equal it gave other chunks."""
    model = policy("bins", head_temperature=1.0).eval()
    refused("`seed`", lambda: model.predict_chunk(batch(config()), seed=seed))


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("codes", -2, "`head_codes`"),
        ("codes", 5, "`head_codes`"),
        ("codes", 50, "`head_codes`"),
        ("draws", 0, "`head_draws`"),
        ("draws", 4, "`head_draws`"),
        ("temperature", -1.0, "`head_temperature`"),
        ("temperature", 10**400, "`head_temperature`"),
        ("temperature", 1e-46, "`head_temperature`"),
    ],
)
def test_how_a_trained_policy_draws_is_checked_before_it_moves(name, value, text):
    """Codes of -2 were the mean action, 5 of 12 were held, and a negative temperature drew what is unlikely."""
    model, data = policy("bins").eval(), batch(config())
    before = model.predict_chunk(data)
    refused(text, setattr, model.head, name, value)
    assert torch.equal(model.predict_chunk(data), before)


def test_rows_of_varying_length_are_learned_up_to_the_end_of_the_longest():
    """A row may take one code for each byte of its coefficients, and hardly any does."""
    model, data = policy("fast").eval(), batch(config())
    coded = model.prepared(data)
    lengths = (coded.tokens >= 0).sum(1)
    assert coded.tokens.shape[1] == int(lengths.max()) + 1 < model.config.predicted
    wide = torch.nn.functional.pad(coded.tokens, (0, model.config.predicted - coded.tokens.shape[1]), value=-1)
    torch.testing.assert_close(model(coded)["action"], model(coded._replace(tokens=wide))["action"])
    unknown = data._replace(valid=torch.zeros_like(data.valid))
    assert model.prepared(unknown).tokens.tolist() == [[0]] * len(data.valid)
    parallel = policy("fast", "parallel").prepared(data)
    assert (
        parallel.tokens.shape[1] == model.config.predicted
    )  # where each position has to say that it is behind the end


def test_without_a_sample_nothing_is_predicted():
    model = policy("bins").eval()
    refused("`observation`", lambda: model.predict_chunk(rows(batch(model.config), [])))


def test_the_smallest_temperature_chooses_the_likeliest():
    head = policy("residual", head_temperature=1e-38).eval().head
    logits = torch.randn(50, 3, head.classes) * 50
    assert torch.equal(head._chosen(logits, torch.rand(50, 3)), logits.argmax(-1))


def test_shares_of_a_batch_with_gaps_weigh_as_the_whole_does():
    model = policy("residual").eval()
    data = batch(model.config)
    valid = data.valid.clone()
    valid[0, 1] = False  # a gap: nothing to code
    data = data._replace(valid=valid)
    codes = losses.coded(valid)
    whole = model(data._replace(shares=Shares(acted=codes.sum().float())))["action"]
    parts = [rows(data, [i], shares=Shares(acted=codes.sum() / B)) for i in range(B)]
    torch.testing.assert_close(torch.stack([model(part)["action"] for part in parts]).mean(), whole)
    torch.testing.assert_close(model(data._replace(shares=Shares()))["action"], whole)


def test_batches_with_lerobots_keys_teach_the_same():
    model = policy("residual").eval()
    seen = observation(model.config)
    actions = batch(model.config).actions
    padded = torch.zeros(B, H, dtype=torch.bool)
    padded[-1, -2:] = True
    terms = model(seen | {"action": actions, "action_is_pad": padded})
    tokens = model.codec.tokenizer.encode(actions, ~padded)
    wanted = model(model._batch(seen | {"action": actions, "action_is_pad": padded}, True)._replace(tokens=tokens))
    assert terms == wanted
    actions[1, 2, 0] = torch.nan
    refused("`action`", model, seen | {"action": actions})
    refused(
        "`action`",
        lambda: model(
            model._batch(seen | {"action": actions.nan_to_num()}, True)._replace(actions=actions, tokens=None)
        ),
    )
    actions[1, 2, 0], actions[-1, -1, 0] = 0, torch.nan  # beyond the episode
    assert model(seen | {"action": actions, "action_is_pad": padded})["action"].isfinite()


@pytest.mark.parametrize("strategy", ["la_align", "la_direct", "la_tok"])
def test_strategies_and_heads_of_tokens_go_together(strategy):
    model = policy("bins", strategy=strategy).train()
    terms = model(model.prepared(batch(model.config)))
    assert {"action", "action_accuracy", "latent"} <= terms.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_the_artefact_holds_its_tokenizer_and_no_other(kind, tmp_path):
    model, data = policy(kind).eval(), batch(config())
    model.save_pretrained(tmp_path / "policy")
    again = lattok.load(tmp_path / "policy")
    assert torch.equal(again.predict_chunk(data), model.predict_chunk(data))
    assert again.describe() | {"model": None} == model.describe()
    assert lattok.load(tmp_path / "policy" / TOKENIZER).type == tokenizer(kind).type
    again.save_pretrained(tmp_path / "policy")  # over itself
    assert torch.equal(lattok.load(tmp_path / "policy").predict_chunk(data), model.predict_chunk(data))
    other = UniformBins.fit(torch.randn(50, H, M), bins=16)
    shutil.rmtree(tmp_path / "policy" / TOKENIZER)
    other.save_pretrained(tmp_path / "policy" / TOKENIZER)
    refused("the tokenizer that its head was trained with in parts/tokenizer", lattok.load, tmp_path / "policy")
    shutil.rmtree(tmp_path / "policy" / TOKENIZER)
    refused("expected a folder with parts/tokenizer, as its head needs", lattok.load, tmp_path / "policy")


def test_a_policy_whose_tokenizer_was_changed_is_not_saved(tmp_path):
    model = LatentVLA(policy("bins").config, policy("bins").backbone, copy.deepcopy(tokenizer("bins")))
    model.save_pretrained(tmp_path / "policy")
    model.codec.tokenizer.normalizer.scale.mul_(2)
    refused("`tokenizer`", model.save_pretrained, tmp_path / "policy")
    lattok.load(tmp_path / "policy")


@pytest.mark.parametrize(
    ("kind", "changed", "text"),
    [
        ("bins", {"tokens": torch.full((B, H * M), 16)}, "`tokens`"),
        ("bins", {"tokens": torch.zeros(B, H * M)}, "`tokens`"),
        ("bins", {"tokens": torch.zeros(B, 3, dtype=torch.long)}, "`tokens`"),
        ("bins", {"tokens": torch.zeros(B + 1, H * M, dtype=torch.long)}, "`tokens`"),
        ("fast", {"tokens": torch.full((B, 2), -2)}, "`tokens`"),
        ("bins", {"known": torch.ones(B, M, dtype=torch.bool)}, "`known`"),
    ],
)
def test_codes_in_a_batch_are_checked(kind, changed, text):
    model = policy(kind)
    refused(text, lambda: model(batch(model.config)._replace(**changed)))


def test_actions_that_are_not_finite_are_no_answer():
    model = LatentVLA(policy("residual").config, policy("residual").backbone, copy.deepcopy(tokenizer("residual")))
    model.codec.tokenizer.normalizer.shift.fill_(torch.inf)
    refused("`policy`", lambda: model.predict_chunk(batch(model.config)))


def test_drawn_codes_depend_neither_on_torchs_default_dtype_nor_on_the_sign_of_zero():
    model = policy("residual", head_temperature=1.0).eval()
    seen = batch(model.config)
    drawn = model.predict_chunk(seen)
    for kind in (torch.float64, torch.bfloat16):
        torch.set_default_dtype(kind)
        try:
            assert torch.equal(model.predict_chunk(seen), drawn)
        finally:
            torch.set_default_dtype(torch.float32)
    zero = torch.zeros(B, model.config.proprio_dim)
    assert torch.equal(*(noise_of(seen._replace(proprio=each), (2, 3), 0) for each in (zero, -zero)))


def test_a_tokenizer_elsewhere_or_of_another_kind_is_refused(tmp_path):
    policy("bins").save_pretrained(tmp_path / "policy")
    place = tmp_path / "policy" / TOKENIZER
    place.rename(tmp_path / "mine")
    place.symlink_to(tmp_path / "mine")
    refused("parts/tokenizer.* leads to .*/mine", lattok.load, tmp_path / "policy")
    place.unlink()
    shutil.copytree(tmp_path / "policy", tmp_path / "other")
    (tmp_path / "other").rename(place)
    refused("an action tokenizer in parts/tokenizer, got latent-vla", lattok.load, tmp_path / "policy")


def test_what_does_not_fit_is_one_line(tmp_path):
    spec = TokenSpec.of(tokenizer("bins"))
    refused("`tokenizer`", config, head="tokens")
    refused("`tokenizer`.*got one with head=flow", config, head="flow", tokens=spec)
    refused("`head`", config, head="tokens", tokens=spec, normalizers=("a", "b"), absent=((), (1,)))
    refused("`head_order`", config, head="tokens", tokens=spec, head_order="backwards")
    made = config(head="tokens", tokens=spec)
    refused(
        "`tokenizer`", lambda: LatentVLA(made, open_backbone(made), UniformBins.fit(torch.randn(50, H, M), bins=16))
    )
    refused(
        "`tokenizer`", lambda: LatentVLA(made, open_backbone(made), UniformBins.fit(torch.randn(50, 8, M), bins=16))
    )
    bare = LatentVLA(made, open_backbone(made)).eval()
    refused("`policy`", lambda: bare.predict_chunk(batch(made)))
    policy("bins").save_pretrained(tmp_path / "policy")
    told = json.loads((tmp_path / "policy" / "config.json").read_text())
    told["tokens"]["tokens"] = 10**9
    (tmp_path / "policy" / "config.json").write_text(json.dumps(told))
    refused("tokens", lattok.load, tmp_path / "policy")


FAMILIES = cases(variants=False)
POLICY = {"steps": 2, "image_size": 32, "device": "cpu", "backbone_depth": 1, "batch_size": 4, "head": "tokens"}


@pytest.mark.parametrize(("kind", "order"), [(kind, ORDERS[i % 2]) for i, kind in enumerate(FAMILIES)])
def test_a_recipe_takes_any_tokenizer_by_name_and_nothing_else_changes(kind, order, make_dataset, tmp_path):
    dataset = make_dataset([30, 30, 30])
    family, options = FAMILIES[kind]
    made = family.fit(*lattok.samples.ActionWindows(dataset, 4).all(), **options)
    names = {"tokenizer": str(made.save_pretrained(tmp_path / "tokenizer")), "head_order": order}
    recipe = lattok.VLARecipe.from_preset(dataset.root, tmp_path / "policy", "scratch", horizon=4, **POLICY, **names)
    model = lattok.train(recipe)
    assert model.config.tokens == TokenSpec.of(made)
    assert (tmp_path / "policy" / "held_out.json").is_file()
    again = lattok.load(tmp_path / "policy")
    assert again.codec.tokenizer.describe()["weights_sha256"] == made.describe()["weights_sha256"]
    seen = batch(model.config, count=2)
    chunk = again.predict_chunk(seen)
    assert chunk.shape == (2, 4, made.action_dim)
    assert torch.equal(chunk, model.predict_chunk(seen))
    assert torch.isfinite(chunk).all()


def test_policies_of_a_seed_begin_with_the_same_backbone_whatever_is_read_for_them(make_dataset, tmp_path):
    dataset = make_dataset([30, 30, 30])
    family, options = FAMILIES["oat"]
    family.fit(*lattok.samples.ActionWindows(dataset, 4).all(), **options).save_pretrained(tmp_path / "tokenizer")
    policies = []
    for name, more in {"plain": {"head": "regression"}, "tokens": {"tokenizer": str(tmp_path / "tokenizer")}}.items():
        given = {"horizon": 4, **POLICY, "steps": 1, "lr": 1e-12, **more}
        policies.append(lattok.train(lattok.VLARecipe.from_preset(dataset.root, tmp_path / name, "scratch", **given)))
    for own, other in zip(*(policy.backbone.parameters() for policy in policies), strict=True):
        torch.testing.assert_close(own, other, atol=1e-10, rtol=0)


def test_options_of_a_head_are_not_set_on_another():
    made = config()
    model = LatentVLA(made, open_backbone(made))
    text = '`head.draws`: expected to be set before training, with head="tokens", got 32'
    with pytest.raises(LattokError, match=text):
        model.head.draws = 32  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("options", [{"head": "tokens"}, {"strategy": "la_tok", "head": "regression"}])
def test_a_tokenizer_of_other_actions_is_refused_as_everywhere_else(options, make_dataset, tmp_path):
    dataset = make_dataset([30, 30, 30])
    made = UniformBins.fit(*lattok.samples.ActionWindows(dataset, 4).all())
    made.trained_on = {"dataset": dataset.name, "action_space": [{"part": "joints", "n": 3}]}
    given = {"horizon": 4, **POLICY, **options, "tokenizer": str(made.save_pretrained(tmp_path / "joints"))}
    refused(
        "`action_space`",
        lambda: lattok.train(lattok.VLARecipe.from_preset(dataset.root, tmp_path / "out", "scratch", **given)),
    )
    names = dataset.features["action"].names[::-1]
    made = UniformBins.fit(*lattok.samples.ActionWindows(dataset, 4).all(), action_names=names)
    given["tokenizer"] = str(made.save_pretrained(tmp_path / "turned"))
    refused(
        "in this order, as in training",
        lambda: lattok.train(lattok.VLARecipe.from_preset(dataset.root, tmp_path / "out", "scratch", **given)),
    )
    assert not (tmp_path / "out").exists()


def test_the_horizon_is_the_tokenizers_unless_it_is_given(make_dataset, tmp_path):
    dataset = make_dataset([30, 30, 30])
    UniformBins.fit(*lattok.samples.ActionWindows(dataset, 4).all()).save_pretrained(tmp_path / "bins")
    recipe = partial(lattok.VLARecipe.from_preset, dataset.root, tmp_path / "out", "scratch")
    given = {"tokenizer": str(tmp_path / "bins"), "head": "tokens"}
    assert recipe(**given).model.horizon == 4
    assert recipe(**given, horizon=6).model.horizon == 6  # and is refused when it is trained
    assert recipe(**given | {"tokenizer": "none"}).model.horizon == 8  # training says that there is none
    assert recipe(tokenizer=str(tmp_path / "bins")).model.horizon == recipe().model.horizon == 8


def test_a_recipe_refuses_what_does_not_go_with_a_tokenizer(make_dataset, tmp_path):
    dataset = make_dataset([30, 30, 30])
    UniformBins.fit(*lattok.samples.ActionWindows(dataset, 4).all()).save_pretrained(tmp_path / "bins")
    UniformBins.fit(torch.randn(9, 8, 2)).save_pretrained(tmp_path / "long")
    train = partial(lattok.VLARecipe.from_preset, dataset.root, tmp_path / "none", "scratch", horizon=4)
    refused("`tokenizer`", lambda: lattok.train(train(**POLICY)))
    refused("`tokenizer`", lambda: lattok.train(train(tokenizer=str(tmp_path / "long"), **POLICY)))
    refused(
        "learns nothing from tokens of actions. Leave it out, or choose la_tok, or",
        lambda: lattok.train(train(tokenizer=str(tmp_path / "bins"), **POLICY | {"head": "regression"})),
    )


def test_an_imitation_is_a_chunk_of_the_head_and_encodes_none(monkeypatch):
    model = policy("bins", strategy="la_align").eval()
    data = batch(model.config)
    expected = model.predict_chunk(data)
    monkeypatch.setattr(type(model.codec.tokenizer), "encode", None)
    chunk, terms = model.imitate(data)
    assert torch.equal(chunk, expected)
    assert "latent" in terms


def test_a_code_without_any_chance_is_never_drawn():
    """Sums of many chances end beside 1 in float32; the code behind the last sum may have none at all."""
    head = policy("residual", head_temperature=1.0).eval().head
    logits = torch.randn(64, 1, 4001, generator=seeded())
    logits[..., -1] = -1e4
    ends = logits.softmax(-1).cumsum(-1)[:, 0, -1]
    assert bool((ends < 1 - 1e-7).any() and (ends > 1 + 1e-7).any())
    chances = torch.full((64, 1), float(np.nextafter(np.float32(1), np.float32(0))))
    found = head._chosen(logits, chances)[:, 0]
    assert bool((logits[torch.arange(64), 0, found] > -100).all())
    assert bool(
        (logits[torch.arange(64), 0, head._chosen(logits, torch.ones(64, 1))[:, 0]] > -100).all()
    )  # rounded to 1
