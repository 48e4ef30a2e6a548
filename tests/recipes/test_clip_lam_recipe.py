import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lattok
from lattok.cli import main
from lattok.data.opening import parse_source
from lattok.recipes.run_folder import read_options
from lattok.samples.batches import PolicyBatches
from lattok.training import LoopOptions, learning_rate
from lattok.utils.options import as_flags
from tests.conftest import write_dataset
from tests.errors import refused
from tests.image_lam.clips.fakes import SIZES
from tests.recipes.policies import stopped

TABLE_6 = """
Fractal: 12.8%
Kuka: 12.8%
Bridge: 11.8%
Taco Play: 2.7%
Jaco Play: 0.4%
Berkeley Cable Routing: 0.2%
Roboturk: 2.1%
Viola: 0.8%
Berkeley Autolab UR5: 1.1%
Toto: 1.8%
Language Table: 4.4%
Stanford Hydra Dataset: 4.6%
Austin Buds Dataset: 0.2%
NYU Franka Play Dataset: 0.6%
Furniture Bench Dataset: 2.5%
UCSD Kitchen Dataset: < 0.1%
Austin Sailor Dataset: 2.2%
Austin Sirius Dataset: 1.7%
DLR EDAN Shared Control: < 0.1%
IAMLab CMU Pickup Insert: 0.9%
UTAustin Mutex: 2.2%
Berkeley Fanuc Manipulation: 7.8%
CMU Stretch: 1.5%
BC-Z: 6.8%
FMB Dataset: 7.1%
DobbE: 1.4%
DROID: < 0.1%
AgiBoT- α: 6.3%
EgoDex: 11.1%
"""
SMALL = {"preset": "tiny", "steps": 4, "batch_size": 4, "log_every": 1, **SIZES}


def test_the_command_trains_a_model_that_labels(tmp_path, capsys):
    data, model = write_dataset(tmp_path / "data", [12, 9, 11, 10]), tmp_path / "my lam"
    words = [*as_flags({**SMALL, "action_episodes": "0:2"})]
    assert main(["train", "clip-lam", str(data), "--out", str(model), *words]) == 0
    (judge,) = re.findall("Evaluate it: lattok (.*)", capsys.readouterr().out)
    assert shlex.split(judge) == ["evaluate", str(model), str(data)]
    logged = [json.loads(line) for line in (model / "run/metrics.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in logged] == [1, 2, 3, 4]
    assert all(np.isfinite(entry["loss/frame"]) and np.isfinite(entry["loss/action"]) for entry in logged)
    assert main(["annotate", str(data), "--model", str(model), "--out", str(tmp_path / "out")]) == 0
    labelled, lam = lattok.open_dataset(tmp_path / "out"), lattok.ClipLAM.from_pretrained(model)
    assert lam.trained_on is not None
    assert lam.trained_on["labels"] == {"episodes": "0:2"}
    frames = labelled.frames(1, labelled.cameras, transform=lam.resize)
    found = labelled.columns(1, ["latent.embedding"])["latent.embedding"]
    assert np.array_equal(found, lam.label_video(frames, 4, "lift").latents.reshape(9, -1))
    assert main(["verify", str(tmp_path / "out"), "--model", str(model)]) == 0


@pytest.mark.slow
def test_report_and_doctor_know_a_trained_folder(tmp_path, capsys):
    data, model = str(write_dataset(tmp_path / "data", [12, 9, 11, 10, 12, 11])), str(tmp_path / "lam")
    lattok.train(lattok.ClipLAMRecipe.from_preset(data, model, **SMALL))
    assert main(["evaluate", model, data, "--out", str(tmp_path / "report")]) == 0
    figures = json.loads((tmp_path / "report/report.json").read_text())["figures"]
    assert {"r2_from_latents/latents", "r2_from_latents/env_latents"} <= figures.keys()
    assert "predicted" in (tmp_path / "report/report.html").read_text(encoding="utf-8")
    capsys.readouterr()
    assert main(["doctor", model, data]) in (0, 1)  # four steps teach nothing, which it may say
    said = capsys.readouterr().out
    assert "model     clip-lam, saved by lattok" in said
    assert "--controls trained" not in said  # there is nothing of a model of clips to train for that


def test_robots_of_other_kinds_learn_together_in_the_unified_space(tmp_path):
    """A right arm in the plane with a gripper, and a left hand in space: 44 numbers, of which each has three."""
    write_dataset(tmp_path / "plane", [12, 9])
    write_dataset(tmp_path / "hand", [11, 10])
    plane = [{"part": "position", "axes": ["x", "y"]}, {"part": "gripper", "convention": "open_is_1"}]
    for name, space in (("plane", plane), ("hand", [{"part": "position", "arm": "left"}])):
        described = {"dataset": name, "action_space": {"action": space}, "actions": {"as": "unified"}}
        (tmp_path / f"{name}.json").write_text(json.dumps(described))
    mix = tuple(f"{tmp_path / name}.json:1.0" for name in ("plane", "hand"))
    lam = lattok.train(lattok.ClipLAMRecipe.from_preset(None, tmp_path / "lam", mix=mix, **SMALL))
    assert lam.config.action_dim == 44
    assert set(range(44)) - set(lam.config.absent) == {0, 1, 2, 7, 8, 13}
    again = lattok.ClipLAM.from_pretrained(tmp_path / "lam")
    frames = lattok.open_dataset(tmp_path / "hand").frames(0, lam.cameras, transform=lam.resize)
    labels = lam.label_video(torch.from_numpy(frames), 4, "lift")
    known = torch.zeros(44, dtype=torch.bool).index_fill(0, torch.arange(3), True)
    drawn = again.for_dataset("hand").generate(frames, labels, known=known)[1]
    assert drawn[..., :3].all()
    assert not drawn[..., 3:].any()
    for place, (name, dims) in enumerate({"plane": [7, 8], "hand": [0, 1]}.items()):
        dataset = lattok.open_dataset(tmp_path / f"{name}.json")
        actions = np.concatenate([dataset.columns(episode, ["action"])["action"] for episode in (0, 1)])[:, dims]
        units: Any = again.normalizers[place]
        ends = units.inverse(torch.tensor([[-1.0], [1.0]]).expand(2, 44))[:, dims].numpy()
        np.testing.assert_allclose(ends, np.quantile(actions, (0.01, 0.99), 0), atol=1e-5, err_msg=name)
    refused(r"expected one of its datasets to be chosen \(plane, hand\)", again.generate, frames, labels, known=known)


def test_as_many_actions_as_steps_lie_in_a_clip_at_any_rate(tmp_path):
    for fps in (10, 40):
        write_dataset(tmp_path / f"at{fps}", [40, 36], fps=fps)
    options = {**SMALL, "steps": 1, "stride": "0.4s"}
    del options["horizon"]
    for fps, steps in ((10, 4), (40, 16)):
        lam = lattok.train(lattok.ClipLAMRecipe.from_preset(tmp_path / f"at{fps}", tmp_path / f"lam{fps}", **options))
        assert lam.config.horizon == lam.stride_frames(fps) == steps
    mix = tuple(f"{tmp_path}/at{fps}:1.0" for fps in (10, 40))
    refused(
        "`horizon`",
        lambda: lattok.train(lattok.ClipLAMRecipe.from_preset(None, tmp_path / "mixed", mix=mix, **options)),
    )


def test_its_config_names_the_column_of_actions(tmp_path):
    data = write_dataset(tmp_path / "data", [12, 9])
    options = {**SMALL, "steps": 1, "action_key": "observation.state"}
    assert lattok.train(lattok.ClipLAMRecipe.from_preset(data, tmp_path / "lam", **options)).config.action_key == (
        "observation.state"
    )


def test_a_run_that_goes_on_ends_with_the_same_weights(tmp_path):
    data = write_dataset(tmp_path / "data", [12, 9, 11])
    options = {**SMALL, "save_every": 2}
    whole = lattok.train(lattok.ClipLAMRecipe.from_preset(data, tmp_path / "whole", **options))
    recipe = lattok.ClipLAMRecipe.from_preset(data, tmp_path / "cut", **options)
    with stopped(PolicyBatches, 3):
        lattok.train(recipe)
    again = lattok.train(recipe, resume=True)
    for name, tensor in whole.saved_tensors().items():
        assert torch.equal(tensor, again.saved_tensors()[name]), name


def test_the_preset_has_the_numbers_of_the_paper():
    made = lattok.ClipLAMRecipe.from_preset("data", "out")
    assert (made.model.frames, made.model.scene_tokens, made.model.motion_tokens) == (16, 64, 64)
    assert (made.loop.batch_size, made.loop.lr, made.loop.beta2, made.loop.min_lr) == (512, 1e-4, 0.95, 2.5e-6)
    assert (made.options()["backbone_train"], made.options()["backbone_lora_projector"]) == ("all_but_vision", True)


def test_the_rows_of_table_5_can_be_run(tmp_path):
    """Options as the page has them, with and without UAD and DLA: each trains and predicts a frame."""
    page = (Path(__file__).parents[2] / "docs/howto/latbot.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (UniVLA-style|Ours-v\d) \| (✓?) ?\| (✓?) ?\| ((?:`[^`]*`)|none) \|$", page, re.MULTILINE)
    assert [row[:3] for row in rows] == [
        ("UniVLA-style", "", ""),
        ("Ours-v1", "", "✓"),
        ("Ours-v2", "✓", ""),
        ("Ours-v3", "✓", "✓"),
    ]
    data = write_dataset(tmp_path / "data", [12, 9])
    sizes = {**SMALL, "steps": 2, "separation_weight": 0.0}
    del sizes["scene_tokens"], sizes["motion_tokens"]
    for name, uad, dla, options in rows:
        words = [*as_flags(sizes), *options.strip("`").replace("none", "").split()]
        assert main(["train", "clip-lam", str(data), "--out", str(tmp_path / name), *words]) == 0
        lam = lattok.ClipLAM.from_pretrained(tmp_path / name)
        assert (lam.config.action_weight > 0) == bool(uad)
        assert bool(lam.env) == lam.config.decoder.exchange == bool(dla)
        frames = lattok.open_dataset(data).frames(1, lam.cameras, transform=lam.resize)
        labels = lam.label_video(torch.from_numpy(frames), 4, "lift")
        both = labels.latents.shape[1] + (0 if labels.env is None else labels.env.latents.shape[1])
        assert both == (8 if dla else 128)


def test_the_mixture_of_table_6_is_a_file_of_options(tmp_path, monkeypatch):
    """One option opens 29 description files of the current folder with the weights that are printed."""
    rows = [row.rsplit(": ", 1) for row in TABLE_6.strip().splitlines()]
    file = Path(__file__).parents[2] / "docs/howto/latbot_mixture.json"
    options, preset, _ = read_options(str(file))
    named = [parse_source(text) for text in options["mix"]]
    assert (len(named), preset) == (len(rows), None) == (29, None)
    for (path, weight), (name, printed) in zip(named, rows, strict=True):
        assert path.startswith(re.sub("[^a-z]+", "_", name.lower().removesuffix(" dataset")).strip("_")), name
        assert weight == (0.05 if printed == "< 0.1%" else float(printed.removesuffix("%"))), name
    write_dataset(tmp_path / "data", [6])
    for path, _ in named:
        (tmp_path / path).write_text(json.dumps({"dataset": "data", "name": Path(path).stem}))
    monkeypatch.chdir(tmp_path)
    sources = lattok.ClipLAMRecipe.from_preset(None, "out", **options).open()
    assert [(f"{source.dataset.name}.json", source.weight) for source in sources] == named


def test_cosine_warms_up_and_falls_to_the_least_rate():
    options = LoopOptions(steps=100, lr=1.0, schedule="cosine", warmup_steps=10, min_lr=0.1)
    assert [learning_rate(options, step) for step in (0, 4, 9, 10)] == pytest.approx([0.1, 0.5, 1.0, 1.0])
    assert learning_rate(options, 55) == pytest.approx(0.55)
    assert learning_rate(options, 100) == pytest.approx(0.1)
    refused("`min_lr`", LoopOptions, lr=1.0, min_lr=2.0)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"frames": 9}, "`stride`"),
        ({"acted_share": 0.5}, "`acted_share` was given, but all actions are known. Name those episodes"),
        ({"acted_share": 1.0, "action_episodes": "0:1"}, "`acted_share`"),
        ({"stride": "40"}, "40"),
    ],
)
def test_what_cannot_be_learned_is_refused(options, text, tmp_path):
    data = write_dataset(tmp_path / "data", [12, 9])
    refused(
        re.escape(text),
        lambda: lattok.train(lattok.ClipLAMRecipe.from_preset(data, tmp_path / "lam", **{**SMALL, **options})),
    )
