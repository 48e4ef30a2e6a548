"""Importers of published models, each in one file that registers itself.

`lattok convert NAME FILE OUT` and `lattok.convert.NAME(FILE)` call `read`; its keywords are the options of the command,
and its docstring is their help. Another package names its module in the entry points `lattok.importers`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from lattok.hub.model import HubModel
from lattok.utils import checks
from lattok.utils.registry import Registry


@dataclass(frozen=True)
class Importer:
    """A published system that lattok reads.

    Attributes:
        name: The word that follows `lattok convert`.
        read: `read(path, **options)` returns the model. The first line of its docstring says what it reads, `Example:`
            the command, `Args:` the options.
        sign: A pattern for the name of a tensor that this system's checkpoints hold, and no other's.
        unless: A pattern for the name of a tensor that is only in those of another system that has the sign, too.
        title: What people call the system.
        paper: Authors and where to read about it.
        licence: Of code and weights, as the authors name it.
        weights: Where they are.
        parameters: How many there are.
        reads: What it sees, where the class has other defaults.
        gives: What a label is, where the class has other defaults.
        page: Page of the documentation that says more.
        differs: What differs: (published code, lattok).
        mind: What to know before its labels are used.
    """

    name: str
    read: Callable[..., HubModel]
    sign: str
    unless: str = ""
    title: str = ""
    paper: str = ""
    licence: str = ""
    weights: str = ""
    parameters: str = ""
    reads: str = ""
    gives: str = ""
    page: str = "howto/zoo.md"
    differs: tuple[tuple[str, str], ...] = ()
    mind: str = ""

    def signed(self, names: str) -> bool:
        """Tell whether tensors are of this system, from their names, one on each line."""
        other = self.unless and re.search(self.unless, names, re.MULTILINE)
        return bool(re.search(self.sign, names, re.MULTILINE)) and not other


IMPORTERS: Registry[Importer] = Registry("lattok.importers", "lattok.action_vq", "lattok.image_lam")


def register_importer(importer: Importer) -> None:
    """Make an importer known by its name."""
    IMPORTERS.add(importer.name, importer)


def check_kind(names: Iterable[str], kind: str, where: str) -> None:
    """Refuse a file with the sign of another system than `kind`, and name that system; `names` are its tensors'."""
    known, text = [IMPORTERS[name] for name in IMPORTERS], "\n".join(names)
    signs = dict.fromkeys(each.sign for each in known if each.signed(text))
    own = IMPORTERS[kind].sign
    if signs and own not in signs:
        found = [each.name for each in known if each.sign == next(iter(signs))]
        way_out = " or ".join(f"lattok convert {name}" for name in found)
        checks.fail(where, f"a checkpoint for {kind}", f"one for {' or '.join(found)}", f"Run: {way_out}.")
