"""A count stands before its noun in the right number, in every message."""

import re

import pytest

from lattok.utils import checks
from tests.errors import refused


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
    refused(re.escape(f"`x`: expected {said}, got 2."), checks.size, "x", axis, 2, 1)
    refused(re.escape(f"`x`: expected 2 {axis}, got 1."), checks.size, "x", axis, 1, 2)
