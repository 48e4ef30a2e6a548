"""Flags that several verbs take, options of recipes and importers as flags, how words are read and refused, and help.

`--help` prints common options, `--help-all` all of them. Options of recipes stand in classes that import torch. Where
no package adds any, the help of `lattok train KIND` is read from assets/help.json, which `python scripts/make_help.py`
writes and a test compares.
"""

from __future__ import annotations

import inspect
import json
import shlex
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, NoReturn, Union, get_args, get_origin, get_type_hints

import docstring_parser
import tyro
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, Positional, arg
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

from lattok.utils.checks import LattokError, did_you_mean
from lattok.utils.options import Option

ON, OFF = ("true", "yes", "on", "1"), ("none", "false", "no", "off", "0")  # what people type behind a switch
CONFIG = (OmitArgPrefixes,)
HELP_ALL = "--help-all"
HELP = ("--help", "-h", HELP_ALL)
METAVARS = {int: "N", float: "X"}
STORED = Path(__file__).parents[1] / "assets" / "help.json"
LEFT, MOST, LEAST = 24, 100, 60  # columns of flags, and of a line
MANY = (tuple, Sequence)  # of these, a flag takes all words that follow

Text = Annotated[str | None, arg(metavar="TEXT", help_behavior_hint="")]
Number = Annotated[int | None, arg(metavar="N", help_behavior_hint="")]
Names = Annotated[tuple[str, ...], arg(metavar="NAME ...", help_behavior_hint="")]
Folder = Annotated[str, arg(metavar="DIR")]
MaybeFolder = Annotated[str | None, arg(metavar="DIR", help_behavior_hint="")]
MaybeFile = Annotated[str | None, arg(metavar="FILE", help_behavior_hint="")]
Device = Annotated[
    str, arg(metavar="{auto,cpu,cuda,mps}", help="Where it computes; auto takes a GPU where there is one.")
]
Revision = Annotated[str | None, arg(metavar="TEXT", help="Revision of a Hub model.", help_behavior_hint="")]
CHOSEN = (
    '"train", "test" (the last episode of every task, more where tasks are few), "0:40", "0,3,5:9", "10%" or '
    '"5 per task".'
)
Episodes = Annotated[str | None, arg(metavar="TEXT", help=CHOSEN, help_behavior_hint="")]
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

POSITIONAL = get_args(Positional[int])[1]


class Verb(NamedTuple):
    """A function whose arguments are the flags; its documentation, or `text`, is the help."""

    run: Callable[..., Any]
    needs: str = "lattok.recipes"  # the module that it waits for; this one imports nearly all others
    text: str | None = None

    @property
    def about(self) -> str:
        return self.text or inspect.getdoc(self.run) or ""


@dataclass(frozen=True)
class FlagGroup:
    """Flags that stand together in the help, as the default of an argument of a verb, which then gets a dictionary.

    Those that are `more` stand in the help of all options only.
    """

    flags: tuple[StructFieldSpec, ...] = ()
    more: bool = False


REGISTRY = ConstructorRegistry()


@REGISTRY.struct_rule
def _section(info: StructTypeInfo) -> StructConstructorSpec | None:
    return StructConstructorSpec(dict, info.default.flags) if isinstance(info.default, FlagGroup) else None


def of_options(
    options: Iterable[Option], values: Mapping[str, Any], choices: Mapping[str, Iterable[str]], more: bool = False
) -> FlagGroup:
    """Return the flags of options: their types and documentation, and `values` as the defaults that the help shows."""
    flags = []
    for option in options:
        said = docs_of(option.owner).get(option.path[-1], "")
        kind = get_type_hints(option.owner)[option.path[-1]]
        flags.append(flag(option.name, kind, said, values.get(option.name), choices.get(option.name, ())))
    return FlagGroup(tuple(flags), more)


def of_function(function: Callable[..., Any]) -> FlagGroup:
    """Return the flags of the keywords of a function: their types, defaults and documentation."""
    hints, said = get_type_hints(function), docs_of(function)
    named = list(inspect.signature(function).parameters.values())[1:]
    kept = [each for each in named if each.kind is not each.VAR_KEYWORD]
    missing = inspect.Parameter.empty
    defaults = {each.name: tyro.MISSING if each.default is missing else each.default for each in kept}
    return FlagGroup(tuple(flag(name, hints[name], said.get(name, ""), value) for name, value in defaults.items()))


def flag(name: str, kind: Any, said: str, default: Any, choices: Iterable[str] = ()) -> StructFieldSpec:
    """Return one flag, with the letter or word that stands for its value, and its default where it has one to show.

    Of a type that is text or something else, text is typed; a choice is refused by the options, in their words.
    """
    parts = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    words = [str(word) for part in parts if get_origin(part) is Literal for word in get_args(part)] or [*choices]
    if words or str in parts:
        kind = str | None if type(None) in parts else str
    several = next((part for part in parts if get_origin(part) in MANY), None)
    inner = float if float in parts else parts[0] if several is None else get_args(several)[0]
    metavar = "{" + ",".join(words) + "}" if words else METAVARS.get(inner, "TEXT")
    metavar = None if inner is bool else metavar + " ..." * (several is not None)
    shown = "" if default in (None, ()) else f"(default: {text_of(default)})"
    hint = None if default is tyro.MISSING else shown
    typed: Any = Annotated[kind, arg(help=said or " ", metavar=metavar, help_behavior_hint=hint)]
    return StructFieldSpec(name, typed, default)


@cache
def docs_of(documented: Any) -> Mapping[str, str]:
    """Return what docstrings say of the arguments of a function, or of the fields of a class and those it extends."""
    said: dict[str, str] = {}
    for each in reversed(documented.__mro__ if isinstance(documented, type) else (documented,)):
        parsed = docstring_parser.parse_from_object(each) if each is not object else None
        said |= {p.arg_name: " ".join((p.description or "").split()) for p in (parsed.params if parsed else ())}
    return said


def text_of(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return shlex.join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


class Word(NamedTuple):
    """What a verb reads: a flag, or a word without one."""

    shown: str  # the flag with its dashes, unless it is a word without one, and what stands for the value
    said: str  # the help, with the default
    group: str  # that it stands in
    more: bool  # shown by `--help-all` only
    required: bool
    name: str = ""
    kind: Any = None
    positional: bool = False


def words_of(verb: Any) -> Iterator[Word]:
    """Yield what a verb reads, a function or a dataclass; what is in its groups of flags too."""
    hints, said = get_type_hints(verb, include_extras=True), docs_of(verb)
    for name, parameter in inspect.signature(verb).parameters.items():
        kind = get_args(hints[name])[0] if get_origin(hints[name]) is Annotated else hints[name]
        if isinstance(parameter.default, FlagGroup):
            for each in parameter.default.flags:
                yield _word(each.name, each.type, each.default, "")._replace(group=name, more=parameter.default.more)
        elif is_dataclass(kind):
            owner = kind if parameter.default is parameter.empty else type(parameter.default)
            yield from (word._replace(group=name) for word in words_of(owner))
        else:
            missing = parameter.default is parameter.empty
            yield _word(name, hints[name], tyro.MISSING if missing else parameter.default, said.get(name, ""))


def _word(name: str, hint: Any, default: Any, said: str) -> Word:
    kind, *marks = get_args(hint) if get_origin(hint) is Annotated else (hint,)

    def marked(what: str, otherwise: Any) -> Any:
        return next((found for mark in marks if (found := getattr(mark, what, None)) is not None), otherwise)

    name = marked("name", name)  # what Python keeps to itself
    positional, required = POSITIONAL in marks, default is tyro.MISSING
    flag = "" if positional else f"--{name.replace('_', '-')}"
    metavar = "" if kind is bool else marked("metavar", METAVARS.get(kind, "TEXT"))
    text = marked("help", said).strip()
    text = text[:1].upper() + text[1:] + "." * (text[-1:] not in ("", ".", "?", "!"))
    hint = marked("help_behavior_hint", "" if required or default in (None, ()) else f"(default: {text_of(default)})")
    return Word(f"{flag} {metavar}".strip(), f"{text} {hint}".strip(), "", False, required, name, kind, positional)


def column(key: str | None) -> str | None:
    return None if key is None or key.lower() == NONE else key


def unknown_verb(command: str, word: str, known: Sequence[str]) -> NoReturn:
    meant = did_you_mean(word, known) or f"There are {', '.join(known)}."
    raise LattokError(f"{command} has no `{word}`. {meant} See {command} --help.")


def plain_words(words: Sequence[str]) -> list[str]:
    """Return words with options of groups as they are called in full: --decoder.depth as --decoder-depth."""
    plain = []
    for word in words:
        name, equals, value = word.partition("=")
        if name.startswith("--"):
            name = name.replace("_", "-").removesuffix(".name").replace(".", "-")
        plain.append(f"{name}{equals}{value}")
    return plain


def expand_switches(verb: Callable[..., Any], words: Sequence[str]) -> list[str]:
    """Return words with `--switch off`, or `--switch=none`, as `--no-switch`."""
    switches, found = {word.shown for word in words_of(verb) if word.kind is bool}, list[str]()
    for word in words:
        flag, _, value = word.partition("=")
        behind = value if flag in switches else word if found and found[-1] in switches else ""
        if behind.lower() in (*ON, *OFF):
            flag = flag if flag in switches else found.pop()
            word = f"--no-{flag[2:]}" if behind.lower() in OFF else flag
        found.append(word)
    return found


def flags_among(words: Sequence[str]) -> set[str]:
    names = {word[2:].partition("=")[0].replace("-", "_") for word in words if word.startswith("--")}
    return names | {name.removeprefix("no_") for name in names}


def check_words(command: str, verb: Callable[..., Any], words: Sequence[str]) -> None:
    """Refuse words that `verb` cannot read: flags it has not, values of another kind, what is missing or too much."""
    known = {word.name: word for word in words_of(verb)}
    flags = {name: word.kind for name, word in known.items() if not word.positional}
    places = [word for word in known.values() if word.positional]
    alone, rest = [], list(words)  # alone: words without a flag
    while rest:
        word = rest.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--"):
            alone.append(word)
            continue
        _check_flag(command, name, flags)
        kind = flags.get(name.replace("-", "_"), bool)
        number = next((i for i, after in enumerate(rest) if after.startswith("--")), len(rest))
        number = 0 if equals else min(number, _most_words(kind))
        for each in [value] * bool(equals) + rest[:number]:
            _check_number(command, name, kind, each)
        if not (equals or number or kind is bool):
            raise LattokError(f"{command}: --{name} needs a value. See {command} --help.")
        rest = rest[number:]
    if len(alone) > sum(_most_words(word.kind) for word in places):
        raise LattokError(f"{command}: there is no place for {' '.join(alone[len(places) :])}. See {command} --help.")
    missing = [word for word in places[len(alone) :] if word.required]
    missing += [known[name] for name in flags.keys() - flags_among(words) if known[name].required]
    if missing:
        texts = "; ".join(f"{word.shown} {word.said}".rstrip(" .") for word in missing)
        raise LattokError(f"{command} needs {texts}. See {command} --help.")


def _most_words(kind: Any) -> int:
    """Return how many words stand behind a flag at most."""
    several = next((part for part in (kind, *get_args(kind)) if get_origin(part) in MANY), None)
    if several is None:
        return int(kind is not bool)
    return sys.maxsize if get_origin(several) is Sequence or ... in get_args(several) else len(get_args(several))


def _check_flag(command: str, name: str, flags: Mapping[str, Any]) -> None:
    plain = name.replace("-", "_")
    known = {*flags, *(f"no_{each}" for each, kind in flags.items() if kind is bool), "help", "help_all"}
    if plain in known or not name:
        return
    if plain.startswith("dataset") or plain == "repo_id":
        raise LattokError(f"{command} has no --{name}. Put the dataset after the verb: {command} DATASET")
    meant = did_you_mean(plain, known if plain.startswith("no_") else flags).replace("_", "-")
    meant = meant.replace("mean ", "mean --") + " " * bool(meant)
    raise LattokError(f"{command} has no --{name}. {meant}See {command} --help.")


def _check_number(command: str, name: str, kind: Any, value: str) -> None:
    """Refuse a value where only numbers are read."""
    parts = {part for each in (kind, *get_args(kind)) for part in (each, *get_args(each))}
    if str in parts or not parts & {int, float} or (type(None) in parts and value == "None"):
        return
    wanted = float if float in parts else int
    try:
        wanted(value)
    except ValueError as error:
        raise LattokError(f"{command}: --{name}: {error}. See {command} --help.") from None


class Page(NamedTuple):
    about: str
    words: Sequence[Word]

    @classmethod
    def of(cls, verb: Verb) -> Page:
        return cls(verb.about.partition("\n\nArgs:")[0], [*words_of(verb.run)])

    def render(self, command: str, everything: bool) -> str:
        """Return the help as text, as wide as the terminal."""
        listed = [word for word in self.words if everything or not word.more]
        first = [word for word in self.words if word.required or word.shown[0] != "-"]
        needed = " ".join(word.shown if word.required else f"[{word.shown}]" for word in first)
        width = max(LEAST, min(MOST, shutil.get_terminal_size((88, 24)).columns))
        lines = [f"usage: {command} {needed}".strip() + " [OPTIONS]" * bool(listed), "", self.about]
        for group in dict.fromkeys(word.group for word in listed):
            lines += ["", f"{group} options:".strip()]
            for word in (each for each in listed if each.group == group):
                gap = "  " if len(word.shown) <= LEFT - 4 else f"\n{'':<{LEFT}}"
                said = textwrap.wrap(word.said, width - LEFT, break_on_hyphens=False)
                lines.append(f"  {word.shown:<{LEFT - 4}}{gap}" + f"\n{'':<{LEFT}}".join(said))
        hidden = len(self.words) - len(listed)
        return "\n".join([*lines, *(["", f"{hidden} more options: {command} --help-all"] * bool(hidden))])


def stored() -> dict[str, Page]:
    """Return the help of `lattok train KIND` for every kind, where it is known without the recipes."""
    if "lattok.recipes" in sys.modules or any(group.startswith("lattok.") for group in entry_points().groups):
        return {}  # a package may add kinds, options and choices; what is imported already costs nothing
    known = json.loads(STORED.read_text(encoding="utf-8"))
    pages = {}
    for kind, (about, rows) in known["kinds"].items():
        pages[kind] = Page(about, [Word(*known["options"][row], *rest) for row, *rest in rows])
    return pages
