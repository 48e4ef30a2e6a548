"""Variants are configuration: each trains, is saved, and labels the same in another process."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

import lattok
from lattok.checks import LattokError
from lattok.recipes import ImageLAMRecipe
from tests.conftest import write_dataset

SMALL = {
    "features": "pixels",
    "image_size": 32,
    "stride": "2",
    "cameras": "front",
    "width": 16,
    "heads": 2,
    "latent_dim": 8,
    "codebook_size": 4,
    "encoder_depth": 1,
    "decoder_depth": 1,
    "flow_weight": 0.0,
    "continuous_steps": 1,
    "batch_size": 8,
    "labelled_per_batch": 2,
    "labelled_fraction": 0.2,
    "steps": 4,
    "log_every": 4,
    "device": "cpu",
}
VARIANTS = {  # name: preset, options, codes per pair
    "paper": ("tiny+p2t", {"continuous_steps": 0}, 4),
    "codes and positions": ("tiny+robust", {"tokens": 3, "codebook_size": 6}, 3),
    "shared codebook": ("tiny+robust+shared", {"tokens": 2}, 2),
    "finite scalars": ("tiny+robust", {"quantizer": "fsq", "codebook_size": 6, "tokens": 5}, 5),
    "continuous": ("tiny+robust", {"quantizer": "none"}, 0),
    "variational": ("tiny+robust", {"quantizer": "none", "kl_weight": 0.01}, 0),
    "futures": ("tiny+robust", {"extra_strides": ("0.4s", "5"), "additivity_weight": 0.1}, 4),
    "two cameras": ("tiny+robust", {"cameras": ("wrist", "front")}, 4),
    "joint": ("tiny+robust", {"streams": "joint", "env_codebook_size": 8}, 4),
    "published head": ("tiny+p2t+p2t_code", {"action_steps": 2}, 4),
    "flow": ("tiny+robust", {"flow_weight": 0.1, "prediction_weight": 0.0, "labelled_fraction": 0.0}, 4),
    "labels alone": ("tiny+robust", {"prediction_weight": 0.0}, 4),
    "no labels": ("tiny+robust", {"labelled_fraction": 0.0}, 4),
}
LABEL = """
import sys, torch, lattok
from pathlib import Path
frames = torch.load(sys.argv[2], weights_only=True)
out = {}
for folder in sorted(Path(sys.argv[1]).iterdir()):
    lam = lattok.load(folder)
    out[folder.name] = list(lam.encode(frames[:, :, : len(lam.cameras)])[:3])
torch.save(out, sys.argv[3])
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data") / "tiny", [12, 15, 11, 14])


@pytest.fixture(scope="module")
def trained(root, tmp_path_factory):
    """All variants after a few steps, the folder they are saved in, and their metrics."""
    folder = tmp_path_factory.mktemp("lams")
    models = {}
    for name, (preset, options, _) in VARIANTS.items():
        recipe = ImageLAMRecipe.from_preset(root, folder / name, preset, **{**SMALL, **options})
        models[name] = lattok.train(recipe)
    return models, folder


@pytest.fixture(scope="module")
def frames():
    return torch.randint(0, 256, (20, 2, 2, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def elsewhere(trained, frames, tmp_path_factory):
    """What another process makes of the saved models."""
    scratch = tmp_path_factory.mktemp("labels")
    torch.save(frames, scratch / "frames.pt")
    words = [sys.executable, "-c", LABEL, str(trained[1]), str(scratch / "frames.pt"), str(scratch / "labels.pt")]
    subprocess.run(words, check=True)
    return torch.load(scratch / "labels.pt", weights_only=True)


def metrics(trained, name):
    return json.loads((trained[1] / name / "run/metrics.jsonl").read_text().splitlines()[-1])


@pytest.mark.parametrize("name", VARIANTS)
def test_it_labels_the_same_in_another_process(name, trained, frames, elsewhere):
    lam = trained[0][name]
    out = lam.encode(frames[:, :, : len(lam.cameras)])
    codes, latents, quantized = elsewhere[name]
    assert out.codes.shape == (20, VARIANTS[name][2])
    assert torch.equal(out.codes, codes)
    torch.testing.assert_close(out.latents, latents)
    torch.testing.assert_close(out.quantized, quantized)
    assert lam.action_head is None


@pytest.mark.parametrize("name", [name for name, (_, _, codes) in VARIANTS.items() if codes])
def test_joint_entropy_of_every_stream_is_logged(name, trained):
    streams = [f"codebook/{stream}.quantizer" for stream in (["control", "env"] if name == "joint" else ["control"])]
    assert {f"{stream}/joint_bits" for stream in streams} <= metrics(trained, name).keys()


def test_every_variant_learns_from_the_terms_it_has(trained):
    terms = {name: {key[5:] for key in metrics(trained, name) if key.startswith("loss/")} for name in VARIANTS}
    assert terms["paper"] == {"prediction", "codebook", "commitment", "action"}
    assert terms["futures"] == {"prediction", "commitment", "action", "additivity"}
    assert terms["variational"] == {"prediction", "kl", "action"}
    assert terms["continuous"] == {"prediction", "action"}
    assert terms["shared codebook"] == {"prediction", "commitment", "action", "decorrelation"}
    assert terms["joint"] == {"prediction", "commitment", "commitment_env", "action"}
    assert terms["flow"] == {"commitment", "flow"}
    assert terms["labels alone"] == {"commitment", "action"}
    assert terms["no labels"] == {"prediction", "commitment"}


def test_the_artefact_says_which_labels_supervised(trained):
    labels = {"fraction": 0.2, "unit": "pairs", "per_batch": 2}
    assert lattok.load(trained[1] / "paper").trained_on["labels"] == labels


def test_published_sizes_with_the_cameras_in_the_order_asked_for(trained):
    assert trained[0]["two cameras"].cameras == ("observation.images.wrist", "observation.images.front")
    assert np.prod([trained[0]["paper"].config.tokens, trained[0]["paper"].config.codebook_size]) == 16


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"prediction_weight": 0.0, "labelled_fraction": 0.0},
            "`prediction_weight`: expected more than 0 where neither actions .* supervise, got 0. Nothing would be",
        ),
        ({"prediction_weight": 0.0, "action_weight": 0.0}, "`prediction_weight`: expected more than 0"),
        ({"labelled_per_batch": -1}, "`labelled_per_batch`: expected a whole number of at least 0"),
        ({"labelled_fraction": 1.5}, "`labelled_fraction`: expected a number from 0 to 1"),
        ({"action_key": "torque"}, "`action_key`: expected a column of tiny, or labelled_fraction=0 for video without"),
        (
            {"extra_strides": ("0.2s", "5")},
            r"`extra_strides`: expected gaps that grow .*, at 10 fps, got 2 \(2 frames\), 0.2s \(2 frames\), 5",
        ),
        ({"extra_strides": ("30",)}, "`extra_strides`: expected a gap that leaves at least half of the frames"),
        ({"stride": "20"}, "`stride`: expected a gap that leaves at least half of the frames"),
        ({"text_features": "words.npz"}, "`text_features` are for stage 1"),
        ({"kl_weight": 0.1}, "`kl_weight`: expected a positive one only with"),
        ({"additivity_weight": 0.1}, "`additivity_weight`: expected 0 without extra_strides"),
    ],
)
def test_options_that_do_not_go_together_are_one_line(root, tmp_path, options, text):
    with pytest.raises(LattokError, match=text):
        lattok.train(ImageLAMRecipe.from_preset(root, tmp_path / "lam", "tiny+robust", **{**SMALL, **options}))


def test_options_of_several_values_are_given_as_one_as_well():
    recipe = ImageLAMRecipe.from_preset("d", "o", extra_strides=4, cameras="front")
    assert (recipe.model.extra_strides, recipe.data.cameras) == (("4",), ("front",))
    assert ImageLAMRecipe.from_preset("d", "o", extra_strides=[4, "0.5s"]).model.extra_strides == ("4", "0.5s")
    with pytest.raises(LattokError, match="`extra_strides`: expected a value of type str, got 0.5"):
        ImageLAMRecipe.from_preset("d", "o", extra_strides=[0.5])
