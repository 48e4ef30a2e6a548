from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from lattok.checks import LattokError
from lattok.vla import STRATEGIES, Strategy, strategy_of
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
    made = config(name, horizon=8, codes=1 if name.startswith("la_tok") else 4)
    runs = made.latent_placeholders, made.action_placeholders
    counts = [sum(steps * each for steps, each in part) for part in runs]
    assert counts == [latent, action]
    assert made.plan.weight == weight
    assert made.loss_weights == {"action": 1.0} | ({"latent": weight} if weight else {})


def test_the_layer_of_la_align_is_17_of_29_hidden_states():
    assert STRATEGIES["la_align"].layer_index(28) == 17


@pytest.mark.parametrize(("layer", "index"), [(1.0, 12), (0.5, 6), (0.51, 7), (3, 3), (1, 1), (0.25, 3)])
def test_layers_are_indices_or_fractions_rounded_up(layer: float, index: int):
    assert strategy_of("la_align", layer=layer).layer_index(12) == index


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_goes_through_json(name: str):
    assert strategy_of(json.loads(json.dumps(asdict(STRATEGIES[name])))) == STRATEGIES[name]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: strategy_of("la_direkt"), "`strategy`: expected one of baseline, .*got 'la_direkt'"),
        (lambda: strategy_of({"loss": "codes"}), "`strategy`: expected a name, got none"),
        (lambda: strategy_of({"name": "x", "lambda": 1}), "got lambda"),
        (lambda: strategy_of("baseline", weight=0.5), "`weight`: expected a strategy with a latent loss"),
        (lambda: strategy_of("la_align", layer=1.5), "`layer`: expected a fraction"),
        (lambda: strategy_of("la_align", layer=0), "`layer`: expected the index"),
        (lambda: strategy_of("la_align", layer=float("nan")), "`layer`: expected the index"),
        (lambda: strategy_of(3), "`strategy`: expected a name, a Strategy or its fields, got 3"),
        (lambda: strategy_of("la_align", layer=13).layer_index(12), "expected a hidden state from 1 to 12"),
        (lambda: Strategy("x", loss="codes"), "a loss with a target and a weight, or none of the three"),
        (lambda: Strategy("x", target="steps"), "a loss with a target and a weight, or none of the three"),
        (lambda: Strategy("x", weight=0.1), "a loss with a target and a weight, or none of the three, got loss none"),
        (lambda: strategy_of("la_align", weight=-0.1), "`weight`: expected a number of at least 0"),
        (lambda: Strategy("x", action_placeholders="none"), "placeholders of latent actions or of actions"),
        (lambda: Strategy("x", latent_placeholders="one"), "`latent_placeholders`: expected one of none, codes"),
    ],
)
def test_what_makes_no_sense_is_one_line(call, message: str):
    with pytest.raises(LattokError, match=message):
        call()
