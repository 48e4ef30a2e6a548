"""The command that lattok prints for LeRobot v2.1 makes v3 of it, with the same values and frames."""

import importlib
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest

from lattok import open_dataset
from lattok.data import LeRobotV3
from lattok.data.summaries import column_stats
from lattok.utils.checks import LattokError
from tests.data.edits import read_info

pytestmark = pytest.mark.lerobot


def write_v21(root: Path, source: LeRobotV3) -> Path:
    """Write one file per episode and camera, and four files of JSON, as LeRobot 0.3.3 does."""
    listed = {"tasks": [{"task_index": i, "task": task} for i, task in enumerate(source.tasks)]}
    for episode in source.episodes:
        chunk, name = "chunk-000", f"episode_{episode.index:06d}"
        path = source.data_file(episode.index)
        first, last = source.episode_rows(path)[episode.index]
        table = pq.read_table(path).slice(first, last - first)
        (root / "data" / chunk).mkdir(parents=True, exist_ok=True)
        pq.write_table(table, root / "data" / chunk / f"{name}.parquet")
        stats = {key: column_stats(np.stack(table[key].to_pylist())) for key in table.column_names}
        for key in source.cameras:
            film = source.frames(episode.index, [key])[:, 0]
            (root / "videos" / chunk / key).mkdir(parents=True, exist_ok=True)
            write_film(root / "videos" / chunk / key / f"{name}.mp4", film, source.fps)
            stats[key] = column_stats(film.transpose(0, 3, 1, 2).mean((2, 3), keepdims=True) / 255)
        numbers = {key: {part: value.tolist() for part, value in of.items()} for key, of in stats.items()}
        entry = {"episode_index": episode.index, "tasks": episode.tasks, "length": episode.length}
        listed.setdefault("episodes", []).append(entry)
        listed.setdefault("episodes_stats", []).append({"episode_index": episode.index, "stats": numbers})
    (root / "meta").mkdir()
    for name, entries in listed.items():
        (root / "meta" / f"{name}.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    film = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4" if source.cameras else None
    changes = {"data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet", "video_path": film}
    changes |= {
        "codebase_version": "v2.1",
        "total_chunks": 1,
        "total_videos": len(source.episodes),
        "chunks_size": 1000,
    }
    (root / "meta" / "info.json").write_text(json.dumps(read_info(source.root) | changes))
    return root


def write_film(path: Path, film: np.ndarray, fps: float) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", round(fps), options={"qp": "0"})
        stream.height, stream.width, stream.pix_fmt = *film.shape[1:3], "yuv444p"
        for image in film:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode())


def test_the_printed_command_converts(make_dataset, tmp_path, monkeypatch):
    source = make_dataset([12, 9, 15])
    root = write_v21(tmp_path / "an arm", source)
    with pytest.raises(LattokError, match="expected LeRobot format v3, got v2.1") as error:
        open_dataset(root)
    newer, older = re.findall(r"python -m ([\w.]+)", str(error.value))
    assert newer == "lerobot.scripts.convert_dataset_v21_to_v30"
    (arguments,) = re.findall(r"(--repo-id.*--push-to-hub=false)", str(error.value))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    try:  # LeRobot 0.5.1 and later
        module = importlib.import_module(newer).__name__
    except ModuleNotFoundError:
        module = older
    command = [sys.executable, "-m", module, *shlex.split(arguments)]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    made = open_dataset(root)
    assert [*made.episodes] == [*source.episodes]
    for episode in source.episodes:
        keys = [key for key in source.features if key not in source.cameras]
        columns = made.columns(episode.index, keys)
        for key, values in source.columns(episode.index, keys).items():
            np.testing.assert_array_equal(columns[key], values, err_msg=key)
        difference = made.frames(episode.index).astype(int) - source.frames(episode.index)
        assert abs(difference).max() <= 4  # of RGB to YUV and back
