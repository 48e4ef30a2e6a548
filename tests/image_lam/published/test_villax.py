"""villa-X's latent action model, converted, computes what the published classes compute (tests/parity/README.md)."""

import re
import shutil

import pytest
import torch

from lattok.convert import villax_lam
from lattok.image_lam.base.features import IMAGENET
from lattok.image_lam.published.villax import VillaXLAM
from lattok.types import LatentActions
from tests.errors import refused
from tests.image_lam.published.parity import Case, close, open_case

HEADS = {"encoder_n_heads": 8, "map_heads": 8, "decoder_n_heads": 16}


@pytest.fixture(params=["villax_lam_a", "villax_lam_b"])
def case(request) -> Case:
    return open_case(request.param)


@pytest.fixture
def second() -> Case:
    return open_case("villax_lam_b")


def convert(case, **facts) -> VillaXLAM:
    return villax_lam(case.folder / "weights.safetensors", **facts)


def pairs(case, first):
    """Frames [B, 2, 3, s, s] from frame `first` of the clips, as the published code resized them, values 0 to 255."""
    mean, std = (torch.tensor(scale)[:, None, None] for scale in IMAGENET)
    return (case.values["pixels"][:, first : first + 2] * std + mean) * 255


def test_codes_and_latents_are_those_of_pairs_alone(case):
    model, values = convert(case), case.values
    found = model.encode_pixels(pairs(case, 0))
    close(found.latents, values["pair.embed"])
    clips = values["indices"].reshape(len(found.codes), -1, model.config.tokens)
    assert torch.equal(found.codes, clips[:, 0])  # the first pair of a clip has nothing before it
    close(found.quantized, values["quant"][:, 0])
    later = model.encode_pixels(pairs(case, 1))
    close(later.latents, values["pair12.embed"])
    assert torch.equal(later.codes.flatten(), values["pair12.indices"])


def test_frames_are_resized_as_published(case):
    model, clips = convert(case), case.values["clips"]
    frames = torch.from_numpy(model.resize(clips[:, :2].flatten(0, 1).movedim(1, -1).numpy())).unflatten(0, (-1, 2))
    assert (frames.movedim(-1, 2) - pairs(case, 0)).abs().max() < 1.01  # rounding of pixels between two values
    if clips.shape[-1] == model.config.image_size:
        assert torch.equal(model.encode(frames).codes, model.encode_pixels(pairs(case, 0)).codes)


def test_predictions_are_the_published_ones(case):
    model, values = convert(case), case.values
    features = model.features.of_pixels(values["pixels"][:, 0].movedim(1, -1))
    vectors = values["quant"][:, 0].reshape(len(features), model.config.tokens, -1)
    close(model.predict(features, LatentActions(vectors.new_empty(0), vectors, vectors)), values["pred_patches"])


def test_the_settings_are_asked_for(second, tmp_path):
    path = shutil.copy(second.folder / "weights.safetensors", tmp_path / "model.safetensors")
    refused(re.escape("`config`: expected the published model_config.json, here or"), villax_lam, path)
    refused("`config`: expected the setting encoder_n_heads, which weights do not", villax_lam, path, {"map_heads": 4})
    refused("`heads`", villax_lam, path, {**HEADS, "encoder_n_heads": 3})
    assert villax_lam(path, second.folder / "model_config.json").config.pool_heads == 5
    shutil.copy(second.folder / "model_config.json", tmp_path)
    for given in (tmp_path, path):
        assert villax_lam(given).config.pool_heads == 5
