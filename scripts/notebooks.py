"""Notebooks: NAME.py, which people edit and review, NAME.ipynb with stored outputs, and a picture for the docs.

    python scripts/notebooks.py build [NAME ...]                # execute in full, store outputs and picture
    python scripts/notebooks.py text [NAME ...]                 # put text into the .ipynb without executing it
    python scripts/notebooks.py badges                          # README's, as lattok/version.py says where lattok is
    python scripts/notebooks.py check [NAME ...]                # do these belong to the .py, clean, 4 MB in all?
    LATTOK_SHORT=1 python scripts/notebooks.py run [NAME ...]   # execute from end to end, store nothing

The .py is in jupytext's percent format, and holds what readers do not see: cells with the tag "check", which assert
what the text claims, are executed and not stored; `LINE  # short: OTHER` is LINE for readers and OTHER in short mode;
a line that ends in `# full` is left out in short mode. Stored outputs hold no paths of a machine, progress, times
or random ids, so that building twice changes nothing but figures. A cell that raises or warns stops everything. The
picture, docs/pictures/NAME.png, is what the cell with the tag "picture" shows.
"""

import argparse
import base64
import os
import re
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image

from lattok.utils import files
from lattok.version import INSTALL, REPOSITORY, __version__

ROOT = Path(__file__).parents[1]
FOLDER, PICTURES = ROOT / "examples" / "notebooks", ROOT / "docs" / "pictures"
SHORT = "LATTOK_SHORT"
ON_INDEX = INSTALL == "pip install lattok"
FIRST = "train_and_judge"  # the notebook behind README's badge
BADGES = re.compile(r"^\[!\[Paper\][^\n]*$", re.MULTILINE)
LIMIT = 4 * 2**20  # bytes of all sources, notebooks and pictures
PATIENCE_S = 1800  # for a cell, on a busy machine
METADATA = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
ABSOLUTE = re.compile(r"(?<![\w.:/~<-])/[\w.+-]+/[\w.+-]+|\b[A-Z]:\\\w+")
COLAB = re.compile(r"^# In \[Colab\]\([^)]*\): [^\n]*lattok\S*?\[([\w,]+)\][^\n]*$", re.MULTILINE)
ASIDE = re.compile(r"^( *)(.*?)  # (?:short: (.*)|full)$", re.MULTILINE)  # what one mode leaves out
CHECK = "check"  # the tag of cells that readers do not see
RANDOM = re.compile(r"\bat 0x[0-9a-f]{6,}")


def names(folder: Path) -> list[str]:
    """List the notebooks of a folder."""
    return sorted({path.stem for path in folder.iterdir() if path.suffix in (".py", ".ipynb")})


def paths(folder: Path, name: str) -> list[Path]:
    """Return where source, notebook and picture are; the pictures of other folders lie in these."""
    pictures = PICTURES if folder == FOLDER else folder
    return [folder / f"{name}.py", folder / f"{name}.ipynb", pictures / f"{name}.png"]


def source(path: Path) -> NotebookNode:
    """Read the .py as a notebook without outputs, whose cells are numbered instead of having random ids."""
    notebook = jupytext.read(path)
    for cell in notebook.cells:
        cell.metadata = _tags(cell)
    notebook.metadata = nbformat.from_dict(METADATA)
    return _numbered(notebook)


def shown(notebook: NotebookNode) -> NotebookNode:
    """Leave out what readers do not see, executed or not."""
    notebook.cells = [cell for cell in notebook.cells if CHECK not in cell.metadata.get("tags", ())]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.source = ASIDE.sub(r"\1\2", cell.source)
    return _numbered(notebook)


def shortened(notebook: NotebookNode) -> NotebookNode:
    """Let code do what its asides say of short mode."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.source = ASIDE.sub(lambda aside: f"{aside[1]}{aside[3] or 'pass'}", cell.source)
    return notebook


def _numbered(notebook: NotebookNode) -> NotebookNode:
    """Number cells, and executed ones in their order."""
    count = 0
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        if cell.get("execution_count"):
            cell.execution_count = count = count + 1
            for output in cell.outputs:
                if "execution_count" in output:
                    output.execution_count = count
    return notebook


def execute(notebook: NotebookNode, short: bool) -> NotebookNode:
    """Run all cells in a fresh kernel and an empty folder; a cell that raises or warns is an error."""
    notebook = shortened(notebook) if short else notebook
    with tempfile.TemporaryDirectory() as folder:
        env = {key: value for key, value in os.environ.items() if key != "MPLBACKEND"}
        env |= {"IPYTHONDIR": f"{folder}/ipython"}
        work = Path(folder) / "work"
        work.mkdir()
        resources = {"metadata": {"path": str(work)}}
        client = NotebookClient(notebook, timeout=PATIENCE_S, resources=resources, record_timing=False)
        notebook = client.execute(env=env)
    for number, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", ()):
            if output.get("name") == "stderr" and "Warning" in output.text:
                raise RuntimeError(f"cell {number} warns:\n{output.text}")
    return notebook


def cleaned(notebook: NotebookNode) -> NotebookNode:
    """Leave out what depends on machine and moment: progress, how a page would show it, other kernels' details."""
    for cell in notebook.cells:
        cell.metadata = _tags(cell)
        if cell.cell_type != "code":
            continue
        cell.outputs = _joined([output for output in cell.outputs if output.get("name") != "stderr"])
        for output in cell.outputs:
            if "data" in output:
                output.data = {kind: output.data[kind] for kind in ("image/png", "text/plain") if kind in output.data}
                output.metadata = {}
    notebook.metadata = nbformat.from_dict(METADATA)
    return notebook


def _joined(outputs: Sequence[NotebookNode]) -> list[NotebookNode]:
    """Join what was printed: in how many pieces it comes is chance."""
    joined: list[NotebookNode] = []
    for output in outputs:
        if joined and output.output_type == joined[-1].output_type == "stream":
            joined[-1].text += output.text
        else:
            joined.append(output)
    return joined


def _tags(cell: NotebookNode) -> NotebookNode:
    return nbformat.from_dict({key: value for key, value in cell.metadata.items() if key == "tags"})


def written(notebook: NotebookNode) -> str:
    """Return the text of an .ipynb."""
    return nbformat.writes(notebook) + "\n"


def picture(notebook: NotebookNode) -> bytes:
    """Return the image that the cell with the tag "picture" shows; b"" where there is none."""
    for cell in notebook.cells:
        if "picture" in cell.metadata.get("tags", ()):
            for output in cell.get("outputs", ()):
                if "image/png" in output.get("data", {}):
                    return base64.b64decode(output.data["image/png"])
    return b""


def smaller(notebook: NotebookNode) -> NotebookNode:
    """Give pictures 256 colours where that takes fewer bytes, as it does where they show photographs."""
    for output in (output for cell in notebook.cells for output in cell.get("outputs", ())):
        if "image/png" in output.get("data", {}):
            image, file = base64.b64decode(output.data["image/png"]), BytesIO()
            Image.open(BytesIO(image)).convert("RGB").quantize(256).save(file, "PNG", optimize=True)
            if len(file.getvalue()) < len(image):
                output.data["image/png"] = base64.b64encode(file.getvalue()).decode()
    return notebook


def build(folder: Path, name: str) -> None:
    """Execute NAME.py in full; write NAME.ipynb and NAME.png."""
    text, stored, image = paths(folder, name)
    notebook = smaller(cleaned(shown(execute(source(text), short=False))))
    files.write_text(stored, written(notebook))
    with files.whole_file(image) as path:
        path.write_bytes(picture(notebook))


def in_colab(extras: str, name: str) -> str:
    """Return the line of a first cell that says how to install lattok there: a wheel of it while it is on no index."""
    wheel = "a wheel of lattok (`pip wheel --no-deps .` in a clone)"
    upload = ([] if REPOSITORY else ["this file"]) + ([] if ON_INDEX else [wheel])
    what = f"upload {' and '.join(upload)} and " if upload else ""
    package = "lattok" if ON_INDEX else f"./lattok-{__version__}-py3-none-any.whl"  # not by a name that is not ours yet
    return f'# In [Colab]({colab(name)}): {what}run `%pip install "{package}[{extras}]"`.'


def colab(name: str) -> str:
    """Return the address of Colab, with this notebook once it can be read from there."""
    repository = REPOSITORY.removeprefix("https://github.com/")
    place = f"/github/{repository}/blob/main/examples/notebooks/{name}.ipynb" if repository else ""
    return f"https://colab.research.google.com{place}"


def badges() -> str:
    """Return README's line of badges: those alone whose pages are there."""
    shown = [("Paper", "badge/arXiv-2605.04678-b31b1b", "https://arxiv.org/abs/2605.04678")]
    shown += [("Licence", "badge/licence-Apache--2.0-blue", "LICENSE")]
    shown += [("PyPI", "pypi/v/lattok", "https://pypi.org/project/lattok")] * ON_INDEX
    found = [f"[![{text}](https://img.shields.io/{image})]({place})" for text, image, place in shown]
    if REPOSITORY:
        image = "https://colab.research.google.com/assets/colab-badge.svg"
        found.append(f"[![Open in Colab]({image})]({colab(FIRST)})")
    return " ".join(found)


def rewrite(folder: Path, name: str) -> None:
    """Say how lattok is installed in the .py, and give the .ipynb all text of the .py; code has to be executed."""
    origin, stored = paths(folder, name)[:2]
    files.write_text(origin, COLAB.sub(lambda found: in_colab(found[1], name), origin.read_text(encoding="utf-8")))
    wanted, found = shown(source(origin)), nbformat.read(stored, as_version=4)
    code = [[cell.source for cell in book.cells if cell.cell_type == "code"] for book in (wanted, found)]
    if code[0] != code[1] or len(wanted.cells) != len(found.cells):
        raise SystemExit(f"{name}: the code has changed. Run: python scripts/notebooks.py build {name}")
    for cell, given in zip(found.cells, wanted.cells, strict=True):
        cell.source = given.source
    files.write_text(stored, written(cleaned(found)))


def problems(folder: Path, name: str) -> list[str]:
    """List what keeps a stored notebook from being that of its source; nothing is executed."""
    missing = [f"{path.name} is missing" for path in paths(folder, name) if not path.is_file()]
    if missing:
        return missing
    origin, stored, image = paths(folder, name)
    wanted, text = shown(source(origin)), stored.read_text(encoding="utf-8")
    line = COLAB.search(origin.read_text(encoding="utf-8"))
    found = nbformat.reads(text, as_version=4)
    lines = [
        f"{name}.ipynb: cell {number} is not that of {name}.py"
        for number, cells in enumerate(zip(wanted.cells, found.cells, strict=False))
        if len({(cell.id, cell.cell_type, cell.source, str(cell.metadata)) for cell in cells}) > 1
    ]
    if line is not None and line[0] != in_colab(line[1], name):
        lines.append(f"{name}.py does not say how lattok is installed (run `text`)")
    if len(wanted.cells) != len(found.cells):
        lines.append(f"{name}.ipynb has {len(found.cells)} cells, {name}.py {len(wanted.cells)}")
    code = [cell for cell in found.cells if cell.cell_type == "code"]
    if [cell.execution_count for cell in code] != list(range(1, len(code) + 1)):
        lines.append(f"{name}.ipynb was not executed once, from top to bottom")
    for cell in code:
        printed = "\n".join(str(output.get("text", "")) + _plain(output) for output in cell.outputs)
        for what, pattern in (("a path", ABSOLUTE), ("an address", RANDOM)):
            lines += [f"{name}.ipynb, {cell.id} shows {what}: {part[0]}" for part in pattern.finditer(printed)]
    if text != written(cleaned(found)):
        lines.append(f"{name}.ipynb holds what building leaves out")
    if not picture(found) or picture(found) != image.read_bytes():
        lines.append(f"{name}.png is not the picture of {name}.ipynb")
    return lines


def _plain(output: NotebookNode) -> str:
    return str(output.get("data", {}).get("text/plain", ""))


def size_problems(folder: Path) -> list[str]:
    """Tell when all notebooks together are larger than `LIMIT`."""
    found = [path for name in names(folder) for path in paths(folder, name) if path.is_file()]
    size = sum(path.stat().st_size for path in found)
    return [f"{folder.name} take {size / 2**20:.1f} MB, more than {LIMIT / 2**20:.0f}"] if size > LIMIT else []


def kernel_seconds() -> float:
    """Return the CPU time of the kernels that have ended, which depends less on what else runs than the clock does."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main(arguments: Sequence[str] | None = None) -> int:
    """Build, check or run notebooks; return 1 where one is not as it should be."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("verb", choices=("build", "text", "badges", "check", "run"))
    parser.add_argument("names", nargs="*", metavar="NAME", help="without .py (default: all)")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    args = parser.parse_args(arguments)
    if args.verb == "badges":
        page = ROOT / "README.md"
        files.write_text(page, BADGES.sub(badges(), page.read_text(encoding="utf-8")))
        return 0
    found = [] if args.verb == "run" else size_problems(args.folder)
    for name in args.names or names(args.folder):
        started, computed = time.monotonic(), kernel_seconds()
        if args.verb == "build":
            build(args.folder, name)
        elif args.verb == "text":
            rewrite(args.folder, name)
        elif args.verb == "run":
            execute(source(args.folder / f"{name}.py"), short=bool(os.environ.get(SHORT)))
        found += [] if args.verb == "run" else problems(args.folder, name)
        print(f"{name}: {time.monotonic() - started:.0f} s, {kernel_seconds() - computed:.0f} of a core", flush=True)
    for line in found:
        print(f"{line}. Build it: python scripts/notebooks.py build", file=sys.stderr)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
