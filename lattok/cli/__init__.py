"""The command line: finds the verb, runs it, and says in one line what went wrong; one module for each group of verbs.

Imports wait until a verb runs, so that help is quick.
"""

import errno
import io
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import NamedTuple

import lattok
from lattok.cli import datasets, demo, flags, judging, label, models
from lattok.cli.flags import HELP, HELP_ALL, Verb, Word, unknown_verb
from lattok.utils import checks, files, signals
from lattok.utils.devices import cpu_quota
from lattok.utils.log import LOGGER
from lattok.utils.watching import watched

EVERYTHING = "lattok.recipes"  # and nearly all that it imports


class Group(NamedTuple):
    """A word with further words below it."""

    text: str
    names: Callable[[], Sequence[str]]
    find: Callable[[str, Sequence[str]], Verb]  # by one of these names, for the words that follow it
    elsewhere: Callable[[str], str] = lambda word: ""  # where a word belongs that is none of these names


VERBS: Mapping[str, Verb | Group] = {
    "demo": Verb(demo.demo),
    "inspect": Verb(datasets.inspect, "lattok.data"),  # no models: in half the time
    "repair": Verb(datasets.repair, "lattok.data"),
    "view": Verb(datasets.view, "lattok.evaluation"),
    "train": Group(
        "Train an action tokenizer, a latent action model or a policy (vla).",
        lambda: import_module(EVERYTHING).kinds(),
        models.train_verb,
        models.not_trained,
    ),
    "try": Group(
        "Try what something would be worth on a dataset (few-actions), before it is relied upon.",
        lambda: ["few-actions"],
        lambda name, _: Verb(judging.few_actions),
    ),
    "presets": Verb(models.presets),
    "evaluate": Verb(judging.evaluate),
    "compare": Verb(judging.compare),
    "compare-rollouts": Verb(judging.compare_rollouts, "lattok.evaluation"),
    "rollout": Verb(judging.rollout, "lattok.loading"),
    "doctor": Verb(judging.doctor, "lattok.cli.doctor"),  # imports packages one by one, since some may be broken
    "annotate": Verb(datasets.annotate, "lattok.annotation"),
    "label": Verb(label.label),
    "import-labels": Verb(label.import_labels, "lattok.annotation"),
    "verify": Verb(datasets.verify, "lattok.annotation"),
    "hide": Verb(datasets.hide, "lattok.annotation"),
    "export": Verb(datasets.export, "lattok.data"),
    "collect": Verb(datasets.collect, "lattok.sim"),
    "convert": Group(
        "Convert a published checkpoint.",
        lambda: list(import_module("lattok.hub.checkpoint").IMPORTERS),
        lambda name, _: models.convert_verb(name),
    ),
    "push": Verb(models.push),
}


def main(arguments: list[str] | None = None, run: Callable[[Sequence[str]], int | None] | None = None) -> int:
    """Run one verb, or what else `run` makes of the words.

    Exit code 1: a finding, such as labels that differ; 2: bad input, in one line; 128 + the signal's number: Ctrl-C
    (130), SIGTERM (143), SIGHUP (129), after saving.
    """
    words = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):  # what knows no `×` gets a `?`, rather than ending the verb
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if (quota := cpu_quota()) is not None:  # torch counts cores of the machine, not those that a container may use
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, int(quota))))
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin for one another starve on a busy machine
    try:
        with watched() if arguments is None and datasets.starts_ray(words) else signals.raising():
            code = (run or run_words)(words)
            if sys.stdout is not None:
                sys.stdout.flush()
        return code or 0  # a verb that found something wrong says so
    except BrokenPipeError:
        sys.stdout = None  # the reader left; nothing to say to it
        return 0
    except KeyboardInterrupt as stop:
        print(f"\nlattok: {stop}\n" if str(stop) else signals.INTERRUPTED, end="", file=sys.stderr)
        return 128 + signals.number_of(stop)
    except (checks.LattokError, OSError, MemoryError, RuntimeError) as error:
        if isinstance(error, OSError):
            said = _of_system(error, words)
        elif checks.out_of_memory(error):
            said = "out of memory. Close other programs, or take fewer episodes at a time."
        elif isinstance(error, checks.LattokError):
            said = str(error)
        else:
            raise
        print(checks.printable(said if said.startswith("lattok ") else f"lattok: {said}"), file=sys.stderr)
        return 2


def run_words(words: Sequence[str]) -> int | None:
    """Find the verb that `words` name and run it with the flags among them."""
    for word in words:  # names that are not UTF-8 cannot stand in the JSON and HTML that verbs write
        if (shown := word.encode(errors="replace").decode()) != word:
            checks.fail(shown, "text in UTF-8", "other bytes", "Rename it, or make a link with a plain name.")
    if words[:1] in (["--version"], ["-V"], ["version"]):
        print(f"lattok {lattok.__version__}")
        return None
    asked = any(word in HELP for word in words)
    if not words or words[0] in (*HELP, "help"):
        title = f"lattok {lattok.__version__}: latent-action tokenizers for robot learning. Start with: lattok demo"
        title += "\nIncluded: sample/dataset, sample/lam, sample/idm, sample/policy, sample/tokenizer, sample/fast,"
        title += "\n  sample/beast, sample/toast, sample/bins."
        abouts = {name: verb.text if isinstance(verb, Group) else verb.about for name, verb in VERBS.items()}
        return _list("lattok", title, abouts)
    name, rest = words[0], words[1:]
    if name not in VERBS:
        unknown_verb("lattok", name, list(VERBS))
    verb, command = VERBS[name], f"lattok {name}"
    if isinstance(verb, Verb):
        return run_verb(command, verb, rest)
    pages = flags.stored() if name == "train" and not (asked and "--preset" in " ".join(rest)) else {}
    if pages and rest[:1] and rest[0] in HELP:
        return _list(command, verb.text, {kind: about for kind, (about, _) in pages.items()})
    below = rest[0].replace("_", "-") if rest else ""
    if below in pages and asked:
        print(flags.page(f"{command} {below}", *pages[below], HELP_ALL in rest))
        return None
    if below in pages:
        flags.read(f"{command} {below}", pages[below][1], rest[1:])  # before the imports
    if below in pages or not pages:
        _load(EVERYTHING)
    if rest[:1] and rest[0] in HELP:
        return _list(command, verb.text, {below: _about(verb, below) for below in verb.names()})
    names = [*pages] or verb.names()
    if not rest or rest[0].startswith("-"):
        flags.refuse(command, f" needs one of {', '.join(names)} right behind it.")
    if below not in names:
        unknown_verb(command, rest[0], names, verb.elsewhere)
    return run_verb(f"{command} {below}", verb.find(below, rest[1:]), rest[1:])


def run_verb(command: str, verb: Verb, words: Sequence[str]) -> int | None:
    """Run a verb, which another package may have made, with the flags among `words`, or print its help."""
    if any(word in HELP for word in words):
        print(flags.page(command, verb.about, verb.words, HELP_ALL in words))
        return None
    values = flags.read(command, verb.words, words, verb.about)
    _load(verb.needs)
    said = AsTyped(verb.words)
    LOGGER.addFilter(said)
    try:
        return flags.call(verb.run, values)
    except checks.LattokError as error:  # texts serve Python too
        error.args = (flags.as_typed(str(error), verb.words),)
        raise
    finally:
        LOGGER.removeFilter(said)


class AsTyped(logging.Filter):
    """Writes options in what is said as they are typed."""

    def __init__(self, words: Sequence[Word]):
        super().__init__()
        self.words = words

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = flags.as_typed(record.getMessage(), self.words), ()
        return True


def _about(group: Group, name: str) -> str:
    try:
        return group.find(name, ()).about
    except checks.LattokError as error:  # of a package that fails
        return str(error)


def _list(command: str, title: str, abouts: Mapping[str, str]) -> None:
    width = max(map(len, abouts)) + 2
    print(f"usage: {command} {'VERB' if command == 'lattok' else 'KIND'} ...\n\n{title}\n")
    for name, about in abouts.items():
        print(f"  {name:<{width}}" + about.partition("\n")[0])
    print(f"\nEach has a help with an example: {command} {next(iter(abouts))} --help")


def _load(module: str) -> None:
    """Import what a verb needs. Ctrl-C in the middle of torch's own imports is swallowed or mangled, so it ends us."""
    with signals.ending(signals.INTERRUPTED):
        import_module(module)


def _of_system(error: OSError, arguments: list[str]) -> str:
    """Say what the system refused: a file, or, without a name, our own output."""
    why = error.strerror or str(error)
    if error.filename is None and error.errno in (errno.ENOSPC, errno.EIO, errno.EBADF):
        sys.stdout = None  # nothing more can be said there
        return f"cannot write the output: {why}."
    writes = any(word == "--out" or word.startswith("--out=") for word in arguments) or arguments[:1] == ["demo"]
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{why}." + (f" {files.make_room(error)} or choose another --out." if writes else "")
