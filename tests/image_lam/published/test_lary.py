"""LARYBench's quantizers, converted, compute what the published class computes (tests/parity/README.md)."""

import re

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

import lattok
from lattok.cli import main
from lattok.convert import lary_laq
from lattok.image_lam.published.lary import DINO, LABELLED, LaryLAQ, lary_config
from tests.data.test_pixels import opencv_cubic
from tests.errors import refused
from tests.image_lam.backbones import local_timm
from tests.image_lam.published.parity import ROOT, check_labels, close, open_case


@pytest.fixture(params=["lary_laq_a", "lary_laq_b"])
def case(request):
    return open_case(request.param)


@pytest.fixture
def convert(tmp_path):
    """A model over a network of the fixture's width and grid, with random weights."""

    def make(case, path=None, **facts) -> LaryLAQ:
        sizes = case.config["model"]
        name = local_timm(tmp_path / "vit", "vit_tiny_patch16_224", embed_dim=sizes["dim"], depth=1, num_heads=2)
        path = path or case.folder / "weights.safetensors"
        return lary_laq(path, features=name, image_size=16 * sizes["grid"], **{"stride": "5", **facts})

    return make


def features(case):
    return case.values["features"].flatten(2, 3)


def test_codes_latents_and_tokens_are_the_published_ones(case, convert):
    model, values = convert(case), case.values
    found = model.encode_features(features(case))
    assert torch.equal(found.codes, values["indices"])
    close(found.latents, values["embed"])
    close(found.quantized, values["quant"])
    close(model.context(found.quantized), values["tokens"])


def test_predicted_features_are_the_published_ones(case, convert):
    model = convert(case)
    found = model.encode_features(features(case))
    close(model.predict(features(case)[:, 0], found), case.values["recon_features"])


def test_a_backbone_in_the_file_is_left_out_and_told_apart(convert, tmp_path):
    case = open_case("lary_laq_b")
    tensors = safetensors.torch.load_file(case.folder / "weights.safetensors")
    held = {f"dino_tokenizer.model.{name}": torch.ones(2) for name in ("cls_token", "layer.0.norm1.weight")}
    inside = {f"module.{name}": tensor for name, tensor in (tensors | held).items()}
    torch.save({"model": inside, "step": 3}, tmp_path / "x.pt")
    model = convert(case, tmp_path / "x.pt")
    assert torch.equal(model.encode_features(features(case)).codes, case.values["indices"])
    assert lary_config(tensors | held, stride="5").features == DINO[2]
    registers = {"dino_tokenizer.model.register_tokens": torch.ones(1)}
    assert lary_config(tensors | held | registers, stride="5").features == DINO[3]


def test_labels_do_not_depend_on_batches_or_pieces_and_a_saved_model_is_the_same_one(convert, tmp_path, monkeypatch):
    monkeypatch.setenv("LATTOK_DATA", str(tmp_path / "vit"))
    case = open_case("lary_laq_a")
    model = convert(case)
    model.features.load()
    check_labels(model)
    again = lattok.load(model.save_pretrained(tmp_path / "lam"))
    assert again.config == model.config
    frames = torch.randint(0, 256, (2, 2, 40, 50, 3), dtype=torch.uint8)
    assert torch.equal(again.encode(frames).latents, model.encode(frames).latents)


def test_frames_are_resized_and_scaled_as_for_published_labels_and_as_in_training_by_name(convert):
    """OpenCV's bicubic without antialiasing; training had PIL's bilinear, with. Then x * 2 - 1."""
    case = open_case("lary_laq_a")
    frames = torch.randint(0, 256, (3, 300, 400, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    side = 16 * case.config["model"]["grid"]
    resized = [Image.fromarray(frame.numpy()).resize((side, side), Image.Resampling.BILINEAR) for frame in frames]
    wanted = {
        "bicubic_aliased": opencv_cubic(frames.numpy(), side, side),
        "bilinear": np.stack([np.asarray(image) for image in resized]),
    }
    assert lary_laq.__kwdefaults__["interpolation"] == "bicubic_aliased"
    for name, facts in (("bicubic_aliased", {}), ("bilinear", {"interpolation": "bilinear"})):
        model = convert(case, **facts)
        got = model.resize(frames.numpy())
        assert np.abs(got.astype(int) - wanted[name].astype(int)).max() <= 1
        scaled = torch.from_numpy(got).movedim(-1, 1) / 255 * 2 - 1
        model.features.load()
        tokens = model.features.network.forward_features(scaled)[:, model.features.network.num_prefix_tokens :]
        close(model.frame_features(frames[:, None]), tokens)


@pytest.mark.parametrize(("stride", "frames"), [("calvin", 5), ("vlabench", 5), ("agibotbeta", 45), ("robocoin", 10)])
def test_a_gap_is_that_of_a_dataset_that_larybench_labels(convert, stride, frames):
    model = convert(open_case("lary_laq_a"), stride=stride)
    assert model.stride_frames(30) == frames
    assert convert(open_case("lary_laq_a"), stride="0.5s").stride_frames(30) == 15
    page = (ROOT / "docs" / "howto" / "zoo.md").read_text(encoding="utf-8")
    assert ", ".join(f"{name} {gap}" for name, gap in LABELLED.items()) in page


def test_a_gap_has_to_be_named(tmp_path, capsys):
    text = (
        '`stride`: expected a gap, "10" frames or "0.5s", or that of a dataset LARYBench labels: calvin (5), vlabench'
    )
    file = open_case("lary_laq_b").folder / "weights.safetensors"
    refused(re.escape(text), lary_laq, file)
    assert main(["convert", "lary-laq", str(file), str(tmp_path / "lary")]) == 2
    assert "expected a gap" in capsys.readouterr().err
    assert not (tmp_path / "lary").exists()
    refused("`stride`", lary_laq, file, stride="libero")


def test_features_of_another_width_are_refused(convert):
    case = open_case("lary_laq_a")
    refused("`features`", lary_laq, case.folder / "weights.safetensors", features="pixels", stride="5")
