"""QueST: what published classes compute, codes that are causal as meant, our own training, what is refused."""

import json
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from lattok.action_vq.quest import LEVELS, QueST, QueSTConfig, key_map, quest
from lattok.types import ActionBatch
from tests.action_vq import published_quest
from tests.action_vq.walks import saturating
from tests.errors import refused
from tests.image_lam.parity import close_gradient
from tests.image_lam.published.parity import SHARED, Case, close, open_case

SMALL = {"dim": 32, "heads": 2, "decoder_heads": 2, "encoder_depth": 1, "decoder_depth": 1, "downsample": 2}
QUICK = {**SMALL, "dropout": 0.0, "device": "cpu"}


class Converted(NamedTuple):
    """A fixture and the model of its file."""

    case: Case
    model: QueST


@pytest.fixture(params=["quest_a", "quest_b"])
def converted(request) -> Converted:
    case = open_case(request.param)
    return Converted(case, quest(case.folder / "weights.safetensors", case.config["model"]))


@pytest.fixture(scope="module")
def first() -> Case:
    return open_case("quest_a")


@pytest.fixture(scope="module")
def fitted() -> QueST:
    return QueST.fit(saturating(), steps=120, lr=1e-2, levels=(5, 5), **QUICK)


def test_codes_latents_and_reconstructions(converted):
    model, values = converted.model, converted.case.values
    out = model.latent_actions(values["actions"])
    assert torch.equal(out.codes, values["tokens"].long())
    close(out.latents, values["latents"])
    close(out.quantized, values["codes"])
    close(model.from_quantized(out.quantized), values["quantized"])
    close(model.decode(out.codes), values["recon"])
    close(model.decode(out.codes), values["decode_actions"])
    close(model.decode(values["other.tokens"]), values["other.recon"])
    for moved in ("first", "last"):
        codes = model.encode(values[f"{moved}_action_moved.actions"])
        assert torch.equal(codes, values[f"{moved}_action_moved.tokens"].long())
        assert torch.equal(codes, out.codes) == (moved == "last")  # of which no code of theirs knows


def test_stages(converted):
    model, values, seen = converted.model, converted.case.values, {}

    def watch(module: nn.Module, name: str, turned: bool = False) -> None:
        module.register_forward_hook(lambda *call: seen.update({name: call[2].transpose(1, 2) if turned else call[2]}))

    for i, block in enumerate(model.convolutions):
        watch(block, f"stage.conv_block{i}", turned=True)
    watch(model.convolutions[-1], "stage.conv_out", turned=True)
    watch(model.encoder[-1], "stage.encoder_out")
    watch(model.decoder, "stage.decoder_out")
    model.decode(model.encode(values["actions"]))
    assert sorted(seen) == sorted(name for name in values if name.startswith("stage."))
    for name, value in seen.items():
        close(value, values[name])


def test_losses_and_gradients(converted):
    model, values = converted.model, converted.case.values
    batch = ActionBatch(values["actions"], torch.ones(values["actions"].shape[:2], dtype=torch.bool))
    loss = model.train()(batch)["reconstruction"]
    close(loss, values["train.loss"])
    loss.backward()
    names = {theirs: ours for ours, theirs in key_map(model.config).items()}
    stored = {name.removeprefix("grad."): value for name, value in values.items() if name.startswith("grad.")}
    assert len(stored) == 8
    for name, value in stored.items():
        close_gradient(model.get_parameter(names[name]).grad, value)


def test_the_full_size_file_has_the_published_sizes():
    lists = SHARED / "full_size_keys_tokenizers.json"
    if not lists.is_file():
        pytest.skip("the list is not in this checkout")
    shapes = json.loads(lists.read_text())["quest_libero"]
    config = QueSTConfig(action_dim=7, horizon=32, published=True)
    with torch.device("meta"):
        ours = {name: list(tensor.shape) for name, tensor in QueST(config).saved_tensors().items()}
    names = key_map(config)
    assert {names[name]: shape for name, shape in ours.items() if not name.startswith("normalizer.")} == {
        name: shape for name, shape in shapes.items() if not name.endswith("inv_freq")
    }
    assert config.tokens == 8
    assert [math.prod(levels) for levels in LEVELS.values()] == [15, 64, 240, 512, 1000, 1920, 4375]


SETTINGS = {"action_dim": 3, "encoder_dim": 16, "decoder_dim": 16, "skill_block_size": 16, "attn_pdrop": 0.0}
SETTINGS |= {"encoder_heads": 2, "encoder_layers": 1, "decoder_heads": 4, "decoder_layers": 2, "vq_type": "fsq"}
SHORTENED = [1, 2, 4, 8]  # two, two, three and four blocks
PUBLISHED_LEVELS = {16: [5, 3], 70: [8, 8], 256: [8, 6, 5], 1000: [8, 8, 8], 1024: [8, 5, 5, 5]}
PUBLISHED_LEVELS |= {2048: [8, 8, 6, 5], 4096: [7, 5, 5, 5, 5]}


def compare_with_independent(settings: dict[str, Any], levels: Any, tmp_path: Path) -> None:
    """Codes and actions of the converted file are those of the description, computed without lattok."""
    theirs = published_quest.make({**SETTINGS, **settings}, tuple(levels))
    safetensors.torch.save_file(theirs.tensors, tmp_path / "quest.safetensors")
    ours = quest(tmp_path / "quest.safetensors", {**SETTINGS, **settings})
    actions = torch.randn(12, 16, 3, generator=torch.Generator().manual_seed(1))
    scalars, codes = theirs.encode(actions)
    found = ours.latent_actions(actions)
    close(found.latents, scalars)
    assert torch.equal(found.codes, codes)
    assert len(codes.unique()) > 3
    close(ours.decode(codes), theirs.decode(codes))


@pytest.mark.parametrize("downsample", SHORTENED)
@pytest.mark.parametrize("causal", [True, False])
def test_models_of_every_shortening_causal_or_not(causal, downsample, tmp_path):
    """Causal convolutions are wrapped in the published class, others are not: names differ."""
    switches = {"use_causal_encoder": causal, "use_causal_decoder": downsample in (1, 4)}
    settings = {**switches, "downsample_factor": downsample, "fsq_level": [5, 4]}
    compare_with_independent(settings, (5, 4), tmp_path)


@pytest.mark.parametrize("size", PUBLISHED_LEVELS)
def test_the_levels_of_a_codebook_size_are_those_published(size, tmp_path):
    settings = {"use_causal_encoder": False, "use_causal_decoder": True, "downsample_factor": 4, "codebook_size": size}
    compare_with_independent({**settings, "fsq_level": None}, PUBLISHED_LEVELS[size], tmp_path)


def test_the_published_causal_fixture_without_wrapped_convolutions(first, tmp_path):
    """As `nn.Conv1d` itself: the same tensors under the names of a model whose encoder is not causal."""
    tensors = safetensors.torch.load_file(first.folder / "weights.safetensors")
    plain = {name.replace(".0.conv.", ".0."): tensor for name, tensor in tensors.items()}
    safetensors.torch.save_file(plain, tmp_path / "quest.safetensors")
    ours = quest(tmp_path / "quest.safetensors", changed(first, use_causal_encoder=False))
    theirs = published_quest.SkillVAE({**first.config["model"], "use_causal_encoder": False}, plain)
    theirs.settings["fsq_level_used"] = first.config["model"]["fsq_level_used"]
    actions = first.values["actions"]
    assert torch.equal(ours.encode(actions), theirs.encode(actions)[1])
    refused("`use_causal_encoder`", quest, tmp_path / "quest.safetensors", first.config["model"])
    refused(
        "`use_causal_encoder`",
        lambda: quest(first.folder / "weights.safetensors", changed(first, use_causal_encoder=False)),
    )


# Refusals.


def changed(case: Case, **changes: Any) -> dict[str, Any]:
    """The fixture's settings with others; None takes one away."""
    return {name: value for name, value in {**case.config["model"], **changes}.items() if value is not None}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"skill_block_size": None}, "`config`: expected the setting skill_block_size, which weights do not tell"),
        ({"codebook_size": None}, "`config`: expected the setting codebook_size, which weights do not tell"),
        ({"codebook_size": 32}, "`codebook_size`"),
        ({"vq_type": "vq"}, "`vq_type`"),
        ({"fsq_level": [8, 5, 5]}, "vq.project_in.weight has shape [4, 24], expected [3, 24]"),
        ({"encoder_heads": 5}, "`heads`"),
        ({"decoder_heads": 0}, "`decoder_heads`"),
        ({"use_causal_encoder": 2}, "`use_causal_encoder`"),
    ],
)
def test_settings_that_make_no_sense_are_named(first, changes, text):
    refused(re.escape(text), lambda: quest(first.folder / "weights.safetensors", changed(first, **changes)))


# What it is, with weights of our own.


def influence(**options: Any) -> list[list[bool]]:
    """Whether each code's latent depends on each action."""
    torch.manual_seed(0)
    config = QueSTConfig(**{"action_dim": 3, **SMALL, "encoder_depth": 2, **options})
    actions = torch.randn(1, config.horizon, 3, requires_grad=True)
    latents = QueST(config).eval()._latents(actions)[0]
    assert len(latents) == config.tokens
    moved = (torch.autograd.grad(row.sum(), actions, retain_graph=True)[0] for row in latents)
    return [(each[0].abs().sum(-1) > 0).tolist() for each in moved]


@pytest.mark.parametrize(("horizon", "downsample"), [(16, 4), (12, 2), (7, 2), (6, 4), (5, 1), (1, 4), (9, 8)])
def test_a_code_knows_the_actions_up_to_the_last_one_that_it_stands_for(horizon, downsample):
    found = influence(horizon=horizon, downsample=downsample)
    assert found == [[i < (j + 1) * downsample for i in range(horizon)] for j in range(-(-horizon // downsample))]


@pytest.mark.parametrize(("horizon", "downsample"), [(16, 4), (12, 2)])
def test_published_codes_know_all_actions_but_the_last(horizon, downsample):
    known = [i < horizon - 1 for i in range(horizon)]
    assert influence(horizon=horizon, downsample=downsample, published=True) == [known] * (horizon // downsample)


@pytest.mark.parametrize("published", [True, False])
@pytest.mark.parametrize(("horizon", "downsample"), [(16, 4), (7, 2), (5, 1), (1, 4)])
def test_without_causality_every_code_knows_every_action(horizon, downsample, published):
    found = influence(horizon=horizon, downsample=downsample, causal_encoder=False, published=published)
    assert len(found) == -(-horizon // downsample) + (published and downsample == 1)
    assert all(map(all, found))


def test_a_convolution_normalises_every_step_alone():
    torch.manual_seed(0)
    block = QueST(QueSTConfig(action_dim=3, **SMALL)).convolutions[0]
    x = torch.randn(2, 32, 8)
    padded = torch.cat([torch.zeros(2, 32, 3), x], 2)
    plain = torch.stack([block.conv(padded[..., 2 * t : 2 * t + 5])[..., 0] for t in range(4)], 1)  # b t d
    groups = plain.unflatten(-1, (8, 4))
    groups = (groups - groups.mean(-1, keepdim=True)) / (groups.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    close(block(x), nn.functional.mish(groups.flatten(2)).transpose(1, 2))


def error(model: QueST, chunks: Tensor) -> float:
    gap = model.decode(model.encode(chunks)) - chunks
    return float((gap / model.normalizer.scale).square().mean())


def test_our_training_beats_the_mean_action(fitted):
    assert error(fitted, saturating()) < 0.6  # that of the mean is 1
    assert error(fitted, saturating(seed=1)) < 0.7


def test_missing_and_impossible_codes_hold_the_steps_that_they_stand_for(fitted):
    codes = fitted.encode(saturating(3))
    damaged = codes.clone()
    damaged[0, 1], damaged[1], damaged[2, 2] = 99, -5, -1
    chunks, info = fitted.decode(damaged, return_info=True)
    neighbour = codes.clone()
    neighbour[0, 1], neighbour[2, 2] = codes[0, 0], codes[2, 1]
    plain = fitted.decode(neighbour)
    torch.testing.assert_close(chunks[0], torch.stack([plain[0, t] for t in (0, 1, 1, 1, 4, 5)]))
    torch.testing.assert_close(chunks[2], torch.stack([plain[2, t] for t in (0, 1, 2, 3, 3, 3)]))
    assert torch.equal(chunks[1], fitted.normalizer.shift.expand(6, 3))
    assert info.notes == ("1 outside 0..24", "3 outside 0..24", "1 of 3 codes missing")
