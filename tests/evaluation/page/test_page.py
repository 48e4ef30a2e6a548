"""Tables mark the controls that win, and pictures survive odd numbers."""

import math
import xml.etree.ElementTree as ElementTree

import pytest

from lattok.evaluation.page import render, svg
from lattok.evaluation.report import Report, Section, Table, TableRow, Verdict


def page(table: Table) -> str:
    section = Section("Section", "Text with <angle> & ampersand.", (table,))
    return render(Report("image-lam", "T", "H", (Verdict("v", None),), {}, (section,), {"n": None, "d": {"a": [1, 2]}}))


@pytest.mark.parametrize(("better", "winner"), [("lower", "low"), ("higher", "high"), ("", None)])
def test_a_control_that_wins_is_marked(better: str, winner: str | None):
    rows = (
        TableRow("model", "model", (1.0,), control=False),
        TableRow("low", "low", (0.5,)),
        TableRow("high", "high", (2.0,)),
        TableRow("ceiling", "ceiling", (0.1 if better == "lower" else 9.0,), reference=True),
        TableRow("absent", "absent", not_run="not run: --controls trained"),
    )
    table = Table("Table", ("value",), rows, better=better)
    assert table.as_dict()["controls_that_win"] == ([winner] if winner else [])
    assert page(table).count("control wins</span>") == (1 if winner else 0)
    assert "not run: --controls trained" in page(table)


def test_text_is_escaped():
    html = page(Table("<b>", ("c",), (TableRow("m", "a&b", (math.pi,), control=False),)))
    assert "&lt;angle&gt; &amp; ampersand" in html
    assert "<b>" not in html.replace("<body>", "").split("<body>")[-1]


@pytest.mark.parametrize(
    "picture",
    [
        svg.bars(
            "t", [("a", "model", 1.0), ("b", "control", -5.0), ("c", "control", None), ("d", "m", math.nan)], ".2f"
        ),
        svg.bars("t", [("a", "model", 0.0)], ".2f"),
        svg.plot("t", [("truth", [1.0, 1.0, 1.0])]),
        svg.plot("t", [("truth", [1.0])]),
        svg.scatter("t", [0.0, 0.0], [0.0, 0.0], ("x", "y")),
        svg.heat("a & b", [[0.0, 1.0], [0.5, 0.5]], ["1", "2"]),
    ],
)
def test_pictures_are_whole_even_for_odd_numbers(picture: str):
    root = ElementTree.fromstring(picture)
    assert root.tag == "svg"
    assert "nan" not in picture.replace("not run", "")
    assert "inf" not in picture


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3.2, 0.1), (1e-9, 2e-9), (5, 5), (0, 0), (-1e6, 1e6)])
def test_ticks_are_at_least_two_and_rise(low: float, high: float):
    found = svg.ticks(low, high)
    assert len(found) >= 2
    assert found == sorted(set(found))
