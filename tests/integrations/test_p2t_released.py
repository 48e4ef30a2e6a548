"""The published policy modules against values of the published implementation, and the faults they keep."""

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch.testing import assert_close

from lattok.hub.checkpoint import translate
from lattok_p2t_policy.convert import key_map, sizes
from lattok_p2t_policy.released import ReleasedAlign, ReleasedPooling, ReleasedVLA, ReleasedVLAConfig, turned
from tests.errors import refused

PARITY = Path(__file__).parents[1] / "parity"
CLOSE = {"atol": 2e-5, "rtol": 1e-4}
HEADS = ("vla_action_head_base", "vla_action_head_pro")


def fixture(name):
    """Config, weights under the published names, values."""
    folder = PARITY / name
    tensors = (safetensors.torch.load_file(folder / f"{part}.safetensors") for part in ("weights", "io"))
    return json.loads((folder / "config.json").read_text()), *tensors


@pytest.fixture(params=HEADS)
def head(request):
    """Model, values and config of a fixture of the head."""
    facts, weights, values = fixture(request.param)
    given = {"horizon": facts["chunk"], "heads": facts["heads"], "image_tokens": facts["task_tokens"]}
    config = ReleasedVLAConfig(**given, **sizes(weights))
    model = ReleasedVLA(config).eval()
    unused = [name for name in weights if ".film_gen." in name]
    model.load_tensors(translate(weights, key_map(config), model.saved_tensors(), "it", unused=unused), "it")
    return model, values, facts


def test_sizes_follow_from_the_weights(head):
    model, _, facts = head
    assert model.config == ReleasedVLAConfig(
        variant="pro" if facts["pro_version"] else "base",
        horizon=facts["chunk"],
        action_dim=facts["action_dim"],
        dim=facts["hidden_dim"],
        blocks=facts["blocks"],
        heads=facts["heads"],
        image_tokens=facts["task_tokens"],
        proprio_dim=facts["proprio_dim"],
    )
    assert {module.eps for module in model.modules() if isinstance(module, torch.nn.LayerNorm)} == {1e-5}


@torch.no_grad()
def test_actions_and_every_stage(head):
    model, values, _ = head
    stages = {}
    modules = {"proprio_features": model.proprio, "after_fc1": model.head.project}
    modules |= {f"block{i}": block for i, block in enumerate(model.head.blocks)}
    for name, module in modules.items():
        module.register_forward_hook(lambda module, given, out, name=name: stages.update({name: out}))
    actions = model(values["hidden_states"], values["proprio"])
    assert_close(actions, values["actions"], **CLOSE)
    assert_close((actions - values["actions_target"]).abs().mean(), values["loss.l1"], **CLOSE)
    wanted = {name.removeprefix("stage.") for name in values if name.startswith("stage.")}
    assert wanted == stages.keys()
    for name in wanted:
        assert_close(stages[name], values[f"stage.{name}"], **CLOSE)


@torch.no_grad()
def test_fewer_tokens_than_image_tokens_leave_no_action_tokens(head):
    model, values, facts = head
    short = values["hidden_states"][:, :, : facts["short_tokens"]]
    assert facts["short_tokens"] < facts["task_tokens"]
    assert_close(model(short, values["proprio"]), values["short.actions"], **CLOSE)


@torch.no_grad()
def test_noise_of_training(head):
    model, values, _ = head
    actions = model(values["hidden_states"], values["proprio"], values["train.perturbation"])
    assert_close(actions, values["train.actions"], **CLOSE)
    assert_close((actions - values["actions_target"]).abs().mean(), values["train.loss.l1"], **CLOSE)


@torch.no_grad()
def test_bfloat16(head):
    model, values, _ = head
    with torch.autocast("cpu", torch.bfloat16):
        actions = model(values["hidden_states"], values["proprio"])
    assert_close(actions.float(), values["bf16.actions"], atol=0.2, rtol=0)


@torch.no_grad()
def test_base_repeats_one_action_and_pro_does_not(head):
    model, values, facts = head
    actions = model(values["hidden_states"], values["proprio"])
    spread = float((actions - actions[:, :1]).abs().max())
    assert_close(spread, facts["measured"]["max_diff_between_chunk_steps_inference"], atol=1e-3, rtol=1e-4)
    assert spread == 0 if model.config.variant == "base" else spread > 1
    noisy = model(values["hidden_states"], values["proprio"], values["train.perturbation"])
    assert float((noisy - noisy[:, :1]).abs().max()) > 1


@torch.no_grad()
def test_hidden_state_0_is_not_read_and_a_closed_gate_still_mixes(head):
    model, values, facts = head
    hidden, before = values["hidden_states"].clone(), model(values["hidden_states"], values["proprio"])
    hidden[:, 0] = torch.nan
    assert torch.equal(model(hidden, values["proprio"]), before)
    for block in model.head.blocks:
        block.gate.zero_()
    closed = model(hidden, values["proprio"])
    hidden[:, :, : facts["task_tokens"]] += 1.0  # the gate scales scores: values of image tokens still come through
    assert float((model(hidden, values["proprio"]) - closed).abs().max()) > 0.01


def test_position_factors_are_not_a_rotation():
    x = torch.randn(1, 1, 5, 8, generator=torch.Generator().manual_seed(0))
    got = turned(x)
    for t in range(5):
        for j in range(8):
            angle = torch.tensor(t * 10000 ** (-2 * (j % 4) / 8))
            partner = -x[0, 0, t, j + 1] if j % 2 == 0 else x[0, 0, t, j - 1]
            assert_close(got[0, 0, t, j], x[0, 0, t, j] * angle.cos() + partner * angle.sin())
    assert float((got.norm(dim=-1) - x.norm(dim=-1)).abs().max()) > 0.1


@pytest.mark.parametrize(
    ("hidden", "proprio", "text"),
    [
        ((2, 4, 9, 32), None, "`proprio`: expected the robot state"),
        ((2, 4, 9, 32), (2, 7), "`proprio`: expected 8 along s, got 7"),
        ((2, 4, 9, 32), (1, 8), "`proprio`: expected 2 along B, got 1"),
        ((2, 3, 9, 32), (2, 8), "`hidden`: expected 4 along layers, got 3"),
        ((2, 4, 9, 33), (2, 8), "`hidden`: expected 32 along D, got 33"),
        ((4, 9, 32), (2, 8), r"`hidden`: expected shape \[B, layers, L, D\]"),
    ],
)
def test_other_shapes_are_refused(hidden, proprio, text):
    model = ReleasedVLA(ReleasedVLAConfig(dim=32, blocks=3, proprio_dim=8))
    refused(text, model, torch.zeros(hidden), None if proprio is None else torch.zeros(proprio))


def test_a_policy_without_proprio():
    model = ReleasedVLA(ReleasedVLAConfig(dim=32, blocks=2, image_tokens=4))
    assert model(torch.randn(2, 3, 9, 32)).shape == (2, 8, 7)
    refused("this policy does not read it", model, torch.zeros(2, 3, 9, 32), torch.zeros(2, 8))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"variant": "plus"}, "`variant`: expected one of base, pro"),
        ({"heads": 5}, "`heads`: expected a divisor of the width 2048, got 5"),
        ({"variant": "pro", "dim": 24}, "each head of an even width"),
        ({"latent_dim": 4}, "`align_hidden`"),
        ({"blocks": 0}, "`blocks`"),
    ],
)
def test_impossible_sizes_are_refused(changes, text):
    refused(text, ReleasedVLAConfig, **changes)


def pooling():
    """Module and values."""
    _, weights, values = fixture("attention_pooling")
    module = ReleasedPooling(len(weights["pooling.query"]))
    module.load_state_dict({"query": weights["pooling.query"]})
    return module, values


@torch.no_grad()
def test_pooling_as_released_is_over_time():
    module, values = pooling()
    assert_close(module(values["tokens"]), values["pooled_as_shipped"], **CLOSE)
    assert values["pooled_as_shipped"].shape == (3, 4, 48)


@torch.no_grad()
def test_alignment():
    facts, weights, values = fixture("latent_align")
    weights = {name.removeprefix("latent_action_head."): tensor for name, tensor in weights.items()}
    module = ReleasedAlign(facts["hidden_dim"], facts["latent_dim"], len(weights["fc1.bias"]))
    module.load_state_dict({name: tensor for name, tensor in weights.items() if not name.startswith("latent_fc")})
    assert_close(module(values["hidden"]), values["projected"], **CLOSE)
