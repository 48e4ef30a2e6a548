"""Published checkpoints, converted, compute what the published implementation computes (tests/parity/README.md)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import safetensors.torch
import torch
from torch import Tensor

from lattok.action_vq import P2TActionVQ
from lattok.action_vq.p2t import key_map, p2t_action_vq
from lattok.nn.quantize import QuantizerConfig, VectorQuantizer
from lattok.types import ActionBatch
from tests.action_vq import plain
from tests.action_vq.plain import Facts
from tests.image_lam.parity import close_gradient
from tests.image_lam.published.parity import PLACES, close, open_case
from tests.image_lam.published.parity import Case as Fixture

SMALL = ("action_tokenizer_h20_m7", "action_tokenizer_h25_m14")
NAMES = (*SMALL, "action_tokenizer_h8_m7")
EMA = {"vectors": "embedding", "cluster_sum": "ema_w", "cluster_size": "cluster_size"}


class Case(Fixture):
    """One fixture."""

    def converted(self, **options: Any) -> P2TActionVQ:
        facts = {"heads": self.config["transformer_heads"], "dilations": self.config["conv_dilations"]}
        file = self.folder / "weights.safetensors"
        return p2t_action_vq(file, self.config["horizon"], **facts, dropout=0.0, **options)

    def trained(self, **options: Any) -> tuple[P2TActionVQ, dict[str, Tensor]]:
        """The model in training mode after one pass with the stored mask, and the loss terms of that pass."""
        model = self.converted(**options).train()
        return model, model(everything_valid(self.values["actions"]), masked=self.values["train.mask"])


def everything_valid(actions: Tensor) -> ActionBatch:
    return ActionBatch(actions, torch.ones(actions.shape[:2], dtype=torch.bool))


@pytest.fixture(params=NAMES)
def case(request) -> Case:
    return Case(*open_case(request.param))


def foreign_gradients(model: P2TActionVQ) -> dict[str, Tensor]:
    """Gradient of every parameter, by its published name."""
    names = key_map(model.config)
    return {names[name]: parameter.grad for name, parameter in model.named_parameters()}


def total_loss(model: P2TActionVQ, terms: dict[str, Tensor]) -> Tensor:
    return sum(model.config.loss_weights[name] * term for name, term in terms.items())


def test_the_small_fixtures_come_with_every_clone():
    assert all((PLACES[0] / name / "weights.safetensors").is_file() for name in SMALL)


def test_sizes_follow_from_the_shapes(case):
    found, stored = case.converted().config, case.config
    assert (found.action_dim, found.horizon) == (stored["action_dim"], stored["horizon"])
    assert (found.dim, found.codebook_size) == (stored["hidden_dim"], stored["codebook_size"])
    assert (found.depth, found.hidden) == (stored["transformer_layers"], stored["transformer_ff"])
    assert (found.fft, found.decay) == (True, stored["ema_decay"])
    assert (found.commitment_weight, found.mask_ratio) == (stored["commit_weight"], stored["mask_ratio"])


def test_stages(case):
    model, seen = case.converted(), {}

    def watch(module: torch.nn.Module, name: str, of: Callable[[tuple[Tensor, ...], Tensor], Tensor]) -> None:
        module.register_forward_hook(lambda _, inputs, output: seen.update({name: of(inputs, output)}))

    encoder = model.encoder
    watch(encoder.project, "stage.augmented_input", lambda inputs, _: inputs[0])
    watch(encoder.project, "stage.in_proj", lambda _, output: output)
    watch(encoder.convs[0], "stage.conv1_preact", lambda _, output: output)
    watch(encoder.convs[1], "stage.conv2_preact", lambda _, output: output)
    watch(encoder.transformer[0], "stage.conv_out", lambda inputs, _: inputs[0])
    watch(encoder.transformer[0], "stage.transformer_layer0", lambda _, output: output)
    close(encoder(case.values["actions"]), case.values["latents"])
    assert seen.keys() == {name for name in case.values if name.startswith("stage.")}
    for name, value in seen.items():
        close(value, case.values[name])


def test_codes_latents_and_reconstruction(case):
    model, values = case.converted(), case.values
    assert model.quantizer.steps == 1
    out = model.latent_actions(values["actions"])
    assert torch.equal(out.codes, values["indices"])
    assert torch.equal(model.encode(values["actions"]), values["indices"])
    assert torch.equal(out.quantized, values["quantized"])
    close(out.latents, values["latents"])
    close(model.quantizer(out.latents).vectors, values["quantized_straight_through_value"])
    close(model.decode(out.codes), values["recon"])
    book = model.quantizer.codebook_vectors[0]
    near = (out.latents[:, :, None] - book).square().sum(-1).sqrt().topk(2, largest=False)[0]
    close(near, values["distance_top2"])


def test_codes_do_not_depend_on_the_batch(case):
    model = case.converted()
    parts = [model.encode(part) for part in case.values["actions"].split(1)]
    assert torch.equal(torch.cat(parts), case.values["indices"])


def test_losses_without_a_mask(case):
    nothing = torch.zeros_like(case.values["train.mask"])
    batch = everything_valid(case.values["actions"])
    for passes, mask in ((1, nothing), (2, nothing), (2, case.values["train.mask"])):
        terms = case.converted(mask_passes=passes).train()(batch, masked=mask)
        close(terms["reconstruction"], case.values["loss.recon_unmasked"])
        close(terms["commitment"], case.values["loss.commit_unmasked"])


def test_training_pass(case):
    model, terms = case.trained()
    values = case.values
    for ours, theirs in {"reconstruction": "recon", "commitment": "commit", "mask": "mask"}.items():
        close(terms[ours], values[f"train.loss.{theirs}"])
    close(total_loss(model, terms), values["train.loss.total"])


def test_values_of_the_training_pass(case):
    model, values = case.converted(), case.values
    damaged = model.encoder(values["actions"]).masked_fill(values["train.mask"][..., None], 0.0)
    quantized = model.quantizer(damaged)
    close(damaged, values["train.latents_masked"])
    assert torch.equal(quantized.codes, values["train.indices"])
    assert torch.equal(model.quantizer.lookup(quantized.codes), values["train.quantized"])
    close(quantized.vectors, values["train.quantized_straight_through_value"])
    close(model.decoder(quantized.vectors), values["train.recon"])
    close(model.encoder(model.decoder(quantized.vectors)), values["train.latents_of_recon"])


def test_gradients(case):
    model, terms = case.trained()
    total_loss(model, terms).backward()
    gradients = foreign_gradients(model)
    stored = {name.removeprefix("train.grad."): v for name, v in case.values.items() if name.startswith("train.grad.")}
    assert len(stored) == 7
    for name, value in stored.items():
        close_gradient(gradients[name], value)
    assert sorted(gradients) == case.config["grad_norm_order"]
    norms = torch.stack([gradients[name].norm() for name in case.config["grad_norm_order"]])
    close_gradient(norms, case.values["train.grad_norm"])


def test_moving_averages(case):
    model, _ = case.trained()
    book, values = model.quantizer.codebooks[0], case.values
    for ours, theirs in EMA.items():
        close(getattr(book, ours), values[f"ema.after1.{theirs}"])
    model.quantizer(values["train.latents_masked"])
    close(book.vectors, values["ema.after2.embedding"])
    close(book.cluster_size, values["ema.after2.cluster_size"])
    codes = model.eval().quantizer(values["latents"]).codes
    assert torch.equal(codes, values["ema.after2.eval_indices"])
    close(model.quantizer.lookup(codes), values["ema.after2.eval_quantized"])


def test_moving_averages_of_a_new_quantizer():
    """Formula only: unused codes fly out to about 1e5, which is why lattok does not start like this."""
    values = open_case("action_tokenizer_h25_m14").values
    size, dim = values["ema_fresh.before.embedding"].shape
    quantizer = VectorQuantizer(QuantizerConfig(dim, size, start="normal", revive_below=0.0))
    book = quantizer.codebooks[0]
    for ours, theirs in EMA.items():
        getattr(book, ours).copy_(values[f"ema_fresh.before.{theirs}"])
    codes = quantizer.train()(values["latents"]).codes
    assert torch.equal(codes, values["ema_fresh.indices"])
    for ours, theirs in EMA.items():
        close(getattr(book, ours), values[f"ema_fresh.after.{theirs}"])


# Shapes that no fixture has, against plain.py in float64.

SHAPES = {
    "one step": Facts(horizon=1),
    "one action dimension": Facts(horizon=5, action_dim=1),
    "many dimensions, long chunk": Facts(horizon=33, action_dim=9),
    "shorter than the reach of the convolutions": Facts(horizon=3, action_dim=2, dim=24, heads=3),
    "no spectrum": Facts(horizon=6, action_dim=4, fft=False),
    "other depth and convolutions": Facts(horizon=12, depth=1, dilations=(3, 1), heads=1, hidden=24),
    "published size": Facts(horizon=8, dim=128, codes=256, hidden=256),
    "published size, RoboTwin": Facts(horizon=25, action_dim=14, dim=128, codes=256, hidden=256),
}


class Pair(NamedTuple):
    """Random weights in plain float64, and the same converted."""

    facts: Facts
    weights: dict[str, Tensor]
    model: P2TActionVQ
    actions: Tensor
    masked: Tensor


@pytest.fixture(params=[(name, size) for name in SHAPES for size in (1, 7)], ids=lambda p: f"{p[0]}, batch {p[1]}")
def pair(request, tmp_path, monkeypatch) -> Pair:
    name, size = request.param
    facts, draw = SHAPES[name], torch.Generator().manual_seed(size)
    stored = plain.random_weights(plain.shapes(facts), seed=size)
    safetensors.torch.save_file(stored, tmp_path / "weights.safetensors")
    given = {"heads": facts.heads, "dilations": facts.dilations, "dropout": 0.0}
    model = p2t_action_vq(tmp_path / "weights.safetensors", facts.horizon, **given)
    weights = {name: weight.double() for name, weight in stored.items()}
    while True:
        masked = torch.rand(size, facts.horizon, generator=draw) < 0.3
        masked[0, 0] = True
        actions = torch.randn(size, facts.horizon, facts.action_dim, generator=draw)
        if not rounding_decides(weights, facts, actions, masked, monkeypatch):
            return Pair(facts, weights, model, actions, masked)


def rounding_decides(
    weights: dict[str, Tensor], facts: Facts, actions: Tensor, masked: Tensor, monkeypatch: pytest.MonkeyPatch
) -> bool:
    """Whether a ReLU lies so near its kink, or a code so near another one, that float32 may decide otherwise."""
    before = []
    with monkeypatch.context() as patch:
        patch.setattr(plain, "relu", lambda x: (before.append(float(x.abs().min())), x.clamp_min(0))[1])
        plain.losses(weights, facts, actions.double(), masked)
    latents = plain.encode(weights, facts, actions.double())
    near = plain.distances(weights, torch.cat([latents, latents * ~masked[..., None]])).topk(2, largest=False)[0]
    return min(before) < 3e-6 or float(((near[..., 1] - near[..., 0]) / near[..., 1]).min()) < 1e-4


def test_other_shapes_encode_and_decode(pair):
    latents = plain.encode(pair.weights, pair.facts, pair.actions.double())
    codes = plain.distances(pair.weights, latents).argmin(-1)
    out = pair.model.latent_actions(pair.actions)
    close(out.latents, latents.float())
    assert torch.equal(out.codes, codes)
    close(pair.model.decode(codes), plain.decode(pair.weights, pair.weights["vq.embedding"][codes]).float())


def test_other_shapes_train(pair):
    for name, weight in pair.weights.items():
        weight.requires_grad_(not name.startswith("vq."))
    expected = plain.losses(pair.weights, pair.facts, pair.actions.double(), pair.masked)
    terms = pair.model.train()(everything_valid(pair.actions), masked=pair.masked)
    for name, term in terms.items():
        close(term, expected[name].detach().float())
    total_loss(pair.model, expected).backward()
    total_loss(pair.model, terms).backward()
    for name, gradient in foreign_gradients(pair.model).items():
        close_gradient(gradient, pair.weights[name].grad.float())
    with torch.no_grad():
        latents = plain.encode(pair.weights, pair.facts, pair.actions.double()) * ~pair.masked[..., None]
        after = plain.moving_average(pair.weights, latents)
    for ours, theirs in EMA.items():
        close(getattr(pair.model.quantizer.codebooks[0], ours), after[f"vq.{theirs}"].float())
