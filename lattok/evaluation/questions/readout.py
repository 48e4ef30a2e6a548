"""Do the latent actions say what the robot did? Tables, figures and verdicts from the probes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lattok.evaluation.evidence.latent_evidence import GivenEvidence, LatentEvidence
from lattok.evaluation.evidence.probe_rows import OTHER_EPISODE, PREFIXES, ProbeRow, rivals_of, strongest
from lattok.evaluation.evidence.probes import above_zero
from lattok.evaluation.evidence.trained_controls import LABELS_ONLY
from lattok.evaluation.page import svg
from lattok.evaluation.questions import question
from lattok.evaluation.questions.history import OF_ACTIONS, hold_out_more
from lattok.evaluation.report import Criterion, Decision, Interval, Outcome, Pictures, Section, Table, Verdict
from lattok.evaluation.wording import FEW_EPISODES, difference, explained_share, lowered, printed
from lattok.utils import checks
from lattok.utils.commands import DATASET, MODEL, advise, command

REFERENCES = (
    "Alain & Bengio 2016, Understanding intermediate layers using linear classifier probes",
    "Hewitt & Liang 2019, Designing and interpreting probes with control tasks",
    "Zhang et al. 2025, What do latent action models actually learn? (the frame change's PCA as what they reduce to)",
    "Nikulin et al. 2025, Latent action learning requires supervision in the presence of distractors",
)
OTHER_TASKS = "What the {} mean depends on the task: train on more tasks, or keep to those trained on."
LITTLE = 0.05  # R^2 below which labels say next to nothing, if it is surely not twice as much
MOVEMENT = "x, y and z"
FAR = 1000  # times the distance between quartiles: so far off a label moves the mean and deviation of all
CLOCK = advise(
    "They may only encode how far the task has progressed: evaluate on episodes that differ in pace and start, or on "
    "tasks that were not trained on."
)
STORE = "Store the raw frame change (PCA) instead of latents, or "
EXACT = 0.9995  # R^2 from which labels are the actions themselves: those of video never say all
CRITERIA = (
    OF_ACTIONS,
    Criterion(
        "codes_against_controls",
        advise("{Label}, or train longer{robust}; without labels the raw frame change is hard to beat."),
    ),
    Criterion(
        "codes_against_controls_xyz",
        advise(
            "The mean over dimensions hides this: the codes say more about the gripper than about the motion. {Label}, "
            "shorten the stride to one visible movement, add a camera that sees depth."
        ),
        caveat="about x, y and z the codes say less than the best control",
        weight=2,
    ),
    Criterion(
        "codes_new_tasks",
        advise(OTHER_TASKS.format("codes")),
        use=True,
        caveat="on tasks that were not seen a control says more",
    ),
    Criterion("codes_against_other_episode", CLOCK, use=True),
    Criterion(
        "codes_against_labels_alone",
        advise(
            "Reconstruction adds nothing here: with these labels a supervised encoder is as good. It pays with fewer "
            "labels, or with more action-free video than labelled data."
        ),
    ),
    Criterion(
        "latents_against_controls",
        advise(f"{STORE}{{label}}."),
        elsewhere=advise(f"{STORE}train one on this dataset", command("train", "image-lam", DATASET, "--out", "new")),
    ),
    Criterion(
        "latents_against_controls_xyz",
        advise("{Label}; for continuous targets the raw frame change is a serious rival."),
    ),
    Criterion("latents_new_tasks", advise(OTHER_TASKS.format("latents")), use=True),
    Criterion("latents_against_other_episode", CLOCK, use=True),
    Criterion(
        "latents_against_labels_alone",
        advise("Reconstruction adds nothing to the latents here: look at the codes, or use fewer labels."),
    ),
)
BY_KEY = {each.key: each for each in CRITERIA}
COMPARED = (  # with the best control: probe, column, what the verdict says and its key
    ("linear", 0, "Action read from the {}", "against_controls"),
    ("linear", 1, "Movement (x, y, z) read from the {}", "against_controls_xyz"),
    ("task_linear", 0, "Action read from the {} on tasks the readout has not seen", "new_tasks"),
)
MEASURE = (
    "R² is the share of how the robot's actions vary that can be read from the labels, on episodes kept aside: "
    "1 is all of it, 0 no better than the mean action."
)


@question("readout", of=("labels",), criteria=CRITERIA, place=10)
def readout_outcome(evidence: LatentEvidence) -> Outcome:
    """Read the action from the model's codes and latents, and from the controls; without actions say that it cannot."""
    probes, judged = evidence.probes, evidence.judged
    without = "without actions" if judged is None else "where actions never change"
    text = f"Unclear: {without} nothing says whether the labels mean what the robot did."
    unknown = Decision(20, None, text, caveats=False)
    if judged is None:
        return Outcome(decision=unknown)
    figures, verdicts, tables = dict[str, float](), list[Verdict](), list[Table]()
    for kind, rows in probes.items():
        figures.update(readout_figures(evidence, f"from_{kind}", rows))
        verdicts += readout_verdicts(evidence, kind, rows)
        tables += _tables(evidence, kind, rows)
    if of_actions := made_of_actions(evidence):
        verdicts.append(of_actions)
    kind, best = next(iter(probes)), judged[1]
    section = Section(
        "Do the latent actions say what the robot did?",
        f"Regression from each input to the mean action between the two frames ({evidence.gap} apart), fitted on the "
        "training episodes, evaluated on the held-out ones: R² = 1 − squared error ÷ squared distance to the training "
        f"mean, with 95 % intervals over {evidence.bootstrap.count} episodes. Part of every action can be read from "
        "the current frame alone, often most of the gripper: what counts is the gain over the controls, per dimension. "
        f"Held-out tasks: {evidence.folds[1]}.",
        tuple(tables),
        (_overview(evidence, kind, probes[kind], best),),
        _reading(evidence, figures, kind, best),
        REFERENCES,
        open=True,
    )
    return Outcome((section,), figures, verdicts, _decision(evidence, probes[kind][0], best, verdicts) or unknown)


def _overview(evidence: LatentEvidence, kind: str, rows: Sequence[ProbeRow], best: ProbeRow | None) -> Pictures:
    """Draw what decides: the model, its best control, the architecture untrained, one frame and the state alone."""
    named = {row.key: row for each in (evidence.probes.get("latents", ()), rows) for row in each}
    others = [named[key] for key in ("untrained", "current_frame", "proprio") if key in named]
    others = [row for row in others if row.scores and row is not best]
    bars = [("labels" if isinstance(evidence, GivenEvidence) else "model", "model", rows[0].value("linear", 0))]
    bars += [] if best is None else [(best.short, "rival", best.value("linear", 0))]
    bars += [(row.short, "control", row.value("linear", 0)) for row in others]
    caption = f"{MEASURE} Orange: the best control, something that learned nothing or sees less."
    return Pictures(caption, (svg.bars(f"Action read from the {kind}, R²", bars, ".2f"),), wide=True, top=True)


def _decision(evidence: Any, own: ProbeRow, best: ProbeRow | None, verdicts: Sequence[Verdict]) -> Decision | None:
    """Judge a model by what its labels say about the action, against the best control; None where nothing moves."""
    kind = own.key
    against = next((each for each in verdicts if each.key == f"{kind}_against_controls"), None)
    if against is None or best is None:
        return None
    value, rival = (printed(row.value("linear", 0) or 0.0, ".2f") for row in (own, best))
    where, what = "episodes it has not seen", _called(evidence, kind)
    if isinstance(evidence, GivenEvidence):  # nothing says what made them, and from which episodes
        where = "held-out episodes"
    texts = {
        True: f"Yes: on {where}, {what} say more about the robot's action than {best.plain}",
        None: f"It makes no clear difference: {what} say about as much about the action as {best.plain}",
        False: f"No: {best.plain} says as much about the action as {what} do",
    }
    numbers, span = f"R² {value} against {rival}", own.scores["linear"].intervals[0]
    if told := next((each for each in verdicts if each.about is OF_ACTIONS), None):
        return Decision(20, None, f"With care: {lowered(told.text)}.", by=OF_ACTIONS)
    little = _little(own.value("linear", 0), span)
    if (little or not against.holds) and isinstance(evidence, GivenEvidence) and (why := hidden(evidence)):
        return Decision(20, None, f"Unclear: {why} (here {numbers}).", caveats=False)
    if little and span is not None:
        text = f"No: {what} say next to nothing about the robot's action (R² {value}, at most "
        text += f"{printed(max(span[1], 0.0), '.2f')})."
        return Decision(20, False, text, by=against.about)
    shown = (numbers, difference(apart(evidence, own, best)))
    found = decision(evidence, against, texts, shown, "held out")
    if found.holds and by_the_clock(verdicts, kind):
        text = f"With care: {what} say more about the robot's action than {best.plain} ({numbers}), but those of "
        text += "another episode of the task at the same moment say as much: they may hold no more than that moment."
        return replace(found, holds=None, text=text)
    if found.holds and (missed := _missed(evidence, own)):
        text = f"{texts[True]} ({numbers}), but next to nothing about {' and '.join(missed)}."
        if missed[0] == MOVEMENT:
            return replace(found, holds=None, text=text.replace("Yes", "With care", 1))
        return replace(found, text=text)
    return found


def _missed(evidence: LatentEvidence, own: ProbeRow) -> list[str]:
    """Name the dimensions that move, and of which labels say next to nothing."""
    score, first, space = own.scores["linear"], 2 if evidence.space else 1, evidence.space
    little = [_little(*each) for each in zip(score.values, score.intervals, strict=True)]
    whole = [MOVEMENT] if space and little[1] else []
    named = enumerate(zip(evidence.names, little[first:], strict=True))
    return [*whole, *(name for i, (name, missed) in named if missed and not (whole and i in space))]


def _little(value: float | None, span: Interval | None) -> bool:
    return value is not None and span is not None and value < LITTLE and span[1] < 2 * LITTLE


def hidden(evidence: GivenEvidence) -> str:
    """Say what in labels may hide what they hold; empty where nothing does."""
    if evidence.model.like_codes:
        return (
            "the labels are whole numbers that are stored as floats, and were read as vectors. If they are codes, give "
            "integers, such as numpy.save(FILE, numpy.load(FILE).astype(int)) writes"
        )
    train, values = evidence.train, evidence.train.latents.latents.flatten(1).numpy()
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75), axis=0)
    far = ((np.abs(values - middle) > FAR * (high - low)) & (high > low)).any(1).nonzero()[0]
    if not len(far):
        return ""
    where = f"episode {train.episode_of[far[0]]}, frame {train.frames.frame_of[train.rows[far[0]]]}"
    few = checks.counted(len(far), "training pair")
    text = f"{few} (first: {where}) of {len(values)} have labels so far off that they hide what others say: more than "
    return f"{text}{FAR:,} times the distance between quartiles. NaN in its place leaves a label out"


def made_of_actions(evidence: LatentEvidence) -> Verdict | None:
    """Tell labels that were made from the actions which are read from them; None of others."""
    if not isinstance(evidence, GivenEvidence):
        return None
    values = [rows[0].value("linear", 0) or 0.0 for rows in evidence.probes.values()]
    best, spec = max(values, default=0.0), evidence.model.spec
    tokens = spec is not None and spec.target == "chunk"
    if not tokens and best < EXACT:
        return None
    what = "The labels are codes of an action tokenizer" if tokens else "The labels hold the actions themselves"
    text = f"{what}: R² {printed(best, '.2f')} says how much of an action they keep, not what video shows"
    return Verdict(text, None, OF_ACTIONS)


def by_the_clock(verdicts: Sequence[Verdict], kind: str) -> bool:
    """Return whether labels are no better than those of another episode of the task at the same moment."""
    return any(each.key == f"{kind}_against_other_episode" and not each.holds for each in verdicts)


def only(count: int) -> str:
    """Say that few episodes were."""
    return "only one episode was" if count == 1 else f"only {count} episodes were"


def decision(
    evidence: Any, against: Verdict, texts: Mapping[bool | None, str], numbers: Sequence[str], judged: str
) -> Decision:
    """Decide as the verdict against the best control does, by `numbers`: R², its difference, others; where too few
    episodes are `judged`, say how more are."""
    if FEW_EPISODES not in against.text:
        r2, *others = numbers
        shown = "; ".join([", ".join([r2, *others[:1]]), *others[1:]])
        return Decision(20, against.holds, f"{texts[against.holds]} ({shown}).", by=against.about)
    case = evidence.case
    hold_out = hold_out_more([case], lambda found: case.fill(command("evaluate", MODEL, DATASET), found[0]))
    few = f"{only(evidence.bootstrap.count)} {judged}"
    return Decision(20, None, f"Unclear: {few}, and {FEW_EPISODES} ({numbers[0]}).", way_out=hold_out)


def _called(evidence: Any, kind: str) -> str:
    """Name what is read: that of a model, or labels as such."""
    return "the labels" if isinstance(evidence, GivenEvidence) else f"its {kind}"


def _reading(evidence: Any, figures: dict[str, float], kind: str, rival: ProbeRow | None) -> str:
    """Compare the model with the strongest control in one sentence."""
    if f"r2_from_{kind}/{kind}" not in figures or rival is None:
        return ""

    def share(key: str, prefix: str = "") -> str:
        return explained_share(figures[f"{prefix}r2_from_{kind}/{key}"])

    what = _called(evidence, kind)
    text = f"{what[:1].upper()}{what[1:]} explain {share(kind)} of how the actions of held-out episodes vary, "
    text += f"{rival.plain} {share(rival.key)}"
    if f"r2_from_{kind}/{LABELS_ONLY}" in figures:
        text += f", the same encoder trained on labels alone {share(LABELS_ONLY)}"
    if all(f"task_r2_from_{kind}/{key}" in figures for key in (kind, rival.key)):
        text += f"; on tasks the readout has not seen {share(kind, 'task_')} against {share(rival.key, 'task_')}"
    own = evidence.probes[kind][0]
    return f"{text}. {weakest(evidence, own, rival)}".rstrip()


def weakest(evidence: Any, own: ProbeRow, rival: ProbeRow) -> str:
    """Name the dimension that a row says least about, and what its control says of it; empty where only one moves."""
    first = 2 if evidence.space else 1
    values = [(value, i) for i in range(len(evidence.names)) if (value := own.value("linear", first + i)) is not None]
    if len(values) < 2:
        return ""
    least, i = min(values)
    beside = rival.value("linear", first + i)
    said = "" if beside is None else f", {printed(beside, '.2f')} by {rival.plain}"
    return f"Weakest dimension: {evidence.names[i]}, R² {printed(least, '.2f')}{said}."


def readout_figures(evidence: Any, source: str, rows: Sequence[ProbeRow]) -> dict[str, float]:
    """Name figures such as `r2_from_codes/whose`, of the `source` "from_codes"; add intervals of the model."""
    found: dict[str, float] = {}
    for row in rows:
        for probe, score in row.scores.items():
            for i, what in enumerate(("r2", "r2_xyz") if evidence.space else ("r2",)):
                name, interval = f"{PREFIXES[probe]}{what}_{source}", score.intervals[i]
                if (value := score.values[i]) is not None:
                    found[f"{name}/{row.key}"] = value
                if interval is not None and not row.control:
                    found[f"{name}_low/{row.key}"], found[f"{name}_high/{row.key}"] = interval
    return found


def _tables(evidence: LatentEvidence, kind: str, rows: Sequence[ProbeRow]) -> list[Table]:
    """Show the probe per dimension, and the same on held-out tasks, folded."""
    rows = sorted(rows, key=lambda row: row.reference)  # ceilings stand last
    given = isinstance(evidence, GivenEvidence)  # what needs a model is no control of it
    if kind == "codes":
        name, detail = "From codes", f": at most {evidence.tokens * math.log2(evidence.size):.0f} bits per pair"
        note = "Residual k-means has the same number of levels and codes, and no learning; "
        note += "widths are chosen on training episodes. Current frame and mean action are not limited in bits."
    else:
        name, detail = "From continuous latents", ""
        note = "PCA widths are the best of 32, 64 and 128 on training episodes."
    if evidence.labels_only is not None:
        note += f" Labels alone: {evidence.labels_only[1]}."
    tasks = f"Held-out tasks, {evidence.folds[1]}; the model and unsupervised controls may have seen them."
    per_dimension = ("mean", *(("x, y, z",) if evidence.space else ()), *evidence.names)

    def table(title: str, probe: str, note: str, folded: bool) -> Table:
        shown = tuple(row.shown(probe) for row in rows if probe in row.scores or (row.not_run and not given))
        return Table(f"{name}{title}", per_dimension, shown, "higher", digits=".2f", note=note, folded=folded)

    found = [table(detail, "linear", note, False)]
    if "task_linear" in rows[0].scores:
        found.append(table(": linear probe, held-out tasks", "task_linear", tasks, True))
    return found


def readout_verdicts(evidence: LatentEvidence, kind: str, rows: Sequence[ProbeRow]) -> list[Verdict]:
    """Judge the model's first row against the best control, and against labels alone where that was run."""
    found = []
    for probe, column, what, key in COMPARED:
        best = strongest(rivals_of(rows), probe, column)
        if best is not None and (evidence.space or column == 0):
            about = BY_KEY[f"{kind}_{key}"]
            found.append(comparison(evidence, what.format(kind), rows[0], best, probe, column, about, best=True))
    for key, name in ((OTHER_EPISODE, "other_episode"), (LABELS_ONLY, "labels_alone")):
        other, about = next(row for row in rows if row.key == key), BY_KEY[f"{kind}_against_{name}"]
        found.append(comparison(evidence, COMPARED[0][2].format(kind), rows[0], other, "linear", 0, about))
    return [verdict for verdict in found if verdict is not None]


def apart(evidence: Any, own: ProbeRow, other: ProbeRow, probe: str = "linear", column: int = 0) -> Interval | None:
    """Return the interval of the difference of two rows over the same draws of episodes."""
    draws = [evidence.bootstrap.r2(row.scores[probe].probe) for row in (own, other)]
    picked = evidence.space if column == 1 else slice(None)
    return evidence.bootstrap.interval((draws[0] - draws[1])[:, picked].nanmean(1))


def comparison(
    evidence: Any,
    what: str,
    own: ProbeRow,
    other: ProbeRow,
    probe: str,
    column: int,
    about: Criterion,
    best: bool = False,
) -> Verdict | None:
    """Compare two rows of evidence, of which the other may be the `best` control, with the interval of their difference
    over the same draws of episodes."""
    values = [row.value(probe, column) for row in (own, other)]
    if values[0] is None or values[1] is None:
        return None
    span = apart(evidence, own, other, probe, column)
    holds = above_zero(values[0] - values[1], span)
    word = {None: "too close to tell from", True: "above", False: "not above"}[holds] if span else "to compare with"
    mine, theirs = (printed(value, ".2f") for value in values if value is not None)
    against = f"the best control, {other.plain}" if best else other.plain
    return Verdict(f"{what}: R² {mine}, {word} {against} ({theirs}); {difference(span)}", holds, about)
