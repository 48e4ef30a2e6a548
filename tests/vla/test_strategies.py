from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from lattok.hub import parse_config
from lattok.utils.checks import LattokError
from lattok.vla import STRATEGIES, LatentLoss, Span, Strategy, strategy_of
from lattok.vla.strategies import ACTION, LATENT
from tests.vla.fakes import config


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
    assert STRATEGIES["la_align"].losses[0].layer_index(28) == 17


@pytest.mark.parametrize(("layer", "index"), [(1.0, 12), (0.5, 6), (0.51, 7), (3, 3), (1, 1), (0.25, 3)])
def test_layers_are_indices_or_fractions_rounded_up(layer: float, index: int):
    assert strategy_of("la_align", layer=layer).losses[0].layer_index(12) == index


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_goes_through_json(name: str):
    assert parse_config(Strategy, json.loads(json.dumps(asdict(STRATEGIES[name]))), "here") == STRATEGIES[name]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: strategy_of("la_direkt"), "`strategy`: expected one of baseline, .*got 'la_direkt'"),
        (
            lambda: parse_config(Strategy, {"name": "x", "lambda": 1}, "here"),
            "`here`: expected names among .*got lambda",
        ),
        (
            lambda: strategy_of("baseline", weight=0.5),
            "`weight`: expected a strategy with one latent loss, got baseline",
        ),
        (lambda: strategy_of("la_align", layer=1.5), "`layer`: expected a fraction"),
        (lambda: strategy_of("la_align", layer=0), "`layer`: expected the index"),
        (lambda: strategy_of("la_align", layer=float("nan")), "`layer`: expected the index"),
        (lambda: strategy_of(3), "`strategy`: expected a name or a Strategy, got 3"),
        (lambda: strategy_of("la_align", layer=13).losses[0].layer_index(12), "expected a state from 1 to 12"),
        (
            lambda: strategy_of("la_direct", projection="mlp"),
            "`options`: expected options of `codes` .it has none., got projec",
        ),
        (
            lambda: LatentLoss("code"),
            "`loss`: expected one of align, codes, distill, regress, got 'code'. Did you mean codes?",
        ),
        (lambda: LatentLoss("codes", name="action"), "`loss`: expected a name of letters and digits that is not taken"),
        (lambda: LatentLoss("codes", name="values"), "that is not taken, got 'values'"),
        (
            lambda: Strategy("x", (LATENT,), (LatentLoss("codes"),)),
            "`labels`: expected the kind of labels, .* got None",
        ),
        (lambda: Strategy("x", (ACTION,), labels="steps"), "`labels`: expected the kind of labels, .* got steps"),
        (lambda: Strategy("x", (LATENT,), labels="frames"), "`labels`: expected one of steps, chunk, got 'frames'"),
        (
            lambda: Strategy("x", (ACTION,), (LatentLoss("codes"),), "steps"),
            "`span`: expected one of action, got 'latent'",
        ),
        (lambda: strategy_of("la_align", weight=-0.1), "`weight`: expected a number of at least 0"),
        (lambda: Strategy("x", ()), "`strategy`: expected spans and losses, each with a name of its own, got none"),
        (lambda: Strategy("x", (ACTION, ACTION)), "each with a name of its own, got action, action"),
        (lambda: Span("a", 0), "`span`: expected a whole number of at least 1, or codes, got 0"),
        (
            lambda: Span("a", steps="many"),
            "`span`: expected a whole number of at least 1, or horizon or labels, got 'many'",
        ),
        (lambda: Span("a b"), "`span`: expected a name of letters and digits, got 'a b'"),
    ],
)
def test_what_makes_no_sense_is_one_line(call, message: str):
    with pytest.raises(LattokError, match=message):
        call()
