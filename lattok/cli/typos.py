"""What a command line probably meant: verbs and flags that are nearly right get one line that says so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from lattok.checks import LattokError, did_you_mean
from lattok.cli.flags import flags_of


def unknown_verb(command: str, word: str, known: Sequence[str]) -> NoReturn:
    """Refuse a word that is no verb of `command`."""
    meant = did_you_mean(word, known) or f"There are {', '.join(known)}."
    raise LattokError(f"{command} has no `{word}`. {meant} See {command} --help.")


def check_flags(command: str, verb: Callable[..., Any], words: Sequence[str]) -> None:
    """Refuse words that begin as flags do and are none of this verb's."""
    kinds = dict(flags_of(verb))
    known = {*kinds, *(f"no_{name}" for name, kind in kinds.items() if kind is bool), "help"}
    for word in words:
        name = word.removeprefix("--").partition("=")[0]
        plain = name.replace("-", "_")
        if not word.startswith("--") or plain in known or not name:
            continue
        if name.split(".")[0].startswith("dataset") or plain == "repo_id":
            hint = f"The dataset stands behind the verb: {command} DATASET"
            raise LattokError(f"{command} has no --{name}. {hint}")
        flag = (
            did_you_mean(plain, known if plain.startswith("no_") else kinds)
            .removeprefix("Did you mean ")
            .rstrip("?")
            .replace("_", "-")
        )
        meant = f"Did you mean --{flag}? " if flag else ""
        raise LattokError(f"{command} has no --{name}. {meant}See {command} --help.")
