"""One model of a comparison: how much its labels say of the action, and what labelling takes."""

from __future__ import annotations

import math
import re
import time
from typing import Any, NamedTuple

import torch

from lattok.evaluation.evidence.latent_evidence import LatentEvidence
from lattok.evaluation.evidence.probe_rows import ProbeRow, probe_rows, rivals_of, strongest
from lattok.evaluation.evidence.probes import Bootstrap
from lattok.evaluation.questions.readout import readout_figures, readout_verdicts
from lattok.evaluation.report import Interval, Verdict
from lattok.nn.normalize import gripper_dims
from lattok.nn.quantize import code_statistics
from lattok.utils.devices import module_of

ROTATION = re.compile(r"(?:^|[^a-z])(?:roll|pitch|yaw|[rw][xyz])(?:$|[^a-z])|rot|quat|euler|axis_?angle")
FACTS = ("cameras", "stride_frames", "held_out_pairs")
MIN_FRAMES, SECONDS, MAX_RUNS = 64, 1.0, 5  # that are labelled to see how fast a model is: so many, so long, so often


class Candidate(NamedTuple):
    """One model; nothing in it holds frames."""

    name: str
    kind: str  # by what it is compared: its "codes", or the "latents" of a continuous one
    width: int  # numbers of a latent
    probes: dict[str, list[ProbeRow]]  # of codes and latents, controls after the model
    bootstrap: Bootstrap
    groups: dict[str, list[int]]  # dimensions of the action
    figures: dict[str, float]
    verdicts: list[Verdict]
    facts: dict[str, Any]
    speed: dict[str, Any]  # differs from run to run

    @property
    def r2(self) -> float | None:
        """R^2 of its labels over all dimensions; None where the actions never change."""
        return self.probes[self.kind][0].value("linear", 0)

    def value(self, kind: str, key: str, probe: str = "linear") -> float | None:
        """Return the mean R^2 of a row; None where there is none."""
        return next((row.value(probe, 0) for row in self.probes.get(kind, ()) if row.key == key), None)

    def own(self, kind: str, dims: list[int], probe: str = "linear") -> tuple[float | None, Interval | None]:
        """Return R^2 of the model over some dimensions, with its interval."""
        row = self.probes[kind][0]
        if not dims or probe not in row.scores:
            return None, None
        found = row.scores[probe].probe
        value = float(found.r2[dims].nanmean())
        draws = self.bootstrap.r2(found)[:, dims].nanmean(1)
        return (None if math.isnan(value) else value), self.bootstrap.interval(draws)

    def gain(self, kind: str, probe: str = "linear") -> tuple[float | None, Interval | None]:
        """Return how much more of the action the model's codes or latents say than the best control."""
        best = strongest(rivals_of(self.probes[kind]), probe)
        return (None, None) if best is None else self.beyond(kind, best, self.bootstrap, probe)

    def beyond(
        self, kind: str, other: ProbeRow, bootstrap: Bootstrap, probe: str = "linear"
    ) -> tuple[float | None, Interval | None]:
        """Return how much more the model says than another row, with an interval where both see the same episodes."""
        own = self.probes[kind][0]
        values = [row.value(probe, 0) for row in (own, other)]
        if values[0] is None or values[1] is None:
            return None, None
        span = None
        if bootstrap.count == self.bootstrap.count:
            draws = [b.r2(row.scores[probe].probe) for b, row in ((self.bootstrap, own), (bootstrap, other))]
            span = self.bootstrap.interval(draws[0].nanmean(1) - draws[1].nanmean(1))
        return values[0] - values[1], span


def probe_candidate(name: str, evidence: LatentEvidence) -> Candidate:
    """Probe one model, and time it."""
    assert evidence.target is not None  # `compare` asks for actions
    probes, bits, figures = probe_rows(evidence, evidence.target), {}, dict[str, float]()
    kind = next(iter(probes))
    for what, rows in probes.items():
        figures |= readout_figures(evidence, f"from_{what}", rows)
    if "codes" in probes:
        codes = evidence.held_out.latents.codes
        bits, statistics = {"bits": codes.shape[1] * math.log2(evidence.size)}, code_statistics(codes, evidence.size)
        figures["joint_entropy_bits/model"] = statistics.joint_entropy
        figures["joint_entropy_bits/ceiling"] = statistics.joint_ceiling
    groups = {
        "all": list(range(len(evidence.names))),
        "position": evidence.space,
        "rotation": [i for i, each in enumerate(evidence.names) if ROTATION.search(each.lower())],
        "gripper": gripper_dims(evidence.names),
    }
    (against, *_) = readout_verdicts(evidence, kind, probes[kind])
    size, speed = _cost(evidence)
    found = Candidate(
        name=name,
        kind=kind,
        width=evidence.held_out.latents.latents.flatten(1).shape[1],
        probes=probes,
        bootstrap=evidence.bootstrap,
        groups={key: dims for key, dims in groups.items() if dims},
        figures=figures,
        verdicts=[Verdict(f"{name}: {against.text[:1].lower()}{against.text[1:]}", against.holds, against.about)],
        facts={**evidence.model.describe(), **{key: evidence.provenance[key] for key in FACTS}},
        speed=speed,
    )
    for group, dims in found.groups.items():
        for what in probes:
            value, span = found.own(what, dims)
            if group not in ("all", "position") and value is not None:
                ends = {} if span is None else {"_low": span[0], "_high": span[1]}
                figures |= {f"r2_{group}_from_{what}{end}/{what}": v for end, v in {"": value, **ends}.items()}
    figures |= {**size, **bits}
    return found


@torch.no_grad()
def _cost(evidence: LatentEvidence) -> tuple[dict[str, float], dict[str, Any]]:
    """Measure a model's size, frozen features included, and on the device where it is how fast it labels.

    It labels the beginning of the longest episode, decoded and at its size, a few times. All cameras of a moment are
    one frame.
    """
    evidence.case.options.note("speed", 0, 1)
    model, stride, frames = evidence.model, evidence.source.stride, evidence.held_out.frames
    here = frames.episode_of == torch.bincount(torch.from_numpy(frames.episode_of)).argmax().item()
    first = int(frames.first[here].min())
    video = frames.frames[first : min(first + max(MIN_FRAMES, stride + 1), int(frames.second[here].max()) + 1)]
    module = module_of(device := model.features.mean.device)
    model.label_video(video, stride)  # warm
    if module is not None:
        module.reset_peak_memory_stats(device)
    took: list[float] = []
    while not took or (sum(took) < SECONDS and len(took) < MAX_RUNS):
        start = time.perf_counter()
        model.label_video(video, stride)
        took.append(time.perf_counter() - start)
    held = {tensor.data_ptr(): tensor for tensor in (*model.parameters(), *model.buffers())}.values()
    megabytes = sum(tensor.numel() * tensor.element_size() for tensor in held) / 1e6
    evidence.case.options.note("speed", 1, 1)
    peak = None if module is None else module.max_memory_allocated(device) / 1e6
    return (
        {"megabytes": megabytes, "parameters": float(sum(p.numel() for p in model.parameters()))},
        {"frames_per_second": len(video) / min(took), "device_megabytes": peak, "device": device.type},
    )
