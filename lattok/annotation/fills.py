"""Columns that get inferred actions where nobody knows the robot's own; what was measured stays as it is."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lattok.annotation.labels import Work
from lattok.data.opening import open_dataset
from lattok.data.tables import column_stats, open_table, to_arrow
from lattok.data.views import unwrap
from lattok.utils.checks import LattokError, refuse
from lattok.utils.files import whole_file


class Fill(NamedTuple):
    """A column that gets what a model inferred, in the rows that its labels name; or those that are joined to it."""

    columns: tuple[tuple[str, int], ...]  # with their widths
    prefix: str
    names: tuple[str, ...]  # of dimensions, where there is no such column yet

    def check_type(self, path: Path, schema: pa.Schema) -> None:
        """Refuse a file whose own column cannot hold what is inferred, as it would be rounded."""
        for key in (key for key, _ in self.columns if key in schema.names):
            kind = schema.field(key).type
            if not (pa.types.is_floating(_leaf(kind)) or is_void(kind)):
                refuse(f"{path}: `{key}`", "floats, to fill in inferred ones", str(kind)[:60], "Write it as floats.")

    def into(self, table: pa.Table, new: dict[str, np.ndarray]) -> pa.Table:
        """Return a table with the columns filled; measured rows keep their values and type, as other columns do."""
        inferred, rows = new[f"{self.prefix}.action"], new[f"{self.prefix}.filled"].astype(bool).reshape(-1)
        ends = np.cumsum([width for _, width in self.columns])
        for (key, _), values in zip(self.columns, np.split(flat(inferred), ends[:-1], axis=1), strict=True):
            place = table.column_names.index(key) if key in table.column_names else None
            if place is None or is_void(table.schema.field(key).type):
                values = to_arrow(np.where(rows[:, None], values, np.nan).astype(np.float32))
                table = table.append_column(key, values) if place is None else table.set_column(place, key, values)
            elif rows.any():
                field, read = table.schema.field(key), pa.array(values.reshape(-1))
                nested = pa.types.is_nested(field.type)
                read = pa.FixedSizeListArray.from_arrays(read, values.shape[1]) if nested else read
                both = pa.chunked_array([*table.column(key).chunks, read.cast(field.type)])
                chosen = pa.array(np.arange(len(table)) + len(table) * rows)
                table = table.set_column(place, field, both.take(chosen))
        return table


def fill_of(work: Work) -> Fill | None:
    if not work.options.fill:
        return None
    ((prefix, model),) = work.models.items()
    config = cast(Any, model).config
    key, features = work.options.action_key, unwrap(work.dataset).features  # a joined one may have the name of a part
    widths = [(part, features[part].shape[0]) for part in work.dataset.joined.get(key, ())]
    return Fill(tuple(widths) or ((key, config.action_dim),), prefix, tuple(config.action_names))


def measure_episodes(root: Path, fill: Fill) -> None:
    """Put statistics of filled episodes into meta/episodes: LeRobot's tools make those of other datasets from them."""
    dataset, mark, keys = open_dataset(root), f"{fill.prefix}.filled", [key for key, _ in fill.columns]
    for path in sorted((root / "meta" / "episodes").rglob("*.parquet")):
        table = open_table(path).read()
        own = [name for name in table.column_names if any(name.startswith(f"stats/{key}/") for key in keys)]
        new = {name: table[name].to_pylist() for name in own}
        for row, index in enumerate(table["episode_index"].to_pylist() if own else ()):
            with suppress(LattokError):  # of damaged rows
                values = dataset.columns(index, [mark, *keys])
                found = {key: column_stats(values[key]) for key in keys if values[mark].any()}
                measured = {f"stats/{key}/{name}": value for key, part in found.items() for name, value in part.items()}
                for name in new.keys() & measured.keys():
                    new[name][row] = measured[name].tolist()
        for name, values in new.items():
            place = table.column_names.index(name)
            table = table.set_column(place, table.field(place), pa.array(values, table.field(place).type))
        if own:
            with whole_file(path) as temporary:
                pq.write_table(table, temporary)


def with_values(schema: pa.Schema, filled: Sequence[tuple[str, int]]) -> pa.Schema:
    """Give columns that get values a type that has some: pandas gives none to those without any."""
    for key, width in filled:
        if key in schema.names and is_void(schema.field(key).type):
            typed = pa.field(key, to_arrow(np.empty((0, width), dtype=np.float32)).type)
            schema = schema.set(schema.get_field_index(key), typed)
    return schema


def is_void(kind: pa.DataType) -> bool:
    """Tell whether a column has a type that holds no value at all."""
    return pa.types.is_null(_leaf(kind))


def _leaf(kind: pa.DataType) -> pa.DataType:
    return getattr(kind, "value_type", kind)


def flat(values: np.ndarray) -> np.ndarray:
    return values.reshape(len(values), int(np.prod(values.shape[1:])))  # which a file without rows has as well
