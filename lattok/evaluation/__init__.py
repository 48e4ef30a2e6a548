"""Evaluation on held-out episodes: `evaluate` gathers evidence, answers every question from it and writes a report.

A question measures and presents in one module of `questions`, or of another package; what several of them need is in
`evidence`; `page` turns reports into HTML.
"""

from lattok.evaluation.comparison import compare as compare
from lattok.evaluation.comparison_of_rollouts import compare_rollouts as compare_rollouts
from lattok.evaluation.evaluate import evaluate as evaluate
from lattok.evaluation.evidence import EvalOptions as EvalOptions
from lattok.evaluation.evidence import Evidence as Evidence
from lattok.evaluation.evidence import register_evidence as register_evidence
from lattok.evaluation.page import REPORT_HTML as REPORT_HTML
from lattok.evaluation.page import REPORT_JSON as REPORT_JSON
from lattok.evaluation.questions import question as question
from lattok.evaluation.report import Criterion as Criterion
from lattok.evaluation.report import Decision as Decision
from lattok.evaluation.report import Outcome as Outcome
from lattok.evaluation.report import Pictures as Pictures
from lattok.evaluation.report import Progress as Progress
from lattok.evaluation.report import Report as Report
from lattok.evaluation.report import Section as Section
from lattok.evaluation.report import Table as Table
from lattok.evaluation.report import TableRow as TableRow
from lattok.evaluation.report import Verdict as Verdict
from lattok.utils.commands import Advice as Advice
from lattok.utils.commands import Command as Command
from lattok.utils.commands import advise as advise
from lattok.utils.commands import command as command
