"""Flags that several verbs take, and which flags a verb has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from typing_extensions import is_typeddict
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, Positional, arg

CONFIG = (OmitArgPrefixes,)
HELP = ("--help", "-h")

Text = Annotated[str | None, arg(metavar="TEXT", help_behavior_hint="")]
Number = Annotated[int | None, arg(metavar="N", help_behavior_hint="")]
Names = Annotated[tuple[str, ...], arg(metavar="NAME ...", help_behavior_hint="")]
Folder = Annotated[str, arg(metavar="DIR")]
MaybeFolder = Annotated[str | None, arg(metavar="DIR", help_behavior_hint="")]
Switch = Annotated[bool, FlagCreatePairsOff, arg(help_behavior_hint="")]  # --switch, without --no-switch
Model = Annotated[Positional[str], arg(metavar="MODEL", help="Folder of a model, or a Hub id.")]
Models = Annotated[tuple[str, ...], arg(metavar="MODEL ...")]
Dataset = Annotated[Positional[str], arg(metavar="DATASET", help="Folder, file, Hub id or description file (*.json).")]
MaybeDataset = Annotated[
    Positional[str | None],
    arg(metavar="DATASET", help="Folder, file, Hub id or description file (*.json).", help_behavior_hint=""),
]
File = Annotated[
    Positional[str],
    arg(metavar="FILE", help="The checkpoint. Nothing in it is run; one that holds anything but tensors is refused."),
]
Out = Annotated[Positional[str], arg(metavar="OUT", help="New folder for the model.")]

POSITIONAL = Positional[int].__metadata__[0]  # pyright: ignore[reportAttributeAccessIssue]


def flags_of(verb: Any) -> Iterator[tuple[str, Any]]:
    """Names and types of the flags of a verb, a function or a dataclass; those inside groups of flags too."""
    hints = get_type_hints(verb, include_extras=True)
    for name, hint in hints.items():
        marks = getattr(hint, "__metadata__", ())
        kind = get_args(hint)[0] if get_origin(hint) is Annotated else hint
        if name == "return" or POSITIONAL in marks:
            continue
        if is_dataclass(kind) or is_typeddict(kind):
            yield from flags_of(kind)
        else:
            yield name, kind
