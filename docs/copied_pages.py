"""mkdocs hook: pages from files elsewhere in the repository: changelog, studies, notebooks with outputs."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FORMULA = re.compile(r"\$(\$?)([^$]+)\$\1")
SIGNS = (  # of LaTeX, as text: the site fetches no script that would draw formulas
    (r"\\hat (\w)('?)", "\\1\u0302\\2"),
    (r"\\(?:mathrm|text)\{(\w+)\}", r"\1"),
    (r"\\sqrt\{([^}]*)\}", r"√(\1)"),
    (r"_\{(\w+)\}", r"<sub>\1</sub>"),
    (r"\^2", "²"),
    (r"\\mathbb E", "E"),
    (r"\\[lr]Vert ?", "‖"),
    (r"\\lambda", "λ"),
    (r"\\cos", "cos"),
    (r"\\qquad", " with "),
    (r"\\, ?", " "),
)
ANCHOR = re.compile(r"\]\(#[\w-]+\)")  # Jupyter keeps capitals, mkdocs does not
NOTEBOOKS = ROOT / "examples" / "notebooks"
STUDIES = ROOT / "studies" / "pages"
TO_STUDIES = re.compile(r"\]\(((?:\.\./)*)\.\./studies/pages/")  # from a page in docs/


def changelog() -> str:
    """Return the changelog, with links as they are from a page."""
    return (
        (ROOT / "CHANGELOG.md")
        .read_text(encoding="utf-8")
        .replace("](docs/", "](")
        .replace("](studies/pages/", "](studies/")
    )


def study(path: Path) -> str:
    """Return the page of a study, with links as they are on the site."""
    return re.sub(r"\]\(\.\./\.\./(?:docs|benchmarks)/", "](../", path.read_text(encoding="utf-8"))


def notebook(path: Path) -> tuple[str, dict[str, bytes]]:
    """Return an .ipynb as Markdown, and the pictures it shows by the names that it has for them."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    parts, pictures = [], {}
    for number, cell in enumerate(cells):
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            text = FORMULA.sub(lambda found: f"<i>{as_text(found[2])}</i>", text)
            parts.append(ANCHOR.sub(lambda found: found[0].lower(), text))
            continue
        parts.append(f"```python\n{text}\n```")
        for place, (kind, content) in enumerate(_outputs(cell)):
            if kind == "text/plain":
                parts.append(f"```text\n{content.rstrip()}\n```")
            else:
                name = f"{path.stem}-{number}-{place}.png"
                pictures[name] = base64.b64decode(content)
                parts.append(f"![What the cell above shows]({name})")
    title, *rest = parts
    there = f"[Download this notebook]({path.name}) to run it yourself, or [see all notebooks](../notebooks.md)."
    return "\n\n".join([title, there, *rest]) + "\n", pictures


def as_text(formula: str) -> str:
    """Write a formula of LaTeX as text."""
    for pattern, plain in SIGNS:
        formula = re.sub(pattern, plain, formula)
    return formula


def _outputs(cell: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for output in cell["outputs"]:
        data = output.get("data", {})
        if "image/png" in data:
            yield "image/png", "".join(data["image/png"])
        elif output["output_type"] == "stream" or "text/plain" in data:
            yield "text/plain", "".join(output.get("text", data.get("text/plain", "")))


def on_files(files: Any, config: Any) -> Any:
    """Write the pages."""
    from mkdocs.structure.files import File  # an extra; tests do without

    files.append(File.generated(config, "changelog.md", content=changelog()))
    for path in sorted(STUDIES.glob("*.md")):
        files.append(File.generated(config, f"studies/{path.name}", content=study(path)))
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        text, pictures = notebook(path)
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=text))
        files.append(File.generated(config, f"notebooks/{path.name}", abs_src_path=str(path)))
        for name, picture in pictures.items():
            files.append(File.generated(config, f"notebooks/{name}", content=picture))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Let links to the studies lead to their pages on the site."""
    return TO_STUDIES.sub(r"](\1studies/", markdown)
