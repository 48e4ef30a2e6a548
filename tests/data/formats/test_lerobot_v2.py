"""LeRobot v2.0 and v2.1: read, labelled and exported as v3 is, and refused in one line where something is missing."""

import json
import shutil
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

import lattok
from lattok.cli import main
from lattok.data import LeRobotV3, export, inspect_dataset, open_dataset, repair
from lattok.data.instructions import frame_instructions
from lattok.data.schema import INDEX_KEYS
from lattok.data.summaries import column_stats
from lattok.data.table_dataset import NewColumns, tables_of
from lattok.utils import checks
from lattok.utils.checks import LattokError
from tests.annotation.fakes import FakeTokenizer
from tests.conftest import CAMERAS
from tests.data.edits import edit_info, set_column
from tests.errors import refused


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
        numeric = [key for key in table.column_names if source.features[key].dtype != "string"]
        stats = {key: column_stats(np.stack(table[key].to_pylist())) for key in numeric}
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
    info = json.loads((source.root / "meta" / "info.json").read_text())
    (root / "meta" / "info.json").write_text(json.dumps(info | changes))
    return root


def write_film(path: Path, film: np.ndarray, fps: float) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", Fraction(fps).limit_denominator(1001), options={"qp": "0"})
        stream.height, stream.width, stream.pix_fmt = *film.shape[1:3], "yuv444p"
        for image in film:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode())


@pytest.fixture
def source(make_dataset):
    return make_dataset([12, 9, 15])


@pytest.fixture
def old(source, tmp_path) -> Path:
    return write_v21(tmp_path / "old", source)


def write_v3(root: Path, old: Path, source: LeRobotV3) -> Path:
    """Write the same rows and the same films as version 3, as LeRobot's converter does with one film a file."""
    shutil.copytree(source.root, root)
    shutil.rmtree(root / "videos")
    (path,) = (root / "meta/episodes").rglob("*.parquet")
    listed = pq.read_table(path).to_pylist()
    for row in listed:
        for key in source.videos:
            place = {"chunk_index": 0, "file_index": row["episode_index"]}
            place |= {"from_timestamp": 0.0, "to_timestamp": row["length"] / source.fps}
            row |= {f"videos/{key}/{name}": value for name, value in place.items()}
            film = root / f"videos/{key}/chunk-000/file-{row['episode_index']:03d}.mp4"
            film.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(old / f"videos/chunk-000/{key}/episode_{row['episode_index']:06d}.mp4", film)
    pq.write_table(pa.Table.from_pylist(listed), path)
    return root


def write_v20(root: Path, old: Path, source: LeRobotV3) -> Path:
    shutil.copytree(old, root)
    edit_info(root, codebase_version="v2.0")
    (root / "meta/episodes_stats.jsonl").unlink()
    shutil.copyfile(source.root / "meta/stats.json", root / "meta/stats.json")
    return root


def same_everywhere(roots: Sequence[Path], folder: Path, steps: int) -> None:
    """Check that versions of one dataset give the same frames, samples, weights after so many steps, and codes."""
    first, *others = (open_dataset(root, name="arm") for root in roots)
    for other in others:
        assert [*first.episodes] == [*other.episodes]
        keys = [key for key in first.features if key not in (*first.cameras, "index")]
        for episode in first.episodes:
            np.testing.assert_array_equal(first.frames(episode.index), other.frames(episode.index))
            one, two = (each.columns(episode.index, keys) for each in (first, other))
            assert all(np.array_equal(one[key], two[key]) for key in keys)
    small = ["--preset", "tiny+robust", "--features", "pixels", "--image-size", "32", "--width", "16", "--stride", "1"]
    small += ["--steps", str(steps), "--batch-size", "4", "--device", "cpu", "--seed", "0", "--labelled-fraction", "0"]
    weights, codes = [], []
    for number, root in enumerate(roots):
        lam, labelled = (folder / f"{what}-{number}" for what in ("lam", "labelled"))
        assert main(["train", "image-lam", str(root), "--out", str(lam), *small]) == 0
        assert main(["annotate", str(root), "--model", str(lam), "--out", str(labelled)]) == 0
        weights.append(load_file(lam / "model.safetensors"))
        copy = open_dataset(labelled)
        codes.append([copy.columns(each.index, ["latent.codes"])["latent.codes"] for each in copy.episodes])
    for found in weights[1:]:
        assert all(torch.equal(found[key], tensor) for key, tensor in weights[0].items())
    for found in codes[1:]:
        assert all(np.array_equal(*pair) for pair in zip(codes[0], found, strict=True))


def decoded(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_it_is_what_version_3_is(source, old):
    dataset = open_dataset(old)
    assert (dataset.kind, dataset.fps, dataset.robot) == ("lerobot-v2", source.fps, source.robot)
    assert [*dataset.episodes] == [*source.episodes]
    assert (dataset.features, dataset.cameras, dataset.tasks) == (source.features, source.cameras, source.tasks)
    keys = [key for key in source.features if key not in source.cameras]
    read = dict(dataset.columns_of(dataset.episodes, keys))
    for episode in source.episodes:
        rows = read[episode.index]
        assert not isinstance(rows, LattokError)
        for key, values in source.columns(episode.index, keys).items():
            np.testing.assert_array_equal(dataset.columns(episode.index, keys)[key], values, err_msg=key)
            np.testing.assert_array_equal(rows[key], values, err_msg=key)
        for camera in source.cameras:
            film = decoded(old / f"videos/chunk-000/{camera}/episode_{episode.index:06d}.mp4")
            np.testing.assert_array_equal(dataset.frames(episode.index, [camera])[:, 0], film)
            np.testing.assert_array_equal(dataset.frames(episode.index, [camera], [7, 2])[:, 0], film[[7, 2]])


def test_version_2_0(source, old, tmp_path):
    dataset = open_dataset(write_v20(tmp_path / "v20", old, source))
    assert [*dataset.episodes] == [*source.episodes]
    assert dataset.statistics() == source.statistics()


def test_equal_episodes_are_told_by_their_statistics(source, old):
    dataset = open_dataset(old)
    assert dataset.outlines() == source.outlines()
    assert len({*dataset.outlines().values()}) == 3
    path = old / "meta/episodes_stats.jsonl"
    path.write_text(path.read_text().replace('"min"', '"least"', 1))
    assert open_dataset(old).outlines() == {}
    path.unlink()
    assert open_dataset(old).outlines() == {}


def rewrite_rows(root: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    for path in (root / "data").rglob("*.parquet"):
        pq.write_table(change(pq.read_table(path)), path)


@pytest.mark.parametrize("kept", [[], ["timestamp"]])
def test_scripts_leave_out_index_columns(source, old, tmp_path, kept):
    """Frames are shown after t / fps where nothing says when; a column that is no feature says so all the same."""
    features = json.loads((old / "meta/info.json").read_text())["features"]
    edit_info(old, features={key: each for key, each in features.items() if key not in INDEX_KEYS})
    dropped = [key for key in INDEX_KEYS if key not in ("episode_index", *kept)]
    rewrite_rows(old, lambda table: table.drop_columns(dropped))
    dataset = open_dataset(old)
    for episode in dataset.episodes:
        film = decoded(old / f"videos/chunk-000/{CAMERAS[0]}/episode_{episode.index:06d}.mp4")
        np.testing.assert_array_equal(dataset.frames(episode.index, CAMERAS[:1])[:, 0], film)
    kinds = [finding.kind for finding in inspect_dataset(dataset).findings]
    assert ("no-times" in kinds) == (not kept)
    export(dataset, tmp_path / "new", video_codec="h264")
    times = open_dataset(tmp_path / "new").columns(1, ["timestamp"])["timestamp"]
    np.testing.assert_array_equal(times, source.columns(1, ["timestamp"])["timestamp"])


def with_times(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[pa.Table], pa.Table]:
    def rewritten(table: pa.Table) -> pa.Table:
        times = pa.array(change(table["timestamp"].to_numpy()), pa.float32())
        return table.set_column(table.column_names.index("timestamp"), "timestamp", times)

    return rewritten


@pytest.mark.parametrize("change", [lambda t: 1.2 * t, lambda t: 0.8 * t, lambda t: 1000 * t, lambda t: t + 60])
def test_films_with_a_frame_for_each_row_are_read_by_number(old, change, capsys):
    """Where the clock of the rows is another than that of the film; one with more frames than rows has to be searched
    by time, and what does not fit is refused."""
    checks.note.cache_clear()
    rewrite_rows(old, with_times(change))
    dataset, film = open_dataset(old), old / f"videos/chunk-000/{CAMERAS[0]}/episode_000002.mp4"
    shown = decoded(film)
    np.testing.assert_array_equal(dataset.frames(2, CAMERAS[:1])[:, 0], shown)
    np.testing.assert_array_equal(dataset.frames(2, CAMERAS[:1], [14, 3])[:, 0], shown[[14, 3]])
    assert capsys.readouterr().err.count("taken by number") == 1
    write_film(film, np.concatenate([shown, shown[-1:]]), dataset.fps)
    if change(np.ones(1)) > 1:
        refused("Episode 2 has rows up to", open_dataset(old).frames, 2, CAMERAS[:1])


def test_films_that_run_a_little_slower_are_read_by_number_too(make_dataset, tmp_path):
    """As capture cards do: 30000 / 1001 frames a second. By time, frames of the end are one late, or not there."""
    source = make_dataset([600])
    old = write_v21(tmp_path / "old", source)
    films = {camera: old / f"videos/chunk-000/{camera}/episode_000000.mp4" for camera in CAMERAS}
    shown = {camera: decoded(film) for camera, film in films.items()}
    for camera, film in films.items():
        write_film(film, shown[camera], source.fps * 1000 / 1001)
    dataset = open_dataset(old)
    for camera in CAMERAS:
        np.testing.assert_array_equal(dataset.frames(0, [camera], [0, 300, 599])[:, 0], shown[camera][[0, 300, 599]])
    assert [finding.kind for finding in inspect_dataset(dataset).findings].count("near-rate") == len(CAMERAS)
    done = repair(old, tmp_path / "new")
    assert (done.frames, [step.repair for step in done.steps]) == (600, ["video"])
    assert "near-rate" not in [finding.kind for finding in inspect_dataset(tmp_path / "new").findings]


def test_films_of_several_episodes_that_run_a_little_slower(make_dataset, tmp_path):
    root = make_dataset([500, 300, 400]).root
    film = next((root / "videos" / CAMERAS[0]).rglob("*.mp4"))
    write_film(film, decoded(film), 10 * 1000 / 1001)
    dataset, shown = open_dataset(root), decoded(film)
    for index, first, length in ((0, 0, 500), (1, 500, 300), (2, 800, 400)):
        rows = np.array([0, length // 2, length - 1])
        np.testing.assert_array_equal(dataset.frames(index, CAMERAS[:1], rows)[:, 0], shown[first + rows])
    assert [finding.kind for finding in inspect_dataset(dataset).findings].count("near-rate") == 1
    assert [step.repair for step in repair(root, tmp_path / "new").steps] == ["video"]


@pytest.mark.ci
def test_all_versions_teach_the_same(make_dataset, tmp_path):
    source = make_dataset([6] * 20)
    old = write_v21(tmp_path / "v21", source)
    roots = [old, write_v20(tmp_path / "v20", old, source), write_v3(tmp_path / "v3", old, source)]
    same_everywhere(roots, tmp_path, steps=50)


@pytest.mark.parametrize("named", ["episode_chunk", "chunk_index"])  # some write the name of v3
def test_folders_hold_so_many_episodes(old, named):
    info = json.loads((old / "meta/info.json").read_text())
    paths = {key: info[key].replace("episode_chunk", named) for key in ("data_path", "video_path")}
    edit_info(old, chunks_size=2, **paths)
    for last in [*old.rglob("episode_000002.*")]:
        place = Path(str(last).replace("chunk-000", "chunk-001"))
        place.parent.mkdir(parents=True, exist_ok=True)
        last.rename(place)
    dataset = open_dataset(old)
    assert dataset.frames(2).shape[0] == len(dataset.columns(2, ["action"])["action"]) == 15


def test_lists_as_others_write_them(old, source):
    """With a mark of their encoding and empty lines, a version without its v, and gaps between tasks of merged sets."""
    for name in ("episodes", "tasks"):
        path = old / f"meta/{name}.jsonl"
        path.write_text("\ufeff" + path.read_text().replace("\n", "\r\n\r\n"))
    edit_info(old, codebase_version=2.1)
    for row in (old / "data/chunk-000").glob("*.parquet"):
        set_column(row, "task_index", [3 * number for number in pq.read_table(row)["task_index"].to_pylist()])
    path = old / "meta/tasks.jsonl"
    path.write_text(path.read_text().replace('"task_index": 1', '"task_index": 3'))
    dataset = open_dataset(old)
    assert frame_instructions(dataset, dataset.episodes)[0] == frame_instructions(source, source.episodes)[0]
    set_column(old / "data/chunk-000/episode_000001.parquet", "task_index", [2] * 9)
    dataset = open_dataset(old)
    refused("numbers of instructions, got 2 in episode 1", frame_instructions, dataset, dataset.episodes)


def test_single_numbers_without_an_axis_and_a_list_without_instructions(old):
    """As scripts of one task write them: `shape` is [], and only rows have the number of the task."""
    info = json.loads((old / "meta/info.json").read_text())
    edit_info(old, features=info["features"] | {"timestamp": {"dtype": "float32", "shape": [], "names": None}})
    lines = [json.loads(line) for line in (old / "meta/episodes.jsonl").read_text().splitlines()]
    kept = ({key: each[key] for key in ("episode_index", "length")} for each in lines)
    (old / "meta/episodes.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in kept))
    refused("expected episode_index, length and tasks", open_dataset, old)  # of two tasks
    (old / "meta/tasks.jsonl").write_text('{"task_index": 0, "task": "lift"}\n')
    first, *others = (old / "meta/episodes.jsonl").read_text().splitlines(keepends=True)
    (old / "meta/episodes.jsonl").write_text("".join([first.replace("}", ', "tasks": "lift"}'), *others]))
    dataset = open_dataset(old)
    assert [episode.tasks for episode in dataset.episodes] == [("lift",)] * 3
    assert dataset.columns(0, ["timestamp"])["timestamp"].shape == (12,)


def test_rows_that_are_some_frames_of_their_films(old):
    """Every third row was kept, and the films as they were."""
    edit_info(old, fps=10 / 3)
    for index, length in enumerate((4, 3, 5)):
        path = old / f"data/chunk-000/episode_{index:06d}.parquet"
        rows = pq.read_table(path)
        rows = rows.take([*range(0, len(rows), 3)]).set_column(
            rows.column_names.index("timestamp"), "timestamp", pa.array(np.arange(length) * 0.3, pa.float32())
        )
        pq.write_table(rows, path)
    lines = [json.loads(line) for line in (old / "meta/episodes.jsonl").read_text().splitlines()]
    for line, length in zip(lines, (4, 3, 5), strict=True):
        line["length"] = length
    (old / "meta/episodes.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    edit_info(old, total_frames=12)
    dataset = open_dataset(old)
    film = decoded(next((old / "videos").rglob("episode_000002.mp4")))
    camera = next((old / "videos").rglob("episode_000002.mp4")).parent.name
    np.testing.assert_array_equal(dataset.frames(2, [camera])[:, 0], film[::3])
    for rate, severity in ((10 / 3, "note"), (5, "error")):
        edit_info(old, fps=rate)
        found = [each for each in inspect_dataset(open_dataset(old)).findings if each.kind == "video-rate"]
        assert {each.severity for each in found} == {severity}


def test_labels_are_columns_of_a_copy(source, old, tmp_path):
    assert main(["train", "uniform-bins", str(old), "--out", str(tmp_path / "bins"), "--horizon", "4"]) == 0
    assert main(["annotate", str(old), "--model", str(tmp_path / "bins"), "--out", str(tmp_path / "labelled")]) == 0
    assert main(["verify", str(tmp_path / "labelled"), "--model", str(tmp_path / "bins")]) == 0
    lattok.annotate(source, str(tmp_path / "bins"), tmp_path / "v3")
    labelled, new = open_dataset(tmp_path / "labelled"), open_dataset(tmp_path / "v3")
    assert labelled.kind == "lerobot-v2"
    assert labelled.features == new.features
    for episode in source.episodes:
        one, other = (each.columns(episode.index, ["latent.codes", "action"]) for each in (labelled, new))
        assert all(np.array_equal(one[key], other[key]) for key in one)
        path = old / f"data/chunk-000/episode_{episode.index:06d}.parquet"
        copied = pq.read_table(tmp_path / "labelled" / path.relative_to(old))
        assert copied.select(pq.read_table(path).column_names).equals(pq.read_table(path))
    camera = source.cameras[0]
    video = f"videos/chunk-000/{camera}/episode_000000.mp4"
    assert (tmp_path / "labelled" / video).samefile(old / video)
    exported = export(labelled, tmp_path / "exported", video_codec="h264").path
    assert open_dataset(exported).kind == "lerobot"
    assert open_dataset(exported).features.keys() == labelled.features.keys()


def test_stale_statistics_are_found_and_not_copied(old, tmp_path, capsys):
    path = old / "meta/episodes_stats.jsonl"
    right = [json.loads(line) for line in path.read_text().splitlines()]
    assert not [each for each in inspect_dataset(old).findings if each.kind == "other-statistics"]
    stale = json.loads(json.dumps(right))
    for name in ("min", "max", "mean"):
        stale[1]["stats"]["action"][name] = [90.0] * 3
    path.write_text("".join(json.dumps(line) + "\n" for line in stale))
    (found,) = (each for each in inspect_dataset(old).findings if each.kind == "other-statistics")
    assert str(found).startswith("meta/episodes_stats.jsonl does not fit the rows (`action`")
    lattok.annotate(open_dataset(old), FakeTokenizer(), tmp_path / "labelled")
    assert "statistics of `action` in 1 episode were those of other rows" in capsys.readouterr().err
    after = [json.loads(line) for line in (tmp_path / "labelled/meta/episodes_stats.jsonl").read_text().splitlines()]
    for name in ("min", "max", "mean", "std"):
        np.testing.assert_allclose(after[1]["stats"]["action"][name], right[1]["stats"]["action"][name], rtol=1e-5)
    assert (after[0], after[2]) == (right[0], right[2])


def test_statistics_of_what_was_filled_in(old, tmp_path):
    made = tmp_path / "made"
    for path in (path for path in old.rglob("*") if path.is_file()):
        (made / path.relative_to(old)).parent.mkdir(parents=True, exist_ok=True)
        (made / path.relative_to(old)).write_bytes(path.read_bytes())
    before = [json.loads(line) for line in (old / "meta/episodes_stats.jsonl").read_text().splitlines()]
    before[1]["stats"]["action"]["mean"] = [9.0]
    (old / "meta/episodes_stats.jsonl").write_text("".join(json.dumps(line) + "\n" for line in before))
    tables = tables_of(open_dataset(old))
    assert tables is not None
    tables.finish(made, NewColumns({}, {}, {}, {"action": {1}}))
    after = [json.loads(line) for line in (made / "meta/episodes_stats.jsonl").read_text().splitlines()]
    rows = np.stack(pq.read_table(old / "data/chunk-000/episode_000001.parquet")["action"].to_pylist())
    np.testing.assert_allclose(after[1]["stats"]["action"]["mean"], rows.mean(0), rtol=1e-5)
    assert (after[0], after[2]) == (before[0], before[2])


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda root: (root / "meta/episodes.jsonl").unlink(), r"cannot read .*episodes\.jsonl: No such file"),
        (lambda root: (root / "meta/tasks.jsonl").write_text("{"), r"tasks\.jsonl, line 1 is not valid JSON"),
        (lambda root: (root / "meta/episodes.jsonl").write_text('{"length": 3}\n'), "expected episode_index, length"),
        (lambda root: (root / "meta/tasks.jsonl").write_text(""), r"tasks\.jsonl: expected one text for each"),
        (
            lambda root: (root / "meta/tasks.jsonl").unlink(),
            r"tasks\.jsonl is missing\. .*: lattok repair \S+ --out rep",
        ),
        (lambda root: edit_info(root, data_path="data/all.parquet"), "`data_path`: expected a path for each episode"),
        (lambda root: edit_info(root, data_path="../{episode_index}"), "info.json: `data_path`"),
        (lambda root: edit_info(root, chunks_size=0), "`chunks_size`: expected a number of episodes"),
    ],
)
def test_what_is_damaged_is_said(old, damage, says):
    damage(old)
    refused(says, open_dataset, old)


def test_rows_that_say_no_instruction_have_the_only_one_of_their_episode(old, tmp_path):
    expected = open_dataset(old)
    numbers = [expected.columns(each.index, ["task_index"])["task_index"] for each in expected.episodes]
    for path in old.glob("data/*/*.parquet"):
        pq.write_table(pq.read_table(path).drop_columns(["task_index"]), path)
    dataset = open_dataset(old)
    single = [each.index for each in dataset.episodes if len(each.tasks) == 1]
    assert single
    for index in single:
        found = dataset.columns(index, ["task_index", "action"])
        np.testing.assert_array_equal(found["task_index"], numbers[index])
        np.testing.assert_array_equal(found["action"], expected.actions(index))


def test_episodes_that_the_list_lacks_are_damaged(old):
    path = old / "meta/episodes.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    dataset = open_dataset(old)
    assert [episode.index for episode in dataset.episodes] == [0, 1]
    ((index, why),) = dataset.damaged
    assert (index, "meta/episodes.jsonl is cut off" in why) == (2, True)


def test_a_missing_episode_is_named(old):
    (old / "data/chunk-000/episode_000001.parquet").unlink()
    dataset = open_dataset(old)
    assert len(dataset.columns(0, ["action"])["action"]) == 12
    refused(r"missing data file .*episode_000001\.parquet", dataset.columns, 1, ["action"])


def test_columns_of_many_episodes_are_those_of_each(old):
    """Read by several threads, and kept: neither shows, nor what somebody does to the arrays."""
    keys, path = ["action", "observation.state"], old / "data/chunk-000/episode_000001.parquet"
    dataset, alone = open_dataset(old), open_dataset(old)
    path.write_bytes(path.read_bytes()[:-9])
    for asked in (dataset.episodes[:1], dataset.episodes, dataset.episodes):
        found = dict(dataset.columns_of(asked, keys))
        assert {*found} == {episode.index for episode in asked}
        for index, values in found.items():
            if isinstance(values, LattokError):
                assert (index, f"{path} is no complete Parquet file" in str(values)) == (1, True)
                continue
            expected = alone.columns(index, keys)
            for key in keys:
                assert values[key].dtype == expected[key].dtype
                np.testing.assert_array_equal(values[key], expected[key])
                if values[key].flags.writeable:
                    values[key] += 1
