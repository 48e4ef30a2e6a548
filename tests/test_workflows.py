"""Workflows name actions by their commits and tools by their versions, and give each job the rights that it needs."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
TOOLS = dict(re.findall(r"^([a-z]+)==([\d.]+)$", (ROOT / "scripts/requirements.txt").read_text(), re.MULTILINE))


def jobs(path: Path) -> dict[str, dict[str, Any]]:
    return yaml.safe_load(path.read_text())["jobs"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_named_by_their_commits_with_the_version_beside(path):
    used = re.findall(r"uses: *(\S+?)@(\S+)(.*)$", path.read_text(), re.MULTILINE)
    assert used
    for action, commit, version in used:
        assert re.fullmatch(r"[0-9a-f]{40}", commit), f"{action}@{commit}"
        assert re.fullmatch(r" # v\d+\.\d+\.\d+", version), f"{action}{version}"


def test_an_action_has_one_commit():
    used = {found for path in WORKFLOWS for found in re.findall(r"uses: *(\S+?)@(\S+)", path.read_text())}
    assert len(used) == len(dict(used))


def test_rights_of_the_release():
    """Who publishes may do nothing else and runs no command; who writes to the repository may not publish."""
    found = jobs(ROOT / ".github/workflows/release.yml")
    rights = {name: job.get("permissions", {}) for name, job in found.items()}
    assert rights == {"build": {}, "try": {}, "publish": {"id-token": "write"}, "announce": {"contents": "write"}}
    assert found["publish"]["environment"] == "release"
    assert not any("run" in step for step in found["publish"]["steps"])
    assert found["announce"]["needs"] == "publish"
    for path in WORKFLOWS:
        assert yaml.safe_load(path.read_text())["permissions"] == {"contents": "read"}, path


def test_tools_have_one_version():
    assert {"build", "hatchling", "twine", "uv"} == TOOLS.keys()
    places = [*WORKFLOWS, ROOT / ".ci/run", *sorted((ROOT / "scripts").glob("*.sh"))]
    for path in places:
        for command in re.findall(r"pip\W+install ([^\n;&|]*)", path.read_text()):
            for name, version in re.findall(r"(?:^| )(build|hatchling|twine|uv)\b(?:==([\d.]+))?", command):
                assert version == TOOLS[name], f"{path}: pip install {command}"
