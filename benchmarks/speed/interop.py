"""lattok beside the oldest packages that it allows, LeRobot's and the newest: versions, and what was run in each.

scripts/interop.sh   # makes the environments; an hour a column on two cores
python -m benchmarks.speed.interop COLUMN STEPS.tsv --out benchmarks/results/interop.json   # what it calls for each

A column stays as it is until it is run again. Each figure is what the step printed last, with its time.
"""

import argparse
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.common import environment, write_results
from lattok.version import installed

PACKAGES = ("torch", "torchvision", "numpy", "pyarrow", "av", "huggingface-hub", "accelerate", "tokenizers", "timm")
PACKAGES += ("vector-quantize-pytorch", "transformers", "metaworld", "ray", "lerobot", "datasets", "torchcodec")
TESTS = re.compile(r"(\d+ (?:passed|failed|skipped|errors?|xfailed))\b")


def measured(steps: Path) -> dict[str, dict[str, Any]]:
    """Read lines of name, exit status, seconds and last line of output, one for each step."""
    found = {}
    for line in steps.read_text().splitlines():
        name, status, seconds, said = line.split("\t")
        found[name] = {"ok": status == "0", "seconds": int(seconds)}
        if counts := TESTS.findall(said):
            found[name]["tests"] = ", ".join(counts)
    return found


def table(columns: Mapping[str, Mapping[str, Any]]) -> str:
    """Return versions and steps in Markdown, with a column for each environment."""
    lines = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name in ("python", *PACKAGES, "cpu", "cores", "commit"):
        facts = [column["packages"] | column["environment"] for column in columns.values()]
        cells = [str(each.get(name, "–")) for each in facts]
        lines += [f"| {name} | {' | '.join(cells)} |"] * (set(cells) != {"–"})
    for name in dict.fromkeys(step for column in columns.values() for step in column["steps"]):
        cells = [_cell(column["steps"].get(name)) for column in columns.values()]
        lines.append(f"| *{name}* | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(step: Mapping[str, Any] | None) -> str:
    if step is None:
        return "–"
    said = step.get("tests", "") if step["ok"] or "tests" in step else ""
    return ", ".join(filter(None, ("" if step["ok"] else "**failed**", said, f"{step['seconds']:,} s")))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("column", help="its name, such as oldest")
    parser.add_argument("steps", type=Path, help="what scripts/interop.sh wrote of its steps")
    parser.add_argument("--out", type=Path, required=True, help="a JSON file; the table lies next to it")
    args = parser.parse_args()
    columns = json.loads(args.out.read_text())["columns"] if args.out.exists() else {}
    steps = columns.get(args.column, {}).get("steps", {}) | measured(args.steps)
    columns[args.column] = {"environment": environment(), "packages": installed(PACKAGES), "steps": steps}
    print(table(columns))
    write_results(args.out, {"columns": columns})
    args.out.with_suffix(".md").write_text(table(columns) + "\n")


if __name__ == "__main__":
    main()
