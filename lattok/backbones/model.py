"""A model over a base model, whose artefact holds what it changed of it; how base models are opened; a small one.

The small one, "scratch", learns from nothing: convolutions for each camera, words, a Transformer. Prompt and images see
one another; each placeholder sees them and the placeholders before it. No download, no tokenizer: a word is known by
its hash, so that every text has tokens and new words never fail.
"""

import re
import shutil
import zlib
from abc import ABC
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from einops import rearrange
from torch import Tensor, nn
from typing_extensions import Self

from lattok.backbones import SCRATCH, Backbone, BackboneConfig, BackboneOut, Inputs, LoraSpec
from lattok.hub import PARTS, HubModel
from lattok.hub.client import HUB_ID, FilePath
from lattok.hub.weights import Sizes
from lattok.nn.blocks import PreNormBlock, onto
from lattok.utils import checks
from lattok.utils.output import exchange

MERGED = f"{PARTS}/backbone"  # a backbone that lies in the artefact itself
WORD = re.compile(r"[a-z0-9]+|[^\sa-z0-9]")
WORDS = 4096  # rows of the table of words; row 0 is padding
MAX_WORDS = 64  # words of a prompt; of a longer one the last count, which say what to predict


class Outline(Backbone):
    """What a policy's shapes depend on of a base model that is open already."""

    def __init__(self, backbone: Backbone):
        super().__init__()
        self.hidden_size, self.num_layers, self.embedding_rms = backbone.hidden_size, backbone.num_layers, 1.0
        self.reads_images = backbone.reads_images

    def adapt(self, train: str, lora: LoraSpec, gradient_checkpointing: bool = False) -> None:
        """Do nothing: shapes of adapters are not known, nor are they among the saved tensors."""

    def saved_tensors(self) -> dict[str, Tensor]:
        return {}


class BackboneModel(HubModel, ABC):
    """A model over a base model that its `config` names as a `VLAConfig` does; the artefact holds what it changed."""

    backbone: Backbone

    @classmethod
    def opened(cls, config: Any, folder: Path, backbone: FilePath | None = None) -> tuple[Any, dict[str, Any]]:
        """Open the base model by name and revision; `backbone`: it has moved. A scratch one is the artefact's own."""
        if config.backbone.name == SCRATCH:
            if backbone is not None:
                checks.fail("backbone", "to be left out: its own is small and lies in its file", repr(backbone))
            return config, {}
        if backbone is not None:
            config = with_backbone(config, name=from_root(str(backbone)))
        return config, {"backbone": open_backbone(config, folder)}

    @classmethod
    def build(cls, config: Any, backbone: Backbone | None = None, **parts: Any) -> Self:
        """Build a model of this configuration, by default over the scratch backbone."""
        return cast(Any, cls)(config, open_backbone(config) if backbone is None else backbone, **parts)

    @classmethod
    def outline(cls, config: Any, backbone: Backbone | None = None, **parts: Any) -> Self:
        """Build it for its shapes alone: a base model that is open already stays as it is."""
        return cls.build(config, None if backbone is None else Outline(backbone), **parts)

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

    def saved_tensors(self) -> dict[str, Tensor]:
        """Return the model's own weights, and those of the backbone that the base model does not have."""
        own = {name: value for name, value in super().saved_tensors().items() if not name.startswith("backbone.")}
        return own | {f"backbone.{name}": value for name, value in self.backbone.saved_tensors().items()}

    @property
    def base_model(self) -> str | None:
        name = self.config.backbone.name
        return name if HUB_ID.fullmatch(name) and name != MERGED and not Path(name).exists() else None


def with_base(config: Any) -> tuple[Any, Backbone]:
    """Return the configuration of a new model, which says where and which its base model is, and that base model."""
    backbone = open_backbone(config)
    return with_backbone(config, name=from_root(config.backbone.name), revision=backbone.revision), backbone


def with_backbone(config: Any, **changes: Any) -> Any:
    """Return the configuration with these fields of its `BackboneConfig` changed."""
    return replace(config, backbone=replace(config.backbone, **changes))


def from_root(name: str) -> str:
    """Return the whole path of a folder, so that it is found from anywhere; another name as it is, and "scratch"."""
    folder = Path(name).expanduser()
    return str(folder.resolve()) if name != SCRATCH and folder.is_dir() else name


def open_backbone(config: Any, folder: Path | None = None) -> Backbone:
    """Open the base model, with random weights for "scratch", otherwise with its own; `folder` is the artefact's.

    `config` names it as a `VLAConfig` does; of clips it also says how many `frames` the model looks at, of policies how
    many `views`.

    Raises `LattokError` where it cannot be had, or is not the one of `backbone_revision`.
    """
    base = config.backbone
    if base.name == SCRATCH:
        views = getattr(config, "views", 0) or len(config.cameras)
        return ScratchBackbone(base, views, config.image_size, getattr(config, "frames", 1))
    if base.name == MERGED and folder is None:  # on the Hub that is a stranger's
        checks.fail("backbone", "the model's folder, which contains its base model", "none")
    from lattok.backbones.hf import HFBackbone

    name = str(folder / MERGED) if folder is not None and base.name == MERGED else base.name
    return HFBackbone.load(name, base.revision, dtype=base.dtype)


class ScratchBackbone(Backbone):
    """See the top of this file; all of its parameters are trained, 1.5 M by default.

    It looks at `frames`, each with all cameras; frames of a camera share convolutions. Without cameras it only reads.
    """

    embedding_rms = 1.0

    def __init__(self, config: BackboneConfig, cameras: int, image_size: int, frames: int = 1):
        super().__init__()
        width, patch = config.width, config.patch_size
        checks.counts(image_size=image_size, frames=frames)
        if cameras and (patch < 4 or patch & (patch - 1) or image_size % patch):
            got = f"{patch} for images of {image_size} pixels"
            checks.fail("patch_size", "a power of 2 from 4 on that divides the image size", got)
        self.hidden_size, self.num_layers, self.frames = width, config.depth, frames
        self.stems = nn.ModuleList(_stem(width, patch) for _ in range(cameras))
        self.words = nn.Embedding(WORDS, width, padding_idx=0)
        self.word_places = nn.Parameter(0.1 * torch.randn(MAX_WORDS, width))  # counted from the end
        self.image_places = nn.Parameter(0.1 * torch.randn(frames * cameras * (image_size // patch) ** 2, width))
        self.blocks = nn.ModuleList(PreNormBlock(width, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width)

    def prepare(self, images: Tensor, texts: Sequence[str]) -> dict[str, Tensor]:
        """Turn B prompts into numbers of words [B, W], padded on the left; images uint8 [B, V, h, w, 3] stay.

        Of several frames, all cameras of each come one frame after the other.
        """
        words = [_numbers(text)[-MAX_WORDS:] for text in texts]
        longest = max(map(len, words), default=1)
        padded = torch.tensor([[0] * (longest - len(row)) + row for row in words]).reshape(len(words), longest)
        return {"words": onto(padded, images.device), "images": images}

    def forward(self, inputs: Inputs, queries: Tensor, layers: Sequence[int]) -> BackboneOut:
        """Return hidden states of `layers` over words, image tokens and `queries` [B, T, D]."""
        words, images = inputs["words"], inputs["images"]
        text = self.words(words) + self.word_places[MAX_WORDS - words.shape[1] :]  # b w d
        x = torch.cat([text, self._look(images), queries], 1)  # b l d
        count, before = queries.shape[1], x.shape[1] - queries.shape[1]
        valid = nn.functional.pad(words != 0, (0, x.shape[1] - words.shape[1]), value=True)
        place = torch.arange(x.shape[1], device=x.device)
        image = ((place >= words.shape[1]) & (place < before)).expand(len(x), -1)
        seen = (place[None] < before) | (place[None] <= place[:, None])  # l l: only queries are causal
        seen = (seen & valid[:, None]) | torch.eye(x.shape[1], dtype=torch.bool, device=x.device)  # padding sees itself
        hidden = {0: x} if 0 in layers else {}
        for number, block in enumerate(self.blocks, 1):
            x = block(x, seen=seen)
            if number in layers:
                hidden[number] = self.norm(x) if number == self.num_layers else x
        shown = before - words.shape[1]
        return BackboneOut(hidden, slice(before, before + count), valid, image, (shown, shown))

    def _look(self, images: Tensor) -> Tensor:
        """Turn images uint8 [B, V, h, w, 3] into tokens [B, V * patches, D], none without cameras."""
        if not self.stems:
            return self.image_places.expand(len(images), -1, -1)
        pixels = rearrange(images, "b (f v) h w c -> v (b f) c h w", f=self.frames).to(self.image_places) / 127.5 - 1
        views = torch.stack([stem(one) for stem, one in zip(self.stems, pixels, strict=True)])
        return rearrange(views, "v (b f) d h w -> b (f v h w) d", f=self.frames) + self.image_places

    def adapt(self, train: str, lora: LoraSpec, gradient_checkpointing: bool = False) -> None:
        """Do nothing: everything is trained."""
        checks.one_of("backbone_train", train, ("full",))

    def tokens_of(self, texts: Sequence[str]) -> list[list[int]]:
        return [_numbers(text) for text in texts]

    def text_errors(self, inputs: Inputs, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        raise checks.LattokError("`backbone`: the scratch backbone predicts no text. Choose a pretrained one.")

    def saved_tensors(self) -> dict[str, Tensor]:
        return dict(self.state_dict())


def _stem(width: int, patch_size: int) -> nn.Sequential:
    """Stack convolutions of stride 2 until a pixel is a patch; the first of them has stride 4."""
    layers: list[nn.Module] = [nn.Conv2d(3, width // 4, 4, 4), nn.GELU()]
    channels, left = width // 4, patch_size // 4
    while left > 1:
        wider = width if left == 2 else min(width, 2 * channels)
        layers += [nn.Conv2d(channels, wider, 3, 2, 1), nn.GroupNorm(1, wider), nn.GELU()]
        channels, left = wider, left // 2
    return nn.Sequential(*layers, nn.Conv2d(channels, width, 1))


def _numbers(text: str) -> list[int]:
    """Number every word of a text, from 1 on; at least one."""
    return [1 + zlib.crc32(word.encode(errors="replace")) % (WORDS - 1) for word in WORD.findall(text.lower()) or [""]]
