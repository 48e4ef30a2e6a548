"""A report in a folder: report.json, and one HTML file with styles, tables and pictures inline that asks for nothing.

It replaces a report of the same model on the same dataset, and nothing else. All files prove whose they are:
report.json by its provenance, report.html by a line in its head. What two runs measure differently, the speed of models
side by side, stands in speed.json alone, so that the others have the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape, unescape
from pathlib import Path
from typing import Any

from lattok.evaluation import svg
from lattok.evaluation.page_script import POLICY, SCRIPT
from lattok.evaluation.report import Answer, Pictures, Report, Section, Table, TableRow, Verdict
from lattok.utils import files
from lattok.utils.checks import LattokError

REPORT_JSON, REPORT_HTML, SPEED_JSON = "report.json", "report.html", "speed.json"
_MARK = re.compile(rb'<meta name="generator" content="lattok report ([0-9a-f]{16})">')
HEAD = 4096  # bytes of a page in which the line stands
STYLE = """
:root { color-scheme: light dark; --paper: #fdfdfc; --card: #f5f5f2; --ink: #1d2023; --soft: #5d646b; --rule: #dcdcd6;
  --model: #1f63b5; --control: #a9afb6; --rival: #d9831f; --good: #1a7340; --bad: #a9431e; --badpaper: #fbeee6; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171a; --card: #1c2024; --ink: #e4e6e8; --soft: #9aa2aa;
  --rule: #31363b; --model: #6aa9f0; --control: #6a727a; --rival: #eda04a; --good: #67c48b; --bad: #f0956b;
  --badpaper: #3a261c; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI",
  "Noto Sans", sans-serif; -webkit-text-size-adjust: 100%; overflow-wrap: break-word; }
main { max-width: 1180px; margin: 0 auto; padding: 40px 24px 64px; }
header p.kind { margin: 0; color: var(--soft); font-size: 14px; }
h1 { font-size: 27px; line-height: 1.25; font-weight: 650; margin: 6px 0 16px; letter-spacing: -0.01em;
  text-wrap: balance; }
h2 { font-size: 21px; line-height: 1.3; font-weight: 650; margin: 52px 0 8px; padding-top: 18px;
  border-top: 1px solid var(--rule); }
h3 { font-size: 16px; font-weight: 650; margin: 28px 0 6px; }
section > p, .note { max-width: 46em; }
.headline { font-size: 17px; line-height: 1.5; margin: 0 0 20px; max-width: 44em; }
.answer { margin: 0 0 18px; padding: 12px 18px; background: var(--card); border-left: 5px solid var(--soft);
  border-radius: 0 8px 8px 0; max-width: 52em; }
.answer b { color: var(--soft); font-size: 15px; font-weight: 550; }
.answer p { margin: 2px 0 0; font-size: 20px; line-height: 1.4; font-weight: 550; }
.answer.yes-edge { border-color: var(--good); } .answer.no-edge { border-color: var(--bad); }
.note, figcaption { color: var(--soft); font-size: 14px; line-height: 1.45; margin: 6px 0 0; }
ul.verdicts { list-style: none; margin: 0; padding: 0; border-top: 1px solid var(--rule); }
ul.verdicts li { display: grid; grid-template-columns: 104px 1fr; gap: 12px; padding: 8px 0;
  border-bottom: 1px solid var(--rule); }
.mark { font-size: 13px; font-weight: 650; padding-top: 2px; white-space: nowrap; }
.yes { color: var(--good); } .no { color: var(--bad); } .open { color: var(--soft); }
.scroll { overflow-x: auto; -webkit-overflow-scrolling: touch; background:
  linear-gradient(to right, var(--paper) 40%, transparent) 0 0 / 60px 100% no-repeat local,
  linear-gradient(to left, var(--paper) 40%, transparent) 100% 0 / 60px 100% no-repeat local,
  linear-gradient(to right, var(--rule), transparent) 0 0 / 14px 100% no-repeat scroll,
  linear-gradient(to left, var(--rule), transparent) 100% 0 / 14px 100% no-repeat scroll; }
.scroll table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; }
.scroll th, .scroll td { padding: 5px 14px 5px 0; text-align: right; white-space: nowrap; }
.scroll th { color: var(--soft); font-weight: 500; border-bottom: 1px solid var(--rule); vertical-align: bottom; }
.scroll td { border-bottom: 1px solid var(--rule); }
.scroll th:first-child, .scroll td:first-child { text-align: left; min-width: 150px; white-space: normal; }
tr.own td { font-weight: 650; } tr.own td:first-child { color: var(--model); }
td.wins { color: var(--bad); background: var(--badpaper); font-weight: 650; }
td.missing { text-align: left; color: var(--soft); }
.badge { display: inline-block; margin-left: 6px; padding: 0 7px; border-radius: 9px; font-size: 12px;
  line-height: 18px; font-weight: 650; color: var(--bad); background: var(--badpaper); white-space: nowrap; }
.badge.ref { color: var(--soft); background: var(--card); font-weight: 500; }
figure { margin: 22px 0 0; }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(250px, 100%), 1fr)); gap: 14px; }
.panels.wide { grid-template-columns: minmax(0, 420px); }
.panel { background: var(--card); border-radius: 8px; padding: 10px; min-width: 0; }
.panel > svg { display: block; width: 100%; height: auto; max-width: 620px; }
svg text { font: 12px system-ui, -apple-system, "Segoe UI", "Noto Sans", sans-serif; fill: var(--ink);
  font-variant-numeric: tabular-nums; }
svg .t { font-weight: 650; font-size: 13px; } svg .n { font-size: 11.5px; }
svg .m { fill: var(--soft); font-size: 11px; } svg .sheet { fill: var(--paper); }
svg .model { fill: var(--model); } svg .control { fill: var(--control); } svg .rival { fill: var(--rival); }
svg .empty { fill: none; stroke: var(--control); stroke-width: 1; stroke-dasharray: 3 2; }
svg .axis { stroke: var(--soft); stroke-width: 1; fill: none; } svg .grid { stroke: var(--rule); stroke-width: 1; }
svg .line { fill: none; stroke-width: 1.6; stroke-linejoin: round; } svg .truth.line { stroke: var(--ink); }
svg .model.line { stroke: var(--model); } svg .rival.line { stroke: var(--rival); }
svg .faint { stroke-opacity: 0.55; stroke-width: 1.3; }
svg .dots { stroke: var(--model); stroke-width: 3.4; stroke-linecap: round; stroke-opacity: 0.45; fill: none; }
.key { display: inline-block; width: 18px; height: 0; border-top: 3px solid; vertical-align: middle;
  margin: 0 3px 0 2px; }
.key.truth { border-color: var(--ink); } .key.model { border-color: var(--model); }
.key.rival { border-color: var(--rival); }
.strip p { margin: 0 0 8px; font-size: 13px; line-height: 1.4; color: var(--soft); } .strip b { color: var(--ink); }
.strip table { width: 100%; table-layout: fixed; border-collapse: collapse; } .strip td, .strip th { padding: 2px; }
.strip th { font-size: 12px; font-weight: 500; color: var(--soft); text-align: left; }
.strip img { display: block; width: 100%; max-width: 128px; border-radius: 3px; }
.scroll td small { display: block; font-size: 11.5px; font-weight: 400; color: var(--soft); }
.tally { margin: 0 0 6px; font-weight: 650; font-size: 15px; }
.reading { font-size: 17px; line-height: 1.45; font-weight: 500; margin: 6px 0 10px; }
.refs { color: var(--soft); font-size: 13px; line-height: 1.45; margin: 18px 0 0; max-width: 62em; }
.todo { display: block; color: var(--soft); font-size: 14px; line-height: 1.45; }
details { margin: 16px 0 0; } summary { cursor: pointer; font-weight: 550; font-size: 15px; }
.gallery div { display: flex; gap: 2px; margin: 0 0 6px; max-width: 300px; }
.gallery img { display: block; flex: 1 1 0; min-width: 0; max-width: 96px; border-radius: 3px; }
.episode p { margin: 0 0 8px; font-size: 13px; line-height: 1.4; color: var(--soft); overflow-wrap: anywhere; }
.episode b { color: var(--ink); } .films { display: flex; gap: 6px; margin: 0 0 6px; }
.films video { flex: 1 1 0; min-width: 0; max-width: 240px; border-radius: 3px; display: block; }
.timeline svg { display: block; width: 100%; height: auto; cursor: crosshair; }
.timeline .now { margin: 4px 0 0; font-variant-numeric: tabular-nums; } .timeline details { margin: 4px 0 8px; }
.timeline summary { font-size: 13px; font-weight: 500; } [hidden] { display: none !important; }
.filter { display: block; margin: 0 0 12px; font-size: 14px; } .filter select { font: inherit; max-width: 100%;
  color: inherit; background: var(--card); border: 1px solid var(--control); border-radius: 6px; padding: 4px 8px; }
:focus-visible { outline: 2px solid var(--model); outline-offset: 2px; }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 3px 18px; font-size: 13px;
  margin: 12px 0 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
@media (max-width: 600px) { main { padding: 24px 16px 48px; } h1 { font-size: 23px; } .headline { font-size: 17px; }
  ul.verdicts li { grid-template-columns: 1fr; gap: 0; } dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: 8px; } }
"""
COLUMNS, GAP = 3, 24  # of panels in a picture for a card, and pixels between them
_HEIGHT = re.compile(r'<svg viewBox="0 0 \d+ ([\d.]+)"')
_DRAWN = STYLE[: STYLE.index("* {")] + STYLE[STYLE.index("svg text {") : STYLE.index(".key {")]  # colours and charts
KINDS = {
    "action-vq": "Action tokenizer",
    "image-lam": "Image latent action model",
    "latent-vla": "Policy",
    "comparison": "Latent action models side by side",
}
LEGEND = (
    "✓ holds up against its control, ✗ falls short of it, – is open: too close to tell, or left out. "
    "The model's rows are blue. A control that does better is marked where it does, and carries the words "
    "“control wins” where it does so in the column that decides. Nothing is shown without its control."
)


def render(report: Report) -> str:
    """Turn a report into a page of HTML."""
    kind = KINDS.get(report.kind, report.kind)
    body = [
        f'<header><p class="kind">lattok evaluation · {escape(kind)}</p><h1>{escape(report.title)}</h1>',
        f'{_answer(report.answer)}<p class="headline">{escape(report.headline)}</p></header>',
        f'<p class="tally">Verdicts: {escape(report.tally)}</p>',
        f'<ul class="verdicts">{"".join(map(_verdict, report.verdicts))}</ul><p class="note">{LEGEND}</p>',
        *map(_section, report.sections),
        f"<section><h2>Provenance</h2>{_provenance(report.provenance)}</section>",
    ]
    return document(report.title, body)


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
    groups = [each for section in report.sections for each in section.pictures if each.panels[0].startswith("<svg")][:2]
    parts, y, width = [], GAP, 0
    for group in groups:
        parts.append(f'<text class="t" x="{GAP}" y="{y + 4:g}">{escape(_words(group.caption))}</text>')
        y += GAP
        for start in range(0, len(group.panels), COLUMNS):
            row = group.panels[start : start + COLUMNS]
            heights = [float(found[1]) for panel in row if (found := _HEIGHT.match(panel))]
            for i, (panel, height) in enumerate(zip(row, heights, strict=True)):
                x = GAP + i * (svg.WIDTH + GAP)
                place = f'<svg x="{x}" y="{y:g}" width="{svg.WIDTH}" height="{height:g}" '
                parts.append(panel.replace("<svg ", place, 1))
                width = max(width, x + svg.WIDTH + GAP)
            y += max(heights) + GAP
    if not parts:
        return None
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y:g}" width="{width}" height="{y:g}">'
    sheet = f'<rect width="{width}" height="{y:g}" class="sheet"/>'
    return f"{head}<style>{_DRAWN}</style>{sheet}{''.join(parts)}</svg>\n"


def _words(caption: str) -> str:
    """Return a caption without markup and keys of colours."""
    return unescape(re.sub(r"<[^>]*>|\{\w+\} ", "", caption))


def _answer(answer: Answer | None) -> str:
    """Show the question that everybody asks first, and its answer."""
    if answer is None:
        return ""
    kind = {True: "yes", False: "no", None: "open"}[answer.holds]
    text = f"<b>{escape(answer.question)}</b><p>{escape(answer.text)}</p>"
    return f'<div class="answer {kind}-edge">{text}</div>'


def _verdict(verdict: Verdict) -> str:
    kind, word = {True: ("yes", "✓ holds up"), False: ("no", "✗ falls short"), None: ("open", "– open")}[verdict.holds]
    todo = f'<span class="todo">{escape(verdict.advice)}</span>' if verdict.advice else ""
    return f'<li><span class="mark {kind}">{word}</span><span>{escape(verdict.text)}{todo}</span></li>'


def _section(section: Section) -> str:
    parts = [f"<section><h2>{escape(section.title)}</h2>"]
    if section.reading:
        parts.append(f'<p class="reading">{escape(section.reading)}</p>')
    parts.append(f"<p>{escape(section.text)}</p>")
    parts += map(_table, section.tables)
    parts += map(_pictures, section.pictures)
    if section.references:
        parts.append(f'<p class="refs">{escape("; ".join(section.references))}.</p>')
    return "\n".join([*parts, "</section>"])


def _table(table: Table) -> str:
    arrow = {"lower": " (lower is better)", "higher": " (higher is better)", "": ""}[table.better]
    head = "".join(f"<th>{escape(column)}</th>" for column in table.columns)
    rows = "".join(_row(table, row) for row in table.rows)
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    title = f'{escape(table.title)}<span class="note">{arrow}</span>'
    body = (
        f'<div class="scroll" tabindex="0"><table><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>{note}"
    )
    return _folded(title, body) if table.folded else f"<h3>{title}</h3>{body}"


def _folded(title: str, body: str) -> str:
    return f"<details><summary>{title}</summary>{body}</details>"


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
    caption = pictures.caption
    for name in ("truth", "model", "rival"):
        caption = caption.replace("{" + name + "}", f'<i class="key {name}"></i>')
    panels = "".join(f'<div class="panel">{panel}</div>' for panel in pictures.panels)
    wide = " wide" if pictures.wide else ""
    body = f'<figure><div class="panels{wide}">{panels}</div><figcaption>{caption}</figcaption></figure>'
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
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def check_place(out: Path, provenance: Mapping[str, Any], overwrite: bool) -> None:
    """Refuse `out` unless what lies there is a report about the same, or with `overwrite` any report of lattok's."""
    for name, read in {
        REPORT_JSON: _subject_of_json,
        REPORT_HTML: _subject_of_page,
        SPEED_JSON: _subject_of_speed,
    }.items():
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
    """Write the files, each whole; what differs between two runs stands in one of its own."""
    if report.speed:
        files.write_json(out / SPEED_JSON, {"subject": subject(report.provenance), "models": report.speed})
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


def _subject_of_speed(path: Path) -> str | None:
    try:
        found = files.read_json(path).get("subject")
    except LattokError:
        return None
    return found if isinstance(found, str) else None


def _subject_of_page(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            found = _MARK.search(file.read(HEAD))
    except OSError:
        return None
    return None if found is None else found[1].decode()
