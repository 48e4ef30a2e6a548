"""Variants are configuration: each trains, is saved, and labels the same in another process."""

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

import lattok
from lattok.recipes import ImageLAMRecipe, MotoLAMRecipe
from tests.conftest import write_dataset
from tests.errors import refused

pytestmark = pytest.mark.ci

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
    "loss_flow": 0.0,
    "codebook_continuous_steps": 1,
    "batch_size": 8,
    "labelled_per_batch": 2,
    "labelled_fraction": 0.2,
    "steps": 4,
    "log_every": 4,
    "device": "cpu",
}
SIZES = {"width": 16, "depth": 1, "heads": 2, "hidden": 32, "patch": 8}
HELD = {"features": "held", "decoder_patch": 8, **{f"image_encoder_{name}": size for name, size in SIZES.items()}}
VARIANTS = {  # name: preset, options, codes per pair
    "paper": ("tiny+p2t", {"codebook_continuous_steps": 0}, 4),
    "codes and positions": ("tiny+robust", {"tokens": 3, "codebook_size": 6}, 3),
    "shared codebook": ("tiny+robust+shared", {"tokens": 2}, 2),
    "finite scalars": ("tiny+robust", {"quantizer": "fsq", "codebook_size": 6, "tokens": 5}, 5),
    "continuous": ("tiny+robust", {"quantizer": "none"}, 0),
    "variational": ("tiny+robust", {"quantizer": "none", "loss_kl": 0.01}, 0),
    "futures": ("tiny+robust", {"extra_strides": ("0.4s", "5"), "loss_additivity": 0.1}, 4),
    "two cameras": ("tiny+robust", {"cameras": ("wrist", "front")}, 4),
    "joint": ("tiny+robust", {"streams": "joint", "env_codebook_size": 8}, 4),
    "published head": ("tiny+p2t+p2t_code", {"action_steps": 2}, 4),
    "flow": ("tiny+robust", {"loss_flow": 0.1, "loss_prediction": 0.0, "labelled_fraction": 0.0}, 4),
    "labels alone": ("tiny+robust", {"loss_prediction": 0.0}, 4),
    "no labels": ("tiny+robust", {"labelled_fraction": 0.0}, 4),
    "pixels": ("tiny", {**HELD, "tokens": 3}, 3),
    "pixels and features": (
        "tiny",
        {
            **HELD,
            "tokens": 2,
            "cameras": ("wrist", "front"),
            "streams": "joint",
            "encoder_frame_types": 2,
            "decoder_conditioning": "tokens",
            "decoder_mask_tokens": True,
            "encoder_hidden": 20,
            "decoder_width": 24,
            "decoder_heads": 3,
            "loss_features": 0.5,
            "decoder_predict_change": True,
            "extra_strides": ("5",),
            "labelled_fraction": 0.0,
        },
        2,
    ),
}
LABEL = """
import sys, torch, lattok
from pathlib import Path
frames = torch.load(sys.argv[2], weights_only=True)
out = {}
for folder in sorted(Path(sys.argv[1]).iterdir()):
    lam = lattok.load(folder)
    said = lam.encode(frames[:, :, : len(lam.cameras)])
    out[folder.name] = [said.codes, said.latents, said.quantized]
torch.save(out, sys.argv[3])
"""


def kind(name: str) -> Any:
    """The recipe of a variant."""
    return MotoLAMRecipe if name.startswith("pixels") else ImageLAMRecipe


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data") / "tiny", [12, 15, 11, 14])


@pytest.fixture(scope="module")
def trained(root, tmp_path_factory):
    """All variants after a few steps, the folder they are saved in, and their metrics."""
    folder = tmp_path_factory.mktemp("lams")
    models = {}
    for name, (preset, options, _) in VARIANTS.items():
        recipe = kind(name).from_preset(root, folder / name, preset, **{**SMALL, **options})
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


@pytest.mark.parametrize("name", [name for name, (_, _, codes) in VARIANTS.items() if codes])
def test_joint_entropy_of_every_stream_is_logged(name, trained):
    streams = [
        f"codebook/lam.{stream}.quantizer" for stream in (["control", "env"] if name == "joint" else ["control"])
    ]
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
    assert terms["pixels"] == {"prediction", "codebook", "commitment", "action"}
    both = {"codebook", "commitment", "codebook_env", "commitment_env"}
    assert terms["pixels and features"] == {"prediction", "features", *both}


def test_the_artefact_says_which_labels_supervised(trained):
    labels = {"fraction": 0.2, "unit": "pairs", "per_batch": 2}
    assert lattok.load(trained[1] / "paper").trained_on["labels"] == labels


def test_published_sizes_with_the_cameras_in_the_order_asked_for(trained):
    assert trained[0]["two cameras"].cameras == ("observation.images.wrist", "observation.images.front")
    assert np.prod([trained[0]["paper"].config.tokens, trained[0]["paper"].config.codebook_size]) == 16


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"loss_prediction": 0.0, "labelled_fraction": 0.0}, "`loss_prediction`"),
        ({"loss_prediction": 0.0, "loss_action": 0.0}, "`loss_prediction`"),
        ({"labelled_per_batch": -1}, "`labelled_per_batch`"),
        ({"labelled_fraction": 1.5}, "`labelled_fraction`"),
        ({"action_key": "torque"}, "`action_key`"),
        ({"extra_strides": ("0.2s", "5")}, "`extra_strides`"),
        ({"extra_strides": ("30",)}, "`extra_strides`"),
        ({"stride": "20"}, "`stride`"),
        ({"text_features": "words.npz"}, "`text_features` are for stage 1"),
        ({"decoder_conditioning": "pool"}, "`decoder_conditioning`"),
        ({"loss_kl": 0.1}, "`loss_kl`"),
        ({"loss_additivity": 0.1}, "`loss_additivity`"),
    ],
)
def test_options_that_do_not_go_together_are_one_line(root, tmp_path, options, text):
    refused(
        text,
        lambda: lattok.train(ImageLAMRecipe.from_preset(root, tmp_path / "lam", "tiny+robust", **{**SMALL, **options})),
    )


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"decoder_conditioning": "add"}, "`decoder_conditioning`"),
        ({"decoder_patch": 7}, "`image_size`"),
        ({"features": "pixels", "class_token": True}, "`class_token`"),
        ({"image_encoder_depth": 0}, "`image_encoder_depth`"),
        ({"streams": "control+env"}, "`streams`"),
        ({"loss_prediction": 0.0}, "`loss_prediction`"),
    ],
)
def test_options_that_do_not_go_together_where_pixels_are_predicted(root, tmp_path, options, text):
    given = {**SMALL, **HELD, "labelled_fraction": 0.0, **options}
    refused(text, lambda: lattok.train(MotoLAMRecipe.from_preset(root, tmp_path / "lam", "tiny", **given)))


def test_options_of_several_values_are_given_as_one_as_well():
    recipe = ImageLAMRecipe.from_preset("d", "o", extra_strides=4, cameras="front")
    assert (recipe.model.extra_strides, recipe.data.cameras) == (("4",), ("front",))
    assert ImageLAMRecipe.from_preset("d", "o", extra_strides=[4, "0.5s"]).model.extra_strides == ("4", "0.5s")
    refused("`extra_strides`", ImageLAMRecipe.from_preset, "d", "o", extra_strides=[0.5])


def test_frozen_features_that_the_artefact_holds_do_not_learn(root, trained, tmp_path):
    """They come from the seed, or from the model that a run goes on from; every other part of the model learns."""
    options = {**SMALL, **VARIANTS["pixels"][1], "steps": 1, "codebook_continuous_steps": 0}
    once = lattok.train(MotoLAMRecipe.from_preset(root, tmp_path / "one", "tiny", **options)).saved_tensors()
    more = lattok.train(MotoLAMRecipe.from_preset(root, tmp_path / "on", "tiny", init=str(tmp_path / "one"), **options))
    for tensors in (trained[0]["pixels"].saved_tensors(), more.saved_tensors()):
        for name in once:
            assert torch.equal(once[name], tensors[name]) == name.startswith("features."), name
    refused(
        "`loss_features`",
        MotoLAMRecipe.from_preset,
        root,
        tmp_path / "no",
        init=str(tmp_path / "one"),
        loss_features=1.0,
    )
    refused("`init`", ImageLAMRecipe.from_preset, root, tmp_path / "no", init=str(tmp_path / "one"))


def test_pixels_are_learned_the_same_with_features_from_a_cache(root, tmp_path):
    options, weights = {**SMALL, **VARIANTS["pixels"][1], "steps": 2}, []
    clear = {"crop": 1.0, "crop_most": 1.0, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
    for name, cache in (("with", {"feature_cache": str(tmp_path / "cache")}), ("without", {})):
        recipe = MotoLAMRecipe.from_preset(root, tmp_path / name, "tiny", **{**options, **clear, **cache})
        weights.append(lattok.train(recipe).describe()["weights_sha256"])
    assert weights[0] == weights[1]


def test_it_annotates_and_its_frames_are_resized_by_the_artefact(root, trained, tmp_path):
    lattok.annotate(root, {"latent": trained[1] / "pixels"}, tmp_path / "annotated")
    lam, dataset = trained[0]["pixels"], lattok.open_dataset(tmp_path / "annotated")
    columns = dataset.columns(1, ["latent.codes", "latent.embedding"])
    expected = lam.label_video(dataset.frames(1, lam.cameras), lam.stride_frames(dataset.fps))
    assert (columns["latent.codes"] == expected.codes).all()
    np.testing.assert_allclose(columns["latent.embedding"].reshape(expected.latents.shape), expected.latents, atol=1e-5)


def test_the_preset_has_the_published_sizes():
    config = MotoLAMRecipe.from_preset("d", "o", "moto").config(cameras=("front",))
    sizes = (config.tokens, config.codebook_size, config.latent_dim, config.width, config.heads)
    assert (*sizes, config.encoder.depth, config.decoder.depth) == (8, 128, 32, 768, 12, 4, 12)
    assert (config.loss_weights["codebook"], config.loss_weights["commitment"]) == (0.25, 1.0)
    assert (config.features, config.image_size, config.loss.perceptual) == ("hf:facebook/vit-mae-large", 224, 0.0)
