"""The evaluation of latent action models in a world whose answers are known."""

import json
import re
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lattok.data import open_dataset
from lattok.evaluation import Report, evaluate
from lattok.evaluation.evidence import EvalOptions
from lattok.evaluation.page import render
from lattok.evaluation.questions import criteria
from lattok.image_lam import ImageLAM, MotoLAM
from lattok.training import LoopOptions
from tests.data.formats.test_lerobot_v2 import write_v21
from tests.errors import refused
from tests.evaluation.worlds import STRIDE, Oracle, World, rows, tables, tiny_lam

pytestmark = pytest.mark.usefixtures("short_mlps")

HELD_OUT = [3, 7]
SHORT = LoopOptions(steps=3, batch_size=8, device="cpu")


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.fixture(scope="module")
def lam() -> ImageLAM:
    return tiny_lam()


@pytest.fixture(scope="module")
def quick(world: World, lam: ImageLAM, tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, Path]:
    """An untrained model's report, and the folder it was written to."""
    out = tmp_path_factory.mktemp("quick")
    return evaluate(lam, world, episodes=HELD_OUT, out=out), out


def test_latents_that_hold_the_action_are_read_and_controls_are_not(world: World):
    figures = evaluate(tiny_lam(Oracle, world), world, episodes=HELD_OUT).figures
    assert figures["r2_from_latents/latents"] > 0.999
    assert 0.3 < figures["r2_from_codes/codes"] < 0.7  # one bit of two dimensions out of three
    for control in ("pca_change", "current_frame", "untrained", "proprio", "mean"):
        assert abs(figures[f"r2_from_latents/{control}"]) < 0.15, control
    assert abs(figures["r2_from_codes/residual_kmeans"]) < 0.15
    assert abs(figures["r2_from_codes/flow_kmeans"]) < 0.15
    assert abs(figures["r2_from_latents/pca_flow"]) < 0.15
    assert figures["r2_from_latents/mean"] == 0


def test_a_decoder_that_ignores_latents_does_not_depend_on_them(quick: tuple[Report, Path]):
    report = quick[0]  # untrained: it starts as "nothing changes"
    losses = {key.split("/")[1]: v for key, v in report.figures.items() if key.startswith("prediction_loss/")}
    assert set(losses) == {"true", "shuffled", "shuffled_in_episode", "zero", "copy"}
    assert all(loss == pytest.approx(losses["copy"], rel=1e-6) for loss in losses.values())
    assert any("hardly depends" in v.text and v.holds is False for v in report.verdicts)


def test_a_decoder_that_uses_latents_suffers_from_wrong_ones(world: World):
    model = tiny_lam()
    with torch.no_grad():
        model.decoder.out.weight.normal_()
        for book in model.control.quantizer.codebook_vectors:
            book.normal_(generator=torch.Generator().manual_seed(0))
    figures = evaluate(model, world, episodes=HELD_OUT).figures
    assert figures["prediction_loss/true"] != figures["prediction_loss/shuffled"]
    assert figures["prediction_loss/true"] != figures["prediction_loss/zero"]


def test_controls_that_need_training_are_not_run_unasked(quick: tuple[Report, Path]):
    report, out = quick
    assert (out / "report.html").read_text().count(
        "not run: needs trained controls (controls=trained)"
    ) >= 4  # tables and verdict
    assert not (out / "controls").exists()
    assert not any("without_latents" in key or "labels_only" in key for key in report.figures)


@pytest.mark.ci
def test_controls_that_need_training_are_run_and_kept(world: World, lam: ImageLAM, tmp_path: Path):
    state = {name: tensor.clone() for name, tensor in lam.state_dict().items()}
    trained = evaluate(lam, world, episodes=HELD_OUT, out=tmp_path, controls="trained", control_loop=SHORT)
    assert "not run" not in render(trained)
    assert {"r2_from_codes/labels_only", "prediction_ratio/true_to_without_latents"} <= set(trained.figures)
    assert all(torch.equal(tensor, state[name]) for name, tensor in lam.state_dict().items())
    stored = {path: load_file(path) for path in (tmp_path / "controls").iterdir()}
    (kept,) = (path for path, tensors in stored.items() if "loss" in tensors)
    save_file({"loss": torch.tensor(123.0)}, kept)
    again = evaluate(lam, world, episodes=HELD_OUT, out=tmp_path, controls="trained", control_loop=SHORT)
    assert again.figures["prediction_loss/without_latents"] == 123.0
    other = evaluate(lam, world, episodes=[3], out=tmp_path, controls="trained", control_loop=SHORT)
    assert other.figures["prediction_loss/without_latents"] != 123.0


def test_the_same_inputs_give_the_same_report(
    world: World, lam: ImageLAM, quick: tuple[Report, Path], monkeypatch: pytest.MonkeyPatch
):
    torch.manual_seed(5)
    before, first = torch.get_rng_state(), quick[0]
    monkeypatch.delattr(torch, "manual_seed")  # which seeds the generators of all devices, of which one is kept
    second = evaluate(lam, world, episodes=HELD_OUT)
    assert torch.equal(torch.get_rng_state(), before)
    assert first.to_json() == second.to_json()
    assert render(first) == render(second)


def test_json_is_strict_and_the_page_asks_for_nothing(quick: tuple[Report, Path]):
    report, out = quick

    def no(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    content = json.loads((out / "report.json").read_text(), parse_constant=no)
    assert content["figures"] == report.figures == report.summary()["figures"]
    page = (out / "report.html").read_text()
    assert not re.findall(r"https?:|@import|url\(|<script[^>]|<link|<iframe", page)
    inside = ("data:image/jpeg;base64,", "data:video/mp4;base64,")
    assert all(address.startswith(inside) for address in re.findall(r'(?:src|href)="([^"]*)', page))
    assert len(page) < 2_000_000
    assert str(out) not in page


def test_every_number_stands_beside_a_control(quick: tuple[Report, Path]):
    for title, table in tables(quick[0]).items():
        beside = [row["control"] or len(row.get("values", ())) > 1 for row in table["rows"]]  # in a row or column
        assert any(beside), title
        assert not table["rows"][0]["control"], title


def test_without_actions_and_states_what_remains_is_reported(lam: ImageLAM):
    world = World(episodes=4, state=False)
    report = evaluate(lam, world, episodes=[3])
    assert "not run: no state was read" in render(report)
    report = evaluate(lam, world, episodes=[3], action_key=None)
    assert not any(key.startswith("r2") for key in report.figures)
    assert "joint_entropy_bits/residual_kmeans" in report.figures


def test_collapse_is_judged_by_codes_and_pairs_not_by_actions(world: World, lam: ImageLAM):
    """With this seed, probes of the actions choose 64 components to cluster."""
    reports = [evaluate(lam, world, episodes=HELD_OUT, seed=1, action_key=key) for key in ("action", None)]
    told = [verdict for report in reports for verdict in report.verdicts if verdict.key == "codes_in_use"]
    assert len(told) == 2
    assert told[0] == told[1]
    assert len({report.figures["joint_entropy_bits/residual_kmeans"] for report in reports}) == 1


@pytest.mark.parametrize(
    ("model", "options", "says"),
    [
        (torch.nn.Linear(1, 1), {}, "`model`"),
        (tiny_lam(), {"episode": [1]}, "`option`"),
        (tiny_lam(), {"controls": "slow"}, "`controls`"),
        (tiny_lam(), {"seed": 10**25}, "`seed`"),
        (tiny_lam(), {"rollouts": {}}, "`rollouts`"),
        (tiny_lam(language="precomputed", language_dim=8), {}, "`model`"),
    ],
)
def test_what_cannot_be_judged_gets_one_line(world: World, model, options: dict, says: str):
    refused(f"^{says}", evaluate, model, world, **options)


def test_training_mode_is_left_as_it_was(world: World):
    model = tiny_lam().train()
    evaluate(model, world, episodes=HELD_OUT)
    assert model.training
    assert int(model.control.quantizer.steps) == 0


@pytest.mark.parametrize(
    "options",
    [
        {"quantizer": "none"},
        {"quantizer": "fsq", "codebook_size": 8, "codebook_update": "gradient"},
        {"quantizer": "vq", "tokens": 3, "streams": "control+env", "latent_heads": "per_token"},
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
    assert ("env_latents" in rows(report, "From continuous latents")) == ("streams" in options)
    evaluate(tiny_lam(**options), world, episodes=[3], action_key=None)


def test_every_verdict_is_about_something_known_and_every_question_a_reading(world: World):
    report = evaluate(tiny_lam(streams="joint"), world, episodes=HELD_OUT)
    assert {verdict.key for verdict in report.verdicts} <= set(criteria())
    readings = {s["title"]: s["reading"] for s in json.loads(report.to_json())["sections"]}
    assert all(reading for title, reading in readings.items() if title.endswith("?") and "single codes" not in title)
    assert report.summary()["verdicts"][0].keys() == {"text", "holds", "key"}


def test_a_model_that_predicts_pixels_is_judged_like_any_other(world: World, tmp_path: Path):
    """Its errors are those of pixels, also of the decoder without latents; the class token is in no grid."""
    sizes = {"width": 16, "depth": 1, "heads": 2, "hidden": 32, "patch": 8}
    held = {"features": "held", **{f"image_encoder_{name}": size for name, size in sizes.items()}}
    depths = {"encoder_depth": 1, "decoder_depth": 1, "decoder_patch": 4, "decoder_predict_change": True}
    lam = tiny_lam(MotoLAM, **held, **depths)
    report = evaluate(lam, world, episodes=HELD_OUT, out=tmp_path, controls="trained", control_loop=SHORT)
    pixels = (torch.from_numpy(world.video[HELD_OUT]).float() / 255 - lam.pixels.mean) / lam.pixels.std
    change = (pixels[:, STRIDE:] - pixels[:, :-STRIDE]).square().mean()
    assert report.figures["prediction_loss/copy"] == pytest.approx(float(change), rel=1e-3)
    assert report.figures["prediction_loss/true"] == pytest.approx(float(change), rel=1e-3)  # it starts as "no change"
    assert "prediction_loss/without_latents" in report.figures
    page = unescape(render(report))
    assert "Mean squared error of the later frame's pixels." in page
    assert "<th>predicted</th><th>control</th>" in page
    assert "Control: predicted with the latent actions of the next panel" in page


def test_episodes_without_their_films_judge_and_teach_nothing(make_dataset: Callable[..., Any], tmp_path: Path):
    dataset = open_dataset(write_v21(tmp_path / "old", make_dataset([8] * 6)))
    films = [tmp_path / f"old/videos/chunk-000/{dataset.cameras[0]}/episode_{number:06d}.mp4" for number in range(6)]
    options = EvalOptions(episodes="3:6")
    for episode in (0, 4):
        films[episode].unlink()
    with pytest.warns(UserWarning, match=r"2 of 6 episodes left out: missing video file .*000004.mp4 and 1 more"):
        split = options.split(dataset, None, dataset.cameras)
    assert (split.train, split.held_out) == ([1, 2], [3, 5])
    assert options.split(dataset).train == [0, 1, 2]
    films[3].unlink()
    films[5].unlink()
    with pytest.warns(UserWarning, match="4 of 6 episodes left out"):
        refused("`episodes`: expected a held-out episode", options.split, dataset, None, dataset.cameras)
    films[1].unlink()
    films[2].unlink()
    refused("missing video file .* and 5 more", options.split, dataset, None, dataset.cameras)
