"""What is to be labelled, by what: models that fit the dataset, their identity, and the hash of the whole request."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import PIL
import pyarrow as pa
import torch

from lattok import checks
from lattok.annotation.labels import BATCH, PIECE, Models, Work, cameras_of
from lattok.checks import LattokError
from lattok.data import RobotDataset, dimension_names
from lattok.data.episodes import check_stride
from lattok.data.schema import vector_key
from lattok.data.views import check_trained_space
from lattok.types import ActionTokenizer, Labeller, VideoLabeller
from lattok.version import __version__

Identities = Mapping[str, dict[str, Any]]  # by prefix, what `describe` says: it hashes all weights, so it is asked once
_PREFIX = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)*")


def identities_of(models: Models, device: str | None = None) -> Identities:
    """What provenance says of every model, with the kind of `device` that computes its labels (None: where it is)."""
    return {prefix: {**model.describe(), "device": device or _device(model)} for prefix, model in models.items()}


def versions() -> dict[str, str]:
    """Versions of everything that can change a label."""
    return {
        "lattok": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "pyarrow": pa.__version__,
        "av": av.__version__,
        "pillow": PIL.__version__,
    }


def request_hash(work: Work, identities: Identities) -> str:
    """Everything that the labels depend on but episodes and contents of files, which are in the keys of units."""
    dataset = work.dataset
    facts = [str(dataset.root.resolve()), dataset.kind, dataset.split, dataset.fps, dataset.seen_as]
    parts = [facts, identities, work.options._asdict(), PIECE, BATCH, versions()]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def check_places(dataset: RobotDataset, out: str | os.PathLike[str]) -> Path:
    """Tell where the result goes."""
    root = dataset.root
    source, target = root.resolve(), Path(out).resolve()
    if target == source or source in target.parents:
        checks.fail("out", "a folder outside the source dataset", str(out))
    return Path(os.path.abspath(out))


def check_models(work: Work) -> None:
    """Prefixes that are free and models that fit the dataset, before any work."""
    dataset, models, options = work
    checks.counts(threads=options.threads)
    for prefix, model in models.items():
        check_prefix(prefix)
        taken = [key for key in dataset.features if key.startswith(prefix + ".")]
        if taken:
            checks.fail(
                "prefix", "one that the dataset does not use", f"{prefix!r} ({taken[0]} is there)", "Rename it."
            )
        if any(other.startswith(prefix + ".") for other in models):
            checks.fail("models", "prefixes that do not contain each other", ", ".join(models))
        check_labeller(model)
        check_model(work, prefix, model)


def check_labeller(model: Any) -> None:
    """A model that makes labels; policies learn from them."""
    if not isinstance(model, Labeller):
        checks.fail("model", "an action tokenizer or an image latent action model", type(model).__name__)


def check_prefix(prefix: str) -> None:
    """A name for columns that LeRobot does not take for its own."""
    if not _PREFIX.fullmatch(prefix) or prefix.startswith(("action", "observation")):
        hint = "LeRobot would take a key that starts with action or observation for one of the policy's own."
        checks.fail("prefix", "lower-case letters, digits, _ and .", repr(prefix), hint)


def check_model(work: Work, prefix: str, model: ActionTokenizer | VideoLabeller) -> None:
    """A model that can label this dataset."""
    if model.label_source == "actions":
        _check_actions(work, cast(ActionTokenizer, model))
        return
    video = cast(VideoLabeller, model)
    _check_stage(prefix, video)
    cameras_of(work, video)
    lengths = np.array([episode.length for episode in work.dataset.episodes], dtype=np.int64)
    check_stride(video.stride_frames(work.dataset.fps), lengths, work.dataset.fps)


def _check_stage(prefix: str, model: VideoLabeller) -> None:
    """A model of stage 1 reads the instruction and keeps what it says out of its codes: those are no actions."""
    if model.language is not None:
        hint = "Stage 1 takes in the instruction to learn environment codes: train stage 2 with them."
        checks.fail("models", f"a stage-2 model for `{prefix}`", "a stage-1 model (language-conditioned)", hint)


def _check_actions(work: Work, model: ActionTokenizer) -> None:
    feature = vector_key(work.dataset, "action_key", work.options.action_key)
    if feature.shape[0] != model.action_dim:
        raise LattokError(
            f"`{work.options.action_key}` has {feature.shape[0]} dimensions ({', '.join(dimension_names(feature))}), "
            f"but this tokenizer was trained on {model.action_dim}. "
            "Select or add columns, or train a tokenizer on this dataset."
        )
    check_trained_space(model.trained_on, work.dataset, work.options.action_key)


def _device(model: Any) -> str:
    """Kind of the device that a model is on: labels from another one may differ in the last bits."""
    first = next(model.buffers(), None) if isinstance(model, torch.nn.Module) else None
    return "cpu" if first is None else first.device.type
