"""Copies whose actions are mostly unknown: the rest is the same, and the inverse model's road goes on from them."""

import json
from pathlib import Path

import numpy as np
import pytest

import lattok
from lattok.cli import main
from lattok.data.episodes import unmeasured
from lattok.data.inspection import inspect_dataset
from lattok.data.video import SMALLEST_AV1
from tests.annotation.test_fill import model, write
from tests.conftest import write_dataset
from tests.data.specimens import WRITERS
from tests.errors import refused

LENGTHS = [14, 12, 13, 12, 15, 11]


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("version", ["lerobot", "lerobot_v21"])
def test_only_the_hidden_actions_change(version: str, tmp_path):
    if version == "lerobot":
        write_dataset(tmp_path / "data", LENGTHS)
    else:
        WRITERS[version](tmp_path / "data")
    before, source = tree(tmp_path / "data"), lattok.open_dataset(tmp_path / "data")
    first = source.episodes[0].index
    done = lattok.hide(tmp_path / "data", tmp_path / "few", [first])
    assert tree(tmp_path / "data") == before
    copy = lattok.open_dataset(tmp_path / "few")
    every = {episode.index for episode in source.episodes}
    assert unmeasured(copy, "action", every) == {*done.hidden} == every - {first} == every - {*done.known}
    assert [*copy.episodes] == [*source.episodes]
    others = [key for key in source.features if key not in (*source.cameras, "action")]
    for index in every:
        one, two = source.columns(index, others), copy.columns(index, others)
        for key in others:
            np.testing.assert_array_equal(one[key], two[key], err_msg=key)
    known = source.columns(first, ["action"])["action"]
    np.testing.assert_array_equal(copy.columns(first, ["action"])["action"], known)
    if (stats := copy.statistics()) is not None:
        np.testing.assert_allclose(stats["action"]["mean"], known.mean(0), rtol=1e-5)
    for key in source.cameras:
        one, two = source.video_span(first, key), copy.video_span(first, key)
        if one is not None and two is not None:
            assert one[0].samefile(two[0])
    assert not [each for each in inspect_dataset(copy).findings if each.severity == "error"]


@pytest.mark.parametrize("smallest", [1, 32], ids=["", "with an encoder that small frames end"])
def test_other_formats_become_lerobot(tmp_path, monkeypatch, smallest):
    monkeypatch.setattr("lattok.data.video.SMALLEST_AV1", max(smallest, SMALLEST_AV1))
    h5py = pytest.importorskip("h5py")
    WRITERS["hdf5"](tmp_path / "data")
    with h5py.File(next((tmp_path / "data").glob("*.hdf5")), "a") as file:
        for name, demos in {"train": ["demo_0", "demo_2"], "valid": ["demo_1"]}.items():
            file.require_group("mask").pop(name, None)
            file[f"mask/{name}"] = np.array([each.encode() for each in demos])
    source = lattok.open_dataset(tmp_path / "data")
    done = lattok.hide(source, tmp_path / "few", [source.episodes[0].index])
    copy = lattok.open_dataset(tmp_path / "few")
    unknown = unmeasured(copy, "action", {episode.index for episode in copy.episodes})
    assert len(unknown) == len(done.hidden) == len(copy.episodes) - 1
    assert copy.held_out == source.held_out != ()
    assert json.loads((tmp_path / "few/meta/hidden.json").read_text())["column"] == "action"


def test_hidden_actions_are_inferred_and_known_ones_are_not(tmp_path, capsys):
    write_dataset(tmp_path / "data", LENGTHS)
    words = ["--keep", "1 per task", "--out", str(tmp_path / "few")]
    assert main(["hide", str(tmp_path / "data"), *words]) == 0
    assert "Actions known in 2 episodes (0, 3), hidden in 4: " in capsys.readouterr().out
    assert json.loads((tmp_path / "few/meta/hidden.json").read_text())["column"] == "action"
    model().save_pretrained(tmp_path / "idm")
    infer = ["--model", str(tmp_path / "idm"), "--as", "actions", "--any-rate"]
    assert main(["annotate", str(tmp_path / "few"), *infer, "--out", str(tmp_path / "filled")]) == 0
    assert "unknown in 4 of 6" in capsys.readouterr().out
    assert main(["annotate", str(tmp_path / "data"), *infer, "--out", str(tmp_path / "none")]) == 2
    said = capsys.readouterr().err
    assert f"Hide some to try it: lattok hide {tmp_path / 'data'} --out few --keep '2 per task'" in said
    assert not (tmp_path / "none").exists()
    refused("labels that do not tell", lattok.hide, tmp_path / "filled", tmp_path / "x", "1 per task")
    refused(
        "`keep`: expected episodes with known actions, and others", lattok.hide, tmp_path / "data", tmp_path / "x", None
    )
    refused("`tasks`", lattok.hide, tmp_path / "data", tmp_path / "x", "0:4", tasks=["dance"])
    refused("`out`", lattok.hide, tmp_path / "data", tmp_path / "few", "0:4")
    lifts = [each.index for each in lattok.open_dataset(tmp_path / "data").episodes[:4] if "lift" in each.tasks]
    assert [*lattok.hide(tmp_path / "data", tmp_path / "lift", "0:4", tasks=["lift"]).known] == lifts
    assert lattok.hide(write(tmp_path / "some"), tmp_path / "fewer", [0]).known == (0,)
    (known,) = lattok.hide(write(tmp_path / "other", {0, 2, 3}), tmp_path / "least", "1 per task").known
    assert known in (0, 2, 3)  # drawn from these
