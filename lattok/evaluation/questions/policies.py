"""Does a policy do what it is told? What `lattok.sim.rollout` found, and how far its chunks are from held-out actions.

The error says how well actions are imitated, not whether a task succeeds. In scenes of two opposite tasks a policy that
does not read wins half at most.
"""

from collections.abc import Mapping
from typing import Any

from lattok.evaluation.evidence.policy_evidence import PolicyEvidence
from lattok.evaluation.page import svg
from lattok.evaluation.questions import question, train_one
from lattok.evaluation.report import Criterion, Decision, Outcome, Pictures, Section, Table, TableRow, Verdict
from lattok.evaluation.wording import percent
from lattok.utils import checks
from lattok.utils.commands import MODEL, advise, command

ACTION_ERROR = Criterion(
    "action_error",
    advise("Train longer; look at the losses in its run folder, and whether the training actions are noisy."),
    elsewhere=train_one("vla"),
)
COLUMNS = {"success": "success", "failure": "opposite first", "decisions": "decisions", "beyond": "beyond limits"}


@question("rollouts", of=("policy",), place=10)
def rollouts_outcome(evidence: PolicyEvidence) -> Outcome | None:
    """Show rollouts, in the form of rollouts.json: figures of all episodes and of each task. None without any."""
    found = evidence.case.rollouts
    if found is None:
        return None
    scores = {"all": found["overall"], **found["tasks"]}
    rows, digits = [], (".2f", ".2f", ".1f", ".1%")
    for name, score in scores.items():
        values, spare = tuple(score[key] for key in COLUMNS), (None,) * (len(COLUMNS) - 1)
        rows.append(TableRow(name, name, values, name == "all", intervals=(tuple(score["interval"]), *spare)))
    table = Table("Episodes", tuple(COLUMNS.values()), tuple(rows), digits=digits, note=_options(found))
    every, seed = found["overall"], found["options"]["seed"]
    low, high = every["interval"]
    text = (
        f"{checks.counted(every['episodes'], 'episode')} in a simulator, {found['options']['episodes']} of each task, "
        f"from the start states {seed}, {seed + 1}, ..., which are the same for all policies. Where two opposite tasks "
        "share a scene, a policy that reaches the other end first has failed. Intervals are Wilson's, 95 %; they do "
        "not cover other seeds of training."
    )
    reading = f"It succeeds in {percent(every['success'])} of the episodes ({percent(low)} to {percent(high)}); "
    reading += f"in {percent(every['failure'])} the opposite came first."
    figures = {key: float(every[key]) for key in ("success", "failure")}
    figures |= {f"success/{task}": float(score["success"]) for task, score in found["tasks"].items()}
    bars = [(name, "model", float(score["success"])) for name, score in scores.items()]
    caption = "Share of the episodes in which it does what it was told, of all and of each task; longer is better."
    chart = Pictures(caption, (svg.bars("success", bars, ".2f"),), wide=True, top=True)
    section = Section("Does it do what it is told?", text, (table,), (chart,), reading)
    return Outcome((section,), figures, decision=Decision(80, None, reading))


def _options(found: Mapping[str, Any]) -> str:
    """Name the options that differ from what a rollout does by itself, and what it noted."""
    options = found["options"]
    said = [f"{key}={options[key]}" for key in ("execute", "repeat", "ensemble") if options[key] is not None]
    if options["instruction"] != "own":
        said.append(f"instruction={options['instruction']}")
    said += [f"{key}={value}" for key, value in options["variation"].items() if value]
    return ". ".join([*([", ".join(said)] if said else []), *found["notes"]])


@question("policy_error", of=("policy",), criteria=(ACTION_ERROR,), place=20)
def policy_outcome(evidence: PolicyEvidence) -> Outcome:
    """Show the errors: of all dimensions and of each, and of each step of a chunk."""
    errors = evidence.errors
    spare = (None,) * len(errors.by_dimension)
    rows = (
        TableRow("policy", "policy", (errors.error, *errors.by_dimension.values()), control=False),
        TableRow("mean_action", "always the mean training action", (errors.mean_action, *spare)),
    )
    note = f"By step of the chunk, from the first: {', '.join(f'{error:.3g}' for error in errors.by_step)}."
    table = Table("Squared error", ("all", *errors.by_dimension), rows, "lower", note=note)
    text = (
        f"Of {checks.counted(errors.windows, 'frame')} of held-out episodes a chunk is asked for and compared with "
        f"`{errors.key}`, in units of the variance of the training actions. It says how well actions are "
        "imitated, not whether a task succeeds."
    )
    bars = [("policy", "model", errors.error), ("mean action", "control", errors.mean_action)]
    chart = Pictures("Squared error; shorter is better.", (svg.bars("error", bars, ".3g"),), wide=True, top=True)
    section = Section("Are its actions like those of held-out episodes?", text, (table,), (chart,), f"{errors.text}.")
    figures = {"action_error": errors.error, "action_error/mean_action": errors.mean_action}
    verdict = Verdict(errors.verdict["text"], errors.verdict["holds"], ACTION_ERROR)
    if verdict.holds is False:
        text = "No: its actions are no nearer to those of held-out episodes than the mean action is."
        return Outcome((section,), figures, [verdict], Decision(20, False, text))
    though = ", though its own are nearer to held-out ones than their mean" if verdict.holds else ""
    act = advise("Let it act, on your robot or in a simulator that knows its tasks", command("rollout", MODEL))
    text, way_out = f"That cannot be told from actions{though}.", evidence.case.filled(act)
    return Outcome((section,), figures, [verdict], Decision(20, None, text, way_out=way_out))
