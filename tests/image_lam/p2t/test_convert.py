"""Conversion of published latent action models as a user meets it: names, sizes, facts, the command, refusals."""

import json
import re
from pathlib import Path

import pytest
import safetensors.torch
import torch

import lattok
from lattok.cli import main
from lattok.convert import p2t_image_lam, univla_lam
from lattok.hub.checkpoint import read_checkpoint
from lattok.image_lam import ImageLAMConfig
from lattok.utils import checks
from lattok.utils.options import flat
from tests.errors import refused
from tests.image_lam.backbones import local_timm
from tests.image_lam.plain import PUBLISHED, Facts, random_weights, shapes

PARITY = Path(__file__).parents[2] / "parity"
SHARED = Path(__file__).parents[4] / "shared" / "parity" / "full_size_keys.json"
FIXTURE = PARITY / "univla_stage2"
UNIVLA = FIXTURE / "checkpoint.ckpt"
STAGE1 = PARITY / "image_lam_stage1" / "weights.safetensors"
PIXELS = {"features": "pixels", "image_size": 64}  # as wide as the published features, no weights
FLAGS = ["--features", "pixels", "--image-size", "64"]


def write(folder, weights, name="file.safetensors"):
    if name.endswith(".ckpt"):
        torch.save(weights, folder / name)
    else:
        safetensors.torch.save_file(weights, folder / name)
    return folder / name


@pytest.fixture
def weights():
    return read_checkpoint(UNIVLA, "state_dict")


@pytest.fixture
def features():
    return safetensors.torch.load_file(FIXTURE / "io.safetensors")["features"]


def key_lists():
    """Every key and shape of the full-size files, by stage."""
    lists = json.loads((PARITY / "image_lam_keys.json").read_text())
    return {
        int(name[-1]): {key.replace("{12}", str(i)): shape for key, shape in keys.items() for i in range(copies(key))}
        for name, keys in lists.items()
    }


def copies(key):
    return 12 if "{12}" in key else 1


def same(first, second):
    return first.describe()["weights_sha256"] == second.describe()["weights_sha256"] and first.config == second.config


def is_frozen(key):
    return key.startswith(("lam.dino_encoder.", "lam.text_encoder."))


# Names and shapes.


@pytest.mark.parametrize("stage", [1, 2])
def test_the_plain_model_has_the_tensors_of_the_full_size_files(stage):
    wanted = {key: shape for key, shape in key_lists()[stage].items() if not is_frozen(key)}
    actions = (32, 7) if "action_decoder.0.weight" in wanted else None
    assert shapes(PUBLISHED._replace(stage=stage, actions=actions)) == wanted


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("actions", [None, (32, 7)])
@pytest.mark.parametrize("shared", ["both", "shared", "embed_tokens"])
def test_every_key_of_the_full_size_files_is_recognised(stage, actions, shared, tmp_path):
    facts = Facts(stage=stage, encoder_depth=12, decoder_depth=12, width=8, heads=2, actions=actions)
    small = random_weights(shapes(facts))
    other = {"shared": "encoder.embed_tokens.weight", "embed_tokens": "text_encoder.shared.weight"}.get(shared, "-")
    small |= {key: torch.zeros(1) for key in key_lists()[stage] if is_frozen(key) and not key.endswith(other)}
    config = univla_lam(write(tmp_path, small), 2, **PIXELS).config
    published = ImageLAMConfig.of(cameras=("image",))
    for field in ("encoder_depth", "decoder_depth", "tokens", "codebook_size", "env_codebook_size", "stride"):
        assert flat(config)[field] == flat(published)[field], field
    assert config.streams == ("control" if stage == 1 else "control+env")
    assert (config.action.head, config.action.steps) == (("latents", 1) if actions is None else ("codes", 32))


def test_the_key_lists_are_the_shared_ones():
    if not SHARED.is_file():
        pytest.skip("the full list is not in this checkout")
    lists = {name: keys for name, keys in json.loads(SHARED.read_text()).items() if name.startswith("image_lam")}
    assert {int(name.removeprefix("image_lam_stage")[0]): keys for name, keys in lists.items()} == key_lists()


def test_heads_that_nothing_tells_are_said(tmp_path, capsys):
    path = write(tmp_path, random_weights(shapes(Facts(width=24, heads=12))))
    checks.note.cache_clear()
    univla_lam(path, heads=6)
    assert capsys.readouterr().err == ""
    univla_lam(path)
    told = f"note: {path.name} does not tell heads=12: taken as published, though other values fit its tensors too\n"
    assert capsys.readouterr().err == told


def test_nested_flattened_and_stripped_files_give_the_same_model(weights, tmp_path):
    first = univla_lam(UNIVLA, 3, **PIXELS)
    for other in (weights, {name.removeprefix("lam."): tensor for name, tensor in weights.items()}):
        assert same(first, univla_lam(str(write(tmp_path, other)), 3, **PIXELS))
    assert isinstance(first, lattok.ImageLAM)
    assert not first.training


def test_every_tensor_arrives(weights):
    ours = univla_lam(UNIVLA, 3, **PIXELS).saved_tensors()
    for name, tensor in weights.items():
        rows = tensor[0, 0] if "action_latent" in name else tensor
        places = [other for other in ours.values() if other.ndim == rows.ndim and other.shape[1:] == rows.shape[1:]]
        parts = [part for other in places for part in other.split(len(rows)) if other.ndim]
        assert sum(torch.equal(rows, part) for part in parts) == 1, name


# What does not fit.


@pytest.mark.ci
@pytest.mark.parametrize("stage", [1, 2])
def test_no_tensor_may_be_missing_or_of_another_shape(stage, tmp_path):
    facts = Facts(stage=stage, encoder_depth=1, decoder_depth=1, width=8, heads=2, actions=(2, 3))
    whole = random_weights(shapes(facts))
    for name, tensor in whole.items():
        if name.startswith("action_decoder."):
            continue  # left out
        rest = {key: value for key, value in whole.items() if key != name}
        refused(re.escape(f"missing {name}"), p2t_image_lam, write(tmp_path, rest), 2, 3, **PIXELS)
        if name in {"lam.action_latent", "lam.to_codebook.weight", "lam.lang_proj.weight"} or "codebook.weight" in name:
            continue  # these say how large the model is
        longer = torch.cat([tensor, tensor[:1]])
        refused("has shape", p2t_image_lam, write(tmp_path, {**rest, name: longer}), 2, 3, **PIXELS)


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ({"heads": 4}, "`heads`"),
        ({"heads": 0}, "`heads`"),
        ({"cameras": ("front", "wrist")}, "`cameras`"),
        ({"stride": "soon"}, "`stride`"),
        ({"image_size": 60}, "`image_size`"),
        ({"features": "clip"}, "`features`"),
    ],
)
def test_impossible_facts_are_said(facts, text):
    refused(re.escape(text), univla_lam, UNIVLA, **{"heads": 3, **PIXELS, **facts})


def test_heads_that_do_not_divide_the_width(weights, tmp_path):
    refused("`heads`", lambda: univla_lam(write(tmp_path, weights), **PIXELS))


def test_other_features_than_the_model_was_trained_on(tmp_path):
    name = local_timm(tmp_path / "vit", "vit_tiny_patch16_224", embed_dim=24, depth=1, num_heads=2)
    text = f"`features`: expected 768 channels, as in the file, got 24. It was trained on other features than {name}."
    refused(re.escape(text), univla_lam, UNIVLA, 3, features=name, image_size=64)


def test_an_action_head_of_other_dimensions():
    refused("`action_dim`", p2t_image_lam, STAGE1, 4, action_dim=6, **PIXELS)
    config = p2t_image_lam(STAGE1, 4, action_dim=14, features="pixels", image_size=48).config
    assert (config.action.head, config.action.target, config.action.steps) == ("codes", "chunk", 4)


# Afterwards.


def test_training_goes_on_as_published(features):
    model = univla_lam(UNIVLA, 3, **PIXELS)
    config = model.config
    assert (config.codebook.update, config.codebook.start, config.codebook.continuous_steps) == (
        "gradient",
        "uniform",
        0,
    )
    assert (config.loss.commitment, config.encoder.name) == (0.25, "spacetime")
    assert [int(stream.quantizer.steps) for stream in (model.control, model.env)] == [1, 1]
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert "env.quantizer.codebooks.0.vectors" not in trained
    assert "control.quantizer.codebooks.0.vectors" in trained


def test_a_stage_1_model_gives_stage_2_its_codebook(tmp_path):
    first = univla_lam(write(tmp_path, random_weights(shapes(Facts(stage=1)))), 3, **PIXELS, language="precomputed")
    second = univla_lam(write(tmp_path, random_weights(shapes(Facts()), seed=1)), 3, **PIXELS)
    second.take_environment(first)
    assert torch.equal(second.env.quantizer.codebook_vectors[0], first.control.quantizer.codebook_vectors[0])


# The command.


def test_the_command_writes_what_python_gives(tmp_path, capsys, features):
    out = tmp_path / "lam"
    assert main(["convert", "univla-lam", str(UNIVLA), str(out), "--heads", "3", *FLAGS]) == 0
    assert capsys.readouterr().out == (
        "Found: stage 2, 16 codes of the environment, 4 codes of 16, latents of width 32, 0.14 M parameters, frames of "
        "64 pixels, 2 + 2 blocks of width 30, features pixels; taken as given: heads 3, action_dim 7, cameras image, "
        "stride 32, features pixels, image_size 64, language t5:google-t5/t5-base.\n"
        "Stage 1 reads instructions and cannot annotate. The published names of stage 2 are crossed: vq and "
        "action_latent are the environment's.\n"
        f"Saved in {out}. Evaluate it: lattok evaluate {out} DATASET\n"
    )
    model, expected = lattok.load(out), univla_lam(UNIVLA, 3, **PIXELS)
    assert same(model, expected)
    assert torch.equal(model.encode_features(features).codes, expected.encode_features(features).codes)


def test_the_command_for_stage_1_takes_every_fact(tmp_path, capsys):
    out = tmp_path / "lam"
    words = ["convert", "p2t-image-lam", str(STAGE1), str(out), "--heads", "4", "--features", "pixels"]
    words += ["--image-size", "48", "--cameras", "front", "--stride", "0.5s", "--language", "t5:mine"]
    assert main([*words, "--action-dim", "14"]) == 0
    config = lattok.load(out).config
    assert (config.cameras, config.stride, config.language) == (("front",), "0.5s", "t5:mine")
    assert (config.image_size, config.heads, config.action.steps) == (48, 4, 4)
    printed = capsys.readouterr().out
    assert "stage 1, 4 codes of 16, latents" in printed
    assert "action_dim 14" in printed
    assert "an action head, which is left out" in printed
    assert f"--stage 2 --env-codebook {out}" in printed
    assert not any("action_head" in name for name in safetensors.torch.load_file(out / "model.safetensors"))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"--heads": "12"}, "`heads`"),
        ({"--image-size": "50"}, "`image_size`"),
        ({"FILE": "nowhere.ckpt"}, "nowhere.ckpt, which is not there"),
        ({"FILE": str(FIXTURE / "config.json")}, "a file ending in"),
        ({"FILE": str(FIXTURE / "io.safetensors")}, "tensors of such a checkpoint, got"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing_behind(changes, text, tmp_path, capsys):
    given = {"--heads": "3", "--features": "pixels", "--image-size": "64", **changes}
    file = given.pop("FILE", str(UNIVLA))
    flags = [word for pair in given.items() for word in pair]
    assert main(["convert", "univla-lam", file, str(tmp_path / "out"), *flags]) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(r"lattok: [^\n]*\n", error), error
    assert text in error
    assert not (tmp_path / "out").exists()
