"""LARYBench's contract (Nie et al., 2026): tokens of pairs and their table, and the probe that it regresses actions by.

    h = relu(W1 LN(tokens));   h += relu(W LN(h)), twice;   chunk = W2 LN(h)

Huber's loss on chunks of actions, AdamW; the figure is the mean squared error of the best epoch on held-out pairs, in
units of the training actions' deviation. Layout of its files and settings of its probe: its code at 2092d20.
"""

from __future__ import annotations

import csv
import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lattok import hub
from lattok.data import RobotDataset, as_dataset, read_vectors
from lattok.evaluation.evidence import Case, EvalOptions
from lattok.evaluation.evidence.latent_evidence import LatentEvidence
from lattok.evaluation.evidence.pair_set import PairSet
from lattok.image_lam.base.pair_model import PairModel
from lattok.image_lam.clips import ClipLAM
from lattok.loading import as_labeller
from lattok.utils import checks, files
from lattok.utils.checks import LattokError
from lattok.utils.devices import moved
from lattok.utils.output import Output
from lattok.utils.untrusted import is_file_name

COLUMNS = ("dataset", "type", "src_img", "tgt_img", "action", "la_path")
LATENTS = "latent_actions"
LONGEST = 80  # bytes of a name in file names
FOLDERS = (LATENTS, "actions", "data")  # that it writes
REPORT = "regression.json"
SPLITS = ("train", "val")


class ProbeOptions(NamedTuple):
    """How the probe learns; as published."""

    hidden: int = 4096
    blocks: int = 2
    epochs: int = 20
    batch: int = 256
    lr: float = 1e-4
    decay: float = 1e-4
    warmup: float = 0.1  # share of all steps


AS_PUBLISHED = ProbeOptions()


def export(
    dataset: RobotDataset | str | os.PathLike[str],
    models: Sequence[Any] | Mapping[str, Any],
    out: str | os.PathLike[str],
    *,
    device: str | None = None,
    probe: ProbeOptions = AS_PUBLISHED,
    **options: Any,
) -> dict[str, dict[str, float]]:
    """Write tokens, actions and tables of models of pairs or clips into the new folder `out`, and run the probe.

    `models`: folders, Hub ids or loaded ones, or a mapping of these by name; `options` are those of `lattok.compare`.
    Returns by model, and writes as `regression.json`, the mean squared error on the held-out
    `episodes` in units of the training actions' deviation: over all dimensions, that of the mean action, and of each
    dimension. It is of the best epoch, which is chosen on these pairs, as there: for its tables, not for a choice
    between models. Episodes in which no actions were measured are left out.

    Raises `LattokError` for models of other kinds, two of one name, and a folder that holds something.
    """
    dataset, found, decoded = as_dataset(dataset), dict[str, dict[str, float]](), dict[Any, Any]()
    chosen = replace(EvalOptions.of(options, "device", "probe"), out=out, state_key=None)
    split, named, folder = chosen.split(dataset, chosen.action_key), _named(models), Path(out)
    output = Output(folder)
    output.check_new()
    with output.filled((*FOLDERS, REPORT)):
        for name, given in named.items():
            model: Any = moved(as_labeller(given), device)
            if not issubclass(type(model), PairModel | ClipLAM):
                checks.fail("models", "latent action models of frame pairs or clips", f"{type(model).__name__} {name}")
            views = None if chosen.cameras is None else tuple(chosen.cameras)[: len(model.cameras)]
            case = Case(model, dataset, split, replace(chosen, cameras=views))
            try:
                with case.eval_mode():
                    evidence = LatentEvidence.gather(case, decoded)
                    write_tokens(evidence, name, folder)
                    errors, mean = regressed(evidence, probe)
            except LattokError as error:
                raise LattokError(f"{name}: {error}") from None
            found[name] = {"all": float(errors.mean()), "mean action": float(mean.mean())}
            found[name] |= dict(zip(evidence.names, errors.tolist(), strict=True))
        files.write_json(folder / REPORT, found)
    return found


def _named(models: Sequence[Any] | Mapping[str, Any]) -> dict[str, Any]:
    """Name models after their folders, Hub ids or families; where names are equal, by the paths as they are given."""
    if isinstance(models, str | os.PathLike) or not models:
        checks.fail("models", "folders, Hub ids or models, one or more of them", f"{models!r:.60}")
    if isinstance(models, Mapping):
        return _checked(models)
    places = [hub.resolve(each, argument="models") if isinstance(each, str | os.PathLike) else None for each in models]
    names = [
        str(model.type if place is None else place.hub_id or place.folder.resolve().name)
        for model, place in zip(models, places, strict=True)
    ]
    named = {
        name if place is None or names.count(name) == 1 else os.fspath(model): model
        for name, model, place in zip(names, models, places, strict=True)
    }
    if len(named) < len(models):
        hint = 'Name each of them once, or in Python name them: {"a": MODEL}.'
        checks.fail("models", "models with different names", f"only {checks.listed(named)}", hint)
    return _checked(named)


def _checked(named: Mapping[str, Any]) -> dict[str, Any]:
    """Require that each model has files of its own."""
    names = dict[str, str]()
    for name in named:
        if (other := names.setdefault(file_part(name), name)) != name:
            hint = 'Rename a folder, or in Python name them: {"a": MODEL}.'
            checks.fail("models", "names that differ as file names", f"{other} and {name}", hint)
    return dict(named)


class Residual(nn.Sequential):
    """x + relu(W LN(x))."""

    def __init__(self, width: int):
        super().__init__(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU())

    def forward(self, input: Tensor) -> Tensor:
        return input + super().forward(input)


def regression_probe(inputs: int, outputs: int, options: ProbeOptions) -> nn.Sequential:
    """Make the probe for tokens [B, inputs] and chunks [B, outputs]."""
    width = options.hidden
    blocks = [Residual(width) for _ in range(options.blocks)]
    first = (nn.LayerNorm(inputs), nn.Linear(inputs, width), nn.ReLU())
    return nn.Sequential(*first, *blocks, nn.LayerNorm(width), nn.Linear(width, outputs))


def regression_errors(
    x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor, seed: int, options: ProbeOptions
) -> tuple[Tensor, Tensor]:
    """Fit the probe to tokens x [n, d] and chunks y [n, s, m]; squared errors [N, s, m] of the epoch with the smallest
    mean on x_test, y_test, and those of the mean action, both in units of the training actions' deviation."""
    mean, spread = y.mean((0, 1)), y.std((0, 1), unbiased=False)
    spread = torch.where(spread < 1e-6, 1.0, spread)
    y, y_test = ((part - mean) / spread for part in (y, y_test))
    torch.manual_seed(seed)
    probe = regression_probe(x.shape[1], y[0].numel(), options).to(x.device)
    optimizer = torch.optim.AdamW(probe.parameters(), lr=options.lr, weight_decay=options.decay)
    warmup = max(1, int(options.epochs * -(-len(x) // options.batch) * options.warmup))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / warmup))
    best = torch.full_like(y_test, torch.inf)  # of the epochs so far
    for _ in range(options.epochs):
        for rows in torch.randperm(len(x)).split(options.batch):
            optimizer.zero_grad()
            F.huber_loss(probe(x[rows]), y[rows].flatten(1)).backward()
            optimizer.step()
            schedule.step()
        with torch.no_grad():
            errors = (probe(x_test).view_as(y_test) - y_test).square()
        best = errors if errors.mean() < best.mean() else best
    return best, y_test.square()


def _chunks(evidence: LatentEvidence, pairs: PairSet) -> Tensor:
    """Return the actions of all frames of the gaps, float32 [n, stride, m]."""
    source = evidence.source
    actions = read_vectors(source.dataset, "action_key", str(source.action_key), pairs.frames.episodes)
    return torch.from_numpy(actions[pairs.frames.first[pairs.rows, None] + np.arange(source.stride)])


def regressed(evidence: LatentEvidence, options: ProbeOptions) -> tuple[Tensor, Tensor]:
    """Return the mean squared error of each action dimension [m] by the probe, and by the mean action."""
    device = evidence.model.features.mean.device
    x, x_test = (_vectors(pairs).flatten(1).to(device) for pairs in (evidence.train, evidence.held_out))
    y, y_test = (_chunks(evidence, pairs).to(device) for pairs in (evidence.train, evidence.held_out))
    found = regression_errors(x, y, x_test, y_test, evidence.seed, options)
    probe, mean = (errors.mean((0, 1)).cpu() for errors in found)
    return probe, mean


def write_tokens(evidence: LatentEvidence, name: str, out: Path) -> None:
    """Write tokens and codes of both splits into `out`, as the benchmark reads them.

    `data/train_la_DATASET_STRIDE_NAME.csv` and `val_la_...` are its tables; `la_path` lies below `latent_actions`, its
    LARY_LA_DIR, and `action`, the chunk [stride, m], below `out`, its DATA_DIR. Images are named, not written: its
    probe reads none.
    """
    dataset, stride = (file_part(text) for text in (evidence.source.dataset.name, str(evidence.source.stride)))
    for split, pairs in zip(SPLITS, (evidence.train, evidence.held_out), strict=True):
        codes, vectors = pairs.latents.codes.numpy(), _vectors(pairs).numpy()
        chunks, where = _chunks(evidence, pairs).numpy(), Path(dataset, split, file_part(name))
        (out / LATENTS / where).mkdir(parents=True, exist_ok=True)
        table = out / "data" / f"{split}_la_{dataset}_{stride}_{file_part(name)}.csv"
        table.parent.mkdir(parents=True, exist_ok=True)
        with files.whole_file(table) as temporary, temporary.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for i, (episode, t) in enumerate(zip(pairs.episode_of, pairs.frames.frame_of[pairs.rows], strict=True)):
                token = Path(where, f"latent_action_{i:08d}.npz")
                np.savez_compressed(out / LATENTS / token, tokens=vectors[i], indices=codes[i])
                last = t + evidence.source.stride
                action = Path("actions", f"ep_{episode}", f"action_{t:06d}to{last - 1:06d}.npy")
                (out / action).parent.mkdir(parents=True, exist_ok=True)
                np.save(out / action, chunks[i])
                images = [f"images/ep_{episode}/frame_{frame:06d}.png" for frame in (t, last)]
                writer.writerow([dataset, "robot", *images, action.as_posix(), token.as_posix()])


def _vectors(pairs: PairSet) -> Tensor:
    """Return what stands for a pair in the benchmark, [n, P, d]: rows of the codebook, or continuous latents."""
    return pairs.latents.quantized


def file_part(name: str) -> str:
    """Return a name as a part of file names: itself where it can be, also with others beside it."""
    plain = name.replace("/", "-")
    if is_file_name(plain) and len(plain.encode()) <= LONGEST:
        return plain
    kept = re.sub(r"[^\w.-]", "-", plain, flags=re.ASCII)[: LONGEST // 2]
    return f"{kept}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
