"""Stored notebooks belong to their sources and hold nothing of a machine; what scripts/notebooks.py refuses."""

import subprocess
import sys
from pathlib import Path

import pytest

from lattok.version import __version__
from scripts import notebooks

SCRIPT = Path(notebooks.__file__)
TINY = """# %% [markdown]
# # Tiny

# %%
import sys

mode = "full"  # short: mode = "short"
print(mode, file=sys.stdout)
print("progress 3/4", file=sys.stderr)

# %% tags=["check"]
assert mode == "full"  # full
assert mode in ("full", "short")

# %% tags=["picture"]
import matplotlib.pyplot as plt

plt.plot([0, 1])
plt.show()
"""


@pytest.mark.parametrize("name", notebooks.names(notebooks.FOLDER))
def test_a_stored_notebook_is_that_of_its_source(name):
    assert notebooks.problems(notebooks.FOLDER, name) == []


@pytest.mark.parametrize("name", notebooks.names(notebooks.FOLDER))
def test_every_notebook_says_what_a_reader_needs(name):
    whole = notebooks.source(notebooks.FOLDER / f"{name}.py")
    checked = "\n".join(cell.source for cell in whole.cells if cell.cell_type == "code")
    cells = notebooks.shown(whole).cells
    code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    assert cells[0].source.startswith("# ")
    assert "Colab" in cells[0].source
    assert f"./lattok-{__version__}-" in cells[0].source
    assert "\nassert " in checked
    assert "# short: " in checked
    assert not any(hidden in code for hidden in ("assert ", "# short: ", "# full", "SMALL", "SHORT"))
    makes = any(call in code for call in ("lattok.train(", "lattok.annotate(", "sim.collect("))
    assert makes <= ("os.chdir(tempfile.mkdtemp(" in code)  # all cells can run again: what they make is there already
    assert "DATASET = lattok.sample_dataset_path()" in cells[-1].source  # the reader's own path goes here
    assert any("what would be wrong" in cell.source.lower() for cell in cells)


def test_the_folder_stays_small():
    assert notebooks.size_problems(notebooks.FOLDER) == []


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("notebooks")
    (folder / "tiny.py").write_text(TINY)
    subprocess.run([sys.executable, SCRIPT, "build", "--folder", folder], check=True, cwd=notebooks.ROOT)
    return folder


@pytest.fixture
def folder(built, tmp_path):
    for path in built.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def test_short_mode_changes_what_asides_say():
    """And readers see neither these nor the cells that check."""
    book = notebooks.jupytext.reads(TINY, fmt="py:percent")
    (first, check, _) = [cell.source for cell in notebooks.shortened(book).cells if cell.cell_type == "code"]
    assert 'mode = "short"\n' in first
    assert check == 'pass\nassert mode in ("full", "short")'
    texts = [cell.source for cell in notebooks.shown(notebooks.jupytext.reads(TINY, fmt="py:percent")).cells]
    assert 'mode = "full"\nprint' in texts[1]
    assert not any("assert" in text for text in texts)


def test_building_stores_outputs_and_picture_without_progress(folder):
    text = (folder / "tiny.ipynb").read_text()
    assert '"full\\n"' in text
    assert "progress 3/4" not in text.replace('print(\\"progress 3/4\\"', "")
    assert (folder / "tiny.png").read_bytes().startswith(b"\x89PNG")
    assert notebooks.problems(folder, "tiny") == []


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("# Tiny", "# Changed", "cell 0 is not that of tiny.py"),
        ('"execution_count": 2', '"execution_count": 7', "was not executed once"),
        ('"full\\n"', '"/data/someone/model\\n"', "shows a path: /data/someone"),
        ('"full\\n"', '"<object at 0x7f00aa11bb22>\\n"', "shows an address"),
        ('"metadata": {},\\n   "outputs"', '"metadata": {"collapsed": true},\\n   "outputs"', "cell 1 is not that of"),
    ],
)
def test_a_stored_notebook_that_was_changed_is_found(folder, old, new, text):
    path, old, new = folder / "tiny.ipynb", old.replace("\\n  ", "\n  "), new.replace("\\n  ", "\n  ")
    stored = path.read_text()
    assert old in stored
    path.write_text(stored.replace(old, new, 1))
    assert any(text in line for line in notebooks.problems(folder, "tiny"))


def test_how_lattok_is_installed_stands_in_one_place(folder, monkeypatch):
    """Once it is on the index one line changes, and `text` puts it into notebooks that need not run again."""
    path = folder / "tiny.py"
    line = notebooks.in_colab("notebooks,sim", "tiny")
    path.write_text(path.read_text().replace("# # Tiny\n", f"# # Tiny\n#\n{line}\n", 1))
    assert line in path.read_text()
    assert "wheel" in line
    assert f'`%pip install "./lattok-{__version__}-py3-none-any.whl[notebooks,sim]"`' in line
    assert any("cell 0 is not that" in found for found in notebooks.problems(folder, "tiny"))
    notebooks.rewrite(folder, "tiny")
    assert notebooks.problems(folder, "tiny") == []
    monkeypatch.setattr(notebooks, "ON_INDEX", True)
    assert notebooks.problems(folder, "tiny") == ["tiny.py does not say how lattok is installed (run `text`)"]
    notebooks.rewrite(folder, "tiny")
    assert notebooks.problems(folder, "tiny") == []
    assert 'upload this file and run `%pip install \\"lattok[notebooks,sim]\\"`.' in (folder / "tiny.ipynb").read_text()
    monkeypatch.setattr(notebooks, "REPOSITORY", "https://github.com/org/lattok")
    notebooks.rewrite(folder, "tiny")
    there = "(https://colab.research.google.com/github/org/lattok/blob/main/examples/notebooks/tiny.ipynb)"
    assert f"{there}: run `%pip install" in path.read_text()
    path.write_text(path.read_text().replace("plt.plot([0, 1])", "plt.plot([0, 2])"))
    with pytest.raises(SystemExit, match="the code has changed"):
        notebooks.rewrite(folder, "tiny")


def test_badges_lead_to_what_is_there(monkeypatch):
    """Before the upload to none of its pages; afterwards one command puts the others into README."""
    (line,) = notebooks.BADGES.findall((notebooks.ROOT / "README.md").read_text())
    assert line == notebooks.badges()
    assert "pypi" not in line
    monkeypatch.setattr(notebooks, "ON_INDEX", True)
    assert "[![PyPI](https://img.shields.io/pypi/v/lattok)](https://pypi.org/project/lattok)" in notebooks.badges()
    assert "Colab" not in notebooks.badges()
    monkeypatch.setattr(notebooks, "REPOSITORY", "https://github.com/org/lattok")
    place = "https://colab.research.google.com/github/org/lattok/blob/main/examples/notebooks/train_and_judge.ipynb"
    assert notebooks.badges().endswith(f"colab-badge.svg)]({place})")
    assert (notebooks.FOLDER / "train_and_judge.ipynb").is_file()


def test_another_picture_a_missing_file_and_too_large_a_folder_are_found(folder, monkeypatch):
    (folder / "tiny.png").write_bytes(b"other")
    assert notebooks.problems(folder, "tiny") == ["tiny.png is not the picture of tiny.ipynb"]
    (folder / "tiny.ipynb").unlink()
    assert notebooks.problems(folder, "tiny") == ["tiny.ipynb is missing"]
    monkeypatch.setattr(notebooks, "LIMIT", 10)
    assert "more than" in notebooks.size_problems(folder)[0]


def test_a_cell_that_warns_stops_a_run(tmp_path):
    (tmp_path / "loud.py").write_text('# %%\nimport warnings\n\nwarnings.warn("careful")\n')
    run = [sys.executable, SCRIPT, "run", "--folder", tmp_path]
    ended = subprocess.run(run, capture_output=True, text=True, cwd=notebooks.ROOT)
    assert ended.returncode == 1
    assert "cell 0 warns" in ended.stderr
    assert "careful" in ended.stderr
