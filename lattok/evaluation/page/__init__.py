"""A report in a folder: report.json, and one HTML file with styles, tables and pictures inline that asks for nothing.

It replaces a report of the same model on the same dataset, and nothing else. All files prove whose they are:
report.json by its provenance, report.html by a line in its head. What two runs measure differently, the speed of models
side by side, stands in speed.json alone, so that the others have the same bytes.
"""

import hashlib
import re
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from html import escape, unescape
from itertools import groupby
from pathlib import Path
from typing import Any

from lattok.evaluation.page import svg
from lattok.evaluation.report import DECIDES, Pictures, Report, Section, Table, TableRow, Verdict
from lattok.utils import files
from lattok.utils.checks import LattokError
from lattok.utils.commands import Advice, in_a_row
from lattok.utils.output import Output

REPORT_JSON, REPORT_HTML, SPEED_JSON = "report.json", "report.html", "speed.json"
OWN = (REPORT_JSON, REPORT_HTML, SPEED_JSON, "controls", "rollouts")  # the last two are written before the others
_MARK = re.compile(rb'<meta name="generator" content="lattok report ([0-9a-f]{16})">')
HEAD_BYTES = 4096  # bytes of a page in which the line stands
HERE = Path(__file__).parent
CHARTS = (HERE / "charts.css").read_text(encoding="utf-8")  # colours and charts
STYLE = CHARTS + (HERE / "page.css").read_text(encoding="utf-8")
SCRIPT = (HERE / "page.js").read_text(encoding="utf-8")
POLICY = (  # this script runs and no other, and nothing is fetched
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:; script-src 'sha256-"
    f"{b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()}'; base-uri 'none'; form-action 'none'"
)
PANEL_COLUMNS, PANEL_GAP = 3, 24  # of panels in a picture for a card, and pixels between them
_HEIGHT = re.compile(r'<svg viewBox="0 0 \d+ ([\d.]+)"')
KINDS = {
    "action-vq": "Action tokenizer",
    "image-lam": "Image latent action model",
    "idm": "Inverse dynamics model",
    "proprio-map": "Map of state changes",
    "latent-vla": "Policy",
    "labels": "Labels",
    "comparison": "Side by side",
    "rollouts": "Methods by rollouts",
}
GROUPS = {  # of verdicts, in their order: title, mark, class
    False: ("Falls short", "✗", "no"),
    None: ("Unclear", "–", "open"),
    True: ("Holds up", "✓", "yes"),
}
LEGEND = (
    "A model holds up where it beats its control: something that learned nothing, or sees less. In the tables the "
    "model's rows are blue; a control that does better is marked, with the words “control wins” in the column that "
    "decides."
)


def render(report: Report) -> str:
    """Turn a report into a page of HTML: answer, chart, what to do, film strip, verdicts; all else is folded."""
    kind = KINDS.get(report.kind, report.kind)
    tops = [each for section in report.sections for each in section.pictures if each.top]
    steps, answer = "".join(f"<li>{_advice(step)}</li>" for step in report.steps), ""
    if (said := report.answer) is not None:
        text = f"<b>{escape(said.question)}</b><p>{escape(said.reason)} {_advice(said.way_out)}</p>"
        answer = f'<div class="answer {GROUPS[said.holds][2]}-edge">{text}</div>'
    words = f'<p class="headline">{escape(report.headline)}</p>'
    words += f"<h2>What to do next</h2><ul>{steps}</ul>" if steps else ""
    charts, strips = ([each for each in tops if each.drawn == drawn] for drawn in (True, False))
    body = [
        f'<header><p class="kind">lattok evaluation · {escape(kind)}</p><h1>{escape(report.title)}</h1>',
        f"{answer}</header>",
        f'<div class="top">{"".join(map(_pictures, charts))}<div class="words">{words}</div></div>',
        f'<div class="strips">{"".join(map(_pictures, strips))}</div>' if strips else "",
        *_verdicts(report),
        "<h2>Details</h2>",
        *map(_section, report.sections),
        f"<details><summary>What this report rests on</summary>{_provenance(report.provenance)}</details>",
    ]
    return document(report.title, body)


def _advice(advice: Advice) -> str:
    """Write advice with options as they are typed, and its commands whole, to be copied."""
    commands = f"<code>{escape(in_a_row(advice.commands))}</code>" if advice.commands else ""
    return f"{escape(advice.said(typed=True))} {commands}".strip()


def document(title: str, body: Sequence[str], mark: str = "") -> str:
    """Put parts of HTML into a page that asks for nothing; `mark` says in its head whose it is."""
    return (
        f'<!doctype html>\n<html lang="en"><head>{mark}<meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)} · lattok</title><style>{STYLE}</style></head>\n<body><main>\n"
        + "\n".join(body)
        + f"\n</main><script>{SCRIPT}</script></body></html>\n"
    )


def picture(report: Report) -> str | None:
    """Return the first two pictures that are drawn as one SVG that stands alone, as model cards show it; or None."""
    drawn = [each for section in report.sections for each in section.pictures if each.drawn]
    return sheet(drawn[:2]) if drawn else None


def sheet(groups: Sequence[Pictures]) -> str:
    """Put the panels of pictures next to each other, in one SVG that stands alone."""
    parts, y, width = [], PANEL_GAP, 0
    for group in groups:
        if not group.top:  # whose titles say it all, and whose captions are longer than a picture is wide
            words = unescape(re.sub(r"<[^>]*>", "", group.caption))  # without markup
            parts.append(f'<text class="t" x="{PANEL_GAP}" y="{y + 4:g}">{escape(words)}</text>')
            y += PANEL_GAP
        for start in range(0, len(group.panels), PANEL_COLUMNS):
            row = group.panels[start : start + PANEL_COLUMNS]
            heights = [float(found[1]) for panel in row if (found := _HEIGHT.match(panel))]
            for i, (panel, height) in enumerate(zip(row, heights, strict=True)):
                x = PANEL_GAP + i * (svg.WIDTH + PANEL_GAP)
                place = f'<svg x="{x}" y="{y:g}" width="{svg.WIDTH}" height="{height:g}" '
                parts.append(panel.replace("<svg ", place, 1))
                width = max(width, x + svg.WIDTH + PANEL_GAP)
            y += max(heights) + PANEL_GAP
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y:g}" width="{width}" height="{y:g}">'
    paper = f'<rect width="{width}" height="{y:g}" class="sheet"/>'
    return f"{head}<style>{CHARTS}</style>{paper}{''.join(parts)}</svg>\n"


def _verdicts(report: Report) -> Iterator[str]:
    """Show the verdicts of a report in groups, if it has any; those that hold up are folded. What to do about several
    in a row stands below the last."""
    groups = ""
    for holds, (name, mark, kind) in GROUPS.items():
        lines = []
        found = [verdict for verdict in report.verdicts if verdict.holds is holds]
        for advice, verdicts in groupby(found, lambda verdict: verdict.advice):
            *others, last = verdicts
            lines += [_line(verdict, mark, kind, joined=True) for verdict in others]
            lines.append(_line(last, mark, kind, todo=f'<span class="todo">{_advice(advice)}</span>' if advice else ""))
        if lines:
            title, body = f"{name} ({len(lines)})", f'<ul class="verdicts">{"".join(lines)}</ul>'
            groups += f'<div class="group">{_folded(title, body) if holds else f"<h3>{title}</h3>{body}"}</div>'
    if groups:
        yield f'<h2>Verdicts</h2><p class="tally">{escape(report.tally)}</p><div class="groups">{groups}</div>'
        yield f'<p class="note">{LEGEND}</p>'


def _line(verdict: Verdict, mark: str, kind: str, todo: str = "", joined: bool = False) -> str:
    said = escape(verdict.text) + DECIDES * verdict.decides
    attribute = ' class="joined"' if joined else ""
    return f'<li{attribute}><span class="mark {kind}">{mark}</span><span>{said}{todo}</span></li>'


def _section(section: Section) -> str:
    parts = [f'<p class="reading">{_said(section.reading)}</p>'] if section.reading else []
    parts += [f"<p>{_said(section.text)}</p>", *map(_table, section.tables)]
    parts += [_pictures(each) for each in section.pictures if not each.top]
    if section.references:
        parts.append(f'<p class="refs">{escape("; ".join(section.references))}.</p>')
    return f"<section>{_folded(escape(section.title), ''.join(parts), section.open)}</section>"


def _said(text: str) -> str:
    """Escape a text; what is between backticks is a name."""
    return re.sub(r"`([^`]+)`", r"<samp>\1</samp>", escape(text))


def _table(table: Table) -> str:
    arrow = {"lower": " (lower is better)", "higher": " (higher is better)", "": ""}[table.better]
    head = "".join(f"<th>{escape(column)}</th>" for column in table.columns)
    rows = "".join(_row(table, row) for row in table.rows)
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    title = f'{escape(table.title)}<span class="note">{arrow}</span>'
    body = f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{rows}</tbody></table>"
    body = f'<div class="scroll" tabindex="0">{body}</div>{note}'
    return _folded(title, body) if table.folded else f"<h3>{title}</h3>{body}"


def _folded(title: str, body: str, unfolded: bool = False) -> str:
    return f"<details{' open' * unfolded}><summary>{title}</summary>{body}</details>"


def _row(table: Table, row: TableRow) -> str:
    badge = '<span class="badge">control wins</span>' if table.wins(row, table.decides) else ""
    if row.reference:
        badge = '<span class="badge ref">for scale</span>'
    cells = [f"<td>{escape(row.name)}{badge}</td>"]
    if row.not_run:
        cells.append(f'<td class="missing" colspan="{len(table.columns)}">{escape(row.not_run)}</td>')
    else:
        for i, value in enumerate(row.values):
            interval = f"<small>{span}</small>" if (span := table.interval(row, i)) else ""
            cells.append(f"<td{' class=wins' if table.wins(row, i) else ''}>{table.shown(value, i)}{interval}</td>")
    return f"<tr{'' if row.control else ' class=own'}>{''.join(cells)}</tr>"


def _pictures(pictures: Pictures) -> str:
    panels = "".join(f'<div class="panel">{panel}</div>' for panel in pictures.panels)
    wide = " wide" if pictures.wide else ""
    body = f'<figure><div class="panels{wide}">{panels}</div><figcaption>{pictures.caption}</figcaption></figure>'
    title = escape(pictures.title)
    return _folded(title, body) if pictures.folded else f"<h3>{title}</h3>{body}" if title else body


def _provenance(values: Mapping[str, Any]) -> str:
    """Show nested values as one list of terms."""
    lines = []
    for term, item in _terms(values):
        text = ", ".join(map(str, item)) if isinstance(item, list | tuple) else str(item)
        lines.append(f"<dt>{escape(term.replace('_', ' '))}</dt><dd>{escape('–' if item is None else text)}</dd>")
    return f"<dl>{''.join(lines)}</dl>"


def _terms(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        term = f"{above} {key}".strip()
        yield from _terms(value, term) if isinstance(value, Mapping) else [(term, value)]


def subject(provenance: Mapping[str, Any]) -> str:
    """Name what a report is about in one word: the model by its weights, or several, and the dataset."""
    models = provenance["models"].values() if "models" in provenance else [provenance["model"]]
    dataset = provenance["dataset"]
    facts = [model.get(name) for model in models for name in ("type", "config_sha256", "weights_sha256")]
    facts += [dataset.get(name) for name in ("name", "episodes")]
    return files.json_hash(facts)[:16]


def check_folder(out: Path) -> None:
    """Refuse a folder that holds something, but nothing of a report."""
    Output(out).check_new(lambda folder: any((folder / name).exists() for name in OWN))


def check_place(out: Path, provenance: Mapping[str, Any], overwrite: bool) -> None:
    """Refuse `out` unless what lies there is a report about the same, or with `overwrite` any report of lattok's."""
    readers = {REPORT_JSON: _subject_of_json, REPORT_HTML: _subject_of_page, SPEED_JSON: _subject_of_json}
    check_folder(out)
    Output(out).check_own(readers, subject(provenance), "report", "of another model or dataset", overwrite)


def write(report: Report, out: Path, overwrite: bool) -> None:
    """Write the files where `check_place` allows, each whole; what differs between two runs has one of its own."""
    check_place(out, report.provenance, overwrite)
    if report.speed:
        files.write_json(out / SPEED_JSON, {"subject": subject(report.provenance), "models": report.speed})
    files.write_text(out / REPORT_JSON, report.to_json())
    line = f'<meta name="generator" content="lattok report {subject(report.provenance)}">'
    files.write_text(out / REPORT_HTML, render(report).replace("<head>", f"<head>{line}", 1))


def _subject_of_json(path: Path) -> str | None:
    """Read what a report.json or speed.json is about; None where it is not one of lattok's."""
    try:
        found = files.read_json(path)
        if path.name == SPEED_JSON:
            return found["subject"] if isinstance(found["subject"], str) else None
        provenance = found["provenance"]
        known = isinstance(found["schema"], int) and isinstance(found["kind"], str) and "lattok" in provenance
        return subject(provenance) if known else None
    except (LattokError, KeyError, TypeError, AttributeError):
        return None


def head_of(path: Path) -> bytes:
    """Read the beginning of a page; nothing of what cannot be read."""
    with suppress(OSError):
        if path.is_file():  # a pipe would be waited for
            with path.open("rb") as file:
                return file.read(HEAD_BYTES)
    return b""


def _subject_of_page(path: Path) -> str | None:
    found = _MARK.search(head_of(path))
    return None if found is None else found[1].decode()
