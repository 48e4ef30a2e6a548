"""The backbone that a configuration names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from lattok import hub
from lattok.backbones.scratch import ScratchBackbone, ScratchSize
from lattok.vla.config import SCRATCH, VLAConfig

MERGED = f"{hub.PARTS}/backbone"  # a backbone that lies in the artefact itself


def with_base(config: VLAConfig) -> tuple[VLAConfig, Any]:
    """The configuration of a new policy, which says which base model it has, wherever it is opened, and that model."""
    backbone = open_backbone(config)
    folder = Path(config.backbone).expanduser()
    name = str(folder.resolve()) if config.backbone != SCRATCH and folder.is_dir() else config.backbone
    return replace(config, backbone=name, backbone_revision=backbone.revision), backbone


def open_backbone(config: VLAConfig, folder: Path | None = None) -> Any:
    """The base model, with random weights for "scratch", otherwise with its own; `folder` is that of the artefact.

    Raises `LattokError` where it cannot be had, or is not the one of `backbone_revision`.
    """
    if config.backbone == SCRATCH:
        size = ScratchSize(
            len(config.cameras), config.image_size, config.patch_size, config.width, config.depth, config.heads
        )
        return ScratchBackbone(size)
    from lattok.backbones.hf import HFBackbone

    name = str(folder / MERGED) if folder is not None and config.backbone == MERGED else config.backbone
    revision, dtype = config.backbone_revision, config.backbone_dtype
    return HFBackbone.load(name, revision, dtype=dtype, image_size=config.image_size)
