"""Do labels survive a distractor, and which stream sees it? A coloured patch moves over both frames of every pair.

Position and velocity are random for every pair and the same in all cameras; what is under the patch is hidden. Probes
read the robot's action, and the patch's motion, from latents of the frames with the patch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lattok.evaluation import svg
from lattok.evaluation.evidence.controls import Coordinates, Target
from lattok.evaluation.evidence.latent_evidence import LatentEvidence
from lattok.evaluation.evidence.mlp_probes import mlp_probes
from lattok.evaluation.evidence.pair_set import (
    BATCH,
    PairSet,
    chosen_rows,
    pool,
    pooled_side,
    to_cpu,
)
from lattok.evaluation.evidence.probes import Bootstrap, Fold, Probe, decided, one_hot
from lattok.evaluation.evidence.split import evenly
from lattok.evaluation.report import Interval, Outcome, Pictures, Section, Table, TableRow, Verdict, percent, printed
from lattok.seeds import derive_seed
from lattok.types import LatentActions, join

MOST = (1200, 600)  # pairs of each split, whose features are computed again
SIZE = 0.25  # side of the patch as a share of the frame
KEEPS = 0.8  # share of the action's R^2 that has to be left
DRAWN = {  # names that fit next to a bar
    "codes": "codes",
    "latents": "latents",
    "env_codes": "env codes",
    "env_latents": "env latents",
    "pca_change": "frame change",
    "untrained": "untrained",
}
REFERENCES = (
    "Nikulin et al. 2025, Latent action learning requires supervision in the presence of distractors",
    "Bu et al. 2025, UniVLA (task-centric and task-irrelevant latent actions)",
)


class Overlay(NamedTuple):
    """A patch per pair: where it is in both frames, and its colour."""

    places: Tensor  # [n, 2, 2] upper left corner (y, x) as a share of the room there is
    colour: Tensor  # [n, 3] uint8

    @property
    def motion(self) -> Tensor:
        """Velocity (y, x) in frame widths, [n, 2]."""
        return (self.places[:, 1] - self.places[:, 0]) * (1 - SIZE)

    @classmethod
    def random(cls, count: int, seed: int) -> Overlay:
        """Draw patches for `count` pairs; the velocity is at most half the patch's own size in each direction."""
        generator = torch.Generator().manual_seed(seed)
        first = torch.rand(count, 2, generator=generator)
        reach = SIZE / 2 / (1 - SIZE)
        second = first + (2 * torch.rand(count, 2, generator=generator) - 1) * reach
        second = torch.where((second < 0) | (second > 1), 2 * first - second, second)  # turns round at the edge
        colour = torch.randint(256, (count, 3), generator=generator, dtype=torch.uint8)
        return cls(torch.stack([first, second], 1), colour)

    def draw(self, frames: Tensor, rows: Tensor) -> Tensor:
        """Copy frames uint8 [B, 2, V, h, w, 3] of pairs `rows` [B] and put their patches on them."""
        frames = frames.clone()
        height, width = frames.shape[3:5]
        side = [max(1, round(SIZE * length)) for length in (height, width)]
        for i, row in enumerate(rows.tolist()):
            for moment in range(2):
                y, x = (
                    round(float(share) * (length - cut))
                    for share, length, cut in zip(self.places[row, moment], (height, width), side, strict=True)
                )
                frames[i, moment, :, y : y + side[0], x : x + side[1]] = self.colour[row]
        return frames


class Disturbed(NamedTuple):
    """Some pairs of a split with the patch over them."""

    rows: Tensor  # [k] into the split
    latents: LatentActions
    untrained: LatentActions
    change: Tensor  # [k, D] of pooled features
    motion: Tensor  # [k, 2]


class Carried(NamedTuple):
    """What an input carries, as probes; those of the action are None where there are no actions."""

    key: str
    name: str
    control: bool
    clean: Probe | None  # the action, without the patch, on the same pairs
    distracted: Probe | None  # the action, with it
    fixed: Probe | None  # the same, by the probe that was fitted without it
    distractor: Probe  # the motion of the patch, by an MLP
    changed: float | None = None  # squared change by the patch ÷ variance; 2 is as far as another pair

    @property
    def kept(self) -> float | None:
        """Share of the R^2 that is left; None where there was none."""
        if self.clean is None or self.distracted is None or mean_r2(self.clean) <= 0:
            return None
        return mean_r2(self.distracted) / mean_r2(self.clean)

    def kept_interval(self, bootstrap: Bootstrap) -> Interval | None:
        """Compute the interval of that share."""
        if self.clean is None or self.distracted is None or mean_r2(self.clean) <= 0:
            return None
        shares = [bootstrap.r2(probe).nanmean(1) for probe in (self.distracted, self.clean)]
        return bootstrap.interval(shares[0] / shares[1])


def mean_r2(probe: Probe) -> float:
    """Average R^2 over all dimensions."""
    return float(probe.r2.nanmean())


@torch.no_grad()
def disturbed(evidence: LatentEvidence, pairs: PairSet, most: int, seed: int) -> Disturbed:
    """Encode at most `most` pairs, evenly spaced, with the patch."""
    rows = evenly(len(pairs.rows), most)
    overlay = Overlay.random(len(rows), seed)
    model = evidence.model
    side = pooled_side(model, pairs.features.shape[1])  # the grid that the other controls see, too
    own, fresh, change = [], [], []
    for part in torch.arange(len(rows)).split(BATCH):
        frames = pairs.frames.batch(torch.from_numpy(pairs.rows)[rows[part]]).frames
        features = model.frame_features(overlay.draw(frames, part))
        own.append(to_cpu(model.encode_features(features)))
        fresh.append(to_cpu(evidence.untrained.encode_features(features)))
        now, later = (pool(frame, model, side) for frame in features.unbind(1))
        change.append(later - now)
    return Disturbed(rows, join(own), join(fresh), torch.cat(change), overlay.motion)


class Separation(NamedTuple):
    """What the model's streams and the controls carry, and the draws of held-out episodes for intervals."""

    carried: list[Carried]
    bootstrap: Bootstrap


class Targets(NamedTuple):
    """What probes read from the same pairs."""

    action: Target | None
    motion: Target
    seed: int


def separation(evidence: LatentEvidence) -> Separation:
    """Measure how much of the action and of the patch the model's streams carry, then the controls."""
    train = disturbed(evidence, evidence.train, MOST[0], derive_seed(evidence.seed, 11))
    held_out = disturbed(evidence, evidence.held_out, MOST[1], derive_seed(evidence.seed, 12))
    episodes, action = evidence.train.episode_of[train.rows.numpy()], None
    if evidence.target is not None:
        full = evidence.target
        action = Target(full.train[train.rows], episodes, full.held_out[held_out.rows])
    targets = Targets(action, Target(train.motion, episodes, held_out.motion), evidence.seed)
    size, env_size = evidence.size, evidence.env_size
    inputs: list[tuple[str, str, Callable[[Any], Tensor]]] = [
        ("codes", "one-hot codes", lambda x: one_hot(x.codes, size)),
        ("latents", "latents", lambda x: x.latents.flatten(1)),
        ("env_codes", "environment codes", lambda x: one_hot(x.env.codes, env_size)),
        ("env_latents", "environment latents", lambda x: x.env.latents.flatten(1)),
    ]
    found = []
    for key, name, pick in inputs:
        if ("codes" in key and evidence.codes is None) or ("env" in key and train.latents.env is None):
            continue
        clean = [
            pick(chosen_rows(pairs.latents, part.rows))
            for pairs, part in ((evidence.train, train), (evidence.held_out, held_out))
        ]
        found.append(_carried(key, name, targets, clean, [pick(train.latents), pick(held_out.latents)], False))
    found += _controls(evidence, train, held_out, targets)
    return Separation(found, Bootstrap(evidence.held_out.episode_of[held_out.rows.numpy()], evidence.seed))


def _controls(evidence: LatentEvidence, train: Disturbed, held_out: Disturbed, targets: Targets) -> list[Carried]:
    """Measure the raw frame change, with components fitted to either kind of frames, and the untrained model."""
    change = evidence.change
    clean = Coordinates(change.train[train.rows], change.held_out[held_out.rows])
    seen = Coordinates.fit(train.change, held_out.change)
    size = seen.best_size(targets.action or targets.motion)
    raw = _carried(
        "pca_change", f"raw frame change (PCA {size})", targets, clean.first(size), seen.first(size), fixed=False
    )
    before = [
        chosen_rows(pairs.untrained, part.rows).latents.flatten(1)
        for pairs, part in ((evidence.train, train), (evidence.held_out, held_out))
    ]
    now = [part.untrained.latents.flatten(1) for part in (train, held_out)]
    return [raw, _carried("untrained", "untrained model, latents", targets, before, now)]


def _carried(
    key: str,
    name: str,
    targets: Targets,
    clean: Sequence[Tensor],
    seen: Sequence[Tensor],
    control: bool = True,
    fixed: bool = True,
) -> Carried:
    """Probe inputs [k, d] of both splits without the patch, and with it; `fixed`: both have the same coordinates."""
    motion = targets.motion
    everything = (Fold(torch.arange(len(seen[0])), torch.arange(len(seen[1]))),)
    linear = [motion.probe(*seen)]  # a straight line hardly sees the motion of something that can be anywhere
    (distractor,) = mlp_probes(
        seen[0], motion.train, motion.episodes, seen[1], motion.held_out, everything, linear, targets.seed
    )
    changed = None
    if fixed:
        spread = (clean[1] - clean[1].mean(0)).square().sum().clamp_min(1e-12)
        changed = float((seen[1] - clean[1]).square().sum() / spread)
    if targets.action is None:
        return Carried(key, name, control, None, None, None, distractor, changed)
    probe = targets.action.probe
    unchanged = probe(clean[0], seen[1]) if fixed else None
    return Carried(key, name, control, probe(*clean), probe(*seen), unchanged, distractor, changed)


def distractor_outcome(evidence: LatentEvidence) -> Outcome:
    """Encode pairs with the patch, and compare what latents say about the action and about the patch."""
    found = separation(evidence)
    carried = {result.key: result for result in found.carried}
    own = carried.get("codes", carried["latents"])
    figures: dict[str, float] = {}
    for result in found.carried:
        for name in ("clean", "distracted", "fixed", "distractor"):
            if (probe := getattr(result, name)) is not None:
                kind = name if name == "distractor" else f"action_{name}"
                figures[f"separation/{kind}/{result.key}"] = mean_r2(probe)
        if result.changed is not None:
            figures[f"separation/changed/{result.key}"] = result.changed
        if result.kept is not None:
            figures[f"separation/action_kept/{result.key}"] = result.kept
    verdicts = [] if own.kept is None else [_action_verdict(own, own.kept, found.bootstrap)]
    if "env_latents" in carried:
        verdicts.append(_distractor_verdict(carried["latents"], carried["env_latents"], found.bootstrap))
    section = Section(
        "Do labels survive something else that moves?",
        "A coloured patch, a quarter of the frame wide, moves over both frames of every pair with a velocity of its "
        f"own, the same in all cameras; {min(MOST[0], len(evidence.train.rows))} training and "
        f"{min(MOST[1], len(evidence.held_out.rows))} held-out pairs are encoded again with it. A linear probe reads "
        "the action from the result, an MLP the patch's motion. What is under the patch is lost to everyone: the "
        "controls say how much. The model was not trained for this patch, unless its own videos held such things.",
        (_table(found),),
        (_picture(found.carried),),
        " ".join([*(f"{verdict.text}." for verdict in verdicts), *_motion_reading(carried)]),
        REFERENCES,
    )
    return Outcome((section,), figures, verdicts)


def _action_verdict(own: Carried, kept: float, bootstrap: Bootstrap) -> Verdict:
    assert own.clean is not None
    assert own.distracted is not None
    span = own.kept_interval(bootstrap)
    between = "" if span is None else f"; {percent(span[0])} … {percent(span[1])}"
    numbers = [printed(mean_r2(probe), ".2f") for probe in (own.distracted, own.clean)]
    text = (
        f"Under a moving distractor the {own.name} keep {percent(kept)} of what they say about the action "
        f"(R² {numbers[0]} of {numbers[1]}{between}); it should be {percent(KEEPS)} at least"
    )
    return Verdict(text, kept >= KEEPS, "action_under_distractors")


def _distractor_verdict(own: Carried, env: Carried, bootstrap: Bootstrap) -> Verdict:
    gain = bootstrap.r2(env.distractor).nanmean(1) - bootstrap.r2(own.distractor).nanmean(1)
    span, values = bootstrap.interval(gain), [mean_r2(each.distractor) for each in (env, own)]
    holds = decided(values[0] - values[1], span)
    word = {None: "no clear difference", True: "more than the controllable one", False: "less than it"}[holds]
    shown = [printed(value, ".2f") for value in values]
    text = (
        f"The environment stream's latents carry R² {shown[0]} of the distractor's motion, the controllable stream's "
        f"{shown[1]}: {word}"
    )
    return Verdict(text, holds, "env_takes_distractor")


def _motion_reading(carried: dict[str, Carried]) -> list[str]:
    """Say what a single stream sees of the patch, which no verdict is about."""
    if "env_latents" in carried:
        return []
    shown = [printed(mean_r2(carried[key].distractor), ".2f") for key in ("latents", "pca_change")]
    return [f"The latents carry R² {shown[0]} of the distractor's motion, the raw frame change {shown[1]}."]


def _table(found: Separation) -> Table:
    actions = found.carried[0].clean is not None
    columns = (
        "action, without it",
        "action, with it",
        "share kept",
        "action, old probe",
        "motion of the distractor",
        "changed by it",
    )
    rows = []
    for r in found.carried:
        probes = (r.clean, r.distracted, None, r.fixed, r.distractor, None)
        values = [None if p is None else mean_r2(p) for p in probes]
        spans = [None if p is None else found.bootstrap.interval(found.bootstrap.r2(p).nanmean(1)) for p in probes]
        values[2], spans[2], values[5] = r.kept, r.kept_interval(found.bootstrap), r.changed
        first = 0 if actions else 4
        rows.append(TableRow(r.key, r.name, tuple(values[first:]), r.control, intervals=tuple(spans[first:])))
    return Table(
        "R² with a moving distractor",
        columns if actions else columns[4:],
        tuple(rows),
        digits=".2f",
        note="Action with it: the probe is fitted again on frames with the patch, so that it asks if the action is "
        "still there. Old probe: fitted without the patch, judged with it: whether the labels still mean the same. "
        "Changed by it: squared change of the labels ÷ their variance; 0 is untouched, 2 as far as another pair's.",
    )


def _picture(results: list[Carried]) -> Pictures:
    """Draw R² of the action and of the distractor side by side."""

    def bars(title: str, field: str) -> str:
        probes = [(r, getattr(r, field)) for r in results]
        rows = [
            (DRAWN[r.key], "control" if r.control else "model", None if probe is None else mean_r2(probe))
            for r, probe in probes
        ]
        return svg.bars(title, rows, ".2f")

    panels = [bars("motion of the distractor", "distractor")]
    if any(r.distracted is not None for r in results):
        panels.insert(0, bars("action, with a distractor", "distracted"))
    return Pictures(
        "R² under a moving distractor. Left long is good; right, short for the actions' codes.", tuple(panels)
    )
