"""`lattok train` and `lattok presets`: the options of recipes as flags, and their presets.

A recipe's options are declared once, as fields of its dataclasses. Their types make the flags, the comments in the
source their help, and the preset their defaults there. A flag that is not given stays out, so that flags win over the
`--config` file, and the file over the preset.
"""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from inspect import cleandoc
from types import UnionType
from typing import Annotated, Any, TypedDict, Union, get_args, get_origin

from tyro.conf import Positional, arg

from lattok.cli.flags import HELP, Folder, MaybeDataset, Switch, Text
from lattok.utils.checks import LattokError, did_you_mean

METAVARS = {int: "N", float: "X", str: "TEXT"}
WIDTH = 100


@dataclass(frozen=True)
class Run:
    """Where the model goes, and what its options start from."""

    out: Folder
    """New folder for the model and its run."""
    preset: Text = None
    """Named settings, joined by "+"; `lattok presets` says what each sets."""
    config: Annotated[str | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """JSON file with options, such as a run's recipe.json; flags win over it, and it wins over the preset."""
    resume: Switch = False
    """Continue the run in --out."""


@dataclass(frozen=True)
class StudyRun(Run):
    """Where the models go, and what their options start from."""

    study: Switch = False
    """Train all strategies, and controls, with the same seed and data order, and compare them."""


def train_verb(kind: str, words: Sequence[str]) -> Callable[..., None] | None:
    """Return the verb `lattok train KIND`, if there is one; its help shows what the preset among `words` sets."""
    from lattok.recipes import recipe_of

    recipe_class = recipe_of(kind)
    if recipe_class is None:
        return None

    def verb(run: Run, common: Any, data: Any, model: Any, loop: Any, dataset: MaybeDataset = None) -> None:
        given = {name: value for part in (common, data, model, loop) for name, value in part.items()}
        _train(recipe_class, dataset, run, given)

    defaults = _defaults(recipe_class, words) if any(word in HELP for word in words) else {}
    verb.__annotations__ |= _flags(recipe_class, defaults)
    verb.__annotations__["run"] = StudyRun if recipe_class.compares else Run
    presets = f"Presets: {', '.join(recipe_class.presets)} (default: {recipe_class.default_preset}).\n\n"
    presets *= len(recipe_class.presets) > 1
    words = [word for flag in as_flags(recipe_class.example) for word in flag]
    example = shlex.join(["lattok", "train", kind, "path/to/dataset", "--out", "my-model", *words])
    verb.__doc__ = f"{cleandoc(recipe_class.__doc__ or '')}\n\n{presets}Example: {example}"
    return verb


def _train(recipe_class: Any, dataset: str | None, run: Run, given: Mapping[str, Any]) -> None:
    from lattok.hub.networks import way_in
    from lattok.recipes.run_folder import read_options

    stored, preset = read_options(run.config)
    preset, options = run.preset or preset, {**stored, **given}
    if run.resume:
        recipe = recipe_class.resumed(dataset, run.out, preset, options)
    else:
        recipe = recipe_class.from_preset(dataset, run.out, preset, **options)
    source = [] if dataset is None else [dataset]
    words = ["lattok", "train", recipe_class.kind, *source, "--out", run.out, "--resume"]
    if isinstance(run, StudyRun) and run.study:
        from lattok.recipes.study import train_study

        train_study(recipe, run.resume, shlex.join([*words, "--study"]))
        return
    model = recipe.train(run.resume, shlex.join(words))
    named = way_in(getattr(model, "config", None))  # recipes of others may return anything
    print(f"Saved in {run.out}. {recipe.next_step()}{named}")


def _flags(recipe_class: Any, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return groups of flags by name: the common ones, then all others of data, model and loop."""
    from lattok.recipes.common import comments_of, types_of

    groups: dict[str, dict[str, Any]] = {"common": {}, "data": {}, "model": {}, "loop": {}}
    commented = (recipe_class.data_class, recipe_class.loop_class, recipe_class.model_class)
    for group, owner, source in zip(("data", "loop", "model"), recipe_class.groups(), commented, strict=True):
        said = comments_of(source)
        for name, kind in types_of(owner).items():
            place = "common" if name in recipe_class.common else group
            choices = ", ".join(recipe_class.choices.get(name, ()))
            groups[place][name] = _flag(kind, said.get(name, "") + (choices and f": {choices}"), defaults.get(name))
    order = [name for name in recipe_class.common if name in groups["common"]]
    groups["common"] = {name: groups["common"][name] for name in order}
    # pyright takes only classes that are written out
    return {group: TypedDict(group.title(), flags, total=False) for group, flags in groups.items()}  # type: ignore[misc]


def _flag(kind: Any, said: str, default: Any) -> Any:
    several = get_origin(kind) in (Union, UnionType)
    kinds = [part for part in (get_args(kind) if several else (kind,)) if part is not type(None)]
    inner = get_args(kinds[0])[0] if get_origin(kinds[0]) is tuple else kinds[0]
    metavar = METAVARS.get(float if float in kinds else inner, "") + (" ..." if inner is not kinds[0] else "")
    shown = "" if default in (None, ()) else f"(default: {_text(default)})"
    return Annotated[kind, arg(help=said or " ", metavar=metavar or None, help_behavior_hint=shown)]


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return shlex.join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _defaults(recipe_class: Any, words: Sequence[str]) -> dict[str, Any]:
    """Return the options of the preset that is asked for; that there is no such one is told where the verb runs."""
    split = [word.partition("=") for word in words]
    for (name, equals, value), after in zip(split, [*words[1:], ""], strict=True):
        if name == "--preset":
            with suppress(LattokError):
                return recipe_class.from_preset("DATASET", "OUT", value if equals else after).options()
    return recipe_class.from_preset("DATASET", "OUT").options()


def presets(kind: Annotated[Positional[str | None], arg(metavar="KIND", help_behavior_hint="")] = None) -> None:
    """Say which presets there are and what each of them sets.

    Example: lattok presets image-lam

    Args:
        kind: What is trained, as in `lattok train KIND` (default: all, without what their presets set).
    """
    from lattok.recipes import kinds, recipe_of

    if kind is None:
        for name in kinds():
            print(f"{name:<14} {', '.join(getattr(recipe_of(name), 'presets', ()))}")
        print("\nWhat each sets: lattok presets KIND")
        return
    recipe_class = recipe_of(kind.replace("_", "-"))
    if recipe_class is None:
        raise LattokError(f"nothing is called `{kind}`. {did_you_mean(kind, kinds()) or 'See lattok presets.'}")
    print(f"{cleandoc(recipe_class.__doc__ or '')}\n")
    for name, options in recipe_class.presets.items():
        default = " (default)" if name == recipe_class.default_preset else ""
        print(f"{name}{default}")
        said = " ".join(map(shlex.join, as_flags(options))) or "nothing but the defaults of lattok train --help"
        print(textwrap.fill(said, WIDTH, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False))
    if recipe_class.default_preset not in recipe_class.presets:
        print(f"\nDefault: {recipe_class.default_preset}")


def as_flags(options: Mapping[str, Any]) -> list[list[str]]:
    """Return the words of each option as they are typed."""
    flags = []
    for name, value in options.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            flags.append([f"--{flag}" if value else f"--no-{flag}"])
        else:
            flags.append([f"--{flag}", *map(str, value if isinstance(value, list | tuple) else (value,))])
    return flags
