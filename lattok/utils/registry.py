"""Things that anybody can add by name: families of artefacts, recipes, dataset formats, losses, strategies, worlds.

A thing registers itself when its module is imported. Modules of ours lie in the packages that a registry names, all of
which are imported when an unknown name is looked up. Modules of ours that need further packages are named, and imported
one by one, as are those that other packages name by entry points.
"""

import pkgutil
from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any, TypeVar

from lattok.utils.checks import LattokError

Thing = TypeVar("Thing")


class Registry(Mapping[str, Thing]):
    """Things of one kind by name, ours and those of installed packages.

    `packages` are the dotted names of ours; `named` has the modules of things that need further packages, by the names
    of the things. Another package names its module, or a thing in it, in its pyproject.toml:

        [project.entry-points."lattok.artefacts"]   # the `group`
        my-tokenizer = "my_package.my_tokenizer"
    """

    def __init__(self, group: str, *packages: str, named: Mapping[str, str] | None = None, yielding: bool = False):
        self.group, self.packages, self.named = group, packages, named or {}
        self.yielding = yielding  # of one name somebody else's takes the place of ours
        self._known: dict[str, Thing] = {}

    def add(self, name: str, thing: Thing) -> Thing:
        """Make `thing` known; the same one again, as when a module is loaded a second time, takes its place."""
        other = self._known.get(name)
        if other is not None and _home(other) != _home(thing):
            if self.yielding and is_ours(thing) != is_ours(other):
                self._known[name] = other if is_ours(thing) else thing
                return thing
            raise LattokError(f"{name!r} is the name of {_home(other)}: choose another one for {_home(thing)}.")
        self._known[name] = thing
        return thing

    def __getitem__(self, name: str) -> Thing:
        """Return the thing called `name`, imported if need be; `KeyError` where there is none."""
        if self.yielding and name in self._theirs and is_ours(self._known.get(name, self)):
            self._add_theirs(name)
        elif name not in self._known and name in self.named:
            import_module(self.named[name])
        elif name not in self._known and name not in self._ours:
            self._add_theirs(name)
        return self._known[name]

    def _add_theirs(self, name: str) -> None:
        """Load what an entry point leads to: a module, which registers the thing, or the thing itself."""
        before, loaded = self._known.get(name), _load(self._theirs[name])
        if self._known.get(name) is not before:
            return
        if isinstance(loaded, ModuleType):
            raise LattokError(f"{name!r} is not registered by {loaded.__name__}, its entry point. Repair the package.")
        self.add(name, loaded)

    def __contains__(self, name: object) -> bool:
        return name in self._known or name in self.named or name in self._ours or name in self._theirs

    def __iter__(self) -> Iterator[str]:
        names = dict.fromkeys((*self._ours, *self.named, *self._known, *sorted(self._theirs)))
        lazy = self.packages or self.named  # otherwise ours are known, in their order
        return iter(sorted(names) if lazy else names)

    def __len__(self) -> int:
        return len({*self._ours, *self.named, *self._known, *self._theirs})

    @cached_property
    def _ours(self) -> tuple[str, ...]:
        """Import our packages, once; return the names that are then known."""
        for package in map(import_module, self.packages):
            for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
                import_module(module.name)
        return tuple(self._known)

    @cached_property
    def _theirs(self) -> Mapping[str, EntryPoint]:
        return {entry.name: entry for entry in entry_points(group=self.group)}


def _load(entry: EntryPoint) -> Any:
    try:
        return entry.load()
    except Exception as error:  # somebody else's package may raise anything
        package = entry.dist.name if entry.dist is not None else entry.value
        why = f"{type(error).__name__}: {error}".splitlines()[0].rstrip(".")
        raise LattokError(f"{entry.name!r} comes with the package {package}, which fails ({why}). Repair it.") from None


def is_ours(thing: object) -> bool:
    """Return whether a class, a function or an object of a class is of lattok itself."""
    return getattr(thing, "__module__", "").split(".")[0] == "lattok"


def _home(thing: object) -> str:
    return f"{getattr(thing, '__module__', '')}.{getattr(thing, '__qualname__', repr(thing))}".lstrip(".")
