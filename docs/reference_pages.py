"""mkdocs hook: one reference page per public module that exists, made from its docstrings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

PACKAGE = Path(__file__).parents[1] / "lattok"
# In the order of a user's path; helpers that only lattok itself calls have no page.
PUBLIC = (
    "data",
    "labels",
    "action_vq",
    "image_lam",
    "zoo",
    "recipes",
    "training",
    "evaluation",
    "annotation",
    "sim",
    "loading",
    "serving",
    "hub",
    "quantize",
    "normalize",
    "types",
    "checks",
)


def pages() -> list[str]:
    """Public modules that are there."""
    return [name for name in PUBLIC if (PACKAGE / f"{name}.py").exists() or (PACKAGE / name / "__init__.py").exists()]


def on_config(config: Any) -> Any:
    """Add the pages to the navigation."""
    reference = [{f"lattok.{name}": f"reference/{name}.md"} for name in pages()]
    config.nav = [*config.nav, {"Reference": reference}]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Write the pages."""
    for name in pages():
        files.append(File.generated(config, f"reference/{name}.md", content=f"# lattok.{name}\n\n::: lattok.{name}\n"))
    return files
