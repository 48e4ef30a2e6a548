"""Policies that predict latents of all videos; the decoder that few actions taught acts."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import lattok
from lattok.data import open_dataset
from lattok.utils.options import flat
from tests.annotation.test_fill import model, write
from tests.conftest import CAMERAS, moving_square, put_video
from tests.errors import refused
from tests.recipes.policies import SIZES

OPTIONS = {**SIZES, "backbone": "scratch", "steps": 4, "batch_size": 4, "device": "cpu", "episodes": "0:3"}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A dataset with the actions of two of four episodes, an inverse model, and its latents on all."""
    folder = tmp_path_factory.mktemp("latents")
    write(folder / "data")
    model().save_pretrained(folder / "idm")
    lattok.annotate(open_dataset(folder / "data"), {"latent": lattok.load(folder / "idm")}, folder / "labelled")
    return folder


def train(place: Path, out: Path, **options) -> lattok.LatentVLA:
    given = {"decoder": str(place / "idm"), **OPTIONS, **options}
    return lattok.train(lattok.VLARecipe.from_preset(place / "labelled", out, **given))


def seen(place: Path) -> dict:
    frames = open_dataset(place / "data").frames(3, CAMERAS[:1], [0, 5, 9])
    return {CAMERAS[0]: torch.from_numpy(frames[:, 0]), "observation.state": torch.zeros(3, 2), "task": ["lift"] * 3}


def test_it_acts_as_the_decoder_says_of_what_it_predicts(place, tmp_path):
    policy = train(place, tmp_path / "out")
    found = {}
    policy.head.register_forward_hook(lambda *_: found.update(chunk=_[2]))
    actions = policy.predict_chunk(seen(place))
    assert actions.shape == (3, 4, 3)
    assert found["chunk"].shape == (3, 4, 8)  # two members of four numbers
    idm, scale, shift = model(), policy.latent_normalizer.scale, policy.latent_normalizer.shift
    latents = (found["chunk"] * scale + shift).unflatten(2, (2, 4)).flatten(0, 1)
    read = torch.stack([idm.members[i].head(latents[:, i]) for i in range(2)], 1)
    wanted = idm.action_normalizer.inverse(read).clamp(idm.low, idm.high).mean(1)
    torch.testing.assert_close(actions, wanted.unflatten(0, (3, 4)).detach(), atol=1e-5, rtol=1e-5)
    again = lattok.load(tmp_path / "out")
    torch.testing.assert_close(again.predict_chunk(seen(place)), actions)
    assert not any(name.startswith("decoder.features.") for name in again.saved_tensors())


def test_latents_of_films_first_are_decoded_in_both_stages(place, tmp_path):
    idm, films = lattok.load(place / "idm"), tmp_path / "films"
    films.mkdir()
    for number in range(2):
        put_video(films / f"{number}.mp4", moving_square(np.random.default_rng(number), 14), 10)
    lattok.annotate(open_dataset(films), {"latent": idm}, tmp_path / "seen", cameras=("video",), any_rate=True)
    mix = (f"{tmp_path / 'seen'}:1", f"{place / 'labelled'}:1")
    given = {name: value for name, value in OPTIONS.items() if name != "episodes"}
    given |= {"mix": mix, "decoder": str(place / "idm"), "proprio": False, "cameras": ("front",)}
    given |= {"stages": "pretrain,finetune", "latent_head": "decoded"}
    lattok.train(lattok.VLARecipe.from_preset(None, tmp_path / "out", **given))
    first, last = (lattok.load(tmp_path / "out" / name) for name in ("pretrain", "finetune"))
    silent, robot = (first.trained_on or {})["mixture"]
    assert silent["gave"]["latents"] > 0 == silent["gave"]["actions"] < robot["gave"]["actions"]
    assert any(not torch.equal(a, b) for a, b in zip(first.head.parameters(), last.head.parameters(), strict=True))
    for policy in (first, last):
        assert policy.predict_chunk(seen(place)).shape == (3, 4, 3)
        for name, value in idm.state_dict().items():
            assert torch.equal(policy.decoder.state_dict()[name], value), name


def test_episodes_without_actions_teach_and_the_decoder_stays(place, tmp_path):
    """Whatever the known actions are; its loss is the error of normalised latents."""
    policy, before = train(place, tmp_path / "out"), lattok.load(place / "idm")
    for name, value in before.state_dict().items():
        assert torch.equal(policy.decoder.state_dict()[name], value), name
    labels, names = open_dataset(place / "labelled"), ["latent.embedding", "latent.valid"]
    columns = [labels.columns(episode, names) for episode in range(3)]
    latents = np.concatenate([each[names[0]][each[names[1]].astype(bool).reshape(-1)] for each in columns])
    np.testing.assert_allclose(policy.latent_normalizer.scale, latents.std(0), rtol=1e-4)
    unknown = lattok.train(
        lattok.VLARecipe.from_preset(
            place / "labelled", tmp_path / "one", **{**OPTIONS, "decoder": str(place / "idm"), "action_episodes": "0"}
        )
    )
    for name, value in policy.head.state_dict().items():
        assert torch.equal(value, unknown.head.state_dict()[name]), name


def test_any_strategy_may_predict_latents(place, tmp_path):
    policy = train(place, tmp_path / "out", strategy="la_cond_c")
    assert policy.predict_chunk(seen(place)).shape == (3, 4, 3)
    assert flat(policy.config)["strategy"].predicts == "latents"


@pytest.mark.parametrize(
    ("options", "text"),
    [({"head": "flow"}, "regression head"), ({"strategy": "la_tok"}, "`labelled` has no `latent.codes`")],
)
def test_what_does_not_fit_is_refused(options, text, place, tmp_path):
    refused(text, train, place, tmp_path / "out", **options)
    assert not (tmp_path / "out" / "config.json").exists()


def test_labels_have_to_be_its_own(place, tmp_path):
    other = model(hidden=16)
    other.save_pretrained(tmp_path / "other")
    refused("`decoder`", train, place, tmp_path / "out", decoder=str(tmp_path / "other"))
    proprio = model(proprio=True, state_dim=2)
    proprio.save_pretrained(tmp_path / "proprio")
    lattok.annotate(open_dataset(place / "data"), {"latent": proprio}, tmp_path / "labelled")
    refused("one without proprio", train, tmp_path, tmp_path / "out", decoder=str(tmp_path / "proprio"))


def test_a_policy_begins_with_another(place, tmp_path):
    """As after pre-training: latents of all videos first, then known actions; what has no place here starts anew."""
    first = lattok.train(
        lattok.VLARecipe.from_preset(place / "labelled", tmp_path / "one", strategy="la_direct_c", **OPTIONS)
    )
    options = {**OPTIONS, "init": str(tmp_path / "one"), "action_episodes": "0", "lr": 1e-12}
    second = lattok.train(lattok.VLARecipe.from_preset(place / "data", tmp_path / "two", **options))
    theirs, own = first.saved_tensors(), second.saved_tensors()
    moved = [name for name in own if name.startswith(("backbone.", "head."))]
    assert moved
    assert all(torch.allclose(own[name], theirs[name], rtol=0, atol=1e-7) for name in moved)
    assert own["placeholders"].shape != theirs["placeholders"].shape
    inputs = json.loads((tmp_path / "two/run/recipe.json").read_text())["inputs"]
    assert inputs["init"] == first.describe()["weights_sha256"]
    refused(
        "`image_size`", lattok.VLARecipe.from_preset, place / "data", tmp_path / "x", **{**options, "image_size": 32}
    )


@pytest.mark.parametrize("name", ["timm:local-dir:{}", "hf:{}", "dc-ae:{}"])
def test_the_decoder_of_a_stranger_reads_nothing_here(name, place, tmp_path):
    train(place, tmp_path / "out")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/config.json").write_text("{}")
    file = tmp_path / "out/config.json"
    config = json.loads(file.read_text())
    config["decoder"]["features"] = name.format(tmp_path / "secret")
    file.write_text(json.dumps(config))
    refused("`decoder.features` in .*a model may not choose what is read here", lattok.load, tmp_path / "out")
