"""`import lattok` is light: no torch, no numpy, under 0.3 s; the public names load when they are asked for."""

import importlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

import lattok

HEAVY = ("torch", "numpy", "pyarrow", "av", "matplotlib", "timm", "huggingface_hub", "docstring_parser")


def python(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *args], capture_output=True, text=True, check=True)


def test_import_loads_no_heavy_package():
    code = f"import sys, lattok, lattok.utils.checks; print(*(name for name in {HEAVY} if name in sys.modules))"
    assert python("-W", "error", "-c", code).stdout.split() == []


@pytest.mark.ci
def test_models_import_little_but_torch():
    """What resizes, quantizes or gives frozen features comes when it is needed: torchvision takes as long as torch."""
    slow = ("torchvision", "timm", "transformers", "torch._dynamo", "matplotlib", "tensorboard")
    slow += ("vector_quantize_pytorch",)
    code = "import sys, lattok.action_vq, lattok.vla, lattok.image_lam.clips, lattok.image_lam.published;"
    assert python("-c", f"{code} print(*(name for name in {slow} if name in sys.modules))").stdout.split() == []


def test_import_takes_less_than_300_ms():
    code = "import time; begun = time.process_time(); import lattok; print(time.process_time() - begun)"
    assert float(python("-c", code).stdout) < 0.3


@pytest.mark.parametrize("name", lattok.__all__)
def test_public_names_load(name: str):
    assert getattr(lattok, name) is not None
    assert name in dir(lattok)


def test_the_names_that_editors_see_are_those_that_load():
    source = Path(lattok.__file__).read_text(encoding="utf-8")
    seen = {name: home for home, name in re.findall(r"^    from ([\w.]+) import (\w+) as", source, re.M)}
    assert seen == {"convert": "lattok", **lattok.HOMES}


def test_every_family_of_action_tokenizers_is_public():
    members = vars(importlib.import_module("lattok.action_vq")).items()
    families = {name for name, value in members if isinstance(value, type) and hasattr(value, "fit_options")}
    assert families <= lattok.HOMES.keys()


def test_public_names_live_in_the_package():
    for home in lattok.HOMES.values():
        assert importlib.util.find_spec(home) is not None, home


def test_no_public_name_is_also_a_module():
    """Importing the module would replace the lazily loaded function: `lattok.annotate(...)` could not be called."""
    assert [name for name in lattok.HOMES if importlib.util.find_spec(f"lattok.{name}")] == []


@pytest.mark.parametrize("name", ["convert", "data", "labels", "vla"])
def test_packages_that_pages_name_are_there_after_import_lattok(name: str, monkeypatch):
    monkeypatch.delattr(lattok, name, raising=False)  # as in a process that has not imported it
    assert getattr(lattok, name).__name__ == f"lattok.{name}"


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'tokenise'"):
        _ = lattok.tokenise


@pytest.mark.ci
def test_policies_need_neither_transformers_nor_peft():
    """Losses, taps, strategies and the scratch backbone are part of the base installation."""
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('transformers', 'peft', 'lerobot')));"
        "import lattok.vla, lattok.backbones, lattok.recipes.study; from lattok.backbones.model import open_backbone;"
        "from lattok.vla.config import HeadConfig; from lattok.backbones import BackboneConfig;"
        "b = BackboneConfig('scratch', train='full', width=16, patch_size=8, heads=2);"
        "c = lattok.vla.VLAConfig(action_dim=2, cameras=('a',), camera_sizes=((8, 8),), image_size=16, backbone=b,"
        "head=HeadConfig(dim=16, heads=2));"
        "lattok.vla.LatentVLA(c, open_backbone(c)); lattok.vla.CodeCrossEntropy(8, 4);"
        "print([m for m in sys.modules if m.split('.')[0] in ('transformers', 'peft') and sys.modules[m]])"
    )
    assert python("-c", code).stdout.strip() == "[]"
