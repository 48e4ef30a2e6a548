"""Depth cameras in the layout of LeRobot 0.6.1, in its three spellings, as videos and as TIFF cells: never a default
camera, never called damaged, bit for bit in what is annotated and exported."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lattok.annotation import annotate
from lattok.data import export, inspect_dataset, open_dataset
from lattok.samples import FramePairs, PolicyWindows, WindowOptions
from tests.annotation.fakes import FakeTokenizer
from tests.conftest import CAMERAS, write_dataset
from tests.data.edits import add_feature, edit_info, read_info, set_column
from tests.errors import refused

KEY, LENGTHS, RATE = "observation.images.depth", [7, 11, 5], 10
ENCODED = {"video.height": 32, "video.width": 32, "video.codec": "hevc", "video.pix_fmt": "gray12le", "video.fps": 10}
ENCODED |= {"video.channels": 1, "has_audio": False, "video.g": 2, "video.preset": None, "video.depth_min": 0.01}
ENCODED |= {"video.extra_options": {"x265-params": "lossless=1"}, "video.depth_max": 10.0, "video.use_log": True}
SPELLINGS: dict[str, dict[str, Any]] = {
    "info": {"info": {"is_depth_map": True, "depth_unit": "mm", "calibration": [1.5, 2.5]}},
    "video.info": {"info": {"video.is_depth_map": True, "depth_unit": "mm"}},
    "video_info": {"video_info": {"video.is_depth_map": True}},
    "its name, and one channel": {},
}
NAMES = ("min", "max", "mean", "std", "count", "q01", "q10", "q50", "q90", "q99")


def tiff(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((32, 32), 200 + number, dtype=np.uint16)).save(buffer, format="TIFF")
    return buffer.getvalue()


def with_depth(root: Path, kind: str, spelling: str = "info", cameras: bool = True) -> Path:
    """Add a depth camera to a dataset: a video of all episodes, or cells; statistics are in millimetres."""
    write_dataset(root, LENGTHS, cameras=cameras, fps=RATE)
    said = json.loads(json.dumps(SPELLINGS[spelling]))
    if kind == "video":
        said.setdefault("info", {}).update(ENCODED)
    add_feature(root, KEY, kind, [32, 32, 1])
    features = read_info(root)["features"]
    features[KEY] |= {"names": ["height", "width", "channels"], **said}
    edit_info(
        root, features=features, video_path="videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
    )
    (episodes,) = (root / "meta" / "episodes").rglob("*.parquet")
    if kind == "video":
        path = root / "videos" / KEY / "chunk-000" / "file-000.mp4"
        path.parent.mkdir(parents=True)
        path.write_bytes(np.random.default_rng(0).bytes(3000))  # nobody decodes it
        ends = np.cumsum(LENGTHS) / RATE
        places = {"chunk_index": [0, 0, 0], "file_index": [0, 0, 0]}
        places |= {"from_timestamp": [0.0, *ends[:-1].tolist()], "to_timestamp": ends.tolist()}
        for name, values in places.items():
            set_column(episodes, f"videos/{KEY}/{name}", values)
    else:
        (path,) = (root / "data").rglob("*.parquet")
        cells = [{"bytes": tiff(i), "path": f"frame-{i:06d}.tiff"} for i in range(sum(LENGTHS))]
        set_column(path, KEY, pa.array(cells, pa.struct({"bytes": pa.binary(), "path": pa.string()})))
    for number, name in enumerate(NAMES):
        values = [[length] for length in LENGTHS] if name == "count" else [[[[200.0 + number + e]]] for e in range(3)]
        set_column(episodes, f"stats/{KEY}/{name}", values)
    return root


def stored(root: Path) -> dict[str, Any]:
    """All that a dataset holds of the camera: entry, files or cells, places, statistics."""
    (episodes,) = (root / "meta" / "episodes").rglob("*.parquet")
    found: dict[str, Any] = {"entry": read_info(root)["features"].get(KEY)}
    found["rows"] = [{k: v for k, v in row.items() if KEY in k} for row in pq.read_table(episodes).to_pylist()]
    found["files"] = {p.name: p.read_bytes() for p in sorted((root / "videos" / KEY).rglob("*.mp4"))}
    tables = [pq.read_table(path) for path in sorted((root / "data").rglob("*.parquet"))]
    found["cells"] = [cell for table in tables if KEY in table.column_names for cell in table[KEY].to_pylist()]
    return found


@pytest.mark.parametrize("kind", ["video", "image"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_it_is_no_camera_and_inspection_says_so(kind: str, spelling: str, tmp_path: Path):
    root = with_depth(tmp_path / "d", kind, spelling)
    dataset = open_dataset(root)
    assert dataset.cameras == CAMERAS
    assert KEY not in dataset.features
    assert FramePairs(dataset, 2).cameras == PolicyWindows(dataset, WindowOptions(2, size=8)).cameras == CAMERAS
    assert dataset.frames(1).shape[1] == len(CAMERAS)
    found = [str(f) for f in inspect_dataset(dataset).findings if KEY in f.what]
    said = "a depth camera, which models here do not read; annotate and export copy it unchanged"
    assert found == [f"`{KEY}` is left out: {said}."]
    assert not any(finding.severity == "error" for finding in inspect_dataset(dataset).findings)
    for asked in ("depth", KEY):
        refused(f"`cameras`: expected names among .*, got '{asked}'. .*depth` is a depth ", dataset.frames, 0, [asked])
    refused("is a depth camera", open_dataset, root, cameras={"front": "depth"})


def test_a_depth_camera_alone(tmp_path: Path):
    dataset = open_dataset(with_depth(tmp_path / "d", "video", cameras=False))
    refused(rf"no cameras but {KEY}, a depth camera.*Choose a dataset with images", dataset.frames, 0)
    out = export(dataset, tmp_path / "out").path
    assert stored(out) == stored(tmp_path / "d")
    assert open_dataset(out).cameras == ()


@pytest.mark.parametrize("kind", ["video", "image"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_annotation_and_export_keep_every_bit(kind: str, spelling: str, tmp_path: Path):
    root = with_depth(tmp_path / "d", kind, spelling)
    before = stored(root)
    assert before["files"] or before["cells"]
    assert stored(annotate(open_dataset(root), {"tok": FakeTokenizer()}, tmp_path / "annotated")) == before
    out = export(root, tmp_path / "out", video_codec="h264", size=(16, 16)).path
    assert stored(out) == before
    statistics = json.loads((out / "meta" / "stats.json").read_text())[KEY]
    assert statistics["count"] == [sum(LENGTHS)]
    assert statistics["min"] == [[[200.0]]]
    again = open_dataset(out)
    assert again.cameras == CAMERAS
    assert not any(finding.severity == "error" for finding in inspect_dataset(again).findings)
    (path,) = (out / "data").rglob("*.parquet")
    described = json.loads((pq.read_schema(path).metadata or {b"huggingface": b"{}"})[b"huggingface"])
    assert (KEY in str(described)) == (kind == "image")  # what `datasets` needs to know of it


def test_some_episodes(tmp_path: Path):
    """Files are whole, so what they hold besides is named; rows say where the episodes are."""
    root = with_depth(tmp_path / "d", "video")
    with pytest.warns(UserWarning, match=rf"`{KEY}` is copied in whole files, which also show 2 episodes"):
        out = export(root, tmp_path / "out", episodes=[1], video_codec="h264").path
    assert stored(out)["files"] == stored(root)["files"]
    assert stored(out)["rows"] == stored(root)["rows"][1:2]
    with_depth(tmp_path / "cells", "image")
    part = export(tmp_path / "cells", tmp_path / "part", episodes=[1], video_codec="h264").path
    assert stored(part)["cells"] == stored(tmp_path / "cells")["cells"][7:18]


def test_what_cannot_be_copied_is_named(tmp_path: Path):
    root = with_depth(tmp_path / "d", "video")
    (root / "videos" / KEY / "chunk-000" / "file-000.mp4").unlink()
    refused(r"missing video file .*depth.*file-000.mp4", export, root, tmp_path / "out", video_codec="h264")
    assert not (tmp_path / "out").exists()
    root = with_depth(tmp_path / "paths", "image")
    (path,) = (root / "data").rglob("*.parquet")
    cells = [{"bytes": None, "path": "a.tiff"}] * sum(LENGTHS)
    set_column(path, KEY, pa.array(cells, pa.struct({"bytes": pa.binary(), "path": pa.string()})))
    refused(f"`{KEY}`: expected images within the data files", export, root, tmp_path / "out", video_codec="h264")


def test_cells_that_nothing_marks_are_not_called_damaged(tmp_path: Path):
    root = with_depth(tmp_path / "d", "image")
    features = read_info(root)["features"]
    features[KEY] |= {"info": {}, "shape": [32, 32, 3]}
    edit_info(root, features=features)
    refused(r"expected a JPEG or PNG image, got TIFF. If it is a depth", lambda: open_dataset(root).frames(0, [KEY]))


def test_all_that_is_said_of_features_comes_along(tmp_path: Path):
    """Names as they were written, facts of one's own, rates; of a video that is encoded again only what still holds."""
    root = write_dataset(tmp_path / "d", [5, 6], fps=RATE)
    features = read_info(root)["features"]
    for key, entry in features.items():
        entry |= {"fps": 10, "own": {"key": key}}
    features["action"]["names"] = {"motors": ["a", "b", "c"]}
    features["action"]["info"] = {"unit": "rad"}
    camera = features[CAMERAS[0]]
    camera["info"] |= {"video.codec": "vp9", "video.crf": 30, "is_depth_map": False, "lens": "wide"}
    edit_info(root, features=features, tools=[{"name": "say"}], licence="mit", total_videos=7)
    out = read_info(export(root, tmp_path / "out", video_codec="h264").path)
    for key, entry in out["features"].items():
        if key not in CAMERAS:
            assert entry == features[key]
        assert (entry["fps"], entry["own"]) == (10, {"key": key})
    told = out["features"][CAMERAS[0]]["info"]
    assert (told["lens"], told["is_depth_map"], told["video.codec"]) == ("wide", False, "h264")
    assert "video.crf" not in told
    assert (out["tools"], out["licence"], "total_videos" in out) == ([{"name": "say"}], "mit", False)
    renamed = open_dataset(root, dimensions={"action": ["x", "y", "z"]})
    entry = read_info(export(renamed, tmp_path / "renamed", video_codec="h264").path)["features"]["action"]
    assert entry["names"] == ["x", "y", "z"]
    assert entry["info"] == {"unit": "rad"}
