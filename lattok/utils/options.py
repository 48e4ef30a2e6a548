"""Options in nested dataclasses under flat names: the path to a field, joined by "_", is its name.

    @dataclass(frozen=True)
    class Decoder:
        name: str = "compact"
        depth: int = 8

`decoder: Decoder` holds `decoder` (a group's `name` has the name of the group) and `decoder_depth`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields
from typing import Any, Literal, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

from lattok.utils import checks

Owner = TypeVar("Owner")


# metadata of a field that holds a group: field(default_factory=Decoder, metadata=GROUP)
GROUP = {"group": True}


class Option(NamedTuple):
    """A field that holds a value, not a group."""

    name: str  # flat
    path: tuple[str, ...]
    kind: Any  # its type; that of its words, where it is a Literal
    field: Field[Any]
    owner: type  # the dataclass that it stands in


def options_of(owner: Any, path: tuple[str, ...] = ()) -> Iterator[Option]:
    """Yield the options of a dataclass and of the groups in it, in their order."""
    hints = get_type_hints(owner)
    for each in fields(owner):
        kind, here = hints[each.name], (*path, each.name)
        kind = type(get_args(kind)[0]) if get_origin(kind) is Literal else kind
        if each.metadata.get("group"):
            yield from options_of(kind, here)
        else:
            yield Option("_".join(here[:-1] if path and each.name == "name" else here), here, kind, each, owner)


def flat(instance: Any) -> dict[str, Any]:
    """Return the values of all options of a dataclass by their flat names."""
    found = {}
    for option in options_of(type(instance)):
        value = instance
        for name in option.path:
            value = getattr(value, name)
        found[option.name] = value
    return found


def defaults_of(owner: type) -> dict[str, Any]:
    """Return the defaults of all options that have one, by their flat names."""
    found: dict[str, Any] = {}
    for each in fields(owner):
        default = each.default if each.default_factory is MISSING else each.default_factory()
        if each.metadata.get("group"):
            found |= {_joined(each.name, name): value for name, value in flat(default).items()}
        elif default is not MISSING:
            found[each.name] = default
    return found


def built(owner: type[Owner], values: Mapping[str, Any]) -> Owner:
    """Return a dataclass from values by flat names; those that are not given keep their defaults."""
    given: dict[str, Any] = {}
    for each in fields(owner):  # pyright: ignore[reportArgumentType]
        if each.metadata.get("group"):
            inner_group: Any = each.default_factory()  # pyright: ignore[reportCallIssue]
            inner = {name: values[own] for name in flat(inner_group) if (own := _joined(each.name, name)) in values}
            given[each.name] = built(type(inner_group), {**flat(inner_group), **inner})
        elif each.name in values:
            given[each.name] = values[each.name]
    return owner(**given)


def check_choices(instance: Any, group: str = "") -> None:
    """Require that fields of a dataclass whose type is a Literal hold one of its words, and groups their dataclass.

    Errors call a field of a `group` by its flat name.
    """
    hints = get_type_hints(type(instance))
    for each in fields(instance):
        kind, value, name = hints[each.name], getattr(instance, each.name), each.name
        name = _joined(group, name) if group else name
        if get_origin(kind) is Literal:
            checks.one_of(name, value, get_args(kind))
        elif each.metadata.get("group") and not isinstance(value, kind):
            checks.fail(name, f"an object of {kind.__name__}", f"{value!r:.60}")


def _joined(group: str, name: str) -> str:
    return group if name == "name" else f"{group}_{name}"
