"""Recipes of the action tokenizers that are fitted to all windows at once: one for each family."""

import inspect
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any, ClassVar, TypeVar, cast

import torch

from lattok.action_vq.base import ChunkConfig, ChunkTokenizer
from lattok.action_vq.chunks import FitOptions
from lattok.action_vq.learned import FitRun, TrainedTokenizer
from lattok.data import RobotDataset, select_episodes
from lattok.data.alike import note_rates, spaces_of
from lattok.data.episodes import EpisodeSpec, check_horizon
from lattok.data.opening import Source
from lattok.loading import load
from lattok.nn.normalize import for_dataset
from lattok.recipes.common import MixOptions, Recipe
from lattok.recipes.run_folder import finish, first_process, wait_for_all
from lattok.samples import ActionWindows
from lattok.utils import checks
from lattok.utils.log import say

Tokenizer = TypeVar("Tokenizer", bound=ChunkTokenizer)
MANY_TIMES = 10  # that a chunk of one dataset is seen where one of all counts once
SUMMARY_CHUNKS = 2048  # chunks that the summary after fitting looks at
SUMMARY_DIMS = 8  # dimensions in it


@dataclass(frozen=True)
class FitRecipe(Recipe[Tokenizer]):
    """A tokenizer that is fitted with `family.fit` to the windows of a dataset; `loop` are the options of `fit`.

    A family has the one that `recipe_for` makes, unless it brings its own.
    """

    family: ClassVar[type[ChunkTokenizer]]
    reads_all = in_any_order = True
    presets: ClassVar[Mapping[str, Any]] = {"default": {}}
    default_preset = "default"
    data: MixOptions = field(default_factory=MixOptions)
    loop: Any = field(default_factory=FitOptions)

    def train(self, resume: bool = False, resume_command: str = "") -> Tokenizer:
        """Fit the tokenizer and save it into `out`. With `resume` a family that is trained continues from its
        checkpoint, and one that is fitted at once begins again. Of several processes the first one checks, fits and
        saves, and the others load; all take part in training."""
        out, shared = self.folder(resume), hasattr(self.loop, "batch_size")
        if not (shared or first_process()):
            wait_for_all()
            return cast(Tokenizer, load(out))
        sources, horizon = self.open(), self.model.horizon
        datasets, key = [source.dataset for source in sources], self.data.action_key
        check_horizon(horizon, [e for dataset in datasets for e in select_episodes(dataset, self.data.episodes)])
        spaces = spaces_of(datasets, key)
        note_rates(datasets, horizon)
        parts = [known_windows(dataset, horizon, key, self.data.episodes) for dataset in datasets]
        chunks: Any = parts[0].all()
        names: Any = parts[0].action_names
        if self.data.mix:
            note_repeated(sources, parts)
            own = spaces or [names] * len(parts)
            names = {dataset.name: each for dataset, each in zip(datasets, own, strict=True)}
            chunks = [{dataset.name: part.all() for dataset, part in zip(datasets, parts, strict=True)}]
        with self.begin(resume, sources, resume_command=resume_command) as contents:
            chosen = {option.path[0] for option in self.option_groups()["model"].values()}
            config = {name: getattr(self.model, name) for name in chosen}
            if self.data.mix:
                config["shares"] = [source.weight for source in sources]
            if issubclass(self.family, TrainedTokenizer):
                config["run"] = FitRun(out, resume, resume_command)
            model: Any = self.family.fit(*chunks, action_names=names, **vars(self.loop), **config)
            model.trained_on = self.trained_on(sources, sum(map(len, parts)), contents)
            if first_process():
                say_summaries(model, datasets, parts)
            return finish({"": model}, out)[""]


def known_windows(dataset: RobotDataset, horizon: int, key: str, episodes: EpisodeSpec) -> ActionWindows:
    """Return the chunks of episodes whose actions are known; say how many those are, if not all."""
    windows = ActionWindows(dataset, horizon, key, episodes, missing=True)
    known = windows.of_known()
    of, every = len({*known.episode_of.tolist()}), len({*windows.episode_of.tolist()})
    if not of:
        got = f"none in the {checks.counted(every, 'episode')} of {dataset.name} that teach: all are NaN"
        checks.fail("action_key", "known actions", got, "Give episodes that have some (episodes), or another column.")
    if of < every:
        checks.note(f"{dataset.name}: {of} of {every} episodes have known actions: the tokenizer learns from these")
    return known


def note_repeated(sources: Sequence[Source], parts: Sequence[ActionWindows]) -> None:
    """Say of which datasets each chunk counts many times, so that merged codes may spell whole chunks of them."""
    weights, counts = [source.weight for source in sources], [len(part) for part in parts]
    times = [sum(counts) * weight / (sum(weights) * count) for weight, count in zip(weights, counts, strict=True)]
    often = [source.dataset.name for source, each in zip(sources, times, strict=True) if each >= MANY_TIMES]
    if often:
        once = [f"{s.dataset.address}:{count / max(counts):.3g}" for s, count in zip(sources, counts, strict=True)]
        checks.note(
            f"mix: each chunk of {checks.listed(often)} counts {max(times):.0f} times and may be learned by heart; "
            f"each counts once by {shlex.join(['--mix', *once])}"
        )


def recipe_for(family: type[Tokenizer]) -> type[FitRecipe[Tokenizer]]:
    """Return the recipe of a family of action tokenizers that is fitted: its configuration and `fit_options`.

    >>> lattok.train(lattok.recipe_for(lattok.FAST).from_preset("my_dataset", "my_tokenizer"))
    """
    if not (isinstance(family, type) and issubclass(family, ChunkTokenizer)):
        checks.fail("family", "a family of action tokenizers, such as lattok.FAST", f"{family!r:.60}")
    return _recipe_for(family)


@cache  # one class of a family: recipes of equal options are equal
def _recipe_for(family: type[ChunkTokenizer]) -> type[FitRecipe[Any]]:
    shared = {each.name for each in fields(ChunkConfig)}

    @dataclass(frozen=True)
    class FamilyRecipe(FitRecipe[Any]):
        loop: Any = field(default_factory=family.fit_options)
        model: Any = field(default_factory=family.config_class)

        @classmethod
        def about(cls) -> str:
            said = inspect.getdoc(family) or "a tokenizer of actions."
            return f"Fit {family.__name__}: {said.replace('Chunks [B, H, m]', 'chunks', 1)}"

    FamilyRecipe.__name__ = f"{family.__name__}Recipe"
    FamilyRecipe.family = family
    FamilyRecipe.kind = family.type  # not among RECIPES, where one that the family gets later has its place
    own = (each.name for each in fields(family.config_class) if each.name not in shared)
    FamilyRecipe.common = ("horizon", *own, *Recipe.common)
    return FamilyRecipe


def say_summaries(model: ChunkTokenizer, datasets: Sequence[RobotDataset], parts: Sequence[ActionWindows]) -> None:
    """Say how well a tokenizer codes the training chunks of each dataset."""
    for dataset, part in zip(datasets, parts, strict=True):
        said = fit_summary(for_dataset(model, dataset.name), part, part.action_names)
        say(f"{dataset.name}: {said}" if model.datasets else said)


def fit_summary(model: ChunkTokenizer, windows: ActionWindows, names: Sequence[str]) -> str:
    """Say how many tokens a training chunk takes, and how large the error is: in all, and by dimension in its units."""
    chunks, valid = windows.batch(torch.linspace(0, len(windows) - 1, min(SUMMARY_CHUNKS, len(windows))).long())
    codes = model.encode(chunks, valid, repair=True)
    used, steps = (codes >= 0).sum(1).float(), chunks[valid].double()
    gap = (model.decode(codes, repair=True)[:, : chunks.shape[1]] - chunks)[valid].double()
    varies = steps.var(0, correction=0) > 0
    error = float((gap.square().mean(0) / steps.var(0, correction=0))[varies].mean()) if bool(varies.any()) else 0.0
    tokens = f"{used.mean():.3g} tokens" if model.fixed_length else f"{used.mean():.3g} tokens on average"
    lost = f"{100 * error:.0f}" if error >= 1 else f"{100 * error:.2g}"
    each = [f"{name} {float(gap[:, i].square().mean().sqrt()):.2g}" for i, name in enumerate(names[:SUMMARY_DIMS])]
    if len(names) > SUMMARY_DIMS:
        each.append("…")
    first = f"{model.type}: {tokens} for a chunk; {lost} % of the training actions' variance is lost"
    return f"{first}\ntypical error (RMS, in the dataset's units): {', '.join(each)}"
