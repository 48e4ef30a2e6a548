"""What questions about latent action models share: pairs of both splits, their latents, and controls without any.

current frame    PCA of the features of o_t                             what the scene gives away
frame change     PCA of f(o_t+stride) - f(o_t)                          what subtraction alone shows
flow             PCA of the motion that block matching finds            what a classical method shows
residual k-means on change or flow, P levels of K                       the same at the bits of the model's codes
untrained model  same architecture, fresh weights                       what the architecture alone does
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from lattok.data import dimension_names
from lattok.evaluation.evidence import Case, Evidence, register_evidence
from lattok.evaluation.evidence.pair_set import MAX_PAIRS, PairSet, PairSource, read_pair_set
from lattok.evaluation.evidence.probe_rows import Probed, ProbeRow, probe_rows, rivals_of, strongest
from lattok.evaluation.evidence.probes import Bootstrap, Fold, one_hot
from lattok.evaluation.evidence.trained_controls import ControlTraining, labels_only
from lattok.evaluation.evidence.unlearned import PCA_SIZES, CodeStream, Coordinates, ResidualKMeans, Target, task_folds
from lattok.image_lam import TrainedPairModel
from lattok.labels import GivenLabels
from lattok.labels.spec import prefix_flags, taking
from lattok.nn.normalize import space_dims
from lattok.types import HoldsLabels, InfersActions, LabelsVideo, StartsAfresh, lacks
from lattok.utils import checks
from lattok.utils.commands import DATASET, MODEL, NOTHING, UNKNOWN, Advice, advise, command

LABEL = command("annotate", DATASET, "--model", MODEL, "--out", "labelled")


@register_evidence("labels", of=(LabelsVideo,), unless=(InfersActions,), place=40)
@dataclass(frozen=True)
class LatentEvidence(Evidence):
    """Pairs, latents and controls that the questions about one model share; controls are made when first asked for."""

    case: Case
    untrained: Any  # a model of the same architecture; None where it cannot start afresh
    source: PairSource
    train: PairSet
    held_out: PairSet
    training: ControlTraining | None  # of controls; None: they are not run

    kind = "image-lam"
    asks = "Is this model good enough to annotate with?"
    use = advise("Label data with it", LABEL)
    reads = ("cameras",)

    @classmethod
    def gather(cls, case: Case, decoded: dict[Any, np.ndarray] | None = None) -> "LatentEvidence":
        """Read the pairs of both splits; `decoded` keeps frames for the next model that sees the same ones."""
        model, options, training = case.model, case.options, None
        if case.trains_controls and not isinstance(model, TrainedPairModel):
            hint = "Train an ImageLAM on this dataset and evaluate it as well."
            checks.fail("controls", f"quick for {model.type}, which lattok does not train", "'trained'", hint)
        source = PairSource.of(case, model.stride_frames(case.dataset.fps), decoded)
        if case.trains_controls:
            training = ControlTraining.on(case, source.stride, source.cameras, [source.action_key])
        fresh = None
        if not lacks(model, StartsAfresh):
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(options.seed + 1)
                fresh = model.fresh()  # which shares frozen features
            if isinstance(fresh, torch.nn.Module):
                fresh.to(model.device).eval()
        note = partial(partial, options.note)
        train = read_pair_set(source, model, fresh, case.split.train, MAX_PAIRS[0], note("training pairs"))
        held_out = read_pair_set(source, model, fresh, case.split.held_out, MAX_PAIRS[1], note("held-out pairs"))
        return cls(case, fresh, source, train, held_out, training)

    @cached_property
    def target(self) -> Target | None:
        known = self.source.action_key is not None
        return Target(self.train.actions, self.train.episode_of, self.held_out.actions) if known else None

    @property
    def names(self) -> tuple[str, ...]:
        key = self.source.action_key
        return () if key is None else dimension_names(self.source.dataset.features[key])

    @cached_property
    def folds(self) -> tuple[list[Fold], str]:
        return task_folds(self.source.dataset.episodes, self.train.episode_of, self.held_out.episode_of)

    @cached_property
    def bootstrap(self) -> Bootstrap:
        return Bootstrap(self.held_out.episode_of, self.seed)

    @cached_property
    def change(self) -> Coordinates:
        """Of the raw frame change, as many as a latent has at least."""
        width = self.train.latents.latents.flatten(1).shape[1]
        return Coordinates.fit(self.train.change, self.held_out.change, max(*PCA_SIZES, width))

    @cached_property
    def flow(self) -> Coordinates:
        """Of the motion that block matching finds."""
        return Coordinates.fit(self.train.flow, self.held_out.flow)

    @cached_property
    def codes(self) -> dict[str, CodeStream]:
        """Codes that were not learned, at the model's bits; none for a model without codes."""
        if not self.train.latents.codes.shape[1]:
            return {}

        def kmeans(key: str, what: str, rows: Coordinates) -> CodeStream:
            if (target := self.target) is None:
                return self.kmeans(key, what, rows, rows.sizes[0])
            # the width is chosen on training episodes
            streams = [self.kmeans(key, what, rows, width) for width in rows.sizes]
            return max(streams, key=lambda stream: target.validation(stream.one_hot[0]))

        on_change = kmeans("residual_kmeans", "the frame change", self.change)
        on_flow = kmeans("flow_kmeans", "block flow", self.flow)
        return {stream.key: stream for stream in (on_change, on_flow, *self._untrained_codes())}

    def _untrained_codes(self) -> list[CodeStream]:
        """Quantize the untrained model's latents by k-means, standardised where the model does so; none without one."""
        if self.train.untrained is None or self.held_out.untrained is None:
            return []
        latents = [self.train.untrained.latents, self.held_out.untrained.latents]
        levels = self.tokens if latents[0].shape[1] == 1 else 1  # a residual quantizer has one latent for all
        if getattr(getattr(self.model, "config", None), "latent_norm", "none") == "batch":
            shift, scale = latents[0].mean(0), latents[0].std(0).clamp_min(1e-6)
            latents = [(each - shift) / scale for each in latents]
        rows = [each.flatten(0, -2) for each in latents]
        fitted = ResidualKMeans.fit(rows[0], self.size, levels, self.seed)
        train, held_out = (fitted.encode(each).reshape(-1, self.tokens) for each in rows)
        return [CodeStream("untrained", "untrained model, codes by k-means", train, held_out, self.size)]

    def kmeans(self, key: str, what: str, rows: Coordinates, width: int) -> CodeStream:
        """Cluster the first `width` coordinates at the bits of the model's codes."""
        train, held_out = rows.first(width)
        fitted = ResidualKMeans.fit(train, self.size, self.tokens, self.seed)
        name = f"residual k-means on {what} (PCA {width})"
        return CodeStream(key, name, fitted.encode(train), fitted.encode(held_out), self.size)

    @cached_property
    def labels_only(self) -> tuple[dict[str, Tensor], str] | None:
        if self.training is None or self.target is None:
            return None
        return labels_only(self.model, self.case.dataset, self.train, self.held_out, self.training)

    @property
    def model(self) -> Any:
        return self.case.model

    @property
    def seed(self) -> int:
        return self.case.options.seed

    @property
    def size(self) -> int:
        """Codes per position, K; 0 of a model without codes."""
        return self.model.codebook_size or 0

    @property
    def tokens(self) -> int:
        """Codes of a label, P."""
        return self.train.latents.codes.shape[1]

    @property
    def gap(self) -> str:
        """Say how far apart the two frames of a pair are."""
        stride = self.source.stride
        return f"{checks.counted(stride, 'frame')}, {stride / self.source.dataset.fps:.3g} s"

    @property
    def env_size(self) -> int:
        """Codes per position of the environment stream, as far as the model says: else as many as are in use."""
        known = getattr(getattr(self.model, "config", None), "env_codebook_size", None)
        streams = [pairs.latents.env for pairs in (self.train, self.held_out)]
        return known or 1 + max(int(env.codes.max()) for env in streams if env is not None)

    @property
    def space(self) -> list[int]:
        return space_dims(self.names)

    @property
    def streams(self) -> list[CodeStream]:
        """The model's streams of codes, then the controls; none for a model without codes. The clusters are always of
        one width: no actions choose it, so that collapse does not depend on them."""
        if not self.codes:
            return []
        train, held_out = self.train.latents, self.held_out.latents
        found = [CodeStream("model", "latent actions", train.codes, held_out.codes, self.size, False)]
        if train.env is not None and held_out.env is not None:
            codes = (train.env.codes, held_out.env.codes)
            found.append(CodeStream("env", "environment stream", *codes, self.env_size, False))
        clusters = self.kmeans("residual_kmeans", "the frame change", self.change, self.change.sizes[0])
        return [*found, clusters, *(each for each in self.codes.values() if each.key == "untrained")]

    @property
    def inputs(self) -> dict[str, Callable[[Any], Tensor]]:
        """What probes read from latent actions of the model, [n, d] each; only what it has."""
        found = dict[str, Callable[[Any], Tensor]]()
        if self.held_out.latents.latents.shape[1]:
            found["latents"] = lambda x: x.latents.flatten(1)
        if self.codes:
            found["codes"] = lambda x: one_hot(x.codes, self.train.latents.codes)
        if (known := self.train.latents.env) is not None:
            found["env_latents"] = lambda x: x.env.latents.flatten(1)
        if known is not None and self.codes:
            found["env_codes"] = lambda x: one_hot(x.env.codes, known.codes)
        return found

    @property
    def labels(self) -> tuple[Tensor, Tensor]:
        """What a probe reads of both splits, [n, d] and [N, d]: one-hot codes, or the latents of a continuous model."""
        pick = self.inputs["codes" if "codes" in self.inputs else "latents"]
        return pick(self.train.latents), pick(self.held_out.latents)

    @cached_property
    def probes(self) -> dict[str, list[ProbeRow]]:
        """What probes read of actions from "codes", if there are any, and "latents", then from the controls of either;
        nothing without actions."""
        probed = cast(Probed, self)  # type checkers take no cached property for a property
        return {} if self.target is None else probe_rows(probed, self.target)

    @property
    def judged(self) -> tuple[ProbeRow, ProbeRow | None] | None:
        """The labels, by codes if there are any, and their best control; None without actions."""
        rows = next(iter(self.probes.values()), None)
        return None if rows is None else (rows[0], strongest(rivals_of(rows), "linear"))

    @property
    def provenance(self) -> dict[str, Any]:
        full, side = self.train.sight.features.side, self.train.side
        what = "patch features" if self.train.sight.model is not None else "patches of pixels"
        seen = f"all {what}" if side == full else f"{what} averaged from {full}x{full} to {side}x{side}"
        pairs = {"held_out_pairs": self.held_out.text, "training_pairs": self.train.text}
        frames = {"stride_frames": self.source.stride, "cameras": list(self.source.cameras)}
        return {**frames, **pairs, "frame_controls_see": seen, "held_out_tasks": self.folds[1]}


@register_evidence("given", of=(HoldsLabels,), place=40)
class GivenEvidence(LatentEvidence):
    """The same about labels that are there already."""

    kind = GivenLabels.type
    asks = "May a policy learn from these labels?"
    use = NOTHING

    @property
    def next(self) -> Advice:
        return learn_from(self.case)


def learn_from(case: Case) -> Advice:
    """Say how a policy learns from given labels; nothing of arrays, which lie nowhere."""
    given, dataset = case.model, case.dataset.address or DATASET
    if given.address == UNKNOWN:
        return NOTHING
    how = ("--strategy", "la_direct" if given.codebook_size else "la_direct_c", "--out", "my-policy")
    if given.spec is not None:
        beside = [] if given.address == given.spec.prefix else ["--labels", given.address]
        if given.spec.target == "chunk":
            how = ("--strategy", "la_tok", *how[2:])
        return advise("Train a policy", command("train", "vla", dataset, *beside, *how))
    more = [] if case.options.stride is None else ["--stride", str(case.options.stride)]
    more += prefix_flags(case.dataset, "latent")
    taken = command(*taking(given.address), *more, "--out", "my-labels").filled({DATASET: dataset})
    return advise("Train a policy", taken, command("train", "vla", "my-labels", *how))
