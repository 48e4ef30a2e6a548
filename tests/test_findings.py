"""The scripts of findings/ have one form (they are run by hand), and the table of real behaviour names what exists."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "findings"
PAGE = ROOT / "docs" / "real_behaviour.md"
HEAD = FOLDER / "environment.sh"  # which all others read
SCRIPTS = sorted({*FOLDER.glob("*.sh")} - {HEAD})
FIELDS = ("Versions", "Guess", "Fact", "Output", "Needs", "Date")
PINNED = re.compile(r"[\w.-]+(\[\w+\])?==[\w.]+")

pytestmark = pytest.mark.skipif(not SCRIPTS, reason="the sdist has no findings")


def parts(script: Path) -> tuple[list[str], str, str]:
    """The lines of the header, what bash runs, and what Python runs."""
    shell, _, code = script.read_text(encoding="utf-8").partition("<<'PY'\n")
    header = [line for line in shell.splitlines() if line.startswith("#")]
    return header, shell, code.removesuffix("PY\n")


def test_they_work_in_a_folder_that_is_deleted():
    subprocess.run(["bash", "-n", str(HEAD)], check=True)
    assert 'work=$(mktemp -d)\ntrap \'rm -rf "$work"\' EXIT\ncd "$work"\n' in HEAD.read_text(encoding="utf-8")


def test_there_are_ten_and_the_list_is_whole():
    listed = re.findall(
        r"^\| `(\w+\.sh)` \| (.+) \|$", (FOLDER / "README.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert len(SCRIPTS) >= 10
    assert listed == [(each.name, parts(each)[0][1].removeprefix("# ")) for each in SCRIPTS]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_each_has_the_form(script):
    header, shell, code = parts(script)
    assert header[0] == "#!/usr/bin/env bash"
    assert [line[2:].partition(":")[0] for line in header[3:] if not line.startswith("#  ")] == list(FIELDS)
    assert 'set -euo pipefail\n. "$(dirname "$0")/environment.sh"\n' in shell
    subprocess.run(["bash", "-n", str(script)], check=True)
    installs = re.findall(r"^ *install \w+ ([^\\\n]*(?:\\\n[^\\\n]*)*)", shell, re.MULTILINE)
    words = " ".join(installs).replace("\\\n", " ").split()
    assert words, "installs nothing"
    assert [word for word in words if not PINNED.fullmatch(word) and word != "--no-deps"] == []
    tree = ast.parse(code)
    assert any(isinstance(node, ast.Assert) for node in ast.walk(tree)), "would not notice a change"
    assert "lattok" not in shell + code
    assert not re.search(r"/(?:work|home|root|tmp)/", shell + code)


def test_packages_do_not_hold_them():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert 'packages = ["lattok"]' in text
    assert "findings" not in text[text.index("[tool.hatch.build.targets.sdist]") : text.index("[tool.ruff]")]


def test_each_row_of_the_table_is_shown_by_what_exists():
    rows = [
        line.strip("| ").split(" | ") for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")
    ]
    rows = [row for row in rows if row[0] != "one would guess"]
    assert len(rows) >= 25
    for row in rows:
        assert len(row) == 4, row
        shown = re.findall(r"`([^`]+)`", row[3])
        assert shown, row
        for each in shown:
            path, _, name = each.partition("::")
            assert path.startswith(("tests/", "findings/"))
            assert (ROOT / path).is_file(), each
            if path.startswith("tests/"):
                assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8"), each
