"""Faster forms: a table equal to the tokenizer; labels equal in float32, near in bfloat16, which they say."""

import copy
import json
import pickle

import numpy as np
import pytest
import timm
import torch
from torch import nn

import lattok
from lattok import UniformBins
from lattok.action_vq import ActionVQConfig, P2TActionVQ
from lattok.action_vq.learned import TrainedTokenizer
from lattok.cli.datasets import annotate
from lattok.inference import FoldedEncoder
from lattok.utils.checks import LattokError
from tests.action_vq.families import cases, fitted
from tests.action_vq.margins import ROUNDING, float64_codes
from tests.action_vq.walks import smooth
from tests.conftest import CAMERAS, write_dataset
from tests.image_lam.base.test_labelling import VARIANTS, make, video

ARCHITECTURES = ("vit_base_patch14_reg4_dinov2", "vit_base_patch16_siglip_224", "vit_base_patch16_clip_quickgelu_224")
SHRUNK = {"embed_dim": 192, "depth": 2, "num_heads": 3, "patch_size": 16, "img_size": 32}
SMALL = {"action_dim": 3, "horizon": 6, "dim": 16, "codebook_size": 8, "heads": 2, "hidden": 24}
CONFIGS = {
    "libero": {"action_dim": 7},
    "one step": {**SMALL, "horizon": 1},
    "clipped": {**SMALL, "normalize": "quantile", "normalize_clip": True, "normalize_exceptions": ("2=mean_std",)},
}


def tokenizer(name: str = "", **changes) -> P2TActionVQ:
    """Random weights with biases off 0 and units far from normalised."""
    torch.manual_seed(0)
    model = P2TActionVQ(ActionVQConfig(**{**CONFIGS.get(name, SMALL), **changes}))
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    m = model.action_dim
    actions = torch.randn(200, m) * torch.logspace(-2, 1, m) + 5 * torch.randn(m)
    model.normalizer.fit(actions, model.config.action_kinds)
    return model.eval()


@pytest.mark.parametrize("name", CONFIGS)
def test_it_is_the_plain_tokenizer(name):
    model = tokenizer(name)
    fast = lattok.for_inference(model)
    assert (fast.horizon, fast.action_dim) == (model.horizon, model.action_dim)
    assert (fast.vocab_size, fast.tokens_per_chunk) == (model.vocab_size, model.tokens_per_chunk)
    chunks, valid = torch.randn(40, model.horizon, model.action_dim), torch.ones(40, model.horizon, dtype=torch.bool)
    valid[:20, 1:] = False
    codes = fast.encode(chunks)
    assert torch.equal(codes, model.encode(chunks))
    assert torch.equal(fast.encode(chunks, valid), model.encode(chunks, valid))
    torch.testing.assert_close(fast.decode(codes), model.decode(codes))


def test_arrays_give_arrays_and_tensors_give_tensors():
    model = tokenizer()
    fast, codes = lattok.for_inference(model), torch.arange(18).view(3, 6) % 8
    assert isinstance(fast.decode(codes), torch.Tensor)
    assert isinstance(fast.decode(codes.numpy()), np.ndarray)
    assert isinstance(fast.encode(np.zeros((2, 6, 3), np.float32)), np.ndarray)


def test_any_integers_decode_as_the_plain_tokenizer_decodes_them():
    model = tokenizer()
    fast = lattok.for_inference(model)
    generator = torch.Generator().manual_seed(0)
    for length in (0, 1, 6, 9):
        for span in (8, 300, 2**62):
            codes = torch.randint(-span, span, (20, length), generator=generator)
            torch.testing.assert_close(fast.decode(codes, repair=True), model.decode(codes, repair=True))
            np.testing.assert_allclose(
                fast.decode(codes.numpy(), repair=True), model.decode(codes, repair=True).numpy(), rtol=1e-5
            )
    rows = [[1, 2, 3], [4, 5, 6, 7, 0, 1], []]
    torch.testing.assert_close(fast.decode(rows, repair=True), model.decode(rows, repair=True))
    codes = torch.tensor([[0, 1, 2, 3, 4, 7], [0, 1, 8, -1, 4, 5]])
    legal = codes.clamp(0, 7)
    for dtype in (torch.uint8, torch.int16, torch.int32):
        torch.testing.assert_close(fast.decode(legal.to(dtype)), model.decode(legal))
    torch.testing.assert_close(fast.decode(codes.int(), repair=True), model.decode(codes, repair=True))
    torch.testing.assert_close(fast.decode(legal.T.contiguous().T), model.decode(legal))
    assert fast.decode(codes, return_info=True)[1].repaired.tolist() == [False, True]
    for wrong in (torch.zeros(2, 6), torch.zeros(6, dtype=torch.long), None, codes, [[1, 2]]):
        with pytest.raises(LattokError) as plain:
            model.decode(wrong)
        with pytest.raises(LattokError) as ours:
            fast.decode(wrong)
        assert str(ours.value) == str(plain.value)


def test_the_table_holds_every_action_of_the_step_decoder():
    model = tokenizer("clipped")
    fast, codes = lattok.for_inference(model), torch.arange(24).view(4, 6) % 8
    assert fast.table.shape == (8, 3)
    torch.testing.assert_close(torch.from_numpy(fast.table)[codes], model.decode(codes))


def test_it_keeps_its_weights_and_goes_to_workers():
    model, codes = tokenizer(), torch.arange(6)[None]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fast = lattok.for_inference(model)
    expected = model.decode(codes)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    for one in (fast, pickle.loads(pickle.dumps(fast))):
        torch.testing.assert_close(one.decode(codes), expected)


@pytest.mark.parametrize("decoder", ["step", "context"])
@pytest.mark.parametrize(
    ("changes", "folded"),
    [
        ({}, True),
        ({"fft": False}, True),
        ({"horizon": 1}, True),
        ({"horizon": 2, "dilations": (1, 1, 2, 5)}, True),  # taps that read nothing but padding
        ({"dilations": ()}, False),
        ({"horizon": 40}, False),  # one matrix would take more products than what it replaces
    ],
)
def test_spectrum_projection_and_first_convolution_are_one_matrix(changes, folded, decoder):
    model = tokenizer(**changes, decoder=decoder)
    fast = lattok.for_inference(model)
    own = fast if decoder == "context" else fast._encoder
    assert isinstance(own.encoder, FoldedEncoder) == folded
    normal = torch.randn(501, model.horizon, model.action_dim)  # several blocks, and an odd part of one
    chunks = model.normalizer.inverse(normal)
    codes, margins = float64_codes(model, chunks)
    assert torch.equal(fast.encode(chunks)[margins >= ROUNDING], codes[margins >= ROUNDING])
    with torch.no_grad():
        torch.testing.assert_close(own.encoder(normal), model.encoder(normal), atol=2e-5, rtol=1e-4)
        assert own.encoder(normal[:0]).shape == (0, model.horizon, model.config.dim)


TRAINED = [name for name, (family, _) in cases().items() if issubclass(family, TrainedTokenizer)]


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("rows", [1, 300])
def test_every_family_that_learns_by_gradients_keeps_its_codes(name, rows, tmp_path):
    model, chunks = fitted(name), smooth(rows, seed=2)
    fast, codes = lattok.for_inference(model), model.encode(chunks)
    actions = model.decode(codes)
    for one in (fast, pickle.loads(pickle.dumps(fast))):
        assert torch.equal(one.encode(chunks), codes)
        torch.testing.assert_close(one.decode(codes), actions, atol=1e-5, rtol=1e-5)
        assert np.array_equal(one.encode(chunks.numpy()), codes)
    assert nn.Embedding(16, 2)(fast.encode(chunks)).sum().backward() is None  # a policy learns from them
    assert torch.equal(model.encode(chunks), codes)
    if isinstance(fast, TrainedTokenizer):  # it is known, and saved, as what it was
        assert fast.describe() == model.describe()
        assert torch.equal(lattok.load(fast.save_pretrained(tmp_path / "m")).encode(chunks), codes)


@pytest.mark.parametrize(
    ("model", "options", "text"),
    [
        (tokenizer(), {"precision": "bfloat16"}, "expected float32 for a tokenizer of actions, got bfloat16"),
        (
            UniformBins.fit(np.zeros((2, 4, 3), np.float32), bins=4),
            {},
            "an ImageLAM, a MotoLAM or a trained tokenizer of actions, got",
        ),
    ],
)
def test_what_cannot_be_made_faster_is_refused(model, options, text):
    with pytest.raises(LattokError, match=text):
        lattok.for_inference(model, **options)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_frozen_networks_are_rounded_and_stay_near(name):
    lam, size = make("network"), 32
    lam.features.network = timm.create_model(name, num_classes=0, dynamic_img_size=False, **SHRUNK).eval()
    with torch.no_grad():
        for tensor in lam.features.network.parameters():
            tensor.add_(0.05 * torch.randn_like(tensor))
    frames, exact = video(3, size=size), lam.label_video(video(3, size=size), 1)
    error = (
        (lattok.for_inference(lam, precision="bfloat16").label_video(frames, 1).latents - exact.latents).abs().mean()
    )
    assert 0 < error < 0.1 * exact.latents.abs().mean()


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
    with pytest.raises(LattokError, match="`precision`: expected one of float32, bfloat16"):
        lattok.for_inference(make(), "int4")
    with pytest.raises(LattokError, match="`model`: expected one that labels video, got a stage-1 model"):
        lattok.for_inference(make(language="precomputed", language_dim=4))  # the instruction would be left out


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_labellers_check_pairs_as_the_model_does(precision):
    labeller = lattok.for_inference(make("network"), precision)
    pairs = video(4).unflatten(0, (2, 2))
    assert torch.equal(labeller.encode(pairs[:, :, 0]).codes, labeller.encode(pairs).codes)
    assert labeller.encode(pairs[:0]).codes.shape == (0, 3)
    with pytest.raises(LattokError, match=r"`frames`: expected 1 camera \(front\), got 2"):
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
