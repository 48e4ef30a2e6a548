"""Controls that need a training run of their own: made on request, once per model and split, and kept in a folder."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from torch import nn

from lattok.evaluation.pairs import PairSet
from lattok.image_lam import ImageLAM
from lattok.signals import Interrupted, restated
from lattok.training import LoopOptions, fit

CONTROL_LOOP = LoopOptions(
    steps=1200, batch_size=40, lr=1e-3, schedule="one_cycle", optimizer="adamw", weight_decay=0.01, save_every=100_000
)


def control_loop(model: ImageLAM) -> LoopOptions:
    """As many steps and samples as the model itself had, where it says so; otherwise `CONTROL_LOOP`."""
    if model.trained_on is None:
        return CONTROL_LOOP
    known = {
        f.name: model.trained_on["loop"][f.name] for f in fields(LoopOptions) if f.name in model.trained_on["loop"]
    }
    known["batch_size"] = model.trained_on["samples_per_step"]
    return LoopOptions(**known)


@dataclass(frozen=True)
class Training:
    """How controls are trained, and where their results are kept."""

    options: LoopOptions
    folder: Path | None
    identity: dict[str, Any]  # dataset, episodes, gap: beside model and options, what the results depend on

    def text(self, pairs: PairSet) -> str:
        """Its budget, for the page."""
        return f"{self.options.steps:,} steps of {self.options.batch_size} of {len(pairs.frames):,} pairs"

    def key(self, control: str, model: ImageLAM, train: PairSet, held_out: PairSet, **more: Any) -> dict[str, Any]:
        """Everything that a control's result depends on."""
        described = model.describe()
        return {
            "control": control,
            "model": [described["config_sha256"], described["weights_sha256"]],
            "pairs": [len(train.frames), len(train.rows), len(held_out.rows)],
            "loop": asdict(self.options),
            **self.identity,
            **more,
        }

    def path(self, key: Mapping[str, Any], suffix: str) -> Path | None:
        """Where the result of that key lies."""
        name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
        return None if self.folder is None else self.folder / f"{name}{suffix}"

    def fit(
        self,
        name: str,
        module: nn.Module,
        batches: Callable[[int, int, int], Any],
        weights: Mapping[str, float],
        model: ImageLAM,
    ) -> None:
        """Train `module` in place on the device of `model`; nothing stays on disk. The progress bar shows `name`."""
        device = model.features.mean.device
        with tempfile.TemporaryDirectory() as scratch:
            try:
                options = replace(self.options, device=device.type)
                fit(module, batches, options, Path(scratch) / name, loss_weights=weights)
            except Interrupted as stop:
                raise restated(stop, "interrupted while training a control; nothing of it is kept") from None
        module.to(device).eval()
