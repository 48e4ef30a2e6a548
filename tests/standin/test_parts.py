"""Parts that short runs do not reach: pretrained backbones, fits to data that lies there, other bottlenecks, probes."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

import lattok
from lattok.action_vq import P2TActionVQ
from lattok.nn.kmeans import residual_kmeans
from lattok.nn.normalize import Normalizer
from lattok.nn.quantize import code_statistics
from lattok.vla.latbot import text_errors
from tests.accelerator import NAME, Device, standin
from tests.action_vq.walks import smooth
from tests.backbones.conftest import need_transformers
from tests.backbones.tiny import tiny_backbone
from tests.standin.conftest import assert_same, make
from tests.standin.test_artefacts import placed
from tests.vla import fakes


@pytest.mark.parametrize("family", ["qwen3_vl", "smolvlm"])
def test_policies_over_pretrained_backbones(family: str, tmp_path: Path, device: Device):
    need_transformers()
    folder = str(tiny_backbone(family, tmp_path / family))
    model = fakes.policy("la_cond", backbone=folder, camera_sizes=((16, 16), (16, 16)))
    # processors resize uint8 images in another way on a device
    batch = model.prepared(fakes.batch(model.config, checked=True))
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
        assert_same(text_errors(moved.eval(), placed(asked, NAME)), text_errors(model.eval(), asked))


BOTTLENECKS = [{"quantizer": "fsq"}, {"quantizer": "none", "loss_kl": 0.01}]
BOTTLENECKS += [{"loss_additivity": 0.1, "extra_strides": ("4",)}]


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
