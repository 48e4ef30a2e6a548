"""What `verify` says of a filled dataset that was altered: a table of alterations, and what cannot be told is said."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from lattok.action_vq import UniformBins
from lattok.annotation import annotate, verify
from lattok.data import export, open_dataset
from lattok.labels import with_labels
from lattok.labels.sharing import listing
from lattok.samples import ActionWindows
from lattok.utils.files import read_json, write_json
from tests.annotation.test_fill import LENGTHS, model, write
from tests.conftest import CAMERAS, moving_square, put_video
from tests.errors import refused

ENDS = np.cumsum([0, *LENGTHS])
MARK, READ = "inferred.filled", "inferred.action"
Alteration = Callable[[Path], object]


@pytest.fixture(scope="module")
def filled(tmp_path_factory) -> Path:
    """Episodes 1 and 2 of four were filled."""
    root = tmp_path_factory.mktemp("filled")
    return annotate(write(root / "data"), model(), root / "out", fill=True)


@pytest.fixture
def out(filled, tmp_path) -> Path:
    return Path(shutil.copytree(filled, tmp_path / "out"))


def edit(root: Path, change: Callable[[dict[str, np.ndarray]], object], folder: str = "data") -> None:
    """Change columns of the only data file, or file of labels, which keep their types."""
    (path,) = (root / folder).rglob("*.parquet")
    table = pq.read_table(path)
    keys = [key for key in table.column_names if key in ("action", "observation.state") or key.startswith("inferred.")]
    values = {key: np.stack(table[key].to_numpy()) for key in keys}
    change(values)
    for key, found in values.items():
        field = table.schema.field(key)
        column = pa.array(list(found) if found.ndim > 1 else found).cast(field.type)
        table = table.set_column(table.column_names.index(key), field, column)
    pq.write_table(table, path)


def rows(episode: int) -> slice:
    return slice(ENDS[episode], ENDS[episode + 1])


def cells(key: str, episode: int, value: Callable[[np.ndarray], object]) -> Alteration:
    """Return what changes a column in an episode."""

    def change(columns: dict[str, np.ndarray]) -> None:
        columns[key][rows(episode)] = value(columns[key][rows(episode)])

    return lambda root: edit(root, change)


def several(*changes: Alteration) -> Alteration:
    return lambda root: [change(root) for change in changes]


def measured_by_inferred(root: Path) -> None:
    def change(columns: dict[str, np.ndarray]) -> None:
        columns["action"][rows(0)], columns[MARK][rows(0)] = columns[READ][rows(0)], True

    edit(root, change)


def as_json(root: Path, name: str, change: Callable[[dict], object]) -> None:
    record = read_json(root / "meta" / name)
    change(record)
    write_json(root / "meta" / name, record)


def fills(change: Callable[[dict], object]) -> Alteration:
    return lambda root: as_json(root, "lattok.json", lambda record: change(record["inferred"]["fills"]))


def in_meta(name: str, change: Callable[[pa.Table], pa.Table]) -> Alteration:
    def alter(root: Path) -> None:
        (path,) = (root / "meta").rglob(name)
        pq.write_table(change(pq.read_table(path)), path)

    return alter


def other_video(root: Path) -> None:
    (path,) = (root / "videos").rglob("*.mp4")
    path.unlink()  # a link to that of the source
    put_video(path, moving_square(np.random.default_rng(9), sum(LENGTHS)), 10)


def without_last_episode(root: Path) -> None:
    (path,) = (root / "data").rglob("*.parquet")
    pq.write_table(pq.read_table(path).slice(0, ENDS[3]), path)
    (path,) = (root / "meta/episodes").rglob("*.parquet")
    pq.write_table(pq.read_table(path).slice(0, 3), path)
    as_json(root, "info.json", lambda info: info.update(total_episodes=3, total_frames=int(ENDS[3])))


def without_last_row(root: Path) -> None:
    (path,) = (root / "data").rglob("*.parquet")
    pq.write_table(pq.read_table(path).slice(0, ENDS[4] - 1), path)


def renamed(root: Path) -> None:
    (path,) = (root / "data").rglob("*.parquet")
    table = pq.read_table(path)
    pq.write_table(table.rename_columns(["inferred.act" if key == READ else key for key in table.column_names]), path)
    as_json(root, "info.json", lambda info: info["features"].update({"inferred.act": info["features"].pop(READ)}))


def other_task(table: pa.Table) -> pa.Table:
    (place,) = (number for number, field in enumerate(table.schema) if pa.types.is_string(field.type))
    return table.set_column(place, table.schema.field(place), pa.array(["drop"] * len(table)))


def other_frames(table: pa.Table) -> pa.Table:
    """Episode 2 shows frames of episode 1."""
    for end in ("from", "to"):
        name = f"videos/{CAMERAS[0]}/{end}_timestamp"
        times = [time - 0.5 if row == 2 else time for row, time in enumerate(table[name].to_pylist())]
        table = table.set_column(table.column_names.index(name), name, pa.array(times, table.schema.field(name).type))
    return table


# alteration: a line that verify prints; None where it holds, as the page says
TABLE: dict[str, tuple[Alteration, str | None]] = {
    "nothing": (lambda root: None, "+ action: as it was measured, in 2 episodes"),
    "mark taken from inferred actions, which are turned round": (
        several(cells(MARK, 1, lambda own: False), cells("action", 1, lambda own: -own)),
        "- inferred.filled: 1 episode is marked otherwise, first 1",
    ),
    "mark set at measured actions": (cells(MARK, 3, lambda own: True), "- inferred.filled: 1 episode is marked"),
    "mark of one row": (
        cells(MARK, 2, lambda own: np.arange(len(own)) > 0),
        "- inferred.filled: 1 episode is marked otherwise, first 2",
    ),
    "measured actions set to 7": (cells("action", 0, lambda own: 7), "- action: 1 episode is not as measured"),
    "one measured number a little": (
        cells("action", 3, lambda own: own + 1e-6 * (np.arange(len(own)) == 4)[:, None]),
        "- action: 1 episode is not as measured, first 3",
    ),
    "measured actions lost": (cells("action", 0, lambda own: np.nan), "- action: 1 episode is not as measured"),
    "measured actions backwards": (cells("action", 0, lambda own: own[::-1]), "- action: 1 episode is not as measured"),
    "measured actions replaced by inferred ones": (measured_by_inferred, "- action: 1 episode is not as measured"),
    "measured actions replaced, and marked so": (measured_by_inferred, "- inferred.filled: 1 episode is marked"),
    "a filled action": (
        cells("action", 2, lambda own: own + 0.01),
        "- action: 1 episode is not what was inferred, f",
    ),
    "what was inferred, and what was filled": (
        several(cells("action", 1, lambda own: own + 1), cells(READ, 1, lambda own: own + 1)),
        "- inferred.action: largest deviation",
    ),
    "confidence": (cells("inferred.confidence", 1, lambda own: 1), "- inferred.confidence: largest deviation"),
    "latents": (cells("inferred.embedding", 0, lambda own: own + 1), "- inferred.embedding: largest deviation"),
    "validity": (cells("inferred.valid", 0, lambda own: ~own), "- inferred.valid: "),
    "another video": (other_video, "- inferred.action: largest deviation"),
    "frames of another episode": (
        in_meta("episodes/**/*.parquet", other_frames),
        "- episode 2 cannot be labelled agai",
    ),
    "an episode deleted": (
        without_last_episode,
        "- labels are of 4 episodes of 53 frames, here: 3 episodes of 28",
    ),
    "an episode deleted, of those recorded": (without_last_episode, "- action: 1 episode that is recorded is missing"),
    "a row deleted": (without_last_row, "- episode 3 cannot be labelled again: "),
    "a column renamed": (renamed, "- column inferred.action is missing"),
    "record: others were filled": (
        fills(lambda own: own.update(filled=[[1, 3]])),
        "- inferred.filled: 1 episode is marked otherwise, first 3",
    ),
    "record: nothing of what was measured": (
        fills(lambda own: own.pop("measured")),
        "? action: nothing is recorded of 2 episodes that were not filled, first 0",
    ),
    "record of an older version": (
        fills(lambda own: (own.pop("measured"), own.pop("filled"))),
        "? action: nothing says which episodes were filled, nor what was measured in the others. ",
    ),
    "record lost": (lambda root: (root / "meta/lattok.json").unlink(), "? action: nothing says which episodes were fi"),
    "states, which the model does not read": (cells("observation.state", 0, lambda own: own + 1), None),
    "instructions, which the model does not read": (in_meta("tasks.parquet", other_task), None),
    "statistics": (lambda root: as_json(root, "stats.json", lambda own: own["action"].update(mean=[9, 9, 9])), None),
}


@pytest.mark.parametrize("alteration", TABLE)
def test_what_verify_says(alteration, out):
    alter, said = TABLE[alteration]
    alter(out)
    found = verify(open_dataset(out), {"inferred": model()})
    lines = [line.strip() for line in found.lines]
    assert said is None or any(line.startswith(said) for line in lines), found.render()
    assert found.holds == (said is None or not said.startswith("-")), found.render()


def test_what_is_not_compared_is_said(out):
    assert "Not compared: statistics, other columns, and what the model does not read" in verify(
        out, {"inferred": model()}
    ).render().replace("\n", " ")


@pytest.mark.parametrize("odd", [{"digests": "AA", "episodes": [[0, 0]]}, {"digests": "é", "episodes": []}, {}])
def test_an_odd_record_is_one_line(odd, out):
    fills(lambda own: own.update(measured=odd))(out)
    refused("`measured` in `fills`: expected digests of", lambda: verify(open_dataset(out), {"inferred": model()}))


@pytest.mark.parametrize("runs", [[[3, 1]], [[0]], [[-1, 2]], [[2, 3], [0, 1]], [["a", 1]], "all"])
def test_odd_runs_are_one_line(runs, out):
    fills(lambda own: own.update(filled=runs))(out)
    refused("`inferred.fills` in .*: expected a column, and", lambda: verify(open_dataset(out), {"inferred": model()}))


@pytest.mark.parametrize("rate", ["30", None, -1, []])
def test_an_odd_rate_is_one_line(rate, out):
    as_json(out, "lattok.json", lambda record: record["inferred"]["dataset"].update(fps=rate))
    refused("`inferred.dataset.*: expected ", lambda: verify(open_dataset(out), {"inferred": model()}))


def test_a_record_of_fills_beside_a_tokenizer_is_said(make_dataset, tmp_path):
    dataset = make_dataset([12, 12], cameras=False)
    tokenizer = UniformBins.fit(*ActionWindows(dataset, 4).all(), bins=8)
    made = annotate(dataset, {"latent": tokenizer}, tmp_path / "made")
    odd = {"column": "action", "filled": [[0, 0]]}
    as_json(made, "lattok.json", lambda record: record["latent"].update(fills=odd))
    told = verify(open_dataset(made), {"latent": tokenizer})
    assert not told.holds
    assert "- action: not compared, there is no latent.filled" in told.render()


@pytest.mark.parametrize("format", ["lerobot", "rlds"])
@pytest.mark.parametrize("episodes", [None, "1:4"])
def test_an_export_says_what_was_measured_before_it(format, episodes, out, tmp_path):
    def said(name: str) -> str:
        copied = export(open_dataset(out), tmp_path / name, format=format, episodes=episodes, images="image").path
        return verify(open_dataset(copied), {"inferred": model()}).render()

    whole, known = episodes is None, 2 if episodes is None else 1
    text = said("a")
    assert f"+ inferred.filled: set in 2 of {4 if whole else 3} episodes, as recorded" in text
    assert f"+ action: as it was measured, in {known} episode{'s' * (known > 1)}" in text
    assert "+ action: what was inferred, in 2 episodes" in text
    cells("action", 3, lambda own: own * 2)(out)
    assert f"- action: 1 episode is not as measured, first {3 if whole else 2}" in said("b")


def test_a_push_takes_the_record_along(filled):
    assert "meta/lattok.json" in listing(filled).sent


def test_an_export_in_another_space_cannot_be_compared_and_says_so(out, tmp_path):
    plane, opened = {"part": "position", "axes": ["x", "y"]}, {"part": "gripper", "convention": "open_is_1"}
    spaces: dict = {"action_space": {"action": [plane, opened]}}
    spaces |= {"actions": {"as": [plane, {**opened, "convention": "closed_is_1"}]}}
    copied = export(open_dataset(out, **spaces), tmp_path / "copy", images="image").path
    assert "? action: an export converted it to another space. Verify" in verify(copied, {"inferred": model()}).render()


def test_labels_in_a_folder_know_what_was_measured_in_the_dataset(tmp_path):
    data = export(write(tmp_path / "a"), tmp_path / "rlds", format="rlds", images="image").path
    labels = annotate(data, model(), tmp_path / "labels", fill=True)
    (path,) = (labels / "labels").rglob("*.parquet")
    kept = path.read_bytes()

    def said() -> str:
        return verify(with_labels(data, labels), {"inferred": model()}).render()

    def one(key: str, value: object) -> Callable[[dict[str, np.ndarray]], None]:
        return lambda columns: columns[key].__setitem__(rows(1), value)

    assert "+ action: as it was measured, in 2 episodes" in said()
    edit(labels, one(MARK, False), "labels")
    assert "- inferred.filled: 1 episode is marked otherwise, first 1" in said()
    path.write_bytes(kept)
    edit(labels, one(READ, 3), "labels")
    assert "- inferred.action: largest deviation" in said()
    path.write_bytes(kept)
    cells("action", 0, lambda own: own + 1)(tmp_path / "a")
    shutil.rmtree(tmp_path / "rlds")
    export(tmp_path / "a", tmp_path / "rlds", format="rlds", images="image")
    assert "- action: 1 episode is not as measured, first 0" in said()


def test_states_that_the_model_reads_are_part_of_what_is_compared(tmp_path):
    idm = model(proprio=True, state_dim=2)
    idm.state_normalizer.fit(torch.randn(20, 2, generator=torch.Generator().manual_seed(3)))
    out = annotate(write(tmp_path / "data"), idm, tmp_path / "out", fill=True)
    assert verify(out, {"inferred": idm}).holds
    cells("observation.state", 1, lambda own: own * np.arange(len(own))[:, None])(out)
    assert "- inferred.action: largest deviation" in verify(out, {"inferred": idm}).render()


def test_the_record_is_small(filled):
    """Eight characters for an episode that was measured: 1 MB for 130,000 of them."""
    assert len(json.loads((filled / "meta/lattok.json").read_text())["inferred"]["fills"]["measured"]["digests"]) == 16
