"""What is to be labelled, by what, and the labels: all that engines compute, and nothing that depends on the engine.

The label of an episode depends on that episode, the models and the options alone: batches never cross episodes, and
torch computes with as many threads as the options say.
"""

import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from difflib import get_close_matches
from functools import partial
from typing import Any, NamedTuple, cast

import av
import numpy as np
import PIL
import pyarrow as pa
import torch

from lattok.annotation.units import Failures, Labels, Unit, UnitLabels
from lattok.data.alike import check_actions, check_cameras, check_states, note_rate, stand_ins
from lattok.data.episodes import any_unmeasured, check_stride, select_episodes
from lattok.data.instructions import instruction_of
from lattok.data.schema import (
    RobotDataset,
    camera_keys,
    dimension_names,
    own_vectors,
    parts_of,
    short_name,
    vector_key,
)
from lattok.data.table_dataset import tables_of
from lattok.data.views import View, unwrap
from lattok.labels.spec import Options, fillers
from lattok.nn.blocks import torch_threads
from lattok.samples import ActionWindows
from lattok.types import ActionTokenizer, HoldsActions, HoldsLabels, InfersActions, LatentActions, VideoLabeller, lacks
from lattok.utils import checks, files
from lattok.utils.output import unused
from lattok.utils.parallel import Prefetcher, Request, piece_size
from lattok.version import __version__

BATCH = 1024  # action chunks per call of a tokenizer
PIECE_FRAMES = 512  # frames of an episode at a time, at most; a long one is never in memory as a whole
AHEAD_FRAMES = 2048  # decoded and waiting for the model: 0.6 GB for two cameras at 224 x 224

Models = Mapping[str, ActionTokenizer | VideoLabeller]
Identities = Mapping[str, dict[str, Any]]  # by prefix, what `describe` says: it hashes all weights, so it is asked once
FramesOf = Callable[[str, int, int, int], np.ndarray]  # see `piece_of_frames`
PREFIX = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)*")


class Work(NamedTuple):  # everything that labels depend on; goes to every worker
    dataset: RobotDataset
    models: Models
    options: Options


def identities_of(models: Models, device: str | None = None) -> Identities:
    """Return what provenance says of every model, with the kind of `device` that computes its labels (None: its own).
    Labels from another kind of device may differ in the last bits."""

    def own(model: object) -> str:
        first = next(model.buffers(), None) if isinstance(model, torch.nn.Module) else model
        return getattr(first, "device", torch.device("cpu")).type

    return {prefix: {**model.describe(), "device": device or own(model)} for prefix, model in models.items()}


def versions() -> dict[str, str]:
    """Return the versions of everything that can change a label."""
    packages = {module.__name__: module.__version__ for module in (torch, np, pa, av)}
    return {"lattok": __version__, **packages, "pillow": PIL.__version__}


def request_hash(work: Work, identities: Identities) -> str:
    """Hash everything that the labels depend on but episodes and contents of files, which are in the keys of units."""
    dataset = work.dataset
    facts = [str(dataset.root.resolve()), dataset.kind, dataset.split, dataset.fps, dataset.seen_as]
    parts = [facts, identities, asdict(work.options), PIECE_FRAMES, BATCH, versions()]
    if any(model.reads_task for model in work.models.values()):
        parts.append([episode.tasks for episode in dataset.episodes])
    return files.json_hash(parts)


def check_models(work: Work) -> None:
    """Check before any work that prefixes are free, for LeRobot too, and that models fit the dataset."""
    dataset, models, options = work
    checks.counts(1, checks.MOST_THREADS, threads=options.threads)
    if options.fill:
        _check_fills(work)
    present, source = [*dataset.features], tables_of(dataset)
    if source is not None and source.episodes:  # its files may have columns that info.json does not name
        schemas = source.schemas([source.episodes[0].index])  # of one episode: all files have the same
        present += [name for schema in schemas.values() for name in schema.names]
    for prefix, model in models.items():
        if not PREFIX.fullmatch(prefix) or prefix.startswith(("action", "observation")):
            hint = "LeRobot would take a key that starts with action or observation for one of the policy's own."
            checks.fail("prefix", "lower-case letters, digits, _ and .", repr(prefix), hint)
        if taken := [key for key in present if key.startswith(prefix + ".")]:
            got = f"{prefix!r} ({taken[0]} is there)"
            checks.fail("prefix", "one that the dataset does not use", got, f"Choose another, such as {prefix}2.")
        if any(other.startswith(prefix + ".") for other in models):
            checks.fail("models", "prefixes that do not contain each other", ", ".join(models))
        check_model(work, prefix, model)


def check_model(work: Work, prefix: str, model: ActionTokenizer | VideoLabeller) -> None:
    dataset, key = work.dataset, work.options.action_key
    if model.label_source == "actions":  # without any, their rate is no matter
        vector_key(dataset, "action_key", key, "Label video with a model of video, such as lattok train image-lam.")
    note_rate(model, dataset, work.options.any_rate, key)
    if model.label_source == "actions":
        feature, wanted = vector_key(dataset, "action_key", key), cast(ActionTokenizer, model).action_dim
        if feature.shape[0] != wanted:
            has = f"`{key}` has {checks.counted(feature.shape[0], 'dimension')} ({', '.join(dimension_names(feature))})"
            way_out = "Select or add columns, or train a tokenizer on this dataset."
            raise checks.LattokError(f"{has}, but this tokenizer was trained on {wanted}. {way_out}")
        check_actions(model, dataset, key)
        return
    video = cast(VideoLabeller, model)
    if video.language is not None:  # it keeps out of its codes what the instruction says: those are no actions
        hint = "Stage 1 takes in the instruction to learn environment codes: train stage 2 with them."
        checks.fail("models", f"a stage-2 model for `{prefix}`", "a stage-1 model (language-conditioned)", hint)
    cameras_of(work, video)
    if (state := getattr(model, "state_key", None)) is not None:
        config = cast(Any, model).config
        hint = "The model reads it. Add --no-add-state to `lattok train idm` for one that looks at video alone."
        vector_key(dataset, "state_key", state, hint)
        check_states(config.state_names, config.state_dim, dataset, state)
    lengths = np.array([episode.length for episode in dataset.episodes], dtype=np.int64)
    check_stride(video.stride_frames(dataset.fps), lengths, dataset.fps, fixed=True)


def label_decoded(work: Work, unit: Unit, frames_of: Prefetcher[np.ndarray]) -> UnitLabels:
    """Label a unit. `frames_of` hands over frames decoded ahead: episode after episode, by prefix, by piece. An episode
    that fails is tried once more (file systems fail now and then), then given up for this model."""
    parts: dict[str, list[Labels]] = {prefix: [] for prefix in work.models}
    failures, strange = Failures(), 0
    with torch.no_grad(), torch_threads(work.options.threads):
        for index, length in zip(unit.episodes, unit.lengths, strict=True):
            for prefix, found in parts.items():
                try:
                    found.append(_one(work, prefix, index, length, frames_of, found))
                except Exception as error:
                    failures.setdefault(prefix, {})[index] = checks.reason(error)
                    strange += not isinstance(error, checks.LattokError)
    rows = {name: values for found in parts.values() if found for name, values in _joined(found).items()}
    return UnitLabels(rows, failures, strange)


def label_episode(work: Work, prefix: str, index: int, length: int, frames_of: FramesOf | None = None) -> Labels:
    """Label all frames of an episode by one model; return the labels by column."""
    model: Any = work.models[prefix]
    if model.label_source == "actions":
        windows = ActionWindows(work.dataset, model.horizon, work.options.action_key, [index])
        batches = (windows.batch(rows) for rows in torch.arange(len(windows)).split(BATCH))
        parts = _joined([_columns(model.latent_actions(*batch), work.options) for batch in batches])
        valid = np.ones(length, dtype=bool)
    else:
        decode = partial(frames_of or partial(piece_of_frames, work), prefix)
        video = (decode(index, first, last) for first, last in _spans(length))
        (episode,) = select_episodes(work.dataset, [index])
        inputs = {"task": instruction_of(work.dataset, episode)} if model.reads_task else {}
        if not lacks(model, HoldsActions):
            return {f"{prefix}.{name}": values for name, values in _held(work, prefix, index).items()}
        if not lacks(model, HoldsLabels):
            held = _columns(model.labels_of(index), work.options) | {"valid": model.labelled(index)}
            return {f"{prefix}.{name}": values for name, values in held.items()}
        if not lacks(model, InfersActions):
            parts = _inferred(work, prefix, index, video, inputs)
        else:
            parts = _columns(model.label_video(video, model.stride_frames(work.dataset.fps), **inputs), work.options)
        valid = np.arange(length) + model.later_frames(work.dataset.fps) < length
    if not parts:
        hint = "Its labels are the embeddings."
        checks.fail("embedding", f"True, since the model of `{prefix}` has no codes", "False", hint)
    labels = {f"{prefix}.{name}": values for name, values in parts.items()} | {f"{prefix}.valid": valid}
    for name, values in labels.items():
        checks.size(f"labels {name}", f"rows of episode {index}", len(values), length)
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            checks.fail(f"labels {name}", "finite numbers", f"NaN or infinity in episode {index}")
    return labels


def piece_of_frames(work: Work, prefix: str, index: int, first: int, last: int) -> np.ndarray:
    """Return what the model of `prefix` sees of the frames [first, last) of an episode, uint8 [n, V, h, w, 3]."""
    model = cast(VideoLabeller, work.models[prefix])
    if not model.cameras:
        return np.empty((last - first, 0, 1, 1, 3), np.uint8)
    return work.dataset.frames(index, cameras_of(work, model), np.arange(first, last), model.resize)


def jobs(work: Work, units: Sequence[Unit]) -> Iterator[Request]:
    """Return what is to be decoded for these units, in the order in which `label_decoded` asks."""
    video = [prefix for prefix, model in work.models.items() if model.label_source == "video"]
    for unit in units:
        for index, length in zip(unit.episodes, unit.lengths, strict=True):
            pieces = ((prefix, index, *span) for prefix in video for span in _spans(length))
            yield from (Request(piece, piece[3] - piece[2]) for piece in pieces)


def cameras_of(work: Work, model: VideoLabeller) -> tuple[str, ...]:
    """Return the cameras of the dataset that stand for the model's; none of one that reads states alone."""
    if not model.cameras:
        return ()
    if len(work.dataset.cameras) < len(model.cameras):
        own, there = (", ".join(map(short_name, keys)) for keys in (model.cameras, work.dataset.cameras))
        checks.fail(
            "dataset",
            f"the {checks.counted(len(model.cameras), 'camera')} of the model ({own})",
            f"one with {there or 'none'}",
            "Take a model of its cameras: lattok inspect DATASET says how to train one.",
        )
    try:
        keys = camera_keys(work.dataset, work.options.cameras or model.cameras)
    except checks.LattokError as error:
        if work.options.cameras:
            raise
        names = " ".join(stand_ins(work.dataset, model.cameras))
        hint = f"The model looks at it; name what stands for it here, such as cameras={names}."
        raise checks.LattokError(f"{error} {hint}") from None
    checks.size("cameras", "cameras as in the model's config", len(keys), len(model.cameras))
    check_cameras(keys, model.cameras)
    return keys


def _one(work: Work, prefix: str, index: int, length: int, frames_of: FramesOf, before: list[Labels]) -> Labels:
    """Label an episode, at the second attempt if need be; the labels must be as wide as those `before`."""
    try:
        labels = label_episode(work, prefix, index, length, frames_of)
    except Exception:
        labels = label_episode(work, prefix, index, length)
    for name, values in before[0].items() if before else ():
        now = labels.get(name, np.empty(0))
        if (now.dtype, now.shape[1:]) != (values.dtype, values.shape[1:]):
            expected = f"{values.dtype} {list(values.shape[1:])} as in other episodes"
            checks.fail(f"labels {name}", expected, f"{now.dtype} {list(now.shape[1:])} in episode {index}")
    return labels


def _spans(length: int) -> list[tuple[int, int]]:
    size = piece_size(AHEAD_FRAMES, PIECE_FRAMES)
    return [(first, min(first + size, length)) for first in range(0, length, size)]


def _columns(out: LatentActions, options: Options) -> Labels:
    """Return arrays of one stream, and of the environment's under `env.`; no codes where nothing is quantized."""
    arrays = {"codes": out.codes.cpu().numpy().astype(np.int64)} if out.codes.shape[1] else {}
    if options.embedding:
        arrays["embedding"] = out.latents.float().cpu().numpy()
    if options.quantized and out.codes.shape[1]:
        arrays["quantized"] = out.quantized.float().cpu().numpy()
    if out.env is not None:
        arrays |= {f"env.{name}": values for name, values in _columns(out.env, options).items()}
    return arrays


def _inferred(work: Work, prefix: str, index: int, video: Iterable[np.ndarray], inputs: Mapping[str, Any]) -> Labels:
    """Return inferred actions, how sure they are, and latents; where they fill a column, which rows of it they are."""
    model, options, dataset = cast(Any, work.models[prefix]), work.options, work.dataset
    key = model.state_key
    states = None if key is None else torch.as_tensor(dataset.columns(index, [key])[key])  # tensors in, tensors out
    found = model.infer_actions(video, model.unit_frames(dataset.fps), states=states, **inputs)
    arrays = {"action": found.actions.float().cpu().numpy()}
    if getattr(model.config, "members", 1) > 1:  # one alone cannot say
        arrays["confidence"] = (-found.spread.float()).exp().cpu().numpy()
    arrays |= _columns(LatentActions(found.codes, found.latents, found.latents), replace(options, quantized=False))
    if options.fill:
        arrays["filled"] = np.full(len(found.actions), _unknown(work, prefix, index))
    return arrays


def _held(work: Work, prefix: str, index: int) -> Labels:
    """Return actions that were inferred elsewhere; where they fill a column, which rows of it they are."""
    model, fill = cast(Any, work.models[prefix]), work.options.fill
    filled = fill and (model.every or _unknown(work, prefix, index))
    needless = fill and not filled and not model.has(index)  # what was measured needs nothing beside it
    found = model.none_of(index) if needless else model.actions_of(index)
    arrays = {"action": found.actions, "valid": found.valid}
    if found.confidence is not None:
        arrays["confidence"] = found.confidence
    return {**arrays, "filled": np.full(len(found.actions), filled)} if fill else arrays


def _unknown(work: Work, prefix: str, index: int) -> bool:
    """Return whether an episode's actions are unknown: there is no such column, or it holds NaN alone. In a dataset
    that was filled already, its own mark says it."""
    dataset, key, mark = work.dataset, work.options.action_key, f"{prefix}.filled"
    while dataset.labels is not None and isinstance(dataset, View):  # labels that are judged say nothing of the source
        dataset = dataset.dataset
    if mark in dataset.features:
        return bool(dataset.columns(index, [mark])[mark].all())
    if key not in dataset.features:
        return True
    gaps = np.isnan(dataset.columns(index, [key])[key])
    if gaps.any() and not gaps.all():
        row = int(gaps.reshape(len(gaps), -1).any(1).argmax())
        expected, hint = "actions in all frames of an episode or in none", "Repair it, or make all of them NaN."
        hint += " Without as=actions (`fill`) what is inferred goes into columns of its own."
        checks.fail(key, expected, f"NaN in frame {row} of episode {index} and numbers elsewhere", hint)
    return bool(gaps.all())


def _check_fills(work: Work) -> None:
    """Check that one model infers actions like those of the column that they are to fill."""
    dataset, key = work.dataset, work.options.action_key
    checks.size("models", "models to fill in actions", len(work.models), 1)
    ((prefix, model),) = cast(Mapping[str, Any], work.models).items()
    if lacks(model, InfersActions) and lacks(model, HoldsActions):
        hint = "Train one: lattok train idm."
        checks.fail("models", f"a model that infers actions for `{prefix}`", f"one of type {model.type}", hint)
    if others := [each for each in fillers(dataset, key) if each != prefix]:
        got, hint = f"`{key}`, which `{others[0]}` filled", "Annotate the dataset that this one was made from."
        checks.fail("action_key", "a column that no model has filled", got, hint)
    whole = [part for part in dataset.joined.get(key, ()) if "float" not in unwrap(dataset).features[part].dtype]
    if whole:  # which has no NaN
        checks.fail("action_key", "a column that is joined of floats", f"whole numbers in `{whole[0]}`")
    if key in dataset.actions_as and tables_of(dataset) is not None:  # whose own column is filled, in its own numbers
        hint = "Annotate it without `actions` in its description, with a model of its own actions."
        checks.fail("action_key", "a column as the dataset holds it", f"`{key}` converted to another space", hint)
    if key in dataset.features:
        wanted, names = vector_key(dataset, "action_key", key).shape[0], ", ".join(model.config.action_names)
        hint = f"It infers {names}." if names else ""
        if not lacks(model, HoldsActions):
            hint = 'Give them a column of their own: action_key="NAME".'
        checks.size("models", f"numbers, as `{key}` of {dataset.name} has", model.config.action_dim, wanted, hint)
        check_actions(model, dataset, key)
    if not getattr(model, "every", False):
        _check_any_unknown(dataset, key)


def _check_any_unknown(dataset: RobotDataset, key: str) -> None:
    """There is something to fill; a column that is not there is not one that is there under nearly this name."""
    if key not in dataset.features:
        own = own_vectors(dataset)
        if key in parts_of(dataset) or any(name.startswith(key) for name in own) or get_close_matches(key, own):
            vector_key(dataset, "action_key", key, f"A new column `{key}` would be inferred throughout.")
    elif not any_unmeasured(dataset, key):
        expected = f"unknown actions to fill in, an episode whose `{key}` is NaN or null in all rows"
        hint = _hide_some(dataset) + "Without as=actions (`fill`) the inferred ones go into columns of their own."
        checks.fail("action_key", expected, f"numbers in all {len(dataset.episodes)} of {dataset.name}", hint)


def _hide_some(dataset: RobotDataset) -> str:
    """Say how to hide actions of a dataset in which all are known, so that some stay known."""
    most = max(Counter(episode.tasks for episode in dataset.episodes).values())
    if most < 2:
        return ""
    place, keep = dataset.address or dataset.name, f"{min(2, most - 1)} per task"
    words = ["lattok", "hide", place, "--out", unused("few"), "--keep", keep]
    return f"Hide some to try it: {shlex.join(words)}. "


def _joined(parts: list[Labels]) -> Labels:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
