"""Judging models on held-out episodes: `evaluate` gathers the evidence, asks every question of it and writes a report.

A question measures and presents in one module of `questions`, or of another package; what several of them need is in
`evidence`; `page` turns reports into HTML.
"""

from lattok.evaluation.comparison import compare as compare
from lattok.evaluation.evaluate import evaluate as evaluate
from lattok.evaluation.evidence import EvalOptions
from lattok.evaluation.page import REPORT_HTML, REPORT_JSON
from lattok.evaluation.questions import question
from lattok.evaluation.report import (
    Criterion,
    Decision,
    Outcome,
    Pictures,
    Progress,
    Report,
    Section,
    Table,
    TableRow,
    Verdict,
)

__all__ = [
    "REPORT_HTML",
    "REPORT_JSON",
    "Criterion",
    "Decision",
    "EvalOptions",
    "Outcome",
    "Pictures",
    "Progress",
    "Report",
    "Section",
    "Table",
    "TableRow",
    "Verdict",
    "compare",
    "evaluate",
    "question",
]
