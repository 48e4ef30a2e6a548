"""What must hold for every family alike: saving, other processes, verbs, wrong input, total decoding at scale."""

import copy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lattok
from lattok.action_vq.base import ChunkTokenizer
from lattok.cli import main
from lattok.recipes import FitRecipe, kinds, recipe_of
from tests.action_vq.families import cases, fitted
from tests.action_vq.walks import NAMES, smooth
from tests.errors import refused

CASES = cases()


@pytest.fixture(params=CASES)
def tokenizer(request) -> ChunkTokenizer:
    return fitted(request.param)


LOAD = """
import sys, pathlib, numpy as np, lattok
root = pathlib.Path(sys.argv[1])
chunks = np.load(root / "chunks.npy")
for folder in sorted(root.glob("model-*")):
    tokenizer = lattok.load(folder)
    assert type(tokenizer).from_pretrained(folder).describe() == tokenizer.describe()
    codes = tokenizer.encode(chunks)
    np.savez(root / f"{folder.name}.npz", codes=codes, chunks=tokenizer.decode(codes))
"""


@pytest.mark.ci
def test_another_process_loads_every_family_and_gives_the_same_codes(tmp_path):
    chunks, made = smooth(20, seed=1), [fitted(name) for name in CASES]
    np.save(tmp_path / "chunks.npy", chunks.numpy())
    for i, tokenizer in enumerate(made):
        tokenizer.save_pretrained(tmp_path / f"model-{i}")
    subprocess.run([sys.executable, "-c", LOAD, str(tmp_path)], check=True)
    for i, tokenizer in enumerate(made):
        codes = tokenizer.encode(chunks)
        with np.load(tmp_path / f"model-{i}.npz") as file:
            got = dict(file)
        np.testing.assert_array_equal(got["codes"], codes.numpy())
        np.testing.assert_array_equal(got["chunks"], tokenizer.decode(codes).numpy())


def test_what_it_is_is_said(tokenizer):
    tokenizer = tokenizer.__class__(tokenizer.config) if tokenizer.fixed_length else tokenizer
    most = "" if tokenizer.fixed_length else "at most "
    codes = f"as {most}{tokenizer.tokens_per_chunk} codes of {tokenizer.vocab_size}"
    assert f"6 steps of x, y, gripper, in the units of the data, {codes}" in repr(tokenizer)
    assert tokenizer.size in repr(tokenizer) or "normalisation" in repr(tokenizer)
    assert "trained on" not in repr(tokenizer)
    tokenizer.trained_on = {"mixture": [{"dataset": "a/b"}, {"dataset": "c"}]}
    assert "trained on a/b, c" in repr(tokenizer)
    assert tokenizer.device == torch.device("cpu")


def test_fewer_or_more_codes_are_repaired_only_where_that_is_asked_for(tokenizer):
    """Unless the first codes of a row decode on their own."""
    codes = tokenizer.encode(smooth(3))[:, :-1]
    if tokenizer.prefixes:
        padded = torch.nn.functional.pad(codes, (0, 1), value=-1)
        assert torch.equal(tokenizer.decode(codes), tokenizer.decode(padded))
        refused("`codes`", lambda: tokenizer.decode(padded.flip(1)))
    elif tokenizer.fixed_length:
        refused("row 0: 1 of .* codes missing", tokenizer.decode, codes)
    assert torch.equal(tokenizer.decode(codes, repair=True), tokenizer.decode(codes, return_info=True)[0])


def test_shapes_dtypes_and_sizes(tokenizer):
    codes = tokenizer.encode(smooth(5))
    assert codes.dtype == torch.int64
    assert codes.shape == (5, tokenizer.tokens_per_chunk)
    assert int(codes.max()) < tokenizer.vocab_size
    assert int(codes.min()) >= (0 if tokenizer.fixed_length else -1)
    labels = tokenizer.latent_actions(smooth(5))
    assert torch.equal(labels.codes, codes)
    assert labels.latents.shape == labels.quantized.shape
    chunks, info = tokenizer.decode(codes, return_info=True)
    assert not info.repaired.any()
    padded = torch.nn.functional.pad(codes, (0, 3), value=-1)
    assert torch.equal(chunks, tokenizer.decode(padded))  # padding is no repair


def test_inputs_of_other_kinds_give_the_same_codes(tokenizer):
    chunks = smooth(9)
    codes = tokenizer.encode(chunks)
    assert np.array_equal(tokenizer.encode(chunks.numpy()), codes)
    assert torch.equal(tokenizer.encode(chunks.double()), codes)
    assert torch.equal(tokenizer.encode(chunks.transpose(0, 1).contiguous().transpose(0, 1)), codes)
    assert torch.equal(tokenizer.encode(chunks.half()), tokenizer.encode(chunks.half().float()))
    assert tokenizer.encode(chunks[:0]).shape == (0, tokenizer.tokens_per_chunk)
    assert tokenizer.decode(codes[:0]).shape == (0, 6, 3)
    assert torch.equal(tokenizer.decode(codes.to(torch.int32)), tokenizer.decode(codes))
    assert np.array_equal(tokenizer.decode(codes.numpy()), tokenizer.decode(codes.tolist()))
    before = tokenizer.train().describe()
    assert torch.equal(tokenizer.encode(chunks), codes)
    assert tokenizer.training
    assert tokenizer.describe() == before


def test_absurd_actions_have_codes_and_absurd_codes_are_refused(tokenizer):
    """Codes of OAT and QueST were the smallest integer, which a policy fails to learn deep inside torch."""
    absurd = smooth(4) * torch.tensor([1e10, -1e20, 1e30, 1e38])[:, None, None]
    codes = tokenizer.encode(absurd)
    assert int(codes.min()) >= (0 if tokenizer.fixed_length else -1)
    assert bool(tokenizer.decode(codes).isfinite().all())
    for wrong in (-7, -(2**60)) if tokenizer.fixed_length else ():  # others take -100, too, for padding
        row = [wrong, *tokenizer.encode(smooth(1))[0, 1:].tolist()]
        refused("outside 0", tokenizer.decode, [row])
        assert tokenizer.decode([row], return_info=True)[1].repaired.tolist() == [True]


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float64])
def test_nor_does_the_default_dtype(tokenizer, kind, tmp_path):
    chunks = smooth(9)
    codes = tokenizer.encode(chunks)
    decoded = tokenizer.decode(codes)
    torch.set_default_dtype(kind)
    try:
        assert torch.equal(tokenizer.encode(chunks), codes)
        assert torch.equal(tokenizer.decode(codes), decoded)
        loaded = lattok.load(tokenizer.save_pretrained(tmp_path / "tokenizer"))
        assert torch.equal(loaded.encode(chunks), codes)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("case", CASES)
def test_fitting_does_not_depend_on_the_default_dtype_either(case):
    family, options = CASES[case]
    chunks = smooth(64)
    made = family.fit(chunks, **options)
    torch.set_default_dtype(torch.bfloat16)
    try:
        assert torch.equal(family.fit(chunks, **options).encode(chunks), made.encode(chunks))
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_neither_precision_nor_autocast_changes_codes(tokenizer, dtype):
    chunks = smooth(40)
    codes = tokenizer.encode(chunks)
    actions = tokenizer.decode(codes)
    moved = copy.deepcopy(tokenizer).to(dtype)  # as when it lies inside a policy
    assert torch.equal(moved.encode(chunks), codes)
    assert torch.equal(moved.decode(codes), actions)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(tokenizer.encode(chunks), codes)
        assert torch.equal(tokenizer.decode(codes), actions)
        assert torch.equal(tokenizer.latent_actions(chunks).codes, codes)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda t: t.encode(torch.full((1, 6, 3), float("inf"))), "`chunks`"),
        (lambda t: t.encode(torch.zeros(1, 7, 3)), "`chunks`"),
        (lambda t: t.encode(torch.zeros(2, 0, 3)), "`chunks`"),
        (lambda t: t.encode(torch.zeros(2, 6, 3), torch.zeros(2, 6).bool()), "`valid`"),
        (lambda t: t.encode([[0.0]]), "`chunks`"),
        (lambda t: t.encode(torch.zeros(1, 6, 4)), "`chunks`"),
        (lambda t: t.encode(torch.zeros(6, 3)), "`chunks`"),
        (lambda t: t.decode(torch.zeros(1, 6)), "`codes`"),
        (lambda t: t.decode(np.zeros((1, 6))), "`codes`"),
        (lambda t: t.decode(torch.zeros(6, dtype=torch.long)), "`codes`"),
        (lambda t: t.decode([[1, 2.5]]), "`codes`"),
        (lambda t: t.decode([[t.vocab_size]]), "`codes`"),
        (lambda t: t.decode([[-2]]), "`codes`"),
        (lambda t: t.encode(torch.zeros(1, 5, 3)), "`chunks`"),
    ],
)
def test_wrong_input_is_named(tokenizer, call, text):
    refused(text, call, tokenizer)


@settings(max_examples=30)
@given(rows=st.lists(st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-2, 20), max_size=30), max_size=5))
def test_every_integer_sequence_decodes(rows):
    for tokenizer in map(fitted, CASES):
        chunks, info = tokenizer.decode(rows, return_info=True)
        assert chunks.shape == (len(rows), 6, 3)
        assert torch.isfinite(chunks).all()
        assert [note != "" for note in info.notes] == info.repaired.tolist()
        for row, repaired in zip(rows, info.repaired, strict=True):
            if tokenizer.fixed_length:
                own, rest = row[: tokenizer.tokens_per_chunk], row[tokenizer.tokens_per_chunk :]
                legal = len(own) == tokenizer.tokens_per_chunk and all(0 <= code < tokenizer.vocab_size for code in own)
                assert bool(repaired) == (not legal or not set(rest) <= {-1}), (tokenizer.type, row)
            else:
                reading = tokenizer.subwords.read(np.array(row, dtype=np.int64))
                legal = len(reading.coefficients) == 18 and not reading.unknown and not reading.unreadable
                assert bool(repaired) == (not legal), (tokenizer.type, row)


@pytest.mark.parametrize("rows", [2000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_random_codes_decode(tokenizer, rows):
    """Rows of any length, ids far outside included."""
    generator, size = torch.Generator().manual_seed(0), tokenizer.vocab_size
    for part in range(10):
        length = int(torch.randint(2 * tokenizer.tokens_per_chunk, (), generator=generator))
        low, high = ((0, size), (-3, size + 3), (-(2**40), 2**40))[part % 3]
        codes = torch.randint(low, high, (rows // 10, length), generator=generator)
        assert torch.isfinite(tokenizer.decode(codes, repair=True)).all()


def words_to_train(verb: str, root: Path, out: Path) -> list[str]:
    words = ["train", verb, str(root), "--out", str(out), "--horizon", "5"]
    for name, value in CASES[verb][1].items():
        values = value if isinstance(value, tuple) else (value,)
        words += [f"--{name.replace('_', '-')}", *map(str, values)]
    return words


@pytest.mark.parametrize("verb", [name for name in kinds() if name in CASES and issubclass(recipe_of(name), FitRecipe)])
def test_train_verb_of_each_fitted_family(verb, make_dataset, tmp_path, capsys):
    dataset = make_dataset([12, 15, 11, 14])
    words = words_to_train(verb, dataset.root, tmp_path / "model")
    assert main(words) == 0, capsys.readouterr().err
    tokenizer = lattok.load(tmp_path / "model")
    assert (tokenizer.type, tokenizer.horizon, tokenizer.config.action_names) == (verb, 5, ("x", "y", "z"))
    assert tokenizer.trained_on["dataset"] == dataset.name
    lattok.annotate(dataset, {"tokens": tokenizer}, tmp_path / "annotated")
    rows = lattok.open_dataset(tmp_path / "annotated").columns(0, ["tokens.codes"])["tokens.codes"]
    assert rows.shape == (12, tokenizer.tokens_per_chunk)


def test_a_fitted_family_resumes_and_is_made_again_from_its_recipe(make_dataset, tmp_path, capsys):
    words = words_to_train("beast", make_dataset([12, 15, 11, 14]).root, tmp_path / "model")
    assert main(words) == 0, capsys.readouterr().err
    tokenizer = lattok.load(tmp_path / "model")
    assert main(words) == 2
    assert "or add --resume" in capsys.readouterr().err
    assert main([*words[:5], "--resume"]) == 0, capsys.readouterr().err
    again = lattok.load(tmp_path / "model")
    assert again.describe() == tokenizer.describe()
    assert main([*words[:5], "--resume", "--seed", "3"]) == 2
    assert "`seed`: expected 0 as in the run to resume, got 3" in capsys.readouterr().err
    recipe = str(tmp_path / "model" / "run" / "recipe.json")
    assert main([*words[:4], str(tmp_path / "other"), "--config", recipe]) == 0, capsys.readouterr().err
    assert lattok.load(tmp_path / "other").describe()["weights_sha256"] == tokenizer.describe()["weights_sha256"]


@pytest.mark.parametrize("name", CASES)
def test_every_family_takes_a_seed(name):
    family, options = CASES[name]
    again = family.fit(smooth(), action_names=NAMES, seed=0, **options)
    assert again.describe()["weights_sha256"] == fitted(name).describe()["weights_sha256"]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", ["a", None, 1 << 70, -1])
def test_no_family_takes_another_seed(name, seed):
    family, options = CASES[name]
    refused("`seed`", lambda: family.fit(smooth(), action_names=NAMES, seed=seed, **options))


@pytest.mark.parametrize("name", CASES)
def test_robots_with_other_actions_share_the_codes_of_a_family(name, tmp_path):
    """Each in its own numbers and units: what only others have is masked, as `valid` masks it."""
    family, options = CASES[name]
    parts = {"arm": smooth()[..., :2] * 50 + 7, "hand": smooth(seed=1)}
    whole = family.fit(parts, action_names={"arm": ("x", "y"), "hand": NAMES}, **options)
    assert whole.config.spaces == (("x", "y"), NAMES)
    refused("`tokenizer`: expected one of its datasets to be chosen", whole.encode, parts["hand"])
    refused("`tokenizer`: expected one whose datasets", whole.add_dataset, "new", parts["arm"][0])
    wide = copy.deepcopy(whole)
    wide.use_normalizers(wide.normalizers.fresh())
    for dataset, chunks in parts.items():
        own = lattok.load(whole.for_dataset(dataset).save_pretrained(tmp_path / dataset))
        rows = chunks.flatten(0, 1).double().numpy()
        normalised = torch.zeros(len(chunks), 6, 3)
        if options.get("normalize", own.config.normalize) == "mean_std":
            normalised[..., : own.action_dim] = torch.from_numpy((chunks.numpy() - rows.mean(0)) / rows.std(0))
            there = (torch.arange(3) < own.action_dim).expand(len(chunks), 6, -1)
            codes = own.encode(chunks)
            assert (codes == wide.encode(normalised, there)).float().mean() > 0.99
            back = wide.decode(codes).numpy()[..., : own.action_dim] * rows.std(0) + rows.mean(0)
            np.testing.assert_allclose(own.decode(codes), back, rtol=1e-4, atol=1e-3)
        assert own.error_report(chunks).names == own.config.names
        assert own.decode(torch.full((2, 3), -1), repair=True).shape == (2, 6, own.action_dim)
    refused("`chunks`: expected 2 action dimensions", whole.for_dataset("arm").encode, parts["hand"])
