"""A dataset in memory that is no LeRobot dataset, and labels as `lattok annotate` writes them beside such a one."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from lattok.data import Feature, RobotDataset
from lattok.data.schema import Damage
from lattok.labels import LatentSpec
from lattok.types import Episode
from lattok.utils.checks import LattokError
from lattok.utils.files import write_json

CAMERA = "observation.images.top"
SPEC = LatentSpec(codes=2, vectors=1, latent_dim=3, stride=1)  # of `labels_for`
COLUMNS = {
    "latent.codes": {"dtype": "int64", "shape": [2]},
    "latent.valid": {"dtype": "bool", "shape": [1]},
    "latent.embedding": {"dtype": "float32", "shape": [3]},
}


def encode_image(image: np.ndarray | Image.Image, kind: str = "JPEG", **options) -> bytes:
    file = BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(file, format=kind, **options)
    return file.getvalue()


class MemoryDataset(RobotDataset):
    """Episodes with `action`, `flags`, `pose` and a camera; stores its images as JPEG where `encoded`."""

    kind = "rlds"
    robot = "arm"
    fps = 5.0
    cameras = (CAMERA,)
    damaged: tuple[Damage, ...] = ()

    def __init__(self, root: Path, lengths: list[int], encoded: bool = False, size: tuple[int, int] = (16, 24)):
        rng = np.random.default_rng(len(lengths))
        self.root, self.name, self.encoded = root, root.name, encoded
        self.tasks = ("push", "")
        self.episodes = tuple(Episode(i, n, (self.tasks[i % 2],)) for i, n in enumerate(lengths))
        self.features = {
            "action": Feature("float32", (2,), ("x", "y")),
            "flags": Feature("bool", (1,), None),
            "pose": Feature("float16", (2, 2), None),
            "timestamp": Feature("float32", (1,), None),
            "task_index": Feature("int64", (1,), None),
            CAMERA: Feature("image" if encoded else "video", (*size, 3), None),
        }
        self.values = [
            {
                "action": rng.standard_normal((n, 2)).astype(np.float32),
                "flags": rng.integers(0, 2, n).astype(bool),
                "pose": rng.standard_normal((n, 2, 2)).astype(np.float16),
                "timestamp": np.arange(n, dtype=np.float32) / 5,
                "task_index": np.full(n, i % 2),
            }
            for i, n in enumerate(lengths)
        ]
        # smooth pictures: a video of noise would not come back
        ramp = np.linspace(0, 120, size[0] * size[1] * 3).reshape(*size, 3)
        pixels = [np.stack([ramp + 10 * t + 30 * i for t in range(n)]) for i, n in enumerate(lengths)]
        self.jpegs = [[encode_image(frame.astype(np.uint8)) for frame in video] for video in pixels]
        self.broken: set[int] = set()  # episodes that cannot be read

    def files_of(self, episode_index):
        return (self.root / f"{episode_index}.bin",)

    def columns(self, episode_index, keys):
        self._check(episode_index)
        return {key: self.values[episode_index][key] for key in keys}

    def length(self, episode_index):
        return len(self.values[episode_index]["action"])

    def blocks(self, episode_index, camera, indices):
        self._check(episode_index)
        for i in range(0, len(indices), 4):
            files = [BytesIO(self.jpegs[episode_index][t]) for t in indices[i : i + 4]]
            yield np.stack([np.asarray(Image.open(file)) for file in files])

    def encoded_images(self, episode_index, camera):
        self._check(episode_index)
        assert camera == CAMERA
        return list(self.jpegs[episode_index]) if self.encoded else None

    def _check(self, episode_index):
        if episode_index in self.broken:
            raise LattokError(f"{self.files_of(episode_index)[0]}: wrong checksum. Copy the file again.")


def labels_for(dataset, root: Path, per_file: int = 2, missing: tuple[int, ...] = (), **entry) -> Path:
    """A folder of labels in files of `per_file` episodes: codes tell episode and frame; `missing` have none."""
    (root / "labels").mkdir(parents=True)
    episodes = list(dataset.episodes)
    for number in range(0, len(episodes), per_file):
        tables = []
        for index, length, _ in episodes[number : number + per_file]:
            lost = index in missing
            frame = np.arange(length)
            codes = np.full((length, 2), -1) if lost else np.stack([np.full(length, index), frame], axis=1)
            latents = np.zeros((length, 3), np.float32) if lost else codes[:, :1].repeat(3, 1).astype(np.float32) / 2
            columns = {
                "episode_index": pa.array(np.full(length, index)),
                "frame_index": pa.array(frame),
                "latent.codes": pa.FixedSizeListArray.from_arrays(pa.array(codes.reshape(-1)), 2),
                "latent.valid": pa.array((frame < length - 1) & (not lost)),
                "latent.embedding": pa.FixedSizeListArray.from_arrays(pa.array(latents.reshape(-1)), 3),
            }
            tables.append(pa.table(columns))
        pq.write_table(pa.concat_tables(tables), root / "labels" / f"file-{number // per_file:03d}.parquet")
    made_from = {"name": dataset.name, "kind": dataset.kind, "episodes": len(episodes)}
    gaps = {"unlabelled": [{"episodes": list(missing), "reason": "damaged"}]} if missing else {}
    stated = {"dataset": made_from, "columns": COLUMNS, **gaps, **entry}
    write_json(
        root / "meta" / "lattok.json",
        {"latent": {"spec": SPEC.to_json(), "cameras": [CAMERA], **stated}},
    )
    return root
