"""Latent actions in batches with LeRobot's keys, and batches that do not hold them as they should."""

import json
import re
from dataclasses import fields, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from lattok import LattokError
from lattok.labels import LatentSpec, read_rows, target_from_batch
from lattok.labels.spec import spec_of
from lattok.types import Episode
from tests.errors import refused
from tests.vla.labels import B, D, K, P, S, make_target


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def rows(steps: int = S) -> dict[str, torch.Tensor]:
    """What LeRobot's loader gives of windows of rows, of an image model of P codes and vectors."""
    target = make_target(steps)
    pad = torch.zeros(B, steps, dtype=torch.bool)
    pad[1, -2:] = True
    labels = {"codes": target.codes, "embedding": target.embedding.flatten(2), "valid": target.valid}
    return {f"latent.{k}": v for k, v in labels.items()} | {f"latent.{k}_is_pad": pad for k in labels}


def test_windows_of_rows():
    batch = rows()
    target = target_from_batch(batch, LatentSpec(codes=P, latent_dim=D))
    assert torch.equal(target.codes, batch["latent.codes"])
    assert torch.equal(target.embedding, batch["latent.embedding"].view(B, S, P, D))
    assert torch.equal(target.valid, batch["latent.valid"] & ~batch["latent.codes_is_pad"])
    shaped = batch | {"latent.embedding": target.embedding}  # of a loader that keeps the axes of vectors
    assert torch.equal(target_from_batch(shaped, LatentSpec(codes=P, latent_dim=D)).embedding, target.embedding)
    same = target_from_batch(batch, LatentSpec(vectors=P))  # what is not said is as the columns have it
    assert all(torch.equal(a, b) for a, b in zip(target[:3], same[:3], strict=True))
    actions = torch.rand(B, S) < 0.5
    assert torch.equal(target_from_batch(batch, valid=actions).valid, target.valid & actions)
    residual = batch | {"latent.embedding": torch.randn(B, S, D)}
    assert target_from_batch(residual, LatentSpec(latent_dim=D)).embedding.shape == (B, S, 1, D)
    no_codes = {key: value for key, value in batch.items() if "codes" not in key}
    flat = batch["latent.embedding"]
    for spec, vectors in ((LatentSpec(latent_dim=D), P), (LatentSpec(vectors=P), P), (LatentSpec(), 1)):
        found = target_from_batch(no_codes, spec)  # one vector where the spec says nothing
        assert found.codes is None
        assert torch.equal(found.embedding, flat.view(B, S, vectors, -1))
    renamed = {key.replace("latent.", "lam."): value for key, value in batch.items()}
    assert torch.equal(target_from_batch(renamed, LatentSpec(prefix="lam")).codes, batch["latent.codes"])


@pytest.mark.parametrize("padded", ["codes", "embedding", "valid"])
def test_the_padding_of_every_column_counts(padded):
    batch = {key: value for key, value in rows().items() if not key.endswith("is_pad")}
    pad = torch.zeros(B, S, dtype=torch.bool)
    pad[0, 1:] = True
    target = target_from_batch(batch | {f"latent.{padded}_is_pad": pad})
    assert torch.equal(target.valid, batch["latent.valid"] & ~pad)
    assert target.valid[0].tolist() == [True, False, False, False, False]


def test_columns_of_one_number_have_no_axis():
    batch = rows()
    scalars = batch | {"latent.codes": batch["latent.codes"][..., 0], "latent.embedding": torch.randn(B, S)}
    target = target_from_batch(scalars, LatentSpec(latent_dim=1))
    assert target.codes.shape == (B, S, 1)
    assert target.embedding.shape == (B, S, 1, 1)
    assert torch.equal(target_from_batch(scalars, LatentSpec(codes=1, latent_dim=1)).codes, target.codes)


def test_tokens_of_the_chunk():
    """One row for the whole chunk: its tokens are steps of one code."""
    tokens, vectors = torch.randint(0, K, (B, S)), torch.randn(B, S * D)
    some = torch.tensor([True, True, False, True])
    batch = {"latent.codes": tokens, "latent.embedding": vectors, "latent.valid": some}
    for given in (batch, {key: value[:, None] for key, value in batch.items()}):
        for spec in (LatentSpec("chunk", latent_dim=D), LatentSpec("chunk", S, 1, K, 1, D)):
            target = target_from_batch(given, spec)
            assert torch.equal(target.codes, tokens[..., None])
            assert torch.equal(target.embedding, vectors.view(B, S, 1, D))
            assert torch.equal(target.valid, some[:, None].expand(B, S))
    residual = batch | {"latent.embedding": torch.randn(B, D)}
    whole = target_from_batch(residual, LatentSpec("chunk", 1, S, vectors=1, latent_dim=D))
    assert whole.codes.shape == (B, 1, S)
    assert whole.embedding.shape == (B, 1, 1, D)
    refused("expected 5 steps x any vectors x", lambda: target_from_batch(residual, LatentSpec("chunk", latent_dim=D)))
    refused("`latent.codes`: expected one row, got rows .* out", lambda: target_from_batch(rows(), LatentSpec("chunk")))


def test_the_end_of_the_episode_hides_tokens_that_are_those_of_steps():
    """Not the tokens of a residual quantizer, even where there are as many of them as steps."""
    batch = {"latent.codes": torch.randint(0, K, (B, S)), "latent.valid": torch.ones(B, dtype=torch.bool)}
    actions = torch.rand(B, S) < 0.5
    of_steps, of_chunks = (LatentSpec("chunk", S, 1, K, per_step=per_step) for per_step in (True, False))
    assert torch.equal(target_from_batch(batch, of_steps, valid=actions).valid, actions)
    assert target_from_batch(batch, of_chunks, valid=actions).valid.all()
    refused("`latent.valid`", target_from_batch, batch, of_steps, valid=torch.ones(B, S + 1, dtype=torch.bool))


def test_vectors_of_the_chunk_without_its_tokens():
    vectors, valid = torch.randn(B, S * D), torch.ones(B, dtype=torch.bool)
    batch = {"latent.embedding": vectors, "latent.valid": valid}
    whole = target_from_batch(batch, LatentSpec("chunk", 1, S, vectors=S, latent_dim=D))
    assert whole.codes is None
    assert torch.equal(whole.embedding, vectors.view(B, 1, S, D))
    assert torch.equal(target_from_batch(batch, LatentSpec("chunk")).embedding, vectors.view(B, 1, 1, S * D))


def test_only_what_is_asked_for_is_looked_at():
    """`delta_timestamps` may name the codes alone; the vectors are then those of one row."""
    batch = rows()
    one = batch | {"latent.embedding": batch["latent.embedding"][:, 0]}
    target = target_from_batch(one, parts=["codes"])
    assert target.embedding is None
    assert torch.equal(target.codes, batch["latent.codes"])
    other = batch | {"latent.codes": batch["latent.codes"][:, 0]}
    target = target_from_batch(other, LatentSpec(latent_dim=D), parts=["embedding"])
    assert target.codes is None
    assert target.embedding.shape == (B, S, P, D)
    tokens = {"latent.codes": torch.zeros(B, S), "latent.embedding": torch.zeros(B, S * D)}
    tokens["latent.valid"] = torch.ones(B, dtype=torch.bool)
    target = target_from_batch(tokens, LatentSpec("chunk", latent_dim=D), parts=["embedding"])
    assert target.codes is None
    assert target.embedding.shape == (B, S, 1, D)  # as many as there are tokens
    del one["latent.codes"]
    refused("`batch`: expected latent.codes, got only latent.embedding", target_from_batch, one, parts=["codes"])
    refused("`parts`: expected names among codes, embedding, got vectors", target_from_batch, batch, parts=["vectors"])


def test_batches_that_do_not_fit():
    batch = rows()

    def unfit(text, batch=batch, spec=None, **options):
        refused(text, target_from_batch, batch, spec, **options)

    text = (
        "`batch`: expected latent.codes or latent.embedding and latent.valid, got no labels. `lattok annotate DATASET"
    )
    unfit(text, {"action": torch.zeros(B)})
    unfit("keep_labels.preprocessor.. keeps them", {"action": torch.zeros(B)})
    other = {key.replace("latent.", "lam."): value for key, value in batch.items() if "pad" not in key}
    unfit("got only lam.codes, lam.embedding, lam.valid", other)
    unfit("`batch`: expected latent.valid, got only latent.codes", {"latent.codes": batch["latent.codes"]})
    unfit("`batch`: expected latent.codes or latent.embedding, got only", {"latent.valid": batch["latent.valid"]})
    one = {key: value[:, 0] for key, value in batch.items()}
    unfit("`latent.valid`: expected rows of all steps, .B, S., got one row .4.. Name the key in `delta_timesta", one)
    unfit("`latent.codes`: expected rows of all 5 steps", batch | {"latent.codes": one["latent.codes"]})
    unfit("`latent.embedding`: expected rows of all 5", batch | {"latent.embedding": one["latent.embedding"]})
    text = "`latent.codes`: expected 4 codes in each row, got 3 numbers. Another model made these labels."
    unfit(text, spec=LatentSpec(codes=4))
    text = "`latent.embedding`: expected any vectors x 5 numbers in a vector in each row, got 18 numbers"
    unfit(text, spec=LatentSpec(latent_dim=5))
    unfit("2 vectors x 6 numbers in a vector in each row, got 18", spec=LatentSpec(vectors=2, latent_dim=D))
    unfit("`latent.valid`: expected 8 steps, as there are actions, got 5", valid=torch.ones(B, 8, dtype=torch.bool))
    unfit("`latent.valid`: expected bool, got int64", batch | {"latent.valid": batch["latent.valid"].long()})
    unfit("`latent.codes`: expected a torch tensor, got list", batch | {"latent.codes": [1, 2]})
    refused("`target`: expected one of steps, chunk", LatentSpec, "frames")
    longer = torch.zeros(B, S + 1, P, dtype=torch.long)
    unfit(r"`latent.codes`: expected rows of all 5 steps, .B, 5, n., got .4, 6, 3.", batch | {"latent.codes": longer})
    scalars = {"latent.codes": torch.zeros(B, S, dtype=torch.long), "latent.embedding": torch.randn(B, S)}
    unfit("`latent.codes`: expected 2 codes in each row, got 1 number", batch | scalars, LatentSpec(codes=2))
    unfit("any vectors x 6 numbers in a vector in each row, got 1", batch | scalars, LatentSpec(latent_dim=D))
    tokens = one | {"latent.codes": torch.zeros(B, S, dtype=torch.long)}
    unfit("`latent.codes`: expected 2 steps x 2 codes in each row, got 5", tokens, LatentSpec("chunk", codes=2))
    unfit("`latent.codes`: expected 4 steps x 1 codes in each row, got 5", tokens, LatentSpec("chunk", 4, 1))
    unfit("`latent.valid`: expected one row", tokens | {"latent.valid": batch["latent.valid"]}, LatentSpec("chunk"))
    unfit("`latent.codes`: expected one row, got rows .4, 2, 3.", rows(2), LatentSpec("chunk"))


def test_what_a_spec_says_of_its_columns():
    assert [LatentSpec(codes=c, vectors=v).tokens for c, v in ((0, 0), (3, 0), (0, 2), (3, 2))] == [1, 3, 2, 3]
    assert [LatentSpec(codes=c, codebook_size=k).has("codes") for c, k in ((1, 2), (2, 1), (0, 9))] == [
        True,
        False,
        False,
    ]
    assert [LatentSpec(vectors=v, latent_dim=d).has("embedding") for v, d in ((1, 1), (0, 4), (4, 0))] == [
        True,
        False,
        False,
    ]
    assert (LatentSpec().source, LatentSpec("chunk").source) == ("video", "actions")
    assert LatentSpec("steps", 4, 2, 9, 3, 5, prefix="lam").column("valid") == "lam.valid"
    assert LatentSpec("steps", 4, 2, 9, 3, 5).widths() == {"codes": 2, "embedding": 15, "valid": 1}
    assert LatentSpec("chunk", 4, 2, 9, 3, 5).widths() == {"codes": 8, "embedding": 60, "valid": 1}
    assert LatentSpec("chunk", 4, 1, 9).widths() == {"codes": 4, "valid": 1}


def test_a_spec_is_written_and_read_again():
    spec = LatentSpec("chunk", 4, 1, 9, 1, 5, 2, 4, True, "tok")
    facts = json.loads(json.dumps(spec.to_json()))
    assert "prefix" not in facts
    assert LatentSpec.from_json(facts, "tok", "here") == spec
    assert LatentSpec.from_json({"target": "steps"}, "other", "here") == LatentSpec(prefix="other")
    sizes = ("steps", "codes", "codebook_size", "vectors", "latent_dim", "stride", "horizon")
    assert LatentSpec().to_json() == {"target": "steps", **dict.fromkeys(sizes, 0), "per_step": False}
    del facts["target"]
    refused("`here`: expected `target`, steps or chunk, got none. Annotate", LatentSpec.from_json, facts, "tok", "here")


@pytest.mark.parametrize("name", [field.name for field in fields(LatentSpec) if field.type is int])
def test_sizes_are_whole_numbers(name):
    assert getattr(LatentSpec(**{name: 3}), name) == 3
    for wrong in (-1, 1.5, True):
        refused(f"`{name}`: expected a whole number", LatentSpec, **{name: wrong})


@pytest.mark.parametrize("prefix", ["", 3])
def test_a_prefix_is_a_text(prefix):
    refused("`prefix`: expected the beginning of the names of columns", LatentSpec, prefix=prefix)


def test_the_spec_of_a_model_is_that_of_the_rows_it_gives():
    lam: Any = SimpleNamespace(label_source="video", codebook_size=7)
    assert spec_of(lam, "a", 2, 1, 5, 3) == LatentSpec("steps", 0, 2, 7, 1, 5, 3, prefix="a")
    assert spec_of(lam, "a", 0, 2, 5) == LatentSpec("steps", 0, 0, 0, 2, 5, 0, prefix="a")
    lam.codebook_size = None
    assert spec_of(lam, "a", 2, 0, 0).codebook_size == 0
    facts = {"label_source": "actions", "vocab_size": 9, "fixed_length": True, "horizon": 4, "per_step": True}
    tokenizer: Any = SimpleNamespace(**facts)
    expected = LatentSpec("chunk", 6, 1, 9, 1, 5, horizon=4, per_step=True, prefix="b")
    assert spec_of(tokenizer, "b", 6, 6, 5) == expected
    assert spec_of(tokenizer, "b", 6, 1, 5) == replace(expected, vectors=0, latent_dim=0)  # of the whole chunk
    tokenizer.fixed_length = False
    assert spec_of(tokenizer, "b", 6, 6, 5) == replace(expected, steps=0)
    bare = LatentSpec("chunk", horizon=4, per_step=True, prefix="b")
    assert spec_of(tokenizer, "b", 0, 0, 5) == bare


def test_nearest_in_time():
    target = make_target(4)
    assert target.nearest(8).codes[0, :, 0].tolist() == target.codes[0, :, 0].repeat_interleave(2).tolist()
    assert torch.equal(target.nearest(2).embedding, target.embedding[:, [1, 3]])
    assert torch.equal(target.nearest(4).valid, target.valid)
    assert target._replace(codes=None).nearest(8).codes is None


def test_only_the_padding_of_parts_that_are_looked_at_counts():
    batch = {key: value for key, value in rows().items() if not key.endswith("_is_pad")}
    batch["latent.embedding_is_pad"] = torch.ones(B, S, dtype=torch.bool)
    assert torch.equal(target_from_batch(batch, LatentSpec(codes=P), parts=("codes",)).valid, batch["latent.valid"])


def read(columns, parts=("codes", "embedding")):
    """What is read of columns of a dataset of one episode, of K = 4 codes."""
    dataset: Any = SimpleNamespace(columns_of=lambda *_: iter([(0, {f"latent.{k}": v for k, v in columns.items()})]))
    spec = LatentSpec(codes=2, codebook_size=4, vectors=2, latent_dim=2)
    return read_rows(dataset, spec, [Episode(0, 3, ("lift",))], parts)


def test_an_episode_that_cannot_be_read_is_its_own_error():
    dataset: Any = SimpleNamespace(columns_of=lambda *_: iter([(0, LattokError("file-0 is torn"))]))
    refused("torn", lambda: read_rows(dataset, LatentSpec(codes=2, codebook_size=4), [Episode(0, 3, ("lift",))]))


def test_codes_at_the_ends_of_the_codebook_are_read_and_those_beyond_are_not():
    """Of rows that are valid: others may hold anything."""
    columns = {"codes": np.array([[0, 3], [3, 0], [-1, 9]]), "embedding": np.full((3, 4), np.nan, np.float32)}
    columns["embedding"][:2] = 1
    columns["valid"] = np.array([True, True, False])
    found = read(columns)
    assert found["codes"].tolist() == columns["codes"].tolist()
    assert found["valid"].tolist() == [[True], [True], [False]]
    for code, hint in ((4, "Is codebook_size right?"), (-1, "Rows padded with -1 come from a tokenizer")):
        columns["codes"][1, 1] = code
        low, high = min(0, code), max(3, code)
        refused(f"expected codes from 0 to 3, got {low} to {high}. {re.escape(hint)}", read, columns)
    assert set(read(columns, parts=("embedding",))) == {"embedding", "valid"}


@pytest.mark.parametrize(
    ("part", "values", "text"),
    [
        ("codes", np.full((3, 2), np.nan), "`latent.codes`: expected whole numbers, got float64. Annotate again."),
        ("codes", np.full((3, 2), 1.7, np.float32), "`latent.codes`: expected whole numbers, got float32"),
        ("embedding", np.full((3, 4), "a", object), "`latent.embedding`: expected numbers, got object"),
        ("embedding", np.full((3, 4), 1e300), "`latent.embedding`: expected finite numbers, got NaN or infinity"),
        ("valid", np.full(3, np.nan), "`latent.valid`: expected true or false, got float64"),
    ],
)
def test_columns_of_another_kind_are_no_labels(part, values, text):
    """Half a code would be rounded, NaN is true, and what a float32 cannot hold becomes infinite."""
    columns = {"codes": np.ones((3, 2), int), "embedding": np.ones((3, 4), np.float32), "valid": np.ones(3, bool)}
    refused(re.escape(text), read, columns | {part: values})
