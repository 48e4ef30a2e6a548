"""What people can type, as data: a verb with its words, and advice, a text with such commands and with options.

Words such as MODEL stand for what is not known yet. Python and the command line write options in two ways.
"""

import shlex
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

MODEL, DATASET = "MODEL", "DATASET"  # stand for those of a case
OTHER, UNKNOWN = "OTHER", "..."  # for another model, and for words that only the user knows


@dataclass(frozen=True)
class Command:
    """A verb of lattok and its words."""

    verb: str
    words: tuple[str, ...] = ()

    def filled(self, places: Mapping[str, str], more: Sequence[str] = ()) -> "Command":
        """Replace placeholder words by what they stand for; `more` follows the last of these, before other flags."""
        last = max((i for i, word in enumerate(self.words) if word in places), default=len(self.words) - 1)
        words = [places.get(word) or word for word in self.words]
        return Command(self.verb, (*words[: last + 1], *more, *words[last + 1 :]))

    def extended(self, *more: str) -> "Command":
        return Command(self.verb, (*self.words, *more))

    def __str__(self) -> str:
        return shlex.join(["lattok", self.verb, *self.words])


def command(verb: str, *words: str) -> Command:
    return Command(verb, words)


@dataclass(frozen=True)
class Advice:
    """What to do: a text, and the commands that do it, one after the other.

    A field of the text, such as {labelled_fraction}, is an option with its value: `labelled_fraction=0.05`, which is
    typed `--labelled-fraction 0.05`.
    """

    text: str = ""
    commands: tuple[Command, ...] = ()
    options: tuple[tuple[str, str], ...] = ()  # by field; one of the same name ends with _

    def __bool__(self) -> bool:
        return bool(self.text)

    def said(self, typed: bool = False) -> str:
        """Return the text with its options, as they are typed or as in Python; a colon where commands follow."""
        shown = dict[str, str]()
        for field, value in self.options:
            name = field.rstrip("_")
            flag = f"--{name.replace('_', '-')}"
            words = flag if value == "True" else f"{flag} {value}"
            shown[field] = words if typed else f"{name}={value}"
        return self.text.format_map(shown) + (":" if self.commands else "")

    def with_words(self, verb: str, *more: str) -> "Advice":
        """Add words to the commands of a verb."""
        commands = tuple(each.extended(*more) if each.verb == verb else each for each in self.commands)
        return replace(self, commands=commands)

    def with_fields(self, parts: Mapping[str, "Advice"]) -> "Advice":
        """Put other texts, with their options, in the place of fields."""
        used = {name: part for name, part in parts.items() if "{" + name + "}" in self.text}
        kept = {name: "{" + name + "}" for name, _ in self.options}
        text = self.text.format_map({**kept, **{name: part.text for name, part in used.items()}})
        more = [option for part in used.values() for option in part.options]
        return replace(self, text=text, options=tuple(dict.fromkeys([*self.options, *more])))

    def __str__(self) -> str:
        return f"{self.said()} {in_a_row(self.commands)}".strip()


NOTHING = Advice()


def advise(text: str, *commands: Command, **options: str) -> Advice:
    """Return advice, with the values of the options that the text names in braces."""
    return Advice(text, commands, tuple(options.items()))


def in_a_row(commands: Sequence[Command]) -> str:
    """Return commands as one line of a shell."""
    return " && ".join(map(str, commands))


def lines_of(
    text: str, width: int, first: str = "", later: str = "", commands: Sequence[Command] = ()
) -> Iterator[str]:
    """Yield lines of a text, indented by `first` and `later`, then the commands that it ends with, in a line of their
    own, to be copied; paths and names in the text stay whole."""
    wrapper = textwrap.TextWrapper(width, first, later, break_long_words=False, break_on_hyphens=False)
    yield from wrapper.wrap(text)
    if commands:
        yield f"{later}{in_a_row(commands)}"
