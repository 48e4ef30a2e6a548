"""A dataset or its path, a model or its path: everywhere in Python, as on the command line."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lattok
from lattok import UniformBins
from lattok.data import inspect_dataset, open_dataset
from lattok.hub import FAMILIES
from lattok.hub.client import ASSETS, SAMPLES
from lattok.labels import LatentSpec, with_labels
from tests.data.formats.test_video_folder import write_video
from tests.errors import refused


@pytest.fixture
def places(make_dataset, tmp_path):
    dataset = make_dataset([12, 15, 11, 14])
    chunks = np.random.default_rng(0).standard_normal((20, 4, 3)).astype("float32")
    UniformBins.fit(chunks, bins=4).save_pretrained(tmp_path / "model")
    return dataset, tmp_path / "model", tmp_path / "out"


def test_annotate_and_verify_take_paths_and_single_models_as_the_command_line_does(places):
    dataset, model, out = places
    written = []
    ways = (dataset, lattok.load(model)), (str(dataset.root), str(model)), (dataset.root, {"latent": model})
    for i, (source, models) in enumerate(ways):
        at = lattok.annotate(source, models, f"{out}-{i}")
        written.append((at / "data/chunk-000/file-000.parquet").read_bytes())
        assert "latent" in json.loads((at / "meta/lattok.json").read_text())
        assert lattok.verify(at, models).holds
        assert lattok.verify(str(at), str(model)).holds
    assert written[0] == written[1] == written[2]
    at = lattok.annotate(str(dataset.root), {"a": str(model), "b": lattok.load(model)}, f"{out}-both")
    assert {"a.codes", "b.codes"} <= set(lattok.open_dataset(at).features)


def test_evaluate_export_and_inspect_take_paths(places):
    dataset, model, out = places
    assert (
        lattok.evaluate(str(model), str(dataset.root)).figures == lattok.evaluate(lattok.load(model), dataset).figures
    )
    assert len(lattok.export(str(dataset.root), out, episodes="0:2").episodes) == 2
    assert inspect_dataset(dataset.root).headline() == inspect_dataset(dataset).headline()
    refused("cannot read|`labels`", with_labels, str(dataset.root), out / "nothing")


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda d, m: lattok.annotate(3, m, "x"), "`dataset`: expected a dataset .* a path or a Hub id, got int"),
        (lambda d, m: lattok.evaluate(m, [d]), "`dataset`: expected a dataset .*, got list"),
        (lambda d, m: lattok.annotate(d, [m, m], "x"), "`models`: expected one model, or several by prefix, got a"),
        (lambda d, m: lattok.annotate(d, {}, "x"), "`models`: expected at least one model"),
        (lambda d, m: lattok.annotate(d, {"latent": "./no/where"}, "x"), "`model`: expected a folder with"),
        (lambda d, m: lattok.annotate(d, "no/where/at/all", "x"), "`model`: expected a folder with config.json"),
        (lambda d, m: lattok.evaluate("./nowhere", d), "`model`: expected a folder with config.json"),
        (lambda d, m: lattok.annotate(d, 7, "x"), "`model`: expected an action tokenizer or .*, got int"),
    ],
)
def test_what_is_neither_is_one_line(places, call, text):
    refused(text, call, str(places[0].root), str(places[1]))


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("model.safetensors", "version https://git-lfs.github.com/spec/v1\n", "Fetch it: git lfs pull"),
        ("config.json", '{"model_type": "qwen2"}', "artefact. It looks like a model of transformers"),
        ("config.json", '{"type": "act", "input_features": {}}', "It is a policy of LeRobot"),
        ("meta/lattok.json", "{}", "It holds labels of a dataset"),
    ],
)
def test_a_folder_of_something_else_is_called_what_it_is(tmp_path, name, text, said):
    folder = Path(shutil.copytree(ASSETS / SAMPLES["sample/bins"], tmp_path / "model"))
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    if name.startswith("meta"):
        (folder / "config.json").unlink()
    refused(said, lattok.load, folder)


def test_a_policy_is_no_labeller_and_every_other_model_is(places, tmp_path):
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy/config.json").write_text('{"type": "latent-vla", "lattok_version": "0.1.0"}')
    refused("`model`: expected an action tokenizer", lattok.annotate, places[0], tmp_path / "policy", tmp_path / "out")
    policies = {kind for kind, model in FAMILIES.items() if hasattr(model, "predict_chunk") or "vla" in kind}
    assert {kind for kind, model in FAMILIES.items() if model.label_source is None} == policies


@pytest.mark.parametrize("recipe", [lattok.ActionVQRecipe, lattok.recipe_for(lattok.UniformBins), lattok.VLARecipe])
def test_a_horizon_that_no_episode_has_is_refused_before_anything_is_read(places, recipe, monkeypatch):
    monkeypatch.setattr("lattok.data.vectors.Vectors._read", lambda *a: pytest.fail("actions were read"))
    preset = {"preset": "scratch"} if recipe is lattok.VLARecipe else {}
    made = recipe.from_preset(places[0].root, places[2], **preset, horizon=16)
    refused("`horizon`: expected at most the 12 steps of the longest chosen .*, got 16", lattok.train, made)
    assert not places[2].exists()


@pytest.mark.parametrize(
    ("model", "name", "value"),
    [
        *(("lam", "stride", stride) for stride in ("nans", "infs", "1e400s", "-1s", "9" * 300, "9" * 400 + "s")),
        *(("lam", "extra_strides", [stride]) for stride in ("nans", "999999999999")),
        *(("policy", "fps", rate) for rate in (1e308, 1e-300, -5.0)),
    ],
)
def test_strides_and_rates_beyond_sense_are_refused_where_a_model_is_read(tmp_path, model, name, value):
    """They used to be taken, and to end in odd errors, or in numbers of 300 digits, once they were used."""
    shutil.copytree(ASSETS / SAMPLES[f"sample/{model}"], tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    said = refused(f"`{name}`: expected ", lattok.load, tmp_path / "model")
    assert len(said) < 400


def test_so_are_strides_of_labels_and_rates_of_videos(tmp_path):
    refused("`stride`: expected at most 1,000,000,000, got", LatentSpec, "steps", stride=2**40)
    write_video(tmp_path / "a.mp4", fps=2_000_000)
    refused("`fps`: expected the frame rate, which these videos do not tell", open_dataset, tmp_path)


def test_models_are_listed_by_names_that_load_takes(places, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"type": "somebody-elses"}')
    found = lattok.list_models()
    tokenizers = ["tokenizer", "fast", "beast", "toast", "bins"]
    assert list(found) == [*(f"sample/{name}" for name in ("lam", "idm", "policy", *tokenizers)), "model"]
    for name, said in found.items():
        assert said.startswith(f"{lattok.load(name).type}: ")
    assert [*lattok.list_models("*lam*")] == ["sample/lam"]
    assert [*lattok.list_models("uniform-bins")] == ["sample/bins", "model"]
    assert lattok.list_models(folder=tmp_path / "model") == lattok.list_models("sample/*")


def test_a_policy_says_what_it_is():
    said = repr(lattok.load("sample/policy"))
    assert "la_direct: 8 actions of x, y, z, gripper, from observation.images.corner2, observation.images.grip" in said


def test_a_model_of_video_says_what_it_is_and_predicts_later_frames():
    lam: Any = lattok.load("sample/lam")
    dataset = lattok.open_dataset("sample/dataset")
    assert lam.vocab_size == lam.codebook_size == 16
    assert lam.device.type == "cpu"
    assert "4 codes of 16" in repr(lam)
    assert f"trained on {lam.trained_on['dataset']}" in repr(lam)
    stride = lam.stride_frames(dataset.fps)
    pairs = dataset.frames(0, lam.cameras, [0, stride, 5, 5 + stride]).reshape(2, 2, len(lam.cameras), 128, 128, 3)
    latents = lam.encode(torch.from_numpy(pairs))
    found = lam.decode(torch.from_numpy(pairs[:, 0]), latents)
    torch.testing.assert_close(found, lam.predict(lam.frame_features(torch.from_numpy(pairs[:, 0])), latents))
    refused("`latents`: expected 1 latent action, one for each frame, got 2", lam.decode, pairs[:1, 0], latents)
