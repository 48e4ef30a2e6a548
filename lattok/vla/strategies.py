"""How latent actions supervise a policy, as data ("From Pixels to Tokens", section 4 and Table 7).

A strategy says which placeholders the prompt ends with, and which loss acts on which of them at which layer. It owns no
module and no backbone: `LatentVLA` builds from it, and so can any other policy (`lattok.vla.supervision`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any

from lattok import checks

LOSSES = ("none", "align", "codes", "regress")
TARGETS = ("none", "steps", "chunk")
PER_STEP = ("none", "one", "codes", "codes+one")


@dataclass(frozen=True)
class Strategy:
    """Placeholders and latent loss of a policy. JSON values only.

    Latent placeholders stand before those of actions: with causal attention actions see latents, never the reverse.
    """

    name: str
    latent_placeholders: str = "none"  # for each step: none, or as many as it has codes (Table 7)
    action_placeholders: str = "one"  # for each step: none, one, as many as it has codes, or those and one
    target: str = "none"  # "steps": one latent action per step (image models); "chunk": the tokens of the chunk
    loss: str = "none"  # "align" (Eq. 5), "codes" (Eq. 7, cross-entropy) or "regress" (section 5.4)
    layer: int | float = 1.0  # hidden state that the loss acts on: its index (1 is the first layer), or a fraction
    weight: float = 0.0  # lambda of Eq. 4 (Table 7); 0 beside a loss: its matched control, which is not guided by it

    def __post_init__(self) -> None:
        checks.one_of("latent_placeholders", self.latent_placeholders, PER_STEP[:1] + PER_STEP[2:3])
        checks.one_of("action_placeholders", self.action_placeholders, PER_STEP)
        checks.one_of("target", self.target, TARGETS)
        checks.one_of("loss", self.loss, LOSSES)
        checks.at_least_zero(weight=self.weight)
        if isinstance(self.layer, bool) or not isinstance(self.layer, int | float) or not self.layer > 0:
            checks.fail("layer", "the index of a hidden state such as 17, or a fraction such as 0.6", repr(self.layer))
        if isinstance(self.layer, float) and self.layer > 1:
            checks.fail("layer", "a fraction of the layers up to 1.0, or a whole number", repr(self.layer))
        if (self.loss == "none") != (self.target == "none") or (self.loss == "none" and self.weight != 0):
            got = f"loss {self.loss}, target {self.target}, weight {self.weight:g}"
            checks.fail("strategy", "a loss with a target and a weight, or none of the three", got)
        if self.latent_placeholders == self.action_placeholders == "none":
            checks.fail("strategy", "placeholders of latent actions or of actions", "neither")

    @property
    def segment(self) -> str:
        """The placeholders that the loss acts on: "latent" where there are any."""
        return "action" if self.latent_placeholders == "none" else "latent"

    @property
    def label_target(self) -> str:
        """The labels that a dataset must have for it; a baseline as long as another strategy needs to know P."""
        return "steps" if self.target == "none" and "codes" in self.action_placeholders else self.target

    def layer_index(self, num_layers: int) -> int:
        """The hidden state of 0..N that the loss acts on; fractions are rounded up."""
        index = self.layer if isinstance(self.layer, int) else math.ceil(round(self.layer * num_layers, 9))
        if index > num_layers:
            checks.fail("layer", f"a hidden state from 1 to {num_layers} of this backbone", index)
        return index


_DIRECT: Mapping[str, Any] = {"latent_placeholders": "codes", "action_placeholders": "none", "weight": 0.1}
_COND: Mapping[str, Any] = {"latent_placeholders": "codes", "action_placeholders": "one", "weight": 0.1}

STRATEGIES: Mapping[str, Strategy] = MappingProxyType(
    {
        strategy.name: strategy
        for strategy in (
            Strategy("baseline"),
            Strategy("ph_direct", action_placeholders="codes"),  # as long as LA-Direct (E.2)
            Strategy("ph_cond", action_placeholders="codes+one"),  # as long as LA-Cond
            Strategy("la_align", target="steps", loss="align", layer=0.6, weight=1.0),  # 17 of 0..28
            Strategy("la_direct", target="steps", loss="codes", **_DIRECT),
            Strategy("la_cond", target="steps", loss="codes", **_COND),
            Strategy("la_tok", target="chunk", loss="codes", **_DIRECT),
            Strategy("la_direct_c", target="steps", loss="regress", **_DIRECT),
            Strategy("la_tok_c", target="chunk", loss="regress", **_DIRECT),
        )
    }
)


def strategy_of(value: str | Mapping[str, Any] | Strategy, **changes: Any) -> Strategy:
    """A strategy by name, from JSON or as it is, with some of its fields changed where a change is not None."""
    if isinstance(value, str):
        checks.one_of("strategy", value, STRATEGIES)
        value = STRATEGIES[value]
    elif isinstance(value, Mapping):
        checks.known_keys("strategy", value, [field.name for field in fields(Strategy)])
        if "name" not in value:
            checks.fail("strategy", "a name", "none")
        value = Strategy(**value)
    elif not isinstance(value, Strategy):
        checks.fail("strategy", "a name, a Strategy or its fields", repr(value))
    given = {name: change for name, change in changes.items() if change is not None}
    if given and value.loss == "none":
        checks.fail(next(iter(given)), f"a strategy with a latent loss, which {value.name} has not", given)
    return replace(value, **given)
