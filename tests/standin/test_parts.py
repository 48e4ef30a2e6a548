"""Parts that short runs do not reach: pretrained backbones, fits to data that lies there, other bottlenecks, probes."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

import lattok
from lattok.action_vq import P2TActionVQ
from lattok.image_lam import ImageLAM, ImageLAMConfig, PairLearner
from lattok.image_lam.base.bottlenecks import ScalarQuantizer
from lattok.image_lam.base.features import OrderedMAE, StillVideo
from lattok.image_lam.base.losses import PerceptualLoss
from lattok.image_lam.inverse import InverseDynamics, InverseDynamicsConfig
from lattok.inference import for_inference
from lattok.nn.kmeans import residual_kmeans
from lattok.nn.normalize import Normalizer
from lattok.nn.quantize import code_statistics
from lattok.types import LatentTarget, PairBatch
from tests.accelerator import NAME, Device, standin
from tests.action_vq.families import cases
from tests.action_vq.walks import smooth
from tests.backbones.conftest import need_transformers
from tests.backbones.tiny import tiny_backbone
from tests.image_lam.clips.fakes import clip_lam, pixels
from tests.image_lam.moto.test_perceptual import random_vgg
from tests.standin.conftest import IDM, assert_same, make
from tests.standin.test_artefacts import LAM, PAIRS, VIDEO, placed
from tests.vla import fakes


@pytest.mark.parametrize("name", ["uniform-bins", "beast", "fsq", "residual-vq", "action-vq"])
def test_tokenizers_are_fitted_to_chunks_that_lie_there(name: str, device: Device):
    family, options = cases()[name]
    expected, found = family.fit(smooth(), **options), family.fit(smooth().to(NAME), **options)
    assert_same(found.saved_tensors(), expected.saved_tensors())


@pytest.mark.parametrize("family", ["qwen3_vl", "smolvlm"])
def test_policies_over_pretrained_backbones(family: str, tmp_path: Path, device: Device):
    need_transformers()
    folder = str(tiny_backbone(family, tmp_path / family))
    model = fakes.policy("la_cond", backbone=folder, camera_sizes=((16, 16), (16, 16)))
    batch = model.prepared(fakes.batch(model.config))  # processors resize uint8 images in another way on a device
    weights = model.config.loss_weights

    def learn(policy: Any, where: str) -> Any:
        torch.manual_seed(0)
        terms = policy(placed(batch, where))
        torch.stack([weight * terms[name] for name, weight in weights.items()]).sum().backward()
        return {name: p.grad for name, p in policy.named_parameters() if p.grad is not None}

    expected = learn(copy.deepcopy(model).train(), "cpu")
    moved = copy.deepcopy(model).to(NAME).train()
    moved(placed(batch._replace(inputs=None), NAME))
    moved.zero_grad()
    device.waits.clear()
    assert_same(learn(moved, NAME), expected)
    ours = [wait for wait in device.waits if " at lattok/" in wait and "lattok/backbones/hf.py" not in wait]
    assert ours == []  # transformers itself reads where images and tokens are
    assert len([wait for wait in device.waits if " at tests/" not in wait]) <= 256
    assert_same(moved.saved_tensors(), model.saved_tensors())
    asked = batch._replace(subtasks=["reach the cup", "", "grasp", "lift"])
    with torch.no_grad():
        assert_same(moved.eval().text_errors(placed(asked, NAME)), model.eval().text_errors(asked))


def test_images_are_coded_from_scaled_numbers_and_through_vision_transformers(device: Device):
    torch.manual_seed(0)
    model = ImageLAM(ImageLAMConfig.of(**{**LAM, "features": "timm:vit_tiny_patch16_224", "image_size": 32}))
    model.features.load(pretrained=False)
    model.eval()
    moved, scaled = copy.deepcopy(model).to(NAME), torch.rand(2, 2, 2, 3, 32, 32)
    assert_same(moved.encode_pixels(scaled), model.encode_pixels(scaled))
    assert_same(moved.encode_pixels(scaled.to(NAME)), model.encode_pixels(scaled))
    both = [for_inference(each, "bfloat16").label_video(VIDEO, 2).codes for each in (model, moved)]
    assert (torch.as_tensor(both[0]) == torch.as_tensor(both[1])).float().mean() > 0.9  # fused attention there


BOTTLENECKS = [{"quantizer": "fsq"}, {"quantizer": "none", "loss_kl": 0.01}]
BOTTLENECKS += [{"loss_additivity": 0.1, "extra_strides": ("4",)}]


@pytest.mark.parametrize("change", BOTTLENECKS)
def test_other_bottlenecks_learn(change: dict[str, Any], device: Device):
    torch.manual_seed(0)
    config = ImageLAMConfig.of(**{**LAM, **change})
    learner = PairLearner(ImageLAM(config)).train()
    learner.attach_action_head(torch.randn(9, 3))
    frames = PAIRS if len(config.extra_strides) == 0 else torch.cat([PAIRS, PAIRS[:, :1]], 1)
    batch = PairBatch(frames, torch.randn(4, 3), torch.tensor([True, False, True, True]))

    def learn(model: Any, where: str) -> Any:
        torch.manual_seed(1)
        return {name: term.detach() for name, term in model(placed(batch, where)).items()}

    assert_same(learn(copy.deepcopy(learner).to(NAME), NAME), learn(copy.deepcopy(learner), "cpu"))


def test_clips_are_predicted_and_ranges_are_set(device: Device):
    model = clip_lam()
    clips = pixels(3, 3, 2)
    now, found = model.frame_features(clips[:, 0]), model.encode(clips)
    moved = copy.deepcopy(model).to(NAME)
    for where in ("cpu", NAME):
        assert_same(moved.predict(now.to(where), placed(found, where)), model.predict(now, found))
    torch.manual_seed(0)
    idm = InverseDynamics(InverseDynamicsConfig(("front", "wrist"), 3, **IDM)).eval()
    other = copy.deepcopy(idm).to(NAME)
    idm.set_range(smooth()[:, 0])
    other.set_range(smooth()[:, 0].to(NAME))
    assert_same(other.saved_tensors(), idm.saved_tensors())


def test_statistics_of_tensors_that_lie_there(device: Device):
    vectors = smooth()[:, 0]
    draw = lambda: torch.Generator().manual_seed(0)  # noqa: E731
    expected = residual_kmeans(vectors, 4, 2, 3, draw())
    assert_same(residual_kmeans(vectors.to(NAME), 4, 2, 3, draw()), expected)
    assert_same(Normalizer(3).to(NAME).fit(vectors.to(NAME)).state_dict(), Normalizer(3).fit(vectors).state_dict())


NARROW = ("action-vq", "image-lam, flow", "idm")  # k-means, fits


@pytest.mark.parametrize("kind", NARROW)
def test_a_device_without_float64(kind: str, folder: Path, tmp_path: Path):
    """As MPS is one: training, labels, and fits to what lies there."""
    with standin(wide=False):
        model = lattok.train(make(kind, folder, tmp_path / "run", NAME)).to(NAME)
        lattok.annotate(lattok.open_dataset(folder / "data"), {"own": model}, tmp_path / "out")
        if isinstance(model, P2TActionVQ):
            chunks = smooth().to(NAME)
            residual_kmeans(chunks[:, 0], 4, 2, 3, torch.Generator().manual_seed(0))
            Normalizer(3).to(NAME).fit(chunks[:, 0])
            model.error_report(chunks[:, : model.horizon])
            code_statistics(model.encode(chunks[:, : model.horizon]), model.vocab_size)


def test_small_parts(device: Device):
    """A policy that sees proprio alone, labels stretched over steps, codes that are looked up."""
    made = fakes.policy(cameras=(), camera_sizes=())
    batch = made.prepared(fakes.batch(made.config))
    moved = copy.deepcopy(made).to(NAME)
    assert_same(moved(placed(batch, NAME)), made(batch))
    assert_same(moved.predict_chunk(placed(batch, NAME)), made.predict_chunk(batch))
    labels = LatentTarget(torch.arange(8).view(2, 4, 1), None, torch.ones(2, 4, dtype=torch.bool))
    assert_same(labels.to(torch.device(NAME)).nearest(6), labels.nearest(6))
    book = ScalarQuantizer(4, 8).eval()
    codes = book(torch.randn(2, 5, 4)).codes
    assert_same(copy.deepcopy(book).to(NAME).lookup(codes.to(NAME)), book.lookup(codes))
    device.waits.clear()
    moved(placed(batch, NAME))
    labels.to(torch.device(NAME), True).nearest(6)
    assert [wait for wait in device.waits if " at lattok/" in wait] == []


@pytest.mark.parametrize("kind", ["vit_mae", "vjepa2"])
def test_networks_of_transformers_look_at_frames(kind: str, device: Device):
    transformers = pytest.importorskip("transformers", minversion="5.4")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 8}
    if kind == "vit_mae":
        net = OrderedMAE(
            transformers.ViTMAEModel(transformers.ViTMAEConfig(image_size=16, intermediate_size=16, **sizes))
        )
    else:
        config = transformers.VJEPA2Config(crop_size=16, mlp_ratio=1.0, frames_per_clip=2, **sizes)
        net = StillVideo(transformers.VJEPA2Model(config).encoder, config)
    net, pixels = net.eval(), torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert_same(copy.deepcopy(net).to(NAME).forward_features(pixels.to(NAME)), net.forward_features(pixels))


def test_frames_are_compared_by_lpips(device: Device, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("lpips")
    monkeypatch.setattr(torchvision.models, "vgg16", random_vgg)
    compare, images = PerceptualLoss(), torch.rand(2, 2, 3, 32, 32)
    moved = copy.deepcopy(compare).to(NAME)
    device.waits.clear()
    found = moved(*images.to(NAME, non_blocking=True))
    assert device.waits == []
    assert_same(found, compare(*images))
