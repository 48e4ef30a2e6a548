"""A converted model through the command line: annotated, verified and judged, the same labels as in Python."""

import json
import subprocess
import sys

import numpy as np
import pytest

import lattok
from lattok.cli import main
from lattok.evaluation.evidence import probes
from tests.errors import refused
from tests.image_lam.backbones import local_timm
from tests.image_lam.published.parity import open_case


@pytest.fixture
def dataset(make_dataset):
    return make_dataset([12, 15, 11, 14])


def test_lapa_is_converted_annotated_verified_and_judged(dataset, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(probes, "STEPS", 5)
    model, out = str(tmp_path / "lapa"), str(tmp_path / "labelled")
    file = str(open_case("lapa_laq_a").folder / "weights.pt")
    assert main(["convert", "lapa-laq", file, model, "--cameras", "front", "--stride", "3"]) == 0
    found, mind, *saved = capsys.readouterr().out.splitlines()
    assert found == (
        "Found: 4 codes of 8, latents of width 8, 0.10 M parameters, frames of 64 pixels; taken as given: cameras "
        "front, stride 3."
    )
    assert mind.startswith("The default gap of 30 frames is that of its training script")
    assert saved == [f"Saved in {model}. Evaluate it: lattok evaluate {model} DATASET"]
    assert main(["annotate", str(dataset.root), "--model", model, "--out", out]) == 0
    assert main(["verify", out, "--model", model]) == 0
    check_columns(dataset, lattok.open_dataset(out), lattok.load(model))
    assert main(["evaluate", model, str(dataset.root), "--out", str(tmp_path / "report"), "--device", "cpu"]) == 0
    figures = json.loads((tmp_path / "report" / "report.json").read_text())["figures"]
    assert figures["prediction_loss/true"] > 0
    assert figures.keys() >= {"joint_entropy_bits/model", "transfer_latents/model"}


def check_columns(dataset, labelled, model, stride=3):
    """The columns are what the model gives for the decoded video, and for single pairs and batches of it."""
    names = [f"latent.{part}" for part in ("codes", "embedding", "valid") if f"latent.{part}" in labelled.features]
    for episode in dataset.episodes[:2]:
        frames = dataset.frames(episode.index, model.cameras)
        columns = labelled.columns(episode.index, names)
        whole = model.label_video(frames, stride)
        assert np.array_equal(columns.get("latent.codes", whole.codes), whole.codes)
        assert np.array_equal(columns["latent.embedding"], whole.latents.reshape(len(frames), -1))
        assert columns["latent.valid"].ravel().tolist() == [t + stride < len(frames) for t in range(len(frames))]
        rows = np.arange(len(frames) - stride)
        for batch in (*rows[::4, None], rows[:7]):
            alone = model.encode(np.stack([frames[batch], frames[batch + stride]], 1))
            assert np.array_equal(alone.codes, whole.codes[batch])
            np.testing.assert_allclose(alone.latents, whole.latents[batch], atol=2e-5, rtol=1e-4)


def nothing(folder):
    return []


def dino(folder):
    """LARY's features are not in its file: a network of the fixture's width and grid stands for them."""
    features = local_timm(folder / "vit", "vit_tiny_patch16_224", embed_dim=20, depth=1, num_heads=2)
    return ["--features", features, "--image-size", "256"]


def settings(folder):
    """LaWAM's heads are in its settings alone."""
    path = folder / "lam.json"
    path.write_text(json.dumps(open_case("lawam_lam_a").config["model"]))
    return ["--config", str(path)]


SYSTEMS = {  # file, what its command is told besides, whether it has codes
    "lapa-laq": ("lapa_laq_a/weights.pt", nothing, True),
    "lary-laq": ("lary_laq_b/weights.safetensors", dino, True),
    "moto-lam": ("lara_lam_a/weights.safetensors", nothing, True),
    "villax-lam": ("villax_lam_b/weights.safetensors", nothing, True),
    "lawam-lam": ("lawam_lam_a/weights.safetensors", settings, False),
    "adaworld-lam": ("adaworld_lam_a/weights.safetensors", lambda folder: ["--image-size", "48"], False),
}
FIRST = "lapa-laq"  # has a test of its own


def label(system, dataset, folder, camera, stride=3):
    """Convert, annotate and verify through the command line; where the model and the labelled dataset lie."""
    name, facts, codes = SYSTEMS[system]
    file = open_case(name.partition("/")[0]).folder / name.partition("/")[2]
    model, out = str(folder / "model"), str(folder / "labelled")
    told = ["--cameras", camera, "--stride", str(stride), *facts(folder)]
    assert main(["convert", system, str(file), model, *told]) == 0
    assert main(["annotate", str(dataset.root), "--model", model, "--out", out]) == 0
    assert main(["verify", out, "--model", model]) == 0
    found = lattok.open_dataset(out).features
    assert ("latent.codes" in found) == codes
    assert "latent.embedding" in found
    return model, out


@pytest.mark.parametrize("system", [each for each in SYSTEMS if each != FIRST])
def test_every_system_is_converted_annotated_and_verified(system, dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("LATTOK_DATA", str(tmp_path / "vit"))
    model, out = label(system, dataset, tmp_path, "front")
    check_columns(dataset, lattok.open_dataset(out), lattok.load(model))


@pytest.fixture(scope="module")
def part_of_the_sample(tmp_path_factory):
    """Two of its ten tasks."""
    out = tmp_path_factory.mktemp("part") / "sample"
    words = ["export", str(lattok.sample_dataset_path()), "--out", str(out), "--episodes", "0:10"]
    assert main([*words, "--video-codec", "h264"]) == 0
    return lattok.open_dataset(out)


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS)
def test_on_the_sample_every_system_is_judged_and_labels_alike_in_another_process(
    system, part_of_the_sample, tmp_path, monkeypatch
):
    monkeypatch.setattr(probes, "STEPS", 5)
    monkeypatch.setenv("LATTOK_DATA", str(tmp_path / "vit"))
    dataset = part_of_the_sample
    model, out = label(system, dataset, tmp_path, "corner2", stride=16)
    labelled, codes = lattok.open_dataset(out), SYSTEMS[system][2]
    check_columns(dataset, labelled, lattok.load(model), stride=16)
    again = str(tmp_path / "again")
    words = ["annotate", str(dataset.root), "--model", model, "--out", again]
    subprocess.run([sys.executable, "-m", "lattok", *words], check=True)
    names, other = ["latent.embedding", *["latent.codes"] * codes], lattok.open_dataset(again)
    for episode in dataset.episodes:
        here, there = (each.columns(episode.index, names) for each in (labelled, other))
        assert all(np.array_equal(here[name], there[name]) for name in names)
    assert main(["evaluate", model, str(dataset.root), "--out", str(tmp_path / "report"), "--device", "cpu"]) == 0
    figures = json.loads((tmp_path / "report" / "report.json").read_text())["figures"]
    assert figures["prediction_loss/true"] > 0
    assert "transfer_latents/model" in figures
    assert ("joint_entropy_bits/model" in figures) == codes
    print(system, {name: round(figures[name], 3) for name in ("r2_from_latents/latents", "prediction_loss/true")})


def test_controls_that_need_training_are_refused(dataset):
    model = lattok.convert.lapa_laq(open_case("lapa_laq_a").folder / "weights.pt", stride="3", cameras=("front",))
    refused("`controls`", lattok.evaluate, model, dataset, controls="trained")
