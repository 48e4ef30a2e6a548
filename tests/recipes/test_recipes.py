"""Recipes: presets, options, config files, resume; two runs of the real thing on a tiny dataset."""

import json
import pickle
import shutil

import numpy as np
import pytest
import timm
from transformers import AutoConfig, AutoTokenizer

import lattok
from lattok.image_lam.base.features import FrozenFeatures
from lattok.nn.quantize import VectorQuantizer
from lattok.recipes import ActionVQRecipe, ImageLAMRecipe, kinds, recipe_of
from lattok.recipes.run_folder import read_options
from lattok.samples.batches import PairBatches
from lattok.utils.checks import LattokError
from lattok.utils.options import docs_of
from tests.errors import refused
from tests.recipes.policies import TRAIN_LAM, stopped, with_absurd_actions

TINY = {"horizon": 4, "dim": 16, "codebook_size": 8, "heads": 2, "hidden": 16, "batch_size": 8, "device": "cpu"}


@pytest.fixture
def dataset(make_dataset):
    return make_dataset([12, 15, 11, 14])


def test_paper_presets_hold_the_papers_numbers():
    recipe = ActionVQRecipe.from_preset("d", "o", "p2t")
    assert (recipe.loop.steps, recipe.loop.batch_size, recipe.loop.lr, recipe.loop.optimizer) == (
        50_000,
        128,
        1e-4,
        "adam",
    )
    config = recipe.config(action_dim=7)
    assert (config.horizon, config.codebook_size, config.dim, config.dilations) == (8, 256, 128, (1, 2, 4))
    assert (config.mask_weight, config.mask_ratio, config.commitment_weight, config.decoder) == (
        0.1,
        0.15,
        0.25,
        "step",
    )
    horizons = {name: ActionVQRecipe.from_preset("d", "o", name) for name in ("libero", "robotwin", "jaka")}
    assert {name: (r.model.horizon, r.loop) for name, r in horizons.items()} == {
        "libero": (8, recipe.loop),
        "robotwin": (25, recipe.loop),
        "jaka": (20, recipe.loop),
    }
    lam = lattok.ImageLAM.config_class.of(cameras=("a",))
    assert (lam.tokens, lam.codebook_size, lam.latent_dim, lam.stride) == (4, 16, 128, "32")
    assert (lam.encoder.depth, lam.decoder.depth, lam.width, lam.heads) == (12, 12, 768, 12)
    assert (lam.loss.action, lam.loss.commitment) == (1.0, 0.25)
    full = ImageLAMRecipe.from_preset("d", "o", "full+p2t")
    assert full.data.labelled_fraction == 0.05
    assert (lam.codebook.start, lam.encoder.query_start, full.model.action.target) == ("uniform", "uniform", "first")
    for robot in ("libero", "robotwin", "jaka"):  # A.1 and D.2 say nothing of one that they do not say of all
        assert ImageLAMRecipe.from_preset("d", "o", robot).options() == full.options()


def test_a_wrong_preset_is_answered_with_the_one_for_two_cores():
    refused("preset.*For two cores: preset=scratch", lattok.VLARecipe.from_preset, "d", "o", "tiny")


def test_the_small_presets_name_no_network_that_is_downloaded():
    for kind in ("image-lam", "moto-lam", "clip-lam", "idm", "vla", "lara", "latbot"):
        found = recipe_of(kind)
        given = {"lam": "lam"} if kind == "lara" else {"teacher": "lam"} if kind == "latbot" else {}
        options = found.from_preset("d", "o", found.small, **given).options()
        assert options.get("features", "pixels") == "pixels"
        assert options.get("backbone", "scratch") == "scratch"


def test_images_that_do_not_fit_the_patches_are_told_sizes_that_do():
    vit = "timm:vit_tiny_patch16_224"
    for size, near in ((60, "image_size=48 or image_size=64"), (10, "Such as image_size=16.")):
        assert near in refused("image_size", FrozenFeatures, vit, size)


@pytest.mark.parametrize(
    ("kind", "options", "way"),
    [
        ("image-lam", {"preset": "small"}, "Without any download: preset=tiny+robust+flow."),
        (
            "image-lam",
            {"preset": "tiny", "features": "timm:vit_tiny_patch16_224"},
            "tiny+robust+flow, and no features.",
        ),
        ("moto-lam", {"preset": "moto"}, "Without any download: preset=tiny."),
        ("image-lam", {"preset": "tiny+robust", "stage": 1}, "language=precomputed, with text_features=FILE."),
    ],
)
def test_without_network_a_run_is_told_what_needs_none(kind, options, way, dataset, tmp_path, monkeypatch):
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("We couldn't connect to the Hub.")

    for library, name in ((timm, "create_model"), (AutoConfig, "from_pretrained"), (AutoTokenizer, "from_pretrained")):
        monkeypatch.setattr(library, name, unreachable)
    with pytest.raises(LattokError, match="Run it once where there is network") as error:
        lattok.train(kind, dataset, out=tmp_path / "out", **options)
    assert str(error.value).endswith(way)


def test_the_full_preset_trains_as_published():
    made = ImageLAMRecipe.from_preset("d", "o", "full+p2t+p2t_code")
    assert (made.loop.weight_decay, made.loop.clip_norm, made.loop.lr, made.loop.batch_size) == (0.01, 0.1, 1e-4, 64)
    changes = made.data
    assert (changes.crop, changes.crop_most, changes.brightness, changes.hue) == (0.9, 0.9, 0.2, 0.05)
    head = {"action_head": "codes", "action_target": "chunk", "action_steps": 32, "loss_action": 0.5}
    assert made.options().items() >= head.items()
    assert not ImageLAMRecipe.from_preset("d", "o", "tiny+robust").data.changes
    refused("`feature_cache` cannot be used", ImageLAMRecipe.from_preset, "d", "o", "full+p2t", feature_cache="cache")


def test_the_paper_looks_at_the_first_camera_alone(dataset, tmp_path):
    options = {**TRAIN_LAM, "codebook_continuous_steps": 0, "steps": 1}
    for preset, cameras, expected in (
        ("tiny+p2t", None, dataset.cameras[:1]),
        ("tiny+p2t", ("wrist", "front"), dataset.cameras[::-1]),
        ("tiny+robust", None, dataset.cameras),
    ):
        out = tmp_path / f"{preset}-{cameras is None}"
        given = {} if cameras is None else {"cameras": cameras}
        assert (
            lattok.train(ImageLAMRecipe.from_preset(dataset.root, out, preset, **options, **given)).cameras == expected
        )


def test_presets_are_laid_over_one_another_and_options_over_them():
    recipe = ImageLAMRecipe.from_preset("d", "o", "tiny+robust", width=32, cameras="front", lr=1)
    assert recipe.model.width == 32
    assert recipe.model.quantizer == "residual"
    assert recipe.data.cameras == ("front",)
    assert recipe.loop.lr == 1.0


@pytest.mark.parametrize("kind", kinds())
def test_recipes_are_pickled_and_made_again_from_their_own_options(kind):
    own = {"idm": {"members": 3}, "image-lam": {"tokens": 3}, "moto-lam": {"tokens": 3}}
    made = recipe_of(kind).from_preset("d", "o", **own.get(kind, {"horizon": 3}))
    if "<locals>" not in type(made).__qualname__:  # those of families without a recipe of their own are made as needed
        assert pickle.loads(pickle.dumps(made)) == made
    written = json.dumps(made.options())
    again = recipe_of(kind).from_preset("d", "o", made.preset, **json.loads(written))
    assert again == made
    assert json.dumps(again.options()) == written  # a resumed run writes the same files, 16.0 and not 16


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"preset": "huge"}, "`preset`"),
        ({"colour": 1}, "`options`"),
        ({"steps": "many"}, "`steps`"),
        ({"steps": True}, "`steps`"),
        ({"action_dim": 7}, "`options`"),
    ],
)
def test_bad_options_name_themselves(options, text):
    refused(text, ActionVQRecipe.from_preset, "d", "o", **options)


@pytest.mark.parametrize("kind", kinds())
def test_every_option_says_what_it_is(kind):
    """The docstring of the class that a field stands in is its help."""
    recipe = recipe_of(kind)
    assert recipe is not None
    options = [option for group in recipe.option_groups().values() for option in group.values()]
    assert not [option.name for option in options if not docs_of(option.owner).get(option.path[-1])]


def test_config_files(tmp_path):
    path = tmp_path / "options.json"
    path.write_text(json.dumps({"steps": 5}))
    assert read_options(str(path)) == ({"steps": 5}, None, None)
    path.write_text(json.dumps({"preset": "quick", "options": {"steps": 5}}))
    assert read_options(str(path)) == ({"steps": 5}, "quick", None)
    path.write_text(json.dumps({"dataset": "data/a", "preset": None, "options": {}}))
    assert read_options(str(path)) == ({}, None, "data/a")
    for wrong in ({"options": {}, "dataset": 5}, {"options": {}, "preset": []}, {"options": [1]}):
        path.write_text(json.dumps(wrong))
        refused("or a run/recipe.json, got entries of another kind", read_options, str(path))
    path.write_text("[")
    refused("options.json is not valid JSON", read_options, str(path))


def test_resumed_run_equals_undisturbed_run(dataset, tmp_path):
    def recipe(out):
        options = {**TRAIN_LAM, "steps": 8, "save_every": 5}
        return ImageLAMRecipe.from_preset(dataset.root, tmp_path / out, "tiny+robust", **options)

    whole = lattok.train(recipe("whole"))
    with stopped(PairBatches, 6):
        lattok.train(recipe("parts"))
    resumed = ImageLAMRecipe.resumed(dataset.root, tmp_path / "parts", None, {"steps": 8, "decoder_depth": 2})
    parts = lattok.train(resumed, resume=True)
    assert whole.describe()["weights_sha256"] == parts.describe()["weights_sha256"]
    changed = ImageLAMRecipe.resumed(dataset.root, tmp_path / "parts", None, {"steps": 9})
    refused("`steps`", lattok.train, changed, resume=True)
    refused("`preset`", ImageLAMRecipe.resumed, dataset.root, tmp_path / "parts", "tiny+p2t", {})
    fewer = ImageLAMRecipe.resumed(None, tmp_path / "parts", None, {"steps": 6})  # and so a shorter warm-up
    refused("`steps`", lattok.train, fewer, resume=True)
    options = json.loads((tmp_path / "parts/run/recipe.json").read_text())["options"]
    assert ImageLAMRecipe.over(options, {"steps": 2}).keys() == options.keys() - {"codebook_continuous_steps"}
    assert ImageLAMRecipe.over(options, {}) == options
    moved = shutil.copytree(dataset.root, dataset.root.with_name("moved"))
    again = lattok.train(ImageLAMRecipe.resumed(moved, tmp_path / "parts", None, {}), resume=True)
    assert whole.describe()["weights_sha256"] == again.describe()["weights_sha256"]


def test_the_artefact_knows_what_it_was_trained_on(dataset, tmp_path):
    recipe = ActionVQRecipe.from_preset(dataset.root, tmp_path / "tok", "quick", steps=2, episodes="0,1,3", **TINY)
    lattok.train(recipe)
    tokenizer = lattok.load(tmp_path / "tok")
    assert tokenizer.trained_on["episodes"] == [[0, 1], [3, 3]]
    honest = lattok.evaluate(tokenizer, dataset, episodes=[2])
    assert not any("trained on" in verdict.text for verdict in honest.verdicts)
    cheating = lattok.evaluate(tokenizer, dataset, episodes=[2, 3])
    assert cheating.verdicts[0].text.startswith("1 of 2 held-out episodes were trained on")
    assert cheating.verdicts[0].holds is False


@pytest.mark.parametrize("options", [{}, {"labelled": "episodes"}, {"mix": True}])
def test_actions_that_a_latent_action_model_may_not_know_teach_it_nothing(options, dataset, tmp_path):
    """The draw of labels is among the pairs of the others; the action head's normaliser sees those alone."""
    other = with_absurd_actions(dataset.root, (0, 3), tmp_path / "other" / dataset.root.name)
    found = []
    for place, known in ((dataset.root, "1:3"), (other, "1:3"), (dataset.root, None)):
        source = {"mix": (f"{place}:1.0",)} if "mix" in options else options
        one = None if "mix" in options else place
        out = tmp_path / f"lam-{len(found)}"
        recipe = ImageLAMRecipe.from_preset(
            one, out, "tiny+robust", **{**TRAIN_LAM, "episodes": "0:", "action_episodes": known, "steps": 4}, **source
        )
        model = lattok.train(recipe)
        found.append(model.describe()["weights_sha256"])
        assert model.trained_on["labels"].get("episodes") == known
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("unit", ["pairs", "episodes"])
def test_labels_are_a_share_of_the_pairs_whose_actions_are_known(unit, dataset):
    from lattok.samples import FramePairs, PairLabels

    pairs = FramePairs(dataset, 2, labels=PairLabels(labelled_fraction=0.5, labelled=unit, action_episodes=[1, 2]))
    alone = FramePairs(dataset, 2, labels=PairLabels(labelled_fraction=0.5, labelled=unit), episodes=[1, 2])
    known = np.isin(pairs.episode_of, [1, 2])
    np.testing.assert_array_equal(pairs.labelled[known], alone.labelled)
    assert not pairs.labelled[~known].any()
    labels = PairLabels(action_episodes="1")
    refused("`action_episodes`", FramePairs, dataset, 2, labels=labels, episodes=[0])


def test_one_pair_cannot_be_normalised_over_a_batch():
    refused("`batch_size`", ImageLAMRecipe.from_preset, "data", "out", "tiny+robust", batch_size=1)
    refused("in each of 8 parts", ImageLAMRecipe.from_preset, "data", "out", "tiny+robust", batch_size=8, accumulate=8)


def test_a_short_run_has_a_codebook_all_the_same(dataset, tmp_path, capsys):
    """The preset's warm-up is for its own length: a run that is shorter than that would end without a codebook."""

    def warm(steps: int, preset: str = "tiny+robust", **options) -> int:
        return ImageLAMRecipe.from_preset("d", "o", preset, steps=steps, **options).model.codebook.continuous_steps

    assert [warm(steps) for steps in (1200, 900, 200, 2)] == [300, 300, 66, 0]
    assert warm(200, codebook_continuous_steps=100) == 100  # as was asked for
    assert warm(200, "tiny") == 0
    for recipe, name in ((ImageLAMRecipe, "codebook_continuous_steps"), (ActionVQRecipe, "continuous_steps")):
        expected = f"`{name}`: expected less than the 200 steps, or no codebook is trained, got 200. Give {name}=66, or"
        refused(expected, recipe.from_preset, "d", "o", **{name: 200}, steps=200)
    assert warm(200, codebook_continuous_steps=200, quantizer="none") == 200  # there is no codebook
    options = {name: value for name, value in TRAIN_LAM.items() if name != "codebook_continuous_steps"}
    recipe = ImageLAMRecipe.from_preset(dataset.root, tmp_path / "lam", "tiny+robust", steps=6, **options)
    model = lattok.train(recipe)
    assert "continuous" not in capsys.readouterr().err  # nothing that anybody has to do about it
    assert all(quantizer.started for quantizer in model.modules() if isinstance(quantizer, VectorQuantizer))
    assert recipe.stored(tmp_path / "lam").model.codebook.continuous_steps == 2
