"""Actions that other programs wrote become inferred ones of a dataset: by frame, in every form, at every rate."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy

import lattok
from lattok.cli import main
from lattok.data import open_dataset
from lattok.labels.imported import ImportedActions
from lattok.labels.imported_latents import ImportedLatents
from lattok.labels.spec import inferred_episodes, measured_episodes
from tests.annotation.test_fill import KNOWN, LENGTHS, write
from tests.conftest import moving_square, put_video
from tests.errors import refused

UNKNOWN = [1, 2]


def rows_of(index: int, rows: int, width: int = 3) -> np.ndarray:
    return np.random.default_rng(index).standard_normal((rows, width)).astype(np.float32)


def cosmos(place: Path, index: int, rows: np.ndarray, end: str = "") -> None:
    """What `cosmos_framework.scripts.inference` writes for a sample called run_INDEX."""
    (place / f"run_{index}{end}").mkdir(parents=True)
    content = {"outputs": [{"content": {"action": rows.tolist()}}]}
    (place / f"run_{index}{end}" / "sample_outputs.json").write_text(json.dumps(content))


def vllm(place: Path, index: int, rows: np.ndarray) -> None:
    """What vLLM-Omni answers under `action`."""
    (place / f"run_{index}").mkdir(parents=True)
    answer = {"data": rows.tolist(), "shape": [*rows.shape], "dtype": "float32", "action_mode": "inverse_dynamics"}
    (place / f"run_{index}" / "action.json").write_text(json.dumps(answer))
    (place / f"run_{index}" / "response.json").write_text("{}")


def whole_answer(place: Path, index: int, rows: np.ndarray) -> None:
    place.mkdir(exist_ok=True)
    (place / f"run_{index}.json").write_text(json.dumps({"id": "x", "action": {"data": rows.tolist()}}))


def tensorrt(place: Path, index: int, rows: np.ndarray) -> None:
    place.mkdir(exist_ok=True)
    video = np.zeros((2, 4, 4, 3), np.uint8)
    safetensors.numpy.save_file({"action": rows, "video": video}, place / f"run_{index}.safetensors")


def npy(place: Path, index: int, rows: np.ndarray) -> None:
    place.mkdir(exist_ok=True)
    np.save(place / f"run_{index}.npy", rows)


def npz(place: Path, index: int, rows: np.ndarray) -> None:
    place.mkdir(exist_ok=True)
    np.savez(place / f"run_{index}.npz", action=rows, confidence=np.linspace(0.1, 1, len(rows), dtype=np.float32))


@pytest.mark.parametrize("form", [cosmos, vllm, whole_answer, tensorrt, npy, npz])
def test_unknown_actions_are_filled_and_marked_as_inferred(tmp_path, form):
    source = open_dataset(write(tmp_path / "data"))
    for index in UNKNOWN:
        form(tmp_path / "out", index, rows_of(index, LENGTHS[index] - 1))
    filled = open_dataset(lattok.import_labels(source, tmp_path / "out", tmp_path / "filled", unit="m", made_by="it"))
    assert inferred_episodes(filled, "action", filled.episodes) == UNKNOWN
    assert {episode.index for episode in measured_episodes(filled, "action", filled.episodes)} == KNOWN
    for index in UNKNOWN:
        rows, keys = rows_of(index, LENGTHS[index] - 1), ("action", "inferred.action")
        found = filled.columns(index, [*keys, "inferred.valid", *(["inferred.confidence"] if form is npz else [])])
        for key in keys:
            np.testing.assert_array_equal(found[key], np.concatenate([rows, rows[-1:]]))
        assert found["inferred.valid"].tolist() == [True] * len(rows) + [False]
        if form is npz:
            np.testing.assert_allclose(found["inferred.confidence"][:-1], np.linspace(0.1, 1, len(rows)), rtol=1e-6)
    for index in KNOWN:
        np.testing.assert_array_equal(
            filled.columns(index, ["action"])["action"], source.columns(index, ["action"])["action"]
        )
    record = json.loads((tmp_path / "filled/meta/lattok.json").read_text())["inferred"]
    assert {"type": "imported", "unit": "m", "made_by": "it", "rate": 10.0}.items() <= record["model"].items()
    assert record["fills"]["filled"] == [[1, 2]]


def test_codes_that_are_taken_as_actions_are_told(tmp_path):
    source = open_dataset(write(tmp_path / "data"))
    for index in UNKNOWN:
        npy(tmp_path / "out", index, np.arange(LENGTHS[index] * 3).reshape(-1, 3) % 5)
    with pytest.warns(UserWarning, match="whole numbers alone, .* as latents"):
        ImportedActions(source, tmp_path / "out")


def test_rows_that_stand_still_or_lie_elsewhere_are_refused_unless_wanted(tmp_path):
    source = open_dataset(write(tmp_path / "data"))
    for name, made, said in (
        ("still", lambda rows: 0 * rows, "that change"),
        ("far", lambda rows: rows + 30, "reverse"),
    ):
        for index in UNKNOWN:
            npy(tmp_path / name, index, made(rows_of(index, LENGTHS[index])))
        refused(said, lattok.import_labels, source, tmp_path / name, tmp_path / "filled")
        lattok.import_labels(source, tmp_path / name, tmp_path / f"{name}-filled", scale=[1])


def test_a_dump_of_other_actions_or_another_rate_is_refused(tmp_path):
    source, dump = open_dataset(write(tmp_path / "data")), write(tmp_path / "dump", {*range(4)})
    info = dump / "meta/info.json"
    stored = info.read_text()
    info.write_text(stored.replace('"x"', '"roll"'))
    refused("expected roll, y, z", lattok.import_labels, source, dump, tmp_path / "filled")
    lattok.import_labels(source, dump, tmp_path / "filled", names=("x", "y", "z"))
    info.write_text(stored.replace('"fps": 10', '"fps": 5'))
    refused("a dump at the dataset's 10 frames a second, got 5", ImportedActions, source, dump)


def test_latents_of_no_frame_are_refused_and_gaps_are_said(tmp_path, capsys):
    source = open_dataset(write(tmp_path / "data"))
    rows = [np.full((length, 2), np.nan) for length in LENGTHS]
    refused("`files`: expected labels of some frames", ImportedLatents, source, rows)
    rows[0][:] = rows[1][3:] = 1
    ImportedLatents(source, rows)
    assert f"{3 + LENGTHS[2] + LENGTHS[3]} of {sum(LENGTHS)} frames have no label" in capsys.readouterr().err


def test_rows_in_another_unit_are_refused_until_they_are_converted(tmp_path, capsys):
    source = open_dataset(write(tmp_path / "data"))
    factors, shift = np.float32([1000, 57.3, 1]), np.float32([0, 3, -1])
    for index in UNKNOWN:
        npy(tmp_path / "out", index, (rows_of(index, LENGTHS[index]) - shift) * factors)
    words = ["import-labels", str(tmp_path / "data"), "--from", str(tmp_path / "out"), "--out", str(tmp_path / "to")]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "`files`: expected actions in the unit of `action`, whose" in said
    assert "Convert them: --scale 0.001, or a number for each, and offset. As they are: --scale 1." in said
    assert main([*words, "--scale", "0.001", "0.0174520", "1", "--offset", *map(str, shift)]) == 0
    filled = open_dataset(tmp_path / "to")
    for index in UNKNOWN:
        found = filled.columns(index, ["action"])["action"]
        np.testing.assert_allclose(found, rows_of(index, LENGTHS[index]), rtol=1e-4, atol=1e-4)
    record = json.loads((tmp_path / "to/meta/lattok.json").read_text())["inferred"]["model"]
    assert (record["scale"], record["offset"]) == ([0.001, 0.017452, 1.0], shift.tolist())
    as_they_are = ImportedActions(source, tmp_path / "out", scale=[1]).actions_of(1).actions
    np.testing.assert_allclose(as_they_are, (rows_of(1, LENGTHS[1]) - shift) * factors, rtol=1e-5)
    refused("`scale`: expected a finite number, or 3, one for", ImportedActions, source, tmp_path / "out", scale=[1, 2])
    refused("`scale`: expected numbers other than 0", ImportedActions, source, tmp_path / "out", scale=[0])


def test_the_dump_of_a_dataset_replaces_what_generated_video_has(tmp_path):
    data = write(tmp_path / "data", {*range(4)})
    dump = Path(shutil.copytree(data, tmp_path / "dump"))
    for file in (dump / "data").rglob("*.parquet"):
        table = pq.read_table(file)
        place = table.column_names.index("action")
        doubled = [[2 * number for number in row] for row in table["action"].to_pylist()]
        field = table.schema.field("action")
        pq.write_table(table.set_column(place, field, pa.array(doubled, field.type)), file)
    filled = open_dataset(lattok.import_labels(data, dump, tmp_path / "filled", every=True))
    assert inferred_episodes(filled, "action", filled.episodes) == [0, 1, 2, 3]
    for index in range(4):
        measured = open_dataset(data).columns(index, ["action"])["action"]
        np.testing.assert_array_equal(filled.columns(index, ["action"])["action"], 2 * measured)


def test_rows_of_another_rate_and_in_pieces(tmp_path):
    source = open_dataset(write(tmp_path / "data"))
    rows = rows_of(1, 4)
    npy(tmp_path / "slow", 1, rows)  # 5 a second, for 7 frames of 10 a second: one begins at the last but one
    held = ImportedActions(source, tmp_path / "slow", fps=5, between="hold")
    refused("8 frames|end after its 7 frames", held.actions_of, 1)
    npy(tmp_path / "slow", 1, rows[:3])
    held = ImportedActions(source, tmp_path / "slow", fps=5, between="hold").actions_of(1)
    np.testing.assert_array_equal(held.actions, rows[[0, 0, 1, 1, 2, 2, 2]])
    shared = ImportedActions(source, tmp_path / "slow", fps=5, between="divide").actions_of(1)
    np.testing.assert_allclose(shared.actions[:6].sum(0), rows[:3].sum(0), rtol=1e-5)
    refused("`between`: expected what a row is", ImportedActions, source, tmp_path / "slow", fps=5)
    refused("`fps`: expected at most the 10 frames", ImportedActions, source, tmp_path / "slow", fps=20)
    for first, last in ((0, 16), (16, 24)):
        cosmos(tmp_path / "pieces", 3, rows_of(3, 24)[first:last], f"_from_{first}")
    found = ImportedActions(source, tmp_path / "pieces").actions_of(3)
    np.testing.assert_array_equal(found.actions[:-1], rows_of(3, 24))
    cosmos(tmp_path / "pieces", 3, rows_of(3, 2), "_from_15")
    refused("several files", ImportedActions(source, tmp_path / "pieces").actions_of, 3)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a_1.json", "{}", "rows of numbers at outputs"),
        ("a_1.json", '{"outputs": [{}, {}]}', "expected one output, got 2"),
        ("a_1.json", "[[1, 2], [3]]", r"actions \[n, m\]"),
        ("a_1.json", '[["x"]]', r"actions \[n, m\]"),
        ("a_1.json", "[[1e39]]", "finite actions"),
        ("a_1.json", "[[1,", "a_1.json"),
        ("a_1.npy", "no array", "a_1.npy"),
        ("a_1.npz", "no archive", "a_1.npz"),
        ("a_1.safetensors", "no tensors", "a_1.safetensors"),
        ("a_7.npy", "", "names that end with the number of an episode"),
        ("a_1.txt", "", "none of them in"),
    ],
)
def test_what_is_no_action_of_an_episode_is_refused_by_name(tmp_path, name, content, said):
    source = open_dataset(write(tmp_path / "data"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text(content)
    refused(said, lattok.import_labels, source, tmp_path / "out", tmp_path / "filled")
    assert not (tmp_path / "filled").exists()


def test_widths_that_differ_get_a_column_of_their_own(tmp_path):
    source = open_dataset(write(tmp_path / "data"))
    for index, length in enumerate(LENGTHS):
        npy(tmp_path / "out", index, rows_of(index, length - 1, 5))
    refused(
        'column of their own: action_key="NAME"', lattok.import_labels, source, tmp_path / "out", tmp_path / "filled"
    )
    names, out = tuple("vwxyz"), tmp_path / "filled"
    lattok.import_labels(source, tmp_path / "out", out, action_key="theirs", names=names)
    feature = open_dataset(out).features["theirs"]
    assert (feature.shape, feature.names) == ((5,), names)


@pytest.mark.ci
def test_the_command_goes_from_films_to_a_policy_and_from_known_actions_to_a_report(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for index in range(2):
        put_video(Path("films") / f"pour-{'ab'[index]}.mp4", moving_square(np.random.default_rng(index), 12), 10)
        Path("out").mkdir(exist_ok=True)
        np.save(f"out/pour-{'ab'[index]}.npy", rows_of(index, 11))
    assert main(["import-labels", "films", "--from", "out", "--out", "filled", "--names", "x", "y", "z"]) == 0
    assert "lattok train vla filled --out my-policy" in capsys.readouterr().out
    words = "train vla filled --out policy --backbone scratch --no-proprio --horizon 2 --steps 2 --batch-size 4"
    assert main([*words.split(), "--device", "cpu"]) == 0
    known = write(Path("known"), {*range(4)})
    for index, length in enumerate(LENGTHS):
        cosmos(Path("theirs"), index, open_dataset(known).columns(index, ["action"])["action"][: length - 1])
    assert main(["import-labels", str(known), "--from", "theirs", "--out", "beside"]) == 0
    assert "Evaluate them: lattok evaluate known --labels beside" in capsys.readouterr().out
    assert main(["evaluate", "known", "--labels", "beside", "--out", "report"]) == 0
