"""Models side by side: the same figures as alone, a row for each, frames decoded once, one line for what cannot be."""

import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lattok
from lattok.action_vq import UniformBins
from lattok.cli import main
from lattok.evaluation import Report, compare, evaluate, page
from lattok.evaluation.comparison import COMPARED
from lattok.evaluation.evidence import probes
from lattok.evaluation.page import svg
from lattok.recipes import recipe_for
from tests.errors import refused
from tests.evaluation.drawn import drawn_codes, drawn_curves
from tests.evaluation.worlds import STRIDE, Oracle, World, answer_of, rows, tiny_lam
from tests.image_lam.clips.fakes import clip_lam

pytestmark = pytest.mark.usefixtures("short_mlps")
HELD_OUT = [1, 2, 3, 6, 7]
CHOSEN: dict[str, Any] = {"episodes": HELD_OUT}


class Counting(World):
    """Counts how often an episode is decoded."""

    reads = 0

    def frames(self, *args, **options):
        self.reads += 1
        return super().frames(*args, **options)


@pytest.fixture(scope="module")
def world() -> Counting:
    return Counting(names=("x", "y", "z", "gripper"), tasks=2)


@pytest.fixture(scope="module")
def models(world) -> dict:
    return {
        "oracle": tiny_lam(Oracle, world, tokens=3),
        "fresh": tiny_lam(tokens=4),
        "continuous": tiny_lam(quantizer="none"),
    }


@pytest.fixture(scope="module")
def found(world, models, tmp_path_factory) -> tuple[Report, Path]:
    out = tmp_path_factory.mktemp("comparison")
    return compare(world, models, out=out, **CHOSEN), out


@pytest.mark.ci
def test_every_figure_is_that_of_a_single_evaluation(world, models, found, monkeypatch):
    monkeypatch.setattr(probes, "STEPS", 1)
    for name, model in models.items():
        alone, shared = evaluate(model, world, **CHOSEN), 0
        for key, value in found[0].figures.items():
            own = key.removeprefix(f"{name}/")
            if key.startswith(f"{name}/") and own in alone.figures:
                assert value == alone.figures[own], key
                shared += 1
        kind = "latents" if name == "continuous" else "codes"
        assert shared >= {"latents": 15, "codes": 30}[kind]
        tables = {t.title: t for t in alone.sections[0].tables}
        single = next(t for title, t in tables.items() if title.startswith("From continuous latents")).rows[0]
        ours = rows(found[0], "R² of latents before quantization")[name]
        best = rows(found[0], "R² of all, the best first")[name]["values"]
        assert best["R²"] == alone.figures[f"r2_from_{kind}/{kind}"]
        assert ours["values"]["all"] == single.values[0]
        assert ours["values"]["position"] == pytest.approx(single.values[1], abs=1e-12)
        assert ours["values"]["gripper"] == pytest.approx(single.values[-1], abs=1e-12)
        assert ours["intervals"]["gripper"] == pytest.approx(single.intervals[-1], abs=1e-12)
        against = next(v for v in alone.verdicts if v.key == f"{kind}_against_controls")
        ours = {
            v.text.removeprefix(f"{name}: ")[1:]: v.holds for v in found[0].verdicts if v.text.startswith(f"{name}: ")
        }
        assert ours[against.text[1:]] == against.holds


def test_frames_of_one_size_are_decoded_once_whatever_the_stride(world, models):
    world.reads = 0
    compare(world, [models["oracle"]], **CHOSEN)
    alone, world.reads = world.reads, 0
    later = tiny_lam(stride=str(STRIDE + 1))
    report = compare(world, {"oracle": models["oracle"], "later": later}, **CHOSEN)
    assert world.reads == alone > 0
    assert answer_of(report).holds is None  # they are asked about different actions
    assert answer_of(report).text.startswith("Unclear: the models are asked about strides of ")
    assert str(answer_of(report).way_out.commands[0]).endswith(f"--stride {STRIDE + 1} --episodes 1,2,3,6,7")


def test_the_model_that_knows_the_action_is_named(found):
    report = found[0]
    assert answer_of(report).text.startswith("continuous") is False
    assert answer_of(report).text.startswith("oracle, whose codes say most about the action; ")
    assert answer_of(report).holds is True
    assert list(rows(report, "R² of codes")) == ["oracle", "fresh"]  # as given, without the one that has none
    costs = rows(report, "Bits and size")
    assert costs["oracle"]["values"]["bits"] == 6
    assert costs["continuous"]["values"]["bits"] is None


def test_two_runs_give_the_same_bytes_but_for_the_speed(world, models, found, tmp_path):
    report, out = found
    again = compare(world, models, out=tmp_path, **CHOSEN)
    assert sorted(path.name for path in out.iterdir()) == ["report.html", "report.json", "speed.json"]
    for name in ("report.html", "report.json"):
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes(), name
    for each, folder in ((report, out), (again, tmp_path)):
        speed = json.loads((folder / "speed.json").read_text())["models"]
        assert speed == each.speed
        assert list(speed) == list(models)
        assert all(entry["frames_per_second"] > 0 for entry in speed.values())


def test_a_speed_json_of_somebody_elses_stays(world, models, tmp_path):
    (tmp_path / "speed.json").write_text('{"subject": 5}')
    refused(r"speed\.json is not a report of lattok's", compare, world, [models["fresh"]], out=tmp_path, **CHOSEN)
    assert [path.name for path in tmp_path.iterdir()] == ["speed.json"]


def test_a_single_held_out_episode_decides_nothing(world, models):
    report = compare(world, [models["oracle"]], episodes=[7])
    assert answer_of(report).holds is None
    assert answer_of(report).text.startswith("Unclear: only one episode was held out")
    assert answer_of(report).text.endswith("Record 15 episodes or more, of which 5 are held out: you have 10.")


def test_where_actions_never_change_nothing_can_be_told():
    still = World()
    still.actions = np.zeros_like(still.actions)
    report = compare(still, {"a": tiny_lam(), "b": tiny_lam(tokens=3)}, episodes=[5, 6, 7, 8, 9])
    assert answer_of(report).text == "Unclear: the actions of these episodes never change."
    assert report.headline == "The actions never change."


def test_labels_that_mean_the_same_in_all_tasks_hold_on_new_ones(found):
    values = rows(found[0], "R² of all, the best first")["oracle"]["values"]
    assert values["new tasks"] == found[0].figures["oracle/task_r2_from_codes/codes"]
    assert values["new tasks"] == pytest.approx(values["R²"], abs=0.1)  # signs mean the same in all of them


def test_the_page_asks_for_nothing_and_shows_every_model(found, models):
    report, out = found
    html = (out / "report.html").read_text()
    assert not re.findall(r"https?:|@import|url\(|<script[^>]|<link|<iframe", html)
    assert all(html.count(name) >= 4 for name in models)
    assert json.loads((out / "report.json").read_text())["figures"].keys() == report.figures.keys()
    (codes,), (curves,) = drawn_codes(html), drawn_curves(html)
    assert {len(row) for row in codes} == {3 + 4}  # those of two models, of each pair of an episode
    assert [*curves["x"]] == ["rival", "model", "truth"]  # the second, the best, what is true


def test_a_comparison_of_the_same_is_replaced_another_one_is_not(found, world, models, tmp_path):
    report, out = found
    for path in out.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    page.check_place(tmp_path, report.provenance, overwrite=False)
    refused("`out`", compare, world, {"a": models["fresh"]}, out=tmp_path, **CHOSEN)


def test_what_was_trained_on_these_episodes_cannot_be_judged_by_them(world, models):
    seen = tiny_lam()
    seen.trained_on = {"dataset": world.name, "episodes": [[0, 9]], "loop": {"steps": 2, "trial": True}}
    report = compare(world, {"seen": seen}, **CHOSEN)
    assert [v.key for v in report.verdicts[:2]] == ["held_out_seen", "trial"]
    assert answer_of(report).text == "Unclear from this page: see the verdicts about seen."


@pytest.mark.parametrize(
    ("given", "options", "says"),
    [
        ([], {}, "`models`"),
        ("my-lam", {}, "`models`"),
        ([torch.nn.Linear(1, 1)], {}, "`models`"),
        ([tiny_lam(), tiny_lam()], {}, "`models`"),
        ({"a": tiny_lam()}, {"cameras": ["wrist"]}, "a: `cameras`: "),
        ({"a": tiny_lam()}, {"stride": "400"}, "a: `stride`: "),
        ({"a": tiny_lam(language="precomputed", language_dim=8)}, {}, "a: `model`: expected one that labels video"),
        ({"a": tiny_lam()}, {"action_key": None}, "`action_key`"),
    ],
)
def test_what_cannot_be_compared_gets_one_line(given, options, says, world):
    refused(f"^{says}", compare, world, given, **CHOSEN, **options)


def test_models_of_clips_stand_next_to_models_of_pairs(world, models, tmp_path):
    """They read the frames between, and the instruction; of a clip only its motion is compared."""
    clips = clip_lam(cameras=("front",), action_dim=4)
    assert clips.config.frames == 3
    folder = clips.save_pretrained(tmp_path / "clips")
    report = compare(world, {"clips": folder, "oracle": models["oracle"]}, **CHOSEN)
    assert set(rows(report, "R² of codes")) == {"oracle"}
    assert set(rows(report, "R² of latents before quantization")) == {"clips", "oracle"}
    alone = evaluate(clips, world, **CHOSEN).figures
    shared = {key for key in alone if f"clips/{key}" in report.figures}
    assert len(shared) >= 15
    assert all(report.figures[f"clips/{key}"] == pytest.approx(alone[key], abs=1e-6) for key in shared)
    costs = rows(report, "Bits and size")["clips"]["values"]
    assert costs["bits"] is None
    assert costs["latent width"] == clips.config.motion_tokens * clips.config.latent_dim


def test_models_with_equal_bits_have_names_that_do_not_overlap():
    points = [(f"model {i}", "model", 16.0, 0.5 + 0.001 * i, (0.4, 0.6)) for i in range(5)]
    drawn = svg.pareto("t", points, ("bits", "R²"))
    lines = sorted(float(y) for y in re.findall(r'<text class="n" x="[\d.]+" y="([\d.]+)"', drawn))
    assert len(lines) == 5
    assert min(b - a for a, b in itertools.pairwise(lines)) >= 11.9


def test_from_the_command_line(make_dataset, tmp_path, capsys):
    dataset = make_dataset([12, 15, 11, 14])
    for seed, name in enumerate("ab"):
        torch.manual_seed(seed)
        tiny_lam(stride="3", tokens=2 + seed).save_pretrained(tmp_path / name)
    words = ["compare", str(dataset.root), "--device", "cpu", "--out", str(tmp_path / "out"), "--models"]
    assert main([*words, str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    text = capsys.readouterr().out
    assert text.startswith("Which of these models should label this dataset?")
    assert "R² of all, the best first (higher is better)" in text
    assert text.endswith(f"Report: {tmp_path / 'out' / 'report.html'}\n")
    lattok.train(recipe_for(UniformBins).from_preset(dataset.root, tmp_path / "bins", horizon=2))
    capsys.readouterr()
    assert main([*words, str(tmp_path / "a"), str(tmp_path / "bins")]) == 2
    assert capsys.readouterr().err.startswith(
        "lattok: `models`: expected latent action models of frame pairs or clips, action tokenizers, or inverse models "
        "alone, got 'uniform-bins' in"
    )


def test_a_model_that_explains_nothing_stands_above_one_that_does_harm(world):
    """R² of exactly 0 is a figure, not a missing one."""
    dead = tiny_lam(tokens=4)
    with torch.no_grad():
        for name, values in dead.named_parameters():
            if name.startswith("encoder"):
                values.zero_()
    report = compare(world, {"noise": tiny_lam(tokens=4), "dead": dead}, **CHOSEN)
    assert report.figures["dead/r2_from_codes/codes"] == 0 > report.figures["noise/r2_from_codes/codes"]
    assert report.headline.index("dead") < report.headline.index("noise")


def test_a_folder_with_another_comparison_is_refused_before_anything_is_judged(world, models, found, monkeypatch):
    monkeypatch.setitem(COMPARED, "labels", lambda *_: 1 / 0)
    refused("`out`", compare, world, {"fresh": models["fresh"]}, out=found[1], **CHOSEN)


def test_what_is_suggested_asks_the_same_once_more(models):
    report = compare(World(episodes=15), {"a": models["fresh"]}, episodes=[7], stride="2", seed=7)
    assert "--stride 2 --seed 7" in answer_of(report).text


@pytest.mark.ci
def test_as_many_cameras_as_a_model_has_count(world, models):
    named = {"cameras": ("front", "wrist"), **CHOSEN}
    assert evaluate(models["fresh"], world, **named).figures == evaluate(models["fresh"], world, **CHOSEN).figures
