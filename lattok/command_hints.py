"""What a command line probably meant, before it is parsed: verbs that are nearly right, options that are no flags."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from lattok.checks import did_you_mean

VERBS = ("demo", "inspect", "train", "evaluate", "doctor", "annotate", "verify", "export", "convert", "push")
CONVERT = ("p2t-action-vq", "p2t-image-lam", "univla-lam", "p2t-vla")
Options = Callable[[str], Sequence[str]]  # names of all options of what a `train` verb trains; slow: it imports recipes


def hint_for(words: Sequence[str], flags: Mapping[str, Sequence[str]], options: Options) -> str:
    """One line about what is wrong with these words; "" where they may be right.

    `flags` are those of each verb of `train`, without their dashes.
    """
    if not words or words[0].startswith("-"):
        return ""
    below = {"train": tuple(flags), "convert": CONVERT}.get(words[0])
    if words[0] not in VERBS:
        return _no_verb("lattok", words[0], VERBS)
    if below is None or words[1:2] in (["--help"], ["-h"]):
        return ""
    command = f"lattok {words[0]}"
    if len(words) < 2:
        return f"{command} needs one of {', '.join(below)}. See {command} --help."
    kind = words[1].replace("_", "-")
    if kind not in below:
        return _no_verb(command, words[1], below)
    return _no_flag(words[2:], kind, flags[kind], options) if words[0] == "train" else ""


def _no_verb(command: str, word: str, known: Sequence[str]) -> str:
    meant = did_you_mean(word, known) or f"There are {', '.join(known)}."
    return f"{command} has no `{word}`. {meant} See {command} --help."


def _no_flag(words: Sequence[str], kind: str, known: Sequence[str], options: Options) -> str:
    """A flag that `train` does not have; most options are given by --set."""
    for i, word in enumerate(words):
        name, equals, value = word.removeprefix("--").partition("=")
        plain = name.replace("-", "_")
        if not word.startswith("--") or plain in (*known, "help") or not name:
            continue
        value = value if equals else next((w for w in words[i + 1 : i + 2] if not w.startswith("--")), "VALUE")
        if name.split(".")[0].startswith("dataset") or plain == "repo_id":
            right = f"lattok train {kind} DATASET --out DIR"
            return f"lattok train has no --{name}. The dataset stands behind the verb: {right}"
        meant, found = did_you_mean(plain, known), did_you_mean(plain, options(kind))
        named = found.removeprefix("Did you mean ").rstrip("?")
        if named and (not meant or named == plain):
            return f"lattok train has no --{name}. Options are given as --set NAME=VALUE: --set {named}={value}"
        flag = meant.removeprefix("Did you mean ").rstrip("?").replace("_", "-")
        meant = f"Did you mean --{flag}? " if flag else ""
        return f"lattok train has no --{name}. {meant}See lattok train {kind} --help; other options: --set NAME=VALUE."
    return ""
