"""LPIPS as a loss: VGG16 with random weights, since its own are a download."""

import sys
from types import SimpleNamespace

import pytest
import torch
import torchvision

from lattok.image_lam import MotoLAM, MotoLAMConfig, PairLearner
from lattok.image_lam.base.losses import PerceptualLoss
from lattok.types import PairBatch
from tests.errors import refused
from tests.image_lam.base.test_labelling import HELD, SEQUENCE, SMALL


def random_vgg(pretrained: bool) -> SimpleNamespace:
    """Return what LPIPS takes of torchvision's VGG16, with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SimpleNamespace(features=torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"]))


@pytest.fixture(scope="module")
def perceptual() -> PerceptualLoss:
    pytest.importorskip("lpips")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torchvision.models, "vgg16", random_vgg)
        return PerceptualLoss()


def test_equal_images_have_no_distance_and_gradients_reach_images_alone(perceptual):
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert perceptual(images, images) == 0
    predicted = (1 - images).requires_grad_()
    loss = perceptual.train()(predicted, images)
    assert loss == perceptual(predicted, images) > 0  # its dropout stays off
    loss.backward()
    assert predicted.grad is not None
    assert predicted.grad.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in perceptual.parameters())


def test_a_model_compares_its_frames_between_black_and_white(perceptual):
    """Whatever the normalisation of its pixels is; the artefact holds nothing of the networks."""
    frames, seen = torch.randint(0, 256, (2, 2, 1, 32, 32, 3), dtype=torch.uint8), []
    for mean, std in (((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)), ((0.0,) * 3, (1.0,) * 3)):
        torch.manual_seed(0)
        lam = MotoLAM(MotoLAMConfig.of(**{**SMALL, **SEQUENCE, **HELD}, mean=mean, std=std, loss_perceptual=0.5))
        learner = PairLearner(lam)
        learner.perceptual = perceptual
        handle = perceptual.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
        terms = learner.train()(PairBatch(frames, torch.zeros(2, 0), torch.zeros(2)))
        handle.remove()
        assert lam.config.loss_weights["perceptual"] == 0.5
        terms["perceptual"].backward()
        assert lam.decoder.out.weight.grad.abs().sum() > 0
        assert not any("perceptual" in name for name in lam.saved_tensors())
    for predicted, later in seen:
        assert predicted.shape == later.shape
        torch.testing.assert_close(later, frames[:, 1, 0].movedim(-1, 1) / 255)


def test_without_the_package_or_the_weights(monkeypatch):
    monkeypatch.setitem(sys.modules, "lpips", None)
    refused("`loss_perceptual`", PerceptualLoss)

    def fails(**options: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setitem(sys.modules, "lpips", SimpleNamespace(LPIPS=fails))
    refused("expected VGG16's weights from torchvision, got no route to host", PerceptualLoss)
