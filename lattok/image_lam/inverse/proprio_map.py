"""What the robot did at a moment, read from how its state changes around it by a linear map that is fitted at once.

    x = s_{t+k} - s_t, k of `offsets`
    a = W x + b              where actions are changes
    a = s_t + W x + b        where they are absolute commands: the state follows them, and nothing else says where it is

W is a ridge regression. Of each number of the action, known episodes that are left out choose its strength, how many of
the offsets it reads, and whether it is added to a number of the state (`anchors`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import Self

from lattok.data.lags import estimate_lag
from lattok.hub import HubModel
from lattok.image_lam.base.labelling import Video
from lattok.image_lam.inverse.inferred_actions import InferredActions
from lattok.image_lam.inverse.states import around_each, state_changes, values_at
from lattok.nn.normalize import MOST_NUMBERS
from lattok.nn.ridge import RIDGES, ridge_map, ridge_predictions
from lattok.types import Gap, VideoLabeller
from lattok.utils import checks
from lattok.utils.arrays import Values, as_tensor, like
from lattok.utils.options import FROM_DATA, REQUIRED, SavedConfig, check_choices, check_knows_data, knows_data

MOST_OFFSETS = 64
MOST_FOLDS = 5
LATER, EARLIER = 6, 2  # offsets that are proposed
LEAST_REACH = 4  # frames, where no lag is found
FARTHER = 1.5  # times the longest lag: motion goes on after it began
MOST_RIGHT = 0.999  # R²
RIGHT_OF_ONE = 0.9  # R² of the thirds of a single episode, below which its map stays in the known range
CLOSER = 0.5  # of the squared error, for a command to be taken as absolute


@dataclass(frozen=True)
class ProprioMapConfig(SavedConfig):
    """Columns and moments of a map from changes of the robot's state to its actions.

    Attributes:
        action_dim: dimensions of an action
        action_names: what they are called
        state_dim: dimensions of the state
        state_names: what they are called
        anchors: for each dimension of the action, the dimension of the state to which it is added; -1: none
        offsets: frames whose state is read, relative to the frame of the action: 0 and others, in order
        stride: unit of `offsets`, in frames ("1") or seconds ("0.05s")
        action_key: column with the actions
        state_key: column with the robot's state
    """

    action_dim: int = field(default=0, metadata=REQUIRED)
    action_names: tuple[str, ...] = field(default=(), metadata=FROM_DATA)
    state_dim: int = field(default=0, metadata=REQUIRED)
    state_names: tuple[str, ...] = field(default=(), metadata=FROM_DATA)
    anchors: tuple[int, ...] = field(default=(), metadata=FROM_DATA)
    offsets: tuple[int, ...] = (-2, -1, 0, 1, 2, 3, 4)
    stride: str = "1"
    action_key: str = "action"
    state_key: str = "observation.state"

    def __post_init__(self) -> None:
        check_choices(self)
        if not knows_data(self):
            return
        checks.counts(1, MOST_NUMBERS, action_dim=self.action_dim, state_dim=self.state_dim)
        checks.named(self.action_dim, action_names=self.action_names)
        checks.named(self.state_dim, state_names=self.state_names)
        checks.strides(stride=self.stride)
        check_offsets(self.offsets)
        check_anchors(self.anchors, self.action_dim, self.state_dim)


def check_offsets(given: Sequence[int]) -> None:
    """Require 0 and other offsets in order."""
    ordered = all(checks.is_int(each) and abs(each) <= checks.MOST_STRIDE for each in given)
    if not ordered or sorted({*given}) != [*given] or 0 not in given or not 2 <= len(given) <= MOST_OFFSETS:
        checks.fail("offsets", f"0 and others in order, 2 to {MOST_OFFSETS} of them", repr(given))


def check_anchors(given: Sequence[int], actions: int, states: int) -> None:
    """Require a number of the state, or -1, for each number of the action; or nothing at all."""
    if given and not (len(given) == actions and all(checks.is_int(each) and -1 <= each < states for each in given)):
        checks.fail("anchors", f"{actions} numbers from -1 to {states - 1}, or none", f"{given!r:.60}")


class MapFit(NamedTuple):
    """A fitted map, and what it says of known episodes that were left out while the rest of it was fitted."""

    model: "ProprioMap"
    left_out: Tensor  # [N, m] actions of all rows of the known episodes, one episode after the other
    r2: Tensor  # [m] of those, of what is added to the state where there are anchors; NaN where nothing varies


class ProprioMap(HubModel, VideoLabeller):
    """Infers actions from changes of the robot's state, without any camera.

    >>> model = ProprioMap.from_pretrained("org/name")          # or a folder
    >>> model.infer_actions(None, states=states, fps=20).actions     # [T, s] -> float32 [T, m]
    """

    type = "proprio-map"
    label_source = "video"
    config_class = ProprioMapConfig
    config: ProprioMapConfig
    cameras = ()

    def __init__(self, config: ProprioMapConfig):
        super().__init__()
        check_knows_data(config)
        self.config, self.state_key = config, config.state_key
        self.weight = nn.Buffer(torch.zeros(config.action_dim, (len(config.offsets) - 1) * config.state_dim))
        self.bias = nn.Buffer(torch.zeros(config.action_dim))
        self.low = nn.Buffer(torch.full((config.action_dim,), -1.0))  # of what is added to the state
        self.high = nn.Buffer(torch.ones(config.action_dim))

    @classmethod
    def fit(
        cls, config: ProprioMapConfig, actions: Sequence[Values], states: Sequence[Values], unit: int = 1
    ) -> MapFit:
        """Fit the map to known episodes, actions [T, m] and states [T, s], with `unit` frames to an offset; arrays too.

        `config.anchors` names candidates, which are kept where they reduce the error in left-out episodes.
        """
        checks.size("states", "episodes, as many as actions has", len(states), len(actions))
        known = [as_tensor("actions", each).double() for each in actions]
        series = [as_tensor("states", each).double() for each in states]
        gaps = [offset * unit for offset in config.offsets]
        x = torch.cat([state_changes(around_each(each, gaps), config.offsets).flatten(1) for each in series])
        y, now = torch.cat(known), torch.cat(series)
        folds, sets = folds_of([len(each) for each in series]), _input_sets(config)
        anchored = values_at(now, config.anchors) if config.anchors else torch.zeros_like(y)
        free, added = (_Choice.of(x, target, folds, sets) for target in (y, y - anchored))
        may = torch.tensor(config.anchors or [-1] * y.shape[1]) >= 0
        # of a command that held still known episodes say nothing, however near its mean is
        kept, moved = may & (added.errors < CLOSER * free.errors), (y - y.mean(0)).square().sum(0)
        against = may & (free.errors < CLOSER * torch.minimum(added.errors, moved))
        if kept.sum() > against.sum():  # then also those of which known episodes say neither
            kept = may & ~against
        anchors = [place if keep else -1 for place, keep in zip(config.anchors or (), kept.tolist(), strict=False)]
        offset = torch.where(kept, anchored, 0.0)
        target = y - offset
        model = cls(replace(config, anchors=tuple(anchors) if kept.any() else ()))
        for dim in range(y.shape[1]):
            choice = added if kept[dim] else free
            weight, bias = ridge_map(x[:, choice.columns[dim]], target[:, [dim]], choice.ridges[dim])
            model.weight[dim, choice.columns[dim]] = weight.float()
            model.bias[dim] = bias.float()
        read = torch.where(kept, added.predicted, free.predicted)
        squares = (target - target.mean(0)).square().sum(0)
        flat = squares <= 1e-12 * len(y) * (1 + target.mean(0).square())
        low, high = target.min(0).values, target.max(0).values
        # the better it reads what was left out, the farther it may go: R² .5 once its known range, .9 nine times
        right = (1 - (read - target).square().sum(0) / squares.where(~flat, 1)).clamp(0, MOST_RIGHT)
        if len(states) == 1:  # thirds of one episode say less
            right = right.where(right >= RIGHT_OF_ONE, 0)
        beyond = (right / (1 - right)).where(~flat, 0) * (high - low)
        low, high = low - beyond, high + beyond
        model.low.copy_(low)
        model.high.copy_(high)
        read = torch.minimum(torch.maximum(read, model.low.double()), model.high.double())
        r2 = torch.where(flat, torch.nan, 1 - (read - target).square().sum(0) / squares)
        return MapFit(model.eval(), (read + offset).float(), r2)

    @classmethod
    def how_made(cls) -> str:
        return f'Train one: lattok.train("idm", DATASET, out=FOLDER, from_="proprio"). {super().how_made()}'

    def summary(self) -> str:
        c = self.config
        frames = ", ".join(f"{offset:+d}" if offset else "0" for offset in c.offsets)
        names = ", ".join(c.action_names) or checks.counted(c.action_dim, "number")
        added = sum(place >= 0 for place in c.anchors)
        more = f"; {added} of {c.action_dim} are added to the state" if added else ""
        return f"reads {names} from changes of {c.state_key} at frames {frames} (x {c.stride}){more}"

    def usage(self) -> list[str]:
        return [
            "import numpy as np",
            f"states = np.zeros((20, {self.config.state_dim}), np.float32)  # of every frame",
            "read = model.infer_actions(None, 1, states=states)  # .actions [T, m]",
        ]

    def resize(self, frames: np.ndarray) -> np.ndarray:
        return frames

    def unit_frames(self, fps: float) -> int:
        """Return the unit of the offsets in frames of a dataset."""
        return checks.stride_in_frames(self.config.stride, fps)

    def stride_frames(self, fps: float) -> int:
        """Return how far the farthest state that is read is from the moment of the action."""
        return max(-self.config.offsets[0], self.config.offsets[-1]) * self.unit_frames(fps)

    def later_frames(self, fps: float) -> int:
        return self.config.offsets[-1] * self.unit_frames(fps)

    def label_video(self, frames: Any, stride: Gap = None, *, fps: float | None = None) -> Any:
        checks.fail("model", "one that labels video alone", "a map from states", "Ask it for infer_actions.")

    @torch.no_grad()
    def added(self, around: Tensor) -> Tensor:
        """Return what is added to the state, [B, m], from states [B, offsets, s]."""
        changes = state_changes(around.to(self.weight), self.config.offsets).flatten(1)
        return torch.minimum(torch.maximum(changes @ self.weight.T + self.bias, self.low), self.high)

    @torch.no_grad()
    def infer_actions(
        self,
        frames: Video | None = None,
        unit: Gap = None,
        task: str | Sequence[str] = "",
        states: Values | None = None,
        *,
        fps: float | None = None,
    ) -> InferredActions:
        """Turn states [T, s] into actions [T, m]; `unit` is that of `unit_frames`. Frames and task are not looked at.

        Latents are the changes that were read, [T, 1, offsets but 0 * s]. Arrays in, arrays out.
        """
        unit = checks.gap(unit, fps, self.config.stride)
        series = checked_states(states, self.config.state_dim).to(self.weight)
        around = around_each(series, [offset * unit for offset in self.config.offsets])
        actions = self.added(around)
        if self.config.anchors:
            actions = actions + values_at(series, self.config.anchors)
        changes = state_changes(around, self.config.offsets).flatten(1)[:, None]
        codes = torch.zeros(len(series), 0, dtype=torch.long, device=series.device)
        return like(states, InferredActions(actions, series.new_zeros(len(series)), changes, codes))


def checked_states(states: Values | None, dim: int | None, rows: int | None = None) -> Tensor:
    """Return the proprio of every frame of a video, [T, s]; refuse none, and others."""
    if states is None:
        checks.fail("states", "the robot's state at every frame, since the model reads it", "none")
    series = as_tensor("states", states)
    checks.rank("states", series, "T s")
    if dim is not None:
        checks.size("states", "numbers", series.shape[1], dim)
    if rows is not None:
        checks.size("states", "rows, as there are frames", len(series), rows)
    return series


def proposed_offsets(actions: Sequence[np.ndarray], states: Sequence[np.ndarray], fps: float) -> tuple[int, ...]:
    """Propose frames at which states show known actions: up to half as far again as the longest lag of any number."""
    lag = estimate_lag(actions, [np.diff(each, axis=0) for each in states], fps)
    lags = [] if lag is None else [each for each in (lag.steps, *lag.by_dimension) if each is not None]
    reach = max(LEAST_REACH, round(FARTHER * max(lags, default=0)))
    reach = max(1, min(reach, min(map(len, states)) // 2))
    later = sorted({*np.linspace(reach / LATER, reach, LATER).round().clip(1).astype(int).tolist()})
    return (*(-later[0] * step for step in range(EARLIER, 0, -1)), 0, *later)


def proposed_anchors(
    action_names: Sequence[str], state_names: Sequence[str], actions: Sequence[Tensor], states: Sequence[Tensor]
) -> tuple[int, ...]:
    """Propose the number of the state that each number of an action may be a command for, from names and known episodes
    of actions [T, m] and states [T, s]: that of the same name; without one, that to which it is nearest; where there
    are neither, that at the same place of as many."""
    named = {name: place for place, name in enumerate(state_names)}
    found = [named.get(name, -1) for name in action_names]
    acts, moves = (torch.cat([*each]).double() for each in (actions, states))
    spread = acts.var(0, correction=0)
    left = torch.stack([(acts - move).var(0, correction=0) for move in moves.T[..., None]], 1)  # m s
    near = (left < CLOSER * spread[:, None]).any(1)
    for place in near.nonzero().flatten().tolist():
        if found[place] < 0:
            found[place] = int(left[place].argmin())
    if max(found) >= 0:
        return tuple(found)
    return tuple(range(len(found))) if len(found) == moves.shape[1] else ()


def folds_of(lengths: Sequence[int]) -> list[Tensor]:
    """Return which rows each fold leaves out, bool [N]: whole episodes, or thirds of a single one."""
    if len(lengths) == 1:
        third = torch.arange(lengths[0]) * 3 // lengths[0]
        return [third == number for number in range(3)]
    fold = np.repeat(np.arange(len(lengths)) % min(len(lengths), MOST_FOLDS), lengths)
    return [torch.from_numpy(fold == number) for number in range(int(fold.max()) + 1)]


def _input_sets(config: ProprioMapConfig) -> list[Tensor]:
    """Return columns of the changes that a number may be read from: the nearest later ones, all later ones, all."""
    others = [offset for offset in config.offsets if offset]
    later = [offset for offset in others if offset > 0]
    wanted = {tuple(later[:2]): None, tuple(later): None, tuple(others): None}
    columns = torch.arange(len(others) * config.state_dim).unflatten(0, (len(others), -1))
    return [columns[[others.index(each) for each in chosen]].flatten() for chosen in wanted if chosen]


class _Choice(NamedTuple):
    """Of each number of a target, the inputs and the strength with the least error on rows that were left out."""

    columns: list[Tensor]  # m times the columns that it is read from
    ridges: list[float]  # [m]
    errors: Tensor  # [m] sums of squares
    predicted: Tensor  # [N, m] of rows that were left out

    @classmethod
    def of(cls, x: Tensor, y: Tensor, folds: Sequence[Tensor], sets: Sequence[Tensor]) -> Self:
        dims = range(y.shape[1])
        found = cls([sets[0] for _ in dims], [0.0 for _ in dims], y.new_full(y.shape[1:], torch.inf), y.clone())
        for columns in sets:
            predicted = y.new_zeros(len(RIDGES), *y.shape)
            for out in folds:
                parts = ridge_predictions(x[~out][:, columns], y[~out], x[out][:, columns], RIDGES)
                predicted[:, out] = torch.stack(parts)
            errors = (predicted - y).square().sum(1)  # ridges m
            for dim in (errors.min(0).values < found.errors).nonzero().flatten().tolist():
                best = int(errors[:, dim].argmin())
                found.columns[dim], found.ridges[dim] = columns, RIDGES[best]
                found.errors[dim] = errors[best, dim]
                found.predicted[:, dim] = predicted[best, :, dim]
        return found
