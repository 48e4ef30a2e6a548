"""Published models, converted, compute what the published implementation computes (tests/parity/README.md)."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import lattok
from lattok.image_lam import ImageLAM, PairLearner
from lattok.types import LatentActions
from tests.image_lam.parity import STAGE2, Case, close, close_gradient, foreign_gradients, losses, open_case, total
from tests.image_lam.published.parity import PLACES

COPIED = ("univla_stage2", "image_lam_stage1")


@pytest.fixture(params=STAGE2)
def case(request) -> Case:
    return open_case(request.param)


@pytest.fixture
def stage1() -> Case:
    return open_case("image_lam_stage1")


def watch(learner: PairLearner[ImageLAM]) -> dict[str, Tensor]:
    """Intermediate values by their stored names, filled by the next pass."""
    seen: dict[str, Tensor] = {}
    model = learner.lam

    def after(module: torch.nn.Module, name: str) -> None:
        module.register_forward_hook(lambda _, inputs, output: seen.update({name: output}))

    def before(module: torch.nn.Module, name: str) -> None:
        module.register_forward_hook(lambda _, inputs, output: seen.update({name: inputs[0]}))

    after(model.encoder.embed, "encoder_embed")
    after(model.encoder.blocks[0], "encoder_block0")
    after(model.encoder.blocks[-1], "encoder_out")
    before(model.decoder.embed, "decoder_input_tokens")
    after(model.decoder.blocks[0], "decoder_block0")
    if learner.action_head is not None:
        before(learner.action_head.net, "action_head_input")
        after(learner.action_head.net, "action_head_output")
    return seen


def close_stages(seen: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert seen.keys() == expected.keys()
    for name, value in seen.items():
        close(value.reshape(expected[name].shape), expected[name])  # the decoder has one frame: published [B, 1, n, D]


def stored(values: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}


def test_the_small_fixtures_come_with_every_clone():
    assert all((PLACES[0] / name / "io.safetensors").is_file() for name in COPIED)


# Stage 2: control and environment.


def test_sizes_and_settings_follow(case):
    found, facts = case.converted().config, case.config
    assert (found.streams, found.language, found.encoder.name) == ("control+env", None, "spacetime")
    assert (found.width, found.latent_dim, found.tokens) == (facts["model_dim"], facts["latent_dim"], 4)
    assert (found.codebook_size, found.env_codebook_size) == (16, 16)
    assert (found.encoder.depth, found.decoder.depth, found.heads) == (2, 2, facts["heads"])
    assert (found.loss.commitment, found.codebook.update, found.codebook.revive_below) == (
        facts["vq_beta"],
        "gradient",
        0.0,
    )


def test_codes_latents_and_quantized_vectors_of_both_streams(case):
    model, values = case.converted(), case.values
    out = model.encode_features(values["features"])
    for stream, got in (("control", out), ("env", out.env)):
        assert torch.equal(got.codes, values[f"indices.{stream}"])
        assert torch.equal(got.quantized, values[f"quantized.{stream}"])
        close(got.latents, values[f"latents.{stream}"])
    for stream, encoded in zip(("control", "env"), model._quantized(model.encoder(values["features"])), strict=True):
        close(encoded.vectors[:, None], values[f"straight_through_value.{stream}"])


def test_predicted_features(case):
    model, values = case.converted(), case.values
    out = model.encode_features(values["features"])
    close(model.predict(values["features"][:, 0], out)[:, None], values["recon"])
    if "decode_from_codes" in values:
        close(model.predict(values["features"][:, 0], from_codes(model, values)), values["decode_from_codes"])


def from_codes(model: ImageLAM, values: dict[str, Tensor]) -> LatentActions:
    """Latent actions of which only the codes are known."""
    streams = {}
    for name, stream in (("control", model.control), ("env", model.env)):
        codes = values[f"indices.{name}"]
        streams[name] = LatentActions(codes, torch.empty(0), stream.quantizer.lookup(codes))
    return replace(streams["control"], env=streams["env"])


def test_stages(case):
    learner, values = case.learner(), case.values
    seen, actions, rows = watch(learner), values.get("actions"), values.get("action_rows")
    losses(learner, values["features"], actions, rows)
    close_stages(seen, stored(values, "stage."))


def test_the_norms_epsilon(case):
    out = case.converted().encode_features(case.values["features"] * 0.003)
    close(out.latents, case.values["small_scale.latents.control"])
    close(out.env.latents, case.values["small_scale.latents.env"])


@pytest.mark.parametrize("image_size", [16, 32, 224])
def test_any_number_of_patches_whatever_the_image_size_says(case, image_size):
    """Positions are a rule, not weights: precomputed features may have another grid than the model's own frames."""
    model, values = case.converted(features="pixels", image_size=image_size), case.values
    out = model.encode_features(values["features"])
    assert torch.equal(out.codes, values["indices.control"])
    assert torch.equal(out.env.codes, values["indices.env"])
    close(out.latents, values["latents.control"])
    close(model.predict(values["features"][:, 0], out)[:, None], values["recon"])


def test_with_every_default(case):
    out = case.converted(stride="32").encode_features(case.values["features"])
    assert torch.equal(out.codes, case.values["indices.control"])


@pytest.mark.parametrize("block", [1, 2])
def test_codes_do_not_depend_on_the_batch(case, block):
    model = case.converted()
    parts = [model.encode_features(part) for part in case.values["features"].split(block)]
    assert torch.equal(torch.cat([part.codes for part in parts]), case.values["indices.control"])
    assert torch.equal(torch.cat([part.env.codes for part in parts]), case.values["indices.env"])


TERMS = {
    "prediction": "recon",
    "codebook": "codebook_control",
    "commitment": "commit_control",
    "codebook_env": "codebook_env",
    "commitment_env": "commit_env",
    "action": "action",
}


def test_every_loss_and_the_gradients(case):
    learner, values = case.learner(), case.values
    terms = losses(learner, values["features"], values.get("actions"), values.get("action_rows"))
    assert terms.keys() == {ours for ours, theirs in TERMS.items() if f"loss.{theirs}" in values}
    for ours, term in terms.items():
        close(term, values[f"loss.{TERMS[ours]}"])
    loss = total(learner.lam, terms, case.config.get("action_beta", 1.0))
    close(loss, values["loss.total"])
    loss.backward()
    gradients, expected = foreign_gradients(learner), stored(values, "grad.")
    assert len(expected) >= 8
    for name, value in expected.items():
        close_gradient(gradients[name], value)
    assert "lam.vq.codebook.weight" not in gradients  # frozen


def test_training_does_not_move_the_codebooks_by_itself(case):
    model = case.converted()
    before = [model.control.quantizer.codebook_vectors[0].clone(), model.env.quantizer.codebook_vectors[0].clone()]
    losses(PairLearner(model), case.values["features"])
    after = [model.control.quantizer.codebook_vectors[0], model.env.quantizer.codebook_vectors[0]]
    assert all(torch.equal(first, second) for first, second in zip(before, after, strict=True))


@pytest.mark.parametrize(("rows", "ending"), [(True, "all_rows"), (False, "no_rows")])
def test_action_labels_of_all_rows_and_of_none(rows, ending):
    case = open_case("image_lam_stage2")
    learner, values = case.learner(), case.values
    labelled = torch.full_like(values["action_rows"], rows)
    terms = losses(learner, values["features"], values["actions"], labelled)
    close(terms["action"], values[f"loss.action_{ending}"])
    close(total(learner.lam, terms, case.config["action_beta"]), values[f"loss.total_{ending}"])


# Stage 1: one stream, language.


def words(case: Case, mask: str) -> dict[str, Tensor]:
    return {"text": case.values["lang_features"], "text_mask": case.values[f"lang_mask_{mask}"]}


def test_sizes_and_settings_of_stage_1(stage1):
    found = stage1.converted().config
    assert (found.streams, found.language, found.language_dim) == ("control", "t5:google-t5/t5-base", 768)
    assert (found.action.head, found.action.steps) == ("codes", 8)


@pytest.mark.parametrize(("name", "mask"), [("full", "full"), ("aligned", "ragged")])
def test_stage_1_codes_latents_and_predicted_features(stage1, name, mask):
    model, values = stage1.converted(), stage1.values
    out = model.encode_features(values["features"], **words(stage1, mask))
    assert torch.equal(out.codes, values[f"{name}.indices"])
    assert torch.equal(out.quantized, values[f"{name}.quantized"])
    close(out.latents, values[f"{name}.latents"])
    predicted = model.predict(values["features"][:, 0], out, **words(stage1, mask))
    close(predicted[:, None], values[f"{name}.recon"])
    assert out.env is None


def test_texts_of_different_length_use_their_own_masks_which_the_published_code_mixes_up(stage1):
    values = stage1.values
    ours = stage1.converted().encode_features(values["features"], **words(stage1, "ragged")).latents
    assert (ours - values["ragged.latents"]).abs().amax((1, 2)).min() > 0.1
    close(ours, values["aligned.latents"])


def test_a_mask_of_ones_is_no_mask(stage1):
    model, values = stage1.converted(), stage1.values
    masked = model.encode_features(values["features"], **words(stage1, "full"))
    assert torch.equal(masked.latents, model.encode_features(values["features"], values["lang_features"]).latents)


def test_stages_of_stage_1(stage1):
    learner, values = PairLearner(stage1.converted()), stage1.values
    seen = watch(learner)
    losses(learner, values["features"], **words(stage1, "full"))
    close_stages(seen, stored(values, "full.stage."))


def test_every_loss_and_the_gradients_of_stage_1(stage1):
    learner, values = stage1.learner(), stage1.values
    terms = losses(learner, values["features"], values["actions"], values["action_rows"], **words(stage1, "full"))
    for ours, theirs in (("prediction", "recon"), ("codebook", "codebook"), ("commitment", "commit")):
        close(terms[ours], values[f"full.loss.{theirs}"])
    close(terms["action"], values["full.loss.action"])
    close(total(learner.lam, terms, 0.0), values["full.loss.total_without_action"])
    loss = total(learner.lam, terms, stage1.config["action_beta"])
    close(loss, values["full.loss.total"])
    loss.backward()
    gradients, expected = foreign_gradients(learner), stored(values, "full.grad.")
    assert len(expected) == 4
    for name, value in expected.items():
        close_gradient(gradients[name], value)


# The artefact.


def test_saved_and_loaded_it_still_gives_the_same_codes(case, tmp_path):
    case.converted().save_pretrained(tmp_path / "lam")
    model = lattok.load(tmp_path / "lam")
    out = model.encode_features(case.values["features"])
    assert torch.equal(out.codes, case.values["indices.control"])
    assert torch.equal(out.env.codes, case.values["indices.env"])
    assert [int(stream.quantizer.steps) for stream in (model.control, model.env)] == [1, 1]
