"""Crops against torchvision, colours against their definitions, draws that do not depend on processes."""

import colorsys

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import adjust_contrast, adjust_saturation, resized_crop

from lattok.samples.augment import Augmentation, augment, draw
from lattok.utils.seeds import derive_seed
from tests.errors import refused


@pytest.fixture
def images():
    return torch.randint(0, 256, (3, 2, 20, 28, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


CROPS, COLOURS = Augmentation(), Augmentation(1.0, 0.5, 0.5, 0.5, 0.5)
WHOLE, NEUTRAL = [0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 0.0]


def coloured(image, **changes):
    """One image in other colours: factors of 1, no turn of hue, but for `changes`."""
    values = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0, **changes}
    return augment(image, torch.tensor([[[*WHOLE, *values.values()]]]), COLOURS)


def changed(images, options, seed=0, step=0):
    return augment(images, draw(options, len(images), images.shape[1], seed, step), options)


def test_off_is_the_same_images(images):
    assert changed(images, Augmentation(crop=1.0)) is images


def test_the_whole_image_and_neutral_colours_change_nothing(images):
    draws = torch.tensor([*WHOLE, *NEUTRAL]).expand(3, 2, 7)
    for options in (CROPS, COLOURS, Augmentation(0.9, 0.5), Augmentation(1.0, shift=0.1)):
        assert torch.equal(augment(images, draws, options), images)


def test_a_known_crop_of_each_camera():
    images = torch.randint(0, 256, (2, 2, 20, 20, 3), dtype=torch.uint8)
    pixels = torch.tensor([[[0, 0, 10], [4, 6, 14]], [[10, 10, 10], [0, 5, 15]]])  # top, left, side
    got = augment(images, torch.cat([pixels / 20, torch.tensor(NEUTRAL).expand(2, 2, 4)], -1), CROPS)
    for b in range(2):
        for v in range(2):
            top, left, side = pixels[b, v].tolist()
            planes = images[b, v].permute(2, 0, 1).float()
            # beyond the edge of its crop torchvision repeats it, where the image goes on
            expected = resized_crop(
                planes, top, left, side, side, [20, 20], InterpolationMode.BILINEAR, antialias=False
            )
            inner = (got[b, v].permute(2, 0, 1).float() - expected)[:, 1:-1, 1:-1]
            assert inner.abs().max() <= 0.51


def test_crops_keep_a_share_of_the_area_and_stay_inside():
    boxes = draw(Augmentation(crop=0.6), 2000, 2, 0, 0)[..., :3]
    area = boxes[..., 2].square()
    assert 0.6 <= area.min() < 0.61
    assert 0.99 < area.max() <= 1
    assert boxes.min() >= 0
    assert (boxes[..., :2] + boxes[..., 2:]).max() <= 1 + 1e-6
    assert not torch.equal(boxes[:, 0], boxes[:, 1])  # each camera its own
    assert (boxes[..., 0] / (1 - boxes[..., 2])).mean() == pytest.approx(0.5, abs=0.02)


def test_a_seed_and_a_step_draw_what_they_always_drew():
    """So that a run that goes on with a later version goes on with the same images."""
    options = Augmentation(crop=0.6, brightness=0.2, contrast=0.3, saturation=0.4, hue=0.05)
    drawn = draw(options, 3, 2, 3, 5)
    uniform = torch.rand(3, 2, 7, generator=torch.Generator().manual_seed(derive_seed(3, 5, 1)))
    side = (0.6 + 0.4 * uniform[..., 0]).sqrt()
    torch.testing.assert_close(drawn[..., 2], side)
    torch.testing.assert_close(drawn[..., :2], uniform[..., 1:3] * (1 - side)[..., None])
    spread = torch.tensor([0.2, 0.3, 0.4, 0.05]) * (2 * uniform[..., 3:] - 1)
    torch.testing.assert_close(drawn[..., 3:], spread + torch.tensor([1.0, 1.0, 1.0, 0.0]))


def test_a_shift_moves_whole_pixels_and_a_crop_is_resized(images):
    known = {tuple(pixel) for pixel in images.reshape(-1, 3).tolist()}
    for options, moved in ((Augmentation(crop=1.0, shift=0.2), True), (Augmentation(crop=0.6), False)):
        got = changed(images, options)
        assert not torch.equal(got, images)
        assert ({tuple(pixel) for pixel in got.reshape(-1, 3).tolist()} <= known) == moved


def test_shifts_go_as_far_either_way():
    corners = draw(Augmentation(crop=1.0, shift=0.2), 2000, 2, 0, 0)[..., :2]
    assert -0.2 <= corners.min() < -0.199
    assert 0.199 < corners.max() <= 0.2
    assert corners.mean((0, 1)) == pytest.approx([0, 0], abs=0.01)
    assert not torch.equal(corners[:, 0], corners[:, 1])  # each camera its own


def test_crops_may_all_have_one_size():
    boxes = draw(Augmentation(crop=0.9, crop_most=0.9), 200, 1, 0, 0)[..., :3]
    torch.testing.assert_close(boxes[..., 2], torch.full((200, 1), 0.9**0.5))
    assert boxes[..., 0].unique().numel() > 190
    area = draw(Augmentation(crop=0.5, crop_most=0.7), 2000, 1, 0, 0)[..., 2].square()
    assert 0.5 <= area.min() < 0.51 < 0.69 < area.max() <= 0.7001


def test_brightness(images):
    got = coloured(images[:1, :1], brightness=1.5)
    expected = (images[:1, :1].double() * 1.5).round().clamp(max=255)
    assert (got.double() - expected).abs().max() <= 1  # halves round either way
    assert torch.equal(coloured(images[:1, :1], brightness=0.0), torch.zeros_like(images[:1, :1]))


@pytest.mark.parametrize(("name", "reference"), [("contrast", adjust_contrast), ("saturation", adjust_saturation)])
@pytest.mark.parametrize("factor", [0.3, 1.0, 1.7])
def test_contrast_and_saturation_against_torchvision(images, name, reference, factor):
    one = images[:1, :1]
    planes = one[0, 0].permute(2, 0, 1).float() / 255
    expected = (reference(planes, factor) * 255).permute(1, 2, 0)
    got = coloured(one, **{name: factor})[0, 0].float()
    assert (got - expected).abs().max() <= 1.2  # its grey has rounded coefficients


def test_a_third_of_a_turn_swaps_the_colours():
    red = torch.tensor([200, 30, 10], dtype=torch.uint8).expand(1, 1, 4, 4, 3)
    assert coloured(red, hue=1 / 3)[0, 0, 0, 0].tolist() == [10, 200, 30]
    assert coloured(red, hue=-1 / 3)[0, 0, 0, 0].tolist() == [30, 10, 200]
    hues = [colorsys.rgb_to_hsv(*np.array(c) / 255)[0] for c in ([200, 30, 10], [10, 200, 30])]
    assert (hues[1] - hues[0]) % 1 == pytest.approx(1 / 3)


def test_all_colours_one_after_the_other():
    image = torch.randint(60, 160, (1, 1, 8, 8, 3), dtype=torch.uint8)
    x = image[0, 0].double() * 1.1
    grey = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)
    x = (x @ grey).mean() + 1.2 * (x - (x @ grey).mean())
    x = (x @ grey)[..., None] + 0.7 * (x - (x @ grey)[..., None])
    axis, angle = torch.full((3,), 3**-0.5, dtype=torch.float64), torch.tensor(2 * torch.pi * 0.05)
    along = (x @ axis)[..., None] * axis  # Rodrigues, with the cross product spelt out
    x = along + angle.cos() * (x - along) + angle.sin() * torch.linalg.cross(axis.expand_as(x), x)
    got = coloured(image, brightness=1.1, contrast=1.2, saturation=0.7, hue=0.05)[0, 0]
    assert (got.double() - x.clamp(0, 255)).abs().max() <= 0.51


def test_grey_has_no_hue_and_no_saturation():
    grey = torch.full((1, 1, 4, 4, 3), 90, dtype=torch.uint8)
    for change in ({"hue": 0.4}, {"saturation": 0.2}, {"contrast": 1.9}):
        assert torch.equal(coloured(grey, **change), grey)


def test_processes_that_share_a_batch_see_what_one_sees(images):
    options = Augmentation(0.8, 0.2, 0.2, 0.2, 0.1)
    whole = changed(images, options, 4, 7)
    draws = draw(options, 3, 2, seed=4, step=7)
    for share in (slice(0, None, 2), slice(1, None, 2), torch.tensor([2, 0])):
        assert torch.equal(augment(images[share], draws[share], options), whole[share])
    assert not torch.equal(changed(images, options, 4, 8), whole)
    assert not torch.equal(changed(images, options, 5, 7), whole)
    assert whole.dtype == torch.uint8
    assert not torch.equal(whole, images)


def test_samples_are_changed_each_by_itself():
    """In blocks, whose size shows nowhere."""
    pictures = torch.randint(0, 256, (9, 2, 8, 8, 3)).to(torch.uint8)
    options = Augmentation(0.5, brightness=0.3, contrast=0.3, saturation=0.3, hue=0.2)
    draws = draw(options, 9, 2, seed=0, step=3)
    alone = torch.cat([augment(pictures[i : i + 1], draws[i : i + 1], options) for i in range(9)])
    assert torch.equal(augment(pictures, draws, options), alone)
    assert augment(pictures[:0], draws[:0], options).shape == (0, 2, 8, 8, 3)


def test_factors_stay_in_their_ranges():
    found = draw(Augmentation(1.0, 0.3, 0.2, 0.1, 0.05), 500, 3, 0, 0)[..., 3:]
    spread = torch.tensor([0.3, 0.2, 0.1, 0.05])
    centre = torch.tensor([1.0, 1.0, 1.0, 0.0])
    assert ((found - centre).abs() <= spread + 1e-6).all()
    assert ((found - centre).abs().amax((0, 1)) > 0.98 * spread).all()
    off = draw(Augmentation(1.0, brightness=0.3), 50, 1, 0, 0)[..., 3:]
    assert torch.equal(off[..., 1:], centre[1:].expand(50, 1, 3))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"crop": 0.0}, "`crop`"),
        ({"crop": 1.2}, "`crop`"),
        ({"crop": 0.9, "crop_most": 0.8}, "`crop_most`"),
        ({"crop_most": 1.1}, "`crop_most`"),
        ({"hue": 0.6}, "`hue`"),
        ({"brightness": 1.01}, "`brightness`"),
        ({"contrast": 1.01}, "`contrast`"),
        ({"saturation": 1.01}, "`saturation`"),
        ({"brightness": -0.1}, "`brightness`"),
    ],
)
def test_bad_options(change, text):
    Augmentation(1.0, brightness=1.0, contrast=1.0, saturation=1.0, hue=0.5)
    refused(text, Augmentation, **change)


def test_draws_for_other_images_are_refused(images):
    refused("`count`", lambda: draw(Augmentation(crop=0.9), 0, 2, 0, 0))
    refused("`draws`", lambda: augment(images, draw(CROPS, 4, 2, 0, 0), CROPS))
    refused("`draws`", lambda: augment(images, draw(CROPS, 3, 1, 0, 0), CROPS))
    refused("`frames`", lambda: augment(images.float(), draw(CROPS, 3, 2, 0, 0), CROPS))
