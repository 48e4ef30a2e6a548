"""Columns that get inferred actions where nobody knows the robot's own; what was measured stays as it is."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pyarrow as pa

from lattok.annotation.labels import Work
from lattok.data.content import MAX_DIGESTS, column_digests, digest_of_rows, digests_from_json, digests_to_json
from lattok.data.episodes import unmeasured
from lattok.data.schema import RobotDataset
from lattok.data.table_dataset import tables_of
from lattok.data.tables import to_arrow
from lattok.data.views import unwrap
from lattok.utils.checks import LattokError, counted, refuse
from lattok.utils.runs import index_runs, run_of

UNRECORDED = "LeRobot's own tools drop it, and older versions of lattok did not write it"


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


def with_values(schema: pa.Schema, filled: Sequence[tuple[str, int]]) -> pa.Schema:
    """Give columns that get values a type that has some: pandas gives none to those without any."""
    for key, width in filled:
        if key in schema.names and is_void(schema.field(key).type):
            typed = pa.field(key, to_arrow(np.empty((0, width), dtype=np.float32)).type)
            schema = schema.set(schema.get_field_index(key), typed)
    return schema


def is_void(kind: pa.DataType) -> bool:
    """Return whether a column has a type that holds no value at all."""
    return pa.types.is_null(_leaf(kind))


def _leaf(kind: pa.DataType) -> pa.DataType:
    return getattr(kind, "value_type", kind)


def flat(values: np.ndarray) -> np.ndarray:
    return values.reshape(len(values), int(np.prod(values.shape[1:])))  # which a file without rows has as well


def fill_record(work: Work, unlabelled: Mapping[int, str]) -> dict[str, Any]:
    """Return which episodes were filled, and digests of the others as they were measured, for `compare_fill`."""
    key, indices = work.options.action_key, {episode.index for episode in work.dataset.episodes}
    ((_, model),) = work.models.items()
    every = getattr(model, "every", False) or key not in work.dataset.features
    unknown = indices if every else unmeasured(work.dataset, key, indices)
    filled = index_runs(sorted(unknown - {*unlabelled}))
    if key not in work.dataset.features or len(indices - unknown) > MAX_DIGESTS:
        return {"filled": filled}
    source, keys = _stored(work.dataset, key, work.dataset.joined.get(key, ()))
    return {"filled": filled, "measured": digests_to_json(column_digests(source, keys, indices - unknown))}


def _stored(dataset: RobotDataset, key: str, parts: Sequence[str]) -> tuple[RobotDataset, list[str]]:
    """Return the columns that hold a filled one, as the files have them; beside labels in a folder, as it is read."""
    if tables_of(dataset) is None or dataset.labels is not None:
        return dataset, [key]
    return unwrap(dataset), list(parts) or [key]


def compare_fill(dataset: RobotDataset, prefix: str, fills: Mapping[str, Any]) -> Iterator[str]:
    """Compare what is marked as inferred with the record, and all of the filled column with what was made and measured.
    Lines as `verify` gives them."""
    column, mark, inferred = fills["column"], f"{prefix}.filled", f"{prefix}.action"
    if "filled" not in fills:
        yield f"? {column}: nothing says which episodes were filled, nor what was measured in the others. {UNRECORDED}"
        return
    if fills.get("converted"):
        yield f"? {column}: an export converted it to another space. Verify the dataset that it was made from"
        return
    source, keys = _stored(dataset, column, fills.get("parts", ()))
    if lost := [name for name in (mark, inferred, *keys) if name not in source.features]:
        yield f"- {column}: not compared, there is no {', '.join(lost)}"
        return
    indices = [episode.index for episode in dataset.episodes]
    digests = digests_from_json(fills["measured"], indices) if "measured" in fills else {}
    filled = {index for index in indices if run_of(index, fills["filled"]) is not None}
    marked, replaced, changed, unread = set[int](), set[int](), set[int](), dict[int, str]()
    for index, read in source.columns_of(dataset.episodes, [mark, inferred, *keys], checked=False):
        if isinstance(read, LattokError):
            unread[index] = str(read)
            continue
        if (read[mark].astype(bool) != (index in filled)).any():
            marked.add(index)
        own = [flat(read[key]) for key in keys]
        if index in filled:
            if not _equal(own, flat(read[inferred])):
                replaced.add(index)
        elif index in digests and digest_of_rows(own) != digests[index]:
            changed.add(index)
    yield _line(
        mark, marked, f"set in {len(filled)} of {counted(len(indices), 'episode')}, as recorded", "marked otherwise"
    )
    yield _line(column, replaced, f"what was inferred, in {counted(len(filled), 'episode')}", "not what was inferred")
    if digests:
        yield _line(column, changed, f"as it was measured, in {counted(len(digests), 'episode')}", "not as measured")
    if rest := {*indices} - filled - {*digests}:
        left = counted(len(rest), "episode that was", "episodes that were")
        yield f"? {column}: nothing is recorded of {left} not filled, first {min(rest)}"
    recorded = [*fills["filled"], *fills.get("measured", {}).get("episodes", ())]
    if lost := sum(last + 1 - first for first, last in recorded) - len(filled) - len(digests):
        yield f"- {column}: {counted(lost, 'episode that is recorded is', 'episodes that are recorded are')} missing"
    if unread:
        first = min(unread)
        yield f"- {column}: {counted(len(unread), 'episode')} cannot be read, first {first}: {unread[first]}"


def _equal(own: Sequence[np.ndarray], inferred: np.ndarray) -> bool:
    """Return whether columns hold what was inferred, rounded as their types do."""
    parts = np.split(inferred, np.cumsum([part.shape[1] for part in own])[:-1], axis=1)
    return all(np.array_equal(part, ours.astype(part.dtype)) for part, ours in zip(own, parts, strict=True))


def _line(column: str, wrong: set[int], right: str, what: str) -> str:
    if not wrong:
        return f"+ {column}: {right}"
    return f"- {column}: {counted(len(wrong), 'episode is', 'episodes are')} {what}, first {min(wrong)}"
