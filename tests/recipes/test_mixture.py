"""Training on mixtures: resume, processes, normalisers of each dataset, and what the artefact knows about them."""

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import lattok
from lattok.cli import main
from lattok.data import Feature, LeRobotWriter, open_dataset
from lattok.nn.normalize import for_dataset
from lattok.recipes import ActionVQRecipe, ImageLAMRecipe
from lattok.samples import ActionWindows, FramePairs
from lattok.samples.batches import PairBatches
from lattok.samples.order import BatchSampler
from lattok.utils.options import as_flags
from tests.annotation.test_fill import write as write_actions
from tests.conftest import FPS, moving_square, write_dataset
from tests.errors import refused
from tests.recipes.policies import TRAIN_LAM, stopped
from tests.recipes.test_howto import BLOCK, ROOT, commands
from tests.recipes.test_recipes import TINY

AS = {"as": [{"part": "position"}, {"part": "gripper", "convention": "open_is_1"}], "drop": ["rotation"]}
SHORT = ("--steps", "3", "--batch-size", "8", "--device", "cpu")
POLICY = ("--backbone-width", "16", "--backbone-depth", "2", "--head-dim", "16")
OPTIONS = {**TINY, "steps": 8, "save_every": 3, "episodes": "0:3"}


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """Three small datasets; the actions of `b` are 100 times as large, `c` has none."""
    folder = tmp_path_factory.mktemp("mixed")
    roots = {name: write_dataset(folder / name, lengths, (name,)) for name, lengths in LENGTHS.items()}
    scale(roots["b"])
    drop_actions(roots["c"])
    return roots


LENGTHS = {"a": [12, 15, 11, 14], "b": [9, 20, 11, 13], "c": [10, 12, 13, 9]}


def rewrite(root, change):
    """Every data file with its table changed."""
    import pyarrow.parquet as pq

    for path in (root / "data").rglob("*.parquet"):
        pq.write_table(change(pq.read_table(path)), path)


def scale(root):
    import pyarrow as pa

    def larger(table):
        place = table.column_names.index("action")
        values = np.stack(table["action"].to_numpy()) * 100 + 7
        column = pa.FixedSizeListArray.from_arrays(pa.array(values.astype(np.float32).ravel()), 3)
        return table.set_column(place, table.schema.field("action").name, column)

    rewrite(root, larger)


def drop_actions(root):
    rewrite(root, lambda table: table.drop_columns(["action"]))
    info = json.loads((root / "meta/info.json").read_text())
    del info["features"]["action"]
    (root / "meta/info.json").write_text(json.dumps(info))


def mix(roots, **weights):
    return tuple(f"{roots[name]}:{weight}" for name, weight in weights.items())


@pytest.fixture(scope="module")
def tokenizer(roots, tmp_path_factory):
    out = tmp_path_factory.mktemp("trained") / "tok"
    recipe = ActionVQRecipe.from_preset(None, out, "quick", mix=mix(roots, a=1.0, b=0.5), **OPTIONS)
    return lattok.train(recipe), out


def test_a_resumed_mixture_equals_an_undisturbed_one(tokenizer, roots, tmp_path):
    out, given = tmp_path / "parts", mix(roots, a=1.0, b=0.5)
    with stopped(BatchSampler, 5, "__call__"):
        lattok.train(ActionVQRecipe.from_preset(None, out, "quick", mix=given, **OPTIONS))
    assert json.loads((out / "run/recipe.json").read_text())["options"]["mix"] == list(given)
    other = ActionVQRecipe.resumed(None, out, None, {"mix": mix(roots, a=1.0, b=0.6)})
    refused("`mix`", lattok.train, other, resume=True)
    refused("`dataset` and `mix` were both given", ActionVQRecipe.resumed, roots["a"], out, None, {})
    parts = lattok.train(ActionVQRecipe.resumed(None, out, None, {}), resume=True)
    assert parts.describe()["weights_sha256"] == tokenizer[0].describe()["weights_sha256"]


METRES, CENTIMETRES = [{"part": "position"}], [{"part": "position", "scale": 0.01}]


@pytest.mark.parametrize("mixed", [False, True])
def test_a_run_does_not_go_on_from_an_edited_description_file(mixed, roots, tmp_path, monkeypatch):
    monkeypatch.setenv("LATTOK_DATA", str(roots["b"].parent))
    file, short = tmp_path / "b.json", {**OPTIONS, "steps": 2}
    spaces = {"action_space": {"action": METRES}, "actions": {"as": METRES}}
    described = {"dataset": str(roots["b"]), "name": "b", **spaces}
    file.write_text(json.dumps(described))
    given = (None, {"mix": (*mix(roots, a=1.0), f"{file}:1.0")}) if mixed else (file, {})
    lattok.train(ActionVQRecipe.from_preset(given[0], tmp_path / "tok", "quick", **short, **given[1]))
    resumed = ActionVQRecipe.resumed(given[0], tmp_path / "tok", None, {})
    name = "dataset b" if mixed else "dataset"
    text = f"`{name}`: expected content with hash .{{12}}, as when the run began, got .*. Put back what has changed, or"
    converted, declared = {"actions": {"as": CENTIMETRES}}, {"action_space": {"action": CENTIMETRES}, "actions": None}
    renamed = [{"name": "other"}] if mixed else []  # where a model has a normaliser of that name
    for edit in (converted, declared, {"cameras": ["front"]}, *renamed):
        file.write_text(json.dumps({**described, **edit}))
        refused(text, lattok.train, resumed, resume=True)
    file.write_text(json.dumps(described))
    lattok.train(resumed, resume=True)
    path = tmp_path / "tok/run/recipe.json"
    stored = json.loads(path.read_text())
    assert set(stored["inputs"]) == ({"dataset a", "dataset b"} if mixed else {"dataset"})
    path.write_text(json.dumps({**stored, "inputs": {}}))  # as older versions wrote it
    lattok.train(resumed, resume=True)


def test_a_mixture_does_not_go_on_from_a_run_on_one_dataset(roots, tmp_path):
    lattok.train(ActionVQRecipe.from_preset(roots["a"], tmp_path / "one", "quick", **{**OPTIONS, "steps": 2}))
    recipe = ActionVQRecipe.resumed(None, tmp_path / "one", None, {"mix": mix(roots, a=1)})
    refused("`dataset`", lattok.train, recipe, resume=True)


def test_every_dataset_has_its_own_normaliser(tokenizer, roots):
    loaded = lattok.load(tokenizer[1])
    assert loaded.config.normalizers == ("a", "b")
    chunks = {}
    for name in ("a", "b"):
        windows = ActionWindows(open_dataset(roots[name]), 4, episodes="0:3")
        chosen = loaded.for_dataset(name)
        torch.testing.assert_close(chosen.normalizer.shift, windows.actions.mean(0), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(chosen.normalizer.scale, windows.actions.std(0, correction=0), rtol=1e-4, atol=1e-5)
        chunks[name] = windows.all().chunks
    large = loaded.for_dataset("b")
    normalised = large.normalizer(chunks["b"])
    alike, codes = loaded.for_dataset("a"), large.encode(chunks["b"])
    in_units_of_b = large.normalizer.inverse(alike.normalizer(alike.decode(codes)))
    torch.testing.assert_close(large.decode(codes), in_units_of_b, rtol=1e-4, atol=1e-3)
    assert torch.equal(large.encode(chunks["b"]), alike.encode(alike.normalizer.inverse(normalised)))
    assert large.encoder is loaded.encoder


def test_without_a_choice_nothing_is_encoded(tokenizer, tmp_path):
    loaded = lattok.load(tokenizer[1])
    text = (
        r"`tokenizer`: expected one of its datasets to be chosen \(a, b\), got none. tokenizer.for_dataset\('a'\) has"
    )
    uses = {
        "encode": lambda: loaded.encode(torch.zeros(1, 4, 3)),
        "decode": lambda: loaded.decode(torch.zeros(1, 4, dtype=torch.long)),
        "latents": lambda: loaded.latent_actions(torch.zeros(1, 4, 3)),
        "report": lambda: loaded.error_report(torch.zeros(1, 4, 3)),
    }
    for use in uses.values():
        refused(text, use)


def test_a_dataset_can_be_added_and_labels_of_the_others_stay_what_they_were(tokenizer, tmp_path):
    loaded = lattok.load(tokenizer[1])
    before = loaded.for_dataset("a").describe()
    refused("`dataset`", loaded.for_dataset, "new")
    actions = np.random.default_rng(0).standard_normal((50, 3)) * [1, 2, 3] + 5
    loaded.add_dataset("new", actions)
    loaded.save_pretrained(tmp_path / "more")
    again = lattok.load(tmp_path / "more")
    np.testing.assert_allclose(again.for_dataset("new").normalizer.shift, actions.mean(0), rtol=1e-5)
    assert again.for_dataset("a").describe() | {"model": None} == before | {"model": None}
    refused("`name`", again.add_dataset, "a", actions)
    refused("`values`", again.add_dataset, "other", actions[:, :2])
    alone = again.for_dataset("new")
    alone.save_pretrained(tmp_path / "alone")
    assert lattok.load(tmp_path / "alone").encode(torch.zeros(1, 4, 3)).shape == (1, 4)  # the only one is chosen


def test_a_tokenizer_of_one_dataset_has_nothing_to_choose(roots, tmp_path):
    out = tmp_path / "one"
    lattok.train(ActionVQRecipe.from_preset(roots["a"], out, "quick", **{**OPTIONS, "steps": 2}))
    loaded = lattok.load(out)
    config = json.loads((out / "config.json").read_text())
    assert config.pop("normalizers") == []
    (out / "config.json").write_text(json.dumps(config))  # as before there were mixtures
    assert lattok.load(out).describe()["weights_sha256"] == loaded.describe()["weights_sha256"]
    assert for_dataset(loaded, open_dataset(roots["b"]).name) is loaded
    refused("`dataset`", loaded.for_dataset, "a")
    refused("options", lattok.FAST.fit, torch.zeros(4, 4, 3), normalizers=("a", "b"))


def test_training_episodes_are_found_out_in_every_dataset(tokenizer, roots):
    loaded = lattok.load(tokenizer[1])
    assert [(e["dataset"], e["episodes"], e["weight"]) for e in loaded.trained_on["mixture"]] == [
        ("a", [[0, 2]], 1.0),
        ("b", [[0, 2]], 0.5),
    ]
    for name in ("a", "b"):
        dataset = open_dataset(roots[name])
        cheating = lattok.evaluate(loaded, dataset, episodes=[2, 3])
        assert cheating.verdicts[0].text.startswith("1 of 2 held-out episodes were trained on")
        honest = lattok.evaluate(loaded, dataset, episodes=[3])
        assert not any("trained on" in verdict.text for verdict in honest.verdicts)
    assert loaded.trained_on["samples_per_step"] == 8


def test_mixing_on_the_command_line(roots, tmp_path, capsys):
    out = str(tmp_path / "tok")
    options = [*as_flags(OPTIONS)]
    words = ["train", "action-vq", "--out", out, "--preset", "quick", "--mix", *mix(roots, a=2, b=1), *options]
    assert main(words) == 0
    assert f"Evaluate it: lattok evaluate {out} {roots['a']}" in capsys.readouterr().out
    assert main(["evaluate", out, str(roots["b"]), "--out", str(tmp_path / "report")]) == 0
    card = (tmp_path / "tok/README.md").read_text()
    assert '"a"' in card  # the card is that of the whole model
    assert '"b"' in card
    capsys.readouterr()
    assert main(["evaluate", out, str(lattok.sample_dataset_path()), "--out", str(tmp_path / "report")]) == 2
    assert "Fit one more normaliser: tokenizer.add_dataset(name, actions)." in capsys.readouterr().err
    assert main([*words[:6], "--mix", *mix(roots, a=1), str(roots["c"]) + ":1", "--resume"]) == 2
    for wrong, text in (
        (["fast", "--out", out], "`dataset`"),
        (
            ["action-vq", str(roots["a"]), "--out", out, "--mix", *mix(roots, a=1)],
            "`dataset` and `mix` were both given",
        ),
        (["action-vq", "--out", out, "--mix", str(roots["a"])], "`mix`"),
    ):
        assert main(["train", *wrong]) == 2
        assert text in capsys.readouterr().err


def lam(roots, out, **options):
    given = {**TRAIN_LAM, "mix": mix(roots, a=1.0, c=1.0), "steps": 5, "save_every": 2, **options}
    return ImageLAMRecipe.from_preset(None, out, "tiny+robust", **given)


def test_video_without_actions_joins_a_latent_action_model(roots, tmp_path):
    whole = lattok.train(lam(roots, tmp_path / "whole"))
    with stopped(PairBatches, 3):
        lattok.train(lam(roots, tmp_path / "parts"))
    parts = lattok.train(ImageLAMRecipe.resumed(None, tmp_path / "parts", None, {}), resume=True)
    assert whole.describe()["weights_sha256"] == parts.describe()["weights_sha256"]
    assert [entry["dataset"] for entry in lattok.load(tmp_path / "whole").trained_on["mixture"]] == ["a", "c"]
    assert for_dataset(whole, open_dataset(roots["c"]).name) is whole


def test_what_a_mixture_of_videos_needs(roots, tmp_path, monkeypatch):
    refused("`action_key`", lambda: lattok.train(lam(roots, tmp_path / "none", mix=mix(roots, c=1.0))))
    monkeypatch.setenv("LATTOK_DATA", str(roots["c"].parent))
    described = tmp_path / "one.json"
    described.write_text(json.dumps({"dataset": str(roots["c"]), "name": "one", "cameras": ["wrist"]}))
    mixed = (*mix(roots, a=1.0), f"{described}:1.0")
    refused("`cameras`", lambda: lattok.train(lam(roots, tmp_path / "cameras", mix=mixed)))
    single = lattok.train(lam(roots, tmp_path / "single", mix=mixed, cameras="front", steps=3))
    assert single.cameras == ("observation.images.front",)
    assert not (tmp_path / "cameras").exists()


def test_strides_in_seconds_are_frames_of_each_dataset(roots, tmp_path, monkeypatch, capsys):
    slow, seen = write_dataset(tmp_path / "slow", [12, 12], ("slow",), fps=FPS / 2), []
    original = FramePairs.__init__

    def init(self, dataset, stride, *rest, **options):
        original(self, dataset, stride, *rest, **options)
        seen.append(self.stride)

    monkeypatch.setattr(FramePairs, "__init__", init)
    lattok.train(lam(roots, tmp_path / "lam", mix=(*mix(roots, a=1), f"{slow}:1"), stride="0.4s", steps=3))
    assert seen == [4, 2]
    assert "rates differ" not in capsys.readouterr().err
    lattok.train(lam(roots, tmp_path / "frames", mix=(*mix(roots, a=1), f"{slow}:1"), stride=2, steps=3))
    assert "note: mix: rates differ: 2 frames are 0.2 s in a, 0.4 s in slow" in capsys.readouterr().err


def arm(root, names, camera):
    """A robot with these action dimensions and one camera."""
    rng = np.random.default_rng(len(names))
    features = {"action": Feature("float32", (len(names),), names), camera: Feature("video", (32, 32, 3), None)}
    with LeRobotWriter.create(root, FPS, features, video_codec="h264", encoder_threads=1) as writer:
        for _ in range(3):
            actions = rng.uniform(-1, 1, (12, len(names)))
            writer.add_episode({"action": actions}, {camera: moving_square(rng, 12)}, root.name)


@pytest.mark.ci
def test_the_how_to_works_as_it_stands(tmp_path, monkeypatch, capsys):
    pose = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
    arm(tmp_path / "data/bridge", pose, "observation.images.image_0")
    arm(tmp_path / "data/sim", ("x", "y", "z", "gripper"), "observation.images.corner2")
    (tmp_path / "videos/push").mkdir(parents=True)
    shutil.copy(next((tmp_path / "data/sim").rglob("*.mp4")), tmp_path / "videos/push/one.mp4")
    monkeypatch.chdir(tmp_path)
    done, known = [], {}
    unified = re.findall(r"^lattok train clip-lam --mix .*$", (ROOT / "docs/howto/latbot.md").read_text(), re.MULTILINE)
    blocks = BLOCK.findall((ROOT / "docs/howto/mixtures.md").read_text())
    for kind, text in (*blocks, ("bash", "\n".join(unified))):  # which goes on with these files
        if kind == "python":
            exec(text, known)
        for path, content in re.findall(r"cat > (\S+) << 'END'\n(.*?)\nEND\n", text, re.DOTALL):
            (tmp_path / path).write_text(content)
        for line in commands(kind, text):
            if line.startswith("lattok"):
                done.append(line)
                short = [] if "inspect" in line else [*SHORT]
                short += ["--codebook-continuous-steps", "1"] if "image-lam" in line else []
                short += POLICY if "vla" in line else []
                assert main([*shlex.split(line)[1:], *short]) == 0, (line, capsys.readouterr().err)
    assert len(done) == 6
    assert lattok.load("runs/unified-teacher").config.normalizers == ("sim", "bridge")
    tokenizer = lattok.load("runs/extended-tokenizer")
    assert tokenizer.config.normalizers == ("bridge", "sim", "another_arm")
    bare = {**json.loads(Path("bridge.json").read_text()), "actions": AS}
    Path("bare.json").write_text(json.dumps(bare))
    for other, got in (("data/bridge", "no declaration"), ("bare.json", "position\\(\\), gripper.*'open_is_1'\\)")):
        refused(f"`action_space`: .*, got {got}", lattok.evaluate, tokenizer, open_dataset(other))
    mixture = lattok.load("runs/mixed-lam").trained_on["mixture"]
    assert [entry["dataset"] for entry in mixture] == ["sim", "bridge", "videos"]


def test_a_dataset_of_unknown_actions_is_video_in_a_mixture(roots, tmp_path):
    """As one without the column is."""
    unknown = write_actions(tmp_path / "data", set())
    for name, given in (("x", {**roots, "x": unknown}), ("c", roots)):
        options = {
            **TRAIN_LAM,
            "steps": 4,
            "labelled_fraction": 0.5,
            "cameras": ("front",),
            "mix": mix(given, a=1, **{name: 1}),
        }
        model = lattok.train(ImageLAMRecipe.from_preset(None, tmp_path / name, "tiny+robust", **options))
        assert model.trained_on["labels"]["fraction"] == 0.5
