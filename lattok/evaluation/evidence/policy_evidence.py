"""Policies: how far the chunks that they choose are from held-out actions.

    error = mean over windows, valid steps h and dimensions d of ((â_hd - a_hd) / σ_d)²        σ_d: of training actions

The control always takes the mean action. A chunk is asked for at every frame.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lattok.data import Progress
from lattok.data.alike import check_actions, check_states
from lattok.evaluation.evidence import Case, Evidence, check_says, evenly, judged_episodes, register_evidence
from lattok.nn.normalize import Normalizer
from lattok.samples.policy import PolicyWindows, WindowOptions
from lattok.types import Acts, PolicyBatch
from lattok.utils import checks
from lattok.utils.arrays import as_tensor
from lattok.utils.commands import MODEL, Advice, advise, command
from lattok.utils.parallel import Prefetcher, Request
from lattok.vla import LatentVLA, VLAConfig

Predictor = Callable[[PolicyBatch], Tensor]  # of chunks [B, H, m] in physical units
BATCH, MAX_WINDOWS = 64, 5000
BATCHES_AHEAD = 8
ROUNDING = 1e-9  # an error below it is none
SEES = ("horizon", "cameras", "image_size", "interpolation", "action_key", "state_key")


@dataclass(frozen=True)
class PolicyErrors:
    """Mean squared errors in units of the variance of the training actions."""

    key: str  # column that the chunks are compared with
    error: float
    mean_action: float  # error of the mean training action
    by_dimension: dict[str, float | None]  # None: never moves in training, and does not count above
    mean_by_dimension: dict[str, float | None]  # the mean action's
    by_step: tuple[float, ...]  # of step 0 .. H-1
    windows: int

    @property
    def gain(self) -> float:
        """Share by which the error is lower than the mean action's: 0 is as bad, or nothing to gain; 1 is perfect."""
        return 1 - self.error / self.mean_action if self.mean_action > ROUNDING else 0.0

    @property
    def text(self) -> str:
        share = f"{abs(self.gain):.0%} {'lower' if self.gain >= 0 else 'higher'}"
        said = share if self.mean_action > ROUNDING else "nothing to gain, since held-out actions are the mean action"
        errors = f"error {self.error:.3f} of the variance of {self.key} (mean action {self.mean_action:.3f})"
        return f"Held-out episodes: {errors}: {said}"

    @property
    def verdict(self) -> dict[str, Any]:
        """Whether it is nearer than the mean action, for cards and for doctor."""
        numbers = f"({self.error:.3f} against {self.mean_action:.3f})"
        text = f"its held-out actions are {'' if self.gain > 0 else 'not '}nearer than the mean action {numbers}"
        return {"key": "action_error", "holds": self.gain > 0 if self.mean_action > ROUNDING else None, "text": text}

    def to_json(self) -> dict[str, Any]:
        return vars(self) | {"by_step": list(self.by_step), "gain": self.gain}


@register_evidence("policy", of=(Acts,), place=10)
@dataclass(frozen=True)
class PolicyEvidence(Evidence):
    """What a policy does on held-out episodes, and in simulation where it was rolled out."""

    case: Case
    errors: PolicyErrors
    held_out: PolicyWindows
    rows: Tensor  # [n] of its windows: those that were judged
    predicted: Tensor  # [n, m] first actions of the chunks, in physical units
    mean: Tensor  # [m] of the training actions

    kind = LatentVLA.type
    asks = "Does this policy do what it is told?"
    use = advise("Let it act", command("rollout", MODEL))
    alone = advise("Let it act on your robot: policy.select_action(observation).")
    by_column = False  # but by the actions that it learned

    @property
    def next(self) -> Advice:
        return super().next if self.case.tasks else self.alone

    @classmethod
    def gather(cls, case: Case) -> "PolicyEvidence":
        """Compare the policy's chunks with the actions of held-out episodes."""
        policy, dataset, action_key = case.model, case.dataset, case.options.action_key
        ours = isinstance(policy, LatentVLA)
        if ours:
            policy.check_acts()
        sees: Any = policy.config if ours else policy  # a `Policy` of another package
        check_says(sees, SEES)
        key = sees.action_key if action_key in (None, "action") else action_key
        options: dict[str, Any] = {"size": sees.image_size, "action_key": key}
        state, train = None if ours and not sees.proprio_dim else sees.state_key, case.split.train
        judged = [each.index for each in judged_episodes(dataset, key, case.split.held_out)]
        unseen = WindowOptions(sees.horizon, cameras=(), state_key=None, episodes=train, **options)
        trained = PolicyWindows(dataset, unseen)
        options |= {"cameras": sees.cameras, "interpolation": sees.interpolation}
        held_out = PolicyWindows(dataset, WindowOptions(sees.horizon, state_key=state, episodes=judged, **options))
        check_actions(policy, dataset, key)
        if ours:
            _check_like_training(sees, held_out, state)
        note = partial(case.options.note, "held-out windows")
        rows = evenly(len(held_out), MAX_WINDOWS)
        predicted, valid = predictions(policy.predict_chunk, held_out, rows, note)
        errors = _errors(predicted, valid, rows, trained, held_out, key)
        mean = trained.targets(key)[trained.acted, 0].mean(0)
        return cls(case, errors, held_out, rows, predicted[:, 0], mean)

    @property
    def provenance(self) -> dict[str, Any]:
        rollouts = self.case.rollouts
        return {"held_out_windows": self.errors.windows, "rollouts": None if rollouts is None else rollouts["options"]}


def _check_like_training(config: VLAConfig, held_out: PolicyWindows, state: str | None) -> None:
    """Refuse other numbers of actions, states and images of another size than those that a policy learned from."""
    checks.size(
        held_out.action_key, "numbers, as the policy's actions have", len(held_out.action_names), config.action_dim
    )
    if state is not None:
        check_states(config.proprio_names, config.proprio_dim, held_out.reader.dataset, state)
    if held_out.camera_sizes != config.camera_sizes:
        expected = f"images of {config.camera_sizes} (height, width), as in the policy's training"
        checks.fail("dataset", expected, str(held_out.camera_sizes))


def policy_errors(
    predict: Predictor, trained: PolicyWindows, held_out: PolicyWindows, key: str, progress: Progress | None = None
) -> PolicyErrors:
    """Compare what is predicted with the chunks of the column `key`, of at most `MAX_WINDOWS` evenly spaced windows."""
    rows = evenly(len(held_out), MAX_WINDOWS)
    return _errors(*predictions(predict, held_out, rows, progress), rows, trained, held_out, key)


def predictions(
    predict: Predictor, held_out: PolicyWindows, chosen: Tensor, progress: Progress | None = None
) -> tuple[Tensor, Tensor]:
    """Ask for the chunks of windows `chosen` [n]: [n, H, m] in physical units, and which steps are valid, [n, H]."""
    parts = []
    for batch in _batches(held_out, chosen.split(BATCH)):
        chunks = as_tensor("the policy's actions", predict(batch)).cpu()
        if chunks.shape != batch.actions.shape:
            checks.fail("the policy's actions", f"shape {[*batch.actions.shape]}", f"shape {[*chunks.shape]}")
        parts.append((chunks, batch.valid))
        if progress is not None:
            progress(min(len(chosen), BATCH * len(parts)), len(chosen))
    predicted, valid = (torch.cat(part) for part in zip(*parts, strict=True))
    checks.finite("the policy's actions", predicted[valid])
    return predicted, valid


def _errors(
    predicted: Tensor, valid: Tensor, rows: Tensor, trained: PolicyWindows, held_out: PolicyWindows, key: str
) -> PolicyErrors:
    there = held_out.known.nonzero().flatten()  # dimensions that the robot has
    values = trained.targets(key)[trained.acted, 0][:, there]  # every known action of the training episodes once
    units = Normalizer(len(there)).fit(values)
    assert units.still is not None
    counts = ~units.still | units.still.all()  # what never moves would water the mean down; all, if none moves
    names = [held_out.action_names[dim] for dim in there.tolist()]
    wanted, predicted = (units(part[..., there]) for part in (held_out.targets(key)[rows], predicted))
    gaps = predicted - wanted, wanted  # n h m; of the policy and of the mean action, which is 0
    errors, still = (gap.square().masked_fill(~(valid[..., None] & counts), torch.nan) for gap in gaps)

    def by_name(squares: Tensor) -> dict[str, float | None]:
        means = squares.nanmean((0, 1)).tolist()
        return {name: mean if moves else None for name, mean, moves in zip(names, means, counts.tolist(), strict=True)}

    return PolicyErrors(
        key=key,
        error=float(errors.nanmean()),
        mean_action=float(still.nanmean()),
        by_dimension=by_name(errors),
        mean_by_dimension=by_name(still),
        by_step=tuple(errors.nanmean((0, 2)).tolist()),
        windows=len(rows),
    )


def _batches(held_out: PolicyWindows, chosen: Sequence[Tensor]) -> Iterator[PolicyBatch]:
    """Yield the chosen samples; their images are decoded ahead, or at once where all are chosen."""
    if not held_out.cameras or sum(map(len, chosen)) == len(held_out):
        yield from map(held_out.batch, chosen)
        return
    requests = (Request((number,), 1) for number in range(len(chosen)))
    with Prefetcher(lambda number: held_out.decode(chosen[number]), requests, BATCHES_AHEAD) as ahead:
        for number, rows in enumerate(chosen):
            yield held_out.batch(rows, ahead(number))
