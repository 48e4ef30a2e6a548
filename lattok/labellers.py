"""Models that label, or where they lie: what annotation, verification and evaluation take."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from lattok import checks, hub
from lattok.action_vq import FAST, FSQ, P2TActionVQ, ResidualVQ, UniformBins
from lattok.image_lam import ImageLAM

LABELLERS: dict[str, Any] = {m.type: m for m in (P2TActionVQ, FAST, UniformBins, ResidualVQ, FSQ, ImageLAM)}
PREFIX = "latent"  # of the columns of a model that stands alone


def as_labeller(model: Any, argument: str = "model") -> Any:
    """A model as it is; of a path or a Hub id the tokenizer or latent action model that lies there."""
    if not isinstance(model, str | os.PathLike):
        return model
    folder = hub.resolve(model, argument=argument)[0]
    kind = hub.read_config(folder, argument)["type"]
    if kind not in LABELLERS:
        checks.fail(argument, "an action tokenizer or an image latent action model", f"{kind!r} in {folder}")
    return LABELLERS[kind].from_pretrained(model)


def by_prefix(models: Any) -> dict[str, Any]:
    """Models by column prefix, from a mapping of models or paths; one that stands alone gets the prefix `latent`."""
    if isinstance(models, list | tuple | set):
        hint = 'Say how the columns of each shall be called: {"latent": lam, "tokens": tokenizer}.'
        checks.fail("models", "one model, or several by prefix", f"a {type(models).__name__}", hint)
    if not isinstance(models, Mapping):
        models = {PREFIX: models}
    if not models:
        checks.fail("models", "at least one model, by prefix", "none")
    found = {prefix: as_labeller(model) for prefix, model in models.items()}
    for model in found.values():
        if not hasattr(model, "label_source"):
            expected = "an action tokenizer or an image latent action model, or the path of one"
            checks.fail("model", expected, type(model).__name__)
    return found
