"""What trees of folders with pictures say: which folders hold labels of pixels, and where cameras are above episodes.

metaworld_dataset/assembly/corner/000/00.png      a camera above the episodes that it filmed
JPEGImages/480p/bear/00000.jpg                    pictures, and below Annotations/480p/bear which object a pixel shows
close_jar/episode0/front_rgb/0.png                pictures, and beside them front_mask/
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from lattok.data.formats.folder_names import SPLIT
from lattok.data.formats.video_views import PLACES

LABELS = re.compile(  # as the last word of a name
    r"(.*[-_ ])?(masks?|seg|segm|segmentations?|semantics?|instances?|annotations?|labels?|normals?|flows?)"
    r"([-_ ](images?|imgs?|frames?|maps?|ids?|pngs?|vis))*",
    re.IGNORECASE,
)
ALONG = re.compile("[uvxy]", re.IGNORECASE)  # directions of a flow, below a folder that is called so
FLOW = re.compile(r"(.*[-_ ])?flows?([-_ ](images?|imgs?|frames?|maps?))*", re.IGNORECASE)
CALLED = re.compile(rf"((cam(era)?|view|{PLACES})[-_ ]?\d*[-_ ]?)+", re.IGNORECASE)
MOST_CAMERAS, FEWEST_LENGTHS = 8, 3  # two lengths may be by chance those of every camera


def label_folders(folders: Mapping[str, Sequence[str]]) -> list[str]:
    """Return folders of labels of pixels: called so, where another folder, called otherwise at that place alone, has as
    many pictures; and the directions of a flow."""
    counts = {PurePosixPath(folder).parts: len(files) for folder, files in folders.items()}
    others: dict[tuple[tuple[str, ...], int], dict[str, int]] = {}  # by path without a part, and the part's place
    for parts, count in counts.items():
        for place in range(len(parts)):
            others.setdefault((parts[:place] + parts[place + 1 :], place), {})[parts[place]] = count

    def is_label(parts: tuple[str, ...]) -> bool:
        if parts and ALONG.fullmatch(parts[-1]) and any(map(FLOW.fullmatch, parts[:-1])):
            return True
        named = [place for place, name in enumerate(parts) if LABELS.fullmatch(name)]
        beside = (others[parts[:place] + parts[place + 1 :], place].items() for place in named)
        return any(not LABELS.fullmatch(name) and count == counts[parts] for each in beside for name, count in each)

    found = {parts for parts in counts if is_label(parts)}
    names = {name for parts in found for name in parts if LABELS.fullmatch(name)}
    partial = any(LABELS.fullmatch(name) and name in names for parts in {*counts} - found for name in parts)
    return [] if partial or len(found) == len(counts) else ["/".join(parts) for parts in found]


def cameras_above(folders: Mapping[str, list[str]]) -> dict[str, dict[str, list[str]]]:
    """Return pictures by episode and camera where a level of folders above the episodes is that of cameras, {} where
    there is none: all episodes have the same ones, with as many pictures each, while episodes differ in length, or the
    folders are called as cameras are."""
    paths = [(PurePosixPath(folder).parts, folder) for folder in folders]
    depth = len(paths[0][0])
    if any(len(parts) != depth for parts, _ in paths):
        return {}
    fitting = [found for place in range(depth - 1) if (found := _at(place, paths, folders))]
    named = [found for found in fitting if all(map(CALLED.fullmatch, next(iter(found.values()))))]
    lengths = [{len(files) for each in found.values() for files in each.values()} for found in fitting]
    varied = [found for found, several in zip(fitting, lengths, strict=True) if len(several) >= FEWEST_LENGTHS]
    return next((each[0] for each in (named, varied) if len(each) == 1), {})


def _at(
    place: int, paths: Sequence[tuple[tuple[str, ...], str]], folders: Mapping[str, list[str]]
) -> dict[str, dict[str, list[str]]]:
    """Return pictures by episode and camera if the folders at a place of the paths are cameras."""
    found: dict[str, dict[str, list[str]]] = {}
    for parts, folder in paths:
        episode = "/".join(parts[:place] + parts[place + 1 :])
        found.setdefault(episode, {})[parts[place]] = folders[folder]
    names = {tuple(cameras) for cameras in found.values()}
    lengths = [{len(files) for files in cameras.values()} for cameras in found.values()]
    several = len(names) == 1 and 1 < len(next(iter(names))) <= MOST_CAMERAS
    split = several and any(SPLIT.fullmatch(name) for name in next(iter(names)))
    return found if several and not split and all(len(each) == 1 for each in lengths) else {}
