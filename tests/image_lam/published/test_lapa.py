"""LAPA's quantizer, converted, computes what the published class computes (tests/parity/README.md)."""

import re
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from lattok.convert import lapa_laq
from lattok.hub.checkpoint import read_checkpoint
from lattok.image_lam.published.lapa import CodeMaps, LapaConfig, LapaLAQ, lapa_config
from tests.errors import refused
from tests.image_lam.published.parity import Case, close, open_case


@pytest.fixture(params=["lapa_laq_a", "lapa_laq_b"])
def case(request) -> Case:
    return open_case(request.param)


@pytest.fixture
def first() -> Case:
    return open_case("lapa_laq_a")


def pixels(case):
    return case.values["video"].movedim(2, 1)  # b 2 c h w


def test_codes_latents_and_predictions_are_the_published_ones(case):
    model, values = lapa_laq(case.folder / "weights.pt"), case.values
    found = model.encode_pixels(pixels(case))
    assert torch.equal(found.codes, values["indices"])
    close(found.latents, values["embed"])
    close(found.quantized, values["quant"])
    frames = pixels(case)[:, 0].movedim(1, -1)
    now = model.features.of_pixels(frames)
    close(as_image(model, model.predict(now, found)), values["recon"])
    if "forced.recon" in values:
        forced = replace(found, quantized=model.state_dict()["codebook"][values["forced.indices"]])
        close(as_image(model, model.predict(now, forced)), values["forced.recon"])


def as_image(model, patches):
    side, patch = model.side, model.config.patch
    rows = patches.unflatten(1, (side, side)).unflatten(3, (patch, patch, 3))  # b y x p q c
    return rows.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


def test_frames_are_resized_as_pil_did_and_seen_as_numbers_from_0_to_1(first):
    model, side = lapa_laq(first.folder / "weights.pt"), first.config["model"]["image_size"]
    frames = torch.randint(0, 256, (2, 2, 150, 200, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = [Image.fromarray(frame.numpy()) for frame in frames.flatten(0, 1)]
    wanted = np.stack([np.asarray(image.resize((side, side), Image.Resampling.BILINEAR)) for image in images])
    got = model.resize(frames.flatten(0, 1).numpy())
    assert np.abs(got.astype(int) - wanted.astype(int)).max() <= 1
    seen = torch.from_numpy(got).unflatten(0, (2, 2)).movedim(-1, 2) / 255
    close(model.encode(frames).latents, model.encode_pixels(seen).latents)


def test_sizes_are_read_from_the_shapes(case):
    config, wanted = lapa_laq(case.folder / "weights.pt").config, case.config["model"]
    sizes = {"width": "dim", "latent_dim": "quant_dim", "patch": "patch_size", "tokens": "code_seq_len"}
    sizes |= {"head_dim": "dim_head", "space_depth": "spatial_depth", "time_depth": "temporal_depth"}
    for ours, theirs in {**sizes, **dict.fromkeys(("heads", "codebook_size", "image_size"))}.items():
        assert getattr(config, ours) == wanted[theirs or ours], ours


def write(folder, tensors, name="file.safetensors"):
    safetensors.torch.save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / name)
    return folder / name


def test_half_precision_and_another_prefix_make_the_same_model(first, tmp_path):
    tensors = read_checkpoint(first.folder / "weights.pt")
    path = write(tmp_path, {f"module.{name}": tensor.half() for name, tensor in tensors.items()})
    found = lapa_laq(path).encode_pixels(pixels(first))
    close(found.latents, first.values["embed"], atol=2e-2)


def test_codes_that_shapes_leave_open_are_asked_for(first, tmp_path):
    path = first.folder / "weights.pt"
    assert lapa_laq(path, tokens=16).config.image_size == 128
    refused("`tokens`", lapa_laq, path, tokens=1)
    refused("`image_size`", lapa_laq, path, image_size=96)


POSITIONS = {1: 8, 2: 8, 4: 8, 16: 16, 64: 16, 256: 32}  # patches of a side, by codes, in published training
KERNELS = {(4, 4): 1, (3, 4): 2, (3, 3): 4, None: 64}  # of the second convolution: the fewest codes


def test_numbers_of_codes_and_their_convolutions():
    """A kernel tells the codes, and only sizes from which the convolutions make so many are accepted."""
    for kernel, codes in KERNELS.items():
        tensors = {} if kernel is None else {"vq.cnn_encoder.2.weight": torch.empty(0, 0, *kernel)}
        assert lapa_config(tensors, None, None).tokens == codes
        assert lapa_config(tensors, None, None).image_size == 32 * POSITIONS[codes]
    refused(
        re.escape("expected a kernel of 4 x 4, 3 x 4 or 3 x 3, got one of [5, 5]"),
        lapa_config,
        {"vq.cnn_encoder.2.weight": torch.empty(0, 0, 5, 5)},
        None,
        None,
    )
    for codes, published in POSITIONS.items():
        maps = CodeMaps(LapaConfig(tokens=codes, width=2, latent_dim=2))
        for side in {*range(1, 34)} | {published}:
            try:
                made = maps(torch.zeros(1, side**2, 2), side).shape[1]
            except RuntimeError:  # smaller than a kernel
                made = 0
            told = LapaConfig(tokens=codes, image_size=side, patch=1, width=2, head_dim=2, decoder_depth=1)
            told = replace(told, space_depth=1, time_depth=1)
            if made == codes:
                LapaLAQ(told)
            else:
                text = f"{side} x {side} patches become {codes} codes.*become {made}[.]"
                refused(text, LapaLAQ, told)
            assert made == codes or side != published


def test_pixels_of_another_size_are_refused(first):
    refused("`pixels`", lambda: lapa_laq(first.folder / "weights.pt").encode_pixels(torch.zeros(1, 2, 3, 32, 32)))
