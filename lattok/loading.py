"""`lattok.load`: any artefact by the `type` in its config.json."""

from __future__ import annotations

import os
from typing import Any

from lattok import checks, hub
from lattok.action_vq import FAST, FSQ, P2TActionVQ, ResidualVQ, UniformBins
from lattok.image_lam import ImageLAM
from lattok.vla import LatentVLA
from lattok.vla.released import ReleasedVLA

TOKENIZERS = (P2TActionVQ, FAST, UniformBins, ResidualVQ, FSQ)
CLASSES: dict[str, Any] = {model.type: model for model in (*TOKENIZERS, ImageLAM, LatentVLA, ReleasedVLA)}


def load(name_or_path: str | os.PathLike[str], revision: str | None = None) -> Any:
    """Load a tokenizer, a latent action model or a policy from a folder or a Hub id, in evaluation mode.

    Raises `LattokError` for a folder that is no artefact, an unknown type, a config from a newer lattok, or tensors
    that do not fit.
    """
    folder, hub_id = hub.resolve(name_or_path, revision)
    kind = hub.read_config(folder)["type"]
    checks.one_of(f"type in {folder / hub.CONFIG}", kind, sorted(CLASSES))
    return CLASSES[kind].from_folder(folder, hub_id)
