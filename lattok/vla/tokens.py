"""Policies that act by tokens: a head that predicts the codes of an action tokenizer, which makes actions of them.

    x_i  = query_i [+ embedding of c_{i-1}]        parallel, or autoregressive
    p(c_i | ...) = softmax(out(blocks(x)_i))
    L    = -log p(c_1 ... c_P | observation)       over the codes of the chunk, and its end where their number varies
    a    = decode(c)                               whatever was predicted
    a    = decode(c_1 ... c_Q)                     or of the first Q codes, with a tokenizer that decodes these
    a    = 1/K sum_k decode(c^k)                   or the mean of K chunks that are drawn, or their median

Any family of action tokenizers fits: positions with codebooks of their own have classifiers and embeddings of their
own. The tokenizer learns nothing here and lies in the artefact, in `parts/tokenizer`, as it was.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lattok.hub import PARTS, HubModel
from lattok.hub.model import Place, family_of
from lattok.nn.blocks import onto
from lattok.nn.losses import coded, reduce_valid
from lattok.nn.normalize import for_dataset
from lattok.types import ActionBatch, ActionTokenizer, LossTerms, PolicyBatch
from lattok.utils import checks
from lattok.utils.untrusted import safe_path
from lattok.vla.config import TokenSpec, VLAConfig
from lattok.vla.head import ActionHead, HeadBlock, States, acting, noise_of

TOKENIZER = f"{PARTS}/tokenizer"  # in an artefact
IGNORED = -100  # no target of cross_entropy


class Classifier(nn.Module):
    """Logits [B, P, K] of states [B, P, d], for each position by weights of its own."""

    def __init__(self, positions: int, dim: int, classes: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(positions, classes, dim) * dim**-0.5)
        self.bias = nn.Parameter(torch.zeros(positions, classes))

    def forward(self, states: Tensor, first: int = 0) -> Tensor:
        """Read the positions from `first` on."""
        here = slice(first, first + states.shape[1])
        return torch.einsum("bpd,pkd->bpk", states, self.weight[here]) + self.bias[here]


class TokenHead(ActionHead):
    """Hidden states, image tokens and proprio to codes [B, P]; where their number varies, an end and then -1."""

    def __init__(self, hidden_size: int, layers: Sequence[int], config: VLAConfig):
        super().__init__(hidden_size, layers, config)
        spec, dim = cast(TokenSpec, config.tokens), config.head.dim
        self.spec, self.classes = spec, spec.codes + (not spec.fixed)
        self.own = not spec.shared  # positions have codebooks of their own
        self.before: nn.Embedding | None = None
        if config.head.order == "autoregressive":
            self.before = nn.Embedding(self.classes * (spec.tokens if self.own else 1), dim)
        if self.own:
            self.out = cast(Any, Classifier(spec.tokens, dim, self.classes))

    temperature, draws, codes, average = (acting(name) for name in ("temperature", "draws", "codes", "average"))

    def keep_actions(self, columns: slice) -> None:
        """Change nothing: the codes are those of all datasets."""

    def learn(
        self, states: States, proprio: Tensor | None, target: Tensor, valid: Tensor, batch: PolicyBatch | None = None
    ) -> tuple[LossTerms, list[Tensor]]:
        """Return "action", the cross-entropy of codes [B, P] of samples that are `coded`, and the share of codes that
        are met, "action_accuracy". Codes that are predicted one after another may end with the longest row's end."""
        errors, met, there = self.judged(states, proprio, target, valid)
        share = (met & there).sum() / there.sum().clamp_min(1)
        return {"action": reduce_valid(errors, there, self.reduction, 1), "action_accuracy": share}, []

    def judged(self, states: States, proprio: Tensor | None, target: Tensor, valid: Tensor) -> tuple[Tensor, ...]:
        """Return the nats of each code [B, P] given those before it, whether it is met, and whether it counts."""
        wanted = self._with_end(target).masked_fill(~coded(valid)[:, None], IGNORED)
        logits = self.logits(wanted.clamp_min(0), states, proprio).float()
        errors = F.cross_entropy(logits.transpose(1, 2), wanted, ignore_index=IGNORED, reduction="none")
        return errors, logits.argmax(-1) == wanted, wanted != IGNORED

    def _with_end(self, codes: Tensor) -> Tensor:
        """Return what is to be predicted, for codes with -1 behind their end: the end, after which nothing counts; but
        positions that are predicted at once all have to say that the end was before them."""
        if self.spec.fixed:
            return codes
        gone = codes < 0
        after = gone & (gone.cumsum(1) > 1) if self.before is not None else torch.zeros_like(gone)
        return codes.masked_fill(gone, self.spec.codes).masked_fill(after, IGNORED)

    def logits(self, codes: Tensor, states: States, proprio: Tensor | None) -> Tensor:
        """Return logits [B, P, K] of codes [B, P], each from the ones before it where the head is autoregressive."""
        x = self.queries.expand(len(codes), -1, -1)
        if self.before is not None:
            x = x[:, : codes.shape[1]]  # as many as the longest row has
            x = torch.cat([x[:, :1], x[:, 1:] + self._embedded(codes[:, :-1])], 1)
        return self.out(self.norm(self.run_blocks(x, states, proprio, causal=self.before is not None)[-1]))

    def _embedded(self, codes: Tensor, first: int = 0) -> Tensor:
        places = torch.arange(first, first + codes.shape[1], device=codes.device) * self.classes * self.own
        return cast(nn.Embedding, self.before)(codes + places)

    @torch.no_grad()
    def sample(self, states: States, proprio: Tensor | None, batch: PolicyBatch, seed: int) -> Tensor:
        """Return codes int64 [B * K, P]: the likeliest, or K rows for each sample that are drawn at the head's
        temperature as `seed` and sample say; `average_of_draws` takes the mean or median of what they decode to."""
        chances, count = None, len(next(iter(states.values())).placeholders)
        if self.temperature:
            noise = onto(noise_of(batch, (self.draws, self.spec.tokens), seed), self.queries.device)
            chances = torch.special.ndtr(noise).flatten(0, 1)  # uniform
        if self.before is None:
            found = self.logits(self.queries.new_zeros(count, 1, dtype=torch.long), states, proprio)
            codes = self._chosen(found.repeat_interleave(self.draws, 0), chances)
        else:
            codes = self._one_by_one(count, states, proprio, chances)
        gone = (codes >= self.spec.codes).cumsum(1) > 0  # from the end on
        gone[:, self.codes or self.spec.tokens :] = True
        return codes.masked_fill(gone, -1)

    def average_of_draws(self, chunks: Tensor) -> Tensor:
        """Return the mean of the chunks [B * K, H, m] of each sample, or the median of each of their numbers: of an
        even K, the mean of the middle two. [B, H, m]."""
        chunks = chunks.unflatten(0, (-1, self.draws))
        if self.average == "median":
            chunks = chunks.sort(1).values[:, (self.draws - 1) // 2 : self.draws // 2 + 1]
        return chunks.mean(1)

    def _chosen(self, logits: Tensor, chances: Tensor | None) -> Tensor:
        """Choose codes by logits [B, p, K]: the likeliest, or those at `chances` [B, p] between 0 and 1."""
        if chances is None:
            return logits.argmax(-1)
        logits = logits.float() - logits.amax(-1, keepdim=True)  # which the smallest temperature leaves finite
        share = (logits / self.temperature).softmax(-1).cumsum(-1)  # whose last need not be 1 in float32
        return (share < chances[..., None] * share[..., -1:]).sum(-1)

    def _one_by_one(self, count: int, states: States, proprio: Tensor | None, chances: Tensor | None) -> Tensor:
        """Choose each code from those before it, until all rows ended; keys and values of what was seen are kept."""
        token = None if self.proprio is None or proprio is None else self.proprio(proprio)[:, None]
        blocks = [cast(HeadBlock, block) for block in self.blocks]
        fixed = [block.fixed(states[layer], token) for layer, block in zip(self.layers, blocks, strict=True)]
        fixed, count = [each.repeated(self.draws) for each in fixed], count * self.draws
        past: list[Any] = [None] * len(fixed)
        codes = torch.empty(count, 0, dtype=torch.long, device=self.queries.device)
        for i in range(self.codes or self.spec.tokens):
            x = self.queries[i].expand(count, 1, -1)
            if i:
                x = x + self._embedded(codes[:, -1:], i - 1)
            for k, block in enumerate(blocks):
                x, past[k] = block.advance(x, fixed[k], past[k])
            state = self.norm(x)
            logits = self.out(state, i) if self.own else self.out(state)
            codes = torch.cat([codes, self._chosen(logits, None if chances is None else chances[:, i : i + 1])], 1)
            if not self.spec.fixed and bool((codes >= self.spec.codes).any(1).all()):
                break
        return F.pad(codes, (0, self.spec.tokens - codes.shape[1]), value=self.spec.codes)  # more ends


class ActionCodec:
    """Actions of a policy's batches to the codes that its head learns, and back.

    Owns the tokenizer, which is no part of the policy for torch: it stays on its device and as it is.
    """

    def __init__(self, tokenizer: ActionTokenizer, config: VLAConfig):
        self.tokenizer, self.config = tokenizer, config
        self.check()

    def check(self) -> None:
        """Require the tokenizer that the policy's configuration names, with chunks of its shape."""
        tokenizer, config = self.tokenizer, self.config
        if config.tokens is None:
            return
        checks.size("tokenizer", "steps of a chunk (horizon)", tokenizer.horizon, config.horizon)
        for name in config.normalizers:
            self.for_dataset(name)  # which is checked
        if not config.normalizers:
            checks.size("tokenizer", "action dimensions", tokenizer.action_dim, config.action_dim)
        if TokenSpec.of(tokenizer) != config.tokens:
            checks.fail("tokenizer", "the one that the configuration names", "another one")

    def for_dataset(self, name: str) -> "ActionCodec":
        """Return the codec of one of several datasets, in its units."""
        tokenizer, several = for_dataset(self.tokenizer, name), self.config
        config, *_ = several.of_dataset(several.normalizers.index(name))
        return ActionCodec(tokenizer, replace(config, tokens=TokenSpec.of(tokenizer)))

    def encode(self, batch: PolicyBatch) -> Tensor:
        """Return codes int64 [B, P] of a batch's actions, computed on the CPU: zeros for samples that are not `coded`,
        and as many columns as the longest row and its end need where the head predicts one code after another."""
        actions, valid = batch.actions.cpu(), batch.valid.cpu()
        if not actions[valid].isfinite().all():
            checks.fail(self.config.action_key, "finite actions", "NaN or infinity")  # they would become codes
        rows, tokens = coded(valid), torch.zeros(len(valid), self.config.predicted, dtype=torch.long)
        if rows.any():
            tokens[rows] = self.tokenizer.encode_batch(ActionBatch(actions[rows], valid[rows])).cpu()
        if self.config.head.order == "parallel":
            return tokens
        return tokens[:, : int((tokens[rows] >= 0).sum(1).amax()) + 1 if rows.any() else 1]

    def decode(self, codes: Tensor) -> Tensor:
        """Return the chunks [B, H, m] of any codes [B, P], in the units of the dataset, on the device of the codes."""
        return self.tokenizer.decode(codes.cpu(), repair=True).to(codes.device)

    def save(self, folder: Path) -> None:
        """Save the tokenizer. Raises `LattokError` where it is not what the policy's head has learned any more."""
        self.check()
        cast(HubModel, self.tokenizer).save_pretrained(folder)


def open_tokenizer(folder: Path, spec: TokenSpec) -> ActionTokenizer:
    """Open the tokenizer that lies in a policy's artefact, which must be the one that the policy learned."""
    place = safe_path(folder, folder / TOKENIZER, "`model`")
    if not place.is_dir():
        checks.fail("model", f"a folder with {TOKENIZER}, as its head needs", f"{folder} without it")
    kind = family_of(place)
    if not issubclass(kind, ActionTokenizer):
        checks.fail("model", f"an action tokenizer in {TOKENIZER}", kind.type)
    found: Any = kind.from_place(Place(place))
    if TokenSpec.of(found) != spec:
        checks.fail("model", f"the tokenizer that its head was trained with in {TOKENIZER}", "another one")
    return found
