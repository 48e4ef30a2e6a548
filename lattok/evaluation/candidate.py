"""One model of a comparison: how much its labels say of the action, and what labelling takes."""

from __future__ import annotations

import math
import re
import time
from typing import Any, NamedTuple

import torch

from lattok.evaluation.evidence.latent_evidence import LatentEvidence
from lattok.evaluation.evidence.pair_set import PairSet, PairSource
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


class Cost(NamedTuple):
    """What labelling takes on the device where the model is; speed and memory differ from run to run."""

    parameters: int  # frozen features included
    megabytes: float  # of parameters and buffers
    speed: float  # frames per second, all cameras of a moment being one frame
    peak: float | None  # megabytes of the device at most; None on a CPU
    device: str

    @classmethod
    @torch.no_grad()
    def measure(cls, model: Any, pairs: PairSet, stride: int) -> Cost:
        """Label the beginning of the longest episode, decoded and at the model's size, a few times."""
        frames, counts = pairs.frames, torch.bincount(torch.from_numpy(pairs.frames.episode_of))
        here = frames.episode_of == int(counts.argmax())
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
        size = sum(tensor.numel() * tensor.element_size() for tensor in held) / 1e6
        peak = None if module is None else module.max_memory_allocated(device) / 1e6
        return cls(sum(p.numel() for p in model.parameters()), size, len(video) / min(took), peak, device.type)

    def to_json(self) -> dict[str, Any]:
        """Return what differs from run to run."""
        return {"frames_per_second": self.speed, "device_megabytes": self.peak, "device": self.device}


class Candidate(NamedTuple):
    """One model; nothing in it holds frames."""

    name: str
    kind: str  # by what it is compared: its "codes", or the "latents" of a continuous one
    bits: float | None  # of a label at most; None: continuous
    entropy: tuple[float, float] | None  # of whole rows of codes, and what so many pairs could show at most
    width: int  # numbers of a latent
    source: PairSource
    probes: dict[str, list[ProbeRow]]  # of codes and latents, controls after the model
    bootstrap: Bootstrap
    groups: dict[str, list[int]]  # dimensions of the action
    figures: dict[str, float]
    verdicts: list[Verdict]
    cost: Cost
    facts: dict[str, Any]

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
    target, note = evidence.target, evidence.case.options.note
    assert target is not None  # `compare` asks for actions
    probes = probe_rows(evidence, target)
    kind = next(iter(probes))
    figures, bits, entropy = dict[str, float](), None, None
    for what, rows in probes.items():
        figures |= readout_figures(evidence, f"from_{what}", rows)
    if "codes" in probes:
        codes = evidence.held_out.latents.codes
        bits, statistics = codes.shape[1] * math.log2(evidence.size), code_statistics(codes, evidence.size)
        entropy = statistics.joint_entropy, statistics.joint_ceiling
        figures |= {"joint_entropy_bits/model": entropy[0], "joint_entropy_bits/ceiling": entropy[1]}
    groups = {
        "all": list(range(len(evidence.names))),
        "position": evidence.space,
        "rotation": [i for i, each in enumerate(evidence.names) if ROTATION.search(each.lower())],
        "gripper": gripper_dims(evidence.names),
    }
    (against, *_) = readout_verdicts(evidence, kind, probes[kind])
    note("speed", 0, 1)
    cost = Cost.measure(evidence.model, evidence.held_out, evidence.source.stride)
    note("speed", 1, 1)
    found = Candidate(
        name=name,
        kind=kind,
        bits=bits,
        entropy=entropy,
        width=evidence.held_out.latents.latents.flatten(1).shape[1],
        source=evidence.source,
        probes=probes,
        bootstrap=evidence.bootstrap,
        groups={key: dims for key, dims in groups.items() if dims},
        figures=figures,
        verdicts=[Verdict(f"{name}: {against.text[:1].lower()}{against.text[1:]}", against.holds, against.about)],
        cost=cost,
        facts={**evidence.model.describe(), **{key: evidence.provenance[key] for key in FACTS}},
    )
    for group, dims in found.groups.items():
        for what in probes:
            value, span = found.own(what, dims)
            if group not in ("all", "position") and value is not None:
                ends = {} if span is None else {"_low": span[0], "_high": span[1]}
                figures |= {f"r2_{group}_from_{what}{end}/{what}": v for end, v in {"": value, **ends}.items()}
    figures |= {"megabytes": cost.megabytes, "parameters": float(cost.parameters)}
    figures |= {} if bits is None else {"bits": bits}
    return found
