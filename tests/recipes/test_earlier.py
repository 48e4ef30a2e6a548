"""Both stages, and --init: what is taken over from the earlier model, what may change, and what is refused."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

import lattok
from lattok.cli import main
from lattok.evaluation.questions.history import seen_episodes
from lattok.image_lam import ImageLAM, PairLearner
from lattok.recipes import ActionVQRecipe, ImageLAMRecipe
from lattok.recipes.image_lam import embed
from lattok.samples import FramePairs, PairLabels
from lattok.samples.batches import Instructions, PairBatches
from lattok.training.runlog import codebook_report
from lattok.utils.options import as_flags
from tests.conftest import write_dataset
from tests.errors import refused
from tests.recipes.policies import stopped
from tests.recipes.test_variants import SMALL

TASKS = ("lift", "push the cube")
UNIVLA = Path(__file__).parents[1] / "parity" / "univla_stage2"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data") / "tiny", [12, 15, 11, 14], TASKS)


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """Vectors of the instructions as a file, of 1 and 3 words."""
    path = tmp_path_factory.mktemp("words") / "words.npz"
    rng = np.random.default_rng(0)
    np.savez(path, **{"lift": rng.standard_normal(6), "push the cube": rng.standard_normal((3, 6)), "stir": np.ones(6)})
    return path


@pytest.fixture(scope="module")
def first(root, words, tmp_path_factory):
    """A model of stage 1."""
    out = tmp_path_factory.mktemp("stages") / "first"
    given = {"language": "precomputed", "text_features": str(words), "codebook_size": 5, "episodes": "0,1"}
    small = {name: value for name, value in SMALL.items() if name != "labelled_fraction"}
    lattok.train(ImageLAMRecipe.from_preset(root, out, "tiny+robust", stage=1, **{**small, **given}))
    return out


@pytest.fixture(scope="module")
def robust(root, tmp_path_factory):
    """A model of one stage and one camera."""
    out = tmp_path_factory.mktemp("robust") / "lam"
    lattok.train(ImageLAMRecipe.from_preset(root, out, "tiny+robust", **SMALL, episodes="0,1,2"))
    return out


def options_of(words):
    return [*as_flags(words)]


def logged(out):
    return [json.loads(line) for line in (out / "run/metrics.jsonl").read_text().splitlines()]


def test_stage_1_learns_without_labels_and_keeps_the_name_of_its_language_only(first, root):
    lam = lattok.load(first)
    assert (lam.config.streams, lam.config.language, lam.config.language_dim) == ("control", "precomputed", 6)
    assert {name for name in logged(first)[-1] if name.startswith("loss/")} == {"loss/prediction", "loss/commitment"}
    assert sum("language" in name for name in lam.saved_tensors()) == 2  # one linear map
    assert lam.trained_on["labels"]["fraction"] == 0


def test_stage_2_on_the_command_line_keeps_the_codebook_of_stage_1(first, root, tmp_path, capsys):
    out = tmp_path / "second"
    given = {k: v for k, v in SMALL.items() if k not in ("features", "cameras", "codebook_size", "latent_dim")}
    said = ImageLAMRecipe.resumed(root, first, None, {}).next_step()
    assert said.startswith("Continue with stage 2: lattok train image-lam ")
    words = shlex.split(said.split(": lattok ")[1].replace("NEW", str(out)))
    assert "--cameras front" in said
    assert "--stride 2" in said
    given = {name: value for name, value in given.items() if f"--{name.replace('_', '-')}" not in words}
    assert main([*words, *options_of({**given, "codebook_size": 6})]) == 0
    lam, stage_1 = lattok.load(out), lattok.load(first)
    assert (lam.config.streams, lam.config.language) == ("control+env", None)
    assert (lam.config.env_codebook_size, lam.config.codebook_size, lam.config.features) == (5, 6, "pixels")
    books = zip(lam.env.quantizer.codebook_vectors, stage_1.control.quantizer.codebook_vectors, strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in books)
    assert "codebook/lam.env.quantizer/joint_bits" in logged(out)[-1]  # how the frozen codes are used
    assert lam.trained_on["env_codebook"]["weights_sha256"] == stage_1.describe()["weights_sha256"]
    assert lam.trained_on["labels"]["fraction"] == 0.2
    assert capsys.readouterr().out.startswith("Saved in")


def test_the_flags_are_there_where_they_mean_something(capsys):
    for verb, there in (("image-lam", True), ("action-vq", False)):
        assert main(["train", verb, "--help"]) == 0
        text = capsys.readouterr().out
        assert [flag in text for flag in ("--stage N", "--env-codebook TEXT", "--init TEXT")] == 3 * [there]


def test_a_frozen_codebook_that_collapses_has_its_own_remedy():
    lam = ImageLAM(lattok.ImageLAM.config_class.of(**NARROW, streams="control+env"))
    lam.env.quantizer.recent = torch.zeros(50, 4, dtype=torch.long)
    assert "train that one on data like this" in codebook_report(lam).warnings["env.quantizer"]


NARROW = {
    "cameras": ("front",),
    "features": "pixels",
    "image_size": 32,
    "width": 16,
    "heads": 2,
    "encoder_depth": 1,
    "decoder_depth": 1,
}


def test_every_pair_comes_with_its_own_instruction(root, words):
    dataset = lattok.open_dataset(root)
    pairs = FramePairs(dataset, 2, ["front"], PairLabels(labelled_fraction=0.2))
    table = embed("precomputed", str(words), TASKS)
    batches = PairBatches(pairs, 8, 3, 0, table)
    batch, plain = batches(1, 0, 1), PairBatches(pairs, 8, 3, 0)(1, 0, 1)
    assert torch.equal(batch.frames, plain.frames)
    assert plain.text is None
    chosen = batches.stream.samples(1)
    with np.load(words) as file:
        stored = dict(file)
    for row, episode in enumerate(pairs.episode_of[chosen.numpy()]):
        expected = np.atleast_2d(stored[TASKS[int(episode) // 2]]).astype("float32")
        assert batch.text_mask[row].tolist() == [i < len(expected) for i in range(3)]
        np.testing.assert_array_equal(batch.text[row][batch.text_mask[row]], expected)
        assert (batch.text[row][~batch.text_mask[row]] == 0).all()


def test_each_instruction_is_encoded_once(monkeypatch):
    asked = []

    class Encoder:
        def __init__(self, name):
            self.name = name

        def load(self):
            return self

        def encode(self, texts):
            asked.extend(texts)
            mask = torch.arange(max(map(len, texts))) < torch.tensor([[len(text)] for text in texts])
            return mask[..., None] * torch.tensor([[[float(len(text))]] for text in texts]), mask

    monkeypatch.setattr("lattok.recipes.image_lam.TextEncoder", Encoder)
    monkeypatch.setattr("lattok.recipes.image_lam.ENCODED_TEXTS", 2)
    table = embed("t5:any", None, ["lift", "go", "lift", "stop it", "go"])
    assert sorted(asked) == ["go", "lift", "stop it"]
    assert table.vectors.shape == (3, 7, 1)
    row = int(table.rows(["stop it"]))
    assert table.mask[row].all()
    assert table.vectors[int(table.rows(["go"])), :, 0].tolist() == [2, 2, 0, 0, 0, 0, 0]


def test_vectors_come_from_either_kind_of_file(words, tmp_path):
    path = tmp_path / "words.safetensors"
    with np.load(words) as stored:
        safetensors.torch.save_file({k: torch.from_numpy(np.atleast_2d(v)) for k, v in stored.items()}, path)
    one, two = (embed("precomputed", str(file), TASKS) for file in (words, path))
    assert isinstance(one, Instructions)
    assert torch.equal(one.vectors, two.vectors)
    assert one.vectors.dtype == torch.float32


@pytest.mark.parametrize(
    ("arrays", "text"),
    [
        ({"lift": np.ones(3)}, "expected vectors of every instruction, got none of 'push the cube'."),
        ({}, "got none of 'lift' and 1 more."),
        ({"lift": np.ones(3), "push the cube": np.ones(4)}, "expected vectors of one width, got widths 3, 4."),
        ({"lift": np.ones((1, 1, 3))}, r"vectors \[words, D\] for 'lift', got torch.float64 of shape \[1, 1, 3\]."),
        ({"lift": np.full(3, np.nan)}, "expected finite floating-point vectors"),
        ({"lift": np.array([1, 2])}, "got torch.int64"),
    ],
)
def test_files_of_vectors_that_do_not_fit(arrays, text, tmp_path):
    np.savez(tmp_path / "words.npz", **arrays)
    refused("`text_features`: .*" + text, embed, "precomputed", str(tmp_path / "words.npz"), TASKS)


def test_files_of_vectors_that_cannot_be_read(tmp_path):
    (tmp_path / "words.npz").write_bytes(b"no archive")
    (tmp_path / "huge.safetensors").write_bytes((2**40).to_bytes(8, "little"))
    for name, text in (
        ("words.npz", "could not be read"),
        ("none.npz", "could not be read"),
        ("huge.safetensors", "its header claims 1,099,511,627,776 bytes"),
        ("a.pt", "a .safetensors"),
    ):
        refused(f"`text_features`: expected .*{text}", embed, "precomputed", str(tmp_path / name), TASKS)
    refused("got none with language=precomputed", embed, "precomputed", None, TASKS)


STAGE_2 = {"stage": 2, "env_codebook": "FIRST"}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"stage": 3}, "`stage`"),
        ({"stage": 2}, "`env_codebook`"),
        ({"streams": "control+env"}, "`env_codebook`"),
        ({"stage": 1, "streams": "joint"}, "`streams`"),
        ({"stage": 1, "language": None}, "`language`"),
        ({"env_codebook": "FIRST"}, "`env_codebook` .* is for stage 2. Set stage=2."),
        ({**STAGE_2, "env_codebook": "ROBUST"}, "`env_codebook`"),
        ({**STAGE_2, "env_codebook": "TOKENIZER"}, "`env_codebook`"),
        ({**STAGE_2, "env_codebook": "nowhere"}, "`env_codebook`"),
        ({**STAGE_2, "latent_dim": 16}, "`latent_dim`"),
        ({**STAGE_2, "env_codebook_size": 16}, "`env_codebook_size`"),
        ({**STAGE_2, "quantizer": "vq"}, "`quantizer`"),
        ({**STAGE_2, "features": "timm:x"}, "`features`"),
        ({**STAGE_2, "init": "ROBUST"}, "`env_codebook` .* cannot be used with init: the model brings its own"),
        ({"stage": 2, "init": "ROBUST"}, "`init`"),
        ({"stage": 1, "init": "ROBUST"}, "`language`"),
        ({"init": "ROBUST", "features": "timm:x"}, "`features`"),
        ({"init": "ROBUST", "tokens": 5}, "`tokens`"),
        ({"init": "ROBUST", "loss_kl": 0.1}, "`loss_kl`"),
        ({"init": "TOKENIZER"}, "`init`"),
        ({"init": "./nowhere"}, "`init`"),
        ({"init": "ROBUST", "cameras": ("front", "wrist")}, "`cameras`"),
    ],
)
def test_what_contradicts_an_earlier_model_is_one_line(options, text, first, robust, root, tmp_path):
    if "TOKENIZER" in options.values():
        small = {"horizon": 4, "dim": 16, "heads": 2, "hidden": 16, "steps": 1, "device": "cpu"}
        lattok.train(ActionVQRecipe.from_preset(root, tmp_path / "tok", "quick", **small))
    places = {"FIRST": str(first), "ROBUST": str(robust), "TOKENIZER": str(tmp_path / "tok")}
    given = {name: places.get(value, value) if isinstance(value, str) else value for name, value in options.items()}
    base = {name: SMALL[name] for name in ("device", "steps", "batch_size", "stride", "cameras")}
    refused(
        text,
        lambda: lattok.train(ImageLAMRecipe.from_preset(root, tmp_path / "lam", "tiny+robust", **{**base, **given})),
    )
    assert not (tmp_path / "lam").exists()


TUNE = {"stride": "3", "steps": 6, "batch_size": 8, "save_every": 4, "lr": 1e-3, "device": "cpu"}


def tuned(root, out, init, **options):
    return ImageLAMRecipe.from_preset(root, out, "tiny+robust", init=str(init), **{**TUNE, **options})


def test_a_model_goes_on_learning_with_its_own_architecture(robust, root, tmp_path):
    before = lattok.load(robust)
    started = []
    with pytest.MonkeyPatch.context() as patch:
        run = PairLearner.forward
        patch.setattr(PairLearner, "forward", lambda learner, b: started.append(clone(learner)) or run(learner, b))
        lam = lattok.train(tuned(root, tmp_path / "lam", robust, episodes="2,3", dropout=0.1, loss_action=0.5))
    own = {f"lam.{name}" for name in before.state_dict()}
    assert started[0].keys() - own == {name for name in started[0] if name.startswith("action_head.")}
    assert all(torch.equal(tensor, started[0][f"lam.{name}"]) for name, tensor in before.saved_tensors().items())
    steps = "control.quantizer.steps"
    assert int(lam.state_dict()[steps]) == int(before.state_dict()[steps]) + 6  # neither warm-up nor k-means again
    same = {"width", "codebook_size", "features", "quantizer", "image_size", "mean"}  # not those of `tiny`
    assert all(getattr(lam.config, name) == getattr(before.config, name) for name in same)
    assert (lam.config.stride, lam.config.dropout, lam.config.loss.action) == ("3", 0.1, 0.5)
    assert "loss/action" in logged(tmp_path / "lam")[-1]
    assert seen_episodes(lam.trained_on, lattok.open_dataset(root), range(5)).trained == {0, 1, 2, 3}  # as before
    assert lam.trained_on["init"]["weights_sha256"] == before.describe()["weights_sha256"]


def test_what_earlier_models_saw_of_other_datasets_is_not_forgotten(robust, root, tmp_path):
    lengths = {"second": [14, 14, 11], "third": [16, 12, 13]}  # and so other data
    others = [write_dataset(tmp_path / name, counts, TASKS) for name, counts in lengths.items()]
    before = lattok.load(robust)
    for place, episodes in zip(others, ("0", "1,2"), strict=True):
        init = robust if place.name == "second" else tmp_path / "lam-second"
        before = lattok.train(tuned(place, tmp_path / f"lam-{place.name}", init, episodes=episodes))
    last = lattok.load(tmp_path / "lam-third")
    seen = [("second", [[0, 0]]), ("tiny", [[0, 2]])]
    earlier = [(entry["dataset"], entry["episodes"]) for entry in last.trained_on["earlier"]]
    assert (before.trained_on["episodes"], earlier) == ([[1, 2]], seen)
    again = lattok.train(tuned(root, tmp_path / "lam", tmp_path / "lam-third", episodes="3"))
    assert again.trained_on["episodes"] == [[3, 3]]
    assert [entry["dataset"] for entry in again.trained_on["earlier"]] == ["third", "second", "tiny"]
    for place, expected in zip((root, *others), ([0, 1, 2, 3], [0], [1, 2]), strict=True):
        dataset = lattok.open_dataset(place)
        assert sorted(seen_episodes(again.trained_on, dataset, range(len(dataset.episodes))).trained) == expected


def clone(lam):
    return {name: tensor.clone() for name, tensor in lam.state_dict().items()}


def test_a_resumed_run_equals_an_undisturbed_one_and_insists_on_the_same_model(robust, root, tmp_path):
    import shutil

    init = tmp_path / "init"
    shutil.copytree(robust, init)
    whole = lattok.train(tuned(root, tmp_path / "whole", init))
    with stopped(PairBatches, 5):
        lattok.train(tuned(root, tmp_path / "parts", init))
    resumed = ImageLAMRecipe.resumed(root, tmp_path / "parts", None, {})
    other = lattok.load(init)
    other.decoder.out.bias.data += 1
    other.save_pretrained(init)
    refused("`init`", lattok.train, resumed, resume=True)
    shutil.copytree(robust, init, dirs_exist_ok=True)
    parts = lattok.train(resumed, resume=True)
    assert whole.describe()["weights_sha256"] == parts.describe()["weights_sha256"]


def test_a_published_model_is_fine_tuned_on_other_data(root, tmp_path):
    facts = {"heads": 3, "features": "pixels", "image_size": 64, "cameras": ("front",), "stride": "2"}
    published = lattok.convert.univla_lam(UNIVLA / "checkpoint.ckpt", **facts)
    published.save_pretrained(tmp_path / "published")
    lam = lattok.train(tuned(root, tmp_path / "lam", tmp_path / "published", cameras="wrist"))
    assert lam.config.streams == "control+env"
    assert lam.cameras == ("observation.images.wrist",)
    assert torch.equal(lam.env.quantizer.codebook_vectors[0], published.env.quantizer.codebook_vectors[0])
    assert not torch.equal(lam.control.quantizer.codebook_vectors[0], published.control.quantizer.codebook_vectors[0])
