"""What latent labels are, as one value, and how they were made, as meta/lattok.json says it.

steps    an image model labelled every frame t with the P codes of the pair (t, t + stride): S = H steps
chunk    an action tokenizer labelled frame t with the tokens of the chunk that starts there: S tokens of one code

Annotation writes a `LatentSpec`, policies hold it, losses are built from it; `latent_spec` checks it for a policy.

LeRobot's own tools for splitting, deleting and merging drop meta/lattok.json. They copy the features in meta/info.json
as they are, so the facts that are true of any part of the labels also stand there, at the column `PREFIX.valid`: model,
preprocessing, shapes. Merging wants equal features: what differs between datasets of one model is not among them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import numpy as np
import torch
from typing_extensions import TypedDict

from lattok.data.episodes import unmeasured
from lattok.data.schema import PROVENANCE, RobotDataset, vector_key
from lattok.hub import parse_config
from lattok.hub.records import Count
from lattok.nn.quantize import MOST_CODES
from lattok.types import ActionTokenizer, Episode, Gap, Labeller, VideoLabeller
from lattok.utils import checks
from lattok.utils.checks import MOST_THREADS, LattokError
from lattok.utils.commands import DATASET, command
from lattok.utils.output import unused
from lattok.utils.untrusted import Rule, typed

PARTS = ("codes", "embedding")  # of a label, in columns PREFIX.codes and PREFIX.embedding
SOURCES = {"steps": "video", "chunk": "actions"}  # target of a policy: what its labels were made from
INFO = Path("meta") / "info.json"
AGAIN = "Annotate again, or copy the file again."
MODELS = {"steps": "an image model", "chunk": "an action tokenizer"}


@dataclass(frozen=True)
class LatentSpec:
    """Latent actions that supervise a policy. A size of 0: no such part, or of unknown size. JSON values only."""

    target: str = "steps"  # or "chunk"
    steps: int = 0  # S, of each sample; 0: one for each step of the policy, or tokens that vary in number
    codes: int = 0  # P of each step; 0: the model is continuous
    codebook_size: int = 0  # K
    vectors: int = 0  # E of each step; 0: not written, or those of a chunk are not one for each token
    latent_dim: int = 0  # d
    stride: int = 0  # frames between the two images of a pair
    horizon: int = 0  # steps of the chunk that was tokenized
    per_step: bool = False  # the tokens of a chunk are those of its steps, one for each
    prefix: str = "latent"  # of the columns

    def __post_init__(self) -> None:
        checks.one_of("target", self.target, SOURCES)
        checks.whole(steps=self.steps, codes=self.codes, vectors=self.vectors)
        checks.whole(latent_dim=self.latent_dim, horizon=self.horizon)
        checks.counts(0, MOST_CODES, codebook_size=self.codebook_size)
        checks.counts(0, checks.MOST_STRIDE, stride=self.stride)
        if not isinstance(self.prefix, str) or not self.prefix:
            checks.fail("prefix", "the beginning of the names of columns", repr(self.prefix))

    @property
    def source(self) -> str:
        """What the labels were made from: "video" or "actions"."""
        return SOURCES[self.target]

    @property
    def tokens(self) -> int:
        """Latent tokens of a step: its codes, or the vectors of a continuous model."""
        return self.codes or self.vectors or 1

    def has(self, part: str) -> bool:
        """Return whether there are "codes" of a known codebook, or vectors ("embedding") of a known width."""
        return self.codes > 0 and self.codebook_size > 1 if part == "codes" else self.vectors * self.latent_dim > 0

    def column(self, part: str) -> str:
        """Return the name of the column that holds "codes", "embedding" or "valid"."""
        return f"{self.prefix}.{part}"

    def widths(self) -> dict[str, int]:
        """Count the numbers in a row of each existing column."""
        rows = self.steps if self.target == "chunk" else 1
        widths = {"codes": rows * self.codes, "embedding": rows * self.vectors * self.latent_dim, "valid": 1}
        return {part: width for part, width in widths.items() if width}

    def to_json(self) -> dict[str, Any]:
        """Return the spec as meta/lattok.json holds it, under its prefix."""
        return {name: value for name, value in asdict(self).items() if name != "prefix"}

    @classmethod
    def from_json(cls, facts: Mapping[str, Any], prefix: str, where: str) -> "LatentSpec":
        """Return the spec that `to_json` wrote; errors say `where` it was read."""
        if "target" not in facts:
            checks.fail(where, "`target`, steps or chunk", "none", "Annotate again.")
        return parse_config(cls, {**facts, "prefix": prefix}, where)


def spec_of(model: Labeller, prefix: str, codes: int, vectors: int, latent_dim: int, stride: int = 0) -> LatentSpec:
    """What the labels of a model are, from the rows that it gives: so many codes, and vectors of `latent_dim` numbers.
    The tokens of a chunk are steps of one code; they have vectors where there is one for each of them."""
    if model.label_source == "video":
        size = cast(VideoLabeller, model).codebook_size if codes else None
        return LatentSpec("steps", 0, codes, size or 0, vectors, latent_dim, stride, prefix=prefix)
    tokenizer = cast(ActionTokenizer, model)
    size, own = tokenizer.vocab_size if codes else 0, codes == vectors > 0
    made: dict[str, Any] = {"horizon": tokenizer.horizon, "per_step": tokenizer.per_step, "prefix": prefix}
    made |= {"steps": codes if tokenizer.fixed_length else 0, "codes": min(codes, 1), "codebook_size": size}
    return LatentSpec("chunk", vectors=int(own), latent_dim=latent_dim if own else 0, **made)


@dataclass(frozen=True)
class Options:
    """Which labels are written, and from what. `meta/lattok.json` holds all of it, since `verify` needs it again.

    Attributes:
        embedding: Latents before quantization are written.
        quantized: Quantized vectors are written.
        action_key: Column with the actions.
        cameras: Those that a model of video looks at, in its order. None: its own.
        threads: Threads of torch. Sums in another order round differently.
        fill: Inferred actions fill `action_key` where the true ones are unknown.
        any_rate: Models may have learned at another rate than the dataset's.
    """

    embedding: bool = True
    quantized: bool = False
    action_key: str = "action"
    cameras: tuple[str, ...] | None = None
    threads: Annotated[int, Rule(f"a whole number from 1 to {MOST_THREADS}", lambda it: 0 < it <= MOST_THREADS)] = 1
    fill: bool = False
    any_rate: bool = False


class SourceRecord(TypedDict, total=False):  # the dataset that labels were made from
    name: str
    fps: Annotated[float, Rule("frames per second between 1e-6 and 1e6", checks.is_frame_rate)]
    kind: str
    split: str | None
    episodes: Count
    frames: Count


class ColumnRecord(TypedDict, total=False):  # a label column; both facts are there
    dtype: str
    shape: Annotated[list[int], Rule("a shape", lambda it: all(0 < n < 2**31 for n in it) and math.prod(it) < 2**31)]


class GapRecord(TypedDict, total=False):  # episodes without labels
    episodes: Annotated[list[int], Rule("numbers of episodes", bool)]
    reason: str


RUNS = Rule(
    "runs of episodes, first and last, in order",
    lambda it: all(len(run) == 2 and 0 <= run[0] <= run[1] < 2**62 for run in it) and sorted(it) == [*it],
)


class DigestRecord(TypedDict, total=False):  # of episodes, see `digests_to_json`
    episodes: Annotated[list[list[int]], RUNS]
    digests: str


class FillRecord(TypedDict, total=False):  # what inferred actions fill where nobody knows the robot's own
    column: str
    names: list[str]  # of its dimensions
    parts: list[str]  # columns that are joined to it
    filled: Annotated[list[list[int]], RUNS]  # episodes
    measured: DigestRecord  # episodes that were measured
    converted: bool  # to another action space, by an export


UNREADABLE = {"file", "first", "last", "column"}


class UnreadableRecord(TypedDict, total=False):  # a part of the dataset that could not be copied; all facts are there
    file: str
    first: Count
    last: Count
    column: str


class LabelRecord(TypedDict, total=False):
    """What is written down about the labels of a prefix; readers count on these facts."""

    spec: dict[str, Any]
    dataset: Annotated[SourceRecord, Rule("a name", lambda it: "name" in it)]
    files: DigestRecord  # that episodes were read from, where labels are in a folder of their own
    versions: dict[str, str]
    model: dict[str, Any]
    columns: dict[str, Annotated[ColumnRecord, Rule("a dtype and a shape", lambda it: it.keys() >= {"dtype", "shape"})]]
    options: Options
    actions_as: Annotated[list[dict[str, Any]], Rule("a list of objects, the parts of an action space")]
    cameras: list[str]
    original_cameras: list[str]
    stride_seconds: float
    fills: Annotated[FillRecord, Rule("a column, and runs of episodes", lambda it: "column" in it)]
    unlabelled: list[Annotated[GapRecord, Rule("episodes and a reason", lambda it: {*it} >= {"episodes", "reason"})]]
    unreadable: list[Annotated[UnreadableRecord, Rule("a file, rows and a column", UNREADABLE.issubset)]]
    frames: Literal["same", "source"]  # of an export: those that labels were made from, or others
    restored: bool  # from meta/info.json


def prefix_flags(dataset: RobotDataset, prefix: str) -> list[str]:
    """Return what is typed to label a dataset under a prefix: nothing, or another one where a column has it."""
    free = free_prefix(dataset, prefix)
    return [] if free == prefix else ["--prefix", free]


def free_prefix(dataset: RobotDataset, prefix: str) -> str:
    """Return a prefix, or one like it where a column has it."""
    return unused(prefix, lambda name: any(key.startswith(f"{name}.") for key in dataset.features), "")


def provenance_of(dataset: RobotDataset) -> dict[str, Any]:
    """What a dataset says about its labels, by prefix; entries found in meta/info.json alone say `"restored": true`."""
    if dataset.labels is not None:
        return dataset.labels.provenance
    entries, file = dataset.provenance()
    return check_records(entries, str(file))


def inferred_episodes(dataset: RobotDataset, key: str, episodes: Sequence[Episode]) -> list[int]:
    """Find the episodes whose values of a column a model inferred (annotate --as actions): they were not measured."""
    found = confidences(dataset, key, episodes)
    return [episode.index for episode in episodes if episode.index in found]


def measured_episodes(dataset: RobotDataset, key: str, episodes: Sequence[Episode]) -> list[Episode]:
    """Choose the episodes whose actions are known: not NaN throughout, nor what a model inferred. Where only some rows
    of one are NaN, reading its actions raises `LattokError`."""
    vector_key(dataset, "action_key", key)
    unknown = {*inferred_episodes(dataset, key, episodes), *unmeasured(dataset, key, {each.index for each in episodes})}
    return [each for each in episodes if each.index not in unknown]


def confidences(dataset: RobotDataset, key: str, episodes: Sequence[Episode]) -> dict[int, np.ndarray]:
    """Return by episode how sure a model is of the values of a column that it inferred, [T]; 1 where it cannot say."""
    found = dict[int, np.ndarray]()
    for prefix in fillers(dataset, key):
        mark, sure = f"{prefix}.filled", f"{prefix}.confidence"
        keys = [name for name in (mark, sure) if name in dataset.features]
        for episode in episodes if mark in keys else ():
            columns = dataset.columns(episode.index, keys)
            if columns[mark].any():
                found[episode.index] = columns.get(sure, np.ones(episode.length)).reshape(-1)
    return found


def fillers(dataset: RobotDataset, key: str) -> list[str]:
    """Return the prefixes of models whose actions fill a column, or one of those that are joined to it."""
    marked = any(name.endswith(".filled") for name in dataset.features)
    fills = {name: entry.get("fills", {}) for name, entry in provenance_of(dataset).items()} if marked else {}
    asked = {key, *dataset.joined.get(key, ())}
    return [name for name, each in fills.items() if asked & {each.get("column"), *each.get("parts", ())}]


def check_records(entries: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Return entries that are objects. Their facts must have the types that readers count on; further may be there."""
    found = {prefix: entry for prefix, entry in entries.items() if isinstance(entry, dict)}
    for prefix, entry in found.items():
        typed(entry, LabelRecord, prefix, path, AGAIN)
        if "spec" in entry:
            LatentSpec.from_json(entry["spec"], "latent", f"spec of {prefix} in {path}")
    return found


def taking(labels: str) -> tuple[str, ...]:
    """Return the words that take labels of another program into a dataset."""
    return ("import-labels", DATASET, "--from", labels, "--as", "latents")


def latent_spec(
    dataset: RobotDataset, prefix: str, target: str, horizon: int, stride: Gap = None, *, needs: Sequence[str] = ()
) -> LatentSpec:
    """Return what the label columns under `prefix` hold, as annotation wrote it, for chunks of `horizon` steps.

    `stride` (frames or "0.2s"), if given, must be that of the labels. `needs`: which of "codes" and "embedding" must
    exist. Everything that does not fit raises `LattokError` with the way out.
    """
    checks.one_of("target", target, MODELS)
    checks.counts(horizon=horizon)
    _check_columns(dataset, prefix, target, needs)
    entry, where = provenance_of(dataset).get(prefix, {}), f"{PROVENANCE} of {dataset.name}"
    if "spec" not in entry:
        own = command(*taking(prefix), "--prefix", f"{prefix}2", "--out", "OUT")
        way_out = f"Annotate again; columns of another program: {own}"
        raise LattokError(f"{where} does not say what the labels `{prefix}` are. {way_out}")
    spec = LatentSpec.from_json(entry["spec"], prefix, where)
    if spec.target != target:
        way_out = f"Choose a strategy that learns from labels of {MODELS[spec.target]}, or another prefix"
        hint = f"{way_out}: {_annotate(prefix, target, dataset)}"
        checks.fail(prefix, f"labels of {MODELS[target]}", f"labels of {MODELS[spec.target]}", hint)
    for part, width in spec.widths().items():
        found = math.prod(dataset.features[spec.column(part)].shape) if spec.column(part) in dataset.features else 0
        hint = f"The columns and {PROVENANCE} are not of one annotation: annotate again."
        checks.size(spec.column(part), f"numbers a row, as {PROVENANCE} says", found, width, hint)
    if target == "steps":
        stride = None if stride is None else checks.stride_in_frames(stride, dataset.fps)
        if stride not in (None, spec.stride):
            other = f"annotate with a model of stride {stride}: {_annotate(prefix, 'steps', dataset)}"
            expected = f"{checks.counted(spec.stride, 'frame')}, the stride of the labels `{prefix}`"
            checks.fail("stride", expected, stride, f"Give stride={spec.stride}, or {other}")
        return replace(spec, steps=horizon)
    if stride is not None:
        raise LattokError(f"`stride` {stride} was given, but labels of an action tokenizer have none.")
    if spec.horizon != horizon:
        other = f"annotate with a tokenizer of horizon {horizon}: {_annotate(prefix, 'chunk', dataset)}"
        hint = f"Give horizon={spec.horizon}, or {other}"
        checks.fail(
            "horizon", f"{checks.counted(spec.horizon, 'step')}, as the labels `{prefix}` were made of", horizon, hint
        )
    return _check_chunk(prefix, spec, needs)


def tokenizer_spec(tokenizer: ActionTokenizer, horizon: int, needs: Sequence[str] = ()) -> LatentSpec:
    """Return the spec of an action tokenizer that labels batches as they are drawn, in place of columns."""
    if not isinstance(tokenizer, ActionTokenizer):
        checks.fail("tokenizer", "an action tokenizer", type(tokenizer).__name__, "Image models label with annotate.")
    if tokenizer.horizon != horizon:
        hint = f"Give horizon={tokenizer.horizon}, or train a tokenizer with horizon={horizon}."
        checks.fail(
            "tokenizer",
            f"a tokenizer of chunks of {checks.counted(horizon, 'step')}",
            f"one of {tokenizer.horizon}",
            hint,
        )
    made = tokenizer.latent_actions(torch.zeros(1, horizon, tokenizer.action_dim))
    vectors, width = made.latents.shape[1:]
    return _check_chunk("tokenizer", spec_of(tokenizer, "latent", made.codes.shape[1], vectors, width), needs)


def targets_of(dataset: RobotDataset) -> dict[str, str]:
    """By prefix, whether a dataset's labels are those of steps or of chunks, where it is written down."""
    return {prefix: entry["spec"]["target"] for prefix, entry in provenance_of(dataset).items() if "spec" in entry}


def only_prefix(dataset: RobotDataset, target: str, strategy: str) -> str:
    """Return the one prefix whose labels fit; where there is none, the error about the usual one says what to do."""
    if len(found := [prefix for prefix, kind in targets_of(dataset).items() if kind == target]) > 1:
        checks.fail("prefix", f"one of {', '.join(found)}, all of them labels that {strategy} can learn from", "none")
    return found[0] if found else "latent"


def _annotate(prefix: str, target: str, dataset: RobotDataset | None = None) -> str:
    """Return the command that makes labels; of a dataset that has some under this prefix, under another."""
    prefix = prefix if dataset is None else free_prefix(dataset, prefix)
    return f"lattok annotate DATASET --model {'LAM' if target == 'steps' else 'TOKENIZER'} --prefix {prefix} --out DIR"


def _check_columns(dataset: RobotDataset, prefix: str, target: str, needs: Sequence[str]) -> None:
    for name in needs:
        checks.one_of("needs", name, PARTS)
    missing = [] if any(f"{prefix}.{name}" in dataset.features for name in PARTS) else ["codes"]
    missing += [name for name in (*needs, "valid") if f"{prefix}.{name}" not in dataset.features]
    if not missing:
        return
    columns = ", ".join(f"`{prefix}.{name}`" for name in dict.fromkeys(missing))
    others = sorted(key.removesuffix(".valid") for key in dataset.features if key.endswith(".valid"))
    instead = f" It has labels under {', '.join(map(repr, others))}." if others and prefix not in others else ""
    if prefix in others and missing == ["codes"]:
        instead = " Its model is continuous and has no codes: regress or align latents (strategy=la_direct_c)."
    if prefix in others and missing == ["embedding"]:
        instead = " It was annotated with embedding=False."
    raise LattokError(
        f"dataset `{dataset.name}` has no {columns}.{instead} Make them: {_annotate(prefix, target, dataset)}"
    )


def _check_chunk(name: str, spec: LatentSpec, needs: Sequence[str]) -> LatentSpec:
    """Return the spec, if a policy can learn from the tokens of a chunk as placeholders predicted in one pass."""
    if spec.codes == 0:
        checks.fail(name, "labels with codes: the tokens of a chunk", "vectors alone", _annotate(name, "chunk"))
    if spec.steps == 0:
        hint = "Use action-vq, residual-vq, fsq, uniform-bins, oat, quest, beast or vqbet."
        got = "tokens of a family with different numbers of them (FAST)"
        checks.fail(name, "as many tokens in every chunk: placeholders are predicted in one pass", got, hint)
    if "embedding" in needs and not spec.vectors:
        hint = "Of the families of tokenizers, action-vq has them."
        checks.fail(
            name, f"a latent vector for each of {checks.counted(spec.steps, 'token')}", "vectors of whole chunks", hint
        )
    return spec
