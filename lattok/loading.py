"""`lattok.load`: any artefact by the `type` in its config.json."""

from __future__ import annotations

import os
from collections.abc import Mapping

from typing_extensions import Unpack

from lattok import checks, hub
from lattok.action_vq import FAST, FSQ, P2TActionVQ, ResidualVQ, UniformBins
from lattok.hub_client import LoadOptions
from lattok.image_lam import ImageLAM
from lattok.vla import LatentVLA
from lattok.vla.released import ReleasedVLA

TOKENIZERS = (P2TActionVQ, FAST, UniformBins, ResidualVQ, FSQ)
AnyModel = P2TActionVQ | FAST | UniformBins | ResidualVQ | FSQ | ImageLAM | LatentVLA | ReleasedVLA
CLASSES: Mapping[str, type[AnyModel]] = {model.type: model for model in (*TOKENIZERS, ImageLAM, LatentVLA, ReleasedVLA)}


def load(name_or_path: str | os.PathLike[str], revision: str | None = None, **options: Unpack[LoadOptions]) -> AnyModel:
    """Load a tokenizer, a latent action model or a policy from a folder or a Hub id, in evaluation mode.

    `options`: the keywords of huggingface_hub (`token`, `cache_dir`, `force_download`, `local_files_only`,
    `subfolder`), `device`, and of a policy `backbone`, where its base model has moved. Where the class is known,
    `from_pretrained` of that class does the same and tells an editor which one it is.

    Raises `LattokError` for a folder that is no artefact, an unknown type, a config from a newer lattok, or tensors
    that do not fit.
    """
    place = hub.resolve(name_or_path, revision, options=options)
    kind = hub.read_config(place.folder)["type"]
    checks.one_of(f"type in {place.folder / hub.CONFIG}", kind, sorted(CLASSES))
    return CLASSES[kind].from_place(place, options.get("device"), options.get("backbone"))
