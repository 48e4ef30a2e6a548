"""What label columns are said to be: as annotation writes them, beside a dataset, made by others, contradictory."""

import json
import shutil
from copy import copy
from dataclasses import replace

import pytest
import torch

from lattok.action_vq import FAST, ActionVQConfig, P2TActionVQ, UniformBins
from lattok.annotation import annotate
from lattok.data import open_dataset
from lattok.data.exporting import IDENTITY, portable_facts
from lattok.labels import LatentSpec, latent_spec, only_prefix, tokenizer_spec, with_labels
from lattok.labels.spec import LabelRecord, check_records, provenance_of, targets_of
from lattok.samples.policy import PolicyWindows, WindowOptions
from lattok.utils.files import write_json
from tests.annotation.fakes import FakeLAM
from tests.conftest import write_dataset
from tests.data.memory import MemoryDataset, labels_for
from tests.errors import refused
from tests.samples.policies import Demonstrations, StepTokenizer, WholeTokenizer


class Tokenizer(StepTokenizer):
    action_dim = 3


class LAM(FakeLAM):
    codebook_size = 300

    def label_video(self, frames, stride):
        found = super().label_video(frames, stride)
        return replace(found, codes=found.codes.abs())


class Continuous(FakeLAM):
    """No codes."""

    def label_video(self, frames, stride):
        found = super().label_video(frames, stride)
        return replace(found, codes=found.codes[:, :0], env=None)


@pytest.fixture(scope="module")
def annotated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("latents")
    source = open_dataset(write_dataset(folder / "source", [7, 9]))
    models = {"latent": LAM(), "tok": Tokenizer(), "smooth": Continuous()}
    return open_dataset(annotate(source, models, folder / "annotated"))


@pytest.fixture
def rewritten(annotated, tmp_path):
    """`rewritten(edit)`: a copy whose meta/lattok.json was edited."""

    def rewrite(edit):
        root = shutil.copytree(annotated.root, tmp_path / "annotated", dirs_exist_ok=True)
        entries = json.loads((root / "meta/lattok.json").read_text())
        edit(entries)
        write_json(root / "meta/lattok.json", entries)
        return open_dataset(root)

    return rewrite


def test_what_annotation_wrote(annotated, tmp_path):
    assert latent_spec(annotated, "latent", "steps", 5) == LatentSpec("steps", 5, 1, 300, 1, 2, 3)
    assert latent_spec(annotated, "latent", "steps", 5, stride=3).stride == 3
    assert latent_spec(annotated, "latent", "steps", 5, stride=f"{3 / annotated.fps}s").stride == 3
    assert latent_spec(annotated, "smooth", "steps", 5) == LatentSpec("steps", 5, 0, 0, 1, 2, 3, prefix="smooth")
    tokens = LatentSpec("chunk", 4, 1, 8, 1, 4, horizon=4, per_step=True)
    assert latent_spec(annotated, "tok", "chunk", 4) == replace(tokens, prefix="tok")
    assert tokenizer_spec(Tokenizer(), 4) == tokens
    bare = annotate(annotated, {"bare": Tokenizer()}, tmp_path / "bare", embedding=False)
    assert latent_spec(open_dataset(bare), "bare", "chunk", 4) == replace(
        tokens, vectors=0, latent_dim=0, prefix="bare"
    )


def test_labels_of_columns_are_those_of_the_tokenizer(annotated):
    options = {"size": 16, "interpolation": "bilinear"}
    spec = latent_spec(annotated, "tok", "chunk", 4)
    stored = PolicyWindows(annotated, WindowOptions(4, latent=spec, **options))
    drawn = PolicyWindows(annotated, WindowOptions(4, tokenizer=Tokenizer(), **options))
    rows = torch.randperm(16)
    for one, other in zip(stored.batch(rows).latent[:3], drawn.batch(rows).latent[:3], strict=True):
        assert torch.equal(one, other)
    steps = PolicyWindows(annotated, WindowOptions(5, latent=latent_spec(annotated, "latent", "steps", 5), **options))
    target = steps.batch(rows).latent
    assert target.codes.shape == (16, 5, 1)
    assert target.embedding.shape == (16, 5, 1, 2)
    assert target.valid.sum() == sum(min(5, n - 3 - t) for n in (7, 9) for t in range(n - 3))


def test_vectors_of_whole_chunks_are_not_those_of_tokens(make_dataset, tmp_path):
    tokenizer = WholeTokenizer()
    tokenizer.action_dim = 3
    dataset = open_dataset(annotate(make_dataset([6], cameras=False), {"tok": tokenizer}, tmp_path / "out"))
    assert dataset.features["tok.embedding"].shape == (12,)
    assert latent_spec(dataset, "tok", "chunk", 4) == LatentSpec("chunk", 3, 1, 5, horizon=4, prefix="tok")
    assert tokenizer_spec(tokenizer, 4, needs=("codes",)) == LatentSpec("chunk", 3, 1, 5, horizon=4)
    text = "`{}`: expected a latent vector for each of 3 tokens, got vectors of whole chunks.*action-vq"
    refused(text.format("tok"), latent_spec, dataset, "tok", "chunk", 4, needs=("embedding",))
    refused(text.format("tokenizer"), tokenizer_spec, tokenizer, 4, needs=("embedding",))


def test_labels_beside_a_dataset(tmp_path):
    source = MemoryDataset(tmp_path / "source", [4, 3])
    columns = {"latent.codes": ("int64", 2), "latent.embedding": ("float32", 3), "latent.valid": ("bool", 1)}
    declared = {name: {"dtype": dtype, "shape": [n]} for name, (dtype, n) in columns.items()}
    declared["latent.embedding"]["shape"] = [1, 3]
    spec = LatentSpec(codes=2, codebook_size=9, vectors=1, latent_dim=3, stride=1)
    labels = labels_for(source, tmp_path / "labels", columns=declared, spec=spec.to_json())
    dataset = with_labels(source, labels)
    assert latent_spec(dataset, "latent", "steps", 2) == LatentSpec("steps", 2, 2, 9, 1, 3, 1)
    batch = PolicyWindows(
        dataset, WindowOptions(2, size=8, state_key=None, latent=latent_spec(dataset, "latent", "steps", 2))
    ).batch(torch.tensor([0, 6]))
    assert batch.latent.codes.tolist() == [[[0, 0], [0, 1]], [[1, 2], [1, 2]]]
    assert batch.latent.valid.tolist() == [[True, True], [False, False]]


def test_columns_of_somebody_else_are_described_as_a_spec(tmp_path):
    dataset = Demonstrations(tmp_path, [5])
    refused("does not say what the labels `latent` are.*import-labels", latent_spec, dataset, "latent", "steps", 4)
    spec = LatentSpec("steps", 4, 2, 50, 2, 2)
    target = PolicyWindows(dataset, WindowOptions(4, size=8, latent=spec)).batch(torch.tensor([0, 3])).latent
    assert target.codes.shape == (2, 4, 2)
    assert target.embedding.shape == (2, 4, 2, 2)


COMMAND = "lattok annotate DATASET --model {} --prefix {} --out DIR"


@pytest.mark.parametrize(
    ("arguments", "options", "texts"),
    [
        (
            ("other", "steps", 4),
            {},
            [
                "dataset `annotated` has no `other.codes`, `other.valid`.",
                "It has labels under 'latent', 'smooth', 'tok'.",
                COMMAND.format("LAM", "other"),
            ],
        ),
        (
            ("tok", "steps", 4),
            {},
            [
                "`tok`: expected labels of an image model, got labels of an action tokenizer.",
                "Choose a strategy that learns from labels of an action tokenizer, or another prefix",
                COMMAND.format("LAM", "tok2"),
            ],
        ),
        (
            ("latent", "chunk", 4),
            {},
            ["`latent`: expected labels of an action tokenizer, got labels of an image model.", "TOKENIZER"],
        ),
        (
            ("tok", "chunk", 8),
            {},
            [
                "`horizon`: expected 4 steps, as the labels `tok` were made of, got 8. Give horizon=4",
                COMMAND.format("TOKENIZER", "tok2"),
            ],
        ),
        (
            ("latent", "steps", 4),
            {"stride": 2},
            [
                "`stride`: expected 3 frames, the stride of the labels `latent`, got 2. Give stride=3",
                "model of stride 2",
            ],
        ),
        (("tok", "chunk", 4), {"stride": 2}, ["labels of an action tokenizer have none"]),
        (("smooth", "steps", 4), {"needs": ("codes",)}, ["has no `smooth.codes`. Its model is continuous"]),
        (("latent", "both", 4), {}, ["`target`: expected one of steps, chunk"]),
        (("latent", "steps", 0), {}, ["`horizon`: expected a whole number"]),
        (("latent", "steps", 4), {"needs": ("vectors",)}, ["`needs`: expected one of codes, embedding"]),
    ],
)
def test_what_does_not_fit_says_the_way_out(annotated, arguments, options, texts):
    message = refused(None, latent_spec, annotated, *arguments, **options)
    assert "\n" not in message
    for text in texts:
        assert text in message


def test_vectors_that_were_left_out(annotated, tmp_path):
    bare = open_dataset(annotate(annotated, {"bare": LAM()}, tmp_path / "bare", embedding=False))
    refused("has no `bare.embedding`. It was annotated", latent_spec, bare, "bare", "steps", 4, needs=("embedding",))
    del bare.features["bare.codes"]  # nothing is left but which rows have labels: that says nothing of the model
    refused(r"has no `bare.codes`, `bare.embedding`", latent_spec, bare, "bare", "steps", 4, needs=("embedding",))


@pytest.mark.parametrize(
    ("prefix", "target", "column", "facts", "numbers"),
    [
        ("latent", "steps", "embedding", {"vectors": 2}, "4 numbers a row, as .* says, got 2"),
        ("smooth", "steps", "codes", {"codes": 1}, "1 number a row, as .* says, got 0"),
        ("tok", "chunk", "codes", {"steps": 5}, "5 numbers a row, as .* says, got 4"),
        ("tok", "chunk", "embedding", {"latent_dim": 3}, "12 numbers a row, as .* says, got 16"),
    ],
)
def test_a_spec_that_contradicts_the_columns(rewritten, prefix, target, column, facts, numbers):
    dataset = rewritten(lambda known: known[prefix]["spec"].update(facts))
    refused(f"`{prefix}.{column}`: expected {numbers}.*annotate again", latent_spec, dataset, prefix, target, 4)


def test_a_codebook_that_no_memory_holds(rewritten):
    dataset = rewritten(lambda known: known["latent"]["spec"].update(codebook_size=10**12))
    refused("spec of latent in .*lattok.json: `codebook_size`: expected at", latent_spec, dataset, "latent", "steps", 4)


def test_labels_of_another_version_are_to_be_made_again(rewritten):
    dataset = rewritten(lambda known: known["latent"].pop("spec"))
    refused("lattok.json of annotated does not say what the labels", latent_spec, dataset, "latent", "steps", 4)
    dataset = rewritten(lambda known: known["latent"]["spec"].update(colour=1))
    refused("spec of latent.* names among .*, got colour. .*make it again", latent_spec, dataset, "latent", "steps", 4)


def test_tokens_of_different_number_are_refused(rewritten):
    dataset = rewritten(lambda known: known["tok"]["spec"].update(steps=0))
    reason = "expected as many tokens in every chunk: placeholders are predicted in one pass, got .*FAST"
    refused("`tok`: " + reason, latent_spec, dataset, "tok", "chunk", 4)
    tokenizer = Tokenizer()
    tokenizer.fixed_length = False
    refused("`tokenizer`: " + reason, tokenizer_spec, tokenizer, 4)
    refused("`tokenizer`: expected an action tokenizer, got LAM", lambda: tokenizer_spec(LAM(), 4))
    refused("`tokenizer`: expected a tokenizer of chunks of 8 steps, got one", lambda: tokenizer_spec(Tokenizer(), 8))


def test_a_chunk_without_codes_is_none(rewritten):
    dataset = rewritten(lambda known: known["tok"]["spec"].update(codes=0, steps=0))
    refused("`tok`: expected labels with codes: the tokens of a chunk, got", latent_spec, dataset, "tok", "chunk", 4)


def test_the_one_prefix_that_fits(annotated, make_dataset):
    assert only_prefix(annotated, "chunk", "la_direct") == "tok"
    refused("`prefix`: expected one of latent, smooth, all of them labels", only_prefix, annotated, "steps", "lara")
    bare = make_dataset([5], cameras=False)
    assert (targets_of(bare), only_prefix(bare, "steps", "lara")) == ({}, "latent")
    assert targets_of(annotated) == {"latent": "steps", "tok": "chunk", "smooth": "steps"}


def test_what_other_tools_keep_is_enough(annotated, tmp_path):
    """LeRobot's own copy the features of meta/info.json and drop meta/lattok.json."""
    root = shutil.copytree(annotated.root, tmp_path / "annotated")
    whole = provenance_of(open_dataset(root))
    (root / "meta/lattok.json").unlink()
    path = root / "meta/info.json"
    info = json.loads(path.read_text())
    info["features"]["tok.valid"]["info"]["lattok"]["normalizer"] = "elsewhere"
    info["features"]["tok.codes"]["info"] = {"lattok": {"spec": 1}}  # said of no prefix
    info["features"] |= {"reward": None, "action": info["features"]["action"] | {"info": 3}}
    path.write_text(json.dumps(info))
    dataset = copy(annotated)
    dataset.root = root  # as if its own reader did not mind what others wrote
    found = provenance_of(dataset)
    assert found.keys() == {"latent", "tok", "smooth"}
    for prefix, entry in found.items():
        assert entry["restored"] is True
        assert entry["versions"] == {}
        assert entry["dataset"] == {"name": "elsewhere" if prefix == "tok" else dataset.name}
        assert entry["spec"] == whole[prefix]["spec"]
        assert entry["columns"] == whole[prefix]["columns"]
        assert entry["model"] == {key: whole[prefix]["model"][key] for key in IDENTITY if key in whole[prefix]["model"]}
    assert latent_spec(dataset, "tok", "chunk", 4) == latent_spec(annotated, "tok", "chunk", 4)
    (root / "meta/info.json").write_text('{"features": []}')
    assert provenance_of(dataset) == {}


def test_what_is_carried_is_true_of_any_part():
    entry = {
        "spec": {"target": "steps"},
        "options": {"threads": 2},
        "dataset": {"name": "arm"},
        "unlabelled": [],
        "versions": {},
    }
    entry["model"] = {"type": "image-lam", "weights_sha256": "1", "model": "org/lam"}
    facts = {
        "spec": {"target": "steps"},
        "options": {"threads": 2},
        "model": {"type": "image-lam", "weights_sha256": "1"},
    }
    assert portable_facts(entry) == {"lattok": facts}
    assert portable_facts(entry, several=True) == {"lattok": facts | {"normalizer": "arm"}}


COLUMN = {"dtype": "int64", "shape": [2]}
FINE = {
    "spec": [{"target": "steps"}],
    "dataset": [{"name": "arm"}, {"name": "a", "split": None, "kind": "rlds", "episodes": 2, "frames": 9}],
    "versions": [{}, {"lattok": "1"}],
    "model": [{}],
    "columns": [{}, *({"a": COLUMN, "b": COLUMN | {"shape": shape}} for shape in ([], [1], [2**31 - 1], [3, 2]))],
    "options": [{}, {"threads": 1}, {"threads": 1024}, {"action_key": "action", "cameras": ["front"]}],
    "cameras": [[], ["front"]],
    "fills": [{"column": "action"}, {"column": "action", "names": ["x"]}],
    "unlabelled": [[], [{"episodes": [3], "reason": "torn"}, {"episodes": [0, 1], "reason": ""}]],
    "actions_as": [[{"part": "position"}]],
    "original_cameras": [["front"]],
    "stride_seconds": [0, 0.1],
    "unreadable": [[], [{"file": "data/a", "first": 0, "last": 3, "column": "action"}]],
    "files": [{"episodes": [[0, 1]], "digests": "QUJD"}],
    "frames": ["same", "source"],
    "restored": [True],
}
GAP = {"episodes": [3], "reason": "torn"}
WRONG = {
    "spec": [3, {}, {"target": "frames"}],
    "dataset": [
        [],
        {},
        {"name": 3},
        *({"name": "a", key: "3"} for key in ("episodes", "frames")),
        {"name": "a", "split": 3},
    ],
    "versions": ["1", {"lattok": 1}, {"a": "1", "b": 2}],
    "model": ["org/lam"],
    "columns": [
        [],
        *({"a": COLUMN, "b": facts} for facts in (3, {"dtype": "int64"}, {"shape": [2]}, COLUMN | {"dtype": 64})),
        *({"a": COLUMN | {"shape": shape}} for shape in (2, [0], [-1], [2.0], [2**31], [2**16, 2**15], ["a"])),
    ],
    "options": [3, {"action_key": 3}, {"fills": True}, *({"threads": n} for n in (0, 1025, True, 2.0, "2"))],
    "cameras": ["front", ["front", 3]],
    "fills": ["action", {}, {"column": 3}, {"column": "action", "names": [1]}],
    "unlabelled": [
        {},
        *([GAP, gap] for gap in (3, {"reason": "torn"}, {"episodes": [1]}, GAP | {"reason": 3})),
        *([GAP, GAP | {"episodes": episodes}] for episodes in ([], [1, "a"], 3)),
    ],
    "actions_as": ["position", [3]],
    "original_cameras": ["front"],
    "stride_seconds": ["0.1", True],
    "unreadable": ["all", [{"file": "data/a"}], [{"file": "data/a", "first": "0", "last": 3, "column": "action"}]],
    "files": ["all", {"episodes": [[1, 0]]}, {"digests": 3}],
    "frames": [True, "other", ["same"], 9],
    "restored": ["yes", 1],
}


def test_facts_have_the_types_that_readers_count_on():
    assert FINE.keys() == WRONG.keys() == LabelRecord.__annotations__.keys()
    for name, values in FINE.items():
        for value in values:
            entries = {"latent": {name: value, "further": 1}, "other": 3}
            assert check_records(entries, "lattok.json") == {"latent": entries["latent"]}  # the other is none of ours
    for name, values in WRONG.items():
        for value in values:
            refused(r"latent.* in `?lattok\.json", check_records, {"tok": {}, "latent": {name: value}}, "lattok.json")


def test_a_dataset_without_labels_is_to_be_annotated(make_dataset):
    dataset = make_dataset([3], cameras=False)
    refused("`tiny` has no `latent.codes`, `latent.valid`. Make them", latent_spec, dataset, "latent", "steps", 4)


def test_the_families_of_tokenizers():
    config = ActionVQConfig(action_dim=3, horizon=4, dim=16, heads=2, hidden=16, codebook_size=8)
    step = LatentSpec("chunk", 4, 1, 8, 1, 16, horizon=4, per_step=True)
    assert tokenizer_spec(P2TActionVQ(config).eval(), 4) == step
    chunks = torch.randn(40, 4, 3)
    assert tokenizer_spec(UniformBins.fit(chunks), 4) == LatentSpec("chunk", 12, 1, 256, horizon=4)
    refused("`tokenizer`: expected as many tokens in every chunk", lambda: tokenizer_spec(FAST.fit(chunks), 4))
