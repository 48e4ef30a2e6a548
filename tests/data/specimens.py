"""One tiny dataset of every format that lattok reads, and labels beside one of them."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

LABELS = "labels"  # folder of the labels, beside `source`


def write_originals(root: Path, names: Sequence[str] | None = None) -> dict[str, Path]:
    """One tiny dataset of every format, or of those called `names`."""
    return {name: WRITERS[name](root / name) for name in names or WRITERS}


def _write_videos(root: Path) -> Path:
    from tests.data.formats.test_video_folder import write_video

    for i, name in enumerate(("open/a.mp4", "open/b.mkv", "close/c.mp4")):
        write_video(root / name, length=8 + i)
    (root / "captions.csv").write_text("file,caption\nopen/a.mp4,open the door\nclose/c.mp4,close it\n")
    return root


def _write_hdf5(root: Path) -> Path:
    from tests.data.formats.test_hdf5 import write_libero

    root.mkdir(parents=True)
    for i, name in enumerate(("open_the_drawer_demo.hdf5", "lift_demo.hdf5")):
        write_libero(root / name, name, (4, 5), seed=i)
    return root


def _write_rlds(root: Path) -> Path:
    from tests.data.rlds_sample import write_rlds

    return write_rlds(root, (4, 6, 5), (2, 1))


def _write_layout(layout: str) -> Callable[[Path], Path]:
    """Arrays as the makers of a layout write them."""

    def write(root: Path) -> Path:
        from tests.data.formats import test_array_layouts

        root.mkdir(parents=True)
        getattr(test_array_layouts, layout)(root)
        return root

    return write


def _write_mcap(root: Path) -> Path:
    from tests.data.formats import test_mcap

    for i, name in enumerate(("a", "b")):
        test_mcap.record(root / name / f"{name}.mcap", count=6 + i)
    return root


def _write_pictures(root: Path) -> Path:
    from tests.data.formats import test_picture_folder

    for i, name in enumerate(("a", "b")):
        test_picture_folder.write(root / name, 5 + i, size=(16, 16))
    return root


def _write_v2(root: Path, version: str) -> Path:
    """LeRobot v2.1, or v2.0 with GR00T's modality.json."""
    from lattok.data import LeRobotV3
    from tests.data.formats.test_lerobot_v2 import write_v21

    source = LeRobotV3(_write_lerobot(root.with_name(f"{root.name}-source"), "video"))
    write_v21(root, source)
    if version == "v2.0":
        info = json.loads((root / "meta/info.json").read_text())
        (root / "meta/info.json").write_text(json.dumps(info | {"codebase_version": version}))
        (root / "meta/episodes_stats.jsonl").unlink()
        (root / "meta/stats.json").write_bytes((source.root / "meta/stats.json").read_bytes())
        arm = {"arm": {"start": 0, "end": 2}, "gripper": {"start": 2, "end": 3}}
        video = {"front": {"original_key": source.cameras[0]}}
        (root / "meta/modality.json").write_text(json.dumps({"action": arm, "video": video}))
    shutil.rmtree(source.root)
    return root


def _write_lance(root: Path) -> Path:
    from lattok.data import LeRobotV3
    from tests.data.formats.test_lerobot_lance import with_videos

    source = LeRobotV3(_write_lerobot(root.with_name(f"{root.name}-source"), "video"))
    with_videos(source, root)
    shutil.rmtree(source.root)
    return root


def _write_lerobot(root: Path, kind: str) -> Path:
    from lattok.data import Feature, LeRobotWriter
    from tests.conftest import moving_square

    rng = np.random.default_rng(1)
    camera = "observation.images.front"
    features = {
        "action": Feature("float32", (3,), ("x", "y", "z")),
        "reward": Feature("float64", (1,), None),
        "done": Feature("bool", (1,), None),
        "note": Feature("string", (1,), None),
        camera: Feature(kind, (32, 32, 3), None),
    }
    options = {"video_codec": "h264", "encoder_threads": 1, "data_file_mb": 0.004, "video_file_mb": 0.001}
    with LeRobotWriter.create(root, 10, features, **options) as writer:
        for i, length in enumerate((8, 9, 10, 7)):
            columns = {
                "action": rng.standard_normal((length, 3)),
                "reward": rng.standard_normal(length),
                "done": np.arange(length) == length - 1,
                "note": np.array(["a", "b"] * length)[:length],
            }
            writer.add_episode(columns, {camera: moving_square(rng, length)}, ("lift", "push")[i % 2])
    return root


def _as_exported(root: Path) -> Path:
    """Put the frame rate where lattok's own RLDS datasets have it."""
    (root / "lattok.json").write_text('{"fps": 5}')
    return root


def _write_sidecar(root: Path) -> Path:
    import lattok
    from lattok.action_vq import ActionVQConfig, P2TActionVQ

    sizes: dict[str, int] = {"horizon": 4, "dim": 16, "hidden": 16, "codebook_size": 8, "depth": 1, "heads": 2}
    model = P2TActionVQ(ActionVQConfig(action_dim=3, **sizes)).eval()  # type: ignore[arg-type]
    lattok.annotate(lattok.open_dataset(_write_rlds(root / "source"), fps=5), {"latent": model}, root / LABELS)
    return root


def _without_checksums(root: Path) -> Path:
    """Tables as other writers leave them."""
    for path in root.rglob("*.parquet"):
        pq.write_table(pq.read_table(path), path)
    return root


WRITERS: dict[str, Callable[[Path], Path]] = {
    "lerobot": lambda root: _write_lerobot(root, "video"),
    "lerobot_images": lambda root: _write_lerobot(root, "image"),
    "lerobot_plain": lambda root: _without_checksums(_write_lerobot(root, "video")),
    "lerobot_v20": lambda root: _write_v2(root, "v2.0"),
    "lerobot_v21": lambda root: _write_v2(root, "v2.1"),
    "lance": _write_lance,
    "rlds": lambda root: _as_exported(_write_rlds(root)),
    "sidecar": _write_sidecar,
    "hdf5": _write_hdf5,
    "aloha": _write_layout("aloha"),
    "robotwin": _write_layout("robotwin"),
    "robomind": _write_layout("robomind"),
    "maniskill": _write_layout("maniskill"),
    "d4rl": _write_layout("d4rl"),
    "zarr": _write_layout("diffusion_policy"),
    "npz": _write_layout("npz"),
    "parquet": _write_layout("parquet"),
    "calvin": _write_layout("calvin"),
    "unitree": _write_layout("unitree"),
    "mcap": _write_mcap,
    "pictures": _write_pictures,
    "video": _write_videos,
}
LAYOUTS = ("aloha", "robotwin", "robomind", "maniskill", "d4rl")  # of HDF5
