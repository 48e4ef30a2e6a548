"""LPIPS (Zhang et al., 2018) as a loss of predicted frames: distances of VGG16's activations, weighted as people see.

Needs the extra `lpips`; VGG16's weights come from torchvision, once.
"""

from __future__ import annotations

import warnings

from torch import Tensor, nn

from lattok.utils import checks

OTHERWISE = "Or set it to 0, for a trained model in its config.json."


class PerceptualLoss(nn.Module):
    """The mean LPIPS distance of images [n, 3, H, W] between 0 and 1. Its networks are frozen; gradients go through."""

    def __init__(self):
        super().__init__()
        try:
            from lpips import LPIPS
        except ImportError:
            checks.fail("loss_perceptual", "the package lpips (pip install 'lattok[lpips]')", "none", OTHERWISE)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it asks torchvision for weights in a way of the past
                self.network = LPIPS(net="vgg", verbose=False)
        except Exception as error:  # a download fails with any type
            checks.fail("loss_perceptual", "VGG16's weights from torchvision", checks.first_line(error), OTHERWISE)
        self.requires_grad_(False).train(False)

    def train(self, mode: bool = True) -> PerceptualLoss:
        """Stay in evaluation mode."""
        return super().train(False)

    def forward(self, predicted: Tensor, actual: Tensor) -> Tensor:
        """Compare images [n, 3, H, W]."""
        return self.network(predicted.float(), actual.float(), normalize=True).mean()
