"""`lattok train lara`: a policy and a latent action model out of one run, alone and over two processes."""

import json
import os
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
import torchvision

import lattok
from lattok.cli import main
from lattok.data import open_dataset
from lattok.image_lam import MotoLAM, MotoLAMConfig
from lattok.recipes.lara import LARARecipe
from lattok.recipes.latbot import LatBotRecipe
from lattok.recipes.policy_data import PolicyData
from lattok.samples.batches import PolicyBatches
from lattok.training import distributed
from lattok.vla.strategies import hidden_index
from tests.conftest import CAMERAS, write_dataset
from tests.errors import refused
from tests.image_lam.moto.test_perceptual import random_vgg
from tests.process_jobs import together
from tests.recipes.policies import LAM, SIZES, annotated, image_lam, stopped
from tests.recipes.test_howto import BLOCK, ROOT, commands
from tests.training.test_processes import Sharding
from tests.vla.stand_in import Policy, make_batch

BILINEAR = {"interpolation": "bilinear"}  # as policies see images in these tests
OPTIONS = {"backbone": "scratch", "steps": 3, "batch_size": 8, "device": "cpu", **SIZES, "align_weight": 0.3}
OPTIONS |= {"lam_weight": 0.3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("lara")
    write_dataset(place / "data", [14, 12, 13, 12, 15])
    image_lam(**BILINEAR).save_pretrained(place / "lam")
    return place


def recipe(folder: Path, out: Path, **options) -> LARARecipe:
    given = {**OPTIONS, "lam": str(folder / "lam"), **options}
    return LARARecipe.from_preset(folder / "data", out, **given)


def saved(model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.saved_tensors().items()}


def changed(model, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, tensor in model.saved_tensors().items() if not torch.equal(tensor, before[name])}


def test_the_command_leaves_a_policy_and_the_refined_model(folder: Path, tmp_path: Path, capsys):
    words = [word for name, value in OPTIONS.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    out = tmp_path / "run"
    assert main(["train", "lara", str(folder / "data"), "--out", str(out), "--lam", str(folder / "lam"), *words]) == 0
    assert f"The refined latent action model is {out / 'lam'}." in capsys.readouterr().out
    policy, lam, before = lattok.load(out), lattok.load(out / "lam"), lattok.load(folder / "lam")
    assert lam.config == before.config
    moved = changed(lam, saved(before))
    assert any(name.startswith("encoder.") for name in moved)
    assert any(name.startswith("decoder.") for name in moved)
    assert "control.quantizer.codebooks.0.vectors" in moved
    frames = open_dataset(folder / "data").frames(0, CAMERAS, [0, 5])
    seen: dict = {key: torch.from_numpy(frames[:, i]) for i, key in enumerate(CAMERAS)}
    seen |= {"observation.state": torch.zeros(2, 2), "task": ["lift", "push"]}
    assert policy.select_action(seen).shape == (2, 3)
    assert policy.config.strategy.name == "baseline"  # it knows nothing of the other model
    last = json.loads((out / "run/metrics.jsonl").read_text().splitlines()[-1])
    assert {"loss/action", "loss/lara", "loss/lam_prediction", "loss/lam_commitment"} <= last.keys()
    for place in (out, out / "lam"):
        told = json.loads((place / "training.json").read_text())
        assert told["joint"]["lam"] == before.describe()["weights_sha256"]
        assert told["dataset"] == "data"
    assert main(["annotate", str(folder / "data"), "--model", str(out / "lam"), "--out", str(tmp_path / "labels")]) == 0


@pytest.mark.slow
def test_without_weights_the_policy_is_that_of_the_other_recipe(folder: Path, tmp_path: Path):
    """Same start, same batches: what LARA adds is all that differs."""
    given = {name: value for name, value in OPTIONS.items() if name not in ("align_weight", "lam_weight")}
    given["head"] = "flow"  # which a joint policy has by itself
    alone = lattok.train(lattok.VLARecipe.from_preset(folder / "data", tmp_path / "vla", **given))
    both = lattok.train(recipe(folder, tmp_path / "lara", align_weight=0.0, lam_weight=0.0, clip_norm=1e9))
    own = lattok.train(lattok.VLARecipe.from_preset(folder / "data", tmp_path / "wide", **given, clip_norm=1e9))
    assert saved(own).keys() == saved(both).keys()
    for name, tensor in saved(own).items():
        assert torch.equal(tensor, saved(both)[name]), name
    assert json.loads((tmp_path / "vla/held_out.json").read_text())["windows"] > 0
    assert alone.config == both.config


@pytest.mark.slow
@pytest.mark.parametrize("frozen", ["lam_rate", "backbone_rate", "both detached"])
def test_rates_and_freezing(frozen: str, folder: Path, tmp_path: Path):
    options = {} if frozen == "both detached" else {frozen: 0.0}
    start = lattok.train(recipe(folder, tmp_path / "start", steps=1, lr=1e-12))
    policy = lattok.train(recipe(folder, tmp_path / "p", **options, detach="lam"))
    moved, before = changed(policy, saved(start)), saved(start)
    backbone = [name for name in moved if name.startswith("backbone.")]
    still = {n for n in before if n.startswith("backbone.") and torch.allclose(before[n], saved(policy)[n], atol=1e-9)}
    assert (len(still) == sum(n.startswith("backbone.") for n in before)) == (frozen == "backbone_rate")
    assert backbone or frozen == "backbone_rate"
    assert any(name.startswith("head.") for name in moved)
    assert (tmp_path / "p/lam").is_dir() == (frozen != "lam_rate")


def test_interrupted_is_the_same_as_not(folder: Path, tmp_path: Path):
    options = {"steps": 5, "save_every": 2, "lam_rate": 0.5, "head": "flow"}
    whole = lattok.train(recipe(folder, tmp_path / "whole", **options))
    cut = recipe(folder, tmp_path / "cut", **options)
    with stopped(PolicyBatches, 3):
        lattok.train(cut)
    resumed = LARARecipe.resumed(cut.dataset, cut.out, None, {})
    policy = lattok.train(resumed, resume=True)
    assert not changed(policy, saved(whole))
    assert not changed(lattok.load(tmp_path / "cut/lam"), saved(lattok.load(tmp_path / "whole/lam")))


def test_a_saved_policy_goes_on(folder: Path, tmp_path: Path):
    """Post-training: its architecture, normalisers and weights, on other data too."""
    first = lattok.train(lattok.VLARecipe.from_preset(folder / "data", tmp_path / "first", **_plain(), head="flow"))
    before, other = saved(first), write_dataset(tmp_path / "other", [14, 13, 12])
    given = {"lam": str(folder / "lam"), "init": str(tmp_path / "first"), "steps": 2, "batch_size": 4, "lr": 1e-4}
    made = LARARecipe.from_preset(other, tmp_path / "on", **given, device="cpu", log_every=1)
    options = made.options()
    assert (made.preset, options["head"]) == ("scratch", "flow")
    assert options["backbone_width"] == SIZES["backbone_width"]
    policy = lattok.train(made)
    assert policy.config.horizon == SIZES["horizon"]
    moved = changed(policy, before)
    assert moved
    assert not [name for name in moved if "normalizer" in name]
    assert max(float((saved(policy)[n] - before[n]).abs().max()) for n in moved) < 1e-3
    told = json.loads((tmp_path / "on/training.json").read_text())
    assert [entry["dataset"] for entry in told["earlier"]] == ["data"]
    assert told["joint"]["init"] == first.describe()["weights_sha256"]


def _plain() -> dict:
    return {name: value for name, value in OPTIONS.items() if name not in ("align_weight", "lam_weight")}


def test_episodes_without_actions_are_in_the_batch(folder: Path, tmp_path: Path):
    """Their actions change nothing at all, their frames do."""
    options = {"action_episodes": "0", "acted_share": 0.25, "episodes": "0,1,3"}
    batches = _batches(folder, tmp_path, **options)
    batch = batches(0, 0, 1)
    assert int(batch.valid.any(1).sum()) == 2
    assert 8 < len(batch.pairs) < 16
    policy = lattok.train(recipe(folder, tmp_path / "p", **options))
    alone = lattok.train(recipe(folder, tmp_path / "q", **options, align_weight=0.0))
    assert changed(policy, saved(alone))


def test_a_model_that_learned_by_lpips_goes_on_by_it(folder: Path, tmp_path: Path, monkeypatch):
    """VGG16 with random weights is in the run and its checkpoint, and in no artefact."""
    pytest.importorskip("lpips")
    torch.manual_seed(0)
    pixels = {"class_token": False, "decoder_patch": 8, "loss_perceptual": 0.5}
    config = MotoLAMConfig.of(cameras=CAMERAS[:1], **LAM, **BILINEAR, **pixels)
    given = {"lam": str(MotoLAM(config).eval().save_pretrained(tmp_path / "lam")), "steps": 2}
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "lpips", None)
        refused(r"pip install .*\[lpips\]'.* in its", lambda: lattok.train(recipe(folder, tmp_path / "none", **given)))
    monkeypatch.setattr(torchvision.models, "vgg16", random_vgg)
    lattok.train(recipe(folder, tmp_path / "p", **given))
    assert _losses(tmp_path / "p")[-1]["loss/lam_perceptual"] > 0
    refined = lattok.load(tmp_path / "p/lam")
    assert refined.config == config
    assert changed(refined, saved(lattok.load(tmp_path / "lam"))) >= {"decoder.out.weight"}


def _batches(folder: Path, tmp_path: Path, **options) -> PolicyBatches:
    given = recipe(folder, tmp_path / "x", **options)
    data = given.policy_data(given.open())
    return data.batches(data.windows(data.sources[0], gaps=(3, 5)), given.learner(data).policy)


def test_pairs_are_those_inside_the_episode_and_shares_know_how_many(folder: Path, tmp_path: Path):
    batches = _batches(folder, tmp_path, episodes="0,1", batch_size=16)
    lengths = {e.index: e.length for e in open_dataset(folder / "data").episodes}
    windows = batches.windows
    places = zip(windows.episode_of, windows.frame_of, strict=True)
    inside = [[frame + gap < lengths[episode] for gap in (3, 5)] for episode, frame in places]
    assert windows.reach.tolist() == inside
    whole, halves = batches(2, 0, 1), [batches(2, share, 2) for share in range(2)]
    assert sum(len(half.pairs) for half in halves) == len(whole.pairs) == int(whole.shares.pairs) < 32
    assert all(float(half.shares.pairs) == float(whole.shares.pairs) / 2 for half in halves)
    assert float(whole.shares.paired) == len(set(whole.pairs[:, 0].tolist()))
    for share, half in enumerate(halves):
        assert {(2 * i + share, f) for i, f in half.pairs.tolist()} <= {tuple(p) for p in whole.pairs.tolist()}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"lam": None}, "`lam`"),
        ({"image_size": 32}, "`image_size`"),
        ({"lam": "OTHER"}, "`cameras`"),
        ({"gaps": ("20",)}, "`gaps`"),
        ({"detach": "all"}, "`detach`"),
        ({"align_layer": 1.5}, "`align_layer`"),
        ({"lam_rate": -1.0}, "`lam_rate`"),
        ({"preset": "lara"}, "`preset`"),
        ({"lam": "sample/tokenizer"}, "`lam`"),
        ({"init": "LAM"}, "`init`"),
    ],
)
def test_what_does_not_fit_is_one_line(options: dict, text: str, folder: Path, tmp_path: Path):
    if "LAM" in options.values():
        options = {"init": str(folder / "lam")}
    if "OTHER" in options.values():
        options = {"lam": str(image_lam("top", **BILINEAR).save_pretrained(tmp_path / "o"))}
    refused(re.escape(text), lambda: lattok.train(recipe(folder, tmp_path / "p", **options)))


def test_a_policy_that_goes_on_keeps_its_architecture(folder: Path, tmp_path: Path):
    lattok.train(lattok.VLARecipe.from_preset(folder / "data", tmp_path / "first", **_plain()))
    given = {"lam": str(folder / "lam"), "init": str(tmp_path / "first")}
    for options, text in (
        ({"head": "flow"}, "`head`"),
        ({"strategy": "la_align"}, "`strategy`"),
        ({"mix": ("a:1", "b:1")}, "`mix` cannot be used with init: a policy is trained further on one dataset."),
    ):
        refused(
            re.escape(text),
            LARARecipe.from_preset,
            None if "mix" in options else folder / "data",
            tmp_path / "p",
            **given,
            **options,
        )
    other = write_dataset(tmp_path / "other", [14, 13, 12], cameras=True)
    refused("`align_on`", lambda: lattok.train(LARARecipe.from_preset(other, tmp_path / "q", **given)))
    given["align_on"] = "placeholder"
    refused(
        "`cameras`", lambda: lattok.train(LARARecipe.from_preset(other, tmp_path / "q", **given, cameras=("front",)))
    )


def test_presets_have_the_released_place_of_the_alignment(tmp_path: Path):
    """A flow head in all of them; `lara` freezes the backbone and aligns block 14 of 16, as the released stage 2."""
    found = {
        name: LARARecipe.from_preset("data", tmp_path, name, lam="lam") for name in ("scratch", "libero", "libero+lara")
    }
    for made in found.values():
        assert (made.data.align_on, made.options()["head"]) == ("head", "flow")
    assert (found["libero"].options()["backbone_train"], found["libero"].data.align_layer) == ("lora", 1.0)
    published = found["libero+lara"]
    assert (published.options()["backbone_train"], hidden_index(published.data.align_layer, 16)) == ("frozen", 14)
    assert (published.data.align_weight, published.data.lam_weight, published.loop.steps) == (0.01, 0.01, 200_000)


@pytest.mark.slow
def test_it_learns_from_streamed_frames_too(folder: Path, tmp_path: Path, monkeypatch):
    for name in ("order.LANES", "stream.LANES"):
        monkeypatch.setattr(f"lattok.samples.{name}", 8)
    data = write_dataset(tmp_path / "long", [25, 31, 28, 40, 22, 36, 30, 27])
    options = {"shuffle_window": 80, "memory_gb": 1.5e-4, "episodes": "0:", "cameras": ("front",), "batch_size": 8}
    given = {**OPTIONS, "lam": str(folder / "lam"), **options}
    runs = [lattok.train(LARARecipe.from_preset(data, tmp_path / str(i), **given)) for i in range(2)]
    assert not changed(runs[0], saved(runs[1]))


def _worker(rank: int, folder: Path, out: Path, options: dict, shards: bool) -> None:
    distributed.Accelerator = Sharding if shards else distributed.Accelerator
    lattok.train(recipe(folder, out / "two", **options, accumulate=2))


@pytest.mark.slow
@pytest.mark.parametrize(("detach", "shards"), [("none", False), ("policy", True)], ids=["ddp", "fsdp2"])
def test_two_processes_train_what_one_does(detach: str, shards: bool, folder: Path, tmp_path: Path):
    """Also where most actions are not known, and where shares of two samples have no pair at all."""
    options = {"detach": detach, "action_episodes": "0,1", "episodes": "0,1,3", "head": "flow", "gaps": ("3", "6")}
    one = lattok.train(recipe(folder, tmp_path / "one", **options)).saved_tensors()
    together(_worker, folder, tmp_path, options, shards)
    for place, tensors in (("two", one), ("two/lam", lattok.load(tmp_path / "one/lam").saved_tensors())):
        two = lattok.load(tmp_path / place).saved_tensors()
        for name, tensor in tensors.items():
            if name.endswith((".steps", ".cluster_size")):  # statistics: a part of a step counts as one
                continue
            torch.testing.assert_close(two[name].float(), tensor.float(), atol=2e-5, rtol=0, msg=name)
    logged = [_losses(tmp_path / name) for name in ("one", "two")]
    for alone, shared in zip(*logged, strict=True):
        assert shared == pytest.approx(alone, abs=1e-4)


def _losses(run: Path) -> list[dict[str, float]]:
    lines = (run / "run/metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k.startswith("loss")} for line in lines]


def test_help_names_its_options(capsys):
    assert main(["train", "lara", "--help-all"]) == 0
    said = capsys.readouterr().out
    for flag in ("--lam", "--init", "--align-weight", "--lam-weight", "--detach", "--lam-rate", "--gaps"):
        assert flag in said


@pytest.mark.slow
def test_annotated_data_adds_the_strategys_own_labels(tmp_path: Path):
    """LA-Direct and LARA at once."""
    data = annotated(tmp_path)
    given = {**OPTIONS, "interpolation": "bicubic", "strategy": "la_direct", "lam": str(tmp_path / "lam")}
    policy = lattok.train(LARARecipe.from_preset(data, tmp_path / "p", **given))
    last = json.loads((tmp_path / "p/run/metrics.jsonl").read_text().splitlines()[-1])
    assert {"loss/latent", "loss/lara", "latent_accuracy"} <= last.keys()
    assert policy.config.strategy.name == "la_direct"


@pytest.mark.slow
def test_the_page(sample, tmp_path: Path, monkeypatch, capsys):
    """The commands of docs/howto/lara.md as they stand there, and the loop for somebody else's policy."""
    few = [episode.index for episode in sample.episodes if episode.length < 60][:4]
    lattok.export(sample, tmp_path / "data", episodes=few, video_codec="h264")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATASET", "data")
    short = ["--steps", "2", "--batch-size", "4", "--log-every", "1"]
    sizes = ["--backbone-width", "16", "--backbone-depth", "2", "--head-dim", "16"]
    done = []
    for kind, text in BLOCK.findall((ROOT / "docs/howto/lara.md").read_text()):
        if kind == "python":
            torch.manual_seed(0)
            policy, lam = Policy(), lattok.load("runs/lam")
            cameras = {camera: torch.rand(4, 2, 3, 64, 64) for camera in lam.cameras}
            exec(text, {"policy": policy, "lam": lam, "loader": [make_batch() | cameras], "preprocessor": dict})
            assert lattok.load("refined-lam").config == lam.config
        for line in commands(kind, text):
            if line.startswith("lattok"):
                words = shlex.split(os.path.expandvars(line))[1:]
                chosen = (
                    ["--codebook-continuous-steps", "1"] if "image-lam" in words else [] if "--init" in words else sizes
                )
                more = [*short, *chosen, "--episodes", "0:4"]
                assert main([*words, *more]) == 0, (line, capsys.readouterr().err)
                done.append(words[1])
    assert done == ["image-lam", "lara", "lara", "vla", "lara"]


@pytest.mark.parametrize("kind", [LARARecipe, LatBotRecipe])
def test_a_head_of_tokens_is_for_policies_of_another_recipe(kind):
    needed = {"lam": "lam", "align_on": "placeholder"} if kind is LARARecipe else {"teacher": "lam"}
    made = kind.from_preset("data", "out", head="tokens", tokenizer="t", **needed)
    data = PolicyData(made.data, made.model, made.loop, ())
    refused(rf"`head`: expected regression or flow in lattok train {kind.kind}, got tok", made.learner, data)


def test_a_head_of_tokens_is_refused_for_itself_not_for_where_states_are_aligned(folder: Path, tmp_path: Path):
    """`align_on` is "head" unless somebody says otherwise, which only a flow head has."""
    for options in ({}, {"align_on": "placeholder"}):
        refused(
            "`head`",
            lattok.train,
            recipe(folder, tmp_path / "p", head="tokens", tokenizer="sample/tokenizer", **options),
        )
    refused("`align_on`", lambda: lattok.train(recipe(folder, tmp_path / "p", head="regression")))
