"""What every recipe is made of: options of the data, the loop and the model, typed; presets, and options over them."""

import inspect
import re
import shlex
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Generic, cast

import torch
from typing_extensions import Self

from lattok.backbones import SCRATCH
from lattok.data import RobotDataset, action_spaces, open_dataset, select_episodes
from lattok.data.content import Content, content_of, record_of
from lattok.data.copies import copies_text, with_copies
from lattok.data.episodes import MORE, select_acting, split_by_task, split_text
from lattok.data.many import sample_of, sample_text
from lattok.data.opening import Source, open_mixture, parse_source
from lattok.data.schema import SOURCE, short_name
from lattok.hub import CONFIG
from lattok.hub.records import NUMBERS
from lattok.labels.spec import inferred_episodes, measured_episodes, prefix_flags
from lattok.loading import load
from lattok.recipes.run_folder import LOCK, NEW_RUN, Model, first_process, judged_words, never_saved, read_recipe
from lattok.samples.augment import Augmentation
from lattok.samples.stream import WINDOW_BYTES
from lattok.training import RECIPE, RUN, LoopOptions
from lattok.training.loop import AGAIN
from lattok.training.runlog import check_tracker
from lattok.utils import checks, files
from lattok.utils.checks import LattokError
from lattok.utils.devices import device_called
from lattok.utils.log import caution, say
from lattok.utils.options import Option, as_option, built, flat, options_of, replaced
from lattok.utils.output import Output, unused
from lattok.utils.registry import Registry
from lattok.utils.runs import as_episodes, index_runs
from lattok.utils.signals import restate

CHANGEABLE_ON_RESUME = ("device", "log_every", "save_every", "memory_gb", "feature_cache", "tracker")

# Presets of the paper's robots normalise as the published code does (the paper does not say): increments between the
# first and the last percentile, but for the gripper, and RoboTwin's joints between their extremes.
QUANTILES = {"normalize": "quantile", "normalize_clip": True, "normalize_exceptions": ("*gripper*=bounded",)}
EXTREMES = {"normalize": "min_max", "normalize_clip": True}
# Parts of presets of several kinds; with patches of 32 a small image of a camera is four tokens
ADAMW = {"optimizer": "adamw", "weight_decay": 0.01}  # torch's own, where a paper does not say
TWO_CORES = {**ADAMW, "schedule": "one_cycle", "threads": 1}  # more are other weights, and slower where others work too
SMALL_IMAGES = {"image_size": 64, "interpolation": "bilinear"}  # bicubic keeps fine detail that nothing predicts
BACKBONE = {"backbone": SCRATCH, "backbone_train": "full", "backbone_depth": 3, "backbone_patch_size": 32}
FROM_NOTHING = {**BACKBONE, **SMALL_IMAGES, **TWO_CORES, "prompt": "{task}"}
LATBOT_RATE = {"lr": 1e-4, "beta2": 0.95, "schedule": "cosine", "warmup_steps": 2000, "min_lr": 2.5e-6}


@dataclass(frozen=True)
class DataOptions:
    """What is read from the dataset.

    Attributes:
        action_key: column with the actions
        episodes: "train", "test" (last of each task, more where tasks are few), "0:40", "0,3,5:9", "10%", "5 per task"
        labels: folders of labels that `lattok annotate` wrote for the dataset
    """

    action_key: str = "action"
    episodes: str = "train"
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class ImageOptions(Augmentation, DataOptions):
    """Which cameras a model looks at, and how images are changed while it learns: not at all, unless a preset does.

    Attributes:
        cameras: cameras to look at, in this order; short names also work; left out: all
        shuffle_window: number of frames among which samples are shuffled; 0: as many as take 8 GB
        memory_gb: GB of memory for frames on a machine; others are decoded when they are needed; 0: half of its memory
    """

    cameras: tuple[str, ...] | None = None
    shuffle_window: int = 0
    memory_gb: float = 0.0
    crop: float = 1.0

    def window(self, image_size: int, cameras: Sequence[str]) -> int | None:
        """Return how many frames samples are shuffled among, the same on any machine; None for samples without any."""
        return (self.shuffle_window or int(WINDOW_BYTES // (3 * len(cameras) * image_size**2))) if cameras else None

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.whole(shuffle_window=self.shuffle_window)
        checks.at_least_zero(memory_gb=self.memory_gb)


@dataclass(frozen=True)
class MixOptions(DataOptions):
    """What is read from one dataset, or from several; `episodes` are then chosen in each of them.

    Attributes:
        mix: several datasets and their shares, in place of one: data/a:1.0 data/b.json:0.5
    """

    mix: tuple[str, ...] = ()


FEWEST_TO_JUDGE = 3  # known episodes, of which one may be left out: models with the map of states need two to learn


@dataclass(frozen=True)
class Recipe(ABC, Generic[Model]):
    """A reproducible training run: its dataset, its folder, and the options of the data, the loop and the model.

    A subclass is found by its `kind`, the word that follows `lattok train`; its first line says there what it does. The
    classes of `data`, `loop` and `model` are those of its defaults. All options have flat names
    (`lattok.utils.options`), each in the first group that has it; fields of the model's configuration that come from
    the dataset (`FROM_DATA`) are not options.

    `train` takes the same steps in all of them: `folder` checks the run's folder, `open` opens the data, `begin` locks
    the folder and records what the run is, `lattok.training.fit` trains, `run_folder.finish` saves the artefacts.
    """

    kind: ClassVar[str]
    presets: ClassVar[Mapping[str, Mapping[str, Any]]]
    default_preset: ClassVar[str]
    joined: ClassVar[tuple[str, ...]] = ()  # presets that stand over another one
    small: ClassVar[str] = ""  # preset for two cores, which downloads nothing
    common: ClassVar[tuple[str, ...]] = ("steps", "batch_size", "lr", "seed", "device")  # come first in the help
    example: ClassVar[Mapping[str, Any]] = {}  # options of the example in the help
    choices: ClassVar[Mapping[str, Iterable[str]]] = {}  # names that options take
    reads_all: ClassVar[bool] = False  # of very many files too, before it begins
    in_any_order: ClassVar[bool] = False  # datasets that are named in another order give the same model
    judged_by_actions: ClassVar[bool] = True  # whether nothing else judges what it trains

    dataset: str | None  # none: a mixture
    out: str
    preset: str = ""
    data: Any = field(default_factory=DataOptions)
    loop: LoopOptions = field(default_factory=LoopOptions)
    model: Any = None  # configuration that does not know the dataset yet: field(default_factory=ITS_CLASS)
    study: bool = False  # of several runs, each in a folder of its own

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "presets" in vars(cls):
            cls.presets = MappingProxyType(cls.presets)
        if "kind" in vars(cls):
            RECIPES.add(cls.kind, cls)

    @abstractmethod
    def train(self, resume: bool = False, resume_command: str = "") -> Model:
        """Train and save the model into `out`. `resume` continues an interrupted run, which prints `resume_command`."""

    def completed(self, resume_command: str = "the same call") -> Model:
        """Return the model that is in `out`; if there is none yet, train it, or continue an interrupted run."""
        out = Path(self.out)
        if (out / CONFIG).is_file():
            return cast(Any, load(out))
        return self.train((out / RUN / RECIPE).is_file(), resume_command)

    @classmethod
    def from_preset(
        cls, dataset: str | Path | None, out: str | Path, preset: str | None = None, **options: Any
    ) -> Self:
        """Apply presets joined by "+" ("tiny+robust") one after another, then `options`. A mixture is `dataset=None`
        with `mix=("data/a:1.0", "data/b:0.5")`."""
        if not isinstance(out, str | Path):
            checks.fail("out", "a folder", repr(out))
        preset = cls.implied_preset(preset, options) or cls.default_preset
        if not isinstance(preset, str) or "," in preset:
            meant = str(preset).replace(" ", "").replace(",", "+")
            checks.fail("preset", 'names, joined by "+"', repr(preset), f"Did you mean {meant}?")
        merged: dict[str, Any] = {}
        for name in preset.split("+"):
            if name not in cls.presets:
                small = f"For two cores: preset={cls.small}." if cls.small else ""
                meant = checks.did_you_mean(name, cls.presets) or small
                checks.fail("preset", f"one of {', '.join(cls.presets)}", repr(name), meant)
            merged.update(cls.presets[name])
        if set(preset.split("+")) <= {*cls.joined}:
            checks.fail("preset", f"one before it, such as {cls.default_preset.split('+')[0]}+{preset}", repr(preset))
        groups, types = cls.option_groups(), cls.option_types()
        checks.known_keys("options", {**merged, **options}, sorted(types))
        given = {name: as_option(name, value, types[name]) for name, value in options.items()}
        values = cls.combined({name: as_option(name, value, types[name]) for name, value in merged.items()}, given)
        own = {group: {name: values[name] for name in known if name in values} for group, known in groups.items()}
        chosen = {group: built(cls.group_class(group), options) for group, options in own.items()}
        recipe = cls(None if dataset is None else str(dataset), str(out), preset, **chosen)
        mix = getattr(recipe.data, "mix", None)
        hint = "" if mix is None else "For several give `mix`: data/a:1.0 data/b:0.5."
        if dataset is None and not mix:
            checks.fail("dataset", "a folder, a description file or a Hub id", "none", hint)
        if dataset is not None and not isinstance(dataset, str | Path):
            checks.fail("dataset", "one folder, description file or Hub id", type(dataset).__name__, hint)
        if dataset is not None and mix:
            raise LattokError(f"`dataset` and `mix` were both given. Put {dataset} into the mixture: PATH:WEIGHT.")
        if mix and recipe.data.labels:
            hint = "Mix folders of labels, as annotate writes them: each is its dataset with these labels."
            raise LattokError(f"`labels` are of one dataset, not of a mixture. {hint}")
        for text in mix or ():
            parse_source(text)
        return recipe

    @classmethod
    def implied_preset(cls, preset: str | None, options: Mapping[str, Any]) -> str | None:
        """Return the presets to apply with these options; none: the default."""
        return preset

    @classmethod
    def combined(cls, preset: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        """Return all options, from those of the presets and those that were given by name.

        A run that is shorter than the preset's warm-up warms up for a third of its steps.
        """
        steps = {**preset, **given}.get("steps", LoopOptions.steps)
        rise = {"warmup_steps": steps // 3} if preset.get("warmup_steps", 0) >= steps else {}
        return {**preset, **rise, **given}

    @classmethod
    def group_class(cls, group: str) -> Any:
        """Return the class of `data`, `loop` or `model`."""
        return next(each.default_factory for each in fields(cls) if each.name == group)

    @classmethod
    def option_groups(cls) -> dict[str, dict[str, Option]]:
        """Return the options of `data`, `loop` and `model` by their flat names; each is in one of them."""
        groups: dict[str, dict[str, Option]] = {}
        for group in ("data", "loop", "model"):
            taken = {name for known in groups.values() for name in known}
            own = [option for option in options_of(cls.group_class(group)) if option.name not in taken]
            groups[group] = {each.name: each for each in own if not each.field.metadata.get("from_data")}
        return groups

    @classmethod
    def option_types(cls) -> dict[str, Any]:
        """Return the type of every option, by name."""
        return {name: option.kind for group in cls.option_groups().values() for name, option in group.items()}

    @classmethod
    def about(cls) -> str:
        """Return what the recipe does, in its first line, and its presets."""
        return inspect.getdoc(cls) or ""

    def config(self, **known: Any) -> Any:
        """Return the model's configuration: what was chosen, and what is `known` now that the dataset is open."""
        return replaced(self.model, **known)

    def open(self) -> list[Source]:
        """Return the dataset, or all those of the mixture."""
        if self.dataset is None:
            return by_name(open_mixture(self.data.mix)) if self.in_any_order else open_mixture(self.data.mix)
        return [Source(open_dataset(self.dataset, labels=getattr(self.data, "labels", ())), 1.0)]

    def trained_on(
        self, sources: Sequence[Source], samples_per_step: int, contents: Sequence[Content]
    ) -> dict[str, Any]:
        """Return what the artefact says about its training: dataset, rate, episodes (first and last of each run),
        loop. Also fingerprints of their content, and what the actions mean, if the dataset says so; for unified actions
        also what the robot's own numbers mean. Of a mixture: each dataset, under `mixture`, and weights."""
        records = [self._dataset_record(source.dataset) for source in sources]
        for entry, content in zip(records, contents, strict=False):  # which only the first process knows
            entry["content"] = record_of(content)
        loop = {name: value for name, value in asdict(self.loop).items() if name != "device"}
        loop["threads"] = loop.get("threads") or torch.get_num_threads()  # sums in another order are other weights
        weighted = [entry | {"weight": s.weight} for entry, s in zip(records, sources, strict=True)]
        known = records[0] if self.dataset is not None else {"mixture": weighted}
        asked = getattr(self.data, "action_episodes", None)
        if asked is not None and len(sources) == 1:  # which, as the dataset may have more known ones later
            asked = as_episodes(index_runs(sorted(select_acting(sources[0].dataset, asked, self.data.action_key))))
        labels = {} if asked is None else {"labels": {"episodes": asked}}
        return {**known, "samples_per_step": samples_per_step, "loop": loop, **labels}

    def _dataset_record(self, dataset: RobotDataset) -> dict[str, Any]:
        episodes = select_episodes(dataset, self.data.episodes)
        runs = index_runs(episode.index for episode in episodes)
        space = action_spaces(dataset).get(self.data.action_key)
        declared: dict[str, Any] = {} if space is None else {"action_space": space.to_json()}
        read = {"actions": self.data.action_key, "state": getattr(self.data, "state_key", None)}
        own = {part: dataset.robot_spaces[key].to_json() for part, key in read.items() if key in dataset.robot_spaces}
        if own:
            declared["robot_spaces"] = own
        acted = select_acting(dataset, getattr(self.data, "action_episodes", None), self.data.action_key)
        known = [episode for episode in episodes if episode.index in acted]
        if len(sample := sample_of(dataset, episodes)) < len(episodes):
            declared["sample"] = {"episodes": len(sample), "of": len(episodes)}
        if inferred := inferred_episodes(dataset, self.data.action_key, known):
            declared["inferred_actions"] = {"episodes": len(inferred), "of": len(episodes)}
        declared["fps"] = dataset.fps
        feature = dataset.features.get(self.data.action_key)
        if feature is not None and NUMBERS.fullmatch(feature.dtype):
            declared["action_dtype"] = feature.dtype
        split = {} if dataset.split is None else {"split": dataset.split}
        return {"dataset": dataset.name, **split, "episodes": runs, **declared}

    def _content(self, dataset: RobotDataset) -> Content:
        """Hash all that this run reads from a dataset."""
        keys = {*filter(None, (getattr(self.data, name, None) for name in ("action_key", "state_key", "eval_key")))}
        chosen = getattr(self.data, "cameras", ())  # None: all
        asked = set(map(short_name, dataset.cameras if chosen is None else chosen))
        found = [key for key in dataset.cameras if short_name(key) in asked]
        cameras = (found or dataset.cameras) if asked else ()
        return content_of(dataset, select_episodes(dataset, self.data.episodes), keys, cameras)

    def options(self) -> dict[str, Any]:
        """Return all options, flat."""
        groups = self.option_groups().items()
        return {n: value for group, known in groups for n, value in flat(getattr(self, group)).items() if n in known}

    def without_download(self, option: str) -> str:
        """Return how to train without the network that `option` names; "" where no preset does."""
        if not self.small:
            return ""
        own = self.options()[option]
        usual, small = (
            type(self).from_preset("DATASET", "OUT", preset).options()[option] for preset in (self.preset, self.small)
        )
        if own == small:
            return ""
        given = f", and no {option}" if own != usual else ""
        return f"Without any download: preset={self.small}{given}."

    @contextmanager
    def begin(
        self, resume: bool, sources: Sequence[Source], inputs: Mapping[str, str] | None = None, resume_command: str = ""
    ) -> Iterator[list[Content]]:
        """Lock the run folder for this process and write run/recipe.json (first process only). Hashes of what the
        datasets hold, as description files show them, and `inputs`, those of models and files that were read, are part
        of it: a run can go on only from the same ones. Yields that content; none elsewhere."""
        if not first_process():
            yield []
            return
        out = Path(self.out)
        files.check_writable(out)
        with Output(out).locked(out / RUN / LOCK):
            files.sweep(out / RUN)
            self.folder(resume)  # again: another run may have been here since
            for source in sources if self.data.episodes == "train" and not resume else ():
                say(f"note: {source.dataset.name}: {split_text(source.dataset)}")
            for dataset in [source.dataset for source in sources] if not resume else ():
                if said := sample_text(dataset, select_episodes(dataset, self.data.episodes), not self.reads_all):
                    say(f"note: {dataset.name}: {said}")
            for name, found in [] if resume else [(s.dataset.name, f) for s in sources for f in s.dataset.findings]:
                if found.severity == "warning":
                    caution(f"warning: {name}: {found}")
            for source in sources if not resume else ():
                if said := copies_text(source.dataset):
                    caution(f"warning: {source.dataset.name}: {said}")
            contents = [self._content(source.dataset) for source in sources]
            names = ["dataset" if self.dataset is not None else f"dataset {source.dataset.name}" for source in sources]
            hashes = {name: content.digest for name, content in zip(names, contents, strict=True)} | dict(inputs or {})
            for name, before in (read_recipe(out)["inputs"] if resume else {}).items():
                if hashes.get(name) != before:
                    expected, got = f"content with hash {before[:12]}, as when the run began", hashes.get(name, "none")
                    checks.fail(name, expected, got[:12], "Put back what has changed, or start a new run.")
            header: dict[str, Any] = {"kind": self.kind, "dataset": self.dataset, "preset": self.preset}
            if self.study:
                header["study"] = True
            files.write_json(out / RUN / RECIPE, {**header, "options": self.options(), "inputs": hashes})
            try:
                yield contents
            except KeyboardInterrupt as stop:
                said = f"interrupted. Continue with: {resume_command or AGAIN}"
                raise stop if str(stop) else restate(stop, said) from None

    def next_step(self) -> str:
        """Return what to type when it is trained."""
        source, labels = self._judging_source(), getattr(self.data, "labels", ())
        beside = ["--labels", *labels] if labels else []
        rest = []
        with suppress(LattokError):  # it may be gone by now
            dataset, spec = open_dataset(source, labels=labels), self.data.episodes
            if isinstance(spec, str) and not re.search("[a-z%]", spec):  # all that it has not seen may judge it
                seen = with_copies(dataset, (episode.index for episode in select_episodes(dataset, spec)))
                others = [episode for episode in dataset.episodes if episode.index not in seen]
                if self.data.action_key in dataset.features:
                    others = measured_episodes(dataset, self.data.action_key, others)
                rest = index_runs(episode.index for episode in others)
            if not split_by_task(dataset)[1] and not rest:
                words = ["lattok", "annotate", source, "--model", self.out, "--out", unused("my-labels"), *beside]
                said = shlex.join([*words, *prefix_flags(dataset, "latent")])
                return f"No episode is held out to evaluate it on: {MORE}. Label with it: {said}"
            if not rest and self._none_judges(dataset):
                if self.judged_by_actions:
                    return self._leaving_one_out(dataset, source)
                return f"Evaluate it: {shlex.join(['lattok', 'evaluate', self.out, source, '--action-key', 'None'])}"
        if len(labels) == 1 and (Path(labels[0]) / SOURCE).is_file():
            source = labels[0]  # which is the dataset with these labels
        words = ["lattok", "evaluate", *judged_words(self.out, source, self.data.action_key)]
        words += ["--episodes", as_episodes(rest)] if rest else []
        return f"Evaluate it: {shlex.join(words)}"

    def _judging_source(self) -> str:
        """Return the dataset, of a mixture one, whose held-out episodes judge."""
        return self.dataset or parse_source(self.data.mix[0])[0]

    def _none_judges(self, dataset: RobotDataset) -> bool:
        """Return whether a dataset has actions, and none that is known in the episodes that are held out."""
        key, test = self.data.action_key, {*split_by_task(dataset)[1]}
        held_out = [episode for episode in dataset.episodes if episode.index in test]
        return key in dataset.features and not measured_episodes(dataset, key, held_out)

    def _leaving_one_out(self, dataset: RobotDataset, source: str) -> str:
        """Return how to judge what this run trains where all known episodes teach: without the last of them."""
        chosen = select_episodes(dataset, self.data.episodes)
        known = measured_episodes(dataset, self.data.action_key, chosen)
        said = "No held-out episode has known actions, so nothing tests it"
        if len(known) < FEWEST_TO_JUDGE:
            return f"{said}: {checks.counted(len(known), 'known one')} cannot be spared."
        others = index_runs(episode.index for episode in chosen if episode != known[-1])
        again, config = unused(f"{self.out}-judged"), str(Path(self.out) / RUN / RECIPE)
        words = ["lattok", "train", self.kind, source, "--out", again, "--config", config]
        words += ["--episodes", as_episodes(others)]
        judge = ["lattok", "evaluate", *judged_words(again, source, self.data.action_key)]
        judge += ["--episodes", str(known[-1].index)]
        said += f". Leave one of {len(known)} out to see: {shlex.join(words)}"
        return f"{said}\nThen evaluate it: {shlex.join(judge)}"

    @classmethod
    def resumed(cls, dataset: str | Path | None, out: str | Path, preset: str | None, given: Mapping[str, Any]) -> Self:
        """Return the recipe of the run in `out`, with the options that are given again in place of its own."""
        stored = cls.stored(Path(out))
        if preset is not None and cls.implied_preset(preset, {**stored.options(), **given}) != stored.preset:
            checks.fail("preset", f"{stored.preset!r} as in the run to resume", repr(preset), "Or start a new run.")
        known = dataset if dataset is not None or given.get("mix") else stored.dataset
        return cls.from_preset(known, out, stored.preset, **cls.over(stored.options(), given))

    @classmethod
    def over(cls, stored: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options of a run, or of a file, with given ones in their place."""
        return {**stored, **given}

    @classmethod
    def stored(cls, out: Path) -> Self:
        """Return the recipe of the run in `out`, as it began."""
        if not (out / RUN / RECIPE).is_file():
            checks.fail("out", f"a run to resume, with {RUN}/{RECIPE}", f"{out} without it", "Start it without resume.")
        found = read_recipe(out)
        checks.one_of(f"kind of the run in {out}", found["kind"], (cls.kind,))
        options, known = found["options"], cls.option_types().keys()
        try:
            checks.known_keys("options", options, sorted(known))
            if unknown := sorted(known - options.keys()):
                hint = "It was begun by another version of lattok: continue it with that one."
                checks.fail("options", f"all that a {cls.kind} run has", f"none of {checks.listed(unknown)}", hint)
            return replace(cls.from_preset(found["dataset"], out, found["preset"], **options), study=found["study"])
        except LattokError as error:
            raise LattokError(f"{out / RUN / RECIPE}: {error} {NEW_RUN}") from None

    def _check_stored(self) -> None:
        """Compare with the stored recipe what can change the result; a dataset is known by its content instead."""
        stored = self.stored(Path(self.out))
        if (stored.dataset is None) != (self.dataset is None):
            one = stored.dataset or f"the mixture {' '.join(stored.data.mix)}"
            checks.fail("dataset", f"{one}, as in the run to resume", self.dataset or "a mixture")
        before, now = (each.options() | {"study": each.study} for each in (stored, self))
        for name in sorted(before.keys() - {*CHANGEABLE_ON_RESUME}, key=lambda name: (name != "steps", name)):
            if before[name] != now[name]:
                checks.fail(name, f"{before[name]!r} as in the run to resume", repr(now[name]), "Or start a new run.")

    def folder(self, resume: bool) -> Path:
        """Return the run folder: for a new run it must be new, or hold no more than a run that never saved a step. Only
        the first process checks and writes; the others join it when training begins."""
        out = Path(self.out)
        if isinstance(self.loop, LoopOptions):
            check_tracker(self.loop.tracker)
            device_called(self.loop.device)
        if resume and first_process():
            self._check_stored()
        elif first_process():
            begun, done = (out / RUN / RECIPE).is_file(), (out / CONFIG).is_file()
            resumes = f", or add resume=True{' to see what comes next' * done}" if begun else ""
            holds = "a trained model" if begun and done else "something"
            Output(out).check_new(never_saved, f"Choose another{resumes}.", holds)
        return out


def by_name(sources: Sequence[Source]) -> list[Source]:
    """Return datasets by their names, however they were named."""
    return sorted(sources, key=lambda source: source.dataset.name)


RECIPES: Registry[type[Recipe[Any]]] = Registry("lattok.recipes", "lattok.recipes")
