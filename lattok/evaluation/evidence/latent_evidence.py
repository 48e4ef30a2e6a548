"""What questions about latent action models share: pairs of both splits, their latents, and controls without any.

current frame    PCA of the features of o_t                             what the scene gives away
frame change     PCA of f(o_t+stride) - f(o_t)                          what subtraction alone shows
flow             PCA of the motion that block matching finds            what a classical method shows
residual k-means on change or flow, P levels of K                       the same at the bits of the model's codes
untrained model  same architecture, fresh weights                       what the architecture alone does
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lattok.data import dimension_names
from lattok.data.instructions import task_group
from lattok.evaluation.evidence import Case, Evidence, register_evidence
from lattok.evaluation.evidence.pair_set import MAX_PAIRS, PairSet, PairSource, read_pair_set
from lattok.evaluation.evidence.probes import Bootstrap, Fold, Probe, linear_probe, one_hot, pca
from lattok.evaluation.evidence.trained_controls import ControlTraining, labels_only
from lattok.image_lam import TrainedPairModel
from lattok.labels import GivenLabels
from lattok.nn.kmeans import nearest, residual_kmeans
from lattok.nn.normalize import space_dims
from lattok.types import Episode, HoldsLabels, InfersActions, LabelsVideo, StartsAfresh, lacks
from lattok.utils import checks
from lattok.utils.commands import DATASET, MODEL, NOTHING, advise, command

ITERATIONS = 50
FIT_ROWS = 50_000  # more rows than this do not move the centres, they only cost memory
BLOCK = 8192
PCA_SIZES = (32, 64, 128)
FOLDS = 5  # over tasks
LABEL = command("annotate", DATASET, "--model", MODEL, "--out", "labelled")


@dataclass(frozen=True)
class ResidualKMeans:
    """`levels` codebooks [K, d] in a residual chain; one level is plain k-means."""

    books: tuple[Tensor, ...]

    @classmethod
    def fit(cls, vectors: Tensor, size: int, levels: int = 1, seed: int = 0) -> "ResidualKMeans":
        """Find the centres of vectors [N, d]; at most `FIT_ROWS` of them, evenly spaced, are used."""
        generator = torch.Generator().manual_seed(seed)
        rows = vectors[:: math.ceil(len(vectors) / FIT_ROWS)].float()
        return cls(tuple(residual_kmeans(rows, size, levels, ITERATIONS, generator)))

    def encode(self, vectors: Tensor) -> Tensor:
        """Turn vectors [N, d] into codes int64 [N, levels]."""
        blocks = []
        for left in vectors.float().split(BLOCK):
            codes = []
            for book in self.books:
                codes.append(nearest(left, book))
                left = left - book[codes[-1]]
            blocks.append(torch.stack(codes, 1))
        return torch.cat(blocks)

    def decode(self, codes: Tensor) -> Tensor:
        """Turn codes [N, levels] into vectors [N, d]."""
        return torch.stack([book[codes[:, i]] for i, book in enumerate(self.books)]).sum(0)


@dataclass(frozen=True)
class Target:
    """What probes predict: the mean action over the gap."""

    train: Tensor  # [n, m]
    episodes: np.ndarray  # [n]
    held_out: Tensor  # [N, m]

    def probe(self, train: Tensor, held_out: Tensor) -> Probe:
        """Fit on inputs [n, d], judge on [N, d]."""
        return linear_probe(train, self.train, self.episodes, held_out, self.held_out)


@dataclass(frozen=True)
class Coordinates:
    """Principal coordinates of both splits, fitted to the training one: [n, k] and [N, k], k the largest size."""

    train: Tensor
    held_out: Tensor

    @classmethod
    def fit(cls, train: Tensor, held_out: Tensor, most: int = PCA_SIZES[-1]) -> "Coordinates":
        """Fit `most` components to rows [n, D]; project these and [N, D]."""
        components = pca(train, most)
        return cls(components.project(train), components.project(held_out))

    @property
    def sizes(self) -> list[int]:
        """Numbers of components to try; fewer when there are not that many."""
        return sorted({min(size, self.train.shape[1]) for size in PCA_SIZES})

    def first(self, size: int) -> tuple[Tensor, Tensor]:
        return self.train[:, :size], self.held_out[:, :size]

    def best_size(self, target: Target) -> int:
        return max(self.sizes, key=lambda size: target.probe(*self.first(size)).validation)


class CodeStream(NamedTuple):
    """Codes of one source on both splits."""

    key: str
    name: str
    train: Tensor  # [n, P]
    held_out: Tensor  # [N, P]
    size: int
    control: bool = True

    @property
    def one_hot(self) -> tuple[Tensor, Tensor]:
        return one_hot(self.train, self.size), one_hot(self.held_out, self.size)


def task_folds(episodes: Sequence[Episode], train: np.ndarray, held_out: np.ndarray) -> tuple[list[Fold], str]:
    """Make folds over tasks from episodes of training [n] and held-out pairs [N]; say which, or why there are none."""
    task_of = {episode.index: task_group(episode) for episode in episodes}
    train_tasks, held_tasks = ([task_of[int(index)] for index in rows] for rows in (train, held_out))
    judged, folds = sorted(set(held_tasks)), []
    if len({*train_tasks, *judged}) < 2:
        return [], "not applicable: the dataset has one task"
    count = min(FOLDS, len(judged))
    for i in range(count):
        group = set(judged[i::count])
        names = {name for task in group for name in task}  # an episode may have several
        others = [row for row, task in enumerate(train_tasks) if task not in group and names.isdisjoint(task)]
        fit = torch.tensor(others, dtype=torch.long)
        if not len(fit):
            return [], "not applicable: all training pairs are of one task"
        folds.append(Fold(fit, torch.tensor([row for row, task in enumerate(held_tasks) if task in group])))
    each = sorted({len(judged[i::count]) for i in range(count)})
    size = " or ".join(map(str, each)) + (" task" if each == [1] else " tasks")
    return folds, f"{len(judged)} tasks in {count} folds: probes are fitted without the {size} they are judged on"


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
    asks = "May I annotate with this model?"
    use = advise("Label data with it", LABEL)

    @classmethod
    def gather(cls, case: Case, decoded: dict[Any, np.ndarray] | None = None) -> "LatentEvidence":
        """Read the pairs of both splits; `decoded` keeps frames for the next model that sees the same ones."""
        model, options, training = case.model, case.options, None
        if case.trains_controls and not isinstance(model, TrainedPairModel):
            hint = "Train an ImageLAM on this dataset and judge it as well."
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
            return max(streams, key=lambda stream: target.probe(*stream.one_hot).validation)

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
            found["codes"] = lambda x: one_hot(x.codes, self.size)
        if self.held_out.latents.env is not None:
            found["env_latents"] = lambda x: x.env.latents.flatten(1)
        if self.held_out.latents.env is not None and self.codes:
            found["env_codes"] = lambda x: one_hot(x.env.codes, self.env_size)
        return found

    @property
    def labels(self) -> tuple[Tensor, Tensor]:
        """What a probe reads of both splits, [n, d] and [N, d]: one-hot codes, or the latents of a continuous model."""
        pick = self.inputs["codes" if "codes" in self.inputs else "latents"]
        return pick(self.train.latents), pick(self.held_out.latents)

    @cached_property
    def reading(self) -> Probe | None:
        """The probe that reads actions from the labels; None without actions."""
        return None if self.target is None else self.target.probe(*self.labels)

    @cached_property
    def motion(self) -> Probe | None:
        """The probe that reads them from raw block motion."""
        return None if self.target is None else self.target.probe(*self.flow.first(self.flow.best_size(self.target)))

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
