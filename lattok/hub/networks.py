"""Networks of others that an artefact is built on: which names of them a stranger may choose, and opening them.

A configuration may name what is on the Hub. A folder of this machine it may name only where the user does as well: a
stranger must not choose what is read here.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from lattok.hub import client
from lattok.utils import checks
from lattok.utils.untrusted import TRUSTED, followed

FIELDS = ("backbone", "features", "language", "decoder")  # of configurations, which may name a network
SOURCES = ("hf", "dc-ae", "t5", "sana")  # before a colon, in all but `backbone`
OWN_CODE = "one that brings code of its own, which lattok never runs"


def from_pretrained(argument: str, kind: Any, place: str | Path, **options: Any) -> Any:
    """Return what a class of transformers makes of a folder or a Hub id, without code that lies there.

    Every call of transformers goes through here: it would ask on the terminal whether to run that code.
    """
    try:
        return kind.from_pretrained(place, trust_remote_code=False, **options)
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        hint = "Choose another, or convert it to a model that transformers knows."
        checks.fail(argument, f"a model that transformers has the code for, as {str(place)!r:.200}", OWN_CODE, hint)


def check_named(config: Any, folder: Path, given: Collection[str] = ()) -> None:
    """Refuse a `config` out of `folder` that names other folders, but for fields that the user has `given`.

    What lies in the artefact itself may be named, and what the environment variable LATTOK_DATA names.
    """
    for field, place in folders_of(config).items():
        try:
            _ = None if field in given else followed(folder, Path(place).expanduser(), field)
        except (checks.LattokError, RuntimeError):  # "~" of a user who is not there
            say = f"{field}=FOLDER when you load it, or " if field == "backbone" else ""
            hint = f"If you trust it, say so: {say}{TRUSTED}={place} (environment)."
            expected = "a Hub id: a model may not choose what is read here"
            checks.fail(f"{field}` in `{folder}", expected, _name_in(config, field), hint)


def folders_of(config: Any) -> dict[str, str]:
    """Return by field the paths of this machine that a configuration names."""
    found = {field: _name_in(config, field) for field in FIELDS}
    places = {field: _local(field, name) for field, name in found.items() if isinstance(name, str)}
    return {field: place for field, place in places.items() if place}


def way_in(config: Any) -> str:
    """Return what to tell the maker of a model that names folders: it must not open them by itself."""
    folders = os.pathsep.join(dict.fromkeys(folders_of(config).values()))
    told = not folders or TRUSTED in os.environ
    return (
        "" if told else f"\nIt is built on folders of yours. Let it read them: export {TRUSTED}={shlex.quote(folders)}"
    )


def _name_in(config: Any, field: str) -> Any:
    """Return what a field holds, or the `name` in it where it is a group of options, also as JSON has it."""
    value = getattr(config, field, None)
    return value.get("name") if isinstance(value, Mapping) else getattr(value, "name", value)


def _local(field: str, name: str) -> str | None:
    """Return the path that a name stands for, if it stands for one here."""
    source, _, model = name.partition(":")
    if field == "backbone":
        model = "" if name in ("scratch", "parts/backbone") else name  # its own: in its weights, or in its folder
    elif source == "timm":  # "local-dir:FOLDER"; others are names of architectures, or on the Hub
        scheme, _, path = model.partition(":")
        return path if scheme.lower().startswith("local") else None
    elif source not in SOURCES:
        return None
    return model if model and (client.here(model) or not client.REPO.fullmatch(model)) else None
