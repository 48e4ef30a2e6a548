"""Faster labellers: labels equal in float32, near in bfloat16, which they say."""

import copy
import json
import pickle
from typing import Any

import numpy as np
import pytest
import timm
import torch

import lattok
from lattok import UniformBins
from lattok.cli.datasets import annotate
from lattok.inference import fold_scales
from tests.conftest import CAMERAS, write_dataset
from tests.errors import refused
from tests.image_lam.base.test_labelling import VARIANTS, make, video

ARCHITECTURES = ("vit_base_patch14_reg4_dinov2", "vit_base_patch16_siglip_224", "vit_base_patch16_clip_quickgelu_224")
ROUNDED = ("bfloat16", "bfloat16-all")
SHRUNK: dict[str, Any] = {"embed_dim": 192, "depth": 2, "num_heads": 3, "patch_size": 16, "img_size": 32}


def test_what_cannot_be_made_faster_is_refused():
    tokenizer: Any = UniformBins.fit(np.zeros((2, 4, 3), np.float32), bins=4)
    refused("`model`: expected an ImageLAM or a MotoLAM, got UniformBins", lattok.for_inference, tokenizer)


@pytest.mark.parametrize("precision", ROUNDED)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_frozen_networks_are_rounded_and_stay_near(name, precision):
    lam, size = make("network"), 32
    lam.features.network = timm.create_model(name, num_classes=0, dynamic_img_size=False, **SHRUNK).eval()
    with torch.no_grad():
        for tensor in lam.features.network.parameters():
            tensor.add_(0.05 * torch.randn_like(tensor))
    frames, exact = video(3, size=size), lam.label_video(video(3, size=size), 1)
    error = (lattok.for_inference(lam, precision).label_video(frames, 1).latents - exact.latents).abs().mean()
    assert 0 < error < 0.1 * exact.latents.abs().mean()


def test_scales_go_into_the_products_before_them():
    network: Any = timm.create_model(ARCHITECTURES[0], num_classes=0, dynamic_img_size=False, **SHRUNK).eval().double()
    for tensor in network.parameters():
        torch.nn.init.normal_(tensor, std=0.3)
    pixels = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    expected = network.forward_features(pixels)
    fold_scales(network)
    assert not [name for name, _ in network.named_parameters() if "gamma" in name]
    torch.testing.assert_close(network.forward_features(pixels), expected)


@pytest.mark.parametrize("precision", ROUNDED)
@pytest.mark.parametrize("variant", VARIANTS)
def test_bfloat16_is_near_and_says_so(variant, precision):
    lam = make(variant)
    frames, labeller = video(20, len(lam.cameras)), lattok.for_inference(lam, precision)
    exact, rounded = lam.label_video(frames, 5), labeller.label_video(frames, 5)
    assert rounded.latents.dtype == torch.float32
    spread = exact.latents.abs().mean()
    assert 0 < (rounded.latents - exact.latents).abs().mean() < 0.1 * spread
    assert labeller.describe()["precision"] == precision
    assert lam.describe() == {**labeller.describe(), "precision": "float32"}


def test_a_labeller_keeps_its_weights_and_survives_pickling():
    lam, frames = make(), video(12)
    pairs = frames.unflatten(0, (6, 2))
    expected = lam.label_video(frames, 5)
    labeller = lattok.for_inference(lam)
    with torch.no_grad():
        lam.encoder.queries.zero_()
    again = pickle.loads(pickle.dumps(labeller))
    for one in (labeller, again, copy.copy(labeller)):
        assert torch.equal(one.label_video(frames, 5).latents, expected.latents)
    torch.testing.assert_close(labeller.encode(pairs).latents[0], labeller.label_video(frames[:2], 1).latents[0])
    assert labeller.stride_frames(10) == lam.stride_frames(10)
    assert labeller.resize(video(2, size=40)[:, 0].numpy()).shape == (2, 32, 32, 3)


def test_wrong_ways_say_what_to_do():
    refused(
        "`precision`: expected one of float32, bfloat16, bfloat16-all", lambda: lattok.for_inference(make(), "int4")
    )
    refused(
        "`model`: expected one that", lambda: lattok.for_inference(make(language="precomputed", language_dim=4))
    )  # the instruction would be left out


@pytest.mark.parametrize("precision", ["float32", *ROUNDED])
def test_labellers_check_pairs_as_the_model_does(precision):
    labeller = lattok.for_inference(make("network"), precision)
    pairs = video(4).unflatten(0, (2, 2))
    assert torch.equal(labeller.encode(pairs[:, :, 0]).codes, labeller.encode(pairs).codes)
    assert labeller.encode(pairs[:0]).codes.shape == (0, 3)
    refused(r"`frames`: expected 1 camera \(front\), got", lambda: labeller.encode(pairs.expand(-1, -1, 2, -1, -1, -1)))
    assert np.array_equal(labeller.encode(pairs.numpy()).codes, labeller.encode(pairs).codes)


def test_provenance_tells_labels_of_another_precision_apart(tmp_path):
    dataset, lam = write_dataset(tmp_path / "data", [6, 7]), make(cameras=CAMERAS, stride="2")
    lam.save_pretrained(tmp_path / "lam")
    written = {}
    for precision in ("float32", "bfloat16"):
        names, out = (str(tmp_path / "lam"),), str(tmp_path / precision)
        assert annotate(str(dataset), names, out, device="cpu", precision=precision) == 0
        written[precision] = json.loads((tmp_path / precision / "meta" / "lattok.json").read_text())["latent"]["model"]
        assert written[precision]["precision"] == precision
    assert written["float32"] == {**written["bfloat16"], "precision": "float32"}
