"""The backbone that a configuration names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lattok import hub
from lattok.backbones import ScratchBackbone, ScratchSize
from lattok.vla.config import SCRATCH, VLAConfig

MERGED = f"{hub.PARTS}/backbone"  # a backbone that lies in the artefact itself


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
    backbone = HFBackbone.load(name, config.backbone_revision, image_size=config.image_size)
    if config.backbone_revision is not None:
        backbone.check_revision(config.backbone_revision)
    return backbone
