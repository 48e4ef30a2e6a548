"""mkdocs hook: the tables of models, from the registry of families, the importers, and docs/systems.yaml."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from lattok.hub import FAMILIES
from lattok.hub.checkpoint import IMPORTERS
from lattok.recipes import kinds

BUNDLED = Path(__file__).parents[1] / "lattok" / "assets" / "models"
JUDGED = {  # by family: the figure of held-out episodes, and those of controls, of which the best is shown
    "idm": ("R² of actions", "r2_actions/model", ("moment", "flow", "proprio_map")),
    "image-lam": ("R² of actions read from codes", "r2_from_codes/codes", ("flow_kmeans", "flow", "moment")),
    "latent-vla": ("error", "error", ("mean_action",)),
}
CONTROLS = {
    "moment": "the task and the moment alone",
    "flow": "block motion",
    "flow_kmeans": "clusters of block motion",
    "proprio_map": "a map of state changes",
    "mean_action": "the mean action",
    "regression": "the same policy without codes",
}
BY_TOKENS = ("error of a policy that acts by its codes", "policy_error/draws", ("regression",))
SYSTEMS = yaml.safe_load(Path(__file__).with_name("systems.yaml").read_text(encoding="utf-8"))


def families() -> Iterator[str]:
    """Yield the families of artefacts."""
    rows = ["| type | class | what it is | train it |", "|---|---|---|---|"]
    for name in FAMILIES:
        family = FAMILIES[name]
        said = (inspect.getdoc(family) or "").partition("\n")[0]
        how = {"latent-vla": "`lattok train vla`"}.get(name, f"`lattok train {name}`" if name in kinds() else "")
        rows.append(f"| `{name}` | {_link(family)} | {said} | {how} |")
    yield "\n".join(rows)


def _link(family: type) -> str:
    parts = family.__module__.split(".")
    packages = (".".join(parts[:end]) for end in range(2, len(parts) + 1))
    home = next(each for each in packages if hasattr(sys.modules[each], family.__name__))
    return f"[`{family.__name__}`][{home}.{family.__name__}]"


def bundled() -> str:
    """Return a table of the models that come with lattok: a figure of held-out episodes beside that of a control."""
    rows = ["| `lattok.load(...)` | type | figure | model | control |", "|---|---|---|---|---|"]
    for folder in sorted(BUNDLED.iterdir()):
        family = json.loads((folder / "config.json").read_text(encoding="utf-8"))["type"]
        figures = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))["figures"]
        what, own, controls = JUDGED.get(family, BY_TOKENS)
        rivals = {key: figures[name] for key in controls if (name := _beside(own, key)) in figures}
        best = max(rivals, key=lambda key: rivals[key] if what.startswith("R²") else -rivals[key])
        told = f"{rivals[best]:.2f}, {CONTROLS[best]}"
        rows.append(f"| `sample/{folder.name}` | `{family}` | {what} | {figures[own]:.2f} | {told} |")
    return "\n".join(rows)


def _beside(own: str, control: str) -> str:
    """Return the name of a control's figure."""
    head, slash, _ = own.partition("/")
    return f"{head}/{control}" if slash else control


def table() -> str:
    """Return one row for each importer."""
    rows = ["| system | paper | licence | parameters | reads | gives | command |", "|---|---|---|---|---|---|---|"]
    for kind in IMPORTERS:
        system = SYSTEMS[kind]
        reads, gives = (system.get(name) or sizes(kind)[i] for i, name in enumerate(("reads", "gives")))
        cells = [system["paper"], system["licence"], system.get("parameters", ""), reads, gives, f"`{kind}`"]
        rows.append(f"| [{system['title']}](#{kind}) | {' | '.join(cells)} |")
    return "\n".join(rows)


def sections() -> Iterator[str]:
    """Yield a section for each importer."""
    for kind in IMPORTERS:
        importer, system = IMPORTERS[kind], {"page": "howto/zoo.md", "differs": ()} | SYSTEMS[kind]
        yield f"### {system['title']} {{ #{kind} }}"
        yield f"Weights: {system['weights']}. [More about it]({system['page']})."
        yield f"```bash\n{importer.example}\n```"
        yield facts(kind)
        if system["differs"]:
            rows = [f"| {theirs} | {ours} |" for theirs, ours in system["differs"]]
            yield "\n".join(["| published code | here |", "|---|---|", *rows])
        if importer.mind:
            yield importer.mind


def config_of(kind: str) -> Any:
    """Return the configuration that an importer makes; nothing where the published system has none of its own."""
    made = get_type_hints(IMPORTERS[kind].read).get("return")
    return getattr(made, "config_class", None)


def sizes(kind: str) -> tuple[str, str]:
    """Say what a system reads and gives, by the defaults of its class, which are the published ones."""
    default = {f.name: f.default for f in fields(config)} if (config := config_of(kind)) is not None else {}
    if "latent_dim" not in default or "image_size" not in default:
        return "", ""
    gives = f"{default['tokens']} codes of {default['codebook_size']}"
    if config is not None and config.quantizer == "none":
        gives = f"a latent of {default['latent_dim']} numbers, no codes"
    return f"pixels, {default['image_size']}", gives


def facts(kind: str) -> str:
    """List the options of an importer with their defaults."""
    options = inspect.signature(IMPORTERS[kind].read).parameters.values()
    given = [f"`{option.name}={option.default!r}`" for option in options if option.default is not option.empty]
    return f"In Python `lattok.convert.{kind.replace('-', '_')}(path)`" + (
        f", with {', '.join(given)}." if given else "."
    )


MARKS = {
    "<!-- bundled -->": bundled,
    "<!-- families -->": lambda: "\n\n".join(families()),
    "<!-- systems -->": lambda: "\n\n".join([table(), *sections()]),
}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put families and published systems in their places."""
    for mark, write in MARKS.items():
        if mark in markdown:
            markdown = markdown.replace(mark, write())
    return markdown
