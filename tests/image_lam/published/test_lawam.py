"""LaWAM's latent action model, converted, computes what the published classes compute (tests/parity/README.md)."""

import json
import re
import shutil

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

import lattok
from lattok.cli import main
from lattok.convert import lawam_lam
from lattok.image_lam.published.lawam import LawamConfig, LawamLAM
from lattok.utils import checks
from tests.errors import refused
from tests.image_lam.published.parity import Case, close, open_case


@pytest.fixture(params=["lawam_lam_a", "lawam_lam_b"])
def case(request) -> Case:
    return open_case(request.param)


@pytest.fixture
def first() -> Case:
    return open_case("lawam_lam_a")


def convert(case, **facts) -> LawamLAM:
    return lawam_lam(case.folder / "weights.safetensors", case.config["model"], **facts)


def check(model, values):
    found = model.encode_pixels(values["videos"])
    close(found.latents, values["latent"])
    assert found.codes.shape == (len(found.latents), 0)
    features = model.features.of_pixels(values["videos"].flatten(0, 1).movedim(1, -1)).unflatten(0, (-1, 2))
    close(features, values["features"])
    close(model.encode_features(values["features"]).latents, values["mu"])
    close(model.predict(values["dec_features"][:, 0], found), values["pred_features"])  # another view of the clip


def test_latents_features_and_predictions_are_the_published_ones(case):
    check(convert(case), case.values)


def test_frames_are_normalised_as_published(first):
    """Frames as uint8 are the published pixels up to their rounding."""
    model, frames = convert(first), first.values["frames01"]
    found = model.encode((frames * 255).round().to(torch.uint8).movedim(2, -1))
    close(found.latents, first.values["latent"], atol=0.1, rtol=0.1)


@pytest.mark.parametrize(
    "size", [(180, 320), (95, 171), (90, 121), (90, 120), (90, 110), (120, 90), (31, 400), (1, 90)]
)
def test_frames_wider_than_4_to_3_are_cut_as_in_training_or_squeezed_by_name(first, size):
    height, width = size
    frames = torch.randint(0, 256, (2, *size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).numpy()
    kept = width if width / height <= 4 / 3 else int(np.floor(height * (4 / 3)))
    left = (width - kept) // 2
    assert (kept < width) == (width * 3 > height * 4)
    settings = {**first.config["model"], "image_hw": [48, 80]}
    for facts, seen in (({}, frames[:, :, left : left + kept]), ({"wide_frames": "squeeze"}, frames)):
        images = [Image.fromarray(frame).resize((80, 48), Image.Resampling.BILINEAR) for frame in seen]
        got = lawam_lam(first.folder / "weights.safetensors", settings, **facts).resize(frames)
        assert np.abs(got.astype(int) - np.stack([np.asarray(image) for image in images]).astype(int)).max() <= 1


def test_a_saved_model_cuts_or_squeezes_as_before(first, tmp_path):
    assert LawamConfig().wide_frames == "crop"
    frames = torch.randint(0, 256, (1, 2, 45, 160, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    latents = {}
    for way in ("crop", "squeeze"):
        model = lattok.load(convert(first, wide_frames=way).save_pretrained(tmp_path / way))
        latents[way] = model.encode(frames).latents
    cut = lattok.load(tmp_path / "squeeze").encode(frames[..., 50:110, :])  # 45 x 60 in the middle of 45 x 160
    close(cut.latents, latents["crop"])
    assert not torch.allclose(latents["crop"], latents["squeeze"], atol=1e-3)
    (tmp_path / "lam.json").write_text(json.dumps(first.config["model"]))
    words = [str(first.folder / "weights.safetensors"), str(tmp_path / "typed"), "--config", str(tmp_path / "lam.json")]
    assert main(["convert", "lawam-lam", *words, "--wide-frames", "squeeze"]) == 0
    assert torch.equal(lattok.load(tmp_path / "typed").encode(frames).latents, latents["squeeze"])


def test_the_authors_checkpoint_and_yaml_are_read(tmp_path):
    case = open_case("lawam_lam_b")
    check(lawam_lam(case.folder / "lam.ckpt"), case.values)


def test_a_policy_folder_of_lerobot_is_read(first, tmp_path):
    weights = safetensors.torch.load_file(first.folder / "weights.safetensors")
    weights = {f"model.policy_backend.lam.{name}": tensor for name, tensor in weights.items()}
    weights["model.vlm.weight"] = torch.ones(2)
    safetensors.torch.save_file(weights, tmp_path / "model.safetensors")
    settings = {f"lam_{key}": value for key, value in first.config["model"].items() if key != "dinov3_config"}
    settings |= {f"dinov3_{key}": value for key, value in first.config["model"]["dinov3_config"].items()}
    (tmp_path / "config.json").write_text(json.dumps({"type": "lawam", **settings}))
    check(lawam_lam(tmp_path), first.values)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"num_heads": 5}, "`heads`"),
        *(
            ({"latent_layer_to_use": layer}, f"`latent_layer_to_use`: expected a number from -3 to -1, got {layer!r}.")
            for layer in (0, -4, "last")
        ),
        *(({"image_hw": size}, "`image_hw`") for size in (64, (64,), {"h": 1, "w": 2})),
        ({"image_hw": [60, 64]}, "`image_size`"),
        ({"norm_latents_type": "bn"}, "`feature_norm`"),
        ({"enc_add_state": True}, "`enc_add_state`"),
        ({"lam_multi_input": True}, "`lam_multi_input`"),
        ({"dinov3_rope_theta": 10_000}, "`dinov3_rope_theta`"),
        ({"dinov3_config": {"layer_norm_eps": "1e-6"}}, "`layer_norm_eps`"),
        ({"vq_type": "nsvq"}, "`vq_type`"),
    ],
)
def test_settings_that_do_not_fit_are_said(first, changes, text):
    refused(re.escape(text), lawam_lam, first.folder / "weights.safetensors", {**first.config["model"], **changes})


def test_settings_that_nothing_tells_are_said(first, capsys):
    """16 heads divide the width of 48 as 3 do: labels would be others without a word."""
    known, path = first.config["model"], first.folder / "weights.safetensors"
    checks.note.cache_clear()
    lawam_lam(path, known)
    assert "does not tell" not in capsys.readouterr().err
    lawam_lam(path, {name: value for name, value in known.items() if name not in ("num_heads", "enc_modal_mask")})
    told = "note: weights.safetensors does not tell num_heads=16, enc_modal_mask=True: taken as published, though other"
    assert capsys.readouterr().err.startswith(told)


def test_a_size_wider_than_4_to_3_is_cut_once(first):
    model = lawam_lam(first.folder / "weights.safetensors", {**first.config["model"], "image_hw": [32, 64]})
    frames = torch.randint(0, 256, (1, 2, 45, 60, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    small = torch.from_numpy(model.resize(frames.numpy()))  # as `annotate` hands them over
    assert torch.equal(torch.from_numpy(model.resize(small.numpy())), small)
    assert torch.equal(model.encode(small).latents, model.encode(frames).latents)


def test_settings_beside_the_file_are_read_whether_the_folder_or_the_file_is_named(first, tmp_path):
    shutil.copy(first.folder / "weights.safetensors", tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(first.config["model"]))
    by_file, by_folder = (lawam_lam(place) for place in (tmp_path / "model.safetensors", tmp_path))
    assert by_file.config == by_folder.config == convert(first).config
