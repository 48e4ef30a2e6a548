"""Action head after VLA-Adapter, as "From Pixels to Tokens" describes it (Eq. 3, 8, 9; appendix B.1).

    h_act, h_latent = Agg({ν^(k)}, k in ⌈N/2⌉..N)           states of the placeholders, a layer for each block
    â_{t:t+H-1}     = head([h_img; h_latent; h_act; s])     from a learned query for each step

Block k: the steps look at one another, at the placeholders of layer k and the proprio token, and, through a gate that
starts closed, at the image tokens of layer k. A policy asks a head for `learn` and `sample` only.

`FlowActionHead` moves noise until it is actions: flow matching (Lipman et al., 2023), as in π0 and GR00T.

    x_t = (1 - t) ε + t a,    v = a - ε           `lattok.nn.losses` draws ε and t
    L   = |v_θ(x_t, t) - v|^2                     over valid steps
    a   = x_1,  x_{t + 1/N} = x_t + v_θ(x_t, t) / N,  x_0 = ε

Its steps start from x_t and t too. What regression averages over several ways to act stays apart here. With
action_loss="l2_bce" the grippers' numbers are logits of the same steps instead: no noise becomes them, x_t is 0 there,
and an action has those of the last Euler step (LatBot, 3.3: L_ee + L_gripper).
"""

import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lattok.backbones import BackboneOut
from lattok.nn.blocks import CrossAttention, feed_forward, onto, sinusoids
from lattok.nn.losses import TICKS, action_loss, draw_flow, gripper_action_loss, numbers
from lattok.nn.rounding import lowered
from lattok.types import LossTerms, PolicyBatch
from lattok.utils import checks
from lattok.utils.seeds import derive_seed
from lattok.vla.config import OF_ONE_HEAD, VLAConfig
from lattok.vla.strategies import Segment


class LayerStates(NamedTuple):
    """What one layer of the backbone hands to its block of the head."""

    placeholders: Tensor  # [B, n, D] latent before action ones
    image: Tensor | None  # [B, i, D]
    image_valid: Tensor | None  # [B, i] bool; none: all


States = Mapping[int, LayerStates]  # by layer


class KeyValueCache(NamedTuple):
    """Keys and values of a block that do not change from step to step."""

    others: Tensor  # of placeholders and proprio
    image: Tensor | None
    image_valid: Tensor | None  # [B, i] bool

    def repeated(self, times: int) -> "KeyValueCache":
        """Return each sample so many times in a row."""
        if times == 1:
            return self
        image = None if self.image is None else self.image.repeat_interleave(times, 1)
        valid = None if self.image_valid is None else self.image_valid.repeat_interleave(times, 0)
        return KeyValueCache(self.others.repeat_interleave(times, 1), image, valid)


class HeadBlock(nn.Module):
    """Steps look at themselves, the placeholders and proprio, then at the image, then a feed-forward layer."""

    def __init__(self, dim: int, heads: int, hidden_size: int, images: bool):
        super().__init__()
        self.norm, self.norm_ff = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.project = nn.Sequential(nn.LayerNorm(hidden_size), nn.Linear(hidden_size, dim))
        self.attention = CrossAttention(dim, heads)
        self.ff = feed_forward(dim, 4 * dim, nn.GELU)
        if images:
            self.norm_image, self.image_attention = nn.LayerNorm(dim), CrossAttention(dim, heads)
            self.project_image = nn.Sequential(nn.LayerNorm(hidden_size), nn.Linear(hidden_size, dim))
            self.image_gate = nn.Parameter(torch.zeros(1))

    def forward(
        self,
        x: Tensor,
        states: LayerStates,
        proprio: Tensor | None,
        gate: Tensor | None,
        valid: Tensor | None = None,
        causal: bool = False,
    ) -> Tensor:
        """Update steps [B, H, d] from the states of this block's layer and a proprio token [B, 1, d], images through an
        open `gate` [1]. Steps that are not `valid` [B, H] bool are seen by none; with `causal` each sees only those
        before it."""
        steps = lowered(self.norm(x))
        keys = torch.cat([steps, self.project(states.placeholders), *([] if proprio is None else [proprio])], 1)
        if valid is not None:
            valid = F.pad(valid, (0, keys.shape[1] - valid.shape[1]), value=True)
        x = x + self.attention(steps, keys, valid, causal)
        if states.image is not None:
            image = self.project_image(states.image)
            x = x + gate * self.image_attention(self.norm_image(x), image, states.image_valid)
        return x + self.ff(self.norm_ff(x))

    def fixed(self, states: LayerStates, proprio: Tensor | None) -> KeyValueCache:
        """Return what every step sees besides other steps."""
        keys = torch.cat([self.project(states.placeholders), *([] if proprio is None else [proprio])], 1)
        image = states.image
        seen = None if image is None else self.image_attention.keys_and_values(self.project_image(image))
        return KeyValueCache(self.attention.keys_and_values(keys), seen, states.image_valid)

    def advance(self, x: Tensor, fixed: KeyValueCache, past: Tensor | None) -> tuple[Tensor, Tensor]:
        """Update the next step [B, 1, d] as `forward` with `causal` would; also return what later steps see of all."""
        step = self.norm(x)
        own = self.attention.keys_and_values(step)
        past = own if past is None else torch.cat([past, own], 3)
        x = x + self.attention.mix(step, torch.cat([past, fixed.others], 3))
        if fixed.image is not None:
            seen = self.image_attention.mix(self.norm_image(x), fixed.image, fixed.image_valid)
            x = x + self.image_gate.tanh() * seen
        return x + self.ff(self.norm_ff(x)), past


def _cut(layer: Any, rows: slice = slice(None), columns: slice = slice(None)) -> nn.Linear:
    """Return some outputs of a linear layer, and what they make of some inputs alone."""
    weight, bias = layer.weight.detach()[rows, columns], layer.bias.detach()[rows]
    sizes, like = weight.shape[::-1], {"device": weight.device, "dtype": weight.dtype}
    own: Any = nn.utils.skip_init(nn.Linear, *sizes, **like)
    own.load_state_dict({"weight": weight, "bias": bias})
    return own.requires_grad_(layer.weight.requires_grad)


def acting(name: str) -> property:
    """Make a property of an option that may be changed once the head has learned, checked as in the configuration."""

    def change(head: "ActionHead", value: object) -> None:
        head.config = replace(head.config, head=replace(head.config.head, **{name: value}))

    return property(lambda head: getattr(head.config.head, name), change)


class ActionHead(nn.Module):
    """Hidden states of several layers, image tokens and proprio to a chunk of normalised actions [B, H, m]."""

    def __init__(self, hidden_size: int, layers: Sequence[int], config: VLAConfig):
        super().__init__()
        dim, proprio, images = config.head.dim, config.proprio_dim, bool(config.cameras)
        self.layers, self.gripper = tuple(layers), config.gripper
        self.queries = nn.Parameter(torch.randn(config.predicted, dim))  # steps differ from the start
        self.blocks = nn.ModuleList(HeadBlock(dim, config.head.heads, hidden_size, images) for _ in self.layers)
        self.proprio = nn.Sequential(nn.Linear(proprio, dim), nn.GELU(), nn.Linear(dim, dim)) if proprio else None
        self.norm, self.out = nn.LayerNorm(dim), nn.Linear(dim, config.outputs)
        self.config, self.kind, self.reduction = config, config.action_loss, config.loss_reduction

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuse options of another head, which would change nothing."""
        if name in OF_ONE_HEAD and not hasattr(type(self), name):
            checks.fail(f"head.{name}", f'to be set before training, with head="{OF_ONE_HEAD[name]}"', repr(value))
        super().__setattr__(name, value)

    def learn(
        self, states: States, proprio: Tensor | None, target: Tensor, valid: Tensor, batch: PolicyBatch | None = None
    ) -> tuple[LossTerms, list[Tensor]]:
        """Return the term "action" of normalised chunks [B, H, m] over what is valid, [B, H] or [B, H, m] (Eq. 4). A
        head that is given noised actions, by the draws of `batch` and in the dimensions that are known, also returns
        what each of its blocks makes of them, [B, H, d]."""
        return self.loss_of(self(states, proprio), target, valid), []

    def of_columns(self, config: VLAConfig, actions: slice, states: slice) -> "ActionHead":
        """Return the head of one of several datasets, of its own numbers alone; the blocks are shared."""
        own = copy.copy(self)
        own._modules = {**self._modules}
        own.config, own.gripper, own.kind = config, config.gripper, config.action_loss
        own.keep_actions(actions)
        if not config.proprio_dim:
            own.proprio = None
        elif self.proprio is not None:
            own.proprio = nn.Sequential(_cut(self.proprio[0], columns=states), *self.proprio[1:])
        return own

    def keep_actions(self, columns: slice) -> None:
        """Predict these numbers of an action alone."""
        self.out = _cut(self.out, rows=columns)

    def loss_of(self, predicted: Tensor, target: Tensor, valid: Tensor) -> LossTerms:
        if self.gripper:
            return {"action": gripper_action_loss(predicted.float(), target, valid, self.gripper, self.reduction)}
        return {"action": action_loss(predicted.float(), target, valid, self.kind, self.reduction)}

    def sample(self, states: States, proprio: Tensor | None, batch: PolicyBatch, seed: int) -> Tensor:
        """Return normalised actions float32 [B, H, m] to carry out, in what `batch` shows."""
        return self.decode_grippers(self(states, proprio).float())

    def decode_grippers(self, chunk: Tensor) -> Tensor:
        """Turn the logits of grippers in a chunk [B, H, m] into the mean of what is between -1 and 1, in place."""
        for dim in self.gripper:
            chunk[..., dim] = (chunk[..., dim] / 2).tanh()
        return chunk

    def forward(self, states: States, proprio: Tensor | None) -> Tensor:
        """Predict a chunk from states by layer and normalised proprio [B, s]."""
        batch = next(iter(states.values())).placeholders.shape[0]
        return self.predict(self.queries.expand(batch, -1, -1), states, proprio)

    def predict(self, x: Tensor, states: States, proprio: Tensor | None) -> Tensor:
        """Let steps [B, H, d] look at the states and at each other; return numbers [B, H, m]."""
        return self.out(self.norm(self.run_blocks(x, states, proprio)[-1]))

    def run_blocks(
        self, x: Tensor, states: States, proprio: Tensor | None, valid: Tensor | None = None, causal: bool = False
    ) -> list[Tensor]:
        """Return what each block in turn makes of steps [B, H, d]."""
        if self.proprio is not None and proprio is not None and 0 in self.config.proprio_widths:
            there, proprio = ~proprio.isnan().any(1, keepdim=True), proprio.nan_to_num(0.0)
            count = next(iter(states.values())).placeholders.shape[1]
            valid = there.new_ones(x.shape[:2]) if valid is None else valid
            valid = torch.cat([F.pad(valid, (0, count), value=True), there], 1)  # nobody looks at a state that is not
        token = None if self.proprio is None or proprio is None else self.proprio(proprio)[:, None]  # b 1 d
        after, gates = [], [None] * len(self.blocks)
        if self.config.cameras:
            gates = torch.cat([block.image_gate for block in self.blocks]).tanh().split(1)  # pyright: ignore
        for layer, block, gate in zip(self.layers, self.blocks, gates, strict=True):
            x = block(x, states[layer], token, gate, valid, causal)
            after.append(x)
        return after


class FlowActionHead(ActionHead):
    """Hidden states, image tokens and proprio to chunks of normalised actions [B, H, m], drawn out of noise."""

    def __init__(self, hidden_size: int, layers: Sequence[int], config: VLAConfig):
        super().__init__(hidden_size, layers, config)
        dim = config.head.dim
        self.noisy = nn.Linear(config.action_dim, dim)
        self.time = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim))

    flow_steps = acting("flow_steps")

    def keep_actions(self, columns: slice) -> None:
        super().keep_actions(columns)
        self.noisy = _cut(self.noisy, columns=columns)

    def learn(
        self, states: States, proprio: Tensor | None, target: Tensor, valid: Tensor, batch: PolicyBatch | None = None
    ) -> tuple[LossTerms, list[Tensor]]:
        """Return the term "action", and what each block makes of the noised actions at the drawn times, [B, H, d]. The
        term is the squared error of the velocity at the draws of `batch`, or at others from torch's generator. Steps
        that are not valid are neither judged nor seen by the others; nor are dimensions, where `valid` has them.
        Grippers with action_loss="l2_bce" are judged by the cross-entropy of their logits, and never seen. The noised
        actions of a sample without any valid step are noise alone, at time 0, where a rollout starts too: in all steps,
        and in the dimensions that are known."""
        draws, known = (None, None) if batch is None else (batch.draws, batch.known)
        noise, times = draws or draw_flow(target.shape, device=target.device)
        steps = valid if valid.dim() == 2 else valid.any(-1)
        blind = ~steps.any(1)
        target, times = target.masked_fill(~numbers(valid), 0.0), times.masked_fill(blind, 0.0)
        share = times[:, None, None]
        x = (1 - share) * noise + share * target
        if valid.dim() == 3:
            there = blind[:, None, None] if known is None else blind[:, None, None] & known[:, None]
            x = x.masked_fill(~(valid | there), 0.0)
        after = self.run_blocks(self.start(x, times), states, proprio, steps | blind[:, None])
        wanted = target - noise
        for dim in self.gripper:
            wanted[..., dim] = target[..., dim]
        return self.loss_of(self.out(self.norm(after[-1])), wanted, valid), after

    @torch.no_grad()
    def sample(self, states: States, proprio: Tensor | None, batch: PolicyBatch, seed: int) -> Tensor:
        """Return normalised actions float32 [B, H, m], by Euler's method from noise of `seed` and each sample."""
        noise = noise_of(batch, (len(self.queries), self.out.out_features), seed)
        return self.integrate(onto(noise, self.queries.device), states, proprio, batch.known)

    def integrate(self, noise: Tensor, states: States, proprio: Tensor | None, known: Tensor | None = None) -> Tensor:
        """Follow the velocity from noise [B, H, m] to actions; dimensions that are not `known` [B, m] stay 0."""
        there = torch.ones_like(noise[:, :1], dtype=torch.bool) if known is None else known[:, None]
        x = found = noise.masked_fill(~there, 0.0)
        for step in range(steps := self.flow_steps):
            times = torch.full_like(x[:, 0, 0], step / steps)
            found = self.velocity(x, times, states, proprio).float().masked_fill(~there, 0.0)
            x = x + found / steps
        for dim in self.gripper:
            x[..., dim] = found[..., dim]
        return self.decode_grippers(x)

    def velocity(self, x: Tensor, times: Tensor, states: States, proprio: Tensor | None) -> Tensor:
        """Predict where chunks [B, H, m] at times [B] go, [B, H, m]; in the place of grippers stand their logits."""
        return self.predict(self.start(x, times), states, proprio)

    def start(self, x: Tensor, times: Tensor) -> Tensor:
        """Return what the steps [B, H, d] start as: query, chunks [B, H, m] without grippers that have logits, time."""
        kind = self.queries.dtype
        if self.gripper:
            x = x.clone()
        for dim in self.gripper:
            x[..., dim] = 0.0  # the noised truth would say what the logits have to
        when = self.time(sinusoids(TICKS * times, self.queries.shape[1]).to(kind))[:, None]  # b 1 d
        return self.queries + self.noisy(x.to(kind)) + when


def noise_of(batch: PolicyBatch, chunk: tuple[int, int], seed: int) -> Tensor:
    """Draw noise [B, H, m] that follows from `seed` and what each sample shows: it is the same in any batch."""
    rows, proprio = [], batch.proprio
    seen = [batch.images.numpy(force=True), *([] if proprio is None else [(proprio + 0.0).numpy(force=True)])]  # no -0
    for i, text in enumerate(batch.texts):
        digest = hashlib.blake2b(text.encode(), digest_size=8)
        for part in seen:
            digest.update(part[i].tobytes())
        own = torch.Generator().manual_seed(derive_seed(seed, int.from_bytes(digest.digest(), "big")))
        rows.append(torch.randn(chunk, generator=own))
    return torch.stack(rows)


def pool_codes(states: Tensor, per_step: int, how: str = "mean") -> Tensor:
    """Average states of placeholders [..., S * P, D] to one per step [..., S, D] (LA-Direct); "none" leaves them."""
    if per_step == 1 or how == "none":
        return states
    return states.unflatten(-2, (-1, per_step)).mean(-2)


def layer_states(
    out: BackboneOut, layers: Sequence[int], segments: Mapping[str, Segment], pool: str, dtype: torch.dtype
) -> States:
    """Take what the head sees out of the hidden states of these layers, which are given up one by one."""
    positions = TokenPositions.of(out)
    taken = [positions.take(out.hidden.pop(layer), dtype) for layer in layers]
    images, placeholders = zip(*taken, strict=True)
    parts = torch.stack(placeholders).split([span.count for span in segments.values()], 2)  # layers b n d
    pooled = [pool_codes(part, span.per_step, pool) for part, span in zip(parts, segments.values(), strict=True)]
    own = zip(layers, torch.cat(pooled, 2), images, strict=True)
    return {layer: LayerStates(states, image, positions.valid) for layer, states, image in own}


class TokenPositions(NamedTuple):
    """Positions whose states the head sees, found once for all layers: image tokens, then queries."""

    index: Tensor  # [B * (i + T)] into the positions of the whole batch
    image_tokens: int  # i, the most of a sample; 0 for a backbone that reads only text
    valid: Tensor | None  # [B, i] bool: which of the i are image tokens, where samples have different numbers

    @classmethod
    def of(cls, out: BackboneOut) -> "TokenPositions":
        batch, length = out.valid.shape
        places = torch.arange(out.queries.start, out.queries.stop, device=out.valid.device).expand(batch, -1)
        rows = torch.arange(batch, device=places.device)[:, None] * length
        tokens, valid = 0, None
        if out.image is not None:
            counts = out.image.sum(1)
            fewest, tokens = out.image_counts or tuple(int(end) for end in torch.aminmax(counts))
            image = (~out.image).int().argsort(dim=1, stable=True)[:, :tokens]  # b i
            places = torch.cat([image, places], 1)
            valid = None if fewest == tokens else torch.arange(tokens, device=counts.device) < counts[:, None]
        return cls((places + rows).flatten(), tokens, valid)

    def take(self, hidden: Tensor, dtype: torch.dtype) -> tuple[Tensor | None, Tensor]:
        """Take from hidden states [B, L, D] those of image tokens [B, i, D] and of queries [B, T, D]."""
        states = hidden.flatten(0, 1).index_select(0, self.index).to(dtype).unflatten(0, (len(hidden), -1))
        image, queries = states.split((self.image_tokens, states.shape[1] - self.image_tokens), 1)  # one gradient
        return image if self.image_tokens else None, queries
