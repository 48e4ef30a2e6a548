"""`lattok label`, of one video, and `lattok import-labels`, of what another program made."""

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import lattok
from lattok.cli.datasets import learning_words, policy_words
from lattok.cli.flags import Arg, Dataset, Device, Folder, Format, Names, Revision
from lattok.utils import checks
from lattok.utils.devices import moved
from lattok.utils.files import check_writable, write_text
from lattok.utils.output import Output, unused
from lattok.utils.progress import ProgressBar

TABLE, PAGE = ".parquet", ".html"
FROM = "Folder of files with actions, or the LeRobot dataset of a dump; of latents a folder of .npy, or a column."
VIDEOS = "Video file; for a model of several cameras one for each, in its order."


def label(
    video: Annotated[tuple[str, ...], Arg("VIDEO ...", VIDEOS, positional=True)],
    model: Annotated[str, Arg("MODEL", "Folder of a model of video, or a Hub id.")],
    out: Annotated[tuple[str, ...], Arg("FILE ...")] = (),
    stride: str | None = None,
    fps: float | None = None,
    task: str = "",
    revision: Revision = None,
    device: Device = "auto",
) -> None:
    """Label one video: a table with a row for each frame, and a page that shows the film with its codes.

    Example: lattok label clip.mp4 --model my-lam

    Args:
        out: FILE.parquet, the table, FILE.html, the page, or both (default: both, named after the video).
        stride: Gap of a frame pair, frames ("16") or seconds ("0.2s") (default: the model's own).
        fps: Frames a second, if the file does not say them.
        task: The instruction, for a model that reads it.
    """
    from lattok.data.formats.lerobot_meta import INFO
    from lattok.image_lam.base.video_file import label_files
    from lattok.latent_actions import write_table
    from lattok.types import InfersActions, lacks

    for each in video:
        if (place := Path(each).expanduser()).is_dir():
            inside = next((above for above in place.parents if (above / INFO).is_file()), None)  # of a LeRobot dataset
            whole = each if inside is None else str(inside)
            words = shlex.join(["lattok", "annotate", whole, "--model", model, "--out", unused("my-labels")])
            checks.fail("video", "a video file", f"{each}, a folder", f"All that is in it: {words}")
    loaded: Any = moved(lattok.load(model, revision), device)
    if getattr(loaded, "label_source", None) != "video" or not loaded.cameras:
        hint = "A dataset is labelled by: lattok annotate DATASET --model MODEL --out OUT."
        checks.fail("model", "a model of video, such as an ImageLAM", type(loaded).__name__, hint)
    places = [Path(each).expanduser() for each in out or _names(video[0])]
    for place in places:
        if place.suffix not in (TABLE, PAGE):
            checks.fail("out", f"FILE{TABLE}, a table, or FILE{PAGE}, a page", str(place))
        Output(place).check_absent("file")
        check_writable(place.parent, f"out=FILE{place.suffix}")  # before the film is labelled
    acts = not lacks(loaded, InfersActions)
    given = {"task": task} if loaded.reads_task and not acts else {}
    labels = label_files(loaded, video, stride, fps, **given)
    if labels.valid is not None and not labels.valid.any():
        expected = "a film with two frames a stride apart"
        checks.fail(
            "video", expected, f"{checks.counted(len(labels), 'frame')} in {video[0]}", "Give a shorter stride."
        )
    print(checks.printable(repr(labels)))
    for place in places:
        if place.suffix == TABLE:
            table = labels.to_arrow()
            for name, column in (_actions(loaded, labels.latents, task) if acts else {}).items():
                table = table.append_column(name, column)
            print(f"Table with {', '.join(table.column_names)}: {write_table(table, place)}")
        elif labels.codes.shape[1]:
            write_text(place, _page(loaded, labels, video, fps))
            print(f"Film with its codes: {place}")
        else:
            print("There is no page: this model has no codes to show.")


def import_labels(
    dataset: Dataset,
    from_: Annotated[str, Arg("FOLDER", FROM)],
    out: Folder,
    as_: Literal["actions", "latents"] = "actions",
    stride: str | None = None,
    fps: float | None = None,
    between: Literal["hold", "divide"] | None = None,
    names: Names = (),
    unit: str = "",
    made_by: str = "",
    every: bool = False,
    scale: Annotated[tuple[float, ...], Arg("X ...")] = (),
    offset: Annotated[tuple[float, ...], Arg("X ...")] = (),
    action_key: str = "action",
    prefix: str | None = None,
    format: Format = None,
) -> int:
    """Take actions that another program inferred (Cosmos 3, GR00T-Dreams, arrays), or its latents, into a dataset.

    Actions fill their column where it is unknown, marked as inferred. Where all are known, what was inferred goes into
    columns beside them, to be evaluated. From latent actions a policy learns as from those of lattok's models.

    Example: lattok import-labels path/to/videos --from outputs --out filled --unit "m, 6d rotation"

    Args:
        out: New folder: a copy with more columns, or labels alone if the dataset is not LeRobot.
        as_: With latents, whole numbers are codes and floats are vectors, a row for each frame, or for every k-th.
        stride: Over how much time a latent action describes the motion, in frames ("4") or seconds ("0.2s") (default:
            until the next row).
        fps: Rows a second, if there are fewer than frames.
        between: What a row is for its frames, if there are fewer rows: hold (targets) or divide (increments).
        names: Names of an action's numbers.
        unit: Their unit, for the record.
        made_by: What inferred them, such as "Cosmos3-Nano", for the record.
        every: Count all actions of the column as inferred, as in generated videos.
        scale: By what a row's numbers are multiplied to have the dataset's unit: one for all, or one for each.
        offset: What is added to them then, in the dataset's unit.
        action_key: Column to fill; another name writes them into a separate column.
        prefix: Of the columns that are added (default: inferred, or latent).
    """
    from lattok.annotation.importing import INFERRED, import_actions

    source = lattok.open_dataset(dataset, format=format)
    given: dict[str, Any] = {"fps": fps, "between": between, "names": names, "unit": unit}
    given |= {"scale": scale, "offset": offset, "every": every}
    if as_ == "latents":
        if unused_ := [name for name, value in given.items() if value]:
            checks.fail(unused_[0], "nothing with --as latents", repr(given[unused_[0]]))
        return _import_latents(source, from_, out, action_key, prefix, stride=stride, made_by=made_by)
    if stride is not None:
        checks.fail("stride", "nothing with --as actions", stride, "Actions at a lower rate are said by fps.")
    prefix = prefix or INFERRED
    given |= {"made_by": made_by, "action_key": action_key, "prefix": prefix}
    with ProgressBar("import-labels") as progress:
        result, filled = import_actions(source, from_, out, **given, progress=progress)
    if not result.complete:
        print(checks.printable(f"lattok: {result.report()}"), file=sys.stderr)
    key = ["--action-key", action_key] if action_key != "action" else []
    if filled:
        print(f"Inferred actions in `{action_key}`, marked in `{prefix}.filled`: {result.path}")
        words = policy_words(source, out, action_key)
    else:
        print(f"All actions are known; beside them, as `{prefix}.action`, are the inferred ones: {result.path}")
        words = ["evaluate", dataset, "--labels", out, *key, *(["--format", format] if format else [])]
    print(f"{'Train a policy' if filled else 'Evaluate them'}: {shlex.join(['lattok', *words])}")
    return 0 if result.complete else 1


def _import_latents(source: Any, labels: str, out: str, action_key: str, prefix: str | None, **options: Any) -> int:
    from lattok.annotation import Options
    from lattok.annotation.importing import LatentSpec, import_latents

    prefix = prefix or LatentSpec.prefix
    with ProgressBar("import-labels") as progress:
        result, model = import_latents(source, labels, out, prefix=prefix, progress=progress, **options)
    if not result.complete:
        print(checks.printable(f"lattok: {result.report()}"), file=sys.stderr)
    print(f"Latent actions as `{prefix}`: {result.path}")
    if words := learning_words(source, out, Options(action_key=action_key), {prefix: model}):
        print(f"{'Pre-train' if '--stages' in words else 'Train'} a policy: {shlex.join(['lattok', *words])}")
    return 0 if result.complete else 1


def _names(video: str) -> list[str]:
    """Name both files after a video, so that neither is there yet."""
    ends = (TABLE, PAGE)
    stem = unused(f"{Path(video).stem}-labels", lambda name: any(os.path.lexists(name + end) for end in ends))
    return [stem + end for end in ends]


def _actions(model: Any, latents: Any, task: str) -> dict[str, Any]:
    """Return the columns of inferred actions, of a model that needs nothing but video."""
    import numpy as np
    import pyarrow as pa

    from lattok.latent_actions import rows_of

    if model.state_key is not None:
        print("The table has no actions: the model also reads the robot's state, which a dataset holds (annotate).")
        return {}
    read = model.decode_actions(latents, task)
    sure = {"confidence": pa.array(np.exp(-read.spread))} if latents.shape[1] > 1 else {}
    return {"action": rows_of(read.actions), **sure}


def _page(model: Any, labels: Any, video: tuple[str, ...], fps: float | None) -> str:
    import numpy as np

    from lattok.data.alike import called
    from lattok.data.schema import short_name
    from lattok.evaluation.page.episode import EpisodeCodes, film_frames, shrink
    from lattok.evaluation.page.viewer import page_of_film
    from lattok.image_lam.base.video_file import open_videos

    films, shown = open_videos(model.cameras, video, fps), film_frames(len(labels))
    frames = {
        short_name(camera): np.concatenate([shrink(block).copy() for block in film.blocks(shown)])
        for camera, film in zip(model.cameras, films, strict=True)
    }
    codes = EpisodeCodes(called(model), labels.codes, labels.valid)
    return page_of_film(films[0].path.name, frames, codes, films[0].fps)
