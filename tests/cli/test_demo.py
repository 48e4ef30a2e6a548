"""The demo on a tiny dataset: everything it promises is there, and it goes on where it was."""

import io
import os
import shutil
import signal
import time
from contextlib import redirect_stdout

import numpy as np
import pytest

import lattok
from lattok.cli import demo, main
from lattok.recipes.common import Recipe
from tests.conftest import write_dataset
from tests.errors import refused
from tests.evaluation.drawn import drawn_curves

pytestmark = pytest.mark.ci


@pytest.fixture(scope="module")
def small_demo(tmp_path_factory):
    """Run the demo into a folder, and return what it prints."""
    source = write_dataset(tmp_path_factory.mktemp("data") / "tiny", [24, 25, 26, 27])

    def run(out, **changes):
        with redirect_stdout(io.StringIO()) as said:
            demo.demo(str(out), **{"fast": True, "device": "cpu", **changes})
        return said.getvalue()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lattok, "sample_dataset_path", lambda: source)
        patch.setattr(demo, "FAST_STEPS", 6)
        patch.setattr(demo, "SHOWN", "nowhere")
        patch.setattr(demo, "_look", lambda folder: None)  # a test of its own
        # what probes and policies find does not matter here
        patch.setattr("lattok.evaluation.evidence.probes.STEPS", 5)
        yield run


@pytest.fixture(scope="module")
def whole(small_demo, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "demo"
    return out, small_demo(out)


def test_first_of_all_a_page_shows_what_bundled_models_read(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "SEEN", lattok.data.export("sample/dataset", tmp_path / "one", episodes=[4]).path)
    demo._look(tmp_path)
    assert f"Open it in a browser: {tmp_path / 'first-look.html'}" in capsys.readouterr().out
    page = (tmp_path / "first-look.html").read_text(encoding="utf-8")
    labels = lattok.open_dataset(tmp_path / "first-look").columns(0, ["action", "inferred.action"])
    (drawn,) = drawn_curves(page)
    for place, name in enumerate(("x", "y", "z", "gripper")):
        for source, rows in zip(("truth", "model"), labels.values(), strict=True):
            values = drawn[f"action {name}"][source][:, 1]
            np.testing.assert_allclose(values, rows[:, place], atol=0.005 * np.ptp(values) + 1e-3)
    assert "inferred ones blue" in page
    demo._look(tmp_path)
    assert not capsys.readouterr().out


def test_everything_is_there_and_the_next_commands_are_said(small_demo, whole):
    out, printed = whole
    for path in ("tokenizer-report/report.html", "lam-report/report.html", "tokenizer/config.json", "lam/config.json"):
        assert (out / path).is_file()
    assert "policy --backbone scratch --strategy la_direct --prefix latent\n" in printed
    assert "  lattok inspect DATASET\n" in printed
    assert printed.count("a trial run of 6 steps") == 2
    assert "No film of a robot: " in printed
    said = printed.replace(str(out.parent), "").replace(", toy", "")  # a world of other tests
    assert max(len(line) for line in said.splitlines() if not line.startswith("  lattok ")) <= 100
    for table in ("Error of a small policy's actions (lower is better)", "higher is better"):
        assert table in printed
    for path in ("tokenizer-report/report.html", "lam-report/report.json", "lam/README.md", "tokenizer/README.md"):
        assert "a trial run of 6 steps" in (out / path).read_text()
    annotated = lattok.open_dataset(out / "dataset")
    columns = annotated.columns(1, ["latent.codes", "latent.valid", "tokens.codes", "tokens.valid"])
    assert columns["latent.codes"].shape == (25, 4)
    assert columns["tokens.codes"].shape == (25, 8)
    assert columns["latent.valid"].sum() == 23  # 0.2 s are 2 frames at 10 fps
    assert columns["tokens.valid"].all()
    assert "lattok inspect DATASET" in small_demo(out)  # nothing is done twice, the summary comes again


def test_stopped_half_way_it_goes_on_to_the_same_models(small_demo, whole, tmp_path, monkeypatch, capsys):
    real = demo.judge

    def stop(*args, **options):  # as schedulers do
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

    monkeypatch.setattr(demo, "judge", stop)
    assert main(["demo", "--out", str(tmp_path / "parts"), "--fast", "--device", "cpu"]) == 128 + signal.SIGTERM
    assert "lattok: interrupted; run the same command again" in capsys.readouterr().err
    monkeypatch.setattr(demo, "judge", real)
    small_demo(tmp_path / "parts")
    for name in ("tokenizer", "lam"):
        first, second = (lattok.load(out / name).describe() for out in (whole[0], tmp_path / "parts"))
        assert first["weights_sha256"] == second["weights_sha256"]


class Killed(BaseException):
    """Nobody catches it."""


def test_killed_before_anything_and_before_the_first_checkpoint_it_goes_on(small_demo, tmp_path, monkeypatch):
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo/.0123456789abcdef.lattok-tmp").write_text("")
    with monkeypatch.context() as patch:
        patch.setattr("lattok.training.loop.Trainer.step", lambda *a, **k: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            small_demo(tmp_path / "demo")
    assert (tmp_path / "demo/tokenizer/run/recipe.json").is_file()
    small_demo(tmp_path / "demo")
    assert (tmp_path / "demo/dataset/meta/lattok.json").is_file()
    assert not list((tmp_path / "demo").glob(".*"))


def test_killed_when_all_was_done_it_goes_on(small_demo, whole, tmp_path, monkeypatch):
    shutil.copytree(whole[0], tmp_path / "demo", ignore=shutil.ignore_patterns("dataset"))
    with monkeypatch.context() as patch:
        patch.setattr("lattok.annotation.units.Staging.remove", lambda *a, **k: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            small_demo(tmp_path / "demo")
    assert (tmp_path / "demo/.dataset.partial").is_dir()
    small_demo(tmp_path / "demo")
    assert not list((tmp_path / "demo").glob(".*"))


def test_a_folder_of_something_else_is_refused(small_demo, whole, tmp_path):
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo/thesis.tex").write_text("years of work")
    refused("`out`: expected a new or empty folder", small_demo, tmp_path / "demo")
    refused("`out`: .* holds the demo with other options than .*'seed': 1", small_demo, whole[0], seed=1)
    refused("`seed`: expected at most ", small_demo, tmp_path / "new", seed=10**25)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("fast", [True, False])
def test_only_a_fast_run_is_called_a_trial_and_threads_do_not_follow_the_machine(
    small_demo, tmp_path, monkeypatch, fast
):
    recipes = []

    def completed(recipe, resume_command):
        recipes.append(recipe)
        assert resume_command.startswith(f"lattok demo --out {tmp_path / 'demo'} ")

    monkeypatch.setattr(Recipe, "completed", completed)
    monkeypatch.setattr(demo, "judge", lambda *a, **o: (_ for _ in ()).throw(InterruptedError))
    with pytest.raises(InterruptedError):
        small_demo(tmp_path / "demo", fast=fast)
    assert [(recipe.loop.trial, recipe.loop.threads) for recipe in recipes] == [(fast, 1)] * 2
