"""The command line: finds the verb, runs it, and says in one line what went wrong; one module for each group of verbs.

Imports wait until a verb runs, so that help is quick.
"""

from __future__ import annotations

import errno
import inspect
import io
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr
from functools import partial, wraps
from importlib import import_module
from itertools import dropwhile, takewhile
from typing import Any, NamedTuple

import tyro

import lattok
from lattok.cli import convert, demo, labels, look, simulate
from lattok.cli.flags import CONFIG, HELP, check_flags, unknown_verb
from lattok.cli.train import presets, train_verb
from lattok.utils import checks, files, signals
from lattok.utils.checks import LattokError
from lattok.utils.devices import cpu_quota

EVERYTHING = "lattok.recipes"  # and nearly all that it imports
_CONTINUED = re.compile(r"\n {8,}(?=\S)")  # a line of the text of an argument that is not its first


class Verb(NamedTuple):
    """A function whose arguments are the flags; its documentation is the help."""

    run: Callable[..., Any]
    needs: str = EVERYTHING  # the module that it waits for


class Group(NamedTuple):
    """A word with further words below it."""

    text: str
    names: Callable[[], Sequence[str]]
    find: Callable[[str, Sequence[str]], Callable[..., Any] | None]  # by name, for the words that follow it


def _kinds() -> Sequence[str]:
    return import_module(EVERYTHING).kinds()


CONVERT = {
    "p2t-action-vq": convert.p2t_action_vq,
    "p2t-image-lam": convert.p2t_image_lam,
    "univla-lam": convert.univla_lam,
    "moto-lam": convert.moto_lam,
    "lapa-laq": convert.lapa_laq,
    "lary-laq": convert.lary_laq,
    "lawam-lam": convert.lawam_lam,
    "villax-lam": convert.villax_lam,
    "adaworld-lam": convert.adaworld_lam,
}
VERBS: Mapping[str, Verb | Group] = {
    "demo": Verb(demo.demo),
    "inspect": Verb(look.inspect, "lattok.data"),  # no models: in half the time
    "view": Verb(look.view, "lattok.evaluation"),
    "train": Group("Train an action tokenizer, a latent action model or a policy (vla).", _kinds, train_verb),
    "presets": Verb(presets),
    "evaluate": Verb(look.evaluate),
    "compare": Verb(look.compare),
    "rollout": Verb(simulate.rollout, "lattok.loading"),
    "doctor": Verb(look.doctor, "lattok.cli.doctor"),  # imports packages one by one, since some may be broken
    "annotate": Verb(labels.annotate, "lattok.annotation"),
    "verify": Verb(labels.verify, "lattok.annotation"),
    "export": Verb(labels.export, "lattok.data"),
    "collect": Verb(simulate.collect, "lattok.sim"),
    "convert": Group("Convert a published checkpoint.", lambda: list(CONVERT), lambda name, _: CONVERT.get(name)),
    "push": Verb(convert.push),
}


def main(arguments: list[str] | None = None, run: Callable[[Sequence[str]], int | None] | None = None) -> int:
    """Run one verb, or what else `run` makes of the words.

    Exit code 1: a finding, such as labels that differ; 2: bad input, in one line; 128 + the signal's number: Ctrl-C
    (130), SIGTERM (143), SIGHUP (129), after saving.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    _say_anything()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if (quota := cpu_quota()) is not None:  # torch counts cores of the machine, not those that a container may use
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, int(quota))))
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin for one another starve on a busy machine
    try:
        with signals.raising():
            code = (run or run_words)(arguments)
            if sys.stdout is not None:
                sys.stdout.flush()
    except LattokError as error:
        print(f"lattok: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(f"\nlattok: {str(stop) or 'interrupted; run the same command again'}", file=sys.stderr)
        return 128 + signals.number_of(stop)
    except (MemoryError, RuntimeError) as error:
        if not checks.out_of_memory(error):
            raise
        print("lattok: out of memory. Close other programs, or take fewer episodes at a time.", file=sys.stderr)
        return 2
    except BrokenPipeError:
        sys.stdout = None  # the reader left; nothing to say to it
        return 0
    except OSError as error:
        print(checks.printable(f"lattok: {_of_system(error, arguments)}"), file=sys.stderr)
        return 2
    return code or 0  # a verb that found something wrong says so


def run_words(words: Sequence[str]) -> int | None:
    """Find the verb that `words` name and run it with the flags among them."""
    _check_text(words)
    if words[:1] in (["--version"], ["-V"]):
        print(f"lattok {lattok.__version__}")
        return None
    if not words or words[0] in HELP:
        title = f"lattok {lattok.__version__}: latent-action tokenizers for robot learning. Start with: lattok demo"
        title += "\nWith it, by these names: sample/dataset, sample/tokenizer, sample/lam, sample/policy."
        texts = {name: verb.text if isinstance(verb, Group) else _summary(verb.run) for name, verb in VERBS.items()}
        return _list("lattok", title, texts)
    name, rest = words[0], words[1:]
    if name not in VERBS:
        unknown_verb("lattok", name, list(VERBS))
    verb, command = VERBS[name], f"lattok {name}"
    if isinstance(verb, Verb):
        if not any(word in HELP for word in rest):
            check_flags(command, verb.run, rest)
            _load(verb.needs)
        return _call(command, verb.run, rest)
    _load(EVERYTHING)
    if rest[:1] and rest[0] in HELP:
        return _list(command, verb.text, {below: _summary_below(verb, below) for below in verb.names()})
    if not rest or rest[0].startswith("-"):
        raise LattokError(f"{command} needs one of {', '.join(verb.names())}. See {command} --help.")
    below = rest[0].replace("_", "-")
    found = verb.find(below, rest[1:])
    if found is None:
        unknown_verb(command, rest[0], verb.names())
    return run_verb(f"{command} {below}", found, rest[1:])


def run_verb(command: str, verb: Callable[..., Any], words: Sequence[str]) -> int | None:
    """Run a function whose arguments are the flags and whose documentation is the help, of ours or another package."""
    check_flags(command, verb, words)
    return _call(command, verb, words)


def _call(command: str, verb: Callable[..., Any], words: Sequence[str]) -> int | None:
    """Run a verb with flags; those that cannot be read are refused in one line, where tyro draws a box."""

    @wraps(verb)
    def ready(*args: Any, **flags: Any) -> Any:
        return partial(verb, *args, **flags)

    verb.__doc__ = _CONTINUED.sub(" ", inspect.getdoc(verb) or "")  # tyro keeps the source's line breaks
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            call = tyro.cli(ready, prog=command, args=list(words), config=CONFIG)
    except SystemExit as stop:
        if not stop.code:
            raise  # the help
        raise LattokError(f"{_without_box(said.getvalue())} See {command} --help.") from None
    return call()


def _without_box(text: str) -> str:
    """Return what stands below the title of a box, up to the next line that divides it."""
    words = text.partition("\n")[2].replace("│", " ").partition("Got errors:")[0].split()
    rule = frozenset("─-╭╮╰╯").issuperset
    kept = takewhile(lambda word: not rule(word), dropwhile(rule, words))
    return " ".join(word for word in kept if word != "(required)").rstrip(".") + "."


def _summary_below(group: Group, name: str) -> str:
    try:
        return _summary(group.find(name, ()))
    except LattokError as error:  # of a package that fails
        return str(error)


def _summary(verb: Any) -> str:
    return (inspect.getdoc(verb) or "").partition("\n")[0]


def _list(command: str, title: str, texts: Mapping[str, str]) -> None:
    """Print the help of a word with further words below it."""
    width = max(map(len, texts)) + 2
    print(f"usage: {command} {'VERB' if command == 'lattok' else 'KIND'} ...\n\n{title}\n")
    for name, text in texts.items():
        print(f"  {name:<{width}}{text}")
    print(f"\nEach has a help with an example: {command} {next(iter(texts))} --help")


def _load(module: str) -> None:
    """Import what a verb needs. Ctrl-C in the middle of torch's own imports is swallowed or mangled, so it ends us."""
    with signals.ending("\nlattok: interrupted; run the same command again\n"):
        import_module(module)


def _of_system(error: OSError, arguments: list[str]) -> str:
    """Say what the system refused: a file, or, without a name, our own output."""
    why = error.strerror or str(error)
    if error.filename is None and error.errno in (errno.ENOSPC, errno.EIO, errno.EBADF):
        sys.stdout = None  # nothing more can be said there
        return f"cannot write what there is to say: {why}."
    writes = any(word == "--out" or word.startswith("--out=") for word in arguments) or arguments[:1] == ["demo"]
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{why}." + (f" {files.make_room(error)} or choose another --out." if writes else "")


def _say_anything() -> None:
    """Let a terminal or a file that knows no `×` get a `?`, rather than ending the verb."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _check_text(words: Sequence[str]) -> None:
    """Refuse names that are not UTF-8: they cannot stand in the JSON and HTML that verbs write."""
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError:
            shown = word.encode(errors="replace").decode()
            hint = "Rename it, or make a link with a plain name."
            checks.fail(shown, "text in UTF-8", "other bytes", hint)
