"""Random crops and colours of a policy's images, for a whole batch at once.

The numbers of sample i of a batch follow from (seed, step, i) alone: processes that share a batch draw for all of it
and keep their part, and together see what one process sees.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from lattok.data.pixels import check_pixels
from lattok.nn.blocks import onto
from lattok.utils import checks
from lattok.utils.seeds import derive_seed

SAMPLES_PER_BLOCK = 4  # samples that are changed at once, in the processor's cache: twice as fast
GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in torchvision


@dataclass(frozen=True)
class Augmentation:
    """How much images may change, each camera of each sample by itself. The defaults only crop.

    Attributes:
        crop: least share of the image that a random crop keeps; 1: all of it
        brightness: brightness changes by a factor from 1 - b to 1 + b; 0: not at all
        contrast: contrast changes by a factor from 1 - c to 1 + c, around the mean grey of the image; 0: not at all
        saturation: saturation changes by a factor from 1 - s to 1 + s, around the grey of each pixel; 0: not at all
        hue: hue turns around the grey axis by -h to h; 0: not at all
        crop_most: greatest share of the image that a random crop keeps
        shift: images move by up to this share of their side; 0: not at all
    """

    crop: float = 0.9
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    crop_most: float = 1.0
    shift: float = 0.0

    def __post_init__(self) -> None:
        checks.positive(crop=self.crop, crop_most=self.crop_most)
        if self.crop > 1:
            checks.fail("crop", "a share of the area, at most 1", self.crop)
        if not self.crop <= self.crop_most <= 1:
            checks.fail("crop_most", f"a share of the area from crop {self.crop:g} to 1", self.crop_most)
        checks.below_one(shift=self.shift)
        for name, most in {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.5}.items():
            checks.at_least_zero(**{name: getattr(self, name)})
            if getattr(self, name) > most:
                checks.fail(name, f"a number from 0 to {most:g}", getattr(self, name))

    @property
    def changes(self) -> bool:
        """Whether images change at all."""
        return self.moves or self.colours

    @property
    def moves(self) -> bool:
        return self.crop < 1 or self.shift > 0

    @property
    def colours(self) -> bool:
        return max(self.brightness, self.contrast, self.saturation, self.hue) > 0


def draw(options: Augmentation, count: int, views: int, seed: int, step: int) -> Tensor:
    """Draws for the `count` samples of a step, over all processes, with `views` cameras each, [count, views, 7]: top,
    left and side of the crop, as shares of the image; factors of brightness, contrast, saturation; turns of hue."""
    checks.counts(count=count, views=views)
    generator = torch.Generator().manual_seed(derive_seed(seed, step, 1))
    uniform, move = (torch.rand(count, views, size, generator=generator) for size in (7, 2))
    side = (options.crop + (options.crop_most - options.crop) * uniform[..., :1]).sqrt()  # b v 1
    corner = uniform[..., 1:3] * (1 - side) + options.shift * (2 * move - 1)
    spread = torch.tensor([options.brightness, options.contrast, options.saturation, options.hue])
    colours = spread * (2 * uniform[..., 3:] - 1) + torch.tensor([1.0, 1.0, 1.0, 0.0])
    return torch.cat([corner, side, colours], -1)


@torch.no_grad()
def augment(images: Tensor, draws: Tensor, options: Augmentation) -> Tensor:
    """Images uint8 [B, V, h, w, 3] to uint8 of the same shape, on their device, changed as `draw` says for them
    [B, V, 7]. Crops are resized back bilinearly; images that only move do so by whole pixels."""
    check_pixels(images)
    checks.rank("images", images, "B V h w 3")
    checks.size("draws", "samples, as there are of images", len(draws), len(images))
    checks.size("draws", "cameras, as there are of images", draws.shape[1], images.shape[1])
    if not options.changes or not len(images):
        return images
    parts = zip(images.split(SAMPLES_PER_BLOCK), draws.split(SAMPLES_PER_BLOCK), strict=True)
    return torch.cat([_changed(*part, options) for part in parts])


def augment_alike(frames: Tensor, draws: Tensor, options: Augmentation) -> Tensor:
    """Change frames uint8 [B, F, V, h, w, 3]: all F of a sample and camera in the same way."""
    count = frames.shape[1]
    alike = draws.repeat(1, count, 1)  # frames stand in the place of cameras
    return augment(frames.flatten(1, 2), alike, options).unflatten(1, (count, -1))


def _changed(images: Tensor, draws: Tensor, options: Augmentation) -> Tensor:
    """Change some samples of a batch, uint8 [b, V, h, w, 3]."""
    pixels = rearrange(images.float(), "b v h w c -> (b v) c h w")
    boxes, colours = onto(draws, images.device).flatten(0, 1).split((3, 4), -1)
    if options.moves:
        pixels = _cropped(pixels, boxes, "bilinear" if options.crop < 1 else "nearest")  # does not blur what only moves
    if options.colours:
        pixels = _coloured(pixels, colours)
    return rearrange(pixels.round_().clamp_(0, 255).to(torch.uint8), "(b v) c h w -> b v h w c", v=images.shape[1])


def _cropped(pixels: Tensor, boxes: Tensor, mode: str) -> Tensor:
    """Crop pixels [n, 3, h, w] to the boxes [n, 3], resized back; mode "nearest" moves them by whole pixels."""
    top, left, side = boxes.unbind(-1)
    theta = torch.zeros(len(boxes), 2, 3, device=pixels.device)  # output to input coordinates, both from -1 to 1
    theta[:, 0, 0] = theta[:, 1, 1] = side
    theta[:, 0, 2], theta[:, 1, 2] = 2 * left + side - 1, 2 * top + side - 1
    grid = F.affine_grid(theta, list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels, grid, mode=mode, padding_mode="border", align_corners=False)


def _coloured(pixels: Tensor, colours: Tensor) -> Tensor:
    """Pixels [n, 3, h, w] with brightness, contrast, saturation and hue changed, in this order.

    x -> b x;  x -> g + c (x - g) with the mean grey g;  x -> S x = s x + (1 - s) grey(x);  x -> R x, a rotation.
    Neither S nor R changes greys, so that all of it is c b R S x + (1 - c) g.
    """
    brightness, contrast, saturation, hue = colours.unbind(-1)
    weights = onto(torch.tensor(GREY), pixels.device)
    mean = brightness * (pixels.mean((2, 3)) @ weights)
    keep = saturation[:, None, None]
    saturate = keep * torch.eye(3, device=pixels.device) + (1 - keep) * weights.expand(3, 3)
    matrix = (contrast * brightness)[:, None, None] * (_turn(2 * math.pi * hue) @ saturate)
    offset = ((1 - contrast) * mean)[:, None, None]
    return torch.baddbmm(offset, matrix, pixels.flatten(2)).view_as(pixels)


def _turn(angles: Tensor) -> Tensor:
    """Return rotations [n, 3, 3] about the grey axis (1, 1, 1) by angles [n] in radians: Rodrigues' formula."""
    axis = torch.full((3,), 3**-0.5, device=angles.device)
    x = y = z = 3**-0.5
    across = onto(torch.tensor([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]]), angles.device)
    cosine, sine = angles.cos()[:, None, None], angles.sin()[:, None, None]
    return cosine * torch.eye(3, device=angles.device) + sine * across + (1 - cosine) * torch.outer(axis, axis)
