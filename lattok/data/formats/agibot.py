"""AgiBot World as it is published: numbers in HDF5, one file an episode, videos beside them. Needs the extra hdf5.

proprio_stats/327/648642/proprio_stats.h5         state/* and action/*, of task 327 and episode 648642
observations/327/648642/videos/head_color.mp4     one video a camera, at 30 frames a second
task_info/task_327.json                           what each episode of the task is about, and its steps
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import MappingProxyType

from typing_extensions import TypedDict

from lattok.data.formats.array_layouts import AGIBOT
from lattok.data.formats.array_listing import CAMERA, natural
from lattok.data.formats.hdf5 import HDF5Dataset
from lattok.data.schema import Feature, readable
from lattok.utils.untrusted import JSON_BYTES, parse_json, safe_path, typed

NUMBERS = "proprio_stats.h5"
DEPTH = "depth pictures, which models here do not read"


class Step(TypedDict, total=False):
    start_frame: int
    end_frame: int
    action_text: str


class Label(TypedDict, total=False):
    action_config: list[Step]


class About(TypedDict, total=False):
    episode_id: int
    task_name: str
    label_info: Label


class AgiBotWorld(HDF5Dataset):
    """AgiBot World's own folders. Episodes are in the order of tasks and of their numbers, and numbered from 0.

    Columns are `action.joint.position`, `observation.end.orientation` and so on, the arms side by side; `parts_of` says
    how to join them. Arrays with other rows than the frames, as `action/*/index`, are left out. The instruction is
    `task_name`; sub-tasks are `action_text`. An episode without the videos that most have is in `damaged`.
    """

    kind = "agibot"
    text = "AgiBot World (proprio_stats/, observations/ and task_info/)"
    marked = videos_at_rate = True
    rate = 30.0
    suffixes = ()
    options = MappingProxyType({"fps": float})

    def __init__(self, path: str | Path, name: str | None = None, *, fps: float | None = None):
        super().__init__(path, name, fps=fps, layout=AGIBOT)
        for key, feature in self.features.items():  # [2, 3] of two arms
            if len(feature.shape) > 1 and key not in self.cameras:
                names = AGIBOT.names.get(key, ())
                width = math.prod(feature.shape)
                self.features[key] = Feature(feature.dtype, (width,), names if len(names) == width else None)
        if any((self.root / "observations").glob("*/*/depth")):
            self.left_out = {**self.left_out, "depth": DEPTH}
        self._about = dict(self._told())
        self._instruct({index: readable(about.get("task_name", "")) for index, about in self._about.items()})

    @classmethod
    def recognise(cls, folder: Path) -> Sequence[Path]:
        return [folder] if next(folder.glob(f"proprio_stats/*/*/{NUMBERS}"), None) else ()

    @classmethod
    def files_in(cls, folder: Path) -> list[Path]:
        return sorted(folder.glob(f"proprio_stats/*/*/{NUMBERS}"), key=lambda path: natural(path.as_posix()))

    def subtasks(self, episode_index: int) -> list[str] | None:
        demo = self._demo(episode_index)
        steps = self._about[episode_index].get("label_info", {}).get("action_config", [])
        texts = [""] * demo.length
        for step in steps:
            first, last = max(step.get("start_frame", 0), 0), min(step.get("end_frame", 0), demo.length)
            texts[first:last] = [readable(step.get("action_text", ""))] * max(last - first, 0)
        return texts if steps else None

    def _films_beside(self, file: Path) -> dict[str, Path]:
        folder = self.root / "observations" / file.parts[-3] / file.parts[-2] / "videos"
        return {CAMERA + path.stem: safe_path(self.root, path, str(path)) for path in sorted(folder.glob("*.mp4"))}

    def _told(self) -> Iterator[tuple[int, About]]:
        """Yield what is said of each episode in the list of its task."""
        lists: dict[str, dict[str, About]] = {}
        for index, demo in self._demos.items():
            task, number = demo.file.parts[-3:-1]
            if task not in lists:
                place = self.root / "task_info" / f"task_{task}.json"
                lists[task] = _listed(safe_path(self.root, place, str(place)))
            yield index, lists[task].get(number, {})


def _listed(path: Path) -> dict[str, About]:
    """Return what the list of a task says, by the number of the episode; nothing where there is none."""
    if not path.is_file():
        return {}
    with path.open("rb") as file:
        content = file.read(JSON_BYTES + 1)
    entries: list[About] = typed(parse_json(content, str(path), nan=True), list[About], "", str(path))
    return {str(entry.get("episode_id")): entry for entry in entries}
