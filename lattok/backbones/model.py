"""A model over a base model, whose artefact holds what it changed of it, and how base models are opened."""

from __future__ import annotations

import shutil
from abc import ABC
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn
from typing_extensions import Self

from lattok.backbones import SCRATCH, Backbone
from lattok.backbones.scratch import ScratchBackbone, ScratchSize
from lattok.hub import PARTS, HubModel
from lattok.hub.client import HUB_ID
from lattok.hub.weights import Sizes
from lattok.utils import checks
from lattok.utils.output import exchange

MERGED = f"{PARTS}/backbone"  # a backbone that lies in the artefact itself


class Outline(nn.Module):
    """What a policy's shapes depend on of a base model that is open already."""

    def __init__(self, backbone: Any):
        super().__init__()
        self.hidden_size, self.num_layers, self.embedding_rms = backbone.hidden_size, backbone.num_layers, 1.0
        self.reads_images = getattr(backbone, "reads_images", True)

    def adapt(self, train: str, lora: Any, gradient_checkpointing: bool = False) -> None:
        """Do nothing: shapes of adapters are not known."""

    def saved_tensors(self) -> dict[str, Tensor]:
        """Return none: they are not known."""
        return {}


class BackboneModel(HubModel, ABC):
    """A model over a base model that its `config` names as a `VLAConfig` does; the artefact holds what it changed."""

    backbone: Any  # an nn.Module and a Backbone

    @classmethod
    def open_base(cls, config: Any, folder: Path | None = None) -> Any:
        """Open the base model."""
        return open_backbone(config, folder)

    @classmethod
    def opened(cls, config: Any, folder: Path, backbone: Any = None) -> tuple[Any, dict[str, Any]]:
        """Open the base model by name and revision; `backbone`: it has moved. A scratch one is the artefact's own."""
        if config.backbone.name == SCRATCH:
            if backbone is not None:
                expected = "to be left out: its own is small and lies in its file"
                checks.fail("backbone", expected, repr(backbone))
            return config, {}
        if backbone is not None:
            config = with_backbone(config, name=from_root(str(backbone)))
        return config, {"backbone": cls.open_base(config, folder)}

    @classmethod
    def build(cls, config: Any, backbone: Backbone | None = None, **parts: Any) -> Self:
        """Build a model of this configuration, by default over the scratch backbone."""
        return cast(Any, cls)(config, cls.open_base(config) if backbone is None else backbone, **parts)

    @classmethod
    def outline(cls, config: Any, backbone: Backbone | None = None, **parts: Any) -> Self:
        """Build it for its shapes alone: a base model that is open already stays as it is."""
        return cls.build(config, None if backbone is None else cast(Backbone, Outline(backbone)), **parts)

    def check_fits(self, file: Sizes, where: str) -> None:
        """Refuse tensors that do not fit; of a base model that is only outlined the rank of its adapters is known."""
        if isinstance(self.backbone, Outline):
            ranks = {size.shape[0] for name, size in file.items() if ".lora_A." in name and size.shape}
            base = self.config.backbone
            if base.train == "lora" and ranks != {base.lora.rank}:
                got = ", ".join(map(str, sorted(ranks))) or "none"
                checks.fail(where, f"adapters of rank {base.lora.rank}, as config.json says", got)
            file = {name: size for name, size in file.items() if not name.startswith("backbone.")}
        super().check_fits(file, where)

    def merge(self, folder: Path | str) -> Self:
        """Write a policy without adapters, its backbone next to it, into `folder`; returns it. This one is used up."""
        if self.config.backbone.name == SCRATCH:
            expected, got = "one with a pretrained backbone", "one with the scratch backbone"
            checks.fail("policy", expected, got, "Save it as it is.")
        self.backbone.merge()
        self.config = with_backbone(self.config, name=MERGED, revision=None, train="frozen")
        return type(self).from_pretrained(self.save_pretrained(folder))

    def _save(self, folder: Path, name: str | None) -> None:
        """Write a merged policy with its backbone, also into the folder that it was loaded from."""
        if self.config.backbone.name == MERGED:
            place = folder / MERGED
            new = place.with_name("backbone.new")  # the weights in use may be mapped from the old one
            if new.is_symlink():  # of a stranger's folder: what it leads to is not ours to write
                new.unlink()
            shutil.rmtree(new, ignore_errors=True)
            self.backbone.save_base(new)
            if place.exists():
                exchange(new, place)
                shutil.rmtree(new)
            else:
                new.rename(place)
        super()._save(folder, name)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload; refuse a policy over a base model in a folder here, which nobody else has."""
        base = self.config.backbone.name
        if base not in (SCRATCH, MERGED) and Path(base).is_dir():
            checks.fail("policy", "one whose base model is on the Hub", f"one over {base}", "Push what merge() gives.")
        return super().push_to_hub(repo_id, **options)

    @property
    def base_model(self) -> str | None:
        """Hub id of the base model, where it has one."""
        name = self.config.backbone.name
        return name if HUB_ID.fullmatch(name) and name != MERGED and not Path(name).exists() else None


def with_base(config: Any, frames: int = 1) -> tuple[Any, Any]:
    """Return the configuration of a new policy, which says where and which its base model is, and that model."""
    backbone = open_backbone(config, frames=frames)
    return with_backbone(config, name=from_root(config.backbone.name), revision=backbone.revision), backbone


def with_backbone(config: Any, **changes: Any) -> Any:
    """Return the configuration with these fields of its `BackboneConfig` changed."""
    return replace(config, backbone=replace(config.backbone, **changes))


def from_root(name: str) -> str:
    """Return the whole path of a folder, so that it is found from anywhere; another name as it is, and "scratch"."""
    folder = Path(name).expanduser()
    return str(folder.resolve()) if name != SCRATCH and folder.is_dir() else name


def open_backbone(config: Any, folder: Path | None = None, frames: int = 1) -> Any:
    """Open the base model, with random weights for "scratch", otherwise with its own; `folder` is the artefact's.

    `config` names it as a `VLAConfig` does; `frames` is how many it looks at.

    Raises `LattokError` where it cannot be had, or is not the one of `backbone_revision`.
    """
    base = config.backbone
    if base.name == SCRATCH:
        sizes = config.image_size, base.patch_size, base.width, base.depth, base.heads
        return ScratchBackbone(ScratchSize(len(config.cameras), *sizes, frames))
    from lattok.backbones.hf import HFBackbone

    name = str(folder / MERGED) if folder is not None and base.name == MERGED else base.name
    return HFBackbone.load(name, base.revision, dtype=base.dtype)
