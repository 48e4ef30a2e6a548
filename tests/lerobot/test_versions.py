"""What LeRobot's own converter makes of v2.1 trains and labels as its source does, and as v2.0."""

import importlib
import shutil

import pytest

from tests.data.formats.test_lerobot_v2 import same_everywhere, write_v20, write_v21

pytestmark = pytest.mark.lerobot


@pytest.mark.ci
def test_the_converter_changes_nothing(make_dataset, tmp_path):
    convert = pytest.importorskip("lerobot.scripts.convert_dataset_v21_to_v30", reason="LeRobot 0.4 and later have it")
    importlib.import_module("lerobot")
    source = make_dataset([6] * 20)
    old, new = write_v21(tmp_path / "v21", source), tmp_path / "v3"
    shutil.copytree(old, new)
    convert.convert_dataset("org/name", root=new, push_to_hub=False)
    same_everywhere([old, write_v20(tmp_path / "v20", old, source), new], tmp_path, steps=50)
