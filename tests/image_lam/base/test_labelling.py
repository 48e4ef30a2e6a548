"""Labels of a video: equal to the plain encoder on pairs, for every model and however the video is cut."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from lattok.image_lam import ImageLAM, ImageLAMConfig, MotoLAM, MotoLAMConfig
from lattok.image_lam.base import labelling
from lattok.image_lam.base.labelling import torch_encoder
from lattok.types import LatentActions
from tests.errors import refused

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
SEQUENCE = {"encoder_hidden": 48, "class_token": False}  # Moto's
SIZES = {"width": 24, "depth": 2, "heads": 3, "hidden": 40, "patch": 8}
HELD = {"features": "held", "class_token": True, **{f"image_encoder_{name}": size for name, size in SIZES.items()}}
VARIANTS = {
    "paper": {},
    "one block": {"encoder_depth": 1},
    "three blocks, two cameras": {"encoder_depth": 3, "cameras": ("front", "wrist")},
    "environment": {"streams": "control+env", "env_codebook_size": 7},
    "joint, per token": {"streams": "joint", **NORMALISED},
    "residual": RESIDUAL,
    "finite scalars": {"quantizer": "fsq", "codebook_size": 16},
    "continuous": {"quantizer": "none", "loss_kl": 0.1},
    "network": VIT,
    "fused": {"encoder": "fused"},
    "sequence": SEQUENCE,
    "sequence, everything": {
        **SEQUENCE,
        **HELD,
        "encoder_frame_types": 2,
        "streams": "joint",
        "cameras": ("front", "wrist"),
    },
    "fused, everything": {"encoder": "fused", "encoder_depth": 1, "streams": "joint", **NORMALISED, **RESIDUAL, **VIT},
}


def make(variant: str = "paper", **changes) -> ImageLAM:
    """Random weights away from their start, so that gains, offsets and biases count."""
    torch.manual_seed(0)
    options = {**SMALL, **VARIANTS[variant], **changes}
    made: Any = MotoLAM(MotoLAMConfig.of(**options)) if SEQUENCE.keys() <= options.keys() else None
    lam = made or ImageLAM(ImageLAMConfig.of(**options))
    lam.eval()
    lam.features.load(pretrained=False)
    with torch.no_grad():
        for name, tensor in lam.state_dict().items():
            if not name.startswith("features.") and tensor.is_floating_point():
                tensor.add_(0.1 * torch.rand_like(tensor))
    return lam


def video(frames: int, cameras: int = 1, size: int = 32) -> torch.Tensor:
    shape = (frames, cameras, size, size, 3)
    return torch.from_numpy(np.random.default_rng(frames).integers(0, 256, shape, dtype=np.uint8))


def of_pairs(lam: ImageLAM, frames: torch.Tensor, stride: int) -> LatentActions:
    """Labels the plain way: the whole encoder on every pair."""
    later = (torch.arange(len(frames)) + stride).clamp_max(len(frames) - 1)
    return lam.encode(torch.stack([frames, frames[later]], 1))


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


def test_a_video_comes_as_an_array_a_tensor_or_without_the_axis_of_one_camera():
    lam, frames = make(), video(20)
    expected = lam.label_video(frames, 5)
    for given in (frames[:, 0], [frames[:7, 0], frames[7:].numpy()]):
        assert torch.equal(lam.label_video(given, 5).latents, expected.latents)
    arrays = lam.label_video(frames.numpy(), 5)
    assert isinstance(arrays.codes, np.ndarray)
    assert np.array_equal(arrays.latents, expected.latents)


def test_pairs_and_videos_have_a_method_each():
    with pytest.raises(TypeError, match="stride"):
        make().encode(video(4), stride=1)  # pyright: ignore


def test_block_size_is_of_the_model_and_not_of_the_video(monkeypatch):
    lam, frames = make("three blocks, two cameras"), video(21, 2)
    cpu, expected = torch.device("cpu"), lam.label_video(frames, 4)
    assert labelling.block_size((8 + 3) * 32, cpu) == labelling.MAX_BLOCK
    assert labelling.block_size(2**30, torch.device("meta")) == labelling.MAX_BLOCK
    assert labelling.block_size((8 + 3) * 32, torch.device("meta")) == labelling.MAX_BLOCK_ON_GPU
    monkeypatch.setattr(labelling, "NUMBERS_IN_CACHE", 3 * (8 + 3) * 32)
    assert labelling.block_size((8 + 3) * 32, cpu) == 3
    check_equal(lam.label_video(frames, 4), expected)


@pytest.mark.parametrize("rows", [slice(None), slice(0, 2)])
def test_a_product_adds_itself_to_what_is_there(rows):
    x, values, weight = torch.randn(3, 4, 5), torch.randn(3, 4, 6)[:, rows], torch.randn(5, 6)
    expected = x.double()
    expected[:, rows] += torch.einsum("ntd,wd->ntw", values.double(), weight.double())
    labelling.add_product(x[:, rows], values, labelling.Affine(weight, None))
    torch.testing.assert_close(x, expected.float())


def test_only_a_window_is_held_and_every_frame_computed_once():
    lam, stride = make(), 9
    encoder = torch_encoder(lam.frame_features, lam.encoder.for_videos())
    ahead, shown = [], 0

    class Counting:
        def frames(self, frames):
            nonlocal shown
            shown += len(frames)
            return encoder.frames(frames)

        def pairs(self, now, later):
            ahead.append(shown - sum(len(x) for x in done))
            done.append(now)
            return encoder.pairs(now, later)

    def pieces() -> Iterator[np.ndarray]:
        yield from np.array_split(video(300).numpy(), 20)

    done: list[torch.Tensor] = []
    lam.label_video(pieces(), stride, Counting())
    assert shown == 300
    assert max(ahead) <= stride + 2 * labelling.MAX_BLOCK


def test_training_mode_autocast_and_read_only_frames_change_nothing():
    lam, frames = make("joint, per token"), video(20).numpy()
    expected = lam.label_video(frames, 3)
    frames.flags.writeable = False
    with torch.autocast("cpu", torch.bfloat16):
        got = lam.train().label_video(frames, 3)
    assert lam.training
    assert np.array_equal(got.latents, expected.latents)
    assert not lam.label_video(video(20), 3).latents.requires_grad


def test_bad_videos_are_refused():
    lam = make()
    refused("`frames`", lambda: lam.label_video(video(1)[:0], 1))
    refused("`frames`", lambda: lam.label_video(video(3, cameras=2), 1))
    refused("`stride`", lambda: lam.label_video(video(3), 0))
    words = make(language="precomputed", language_dim=4)
    refused("`model`", lambda: words.label_video(video(3), 1))


def test_the_earlier_frame_never_sees_the_later_one():
    lam = make("three blocks, two cameras")
    encoder = lam.encoder.for_videos(torch.float32)
    features = torch.randn(3, 8, 768)
    held = encoder.frames(features)
    expected = lam.encoder(torch.stack([features[:2], features[1:]], 1))
    torch.testing.assert_close(encoder.pairs(held[:2], held[1:]), expected, atol=2e-5, rtol=2e-5)
