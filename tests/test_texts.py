"""Texts that Python callers can see name arguments, not flags of the command line; whole commands may be quoted."""

import ast
import re
from pathlib import Path

import lattok

ROOT = Path(lattok.__file__).parent
COMMANDS = {"cli", "convert.py", "study.py", "image_lam.py"}
QUOTED = re.compile(
    r"lattok [a-z]+|python -m|hf download|pip install|hf auth|--repo-type|--prefix|--out (?:DIR|new|joined)"
)
WORD = re.compile("--[a-z-]+")  # of a command that is put together


def texts():
    for path in sorted(ROOT.rglob("*.py")):
        if COMMANDS & {path.name, path.parent.name}:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        importers = [call for call in calls if ast.unparse(call.func) in ("Importer", "checkpoint.importer")]
        pages = [node for call in importers for node in ast.walk(call)]  # of documentation
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in pages:
                yield path.relative_to(ROOT), node.lineno, node.value


def test_no_error_speaks_of_flags():
    found = [
        (str(path), line, text[:80])
        for path, line, text in texts()
        if re.search(r"(?<![\w-])--[a-z]", text) and not (QUOTED.search(text) or WORD.fullmatch(text))
        if "color-scheme" not in text
    ]
    assert [entry for entry in found if not docstring(*entry[:2])] == []


def docstring(path: str, line: int) -> bool:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef)
    return any(
        isinstance(node, owners) and node.body and isinstance(node.body[0], ast.Expr) and node.body[0].lineno == line
        for node in ast.walk(tree)
    )
