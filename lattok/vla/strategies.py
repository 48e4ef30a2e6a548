"""How latent actions supervise a policy, as data ("From Pixels to Tokens", section 4 and Table 7).

    Strategy("la_cond", (LATENT, ACTION), (LatentLoss("codes", "latent"),), labels="steps")

A strategy says which placeholders the prompt ends with, and which losses act on which of them at which layer. It owns
no module and no backbone: `LatentVLA` builds from it, and so can any other policy (`build_supervision`).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from lattok.backbones import BackboneOut
from lattok.labels import PARTS, LatentSpec
from lattok.labels.spec import SOURCES
from lattok.types import LatentTarget, LossTerms
from lattok.utils import checks
from lattok.utils.options import ADDED
from lattok.utils.registry import Registry
from lattok.vla.supervision import LOSSES, LatentSupervision

CODES, LABELS, HORIZON = "codes", "labels", "horizon"
Target = Literal["actions", "latents"]


@dataclass(frozen=True)
class Span:
    """Placeholders of a prompt: `per_step` of them for each of `steps`, in their order."""

    name: str
    per_step: int | str = 1  # a number, or "codes": as many as a step of the labels has (Table 7)
    steps: int | str = HORIZON  # a number, "horizon": those of the chunk H, or "labels": those of the labels S

    def __post_init__(self) -> None:
        if not str(self.name).isidentifier():
            checks.fail("span", "a name of letters and digits", repr(self.name))
        for value, word in ((self.per_step, (CODES,)), (self.steps, (HORIZON, LABELS))):
            if value not in word and (not checks.is_int(value) or value < 1):
                checks.fail("span", f"a whole number of at least 1, or {' or '.join(word)}", repr(value))

    def count_per_step(self, labels: LatentSpec) -> int:
        """Return the number of placeholders of a step."""
        return labels.tokens if self.per_step == CODES else int(self.per_step)


class Segment(NamedTuple):
    """A span of a certain policy: its positions among all placeholders."""

    first: int
    steps: int
    per_step: int

    @property
    def count(self) -> int:
        return self.steps * self.per_step

    def of(self, states: Tensor) -> Tensor:
        """Take its states [B, count, D] from those of all placeholders [B, n, D]."""
        return states[:, self.first : self.first + self.count]


def check_layer(**values: Any) -> None:
    """Require that a value names a hidden state: its index, or a fraction of the layers."""
    for name, layer in values.items():
        if not checks.is_number(layer) or not layer > 0:
            checks.fail(name, "the index of a hidden state such as 17, or a fraction such as 0.6", repr(layer))
        if isinstance(layer, float) and layer > 1:
            checks.fail(name, "a fraction of the layers up to 1.0, or a whole number", repr(layer))


def hidden_index(layer: int | float, num_layers: int) -> int:
    """Return the index of 0..N that names a hidden state; fractions are rounded up."""
    index = layer if isinstance(layer, int) else math.ceil(round(layer * num_layers, 9))
    if index > num_layers:
        checks.fail("layer", f"a state from 1 to {num_layers} of this network", index)
    return index


@dataclass(frozen=True)
class LatentLoss:
    """A latent loss of a strategy: which one, and on which hidden states."""

    loss: str  # a name of `LOSSES`
    span: str = "latent"  # whose placeholders it acts on
    layer: int | float = 1.0  # hidden state: its index (1 is the first layer), or a fraction of the layers
    weight: float = 0.1  # lambda of Eq. 4 (Table 7); 0: a matched control, which is not guided by it
    name: str = "latent"  # of its term and of its figures in the log
    options: Mapping[str, Any] = field(default_factory=dict)  # keywords of its class, JSON values only

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            checks.one_of("loss", self.loss, LOSSES)
        checks.at_least_zero(weight=self.weight)
        if not str(self.name).isidentifier() or self.name == "action" or hasattr(nn.ModuleDict, self.name):
            checks.fail("loss", "a name of letters and digits that is not taken", repr(self.name))
        check_layer(layer=self.layer)
        known = LOSSES[self.loss].options
        if set(self.options) - set(known):
            expected = f"options of `{self.loss}` ({', '.join(known) or 'it has none'})"
            checks.fail("options", expected, ", ".join(self.options))


@dataclass(frozen=True)
class Strategy:
    """Placeholders and latent losses of a policy. JSON values only.

    Placeholders are in the order of the spans: with causal attention a span sees those before it, never the reverse.
    """

    name: str
    spans: tuple[Span, ...]
    losses: tuple[LatentLoss, ...] = ()
    labels: str | None = None  # "steps": one latent action per step (image models); "chunk": the tokens of the chunk
    title: str = ""  # in tables; the name where there is none
    acts: bool = True  # a policy of it learns to act; otherwise it only follows its labels so far
    next_step: str = ""  # what to type next with one that does not act yet
    # what its head learns; a decoder makes actions of latents
    predicts: Target = field(default="actions", metadata=ADDED)

    def __post_init__(self) -> None:
        spans, terms = [span.name for span in self.spans], [loss.name for loss in self.losses]
        if not spans or len(set(spans)) < len(spans) or len(set(terms)) < len(terms):
            got = ", ".join((*spans, *terms)) or "none"
            checks.fail("strategy", "spans and losses, each with a name of its own", got)
        for loss in self.losses:
            checks.one_of("span", loss.span, spans)
        if self.labels is not None:
            checks.one_of("labels", self.labels, SOURCES)
        if not self.next_step.isprintable():
            checks.fail("next_step", "a line of text", repr(self.next_step))
        checks.one_of("predicts", self.predicts, get_args(Target))
        follows = self.learns_labels or any(span.per_step == CODES or span.steps == LABELS for span in self.spans)
        if follows != (self.labels is not None):
            expected = "the kind of labels, steps or chunk, where losses or spans follow them, and only there"
            checks.fail("labels", expected, self.labels)

    @property
    def decoded(self) -> bool:
        """Whether its head predicts latent actions, which a decoder turns into actions."""
        return self.predicts == "latents"

    @property
    def learns_labels(self) -> bool:
        """Whether labels teach it."""
        return bool(self.losses) or self.decoded

    @property
    def needs(self) -> tuple[str, ...]:
        """Return the parts of a label, "codes" and "embedding", that its losses and its head need."""
        parts = {part for loss in self.losses for part in LOSSES[loss.loss].parts}
        return tuple(part for part in PARTS if part in parts or (part == "embedding" and self.decoded))

    def check_parts(self, labels: LatentSpec) -> None:
        """Raise `LattokError` where labels lack what its losses need."""
        what = {"codes": "codes and their number (codebook_size)", "embedding": "vectors and their width (latent_dim)"}
        for part in self.needs:
            if not labels.has(part):
                expected = f"labels with {what[part]}, which {self.name} learns from"
                checks.fail("latent", expected, ", ".join(f"{n} {v}" for n, v in labels.to_json().items() if v))

    def segments(self, horizon: int, labels: LatentSpec | None = None) -> dict[str, Segment]:
        """Return the positions of the placeholders of each span, for chunks of `horizon` steps and these labels."""
        labels, first, found = labels or LatentSpec(), 0, {}
        for span in self.spans:
            steps = {HORIZON: horizon, LABELS: labels.steps or horizon}.get(str(span.steps), span.steps)
            found[span.name] = Segment(first, int(steps), span.count_per_step(labels))
            first += found[span.name].count
        return found


STRATEGIES: Registry[Strategy] = Registry("lattok.strategies")


def register_strategy(strategy: Strategy) -> Strategy:
    """Register a strategy by name for recipes, the command line, the study and the LeRobot plugin."""
    return STRATEGIES.add(strategy.name, strategy)


ACTION = Span("action")
LATENT = Span("latent", CODES, LABELS)
DIRECT = (LatentLoss(CODES),)

for _strategy in (
    Strategy("baseline", (ACTION,), title="Baseline"),
    Strategy("ph_direct", (Span("action", CODES),), (), "steps", "PH-Direct"),  # as long as LA-Direct (E.2)
    Strategy("ph_cond", (Span("filler", CODES), ACTION), (), "steps", "PH-Cond"),  # as long as LA-Cond
    Strategy("la_align", (ACTION,), (LatentLoss("align", "action", 0.6, 1.0),), "steps", "LA-Align"),  # 17 of 0..28
    Strategy("la_direct", (LATENT,), DIRECT, "steps", "LA-Direct"),
    Strategy("la_cond", (LATENT, ACTION), DIRECT, "steps", "LA-Cond"),
    Strategy("la_tok", (LATENT,), DIRECT, "chunk", "LA-Tok"),
    Strategy("la_direct_c", (LATENT,), (LatentLoss("regress"),), "steps", "LA-Direct(C)"),
    Strategy("la_cond_c", (LATENT, ACTION), (LatentLoss("regress"),), "steps", "LA-Cond(C)"),
    Strategy("la_tok_c", (LATENT,), (LatentLoss("regress"),), "chunk", "LA-Tok(C)"),
):
    register_strategy(_strategy)


def strategy_of(name: str | Strategy, **changes: Any) -> Strategy:
    """Return a strategy by name, or itself; `changes` that are not None go into its only loss or its options."""
    if isinstance(name, str) and name not in STRATEGIES:
        if (own := name.lower()) in ("lara", "latbot"):
            checks.fail("strategy", f"one of {', '.join(STRATEGIES)}", repr(name), f"Train it by lattok train {own}.")
        checks.one_of("strategy", name, STRATEGIES)
    strategy = STRATEGIES[name] if isinstance(name, str) else name
    if not isinstance(strategy, Strategy):
        checks.fail("strategy", "a name or a Strategy", repr(name))
    given = {option: change for option, change in changes.items() if change is not None}
    if not given:
        return strategy
    if len(strategy.losses) != 1:
        has = "several" if strategy.losses else "none"
        checks.fail(next(iter(given)), "a strategy with one latent loss", f"{strategy.name}, which has {has}")
    loss = strategy.losses[0]
    options = {name: given.pop(name) for name in [*given] if name not in LatentLoss.__dataclass_fields__}
    if options:
        given["options"] = {**loss.options, **options}
    return replace(strategy, losses=(replace(loss, **given),))


class StrategyLosses(nn.ModuleDict):
    """The latent losses of a strategy, by the names of their terms, and which hidden states they compare."""

    def __init__(self, strategy: Strategy, dim: int, labels: LatentSpec | None, num_layers: int):
        super().__init__(build_supervision(strategy, dim, labels))
        self.layer_of = {loss.name: hidden_index(loss.layer, num_layers) for loss in strategy.losses}
        self.span_of = {loss.name: loss.span for loss in strategy.losses}

    def states(self, out: BackboneOut, segments: Mapping[str, Segment], dtype: torch.dtype) -> dict[str, Tensor]:
        """Take the states [B, n, D] that each of them acts on."""
        hidden = {name: out.hidden[layer][:, out.queries] for name, layer in self.layer_of.items()}
        return {name: segments[self.span_of[name]].of(found).to(dtype) for name, found in hidden.items()}

    def forward(self, states: Mapping[str, Tensor], target: LatentTarget, reduction: str) -> LossTerms:
        """Return all terms, by the name of the loss where that says "latent"."""
        terms: LossTerms = {}
        for name, found in states.items():
            own = self[name](found, target, reduction)
            terms.update({name + term.removeprefix("latent"): value for term, value in own.items()})
        return terms


def build_supervision(
    strategy: str | Strategy, dim: int, labels: LatentSpec | None = None
) -> dict[str, LatentSupervision]:
    """Return the losses of a strategy over states of width `dim`, by the names of their terms. `labels` says what the
    latent actions are: for a dataset, what `lattok.labels.latent_spec` returns.
    """
    strategy, labels = strategy_of(strategy), labels or LatentSpec()
    strategy.check_parts(labels)
    each = {span.name: span.count_per_step(labels) for span in strategy.spans}
    built = [LOSSES[loss.loss].build(dim, labels, each[loss.span], **loss.options) for loss in strategy.losses]
    return {loss.name: module for loss, module in zip(strategy.losses, built, strict=True)}
