"""In bfloat16 autocast products of networks are rounded, and nothing else is: statistics, codes, losses, averages.

On a CPU, whose autocast rounds as that of CUDA does where it matters here: products, and what follows from them.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from lattok.action_vq import ActionVQConfig, P2TActionVQ
from lattok.action_vq import p2t as of_actions
from lattok.image_lam import ImageLAM, ImageLAMConfig, PairLearner
from lattok.image_lam.base import losses as of_images
from lattok.image_lam.base.trained import LatentStream
from lattok.nn import losses as of_acting
from lattok.nn.normalize import Normalizer
from lattok.nn.quantize import QuantizerConfig, VectorQuantizer
from lattok.training import CHECKPOINT, RUN, LoopOptions, fit
from lattok.training.loop import FUSED, _optimizer
from lattok.types import ActionBatch, PairBatch
from lattok.vla import STRATEGIES
from lattok.vla import supervision as of_policies
from tests.evaluation.worlds import tiny_lam
from tests.image_lam.backbones import SMALL as TINY
from tests.image_lam.backbones import local_timm, random_timm
from tests.image_lam.p2t.test_model import SMALL, VARIANTS
from tests.vla import fakes

BOTH = torch.tensor([[True, True, False], [True, True, True]])


def rounded() -> Any:
    return torch.autocast("cpu", torch.bfloat16)


def of(*shape: int) -> Tensor:
    """Random numbers that bfloat16 holds exactly."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).bfloat16()


LOSSES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "prediction": (of_images.prediction, (of(2, 9, 6), of(2, 9, 6) + 1)),
    "gap action": (of_images.action, (of(3, 4), of(3, 4) + 1, torch.tensor([True, False, True]))),
    "decorrelation": (of_images.decorrelation, (of(64, 3, 5),)),
    "separation": (of_images.separation, (of(64, 3, 5), of(64, 2, 4))),
    "additivity": (of_images.additivity, (of(7, 3, 2, 4),)),
    "flow": (of_images.flow, (of(5, 8), of(5, 8).float() + 1)),
    "reconstruction": (of_actions.reconstruction, (of(2, 3, 4), of(2, 3, 4) + 1, BOTH[..., None].expand(2, 3, 4))),
    "commitment": (of_actions.commitment, (of(2, 3, 4), of(2, 3, 4) + 1, BOTH)),
    "masked consistency": (of_actions.masked_consistency, (of(2, 3, 4), of(2, 3, 4) + 1, BOTH)),
    "chunk": (of_acting.action_loss, (of(2, 3, 4), of(2, 3, 4) + 1, BOTH)),
    "alignment": (of_policies.alignment, (of(2, 3, 4), of(2, 3, 2, 4).float(), BOTH)),
    "codes": (of_policies.code_cross_entropy, (of(2, 3, 2, 8), torch.ones(2, 3, 2, dtype=torch.long), BOTH)),
    "regression": (of_policies.regression, (of(2, 3, 2, 4), of(2, 3, 2, 4) + 1, BOTH)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_of_rounded_numbers_are_those_of_float32(name: str):
    loss, given = LOSSES[name]
    wide = [part.double() if isinstance(part, Tensor) and part.is_floating_point() else part for part in given]
    with rounded():
        found = loss(*given)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), loss(*wide).double(), rtol=1e-5, atol=1e-6)


def test_codebooks_learn_the_same():
    latents = [of(32, 4).float() + step for step in range(6)]
    states = []
    for context in (rounded(), torch.autocast("cpu", enabled=False)):
        torch.manual_seed(0)
        quantizer = VectorQuantizer(QuantizerConfig(dim=4, size=8, levels=2, revive_below=0.5)).train()
        with context:
            out = [quantizer(part) for part in latents]
        states.append({**quantizer.state_dict(), "loss": out[-1].losses["commitment"], "vectors": out[-1].vectors})
    assert all(value.dtype in (torch.float32, torch.long) for value in states[0].values())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_normalisers_are_exact():
    normalizer = Normalizer(3).fit(torch.randn(50, 3) * 100)
    values = torch.randn(7, 3) * 100
    with rounded():
        there = normalizer(values)
        back = normalizer.inverse(there)
    assert torch.equal(there, normalizer(values))
    assert torch.equal(back, normalizer.inverse(there))


def test_statistics_of_latents_are_exact():
    """The latents are rounded once, by the product they come from, then normalised in float32."""
    torch.manual_seed(0)
    config = ImageLAMConfig.of(**{**SMALL, **VARIANTS["robust"]})
    model = ImageLAM(config)
    stream, tokens = LatentStream(config, 4, model.new_heads).train(), torch.randn(16, config.tokens, config.width)
    with rounded():
        latents = stream.latents(tokens)
        (head,) = stream.heads
        plain = head(tokens.flatten(1)).float()
    expected = (plain - plain.mean(0)) / (plain.var(0, unbiased=False) + 1e-5).sqrt()
    assert latents.dtype == torch.float32
    torch.testing.assert_close(latents[:, 0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_term_of_an_image_model_is_float32(name: str):
    config = ImageLAMConfig.of(**{**SMALL, **VARIANTS[name]})
    model, frames = PairLearner(ImageLAM(config)).train(), 2 + len(config.extra_strides)
    model.attach_action_head(torch.randn(9, 3))
    frames = torch.randint(256, (6, frames, 2, 32, 32, 3), dtype=torch.uint8)
    for _ in range(2):
        with rounded():
            terms = model(PairBatch(frames, torch.randn(6, 3), torch.ones(6, dtype=torch.bool)))
    assert {term: value.dtype for term, value in terms.items()} == dict.fromkeys(terms, torch.float32)
    assert {value.dtype for value in model.state_dict().values()} <= {torch.float32, torch.long, torch.int32}


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_term_of_a_policy_is_float32(name: str):
    model = fakes.policy(name).train()
    with rounded():
        terms = model(fakes.batch(model.config))
    assert {term: value.dtype for term, value in terms.items()} == dict.fromkeys(terms, torch.float32)


def test_weights_moments_and_averages_are_float32(tmp_path):
    model = P2TActionVQ(ActionVQConfig(action_dim=3, dropout=0.0, codebook_size=8, mask_weight=0.1))
    batch = ActionBatch(torch.randn(8, 8, 3), torch.ones(8, 8, dtype=torch.bool))
    options = LoopOptions(steps=3, batch_size=8, device="cpu", precision="bf16", ema=0.9)
    seen = []
    model.encoder.project.register_forward_hook(lambda module, given, out: seen.append(out.dtype))
    fit(model, lambda *_: batch, options, tmp_path, loss_weights=model.config.loss_weights)
    assert set(seen) == {torch.bfloat16}  # it was rounded
    saved = torch.load(tmp_path / RUN / CHECKPOINT, weights_only=True)
    moments = [value for entry in saved["optimizer"]["state"].values() for value in entry.values()]
    kinds = {value.dtype for value in (*saved["model"].values(), *saved["average"].values(), *moments)}
    assert kinds <= {torch.float32, torch.long, torch.int32}


def test_cuda_has_the_fused_optimiser():
    assert "cuda" in FUSED
    model = torch.nn.Linear(2, 2)
    for kind in ("adam", "adamw"):
        made = _optimizer(model, {}, LoopOptions(optimizer=kind), fused=True)
        assert made.defaults["fused"]


def test_a_model_computes_in_its_own_precision_again_after_a_run_in_bf16(tmp_path):
    """Accelerate wraps its `forward`: a second run without mixed precision, and every call, stayed in bfloat16."""
    seen = []

    class Linear(torch.nn.Linear):
        def forward(self, batch):
            made = super().forward(batch[0])
            seen.append(made.dtype)
            return {"error": made.float().square().mean()}

    model, options = Linear(2, 2), {"steps": 1, "batch_size": 4, "device": "cpu"}

    def trained(out, precision):
        fit(model, rows, LoopOptions(**options, precision=precision), out, loss_weights={"error": 1.0})

    def rows(step, process, processes):
        return (torch.ones(4, 2),)

    trained(tmp_path / "bf16", "bf16")
    model(rows(0, 0, 1))
    trained(tmp_path / "float32", "no")
    assert seen == [torch.bfloat16, torch.float32, torch.float32]


def test_a_label_does_not_depend_on_autocast(tmp_path):
    """Of frames, of pixels and of a video alike: frozen features too are computed in float32."""
    name = "vit_tiny_patch16_224"
    model = tiny_lam(features=local_timm(tmp_path, name, random_timm(name, 16, **TINY), **TINY), image_size=16)
    model.features.load()
    video = torch.randint(0, 256, (6, 1, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pairs, pixels = video.unflatten(0, (3, 2)), of(3, 2, 3, 16, 16)

    def labels() -> list[torch.Tensor]:
        return [model.encode(pairs).latents, model.encode_pixels(pixels).latents, model.label_video(video, 2).latents]

    plain = labels()
    with rounded():
        for found, expected in zip(labels(), plain, strict=True):
            assert torch.equal(found, expected)
