"""Strategies of the paper, and those and losses of somebody else: spans of any length, losses on several layers."""

import json
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch

import lattok
from lattok.hub import parse_config
from lattok.labels import LatentSpec
from lattok.nn.losses import reduce_valid
from lattok.types import LatentTarget, LossTerms
from lattok.vla import STRATEGIES, LatentLoss, LatentSupervision, Span, Strategy, register_strategy, strategy_of
from lattok.vla.strategies import ACTION, LATENT, hidden_index
from lattok.vla.supervision import LOSSES
from tests.errors import refused
from tests.vla.fakes import H, P, batch, config, policy


@pytest.mark.parametrize(
    ("name", "latent", "action", "weight"),
    [  # Table 7 of the paper, P = 4, H = 8; E.2 for the baselines of equal length
        ("baseline", 0, 8, 0),
        ("la_align", 0, 8, 1.0),
        ("la_direct", 32, 0, 0.1),
        ("la_cond", 32, 8, 0.1),
        ("la_tok", 8, 0, 0.1),
        ("ph_direct", 0, 32, 0),
        ("ph_cond", 0, 40, 0),
        ("la_direct_c", 32, 0, 0.1),
        ("la_tok_c", 8, 0, 0.1),
    ],
)
def test_placeholders_and_weights_of_table_7(name: str, latent: int, action: int, weight: float):
    made = config(name, horizon=8, latent={} if name.startswith("la_tok") else {"codes": 4, "vectors": 4})
    counts = {span: segment.count for span, segment in made.segments.items()}
    assert [counts.pop("latent", 0), sum(counts.values())] == [latent, action]
    assert made.loss_weights == {"action": 1.0} | ({"latent": weight} if weight else {})


def test_the_layer_of_la_align_is_17_of_29_hidden_states():
    assert hidden_index(STRATEGIES["la_align"].losses[0].layer, 28) == 17


@pytest.mark.parametrize(("layer", "index"), [(1.0, 12), (0.5, 6), (0.51, 7), (3, 3), (1, 1), (0.25, 3)])
def test_layers_are_indices_or_fractions_rounded_up(layer: float, index: int):
    assert hidden_index(strategy_of("la_align", layer=layer).losses[0].layer, 12) == index


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_goes_through_json(name: str):
    assert parse_config(Strategy, json.loads(json.dumps(asdict(STRATEGIES[name]))), "here") == STRATEGIES[name]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: strategy_of("la_direkt"), "`strategy`"),
        (lambda: parse_config(Strategy, {"name": "x", "lambda": 1}, "here"), "`here`"),
        (lambda: strategy_of("baseline", weight=0.5), "`weight`"),
        (lambda: strategy_of("la_align", layer=1.5), "`layer`"),
        (lambda: strategy_of("la_align", layer=0), "`layer`"),
        (lambda: strategy_of("la_align", layer=float("nan")), "`layer`"),
        (lambda: strategy_of(3), "`strategy`"),
        (lambda: hidden_index(strategy_of("la_align", layer=13).losses[0].layer, 12), "expected a state from 1 to 12"),
        (lambda: strategy_of("la_direct", projection="mlp"), "`options`"),
        (lambda: LatentLoss("code"), "`loss`"),
        (lambda: LatentLoss("codes", name="action"), "`loss`"),
        (lambda: LatentLoss("codes", name="values"), "that is not taken, got 'values'"),
        (lambda: Strategy("x", (LATENT,), (LatentLoss("codes"),)), "`labels`"),
        (lambda: Strategy("x", (ACTION,), labels="steps"), "`labels`"),
        (lambda: Strategy("x", (LATENT,), labels="frames"), "`labels`"),
        (lambda: Strategy("x", (ACTION,), (LatentLoss("codes"),), "steps"), "`span`"),
        (lambda: strategy_of("la_align", weight=-0.1), "`weight`"),
        (lambda: Strategy("x", ()), "`strategy`"),
        (lambda: Strategy("x", (ACTION, ACTION)), "each with a name of its own, got action, action"),
        (lambda: Span("a", 0), "`span`"),
        (lambda: Span("a", steps="many"), "`span`"),
        (lambda: Span("a b"), "`span`"),
    ],
)
def test_what_makes_no_sense_is_one_line(call, message: str):
    refused(message, call)


PLAN = Strategy(
    "plan",
    (Span("thought", 3, steps=2), LATENT, Span("pause", steps=1), ACTION),
    (
        LatentLoss("codes", "latent", layer=1.0, weight=0.1),
        LatentLoss("align", "action", layer=0.5, weight=0.5, name="look", options={"projection": "mlp"}),
        LatentLoss("codes", "latent", layer=1, weight=0.0, name="early"),
    ),
    "steps",
)


def test_a_strategy_that_does_not_act_yet_says_what_to_do_with_its_policies():
    """In any package: the policy itself knows none by name."""
    follows = replace(PLAN, acts=False, next_step="mine train DATASET --policy FOLDER")
    model = policy(follows)
    assert model.usage()[-1] == "# mine train DATASET --policy FOLDER"
    refused("learned to act, got one of plan, which .* first: mine train DATASET --pol", model.predict_chunk, {})
    refused("learned to act", lambda: policy(replace(PLAN, acts=False)).predict_chunk({}))
    refused("`next_step`", replace, follows, next_step="rest\nimport os")


def test_a_configuration_of_an_earlier_layout_is_refused(tmp_path):
    """Its options stood side by side."""
    path = policy().save_pretrained(tmp_path / "p") / "config.json"
    now = json.loads(path.read_text())
    path.write_text(json.dumps({**now, "backbone": "scratch", "train_backbone": "full", "head_dim": 32}))
    refused("got head_dim, train_backbone. .*If another version of lattok wrote it, make", lattok.load, tmp_path / "p")


def test_spans_stand_in_order_whatever_their_length():
    segments = config(PLAN).segments
    assert {name: tuple(segment) for name, segment in segments.items()} == {
        "thought": (0, 2, 3),
        "latent": (6, H, P),
        "pause": (6 + H * P, 1, 1),
        "action": (7 + H * P, H, 1),
    }
    assert policy(PLAN).placeholders.shape == (7 + H * P + H, 32)


def test_every_loss_has_its_span_its_layer_and_its_terms():
    model = policy(PLAN)
    data = batch(model.config)
    seen = model._run_backbone(data, learning=True)
    assert model.supervision.layer_of == {"latent": 3, "look": 2, "early": 1}
    assert {name: states.shape[1] for name, states in seen.supervised.items()} == {
        "latent": H * P,
        "look": H,
        "early": H * P,
    }
    terms = model(data)
    assert set(terms) == {"action", "latent", "latent_accuracy", "look", "look_cosine", "early", "early_accuracy"}
    assert model.config.loss_weights == {"action": 1.0, "latent": 0.1, "look": 0.5, "early": 0.0}
    for name, layer in (("latent", 3), ("early", 1)):
        alone = policy(replace(PLAN, losses=(LatentLoss("codes", "latent", layer=layer),)))
        alone.load_state_dict(
            {key.replace(f".{name}.", ".latent."): value for key, value in model.state_dict().items()}, strict=False
        )
        torch.testing.assert_close(terms[name], alone(data)["latent"])


def test_a_saved_policy_of_an_unknown_strategy_is_the_same(tmp_path):
    model = policy(PLAN).eval()
    loaded = lattok.load(model.save_pretrained(tmp_path / "policy"))
    assert loaded.config == model.config
    data = batch(model.config)
    assert torch.equal(loaded.predict_chunk(data), model.predict_chunk(data))


def test_a_loss_acts_on_as_many_steps_as_there_are_labels():
    wrong = replace(PLAN, losses=(LatentLoss("codes", "thought"),))
    refused("`span`", config, wrong)


def test_a_loss_is_one_class_and_a_strategy_one_entry(monkeypatch):
    for registry in (STRATEGIES, LOSSES):
        assert list(registry)  # which are ours is found once, and must not be found with those of this test
        monkeypatch.setattr(registry, "_known", dict(registry._known))

    class Length(LatentSupervision):
        """Squared error of the length of a latent action."""

        kind = "length"
        parts = ("embedding",)

        def __init__(self, dim: int, states_per_step: int = 1):
            super().__init__(dim, states_per_step)
            self.head = torch.nn.Linear(dim, 1)

        @classmethod
        def build(cls, dim: int, labels: LatentSpec, states_per_step: int = 1, **options: Any) -> "Length":
            return cls(dim, states_per_step)

        def _terms(self, states: torch.Tensor, target: LatentTarget, reduction: str) -> LossTerms:
            wanted = target.embedding.norm(dim=-1).mean(2)  # b s
            errors = (self.head(states.mean(2))[..., 0] - wanted).square()
            return {"latent": reduce_valid(errors, target.valid, reduction)}

    strategy = register_strategy(Strategy("la_length", (LATENT, ACTION), (LatentLoss("length"),), "steps"))
    assert strategy.needs == ("embedding",)
    assert list(STRATEGIES)[-1] == "la_length"
    model = policy("la_length")
    terms = model(batch(model.config))
    assert terms["latent"] > 0
    recipe = lattok.VLARecipe.from_preset("data", "out", "scratch", strategy="la_length", latent_weight=0.3)
    assert [loss.weight for loss in recipe.data.plan.losses] == [0.3]
    refused("`latent`", config, "la_length", latent={"vectors": 0})


def test_what_a_strategy_needs_of_labels_is_what_its_losses_look_at():
    """Baselines as long as others need the labels' length alone: those of a continuous model will do."""
    assert {name: strategy.needs for name, strategy in STRATEGIES.items()} == {
        "baseline": (),
        "ph_direct": (),
        "ph_cond": (),
        "la_align": ("embedding",),
        "la_direct": ("codes",),
        "la_cond": ("codes",),
        "la_tok": ("codes",),
        "la_direct_c": ("embedding",),
        "la_cond_c": ("embedding",),
        "la_tok_c": ("embedding",),
    }
    assert PLAN.needs == ("codes", "embedding")
    continuous = {"codes": 0, "codebook_size": 0}
    assert config("ph_direct", latent=continuous).segments["action"].per_step == P
    assert config("la_direct_c", latent=continuous).segments["latent"].per_step == P
    refused("labels with codes", config, "la_direct", latent=continuous)
