"""Invertible per-dimension maps between physical units and the range models like; saved with every model."""

import copy
import json
import os
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase as fnmatch
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import Self

from lattok.nn.blocks import same_precision
from lattok.utils import checks, files
from lattok.utils.options import SavedConfig

PAIRS = {"mean_std": ("mean", "std"), "quantile": ("q01", "q99"), "min_max": ("min", "max")}
Normalization = Literal["mean_std", "quantile", "min_max", "identity", "bounded"]
KINDS = get_args(Normalization)
CLIPPED = ("quantile", "min_max")  # kinds with a range, [-1, 1]
MOST_NAMED, MOST_SIZE = 100, 1e30  # of exceptions in a configuration; of a shift or scale, so that units stay finite
MOST_NUMBERS = 1 << 16  # of a chunk: a configuration with more is a mistake or an attack


class Normalizer(nn.Module):
    """normalised = (x - shift) / scale, per dimension. The buffers travel with the weights of the owner.

    `mean_std` gives zero mean and unit deviation; `quantile` maps the 1st and 99th percentile to -1 and 1, `min_max`
    the extremes; `bounded` leaves what stays within [-1, 1] as it is, and is `min_max` for the rest. A dimension that
    never moves keeps scale 1, so that noise is not blown up.
    Dimensions that are `clipped` end at -1 and 1: values beyond are replaced by the end of the range.
    """

    def __init__(self, dim: int, clipped: Sequence[bool] | None = None):
        super().__init__()
        checks.positive(dim=dim)
        self.shift: Tensor = nn.Buffer(torch.zeros(dim))
        self.scale: Tensor = nn.Buffer(torch.ones(dim))
        self.still: Tensor | None = None  # dimensions that never move, of statistics that were just set
        self.limit: Tensor | None  # the largest normalised value of each dimension, where some are clipped
        limit = None
        if clipped is not None and any(clipped):
            checks.size("clipped", "flags, one per dimension", len(clipped), dim)
            limit = torch.tensor([1.0 if clip else torch.inf for clip in clipped])
        self.register_buffer("limit", limit, persistent=False)  # the owner's configuration says it

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move between devices, never between precisions: actions are as exact as their statistics."""
        return super()._apply(same_precision(fn), recurse)

    @torch.no_grad()
    def fit(self, values: Tensor, kind: str | Sequence[str] = "mean_std", valid: Tensor | None = None) -> "Normalizer":
        """Set the map from values [N, m]; returns self. `kind` for all dimensions or one per dimension.

        Only values where `valid` [N, m] holds count; a dimension without any keeps the identity.
        """
        checks.rank("values", values, "N m")
        checks.size("values", "dimensions", values.shape[1], len(self.shift))
        kinds = [kind] * len(self.shift) if isinstance(kind, str) else list(kind)
        checks.size("kind", "kinds, one per dimension", len(kinds), len(self.shift))
        maps = []
        for dim, one in enumerate(kinds):
            checks.one_of("kind", one, KINDS)
            column = values[:, dim] if valid is None else values[valid[:, dim], dim]
            checks.finite("values", column)
            maps.append(_map(column.cpu().double().numpy(), one))
        return self._set(*np.array(maps).T)

    def unsound(self) -> list[str]:
        """Return what is wrong with a map read from a file."""
        problems = []
        if not bool((self.shift.abs() <= MOST_SIZE).all()):
            problems.append(f"shift has numbers that are not finite, or beyond +-{MOST_SIZE:g}")
        if not bool(((self.scale > 0) & (self.scale <= MOST_SIZE)).all()):
            got = f"{self.scale.min():g} to {self.scale.max():g}"
            problems.append(f"scale must be above 0 and at most {MOST_SIZE:g}, got {got}")
        return problems

    @torch.no_grad()
    def set(self, statistics: Mapping[str, Sequence[float]]) -> "Normalizer":
        """Set the map from known statistics, one number per dimension: mean and std, q01 and q99, or min and max.

        Of several pairs, as LeRobot's stats.json has them, the first counts; other entries are ignored.
        """
        kind = _kinds(statistics)[0]
        names = PAIRS[kind]
        first, second = (_numbers(name, statistics[name], len(self.shift)) for name in names)
        shift, scale = (first, second) if kind == "mean_std" else _centre_and_half(first, second)
        if (scale < 0).any():
            checks.fail(f"statistics[{names[1]!r}]", "a spread of at least 0 in every dimension", "a negative one")
        return self._set(shift, scale)

    def _set(self, shift: np.ndarray, scale: np.ndarray) -> "Normalizer":
        still = scale < 1e-6 * (1 + np.abs(shift))  # nothing moves beyond the rounding of the values
        both = torch.from_numpy(np.stack([shift, np.where(still, 1.0, scale)])).to(self.shift)
        if not (both.abs() <= MOST_SIZE).all():
            checks.fail("statistics", f"numbers within +-{MOST_SIZE:g}", "larger ones")
        self.shift.copy_(both[0])
        self.scale.copy_(both[1])
        self.still = torch.from_numpy(still)
        return self

    @torch.no_grad()
    def copy_columns(self, other: "Normalizer", columns: slice) -> None:
        """Take over the map of some of another one's dimensions."""
        self.shift.copy_(other.shift[columns])
        self.scale.copy_(other.scale[columns])

    def check_chosen(self) -> None:
        """Do nothing: only an `OpenChoice` has a choice to make."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise values [..., m] in physical units."""
        x = (x - self.shift) / self.scale
        return x if self.limit is None else torch.minimum(torch.maximum(x, -self.limit), self.limit)

    def clipped(self, x: Tensor, valid: Tensor) -> float:
        """Return which share of values [..., m] in physical units is clipped, of those that are `valid` [..., m]."""
        limit = torch.inf if self.limit is None else self.limit
        beyond = ((x - self.shift) / self.scale).abs() > limit + 1e-6
        return float((beyond & valid).sum() / valid.sum().clamp_min(1))

    def inverse(self, x: Tensor) -> Tensor:
        """Turn normalised values [..., m] back into physical units."""
        return x * self.scale + self.shift

    def of_host(self, x: np.ndarray) -> Tensor:
        """Normalise what is on the host: for one chunk numpy takes a fraction of torch's time."""
        tensors: Any = self._buffers  # as attributes of a module they take as long as the arithmetic
        x, limit = (x - tensors["shift"].numpy()) / tensors["scale"].numpy(), tensors["limit"]
        return torch.from_numpy(x if limit is None else x.clip(-limit.numpy(), limit.numpy()))

    def inverse_of_host(self, x: np.ndarray) -> Tensor:
        """Turn normalised values on the host back, onto this device."""
        tensors: Any = self._buffers
        if not tensors["shift"].is_cpu:
            return self.inverse(torch.from_numpy(x).to(tensors["shift"].device))
        return torch.from_numpy(x * tensors["scale"].numpy() + tensors["shift"].numpy())


def kinds_of(normalize: str, exceptions: Sequence[str], names: Sequence[str], dim: int) -> list[str]:
    """Return the kind of normalisation of each of `dim` dimensions: `normalize` but for exceptions, "gripper=identity".

    An exception names a dimension or its index; with `*` it is a pattern, "*gripper*=bounded", that may fit any names.
    """
    checks.one_of("normalize", normalize, KINDS)
    checks.counts(0, MOST_NAMED, **{"number of normalize_exceptions": len(exceptions)})
    kinds = [normalize] * dim
    for text in exceptions:
        name, _, kind = text.partition("=")
        checks.one_of(f"normalize_exceptions ({text})", kind, KINDS)
        for place in named_dims("normalize_exceptions", name, names, dim, text):
            kinds[place] = kind
    return kinds


def clipped_kinds(kinds: Sequence[str], clip: bool) -> list[bool]:
    """Return which dimensions end at -1 and 1. Raises `LattokError` where clipping is asked for and no dimension has a
    range."""
    if clip and not set(kinds) & set(CLIPPED):
        checks.fail("normalize_clip", f"False unless normalize is {' or '.join(CLIPPED)}", clip)
    return [clip and kind in CLIPPED for kind in kinds]


class NormalizedActions(SavedConfig):
    """Properties of configs that say how actions are normalised."""

    action_dim: int
    action_names: tuple[str, ...]
    normalize: Normalization
    normalize_exceptions: tuple[str, ...]
    normalize_clip: bool
    normalizers: tuple[str, ...]  # datasets with one of their own, in configurations that know several

    def check_mixture(self) -> None:
        """Require that several datasets have normalisers of their own, or none has."""
        names = self.normalizers
        if names and (len(names) == 1 or len(set(names)) < len(names)):
            checks.fail("normalizers", "none, or different names of datasets", ", ".join(names))

    def check_normalization(self) -> None:
        """Require kinds of normalisation that exist, exceptions that name a dimension, and clips of a range."""
        clipped_kinds(self.action_kinds, self.normalize_clip)

    @property
    def action_kinds(self) -> list[str]:
        """The kind of normalisation of each action dimension."""
        return kinds_of(self.normalize, self.normalize_exceptions, self.action_names, self.action_dim)

    @property
    def action_clipped(self) -> list[bool]:
        """Which normalised action dimensions end at -1 and 1."""
        return clipped_kinds(self.action_kinds, self.normalize_clip)


def gripper_dims(names: Sequence[str]) -> list[int]:
    """Find dimensions that open and close something, by name: positions, also in relative actions."""
    return [i for i, name in enumerate(names) if "gripper" in name.lower()]


def space_dims(names: Sequence[str]) -> list[int]:
    """Find the dimensions called x, y, z; none unless all three are there."""
    lower = [name.lower() for name in names]
    return [lower.index(axis) for axis in "xyz"] if {"x", "y", "z"} <= set(lower) else []


def named_dims(argument: str, name: str, names: Sequence[str], dim: int, text: str = "") -> list[int]:
    """Find dimensions by a name, an index, or a pattern with `*`, which may fit none.

    Errors name `argument`, and quote the whole `text` where a name is part of NAME=KIND.
    """
    if name in names:
        return [list(names).index(name)]
    if "*" in name:
        return [i for i, known in enumerate(names) if fnmatch(known.lower(), name.lower())]
    if not name.isdecimal() or int(name) >= dim:
        known = ", ".join(names) or f"0..{dim - 1}"
        checks.fail(argument, f"{'NAME=KIND with ' if text else ''}a dimension among {known}", repr(text or name))
    return [int(name)]


class OpenChoice(nn.Module):
    """Placeholder until one of several normalisers is chosen: every use is an error that lists them."""

    def __init__(self, names: Sequence[str], owner: str = "tokenizer"):
        super().__init__()
        self.names, self.owner = tuple(names), owner

    def check_chosen(self) -> NoReturn:
        """Refuse: no statistics are known."""
        hint = f"{self.owner}.for_dataset({self.names[0]!r}) has the normaliser of that one, and can be saved."
        checks.fail(self.owner, f"one of its datasets to be chosen ({', '.join(self.names)})", "none", hint)

    @property
    def shift(self) -> NoReturn:
        self.check_chosen()

    scale = shift

    def forward(self, x: Tensor) -> Tensor:
        self.check_chosen()

    inverse = forward

    def __getitem__(self, part: str) -> "OpenChoice":
        """Stand for every part of a dataset's normalisers."""
        return self


class DatasetNormalizers(nn.ModuleList):
    """Normalisers of a model of several datasets: for each a `Normalizer`, or a dictionary of them.

    A model of one dataset has none here, but its own. While a model of several learns, batches come normalised, each by
    the normaliser of its dataset, and the model's own is a fresh one, which changes nothing.
    """

    def __init__(self, names: Sequence[str], fresh: Callable[[], Any], owner: str, hint: str = ""):
        """`fresh` makes a normaliser that is not fitted; `owner` is what errors call the model, and `hint` what helps
        if it does not know a dataset."""
        super().__init__(fresh() for _ in names)
        self.names, self.fresh, self.owner, self.hint = tuple(names), fresh, owner, hint

    def in_use(self) -> Any:
        """Return what the model normalises by: its own, that of the only dataset, or an `OpenChoice`."""
        if not self.names:
            return self.fresh()
        return self[0] if len(self) == 1 else OpenChoice(self.names, self.owner)

    def check_chosen(self) -> None:
        """Raise `LattokError` where one of several datasets has to be chosen first."""
        if self.names:
            OpenChoice(self.names, self.owner).check_chosen()

    def of(self, name: str) -> Any:
        """Return the normaliser of one of the datasets. Raises `LattokError` for others."""
        if name not in self.names:
            known = ", ".join(self.names) or "it has one normaliser for all, and needs no choice"
            checks.fail("dataset", f"one that this {self.owner} knows ({known})", repr(name), self._way_out())
        return self[self.names.index(name)]

    def _way_out(self) -> str:
        if not self.names:
            return ""
        description = json.dumps({"dataset": "PATH", "name": self.names[0]})
        return f"{self.hint} If it is one of them, say so in a description file: {description}.".strip()

    def only(self, *names: str) -> "DatasetNormalizers":
        """Return those of these datasets alone; the normalisers are shared."""
        found = DatasetNormalizers((), self.fresh, self.owner, self.hint)
        for name in names:
            found.add(name, self.of(name))
        return found

    def add(self, name: str, normalizer: nn.Module) -> None:
        """Add a dataset."""
        self.names = (*self.names, name)
        self.append(normalizer)


class OfDatasets:
    """A model with `normalizers` of its `datasets`, of which `for_dataset` chooses one."""

    normalizers: DatasetNormalizers

    @property
    def datasets(self) -> tuple[str, ...]:
        return self.normalizers.names

    def for_dataset(self, name: str) -> Self:
        """Return the model of one of its `datasets`, as if there were no others: it can be saved, and is then loaded
        without a choice. Everything but the normaliser is shared. Raises `LattokError` for a dataset that it does not
        know."""
        self.normalizers.of(name)
        model: Any = self
        shared = (*model.children(), *model.parameters(), *model.buffers())
        chosen = copy.deepcopy(self, {id(part): part for part in shared})
        chosen.choose(name)
        return chosen

    def use_normalizers(self, maps: Any) -> None:
        """Normalise by these from now on: what `normalizers` has for a dataset, `in_use`, or a fresh one."""
        raise NotImplementedError

    def choose(self, name: str) -> None:
        """Become the model of one dataset; `for_dataset` calls this on a copy."""
        raise NotImplementedError


def for_dataset(model: Any, name: str) -> Any:
    """Return the model as it is used on the dataset `name`: with its normaliser, where it has one for each of several.

    A dataset that it does not know is an error. A model with one normaliser is returned as it is, and so is one of
    video, whose labels are the same for all datasets.
    """
    return model.for_dataset(name) if model.datasets else model


def read_statistics(
    source: Mapping[str, Any] | str | os.PathLike[str] | None, normalize: str | None = None, prefer: str = "mean_std"
) -> tuple[dict[str, Any] | None, Normalization]:
    """Read one pair of statistics, and the kind of normalisation it makes, from a mapping or a JSON file.

    `normalize` chooses the pair; without it `prefer` counts, then the first existing one.
    """
    if source is None:
        if normalize not in (None, "identity"):
            checks.fail("normalize", "identity without statistics", repr(normalize), "Give statistics too.")
        return None, "identity"
    if not isinstance(source, Mapping | str | os.PathLike):
        checks.fail("statistics", "a mapping or a JSON file", type(source).__name__)
    statistics = source if isinstance(source, Mapping) else files.read_json(Path(source).expanduser(), nan=True)
    if isinstance(statistics.get("action"), Mapping):
        statistics = statistics["action"]  # LeRobot's stats.json has one entry per column
    kinds = _kinds(statistics)
    kind: Any = normalize or (prefer if prefer in kinds else kinds[0])
    checks.one_of("normalize", kind, kinds)
    return {name: statistics[name] for name in PAIRS[kind]}, kind


def _kinds(statistics: Mapping[str, Any]) -> list[str]:
    """Find the kinds of normalisation whose statistics are there, at least one."""
    kinds = [kind for kind, pair in PAIRS.items() if all(name in statistics for name in pair)]
    if not kinds:
        expected = ", or ".join(f"{first} and {second}" for first, second in PAIRS.values())
        checks.fail("statistics", expected, ", ".join(map(str, statistics)) or "nothing")
    return kinds


def _numbers(name: str, values: Sequence[float], dim: int) -> np.ndarray:
    try:
        numbers = np.array(values, dtype=np.float64).ravel()
    except (TypeError, ValueError):
        checks.fail(f"statistics[{name!r}]", "numbers", f"{values!r:.60}")
    checks.size(f"statistics[{name!r}]", "numbers", len(numbers), dim)
    checks.finite(f"statistics[{name!r}]", torch.from_numpy(numbers))
    return numbers


def _map(column: np.ndarray, kind: str) -> tuple[float, float]:
    """Return shift and scale for values [N]; outliers beyond the quantiles do not count."""
    if kind == "identity" or not len(column) or (kind == "bounded" and np.abs(column).max() <= 1):
        return 0.0, 1.0
    if kind == "mean_std":
        return column.mean(), column.std()
    edges = {"quantile": (0.01, 0.99), "min_max": (0.0, 1.0), "bounded": (0.0, 1.0)}[kind]
    return _centre_and_half(*np.quantile(column, edges))


def _centre_and_half(low: Any, high: Any) -> tuple[Any, Any]:
    """Return shift and scale that take `low` to -1 and `high` to 1."""
    return high / 2 + low / 2, high / 2 - low / 2  # halves first: a sum may overflow
