"""What docs/real_behaviour.md says of LeRobot, by LeRobot itself; with tests of depth, language and statistics, and
`findings/`."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lattok import open_dataset
from lattok.data import export
from tests.data.edits import set_column

pytestmark = pytest.mark.lerobot
TOLD = ["lift"] * 3 + ["reach"] * 2 + ["grasp"] * 3


def writer_of(root: Path, fps: float = 10, **features: Any) -> Any:
    made = importlib.import_module("lerobot.datasets.lerobot_dataset").LeRobotDataset
    action = {"action": {"dtype": "float32", "shape": (3,), "names": None}}
    return made.create("org/name", fps, action | features, root=root, use_videos=True)


def record(writer: Any, **frame: Any) -> None:
    for text in TOLD:
        writer.add_frame({"action": np.zeros(3, dtype=np.float32), "task": text, **frame})
    writer.save_episode()
    getattr(writer, "finalize", lambda: None)()


def test_instructions_of_an_episode_are_listed_in_the_order_of_a_hash(tmp_path):
    record(writer_of(tmp_path / "data"))
    (path,) = (tmp_path / "data" / "meta" / "episodes").rglob("*.parquet")
    assert pq.read_table(path)["tasks"].to_pylist() == [list(set(TOLD))]


def causes(error: BaseException | None) -> list[str]:
    """What was raised, and what led to it."""
    return [] if error is None else [type(error).__name__, *causes(error.__cause__ or error.__context__)]


def test_a_column_that_nothing_declares_closes_a_dataset(lerobot_dataset, tmp_path):
    """To LeRobot; lattok declares it in an export, which LeRobot then opens."""
    record(writer_of(tmp_path / "data"))
    (path,) = (tmp_path / "data" / "data").rglob("*.parquet")
    set_column(path, "mine", pa.array(np.arange(len(TOLD), dtype=np.float32)))
    with pytest.raises(Exception) as raised:  # noqa: PT011  # of `datasets`
        lerobot_dataset(tmp_path / "data")
    assert "CastError" in causes(raised.value)
    assert open_dataset(tmp_path / "data").columns(0, ["action"])["action"].shape == (len(TOLD), 3)
    again = lerobot_dataset(export(tmp_path / "data", tmp_path / "out").path)
    assert [float(again[row]["mine"]) for row in range(len(again))] == list(range(len(TOLD)))


def test_a_frame_rate_that_is_no_whole_number_fails_when_an_episode_is_saved(tmp_path):
    names = ["height", "width", "channels"]
    writer = writer_of(
        tmp_path / "data", 12.5, **{"observation.images.top": {"dtype": "video", "shape": (64, 64, 3), "names": names}}
    )
    with pytest.raises(Exception) as raised:  # noqa: PT011  # whichever comes first
        record(writer, **{"observation.images.top": np.zeros((64, 64, 3), dtype=np.uint8)})
    assert "save_episode" in [entry.name for entry in raised.traceback]
