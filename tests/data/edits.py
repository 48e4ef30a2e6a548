"""Changes to the files of a LeRobot dataset."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def read_info(root: Path) -> dict[str, Any]:
    return json.loads((root / "meta" / "info.json").read_text())


def edit_info(root: Path, **changes: Any) -> None:
    """Replace entries of meta/info.json."""
    (root / "meta" / "info.json").write_text(json.dumps(read_info(root) | changes))


def add_feature(root: Path, key: str, dtype: str, shape: list[int]) -> None:
    """Declare a feature in meta/info.json, or another one in its place."""
    edit_info(root, features=read_info(root)["features"] | {key: {"dtype": dtype, "shape": shape, "names": None}})


def set_column(path: Path, name: str, values: pa.Array | pa.ChunkedArray | list[Any]) -> None:
    """Give a Parquet file a column, or another one in its place."""
    table = pq.read_table(path)
    values = pa.array(values) if isinstance(values, list) else values
    if name in table.column_names:
        table = table.set_column(table.column_names.index(name), name, values)
    else:
        table = table.append_column(name, values)
    pq.write_table(table, path)
