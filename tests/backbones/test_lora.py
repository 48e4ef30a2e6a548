"""Adapters against peft's: bit for bit in float32, within its own rounding in bfloat16, in fewer operations."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from lattok.backbones import LoraSpec
from tests.backbones.conftest import need_transformers

need_transformers()
peft = pytest.importorskip("peft")

from benchmarks.speed.counts import counted  # noqa: E402
from lattok.backbones.hf import HFBackbone  # noqa: E402
from lattok.backbones.lora import LoraLinear  # noqa: E402
from tests.backbones.test_hf import FAMILIES, SOME, TEXTS, adapted, images, queries  # noqa: E402

pytestmark = pytest.mark.ci
LORA = LoraSpec(rank=4, alpha=3)  # no power of two


def by_peft(backbone: HFBackbone, lora: LoraSpec) -> dict[str, Tensor]:
    """Adapt a model by peft, and by transformers' own layers, as lattok once did; its adapters by lattok's names."""
    targets = backbone.linear_layers(lora.vision)
    for part in backbone.model.modules():
        vars(part).pop("forward", None)
    options: Any = {"r": lora.rank, "lora_alpha": lora.alpha, "target_modules": targets}
    peft.LoraModel(backbone.model, peft.LoraConfig(**options, init_lora_weights="gaussian"), "default")
    for value in backbone.model.parameters():
        if value.requires_grad:
            value.data = value.data.float()
    named = {name.replace(".default.", "."): value for name, value in backbone.model.named_parameters()}
    return {name: value for name, value in named.items() if ".lora_" in name}


def pair(tiny: Any, family: str, dtype: str, lora: LoraSpec = LORA) -> tuple[HFBackbone, HFBackbone, dict[str, Tensor]]:
    """A backbone with lattok's adapters, one with peft's of the same values, and these."""
    loaded = HFBackbone.load(str(tiny(family)), dtype=dtype)
    ours, theirs = loaded, copy.deepcopy(loaded)
    torch.manual_seed(3)
    adapters = by_peft(theirs, lora)
    before = {name: value.detach().clone() for name, value in adapters.items()}
    adapted(ours, lora=lora)
    saved = ours.saved_tensors()
    assert saved.keys() == adapters.keys()
    for name, value in saved.items():
        assert (".lora_B." in name) or torch.equal(value, before[name]), name  # drawn in the same order
        adapters[name].data.copy_(value.detach())
    theirs._trained = ["by peft"]  # under autocast, as it was
    return ours, theirs, adapters


def gradients(backbone: HFBackbone, adapters: dict[str, Tensor], autocast: bool) -> list[Tensor]:
    placed = queries(backbone).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out = backbone(backbone.prepare(images(), TEXTS), placed, (2, 4))
        states = torch.stack([state[:, out.queries].float() for state in out.hidden.values()])
        loss = (states * torch.randn(states.shape, generator=torch.Generator().manual_seed(5))).mean()
    loss.backward()
    return [*out.hidden.values(), placed.grad, *(adapters[name].grad for name in sorted(adapters))]  # pyright: ignore


@pytest.mark.parametrize("family", FAMILIES)
def test_float32_is_peft_bit_for_bit(tiny: Any, family: str):
    ours, theirs, adapters = pair(tiny, family, "float32")
    if family == "qwen3_vl":  # images at once round in another way
        kept = [part for part in ours.model.modules() if "VisionAttention" in type(part).__name__]
        for part in kept:
            del part.forward
    for mine, other in zip(
        gradients(ours, ours.saved_tensors(), False), gradients(theirs, adapters, False), strict=True
    ):
        assert torch.equal(mine, other)


@pytest.mark.parametrize(("family", "dtype"), [*((each, "bfloat16") for each in FAMILIES), (SOME[0], "float32")])
def test_bfloat16_is_as_close_to_float32_as_peft(tiny: Any, family: str, dtype: str):
    """With a model in bfloat16, and with one in float32 under autocast."""
    ours, theirs, adapters = pair(tiny, family, dtype)
    exact = copy.deepcopy(theirs).float()
    named = {name.replace(".default.", "."): value for name, value in exact.model.named_parameters()}
    expected = gradients(exact, {name: named[name] for name in adapters}, False)
    found = [gradients(ours, ours.saved_tensors(), True), gradients(theirs, adapters, True)]
    shares = []
    for values in found:
        assert all(value.isfinite().all() for value in values)
        differences = [
            (value.float() - other).norm() / other.norm() for value, other in zip(values, expected, strict=True)
        ]
        shares.append(torch.stack(differences).mean())
    assert shares[0] < 1.1 * shares[1]
    assert shares[0] < 0.05


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_merged_weights_are_those_of_peft(tiny: Any, dtype: str):
    ours, theirs, _ = pair(tiny, "qwen3_vl", dtype)
    ours.merge()
    merged = dict(ours.model.named_parameters())
    for name, layer in theirs.model.named_modules():
        if isinstance(layer, peft.tuners.lora.Linear):
            layer.merge()
            assert torch.equal(merged[f"{name}.weight"], layer.get_base_layer().weight), name
    assert not any(isinstance(part, LoraLinear) for part in ours.model.modules())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_layers_of_one_input_share_a_product(tiny: Any, dtype: str):
    """What a pass dispatches, forward and backward, with peft and here."""
    ours, theirs, adapters = pair(tiny, "qwen3_vl", dtype)
    few, many = (
        counted(lambda: gradients(backbone, own, True))  # noqa: B023
        for backbone, own in ((ours, ours.saved_tensors()), (theirs, adapters))
    )
    assert few.operations < 0.6 * many.operations
    assert few.casts < 0.2 * many.casts
    assert all(group.bases.value is None for group in ours._adapters)  # copies are those of a pass


def test_dropout_and_other_inputs_are_computed_alone(tiny: Any):
    backbone = adapted(HFBackbone.load(str(tiny("text")), dtype="bfloat16"), lora=LoraSpec(4, 2, dropout=0.5))
    q, k = (backbone.model.get_decoder().layers[0].self_attn.get_submodule(name) for name in ("q_proj", "k_proj"))
    x = torch.randn(2, 3, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert not torch.equal(q(x), q(x))
    backbone.eval()
    alone = k(x)
    first = q(x)
    assert torch.equal(k(x), alone)
    assert torch.equal(q(x), first)
    q(x)
    assert torch.equal(k(x.clone()), alone)  # another x than that of q


def test_a_model_is_copied_and_learns_on_after_a_pass(tiny: Any):
    backbone, _, _ = pair(tiny, "text", "bfloat16")
    gradients(backbone, backbone.saved_tensors(), True)
    again = copy.deepcopy(backbone)
    values = gradients(again, again.saved_tensors(), True)
    layers = [part for part in again.model.modules() if isinstance(part, LoraLinear)]
    assert {id(member) for part in layers for member in part.group.members} == set(map(id, layers))
    assert all(value is not None for value in values)
