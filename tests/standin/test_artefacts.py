"""Every artefact on the stand-in answers as on the CPU, bit for bit, wherever its inputs are."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from lattok.action_vq import ActionVQConfig, P2TActionVQ
from lattok.image_lam import ImageLAM, ImageLAMConfig, MotoLAM, MotoLAMConfig
from lattok.image_lam.base import labelling
from lattok.image_lam.clips.decoder import open_sana, sizes_of
from lattok.image_lam.inverse import InverseDynamics, InverseDynamicsConfig
from lattok.inference import PRECISIONS, for_inference
from lattok.labels import LatentSpec
from lattok.types import LatentActions, PairBatch
from lattok.vla.frame_supervision import FRAMES
from lattok.vla.lara import LARALoss
from lattok.vla.latbot import LatBotLoss
from lattok.vla.supervision import LOSSES
from lattok.vla.tap import Supervised
from tests.accelerator import NAME, Device, StandIn
from tests.action_vq.families import cases, fitted
from tests.action_vq.walks import NAMES, smooth
from tests.image_lam.clips.fakes import batch as clip_batch
from tests.image_lam.clips.fakes import clip_lam, pixels, sana_options, sana_pipeline
from tests.standin.conftest import HELD, IDM, assert_same, plain
from tests.vla import fakes, stand_in
from tests.vla.test_lara import frames_batch, lam_of
from tests.vla.test_tokens import policy as token_policy

CAMERAS = ("front", "wrist")
SIZES: dict[str, Any] = {
    "image_size": 16,
    "width": 8,
    "latent_dim": 8,
    "heads": 2,
    "encoder_depth": 1,
    "decoder_depth": 1,
}
VIDEO = np.random.default_rng(0).integers(0, 256, (9, 2, 16, 16, 3), dtype=np.uint8)
PAIRS = torch.from_numpy(VIDEO[:8].reshape(4, 2, 2, 16, 16, 3))
READS = 9  # times that an answer may make the host wait: it is a number of the call, not of its samples
OF_TOKENIZERS = {"fast": (5, 6), "toast": (5, 6), "residual-vq": (3, 8)}  # the same, without and with a mask


def placed(value: Any, device: str) -> Any:
    """The same inputs on a device."""

    def moved(x: Any) -> Any:
        if isinstance(x, LatentActions):
            return x._each(moved)
        return x.to(device) if isinstance(x, Tensor) else x

    return tree_map(moved, value)


def tensors(value: Any) -> list[Tensor]:
    """All but what is said of a video's frames, which stays with the host."""
    here = lambda x: plain(replace(x, valid=None, times=None)) if isinstance(x, LatentActions) else x  # noqa: E731
    return [x for x in tree_leaves(tree_map(here, value)) if isinstance(x, Tensor)]


def check(device: Device, model: Any, ask: Callable[..., Any], *given: Any, reads: int = READS) -> None:
    """`ask(model, *given)` gives there what it gives on the CPU, with inputs here and there.

    The host waits at most `reads` times, and once for each input of its own.
    """
    expected = ask(copy.deepcopy(model), *given)
    for where in ("cpu", NAME):
        moved, inputs = copy.deepcopy(model).to(NAME), placed(given, where)
        device.waits.clear()
        got = ask(moved, *inputs)
        assert len(device.waits) <= reads + len(tensors(given)) * (where == "cpu"), device.waits
        assert_same(got, expected)
        assert all(isinstance(x, StandIn) for x in tensors(got))
    if given and all(isinstance(x, Tensor) for x in given):  # arrays in, arrays out
        assert not tensors(ask(moved, *(x.numpy() for x in given)))


@pytest.mark.parametrize("name", cases())
def test_action_tokenizers(name: str, device: Device):
    model, chunks = fitted(name), smooth(5, seed=1)
    valid = torch.ones(chunks.shape, dtype=torch.bool)
    valid[-1, 2:] = False
    codes = model.encode(chunks)
    once, masked = OF_TOKENIZERS.get(name, (2, 4))
    check(device, model, lambda m, c: m.encode(c), chunks, reads=once - 1)
    check(device, model, lambda m, c, v: m.encode(c, v), chunks, valid, reads=masked)
    check(device, model, lambda m, c: m.decode(c), codes, reads=once)
    damaged = codes.clone()
    damaged[0, 0] = 10**6
    expected, info = model.decode(damaged, return_info=True)
    got, told = copy.deepcopy(model).to(NAME).decode(damaged.to(NAME), return_info=True)
    assert_same(got, expected)
    assert str(told) == str(info)
    check(device, model, lambda m, c: m.latent_actions(c), chunks, reads=once)
    if name == "toast":
        check(device, model, lambda m, c: m.sample(c), chunks, reads=once)
    report = copy.deepcopy(model).to(NAME).error_report(chunks.to(NAME))
    assert str(report) == str(model.error_report(chunks))


@pytest.mark.parametrize("name", cases(variants=False))
def test_clipped_normalisers(name: str, device: Device):
    family, options = cases()[name]
    clipped = {"normalize": "min_max", "normalize_clip": True, "normalize_exceptions": ("gripper=mean_std",)}
    model = family.fit(smooth(), action_names=NAMES, **{**options, **clipped})
    far = 3 * smooth(5, seed=1)
    once, masked = OF_TOKENIZERS.get(name, (2, 4))
    check(device, model, lambda m, c: m.encode(c), far, reads=once - 1)
    check(device, model, lambda m, c: m.decode(m.encode(c)), far, reads=2 * masked)
    assert str(copy.deepcopy(model).to(NAME).error_report(far.to(NAME))) == str(model.error_report(far))


def test_normalisers_of_datasets(device: Device):
    torch.manual_seed(0)
    model = P2TActionVQ(ActionVQConfig(3, 6, normalizers=("a", "b"), dropout=0.0, dim=8, hidden=8)).eval()
    moved, more = copy.deepcopy(model).to(NAME), smooth(5, seed=2).flatten(0, 1)
    for each, actions in ((model, more), (moved, more.to(NAME))):
        each.add_dataset("c", actions)
    for own in ("a", "c"):
        check(device, model.for_dataset(own), lambda m, c: m.encode(c), smooth(5, seed=1), reads=1)
        assert_same(moved.for_dataset(own).encode(smooth(5)), model.for_dataset(own).encode(smooth(5)))


LAM: dict[str, Any] = {"cameras": CAMERAS, "features": "pixels", **SIZES}
ROBUST = {"encoder": "fused", "quantizer": "residual", "codebook_update": "ema", "latent_norm": "batch"}
MOTO: dict[str, Any] = {**SIZES, **HELD, "features": "held"}
IMAGE_MODELS: dict[str, Callable[[], Any]] = {
    "image-lam": lambda: ImageLAM(ImageLAMConfig.of(**LAM)),
    "image-lam, residual": lambda: ImageLAM(ImageLAMConfig.of(**LAM, **ROBUST)),
    "moto-lam": lambda: MotoLAM(MotoLAMConfig.of(CAMERAS[:1], codebook_size=4, **MOTO)),
}


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_models_of_frame_pairs(name: str, device: Device, monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    model = IMAGE_MODELS[name]().eval()
    views = len(model.cameras)
    pairs, video = PAIRS[:, :, :views], VIDEO[:, :views]
    check(device, model, lambda m, x: m.encode(x), pairs, reads=0)
    check(device, model, lambda m: m.label_video([video[:4], video[4:]], 2), reads=1)
    found = model.encode(pairs)
    with torch.no_grad():
        features = model.frame_targets(pairs[:, 0])
        check(device, model, lambda m, x, z: m.predict(x, z).detach(), features, found, reads=0)
        check(device, model, lambda m, x, z: m.decode(x, z).detach(), pairs[:, 0], found, reads=0)
        batch = PairBatch(pairs, torch.zeros(len(pairs), 0), torch.zeros(len(pairs), dtype=torch.bool))
        check(device, model.train(), lambda m, x: m(x), batch, reads=2)
    model.eval()
    # what differs: in bfloat16 a CPU attends in plain products, which are faster there
    monkeypatch.setattr(labelling, "_mix_in_cache", F.scaled_dot_product_attention)
    for precision in PRECISIONS:
        expected = for_inference(model, precision).label_video(video, 2)
        labeller = for_inference(copy.deepcopy(model).to(NAME), precision)
        assert_same(labeller.label_video(video, 2), expected)
        assert_same(labeller.encode(pairs), for_inference(model, precision).encode(pairs))
        assert_same(for_inference(model, precision).to(NAME).label_video(video, 2), expected)


@pytest.mark.parametrize("kind", ["compact", "sana"])
def test_models_of_clips(kind: str, device: Device, tmp_path: Path):
    model = clip_lam() if kind == "compact" else sana_lam(tmp_path)
    clips = pixels(3, 3, 2)
    check(device, model, lambda m, x: m.encode(x, ["open it", "push", "lift"]), clips, reads=0)
    check(device, model, lambda m: m.label_video([VIDEO[:5], VIDEO[5:]], 4, "lift"), reads=1)
    found = model.encode(clips)
    check(device, model, lambda m, x, z: m.generate(x, z, seed=1), clips[:, 0], found, reads=3)
    if kind == "sana":
        patches = torch.randn(2, model.features.count, model.features.dim)
        there = copy.deepcopy(model.features).to(NAME)
        assert_same(there.pixels_of(patches.to(NAME)), model.features.pixels_of(patches))
    with torch.no_grad():
        check(device, model.train(), lambda m, x: [torch.manual_seed(0) and None, m(x)], clip_batch(), reads=0)


def sana_lam(folder: Path) -> Any:
    """A model over a transformer and an autoencoder of diffusers."""
    pytest.importorskip("diffusers", reason="needs the extra sana")
    pipeline = sana_options(sana_pipeline(folder))
    model = clip_lam(**pipeline, decoder_sana=sizes_of(open_sana(pipeline["decoder"])))
    model.features.load()
    return model


def test_inverse_dynamics(device: Device):
    torch.manual_seed(0)
    model = InverseDynamics(InverseDynamicsConfig(CAMERAS, 3, **IDM)).eval()
    check(device, model, lambda m: m.label_video([VIDEO[:5], VIDEO[5:]], 2), reads=1)
    check(device, model, lambda m: m.infer_actions(VIDEO, 1, "lift"))
    check(device, model, lambda m, z: m.decode_actions(z), model.label_video(VIDEO, 2).latents)
    reads_proprio = InverseDynamics(InverseDynamicsConfig(CAMERAS, 3, state_dim=2, proprio=True, **IDM)).eval()
    check(device, reads_proprio, lambda m, s: m.infer_actions(VIDEO, 1, "lift", s), torch.randn(len(VIDEO), 2))


SQUARE = ((16, 16), (16, 16))  # the size of the policy: see the test of what differs
POLICIES = {
    "regression": lambda: fakes.policy("la_direct", camera_sizes=SQUARE),
    "flow": lambda: fakes.policy("baseline", head="flow", camera_sizes=SQUARE),
    "flow, grippers": lambda: fakes.policy(
        "baseline", head="flow", camera_sizes=SQUARE, action_names=("x", "y", "gripper"), action_loss="l2_bce"
    ),
    "clipped": lambda: fakes.policy("la_cond", normalize="quantile", normalize_clip=True, camera_sizes=SQUARE),
    "tokens": lambda: token_policy("bins"),
    "tokens in turn": lambda: token_policy("bins", order="autoregressive"),
    "tokens, drawn": lambda: token_policy("residual", "parallel", head_temperature=1.0, camera_sizes=SQUARE),
}


@pytest.mark.parametrize("name", POLICIES)
def test_policies(name: str, device: Device):
    model = POLICIES[name]().eval()
    seen, batch = fakes.observation(model.config), fakes.batch(model.config, checked=True)
    # noise is that of the sample, codes are decoded on the host
    own = {"regression": 0, "clipped": 0, "tokens, drawn": 4}.get(name, 2)
    # two cameras, proprio and the answer are checked; the second observation as well, for which nothing is predicted
    check(device, model, lambda m, x: m.predict_chunk(x), seen, reads=own + 4)
    check(device, model, lambda m, x: m.predict_chunk(x), batch, reads=own + 2)
    check(device, model, lambda m, x: [m.reset(), m.select_action(x), m.select_action(x)], seen, reads=own + 7)
    with torch.no_grad():
        check(
            device,
            model.train(),
            lambda m, x: [torch.manual_seed(0) and None, m(x)],
            batch,
            reads=own * ("tokens" in name),
        )


@pytest.mark.parametrize("kind", LOSSES)
def test_losses_of_other_policies(kind: str, device: Device):
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vectors": stand_in.P,
        "codebook_size": stand_in.K,
        "latent_dim": stand_in.D,
        "steps": stand_in.H,
    }
    loss = LOSSES[kind].build(stand_in.WIDTH, LatentSpec(codes=stand_in.P, **sizes), 1)
    model, batch = Supervised(stand_in.Policy(), "model.action_head", loss), stand_in.make_batch()

    for reduction in ("mean", "none"):
        expected = learned(copy.deepcopy(model), batch, reduction)
        assert_same(learned(copy.deepcopy(model).to(NAME), placed(batch, NAME), reduction), expected)


def learned(model: Any, batch: Any, reduction: str) -> Any:
    """Loss, figures and gradients."""
    torch.manual_seed(0)
    total, logs = model(batch, reduction=reduction)
    total.sum().backward()
    return total.detach(), logs, [p.grad for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("kind", ["lara", "latbot"])
def test_models_of_frames_beside_other_policies(kind: str, device: Device):
    torch.manual_seed(0)
    given = frames_batch() | {FRAMES: pixels(stand_in.B, 3, 1 if kind == "lara" else 2)}  # of the size of the model
    loss = LARALoss(lam_of(), stand_in.WIDTH) if kind == "lara" else LatBotLoss(clip_lam(), stand_in.WIDTH)
    model, given["task"] = Supervised(stand_in.Policy(), "model.action_head", loss).train(), ["lift"] * stand_in.B
    for reduction in ("mean", "none"):
        expected = learned(copy.deepcopy(model), given, reduction)
        moved = copy.deepcopy(model).to(NAME)
        device.waits.clear()
        assert_same(learned(moved, placed(given, NAME), reduction), expected)
        assert len([wait for wait in device.waits if " at lattok/" in wait]) <= READS
