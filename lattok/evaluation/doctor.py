"""What the last evaluation of a model said, and what to do about it: `lattok doctor MODEL`."""

from __future__ import annotations

import os
from typing import Any

from lattok import files
from lattok.evaluation.advice import advice_on
from lattok.evaluation.report import tally
from lattok.hub import EVALUATION, read_config, resolve

MARKS = {True: "+", False: "-", None: "?"}


def diagnose(model: str | os.PathLike[str], revision: str | None = None) -> str:
    """The verdicts of a model's last evaluation as text: + holds, - falls short, ? open, each with what to do.

    `model` is a folder or a Hub id. Nothing is computed: the verdicts lie beside the weights.
    """
    folder, _ = resolve(model, revision)
    kind = read_config(folder)["type"]
    path = folder / EVALUATION
    if not path.is_file():
        return f"{model} ({kind}) was never evaluated. Run: lattok evaluate {model} DATASET"
    stored = files.read_json(path)
    lines = [f"{model} ({kind})", str(stored.get("headline", ""))]
    if "verdicts" not in stored:
        lines.append(f"This evaluation holds no verdicts. Run again: lattok evaluate {model} DATASET")
        return "\n".join(lines)
    for verdict in stored["verdicts"]:
        lines += _lines(verdict)
    lines.append(tally([verdict["holds"] for verdict in stored["verdicts"]]) + ".")
    return "\n".join(lines)


def _lines(verdict: dict[str, Any]) -> list[str]:
    advice = advice_on(verdict.get("key", ""), verdict["holds"], verdict["text"])
    return [f"  {MARKS[verdict['holds']]} {verdict['text']}", *([f"      {advice}"] if advice else [])]
