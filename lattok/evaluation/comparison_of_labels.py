"""What labels video, and labels alone, side by side on the same held-out episodes, with the probes and controls of
`evaluate`: a row for each, their controls as columns, and which of them may label.

Every figure that a single evaluation has is the same one here, under its name after that of the model.
"""

import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lattok.data import RobotDataset, dimension_names
from lattok.data.episodes import FEW_HELD_OUT
from lattok.evaluation.evidence import Case, EvalOptions, Split, naming, provenance_of
from lattok.evaluation.evidence.latent_evidence import LABEL, GivenEvidence, LatentEvidence, learn_from
from lattok.evaluation.evidence.probe_rows import AS_THEY_ARE, PREFIXES, ProbeRow, rivals_of, strongest
from lattok.evaluation.evidence.probes import Bootstrap, above_zero
from lattok.evaluation.page import svg
from lattok.evaluation.page.episode import EpisodeCodes, EpisodeView, curves, episode_strip, films_of
from lattok.evaluation.questions import next_steps, with_advice
from lattok.evaluation.questions.history import doubted, doubts, hold_out_more, overlap
from lattok.evaluation.questions.moment import moment_outcome
from lattok.evaluation.questions.readout import (
    MEASURE,
    by_the_clock,
    hidden,
    made_of_actions,
    only,
    readout_figures,
    readout_verdicts,
)
from lattok.evaluation.report import Answer, Interval, Pictures, Report, Section, Table, TableRow, Verdict
from lattok.evaluation.wording import FEW_EPISODES, lowered, printed
from lattok.labels import GivenLabels
from lattok.nn.normalize import gripper_dims
from lattok.nn.quantize import code_statistics
from lattok.types import Episode
from lattok.utils import checks
from lattok.utils.commands import DATASET, MODEL, NOTHING, Advice, Command, advise, command
from lattok.utils.devices import module_of

ROTATION = re.compile(r"(?:^|[^a-z])(?:roll|pitch|yaw|[rw][xyz])(?:$|[^a-z])|rot|quat|euler|axis_?angle")
FACTS = ("cameras", "stride_frames", "held_out_pairs")
MIN_FRAMES, SECONDS, MAX_RUNS = 64, 1.0, 5  # that are labelled to see how fast a model is: so many, so long, so often
MOST_ALIKE = 0.9  # of the pairs that one has labels of, and the other too
MAX_BARS = 8  # models in the chart
QUESTION = "Which of these models should label this dataset?"
OF_LABELS = "Which of these labels should a policy learn from?"  # where some are there already
PARTS = {"r2_xyz": "position", "r2_rotation": "rotation", "r2_gripper": "gripper"}  # columns, by figure
COSTS = {
    "bits": "bits",
    "joint_entropy_bits/model": "joint entropy",
    "joint_entropy_bits/ceiling": "ceiling",
    "latent_width": "latent width",
    "stride_frames": "stride, frames",
    "parameters": "parameters",
}
DIGITS = (".1f", ".2f", ".2f", ".0f", ".0f", ",.0f")  # of the costs
BOTH = {"untrained": "untrained model", "current_frame": "one frame"}
CONTROLS = {  # that stand as columns, of codes and of latents
    "codes": {"residual_kmeans": "frame clustering", "flow_kmeans": "motion clustering", **BOTH},
    "latents": {"pca_change_equal_width": "frame change", "pca_flow": "block motion", **BOTH},
}


class ShownEpisode(NamedTuple):
    """What there is of the first held-out episode."""

    episode: Episode
    moments: np.ndarray  # [T] first frames of pairs
    true: Tensor  # [T, m] actions over the gap
    read: Tensor  # [T, m] as the probe reads them
    codes: np.ndarray | None  # [T, P]


class Candidate(NamedTuple):
    """One model, of which weights and frames are gone."""

    name: str
    case: Case
    kind: str  # by what it is compared: its "codes", or the "latents" of a continuous one
    figures: dict[str, float]
    bootstrap: Bootstrap
    draws: Tensor  # of R^2 of its labels over all dimensions
    seen: ShownEpisode
    verdicts: Sequence[Verdict]  # the last one against the best control
    use: Advice  # what to do with it if it is the best
    better: str  # why given labels may be better than they look; empty otherwise
    facts: dict[str, Any]
    speed: dict[str, Any]  # differs from run to run

    def figure(self, what: str, kind: str) -> tuple[float | None, Interval | None]:
        """Return a figure of its codes or latents, such as "r2" or "gain", with its interval."""
        name = f"{what}_from_{kind}"
        value, low, high = (self.figures.get(f"{name}{end}/{kind}") for end in ("", "_low", "_high"))
        return value, None if low is None or high is None else (low, high)

    @property
    def given(self) -> bool:
        """Whether these are labels that are there already, rather than a model's."""
        return self.facts["type"] == GivenLabels.type

    @property
    def r2(self) -> float | None:
        """R^2 of its labels over all dimensions; None where the actions never change."""
        return self.figure("r2", self.kind)[0]


def compare_labels(models: Mapping[str, Callable[[], Any]], dataset: RobotDataset, options: EvalOptions) -> Report:
    """Open models one after the other, probe each, and put their figures next to each other."""
    split, decoded, found = options.split(dataset, options.action_key), dict[Any, Any](), list[Candidate]()
    for name, opened in models.items():
        with naming(name):
            found.append(_candidate(name, opened(), dataset, split, options, decoded))
    asked = {"seed": options.seed, "action_key": options.action_key, "state_key": options.state_key}
    about = provenance_of(dataset, split, **asked, **({"any_rate": True} if options.any_rate else {}))
    return _report(found, options, {"models": {each.name: each.facts for each in found}, **about})


def _candidate(
    name: str, model: Any, dataset: RobotDataset, split: Split, options: EvalOptions, decoded: dict[Any, Any]
) -> Candidate:
    """Probe one model, and time it; `decoded` keeps frames for the next one."""
    case = Case(model, dataset, split, options.of_one(name, model, dataset))
    moment, better, speed = list[Verdict](), "", dict[str, Any]()
    with case.eval_mode():
        given = isinstance(model, GivenLabels)
        evidence = (GivenEvidence if given else LatentEvidence).gather(case, decoded)
        probes, size = evidence.probes, _size(evidence)  # some probes: `compare` asks for actions
        if isinstance(evidence, GivenEvidence):
            moved = moment_outcome(evidence)
            moment = [each for each in moved.verdicts if each.holds is False] if moved else []
            better = hidden(evidence) or "".join(lowered(each.text) for each in moment)
            moment += [of_actions] if (of_actions := made_of_actions(evidence)) else []
        else:
            speed = _speed(evidence)
        kind = next(iter(probes))
        wanted = [f"{kind}_against_other_episode", f"{kind}_against_controls"]  # none where actions never change
        judged = {each.key: each for each in readout_verdicts(evidence, kind, probes[kind])}
        against = [judged[key] for key in wanted if key in judged]
        figures, draws = {**_figures(evidence, probes), **size}, _draws(evidence, probes[kind][0])
        seen = _seen(evidence, probes[kind][0])
    less = [replace(each, text=lowered(each.text)) for each in (*moment, *against)]
    said = [*doubts(overlap(case), model.trained_on), *less]
    verdicts = with_advice([replace(each, text=f"{name}: {each.text}") for each in said], case)
    facts = {**model.describe(), **{key: evidence.provenance[key] for key in FACTS}}
    use = learn_from(case) if given else case.filled(advise(f"Label data with {name}", LABEL))
    address = getattr(model, "address", "")
    case = replace(case, model=SimpleNamespace(address=address, trained_on=model.trained_on))
    return Candidate(name, case, kind, figures, evidence.bootstrap, draws, seen, verdicts, use, better, facts, speed)


def _seen(evidence: LatentEvidence, own: ProbeRow) -> ShownEpisode:
    held_out, target = evidence.held_out, evidence.target
    assert target is not None
    first = held_out.episode_of[0]
    here = torch.from_numpy(np.flatnonzero(held_out.episode_of == first))
    (episode,) = (each for each in evidence.source.dataset.episodes if each.index == first)
    codes = held_out.latents.codes[here].numpy() if evidence.codes else None
    moments = held_out.frames.frame_of[held_out.rows[here]]
    return ShownEpisode(episode, moments, target.held_out[here], own.scores["linear"].probe.predicted[here], codes)


def _draws(evidence: LatentEvidence, row: ProbeRow, probe: str = "linear", dims: Any = slice(None)) -> Tensor:
    """Compute R^2 of a row over some dimensions, per draw of episodes."""
    return evidence.bootstrap.r2(row.scores[probe].probe)[:, dims].nanmean(1)


def _figures(evidence: LatentEvidence, probes: Mapping[str, Sequence[ProbeRow]]) -> dict[str, float]:
    figures = dict[str, float]()

    def add(what: str, kind: str, value: float, values: Tensor) -> None:
        figures[f"{what}_from_{kind}/{kind}"] = value
        if (span := evidence.bootstrap.interval(values)) is not None:
            figures[f"{what}_from_{kind}_low/{kind}"], figures[f"{what}_from_{kind}_high/{kind}"] = span

    rotation = [i for i, each in enumerate(evidence.names) if ROTATION.search(each.lower())]
    groups = {"r2_rotation": rotation, "r2_gripper": gripper_dims(evidence.names)}
    for kind, (own, *rows) in probes.items():
        figures |= readout_figures(evidence, f"from_{kind}", [own, *rows])
        for group, dims in groups.items():
            value = float(own.scores["linear"].probe.r2[dims].nanmean())
            if not math.isnan(value):
                add(group, kind, value, _draws(evidence, own, dims=dims))
        for probe, prefix in PREFIXES.items():  # how much more its labels say than the best control
            best = strongest(rivals_of(rows), probe)
            mine, theirs = (None if row is None else row.value(probe, 0) for row in (own, best))
            if best is not None and mine is not None and theirs is not None:
                gain = _draws(evidence, own, probe) - _draws(evidence, best, probe)
                add(f"{prefix}gain", kind, mine - theirs, gain)
    if "codes" in probes:
        codes = evidence.held_out.latents.codes
        statistics = code_statistics(codes, evidence.size)
        figures["bits"] = codes.shape[1] * math.log2(evidence.size)
        figures["joint_entropy_bits/model"] = statistics.joint_entropy
        figures["joint_entropy_bits/ceiling"] = statistics.joint_ceiling
    return figures


def _size(evidence: LatentEvidence) -> dict[str, float]:
    """Return the size of labels, and that of a model that gives them, frozen features included."""
    size, model = dict[str, float](), evidence.model
    if not isinstance(model, GivenLabels):
        module = model if isinstance(model, torch.nn.Module) else torch.nn.Module()
        size["parameters"] = float(sum(p.numel() for p in module.parameters()))
    size["latent_width"] = float(evidence.held_out.latents.latents.flatten(1).shape[1])
    return size | {"stride_frames": float(evidence.source.stride)}


@torch.no_grad()
def _speed(evidence: LatentEvidence) -> dict[str, Any]:
    """Measure how fast a model labels, on the device where it is. It labels the beginning of the longest episode,
    decoded and at its size, a few times. All cameras of a moment are one frame."""
    evidence.case.options.note("speed", 0, 1)
    model, stride, frames = evidence.model, evidence.source.stride, evidence.held_out.frames
    device = getattr(model, "device", torch.device("cpu"))
    inputs = {"task": ""} if model.reads_task else {}
    here = frames.episode_of == torch.bincount(torch.from_numpy(frames.episode_of)).argmax().item()
    first = int(frames.first[here].min())
    video = frames.frames[first : min(first + max(MIN_FRAMES, stride + 1), int(frames.second[here].max()) + 1)]
    module = module_of(device)
    model.label_video(video, stride, **inputs)  # warm
    if module is not None:
        module.reset_peak_memory_stats(device)
    took: list[float] = []
    while not took or (sum(took) < SECONDS and len(took) < MAX_RUNS):
        start = time.perf_counter()
        model.label_video(video, stride, **inputs)
        took.append(time.perf_counter() - start)
    evidence.case.options.note("speed", 1, 1)
    peak = None if module is None else module.max_memory_allocated(device) / 1e6
    return {"frames_per_second": len(video) / min(took), "device_megabytes": peak, "device": device.type}


def _report(candidates: Sequence[Candidate], options: EvalOptions, provenance: dict[str, Any]) -> Report:
    ranked = sorted(candidates, key=lambda each: math.inf if each.r2 is None else -each.r2)
    first = ranked[0].case

    def judge(addresses: list[str], *more: str) -> Command:
        where, words = first.dataset.address or DATASET, list[str]()
        for flag, given in (("--models", False), ("--labels", True)):
            named = [name for name, each in zip(addresses, candidates, strict=True) if each.given == given]
            words += [flag, *named] if named else []
        return command("compare", where, *words, *more, *options.flags)

    strides, way_out = sorted({each.facts["stride_frames"] for each in candidates}), NOTHING
    if ranked[0].bootstrap.count < FEW_HELD_OUT:
        way_out = hold_out_more([each.case for each in candidates], judge)
    elif len(strides) > 1 and not any(each.given for each in candidates):  # those belong to a stride of their own
        addresses = [each.case.model.address or MODEL for each in candidates]
        way_out = advise(
            "Ask all about the same stride", judge(addresses, "--stride", f"{strides[-1]}", *options.chosen)
        )
    answer = _minding(ranked, way_out, strides)
    gaps = checks.listed([f"{stride / first.dataset.fps:.3g} s" for stride in strides])
    apart = "" if len(strides) == 1 else (
        f" Strides differ ({', '.join(map(str, strides))} frames): each model is asked about the mean action over "
        "its own gap, which is not the same target."
    )  # fmt: skip
    text = (
        f"Linear regression from each model's labels to the mean action between two frames, {gaps} apart, fitted on "
        "the training episodes, evaluated on the held-out ones, with 95 % intervals over these; the same as in lattok "
        "evaluate. On new tasks: the same, fitted without the tasks that judge; models and controls may have seen "
        f"these. Controls have the bits of the model that they stand next to, or its width.{apart}"
    )
    tables = tuple(table for kind in CONTROLS if (table := _table(candidates, kind)).rows)
    pictures = () if ranked[0].r2 is None else (_bars(ranked), _strip(ranked))
    every = () if ranked[0].r2 is None else (_differences(ranked),)
    read = Section("What do the labels say about the action?", text, (*every, *tables), pictures, open=True)
    rows = tuple(TableRow(one.name, one.name, tuple(map(one.figures.get, COSTS)), control=False) for one in candidates)
    costs = Section(
        "What do labels cost?",
        "A label takes as many bits as its codes can tell apart; joint entropy is what whole rows of codes carry on "
        "the held-out pairs, at most the ceiling that so many pairs can show. The time that each takes "
        "to label differs from run to run; it is in speed.json beside this page.",
        (Table("Bits and size", tuple(COSTS.values()), rows, digits=DIGITS),),
    )
    verdicts = tuple(verdict for each in candidates for verdict in each.verdicts)
    figures = {f"{each.name}/{key}": value for each in candidates for key, value in each.figures.items()}
    given = sum(each.given for each in candidates)
    counts = {"latent action model": len(candidates) - given, "set": given}
    counted = [checks.counted(count, noun) for noun, count in counts.items() if count]
    title = f"{' and '.join(counted)}{' of labels' if given else ''} on {first.dataset.name}"
    speed = {each.name: each.speed for each in candidates if each.speed}
    steps = next_steps(answer, verdicts, ranked[0].use)
    found = (verdicts, figures, (read, costs), provenance, answer, steps, speed)
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


def _minding(ranked: Sequence[Candidate], way_out: Advice, strides: Sequence[int]) -> Answer:
    """Answer, and leave it open where labels may be better than they look."""
    found = _answer(ranked, way_out, strides)
    caveats = [f" {each.name} may be better: {each.better}." for each in ranked if each.better]
    if ranked[0].r2 is None or not caveats:
        return found
    return replace(found, holds=None, reason=found.reason + "".join(caveats))


def _answer(ranked: Sequence[Candidate], way_out: Advice, strides: Sequence[int]) -> Answer:
    best, value = ranked[0], ranked[0].r2
    given = any(each.given for each in ranked)
    question, what = (OF_LABELS, "labels") if given else (QUESTION, "models")
    if value is None:
        return Answer(question, None, "Unclear: the actions of these episodes never change.")
    if text := doubted({each.name: each.verdicts for each in ranked}):
        return Answer(question, None, text)
    says, against = f"{best.name}, whose {best.kind} say", best.verdicts[-1].holds
    shown = f"(R² {printed(value, '.2f')})."
    if (count := best.bootstrap.count) < FEW_HELD_OUT:
        text = f"Unclear: {only(count)} held out, and {FEW_EPISODES}."
        return Answer(question, None, f"{text} Here {says} most about the action {shown}", way_out)
    if against is False:
        text = f"None of them: something that learned nothing says as much about the action as {says} most here"
        return Answer(question, False, f"{text} {shown}")
    if len(ranked) == 1:
        return Answer(question, against, f"{says} most about the action {shown}")
    if len(strides) > 1:
        text = f"Unclear: the {what} are asked about strides of {checks.listed([*map(str, strides)])} frames."
        text += " Each by its own,"
        return Answer(question, None, f"{text} {best.name} says most about the action {shown}", way_out)
    if not all(_same_pairs(each, best) for each in ranked):
        text = f"Unclear: the {what} are judged on different frames, as some of them have no label. Choose episodes "
        text += "that all of them label. Each on its own frames,"
        return Answer(question, None, f"{text} {best.name} says most {shown}")
    near = ranked[1]
    gain = value - (near.r2 or 0.0)
    span = best.bootstrap.interval(best.draws - near.draws)
    holds = above_zero(gain, span)
    between = "" if span is None else ", difference {} … {}".format(*(printed(end, "+.2f") for end in span))
    numbers = f"R² {printed(value, '.2f')} against {printed(near.r2 or 0.0, '.2f')}{between}"
    if holds:
        caveat = "" if against else " Mind that its lead over the best control is within the noise."
        if by_the_clock(best.verdicts, best.kind):
            caveat += " Mind that its labels of another episode of the task at the same moment say as much."
            against = None
        return Answer(question, against, f"{says} most about the action; {near.name} follows ({numbers}).{caveat}")
    return Answer(question, None, f"{best.name} or {near.name}: they say about as much about the action ({numbers}).")


def _same_pairs(one: Candidate, other: Candidate) -> bool:
    """Return whether two are judged on the same episodes, and on about as many pairs."""
    (few, many) = sorted(len(each.bootstrap.index) for each in (one, other))
    return one.bootstrap.episodes == other.bootstrap.episodes and few >= MOST_ALIKE * many


def _differences(ranked: Sequence[Candidate]) -> Table:
    """Put all in one table, the best first, each by what it is compared by; differences are over the same draws."""
    best, rows = ranked[0], []
    for each in ranked:
        cells = [each.figure("r2", each.kind), (None, None)]
        alike = each.facts["stride_frames"] == best.facts["stride_frames"]  # else they are asked about other actions
        if each is not best and alike and each.r2 is not None and best.r2 is not None:
            span = best.bootstrap.interval(each.draws - best.draws) if _same_pairs(each, best) else None
            cells[1] = each.r2 - best.r2, span
        cells += [each.figure(what, each.kind) for what in ("gain", "task_r2", "task_gain")]
        cells.append((each.figures.get(f"r2_from_latents/{AS_THEY_ARE}"), None))
        values, spans = zip(*cells, strict=True)
        rows.append(TableRow(each.name, f"{each.name}, {each.kind}", values, control=False, intervals=spans))
    gain = "gain over the best control"
    columns = ("R²", f"difference to {best.name}", gain, "new tasks", f"{gain} there", "without a probe")
    digits = (".2f", "+.2f", "+.2f", ".2f", "+.2f", ".2f")
    shown = [i for i in range(len(columns)) if any(row.values[i] is not None for row in rows)]
    rows = [
        replace(row, values=tuple(row.values[i] for i in shown), intervals=tuple(row.intervals[i] for i in shown))
        for row in rows
    ]
    columns, digits = (tuple(each[i] for i in shown) for each in (columns, digits))
    return Table("R² of all, the best first", columns, tuple(rows), "higher", digits=digits)


def _table(candidates: Sequence[Candidate], kind: str) -> Table:
    """Make the table of codes or of latents: R^2 of the model, as far as it has any, and of its controls. That over all
    dimensions is in the table of all, where all are compared by these."""
    columns = PARTS if all(each.kind == kind for each in candidates) else {"r2": "all", **PARTS}
    shown = {key: columns[key] for key in columns if any(one.figure(key, kind)[0] is not None for one in candidates)}
    rows = []
    for each in (one for one in candidates if one.figure("r2", kind)[0] is not None):
        controls = [(each.figures.get(f"r2_from_{kind}/{key}"), None) for key in CONTROLS[kind]]
        values, intervals = zip(*(each.figure(key, kind) for key in shown), *controls, strict=True)
        rows.append(TableRow(each.name, each.name, values, control=False, intervals=intervals))
    title = f"R² of {kind}{' before quantization' * (kind == 'latents')}"
    return Table(title, (*shown.values(), *CONTROLS[kind].values()), tuple(rows), better="higher", digits=".2f")


def _bars(ranked: Sequence[Candidate]) -> Pictures:
    bars = []
    for each in ranked[:MAX_BARS]:
        gain = each.figure("gain", each.kind)[0]
        rival = None if each.r2 is None or gain is None else each.r2 - gain
        bars += [(each.name, "model", each.r2), ("its best control", "rival", rival)]
    return Pictures(MEASURE, (svg.bars("Action read from the labels, R²", bars, ".2f"),), wide=True, top=True)


def _strip(ranked: Sequence[Candidate]) -> Pictures:
    """Draw the action as it is read from the first two, and the codes of all, over a held-out episode."""
    best, *others = (each.seen for each in ranked[:MAX_BARS])
    dataset, lines = ranked[0].case.dataset, {"truth": ("true", best.true), "model": (ranked[0].name, best.read)}
    if others and np.array_equal(others[0].moments, best.moments):
        lines["rival"] = ranked[1].name, others[0].read
    names, codes = dimension_names(dataset.features[str(ranked[0].case.options.action_key)]), list[EpisodeCodes]()
    for each in ranked[:MAX_BARS]:
        if each.seen.codes is not None and each.seen.episode == best.episode:
            row = {moment: i for i, moment in enumerate(each.seen.moments.tolist())}
            rows = np.array([row.get(moment, -1) for moment in best.moments.tolist()])
            codes.append(EpisodeCodes(each.name, each.seen.codes[rows], rows >= 0))
    legend = {key: said for key, (said, _) in lines.items()}
    drawn = curves(names, {key: values.numpy() for key, (_, values) in lines.items()})
    clip = EpisodeView.of(dataset, best.episode, best.moments, drawn, legend=legend, codes=codes)
    films = films_of(dataset, best.episode.index, dataset.cameras[:1], best.moments)
    caption = "A held-out episode: its actions, as read from the labels of the first two, and the codes of all."
    return Pictures(caption, (episode_strip(clip, next(iter(films.values()), None)),), top=True)
