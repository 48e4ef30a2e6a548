"""`lattok label`: the labels of one video, as a table and beside the film."""

import os
from pathlib import Path
from typing import Annotated, Any

import lattok
from lattok.cli.flags import Arg, Device, Revision
from lattok.utils import checks
from lattok.utils.devices import moved
from lattok.utils.files import write_text
from lattok.utils.output import Output, unused

TABLE, PAGE = ".parquet", ".html"
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
        fps: Frames a second, where the file does not tell them.
        task: The instruction, for a model that reads it.
    """
    from lattok.image_lam.base.video_file import label_files
    from lattok.latent_actions import write_table
    from lattok.types import InfersActions, lacks

    loaded: Any = moved(lattok.load(model, revision), device)
    if getattr(loaded, "label_source", None) != "video" or not loaded.cameras:
        hint = "A dataset is labelled by: lattok annotate DATASET --model MODEL --out OUT."
        checks.fail("model", "a model of video, such as an ImageLAM", type(loaded).__name__, hint)
    places = [Path(each).expanduser() for each in out or _names(video[0])]
    for place in places:
        if place.suffix not in (TABLE, PAGE):
            checks.fail("out", f"FILE{TABLE}, a table, or FILE{PAGE}, a page", str(place))
        Output(place).check_absent("file")
    acts = not lacks(loaded, InfersActions)
    given = {"task": task} if loaded.reads_task and not acts else {}
    labels = label_files(loaded, video, stride, fps, **given)
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
