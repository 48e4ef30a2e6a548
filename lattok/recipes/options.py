"""Options of a recipe: which there are, what type each has, and what a caller or a file gives for them, checked."""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Sequence
from dataclasses import field, fields, is_dataclass, make_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from lattok import checks, files


def chosen_fields(config: type, without: Collection[str] = ()) -> Any:
    """The fields of a configuration that a user chooses, as a dataclass: all but those that it takes `from_data`."""
    hidden, hints = {*getattr(config, "from_data", ()), *without}, get_type_hints(config)
    kept = [f for f in fields(config) if f.name not in hidden]
    chosen = [(f.name, hints[f.name], field(default=f.default, default_factory=f.default_factory)) for f in kept]
    return make_dataclass(f"Chosen{config.__name__}", chosen, frozen=True)


def types_of(owner: type) -> dict[str, Any]:
    """Return the type of every field of a dataclass."""
    hints = get_type_hints(owner)
    return {f.name: hints[f.name] for f in fields(owner)}


def comments_of(owner: type) -> dict[str, str]:
    """Return what the source of a dataclass says about its fields, in the line of each or right above it."""
    found: dict[str, str] = {}
    for part in reversed(owner.__mro__):
        if not is_dataclass(part) or part.__module__ == "types":  # made at run time: there is no source
            continue
        above = ""
        for line in inspect.getsource(part).splitlines():
            comment = re.fullmatch(r"    # (.*)", line)
            named = re.match(r"    (\w+): [^#]*?(?:  # (.*))?$", line)
            if named is not None and (said := named[2] or above):
                found[named[1]] = said
            above = f"{above} {comment[1]}".strip() if comment else ""
    return found


def typed(name: str, value: Any, kind: Any) -> Any:
    """`value` as `kind`, or an error that names the option; JSON knows no tuples, and one item stands for a tuple."""
    if isinstance(value, list):
        value = tuple(value)
    allowed: Sequence[Any] = get_args(kind) if get_origin(kind) not in (None, tuple) else (kind,)
    for option in allowed:
        origin = get_origin(option) or option
        if origin is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if origin is str and isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if origin is tuple and isinstance(value, tuple | str | int | float) and not isinstance(value, bool):
            items = value if isinstance(value, tuple) else (value,)
            return tuple(typed(name, item, get_args(option)[0]) for item in items)
        if isinstance(value, origin) and not (origin is int and isinstance(value, bool)):
            return value
    expected = getattr(kind, "__name__", str(kind))
    return checks.fail(name, f"a value of type {expected}", repr(value))


def read_options(path: str | None) -> tuple[dict[str, Any], str | None]:
    """Options and preset from a JSON file: `{name: value}`, or a run's recipe.json, which names its preset."""
    value = files.read_json(Path(path)) if path is not None else {}
    options, preset = value.get("options", value), value.get("preset") if "options" in value else None
    if not isinstance(options, dict) or not isinstance(preset, str | None):
        checks.fail(f"{path}", '{"name": value, ...}, or a run\'s recipe.json', "options or a preset of another kind")
    return dict(options), preset
