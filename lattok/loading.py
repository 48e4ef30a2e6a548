"""`lattok.load`: any saved model by the `type` in its config.json; and models that label, or their folders."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import Unpack

from lattok import hub
from lattok.hub.client import ASSETS, SAMPLES, LoadOptions
from lattok.hub.recognised import recognised
from lattok.types import Labeller
from lattok.utils import checks

if TYPE_CHECKING:  # what editors know: the base class of all action tokenizers, and every other family of ours
    from lattok.action_vq.base import ChunkTokenizer
    from lattok.image_lam import ImageLAM, MotoLAM
    from lattok.image_lam.clips import ClipLAM
    from lattok.image_lam.published.published_lam import PublishedLAM
    from lattok.vla import LatentVLA

    Loaded = ChunkTokenizer | ClipLAM | ImageLAM | MotoLAM | PublishedLAM | LatentVLA

LABELLER = "an action tokenizer or a latent action model"
POLICIES = "Policies give no labels. To judge one: lattok evaluate MODEL DATASET."


def load(name_or_path: str | os.PathLike[str], revision: str | None = None, **options: Unpack[LoadOptions]) -> Loaded:
    """Load a tokenizer, a latent action model or a policy from a folder or a Hub id, in evaluation mode.

    `options`: the keywords of huggingface_hub (`token`, `cache_dir`, `force_download`, `local_files_only`,
    `subfolder`), `device`, and of a policy `dtype` and `backbone`, the folder of its base model. `from_pretrained`
    of a class does the same and refuses others.

    Raises `LattokError` for a folder without a saved model, an unknown type, a newer lattok's config, or wrong tensors.
    """
    with recognised(name_or_path):
        place = hub.resolve(name_or_path, revision, options=options)
        family = hub.family_of(place.folder)
    model: Any = family.from_place(place, **options)
    return model


def list_models(pattern: str = "*", folder: str | os.PathLike[str] = ".") -> dict[str, str]:
    """Return names that `load` takes, each with a description: models that come with lattok, and those in `folder`.

    `pattern` selects by name or `type`, such as "*lam*". Folders are searched two levels deep.
    """
    places, said = {name: ASSETS / path for name, path in SAMPLES.items()}, {}
    for depth in ("*", "*/*"):
        places |= {os.fspath(path.parent): path.parent for path in sorted(Path(folder).glob(f"{depth}/{hub.CONFIG}"))}
    for name, place in places.items():
        with suppress(checks.LattokError):  # no artefact
            kind = hub.read_config(place)["type"] if (place / hub.CONFIG).is_file() else ""
            if kind in hub.FAMILIES and (fnmatch(name, pattern) or fnmatch(kind, pattern)):
                said[name] = f"{kind}: {_first_line(kind)}"
    return said


def list_families() -> dict[str, str]:
    """Return the families of models that `load` knows, by `type`: what each is, also of installed packages."""
    return {name: _first_line(name) for name in hub.FAMILIES}


def _first_line(name: str) -> str:
    try:
        return (inspect.getdoc(hub.FAMILIES[name]) or "").partition("\n")[0]
    except checks.LattokError as error:  # of a package that fails
        return str(error)


def as_labeller(model: Any) -> Any:
    """Return a model as it is; for a path or a Hub id the tokenizer or latent action model saved there."""
    if isinstance(model, str | os.PathLike):
        with recognised(model):
            place = hub.resolve(model)
            family = hub.family_of(place.folder)
        if family.label_source is None:
            checks.fail("model", LABELLER, f"{family.type!r} in {place.folder}", POLICIES)
        return family.from_place(place)
    if not isinstance(model, Labeller):
        checks.fail("model", f"{LABELLER}, or the path of one", type(model).__name__, POLICIES)
    return model


def by_prefix(models: Any) -> dict[str, Any]:
    """Return models by column prefix, from a mapping of models or paths; one alone gets the prefix `latent`."""
    if isinstance(models, list | tuple | set):
        hint = 'Say how the columns of each shall be called: {"latent": lam, "tokens": tokenizer}.'
        checks.fail("models", "one model, or several by prefix", f"a {type(models).__name__}", hint)
    if not isinstance(models, Mapping):
        models = {"latent": models}
    if not models:
        checks.fail("models", "at least one model, by prefix", "none")
    return {prefix: as_labeller(model) for prefix, model in models.items()}
