"""Which family a model is of, opening one from a folder or the Hub's cache, and the texts of what can go wrong."""

import json
import resource
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from lattok.backbones import pretrained
from lattok.backbones.pretrained import FAMILIES, family_of
from tests.backbones.conftest import need_transformers
from tests.errors import refused

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Looks like a model; nobody reads its weights."""
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text('{"model_type": "qwen3"}')
    (path / "model.safetensors").write_bytes(bytes(range(256)) * 8192)  # 2 MiB
    return path


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No network, and an empty cache in the folder that is returned."""
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def as_snapshot(source: Path, cache: Path) -> Path:
    """Copy a folder to where huggingface_hub keeps org/name."""
    repository = cache / "models--org--name"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    return Path(shutil.copytree(source, repository / "snapshots" / COMMIT))


def config(model_type: str, **parts: Any) -> SimpleNamespace:
    return SimpleNamespace(model_type=model_type, **parts)


def test_families_by_model_type():
    for family in FAMILIES:
        for name in family.model_types:
            assert family_of(config(name, vision_config={})) is family
    assert family_of(config("qwen3")).name == family_of(config("llama")).name == "text"
    assert len({family.name for family in FAMILIES}) == len(FAMILIES) == 7
    refused(r"a text model or one of the types qwen3_vl", lambda: family_of(config("llava", vision_config={})))


def test_qwen_lowers_the_least_size_and_keeps_the_largest():
    size = {"shortest_edge": 65536, "longest_edge": 16777216}
    processor = SimpleNamespace(image_processor=SimpleNamespace(size=size, patch_size=16, merge_size=2))
    options = next(family for family in FAMILIES if family.name == "qwen3_vl").image_options(processor)
    assert options == {"size": {"shortest_edge": 1024, "longest_edge": 16777216}}


def test_a_fingerprint_changes_with_the_content_and_not_with_the_place(folder: Path, tmp_path: Path):
    before = pretrained.fingerprint(folder)
    assert before.startswith("files-")
    assert pretrained.fingerprint(Path(shutil.copytree(folder, tmp_path / "copy"))) == before
    (folder / "README.md").write_text("a model")
    assert pretrained.fingerprint(folder) == before
    weights, seen = folder / "model.safetensors", {before}
    whole = weights.read_bytes()
    for start in (0, len(whole) // 2, len(whole) - 5000):
        weights.write_bytes(whole[:start] + b"x" * 5000 + whole[start + 5000 :])
        seen.add(pretrained.fingerprint(folder))
    weights.write_bytes(whole + b"x")
    seen.add(pretrained.fingerprint(folder))
    weights.write_bytes(whole)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    seen.add(pretrained.fingerprint(folder))
    (folder / "preprocessor_config.json").write_text('{"image_mean": [0.1, 0.1, 0.1]}')
    assert len({*seen, pretrained.fingerprint(folder)}) == 7


def test_a_folder_is_found_by_its_fingerprint_only(folder: Path):
    found, revision = pretrained.find(str(folder))
    assert (found, revision) == (folder, pretrained.fingerprint(folder))
    assert pretrained.find(str(folder), revision) == (folder, revision)
    said = refused(None, pretrained.find, str(folder), "files-other")
    expected = f"`backbone`: expected revision files-other of {folder}, got {revision}. The policy was trained on other"
    assert said.startswith(expected)
    refused(rf"`hf download` its base model with --revision {COMMIT}", pretrained.find, str(folder), COMMIT)
    refused(r"revision main of .*, got files-", pretrained.find, str(folder), "main")
    pretrained.check_revision("org/name", revision, None)


def test_a_folder_of_hf_download_is_found_by_its_commit_too(folder: Path, offline: Path):
    note = folder / ".cache/huggingface/download/config.json.metadata"
    note.parent.mkdir(parents=True)
    note.write_text(f"{COMMIT}\nan-etag\n1700000000.0\n")
    assert pretrained.find(str(folder), COMMIT) == (folder, COMMIT)
    assert pretrained.find(str(folder))[1] == pretrained.fingerprint(folder)
    refused(f"expected revision {COMMIT[::-1]} of .*, got {COMMIT}", pretrained.find, str(folder), COMMIT[::-1])
    assert pretrained.find(str(as_snapshot(folder, offline)), COMMIT)[1] == COMMIT


@pytest.mark.parametrize("name", ["./nothing", "/nothing/there", "nothing", "a/b/c", "~/nothing"])
def test_a_name_that_is_neither_folder_nor_hub_id(name: str, tmp_path: Path):
    refused("`backbone`", pretrained.find, name)
    refused(r"a folder with config.json, or a Hub id like org/name, got .* without it", pretrained.find, str(tmp_path))


@pytest.mark.parametrize("revision", [None, COMMIT])
def test_a_hub_id_without_network(offline: Path, revision: str | None):
    text = refused(None, pretrained.find, "org/name", revision)
    at = f" at {COMMIT}" if revision else ""
    assert text.startswith(f"`backbone`: 'org/name'{at} could not be fetched: it is not in the cache")
    assert "Where there is network, run `hf download org/name` and copy HF_HOME" in text
    assert "\n" not in text


@pytest.mark.parametrize("revision", [None, COMMIT])
def test_without_network_the_cache_is_used(offline: Path, folder: Path, revision: str | None):
    snapshot = as_snapshot(folder, offline)
    assert pretrained.find("org/name", revision) == (snapshot, COMMIT)
    print_ = pretrained.fingerprint(folder)
    assert pretrained.find("org/name", print_) == (snapshot, print_)
    pretrained.check_revision("org/name", COMMIT, "main")


def test_missing_and_old_packages(monkeypatch: pytest.MonkeyPatch):
    old = ModuleType("transformers")
    old.__version__ = "4.57.6"  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "transformers", old)
    refused(r"transformers 5.4 or newer \(pip install .*\[vla\]'.*\)", pretrained.load, "org/name", None, "float32")
    monkeypatch.setitem(sys.modules, "transformers", None)
    refused(r"package transformers .*\[vla\]'.*\), got none\. .*backbone=scratch", pretrained.require, "transformers")
    refused("`dtype`", pretrained.load, "org/name", None, "float16")


@pytest.mark.parametrize("family", [family.name for family in FAMILIES])
def test_tiny_models_are_small_seeded_and_of_their_family(tiny: Callable[[str], Path], tmp_path: Path, family: str):
    need_transformers()
    from tests.backbones.tiny import tiny_backbone

    model, _, found, revision = pretrained.load(str(tiny(family)), None, "bfloat16")
    assert found.name == family
    assert sum(value.numel() for value in model.parameters()) < 1_000_000
    assert {str(value.dtype) for value in model.parameters()} == {"torch.bfloat16"}
    assert pretrained.fingerprint(tiny_backbone(family, tmp_path / "again")) == revision
    assert pretrained.fingerprint(tiny_backbone(family, tmp_path / "other", seed=1)) != revision


def test_a_snapshot_of_the_cache_is_opened(tiny: Callable[[str], Path], offline: Path):
    need_transformers()
    from lattok.backbones.hf import HFBackbone

    as_snapshot(tiny("text"), offline)
    backbone = HFBackbone.load("org/name")
    assert (backbone.name, backbone.revision) == ("org/name", COMMIT)
    pretrained.check_revision(backbone.name, backbone.revision, COMMIT)
    refused(r"expected revision files-1 of", pretrained.check_revision, backbone.name, backbone.revision, "files-1")


def test_models_that_cannot_be_read(tiny: Callable[[str], Path], tmp_path: Path):
    need_transformers()
    broken = Path(shutil.copytree(tiny("text"), tmp_path / "broken"))
    (broken / "model.safetensors").write_bytes(b"nothing")
    refused(r"model.safetensors`: expected a whole safetensors file", pretrained.load, str(broken), None, "float32")
    unknown = Path(shutil.copytree(tiny("text"), tmp_path / "unknown"))
    (unknown / "config.json").write_text('{"model_type": "no_such_model"}')
    refused(r"could not be read, got .*no_such_model", pretrained.load, str(unknown), None, "float32")
    less = Path(shutil.copytree(tiny("text"), tmp_path / "less"))
    values = json.loads((less / "config.json").read_text())
    (less / "config.json").write_text(json.dumps({**values, "num_hidden_layers": 5, "layer_types": None}))
    refused(r"a whole model; .* lacks weights, got model.layers.4.* and 8", pretrained.load, str(less), None, "float32")


@pytest.mark.parametrize(
    "changes",
    [
        {"num_hidden_layers": 10**6, "layer_types": None},
        {"vocab_size": 10**9},
        {"hidden_size": 10**9},
        {"intermediate_size": 10**12},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_configuration_that_its_weights_cannot_hold_is_refused_before_memory_is_taken(tiny, tmp_path, changes):
    """A policy from a stranger may carry its backbone, configuration and all."""
    need_transformers()
    folder = Path(shutil.copytree(tiny("text"), tmp_path / "hostile"))
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, **changes}))
    begun, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(r"configuration with|a layer for each of its 46 tensors", pretrained.load, str(folder), None, "float32")
    assert time.process_time() - begun < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # KiB
