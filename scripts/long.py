"""Warns of long files and functions of lattok, which often hold two ideas: advice, no rule.

python scripts/long.py      # a line for each file over 500 lines and function over 80; exit code 0
"""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILE, FUNCTION = 500, 80


def long(root: Path) -> Iterator[str]:
    """Yield a line for each file and function below `root` that is longer than advised."""
    for path in sorted(root.rglob("*.py")):
        text, name = path.read_text(encoding="utf-8"), path.relative_to(root.parent)
        if text.count("\n") > FILE:
            yield f"{name}: {text.count(chr(10))} lines (advised: {FILE})"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > FUNCTION:
                    yield f"{name}:{node.lineno}: {node.name} has {lines} lines (advised: {FUNCTION})"


if __name__ == "__main__":
    for line in long(ROOT / "lattok"):
        print(f"warning: {line}")
