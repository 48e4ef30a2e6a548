"""AdaWorld's autoencoder, converted, computes what the published class computes (tests/parity/README.md)."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from lattok.convert import adaworld_lam
from lattok.image_lam.published.adaworld import AdaWorldLAM
from tests.data.test_pixels import opencv_cubic
from tests.errors import refused
from tests.image_lam.published.parity import Case, close, open_case


@pytest.fixture
def first() -> Case:
    return open_case("adaworld_lam_a")


def convert(case, file="weights.safetensors", **facts) -> AdaWorldLAM:
    return adaworld_lam(case.folder / file, image_size=case.config["image_size"], **facts)


def pixels(case):
    return case.values["videos"][:, :2].movedim(-1, 2)  # b 2 c h w


def test_latents_and_predictions_are_the_published_ones(first):
    model, values = convert(first), first.values
    found = model.encode_pixels(pixels(first))
    close(found.latents, values["mu"])
    assert found.codes.shape == (4, 0)
    features = model.features.of_pixels(values["videos"][:, 0])
    close(model.features.pixels_of(model.predict(features, found)), values["recon"])
    swapped = replace(found, quantized=found.quantized.flip(0))
    close(model.features.pixels_of(model.predict(features, swapped)), values["swapped.recon"])


def test_the_pair_alone_out_of_a_clip():
    case = open_case("adaworld_lam_b")
    for file in ("weights.safetensors", "lam.ckpt"):
        model = convert(case, file)
        close(model.encode_pixels(pixels(case)).latents, case.values["pair.mu"])
        assert model.config.heads == case.config["model"]["num_heads"]


@pytest.mark.parametrize("size", [(60, 90), (90, 60), (61, 90), (90, 61), (60, 91), (48, 61), (40, 40)])
def test_frames_are_cropped_and_resized_as_published(first, size):
    """The square in the middle of a wide and of a tall frame, then bicubic without antialiasing, kept in [0, 1]."""
    model, side = convert(first), min(size)
    frames = torch.randint(0, 256, (2, *size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    top, left = (int((length - side) / 2) for length in size)
    square = frames[:, top : top + side, left : left + side]
    wanted = F.interpolate(square.movedim(-1, 1) / 255, 48, mode="bicubic").clamp(0, 1)
    got = torch.from_numpy(model.resize(frames.numpy()))
    assert (got.movedim(-1, 1) / 255 - wanted).abs().max() < 0.51 / 255
    assert (got.int() - torch.from_numpy(opencv_cubic(square.numpy(), 48, 48))).abs().max() <= 1


def test_sizes_that_do_not_fit_are_said(first):
    refused("`image_size`", adaworld_lam, first.folder / "weights.safetensors", image_size=50)
