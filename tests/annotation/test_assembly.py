"""Files of the output, several at once: the same bytes however many, and nothing kept of what was interrupted."""

import time
from types import SimpleNamespace

import numpy as np
import pytest

from lattok.annotation import annotate, assembly, units
from lattok.data.summaries import column_stats, merge_stats
from tests.annotation.fakes import MODELS, tree
from tests.annotation.test_gaps import corrupt_page
from tests.errors import refused


def test_the_same_bytes_by_any_number_of_threads(source, tmp_path, monkeypatch):
    assert len({source.data_file(episode.index) for episode in source.episodes}) > 1
    monkeypatch.setattr(assembly, "cores", lambda: 1)
    expected = tree(annotate(source, MODELS, tmp_path / "alone"))
    monkeypatch.setattr(assembly, "cores", lambda: 3)
    assert tree(annotate(source, MODELS, tmp_path / "out")) == expected


def test_statistics_of_many_units_are_those_of_all_rows_and_few_are_held_at_once(tmp_path, monkeypatch, rng):
    values = rng.normal(3, 2, (700, 5, 2))
    units = [SimpleNamespace(file=f"{i // 7}.parquet", rows=rows) for i, rows in enumerate(values)]
    monkeypatch.setattr(
        assembly.Assembly,
        "write",
        lambda _, file, members: ([], [{"x": column_stats(unit.rows)} for unit, _ in members]),
    )
    monkeypatch.setattr(
        assembly.Assembly,
        "_new_rows",
        lambda _, file, keys: ({"x": unit.rows} for unit in units if unit.file == file),
    )
    merged = []
    monkeypatch.setattr(assembly, "merge_stats", lambda parts: merged.append(len(parts)) or merge_stats(parts))
    damage, found = assembly.Assembly(tmp_path, None, {}, False, True, None).write_all(units, [""] * 700)
    assert damage == []
    rows = values.reshape(-1, 2)
    for name, expected in {"mean": rows.mean(0), "std": rows.std(0), "min": rows.min(0), "max": rows.max(0)}.items():
        np.testing.assert_allclose(found["x"][name], expected, rtol=1e-6)
    for name, q in {"q01": 0.01, "q50": 0.5, "q99": 0.99}.items():  # of rows, not of units
        np.testing.assert_allclose(found["x"][name], np.quantile(rows, q, axis=0))
    assert found["x"]["count"] == [3500]
    assert max(merged) == 256
    assert len(merged) == 3


@pytest.mark.parametrize(("column", "lost"), [("action", False), ("frame_index", True)])
def test_a_damaged_page_is_a_gap_but_not_where_rows_would_have_no_place(source, tmp_path, column, lost):
    path = source.data_file(0)
    corrupt_page(path, column)

    def append() -> list[assembly.UnreadableRows]:
        return assembly.append_columns(path, tmp_path / "out.parquet", {}, lambda first, last: {}, None)

    if lost:
        refused(f"`{column}` of row group 0 is damaged", append)
        assert not (tmp_path / "out.parquet").exists()
    else:
        assert {part.column for part in append()} == {column}


def test_headers_of_arrays_are_parsed_by_one_thread_at_a_time(source, tmp_path, monkeypatch):
    """Python 3.11 raises a SystemError at times where two threads parse at once."""
    inside, real = [], np.load

    def slowly(*args, **options):
        inside.append(len(inside))
        time.sleep(0.02)
        inside.pop()
        return real(*args, **options)

    seen = []
    monkeypatch.setattr(units.np, "load", lambda *args, **options: seen.append(len(inside)) or slowly(*args, **options))
    monkeypatch.setattr(assembly, "cores", lambda: 3)
    annotate(source, MODELS, tmp_path / "out")
    assert len(seen) > 3
    assert set(seen) == {0}
