"""One tiny dataset of every format that lattok reads, and labels beside one of them."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

LABELS = "labels"  # folder of the labels, beside `source`


def write_originals(root: Path) -> dict[str, Path]:
    """One tiny dataset of every format."""
    from tests.data.formats.test_hdf5 import write_libero
    from tests.data.formats.test_video_folder import write_video
    from tests.data.rlds_sample import write_rlds

    videos = root / "video"
    for i, name in enumerate(("open/a.mp4", "open/b.mkv", "close/c.mp4")):
        write_video(videos / name, length=8 + i)
    (videos / "captions.csv").write_text("file,caption\nopen/a.mp4,open the door\nclose/c.mp4,close it\n")
    (root / "hdf5").mkdir()
    for i, name in enumerate(("open_the_drawer_demo.hdf5", "lift_demo.hdf5")):
        write_libero(root / "hdf5" / name, name, (4, 5), seed=i)
    return {
        "lerobot": _write_lerobot(root / "lerobot", "video"),
        "lerobot_images": _write_lerobot(root / "lerobot_images", "image"),
        "lerobot_plain": _without_checksums(_write_lerobot(root / "lerobot_plain", "video")),
        "rlds": _as_exported(write_rlds(root / "rlds", (4, 6, 5), (2, 1))),
        "sidecar": _write_sidecar(root / "sidecar", write_rlds(root / "sidecar" / "source", (4, 6, 5), (2, 1))),
        "hdf5": root / "hdf5",
        "video": videos,
        **_write_recordings(root),
    }


def _write_recordings(root: Path) -> dict[str, Path]:
    """Layouts of arrays, recordings of ROS 2, and folders of pictures, which do not say their frame rate."""
    from tests.data.formats import test_array_layouts, test_mcap, test_picture_folder

    written = {name: root / name for name in ("aloha", "zarr", "npz", "mcap", "pictures")}
    for folder in written.values():
        folder.mkdir()
    test_array_layouts.aloha(written["aloha"])
    test_array_layouts.diffusion_policy(written["zarr"])
    test_array_layouts.npz(written["npz"])
    for i, name in enumerate(("a", "b")):
        test_mcap.record(written["mcap"] / name / f"{name}.mcap", count=6 + i)
        test_picture_folder.write(written["pictures"] / name, 5 + i, size=(16, 16))
    return written


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


def _write_sidecar(root: Path, source: Path) -> Path:
    import lattok
    from lattok.action_vq import ActionVQConfig, P2TActionVQ

    sizes: dict[str, int] = {"horizon": 4, "dim": 16, "hidden": 16, "codebook_size": 8, "depth": 1, "heads": 2}
    model = P2TActionVQ(ActionVQConfig(action_dim=3, **sizes)).eval()  # type: ignore[arg-type]
    lattok.annotate(lattok.open_dataset(source, fps=5), {"latent": model}, root / LABELS)
    return root


def _without_checksums(root: Path) -> Path:
    """Tables as other writers leave them."""
    for path in root.rglob("*.parquet"):
        pq.write_table(pq.read_table(path), path)
    return root
