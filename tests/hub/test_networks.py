"""What a stranger's model may name: nothing that lies here, no code, no sizes beyond what is there."""

import ast
import io
import json
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import lattok
from lattok.backbones import SCRATCH
from lattok.backbones.model import MERGED
from lattok.hub.client import ASSETS, NETWORK_FIELDS
from lattok.hub.weights import check_named
from lattok.image_lam.base.features import FrozenFeatures, TextEncoder
from tests.errors import refused
from tests.fuzz_artefacts import edit
from tests.process_jobs import forked

ROOT = Path(lattok.__file__).parent
NAMES = [  # of folders outside, as each field may name them
    ("features", "hf:{}"),
    ("features", "timm:local-dir:{}"),
    ("features", "timm:LOCAL-DIR:{}"),
    ("features", "timm:local_dir:{}"),
    ("features", "dc-ae:{}"),
    ("language", "t5:{}"),
    ("decoder", "sana:{}"),
    ("backbone", "{}"),
]


def edited(folder: Path, model: str, **changes: Any) -> Path:
    """A copy of a bundled model with other values in config.json."""
    shutil.copytree(ASSETS / "models" / model, folder)
    edit(folder / "config.json", **changes)
    return folder


@pytest.fixture
def evil(tmp_path: Path) -> Path:
    """A model whose configuration, processor, tokenizer and weights come with a script that leaves a file behind."""
    folder = tmp_path / "evil"
    folder.mkdir()
    codes = {name: f"evil.{name}" for name in ("AutoConfig", "AutoModel", "AutoTokenizer", "AutoProcessor")}
    codes["AutoTokenizer"] = ["evil.AutoTokenizer", None]  # type: ignore[assignment]
    for name in ("config.json", "tokenizer_config.json", "processor_config.json"):
        (folder / name).write_text(json.dumps({"model_type": "evilnet", "auto_map": codes}))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'PWNED')!r}, 'w')\nclass AutoConfig: pass\n")
    lam = ASSETS / "models/lam/model.safetensors"
    shutil.copy(lam, folder / "model.safetensors")
    return folder


def as_backbone(place: Path) -> Any:
    from lattok.backbones import pretrained

    return pretrained.load(str(place), None, "float32")


OPENERS: dict[str, Callable[[Path], Any]] = {
    "features": lambda place: FrozenFeatures(f"hf:{place}", 32),
    "weights of features": lambda place: FrozenFeatures(f"hf:{place}", 32).load(),
    "language": lambda place: TextEncoder(f"t5:{place}").load(),
    "backbone": as_backbone,
}


@pytest.mark.parametrize("opener", OPENERS)
def test_code_that_comes_with_a_model_is_neither_run_nor_asked_about(opener, evil, tmp_path, monkeypatch, capsys):
    pytest.importorskip("transformers", minversion="5.4")
    pytest.importorskip("peft")
    monkeypatch.setattr("builtins.input", lambda *words: "y")
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 100))
    refused("one that brings code of its own, which lattok never runs. Choose another", lambda: OPENERS[opener](evil))
    assert not (tmp_path / "PWNED").exists()
    assert "Do you wish" not in capsys.readouterr().out


def test_every_model_of_others_is_opened_in_one_place():
    """Of lattok's own classes `from_pretrained` runs no code; others are called by name in a few files."""
    own = {"cls", "ImageLAM", "ClipLAM", "InverseDynamics", "LatentVLA", "type", "super"}
    known = {  # whoever is added here says why no code of strangers runs there
        "hub/weights.py": {"kind", "family"},  # refuses it; diffusers runs code in pipelines only, and opens models
        "recipes/lara.py": {"family"},  # this and the next are latent action models of lattok
        "recipes/pairs.py": {"self"},
        "sim/agents.py": {"configs", "policies"},  # LeRobot has the code of its policies
    }
    found: dict[str, set[str]] = {}
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr == "from_pretrained":
                caller = ast.unparse(node.value).split("(")[0].split(".")[0]
                if caller not in own:
                    found.setdefault(path.relative_to(ROOT).as_posix(), set()).add(caller)
    assert found == known
    text = (ROOT / "hub/weights.py").read_text(encoding="utf-8")
    assert text.count("trust_remote_code=False") == 1


# Folders that a configuration names.


@pytest.mark.parametrize(("field", "form"), NAMES)
def test_a_configuration_names_no_folder_outside(field, form, tmp_path, monkeypatch):
    folder, outside = tmp_path / "model", tmp_path / "outside"
    (folder / "parts").mkdir(parents=True)
    outside.mkdir()
    monkeypatch.chdir(tmp_path)
    for place in (
        outside,
        "outside",
        "./outside",
        "../nothing",
        "/etc",
        "~/x",
        "~nobody-here/x",
        folder / ".." / "outside",
    ):
        config = SimpleNamespace(**{field: form.format(place)})
        refused(f"`{field}` in .*: expected a Hub id.*LATTOK_DATA=", check_named, config, folder)
        check_named(config, folder, given=(field,))
    check_named(SimpleNamespace(**{field: form.format(folder / "parts")}), folder)  # its own
    (folder / "parts/link").symlink_to(outside)
    refused("Hub id", lambda: check_named(SimpleNamespace(**{field: form.format(folder / "parts/link")}), folder))
    monkeypatch.setenv("LATTOK_DATA", str(outside))
    check_named(SimpleNamespace(**{field: form.format(outside)}), folder)


@pytest.mark.parametrize(
    "config",
    [
        {"features": "pixels", "language": "precomputed", "decoder": "compact", "backbone": SCRATCH},
        {"features": "timm:vit_base_patch14_reg4_dinov2.lvd142m", "language": None, "backbone": MERGED},
        {"features": "timm:hf-hub:org/name", "language": "t5:t5-base", "backbone": "Qwen/Qwen3-VL-2B-Instruct"},
        {"features": "hf:facebook/vit-mae-large", "decoder": "sana:org/name", "backbone": "gpt2"},
        {"features": "dc-ae:mit-han-lab/dc-ae-f32c32-sana-1.0"},
        {"features": "held"},
    ],
)
def test_what_is_on_the_hub_or_in_the_artefact_may_be_named(config, tmp_path):
    assert set(config) <= set(NETWORK_FIELDS)
    check_named(SimpleNamespace(**config), tmp_path)


def test_a_folder_that_looks_like_a_hub_id_is_one_of_this_machine(tmp_path, monkeypatch):
    """transformers would prefer it to the Hub."""
    (tmp_path / "here/org/name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    refused("`features` in", lambda: check_named(SimpleNamespace(features="hf:org/name"), tmp_path / "model"))


LOADS = [
    ("lam", {"features": "hf:{}"}),
    ("lam", {"features": "timm:local-dir:{}"}),
    ("lam", {"language": "t5:{}", "language_dim": 8}),
    ("policy", {"backbone": "{}", "backbone_train": "frozen"}),
]


def _load_watched(folder: Path, canary: str) -> None:
    """Load a model that is refused, and open nothing below a folder: every opened file is heard by Python itself."""

    def hook(event: str, args: Any) -> None:
        named = event in ("open", "os.listdir", "os.scandir") and isinstance(args[0], str | bytes | os.PathLike)
        if named and os.path.realpath(os.fsdecode(args[0])).startswith(canary):
            os._exit(7)

    sys.addaudithook(hook)
    refused("expected a Hub id: a model may not choose what is read here", lattok.load, folder)


@pytest.mark.parametrize(("model", "changes"), LOADS)
def test_nothing_outside_is_opened_by_loading(model, changes, tmp_path, evil):
    named = {key: value.format(evil) if isinstance(value, str) else value for key, value in changes.items()}
    folder = edited(tmp_path / "model", model, **named)
    with forked(_load_watched, folder, os.path.realpath(evil)) as process:
        process.join()
        assert process.exitcode == 0
    with forked(_load_watched, evil, os.path.realpath(evil)) as process:  # and what is opened there is heard
        process.join()
        assert process.exitcode == 7


# Links.


@pytest.mark.parametrize("name", ["config.json", "README.md", "model.safetensors", "parts/backbone/config.json"])
def test_a_file_that_is_a_link_to_elsewhere_is_refused(name, tmp_path):
    folder = edited(tmp_path / "model", "lam")
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    outside = tmp_path / "outside"
    path.rename(outside) if path.is_file() else outside.write_text("{}")
    path.symlink_to(outside)
    refused(r"expected a path below .*, but .* leads to .*outside", lattok.load, folder)
    inside = folder / "kept"
    shutil.copy(outside, inside)
    path.unlink()
    path.symlink_to(inside)
    assert lattok.load(folder)


def test_a_subfolder_that_is_a_link_to_elsewhere_is_refused(tmp_path):
    edited(tmp_path / "mine", "tokenizer")
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/model").symlink_to(tmp_path / "mine")
    refused("`subfolder`: expected a path below", lattok.load, tmp_path / "theirs", subfolder="model")


def test_the_links_of_the_hubs_cache_are_its_own(tmp_path):
    """A snapshot's files are links to blobs of the same repository."""
    repository = tmp_path / "hub/models--org--name"
    snapshot, blobs = repository / "snapshots" / ("0" * 40), repository / "blobs"
    edited(blobs, "tokenizer")
    snapshot.mkdir(parents=True)
    for path in blobs.iterdir():
        (snapshot / path.name).symlink_to(Path("../../blobs") / path.name)
    assert lattok.load(snapshot)


def test_a_base_model_holds_its_own_weights(tmp_path):
    """transformers would go wherever an index or the settings of adapters say."""
    from lattok.backbones import pretrained

    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    shutil.copy(ASSETS / "models/lam/model.safetensors", folder / "other.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../secret.safetensors"}}))
    pytest.importorskip("transformers", minversion="5.4")
    refused(r"index.json: weight_map: expected a path below", lambda: pretrained.load(str(folder), None, "float32"))
    (folder / "model.safetensors.index.json").unlink()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "/etc"}))
    refused("`backbone`: expected a whole model, got adapters of", pretrained.load, str(folder), None, "float32")


# Sizes.


def test_a_network_takes_no_memory_before_its_sizes_are_compared(tmp_path):
    """Two kilobytes of text name a network of four gigabytes."""
    folder = edited(tmp_path / "m", "lam", features="timm:vit_giant_patch14_clip_224", image_size=56)
    begun, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused("tensors of ImageLAM", lattok.load, folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # KiB
    assert time.process_time() - begun < 30


def test_a_network_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("lattok.hub.weights.MAX_TENSORS", 500)
    config = {"architecture": "vit_tiny_patch16_224", "num_classes": 0, "model_args": {"depth": 10**4}}
    (tmp_path / "config.json").write_text(json.dumps({**config, "pretrained_cfg": {}}))
    refused("expected about as many tensors as a network has", FrozenFeatures, f"timm:local-dir:{tmp_path}", 32)


@pytest.mark.parametrize(
    ("model", "changes", "text"),
    [
        ("lam", {"mean": [1e308, 0, 0]}, "`mean`: expected numbers between -1000 and 1000"),
        ("lam", {"std": [1e308, 1, 1]}, "`std`: expected numbers between -1000 and 1000"),
        ("lam", {"std": [1e-300, 1, 1]}, "`std`: expected numbers from 0.001 on"),
        ("lam", {"extra_strides": ["1"] * 10**3}, "`extra_strides`: expected at most 64, got 1000"),
        ("lam", {"cameras": ["a"] * 10**3}, "`cameras`: expected at most 64, got 1000"),
        ("policy", {"fps": 1e308}, "`fps`: expected frames per second between"),
        ("policy", {"fps": 1e-308}, "`fps`: expected frames per second between"),
        ("policy", {"camera_sizes": [[-1, 0], [2**40, 1]]}, "`camera_sizes`: expected a whole number of at least 1"),
        ("policy", {"camera_sizes": [[1, 1], [2**40, 1]]}, "`camera_sizes`: expected at most 16,384"),
        ("policy", {"camera_sizes": [[True, 1.5], [1, 1]]}, "`camera_sizes.0..0.` in .*: expected a value of type"),
        ("policy", {"instructions": ["lift"] * 1001}, "`instructions`: expected at most 1,000, got 1001"),
    ],
)
def test_what_no_model_was_trained_with_is_refused_when_it_is_read(model, changes, text, tmp_path):
    refused(text, lambda: lattok.load(edited(tmp_path / "m", model, **changes)))
