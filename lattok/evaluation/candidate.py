"""One model of a comparison: how much its labels say of the action, and what labelling takes, all of it as figures."""

from __future__ import annotations

import math
import re
import time
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lattok.evaluation.evidence.latent_evidence import LatentEvidence
from lattok.evaluation.evidence.probe_rows import PREFIXES, ProbeRow, probe_rows, rivals_of, strongest
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
    figures: dict[str, float]
    bootstrap: Bootstrap
    draws: Tensor  # of R^2 of its labels over all dimensions
    verdicts: list[Verdict]
    facts: dict[str, Any]
    speed: dict[str, Any]  # differs from run to run

    def figure(self, what: str, kind: str) -> tuple[float | None, Interval | None]:
        """Return a figure of its codes or latents, such as "r2" or "gain", with its interval."""
        name = f"{what}_from_{kind}"
        value, low, high = (self.figures.get(f"{name}{end}/{kind}") for end in ("", "_low", "_high"))
        return value, None if low is None or high is None else (low, high)

    @property
    def r2(self) -> float | None:
        """R^2 of its labels over all dimensions; None where the actions never change."""
        return self.figure("r2", self.kind)[0]


def probe_candidate(name: str, evidence: LatentEvidence) -> Candidate:
    """Probe one model, and time it."""
    assert evidence.target is not None  # `compare` asks for actions
    probes, figures, bootstrap = probe_rows(evidence, evidence.target), dict[str, float](), evidence.bootstrap
    kind = next(iter(probes))

    def draws(row: ProbeRow, probe: str = "linear", dims: Any = slice(None)) -> Tensor:
        return bootstrap.r2(row.scores[probe].probe)[:, dims].nanmean(1)

    def add(what: str, kind: str, value: float, values: Tensor) -> None:
        figures[f"{what}_from_{kind}/{kind}"] = value
        if (span := bootstrap.interval(values)) is not None:
            figures[f"{what}_from_{kind}_low/{kind}"], figures[f"{what}_from_{kind}_high/{kind}"] = span

    rotation = [i for i, each in enumerate(evidence.names) if ROTATION.search(each.lower())]
    groups = {"r2_rotation": rotation, "r2_gripper": gripper_dims(evidence.names)}
    for what, (own, *rows) in probes.items():
        figures |= readout_figures(evidence, f"from_{what}", [own, *rows])
        for group, dims in groups.items():
            value = float(own.scores["linear"].probe.r2[dims].nanmean())
            if not math.isnan(value):
                add(group, what, value, draws(own, dims=dims))
        for probe, prefix in PREFIXES.items():  # how much more its labels say than the best control
            best = strongest(rivals_of(rows), probe)
            values = [None if row is None else row.value(probe, 0) for row in (own, best)]
            if best is not None and values[0] is not None and values[1] is not None:
                add(f"{prefix}gain", what, values[0] - values[1], draws(own, probe) - draws(best, probe))
    if "codes" in probes:
        codes = evidence.held_out.latents.codes
        statistics = code_statistics(codes, evidence.size)
        figures["bits"] = codes.shape[1] * math.log2(evidence.size)
        figures["joint_entropy_bits/model"] = statistics.joint_entropy
        figures["joint_entropy_bits/ceiling"] = statistics.joint_ceiling
    (against, *_) = readout_verdicts(evidence, kind, probes[kind])
    said = Verdict(f"{name}: {against.text[:1].lower()}{against.text[1:]}", against.holds, against.about)
    facts = {**evidence.model.describe(), **{key: evidence.provenance[key] for key in FACTS}}
    size, speed = _cost(evidence)
    size["latent_width"] = float(evidence.held_out.latents.latents.flatten(1).shape[1])
    size |= {"stride_frames": float(evidence.source.stride), "cameras": float(len(evidence.source.cameras))}
    own = probes[kind][0]
    return Candidate(name, kind, figures | size, bootstrap, draws(own), [said], facts, speed)


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
