"""Checks that everything shares."""

from __future__ import annotations

import pytest

from lattok.checks import LattokError, plain_format


@pytest.mark.parametrize(
    "template",
    [
        "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "{video_key}/{chunk_index:d}-{file_index}.mp4",
        "{{{video_key}}} {{}} {file_index:2d}|{file_index:02d}",
        "no field at all",
        "",
    ],
)
def test_plain_fields_are_filled_as_python_fills_them(template: str):
    values: dict[str, str | int] = {"video_key": "observation.images.top", "chunk_index": 7, "file_index": 1234}
    assert plain_format(template, **values) == template.format(**values)


def test_a_value_is_never_read_as_a_template():
    assert plain_format("<{a}>", a="{b:099d} }{") == "<{b:099d} }{>"


@pytest.mark.parametrize(
    "template",
    [
        "{n:09000000000d}",
        "{n:100d}",
        "{name:9999999999}",
        "{name:03d}",
        "{n:{n}d}",
        "{n.real}",
        "{n.__class__.__mro__}",
        "{name[0]}",
        "{n!r}",
        "{n:x}",
        "{n:,}",
        "{n:\u0663d}",
        "{0}",
        "{}",
        "{other}",
        "{n",
        "n}",
        "{{n}",
        "{name}" * 1000,
        None,
        7,
        ["{n}"],
    ],
)
def test_anything_but_plain_fields_is_refused(template: object):
    """`str.format` fills memory or looks into objects with most of these."""
    with pytest.raises(LattokError, match=r"expected text with \{name\}, \{n\} at most.*, got .{1,100}\.$"):
        plain_format(template, name="x", n=3)  # type: ignore[arg-type]
