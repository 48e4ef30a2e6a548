"""Losses of the image latent action model: pure functions (P2T Eq. 12 to 14), further terms, LPIPS, motion as target.

What autocast rounded is compared in float32.

Motion between two frames by block matching on grey thumbnails needs no labels and no trained network:

    cost(cell, shift) = mean over the cell of (later(x + shift) - now(x))^2
    flow(cell)        = sum over shifts of softmax(-cost / T) * shift
"""

import warnings

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from lattok.image_lam.base.features import FrozenNetwork
from lattok.nn.blocks import upcast
from lattok.utils import checks
from lattok.version import install_extra

SIDE, CELLS, REACH = 32, 8, 4  # pixels of a thumbnail, cells per side, farthest shift in pixels
TEMPERATURE = 0.01 / 3  # of squared differences of grey values in 0..1
WITHOUT_LPIPS = "Or set it to 0, for a trained model in its config.json."
STILLNESS = 1e-4 / 3  # added per squared pixel of shift: where nothing can be told, nothing moves


def prediction(predicted: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared error of predicted features of the later frame [B, N, D] (Eq. 12)."""
    return F.mse_loss(upcast(predicted), upcast(target))


def action(predicted: Tensor, actions: Tensor, labelled: Tensor, average: Tensor | None = None) -> Tensor:
    """Return the mean squared error of labelled samples (Eq. 14): [B, ...] normalised, labelled [B]; 0 without any.

    Of a share of a batch, over the `average` number of labelled samples in a share: the shares' mean is the batch's.
    """
    if predicted.shape != actions.shape:
        checks.fail("actions", f"shape {list(predicted.shape)}, as the action head predicts", f"{list(actions.shape)}")
    error = (upcast(predicted) - actions).square().flatten(1).mean(1)
    return (error * labelled).sum() / (labelled.sum().clamp_min(1) if average is None else average.clamp_min(1e-6))


def decorrelation(latents: Tensor) -> Tensor:
    """Correlate, squared, a channel with those of another token [B, P, d]: 0 where tokens share nothing, 1 if equal.

    A channel that does not move in the batch is correlated with none.
    """
    _, tokens, dim = latents.shape
    if tokens == 1:
        return latents.new_zeros(())
    correlation = _correlation(latents, latents).square().reshape(tokens, dim, tokens, dim)
    # without the diagonal: of rows one longer than the matrix's, all but the last number
    between = correlation.mean((1, 3)).flatten()[1:].view(tokens - 1, tokens + 1)[:, :-1]
    return between.reshape(-1).mean() * dim


def separation(one: Tensor, other: Tensor) -> Tensor:
    """Correlate, squared, channels of two streams [B, p, d] and [B, q, d]: the mean over all pairs of channels.

    Streams that share nothing have that of chance, 1 / (B - 1).
    """
    return _correlation(one, other).square().mean()


def _correlation(one: Tensor, other: Tensor) -> Tensor:
    """Return correlations [p * d, q * d] over the batch; a channel that does not move has none."""
    units = []
    for latents in (upcast(one).flatten(1), upcast(other).flatten(1)):
        centred = latents - latents.mean(0)
        units.append(centred / centred.std(0, unbiased=False).clamp_min(1e-5))
    with torch.autocast(units[0].device.type, enabled=False):
        return units[0].T @ units[1] / len(one)


def additivity(latents: Tensor) -> Tensor:
    """Measure how far c(0, k+1) is from c(0, k) + c(k, k+1), as a share of the latents' variance, [B, pairs, P, d] of
    the pairs (0, 1), (0, 2) ... (0, n), then (1, 2), (2, 3) ... (n-1, n).

    The gradient goes through that variance, too: latents that shrink gain nothing.
    """
    last = (latents.shape[1] + 1) // 2  # n
    first, whole, second = (upcast(part) for part in (latents[:, : last - 1], latents[:, 1:last], latents[:, last:]))
    spread = whole.var(0, unbiased=False).mean().clamp_min(1e-5)
    return (whole - first - second).square().mean() / spread


def flow(predicted: Tensor, motion: Tensor) -> Tensor:
    """Return the squared error of predicted motion [B, n] as a share of the motion's variance in the batch."""
    return (upcast(predicted) - motion).square().mean() / motion.var(unbiased=False).clamp_min(1e-3)


@torch.no_grad()
def block_flow(frames: Tensor) -> Tensor:
    """Find the motion [B, V * 2 * CELLS^2] of frame pairs uint8 [B, 2, V, H, W, 3]: thumbnail pixels, x before y."""
    with torch.autocast(frames.device.type, enabled=False):  # costs are small differences of large numbers
        batch, _, views = frames.shape[:3]
        grey = rearrange(frames.float().mean(-1) / 255, "b t v h w -> (t b v) 1 h w")
        now, later = F.adaptive_avg_pool2d(grey, SIDE).chunk(2)
        side = SIDE // CELLS
        padded = F.pad(later, [REACH] * 4, mode="replicate")
        cells = now.unfold(2, side, side).unfold(3, side, side).reshape(-1, 1, side, side)  # (bv y x) 1 4 4
        reach = side + 2 * REACH
        windows = padded.unfold(2, reach, side).unfold(3, reach, side).reshape(1, -1, reach, reach)
        # (a - b)^2 = a^2 + b^2 - 2ab, the product for all shifts of a cell as one channel of a grouped convolution
        product = F.conv2d(windows, cells, groups=len(cells))[0] / side**2  # (bv y x) 9 9
        cost = F.avg_pool2d(windows.square(), side, 1)[0] + cells.square().mean((1, 2, 3))[:, None, None] - 2 * product
        offset = torch.arange(-REACH, REACH + 1.0, device=frames.device)
        cost = cost + STILLNESS * (offset.square()[:, None] + offset.square())
        weight = torch.softmax(-cost.flatten(1) / TEMPERATURE, 1).unflatten(1, cost.shape[1:])  # (bv y x) dy dx
        flow = torch.stack([(weight.sum(1) * offset).sum(1), (weight.sum(2) * offset).sum(1)])
        return rearrange(flow, "k (b v y x) -> b (v k y x)", b=batch, v=views, y=CELLS)


class PerceptualLoss(FrozenNetwork):
    """LPIPS (Zhang et al., 2018): the mean distance of VGG16's activations, weighted as people see.

    Its networks are frozen; gradients go through. Needs the extra `lpips`; VGG16's weights come from torchvision, once.
    """

    def __init__(self):
        super().__init__()
        try:
            from lpips import LPIPS
        except ImportError:
            checks.fail("loss_perceptual", f"the package lpips ({install_extra('lpips')})", "none", WITHOUT_LPIPS)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it asks torchvision for weights in a way of the past
                self.network = LPIPS(net="vgg", verbose=False)
        except Exception as error:  # a download fails with any type
            checks.fail("loss_perceptual", "VGG16's weights from torchvision", checks.first_line(error), WITHOUT_LPIPS)
        self.requires_grad_(False).train(False)

    def forward(self, predicted: Tensor, actual: Tensor) -> Tensor:
        """Compare images [n, 3, H, W] between 0 and 1."""
        return self.network(predicted.float(), actual.float(), normalize=True).mean()
