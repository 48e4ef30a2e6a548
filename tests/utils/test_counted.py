"""A count stands before its noun in the right number, in every message."""

import re

import pytest

from lattok.utils import checks
from lattok.utils.checks import LattokError, counted
from lattok.utils.findings import note


def test_one_is_one():
    assert [counted(n, "episode") for n in (0, 1, 2, 1234)] == [
        "0 episodes",
        "1 episode",
        "2 episodes",
        "1,234 episodes",
    ]
    assert [counted(n, "row is", "rows are") for n in (1, 2)] == ["1 row is", "2 rows are"]


@pytest.mark.parametrize(
    ("axis", "said"),
    [
        ("cameras (front)", "1 camera (front)"),
        ("action dimensions, as the dataset has", "1 action dimension, as the dataset has"),
        ("numbers, as states have", "1 number, as states have"),
        ("as the chunks have", "1 as the chunks have"),
        ("along axis 2", "1 along axis 2"),
        ("prefixes, one per model", "1 prefixes, one per model"),
    ],
)
def test_sizes_of_one(axis, said):
    with pytest.raises(LattokError, match=re.escape(f"`x`: expected {said}, got 2.")):
        checks.size("x", axis, 2, 1)
    with pytest.raises(LattokError, match=re.escape(f"`x`: expected 2 {axis}, got 1.")):
        checks.size("x", axis, 1, 2)


def test_findings_count_what_they_name():
    found = note("{count} of {all:episode has|episodes have} {left:gap|gaps}, {share:.0%}.", "Leave out {count}.")
    assert found.finding(count=1, all=1, left=2, share=0.5).what == "1 of 1 episode has 2 gaps, 50%."
    assert found.finding(count=1, all=3, left=1, share=0.5)[1:] == ("1 of 3 episodes have 1 gap, 50%.", "Leave out 1.")
