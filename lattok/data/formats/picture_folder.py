"""Folders of numbered pictures: an episode in each folder, or in each folder of folders with a camera each."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from functools import cached_property
from pathlib import Path, PurePosixPath
from statistics import mode
from types import MappingProxyType

import numpy as np

from lattok.data import problems
from lattok.data.flaws import lost_steps
from lattok.data.formats.array_listing import natural
from lattok.data.formats.captions import captions_in
from lattok.data.formats.folder_names import folder_splits, instruction_of
from lattok.data.formats.picture_trees import cameras_above, label_folders
from lattok.data.images import decode_image, is_deep
from lattok.data.schema import (
    FAR_BELOW,
    INDEX_FEATURES,
    Damage,
    Feature,
    RobotDataset,
    holds,
    in_a_description,
    index_column,
    readable,
)
from lattok.types import Episode
from lattok.utils import checks
from lattok.utils.checks import LattokError
from lattok.utils.findings import Finding
from lattok.utils.untrusted import copy_again, walk

SUFFIXES = (".jpg", ".jpeg", ".png")
OTHER_SUFFIXES = (".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")  # pictures, not opened
SMALLEST = 200  # bytes: a pointer of Git LFS has less
LEVELS = 3  # of folders that are looked at before it is known what a folder holds
BLOCK = 32  # pictures
FEWEST = 4  # whose numbers tell a step
CAMERA = "observation.images."
EPISODE_NAME = re.compile(
    r"(ep|episode|traj|trajectory|demo|run|seq|sequence|clip|video|take)?[-_ ]?\d+", re.IGNORECASE
)
INSTRUCTION = "lang.txt"  # Bridge's raw recordings: a line for each annotator, and one about confidence
STEP_NAME = re.compile(r"(time[-_ ]?)?(step|frame|tick|t)[-_ ]?\d+", re.IGNORECASE)  # a folder for each step
DECIMAL = re.compile(r"\d+\.\d+")
DEPTH = re.compile(r"depth", re.IGNORECASE)
LABEL_PICTURES = "labels of pixels, which models here do not read"
DEPTH_PICTURES = "pictures of depth, which models here do not read"


class PictureFolder(RobotDataset):
    """Folders of JPEG or PNG pictures in the order of the numbers in their names: im_2 before im_10, 12.15 before 12.2.

    A folder with pictures is an episode. Where the folders with pictures have the same names in every folder above
    them, and as many pictures each, they are the cameras of one episode (`traj0/left`, `traj0/right`), unless their
    names count (`push/1`, `push/2`). Where that is so of most, the others are damaged. Pictures of several cameras in
    one folder (`000000_color_0`, `000000_color_1`) are told apart by their names. Folders of steps (`step_0007`) hold a
    picture of each camera. Cameras may be above episodes (`corner/000`, `top/000`), where lengths tell. What is called
    depth is left out, and so are labels of pixels beside pictures (`front_mask` beside `front_rgb`).

    The instruction is the first line of lang.txt, else the folder's caption (`captions`, or a captions file as of a
    folder of videos), else the name of the folder that the episode is in, else empty. Pictures do not tell when they
    were taken: `fps` must be given. A folder without a readable first picture is in `damaged` and keeps its number.
    """

    kind = "pictures"
    options = MappingProxyType({"fps": float, "captions": Path})
    text = "folders of pictures (.jpg or .png, one folder per episode)"

    def __init__(
        self, path: str | Path, name: str | None = None, *, fps: float | None = None, captions: str | Path | None = None
    ):
        self.root = Path(path)
        self.name = name or self.root.resolve().name
        if fps is None:
            hint = in_a_description(self.root, '"fps": 10')
            checks.fail("fps", "the frame rate, which pictures do not tell", "none", hint)
        self.fps = float(fps)
        folders, others = _folders(self.root)
        depth = sorted(folder for folder in folders if DEPTH.search(PurePosixPath(folder).name))
        self.left_out = dict.fromkeys(depth, DEPTH_PICTURES)
        folders = {folder: files for folder, files in folders.items() if folder not in self.left_out}
        self.left_out |= dict.fromkeys(sorted(label_folders(folders)), LABEL_PICTURES)
        found = _episodes({folder: files for folder, files in folders.items() if folder not in self.left_out})
        found = {name: _by_name(cameras) for name, cameras in found.items()}
        names, self._pictures = list(found), list(found.values())
        written, _ = captions_in(self.root, names, captions)
        above = (PurePosixPath(name).parts[:-1] for name in names)
        named = zip(names, map(instruction_of, above), strict=True)
        instructions = [_instruction(self.root, name) or written.get(name) or folder for name, folder in named]
        self._tasks_of = instructions
        usual = mode(map(tuple, self._pictures))
        typical = next(each for each in self._pictures if tuple(each) == usual)
        deep = {camera for camera in usual if is_deep(self.root / typical[camera][0]) or DEPTH.search(camera)}
        if deep < {*usual}:
            self.left_out |= dict.fromkeys(sorted(deep), DEPTH_PICTURES)
            usual = tuple(camera for camera in usual if camera not in deep)
            kept = ({name: files for name, files in each.items() if name not in deep} for each in self._pictures)
            self._pictures = [*kept]
        self.cameras = tuple(CAMERA + camera for camera in usual)
        reasons: dict[int, str] = {}
        self._sizes: dict[int, tuple[int, int]] = {}
        for index, name in enumerate(names):
            try:
                self._sizes[index] = self._looked_at(self.root / name, self._pictures[index], usual)
            except LattokError as error:
                reasons[index] = str(error)
        if not self._sizes:
            raise LattokError(next(iter(reasons.values())))
        self.damaged = tuple(Damage(index, reason) for index, reason in reasons.items())
        self.episodes = tuple(Episode(i, len(self._pictures[i][usual[0]]), (instructions[i],)) for i in self._sizes)
        self.tasks = tuple(dict.fromkeys(instructions[i] for i in self._sizes))
        self.held_out, splits = folder_splits({i: PurePosixPath(names[i]).parts for i in self._sizes})
        self.findings = (*splits, *problems.numbers_beside("pictures", others, len(self.episodes)))
        if len(usual) > 1:
            shown = checks.listed(usual)
            self.findings += (problems.FOLDERS_AS_CAMERAS.finding(folders=shown, count=len(self.episodes)),)

    @classmethod
    def recognise(cls, folder: Path) -> Sequence[Path]:
        return ()  # many folders hold some pictures: this is what a folder is that is nothing else

    @classmethod
    def guess(cls, folder: Path) -> bool:
        levels = ("/".join(["*"] * level) for level in range(1, LEVELS + 1))
        return any(_is_picture(path) for level in levels for path in folder.glob(level))

    @classmethod
    def guess_below(cls, folder: Path) -> bool:
        return holds(folder, SUFFIXES, FAR_BELOW)

    @classmethod
    def hint(cls, folder: Path) -> str:
        return "Write the pictures as .png: ffmpeg -i FILE FILE.png" if holds(folder, OTHER_SUFFIXES) else ""

    def file_findings(self) -> Iterator[Finding]:
        """Find pictures that were not fetched or are empty, and numbers that are left out."""
        gaps: dict[int, tuple[str, int]] = {}
        twice = dict[int, list[str]]()
        for episode in self.episodes:
            for files in self._pictures[episode.index].values():
                paths = [self.root / file for file in files]
                for path in (path for path in paths if path.stat().st_size < SMALLEST):
                    if way_out := copy_again(path, ""):
                        yield problems.unreadable(LattokError(f"{path} is no picture. {way_out}"), [episode.index])
                if len(_views(files, any_name=True)) > 1:
                    twice[episode.index] = [PurePosixPath(file).name for file in files[:2]]
                if (gap := _first_gap(files)) is not None:
                    gaps.setdefault(episode.index, gap)
        if twice:
            one, other = next(iter(twice.values()))
            yield problems.NUMBERED_TWICE.finding([*twice], one=one, other=other)
        if gaps:
            file, row = next(iter(gaps.values()))
            places = [(index, row) for index, (_, row) in gaps.items()]
            yield problems.MISSING_PICTURES.finding((), places, file=file, row=row)

    @cached_property
    def features(self) -> dict[str, Feature]:
        size = next(iter(self._sizes.values()))
        return {camera: Feature("image", (*size, 3), None) for camera in self.cameras} | INDEX_FEATURES

    def files_of(self, episode_index: int) -> tuple[Path, ...]:
        return tuple(self.root / file for files in self._files(episode_index).values() for file in files)

    def columns(self, episode_index: int, keys: Sequence[str]) -> dict[str, np.ndarray]:
        length = self.length(episode_index)
        task = self.tasks.index(self._tasks_of[episode_index])
        self.check_columns(keys, INDEX_FEATURES, "Pictures have no others.")
        return {key: index_column(key, length, episode_index, task, self.fps) for key in keys}

    def blocks(self, episode_index: int, camera: str, indices: np.ndarray) -> Iterator[np.ndarray]:
        files = self._files(episode_index)[camera.removeprefix(CAMERA)]
        for i in range(0, len(indices), BLOCK):
            chosen = [self.root / files[index] for index in indices[i : i + BLOCK]]
            frames = [decode_image(_bytes(path), f"episode {episode_index}, {path}") for path in chosen]
            for path, frame in zip(chosen, frames, strict=True):
                if frame.shape != frames[0].shape:
                    expected, got = ("x".join(map(str, each.shape[:2])) for each in (frames[0], frame))
                    checks.refuse(
                        path, f"a picture of {expected} like those before it", got, "Resize it, or remove it."
                    )
            yield np.stack(frames)

    def encoded_images(self, episode_index: int, camera: str) -> list[bytes] | None:
        return [_bytes(self.root / file) for file in self._files(episode_index)[camera.removeprefix(CAMERA)]]

    def _files(self, episode_index: int) -> dict[str, list[str]]:
        self.length(episode_index)  # an error where there is no such episode
        return self._pictures[episode_index]

    def _looked_at(self, place: Path, cameras: Mapping[str, list[str]], usual: tuple[str, ...]) -> tuple[int, int]:
        """Return the size of an episode's first picture; an error if it cannot be read or a camera is missing."""
        if set(cameras) != set(usual):
            checks.refuse(
                place, f"the folders {checks.listed(usual)}", checks.listed(cameras), "Leave it out, or add them."
            )
        counts = {camera: len(files) for camera, files in cameras.items()}
        if len(set(counts.values())) > 1:
            got = ", ".join(f"{count} in {camera}" for camera, count in counts.items())
            checks.refuse(place, "as many pictures of every camera", got, "Remove those that the others lack.")
        for files in cameras.values():
            (name, count), *_ = Counter(PurePosixPath(file).with_suffix("") for file in files).most_common(1)
            if count > 1:
                got = f"{count} called {name.name}"
                checks.refuse(place, "one picture of a frame", got, "Keep those of one format.")
        first = self.root / cameras[usual[0]][0]
        height, width, _ = decode_image(_bytes(first), str(first)).shape
        return height, width


def _folders(root: Path) -> tuple[dict[str, list[str]], list[Path]]:
    """Relative paths of the folders that hold pictures, with their pictures in order, and those of all other files."""
    if not root.is_dir():
        checks.fail("path", "a folder of pictures", f"{root}", "Give the folder that holds the episodes.")
    found: dict[str, list[str]] = {}
    others = list[Path]()
    for path in walk(root, lambda path: path.name.startswith("."), once=True):
        if path.suffix.lower() in SUFFIXES:
            found.setdefault(path.parent.as_posix(), []).append(path.as_posix())
        else:
            others.append(path)
    if not found:
        checks.fail("path", f"a folder with pictures ({', '.join(SUFFIXES)})", f"none in {root}")
    ordered = sorted(found, key=natural)
    return {folder: _in_order(found[folder]) for folder in ordered}, others


def _in_order(files: list[str]) -> list[str]:
    """Order pictures by the numbers in their names: im_2 before im_10, but the time 12.15 before 12.2."""
    times = _times(files)
    return sorted(files, key=lambda file: ((times[file],) if times else (), natural(PurePosixPath(file).name)))


def _times(files: Sequence[str]) -> dict[str, Fraction]:
    """Return the times that names say, as `time.time()` of Python does, without the zeros at their ends; {} where they
    say none, or where what follows the points counts on, such as cameras: 12.9, 12.10. Ten times a second are no
    cameras."""
    found = {file: DECIMAL.findall(PurePosixPath(file).stem) for file in files}
    if any(len(each) != 1 for each in found.values()):
        return {}
    parts: dict[str, set[str]] = {}
    for (number,) in found.values():
        whole, _, part = number.partition(".")
        parts.setdefault(whole, set()).add(part)
    after = [[*map(int, each)] for each in parts.values()]
    counts = all(max(numbers) - min(numbers) < len(numbers) for numbers in after)
    plain = all(str(int(part)) == part for each in parts.values() for part in each)
    tenths = max(map(len, after)) == 10 and max(map(max, after)) == 9
    return {} if counts and plain and not tenths else {file: Fraction(number) for file, (number,) in found.items()}


def _episodes(folders: dict[str, list[str]]) -> dict[str, dict[str, list[str]]]:
    """Pictures by episode and camera. Where all folders are called alike, those above may be the cameras: cam_1/color,
    cam_2/color; or a level further up, see `cameras_above`. Folders of steps, as step_0007/front.jpg, hold a picture of
    each camera."""
    if steps := _of_steps(folders):
        return steps
    if len(folders) > 1 and len({PurePosixPath(folder).name for folder in folders}) == 1:
        inner = {PurePosixPath(folder).parent.as_posix(): files for folder, files in folders.items()}
        if "." not in inner and max(map(len, (found := _by_camera(inner)).values())) > 1:
            return found
    found = _by_camera(folders)
    return found if max(map(len, found.values())) > 1 else cameras_above(folders) or found


def _of_steps(folders: dict[str, list[str]]) -> dict[str, dict[str, list[str]]]:
    """Return pictures by episode and camera where every folder is a step, {} otherwise."""
    if not all(STEP_NAME.fullmatch(PurePosixPath(folder).name) for folder in folders):
        return {}
    found: dict[str, dict[str, list[str]]] = {}
    for folder in sorted(folders, key=natural):
        named = {PurePosixPath(file).stem: file for file in folders[folder]}
        for camera, file in named.items():
            found.setdefault(PurePosixPath(folder).parent.as_posix(), {}).setdefault(camera, []).append(file)
    steps = Counter(PurePosixPath(folder).parent.as_posix() for folder in folders)
    numbered = any(map(str.isdigit, "".join(camera for cameras in found.values() for camera in cameras)))
    return {} if numbered or max(steps.values()) < FEWEST else found


def _by_camera(folders: dict[str, list[str]]) -> dict[str, dict[str, list[str]]]:
    above: dict[str, dict[str, list[str]]] = {}
    for folder, files in folders.items():
        place = PurePosixPath(folder)
        above.setdefault(place.parent.as_posix(), {})[place.name or "image"] = files
    names = Counter(tuple(cameras) for cameras in above.values() if len({len(each) for each in cameras.values()}) == 1)
    counted = any(EPISODE_NAME.fullmatch(name) for cameras in above.values() for name in cameras)
    if names and names.most_common(1)[0][1] > len(above) / 2 and not counted and "." not in above:
        return above  # of the others a camera is damaged
    return {folder: {"image": files} for folder, files in folders.items()}


def _by_name(cameras: dict[str, list[str]]) -> dict[str, list[str]]:
    """Part the pictures of a folder that are of several cameras, by their names."""
    found: dict[str, list[str]] = {}
    for camera, files in cameras.items():
        for view, own in _views(files).items():
            found["_".join(filter(None, (camera if len(cameras) > 1 or not view else "", view)))] = own
    return found


def _views(files: list[str], any_name: bool = False) -> dict[str, list[str]]:
    """Return pictures by what their names say beside one number, if it counts the same frames of each: color_0 of
    000012_color_0. All of them, called "", where that is not so, or where it says episodes, unless `any_name` will do.
    """
    parts = [re.split(r"(\d+)", PurePosixPath(file).stem) for file in files]
    if len({len(each) for each in parts}) > 1 or _times(files):
        return {"": files}
    best: dict[str, list[str]] = {"": files}
    for place in range(1, len(parts[0]), 2):
        named: dict[str, dict[int, str]] = {}
        for each, file in zip(parts, files, strict=True):
            view = "".join(each[:place] + each[place + 1 :]).strip("_-. ") or "image"
            named.setdefault(view, {})[int(each[place])] = file
        alike = len({frozenset(numbers) for numbers in named.values()}) == 1
        several = 1 < len(named) < len(next(iter(named.values()))) and sum(map(len, named.values())) == len(files)
        fits = alike and several and (any_name or not any(map(EPISODE_NAME.match, named)))
        if fits and (len(best) == 1 or len(named) < len(best)):
            best = {view: list(numbers.values()) for view, numbers in sorted(named.items())}
    return best


def _first_gap(files: Sequence[str]) -> tuple[str, int] | None:
    """Return the first picture before which the numbers jump, and its row, if they go up evenly elsewhere."""
    times = _times(files)
    numbers = [[times[file]] if times else [*map(int, re.findall(r"\d+", PurePosixPath(file).stem))] for file in files]
    if len(files) < FEWEST or len({len(each) for each in numbers}) > 1:
        return None
    for column in reversed(np.array(numbers, dtype=np.float64).T):  # the last that counts
        steps = np.diff(column)
        if steps.any():
            lost = np.flatnonzero(lost_steps(steps))
            row = int(lost[0]) + 1 if len(lost) else 0
            return (files[row], row) if row else None
    return None


def _instruction(root: Path, name: str) -> str:
    """Return the first line of a text file in the episode's folder, "" without one."""
    file = root / name / INSTRUCTION
    if not file.is_file():
        return ""
    lines = (line.strip() for line in _bytes(file).decode("utf-8", "replace").splitlines())
    return readable(next((line for line in lines if line and not line.startswith("confidence")), ""))


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise LattokError(f"cannot read {path}: {error.strerror}. Check its permissions.") from None


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
