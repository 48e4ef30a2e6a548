"""Every column of every file damaged in turn: annotation ends with one line, or labels all that does not need it."""

import shutil
import warnings
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from lattok.annotation import annotate
from lattok.data import open_dataset
from lattok.utils.checks import LattokError
from tests.annotation.fakes import tree
from tests.annotation.test_fill import model, write
from tests.annotation.test_gaps import corrupt_page

COLUMNS = ("action", "observation.state", "timestamp", "frame_index", "episode_index", "index", "task_index")
FILLS = {"actions": True, "latents": False}  # by what `--as` says


def labelled(data: Path, out: Path, fill: bool) -> Path | str:
    """Annotate; return the output, or the line that says why there is none."""
    prefix = "inferred" if fill else "latent"
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*episodes labelled")
            return annotate(data, {prefix: model()}, out, fill=fill)
    except LattokError as error:
        said = str(error)
    assert "\n" not in said
    assert not out.exists()
    return said


def same_elsewhere(found: Path, whole: Path, but: set[int]) -> None:
    """Compare all columns of the episodes that are not in damaged files."""
    ours, expected = open_dataset(found), open_dataset(whole)
    keys = [key for key in expected.features if key not in expected.cameras]
    for index in {episode.index for episode in expected.episodes} - but:
        got, wanted = ours.columns(index, keys), expected.columns(index, keys)
        for key in keys:
            np.testing.assert_array_equal(got[key], wanted[key])


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, Path]:
    """A dataset of a file for each episode, under "data", and its annotations."""
    root = tmp_path_factory.mktemp("whole")
    data = write(root / "data", data_file_mb=0.0001)
    assert len([*(data / "data").rglob("*.parquet")]) == 4
    return {"data": data} | {name: Path(labelled(data, root / name, fill)) for name, fill in FILLS.items()}


def test_no_column_is_forgotten(whole):
    for path in (whole["data"] / "data").rglob("*.parquet"):
        assert {*pq.read_schema(path).names} == {*COLUMNS}


@pytest.mark.parametrize("to", FILLS)
@pytest.mark.parametrize("column", COLUMNS)
def test_a_column_of_a_data_file(column, to, whole, tmp_path):
    """The same command ends the same again; the last file holds measured actions, the second unknown ones."""
    files = sorted(path.relative_to(whole["data"]) for path in (whole["data"] / "data").rglob("*.parquet"))
    for number in (1, 3):
        data, out = tmp_path / str(number) / "data", tmp_path / str(number) / "out"
        shutil.copytree(whole["data"], data)
        corrupt_page(data / files[number], column)
        found = labelled(data, out, FILLS[to])
        before = tree(out) if out.exists() else {}
        assert labelled(data, out, FILLS[to]) == found
        assert isinstance(found, str) or tree(out) == before
        if isinstance(found, str):
            assert column in found or files[number].name in found
            assert column not in ("action", "observation.state")
        else:
            same_elsewhere(found, whole[to], {number})
            shutil.copyfile(whole["data"] / files[number], data / files[number])
            same_elsewhere(Path(labelled(data, out, FILLS[to])), whole[to], set())


@pytest.mark.ci
@pytest.mark.parametrize("to", FILLS)
def test_a_column_of_a_table_of_metadata(to, whole, tmp_path):
    places = [
        (path.relative_to(whole["data"]), name)
        for path in sorted((whole["data"] / "meta").rglob("*.parquet"))
        for name in pq.read_schema(path).names
    ]
    assert len(places) > 20
    for number, (path, column) in enumerate(places):
        data, out = tmp_path / str(number) / "data", tmp_path / str(number) / "out"
        shutil.copytree(whole["data"], data)
        corrupt_page(data / path, column)
        found = labelled(data, out, FILLS[to])
        if isinstance(found, str):
            assert path.name in found
        else:
            same_elsewhere(found, whole[to], set())
