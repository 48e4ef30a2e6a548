"""Label models of the study and the datasets that they label. All are made once, and kept in the study's folder."""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

import lattok
from lattok.data import select_episodes
from lattok.data.pixels import resize_pixels
from lattok.evaluation.evidence.unlearned import ResidualKMeans
from lattok.nn.ridge import ridge_predictions
from lattok.recipes import recipe_of
from lattok.samples.frame_pairs import FramePairs, PairLabels
from lattok.sim.worlds.metaworld import INSTRUCTIONS
from lattok.types import LatentActions, VideoLabeller
from lattok.utils import files
from studies.plan import DEVICE, LABELS, Regime

STRIDE, SIDE, COMPONENTS = 4, 32, 64  # frames (0.2 s), pixels, principal components
LEVELS, CODES = 4, 16  # as many bits as the latent action model has
ACTION, EXECUTED, STATE = "expert_action", "action", "observation.state"  # of which policies learn the first
INFO = "meta/info.json"
AROUND, RIDGE = 4, 1.0  # steps on both sides, and the penalty, with which actions are read from labels


class PixelCodes(VideoLabeller):
    """Control: residual k-means codes of what changes between two frames, in principal components of its pixels."""

    type = "pixel-codes"
    codebook_size = CODES

    def __init__(self, cameras: tuple[str, ...], axes: Tensor, codes: ResidualKMeans):
        self.cameras, self.axes, self.codes = cameras, axes, codes

    @classmethod
    def fit(cls, dataset: Any, cameras: tuple[str, ...], seed: int) -> "PixelCodes":
        """Fit to 4,000 pairs of the whole dataset, without actions."""
        pairs = FramePairs(dataset, STRIDE, cameras, PairLabels(action_key=None), transform=small_frames)
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randperm(len(pairs), generator=generator)[:4000]
        frames = pairs.batch(rows).frames.flatten(2).float()
        changes = (frames[:, 1] - frames[:, 0]) / 255
        torch.manual_seed(seed)
        axes = torch.pca_lowrank(changes, COMPONENTS, center=False)[2]
        return cls(cameras, axes, ResidualKMeans.fit(changes @ axes, CODES, LEVELS, seed))

    def describe(self) -> dict[str, Any]:
        """Return its identity for provenance."""
        return {"type": self.type, "sum": float(self.axes.double().abs().sum())}

    def stride_frames(self, fps: float) -> int:
        """Return the stride."""
        return STRIDE

    def resize(self, frames: np.ndarray) -> np.ndarray:
        """Bring frames uint8 [n, H, W, 3] to the size of the model."""
        return small_frames(frames)

    def label_video(self, frames: np.ndarray | Iterable[np.ndarray], stride: int) -> LatentActions:
        """Label video [T, V, H, W, 3] uint8."""
        pieces = [frames] if isinstance(frames, np.ndarray) else list(frames)
        video = torch.from_numpy(np.concatenate(pieces)).flatten(1).float()
        later = torch.arange(len(video)).add(stride).clamp(max=len(video) - 1)
        vectors = (video[later] - video) / 255 @ self.axes
        codes = self.codes.encode(vectors)
        return LatentActions(codes, vectors[:, None], self.codes.decode(codes)[:, None])


def small_frames(frames: np.ndarray) -> np.ndarray:
    """Bring frames uint8 [n, H, W, 3] to SIDE pixels."""
    return resize_pixels(torch.from_numpy(np.array(frames)), SIDE, "bilinear").numpy()


def labelled_dataset(
    folder: Path, data: Path, labels: str, regime: Regime, seed: int, videos: Path | None = None
) -> Path:
    """Return `data` with the labels of LABELS[labels], made with this seed of what the regime lets a model see.

    `videos`: another dataset to label in its place; the model looks at its cameras in their order.
    """
    which, out, elsewhere = LABELS[labels], folder / "labelled" / dataset_name(labels, regime, seed), None
    if videos not in (None, data):
        elsewhere, out = lattok.open_dataset(videos).cameras, out.with_name(f"{out.name}.of.{videos.name}")
    if out.exists():
        return out
    out.parent.mkdir(parents=True, exist_ok=True)
    if which.of is not None:
        change = {"shuffled": _shuffled, "truth": _of_actions}[which.kind]
        return change(labelled_dataset(folder, data, which.of, regime, seed), out, seed)
    if which.kind != "k-means":
        return lattok.annotate(videos or data, label_model(folder, data, labels, regime, seed), out, cameras=elsewhere)
    dataset = lattok.open_dataset(data)
    return lattok.annotate(data, PixelCodes.fit(dataset, dataset.cameras, seed), out)


def films(labelled: Path) -> Path:
    """Return a labelled dataset as films are: frames, instructions and labels, without any action or state."""
    out, work = labelled.with_name(f"{labelled.name}.films"), labelled.with_name(f".{labelled.name}.films")
    if out.exists():
        return out
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(labelled, work)
    told = (ACTION, EXECUTED, STATE)
    info = files.read_json(work / INFO)
    info["features"] = {name: feature for name, feature in info["features"].items() if name not in told}
    files.write_json(work / INFO, info)
    for file in sorted(work.glob("data/**/*.parquet")):
        pq.write_table(pq.read_table(file).drop_columns(list(told)), file)
    work.rename(out)
    return out


def label_model(folder: Path, data: Path, labels: str, regime: Regime, seed: int) -> Path:
    """Return the folder of the model that makes the labels, trained with this seed."""
    which, out = LABELS[labels], folder / "models" / dataset_name(labels, regime, seed)
    if (out / "config.json").exists():
        return out
    given: dict[str, Any] = {**which.options, "seed": seed, "device": DEVICE, "action_key": ACTION}
    if which.kind == "idm":
        given["action_key"] = EXECUTED  # which is what a video shows
    given["episodes"], acting = regime.episodes(seed), known_episodes(data, regime, seed)
    if acting is not None and (which.source == "actions" or which.known_alone):
        given["episodes"] = acting
    elif acting is not None and given.get("labelled_fraction") != 0:
        given["action_episodes"] = acting
    if (regime.demonstrations or acting) and which.kind == "image-lam" and given.get("labelled_fraction") != 0:
        given["labelled_fraction"] = 1.0  # of few actions
    preset = given.pop("preset", None)
    shutil.rmtree(out, ignore_errors=True)
    recipe = recipe_of(which.kind)
    assert recipe is not None
    if "device" not in recipe.from_preset(data, out, preset).options():  # families that nothing is trained for
        del given["device"]
    lattok.train(recipe.from_preset(data, out, preset, **given))
    return out


def known_episodes(data: Path, regime: Regime, seed: int) -> str | None:
    """Return the episodes whose actions are known, None where that is all."""
    acting = regime.acting_episodes(seed)
    if not regime.acting_tasks:
        return acting
    instructions = {INSTRUCTIONS[task] for task in regime.acting_tasks}
    chosen = select_episodes(lattok.open_dataset(data), acting)
    return ",".join(str(episode.index) for episode in chosen if episode.tasks[0] in instructions)


def dataset_name(labels: str, regime: Regime, seed: int) -> str:
    """Return the name of a labelled dataset, and of the model that labels it."""
    return f"{labels}{regime.part}.{seed}"


def _shuffled(source: Path, out: Path, seed: int) -> Path:
    """Copy a labelled dataset, each episode with the labels of another one; where that ends its last ones go on."""
    episode, whole = columns_of(source, ["latent."])
    starts = np.flatnonzero(np.diff(episode, prepend=-1))
    lengths = np.diff(starts, append=len(episode))
    order = np.random.default_rng(seed).permutation(len(starts))
    other = np.empty(len(starts), dtype=int)
    other[order] = np.roll(order, 1)  # one cycle: no episode keeps its own
    rows = np.concatenate(
        [starts[o] + np.minimum(np.arange(n), lengths[o] - 1) for o, n in zip(other, lengths, strict=True)]
    )
    return with_columns(source, out, whole.take(pa.array(rows)))


def _of_actions(source: Path, out: Path, seed: int) -> Path:
    """Copy a labelled dataset; its labels become residual k-means codes of what the expert does over the stride."""
    episode, whole = columns_of(source, ["latent.embedding", ACTION])
    width, actions = whole.column(0).type.list_size, np.stack(whole[ACTION].to_numpy())
    place, last = np.arange(len(episode)), np.searchsorted(episode, episode, side="right") - 1
    chunks = np.concatenate([actions[np.minimum(place + step, last)] for step in range(STRIDE)], 1)
    vectors = np.zeros((len(chunks), width), dtype=np.float32)
    vectors[:, : chunks.shape[1]] = (chunks - chunks.mean(0)) / chunks.std(0)
    kmeans = ResidualKMeans.fit(torch.from_numpy(vectors), CODES, LEVELS, seed)
    codes = kmeans.encode(torch.from_numpy(vectors))
    return with_columns(
        source, out, pa.table({"latent.codes": lists(codes), "latent.embedding": lists(kmeans.decode(codes))})
    )


def lists(rows: Tensor) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1).numpy()), rows.shape[1])


def decoded_dataset(folder: Path, data: Path, labels: str, regime: Regime, seed: int) -> Path:
    """Return the dataset with unknown actions as read from its labels: ridge on those of AROUND steps before and after.

    Fitted on the episodes whose actions are known, which stay as they are.
    """
    source = labelled_dataset(folder, data, labels, regime, seed)
    out = source.with_name(f"{source.name}.decoded")
    if out.exists():
        return out
    episode, whole = columns_of(source, ["latent.embedding", ACTION])
    latents, actions = (np.stack(whole[name].to_numpy()).astype(np.float64) for name in whole.column_names)
    known = _known(source, regime, seed)
    place = np.arange(len(episode))
    first, last = np.searchsorted(episode, episode), np.searchsorted(episode, episode, side="right") - 1
    near = [latents[np.clip(place + offset, first, last)] for offset in range(-AROUND, AROUND + 1)]
    x, y = torch.from_numpy(np.concatenate(near, 1)), torch.from_numpy(actions)
    read = ridge_predictions(x[known], y[known], x, [RIDGE])[0].clamp(y[known].min(0).values, y[known].max(0).values)
    error = (read - y)[~known].square().sum(0) / (y[~known] - y[~known].mean(0)).square().sum(0)
    print(f"actions read from labels: R2 {[round(1 - float(e), 2) for e in error]} of those that nobody knows")
    read[known] = y[known]
    return with_columns(source, out, pa.table({ACTION: lists(read.float())}))


def filled_dataset(folder: Path, data: Path, labels: str, regime: Regime, seed: int) -> Path:
    """Return the dataset with unknown actions as LABELS[labels] fill them in; nothing that makes it has seen them."""
    which, out = LABELS[labels], folder / "filled" / dataset_name(labels, regime, seed)
    if which.kind == "image-lam":
        return decoded_dataset(folder, data, labels, regime, seed)
    if out.exists():
        return out
    out.parent.mkdir(parents=True, exist_ok=True)
    if which.of is not None:
        return _exchanged(filled_dataset(folder, data, which.of, regime, seed), out, seed)
    if which.kind != "idm":
        return {"executed": _executed, "proprio": _of_proprio}[which.kind](data, out, regime, seed)
    model = label_model(folder, data, labels, regime, seed)
    return lattok.annotate(
        hidden_dataset(folder, data, regime, seed), {"inferred": model}, out, fill=True, action_key=ACTION
    )


def hidden_dataset(folder: Path, data: Path, regime: Regime, seed: int) -> Path:
    """Return the demonstrations with NaN for every action that nobody knows."""
    out = folder / "hidden" / f"actions{regime.part}.{seed}"
    if out.exists():
        return out
    return hide(data, out, _known(data, regime, seed))


def hide(data: Path, out: Path, known: np.ndarray) -> Path:
    """Copy a dataset, with NaN for the actions of rows that are not `known` [F], or of all [1]."""
    out.parent.mkdir(parents=True, exist_ok=True)
    whole, columns = columns_of(data, [ACTION, EXECUTED])[1], {}
    for name in whole.column_names:
        values = np.stack(whole[name].to_numpy())
        columns[name] = lists(torch.from_numpy(np.where(known[:, None], values, np.nan).astype(np.float32)))
    return with_columns(data, out, pa.table(columns))


def _known(data: Path, regime: Regime, seed: int) -> np.ndarray:
    """Return which rows of a dataset are of demonstrations whose actions are known."""
    acting = select_episodes(lattok.open_dataset(data), known_episodes(data, regime, seed))
    return np.isin(columns_of(data, [])[0], [each.index for each in acting])


def _exchanged(source: Path, out: Path, seed: int) -> Path:
    """Copy a filled dataset; an episode whose actions were inferred gets another one's, with their confidence."""
    episode, whole = columns_of(source, [ACTION, "inferred.confidence", "inferred.filled"])
    filled = whole["inferred.filled"].to_numpy()
    numbers = np.unique(episode[filled])
    order = np.random.default_rng(seed).permutation(numbers)
    other = dict(zip(order.tolist(), np.roll(order, 1).tolist(), strict=True))  # one cycle: none keeps its own
    rows = np.arange(len(episode))
    for number in numbers.tolist():
        mine, theirs = np.flatnonzero(episode == number), np.flatnonzero(episode == other[number])
        rows[mine] = theirs[np.minimum(np.arange(len(mine)), len(theirs) - 1)]
    return with_columns(source, out, whole.take(pa.array(rows)))


def _executed(data: Path, out: Path, regime: Regime, seed: int) -> Path:
    """Copy the demonstrations; in place of unknown actions stands what was executed, noise included."""
    whole = columns_of(data, [ACTION, EXECUTED])[1]
    wanted, done = (np.stack(whole[name].to_numpy()) for name in (ACTION, EXECUTED))
    filled = np.where(_known(data, regime, seed)[:, None], wanted, done)
    return with_columns(data, out, pa.table({ACTION: lists(torch.from_numpy(filled))}))


def _of_proprio(data: Path, out: Path, regime: Regime, seed: int) -> Path:
    """Copy the demonstrations; unknown actions are read by ridge from how the robot's state differs around them."""
    episode, whole = columns_of(data, [ACTION, EXECUTED, STATE])
    wanted, done, states = (np.stack(whole[name].to_numpy()) for name in (ACTION, EXECUTED, STATE))
    known, place = _known(data, regime, seed), np.arange(len(episode))
    first, last = np.searchsorted(episode, episode), np.searchsorted(episode, episode, side="right") - 1
    around = [states[np.clip(place + offset, first, last)] - states for offset in range(-2, 5) if offset]
    x, y = torch.from_numpy(np.concatenate(around, 1)).double(), torch.from_numpy(done).double()
    read = ridge_predictions(x[known], y[known], x, [RIDGE])[0].clamp(y[known].min(0).values, y[known].max(0).values)
    filled = torch.where(torch.from_numpy(known)[:, None], torch.from_numpy(wanted).double(), read)
    return with_columns(data, out, pa.table({ACTION: lists(filled.float())}))


def columns_of(source: Path, prefixes: list[str]) -> tuple[np.ndarray, pa.Table]:
    """Read which episode each row of a dataset is of, and the columns with these prefixes."""
    whole = pa.concat_tables(pq.read_table(file) for file in sorted(source.glob("data/**/*.parquet")))
    return whole["episode_index"].to_numpy(), whole.select(
        [name for prefix in prefixes for name in whole.column_names if name.startswith(prefix)]
    )


def with_columns(source: Path, out: Path, columns: pa.Table) -> Path:
    """Copy a dataset to `out`, with other numbers in these columns."""
    work, first = out.with_name(f".{out.name}"), 0
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(source, work)
    for file in sorted(work.glob("data/**/*.parquet")):
        table = pq.read_table(file)
        for name in columns.column_names:
            field = table.schema.field(name)
            column = columns[name].slice(first, len(table)).cast(field.type)
            table = table.set_column(table.column_names.index(name), field, column)
        pq.write_table(table, file)
        first += len(table)
    work.rename(out)
    return out
