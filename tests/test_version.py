"""How to add an extra, which pip itself must understand, and which asks no index for a name that is not ours."""

import json
import re
import shlex
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import get_type_hints
from urllib.parse import quote

import pytest
from packaging.requirements import Requirement

from lattok import version
from lattok.training import LoopOptions

ROOT = Path(__file__).parents[1]
EXTRA = re.compile(r"install_extra\(['\"](\w+)['\"]\)")
BY_NAME = re.compile(
    r"""pip[ ]install[^\n`;&]*?[ '"]lattok(?=[\[ '"`.,)\n]|$) # a command: not a path, as ./lattok-0.1.0.whl, or URL
    |^dependencies[ ]=[^\n]*"lattok(?![\w@]|\ @) # of a project
    |^lattok[ ]*(?:[\[<>=~;\#].*)?$ # of a file of requirements
    """,
    re.VERBOSE | re.MULTILINE,
)


def test_nothing_asks_an_index_for_a_name_that_is_not_ours_yet():
    places = ("README.md", "CONTRIBUTING.md", "docs", "examples", "integrations", "lattok", "scripts", ".github")
    paths = [path for place in places for path in [ROOT / place, *(ROOT / place).rglob("*")] if path.is_file()]
    texts = [path for path in paths if path.suffix in (".md", ".py", ".toml", ".txt", ".ipynb", ".sh", ".yml", ".json")]
    found = {str(path.relative_to(ROOT)): BY_NAME.findall(path.read_text(encoding="utf-8")) for path in texts}
    switches = {"CONTRIBUTING.md", "lattok/version.py", "scripts/notebooks.py"}  # which say when that changes
    said = {name: lines for name, lines in found.items() if lines and name not in switches}
    assert version.INSTALL == "pip install lattok" or not said
    projects = [path.read_text() for path in sorted((ROOT / "integrations").glob("*/pyproject.toml"))]
    assert len(projects) == 4
    # once it is ours, what is installed by name needs it by name
    assert all(bool(BY_NAME.search(text)) == (version.INSTALL == "pip install lattok") for text in projects)


@pytest.fixture
def come_from(monkeypatch):
    """Let lattok have come from somewhere: what pip writes beside it (PEP 610)."""

    def become(origin):
        text = None if origin is None else json.dumps(origin)
        monkeypatch.setattr(metadata, "distribution", lambda name: SimpleNamespace(read_text=lambda file: text))

    return become


@pytest.mark.parametrize("name", ["lattok", "my clone"])
def test_an_extra_comes_from_where_lattok_came_from(come_from, tmp_path, name):
    clone, wheel = tmp_path / name, tmp_path / name / "lattok-0.1.0-py3-none-any.whl"
    clone.mkdir()
    wheel.touch()
    for path in (clone, wheel):
        come_from({"url": f"file://{quote(str(path))}", "dir_info": {}})
        assert shlex.split(version.install_extra("sim")) == ["pip", "install", f"{path}[sim]"]
    come_from({"url": f"file://{quote(str(clone))}", "dir_info": {"editable": True}})
    assert shlex.split(version.install_extra("vla")) == ["pip", "install", "-e", f"{clone}[vla]"]


def test_from_a_repository_it_is_the_same_commit(come_from):
    come_from({"url": "https://git.example/lattok", "vcs_info": {"vcs": "git", "commit_id": "0" * 40}})
    found = Requirement(shlex.split(version.install_extra("ray"))[-1])
    assert (found.name, found.extras) == ("lattok", {"ray"})
    assert found.url == f"git+https://git.example/lattok@{'0' * 40}"


@pytest.mark.parametrize("origin", [None, {}, {"url": "file:///no/such/clone", "dir_info": {}}])
def test_the_name_alone_is_asked_for_only_once_it_is_on_the_index(come_from, monkeypatch, origin):
    come_from(origin)
    assert version.install_extra("sim") == "pip install '.[sim]' in a clone of lattok"
    monkeypatch.setattr(version, "INSTALL", "pip install lattok")
    assert version.install_extra("sim") == "pip install 'lattok[sim]'"


def test_what_a_newer_python_cannot_install_is_left_out_of_its_extra():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (block,) = re.findall(r"^sim = \[.*?^\]", text, re.DOTALL | re.MULTILINE)
    sim = [Requirement(line) for line in re.findall(r'^    "(.*)",', block, re.MULTILINE)]
    assert {each.name for each in sim} == set(version.SIMULATORS)
    for minor in range(10, 16):
        left_out = {
            each.name for each in sim if each.marker and not each.marker.evaluate({"python_version": f"3.{minor}"})
        }
        assert left_out == {name for name, (since, _) in version.NO_WHEEL.items() if (3, minor) >= since}


def test_every_extra_that_a_message_or_a_page_names_exists():
    section = (ROOT / "pyproject.toml").read_text().split("[project.optional-dependencies]\n")[1].split("\n[")[0]
    known = {*re.findall(r"^(\w+) = \[", section, re.MULTILINE)}
    named = {name for path in (ROOT / "lattok").rglob("*.py") for name in EXTRA.findall(path.read_text())}
    named |= {name for name in get_type_hints(LoopOptions)["tracker"].__args__ if name != "none"}
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    typed = [names for page in pages for names in re.findall(r"'\.\[([\w,]+)\]'", page.read_text())]
    assert {"vla", "sim", "hdf5"} <= named
    assert named | {name for names in typed for name in names.split(",")} <= known
