"""Columns of every type and shape that LeRobot 0.6.1 stores go through `annotate` and `export` with values and types
as they are, declared in meta/info.json or not; and so do the splits that it names."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lattok.annotation import annotate
from lattok.data import export, open_dataset
from tests.annotation.fakes import FakeTokenizer
from tests.conftest import write_dataset
from tests.data.edits import add_feature, edit_info, read_info, set_column

LENGTHS = [4, 5]
NUMBERS = ["bool", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)), "float32", "float64"]
SHAPES = {"one": (1,), "three": (3,), "grid": (2, 3), "cube": (2, 1, 3)}


def column(dtype: str, shape: tuple[int, ...]) -> pa.Array:
    """As `datasets` writes it: a scalar, a list of fixed size, or lists in lists."""
    rng, rows = np.random.default_rng(3), sum(LENGTHS)
    kind = {"string": pa.string(), "bool": pa.bool_()}.get(dtype) or pa.from_numpy_dtype(dtype)
    if dtype == "string":
        values = np.array([f"text {i}" for i in range(rows * int(np.prod(shape)))], dtype=object)
    elif dtype.startswith("float"):
        values = rng.standard_normal(rows * int(np.prod(shape))).astype(dtype)
        values[5] = np.nan
    else:
        top = 1 if dtype == "bool" else np.iinfo(dtype).max
        values = rng.integers(0, top, rows * int(np.prod(shape)), dtype=np.uint64, endpoint=True).astype(dtype)
    cells = values.reshape(rows, *shape).tolist()
    if shape == (1,):
        return pa.array([cell for (cell,) in cells], kind)
    if len(shape) == 1:
        return pa.array(cells, pa.list_(kind, shape[0]))
    for _ in shape:
        kind = pa.list_(kind)
    return pa.array(cells, kind)


COLUMNS = {f"x.{dtype}.{name}": (dtype, shape) for dtype in [*NUMBERS, "string"] for name, shape in SHAPES.items()}


def stored(root: Path) -> pa.Table:
    return pa.concat_tables([pq.read_table(path) for path in sorted((root / "data").rglob("*.parquet"))])


def equal(one: pa.Table, other: pa.Table, keys: Any) -> None:
    for key in keys:
        assert one.schema.field(key).type == other.schema.field(key).type, key
        left, right = (table[key].combine_chunks() for table in (one, other))
        while pa.types.is_nested(left.type):
            assert len(left) == len(right)
            left, right = left.flatten(), right.flatten()
        if pa.types.is_floating(left.type):  # NaN equals itself here
            left, right = left.to_numpy(), right.to_numpy()
            np.testing.assert_array_equal(left, right, err_msg=key)
        else:
            assert left.equals(right), key


@pytest.mark.parametrize("declared", [True, False])
def test_every_type_and_shape(declared: bool, tmp_path: Path):
    root = write_dataset(tmp_path / "d", LENGTHS, cameras=False)
    (path,) = (root / "data").rglob("*.parquet")
    before = read_info(root)["features"]
    known = {key: kind for key, kind in COLUMNS.items() if declared or len(kind[1]) == 1}
    for key, (dtype, shape) in known.items():
        set_column(path, key, column(dtype, shape))
        if declared:
            add_feature(root, key, dtype, list(shape))
    out = export(root, tmp_path / "out").path
    equal(stored(root), stored(out), [*before, *known])
    for key, (dtype, shape) in known.items():  # also where the source said nothing: LeRobot opens no other
        assert read_info(out)["features"][key] == {"dtype": dtype, "shape": list(shape), "names": None}
    read = open_dataset(out).columns(1, list(known))
    assert read.keys() == known.keys()
    assert all(values.dtype == known[key][0] for key, values in read.items() if known[key][0] in NUMBERS)
    equal(stored(root), stored(annotate(open_dataset(root), {"tok": FakeTokenizer()}, tmp_path / "a")), known)
    part = export(root, tmp_path / "part", episodes=[1]).path
    equal(stored(root).slice(LENGTHS[0]), stored(part), known)


def test_rows_of_several_dimensions_are_marked_as_datasets_does(tmp_path: Path):
    """It writes Array2D and the like, and gives other shapes to whom reads a file that does not say so."""
    root = write_dataset(tmp_path / "d", LENGTHS, cameras=False)
    (path,) = (root / "data").rglob("*.parquet")
    known = {key: kind for key, kind in COLUMNS.items() if len(kind[1]) > 1}
    for key, (dtype, shape) in known.items():
        set_column(path, key, column(dtype, shape))
        add_feature(root, key, dtype, list(shape))
    schema = pq.read_schema(next((export(root, tmp_path / "out").path / "data").rglob("*.parquet")))
    for name in schema.names:
        dtype, shape = known.get(name, ("", (1,)))
        said = {key.decode(): value.decode() for key, value in (schema.field(name).metadata or {}).items()}
        if len(shape) > 1:
            assert said["ARROW:extension:name"] == f"datasets.features.features.Array{len(shape)}DExtensionType"
            assert json.loads(said["ARROW:extension:metadata"]) == [list(shape), dtype]
        else:
            assert not any(key.startswith("ARROW") for key in said)


@pytest.mark.parametrize(
    ("episodes", "expected"),
    [
        (None, {"train": "0:3", "val": "3:4", "all": "0:5"}),
        ("1:4", {"train": "0:2", "val": "2:3", "all": "0:3"}),
        ([4, 0], {"train": "0:1", "all": "0:2"}),
    ],
)
def test_splits_are_those_of_the_episodes_that_are_kept(episodes, expected, tmp_path: Path):
    root = write_dataset(tmp_path / "d", [3] * 5, cameras=False)
    edit_info(root, splits={"train": "0:3", "val": "3:4", "none": "2:2", "all": "0:5"})
    assert read_info(export(root, tmp_path / "out", episodes=episodes).path)["splits"] == expected


@pytest.mark.parametrize("odd", ["first half", [0, 2], None])
def test_a_split_that_is_no_range_is_named(odd, tmp_path: Path):
    root = write_dataset(tmp_path / "d", LENGTHS, cameras=False)
    edit_info(root, splits={"odd": odd})
    with pytest.warns(UserWarning, match="expected `splits` of meta/info.json such as 0:10, got 'odd'"):
        out = export(root, tmp_path / "out").path
    assert read_info(out)["splits"] == {"train": "0:2"}


def test_lists_that_nothing_declares(tmp_path: Path):
    """pandas writes vectors as lists of any length; those that vary have no type in info.json."""
    root = write_dataset(tmp_path / "d", LENGTHS, cameras=False)
    (path,) = (root / "data").rglob("*.parquet")
    set_column(path, "mine", pa.array([[1.0, 2.0]] * 9, pa.list_(pa.float64())))
    set_column(path, "ragged", pa.array([[1.0] * (i + 1) for i in range(9)], pa.list_(pa.float64())))
    set_column(path, "when", pa.array(range(9), pa.timestamp("ns")))
    set_column(path, "a/b", pa.array(range(9)))
    with pytest.warns(UserWarning, match="ragged, when, a/b in its data files: meta/info.json does not declare it"):
        out = export(root, tmp_path / "out").path
    equal(stored(root), stored(out), ["mine"])
    assert read_info(out)["features"]["mine"] == {"dtype": "float64", "shape": [2], "names": None}
    assert not {"ragged", "when", "a/b"} & set(stored(out).column_names)
    np.testing.assert_array_equal(open_dataset(out).columns(0, ["mine"])["mine"], [[1.0, 2.0]] * 4)
