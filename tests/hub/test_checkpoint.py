"""Foreign checkpoints: renaming is complete or refused with everything listed; reading runs and trusts nothing."""

import collections
import functools
import os
import pickle
import re
import time
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lattok.hub.checkpoint import (
    Join,
    published_settings,
    read_checkpoint,
    read_settings,
    read_system,
    setting,
    translate,
)
from lattok.utils.checks import LattokError
from tests.errors import refused

OURS = {"a.weight": torch.zeros(2, 3), "a.bias": torch.zeros(2), "steps": torch.tensor(0)}
MAP = {"a.weight": "theirs.w", "a.bias": "theirs.b"}


def theirs(**changes):
    tensors = {"theirs.w": torch.arange(6.0).reshape(2, 3), "theirs.b": torch.tensor([7.0, 8.0])}
    return {k: v for k, v in {**tensors, **changes}.items() if v is not None}


def test_tensors_get_our_names_in_our_order():
    got = translate(theirs(), MAP, OURS, "file", kept=["steps"])
    assert list(got) == list(OURS)
    assert torch.equal(got["a.weight"], torch.arange(6.0).reshape(2, 3))
    assert torch.equal(got["a.bias"], torch.tensor([7.0, 8.0]))
    assert got["steps"] is OURS["steps"]


def test_stacked_split_and_reshaped_tensors():
    foreign = {"q": torch.ones(1, 2), "kv": torch.tensor([[2.0, 2], [3, 3]]), "table": torch.arange(4.0)[None, None]}
    key_map = {
        "qk": Join(("q", "kv"), lambda q, kv: torch.cat([q, kv.chunk(2)[0]])),
        "v": Join(("kv",), lambda kv: kv.chunk(2)[1]),
        "table": Join(("table",), lambda table: table[0, 0]),
    }
    ours = {"qk": torch.zeros(2, 2), "v": torch.zeros(1, 2), "table": torch.zeros(4)}
    got = translate(foreign, key_map, ours, "file")
    assert got["qk"].tolist() == [[1, 1], [2, 2]]
    assert got["v"].tolist() == [[3, 3]]
    assert got["table"].tolist() == [0, 1, 2, 3]


def test_everything_that_does_not_fit_is_one_message():
    foreign = {"theirs.w": torch.zeros(3, 2), "x": torch.zeros(1), "y": torch.zeros(1)}
    said = refused(None, translate, foreign, {**MAP, "b": "theirs.c"}, OURS, "some.pt")
    assert said == (
        "`some.pt`: expected the 3 tensors of such a checkpoint, got missing theirs.b; missing theirs.c; unexpected x; "
        "unexpected y; nothing for our steps; no b in our model; theirs.w has shape [3, 2], expected [2, 3]."
    )


@pytest.mark.parametrize(
    ("tensor", "text"),
    [
        (torch.zeros(2, dtype=torch.int64), "theirs.b is torch.int64, expected torch.float32"),
        (torch.zeros(2, dtype=torch.complex64), "theirs.b is torch.complex64, expected torch.float32"),
        (torch.tensor([0.0, float("nan")]), "theirs.b holds NaN or infinity"),
        (torch.tensor([0.0, 1e300], dtype=torch.float64), "theirs.b holds NaN or infinity"),
        (torch.zeros(()), "theirs.b has shape [], expected [2]"),
    ],
)
def test_a_tensor_that_cannot_be_a_weight_is_refused(tensor, text):
    refused(re.escape(text), lambda: translate(theirs(**{"theirs.b": tensor}), MAP, OURS, "file", kept=["steps"]))


def test_a_transform_that_meets_another_shape_is_listed_with_the_rest():
    key_map = {"a.weight": Join(("w", "v"), lambda w, v: torch.cat([w, v])), "a.bias": "b"}
    refused(
        re.escape("missing b; w + v has shape [1, 3] and [1, 4], which cannot become [2, 3]"),
        translate,
        {"w": torch.zeros(1, 3), "v": torch.zeros(1, 4)},
        key_map,
        OURS,
        "file",
        kept=["steps"],
    )


def test_other_precisions_become_ours():
    got = translate(theirs(**{"theirs.w": torch.ones(2, 3, dtype=torch.float16)}), MAP, OURS, "file", kept=["steps"])
    assert got["a.weight"].dtype == torch.float32


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".bin", ".safetensors"])
def test_every_kind_of_file(tmp_path, suffix):
    path, tensors = tmp_path / f"x{suffix}", {"a.b": torch.ones(2)}
    safetensors.torch.save_file(tensors, path) if suffix == ".safetensors" else torch.save(tensors, path)
    assert torch.equal(read_checkpoint(str(path))["a.b"], torch.ones(2))


def test_one_entry_of_a_file_with_settings(tmp_path):
    torch.save({"state_dict": {"w": torch.ones(2)}, "epoch": 3, "hparams": {"lr": 0.1}}, tmp_path / "x.ckpt")
    assert list(read_checkpoint(tmp_path / "x.ckpt", entry="state_dict")) == ["w"]
    refused(re.escape("expected tensors alone, got int 3 at epoch"), read_checkpoint, tmp_path / "x.ckpt")
    refused("the entry weights, got a dictionary with", read_checkpoint, tmp_path / "x.ckpt", entry="weights")


def test_the_rest_of_a_file_with_a_prefix_is_left_out(tmp_path):
    torch.save({"policy.a": torch.ones(1), "b": torch.ones(2)}, tmp_path / "x.pt")
    read = lambda *prefixes: list(read_system(tmp_path / "x.pt", "oat", prefixes=prefixes))  # noqa: E731
    assert read("other.", "policy.") == ["a"]
    assert read("other.", "") == ["policy.a", "b"]
    assert read("other.") == []  # that everything is missing is said where it is filled in


def test_settings_beside_the_weights(tmp_path):
    torch.save({"state_dict": {"w": torch.ones(2)}, "hparams": {"heads": 3}, "epoch": 3}, tmp_path / "x.ckpt")
    assert read_settings(tmp_path / "x.ckpt", "hparams") == {"heads": 3}
    assert read_settings(tmp_path / "x.ckpt", "epoch") == read_settings(tmp_path / "x.ckpt", "other") == {}
    safetensors.torch.save_file({"w": torch.ones(2)}, tmp_path / "x.safetensors")
    assert read_settings(tmp_path / "x.safetensors", "hparams") == {}
    assert read_settings(tmp_path / "nowhere.ckpt", "hparams") == {}


class Custom:
    """A class of someone's training script."""


class Touch:
    """Unpickled in the usual way, this makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def holds_itself():
    loop = {}
    loop["again"] = loop
    return loop


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"vq": {"name": "ema"}}, "got str 'ema' at vq.name"),
        ({"vq": {"steps": 3}}, "got int 3 at vq.steps"),
        ({"vq": {"decay": 0.99}}, "got float 0.99 at vq.decay"),
        ({"vq": None}, "got NoneType at vq"),
        ({"used": [torch.ones(1), "x"]}, "got str 'x' at used.1"),
        ({"vq": {"w": Custom()}}, "Custom, whose loading runs code"),
        ({"w": print}, "print, whose loading runs code"),
        ({"w": np.float64(1)}, "multiarray.scalar, whose loading runs code"),
        ({"a": {"w": torch.ones(1)}, "b": {"w": np.ones(2)}}, "multiarray._reconstruct, whose loading runs code"),
        (torch.nn.Linear(1, 1), "holds a pickled torch.nn.modules.linear.Linear, whose loading runs code"),
        ({"w": torch.ones(1, device="meta")}, "got a tensor (strided, meta) at w"),
        ({"w": torch.eye(2).to_sparse()}, "got a tensor (sparse_coo, cpu) at w"),
        (torch.ones(1), "a dictionary of tensors, got a tensor (strided, cpu)"),
        ([torch.ones(1)], "a dictionary of tensors, got list"),
        (holds_itself(), "got a container that holds itself"),
        ({"a": {"b": torch.ones(1)}, "a.b": torch.ones(1)}, "every name once, got a.b more than once"),
    ],
)
def test_anything_but_tensors_is_refused_with_the_reason(content, text, tmp_path):
    torch.save(content, tmp_path / "x.pt")
    said = refused(None, read_checkpoint, tmp_path / "x.pt")
    assert text in said
    assert str(tmp_path / "x.pt") in said


def test_nothing_in_a_file_is_run(tmp_path):
    torch.save({"w": Touch(tmp_path / "made")}, tmp_path / "x.pt")
    refused(re.escape(f"{os.mkdir.__module__}.mkdir, whose loading runs code"), read_checkpoint, tmp_path / "x.pt")
    assert not (tmp_path / "made").exists()


def test_what_stands_beside_the_weights_need_not_be_known(tmp_path):
    beside = {
        "lam_num_heads": 3,
        "optimizer": torch.optim.AdamW,
        "schedule": functools.partial(torch.optim.AdamW, lr=1e-4),
        "callbacks": [Custom(), Custom()],
        "metrics": functools.partial(print, collections.defaultdict(list)),  # builtins go by their names of Python 2
        "dtype": np.float64(1),
    }
    weights = {"lam.w": torch.arange(3.0)}
    torch.save({"hyper_parameters": beside, "state_dict": weights}, tmp_path / "x.ckpt")
    before = list(torch.serialization.get_safe_globals())
    assert torch.equal(read_checkpoint(tmp_path / "x.ckpt", "state_dict")["lam.w"], torch.arange(3.0))
    assert read_settings(tmp_path / "x.ckpt", "hyper_parameters")["lam_num_heads"] == 3
    assert set(torch.serialization.get_safe_globals()) == set(before)
    refused("whose loading runs code", read_checkpoint, tmp_path / "x.ckpt")
    torch.save({"state_dict": {"lam.w": torch.ones(1), "x": Custom()}}, tmp_path / "y.ckpt")
    refused("expected tensors alone, got Custom at x", read_checkpoint, tmp_path / "y.ckpt", "state_dict")
    made = {"made": Touch(tmp_path / "made2")}
    torch.save({"hyper_parameters": made, "state_dict": weights}, tmp_path / "z.ckpt")
    with pytest.raises(LattokError, match="whose loading runs code"):  # torch refuses posix by its name
        read_checkpoint(tmp_path / "z.ckpt", "state_dict")
    assert not (tmp_path / "made2").exists()


def write_zip(path, member):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, "hello")


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("empty.pt", lambda path: path.write_bytes(b"")),
        ("text.pt", lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")),
        ("picture.ckpt", lambda path: path.write_bytes(b"\x89PNG" + bytes(200))),
        ("archive.pt", lambda path: write_zip(path, "readme.txt")),
        ("folder_in_archive.pt", lambda path: write_zip(path, "x/readme.txt")),
        ("pickle.bin", lambda path: path.write_bytes(pickle.dumps({"w": 1}))),
        ("empty.safetensors", lambda path: path.write_bytes(b"")),
        ("text.safetensors", lambda path: path.write_text("hello " * 50)),
    ],
)
def test_what_is_no_checkpoint_says_so_in_one_line(name, write, tmp_path):
    write(tmp_path / name)
    said = refused("one that cannot be read", read_checkpoint, tmp_path / name)
    assert name in said
    assert len(said) < 300 + len(str(tmp_path))


def test_a_path_that_is_no_file(tmp_path):
    refused("none.pt, which is not there", read_checkpoint, tmp_path / "none.pt")
    refused("which is a folder", read_checkpoint, tmp_path)
    (tmp_path / "x.npz").write_bytes(b"")
    refused(r"a file ending in .pt, .pth, .ckpt, .bin, .safetensors, got x.npz", read_checkpoint, tmp_path / "x.npz")


def test_an_archive_that_is_compressed_is_refused(tmp_path):
    """Its numbers are mapped as they lie in the file, and a few kilobytes can unpack to any memory."""
    torch.save({"w": torch.arange(20.0)}, tmp_path / "plain.pt")
    plain, packed = zipfile.ZipFile(tmp_path / "plain.pt"), zipfile.ZipFile(tmp_path / "packed.pt", "w")
    with plain, packed:
        for name in plain.namelist():
            packed.writestr(name, plain.read(name), zipfile.ZIP_DEFLATED)
    refused("expected an archive as torch.save writes it, got one with ", read_checkpoint, tmp_path / "packed.pt")


def test_tensors_claim_no_more_than_the_file_holds(tmp_path):
    """A view of one number can have any shape; tied weights, which lie in the file once, are fine."""
    torch.save({"a": torch.zeros(1).expand(1 << 20, 1 << 20), "b": torch.zeros(2)}, tmp_path / "huge.pt")
    refused(r"every number of its tensors, got a of shape \[1048576, 1048576\]", read_checkpoint, tmp_path / "huge.pt")
    tied = torch.arange(1000.0)
    torch.save({"a": tied, "b": tied, "c": torch.zeros(1).expand(1, 77)}, tmp_path / "tied.pt")
    assert torch.equal(read_checkpoint(tmp_path / "tied.pt")["b"], tied)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The same tensors in each format, as bytes, and a place to write."""
    folder = tmp_path_factory.mktemp("bytes")
    tensors = {"a": {"w": torch.arange(20.0)}, "b": {"w": torch.ones(2, 2)}}
    torch.save(tensors, folder / "new.pt")
    torch.save(tensors, folder / "old.pt", _use_new_zipfile_serialization=False)
    safetensors.torch.save_file({"w": torch.arange(20.0)}, folder / "x.safetensors")
    return folder, {path.name: path.read_bytes() for path in folder.iterdir()}


def test_published_settings_are_a_dictionary_or_a_file(tmp_path):
    written = {"heads": 4, "model": {"width": 8}}
    (tmp_path / "a.json").write_text('{"heads": 4, "model": {"width": 8}}')
    (tmp_path / "a.yaml").write_text("heads: 4\nmodel:\n  width: 8\n")
    for given_ in (written, tmp_path / "a.json", str(tmp_path / "a.yaml")):
        assert published_settings(given_) == written


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.toml", "heads = 4", "expected a .json or .yaml file, or a dictionary, got"),
        ("a.yaml", "- 4", "expected settings with names in .*, got list"),
        ("a.yaml", "a: [", "expected a file of settings; .* could not be read"),
        (
            "a.yaml",
            "[" * 5000 + "]" * 5000,
            "expected a file of settings; .* got (nested too deeply|while increasing flow level)",
        ),
        ("a.yaml", "- " * 5000, "expected a file of settings; .* got (nested too deeply|while increasing flow level)"),
        (
            "a.yaml",
            "{a: " * 5000,
            "expected a file of settings; .* got (nested too deeply|while increasing flow level)",
        ),
        ("a.yaml", "a: &a {x: 1}\nb: &b {<<: [*a, *a]}\n", "expected a file of settings; .* got aliases"),
        ("a.yaml", "a: " + "x" * 40_000, "expected a file of settings; .* got more than 32,768 bytes"),
        ("a.yaml", "a: x\n#" + "é" * 20_000, "expected a file of settings; .* got more than 32,768 bytes"),
    ],
)
def test_settings_that_cannot_be_read_are_one_line(tmp_path, name, text, said):
    """YAML's aliases let a few lines stand for any amount, and brackets took its reader fifteen seconds."""
    (tmp_path / name).write_text(text)
    begun = time.process_time()
    refused(f"`config`: {said}", published_settings, tmp_path / name)
    assert time.process_time() - begun < 1


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({}, "`config`: expected the setting a.b, which weights do not tell, got none."),
        ({"a": 3}, "`config`: expected the setting a.b, which weights do not tell, got none."),
        ({"a": {"b": "x"}}, "`a.b`: expected a value of type int, got 'x'."),
        ({"a": {"b": True}}, "`a.b`: expected a value of type int, got True."),
    ],
)
def test_a_published_setting_is_there_and_of_its_type(settings, text):
    refused(re.escape(text), setting, settings, "a.b", int)
    assert setting({}, "a.b", int, 4) == 4
    assert setting({"a": "1e-1"}, "a", float) == 0.1  # as YAML reads it
    assert setting({"a": {"b": [8, 5]}}, "a.b", tuple[int, ...]) == (8, 5)


@settings(max_examples=300, derandomize=True)
@given(st.data())
def test_damaged_files_load_or_are_refused(files, data):
    folder, contents = files
    name = data.draw(st.sampled_from(sorted(contents)))
    content = bytearray(contents[name][: data.draw(st.integers(0, len(contents[name])))])
    for _ in range(data.draw(st.integers(0, 4)) if content else 0):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = folder / f"damaged-{name}"
    path.write_bytes(content)
    try:
        values, text = read_checkpoint(path).values(), ""
    except LattokError as error:
        values, text = [], str(error)
    assert "\n" not in text
    assert all(isinstance(tensor, torch.Tensor) for tensor in values)


def test_known_tensors_that_nobody_needs_are_named():
    foreign = theirs(**{"theirs.unused": torch.zeros(1)})
    assert translate(foreign, MAP, OURS, "file", kept=["steps"], unused=["theirs.unused"]).keys() == OURS.keys()
    refused(re.escape("unexpected theirs.unused"), translate, foreign, MAP, OURS, "file", kept=["steps"])


def test_nested_dictionaries_and_lists_are_joined_with_dots(tmp_path):
    first, second = torch.ones(2), torch.nn.Parameter(torch.zeros(1, dtype=torch.float16))
    torch.save({"enc": {"w": first, "more": {}}, "all": [second, (first,)]}, tmp_path / "x.pt")
    got = read_checkpoint(tmp_path / "x.pt")
    assert list(got) == ["enc.w", "all.0", "all.1.0"]
    assert torch.equal(got["enc.w"], first)
    assert not got["all.0"].requires_grad
