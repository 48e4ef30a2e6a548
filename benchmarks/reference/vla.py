"""A policy with latent-action supervision the straightforward way, as the baseline of benchmarks/speed/vla_step.py.

Our re-implementation from what the paper and the published code do, on transformers' own model: it is called with its
language-model head over the whole sequence, the latent loss is its `labels` (codes are tokens of the vocabulary), it
returns the hidden states of all layers, and those of all layers are gathered and stacked for the head. Nothing is tuned
and nothing is slowed down; base model, adapters, images, prompt and the modules of the head are those of a `LatentVLA`.
"""

from typing import Any

import torch
from torch import Tensor, nn

from lattok.nn.losses import action_loss
from lattok.types import LossTerms, PolicyBatch
from lattok.vla import LatentVLA
from lattok.vla.head import LayerStates
from lattok.vla.observations import prompts

FIRST_CODE = 151_669  # the rows of the vocabulary that Qwen3-VL leaves unused
IGNORED = -100  # label of a position without one


class StraightforwardVLA(nn.Module):
    """`forward` and `predict` with the modules of a lattok policy; first id of the codes in the vocabulary."""

    def __init__(self, policy: LatentVLA, first_code: int = FIRST_CODE):
        super().__init__()
        self.policy, self.first_code = policy, first_code
        self.spans = list(policy.segments.values())
        self.count = sum(span.count for span in self.spans)
        self.codes = any(loss.loss == "codes" for loss in policy.config.strategy.losses)

    def forward(self, batch: PolicyBatch) -> LossTerms:
        """The terms "action" and, where the strategy has one, "latent"."""
        out, states = self._run(batch, self._labels(batch) if self.codes else None)
        predicted = self._act(batch, states)
        target = self.policy.action_normalizer(batch.actions)
        terms = {"action": action_loss(predicted, target, batch.valid)}
        if self.codes:
            terms["latent"] = out.loss
        elif "latent" in self.policy.supervision and batch.latent is not None:
            layer = out.hidden_states[self.policy.supervision.layer_of["latent"]]
            span = next(loss.span for loss in self.policy.config.strategy.losses if loss.name == "latent")
            own = self.policy.segments[span].of(layer[:, -self.count :]).float()
            terms["latent"] = self.policy.supervision["latent"](own, batch.latent)["latent"]
        return terms

    @torch.no_grad()
    def predict(self, batch: PolicyBatch) -> Tensor:
        """Action chunks [B, H, m] in the dataset's own units."""
        return self.policy.action_normalizer.inverse(self._act(batch, self._run(batch, None)[1]))

    def _run(self, batch: PolicyBatch, codes: Tensor | None) -> tuple[Any, Tensor]:
        """The model's own output, and states [B, N + 1, image tokens and placeholders, D] of all layers."""
        backbone = self.policy.backbone
        inputs = backbone.prepare(batch.images, prompts(self.policy.config, batch.texts))
        inputs = {name: value.to(backbone.model.device) for name, value in inputs.items() if isinstance(value, Tensor)}
        inputs.pop("position_ids", None)  # the model finds them itself
        tails = {"input_ids": inputs["input_ids"][:, -1:], "attention_mask": 1, "mm_token_type_ids": 0}
        for name, value in tails.items():
            tail = inputs[name].new_ones(len(batch.images), self.count) * value
            inputs[name] = torch.cat([inputs[name], tail], 1)
        labels = None
        if codes is not None:
            labels = torch.full_like(inputs["input_ids"], IGNORED)
            labels[:, -self.count :][:, : codes.shape[1]] = codes
        pixels = inputs.pop("pixel_values").to(backbone.model.dtype)
        out = backbone.model(**inputs, pixel_values=pixels, labels=labels, output_hidden_states=True, use_cache=False)
        image = inputs["input_ids"] == backbone.model.config.image_token_id
        gathered = []
        for hidden in out.hidden_states:
            tokens = hidden[image].view(len(hidden), -1, hidden.shape[-1])
            gathered.append(torch.cat([tokens, hidden[:, -self.count :]], 1))
        return out, torch.stack(gathered, 1)

    def _act(self, batch: PolicyBatch, states: Tensor) -> Tensor:
        """Normalised actions [B, H, m] from the stacked states."""
        chosen = {}
        for layer in self.policy.head.layers:
            hidden = states[:, layer].float()
            image, rest = hidden.split([hidden.shape[1] - self.count, self.count], 1)
            pooled = [span.of(rest).unflatten(1, (span.steps, span.per_step)).mean(2) for span in self.spans]
            chosen[layer] = LayerStates(torch.cat(pooled, 1), image, None)
        proprio = None
        if self.policy.proprio_normalizer is not None and batch.proprio is not None:
            proprio = self.policy.proprio_normalizer(batch.proprio)
        return self.policy.head(chosen, proprio).float()

    def _labels(self, batch: PolicyBatch) -> Tensor | None:
        """Codes as tokens of the vocabulary, step-major [B, S * P], none where there is no label."""
        if batch.latent is None or batch.latent.codes is None:
            return None
        valid = batch.latent.valid[..., None].expand_as(batch.latent.codes)
        return (batch.latent.codes + self.first_code).masked_fill(~valid, IGNORED).flatten(1)
