"""A small vision-language backbone that learns from nothing: convolutions for each camera, words, a Transformer.

Prompt and images see one another; each placeholder sees them and the placeholders before it. No download, no tokenizer:
a word is known by its hash, so that every text has tokens and new words never fail.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn

from lattok.backbones import BackboneOut, Inputs, LoraSpec
from lattok.nn.blocks import PreNormBlock, onto
from lattok.utils import checks
from lattok.utils.checks import LattokError

WORD = re.compile(r"[a-z0-9]+|[^\sa-z0-9]")
WORDS = 4096  # rows of the table of words; row 0 is padding
MAX_WORDS = 64  # words of a prompt; of a longer one the last count, which say what to predict


@dataclass(frozen=True)
class ScratchSize:
    """Sizes; with the defaults and two cameras 1.5 M parameters."""

    cameras: int
    image_size: int = 64
    patch_size: int = 16
    width: int = 128
    depth: int = 4
    heads: int = 4
    frames: int = 1  # that it looks at, each with all cameras; a camera's convolutions are those of all its frames

    def __post_init__(self) -> None:
        checks.counts(cameras=self.cameras, width=self.width, depth=self.depth, heads=self.heads)
        checks.counts(image_size=self.image_size, patch_size=self.patch_size, frames=self.frames)
        if self.patch_size < 4 or self.patch_size & (self.patch_size - 1) or self.image_size % self.patch_size:
            got = f"{self.patch_size} for images of {self.image_size} pixels"
            checks.fail("patch_size", "a power of 2 from 4 on that divides the image size", got)


class ScratchBackbone(nn.Module):
    """See the top of this file; a `lattok.backbones.Backbone` whose parameters are all trained."""

    predicts_text = False
    embedding_rms = 1.0
    revision = None

    def __init__(self, size: ScratchSize):
        super().__init__()
        self.size, self.hidden_size, self.num_layers = size, size.width, size.depth
        side = size.image_size // size.patch_size
        self.stems = nn.ModuleList(_stem(size.width, size.patch_size) for _ in range(size.cameras))
        self.words = nn.Embedding(WORDS, size.width, padding_idx=0)
        self.word_places = nn.Parameter(0.1 * torch.randn(MAX_WORDS, size.width))  # counted from the end
        self.image_places = nn.Parameter(0.1 * torch.randn(size.frames * size.cameras * side * side, size.width))
        self.blocks = nn.ModuleList(PreNormBlock(size.width, size.heads) for _ in range(size.depth))
        self.norm = nn.LayerNorm(size.width)

    def encode(self, images: Tensor, texts: Sequence[str]) -> dict[str, Tensor]:
        """Turn B prompts into numbers of words [B, W], padded on the left; images uint8 [B, V, h, w, 3] stay.

        Of several frames, all cameras of each come one frame after the other.
        """
        size = self.size
        what = "cameras" if size.frames == 1 else f"images, {size.frames} frames of each camera,"
        checks.size("images", what, images.shape[1], size.frames * size.cameras)
        checks.size("images", "pixels on each side", images.shape[2], size.image_size)
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
        """Turn images uint8 [B, V, h, w, 3] into tokens [B, V * patches, D]."""
        frames = self.size.frames
        pixels = rearrange(images, "b (f v) h w c -> v (b f) c h w", f=frames).to(self.image_places) / 127.5 - 1
        views = torch.stack([stem(one) for stem, one in zip(self.stems, pixels, strict=True)])
        return rearrange(views, "v (b f) d h w -> b (f v h w) d", f=frames) + self.image_places

    def adapt(self, train: str, lora: LoraSpec, gradient_checkpointing: bool = False) -> None:
        """Do nothing: everything is trained."""
        checks.one_of("backbone_train", train, ("full",))

    def text_logits(self, states: Tensor) -> Tensor:
        raise LattokError("`backbone`: the scratch backbone predicts no text. Choose a pretrained one.")

    def text_errors(self, inputs: Inputs, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        raise LattokError("`backbone`: the scratch backbone predicts no text. Choose a pretrained one.")

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
