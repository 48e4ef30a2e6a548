"""What questions are answered from, by what a model can do; here what an evaluation is about: a model, a dataset, the
episodes that judge. Each kind of evidence is a class that registers itself."""

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
import torch

from lattok.data import RobotDataset, camera_keys, select_episodes
from lattok.data.alike import check_cameras, note_rate
from lattok.data.copies import with_copies
from lattok.data.episodes import any_unmeasured, missing_films
from lattok.evaluation.report import Progress
from lattok.labels import GivenLabels, given_labels
from lattok.labels.spec import fillers, measured_episodes, prefix_flags
from lattok.training import LoopOptions
from lattok.types import Episode, HoldsLabels, LabelsVideo, lacks
from lattok.utils import checks
from lattok.utils.commands import DATASET, MODEL, NOTHING, Advice, Command, advise, command
from lattok.utils.output import unused
from lattok.utils.registry import Registry
from lattok.version import __version__

FILLS = "--as"  # inferred actions, which `annotate` writes into the column of actions
MOST_NAMED = 5  # known episodes that an error names
LAST = 100  # place of what names none: after those of lattok


class Split(NamedTuple):
    """Episode indices of both halves, and in words how many there were before large datasets were thinned."""

    train: list[int]
    held_out: list[int]
    text: str


def out_of(used: int, available: int, noun: str = "") -> str:
    """Say how many there are, and of how many where they are fewer."""
    said = checks.counted(available, noun) if noun else f"{available}"
    return said if used == available else f"{used} of {said}"


def evenly(count: int, most: int) -> torch.Tensor:
    """Choose at most `most` of `count` rows, evenly spaced, first and last included; int64."""
    return torch.from_numpy(np.linspace(0, count - 1, min(most, count)).round().astype(np.int64))


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Name one of several models in what is refused."""
    try:
        yield
    except checks.LattokError as error:
        raise checks.LattokError(f"{name}: {error}") from None


@dataclass(frozen=True)
class EvalOptions:
    """Options of `evaluate` and `compare`, given to them as keywords.

    Attributes:
        out: folder for report.json and report.html; many decoded frames are then in a file there rather than in memory
        episodes: held out: "test" (the last of every task), numbers, "0:40", "10%"; others fit probes and controls
        action_key: column with the actions; None: video alone, also the default in a dataset without actions
        state_key: column with the robot's state, read as a control
        cameras: cameras to look at; None: the model's own
        stride: gap of a frame pair, in frames or "0.2s"; None: the model's own
        max_episodes: most episodes that fit probes, evenly spaced; at most half as many are held out
        seed: seed of controls and draws
        progress: called with (stage, done, total)
        any_rate: whether a model may have learned at another rate than the dataset's
        overwrite: whether any report in `out` may be replaced; otherwise only one on the same model and dataset
    """

    out: str | os.PathLike[str] | None = None
    episodes: str | Sequence[int] | None = "test"
    action_key: str | None = "action"
    state_key: str | None = "observation.state"
    cameras: Sequence[str] | None = None
    stride: str | int | None = None
    max_episodes: int = 200
    seed: int = 0
    progress: Progress | None = None
    overwrite: bool = False
    any_rate: bool = False

    @classmethod
    def of(cls, keywords: Mapping[str, Any], *others: str) -> "EvalOptions":
        """Return the options among keywords; raises `LattokError` for one that is neither an option nor in `others`."""
        for name in keywords:
            checks.one_of("option", name, [*(field.name for field in fields(cls)), *others])
        return cls(**keywords)

    @property
    def folder(self) -> Path | None:
        return None if self.out is None else Path(self.out)

    def note(self, stage: str, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(stage, done, total)

    def seen_by(self, model: Any) -> "EvalOptions":
        """Keep as many cameras as a model sees; raises `LattokError` for fewer, and if there is no choice."""
        own = None if lacks(model, LabelsVideo) and lacks(model, HoldsLabels) else model.cameras
        for name in ("cameras", "stride"):
            if own is None and getattr(self, name) is not None:
                checks.fail(name, f"none for {model.type}, which has no choice of them", f"{getattr(self, name)!r:.60}")
        if own is None or self.cameras is None:
            return self
        cameras = tuple(self.cameras)[: len(own)]
        checks.size("cameras", "names, as many as the model sees", len(cameras), len(own))
        check_cameras(self.cameras, own)
        return replace(self, cameras=cameras)

    def of_one(self, name: str, model: Any, dataset: RobotDataset) -> "EvalOptions":
        """Return the options for one of several models, which progress names."""
        found = replace(self.seen_by(model), progress=lambda stage, *counts: self.note(f"{name}: {stage}", *counts))
        found.check_rate(model, dataset)
        return found

    def labelled(self, dataset: RobotDataset, labels: Any, name: str = "") -> GivenLabels:
        """Return given labels as a labeller, whose controls see the cameras asked for, or all."""
        if not dataset.cameras:
            checks.fail("dataset", "one with pictures, which controls look at", f"{dataset.name} without cameras")
        found = given_labels(dataset, labels, name)
        if self.action_key is not None and found.column == self.action_key:
            hint = "Name the column that they are compared with: action_key."
            checks.fail("labels", "others than the actions that they are compared with", f"{found.column!r}", hint)
        if self.cameras is not None:
            found.cameras = camera_keys(dataset, self.cameras)
        return found

    @property
    def flags(self) -> list[str]:
        """The words of a command for the options that a case needs; cameras come last."""
        keys = [] if self.stride is None else ["--stride", str(self.stride)]
        keys += [] if self.seed == 0 else ["--seed", str(self.seed)]
        keys += [] if self.action_key == "action" else ["--action-key", self.action_key or "none"]
        keys += [] if self.state_key == "observation.state" else ["--state-key", self.state_key or "none"]
        keys += ["--any-rate"] if self.any_rate else []
        keys += [] if self.max_episodes == EvalOptions.max_episodes else ["--max-episodes", str(self.max_episodes)]
        return [*keys, *self.seen]

    @property
    def seen(self) -> list[str]:
        """The words of a command for the cameras."""
        return ["--cameras", *self.cameras] if self.cameras else []

    @property
    def chosen(self) -> list[str]:
        """The words of a command that hold out the same episodes."""
        spec = self.episodes
        if spec is None or spec == "test":
            return []
        return ["--episodes", spec if isinstance(spec, str) else ",".join(map(str, spec))]

    def state_of(self, dataset: RobotDataset) -> str | None:
        """Return the column of the state: the default one may be absent, one that was asked for may not."""
        absent = self.state_key == "observation.state" and self.state_key not in dataset.features
        return None if absent else self.state_key

    def check_rate(self, model: Any, dataset: RobotDataset) -> None:
        """Refuse a dataset at another rate than the model's; with `any_rate`, note it."""
        if self.stride is None and not isinstance(model, GivenLabels):  # which are of the dataset's own frames
            note_rate(model, dataset, self.any_rate, self.action_key or "")

    def split(self, dataset: RobotDataset, key: str | None = None, cameras: Sequence[str] = ()) -> Split:
        """Hold out `episodes` and train on the rest; keep at most `max_episodes` to train on and half as many to
        evaluate on. With a `key`, only episodes in which this column was measured; with `cameras`, those that have
        their films."""
        checks.positive(max_episodes=self.max_episodes)
        checks.whole(seed=self.seed)
        held_out = [episode.index for episode in select_episodes(dataset, self.episodes)]
        judging = with_copies(dataset, held_out)  # nothing that judges is fitted to what it judges
        train = [episode.index for episode in dataset.episodes if episode.index not in judging]
        if key is not None and key in dataset.features:
            parts = judged_episodes(dataset, key, held_out), measured(dataset, key, train)
            held_out, train = ([episode.index for episode in part] for part in parts)
        absent = _without_films(dataset, [*held_out, *train], cameras)
        held_out, train = ([index for index in part if index not in absent] for part in (held_out, train))
        if not held_out:
            got = "none of which the films are there"
            checks.fail("episodes", "a held-out episode", got, "Hold out others (episodes), or copy them again.")
        if not train:
            hint = "Probes and controls are fitted to the episodes that are not held out."
            checks.fail("episodes", "a choice that leaves other episodes", repr(self.episodes), hint)
        some_train = [train[i] for i in evenly(len(train), self.max_episodes)]
        some_held_out = [held_out[i] for i in evenly(len(held_out), max(1, self.max_episodes // 2))]
        judging = out_of(len(some_held_out), len(held_out), "held-out episode")
        text = f"{judging}; {out_of(len(some_train), len(train), 'other')} for probes and controls"
        return Split(some_train, some_held_out, text)


def _without_films(dataset: RobotDataset, indices: list[int], cameras: Sequence[str]) -> Collection[int]:
    """Return the episodes of which a video file is missing, and say so; an error where that is all of them."""
    with suppress(checks.LattokError):  # cameras that the dataset has not are told where the model looks at them
        cameras = camera_keys(dataset, cameras) if cameras else ()
    if not (absent := missing_films(dataset, indices, [key for key in cameras if key in dataset.cameras])):
        return ()
    which = f"missing video file {next(iter(absent.values()))}" + f" and {len(absent) - 1} more" * (len(absent) > 1)
    if len(absent) == len(indices):
        raise checks.LattokError(f"{which}. Download or copy it again, or choose other cameras with `cameras`.")
    checks.warn(f"{len(absent)} of {checks.counted(len(indices), 'episode')} left out: {which}", stacklevel=3)
    return absent


def measured(dataset: RobotDataset, key: str, indices: Collection[int]) -> list[Episode]:
    """Choose the episodes, of these numbers, in which the actions of column `key` were measured."""
    wanted = set(indices)
    return measured_episodes(dataset, key, [each for each in dataset.episodes if each.index in wanted])


def judged_episodes(dataset: RobotDataset, key: str, held_out: Sequence[int]) -> list[Episode]:
    """Choose the held-out episodes in which the actions were measured; at least one."""
    if not (found := measured(dataset, key, held_out)):
        hint = "Models of video can be evaluated without any, by action_key=None."
        if len(known := [each.index for each in measured_episodes(dataset, key, dataset.episodes)]) > 1:
            way_out = f"train without the last and evaluate on it, by episodes={known[-1]}"
            hint = f"Known are episodes {checks.few_of(known, MOST_NAMED)}: {way_out}. {hint}"
        elif not known:
            hint = f"No episode has any: evaluate on another dataset, whose actions are known. {hint}"
        checks.fail(key, "known actions in a held-out episode", "none: they are NaN, or a model inferred them", hint)
    return found


def into_new_places(commands: Iterable[Command]) -> Iterator[Command]:
    """Name a place that is not taken where a command writes, and so call it in those that follow."""
    renamed = dict[str, str]()
    for each in commands:
        words = [renamed.get(word, word) for word in each.words]
        if "--out" in words[:-1] and each.verb in ("annotate", "train"):
            place = words[at := words.index("--out") + 1]
            renamed[place] = words[at] = unused(place)
        yield Command(each.verb, tuple(words))


@dataclass(frozen=True)
class Case:
    """One model on one dataset."""

    model: Any
    dataset: RobotDataset
    split: Split
    options: EvalOptions
    trains_controls: bool = False
    control_loop: LoopOptions | None = None
    rollouts: Mapping[str, Any] | None = None  # as in rollouts.json; `films` and `fps` as well where there are
    tasks: tuple[str, ...] = ()  # of simulators, that the policy knows

    @property
    def column(self) -> str | None:
        """The column of actions that commands name: the one that was asked for, or the model's own."""
        asked = self.options.action_key
        return asked if asked != "action" else getattr(getattr(self.model, "config", None), "action_key", None)

    def filled(self, advice: Advice) -> Advice:
        """Put this dataset and model, with the case's options, into the commands of an advice."""
        if any(FILLS in each.words for each in advice.commands) and fillers(self.dataset, self.column or "action"):
            return advise(f"{advice.text}: annotate the dataset that this one was made from.")
        if self._codes_unknown_actions(advice):
            infer = command("train", "idm", self.dataset.address or DATASET, "--out", "my-idm", "--preset", "tiny")
            advice = advise("Infer unknown actions before its codes are written beside them", infer)
        return replace(advice, commands=tuple(into_new_places(map(self.fill, advice.commands))))

    def _codes_unknown_actions(self, advice: Advice) -> bool:
        """Return whether an advice is to code actions of which some are unknown, where video may tell them."""
        writes = any(each.verb == "annotate" for each in advice.commands) and bool(self.dataset.cameras)
        codes = getattr(self.model, "label_source", None) == "actions"
        return writes and codes and any_unmeasured(self.dataset, self.column or "action")

    def fill(self, command: Command, model: str = "") -> Command:
        """Put this dataset and model, or a model elsewhere, with the case's options, into a command."""
        places = {MODEL: model or getattr(self.model, "address", ""), DATASET: self.dataset.address}
        if command.verb == "annotate":
            fills = FILLS in command.words
            if fills and self.dataset.columns_apart and not any_unmeasured(self.dataset, self.column or "action"):
                places[DATASET] = ""  # another one: here all are known
            flags = [] if self.column is None or self.column == "action" else ["--action-key", self.column]
            flags += prefix_flags(self.dataset, "inferred" if fills else "latent")
            return command.filled(places, [*flags, *self.options.seen])
        if command.verb == "evaluate":
            again = self.options.chosen if "--controls" in command.words else []  # the same once more
            if isinstance(self.model, GivenLabels):
                words = (self.dataset.address or DATASET, "--labels", self.model.address)
                return Command(command.verb, (*words, *again, *self.options.flags))
            return command.filled(places, [*again, *self.options.flags])
        return command.filled(places).extended(*(self.options.flags if command.verb == "compare" else ()))

    @contextmanager
    def eval_mode(self) -> Iterator[None]:
        """Hold the model in evaluation mode; the caller's mode and random numbers are as before afterwards."""
        with torch.random.fork_rng(devices=[]), ExitStack() as after:
            if isinstance(self.model, torch.nn.Module) and self.model.training:
                after.callback(self.model.eval().train)
            yield


@dataclass(frozen=True)
class Evidence:
    """What was measured of the model of a case; `gather` measures it. Questions of its kind read it."""

    case: Case
    kind: ClassVar[str] = "labels"  # of the report
    asks: ClassVar[str] = "What do these labels hold?"  # that the report answers
    use: ClassVar[Advice] = NOTHING  # what to do with any model that may be used
    by_column: ClassVar[bool] = True  # judged by `action_key`: episodes in which that was measured
    reads: ClassVar[tuple[str, ...]] = ()  # attributes of a model, besides the methods of its protocols

    @classmethod
    def gather(cls, case: Case) -> "Evidence":
        raise NotImplementedError

    @property
    def next(self) -> Advice:
        """What to do with the model of the case if it may be used."""
        return self.case.filled(self.use)

    @property
    def provenance(self) -> Mapping[str, Any]:
        """What the report rests on, besides model, dataset and options; JSON values only."""
        return {}


@dataclass(frozen=True, repr=False)
class EvidenceKind:
    """Evidence that there is about models that can do what the protocols `of` say, and nothing of `unless`."""

    name: str
    cls: type[Evidence]
    of: tuple[type, ...]
    unless: tuple[type, ...]
    place: int

    def __repr__(self) -> str:
        return f"{self.cls.__module__}.{self.cls.__qualname__}"

    def answers(self, kinds: Collection[str]) -> bool:
        """Return whether questions of these kinds of evidence apply to this one: it is one of them, or a subclass."""
        return any(issubclass(self.cls, EVIDENCE[name].cls) for name in kinds if name in EVIDENCE)

    def fits(self, model: Any) -> bool:
        """Return whether a model, or a class of models, gives such evidence."""
        return not lacks(model, *self.of) and all(lacks(model, each) for each in self.unless)


EVIDENCE: Registry[EvidenceKind] = Registry("lattok.evidence", "lattok.evaluation.evidence")
Kind = TypeVar("Kind", bound=type[Evidence])


def register_evidence(
    name: str, of: tuple[type, ...], unless: tuple[type, ...] = (), place: int = LAST
) -> Callable[[Kind], Kind]:
    """Register a class of evidence about models that have the methods of all protocols `of`, and lack some of each of
    `unless`. A report's answer is about the kind with the lowest `place`."""

    def register(cls: Kind) -> Kind:
        EVIDENCE.add(name, EvidenceKind(name, cls, of, unless, place))
        return cls

    return register


def kinds_of(model: Any) -> list[EvidenceKind]:
    """List the kinds of evidence that there are about a model, or a class of models."""
    return sorted((each for each in EVIDENCE.values() if each.fits(model)), key=lambda each: (each.place, each.name))


def check_says(model: Any, names: Sequence[str]) -> None:
    """Refuse a model that lacks what its protocol does not list, since it is no method: attributes."""
    if absent := [name for name in names if not hasattr(model, name)]:
        hint = "Inherit ActionTokenizer, VideoLabeller or Policy of lattok.types, which say what each means."
        checks.fail("model", f"one with {checks.listed(names)}", f"{type(model).__name__} without {absent[0]}", hint)


def facts_of(dataset: RobotDataset) -> dict[str, Any]:
    return {"name": dataset.name, "fps": dataset.fps, "episodes": len(dataset.episodes)}


def provenance_of(dataset: RobotDataset, split: Split, **options: Any) -> dict[str, Any]:
    """Say what a report rests on, but for its models."""
    halves = {"used": split.text, "held_out": split.held_out, "training": split.train}
    return {"dataset": facts_of(dataset), "split": halves, "options": options, "lattok": __version__}
