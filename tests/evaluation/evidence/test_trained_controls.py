"""Controls that are trained: what they learn from, and when they are trained again."""

from pathlib import Path

import pytest
import torch

from lattok.evaluation.evidence.pair_set import PairSource, read_pair_set
from lattok.evaluation.evidence.trained_controls import USUAL, ControlTraining, control_config, labels_of, labels_only
from lattok.image_lam import ImageLAM
from lattok.training import LoopOptions
from tests.evaluation.worlds import World, tiny_lam

pytestmark = pytest.mark.usefixtures("short_mlps")


def test_labels_alone_are_kept_and_made_anew_for_another_model(tmp_path: Path):
    world, model = World(episodes=4, length=20), tiny_lam()
    source = PairSource(world, 4, "action", None, ("front",), None)
    pairs = read_pair_set(source, model, model, [0, 1, 2], 10, lambda done, total: None)
    loop = LoopOptions(steps=3, batch_size=8, device="cpu")

    def kept(model: ImageLAM, action_key: str = "action") -> int:
        labels_only(model, world, pairs, pairs, ControlTraining(loop, tmp_path, {"action_key": action_key}))
        return len(list(tmp_path.glob("*.safetensors")))

    assert kept(model) == 1
    stamp = next(tmp_path.glob("*.safetensors")).stat().st_mtime_ns
    assert kept(model) == 1
    assert next(tmp_path.glob("*.safetensors")).stat().st_mtime_ns == stamp
    with torch.no_grad():
        next(model.encoder.parameters()).add_(1)
    assert kept(model) == 2
    assert kept(model, "observation.state") == 3


def test_controls_learn_from_pairs_that_probes_leave_out():
    world, model = World(episodes=4, length=20), tiny_lam()
    source = PairSource(world, 4, "action", None, ("front",), None)
    pairs = read_pair_set(source, model, model, [0, 1, 2], 10, lambda done, total: None)
    training = ControlTraining(LoopOptions(steps=1, batch_size=8, device="cpu"), None, {})
    found, text = labels_only(model, world, pairs, pairs, training)
    assert text.startswith("2 labelled of 48 pairs")
    assert found["train_codes"].shape == (10, 2)
    assert "of 48 pairs" in training.text(pairs)
    for episodes, count in (("0,1", 32), ("9", 48)):  # whose actions the model knew; none of them is here
        model.trained_on = {"labels": {"fraction": 1.0, "unit": "pairs", "per_batch": 2, "episodes": episodes}}
        assert labels_only(model, world, pairs, pairs, training)[1].startswith(f"{count} labelled of 48 pairs")


def test_labels_are_the_ones_the_model_had_where_it_knows():
    model = tiny_lam()
    assert labels_of(model) == {**USUAL, "seed": 0}
    known = {"fraction": 0.2, "unit": "episodes", "per_batch": 0}
    model.trained_on = {"loop": {"seed": 3}, "labels": known}
    assert labels_of(model) == {**known, "seed": 3}
    model.trained_on["labels"] = {**known, "fraction": 0.0}  # had none: what would the usual ones have given?
    assert labels_of(model) == {**USUAL, "seed": 3}


def test_the_control_learns_from_labels_and_nothing_else():
    terms = {"loss_action": 0.0, "loss_additivity": 0.1, "loss_flow": 0.1}
    config = control_config(tiny_lam(streams="joint", extra_strides=("8",), **terms))
    assert (config.streams, config.extra_strides, config.action.steps) == ("control", (), 1)
    weights = config.loss_weights
    assert (weights["prediction"], weights["action"]) == (0, 1)
    assert weights["additivity"] == weights["flow"] == 0
