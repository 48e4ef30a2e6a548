"""`lattok inspect`, `repair`, `view`, `collect`, `annotate`, `verify`, `export`: all verbs about datasets."""

import json
import os
import shlex
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import lattok
from lattok.cli import flags
from lattok.cli.flags import (
    Arg,
    Dataset,
    Device,
    Episodes,
    Folder,
    Format,
    Labels,
    MaybeFile,
    MaybeFolder,
    Models,
    Names,
    Revision,
)
from lattok.utils import checks
from lattok.utils.commands import lines_of
from lattok.utils.devices import devices, moved
from lattok.utils.files import read_json
from lattok.utils.findings import WIDTH
from lattok.utils.output import unused
from lattok.utils.progress import ProgressBar

if TYPE_CHECKING:
    from lattok.data import Inspection, RobotDataset

SMALL = "Train a small latent action model on it (with a GPU, leave out --preset and --features):"
INFERS = "Train an inverse dynamics model, to fill in unknown actions with it (with a GPU, leave out --preset):"
POLICY = "Train a policy on it:"
PRETRAINED = "Pre-train a policy on its labels:"
FROM_FILMS = ("--stages", "pretrain")  # whose labels are all there is
TOKENIZER = "Train a tokenizer on it:"
SHOWN = 6  # episodes in a line
NOT_COPIED = ("dataset", "revision", "cache_gb")  # of a description: about the place of the source
KNOWN = "All tasks of a world, such as metaworld, metaworld-pairs or ogbench, or some of it (metaworld/reach)."


def inspect(
    dataset: Dataset,
    action_key: str | None = None,
    state_key: str | None = None,
    cameras: Names = (),
    episodes: Episodes = None,
    stride: str | None = None,
    horizon: int | None = None,
    labels: Labels = (),
    format: Format = None,
    json_: bool = False,
) -> int:
    """Say what a dataset holds and what in it will hurt: constant dimensions, outliers, missing videos, wrong rates.

    Example: lattok inspect path/to/dataset

    Args:
        action_key: Column with the actions, or none (default: action).
        state_key: Column with the robot state, or none (default: observation.state).
        cameras: Cameras to look at, short names allowed (default: all).
        stride: Gap of a frame pair, frames ("16") or seconds ("0.2s"): how many frames would have no partner?
        horizon: Steps of an action chunk: how many chunks would run over the end of their episode?
        json_: Print all findings as JSON, for programs.
    """
    from lattok.data.inspection import not_opened
    from lattok.data.repairs import GONE, advice_for
    from lattok.data.schema import vector_key

    try:
        opened = lattok.open_dataset(dataset, format=format, labels=labels)
    except checks.LattokError as error:
        if json_:
            print(json.dumps(not_opened(dataset, error), indent=1))
        raise
    asked = {"action_key": flags.column(action_key), "state_key": flags.column(state_key)}
    for argument, key in asked.items():
        if key is not None:
            vector_key(opened, argument, key)
    options: dict[str, Any] = {"episodes": episodes, "cameras": cameras or None, "stride": stride, "horizon": horizon}
    options |= asked
    found = lattok.data.inspect_dataset(opened, **options)
    sound = not any(finding.severity == "error" for finding in found.findings)
    said, words = _next(opened, found, action_key) if sound else ("", [])
    words += ["--labels", *labels] if words and labels else []
    lost = {index for each in found.findings if each.kind in GONE for index in each.episodes}
    left = {episode.index for episode in opened.episodes} - lost  # of none there is nothing to make right
    mend = advice_for(found.findings if left else (), opened.address, unused("repaired"))
    if json_:
        typed = [word for each in mend.commands for word in ("lattok", each.verb, *each.words)]
        print(json.dumps(found.as_json() | {"next": words, "repair": typed}, indent=1))
    else:
        print(checks.printable(found.render()))
        if mend:
            print("", *lines_of(mend.said(typed=True), WIDTH, later="  ", commands=mend.commands), sep="\n")
        if words:
            print(f"\n{said}\n  {shlex.join(words)}")
    return 0 if sound else 1


def _next(opened: "RobotDataset", found: "Inspection", action_key: str | None) -> tuple[str, list[str]]:
    """Return what can be done next with a dataset and the command that does it, if a finding does not say it."""
    from lattok.data.actions.conventions import convention_of
    from lattok.data.episodes import unmeasured
    from lattok.data.problems import films_alone
    from lattok.data.schema import own_vectors

    vectors = own_vectors(opened)
    if action_key is None and "action" not in vectors:
        known = convention_of(opened)
        whole = known[0].joined if known is not None else ()  # else as openpi's converters call it, or the only ones
        named = [name for name in ("actions", *whole) if name in vectors] if len(whole) < 2 else []
        named = named or [name for name in vectors if name.startswith("action")]
        action_key = named[0] if len(named) == 1 else None
    if (acts := action_key or "action") not in vectors:
        return _learns_from(opened, acts) or ("", [])
    if labelled := _learns_from(opened, acts):
        return labelled
    key = ["--action-key", action_key] if action_key else []
    chosen = set(found.read)  # of a large dataset some
    unknown = unmeasured(opened, acts, chosen)
    video = ["--preset", "tiny+robust+flow", "--features", "pixels"]
    if unknown == chosen:
        video += ["--labelled-fraction", "0"]
    kind, small, said = ("image-lam", video, SMALL) if opened.cameras else ("action-vq", [], TOKENIZER)
    if opened.cameras and (unknown or films_alone(opened)) and unknown != chosen:
        kind, small, said = "idm", ["--preset", "tiny"], INFERS
    elif not opened.cameras and unknown:
        if unknown == chosen:
            return "", []
        if len(chosen) == len(found.lengths):
            small = ["--episodes", ",".join(map(str, sorted(chosen - unknown)))]
    return said, ["lattok", "train", kind, opened.address, "--out", unused("my-model"), *key, *small]


def _learns_from(opened: "RobotDataset", action_key: str) -> tuple[str, list[str]] | None:
    """Return how to train a policy on what was added to a dataset as labels; None where nothing was."""
    from lattok.labels.spec import fillers, targets_of

    if action_key in opened.features and fillers(opened, action_key):
        return POLICY, ["lattok", *policy_words(opened, opened.address, action_key)]
    targets = targets_of(opened)
    parts = {prefix: opened.features.keys() & {f"{prefix}.codes", f"{prefix}.embedding"} for prefix in targets}
    prefix = next((each for each, target in targets.items() if target == "steps" and parts[each]), None)
    if prefix is None:
        return None
    codes = f"{prefix}.codes" in parts[prefix]
    words = _words_on(opened, opened.address, action_key, prefix, codes, several=len(targets) > 1)
    return (PRETRAINED if "--stages" in words else POLICY, ["lattok", *words]) if words else None


def repair(
    dataset: Dataset,
    out: MaybeFolder = None,
    also: Names = (),
    dry_run: bool = False,
    format: Format = None,
) -> None:
    """Write a copy of a dataset in which what inspect finds is made right, as far as nothing is invented: LeRobot v3.

    Example: lattok repair path/to/dataset --out repaired

    Args:
        out: New folder for the copy; the dataset stays as it is.
        also: Repairs that depend on the use: wraps (unwrap angles), copies (leave out episodes that equal earlier
            ones), blank and frozen (those in which a camera shows nothing or one picture), last (a last row whose
            action only fills it).
        dry_run: Say what would be done, and write nothing.
    """
    from lattok.data.opening import in_format

    with ProgressBar("repair") as progress:
        done = lattok.repair(in_format(dataset, format), out, also=also, dry_run=dry_run, progress=progress)
    for step in done.steps:
        print(checks.printable(f"- {step.what}"))
    for step in done.more:
        print(checks.printable(f"Not repaired without --also {step.repair}: {step.what}"))
    held = f"{checks.counted(len(done.pieces), 'episode')}, {checks.counted(done.frames, 'frame')}"
    if done.path is None:
        print(f"Nothing was written. The copy would have {held}.")
    else:
        print(f"Repaired, as LeRobot v3: {done.path}, {held}")
        print(f"Look at it again: {shlex.join(['lattok', 'inspect', str(done.path)])}")


def view(
    dataset: Dataset,
    out: MaybeFile = None,
    labels: Labels = (),
    cameras: Names = (),
    episodes: Episodes = None,
    format: Format = None,
) -> None:
    """Show episodes with their codes over time: in rerun where it is installed, otherwise on a page of one file.

    Example: lattok view path/to/annotated --out view.html

    Args:
        out: FILE.html, a page, or FILE.rrd, a recording for rerun (default: rerun itself, or view.html).
        cameras: Cameras to show, short names allowed (default: the first two).
    """
    from lattok.evaluation.page.viewer import view

    opened = lattok.open_dataset(dataset, format=format, labels=labels)
    replaces = Path(out or "view.html").exists()
    with ProgressBar("view") as progress:
        path = view(opened, out, episodes=episodes, cameras=cameras or None, progress=progress.stage)
    if path is not None:
        page = f"Page{', in place of the last one' if replaces else ''}: {path}"
        print(page if path.suffix == ".html" else f"Recording: {path}. Open it with: rerun {path}")


def collect(
    tasks: Annotated[tuple[str, ...], Arg("TASK ...", KNOWN, positional=True)],
    out: Folder,
    episodes: int = 20,
    noise: float = 0.3,
    seed: int = 0,
    size: int = 128,
    repeat: int | None = None,
    variation: Names = (),
    codec: Literal["libsvtav1", "h264"] = "libsvtav1",
    workers: int | None = None,
) -> None:
    """Record demonstrations of scripted experts in a simulator as a LeRobot v3 dataset.

    Example: lattok collect metaworld-pairs --episodes 20 --out demonstrations

    Args:
        out: New folder for the dataset. Run again to continue after an interruption.
        episodes: Successful demonstrations of each task.
        noise: Largest standard deviation of the smooth noise on the expert's actions, whose range is 2; 0 for none.
        seed: Seed of the first attempt; the next ones follow.
        size: Pixels of the sides of an image.
        repeat: Steps of the simulator that an action is held (default: the world's own).
        variation: What changes in the scene with each episode: background, light, camera, distractors=N, layout.
        codec: Codec of the videos.
        workers: Processes (default: one for each core); the dataset is the same with any number.
    """
    options: dict[str, Any] = {"episodes": episodes, "noise": noise, "seed": seed, "size": size, "repeat": repeat}
    options |= {"variation": variation_of(variation), "codec": codec, "workers": workers}
    with ProgressBar("collect") as progress:
        done = lattok.sim.collect(tasks, out, **options, progress=progress)
    width = max(map(len, done.attempts))
    for task, (won, tried) in done.attempts.items():
        print(f"{task:<{width}}  expert succeeded in {won} of {tried}")
    collected = sum(won for won, _ in done.attempts.values())
    print(f"Collected {checks.counted(collected, 'episode')}, {checks.counted(done.frames, 'frame')}: {done.path}")


def variation_of(names: tuple[str, ...]) -> Any:
    """Read "light" and "distractors=5"."""
    given: dict[str, Any] = {}
    for name in names:
        key, equals, number = name.partition("=")
        checks.one_of("variation", key, [field.name for field in fields(lattok.sim.Variation)])
        if key == "distractors" and not number.isdecimal():
            checks.fail("variation", "distractors=N with a whole number", repr(name))
        if key != "distractors" and equals:
            checks.fail("variation", f"{key} without a value", repr(name), "Leave it out to switch it off.")
        given[key] = int(number) if key == "distractors" else True
    return lattok.sim.Variation(**given)


@dataclass(frozen=True)
class Engines:
    """Where labels are computed; they are the same everywhere.

    Attributes:
        engine: What computes labels: this process (local), or processes of this machine or of a cluster (ray).
        address: Running Ray cluster, such as auto or ray://host:10001 (default: Ray starts here).
        workers: Workers (default: as many as there is room for).
        cpus_per_worker: Cores of a worker.
        gpus_per_worker: GPUs of a worker; a fraction lets workers share one.
    """

    engine: Literal["local", "ray"] = "local"
    address: str | None = None
    workers: int | None = None
    cpus_per_worker: float = 1.0
    gpus_per_worker: float = 0.0

    def make(self) -> Any:
        from lattok.annotation import LocalEngine, RayEngine

        if self.engine == "ray":
            return RayEngine(self.address, self.workers, self.cpus_per_worker, self.gpus_per_worker)
        for option in ("address", "workers", "cpus_per_worker", "gpus_per_worker"):
            if (value := getattr(self, option)) != getattr(Engines, option):
                raise checks.LattokError(f"`{option}` is for the engine ray, got {value}. Set engine=ray.")
        return LocalEngine()


def starts_ray(words: Sequence[str]) -> bool:
    """Whether a command may start Ray, told by its words alone: it has to be known before anything is imported."""
    return words[:1] == ["annotate"] and any(word.rpartition("=")[2] == "ray" for word in words)


def annotate(
    dataset: Dataset,
    model: Models,
    out: Folder,
    as_: Literal["latents", "actions"] = "latents",
    prefix: Names = (),
    revision: Revision = None,
    action_key: str = "action",
    cameras: Names = (),
    embedding: bool = True,
    quantized: bool = False,
    precision: Literal["float32", "bfloat16", "bfloat16-all"] = "float32",
    threads: int = 1,
    any_rate: bool = False,
    device: Device = "auto",
    engines: Engines = Engines(),
    labels: Labels = (),
    format: Format = None,
) -> int:
    """Label a dataset with latent actions: a copy with more columns, or a folder of labels if it is not LeRobot.

    Example: lattok annotate path/to/dataset --model my-lam --out annotated

    Args:
        model: One or more models (folders or Hub ids).
        out: New folder. Run again to continue after an interruption, or to fill gaps once files are repaired.
        as_: With actions, an inverse dynamics model fills the column of actions in episodes that have none.
        prefix: Column prefix of each model (default: latent for the only one, inferred with --as actions).
        action_key: Column with the actions, for tokenizers and to be filled.
        cameras: Cameras for a model of video to look at, in its order, short names allowed (default: its own).
        embedding: Write the latents before quantization; --no-embedding leaves them out.
        quantized: Also write the quantized vectors.
        precision: With bfloat16 models of video label faster, and a few codes differ;
            bfloat16-all also rounds what layers hand on.
        threads: Threads of torch on a CPU; part of the result, since sums in another order round differently.
        any_rate: Label a dataset whose frame rate differs from the model's training data; the labels record this.
    """
    from lattok.annotation import INFERRED, Options, label
    from lattok.annotation.labels import Work
    from lattok.data.inspection import frame_sizes
    from lattok.data.table_dataset import tables_of

    engine = engines.make()
    prefix = prefix or ((INFERRED,) if as_ == "actions" and len(model) == 1 else ())
    names, source = _by_prefix(model, prefix), lattok.open_dataset(dataset, format=format, labels=labels)
    written = {"embedding": embedding, "quantized": quantized, "fill": as_ == "actions", "any_rate": any_rate}
    options = Options(**written, action_key=action_key, cameras=cameras or None, threads=threads)
    place = (engine.device and "cpu") or device  # workers move it themselves
    loaded = {key: in_precision(moved(lattok.load(name, revision), place), precision) for key, name in names.items()}
    with ProgressBar("annotate") as progress:
        result = label(Work(source, loaded, options), out, engine=engine, progress=progress)
    if not result.complete:
        print(checks.printable(f"lattok: {result.report()}"), file=sys.stderr)
    if options.fill:
        _say_what_was_unknown(source, action_key, {index for part in result.unlabelled.values() for index in part})
    own, dataset = tables_of(source) is None, source.address
    print(f"{'Labels, in a folder of their own' if own else 'Annotated dataset'}: {result.path}")
    described = not own and dataset.endswith(".json")
    place = [_describe(dataset, out) if described else out]
    _say_what_next(place, model, prefix, revision)
    if words := learning_words(source, place[0], options, loaded):
        print(f"{'Pre-train' if '--stages' in words else 'Train'} a policy: {shlex.join(['lattok', *words])}")
    if own:
        sizes = frame_sizes(source) if source.files.commit is None and len(source.cameras) == 1 else ()
        one = ["--size", *(str(side - side % 2) for side in min(sizes))] if len(sizes) > 1 else []  # as LeRobot has
        one += ["--skip-damaged"] * bool(source.damaged)  # else nothing is exported
        print(f"Join them: {shlex.join(['lattok', 'export', *place, '--out', unused('joined'), *one])}")
    return 0 if result.complete else 1


def _say_what_was_unknown(source: Any, key: str, failed: Collection[int]) -> None:
    from lattok.labels.spec import measured_episodes

    read = [episode for episode in source.episodes if episode.index not in failed]
    known = len(measured_episodes(source, key, read)) if key in source.features else 0
    unknown = f"{len(read) - known} of {checks.counted(len(read), 'episode')}"
    others = "; the others keep theirs" if 0 < known < len(read) else ""
    print(f"Actions were unknown in {unknown}{others}.")


def _describe(dataset: str, out: str) -> str:
    """Say how to describe a copy, which has columns and cameras as they are stored; return the file's name."""
    said = {key: value for key, value in read_json(Path(dataset)).items() if key not in NOT_COPIED}
    words, place = shlex.quote(json.dumps({"dataset": Path(out).name, **said})), out.rstrip("/")
    file = f"{unused(place, lambda name: os.path.lexists(f'{name}.json'))}.json"
    print(f"Describe it as {dataset} describes its dataset: echo {words} > {shlex.quote(file)}")
    return file


def _say_what_next(place: list[str], models: Sequence[str], prefixes: Sequence[str], revision: str | None) -> None:
    given = ["--model", *models, *(["--prefix", *prefixes] if prefixes else [])]
    given += ["--revision", revision] if revision else []
    print(f"Check them: {shlex.join(['lattok', 'verify', *place, *given])}")
    print(f"Look at them: {shlex.join(['lattok', 'view', *place])}")


def learning_words(source: "RobotDataset", place: str, options: Any, loaded: Mapping[str, Any]) -> list[str]:
    """Return words that train a policy on what was labelled; none where it cannot learn from that."""
    if options.fill:
        return policy_words(source, place, options.action_key)
    prefix = next((key for key, model in loaded.items() if model.label_source == "video"), None)
    if prefix is None or not (loaded[prefix].codebook_size or options.embedding):
        return []
    codes, several = bool(loaded[prefix].codebook_size), len(loaded) > 1
    return _words_on(source, place, options.action_key, prefix, codes, several)


def _words_on(
    source: "RobotDataset", place: str, action_key: str, prefix: str, codes: bool, several: bool
) -> list[str]:
    """Return words that train a policy on the labels of a prefix; none where some actions are unknown."""
    from lattok.labels.spec import measured_episodes

    every, films = source.episodes, action_key not in source.features
    if not films and len(measured_episodes(source, action_key, every)) < len(every):
        return []
    more = ["--strategy", "la_direct" if codes else "la_direct_c", *(FROM_FILMS if films else ())]
    return policy_words(source, place, action_key, *more, *(["--prefix", prefix] if several else []))


def policy_words(source: "RobotDataset", place: str, action_key: str, *more: str) -> list[str]:
    """Return words that train a policy on this machine."""
    from lattok.recipes.run_folder import key_flags

    state = [] if "observation.state" in source.features else ["--no-proprio"]
    small = [] if len(devices()) > 1 else ["--backbone", "scratch"]
    return ["train", "vla", place, "--out", unused("my-policy"), *key_flags(action_key), *state, *small, *more]


def hide(
    dataset: Dataset,
    keep: Annotated[str, Arg(said=flags.CHOSEN)],
    out: Folder,
    tasks: Annotated[tuple[str, ...], Arg("TEXT ...")] = (),
    action_key: str = "action",
    format: Format = None,
) -> None:
    """Copy a dataset with the actions of most episodes unknown, to try what few known ones are worth.

    Example: lattok hide path/to/dataset --keep "2 per task" --out few

    Args:
        keep: Episodes whose actions stay known.
        out: New folder for the copy; the dataset stays as it is.
        tasks: Of these, only episodes with one of these instructions stay known.
        action_key: Column with the actions.
    """
    source = lattok.open_dataset(dataset, format=format)
    done = lattok.hide(source, out, keep, tasks=tasks, action_key=action_key)
    known, hidden = len(done.known), len(done.hidden)
    which = checks.few_of(done.known, SHOWN)
    print(f"Actions known in {checks.counted(known, 'episode')} ({which}), hidden in {hidden}: {done.path}")
    key = ["--action-key", action_key] if action_key != "action" else []
    train = ["lattok", "train", "idm", str(done.path), "--out", unused("my-idm"), *key, "--preset", "tiny"]
    print(f"{INFERS}\n  {shlex.join(train)}")


def verify(
    dataset: Dataset,
    model: Models,
    prefix: Names = (),
    labels: Labels = (),
    sample: int = 20,
    seed: int = 0,
    revision: Revision = None,
    device: Device = "auto",
    format: Format = None,
) -> int:
    """Make a random sample of labels again: do they come from this model, with this preprocessing, code for code?

    Example: lattok verify annotated --model my-lam

    Args:
        model: The models (folders or Hub ids), in the order of --prefix.
        prefix: Column prefix of each model (default: the only one in the dataset).
        sample: Episodes to label again.
        seed: Which episodes are drawn.
    """
    from lattok.annotation.verify import known_labels

    source = lattok.open_dataset(dataset, format=format, labels=labels)
    provenance, loaded = known_labels(source), {}
    names = _by_prefix(model, prefix or (tuple(provenance) if len(provenance) == 1 else ()))
    for column, name in names.items():
        precision = provenance.get(column, {}).get("model", {}).get("precision", "float32")
        loaded[column] = in_precision(moved(lattok.load(name, revision), device), precision)
    result = lattok.verify(source, loaded, episodes=sample, seed=seed)
    print(checks.printable(result.render()))
    return 0 if result.holds else 1


def export(
    dataset: Dataset,
    out: Folder,
    labels: Labels = (),
    format: Annotated[str, Arg("NAME")] = "lerobot",
    episodes: Episodes = None,
    images: Literal["auto", "video", "image"] = "auto",
    video_codec: Literal["libsvtav1", "h264"] = "libsvtav1",
    size: Annotated[tuple[int, int] | None, Arg("H W")] = None,
    skip_damaged: bool = False,
) -> None:
    """Write a dataset of any format as LeRobot v3, RLDS or what a package adds, together with its labels.

    Example: lattok export path/to/dataset --out exported --labels path/to/labels

    Args:
        out: New folder for the dataset.
        format: What is written: lerobot (LeRobot v3), rlds (for code that reads TFDS), or the format of a package that
            adds one. What is read is named in front of it, as in rlds::path/to/dataset.
        images: How frames are stored; auto keeps stored JPEG and PNG as they are and makes videos of others, image
            stores all without loss.
        video_codec: Codec of the videos.
        size: Height and width to resize all frames to; needed if they differ in size.
        skip_damaged: Leave out episodes that cannot be read, and say which.
    """
    source = lattok.open_dataset(dataset, labels=labels)
    options: dict[str, Any] = {"format": format, "episodes": episodes, "images": images, "video_codec": video_codec}
    with ProgressBar("export") as progress:
        done = lattok.export(source, out, **options, size=size, skip_damaged=skip_damaged, progress=progress)
    for damage in done.left_out:
        print(checks.printable(f"left out: episode {damage.episode_index}: {damage.reason}"), file=sys.stderr)
    print(
        f"Exported {checks.counted(len(done.episodes), 'episode')}, {checks.counted(done.frames, 'frame')}: {done.path}"
    )


def in_precision(model: Any, precision: str) -> Any:
    if precision == "float32":
        return model
    if model.label_source != "video":
        hint = "Label with a model of video and with this one in two runs."
        checks.fail("precision", "float32 for a tokenizer of actions", precision, hint)
    return lattok.for_inference(model, precision)


def _by_prefix(models: Sequence[str], prefixes: Sequence[str]) -> dict[str, str]:
    prefixes = prefixes or (["latent"] if len(models) == 1 else [])
    checks.size("prefix", "prefixes, one per model, such as --prefix latent tokens", len(prefixes), len(models))
    checks.size("prefix", "different prefixes", len(set(prefixes)), len(models))
    return dict(zip(prefixes, models, strict=True))
