"""Distractors, structure, transfer and gallery in worlds whose answers are known."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from lattok.evaluation import evaluate
from lattok.evaluation.labels_only import USUAL, control_config, labels_of, labels_only
from lattok.evaluation.pairs import Source, read_pairs
from lattok.evaluation.separation import SIZE, Overlay
from lattok.evaluation.structure import match
from lattok.evaluation.trained import Training
from lattok.image_lam import ImageLAM
from lattok.training import LoopOptions
from tests.evaluation.worlds import Linear, Oracle, Symmetric, World, tiny_lam

pytestmark = pytest.mark.usefixtures("short_mlps")

HELD_OUT = [6, 7, 8, 9]


@pytest.fixture(scope="module")
def world() -> World:
    return World(episodes=16, length=24, black=True, tasks=2)


def figures(model: ImageLAM, world: World, **options) -> dict[str, float]:
    return evaluate(model, world, episodes=HELD_OUT, **options).figures


def holds(report) -> dict[str, bool | None]:
    return {verdict.key: verdict.holds for verdict in report.verdicts}


def test_a_patch_is_drawn_where_it_says_and_its_motion_is_what_moved():
    overlay = Overlay.random(50, seed=0)
    frames = torch.zeros(50, 2, 2, 32, 48, 3, dtype=torch.uint8)
    drawn = overlay.draw(frames, torch.arange(50))
    assert frames.sum() == 0
    assert torch.equal(drawn[:, :, 0], drawn[:, :, 1])  # all cameras alike
    covered = (drawn[:, :, 0] > 0).any(-1)
    assert int(covered.sum((2, 3)).max()) <= 8 * 12
    assert float(covered.float().mean()) > 0.95 * SIZE**2
    corner = covered.any(3).float().argmax(2), covered.any(2).float().argmax(2)  # first row, first column
    moved = torch.stack([(c[:, 1] - c[:, 0]) / size for c, size in zip(corner, (32, 48), strict=True)], 1)
    torch.testing.assert_close(moved, overlay.motion, atol=0.07, rtol=0)
    assert overlay.motion.abs().max() <= SIZE + 1e-6
    assert (overlay.places >= 0).all()
    assert (overlay.places <= 1).all()


def test_where_each_stream_sees_its_own_both_verdicts_hold(world: World):
    report = evaluate(tiny_lam(Oracle, world, streams="joint"), world, episodes=HELD_OUT)
    found = report.figures
    assert found["separation/action_kept/latents"] > 0.99
    assert found["separation/action_fixed/latents"] > 0.99  # and the labels mean the same
    assert found["separation/distractor/latents"] < 0.1
    assert found["separation/distractor/env_latents"] > 0.8
    assert found["separation/changed/latents"] < 0.01
    assert found["separation/changed/env_latents"] > 0.9
    assert holds(report)["action_under_distractors"] is True
    assert holds(report)["env_takes_distractor"] is True


def test_a_stream_that_looks_at_the_patch_loses_the_action(world: World):
    class Swapped(Oracle):
        def encode_features(self, features, text=None, text_mask=None):
            found = super().encode_features(features)
            assert found.env is not None
            return found.env._replace(env=found._replace(env=None))

    report = evaluate(tiny_lam(Swapped, world, streams="joint"), world, episodes=HELD_OUT)
    assert report.figures["separation/distractor/latents"] > 0.8
    assert holds(report)["env_takes_distractor"] is False


def test_latents_that_are_sums_of_changes_obey_every_law():
    report = evaluate(tiny_lam(Linear), World(episodes=10), episodes=HELD_OUT)
    found = report.figures
    for law in ("additivity", "reversal"):
        assert found[f"{law}/model"] == pytest.approx(1, abs=1e-4)
        assert found[f"{law}/raw_change"] == pytest.approx(1, abs=1e-4)
        assert found[f"{law}/random"] < 0
    assert found["transfer_latents/model"] == pytest.approx(1, abs=1e-4)
    assert found["transfer_codes/model"] == 1
    assert found["transfer_latents/own"] < 0.2
    assert [holds(report)[key] for key in ("additive", "reversible", "transfers")] == [True] * 3


def test_latents_that_ignore_the_direction_of_time_obey_none():
    report = evaluate(tiny_lam(Symmetric), World(episodes=10), episodes=HELD_OUT)
    found = report.figures
    assert found["reversal/model"] == pytest.approx(-3, abs=0.01)  # the same vector with the wrong sign
    assert found["additivity/model"] < 0.9
    assert found["transfer_latents/model"] < 0.5  # its decoder does nothing: no latent ever comes back
    assert holds(report)["reversible"] is False
    assert holds(report)["transfers"] is False


def test_a_match_forgives_offsets_and_the_best_factor_forgives_size(rng: np.random.Generator):
    left = torch.from_numpy(rng.standard_normal((500, 3)))
    exact = match(left, left + 7)
    assert exact.explained == pytest.approx(1)
    half = match(left, left / 2)
    assert half.explained == pytest.approx(0.75)
    assert (half.scaled, half.factor) == pytest.approx((1, 2))
    assert half.relative_error == pytest.approx(0.5)
    assert match(left, torch.from_numpy(rng.standard_normal((500, 3)))).scaled < 0.05
    assert match(left, torch.zeros_like(left)) == (0, 0, 0)


def test_a_stride_of_one_frame_has_no_middle(world: World):
    report = evaluate(tiny_lam(Linear), world, episodes=HELD_OUT, stride=1)
    assert "reversal/model" in report.figures
    assert "additivity/model" not in report.figures
    assert "not applicable: a stride of one frame" in report.to_html()


def test_tasks_left_out_are_judged_and_one_task_says_so(world: World):
    found = figures(tiny_lam(Oracle, world), world)
    assert found["task_r2_from_latents/latents"] > 0.99
    assert found["task_mlp_r2_from_latents/latents"] > 0.99
    one = evaluate(tiny_lam(Oracle, lone := World(episodes=10)), lone, episodes=HELD_OUT)
    assert not any(key.startswith("task_") for key in one.figures)
    assert "not applicable: the dataset has one task" in one.to_html()


def test_a_code_whose_meaning_depends_on_the_task_fails_on_new_tasks():
    world = World(episodes=16, tasks=2)

    class PerTask(Oracle):
        def encode_features(self, features, text=None, text_mask=None):
            pixels = features.reshape(len(features), 2, 16, 16, 3) * self.features.std + self.features.mean
            sign = 1 - 2 * (self._number(pixels[:, 0]) // 40 % 2)  # tasks take turns
            found = super().encode_features(features)
            return self._stream(found.latents * sign[:, None, None])

    found = figures(tiny_lam(PerTask, world), world)
    assert found["task_r2_from_latents/latents"] < -0.5


@pytest.mark.parametrize(
    "options",
    [
        {"quantizer": "none"},
        {"quantizer": "fsq", "codebook_size": 8, "codebook_update": "gradient"},
        {"quantizer": "vq", "tokens": 3, "streams": "control+env"},
        {"quantizer": "none", "streams": "joint"},
        {"cameras": ("front", "again")},
    ],
    ids=str,
)
def test_other_models(options: dict):
    world = World(episodes=4)
    if len(options.get("cameras", ())) == 2:
        world.cameras = (*world.cameras, "observation.images.again")
        world.video = np.concatenate([world.video, 255 - world.video], 2)
    report = evaluate(tiny_lam(**options), world, episodes=[3])
    codes = any("codes" in key.split("/")[0] or "codes" in key.split("/")[-1] for key in report.figures)
    assert codes == (options.get("quantizer") != "none")
    assert "r2_from_latents/latents" in report.figures
    evaluate(tiny_lam(**options), world, episodes=[3], action_key=None)


def test_a_stage_1_model_is_refused(world: World):
    with pytest.raises(ValueError, match="stage-1 model"):
        evaluate(tiny_lam(language="precomputed", language_dim=8), world, episodes=HELD_OUT)


def test_the_gallery_shows_typical_clips_of_a_code_from_different_episodes(world: World, tmp_path: Path):
    evaluate(tiny_lam(Oracle, world), world, episodes=HELD_OUT, out=tmp_path)
    page = (tmp_path / "report.html").read_text()
    gallery = page[page.index("What do single codes look like?") :]
    first = gallery[gallery.index("code <b>") :][: gallery[gallery.index("code <b>") + 9 :].index("code <b>")]
    shown = re.findall(r'title="episode (\d+), frame \d+"', first)
    assert len(shown) == len(set(shown)) == 3
    assert first.count("<img") == 6  # before and after
    assert "mean action" in first
    assert len(page) < 3_000_000


def test_labels_alone_are_kept_and_made_anew_for_another_model(tmp_path: Path):
    world, model = World(episodes=4, length=20), tiny_lam()
    source = Source(world, 4, "action", None, ("front",), None)
    pairs = read_pairs(source, model, model, [0, 1, 2], 10, lambda done, total: None)
    loop = LoopOptions(steps=3, batch_size=8, device="cpu")

    def kept(model: ImageLAM, action_key: str = "action") -> int:
        labels_only(model, world, pairs, pairs, Training(loop, tmp_path, {"action_key": action_key}))
        return len(list(tmp_path.glob("*.safetensors")))

    assert kept(model) == 1
    stamp = next(tmp_path.glob("*.safetensors")).stat().st_mtime_ns
    assert kept(model) == 1
    assert next(tmp_path.glob("*.safetensors")).stat().st_mtime_ns == stamp
    with torch.no_grad():
        next(model.encoder.parameters()).add_(1)
    assert kept(model) == 2
    assert kept(model, "observation.state") == 3


def test_trained_controls_stand_on_the_page(tmp_path: Path):
    loop = LoopOptions(steps=3, batch_size=8, device="cpu")
    found = figures(tiny_lam(), World(episodes=10, length=20), controls="trained", control_loop=loop, out=tmp_path)
    assert {"r2_from_codes/labels_only", "prediction_ratio/true_to_without_latents"} <= set(found)


def test_controls_learn_from_pairs_that_probes_leave_out():
    world, model = World(episodes=4, length=20), tiny_lam()
    source = Source(world, 4, "action", None, ("front",), None)
    pairs = read_pairs(source, model, model, [0, 1, 2], 10, lambda done, total: None)
    training = Training(LoopOptions(steps=1, batch_size=8, device="cpu"), None, {})
    found = labels_only(model, world, pairs, pairs, training)
    assert found.text.startswith("2 labelled of 48 pairs")
    assert found.train_codes.shape == (10, 2)
    assert "of 48 pairs" in training.text(pairs)


def test_every_verdict_has_a_key_and_every_question_a_reading(world: World):
    report = evaluate(tiny_lam(streams="joint"), world, episodes=HELD_OUT)
    assert all(verdict.key for verdict in report.verdicts)
    readings = {s["title"]: s["reading"] for s in json.loads(report.to_json())["sections"]}
    assert all(reading for title, reading in readings.items() if title.endswith("?") and "single codes" not in title)
    assert report.summary()["verdicts"][0].keys() == {"text", "holds", "key"}


def test_labels_are_the_ones_the_model_had_where_it_knows():
    model = tiny_lam()
    assert labels_of(model) == {**USUAL, "seed": 0}
    known = {"fraction": 0.2, "unit": "episodes", "per_batch": 0}
    model.trained_on = {"loop": {"seed": 3}, "labels": known}
    assert labels_of(model) == {**known, "seed": 3}
    model.trained_on["labels"] = {**known, "fraction": 0.0}  # had none: what would the usual ones have given?
    assert labels_of(model) == {**USUAL, "seed": 3}


def test_the_control_learns_from_labels_and_nothing_else():
    terms = {"action_weight": 0.0, "additivity_weight": 0.1, "flow_weight": 0.1}
    config = control_config(tiny_lam(streams="joint", extra_strides=("8",), **terms))
    assert (config.streams, config.extra_strides, config.action_steps) == ("control", (), 1)
    weights = config.loss_weights
    assert (weights["prediction"], weights["action"]) == (0, 1)
    assert weights["additivity"] == weights["flow"] == 0
