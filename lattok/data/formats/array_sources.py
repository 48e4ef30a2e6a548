"""What a file of arrays says of itself in texts and numbers: instruction, frame rate, robot."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from lattok.data.formats.array_layouts import RATES, Layout
from lattok.data.formats.array_store import Store, plain
from lattok.data.formats.folder_names import instruction_of, without_split
from lattok.data.schema import readable
from lattok.utils import checks
from lattok.utils.checks import LattokError
from lattok.utils.files import read_json
from lattok.utils.untrusted import parse_json, safe_path

OTHER = re.compile(r"\{(\w+)\}")  # in a source: what another attribute says
MOST_ABOVE = 4  # folders whose names may say what is done


def text_of(value: Any) -> str:
    """Return a text, which may be bytes."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def texts_of(rows: Any) -> list[str]:
    """Return the texts of rows of an array [T] or [T, 1]."""
    return [readable(text_of(each).strip()) for each in np.asarray(rows).reshape(-1)]


class Sources:
    """What a file says of a group by itself: texts and numbers out of attributes, arrays, and files beside it."""

    def __init__(self, store: Store, layout: Layout, group: str):
        self.store, self.layout, self.group = store, layout, group

    def instruction(self, found: Mapping[str, Any]) -> tuple[str, str]:
        """Return the first text of the layout's sources that is one, and its path if it is an array."""
        for source in self.layout.instruction:
            value = self._of_array(found, source) if source in found else self.value(source)
            if isinstance(value, np.ndarray):  # of h5py: attributes that are lists
                value = text_of(value.reshape(-1)[0]) if value.size else None
            words = " ".join(map(str, value)) if isinstance(value, list) else value
            if isinstance(words, str) and words.strip():
                return readable(words.strip()), source if source in found else ""
        return readable(self.store.name), ""

    def rate(self) -> float | None:
        for source in (*self.layout.rate, *RATES):
            value = self.value(source)
            if value is None or (source in RATES and not checks.is_frame_rate(value)):
                continue
            if not checks.is_frame_rate(value):
                name, where = source.rpartition(".")[2], source.strip("@").split(".")[0]
                raise LattokError(
                    f"{self.store.path}: `{name}` in {where}: expected a number greater than 0, got {value!r}."
                )
            return float(value)
        return None

    def robot(self) -> str | None:
        for source in self.layout.robot:
            value = self.value(source)
            text = ", ".join(map(str, value)) if isinstance(value, list) else value
            if isinstance(text, str) and text:
                return text
        return None

    def value(self, source: str) -> Any:
        """Return what a source holds, None if there is no such thing."""
        source = OTHER.sub(lambda found: text_of(self.attribute(found[1]) or ""), source)
        if source.startswith("@"):
            name, *members = source[1:].split(".")
            value = self.attribute(name)
            if members and value is not None:
                text = value if isinstance(value, str | bytes) else ""
                value = parse_json(text, f"{self.store.path}: the attribute {name}", nan=True)
                if not isinstance(value, dict):
                    got = type(value).__name__
                    raise LattokError(f"{self.store.path}: expected a JSON object as attribute {name}, got {got}.")
            return _member(value.decode(errors="replace") if isinstance(value, bytes) else value, members)
        if source.startswith("json:"):
            return self._beside(source.removeprefix("json:"))
        if source == "file":
            return without_split(self.store.name)
        return instruction_of(self.store.path.resolve().parent.parts[-MOST_ABOVE:]) if source == "folder" else None

    def attribute(self, name: str) -> Any:
        """Return an attribute of the group, or of the nearest one above it that has it."""
        group = self.group or (self.layout.episodes.rpartition("/")[0] if self.layout.episodes else "")
        while True:
            with self.store.reading(f", {group}" if group else ""):
                attributes = self.store.attributes(group) if self.store.is_group(group) else {}
                if name in attributes:
                    return plain(attributes[name])
            if not group:
                return None
            group = group.rpartition("/")[0]

    def _beside(self, source: str) -> Any:
        folder, _, members = source.rpartition(":")
        above = self.store.path.parent
        place = above / folder / self.store.path.with_suffix(".json").name
        safe_path(above.parent if folder.startswith("..") else above, place, f"{self.store.path}: the file beside it")
        return _member(read_json(place), members.split(".")) if place.is_file() else None

    def _of_array(self, found: Mapping[str, Any], source: str) -> Any:
        array = found[source]
        if array.shape == ():
            return text_of(value) if isinstance(value := array[()], str | bytes) else None
        rows = np.asarray(array[:1]).reshape(-1)
        if not len(rows) or not isinstance(rows[0], str | bytes):
            return None
        return text_of(rows[0]) if rows[0].strip() else next(filter(None, texts_of(array[:])), None)


def _member(value: Any, members: list[str]) -> Any:
    for member in filter(None, members):  # "@name." is all of the JSON
        if isinstance(value, list) and member.isdecimal():
            value = next(iter(value[int(member) :]), None)
        else:
            value = value.get(member) if isinstance(value, dict) else None
    return value
