"""Latent action models side by side, on the same held-out episodes, with the probes and controls of `evaluate`: a row
for each, their controls as columns, and which of them may label. Action tokenizers: see `tokenizers`.

Every figure that a single evaluation has is the same one here, under its name after that of the model.
"""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from lattok import hub
from lattok.data import RobotDataset, as_dataset
from lattok.data.episodes import FEW_HELD_OUT
from lattok.data.schema import own_vectors
from lattok.evaluation.candidate import Candidate, probe_candidate
from lattok.evaluation.evidence import Case, EvalOptions, provenance_of
from lattok.evaluation.evidence.latent_evidence import LatentEvidence
from lattok.evaluation.evidence.probes import above_zero
from lattok.evaluation.page import check_place, svg, write
from lattok.evaluation.questions import next_steps, with_advice
from lattok.evaluation.questions.history import OVERLAP, TRIAL, hold_out_more, overlap, trial_steps
from lattok.evaluation.questions.readout import MEASURE, only
from lattok.evaluation.report import FEW_EPISODES, Answer, Pictures, Report, Section, Table, TableRow, Verdict, printed
from lattok.evaluation.tokenizers import compare_tokenizers
from lattok.image_lam.base.pair_model import PairModel
from lattok.image_lam.clips import ClipLAM
from lattok.types import ActionTokenizer
from lattok.utils import checks
from lattok.utils.checks import LattokError
from lattok.utils.devices import moved

MAX_BARS = 8  # models in the chart
QUESTION = "Which of these models should label this dataset?"
OWN = {"r2": "all", "gain": "gain over the best control"}  # columns, by figure: of all tasks, and of new ones
OWN |= {"r2_xyz": "position", "r2_rotation": "rotation", "r2_gripper": "gripper"}
NEW = {"task_r2": "new tasks", "task_gain": "gain over the best control", "r2": "all tasks"}
COSTS = {
    "bits": "bits",
    "joint_entropy_bits/model": "joint entropy",
    "joint_entropy_bits/ceiling": "ceiling",
    "latent_width": "latent width",
    "stride_frames": "stride, frames",
    "cameras": "cameras",
    "parameters": "parameters",
    "megabytes": "weights, MB",
}
CONTROLS = {  # that stand as columns, of codes and of latents
    "codes": {
        "residual_kmeans": "frame clustering",
        "flow_kmeans": "motion clustering",
        "untrained": "untrained model",
        "current_frame": "one frame",
    },
    "latents": {
        "pca_change_equal_width": "frame change",
        "pca_flow": "block motion",
        "untrained": "untrained model",
        "current_frame": "one frame",
    },
}


def compare(
    dataset: RobotDataset | str | os.PathLike[str],
    models: Sequence[Any] | Mapping[str, Any],
    *,
    device: str | None = None,
    **options: Any,
) -> Report:
    """Judge latent action models of pairs or clips, or action tokenizers, on the same episodes: a row for each.

    `models`: folders, Hub ids or loaded ones, or a mapping of these by name. They are loaded one after the other, moved
    to `device` where one is given; those that see frames of the same cameras and size in a row share the decoded ones.
    A model of video is judged at its own `stride` and cameras unless others are given; it takes as many of `cameras`
    as it has. Other `options` are those of `EvalOptions`; figures are those of `evaluate`: `NAME/r2_from_codes/codes`.

    Raises `LattokError` for models of other kinds or without names of their own, an unknown option, a dataset
    without actions, and where `out` holds something else.
    """
    chosen, dataset = EvalOptions.of(options, "device"), as_dataset(dataset)
    named, of_actions = _named(models)
    action_key = chosen.action_key
    if action_key is None or not own_vectors(dataset):
        got = f"{action_key!r:.60}, and {dataset.name} has no vectors" if action_key is not None else "None"
        hint = "Judge each model alone: evaluate asks the questions that need no actions."
        checks.fail("action_key", "a column of actions: they are what labels are compared by", got, hint)

    def opened(model: Any, place: hub.Place | None) -> Any:
        return moved(model if place is None else hub.family_of(place.folder).from_place(place), device)

    if of_actions:
        report = compare_tokenizers({name: opened(*each) for name, each in named.items()}, dataset, chosen)
        return _kept(report, chosen)
    split, decoded, candidates, known = chosen.split(dataset, action_key), {}, list[Candidate](), dict[str, Case]()
    for name, each in named.items():
        try:
            loaded = opened(*each)
            case = Case(loaded, dataset, split, _own_options(chosen, name, loaded))
            candidates.append(_candidate(name, case, decoded))
            told = SimpleNamespace(address=loaded.address, trained_on=loaded.trained_on)  # weights go
            known[name] = replace(case, model=told)
        except LattokError as error:
            raise LattokError(f"{name}: {error}") from None
        del loaded, case  # a model goes before the next one comes
    keys = {"action_key": action_key, "state_key": chosen.state_key}
    provenance = {
        "models": {each.name: each.facts for each in candidates},
        **provenance_of(dataset, split, seed=chosen.seed, **keys),
    }
    return _kept(_report(candidates, known, chosen, provenance), chosen)


def _kept(report: Report, options: EvalOptions) -> Report:
    if options.folder is not None:
        check_place(options.folder, report.provenance, options.overwrite)
        write(report, options.folder)
    return report


def _own_options(options: EvalOptions, name: str, model: Any) -> EvalOptions:
    """Return the options of one model: as many cameras as it has, and progress with its name in front."""
    views = None if options.cameras is None else tuple(options.cameras)[: len(model.cameras)]
    if views is not None:
        checks.size("cameras", f"names, as many as {name} sees", len(views), len(model.cameras))

    def note(stage: str, done: int, total: int) -> None:
        options.note(f"{name}: {stage}", done, total)

    return replace(options, cameras=views, progress=note)


def _candidate(name: str, case: Case, decoded: dict[Any, Any]) -> Candidate:
    """Gather the evidence on one model and probe it; frames and latents are let go of again."""
    with case.eval_mode():
        found = probe_candidate(name, LatentEvidence.gather(case, decoded))
    doubts = [Verdict(f"{name}: {each.text}", each.holds, each.about) for each in overlap(case)]
    if (steps := trial_steps(case.model.trained_on)) is not None:
        doubts.append(Verdict(f"{name}: a trial run of {steps} steps, whose figures mean nothing", False, TRIAL))
    return found._replace(verdicts=list(with_advice([*doubts, *found.verdicts], case)))


def _named(models: Sequence[Any] | Mapping[str, Any]) -> tuple[dict[str, tuple[Any, hub.Place | None]], bool]:
    """Name the models, loaded or by their place, and say whether they are action tokenizers.

    All are looked at before any is loaded.
    """
    if isinstance(models, str | os.PathLike) or not isinstance(models, Mapping | Sequence) or not models:
        checks.fail("models", "folders, Hub ids or models, one or more of them", f"{models!r:.60}")
    found: dict[str, tuple[Any, hub.Place | None]] = {}
    of_actions = set[bool]()
    given = list(models.items()) if isinstance(models, Mapping) else [(None, model) for model in models]
    for name, model in given:
        place = hub.resolve(model, argument="models") if isinstance(model, str | os.PathLike) else None
        kind: Any = model if place is None else hub.family_of(place.folder, "models")
        family = kind if isinstance(kind, type) else type(kind)
        of_actions.add(issubclass(family, ActionTokenizer))
        if len(of_actions) > 1 or not issubclass(family, PairModel | ClipLAM | ActionTokenizer):
            got = type(model).__name__ if place is None else f"{kind.type!r} in {place.folder}"
            checks.fail("models", "latent action models of frame pairs or clips, or action tokenizers alone", got)
        source = kind.source if place is None else place.hub_id or place.folder.resolve().name
        name = str(name or source or kind.type)
        if name in found:
            with suppress(TypeError):  # two folders of the same name
                name = os.fspath(model)
        if name in found:
            hint = 'Name them: {"a": MODEL, "b": MODEL}.'
            checks.fail("models", "models with different names", f"{name!r} twice", hint)
        found[name] = model, place
    return found, of_actions == {True}


def _report(
    candidates: Sequence[Candidate], known: Mapping[str, Case], options: EvalOptions, provenance: dict[str, Any]
) -> Report:
    """Put models next to each other; `known` says by name what was asked of each."""
    ranked = sorted(candidates, key=lambda each: -(each.r2 or -math.inf))
    first = known[ranked[0].name]

    def judge(addresses: list[str]) -> str:
        return shlex.join(
            ["lattok", "compare", first.dataset.address or "DATASET", "--models", *addresses, *options.flags]
        )

    few = ranked[0].bootstrap.count < FEW_HELD_OUT
    answer = _answer(ranked, hold_out_more([*known.values()], judge) if few else "")
    strides = sorted({each.facts["stride_frames"] for each in candidates})
    apart = "" if len(strides) == 1 else (
        f" Strides differ ({', '.join(map(str, strides))} frames): each model is asked about the mean action over "
        "its own gap, which is not the same target; give a stride to ask all about the same."
    )  # fmt: skip
    text = (
        "Linear regression from each model's labels to the mean action between the two frames, fitted on the training "
        "episodes, judged on the held-out ones, with 95 % intervals over these; the same as in lattok evaluate. "
        f"Controls have the bits of the model that they stand next to, or its width.{apart}"
    )
    read_tables, task_tables = (
        tuple(table for kind in CONTROLS if (table := _table(candidates, kind, columns)).rows) for columns in (OWN, NEW)
    )
    pictures = (_bars(ranked), _picture(candidates))
    read = Section("What do the labels say about the action?", text, read_tables, pictures, open=True)
    tasks = Section(
        "Do labels mean the same in other tasks?",
        "The same probes, fitted without the tasks that they are judged on: what the labels of one task say about the "
        "action helps on another only where they mean the same. Models and controls may have seen these tasks.",
        task_tables,
    )
    costs = Section(
        "What do labels cost?",
        "A label takes as many bits as its codes can tell apart; joint entropy is what whole rows of codes carry on "
        "the held-out pairs, at most the ceiling that so many pairs can show. The time that each takes "
        "to label differs from run to run; it is in speed.json beside this page.",
        (_costs(candidates),),
    )
    verdicts = tuple(verdict for each in candidates for verdict in each.verdicts)
    figures = {f"{each.name}/{key}": value for each in candidates for key, value in each.figures.items()}
    title = f"{len(candidates)} latent action model{'s' * (len(candidates) > 1)} on {first.dataset.name}"
    sections = (read, *([tasks] if task_tables else []), costs)
    speed = {each.name: each.speed for each in candidates}
    steps = next_steps(answer, verdicts, first.named(LatentEvidence.use.replace("it:", f"{ranked[0].name}:")))
    found = (verdicts, figures, sections, provenance, answer, steps, speed)
    return Report("comparison", title, _reading(ranked), *found)


def _reading(ranked: Sequence[Candidate]) -> str:
    shown = []
    for each in ranked:
        if (value := each.r2) is not None:
            gain = each.figure("gain", each.kind)[0]
            by = "" if gain is None else f" ({printed(gain, '+.2f')} against its best control)"
            shown.append(f"the {each.kind} of {each.name} explain {printed(value, '.2f')}{by}")
    text = ", ".join(shown)
    return f"Of the action's variance on held-out episodes {text}." if text else "The actions never change."


def _answer(ranked: Sequence[Candidate], hold_out: str) -> Answer:
    best, value = ranked[0], ranked[0].r2
    if value is None:
        return Answer(QUESTION, None, "That cannot be told: the actions of these episodes never change.")
    doubtful = [each.name for each in ranked if any(v.about in (OVERLAP, TRIAL) for v in each.verdicts)]
    if doubtful:
        text = f"That cannot be told from this page: see the verdicts about {' and '.join(doubtful)}."
        return Answer(QUESTION, None, text)
    says, against = f"{best.name}, whose {best.kind} say", best.verdicts[-1].holds
    shown = f"(R² {printed(value, '.2f')})."
    if (count := best.bootstrap.count) < FEW_HELD_OUT:
        text = f"That cannot be told: {only(count)} held out, and {FEW_EPISODES}."
        return Answer(QUESTION, None, f"{text} Here {says} most about the action {shown} {hold_out}".rstrip())
    if against is False:
        text = f"None of them: something that learned nothing says as much about the action as {says} most here"
        return Answer(QUESTION, False, f"{text} {shown}")
    if len(ranked) == 1:
        return Answer(QUESTION, against, f"{says} most about the action {shown}")
    near = ranked[1]
    gain = value - (near.r2 or 0.0)
    span = best.bootstrap.interval(best.draws - near.draws) if count == near.bootstrap.count else None
    holds = above_zero(gain, span)
    between = "" if span is None else ", difference {} … {}".format(*(printed(end, "+.2f") for end in span))
    numbers = f"R² {printed(value, '.2f')} against {printed(near.r2 or 0.0, '.2f')}{between}"
    if holds:
        caveat = "" if against else " Mind that its lead over the best control is within the noise."
        return Answer(QUESTION, against, f"{says} most about the action; {near.name} follows ({numbers}).{caveat}")
    return Answer(QUESTION, None, f"{best.name} or {near.name}: they say about as much about the action ({numbers}).")


def _table(candidates: Sequence[Candidate], kind: str, columns: Mapping[str, str]) -> Table:
    """Make the table of codes or of latents: figures of the model that there are, and R^2 of its controls."""
    what = next(iter(columns))
    shown = {
        key: name for key, name in columns.items() if any(each.figure(key, kind)[0] is not None for each in candidates)
    }
    rows = []
    for each in (one for one in candidates if one.figure(what, kind)[0] is not None):
        controls = [(each.figures.get(f"{what}_from_{kind}/{key}"), None) for key in CONTROLS[kind]]
        values, intervals = zip(*(each.figure(key, kind) for key in shown), *controls, strict=True)
        rows.append(TableRow(each.name, each.name, values, control=False, intervals=intervals))
    title = f"R² of {kind}" + (" on new tasks" if columns is NEW else " before quantization" * (kind == "latents"))
    return Table(title, (*shown.values(), *CONTROLS[kind].values()), tuple(rows), better="higher", digits=".2f")


def _costs(candidates: Sequence[Candidate]) -> Table:
    digits = (".1f", ".2f", ".2f", ".0f", ".0f", ".0f", ",.0f", ".1f")
    rows = [TableRow(each.name, each.name, tuple(map(each.figures.get, COSTS)), control=False) for each in candidates]
    note = "Weights include frozen features."
    return Table("Bits and size", tuple(COSTS.values()), tuple(rows), digits=digits, note=note)


def _bars(ranked: Sequence[Candidate]) -> Pictures:
    bars = []
    for each in ranked[:MAX_BARS]:
        gain = each.figure("gain", each.kind)[0]
        bars.append((each.name, "model", each.r2))
        bars.append(("its best control", "rival", None if each.r2 is None or gain is None else each.r2 - gain))
    chart = svg.bars("What the labels say about the action, R²", bars, ".2f")
    return Pictures(MEASURE, (chart,), wide=True, top=True)


def _picture(candidates: Sequence[Candidate]) -> Pictures:
    """Draw bits against R^2, with k-means at the bits of each model."""
    points = []
    for each in candidates:
        value, span = each.figure("r2", each.kind)
        if value is None:
            continue
        bits = each.figures.get("bits")
        points.append((each.name, "model", bits, value, span))
        scores = [each.figures.get(f"r2_from_codes/{key}") for key in ("residual_kmeans", "flow_kmeans")]
        rival = max((score for score in scores if score is not None), default=None)
        if rival is not None and not any(point[1:4] == ("rival", bits, rival) for point in points):
            points.append(("k-means", "rival", bits, rival, None))
    caption = (
        "R² over all dimensions against the bits of a label, with 95 % intervals; the line joins models that no "
        "other beats in both. Orange: the better k-means control at equal bits. Dashed: continuous latents, which have "
        "no bits."
    )
    panel = svg.pareto("Bits and R²", points, ("bits", "R²"))
    return Pictures(caption, (panel,), wide=True, top=True)
