"""Do labels survive a distractor, and which stream sees it? A coloured patch moves over both frames of every pair.

Position and velocity are random for every pair and the same in all cameras; what is under the patch is hidden. Probes
read the robot's action, and the patch's motion, from latents of the frames with the patch.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lattok.evaluation.evidence import evenly
from lattok.evaluation.evidence.latent_evidence import LatentEvidence
from lattok.evaluation.evidence.pair_set import BATCH, PairSet, to_cpu
from lattok.evaluation.evidence.probes import Bootstrap, Probe, above_zero, mlp_probe
from lattok.evaluation.evidence.unlearned import Coordinates, Target
from lattok.evaluation.page import svg
from lattok.evaluation.questions import question
from lattok.evaluation.report import Criterion, Outcome, Pictures, Section, Table, TableRow, Verdict
from lattok.evaluation.wording import percent, printed
from lattok.types import EncodesFeatures, LatentActions, join
from lattok.utils.commands import advise
from lattok.utils.seeds import derive_seed

MAX_PAIRS = (1200, 600)  # pairs of each split, whose features are computed again
SIZE = 0.25  # side of the patch as a share of the frame
MIN_KEPT = 0.8  # share of the action's R^2 that has to be left
MIN_R2 = 0.05  # R^2 of the action without the patch, below which there is nothing to keep
INPUTS = {  # what is read: name in the table, and one that fits next to a bar
    "codes": ("one-hot codes", "codes"),
    "latents": ("latents", "latents"),
    "env_codes": ("environment codes", "env codes"),
    "env_latents": ("environment latents", "env latents"),
    "pca_change": ("raw frame change", "frame change"),
    "untrained": ("untrained model, latents", "untrained"),
}
CONTROLS = ("pca_change", "untrained")
COLUMNS = {  # figures, and columns of the table
    "action_clean": "action, without it",
    "action_distracted": "action, with it",
    "action_kept": "share kept",
    "distractor": "motion of the distractor",
}
UNDER_DISTRACTORS = Criterion(
    "action_under_distractors",
    advise(
        "Other things that move will change these labels: train with distractors in view and some labels, or with two "
        "streams ({streams}, or stage 1 and 2).",
        streams="joint",
    ),
    caveat="the labels suffer where something else moves",
    weight=1,
)
ENV_STREAM = Criterion(
    "env_takes_distractor",
    advise(
        "Such motion does not go into the environment stream: train that as stage 1 on the same videos with "
        "instructions, or with distractors in view."
    ),
)
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
    def random(cls, count: int, seed: int) -> "Overlay":
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
        frames, (height, width) = frames.clone(), (max(1, round(SIZE * length)) for length in frames.shape[3:5])
        room = torch.tensor(frames.shape[3:5]) - torch.tensor((height, width))
        corners = (self.places[rows].double() * room).round().long().tolist()
        for i, row in enumerate(rows.tolist()):
            for moment, (y, x) in enumerate(corners[i]):
                frames[i, moment, :, y : y + height, x : x + width] = self.colour[row]
        return frames


class PatchedPairs(NamedTuple):
    """Some pairs of a split with the patch over them."""

    pairs: PairSet
    rows: Tensor  # [k] into the split
    latents: LatentActions
    untrained: LatentActions | None
    change: Tensor  # [k, D] of pooled features
    motion: Tensor  # [k, 2]


class Estimate(NamedTuple):
    """A figure, its values per draw of held-out episodes, and its interval; none of either where it has none."""

    value: float
    draws: Tensor = torch.empty(0)
    span: tuple[float, float] | None = None

    def __str__(self) -> str:
        return printed(self.value, ".2f")


Reading = dict[str, Estimate]  # what an input carries, by the names of `COLUMNS`: nothing of actions without any


@torch.no_grad()
def encode_patched(evidence: LatentEvidence, pairs: PairSet, most: int, seed: int) -> PatchedPairs:
    """Encode at most `most` pairs, evenly spaced, with the patch."""
    rows = evenly(len(pairs.rows), most)
    overlay = Overlay.random(len(rows), seed)
    model, sight, side = evidence.model, pairs.sight, pairs.side  # the grid that the other controls see, too
    own, fresh, change = [], [], []
    for part in torch.arange(len(rows)).split(BATCH):
        drawn = overlay.draw(pairs.pictures(rows[part]), part)
        features = model.frame_features(drawn)
        own.append(to_cpu(model.encode_features(features)))
        if evidence.untrained is not None:
            fresh.append(to_cpu(evidence.untrained.encode_features(features)))
        seen = features if sight.model is not None else sight(drawn)
        now, later = (sight.pool(frame, side) for frame in seen.unbind(1))
        change.append(later - now)
    return PatchedPairs(pairs, rows, join(own), join(fresh) if fresh else None, torch.cat(change), overlay.motion)


def separation(evidence: LatentEvidence) -> tuple[dict[str, Reading], Bootstrap, int]:
    """Measure how much of the action and of the patch the model's streams carry, then the controls. Also the draws of
    held-out episodes for intervals, and the width of the raw frame change."""
    train = encode_patched(evidence, evidence.train, MAX_PAIRS[0], derive_seed(evidence.seed, 11))
    held_out = encode_patched(evidence, evidence.held_out, MAX_PAIRS[1], derive_seed(evidence.seed, 12))
    episodes, full, action = evidence.train.episode_of[train.rows.numpy()], evidence.target, None
    if full is not None:
        action = Target(full.train[train.rows], episodes, full.held_out[held_out.rows])
    motion = Target(train.motion, episodes, held_out.motion)
    bootstrap = Bootstrap(evidence.held_out.episode_of[held_out.rows.numpy()], evidence.seed)

    def estimate(probe: Probe) -> Estimate:
        draws = bootstrap.r2(probe).nanmean(1)
        return Estimate(float(probe.r2.nanmean()), draws, bootstrap.interval(draws))

    def read(clean: Sequence[Tensor], seen: Sequence[Tensor]) -> Reading:
        """Probe inputs [k, d] of both splits without the patch, and with it."""
        found = Reading()
        if action is not None:
            found["action_clean"] = before = estimate(action.probe(*clean))
            found["action_distracted"] = now = estimate(action.probe(*seen))
            if before.value >= MIN_R2 and (before.span or (1,))[0] > 0:  # labels say something that they could lose
                kept = now.draws / before.draws
                found["action_kept"] = Estimate(now.value / before.value, kept, bootstrap.interval(kept))
        linear = motion.probe(*seen)  # a straight line hardly sees the motion of something that can be anywhere
        mlp = mlp_probe(seen[0], motion.train, motion.episodes, seen[1], motion.held_out, linear, evidence.seed)
        return found | {"distractor": estimate(mlp)}

    def both(pick: Callable[[Any], Tensor], whose: str = "latents") -> tuple[list[Tensor], list[Tensor]]:
        splits = (train, held_out)
        clean = [pick(getattr(split.pairs, whose)[split.rows]) for split in splits]
        return clean, [pick(getattr(split, whose)) for split in splits]

    picks = evidence.inputs
    found = {key: read(*both(picks[key])) for key in INPUTS if key in picks}
    clean = Coordinates(evidence.change.train[train.rows], evidence.change.held_out[held_out.rows])
    seen = Coordinates.fit(train.change, held_out.change)  # components of their own
    size = seen.best_size(action or motion)
    found["pca_change"] = read(clean.first(size), seen.first(size))
    if evidence.untrained is not None:
        found["untrained"] = read(*both(picks["latents"], "untrained"))
    return found, bootstrap, size


@question("distractor", of=("labels",), needs=(EncodesFeatures,), criteria=(UNDER_DISTRACTORS, ENV_STREAM), place=50)
def distractor_outcome(evidence: LatentEvidence) -> Outcome:
    """Encode pairs with the patch, and compare what latents say about the action and about the patch."""
    carried, bootstrap, size = separation(evidence)
    figures = {f"separation/{name}/{key}": each.value for key, found in carried.items() for name, each in found.items()}
    kind = "codes" if "codes" in carried else "latents"
    own, name, verdicts, reading = carried[kind], INPUTS[kind][0], [], ""
    if "action_kept" in own:
        kept = own["action_kept"]
        between = "" if kept.span is None else f"; {percent(kept.span[0])} … {percent(kept.span[1])}"
        text = f"Under a moving distractor the {name} keep {percent(kept.value)} of what they say about the action "
        text += f"(R² {own['action_distracted']} of {own['action_clean']}{between}); "
        text += f"it should be {percent(MIN_KEPT)} at least"
        holds = above_zero(kept.value - MIN_KEPT, bootstrap.interval(kept.draws - MIN_KEPT))
        verdicts.append(Verdict(text, holds, UNDER_DISTRACTORS))
    elif "action_clean" in own:
        clean = own["action_clean"]
        reading = f"The {name} say too little about the action to lose any of it (R² {clean} without the patch). "
    if "env_latents" in carried:
        theirs, ours = (carried[key]["distractor"] for key in ("env_latents", "latents"))
        holds = above_zero(theirs.value - ours.value, bootstrap.interval(theirs.draws - ours.draws))
        word = {None: "no clear difference", True: "more than the controllable one", False: "less than it"}[holds]
        text = f"The environment stream's latents carry R² {theirs} of the distractor's motion, "
        text += f"the controllable stream's {ours}: {word}"
        verdicts.append(Verdict(text, holds, ENV_STREAM))
    reading += " ".join(f"{verdict.text}." for verdict in verdicts)
    if "env_latents" not in carried:  # no verdict is about what a single stream sees of the patch
        shown = [carried[key]["distractor"] for key in ("latents", "pca_change")]
        reading += f" The latents carry R² {shown[0]} of the distractor's motion, the raw frame change {shown[1]}."
    splits = (evidence.train, evidence.held_out)
    counts = [min(most, len(pairs.rows)) for most, pairs in zip(MAX_PAIRS, splits, strict=True)]
    section = Section(
        "Do labels survive something else that moves?",
        "A coloured patch, a quarter of the frame wide, moves over both frames of every pair with a velocity of its "
        f"own, the same in all cameras; {counts[0]} training and {counts[1]} held-out pairs are encoded again with it. "
        "A linear probe reads the action from the result, an MLP the patch's motion. What is under the patch is lost "
        "to everyone: the controls say how much. The model was not trained for this patch, unless its own videos held "
        "such things.",
        (_table(carried, size),),
        (_picture(carried),),
        reading.strip(),
        REFERENCES,
    )
    return Outcome((section,), figures, verdicts)


def _table(carried: dict[str, Reading], size: int) -> Table:
    columns = [name for name in COLUMNS if any(name in found for found in carried.values())]
    rows = []
    for key, found in carried.items():
        cells = [found.get(name, Estimate(math.nan)) for name in columns]
        values = tuple(None if math.isnan(each.value) else each.value for each in cells)
        name = INPUTS[key][0] + (f" (PCA {size})" if key == "pca_change" else "")
        rows.append(TableRow(key, name, values, key in CONTROLS, intervals=tuple(each.span for each in cells)))
    note = "Action with it: the probe is fitted again on frames with the patch, "
    note += "so that it asks if the action is still there."
    titles = tuple(COLUMNS[name] for name in columns)
    return Table("R² with a moving distractor", titles, tuple(rows), digits=".2f", note=note)


def _picture(carried: dict[str, Reading]) -> Pictures:
    titles = {"action_distracted": "action, with a distractor", "distractor": "motion of the distractor"}
    panels = []
    for name, title in titles.items():
        kinds = {key: "control" if key in CONTROLS else "model" for key, found in carried.items() if name in found}
        rows = [(INPUTS[key][1], kind, carried[key][name].value) for key, kind in kinds.items()]
        if rows:
            panels.append(svg.bars(title, rows, ".2f"))
    caption = "R² under a moving distractor. On the left, long is good; on the right, short, for the actions' codes."
    return Pictures(caption, tuple(panels))
