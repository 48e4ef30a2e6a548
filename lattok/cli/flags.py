"""Flags that several verbs take, options of recipes and importers as flags, how words are read and refused, and help.

`--help` prints common options, `--help-all` all of them. Options of recipes stand in classes that import torch. Where
no package adds any, the help of `lattok train KIND` is read from assets/help.json (scripts/make_help.py).
"""

import inspect
import json
import re
import shlex
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, NoReturn, Union, get_args, get_origin, get_type_hints

from lattok.utils.checks import LattokError, did_you_mean, one_of
from lattok.utils.options import docs_of

ON, OFF = ("true", "yes", "on", "1"), ("none", "false", "no", "off", "0")  # what people type behind a switch
HELP_ALL = "--help-all"
HELP = ("--help", "-h", HELP_ALL)
STORED = Path(__file__).parents[1] / "assets" / "help.json"
LEFT, MOST, LEAST = 24, 100, 60  # columns of flags, and of a line
NONE = "none"  # what is typed for a column that is not to be read
DESCRIBED = {"fps": "10", "captions": '"captions.csv"', "split": '"train"'}  # keys of descriptions that flags seem
MISSING = inspect.Parameter.empty  # the default of what must be given


class Arg(NamedTuple):
    """How an argument is typed and shown where type and documentation do not say: `Annotated[str, Arg("DIR")]`."""

    metavar: str = ""  # stands for the value
    said: str = ""
    positional: bool = False


Names = Annotated[tuple[str, ...], Arg("NAME ...")]
Folder = Annotated[str, Arg("DIR")]
MaybeFolder = Annotated[str | None, Arg("DIR")]
MaybeFile = Annotated[str | None, Arg("FILE")]
WHERE_TO = "Where it computes; auto takes a GPU where there is one; also another that torch knows, such as cuda:1."
Device = Annotated[str, Arg("{auto,cpu,cuda,mps}", WHERE_TO)]
Revision = Annotated[str | None, Arg(said="Revision of a Hub model.")]
CHOSEN = '"train", "test" (the last episode of every task, more where tasks are few), '
CHOSEN += '"0:40", "0,3,5:9", "10%" or "5 per task".'
Episodes = Annotated[str | None, Arg(said=CHOSEN)]
Model = Annotated[str, Arg("MODEL", "Folder of a model, or a Hub id.", positional=True)]
Models = Annotated[tuple[str, ...], Arg("MODEL ...")]
WHERE = "Folder, file, Hub id or description file (*.json)."
Dataset = Annotated[str, Arg("DATASET", WHERE, positional=True)]
Format = Annotated[str | None, Arg("NAME", "Format of the dataset, such as rlds, where it is not recognised.")]
Labels = Annotated[tuple[str, ...], Arg("DIR ...", "Folders of labels that `lattok annotate` wrote for the dataset.")]
MaybeDataset = Annotated[str | None, Arg("DATASET", WHERE, positional=True)]
SEVERAL = f"{WHERE} Several are a mixture of equal shares."
Datasets = Annotated[tuple[str, ...], Arg("DATASET ...", SEVERAL, positional=True)]
CHECKPOINT = "The checkpoint. Nothing in it is run; one that holds anything but tensors is refused."
File = Annotated[str, Arg("FILE", CHECKPOINT, positional=True)]
Out = Annotated[str, Arg("OUT", "New folder for the model.", positional=True)]


class Word(NamedTuple):
    """What a verb reads: a flag, or a word without one."""

    shown: str  # the flag with its dashes, unless it is a word without one, and what stands for the value
    said: str  # the help, with the default
    group: str  # that it stands in
    more: bool  # shown by `--help-all` only
    required: bool
    name: str = ""
    kind: Any = None
    unless: tuple[str, ...] = ()  # flags that stand for it

    @property
    def positional(self) -> bool:
        return not self.shown.startswith("--")


class Verb(NamedTuple):
    """A function; what it reads are its arguments, or `listed`, and its help is its documentation, or `text`."""

    run: Callable[..., Any]
    needs: str = "lattok.recipes"  # the module that it waits for; this one imports nearly all others
    text: str | None = None
    listed: Sequence[Word] | None = None

    @property
    def about(self) -> str:
        return self.text or (inspect.getdoc(self.run) or "").partition("\n\nArgs:")[0]

    @property
    def words(self) -> Sequence[Word]:
        return [*words_of(self.run)] if self.listed is None else self.listed


def words_of(verb: Any) -> Iterator[Word]:
    """Yield what a function reads, or a dataclass: its arguments, and the fields of those that are dataclasses."""
    hints, said = get_type_hints(verb, include_extras=True), docs_of(verb)
    for name, parameter in inspect.signature(verb).parameters.items():
        if is_dataclass(hints[name]):
            yield from (each._replace(group=name) for each in words_of(hints[name]))
        elif parameter.kind is not parameter.VAR_KEYWORD:
            yield word_of(name, hints[name], said.get(name, ""), parameter.default)


def word_of(name: str, hint: Any, said: str, default: Any, choices: Iterable[str] = ()) -> Word:
    """Return what is typed for one argument, what stands for its value, and its default if there is one to show."""
    if get_origin(hint) is Union:  # Python 3.10 makes Optional[Annotated[...]] of what is None by default
        hint = next((part for part in get_args(hint) if get_origin(part) is Annotated), hint)
    kind, *marks = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    mark = next((each for each in marks if isinstance(each, Arg)), Arg())
    parts = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    words = [str(word) for part in parts if get_origin(part) is Literal for word in get_args(part)] or [*choices]
    several = _several(kind)
    inner = float if float in parts else parts[0] if several is None else get_args(several)[0]
    between = "|" if any("," in word for word in words) else ","
    metavar = "{" + between.join(words) + "}" if words else {int: "N", float: "X"}.get(inner, "TEXT")
    metavar = mark.metavar or ("" if bool in parts else metavar + " ..." * (several is not None))
    text = (mark.said or said).strip()
    text = text[:1].upper() + text[1:] + "." * (text[-1:] not in ("", ".", "?", "!"))
    shown = "" if default in (MISSING, None, (), "") else f"(default: {text_of(default)})"
    flag = "" if mark.positional else f"--{name.rstrip('_').replace('_', '-')}"
    return Word(f"{flag} {metavar}".strip(), f"{text} {shown}".strip(), "", False, default is MISSING, name, kind)


def text_of(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return shlex.join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def column(key: str | None) -> str | None:
    return None if key is None or key.lower() == NONE else key


def unknown_verb(
    command: str, word: str, known: Sequence[str], elsewhere: Callable[[str], str] = lambda word: ""
) -> NoReturn:
    """Refuse a word that is none of `known`, nor resembles one; `elsewhere` says where it belongs."""
    meant = did_you_mean(word, known) or elsewhere(word) or f"There are {', '.join(known)}."
    refuse(command, f" has no `{word}`. {meant}")


def refuse(command: str, said: str, about: str = "") -> NoReturn:
    """Say what is wrong with the words of a command, and the example that a text about it holds."""
    example = next((f" {line}" for line in about.splitlines() if line.startswith("Example: ")), "")
    raise LattokError(f"{command}{said} See {command} --help.{example}")


def read(command: str, known: Sequence[Word], words: Sequence[str], about: str = "") -> dict[str, Any]:
    """Return the values that `words` give, by name; refuse unknown flags, wrong values, and too many or few words."""
    flags = {each.name.rstrip("_"): each for each in known if not each.positional}
    values, alone, rest = dict[str, Any](), list[str](), list(words)  # alone: words without a flag
    taken = ""
    while rest:
        word = rest.pop(0)
        if word == "--":  # all that follows is without a flag
            alone += rest
            break
        if not word.startswith("--"):
            alone.append(word)
            continue
        typed, equals, value = word[2:].partition("=")
        name = typed.removesuffix(".name").replace(".", "_").replace("-", "_")  # --decoder.depth is --decoder-depth
        typed = name.replace("_", "-")
        _check_flag(command, name, flags)
        flag = flags.get(name) or flags[name.removeprefix("no_")]
        if _is_switch(flag.kind):
            if name in flags and not equals and rest and rest[0].lower() in (*ON, *OFF):
                value = rest.pop(0)
            if value and not (name in flags and value.lower() in (*ON, *OFF)):
                refuse(command, f": --{typed} takes no value, got {value}.")
            if equals and not value:
                refuse(command, f": --{typed} needs a value after =, or none at all.")
            unset = value == "None" and type(None) in get_args(flag.kind)
            values[flag.name] = None if unset else name in flags and value.lower() not in OFF
        else:
            if (most := _most_words(flag.kind)) > 1 and flag.name in values:
                refuse(command, f": --{typed} is given twice. It takes all its values at once: {flag.shown}.")
            number = next((i for i, after in enumerate(rest) if after.startswith("--")), len(rest))
            number = 0 if equals else min(number, most)
            if 1 < number < most == sys.maxsize:
                taken = f" --{typed} took {' '.join(rest[:number])}: put NEEDED first."
            values[flag.name] = _value(command, f"--{typed}", flag.kind, [value] * bool(equals) + rest[:number])
            rest = rest[number:]
    for place in (each for each in known if each.positional):
        own, alone = alone[: (most := _most_words(place.kind))], alone[most:]
        values |= {place.name: _value(command, place.shown, place.kind, own)} if own else {}
    if alone:
        places = [each.shown for each in known if each.positional or each.required]
        takes = ", ".join(places) or "flags alone"
        refuse(command, f": there is no place for {' '.join(alone)}. It takes {takes}.", about)
    for each in known if taken else ():
        if each.unless and not values.keys() & {each.name, *each.unless}:
            name = each.shown.removesuffix(" ...")
            refuse(command, f" needs {name}.{taken.replace('NEEDED', name)}")
    if missing := [each for each in known if each.required and each.name not in values]:
        said = "; ".join(f"{each.shown} {each.said}".rstrip(" .") for each in missing)
        first = taken.replace("NEEDED", missing[0].shown) if missing[0].positional else ""
        refuse(command, f" needs {said}.{first}", "" if first else about)
    return values


def call(run: Callable[..., Any], values: dict[str, Any]) -> Any:
    """Call a function with values by their names, of which its arguments that are dataclasses are made."""
    for name, owner in get_type_hints(run).items():
        if isinstance(owner, type) and is_dataclass(owner):
            values[name] = owner(**{each.name: values.pop(each.name) for each in fields(owner) if each.name in values})
    return run(**values)


def _is_switch(kind: Any) -> bool:
    return bool in (kind, *get_args(kind))


def _several(kind: Any) -> Any:
    """Return the part of a type for which a flag takes several words, if there is one."""
    return next((part for part in (kind, *get_args(kind)) if get_origin(part) in (tuple, list, Sequence)), None)


def _most_words(kind: Any) -> int:
    """Return how many words stand behind a flag at most."""
    if (several := _several(kind)) is None:
        return 1
    return len(get_args(several)) if get_origin(several) is tuple and ... not in get_args(several) else sys.maxsize


def _value(command: str, flag: str, kind: Any, words: list[str]) -> Any:
    """Return what words stand for: text where the type has any, which options then refuse in their own words."""
    parts = {part for each in (kind, *get_args(kind)) for part in (each, *get_args(each))}
    if words == ["None"] and type(None) in parts:
        return None
    least = 1 if (most := _most_words(kind)) == sys.maxsize else most
    if len(words) < least or "" in words:
        refuse(command, f": {flag} needs {'a value' if least == 1 else f'{least} values with spaces between them'}.")
    named = [part for part in parts if get_origin(part) is Literal]
    for word in words if named and not parts & {str, int, float} else ():
        one_of(flag.strip("-").replace("-", "_"), word, [str(each) for part in named for each in get_args(part)])
    try:
        found = tuple(_one(parts, word) for word in words)
    except ValueError as error:
        refuse(command, f": {flag}: {error}.")
    if (several := _several(kind)) is None:
        return found[0]
    return list(found) if get_origin(several) is list else found


def _one(parts: Set[Any], word: str) -> Any:
    if Path in parts:
        return Path(word)
    if str in parts or not parts & {int, float}:
        return next((part for part in parts if isinstance(part, int) and str(part) == word), word)  # of a Literal
    whole = int in parts and (float not in parts or word.lstrip("-").isdecimal())  # an index, or a fraction
    try:
        if "_" in word or "n" in word.lower():  # 1_000, inf and nan are numbers to Python
            raise ValueError
        return int(word) if whole else float(word)
    except ValueError:
        hint = ". It must be finite" if word.lower().lstrip("+-") in ("inf", "infinity", "nan") else ""
        hint += ". Put spaces between several" * ("," in word)
        raise ValueError(f"expected a {'whole ' * whole}number, got {word!r}{hint}") from None


def _check_flag(command: str, name: str, flags: Mapping[str, Word]) -> None:
    switches = {f"no_{name}" for name, flag in flags.items() if _is_switch(flag.kind)}
    if name in (known := {*flags, *switches}):
        return
    typed = name.replace("_", "-")
    if name.startswith("dataset") or name == "repo_id":
        raise LattokError(f"{command} has no --{typed}. Put the dataset after the verb: {command} DATASET")
    if name in DESCRIBED:
        entry = f'{{"dataset": "DATASET", "{name}": {DESCRIBED[name]}}}'
        way_out = f"Write {entry} into a file, such as arm.json, and give that instead of DATASET"
        raise LattokError(f"{command} has no --{typed}. {way_out}. See docs/howto/own_dataset.md.")
    every = [*(known if name.startswith("no_") else flags), "help_all"]
    meant = did_you_mean(name, every).replace("_", "-")
    refuse(command, f" has no --{typed}. {meant.replace('mean ', 'mean --')}".rstrip())


def page(command: str, about: str, words: Sequence[Word], everything: bool) -> str:
    """Return the help of a command, as wide as the terminal."""
    listed = [word for word in words if everything or not word.more]
    first = [word for word in words if word.required or word.positional]
    needed = " ".join(word.shown if word.required else f"[{word.shown}]" for word in first)
    width = max(LEAST, min(MOST, shutil.get_terminal_size((88, 24)).columns))
    lines = [f"usage: {command} {needed}".strip() + " [OPTIONS]" * bool(listed), "", about]
    for group in dict.fromkeys(word.group for word in listed):
        lines += ["", f"{group} options:".strip()]
        for word in (each for each in listed if each.group == group):
            gap = "  " if len(word.shown) <= LEFT - 4 else f"\n{'':<{LEFT}}"
            said = textwrap.wrap(word.said, width - LEFT, break_on_hyphens=False)
            lines.append(f"  {word.shown:<{LEFT - 4}}{gap}" + f"\n{'':<{LEFT}}".join(said))
    hidden = len(words) - len(listed)
    return "\n".join([*lines, *(["", f"{hidden} more options: {command} --help-all"] * bool(hidden))])


def stored() -> dict[str, tuple[str, list[Word]]]:
    """Return what `page` takes for `lattok train KIND`, for every kind, where it is known without the recipes."""
    if "lattok.recipes" in sys.modules or any(group.startswith("lattok.") for group in entry_points().groups):
        return {}  # a package may add kinds, options and choices; what is imported already costs nothing
    known = json.loads(STORED.read_text(encoding="utf-8"))
    options, pages = [(each, _named(each[0])) for each in known["options"]], {}
    for kind, (about, rows) in known["kinds"].items():
        pages[kind] = about, [Word(*options[i][0], *rest, *options[i][1]) for i, *rest in rows]
    return pages


def _named(shown: str) -> tuple[str, Any]:
    """Return the name of a flag of the stored help, and a type that takes as many words as it does."""
    flag, _, metavar = shown.partition(" ")
    kind = tuple[str, ...] if metavar.endswith("...") else str if metavar or flag[:2] != "--" else bool
    return flag.strip("-").replace("-", "_").lower(), kind


def as_typed(text: str, words: Sequence[Word]) -> str:
    """Write options of `words` that an error names for Python, such as head=flow or resume=True, as they are typed."""
    own = "|".join(each.name.rstrip("_") for each in words if not each.positional)
    named = rf"(?<![^\s(])({own or '(?!)'})_?=(True\b|False\b)?(?=[\w'\"*]|(?<=True)|(?<=False))"
    before = {"True": ("--", ""), "False": ("--no-", ""), None: ("--", " ")}

    def flag(found: re.Match[str]) -> str:
        dashes, gap = before[found[2]]
        return f"{dashes}{found[1].replace('_', '-')}{gap}"

    return re.sub(named, flag, text)
