"""A small policy that sees no images: what is easy to predict of a chunk, from state and instruction.

It acts by an action tokenizer, with the head that policies have (`lattok.vla.tokens`, code by code), or regresses the
chunk: the same network, data and steps, so that tokenizers compare with one another and with having none.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from lattok.evaluation.evidence import Case, evenly
from lattok.evaluation.evidence.probes import one_hot
from lattok.nn.normalize import Normalizer
from lattok.samples import ActionWindows
from lattok.samples.policy import PolicyWindows
from lattok.types import ActionTokenizer
from lattok.vla.config import HeadConfig, TokenSpec, VLAConfig
from lattok.vla.head import LayerStates
from lattok.vla.model import HEADS

WIDTH, LAYERS, STEPS, BATCH, RATE = 128, (0, 1), 600, 64, 1e-3
MOST_CODES, MOST_TOKENS = 2**15, 256  # of a tokenizer: beyond, a minute is not enough
MOST_TRAINED, MOST_JUDGED = 20_000, 512  # windows


class Seen(NamedTuple):
    """What the policy sees, [n, k], the windows that start there, and their rows among these, [n]."""

    inputs: Tensor
    windows: ActionWindows
    rows: Tensor


def what_is_seen(case: Case, training: ActionWindows, held_out: ActionWindows) -> tuple[Seen, Seen] | None:
    """Return state and instruction of these windows.

    None where a dataset has neither, or a tokenizer too many codes.
    """
    tokenizer = case.model
    if tokenizer.vocab_size > MOST_CODES or tokenizer.tokens_per_chunk > MOST_TOKENS:
        return None
    key = case.options.state_key if case.options.state_key in case.dataset.features else None
    options: dict[str, Any] = {"cameras": (), "size": 1, "action_key": case.options.action_key, "state_key": key}
    parts = []
    for episodes, windows, most in (
        (case.split.train, training, MOST_TRAINED),
        (case.split.held_out, held_out, MOST_JUDGED),
    ):
        samples = PolicyWindows(case.dataset, tokenizer.horizon, episodes=episodes, **options)
        parts.append((samples, windows, evenly(len(windows), most)))
    tasks = {task: i for i, task in enumerate(dict.fromkeys(task for part in parts for task in part[0].tasks))}
    states = [part[0].states for part in parts]
    if states[0] is None and len(tasks) < 2:
        return None
    scale = None if states[0] is None else Normalizer(states[0].shape[1]).fit(states[0])
    found = []
    for (samples, windows, rows), state in zip(parts, states, strict=True):
        numbers = torch.tensor([tasks[each] for each in samples.tasks])[samples.task_of][rows]
        told = one_hot(numbers[:, None], len(tasks)).float()
        inputs = told if scale is None or state is None else torch.cat([scale(state[rows]).clamp(-10, 10), told], 1)
        found.append(Seen(inputs, windows, rows))
    return found[0], found[1]


class ReferencePolicy(nn.Module):
    """Inputs [B, k] to chunks, by the codes of a tokenizer, or without one."""

    def __init__(self, inputs: int, action_dim: int, horizon: int, tokenizer: ActionTokenizer | None):
        super().__init__()
        head = HeadConfig("regression" if tokenizer is None else "tokens", WIDTH, 4)
        spec = None
        if tokenizer is not None:  # which may be somebody's own, and no artefact
            kinds = tokenizer.fixed_length, tokenizer.shared_vocabulary
            spec = TokenSpec("", tokenizer.tokens_per_chunk, tokenizer.vocab_size, *kinds)
        sizes: dict[str, Any] = {"action_dim": action_dim, "horizon": horizon, "cameras": (), "camera_sizes": ()}
        config = VLAConfig(**sizes, head=head, tokens=spec, action_loss="l1")
        self.read = nn.Sequential(nn.Linear(inputs, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH))
        self.head = HEADS[head.name](WIDTH, LAYERS, config)
        self.tokenizer = (tokenizer,)  # no submodule: it learns nothing

    def states(self, inputs: Tensor) -> dict[int, LayerStates]:
        """Return what the head sees."""
        return dict.fromkeys(LAYERS, LayerStates(self.read(inputs)[:, None], None, None))

    def fit(self, seen: Seen, codes: Tensor, normalizer: Normalizer, seed: int) -> ReferencePolicy:
        """Learn the windows, or their `codes` [N, p] if it acts by a tokenizer, for STEPS batches."""
        tokenizer, (batch, valid) = self.tokenizer[0], seen.windows.batch(seen.rows)
        target = normalizer(batch) if tokenizer is None else codes[seen.rows]
        if tokenizer is not None:  # rows of families of varying length end with the longest
            target = nn.functional.pad(target, (0, tokenizer.tokens_per_chunk - target.shape[1]), value=-1)
        generator, count = torch.Generator().manual_seed(seed), len(seen.rows)
        optimizer = torch.optim.AdamW(self.parameters(), RATE, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS)
        for _ in range(STEPS):
            rows = torch.randint(count, (min(BATCH, count),), generator=generator)
            states = self.states(seen.inputs[rows])
            loss = self.head.learn(states, None, target[rows], valid[rows])[0]["action"]
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        return self.eval()

    @torch.no_grad()
    def act(self, seen: Seen, normalizer: Normalizer) -> tuple[Tensor, Tensor | None]:
        """Return chunks [n, H, m] in physical units, and the codes that it chose."""
        found = self.head.sample(self.states(seen.inputs), None, cast(Any, None), 0)
        tokenizer = self.tokenizer[0]
        if tokenizer is None:
            return normalizer.inverse(found), None
        return tokenizer.decode(found, repair=True).float().cpu(), found
