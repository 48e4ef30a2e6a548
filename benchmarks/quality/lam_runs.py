"""What the studies of the image latent action model share: frames decoded once, training from them, figures, controls.

The second dataset (eight tasks that the bundled sample does not have, 5 episodes each) is not stored, only how to make
it; `dataset()` says when the recorded actions differ from ours, which are beside the list of tasks:

MUJOCO_GL=egl python scripts/make_metaworld_sample.py --tasks benchmarks/data/new_tasks.json --out second
"""

import copy
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import lattok
from lattok.data import camera_keys
from lattok.evaluation.evidence.probes import linear_probe, one_hot, pca
from lattok.evaluation.evidence.unlearned import ResidualKMeans
from lattok.evaluation.questions.dependence import BlindDecoder
from lattok.image_lam import ImageLAM, PairLearner
from lattok.image_lam.base.features import FrozenFeatures
from lattok.image_lam.base.losses import block_flow
from lattok.nn.quantize import code_statistics
from lattok.samples import FramePairs, PairLabels
from lattok.samples.batches import PairBatches
from lattok.samples.frame_pairs import draw_labelled
from lattok.samples.order import BatchSampler, Passes
from lattok.training import fit
from lattok.types import LatentActions, PairBatch, join

SECOND_ACTIONS = Path(__file__).parents[1] / "data" / "new_tasks.npz"
SIDE, GAP = 64, 16  # of preset `tiny`: pixels, frames at the sample's 80 Hz
NOW = 64  # principal components of the current frame
PCA_SIZES, SEEDS = (32, 64, 128), (0, 1, 2)
Figures = dict[str, float]


@dataclass(frozen=True)
class Demonstrations:
    """Frame pairs of a dataset, decoded once; the last episode of every task is held out."""

    train: FramePairs
    held_out: FramePairs
    tasks: dict[int, tuple[str, ...]]  # of each episode

    @cached_property
    def current(self) -> list[Tensor]:
        """Principal coordinates of the current frame's pixels of both splits, fitted on the training split."""
        rows = [_pixels(pairs, pairs.first) for pairs in (self.train, self.held_out)]
        components = pca(rows[0], NOW)
        return [components.project(x) for x in rows]

    def labelled(self, fraction: float, seed: int, tasks: Sequence[str] | None = None) -> FramePairs:
        """The training pairs with this share of labels, drawn as `lattok train` does; `tasks`: only in these."""
        pairs = copy.copy(self.train)
        pairs.labelled = draw_labelled(pairs.episode_of, pairs.frame_of, self.tasks, fraction, "pairs", seed)
        if tasks is not None:
            pairs.labelled &= np.array([self.tasks[e][0] in tasks for e in pairs.episode_of.tolist()])
        return pairs


def dataset(path: Path | None, cameras: Sequence[str] | None = None) -> Demonstrations:
    """The bundled sample, or the dataset in a folder."""
    source = lattok.open_dataset(path or lattok.sample_dataset_path())
    if path is not None:
        actions = np.concatenate([source.columns(e.index, ["action"])["action"] for e in source.episodes])
        same = np.array_equal(actions, np.load(SECOND_ACTIONS)["actions"])
        print(f"{path}: {'as in ours' if same else 'not the second dataset of ours'}")
    features = FrozenFeatures("pixels", SIDE, interpolation="bilinear")

    def small(frames: np.ndarray) -> np.ndarray:
        return features.resize(torch.from_numpy(frames)).numpy()

    def pairs(split: str) -> FramePairs:
        keys = camera_keys(source, cameras)
        return FramePairs(
            source,
            GAP,
            keys,
            PairLabels(labelled_fraction=0.0),
            state_key="observation.state",
            episodes=split,
            transform=small,
        )

    return Demonstrations(pairs("train"), pairs("test"), {e.index: e.tasks for e in source.episodes})


def joined(pairs: FramePairs, more: FramePairs) -> FramePairs:
    """The pairs of two datasets; only the first one's labels are known."""
    both = copy.copy(pairs)
    frames, episodes = len(pairs.frames), 1 + int(pairs.episode_of.max())
    both.frames = np.concatenate([pairs.frames, more.frames])
    both.first = np.concatenate([pairs.first, more.first + frames])
    both.second = np.concatenate([pairs.second, more.second + frames])
    both.episode_of = np.concatenate([pairs.episode_of, more.episode_of + episodes])
    both._actions = np.concatenate([pairs.actions, np.zeros_like(more.actions)])
    both.labelled = np.concatenate([pairs.labelled, np.zeros(len(more), dtype=bool)])
    return both


def untrained(
    pairs: FramePairs, seed: int, preset: str = "tiny+robust", **options: Any
) -> tuple[lattok.ImageLAMRecipe, ImageLAM]:
    """A recipe and its model before training."""
    options = {"features": "pixels", "device": "cpu", "seed": seed, **options}
    recipe = lattok.ImageLAMRecipe.from_preset("-", "-", preset, **options)
    torch.manual_seed(seed)
    return recipe, ImageLAM(recipe.config(cameras=pairs.cameras))


def train(pairs: FramePairs, seed: int, preset: str = "tiny+robust", **options: Any) -> ImageLAM:
    """What `lattok train image-lam` does, from frames in memory."""
    recipe, model = untrained(pairs, seed, preset, **options)
    learner = PairLearner(model)
    if pairs.labelled.any():
        learner.attach_action_head(torch.from_numpy(pairs.actions[pairs.labelled]))
    batches = PairBatches(pairs, recipe.loop.batch_size, recipe.data.labelled_per_batch, seed)
    with tempfile.TemporaryDirectory() as scratch:
        fit(learner, batches, recipe.loop, Path(scratch) / "run", loss_weights=model.config.loss_weights)
    return model.eval()


def encoded(model: ImageLAM, pairs: FramePairs) -> LatentActions:
    """Latent actions of all pairs."""
    return join([model.encode(batch.frames) for batch in blocks(pairs)])


def blocks(pairs: FramePairs) -> list[PairBatch]:
    """All pairs, in order."""
    return [pairs.batch(rows) for rows in torch.arange(len(pairs)).split(256)]


def figures(model: ImageLAM, data: Demonstrations) -> Figures:
    """R^2 of linear probes, usage of the codes on held-out pairs, and how much the decoder relies on them."""
    sets = [encoded(model, pairs) for pairs in (data.train, data.held_out)]
    codes = [one_hot(x.codes, sets[0].codes) for x in sets]
    now = data.current
    statistics = code_statistics(sets[1].codes, model.config.codebook_size)
    found = {
        **r2(data, codes, "codes"),
        **r2(data, [x.latents.flatten(1) for x in sets], "latents"),
        **r2(data, [torch.cat(x, 1) for x in zip(now, codes, strict=True)], "codes given the current frame"),
        "codes used, least of positions": min(statistics.used),
        "joint bits": statistics.joint_entropy,
        **losses(model, data.held_out, sets[1]),
    }
    return {name: round(value, 4) for name, value in found.items()}


def r2(data: Demonstrations, inputs: Sequence[Tensor], name: str) -> Figures:
    """Mean and xyz R^2 of a probe fitted on training rows, `inputs` of both splits; `/validation` chose its ridge."""
    train, held_out = (torch.from_numpy(pairs.actions) for pairs in (data.train, data.held_out))
    fitted = linear_probe(inputs[0], train, data.train.episode_of, inputs[1], held_out)
    each = fitted.r2.tolist()
    dims = {f"r2/{name}/dim{i}": value for i, value in enumerate(each)}
    return {
        f"r2/{name}/mean": sum(each) / len(each),
        f"r2/{name}/xyz": sum(each[:3]) / 3,
        **dims,
        f"r2/{name}/validation": fitted.validation,
    }


def losses(model: ImageLAM, pairs: FramePairs, latents: LatentActions) -> Figures:
    """Prediction loss over that of copying the current frame: with true latents, and another pair's of the episode."""
    order, generator = torch.arange(len(pairs)), torch.Generator().manual_seed(0)
    other = order.clone()
    for episode in np.unique(pairs.episode_of):
        rows = order[torch.from_numpy(pairs.episode_of == episode)]
        rows = rows[torch.randperm(len(rows), generator=generator)]
        other[rows] = rows.roll(1)

    def loss(chosen: Tensor) -> float:
        return over_copy(model, pairs, lambda now, rows: model.predict(now, _rows(latents, chosen[rows])))

    return {"loss/true": loss(order), "loss/shuffled in episode": loss(other)}


def loss_without_latents(data: Demonstrations, seed: int) -> float:
    """The same of a decoder that was trained as long, without latents."""
    recipe, model = untrained(data.train, seed)
    blind = BlindDecoder(model, seed)
    draw = BatchSampler([Passes(len(data.train), seed)], recipe.loop.batch_size + recipe.data.labelled_per_batch)

    def batches(step: int, process: int, processes: int) -> tuple[Tensor, ...]:
        return model.frame_features(data.train.batch(draw(step)).frames).unbind(1)

    with tempfile.TemporaryDirectory() as scratch:
        fit(blind, batches, recipe.loop, Path(scratch) / "run", loss_weights={"prediction": 1.0})
    blind.eval()
    return over_copy(model, data.held_out, lambda now, rows: blind.predict(now))


@torch.no_grad()
def over_copy(model: ImageLAM, pairs: FramePairs, predict: Callable[[Tensor, Tensor], Tensor]) -> float:
    """Squared error of `predict(current features [B, N, D], rows [B])` over that of copying the current features."""
    totals = torch.zeros(2, dtype=torch.float64)
    for rows, batch in zip(torch.arange(len(pairs)).split(256), blocks(pairs), strict=True):
        now, later = model.frame_features(batch.frames).unbind(1)
        totals += torch.stack([(guess - later).square().sum().double() for guess in (predict(now, rows), now)])
    return float(totals[0] / totals[1])


def _rows(latents: LatentActions, rows: Tensor) -> LatentActions:
    return LatentActions(latents.codes[rows], latents.latents[rows], latents.quantized[rows])


def controls(data: Demonstrations, source: Demonstrations | None = None) -> Figures:
    """What needs no training: the current frame, the change of pixels or their flow; alone and with the current frame.

    Numbers of components are chosen on training episodes; k-means has the bits of the codes, a mean over seeds.
    With `source` components and centres come from that dataset, as those of a model that was trained there.
    """
    sets = (data.train, data.held_out)
    found = {} if source else {**r2(data, data.current, "current frame"), **r2(data, _states(sets), "proprio")}
    for name, read in {"change": _change, "flow": _flow}.items():
        rows = [read(pairs) for pairs in sets]
        fitted = rows[0] if source is None else read(source.train)
        components = pca(fitted, max(PCA_SIZES))
        fitted, *rows = (components.project(x) for x in (fitted, *rows))
        for given, extra in (("", None), (" given the current frame", data.current)):
            sizes = [[x[:, :size] for x in (fitted, *rows)] for size in PCA_SIZES]
            found |= _best([r2(data, _beside(extra, x[1:]), f"{name}, PCA{given}") for x in sizes])
            found |= _best([_kmeans(data, x, extra, f"{name}, k-means{given}") for x in sizes])
    return {name: round(value, 4) for name, value in found.items()}


def _states(sets: Sequence[FramePairs]) -> list[Tensor]:
    return [torch.from_numpy(pairs.states) for pairs in sets]


def _change(pairs: FramePairs) -> Tensor:
    return _pixels(pairs, pairs.second) - _pixels(pairs, pairs.first)


def _flow(pairs: FramePairs) -> Tensor:
    return torch.cat([block_flow(batch.frames) for batch in blocks(pairs)])


def _kmeans(data: Demonstrations, rows: Sequence[Tensor], extra: Sequence[Tensor] | None, name: str) -> Figures:
    """Rows that centres are fitted to, then those of both splits."""
    runs = []
    for seed in SEEDS:
        books = ResidualKMeans.fit(rows[0], 16, 4, seed)
        codes = [books.encode(x) for x in rows[1:]]
        runs.append(r2(data, _beside(extra, [one_hot(x, codes[0]) for x in codes]), name))
    return {key: sum(run[key] for run in runs) / len(runs) for key in runs[0]}


def _beside(extra: Sequence[Tensor] | None, rows: Sequence[Tensor]) -> Sequence[Tensor]:
    return rows if extra is None else [torch.cat(x, 1) for x in zip(extra, rows, strict=True)]


def _best(tried: Sequence[Mapping[str, float]]) -> Figures:
    return dict(max(tried, key=lambda run: next(v for k, v in run.items() if k.endswith("/validation"))))


def _pixels(pairs: FramePairs, rows: np.ndarray) -> Tensor:
    return torch.from_numpy(pairs.frames[rows].reshape(len(rows), -1)).float() / 255


def shown(run: Mapping[str, float]) -> str:
    """The main figures of a run in one line."""
    r2_of = {name: (run[f"r2/{name}/mean"], run[f"r2/{name}/xyz"]) for name in ("codes", "latents")}
    parts = [f"{name} {mean:.3f}/{xyz:.3f}" for name, (mean, xyz) in r2_of.items()]
    return ", ".join([*parts, f"{run['joint bits']:.2f} bits", f"loss {run['loss/true']:.3f}"])
