"""mkdocs hook: the reference. A page for each public module, from its docstrings; all configurations, presets and
commands with their options, from the classes and functions that read them."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import lattok
from lattok.cli import VERBS, Group
from lattok.cli.flags import Verb
from lattok.hub import FAMILIES
from lattok.hub.checkpoint import IMPORTERS
from lattok.recipes import kinds, recipe_of
from lattok.utils.options import Option, docs_of, options_of

FIRST = ("open_dataset", "load", "train", "evaluate", "annotate", "verify")  # on the page of `lattok`
PACKAGE = Path(__file__).parents[1] / "lattok"
# In the order of a user's path; helpers that only lattok itself calls have no page.
PUBLIC = (
    "data",
    "samples",
    "labels",
    "action_vq",
    "image_lam",
    "image_lam.clips",
    "image_lam.inverse",
    "image_lam.published",
    "convert",
    "backbones",
    "vla",
    "vla.frame_supervision",
    "vla.lara",
    "vla.latbot",
    "recipes",
    "training",
    "evaluation",
    "annotation",
    "annotation.importing",
    "labels.imported",
    "inference",
    "sim",
    "loading",
    "hub",
    "cli.doctor",
    "nn.quantize",
    "nn.kmeans",
    "nn.normalize",
    "latent_actions",
    "types",
    "utils.findings",
    "utils.checks",
)


def pages() -> dict[str, str]:
    """Return the text of every page, by its name."""
    tables = {**commands(), "presets": presets(), "configurations": configurations(), "lattok": top()}
    modules = {name: module(name) for name in PUBLIC if _exists(name)}
    return {**tables, **{name.replace("cli.", ""): text for name, text in modules.items()}}


def _exists(name: str) -> bool:
    place = PACKAGE.joinpath(*name.split("."))
    return place.with_suffix(".py").exists() or (place / "__init__.py").exists()


def top() -> str:
    """Return the page of `lattok` itself: each of its names, what it is, and a link to where it is described."""
    parts = [
        "# lattok",
        (
            "What `import lattok` gives. The names load when they are used, so that the import stays light. "
            "`lattok.convert`, `lattok.data`, `lattok.labels`, `lattok.sim` and `lattok.vla` are modules."
        ),
    ]
    names = {name: place_of(home, name) for name, home in lattok.HOMES.items()}
    for title, test in (("Functions", inspect.isfunction), ("Classes", inspect.isclass)):
        rows = [f"## {title}", "| name | |\n|---|---|"]
        chosen = {name: getattr(lattok, name) for name in names if test(getattr(lattok, name))}
        for name in (*(name for name in FIRST if name in chosen), *(name for name in chosen if name not in FIRST)):
            said = (inspect.getdoc(chosen[name]) or "").partition("\n\n")[0]
            rows[-1] += f"\n| [`lattok.{name}`][{names[name]}] | {cell(said)} |"
        parts += rows
    return "\n\n".join(parts) + "\n"


def module(name: str) -> str:
    """Return the page of a module: what it defines, and what it brings together from modules below it."""
    if name == "convert":
        readers = [IMPORTERS[each].read for each in IMPORTERS]
        return f"# lattok.{name}\n\n" + "\n".join(f"::: {read.__module__}.{read.__name__}\n" for read in readers)
    members = exported(f"lattok.{name}")
    chosen = f"\n    options:\n      members: [{', '.join(members)}]\n" if members else "\n"
    hidden = [each for each in members if place_of(f"lattok.{name}", each) != f"lattok.{name}.{each}"]
    more = "".join(f"\n::: {place_of(f'lattok.{name}', each)}\n" for each in hidden)
    return f"# lattok.{name}\n\n::: lattok.{name}{chosen}{more}"


def place_of(home: str, name: str) -> str:
    """Return the dotted name under which a function or class is found: a module beside it may have the same name."""
    module = PACKAGE.joinpath(*home.split(".")[1:], f"{name}.py")
    return f"{home}.{name}.{name}" if module.exists() else f"{home}.{name}"


def exported(name: str) -> list[str]:
    """Return what a package names in `__all__`, or imports under its own name (`from x import y as y`).

    It is read, not imported: some modules need packages that the site does not.
    """
    place = PACKAGE.joinpath(*name.split(".")[1:])
    source = (place / "__init__.py" if place.is_dir() else place.with_suffix(".py")).read_text(encoding="utf-8")
    again = re.findall(r"^from [\w.]+ import (\w+) as \1$", source, re.MULTILINE)
    tree, named = ast.parse(source), None
    for node in tree.body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(node, ast.Assign | ast.AugAssign) and isinstance(target, ast.Name) and target.id == "__all__":
            named = [*(named or []), *ast.literal_eval(node.value)]
    defined = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    own = [key for key in defined if key[0] != "_"]
    return list(dict.fromkeys([*(again if named is None else named), *own])) if again or named is not None else []


def configurations() -> str:
    """Return every field of every configuration, and of what recipes read besides."""
    parts = [
        "# Configurations",
        (
            "A model's configuration is saved with it as `config.json`. Fields in *italics* come from the dataset when "
            "a recipe makes the model."
        ),
        "## Models",
    ]
    parts += [part for name in FAMILIES for part in _fields_of(FAMILIES[name].config_class, f"`{name}`")]
    parts += ["## Data and training", "What recipes read besides: options of `lattok train KIND` as well."]
    owners = {owner: [] for kind in kinds() for owner in _owners(kind)}
    for kind in kinds():
        for owner in _owners(kind):
            owners[owner].append(f"`{kind}`")
    parts += [part for owner, read in owners.items() for part in _fields_of(owner, ", ".join(read))]
    return "\n\n".join(parts) + "\n"


def _owners(kind: str) -> tuple[Any, Any]:
    recipe: Any = recipe_of(kind)
    return recipe.group_class("data"), recipe.group_class("loop")


def _fields_of(owner: Any, used_by: str) -> Iterator[str]:
    about, _, _ = (inspect.getdoc(owner) or "").partition("\n")
    yield f"### {owner.__name__}"
    yield f"{about} Of {used_by}."
    rows = ["| field | type | default | |", "|---|---|---|---|"]
    for option in options_of(owner):
        name = f"*{option.name}*" if option.field.metadata.get("from_data") else f"`{option.name}`"
        said = docs_of(option.owner).get(option.path[-1], "")
        rows.append(f"| {name} | {_type(option.kind)} | {_default(owner, option)} | {cell(said)} |")
    if len(rows) > 2:
        yield "\n".join(rows)


def _type(kind: Any) -> str:
    text = kind.__name__ if isinstance(kind, type) and not getattr(kind, "__args__", None) else str(kind)
    return code(re.sub(r"\b(?:[a-z_]+\.)+", "", text))


def _default(owner: Any, option: Option) -> str:
    first = next(each for each in fields(owner) if each.name == option.path[0])
    value: Any = first.default_factory() if first.default_factory is not MISSING else first.default
    value = reduce(getattr, option.path[1:], value)  # of a group: its owner may have other defaults than its class
    if value is MISSING or option.field.metadata.get("required"):
        return "must be given"
    return code(repr(getattr(value, "name", value) if is_dataclass(value) else value))


def presets() -> str:
    """Return for each kind what its presets set."""
    parts = [
        "# Presets",
        (
            "What `--preset` sets; joined with `+`, a later one wins over an earlier one, and options win over all. An "
            "empty cell: the preset leaves the option as it is. `lattok presets KIND` prints the same."
        ),
    ]
    for kind in kinds():
        recipe: Any = recipe_of(kind)
        names = [*recipe.presets]
        options = list(dict.fromkeys(option for name in names for option in recipe.presets[name]))
        parts += [f"## {kind}", recipe.about(), f"Default: `{recipe.default_preset}`."]
        if options:
            rows = [f"| option | {' | '.join(map(code, names))} |", "|---" * (len(names) + 1) + "|"]
            rows += [f"| `{o}` | {' | '.join(_value(recipe.presets[n], o) for n in names)} |" for o in options]
            parts.append("\n".join(rows))
    return "\n\n".join(parts) + "\n"


def _value(options: Mapping[str, Any], name: str) -> str:
    if name not in options:
        return ""
    value = options[name]
    return code(", ".join(map(str, value))) if isinstance(value, list | tuple) else code(str(value))


def commands() -> dict[str, str]:
    """Return all commands with their options: a page of each `train KIND`, one of `convert`, and one of the others."""
    said = (
        "`lattok VERB --help` prints the same. A value follows its flag; flags with several values take all that "
        "follow. Exit codes: 0, or 1 for a finding such as labels that differ, 2 for bad input, 128 + the signal's "
        "number after a signal."
    )
    found = {"commands": ["# Commands", said]}
    for name, verb in VERBS.items():
        if not isinstance(verb, Group):
            found["commands"] += [f"## {name}", *_command(f"lattok {name}", verb)]
            continue
        found["commands"] += [f"## {name}", verb.text]
        links = []
        for below in verb.names():
            page, level = (f"train-{below}", "#") if name == "train" else (f"commands-{name}", "##")
            parts = found.setdefault(page, [] if name == "train" else [f"# {name}", verb.text])
            made = verb.find(below, ["--help"])
            parts += [f"{level} {name} {below}", *_command(f"lattok {name} {below}", made)]
            links.append(f"[{below}]({page}.md{'' if name == 'train' else f'#{name}-{below}'})")
        found["commands"].append(", ".join(links) + ".")
    return {page: "\n\n".join(parts) + "\n" for page, parts in found.items()}


def _command(command: str, verb: Verb) -> Iterator[str]:
    said, _, rest = verb.about.partition("Example: ")
    example, _, _ = rest.partition("\n")
    yield said.strip()
    yield f"```bash\n{example}\n```"
    rows = ["| option | value | |", "|---|---|---|"]
    for word in verb.words:
        flag, _, value = word.shown.partition(" ") if word.shown[0] == "-" else (word.shown, "", "")
        rows.append(f"| {code(flag)} | {value and code(value)} | {cell(word.said)} |")
    if len(rows) > 2:
        yield "\n".join(rows)


def code(text: str) -> str:
    """Write code in a cell of a table."""
    return f"`{text}`".replace("|", "\\|")


def cell(text: str) -> str:
    """Write a text in a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def on_config(config: Any) -> Any:
    """Add the pages to the last section of the navigation."""
    titles = {"presets": "Presets", "configurations": "Configurations", "lattok": "lattok"}
    first, *others = commands()
    typed = [{page.removeprefix("commands-").replace("-", " ", 1): f"reference/{page}.md"} for page in others]
    names = [*titles, *(name.replace("cli.", "") for name in PUBLIC if _exists(name))]
    reference = [{titles.get(name, f"lattok.{name}"): f"reference/{name}.md"} for name in names]
    *sections, last = config.nav
    config.nav = [
        *sections,
        {"Reference": [{"Commands": [f"reference/{first}.md", *typed]}, *reference, *last["Reference"]]},
    ]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Write the pages."""
    from mkdocs.structure.files import File  # an extra; tests do without

    for name, text in pages().items():
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files
