"""Where a report goes: it replaces one of the same model on the same dataset, and nothing else.

Both files prove whose they are: report.json by its provenance, report.html by a line in its head.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lattok import files
from lattok.checks import LattokError
from lattok.evaluation.page import render
from lattok.evaluation.report import Report

REPORT_JSON, REPORT_HTML = "report.json", "report.html"
_MARK = re.compile(rb'<meta name="generator" content="lattok report ([0-9a-f]{16})">')
HEAD = 4096  # bytes of a page in which the line stands


def subject(provenance: Mapping[str, Any]) -> str:
    """Name what a report is about in one word: the model by its weights, and the dataset."""
    model, dataset = provenance["model"], provenance["dataset"]
    facts = [model.get(name) for name in ("type", "config_sha256", "weights_sha256")]
    facts += [dataset.get(name) for name in ("name", "episodes")]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def check_place(out: Path, provenance: Mapping[str, Any], overwrite: bool) -> None:
    """Refuse `out` unless what lies there is a report about the same, or with `overwrite` any report of lattok's."""
    for name, read in {REPORT_JSON: _subject_of_json, REPORT_HTML: _subject_of_page}.items():
        path = out / name
        if not path.exists() and not path.is_symlink():
            continue
        found = None if path.is_symlink() else read(path)
        if found is None:
            raise LattokError(f"`out`: {path} is not a report of lattok's. Choose another folder.")
        if found != subject(provenance) and not overwrite:
            text = f"`out`: {out} holds the report of another model or dataset"
            raise LattokError(f"{text}. Choose another folder, or remove that report.")


def write(report: Report, out: Path) -> None:
    """Write both files, each whole."""
    files.write_text(out / REPORT_JSON, report.to_json())
    line = f'<meta name="generator" content="lattok report {subject(report.provenance)}">'
    files.write_text(out / REPORT_HTML, render(report).replace("<head>", f"<head>{line}", 1))


def _subject_of_json(path: Path) -> str | None:
    """Read what a report.json is about; None where it is not one of lattok's."""
    try:
        found = files.read_json(path)
        provenance = found["provenance"]
        known = isinstance(found["schema"], int) and isinstance(found["kind"], str) and "lattok" in provenance
        return subject(provenance) if known else None
    except (LattokError, KeyError, TypeError, AttributeError):
        return None


def _subject_of_page(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            found = _MARK.search(file.read(HEAD))
    except OSError:
        return None
    return None if found is None else found[1].decode()
