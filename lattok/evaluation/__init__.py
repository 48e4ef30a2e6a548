"""Judging models on held-out episodes: `evaluate` gathers the evidence, asks every question of it and writes a report.

A question measures and presents in one module of `questions`; what several of them need is in `evidence`.
"""

from lattok.evaluation.comparison import compare as compare
from lattok.evaluation.evaluate import evaluate as evaluate
from lattok.evaluation.page import REPORT_HTML, REPORT_JSON
from lattok.evaluation.report import Progress, Report

__all__ = ["REPORT_HTML", "REPORT_JSON", "Progress", "Report", "compare", "evaluate"]
