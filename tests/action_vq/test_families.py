"""What must hold for every family alike: saving, other processes, verbs, wrong input, total decoding at scale."""

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch

import lattok
from lattok.action_vq.base import ChunkTokenizer
from lattok.cli import main
from lattok.utils.checks import LattokError
from tests.action_vq.walks import NAMES, smooth

P2T = {"steps": 2, "dim": 16, "hidden": 16, "codebook_size": 16, "device": "cpu"}
FIT = {
    "P2TActionVQ": P2T,
    "P2TActionVQ, context": {**P2T, "decoder": "context"},
    "FAST": {"vocab_size": 300, "scale": 4.0},
    "TOAST": {"vocab_size": 300, "scale": 4.0},
    "UniformBins": {"bins": 16},
    "ResidualVQ": {"steps": 1, "synthetic": 50, "tokens": 3, "codebook_size": 16},
    "FSQ": {"steps": 2, "synthetic": 50, "tokens": 3, "codebook_size": 16, "hidden": 8, "device": "cpu"},
}


@pytest.fixture(scope="module")
def families() -> dict[str, ChunkTokenizer]:
    return {
        name: getattr(lattok, name.split(",")[0]).fit(smooth(), action_names=NAMES, **options)
        for name, options in FIT.items()
    }


@pytest.fixture(params=list(FIT))
def tokenizer(request, families) -> ChunkTokenizer:
    return families[request.param]


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


def test_another_process_loads_every_family_and_gives_the_same_codes(families, tmp_path):
    chunks = smooth(20, seed=1)
    np.save(tmp_path / "chunks.npy", chunks.numpy())
    for i, tokenizer in enumerate(families.values()):
        tokenizer.save_pretrained(tmp_path / f"model-{i}")
    subprocess.run([sys.executable, "-c", LOAD, str(tmp_path)], check=True)
    for i, tokenizer in enumerate(families.values()):
        got, codes = np.load(tmp_path / f"model-{i}.npz"), tokenizer.encode(chunks)
        np.testing.assert_array_equal(got["codes"], codes.numpy())
        np.testing.assert_array_equal(got["chunks"], tokenizer.decode(codes).numpy())


def test_shapes_dtypes_and_sizes(tokenizer):
    codes = tokenizer.encode(smooth(5))
    assert codes.dtype == torch.int64
    assert codes.shape == (5, tokenizer.tokens_per_chunk)
    assert int(codes.max()) < tokenizer.vocab_size
    assert int(codes.min()) >= (0 if tokenizer.fixed_length else -1)
    labels = tokenizer.latent_actions(smooth(5))
    assert torch.equal(labels.codes, codes)
    assert labels.latents.shape == labels.quantized.shape
    assert not tokenizer.decode(codes, return_info=True)[1].repaired.any()


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
    tokenizer.train()
    assert torch.equal(tokenizer.encode(chunks), codes)
    tokenizer.eval()


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
        (lambda t: t.encode(torch.full((1, 6, 3), float("inf"))), "`chunks`: expected finite actions, got NaN"),
        (lambda t: t.encode(torch.zeros(1, 7, 3)), "`chunks`: expected 1 to 6 steps, got 7. Cut longer"),
        (lambda t: t.encode(torch.zeros(2, 0, 3)), "`chunks`: expected 1 to 6 steps, got 0"),
        (lambda t: t.encode(torch.zeros(2, 6, 3), torch.zeros(2, 6).bool()), "`valid`: expected true steps first"),
        (lambda t: t.encode([[0.0]]), r"`chunks`: expected shape \[B, H, m\], got shape \[1, 1\]"),
        (lambda t: t.encode(torch.zeros(1, 6, 4)), r"`chunks`: expected 3 action dimensions \(x, y, gripper\), as the"),
        (lambda t: t.encode(torch.zeros(6, 3)), r"`chunks`: expected shape \[B, H, m\], got shape \[6, 3\]"),
        (lambda t: t.decode(torch.zeros(1, 6)), "`codes`: expected integers, got dtype torch.float32"),
        (lambda t: t.decode(np.zeros((1, 6))), "`codes`: expected integers, got dtype torch.float64"),
        (lambda t: t.decode(torch.zeros(6, dtype=torch.long)), r"`codes`: expected shape \[B, L\], got shape \[6\]"),
        (lambda t: t.decode([[1, 2.5]]), "`codes`: expected integers"),
    ],
)
def test_wrong_input_is_named(tokenizer, call, text):
    with pytest.raises(LattokError, match=text):
        call(tokenizer)


@pytest.mark.parametrize("rows", [2000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_random_codes_decode(tokenizer, rows):
    """Rows of any length, ids far outside included."""
    generator, size = torch.Generator().manual_seed(0), tokenizer.vocab_size
    for part in range(10):
        length = int(torch.randint(2 * tokenizer.tokens_per_chunk, (), generator=generator))
        low, high = ((0, size), (-3, size + 3), (-(2**40), 2**40))[part % 3]
        codes = torch.randint(low, high, (rows // 10, length), generator=generator)
        assert torch.isfinite(tokenizer.decode(codes)).all()


VERBS = {
    "fast": "--vocab-size 512 --scale 3",
    "toast": "--vocab-size 512 --scale 3",
    "uniform-bins": "--bins 8",
    "residual-vq": "--tokens 2 --codebook-size 8 --steps 0 --synthetic 50",
    "fsq": "--tokens 2 --codebook-size 8 --hidden 8 --steps 2 --synthetic 50 --lr 1e-3 --device cpu",
}


@pytest.mark.parametrize("verb", VERBS)
def test_train_verb_of_each_fitted_family(verb, make_dataset, tmp_path, capsys):
    dataset = make_dataset([12, 15, 11, 14])
    words = ["train", verb, str(dataset.root), "--out", str(tmp_path / "model"), "--horizon", "5", *VERBS[verb].split()]
    assert main(words) == 0, capsys.readouterr().err
    tokenizer = lattok.load(tmp_path / "model")
    assert (tokenizer.type, tokenizer.horizon, tokenizer.config.action_names) == (verb, 5, ("x", "y", "z"))
    assert tokenizer.trained_on["dataset"] == dataset.name
    lattok.annotate(dataset, {"tokens": tokenizer}, tmp_path / "annotated")
    rows = lattok.open_dataset(tmp_path / "annotated").columns(0, ["tokens.codes"])["tokens.codes"]
    assert rows.shape == (12, tokenizer.tokens_per_chunk)
    assert main(words) == 2
    assert "continue its run with resume" in capsys.readouterr().err
    assert main([*words[:5], "--resume"]) == 0, capsys.readouterr().err
    again = lattok.load(tmp_path / "model")
    assert again.describe() == tokenizer.describe()
    assert main([*words[:5], "--resume", "--seed", "3"]) == 2
    assert "`seed`: expected 0 as in the run to resume, got 3" in capsys.readouterr().err
    recipe = str(tmp_path / "model" / "run" / "recipe.json")
    assert main([*words[:4], str(tmp_path / "other"), "--config", recipe]) == 0, capsys.readouterr().err
    assert lattok.load(tmp_path / "other").describe()["weights_sha256"] == tokenizer.describe()["weights_sha256"]


def test_every_family_takes_a_seed(families):
    for name, options in FIT.items():
        again = getattr(lattok, name.split(",")[0]).fit(smooth(), action_names=NAMES, seed=0, **options)
        assert again.describe()["weights_sha256"] == families[name].describe()["weights_sha256"]


def test_uniform_bins_are_at_least_two():
    with pytest.raises(LattokError, match="`bins`: expected a whole number of at least 2, got 1"):
        lattok.UniformBins.fit(smooth(), bins=1)
