"""A converted model through the command line: annotated, verified and judged, the same labels as in Python."""

import json

import numpy as np
import pytest
import torch

import lattok
from lattok.checks import LattokError
from lattok.cli import main
from lattok.evaluation.evidence import mlp_probes
from tests.zoo.parity import open_case


@pytest.fixture
def dataset(make_dataset):
    return make_dataset([12, 15, 11, 14])


def test_lapa_is_converted_annotated_verified_and_judged(dataset, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(mlp_probes, "STEPS", 5)
    model, out = str(tmp_path / "lapa"), str(tmp_path / "labelled")
    file = str(open_case("lapa_laq_a").folder / "weights.pt")
    assert main(["convert", "lapa-laq", file, model, "--cameras", "front", "--stride", "3"]) == 0
    assert capsys.readouterr().out == (
        "Found: 4 codes of 8, latents of width 8, 0.1 M parameters, frames of 64 pixels; taken as given: stride 3, "
        f"camera front.\nSaved in {model}. Judge it: lattok evaluate {model} DATASET\n"
    )
    assert main(["annotate", str(dataset.root), "--model", model, "--out", out]) == 0
    assert main(["verify", out, "--model", model]) == 0
    check_columns(dataset, lattok.open_dataset(out), lattok.load(model))
    assert main(["evaluate", model, str(dataset.root), "--out", str(tmp_path / "report"), "--device", "cpu"]) == 0
    figures = json.loads((tmp_path / "report" / "report.json").read_text())["figures"]
    assert figures["prediction_loss/true"] > 0
    assert figures.keys() >= {"joint_entropy_bits/model", "transfer_latents/model"}


def check_columns(dataset, labelled, model):
    """The columns are what the model gives for the decoded video, and for single pairs of it."""
    for episode in dataset.episodes[:2]:
        frames = dataset.frames(episode.index, dataset.cameras[:1])
        columns = labelled.columns(episode.index, ["latent.codes", "latent.embedding", "latent.valid"])
        whole = model.label_video(frames, 3)
        assert np.array_equal(columns["latent.codes"], whole.codes)
        assert np.array_equal(columns["latent.embedding"], whole.latents.reshape(len(frames), -1))
        assert columns["latent.valid"].ravel().tolist() == [t + 3 < len(frames) for t in range(len(frames))]
        for t in range(0, len(frames) - 3, 4):
            alone = model.encode(np.stack([frames[t], frames[t + 3]])[None])
            assert np.array_equal(alone.codes[0], whole.codes[t])


OTHERS = {  # file, and what its command is told besides
    "villax-lam": ("villax_lam_b/weights.safetensors", []),
    "adaworld-lam": ("adaworld_lam_a/weights.safetensors", ["--image-size", "48"]),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_others_are_annotated_and_verified(kind, dataset, tmp_path):
    label(kind, dataset, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", OTHERS)
def test_others_are_judged(kind, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(mlp_probes, "STEPS", 5)
    report = lattok.evaluate(label(kind, dataset, tmp_path), dataset)
    assert "transfer_latents/model" in report.figures
    assert ("joint_entropy_bits/model" in report.figures) == (kind == "villax-lam")  # the other has no codes


def label(kind, dataset, folder):
    """Convert, annotate and verify; the model."""
    name, facts = OTHERS[kind]
    file = open_case(name.partition("/")[0]).folder / name.partition("/")[2]
    model, out = str(folder / "model"), str(folder / "labelled")
    assert main(["convert", kind, str(file), model, "--cameras", "front", "--stride", "3", *facts]) == 0
    assert main(["annotate", str(dataset.root), "--model", model, "--out", out]) == 0
    assert main(["verify", out, "--model", model]) == 0
    found = lattok.open_dataset(out).features
    assert ("latent.codes" in found) == (kind == "villax-lam")
    assert "latent.embedding" in found
    return lattok.load(model)


def test_controls_that_need_training_are_refused(dataset):
    model = lattok.convert.lapa_laq(open_case("lapa_laq_a").folder / "weights.pt", stride="3", cameras=("front",))
    with pytest.raises(LattokError, match="`controls`: expected quick for lapa-laq, which lattok does not train, got"):
        lattok.evaluate(model, dataset, controls="trained")


def test_predicted_frames_are_images(dataset):
    model = lattok.convert.lapa_laq(open_case("lapa_laq_a").folder / "weights.pt")
    pair = torch.from_numpy(dataset.frames(0, dataset.cameras[:1])[[0, 3]])[None]
    features = model.frame_features(pair)
    assert model.predict(features[:, 0], model.encode_features(features)).shape == features[:, 1].shape
