"""Options in nested dataclasses under flat names: the path to a field, joined by "_", is its name.

    @dataclass(frozen=True)
    class Decoder:
        name: str = "compact"
        depth: int = 8

`decoder: Decoder` holds `decoder` (a group's `name` has the name of the group) and `decoder_depth`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, asdict, fields, is_dataclass
from functools import cache
from operator import attrgetter
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from lattok.utils import checks

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Owner = TypeVar("Owner", bound="DataclassInstance")


# metadata of a field that holds a group: field(default_factory=Decoder, metadata=GROUP)
GROUP = {"group": True}

# metadata of fields that say what the dataset is like, which is no option of a user's. A recipe holds a configuration
# before it has opened the dataset; those that are REQUIRED then have their defaults, which mean "not known yet"
FROM_DATA = {"from_data": True}
REQUIRED = {"from_data": True, "required": True}

# metadata of fields that came after models were published: at their default they are no part of a model's identity
ADDED = {"added": True}


class SavedConfig:
    """Base of the configurations that are saved with models."""

    def to_dict(self) -> dict[str, Any]:
        """Return all values, groups as dictionaries of their own: what config.json holds of them."""
        return asdict(self)  # pyright: ignore[reportArgumentType]


class Option(NamedTuple):  # a field that holds a value, not a group
    name: str  # flat
    path: tuple[str, ...]
    kind: Any  # its type
    field: Field[Any]
    owner: type  # the dataclass that it stands in


def options_of(owner: "type[DataclassInstance]", path: tuple[str, ...] = ()) -> Iterator[Option]:
    """Yield the options of a dataclass and of the groups in it, in their order."""
    hints = get_type_hints(owner)
    for each in fields(owner):
        kind, here = hints[each.name], (*path, each.name)
        if each.metadata.get("group"):
            yield from options_of(kind, here)
        else:
            yield Option("_".join(here[:-1] if path and each.name == "name" else here), here, kind, each, owner)


def flat(instance: "DataclassInstance") -> dict[str, Any]:
    """Return the values of all options of a dataclass by their flat names."""
    return {option.name: attrgetter(".".join(option.path))(instance) for option in options_of(type(instance))}


def built(owner: type[Owner], values: Mapping[str, Any]) -> Owner:
    """Return a dataclass from values by flat names; those that are not given keep their defaults."""
    given: dict[str, Any] = {}
    for each in fields(owner):
        if each.metadata.get("group"):
            inner_group: Any = each.default_factory()  # pyright: ignore[reportCallIssue]
            inner = {name: values[own] for name in flat(inner_group) if (own := _joined(each.name, name)) in values}
            given[each.name] = built(type(inner_group), {**flat(inner_group), **inner})
        elif each.name in values:
            given[each.name] = values[each.name]
    return owner(**given)


def replaced(instance: Owner, **values: Any) -> Owner:
    """Return a dataclass with other values of options, by their flat names."""
    return built(type(instance), {**flat(instance), **values})


def check_choices(instance: "DataclassInstance", group: str = "") -> None:
    """Require that fields of a dataclass whose type is a Literal hold one of its words, groups their dataclass, and
    texts and switches their types: numbers have checks of their own. Otherwise what is saved could not be loaded.

    Errors call a field of a `group` by its flat name.
    """
    hints = get_type_hints(type(instance))
    for each in fields(instance):
        kind, value, name = hints[each.name], getattr(instance, each.name), each.name
        name = _joined(group, name) if group else name
        literal = next((part for part in (kind, *get_args(kind)) if get_origin(part) is Literal), None)
        if literal is not None and not (value is None and NoneType in get_args(kind)):
            checks.one_of(name, value, get_args(literal))
        elif each.metadata.get("group") and not isinstance(value, kind):
            checks.fail(name, f"an object of {kind.__name__}", f"{value!r:.60}")
        elif not _fits(value, kind):
            expected = kind.__name__ if isinstance(kind, type) else str(kind).removeprefix("typing.")
            checks.fail(name, f"a value of type {expected}", f"{value!r:.60}")


def _fits(value: object, kind: Any) -> bool:
    if get_origin(kind) in (Union, UnionType):
        return any(_fits(value, part) for part in get_args(kind))
    if get_origin(kind) is tuple and get_args(kind) == (str, ...):
        return isinstance(value, tuple | list) and all(isinstance(each, str) for each in value)
    return isinstance(value, kind) if kind in (bool, str, NoneType) else True


def identity(value: object) -> Any:
    """Return a configuration as JSON values, without what was added later and is at its default."""
    if isinstance(value, tuple | list):
        return [identity(each) for each in value]
    if isinstance(value, Mapping):
        return {key: identity(each) for key, each in value.items()}
    if not is_dataclass(value):
        return value
    found = {}
    for each in fields(value):
        own, factory = getattr(value, each.name), each.default_factory
        if not (each.metadata.get("added") and own == (each.default if factory is MISSING else factory())):
            found[each.name] = identity(own)
    return found


def required(owner: "DataclassInstance | type[DataclassInstance]") -> list[Field[Any]]:
    """Return the fields of a configuration without which no model can be made."""
    return [each for each in fields(owner) if each.metadata.get("required")]


def knows_data(config: "DataclassInstance") -> bool:
    """Return whether a configuration says what the dataset is like: until then, its checks wait."""
    needed = required(config)
    return not needed or any(getattr(config, each.name) != each.default for each in needed)


def check_knows_data(config: "DataclassInstance") -> None:
    """Refuse to make a model of a configuration that does not know the dataset."""
    if not knows_data(config):
        names = ", ".join(each.name for each in required(config))
        checks.fail("config", f"one with {names}", f"a {type(config).__name__} without", "A recipe's has no data yet.")


def as_option(name: str, value: Any, kind: Any) -> Any:
    """Return `value` as `kind`, or raise what names the option; JSON knows no tuples, and one item stands for one."""
    if isinstance(value, list):
        value = tuple(value)
    allowed: Sequence[Any] = get_args(kind) if get_origin(kind) not in (None, tuple, Literal) else (kind,)
    for option in allowed:
        origin = get_origin(option) or option
        if origin in (float, str) and checks.is_int(value):
            return origin(value)
        if origin is tuple and isinstance(value, tuple | str | int | float) and not isinstance(value, bool):
            items = value if isinstance(value, tuple) else (value,)
            return tuple(as_option(name, item, get_args(option)[0]) for item in items)
        if origin is Literal:
            if value in get_args(option):
                return value
        elif isinstance(value, origin) and not (origin is int and isinstance(value, bool)):
            return value
    if words := [word for option in allowed if get_origin(option) is Literal for word in get_args(option)]:
        checks.one_of(name, value, words)
    return checks.fail(name, f"a value of type {getattr(kind, '__name__', str(kind))}", f"{value!r:.60}")


def as_flags(options: Mapping[str, Any]) -> Iterator[str]:
    """Yield the words of options as they are typed."""
    for name, value in options.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            yield f"--{flag}" if value else f"--no-{flag}"
        else:
            yield from (f"--{flag}", *map(str, value if isinstance(value, list | tuple) else (value,)))


def _joined(group: str, name: str) -> str:
    return group if name == "name" else f"{group}_{name}"


@cache
def docs_of(documented: Any) -> Mapping[str, str]:
    """Return what docstrings say of the arguments of a function, or of the fields of a class and those it extends."""
    import docstring_parser

    said: dict[str, str] = {}
    for each in reversed(documented.__mro__ if isinstance(documented, type) else (documented,)):
        parsed = docstring_parser.parse((each.__doc__ if each is not object else None) or "")
        said |= {p.arg_name: " ".join((p.description or "").split()) for p in parsed.params}
    return said
