"""Fast labelling: equal to the plain encoder on pairs, whatever the model, the backend or the cut of the video."""

import copy
import json
import pickle
from collections.abc import Iterator

import numpy as np
import pytest
import timm
import torch

from lattok.checks import LattokError
from lattok.cli.labels import annotate
from lattok.image_lam import ImageLAM, ImageLAMConfig, labelling
from lattok.image_lam.labelling import TorchEngine, label_video
from lattok.image_lam.pairs import pair_encoder
from lattok.image_lam.vit import PlainViT
from lattok.types import LatentActions
from tests.conftest import CAMERAS, write_dataset

SMALL = {
    "cameras": ("front",),
    "stride": "5",
    "features": "pixels",
    "image_size": 32,
    "tokens": 3,
    "codebook_size": 5,
    "latent_dim": 8,
    "width": 32,
    "heads": 4,
    "encoder_depth": 2,
    "decoder_depth": 1,
}
VIT = {"features": "timm:vit_tiny_patch16_224"}  # with timm's own random weights
NORMALISED = {"latent_heads": "per_token", "latent_norm": "batch"}
RESIDUAL = {"quantizer": "residual", "codebook_update": "ema"}
VARIANTS = {
    "paper": {},
    "one block": {"encoder_depth": 1},
    "three blocks, two cameras": {"encoder_depth": 3, "cameras": ("front", "wrist")},
    "environment": {"streams": "control+env", "env_codebook_size": 7},
    "joint, per token": {"streams": "joint", **NORMALISED},
    "residual": RESIDUAL,
    "finite scalars": {"quantizer": "fsq", "codebook_size": 16},
    "continuous": {"quantizer": "none", "kl_weight": 0.1},
    "network": VIT,
    "fused": {"encoder": "fused"},
    "fused, everything": {"encoder": "fused", "encoder_depth": 1, "streams": "joint", **NORMALISED, **RESIDUAL, **VIT},
}
ONNX = ("paper", "one block", "joint, per token", "residual", "continuous", "network", "fused, everything")
FILES = tuple(name for name in ONNX if name != "continuous")


def make(variant: str = "paper", **changes) -> ImageLAM:
    """Random weights away from their start, so that gains, offsets and biases count."""
    torch.manual_seed(0)
    lam = ImageLAM(ImageLAMConfig(**{**SMALL, **VARIANTS[variant], **changes})).eval()
    lam.features.loaded = True
    with torch.no_grad():
        for name, tensor in lam.state_dict().items():
            if not name.startswith("features.") and tensor.is_floating_point():
                tensor.add_(0.1 * torch.rand_like(tensor))
    return lam


def video(frames: int, cameras: int = 1, size: int = 32) -> np.ndarray:
    return np.random.default_rng(frames).integers(0, 256, (frames, cameras, size, size, 3), dtype=np.uint8)


def of_pairs(lam: ImageLAM, frames: np.ndarray, stride: int) -> LatentActions:
    """Labels the plain way: the whole encoder on every pair."""
    later = np.minimum(np.arange(len(frames)) + stride, len(frames) - 1)
    return lam.encode(torch.from_numpy(np.stack([frames, frames[later]], 1)))


def check_equal(got: LatentActions, expected: LatentActions, tolerance: float = 2e-5):
    torch.testing.assert_close(got.latents, expected.latents, atol=tolerance, rtol=tolerance)
    assert torch.equal(got.codes, expected.codes)  # no margin of these models is as small as rounding
    torch.testing.assert_close(got.quantized, expected.quantized, atol=tolerance, rtol=tolerance)
    assert (got.env is None) == (expected.env is None)
    if got.env is not None and expected.env is not None:
        check_equal(got.env, expected.env, tolerance)


@pytest.mark.parametrize("variant", VARIANTS)
def test_labels_equal_the_plain_encoder_on_pairs(variant):
    lam = make(variant)
    frames = video(37, len(lam.cameras))
    check_equal(lam.label_video(frames, 5), of_pairs(lam, frames, 5))


@pytest.mark.parametrize(("frames", "stride"), [(1, 1), (1, 9), (2, 5), (32, 1), (33, 32), (65, 40), (70, 200)])
def test_short_videos_and_long_strides(frames, stride):
    lam = make()
    check_equal(lam.label_video(video(frames), stride), of_pairs(lam, video(frames), stride))


@pytest.mark.parametrize("piece", [1, 7, 32, 50, 200])
def test_labels_do_not_depend_on_the_pieces_a_video_comes_in(piece):
    lam, frames = make(), video(75)
    whole = lam.label_video(frames, 5)
    pieces = lam.label_video((frames[i : i + piece] for i in range(0, 75, piece)), 5)
    assert torch.equal(whole.latents, pieces.latents)
    assert torch.equal(whole.codes, pieces.codes)


def test_block_size_is_of_the_model_and_not_of_the_video(monkeypatch):
    lam, frames = make("three blocks, two cameras"), video(21, 2)
    expected = lam.label_video(frames, 4)
    assert labelling.block_size(lam) == labelling.MOST
    monkeypatch.setattr(labelling, "IN_CACHE", 3 * (8 + 3) * 32)
    assert labelling.block_size(lam) == 3
    check_equal(lam.label_video(frames, 4), expected)


def test_only_a_window_is_held_and_every_frame_computed_once():
    lam, stride = make(), 9
    engine, ahead, shown = TorchEngine(lam), [], 0

    class Counting:
        def frames(self, frames):
            nonlocal shown
            shown += len(frames)
            return engine.frames(frames)

        def pairs(self, now, later):
            ahead.append(shown - sum(len(x) for x in done))
            done.append(now)
            return engine.pairs(now, later)

    def pieces() -> Iterator[np.ndarray]:
        yield from np.array_split(video(300), 20)

    done: list[torch.Tensor] = []
    label_video(lam, Counting(), pieces(), stride)
    assert shown == 300
    assert max(ahead) <= stride + 2 * labelling.MOST


def test_training_mode_autocast_and_read_only_frames_change_nothing():
    lam, frames = make("joint, per token"), video(20)
    expected = lam.label_video(frames, 3)
    frames.flags.writeable = False
    with torch.autocast("cpu", torch.bfloat16):
        got = lam.train().label_video(frames, 3)
    assert lam.training
    assert torch.equal(got.latents, expected.latents)
    assert not got.latents.requires_grad


def test_bad_videos_are_refused():
    lam = make()
    with pytest.raises(LattokError, match="`frames`: expected at least one frame, got none"):
        lam.label_video(video(1)[:0], 1)
    with pytest.raises(LattokError, match=r"`frames`: expected 1 cameras \(front\), got 2"):
        lam.label_video(video(3, cameras=2), 1)
    with pytest.raises(LattokError, match="`stride`: expected a whole number of at least 1"):
        lam.label_video(video(3), 0)
    words = make(language="precomputed", language_dim=4)
    with pytest.raises(LattokError, match="`model`: expected one that labels video, got a stage-1 model"):
        words.label_video(video(3), 1)


def test_the_earlier_frame_never_sees_the_later_one():
    lam = make("three blocks, two cameras")
    encoder = pair_encoder(lam.encoder, torch.float32)
    features = torch.randn(3, 8, 768)
    held = encoder.frames(features)
    expected = lam.encoder(torch.stack([features[:2], features[1:]], 1))
    torch.testing.assert_close(encoder.pairs(held[:2], held[1:]), expected, atol=2e-5, rtol=2e-5)


ARCHITECTURES = {  # name: whether its parts are known
    "vit_base_patch14_reg4_dinov2": True,
    "vit_base_patch16_siglip_224": True,
    "vit_base_patch16_clip_224": True,
    "vit_base_patch16_clip_quickgelu_224": False,  # another activation
}
SHRUNK = {"embed_dim": 192, "depth": 2, "num_heads": 3, "patch_size": 16, "img_size": 32}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_networks_are_understood_or_left_to_timm(name, tmp_path):
    plain, lam, size = ARCHITECTURES[name], make("network"), 32
    lam.features.network = timm.create_model(name, num_classes=0, dynamic_img_size=False, **SHRUNK).eval()
    with torch.no_grad():
        for tensor in lam.features.network.parameters():
            tensor.add_(0.05 * torch.randn_like(tensor))
    assert PlainViT.understands(lam.features) == plain
    frames, exact = video(3, size=size), lam.label_video(video(3, size=size), 1)
    error = (lam.compile(precision="bfloat16").label_video(frames, 1).latents - exact.latents).abs().mean()
    assert 0 < error < 0.1 * exact.latents.abs().mean()
    pytest.importorskip("onnxruntime")
    check_equal(lam.compile("onnxruntime").label_video(frames, 1), exact)
    if not plain:
        with pytest.raises(LattokError, match="`features`: expected pixels or a plain timm vision transformer"):
            lam.export_onnx(tmp_path / "never.onnx")


@pytest.mark.parametrize("variant", VARIANTS)
def test_bfloat16_is_near_and_says_so(variant):
    lam = make(variant)
    frames, labeller = video(20, len(lam.cameras)), lam.compile(precision="bfloat16")
    exact, rounded = lam.label_video(frames, 5), labeller.label_video(frames, 5)
    assert rounded.latents.dtype == torch.float32
    spread = exact.latents.abs().mean()
    assert 0 < (rounded.latents - exact.latents).abs().mean() < 0.1 * spread
    assert labeller.describe()["precision"] == "bfloat16"
    assert lam.describe() == {**labeller.describe(), "precision": "float32"}


@pytest.mark.parametrize("variant", ONNX)
@pytest.mark.parametrize("operator", [True, False])
def test_onnxruntime_gives_the_same_labels(variant, operator, monkeypatch):
    onnxruntime = pytest.importorskip("onnxruntime")
    engine = pytest.importorskip("lattok.image_lam.onnx_engine")
    monkeypatch.setattr(engine, "ATTENTION_SINCE", (1, 23) if operator else (99, 0))
    lam = make(variant)
    frames, labeller = video(40, size=40), lam.compile("onnxruntime")
    check_equal(labeller.label_video(frames, 5), lam.label_video(frames, 5))
    assert labeller.describe()["backend"] == f"onnxruntime {onnxruntime.__version__}"


@pytest.mark.parametrize("variant", FILES)
def test_an_exported_file_gives_the_codes_of_pairs(variant, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    lam = make(variant)
    path = lam.export_onnx(tmp_path / "lam.onnx")
    pairs = torch.from_numpy(video(24)).unflatten(0, (12, 2))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    found, expected = session.run(None, {"frames": pairs.numpy()}), lam.encode(pairs)
    assert names == (["codes"] if expected.env is None else ["codes", "env.codes"])
    streams = [stream for stream in (expected, expected.env) if stream is not None]
    for codes, stream in zip(found, streams, strict=True):
        np.testing.assert_array_equal(codes, stream.codes)
    assert session.get_modelmeta().custom_metadata_map["stride"] == "5"


@pytest.mark.filterwarnings("ignore:You are using `torch.load`:FutureWarning")  # how torch 2.4 unpickles tensors
def test_a_labeller_keeps_its_weights_and_survives_pickling():
    lam, frames = make(), video(12)
    pairs = torch.from_numpy(frames).unflatten(0, (6, 2))
    expected = lam.label_video(frames, 5)
    labeller = lam.compile()
    with torch.no_grad():
        lam.encoder.queries.zero_()
    again = pickle.loads(pickle.dumps(labeller))
    for one in (labeller, again, copy.copy(labeller)):
        assert torch.equal(one.label_video(frames, 5).latents, expected.latents)
    torch.testing.assert_close(labeller.encode(pairs).latents[0], labeller.label_video(frames[:2], 1).latents[0])
    assert labeller.stride_frames(10) == lam.stride_frames(10)
    assert labeller.resize(video(2, size=40)[:, 0]).shape == (2, 32, 32, 3)


def test_wrong_ways_to_compile_say_what_to_do():
    lam = make()
    for options, text in (
        ({"backend": "tensorrt"}, "`backend`: expected one of torch, onnxruntime"),
        ({"precision": "int4"}, "`precision`: expected one of float32, bfloat16"),
        ({"backend": "onnxruntime", "precision": "bfloat16"}, "`precision`: expected float32 with the backend onnx"),
        ({"threads": 2}, "`threads`: expected 1 with the backend torch"),
    ):
        with pytest.raises(LattokError, match=text):
            lam.compile(**options)
    words = make(language="precomputed", language_dim=4)
    for backend in ("torch", "onnxruntime"):  # an engine would leave the instruction out
        with pytest.raises(LattokError, match="`model`: expected one that labels video, got a stage-1 model"):
            words.compile(backend)


@pytest.mark.parametrize("options", [{}, {"backend": "onnxruntime"}, {"precision": "bfloat16"}])
def test_labellers_check_pairs_as_the_model_does(options):
    labeller = make("network").compile(**options)
    pairs = torch.from_numpy(video(4)).unflatten(0, (2, 2))
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
