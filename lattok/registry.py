"""Things that anybody can add by name: families of artefacts, recipes, dataset formats, strategies.

A thing registers itself when its module is imported. Which module that is stands where a newcomer looks for it: ours in
the line that names the thing, such as `type = "fsq"` in lattok/action_vq/fsq.py, others' in the entry points of their
package. To know all names costs no import, and to get one thing imports only its module.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, TypeVar

from lattok.checks import LattokError

Thing = TypeVar("Thing")
ROOT = Path(__file__).parent


class Registry(Mapping[str, Thing]):
    """Things of one kind by name, ours and those of installed packages.

    `names_itself` is the attribute that holds the name in every class of ours, which all lie below `rooms`, folders of
    lattok. Another package names its module, or the thing in it, in its pyproject.toml:

        [project.entry-points."lattok.artefacts"]   # the `group`
        my-tokenizer = "my_package.my_tokenizer"
    """

    def __init__(self, group: str, names_itself: str = "", rooms: Sequence[str] = ()):
        self.group, self.rooms = group, rooms
        self._line = re.compile(rf'^    {names_itself} = "([\w-]+)"', re.MULTILINE)
        self._known: dict[str, Thing] = {}

    def add(self, name: str, thing: Thing) -> Thing:
        """Make `thing` known; the same one again, as when a module is loaded a second time, takes its place."""
        other = self._known.get(name)
        if other is not None and _home(other) != _home(thing):
            raise LattokError(f"{name!r} is the name of {_home(other)}: choose another one for {_home(thing)}.")
        self._known[name] = thing
        return thing

    def __getitem__(self, name: str) -> Thing:
        """Return the thing called `name`, imported if need be; `KeyError` where there is none."""
        if name not in self._known:
            loaded = self._doors[name]()
            if name not in self._known:  # an entry point that leads to the thing itself
                self.add(name, loaded)
        return self._known[name]

    def __contains__(self, name: object) -> bool:
        return name in self._known or name in self._doors

    def __iter__(self) -> Iterator[str]:
        names = dict.fromkeys((*self._known, *sorted(self._doors)))
        return iter(sorted(names) if self.rooms else names)  # without rooms ours are known at once, in their order

    def __len__(self) -> int:
        return len({*self._known, *self._doors})

    @cached_property
    def _doors(self) -> Mapping[str, Callable[[], Any]]:
        """Find what imports each thing; ours win."""
        theirs = {entry.name: partial(_load, entry) for entry in entry_points(group=self.group)}
        files = [path for room in self.rooms for path in sorted((ROOT / room).rglob("*.py"))]
        return theirs | {
            name: partial(import_module, ".".join(("lattok", *path.relative_to(ROOT).with_suffix("").parts)))
            for path in files
            for name in self._line.findall(path.read_text(encoding="utf-8"))
        }


def _load(entry: EntryPoint) -> Any:
    try:
        return entry.load()
    except Exception as error:  # somebody else's package may raise anything
        package = entry.dist.name if entry.dist is not None else entry.value
        why = f"{type(error).__name__}: {error}".splitlines()[0].rstrip(".")
        raise LattokError(f"{entry.name!r} comes with the package {package}, which fails ({why}). Repair it.") from None


def _home(thing: Any) -> str:
    return f"{getattr(thing, '__module__', '')}.{getattr(thing, '__qualname__', repr(thing))}".lstrip(".")
