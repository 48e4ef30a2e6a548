"""A training step reads no number on the host and waits for no copy: on a GPU the host would stop there at every step.

No GPU is needed. Tensors of torch's device "meta" have shapes but no values, so that whatever reads one fails, at the
line that does; a mode sees what copies from the host without `non_blocking`.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lattok.action_vq import FSQ, ActionVQConfig, P2TActionVQ
from lattok.image_lam import ImageLAM, ImageLAMConfig, PairLearner
from lattok.nn.quantize import QuantizerConfig, VectorQuantizer
from lattok.samples.augment import Augmentation, augment, draw
from lattok.training import LoopOptions, loop
from lattok.training.loop import FiniteLoss, Trainer, _follow
from lattok.types import ActionBatch, PairBatch
from lattok.vla import STRATEGIES
from tests.errors import refused
from tests.image_lam.p2t.test_model import SMALL, VARIANTS
from tests.vla import fakes

DEVICE = torch.device("meta")


class Waiting(TorchDispatchMode):
    """Raises for every operation that takes a tensor of the host onto the device and waits for it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        given = [part for part in tree_leaves((args, kwargs)) if isinstance(part, Tensor)]
        made = [part for part in tree_leaves(out) if isinstance(part, Tensor)]
        copies = func.overloadpacket.__name__ in ("_to_copy", "copy_")
        from_host = any(part.device.type == "cpu" and (part.ndim or copies) for part in given)
        ahead = copies and any(part is True for part in (kwargs.get("non_blocking"), *args[2:]))
        if from_host and not ahead and any(part.device == DEVICE for part in made):
            raise RuntimeError(f"{func} waits for a copy from the host")
        return out


class Lists(TorchFunctionMode):
    """Raises for lists and arrays that become tensors of the device, as data or as an index, which waits, too."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor, Tensor.new_tensor):
            out = func(*args, **kwargs)
            if out.device == DEVICE and not isinstance(args[-1], Tensor):
                raise RuntimeError(f"{func.__name__} copies a list and waits")
            return out
        if func in (Tensor.__getitem__, Tensor.__setitem__) and args[0].device == DEVICE:
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            if any(isinstance(part, list | np.ndarray) for part in index):
                raise RuntimeError("a list as an index is copied, and waited for")
        return func(*args, **kwargs)


@contextmanager
def unread() -> Iterator[None]:
    """Fail at whatever a GPU would be waited for."""
    real = torch.autocast
    with pytest.MonkeyPatch.context() as patch, Waiting(), Lists():
        patch.setattr(torch, "autocast", lambda kind, *a, **k: nullcontext() if kind == "meta" else real(kind, *a, **k))
        yield


ACCELERATOR: Any = SimpleNamespace(
    device=DEVICE,
    num_processes=1,
    process_index=0,
    no_sync=lambda model: nullcontext(),
    prepare=lambda *parts: parts,
    autocast=nullcontext,
    backward=lambda loss: loss.backward(),
    clip_grad_norm_=torch.nn.utils.clip_grad_norm_,
)


def known_counts(model: nn.Module) -> dict[VectorQuantizer, int]:
    """Read how many steps quantizers have made; a run does so once."""
    return {module: module.count for module in model.modules() if isinstance(module, VectorQuantizer)}


def train_unread(model: nn.Module, batch: Any, weights: dict[str, float], before: int = 0, parts: int = 1) -> None:
    """Make `before` steps on the host, then one on the device, in `parts`, averages included."""
    model.train()
    for _ in range(before):
        model(batch)
    counts = known_counts(model)
    model = model.to(DEVICE)
    options = LoopOptions(steps=1, batch_size=8, accumulate=parts)
    average = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    given: Any = lambda *_: send_to_device(batch, DEVICE, non_blocking=True)  # noqa: E731
    out: Any = None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "make_accelerator", lambda device, precision: ACCELERATOR)
        trainer, finite = Trainer(model, {}, options, weights, out), FiniteLoss(out)
    for quantizer, count in counts.items():
        quantizer._count = count
    with unread():
        values = trainer.step(0, given)
        for done in (1, 2):
            finite.see(values, done)
        _follow(average, model, 1, 0.9)


REVIVED = {"codebook_revive_below": 0.03, "codebook_continuous_steps": 1}
MODELS = {**VARIANTS, "restarts": {"codebook_restart_every": 1}}
MODELS |= {f"{name}, revived": {**VARIANTS[name], **REVIVED} for name in ("robust", "shared", "joint")}


@pytest.mark.parametrize("options", MODELS.values(), ids=MODELS)
def test_image_latent_action_models(options: dict[str, Any]):
    config = ImageLAMConfig.of(**{**SMALL, **options})
    model, frames = PairLearner(ImageLAM(config)), 2 + len(config.extra_strides)
    model.attach_action_head(torch.randn(9, 3))
    batch = PairBatch(
        torch.randint(256, (8, frames, 2, 32, 32, 3), dtype=torch.uint8), torch.randn(8, 3), torch.rand(8) < 0.5
    )
    # the step that starts a codebook from data reads, once
    train_unread(model, batch, config.loss_weights, before=2 + config.codebook.continuous_steps)


def test_latents_that_pass_through_are_collected_unread():
    model = VectorQuantizer(QuantizerConfig(dim=4, size=8, levels=2, continuous_steps=9)).train()
    known_counts(model)
    model = model.to(DEVICE)
    with unread():
        for _ in range(3):
            model(torch.randn(6, 4, device=DEVICE), valid=torch.ones(6, dtype=torch.bool, device=DEVICE))
    assert len(model.reservoir) == 18


@pytest.mark.parametrize("change", [{"mask_weight": 0.1}, {"mask_weight": 1.0, "mask_passes": 1}, {"decoder": "step"}])
def test_action_tokenizers(change: dict[str, Any]):
    model = P2TActionVQ(ActionVQConfig(action_dim=3, **{"dropout": 0.0, "codebook_size": 8, **change}))
    valid = torch.arange(8) < torch.tensor([[8], [5], [3], [8]])
    train_unread(model, ActionBatch(torch.randn(4, 8, 3), valid), model.config.loss_weights, before=2)


def test_finite_scalars_of_actions():
    model = FSQ(FSQ.config_class(action_dim=3, tokens=2, codebook_size=16, hidden=8))
    train_unread(
        model, ActionBatch(torch.randn(4, 8, 3), torch.ones(4, 8, dtype=torch.bool)), {"reconstruction": 1.0}, parts=2
    )


@pytest.mark.parametrize("name", STRATEGIES)
def test_policies(name: str):
    model = fakes.policy(name)
    train_unread(model, fakes.batch(model.config, checked=True), model.config.loss_weights)


def test_augmentation_on_the_device():
    changes = Augmentation(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.1)
    draws, images = draw(changes, 6, 2, seed=0, step=0), torch.zeros(6, 2, 8, 8, 3, dtype=torch.uint8, device=DEVICE)
    with unread():
        assert augment(images, draws, changes).device == DEVICE


MASK = torch.tensor([True, False])
READS = {
    "a number": lambda x: x.sum().item(),
    "a condition": lambda x: bool((x > 0).any()),
    "a mask as an index": lambda x: x[MASK.to(DEVICE, non_blocking=True)],
    "a list as an index": lambda x: x[[0, 1]],
    "a list as a tensor": lambda x: torch.tensor([1.0, 2.0], device=x.device),
    "a copy that waits": lambda x: send_to_device(torch.ones(2), x.device),
    "a copy into a tensor": lambda x: x.copy_(torch.ones(2)),
    "a copy back": lambda x: x.cpu(),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_what_a_gpu_would_be_waited_for_is_found(read: Any):
    with unread(), pytest.raises((RuntimeError, NotImplementedError)):
        read(torch.ones(2, device=DEVICE))


def test_the_first_loss_that_is_not_finite_is_told_later(tmp_path):
    finite, one = FiniteLoss(tmp_path), torch.ones(())
    good = {"loss": one, "loss/a": one, "grad_norm": one}
    bad = good | {"loss": one * torch.nan, "loss/a": one * torch.inf}
    finite.check()
    lost = good | {"grad_norm": one * torch.nan}
    for first, name in ((bad, "a"), (lost, "the gradient")):
        finite = FiniteLoss(tmp_path)
        for done, values in enumerate([good, good, first, bad, good, lost], 1):
            finite.see(values, done)
        refused(f"got {name} not finite at step 3 in", finite.check)
