"""Flags that several verbs take, which flags a verb has, and what a word that is none of them probably meant."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import is_dataclass
from typing import Annotated, Any, NoReturn, get_args, get_origin, get_type_hints

from typing_extensions import is_typeddict
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, Positional, arg

from lattok.utils.checks import LattokError, did_you_mean

SWITCHED = ("none", "true", "false", "yes", "no", "on", "off", "0", "1")  # what people type behind a switch
CONFIG = (OmitArgPrefixes,)
HELP = ("--help", "-h")

Text = Annotated[str | None, arg(metavar="TEXT", help_behavior_hint="")]
Number = Annotated[int | None, arg(metavar="N", help_behavior_hint="")]
Names = Annotated[tuple[str, ...], arg(metavar="NAME ...", help_behavior_hint="")]
Folder = Annotated[str, arg(metavar="DIR")]
MaybeFolder = Annotated[str | None, arg(metavar="DIR", help_behavior_hint="")]
MaybeFile = Annotated[str | None, arg(metavar="FILE", help_behavior_hint="")]
Switch = Annotated[bool, FlagCreatePairsOff, arg(help_behavior_hint="")]  # --switch, without --no-switch
Model = Annotated[Positional[str], arg(metavar="MODEL", help="Folder of a model, or a Hub id.")]
Models = Annotated[tuple[str, ...], arg(metavar="MODEL ...")]
WHERE = "Folder, file, Hub id or description file (*.json)."
Dataset = Annotated[Positional[str], arg(metavar="DATASET", help=WHERE)]
MaybeDataset = Annotated[Positional[str | None], arg(metavar="DATASET", help=WHERE, help_behavior_hint="")]
File = Annotated[
    Positional[str],
    arg(metavar="FILE", help="The checkpoint. Nothing in it is run; one that holds anything but tensors is refused."),
]
Out = Annotated[Positional[str], arg(metavar="OUT", help="New folder for the model.")]

NONE = "none"  # what is typed for a column that is not to be read

POSITIONAL = Positional[int].__metadata__[0]  # pyright: ignore[reportAttributeAccessIssue]


def flags_of(verb: Any) -> Iterator[tuple[str, Any]]:
    """Yield names and types of the flags of a verb, a function or a dataclass; those inside groups of flags too."""
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


def column(key: str | None) -> str | None:
    """Return the name of a column as it was typed, or None for "none"."""
    return None if key is None or key.lower() == NONE else key


def unknown_verb(command: str, word: str, known: Sequence[str]) -> NoReturn:
    """Refuse a word that is no verb of `command`."""
    meant = did_you_mean(word, known) or f"There are {', '.join(known)}."
    raise LattokError(f"{command} has no `{word}`. {meant} See {command} --help.")


def check_flags(command: str, verb: Callable[..., Any], words: Sequence[str]) -> None:
    """Refuse words that begin as flags do and are none of this verb's."""
    kinds = dict(flags_of(verb))
    known = {*kinds, *(f"no_{name}" for name, kind in kinds.items() if kind is bool), "help"}
    for word, after in zip(words, [*words[1:], ""], strict=False):
        name = word.removeprefix("--").partition("=")[0]
        plain = name.replace("-", "_")
        if kinds.get(plain) is bool and word.startswith("--") and after.lower() in SWITCHED:
            raise LattokError(
                f"{command}: --{name} takes no word, got {after}. It is on with --{name}, off with --no-{name}."
            )
        if not word.startswith("--") or plain in known or not name:
            continue
        if name.split(".")[0].startswith("dataset") or plain == "repo_id":
            raise LattokError(f"{command} has no --{name}. The dataset stands behind the verb: {command} DATASET")
        meant = did_you_mean(plain, known if plain.startswith("no_") else kinds).replace("_", "-")
        meant = meant.replace("mean ", "mean --") + " " * bool(meant)
        raise LattokError(f"{command} has no --{name}. {meant}See {command} --help.")
