"""Recipes of action tokenizers: the paper's, which is trained, and those that are fitted to all windows at once."""

import inspect
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any, ClassVar, TypeVar, cast

import torch

from lattok.action_vq import ActionVQConfig, P2TActionVQ
from lattok.action_vq.base import ChunkConfig, ChunkTokenizer
from lattok.action_vq.chunks import FitOptions
from lattok.action_vq.learned import FitRun, TrainedTokenizer
from lattok.action_vq.p2t import QUICK_MODEL
from lattok.data import select_episodes
from lattok.data.alike import note_rates, same_actions
from lattok.data.episodes import check_horizon
from lattok.loading import load
from lattok.nn.normalize import Normalizer
from lattok.nn.quantize import check_warm_up
from lattok.recipes.common import EXTREMES, QUANTILES, MixOptions, Recipe
from lattok.recipes.run_folder import finish, first_process, wait_for_all
from lattok.samples import ActionWindows
from lattok.samples.order import Batches, Passes
from lattok.samples.windows import MixedWindows
from lattok.training import fit
from lattok.types import ActionBatch
from lattok.utils import checks
from lattok.utils.seeds import derive_seed

Tokenizer = TypeVar("Tokenizer", bound=ChunkTokenizer)
SUMMARY_CHUNKS = 2048  # chunks that the summary after fitting looks at
SUMMARY_DIMS = 8  # dimensions in it
PAPER = {"steps": 50_000, "lr": 1e-4, "batch_size": 128, "mask_weight": 0.1, "log_every": 100}


@dataclass(frozen=True)
class ActionVQRecipe(Recipe[P2TActionVQ]):
    """Train the paper's tokenizer, one code per step.

    - `p2t`: appendix A.2 (Adam 1e-4, batch 128, 50,000 steps)
    - `libero`, `robotwin`, `jaka`: the same at the horizons of the paper's robots (8, 25, 20), with its normalisation
    - `quick`: one minute on two cores, without the mask loss
    - joined with any of them ("quick+context"): `context`, a decoder over all codes; `p2t_code`, as the published code
    """

    kind = "action-vq"
    data: MixOptions = field(default_factory=MixOptions)
    model: ActionVQConfig = field(default_factory=ActionVQConfig)
    common = ("horizon", "codebook_size", *Recipe.common)
    example: ClassVar[Mapping[str, Any]] = {"preset": "quick"}
    default_preset = "p2t"
    joined = ("context", "p2t_code")
    presets: ClassVar[Mapping[str, Any]] = {
        "p2t": PAPER,
        "libero": {**PAPER, **QUANTILES, "horizon": 8},
        "robotwin": {**PAPER, **EXTREMES, "horizon": 25},
        "jaka": {**PAPER, **QUANTILES, "horizon": 20},
        "quick": {"steps": 1000, "lr": 2e-3, "schedule": "one_cycle", "batch_size": 128, "threads": 1, **QUICK_MODEL},
        "context": {"decoder": "context"},
        "p2t_code": {"mask_weight": 1.0, "mask_passes": 1},
    }

    def __post_init__(self) -> None:
        check_warm_up("continuous_steps", self.model.continuous_steps, self.loop.steps)

    def train(self, resume: bool = False, resume_command: str = "") -> P2TActionVQ:
        """Train as every recipe does. In a mixture each dataset's chunks are normalised in the batch, by its own
        normaliser; the model's is the identity meanwhile."""
        out, sources, horizon = self.folder(resume), self.open(), self.model.horizon
        datasets = [source.dataset for source in sources]
        names = same_actions(datasets, self.data.action_key)
        note_rates(datasets, horizon)
        episodes = [episode for dataset in datasets for episode in select_episodes(dataset, self.data.episodes)]
        check_horizon(horizon, episodes)
        parts = [ActionWindows(dataset, horizon, self.data.action_key, self.data.episodes) for dataset in datasets]
        torch.manual_seed(self.loop.seed)
        several = tuple(dataset.name for dataset in datasets) if self.data.mix else ()
        config = self.config(action_dim=len(names), action_names=names, normalizers=several)
        model, size, seed = P2TActionVQ(config), self.loop.batch_size, self.loop.seed
        normalizers = [module for module in model.normalizers if isinstance(module, Normalizer)] or [model.normalizer]
        for part, normalizer in zip(parts, normalizers, strict=True):
            normalizer.fit(part.actions, config.action_kinds)
        if several:
            windows = MixedWindows(parts, normalizers)
            order = [Passes(n, derive_seed(seed, i)) if n else None for i, n in enumerate(windows.sizes)]
            draw = Batches(order, size, [source.weight for source in sources])
            model.use_normalizers(model.normalizers.fresh())
        else:
            windows, draw = parts[0], Batches([Passes(len(parts[0]), seed)], size)

        def batches(step: int, process: int, processes: int) -> ActionBatch:
            return windows.batch(draw(step)[process::processes])

        with self.begin(resume, sources, resume_command=resume_command) as contents:
            model.trained_on = self.trained_on(sources, size, contents)
            weights = model.config.loss_weights
            fit(model, batches, self.loop, out, loss_weights=weights, resume=resume, resume_command=resume_command)
            if several:
                model.use_normalizers(model.normalizers.in_use())
            if first_process() and not several:
                print(checks.printable(fit_summary(model.cpu(), parts[0], names)), file=sys.stderr)
            return finish({"": model}, out)[""]


@dataclass(frozen=True)
class FitRecipe(Recipe[Tokenizer]):
    """A tokenizer that is fitted with `family.fit` to the windows of a dataset; `loop` are the options of `fit`.

    A family has the one that `recipe_for` makes, unless it brings its own.
    """

    family: ClassVar[type[ChunkTokenizer]]
    presets: ClassVar[Mapping[str, Any]] = {"default": {}}
    default_preset = "default"
    loop: Any = field(default_factory=FitOptions)

    def train(self, resume: bool = False, resume_command: str = "") -> Tokenizer:
        """Fit the tokenizer and save it into `out`. With `resume` a family that is trained goes on from its checkpoint,
        and one that is fitted at once begins again. Of several processes the first one checks, fits and saves, the
        others load; training they share."""
        out, shared = self.folder(resume), hasattr(self.loop, "batch_size")
        if not (shared or first_process()):
            wait_for_all()
            return cast(Tokenizer, load(out))
        sources, horizon = self.open(), self.model.horizon
        check_horizon(horizon, select_episodes(sources[0].dataset, self.data.episodes))
        windows = ActionWindows(sources[0].dataset, horizon, self.data.action_key, self.data.episodes)
        names = tuple(windows.action_names)
        with self.begin(resume, sources, resume_command=resume_command) as contents:
            chosen = {option.path[0] for option in self.option_groups()["model"].values()}
            config = {name: getattr(self.model, name) for name in chosen}
            if issubclass(self.family, TrainedTokenizer):
                config["run"] = FitRun(out, resume, resume_command)
            model: Any = self.family.fit(*windows.all(), action_names=names, **vars(self.loop), **config)
            model.trained_on = self.trained_on(sources, len(windows), contents)
            if first_process():
                print(checks.printable(fit_summary(model, windows, names)), file=sys.stderr)
            return finish({"": model}, out)[""]


def recipe_for(family: type[Tokenizer]) -> type[FitRecipe[Tokenizer]]:
    """Return the recipe of a family of action tokenizers that is fitted: its configuration and `fit_options`.

    >>> lattok.train(lattok.recipe_for(lattok.FAST).from_preset("my_dataset", "my_tokenizer"))
    """
    if not (isinstance(family, type) and issubclass(family, ChunkTokenizer)):
        checks.fail("family", "a family of action tokenizers, such as lattok.FAST", f"{family!r:.60}")
    return _recipe_for(family)


@cache  # one class of a family: recipes of equal options are equal
def _recipe_for(family: type[ChunkTokenizer]) -> Any:
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
    each += ["…"] * (len(names) > SUMMARY_DIMS)
    first = f"{model.type}: {tokens} for a chunk; {lost} % of the training actions' variance is lost"
    return f"{first}\ntypical error (RMS, in the dataset's units): {', '.join(each)}"
