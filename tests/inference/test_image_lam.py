"""Faster labellers: equal to the plain model in float32, near it in bfloat16, and they say how labels were made."""

import copy
import json
import pickle
import sys

import numpy as np
import pytest
import timm
import torch

import lattok
from lattok.cli.labels import annotate
from lattok.inference.vit import PlainViT
from lattok.utils.checks import LattokError
from tests.conftest import CAMERAS, write_dataset
from tests.image_lam.base.test_labelling import VARIANTS, check_equal, make, video

ONNX = ("paper", "one block", "joint, per token", "residual", "continuous", "network", "fused, everything", "sequence")
ARCHITECTURES = {  # name: whether its parts are known
    "vit_base_patch14_reg4_dinov2": True,
    "vit_base_patch16_siglip_224": True,
    "vit_base_patch16_clip_224": True,
    "vit_base_patch16_clip_quickgelu_224": False,  # another activation
}
SHRUNK = {"embed_dim": 192, "depth": 2, "num_heads": 3, "patch_size": 16, "img_size": 32}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_networks_are_understood_or_left_to_timm(name):
    plain, lam, size = ARCHITECTURES[name], make("network"), 32
    lam.features.network = timm.create_model(name, num_classes=0, dynamic_img_size=False, **SHRUNK).eval()
    with torch.no_grad():
        for tensor in lam.features.network.parameters():
            tensor.add_(0.05 * torch.randn_like(tensor))
    assert PlainViT.understands(lam.features) == plain
    frames, exact = video(3, size=size), lam.label_video(video(3, size=size), 1)
    error = (
        (lattok.for_inference(lam, precision="bfloat16").label_video(frames, 1).latents - exact.latents).abs().mean()
    )
    assert 0 < error < 0.1 * exact.latents.abs().mean()
    pytest.importorskip("onnxruntime")
    check_equal(lattok.for_inference(lam, "onnxruntime").label_video(frames, 1), exact)


@pytest.mark.parametrize("variant", VARIANTS)
def test_bfloat16_is_near_and_says_so(variant):
    lam = make(variant)
    frames, labeller = video(20, len(lam.cameras)), lattok.for_inference(lam, precision="bfloat16")
    exact, rounded = lam.label_video(frames, 5), labeller.label_video(frames, 5)
    assert rounded.latents.dtype == torch.float32
    spread = exact.latents.abs().mean()
    assert 0 < (rounded.latents - exact.latents).abs().mean() < 0.1 * spread
    assert labeller.describe()["precision"] == "bfloat16"
    assert lam.describe() == {**labeller.describe(), "precision": "float32"}


@pytest.mark.parametrize("variant", ONNX)
def test_onnxruntime_gives_the_same_labels(variant):
    onnxruntime = pytest.importorskip("onnxruntime")
    lam = make(variant)
    frames, labeller = video(40, size=40), lattok.for_inference(lam, "onnxruntime")
    check_equal(labeller.label_video(frames, 5), lam.label_video(frames, 5))
    assert labeller.describe()["backend"] == f"onnxruntime {onnxruntime.__version__}"


@pytest.mark.filterwarnings("ignore:You are using `torch.load`:FutureWarning")  # how torch 2.4 unpickles tensors
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
    lam = make()
    for options, text in (
        ({"backend": "tensorrt"}, "`backend`: expected one of torch, onnxruntime"),
        ({"precision": "int4"}, "`precision`: expected one of float32, bfloat16"),
        ({"backend": "onnxruntime", "precision": "bfloat16"}, "`precision`: expected float32 with the backend onnx"),
        ({"threads": 2}, "`threads`: expected 1 with the backend torch"),
    ):
        with pytest.raises(LattokError, match=text):
            lattok.for_inference(lam, **options)
    words = make(language="precomputed", language_dim=4)
    for backend in ("torch", "onnxruntime"):  # an engine would leave the instruction out
        with pytest.raises(LattokError, match="`model`: expected one that labels video, got a stage-1 model"):
            lattok.for_inference(words, backend)


@pytest.mark.parametrize("options", [{}, {"backend": "onnxruntime"}, {"precision": "bfloat16"}])
def test_labellers_check_pairs_as_the_model_does(options):
    labeller = lattok.for_inference(make("network"), **options)
    pairs = video(4).unflatten(0, (2, 2))
    assert torch.equal(labeller.encode(pairs[:, :, 0]).codes, labeller.encode(pairs).codes)
    assert labeller.encode(pairs[:0]).codes.shape == (0, 3)
    with pytest.raises(LattokError, match=r"`frames`: expected 1 cameras \(front\), got 2"):
        labeller.encode(pairs.expand(-1, -1, 2, -1, -1, -1))
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


def test_missing_packages_say_what_to_do(monkeypatch):
    for name in ("onnx", "onnxruntime"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, name, None)
            with pytest.raises(LattokError, match=rf"`{name}`: expected an installed package.*'lattok\[onnx\]'"):
                lattok.for_inference(make(), "onnxruntime")
