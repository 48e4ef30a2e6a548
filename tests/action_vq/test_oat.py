"""OAT: what published classes compute, registers and prefixes, our own training, what is refused."""

import json
import re
from typing import Any, NamedTuple

import pytest
import safetensors.torch
import torch
from torch import Tensor

from lattok.action_vq.oat import OAT, OATConfig, chances, key_map, oat
from lattok.types import ActionBatch
from tests.errors import refused
from tests.image_lam.parity import close_gradient
from tests.image_lam.published.parity import SHARED, Case, close, open_case


class Converted(NamedTuple):
    """A fixture and the model of its file."""

    case: Case
    model: OAT


@pytest.fixture(params=["oat_a", "oat_b"])
def converted(request) -> Converted:
    case = open_case(request.param)
    return Converted(case, oat(case.folder / "weights.safetensors", case.config["model"]))


@pytest.fixture(scope="module")
def first() -> Case:
    return open_case("oat_a")


def test_codes_latents_and_reconstructions(converted):
    model, values = converted.model, converted.case.values
    out = model.latent_actions(values["actions"])
    assert torch.equal(out.codes, values["tokens"])
    assert torch.equal(model.encode(values["actions"]), values["tokens"])
    close(out.latents, values["latents"])
    close(out.quantized, values["quantized"])
    close(model.decode(out.codes), values["recon"])
    close(model.decode(values["other.tokens"]), values["other.recon"])


def test_stages(converted):
    model, values = converted.model, converted.case.values
    steps, seen = model.horizon, {}

    def watch(module: torch.nn.Module, name: str) -> None:
        module.register_forward_hook(lambda _, inputs, output: seen.update({name: output}))

    seen["stage.normalised"] = model.normalizer(values["actions"])
    watch(model.blocks[-1], "stage.encoder_out")
    watch(model.from_quantized, "stage.decoder_memory_in")
    watch(model.decoder, "stage.decoder_out")
    model.decode(model.encode(values["actions"]))
    assert sorted(seen) == sorted(name for name in values if name.startswith("stage."))
    for name, value in seen.items():
        close(value, values[name][:, steps:] if name == "stage.encoder_out" else values[name])


def test_prefixes(converted):
    model, values = converted.model, converted.case.values
    codes, tokens = values["tokens"], model.tokens_per_chunk
    for k, expected in enumerate(values["prefix.recon"]):
        missing = codes.masked_fill(torch.arange(tokens) >= k, -1)
        with torch.no_grad():
            close(model.normalizer.inverse(model._decode(missing)), expected)
        if k:
            close(model.decode(codes[:, :k]), expected)
            close(model.decode(missing), expected)
    middle = model.normalizer.shift.expand(model.horizon, -1)
    assert all(torch.equal(chunk, middle) for chunk in model.decode(codes[:, :0]))  # never trained, so nothing is said
    mixed = codes.masked_fill(torch.arange(tokens) >= values["mixed.keep_k"][:, None], -1)
    close(model.decode(mixed), values["mixed.recon"])


def test_losses_and_gradients(converted):
    model, values = converted.model, converted.case.values
    batch = ActionBatch(values["actions"], torch.ones(values["actions"].shape[:2], dtype=torch.bool))
    close(model(batch)["reconstruction"], values["eval.loss"])
    loss = model.train()(batch, kept=values["train.keep_k"])["reconstruction"]
    close(loss, values["train.loss"])
    loss.backward()
    gradients = {"encoder.transformer.blocks.0.attn.wk.weight": model.blocks[0].key_value.weight.grad.chunk(2)[0]}
    names = {theirs: ours for ours, theirs in key_map(model.config).items() if isinstance(theirs, str)}
    stored = {name.removeprefix("grad."): value for name, value in values.items() if name.startswith("grad.")}
    assert len(stored) == 8
    for name, value in stored.items():
        close_gradient(gradients[name] if name in gradients else model.get_parameter(names[name]).grad, value)


def test_the_full_size_file_has_the_published_sizes():
    lists = SHARED / "full_size_keys_tokenizers.json"
    if not lists.is_file():
        pytest.skip("the list is not in this checkout")
    shapes = json.loads(lists.read_text())["oat_libero"]
    names = key_map(OATConfig(action_dim=7, horizon=32))
    with torch.device("meta"):
        ours = OAT(OATConfig(action_dim=7, horizon=32)).saved_tensors()
        theirs = {name: torch.empty(shape) for name, shape in shapes.items()}
    used = set()
    for name, tensor in ours.items():
        if name.startswith("limits."):
            continue
        source = names[name]
        keys = (source,) if isinstance(source, str) else source.keys
        used |= set(keys)
        made = theirs[source] if isinstance(source, str) else source.make(*(theirs[key] for key in keys))
        assert made.shape == tensor.shape, name
    left = theirs.keys() - used
    assert all(name == "_dummy_variable" or "input_stats" in name or "posembs" in name for name in left)


# Refusals.


def write(tmp_path, tensors: dict[str, Tensor]):
    path = tmp_path / "file.safetensors"
    safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path


def settings_of(case: Case, **changes: Any) -> dict[str, Any]:
    """The fixture's settings with others, "decoder.head_dim" as decoder__head_dim; None takes one away."""
    settings = {group: dict(values) for group, values in case.config["model"].items()}
    for name, value in changes.items():
        group, name = name.split("__")
        settings[group] = {k: v for k, v in {**settings[group], name: value}.items() if v is not None}
    return settings


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"quantizer__levels": None}, "`config`: expected the setting quantizer.levels, which weights do not tell"),
        ({"quantizer__levels": [8, 5, 5]}, "encoder.head.proj.weight has shape [4, 24], expected [3, 24]"),
        ({"encoder__head_dim": 7, "decoder__head_dim": 7}, "`encoder.head_dim`"),
        ({"decoder__head_dim": 12}, "`decoder.head_dim`"),
        ({"decoder__use_causal_decoder": "yes"}, "`decoder.use_causal_decoder`"),
        ({"decoder__token_dropout_mode": "uniform_pow2"}, "`nested_dropout`"),
    ],
)
def test_settings_that_make_no_sense_are_named(first, changes, text):
    refused(re.escape(text), lambda: oat(first.folder / "weights.safetensors", settings_of(first, **changes)))


def test_positions_tell_the_steps_and_are_the_published_ones(first, tmp_path):
    settings, tensors = first.config["model"], safetensors.torch.load_file(first.folder / "weights.safetensors")
    short = {name: tensor for name, tensor in tensors.items() if name != "encoder.pos_emb.posembs"}
    refused("encoder.pos_emb.posembs, which tells how many steps a", lambda: oat(write(tmp_path, short), settings))
    double = {name: tensor.double() if name.endswith("posembs") else tensor for name, tensor in tensors.items()}
    assert oat(write(tmp_path, double), settings).config.horizon == first.values["actions"].shape[1]
    known = {name: tensor for name, tensor in tensors.items() if name != "decoder.latent_pos_emb.posembs"}
    assert oat(write(tmp_path, known), settings).config.tokens == 8
    tensors["decoder.latent_pos_emb.posembs"] += 0.1
    refused("sines and cosines of 8 places as", lambda: oat(write(tmp_path, tensors), settings))


def test_a_tokenizer_inside_a_training_state(first, tmp_path):
    tensors = safetensors.torch.load_file(first.folder / "weights.safetensors")
    state = {"weights": {f"ema.{name}": tensor for name, tensor in tensors.items()}, "epoch": 3}
    state["weights"]["model.something"] = torch.ones(2)
    torch.save(state, tmp_path / "state.ckpt")
    found = oat(tmp_path / "state.ckpt", first.config["model"], entry="weights", prefix="ema.")
    assert torch.equal(found.encode(first.values["actions"]), first.values["tokens"])


# What it is, with weights of our own.


def test_a_register_sees_every_action_and_no_register_after_it():
    torch.manual_seed(0)
    model = OAT(OATConfig(action_dim=3, horizon=6, tokens=4, dim=16, heads=2, encoder_depth=3, decoder_depth=1)).eval()
    actions = torch.randn(1, 6, 3, requires_grad=True)
    latents = model._latents(actions)
    for i in range(4):
        of_actions, of_registers = torch.autograd.grad(
            latents[0, i].sum(), (actions, model.registers), retain_graph=True
        )
        assert bool((of_actions.abs().sum(-1) > 0).all())
        assert (of_registers.abs().sum(-1) > 0).tolist() == [j <= i for j in range(4)]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("pow2", [1, 1, 0, 1, 0, 0]),
        ("uniform", [1, 1, 1, 1, 1, 1]),
        ("linear_biased", [1, 2, 3, 4, 5, 6]),
        ("quadratic_biased", [1, 4, 9, 16, 25, 36]),
        ("cubic_biased", [1, 8, 27, 64, 125, 216]),
        ("disable", [0, 0, 0, 0, 0, 0]),
    ],
)
def test_how_many_tokens_are_kept(kind, expected):
    """All of them always can be: otherwise the last ones of six would never learn by powers of two."""
    expected[-1] = max(1, expected[-1])
    assert chances(kind, 6).tolist() == expected


def test_the_decoder_gets_a_drawn_number_of_tokens_in_training_alone():
    torch.manual_seed(0)
    model = OAT(OATConfig(action_dim=3, horizon=6, tokens=4, dim=16, heads=2, dropout=0.0, nested_dropout="uniform"))
    quantized = model.grid.quantize(torch.randn(1, 4, 4)).expand(200, -1, -1)
    with torch.no_grad():
        prefixes = torch.cat([model._actions(quantized[:1], torch.tensor([k])) for k in range(1, 5)])
        drawn = model.train()._actions(quantized)
        full = model.eval()._actions(quantized[:1])
    which = (drawn[:, None] - prefixes).flatten(2).norm(dim=-1).min(1)
    assert float(which.values.max()) < 1e-5
    assert torch.bincount(which.indices, minlength=4).min() > 30
    close(full, prefixes[3:])
