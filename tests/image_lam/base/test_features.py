"""Frozen features: the published backbone through timm, other backbones, frames that are refused. No downloads."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch

from lattok.image_lam import FrozenFeatures, ImageLAM, ImageLAMConfig
from lattok.image_lam.base.features import known_scaling
from tests.errors import refused
from tests.image_lam.backbones import SMALL, local_timm, local_vjepa, random_timm, transformers_with_vjepa
from tests.image_lam.published.parity import open_case

ROOT = Path(__file__).parents[3]


@pytest.fixture
def frames():
    return torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


# The backbone of the published checkpoints.


@pytest.fixture
def dinov2():
    """Config, weights under the original names and values of the shrunk DINOv2 with registers."""
    folder, config, values = open_case("dinov2_reg")
    weights = safetensors.torch.load_file(folder / "weights.safetensors")
    return config, {name.removeprefix("lam.dino_encoder."): tensor for name, tensor in weights.items()}, values


@pytest.mark.parametrize("size", [56, 224])
def test_dinov2_with_registers_gives_the_originals_patch_tokens(dinov2, size, tmp_path):
    facts, weights, values = dinov2
    arguments = {"embed_dim": facts["embed_dim"], "depth": facts["depth"], "num_heads": facts["heads"]}
    name = local_timm(tmp_path, "vit_base_patch14_reg4_dinov2", weights, **arguments)
    mean, std = known_scaling(name, size, None)
    assert (mean, std) == (tuple(facts["image_mean"]), tuple(facts["image_std"]))
    features = FrozenFeatures(name, size, mean, std).load()
    assert (features.patch, features.count, features.dim) == (14, (size // 14) ** 2, facts["embed_dim"])
    got = features(values[f"s{size}.image_uint8"].permute(0, 2, 3, 1).contiguous())
    torch.testing.assert_close(got, values[f"s{size}.patch_tokens"], atol=2e-5, rtol=1e-4)
    prefix = [values[f"s{size}.cls_token"][:, None], values[f"s{size}.register_tokens"]]
    pixels = (values[f"s{size}.image_uint8"] / 255 - features.mean[:, None, None]) / features.std[:, None, None]
    every = features.network.forward_features(pixels)
    torch.testing.assert_close(every[:, :5], torch.cat(prefix, 1), atol=2e-5, rtol=1e-4)


# Other backbones.

BACKBONES = {
    "DINOv2": ("vit_small_patch14_dinov2", 28, 1, 14),
    "DINOv2 with registers": ("vit_small_patch14_reg4_dinov2", 42, 5, 14),
    "DINOv3": ("vit_small_patch16_dinov3", 48, 5, 16),
    "SigLIP": ("vit_base_patch16_siglip_224", 48, 0, 16),
    "SigLIP, patch 14": ("vit_so400m_patch14_siglip_224", 28, 0, 14),
    "ViT": ("vit_tiny_patch16_224", 32, 1, 16),
}


@pytest.mark.parametrize("case", BACKBONES)
def test_patch_tokens_of_any_vision_transformer(case, tmp_path):
    architecture, size, prefix, patch = BACKBONES[case]
    weights = random_timm(architecture, size, **SMALL)
    name = local_timm(tmp_path, architecture, weights, **SMALL)
    features = FrozenFeatures(name, size)
    with pytest.raises(RuntimeError, match="call .load"):
        features(torch.zeros(1, size, size, 3, dtype=torch.uint8))
    frames = torch.randint(0, 256, (2, size, size, 3), dtype=torch.uint8)
    got = features.load()(frames)
    assert got.shape == (2, (size // patch) ** 2, 24) == (2, features.count, features.dim)
    assert features.patch == patch
    network = timm.create_model(architecture, num_classes=0, img_size=size, **SMALL).eval()
    network.load_state_dict(weights)
    pixels = (frames.permute(0, 3, 1, 2) / 255 - features.mean[:, None, None]) / features.std[:, None, None]
    torch.testing.assert_close(got, network.forward_features(pixels)[:, prefix:], atol=1e-5, rtol=1e-4)
    assert not any(parameter.requires_grad for parameter in features.parameters())
    assert not features.train().network.training


def test_a_patch_sees_its_place_in_the_image(tmp_path):
    """Row-major patches: what changes at the top right changes token 1 of a network without attention most."""
    features = FrozenFeatures(local_timm(tmp_path, "vit_base_patch16_siglip_224", **SMALL), 32).load()
    frames = torch.zeros(1, 32, 32, 3, dtype=torch.uint8)
    frames[:, :16, 16:] = 255
    change = features.network.patch_embed(frames.permute(0, 3, 1, 2).float()) - features.network.patch_embed.proj.bias
    assert (change[0].abs().sum(-1) > 0).tolist() == [False, True, False, False]


@pytest.mark.parametrize("architecture", ["vit_base_patch16_siglip_224", "vit_small_patch16_dinov3"])
def test_the_scaling_of_the_pixels_is_the_networks_own(architecture, tmp_path):
    expected = (0.5, 0.5, 0.5) if "siglip" in architecture else (0.485, 0.456, 0.406)
    assert known_scaling(f"timm:{architecture}", 32, None)[0] == expected
    own = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    name = local_timm(tmp_path, architecture, facts=own, **SMALL)
    assert known_scaling(name, 32, None) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


# Features of video encoders.


def test_vjepa_sees_a_still_video(tmp_path, frames):
    name = local_vjepa(tmp_path)
    features = FrozenFeatures(name, 32)
    assert (features.count, features.dim, features.patch) == (4, 24, 16)
    with pytest.raises(RuntimeError, match="call .load"):
        features(frames)
    got = features.load()(frames)
    model = transformers_with_vjepa().VJEPA2Model.from_pretrained(tmp_path, crop_size=32).eval()
    pixels = (frames.permute(0, 3, 1, 2) / 255 - features.mean[:, None, None]) / features.std[:, None, None]
    video = torch.stack([pixels, pixels], 1)
    torch.testing.assert_close(got, model(video, skip_predictor=True).last_hidden_state, atol=1e-5, rtol=1e-4)
    assert known_scaling(name, 32, None)[0] == (0.485, 0.456, 0.406)


def test_vjepa_without_weights_or_with_half_of_them(tmp_path):
    name = local_vjepa(tmp_path)
    weights = safetensors.torch.load_file(tmp_path / "model.safetensors")
    missing = next(key for key in weights if key.startswith("encoder.layer.1"))
    half = {key: tensor for key, tensor in weights.items() if key != missing}
    safetensors.torch.save_file(half, tmp_path / "model.safetensors", metadata={"format": "pt"})
    refused(f"lacks weights, got {re.escape(missing)}", lambda: FrozenFeatures(name, 32).load())
    (tmp_path / "model.safetensors").unlink()
    refused("`features`: expected a V-JEPA 2 or ViT-MAE model.*could not be", lambda: FrozenFeatures(name, 32).load())


def test_other_models_of_transformers_are_refused(tmp_path):
    transformers_with_vjepa()
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "dinov2"}))
    refused("got a model of type dinov2. For image transformers use timm:MODEL.", FrozenFeatures, f"hf:{tmp_path}", 224)


def test_a_folder_without_a_model():
    transformers_with_vjepa()
    text = "`features`: expected a V-JEPA 2 or ViT-MAE model; 'hf:/no/such/folder' could not be built"
    refused(text, FrozenFeatures, "hf:/no/such/folder", 224)


def test_without_transformers(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "transformers", None)
    refused("`features`", FrozenFeatures, f"hf:{tmp_path}", 224)


@pytest.mark.parametrize("case", [*BACKBONES, "V-JEPA 2"])
def test_every_backbone_labels_videos(case, tmp_path):
    if case == "V-JEPA 2":
        name, size = local_vjepa(tmp_path), 32
    else:
        architecture, size = BACKBONES[case][:2]
        name = local_timm(tmp_path, architecture, random_timm(architecture, size, **SMALL), **SMALL)
    torch.manual_seed(0)
    sizes = {"width": 16, "heads": 2, "encoder_depth": 1, "decoder_depth": 1, "latent_dim": 8}
    lam = ImageLAM(ImageLAMConfig.of(cameras=("front",), features=name, image_size=size, **sizes)).eval()
    lam.features.load()
    video = torch.randint(0, 256, (5, 1, 40, 50, 3), dtype=torch.uint8)
    labels, pairs = lam.label_video(video, 2), torch.stack([video[:3], video[2:]], 1)
    expected = lam.encode(pairs)
    torch.testing.assert_close(labels.latents[:3], expected.latents, atol=1e-4, rtol=1e-4)
    assert torch.equal(labels.codes[:3], expected.codes)


# Errors.


@pytest.mark.parametrize(
    ("name", "size", "text"),
    [
        ("clip", 224, '"pixels", "timm:MODEL", "hf:MODEL" or "dc-ae:MODEL", got \'clip\''),
        ("timm:", 224, "`features`"),
        ("timm:no_such_model", 224, "`features`"),
        ("timm:resnet18", 224, "`features`"),
        ("timm:swin_tiny_patch4_window7_224", 224, "is none, got SwinTransformer"),
        ("timm:local-dir:/no/such/folder", 224, "`features`"),
        ("hf:", 224, "`features`"),
        ("timm:vit_tiny_patch16_224", 40, "`image_size`"),
        ("pixels", 24, "`image_size`"),
        ("pixels", 0, "`image_size`"),
    ],
)
def test_impossible_features_are_one_line(name, size, text):
    refused(re.escape(text), FrozenFeatures, name, size)


def test_patches_must_be_square(tmp_path):
    name = local_timm(tmp_path, "vit_tiny_patch16_224", patch_size=[16, 8], **SMALL)
    refused("`features`", FrozenFeatures, name, 32)


def test_a_revision_needs_a_repository(tmp_path):
    name = local_timm(tmp_path, "vit_tiny_patch16_224", **SMALL)
    refused("`features_revision` 'main' is for", FrozenFeatures, name, 32, revision="main")


@pytest.mark.parametrize("change", ["missing", "damaged", "unexpected", "shape"])
def test_weights_that_do_not_fit(change, tmp_path):
    name = local_timm(tmp_path, "vit_tiny_patch16_224", **SMALL)
    file = tmp_path / "model.safetensors"
    if change == "damaged":
        file.write_bytes(b"no weights")
    else:
        weights = safetensors.torch.load_file(file)
        if change == "missing":
            del weights["blocks.1.norm1.weight"]
        elif change == "unexpected":
            weights["blocks.2.norm1.weight"] = torch.ones(24)
        else:
            weights["norm.weight"] = torch.ones(25)
        safetensors.torch.save_file(weights, file)
    refused("`features`", lambda: FrozenFeatures(name, 32).load())


# Frames.


@pytest.mark.parametrize(
    ("frames", "text"),
    [
        (torch.rand(2, 32, 32, 3), "expected uint8 pixels 0..255, got dtype torch.float32. For LeRobot's float"),
        (torch.rand(2, 32, 32, 3) * 255, "use lattok.data.frames_from_lerobot(batch, cameras)"),
        (torch.zeros(2, 32, 32, 3, dtype=torch.int64), "got dtype torch.int64"),
        (torch.zeros(2, 32, 32, 1, dtype=torch.uint8), "Grey frames: frames.expand(*frames.shape[:-1], 3)."),
        (torch.zeros(2, 32, 32, 4, dtype=torch.uint8), "RGBA frames: frames[..., :3] drops the transparency."),
        (torch.zeros(2, 3, 32, 32, dtype=torch.uint8), "expected shape [..., H, W, 3] (RGB, channels last)"),
        (torch.zeros(32, 32, dtype=torch.uint8), "expected shape [..., H, W, 3] (RGB, channels last)"),
        (np.zeros((2, 32, 32, 3), dtype=np.uint8), "expected a torch tensor, got ndarray"),
    ],
)
def test_frames_that_are_no_rgb_bytes_are_refused(frames, text):
    said = refused("`frames`", lambda: FrozenFeatures("pixels", 32).resize(frames))
    assert text in said


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_the_model_passes_the_hint_on(channels):
    sizes = {"image_size": 32, "width": 16, "heads": 2, "encoder_depth": 1, "decoder_depth": 1}
    lam = ImageLAM(ImageLAMConfig.of(cameras=("front",), features="pixels", **sizes))
    kind = torch.float32 if channels == 3 else torch.uint8
    hint = {1: "Grey frames", 3: "frames_from_lerobot", 4: "RGBA frames"}[channels]
    video = torch.zeros(4, 32, 32, channels, dtype=kind)
    refused(hint, lambda: lam.encode(video.unflatten(0, (2, 2))))
    refused(hint, lam.label_video, video, 2)


def test_precomputed_features_of_another_network():
    sizes = {"image_size": 32, "width": 16, "heads": 2, "encoder_depth": 1, "decoder_depth": 1}
    lam = ImageLAM(ImageLAMConfig.of(cameras=("front",), features="pixels", **sizes))
    refused("`features`", lam.encode_features, torch.zeros(1, 2, 4, 384))
    refused("`features`", lam.encode_features, torch.zeros(1, 3, 4, 768))


def test_what_the_hints_say_works():
    features = FrozenFeatures("pixels", 32)
    grey, rgba = (torch.randint(0, 256, (2, 40, 40, c), dtype=torch.uint8) for c in (1, 4))
    assert features(grey.expand(*grey.shape[:-1], 3)).shape == features(rgba[..., :3]).shape == (2, 4, 768)
