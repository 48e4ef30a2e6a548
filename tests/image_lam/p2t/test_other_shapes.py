"""Shapes that no fixture has: converted models against plain arithmetic in float64, which the fixtures confirm."""

from pathlib import Path
from typing import NamedTuple

import pytest
import safetensors.torch
import torch
from torch import Tensor

from lattok.image_lam import ImageLAM, PairLearner
from lattok.image_lam.p2t.convert import univla_lam
from tests.image_lam import plain
from tests.image_lam.backbones import local_timm
from tests.image_lam.parity import (
    STAGE2,
    close,
    close_gradient,
    foreign_gradients,
    losses,
    open_case,
    total,
    with_action_head,
)
from tests.image_lam.plain import Facts


@pytest.mark.parametrize("name", [*STAGE2, "image_lam_stage1"])
def test_plain_arithmetic_gives_the_published_values(name):
    case = open_case(name)
    facts, values = case.facts(), case.values
    weights = case.weights()
    assert {key: list(weight.shape) for key, weight in weights.items()} == plain.shapes(facts)
    text = [values["lang_features"].double(), values["lang_mask_ragged"].bool()] if facts.stage == 1 else []
    latents = plain.encode(weights, facts, values["features"].double(), *text)
    codes = {s: d.argmin(-1) for s, d in plain.distances(weights, facts, latents).items()}
    rows = {s: plain.codebook(weights, facts, s)[codes[s]] for s in codes}
    recon = plain.decode(weights, facts, values["features"][:, 0].double(), rows, *text)
    if facts.stage == 1:
        values = {"indices.control": values["aligned.indices"], "latents.control": values["aligned.latents"]}
        values["recon"] = case.values["aligned.recon"]
    for s in codes:
        assert torch.equal(codes[s], values[f"indices.{s}"])
        close(latents[s].float(), values[f"latents.{s}"])
    close(recon[:, None].float(), values["recon"])


GRIDS = {  # name: (sizes, patches per side, language tokens)
    "one patch": (Facts(), 1, 0),
    "odd width": (Facts(width=15, heads=3), 2, 0),
    "other tokens, codes and depths": (
        Facts(width=40, heads=5, encoder_depth=1, decoder_depth=3, latent_dim=33, tokens=6, codes=5, env_codes=9),
        3,
        0,
    ),
    "one token, two codes": (Facts(tokens=1, codes=2, env_codes=2, heads=1), 2, 0),
    "narrow features": (Facts(feature_dim=24), 2, 0),
    "action head": (Facts(actions=(5, 3)), 2, 0),
    "stage 1": (Facts(stage=1), 2, 6),
    "stage 1, one word": (Facts(stage=1, tokens=2, latent_dim=5, language_dim=7, heads=4), 3, 1),
    "stage 1, action head": (Facts(stage=1, actions=(1, 7), feature_dim=24), 2, 11),
    "published width, one block": (Facts(width=768, heads=12, encoder_depth=1, decoder_depth=1, latent_dim=128), 4, 0),
}


class Pair(NamedTuple):
    """Random weights in plain float64, and the same converted, with inputs for both."""

    facts: Facts
    weights: dict[str, Tensor]
    learner: PairLearner[ImageLAM]
    features: Tensor
    text: dict[str, Tensor]
    actions: Tensor | None
    labelled: Tensor


@pytest.fixture(params=[(name, size) for name in GRIDS for size in (1, 3)], ids=lambda p: f"{p[0]}, batch {p[1]}")
def pair(request, tmp_path, monkeypatch) -> Pair:
    name, size = request.param
    facts, side, count = GRIDS[name]
    draw = torch.Generator().manual_seed(size)
    kept = plain.random_weights(plain.shapes(facts), seed=size)
    safetensors.torch.save_file(kept, tmp_path / "weights.safetensors")
    learner = converted(tmp_path, facts, side)
    weights = {name: weight.double() for name, weight in kept.items()}
    mask = torch.arange(count) < torch.randint(0, count + 1, (size, 1), generator=draw)
    labelled = torch.arange(size) % 2 == 0
    while True:
        features = torch.randn(size, 2, side**2, facts.feature_dim, generator=draw)
        words = torch.randn(size, count, facts.language_dim, generator=draw)
        text = {"text": words, "text_mask": mask} if facts.stage == 1 else {}
        actions = torch.randn(size, *facts.actions, generator=draw) if facts.actions else None
        made = Pair(facts, weights, learner, features, text, actions, labelled)
        if not rounding_decides(made, monkeypatch):
            return made


def rounding_decides(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether a ReLU lies so near its kink, or a code so near another one, that float32 may decide otherwise."""
    before = [1.0]
    with monkeypatch.context() as patch:
        patch.setattr(plain, "relu", lambda x: (before.append(float(x.abs().min())), x.clamp_min(0))[1])
        plain_losses(pair)
    latents = plain.encode(pair.weights, pair.facts, pair.features.double(), *double(pair.text))
    near = [d.topk(2, largest=False)[0] for d in plain.distances(pair.weights, pair.facts, latents).values()]
    return min(before) < 1e-5 or min(float(((d[..., 1] - d[..., 0]) / d[..., 1]).min()) for d in near) < 1e-4


def plain_losses(pair: Pair) -> dict[str, Tensor]:
    actions = None if pair.actions is None else pair.actions.double()
    text = double(pair.text) or [None, None]
    return plain.losses(pair.weights, pair.facts, pair.features.double(), *text, actions, pair.labelled)


def converted(folder: Path, facts: Facts, side: int) -> PairLearner[ImageLAM]:
    features = {"features": "pixels"}
    if facts.feature_dim != 768:
        tiny = {"embed_dim": facts.feature_dim, "depth": 1, "num_heads": 1}
        features = {"features": local_timm(folder / "vit", "vit_base_patch16_siglip_224", **tiny)}
    file, options = folder / "weights.safetensors", {"image_size": 16 * side, **features}
    action_dim = 7 if facts.actions is None else facts.actions[1]
    return with_action_head(univla_lam(file, facts.heads, action_dim, **options), file)


def double(text: dict[str, Tensor]) -> list[Tensor]:
    return [text["text"].double(), text["text_mask"]] if text else []


@pytest.mark.ci
def test_other_shapes_encode_and_predict(pair):
    latents = plain.encode(pair.weights, pair.facts, pair.features.double(), *double(pair.text))
    codes = {s: d.argmin(-1) for s, d in plain.distances(pair.weights, pair.facts, latents).items()}
    model = pair.learner.lam
    out = model.encode_features(pair.features, **pair.text)
    for s, got in (("control", out), ("env", out.env)):
        if s in codes:
            assert torch.equal(got.codes, codes[s])
            close(got.latents, latents[s].float())
    rows = {s: plain.codebook(pair.weights, pair.facts, s)[codes[s]] for s in codes}
    expected = plain.decode(pair.weights, pair.facts, pair.features[:, 0].double(), rows, *double(pair.text))
    close(model.predict(pair.features[:, 0], out, **pair.text), expected.float())


@pytest.mark.ci
def test_other_shapes_train(pair):
    for weight in pair.weights.values():
        weight.requires_grad_()
    expected = plain_losses(pair)
    terms = losses(pair.learner, pair.features, pair.actions, pair.labelled, **pair.text)
    assert terms.keys() == expected.keys()
    for name, term in terms.items():
        close(term, expected[name].detach().float())
    total(pair.learner.lam, expected).backward()
    total(pair.learner.lam, terms).backward()
    for name, gradient in foreign_gradients(pair.learner).items():
        close_gradient(gradient, pair.weights[name].grad.float())
