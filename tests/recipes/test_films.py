"""Policies that also learn from datasets without actions, whose latent labels alone teach."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

import lattok
from lattok.cli import main
from lattok.data.completed import Completed
from lattok.data.schema import Feature
from lattok.recipes.policy_sources import cameras_for
from lattok.samples.batches import PolicyBatches
from lattok.utils import checks
from lattok.vla import STRATEGIES
from tests.conftest import CAMERAS, moving_square, put_video
from tests.errors import refused
from tests.recipes.policies import SIZES, TINY, annotated, stopped

SILENT = [name for name, plan in STRATEGIES.items() if not plan.learns_labels]
OF_STEPS = [name for name, plan in STRATEGIES.items() if plan.learns_labels and plan.labels == "steps"]


@pytest.fixture(scope="module")
def roots(tmp_path_factory) -> dict[str, Path]:
    """A robot's demonstrations with and without labels, and films of two sizes with those of the same model."""
    folder = tmp_path_factory.mktemp("films")
    roots = {"robot": annotated(folder), "bare": folder / "data", "films": folder / "films"}
    rng = np.random.default_rng(0)
    roots["films"].mkdir()
    for number, size in enumerate((32, 48, 32)):
        put_video(roots["films"] / f"{number}.mp4", moving_square(rng, 14, size), 5)
    roots["labels"] = folder / "labels"
    words = ["--model", str(folder / "lam"), "--out", str(roots["labels"]), "--cameras", "video", "--any-rate"]
    assert main(["annotate", str(roots["films"]), *words]) == 0
    return roots


def recipe(roots, out: Path, *names: str, **options) -> lattok.VLARecipe:
    mix = tuple(f"{roots[name]}:1" for name in names or ("labels", "robot"))
    options = {"backbone": "scratch", "steps": 2, "batch_size": 6, "strategy": "la_direct", "mix": mix, **options}
    return lattok.VLARecipe.from_preset(None, out, **{**SIZES, **options})


@pytest.mark.parametrize("strategy", OF_STEPS)
def test_films_teach_what_the_labels_say_and_nothing_of_actions(strategy: str, roots, tmp_path):
    given = recipe(roots, tmp_path / "p", strategy=strategy)
    data = given.policy_data(given.open())
    policy, parts = given.learner(data).policy, data.parts(lambda fps: (), False)
    samples = data.normalised(policy, parts)
    assert torch.equal(policy.action_normalizer.shift, alone(roots, tmp_path, strategy).action_normalizer.shift)
    films = samples.batch(torch.arange(6))
    assert not films.valid.any()
    assert films.latent is not None
    assert films.latent.valid.any()
    assert set(films.texts) == {""}
    assert films.images.shape[1] == len(CAMERAS)
    assert films.images[:, 0].any()
    assert not films.images[:, 1].any()
    terms = policy(films)
    (terms["latent"] + terms["action"]).backward()
    assert float(terms["action"].detach()) == 0
    assert not any(p.grad is not None and p.grad.any() for p in policy.head.parameters())
    assert any(p.grad is not None and p.grad.any() for p in policy.backbone.parameters())


def sources_of(policy: lattok.LatentVLA) -> list[dict]:
    """What the saved policy says of its sources."""
    return (policy.trained_on or {})["mixture"]


def alone(roots, tmp_path: Path, strategy: str) -> lattok.LatentVLA:
    """The policy of the robot's demonstrations alone, as a run begins with it."""
    options = {"backbone": "scratch", "strategy": strategy, **SIZES}
    given = lattok.VLARecipe.from_preset(roots["robot"], tmp_path / "alone", **options)
    data = given.policy_data(given.open())
    policy = given.learner(data).policy
    data.normalised(policy, data.parts(lambda fps: (), False))
    return policy


def test_the_road_from_a_folder_of_films_to_a_policy(roots, tmp_path, capsys):
    checks.note.cache_clear()
    mix = [f"{roots['labels']}:1.0", f"{roots['robot']}:1.0"]
    words = ["--out", str(tmp_path / "p"), "--strategy", "la_cond", *TINY]
    assert main(["train", "vla", "--mix", *mix, *words]) == 0
    said = capsys.readouterr()
    assert "films has no actions, proprio, instructions: it teaches by latents alone" in said.err
    assert "rates differ: 4 steps are 0.8 s in films, 0.4 s in annotated" in said.err
    assert "for_dataset" not in said.out
    films, robot = json.loads((tmp_path / "p/training.json").read_text())["mixture"]
    assert films["gave"] == {"samples": 28, "actions": 0, "latents": films["gave"]["latents"]}
    assert films["gave"]["latents"] > 0
    assert robot["gave"]["actions"] == robot["gave"]["samples"] > 0
    assert films["lacks"] == ["actions", "proprio", "instructions"]
    assert "lacks" not in robot
    assert films["cameras"] == {CAMERAS[0]: "observation.images.video", CAMERAS[1]: None}
    policy = lattok.LatentVLA.from_pretrained(tmp_path / "p")
    assert policy.datasets == ()
    assert policy.config.fps == 10
    assert "" not in policy.config.instructions
    seen = {key: torch.zeros(1, 32, 32, 3, dtype=torch.uint8) for key in CAMERAS}
    assert policy.select_action({**seen, "observation.state": torch.zeros(1, 2), "task": ["lift"]}).shape == (1, 3)
    assert "error" in json.loads((tmp_path / "p/held_out.json").read_text())  # on the robot's alone
    (judge,) = re.findall("Evaluate it: lattok (.*)", said.out)
    assert judge == f"evaluate {tmp_path / 'p'} {roots['robot']}"
    assert main([*judge.split(), "--device", "cpu"]) == 0


def test_actions_without_labels_and_labels_without_actions_teach_together(roots, tmp_path):
    policy = lattok.train(recipe(roots, tmp_path / "p", "bare", "labels"))
    bare, films = sources_of(policy)
    assert bare["lacks"] == ["labels"]
    assert bare["gave"]["latents"] == films["gave"]["actions"] == 0


def test_films_teach_a_policy_that_acts_by_tokens(roots, tmp_path):
    policy = lattok.train(recipe(roots, tmp_path / "p", head="tokens", tokenizer=str(roots["robot"].parent / "vq")))
    films, robot = sources_of(policy)
    assert (films["gave"]["actions"], robot["gave"]["actions"]) == (0, robot["gave"]["samples"])
    assert films["gave"]["latents"] > 0
    seen = {key: torch.zeros(1, 32, 32, 3, dtype=torch.uint8) for key in CAMERAS}
    chunk = policy.predict_chunk({**seen, "observation.state": torch.zeros(1, 2), "task": ["lift"]})
    assert chunk.shape == (1, 4, 3)
    assert chunk.isfinite().all()


def test_of_several_robots_those_chosen_teach_by_labels_alone(roots, tmp_path):
    mixed = lattok.train(recipe(roots, tmp_path / "p", "robot", "labels", "bare"))
    assert mixed.datasets == ("annotated", "data")
    policy = lattok.train(recipe(roots, tmp_path / "q", "robot", "bare", latents_only=("annotated",)))
    silent, acting = sources_of(policy)
    assert (policy.datasets, silent["gave"]["actions"], acting["gave"]["latents"]) == ((), 0, 0)
    assert (silent["lacks"], acting["lacks"]) == (["actions"], ["labels"])


@pytest.mark.parametrize(
    ("names", "options", "text"),
    [
        *((("labels", "robot"), {"strategy": name}, rf"{name}, which learns from actions alone") for name in SILENT),
        (("labels", "robot"), {"strategy": "la_tok", "tokenizer": "vq"}, "`tokenizer`: expected datasets with actions"),
        (
            ("labels", "robot"),
            {"latents_only": ("annotated",)},
            "`mix`: expected a dataset with actions, from which a policy learns to act, got films, annotated",
        ),
        (("films", "robot"), {}, "`films` has no `latent.codes`.* Make them: lattok annotate"),
        (("labels", "robot"), {"latents_only": ("annotate",)}, "`latents_only`: expected one of"),
        (
            ("labels",),
            {},
            r"`dataset`: expected `action`.*got films without.* Mix it with .*--mix .*labels:1.0 ROBOT:1.0",
        ),
    ],
)
def test_what_cannot_teach_is_one_line(names, options, text, roots, tmp_path):
    options = {name: str(roots["robot"].parent / "vq") if value == "vq" else value for name, value in options.items()}
    refused(text, lambda: lattok.train(recipe(roots, tmp_path / "p", *names, **options)))


def test_cameras_and_columns_that_a_film_lacks(roots):
    films, front = lattok.open_dataset(roots["films"]), "observation.images.video"
    assert cameras_for(films, ("observation.images.wrist", "a.video")) == {
        "observation.images.wrist": None,
        "a.video": front,
    }
    assert cameras_for(films, CAMERAS) == {CAMERAS[0]: front, CAMERAS[1]: None}
    made = Completed(films, {"action": (Feature("float32", (3,), None), np.nan)}, cameras_for(films, CAMERAS))
    assert np.isnan(made.columns(1, ["timestamp", "action"])["action"]).all()
    seen = made.frames(1, None, [3, 0])
    np.testing.assert_array_equal(seen[:, 0], films.frames(1, None, [3, 0])[:, 0])
    assert not seen[:, 1].any()


def test_films_alone_teach_a_policy_that_a_robot_with_actions_trains_further(roots, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checks.note.cache_clear()
    first = ["train", "vla", str(roots["labels"]), "--stages", "pretrain", "--strategy", "la_direct", *TINY]
    cameras = ["--cameras", *(key.rpartition(".")[2] for key in CAMERAS)]
    assert main([*first, "--out", "of films", *cameras]) == 0
    said = capsys.readouterr()
    assert "films has no actions: it teaches by latents alone; its cameras: video as" in said.err
    proposed = shlex.split(said.out.splitlines()[-1].partition("actions: ")[2])
    assert proposed == [*["lattok", "train", "vla", "DATASET", "--init"], "of films", "--out", "my-policy"]
    before = lattok.LatentVLA.from_pretrained("of films")
    assert (before.config.of_films, before.config.proprio_dim, before.datasets) == (True, 0, ())
    assert (before.trained_on or {})["dataset"] == "films"
    words = [str(roots["robot"]) if word == "DATASET" else word for word in proposed[1:]]
    assert main([*words, *TINY, "--lr", "1e-20"]) == 0
    policy = lattok.LatentVLA.from_pretrained("my-policy")
    for name, weights in policy.backbone.named_parameters():
        torch.testing.assert_close(weights, before.backbone.get_parameter(name))
    seen = {key: torch.zeros(1, 32, 32, 3, dtype=torch.uint8) for key in CAMERAS}
    assert policy.select_action({**seen, "observation.state": torch.zeros(1, 2), "task": ["lift"]}).shape == (1, 3)
    assert (policy.config.cameras, policy.config.of_films) == (CAMERAS, False)


def test_films_of_one_camera_tell_a_robot_of_two_which_to_choose(roots, tmp_path):
    alone = {"mix": (), "stages": "pretrain", "strategy": "la_direct", "backbone": "scratch", "steps": 1, **SIZES}
    before = lattok.train("vla", roots["labels"], out=tmp_path / "films", **alone)
    assert before.config.cameras == ("observation.images.video",)
    robot = lattok.VLARecipe.from_preset(roots["robot"], tmp_path / "p", init=str(tmp_path / "films"), **SIZES)
    said = refused("`cameras`: expected as many", robot.train)
    assert said.endswith("Choose cameras=front, or pretrain on the films with cameras=front wrist.")


def test_a_second_stage_without_actions_is_refused_before_the_first(roots, tmp_path):
    options = {"stages": "pretrain,finetune", "strategy": "la_direct", "backbone": "scratch", **SIZES}
    given = lattok.VLARecipe.from_preset(roots["labels"], tmp_path / "p", **options)
    refused("`dataset`: expected `action`.*stages=pretrain", given.train)
    assert not (tmp_path / "p/pretrain").exists()


@pytest.mark.parametrize("head", ["kept", "dropped"])
def test_latents_of_everything_first_and_then_actions(head: str, roots, tmp_path, capsys):
    options = {"stages": "pretrain,finetune", "pretrain_steps": 3, "latent_head": head, "save_every": 1}
    given = recipe(roots, tmp_path / "p", **options)
    trained = lattok.train(given)
    first, second = (lattok.LatentVLA.from_pretrained(tmp_path / "p" / name) for name in ("pretrain", "finetune"))
    seen = {key: torch.zeros(1, 32, 32, 3, dtype=torch.uint8) for key in CAMERAS}
    seen |= {"observation.state": torch.zeros(1, 2), "task": ["lift"]}
    refused("has learned to act", first.select_action, seen)
    assert torch.equal(lattok.LatentVLA.from_pretrained(tmp_path / "p").predict_chunk(seen), second.predict_chunk(seen))
    logs = {
        name: [json.loads(each) for each in (tmp_path / "p" / name / "run/metrics.jsonl").read_text().splitlines()]
        for name in ("pretrain", "finetune")
    }
    assert [len(log) for log in logs.values()] == [3, 2]
    films, robot = (trained.trained_on or {})["pretrained"]["mixture"]
    assert films["gave"]["latents"] > 0 == films["gave"]["actions"] < robot["gave"]["actions"]
    assert [loss.weight for loss in second.config.strategy.losses] == [0.1 if head == "kept" else 0.0]
    with stopped(PolicyBatches, 1):  # in the first stage
        lattok.train(recipe(roots, tmp_path / "q", **options))
    again = lattok.train(lattok.VLARecipe.resumed(None, tmp_path / "q", None, {}), resume=True)
    assert again.describe()["weights_sha256"] == trained.describe()["weights_sha256"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"strategy": "baseline", "stages": "pretrain"}, "`stages`: expected joint with a strategy without a latent"),
        ({"pretrain_steps": 3}, "`pretrain_steps`"),
        ({"latent_head": "dropped"}, "`latent_head`"),
        ({"latent_head": "decoded"}, "`decoder`: expected the inverse dynamics model"),
        ({"stages": "pretrain,finetune", "decoder": "idm"}, "`latent_head`: expected decoded, got kept"),
    ],
)
def test_stages_that_cannot_be(options, text, roots, tmp_path):
    refused(text, lambda: recipe(roots, tmp_path / "p", **options))
