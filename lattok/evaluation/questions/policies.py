"""Does a policy do what it is told? What `lattok.sim.rollout` found, and how far its chunks are from held-out actions.

The error says how well actions are imitated, not whether a task succeeds. In scenes of two opposite tasks a policy that
does not read wins half at most.
"""

from lattok.evaluation.evidence.policy_evidence import PolicyEvidence
from lattok.evaluation.page import svg
from lattok.evaluation.page.episode import over_time
from lattok.evaluation.questions import question, train_one
from lattok.evaluation.questions.history import about_tasks
from lattok.evaluation.report import Criterion, Decision, Outcome, Pictures, Section, Table, TableRow, Verdict
from lattok.evaluation.rollouts_page import rollouts_section
from lattok.utils import checks
from lattok.utils.commands import MODEL, advise, command

ACTION_ERROR = Criterion(
    "action_error",
    advise("Train longer; look at the losses in its run folder, and whether the training actions are noisy."),
    elsewhere=train_one("vla"),
)
LEGEND = {"truth": "true", "model": "policy"}


@question("rollouts", of=("policy",), place=10)
def rollouts_outcome(evidence: PolicyEvidence) -> Outcome | None:
    """Show rollouts; None without any."""
    found = evidence.case.rollouts
    if found is None:
        return None
    section = rollouts_section(found)
    figures = {key: float(found["overall"][key]) for key in ("success", "failure")}
    figures |= {f"success/{task}": float(score["success"]) for task, score in found["tasks"].items()}
    return Outcome((section,), figures, decision=Decision(80, None, section.reading))


@question("policy_error", of=("policy",), criteria=(ACTION_ERROR,), place=20)
def policy_outcome(evidence: PolicyEvidence) -> Outcome:
    """Show the errors: of all dimensions and of each, and of each step of a chunk."""
    errors = evidence.errors
    own, mean = errors.by_dimension.values(), errors.mean_by_dimension.values()
    rows = (
        TableRow("policy", "policy", (errors.error, *own), control=False),
        TableRow("mean_action", "always the mean training action", (errors.mean_action, *mean)),
    )
    note = f"By step of the chunk, from the first: {', '.join(f'{error:.3g}' for error in errors.by_step)}."
    if None in errors.by_dimension.values():
        note += " Dimensions that never move in training do not count."
    table = Table("Squared error", ("all", *errors.by_dimension), rows, "lower", note=note)
    text = (
        f"Of {checks.counted(errors.windows, 'frame')} of held-out episodes a chunk is asked for and compared with "
        f"{errors.key}, in units of the variance of the training actions. It says how well actions are "
        f"imitated, not whether a task succeeds.{about_tasks(evidence.case)}"
    )
    bars = [("policy", "model", errors.error), ("mean action", "control", errors.mean_action)]
    caption = "In units of the variance of training actions; shorter is better."
    chart = Pictures(caption, (svg.bars("Squared error of actions", bars, ".3g"),), wide=True, top=True)
    title = "Are its actions like those of held-out episodes?"
    section = Section(title, text, (table,), (chart,), f"{errors.text}.", open=True)
    sections = (section, _over_time(evidence))
    figures = {"action_error": errors.error, "action_error/mean_action": errors.mean_action}
    verdict = Verdict(errors.verdict["text"], errors.verdict["holds"], ACTION_ERROR)
    if verdict.holds is False:
        text = "No: its actions are no nearer to those of held-out episodes than the mean action is."
        return Outcome(sections, figures, [verdict], Decision(20, False, text))
    though = ", though its own are nearer to held-out ones than their mean" if verdict.holds else ""
    sizes = getattr(getattr(evidence.case.model, "config", None), "camera_sizes", ())
    on_robot = "Let it act, on your robot (policy.select_action)"
    act = advise(f"{on_robot} or in the simulator that knows its tasks", command("rollout", MODEL))
    if not evidence.case.tasks or len({side for size in sizes for side in size}) > 1:  # simulators render squares
        act = advise(f"{on_robot}.")
    text, way_out = f"Unclear from actions alone{though}.", evidence.case.filled(act)
    return Outcome(sections, figures, [verdict], Decision(20, None, text, way_out=way_out))


def _over_time(evidence: PolicyEvidence) -> Section:
    """Draw true actions, and the first ones of the policy's chunks."""
    held_out, dataset, chosen = evidence.held_out, evidence.case.dataset, evidence.rows.numpy()
    known = held_out.known.nonzero().flatten()
    true = held_out.targets(evidence.errors.key)[evidence.rows, 0]
    lines = {"truth": true, "model": evidence.predicted, "rival": evidence.mean.expand_as(true)}
    said = {"truth": "true", "model": "policy", "rival": "mean training action"}
    shown = {key: (said[key], values[:, known]) for key, values in lines.items()}
    names = [held_out.action_names[i] for i in known.tolist()]
    rows = held_out.episode_of[chosen], held_out.frame_of[chosen]
    caption = "A held-out episode: what was done, and what the policy would do at that moment."
    return over_time(dataset, held_out.cameras or dataset.cameras, rows, names, shown, caption)
