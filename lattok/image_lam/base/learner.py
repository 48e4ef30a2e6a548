"""A latent action model of frame pairs while it learns, with the heads that nothing but learning needs."""

from __future__ import annotations

from typing import Generic, TypeVar

from torch import Tensor, nn

from lattok.image_lam.base import losses
from lattok.image_lam.base.parts import Encoded, FlowHead, GapActionHead
from lattok.image_lam.base.trained import TrainedPairModel, of_pairs
from lattok.types import LossTerms, PairBatch

LAM = TypeVar("LAM", bound=TrainedPairModel)


class PairLearner(nn.Module, Generic[LAM]):
    """A model `lam` and its heads: of actions (Eq. 14), of motion, and the networks that compare images.

    It gives the loss terms of a batch; `lam.config.loss_weights` weights them. The model itself has no head.
    """

    def __init__(self, lam: LAM):
        super().__init__()
        self.lam: LAM = lam
        self.flow_head = FlowHead(lam.config) if lam.config.loss.flow > 0 else None
        self.action_head: GapActionHead | None = None
        self.perceptual: nn.Module | None = None

    def attach_action_head(self, actions: Tensor) -> None:
        """Add an action head with a normaliser fitted to `actions` [N, m] or [N, steps, m]."""
        self.action_head = GapActionHead(self.lam.config, actions.shape[-1])
        self.action_head.normalizer.fit(actions.flatten(0, -2))

    def open_perceptual(self) -> None:
        """Open the networks that compare predicted images, where a loss asks for that."""
        self.perceptual = self.lam.new_perceptual()

    def forward(self, batch: PairBatch) -> LossTerms:
        """Return the loss terms of a batch."""
        return self.learn(batch)[0]

    def learn(self, batch: PairBatch) -> tuple[LossTerms, Encoded]:
        """Return the loss terms of a batch, and what its pairs became in the control stream, with gradients."""
        terms, control, env = self.lam.learn(batch, self.perceptual)
        pairs = self.lam.pairs_of(batch.frames.shape[1] if batch.features is None else batch.features.shape[1])
        if self.flow_head is not None:
            motion = losses.block_flow(of_pairs(batch.frames, pairs))
            terms["flow"] = losses.flow(self.flow_head(control, env), motion)
        if self.action_head is not None and batch.actions.shape[1]:
            first = Encoded(control.latents[:: len(pairs)], control.vectors[:: len(pairs)], control.codes, {})
            target = self.action_head.normalizer(batch.actions)
            terms["action"] = losses.action(self.action_head(first), target, batch.labelled)
        return terms, control
