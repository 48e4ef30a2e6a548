"""Annotation: what is written, that nothing old changes, and that interruptions leave no trace in the result."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import lattok.annotation as module
from lattok.annotation import LocalEngine, annotate, assembly, engines, labels, units
from lattok.annotation.labels import Work
from lattok.annotation.units import plan_units
from lattok.data import open_dataset
from lattok.data.video import VideoWriter
from lattok.labels.spec import Options
from lattok.types import LatentActions
from lattok.utils.checks import LattokError
from tests.annotation.fakes import MODELS, FakeLAM, FakeTokenizer, Stop, stop, tree
from tests.errors import refused


def test_labels_follow_the_contract(source, tmp_path):
    out = annotate(source, MODELS, tmp_path / "out", quantized=True)
    labelled = open_dataset(out)
    keys = {key: feature.shape for key, feature in labelled.features.items() if key not in source.features}
    assert keys == {
        "latent.codes": (1,),
        "latent.embedding": (2,),
        "latent.quantized": (2,),
        "latent.env.codes": (3,),
        "latent.env.embedding": (6,),
        "latent.env.quantized": (6,),
        "latent.valid": (1,),
        "tok.codes": (2,),
        "tok.embedding": (6,),
        "tok.quantized": (6,),
        "tok.valid": (1,),
    }
    for episode in source.episodes:
        actions = source.columns(episode.index, ["action"])["action"]
        got = labelled.columns(episode.index, list(keys))
        padded = np.concatenate([actions, np.repeat(actions[-1:], 3, axis=0)])
        chunks = np.stack([padded[t : t + 4] for t in range(episode.length)])
        np.testing.assert_array_equal(got["tok.codes"], np.round(chunks[:, [0, -1], 0] * 10).astype(int))
        np.testing.assert_allclose(got["tok.embedding"].reshape(-1, 2, 3)[:, 1], chunks.mean(1), atol=1e-6)
        np.testing.assert_allclose(got["tok.quantized"], got["tok.embedding"] + 1, atol=1e-6)
        assert got["tok.valid"].all()
        brightness = source.frames(episode.index)[:, :, ::4, ::4].astype(np.float64).mean((2, 3, 4))
        later = brightness[np.minimum(np.arange(episode.length) + 3, episode.length - 1)]
        np.testing.assert_allclose(got["latent.embedding"], later - brightness, atol=1e-3)
        np.testing.assert_array_equal(got["latent.valid"], np.arange(episode.length) + 3 < episode.length)
        assert got["latent.codes"].dtype == np.int64
        assert got["latent.env.codes"].shape == (episode.length, 3)


def test_old_columns_and_files_stay_as_they_are(source, tmp_path):
    before = tree(source.root)
    out = annotate(source, MODELS, tmp_path / "out")
    assert tree(source.root) == before
    after = tree(out)
    changed = {name for name in before if after[name] != before[name]}
    assert changed == {name for name in before if name.startswith("data/")} | {"meta/info.json", "meta/stats.json"}
    assert set(after) - set(before) == {"meta/lattok.json"}
    for path in sorted((source.root / "data").rglob("*.parquet")):
        old, new = pq.ParquetFile(path), pq.ParquetFile(out / path.relative_to(source.root))
        assert new.read(columns=old.schema_arrow.names).equals(old.read(), check_metadata=False)
        assert new.schema_arrow.names[: len(old.schema_arrow.names)] == old.schema_arrow.names
        sizes = [[f.metadata.row_group(i).num_rows for i in range(f.num_row_groups)] for f in (old, new)]
        assert sizes[0] == sizes[1]
    old_features = json.loads((source.root / "meta/info.json").read_text())["features"]
    new_features = json.loads((out / "meta/info.json").read_text())["features"]
    assert {key: new_features[key] for key in old_features} == old_features
    video = next((source.root / "videos").rglob("*.mp4"))
    assert video.samefile(out / video.relative_to(source.root))
    # LeRobot rewrites metadata in place: a link would let it change the source
    assert not (source.root / "meta/stats.json").samefile(out / "meta/stats.json")


def test_provenance(source, tmp_path):
    out = annotate(source, {"a.b": FakeLAM()}, tmp_path / "one", cameras=["front", "wrist"])
    twice = annotate(open_dataset(out), {"tok": FakeTokenizer()}, tmp_path / "two", embedding=False)
    record = json.loads((twice / "meta" / "lattok.json").read_text())
    assert set(record) == {"a.b", "tok"}
    assert record["a.b"]["spec"]["stride"] == 3
    assert record["a.b"]["stride_seconds"] == pytest.approx(0.3)
    assert record["a.b"]["cameras"] == list(source.cameras)
    assert record["a.b"]["columns"]["a.b.env.embedding"] == {"dtype": "float32", "shape": [3, 1 * 2]}
    assert record["tok"]["model"] == {**FakeTokenizer().describe(), "device": "cpu"}
    assert record["tok"]["dataset"] == {"name": "one", "kind": "lerobot", "fps": 10, "episodes": 7, "frames": 70}
    assert record["tok"]["spec"]["horizon"] == 4
    assert set(record["tok"]["columns"]) == {"tok.codes", "tok.valid"}
    assert str(tmp_path) not in json.dumps(record)


def test_the_description_of_old_columns_stays(make_dataset, tmp_path):
    """Hugging Face `datasets` goes by the type of a column that it does not name."""
    dataset = make_dataset([5], cameras=False)
    path = dataset.data_file(0)
    table = pq.read_table(path)
    features = {name: {"dtype": "x", "_type": "Value"} for name in table.column_names}
    described = {"huggingface": json.dumps({"info": {"features": features}}), "other": "kept"}
    pq.write_table(table.replace_schema_metadata(described), path)
    out = annotate(open_dataset(dataset.root), {"tok": FakeTokenizer()}, tmp_path / "out")
    schema = pq.read_schema(next((out / "data").rglob("*.parquet")))
    assert {"tok.codes", "tok.valid"} < {*schema.names}
    assert schema.metadata == {name.encode(): value.encode() for name, value in described.items()}


def test_units_are_runs_of_whole_episodes(source):
    planned = plan_units(source, 20)
    assert [e for unit in planned for e in unit.episodes] == list(range(7))
    for unit in planned:
        rows = source.episode_rows(source.root / unit.file)
        assert unit.lengths == tuple(source.episodes[e].length for e in unit.episodes)
        assert (unit.first, unit.last) == (rows[unit.episodes[0]][0], rows[unit.episodes[-1]][1])
        assert unit.last - unit.first <= 20 or len(unit.episodes) == 1
    assert any(unit.episodes == (3,) for unit in planned)  # 25 frames: longer than a unit may be
    of_ten = [SimpleNamespace(index=index, length=10) for index in range(5)]
    filled = plan_units(SimpleNamespace(kind="videos", episodes=of_ten), 20)
    assert [unit.episodes for unit in filled] == [(0, 1), (2, 3), (4,)]


def test_a_file_of_labels_ends_with_the_episode_that_fills_it(monkeypatch):
    monkeypatch.setattr(units, "SIDECAR_ROWS", 10)
    episodes = [SimpleNamespace(index=index, length=length) for index, length in enumerate([4, 6, 3, 12, 1])]
    planned = plan_units(SimpleNamespace(kind="videos", episodes=episodes), 100)
    files = [units.SIDECAR_PATH.format(number) for number in range(3)]
    assert [unit[:5] for unit in planned] == [
        (0, files[0], 0, 10, (0, 1)),
        (1, files[1], 0, 15, (2, 3)),
        (2, files[2], 0, 1, (4,)),
    ]


def one_unit(work, unit):
    ((_, labelled),) = LocalEngine().label(work, [unit])
    return labelled


def test_a_unit_depends_on_its_arguments_only(source):
    planned = plan_units(source, 20)
    forward = [one_unit(Work(source, MODELS, Options()), unit) for unit in planned]
    backward = [one_unit(Work(open_dataset(source.root), MODELS, Options()), unit) for unit in planned[::-1]][::-1]
    for one, other in zip(forward, backward, strict=True):
        assert not one.failures
        for name, values in one.rows.items():
            np.testing.assert_array_equal(values, other.rows[name])


def test_a_label_depends_on_its_episode_only(source, tmp_path, monkeypatch):
    large = annotate(source, MODELS, tmp_path / "large")
    monkeypatch.setattr(module, "UNIT_FRAMES", 1)
    small = annotate(source, MODELS, tmp_path / "small")
    for folder in ("data", "videos"):
        assert tree(small / folder) == tree(large / folder)


def interrupted(monkeypatch, function: str, after: int) -> None:
    """Let the `after`-th call of `function` in os or in lattok's modules raise."""
    owners = {"append_columns": assembly, "copy_other_files": assembly, "label_decoded": engines}
    owner, name = owners.get(function, os), function
    real, calls = getattr(owner, name), iter(range(10**6))

    def wrapper(*args, **kwargs):
        if next(calls) == after:
            raise Stop
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, wrapper)


POINTS = [("label_decoded", 0), ("label_decoded", 3), *(("replace", n) for n in (0, 4, 7, 9))]
POINTS += [("append_columns", 1), ("link", 1), ("copy_other_files", 0), ("rename", 0)]


@pytest.mark.parametrize(("function", "after"), POINTS)
def test_a_restarted_run_ends_with_the_same_bytes(source, tmp_path, monkeypatch, function, after):
    expected = tree(annotate(source, MODELS, tmp_path / "expected"))
    with monkeypatch.context() as patch:
        interrupted(patch, function, after)
        patch.setattr(Path, "unlink", lambda *args, **kwargs: None)  # a killed process cleans nothing up
        with pytest.raises(Stop):
            annotate(source, MODELS, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    annotate(source, MODELS, tmp_path / "out")
    assert tree(tmp_path / "out") == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["expected", "out", "tiny"]


def test_finished_units_are_not_labelled_again(source, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupted(patch, "label_decoded", 3)
        with pytest.raises(Stop):
            annotate(source, MODELS, tmp_path / "out")
    labelled = []
    real = engines.label_decoded
    monkeypatch.setattr(engines, "label_decoded", lambda w, u, f: labelled.append(u.number) or real(w, u, f))
    annotate(source, MODELS, tmp_path / "out")
    assert labelled == [unit.number for unit in plan_units(source, 20)][3:]


def test_two_at_once(source, tmp_path):
    def again(done, total):
        refused("another process is at work on", lambda: annotate(source, {"tok": FakeTokenizer()}, tmp_path / "out"))

    annotate(source, MODELS, tmp_path / "out", progress=again)
    assert tree(tmp_path / "out") == tree(annotate(source, MODELS, tmp_path / "alone"))


def test_another_plan_starts_over(source, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupted(patch, "label_decoded", 3)
        with pytest.raises(Stop):
            annotate(source, MODELS, tmp_path / "out")
    annotate(source, {"tok": FakeTokenizer()}, tmp_path / "out")
    assert tree(tmp_path / "out") == tree(annotate(source, {"tok": FakeTokenizer()}, tmp_path / "again"))


def test_a_kill_after_the_last_rename_is_cleaned_up(source, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(module.Staging, "remove", stop)
        with pytest.raises(Stop):
            annotate(source, MODELS, tmp_path / "out")
    before = tree(tmp_path / "out")
    assert annotate(source, MODELS, tmp_path / "out") == tmp_path / "out"
    assert tree(tmp_path / "out") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "tiny"]


@pytest.mark.parametrize("after", range(8))
def test_a_kill_while_the_folder_is_removed_is_cleaned_up(source, tmp_path, monkeypatch, after):
    calls = iter(range(100))

    def killed(function):
        def wrapper(*args, **kwargs):
            if ".out.partial" in str(args[0]) and staging_is_removed and next(calls) >= after:
                raise Stop
            return function(*args, **kwargs)

        return wrapper

    staging_is_removed: list[int] = []
    real = module.Staging.remove
    with monkeypatch.context() as patch:
        patch.setattr(
            module.Staging, "remove", lambda *args, **options: staging_is_removed.append(1) or real(*args, **options)
        )
        for owner, name in ((shutil, "rmtree"), (Path, "unlink"), (Path, "rmdir")):
            patch.setattr(owner, name, killed(getattr(owner, name)))
        with suppress(Stop):
            annotate(source, MODELS, tmp_path / "out")
    before = tree(tmp_path / "out")
    if (tmp_path / ".out.partial/done").exists():
        annotate(source, MODELS, tmp_path / "out")
    assert tree(tmp_path / "out") == before
    left = tmp_path / ".out.partial"
    assert not left.exists() or not list(left.iterdir())


def test_ctrl_c_keeps_the_work_and_says_so(source, tmp_path, monkeypatch):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="Run the same command to continue"):
        annotate(source, MODELS, tmp_path / "out", progress=stop)
    assert list((tmp_path / ".out.partial" / "units").glob("*/*.npz"))


KILLED = """
import sys, time
import lattok.annotation as module
from lattok.annotation import engines
from lattok.data import open_dataset
from tests.annotation.fakes import MODELS
module.UNIT_FRAMES = 20
real = engines.label_decoded
def slow(*args):
    time.sleep(0.03)
    return real(*args)
engines.label_decoded = slow
dataset = open_dataset(sys.argv[1])
print("ready", flush=True)
module.annotate(dataset, MODELS, sys.argv[2])
"""


def test_killed_at_random_moments(source, tmp_path, rng):
    expected = tree(annotate(source, MODELS, tmp_path / "expected"))
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", KILLED, str(source.root), str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    for _ in range(2):
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, cwd=root) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            time.sleep(rng.uniform(0.0, 0.4))
            process.send_signal(signal.SIGKILL)
    if not (tmp_path / "out").exists() or (tmp_path / ".out.partial").exists():
        annotate(source, MODELS, tmp_path / "out")
    assert tree(tmp_path / "out") == expected
    assert not (tmp_path / ".out.partial").exists()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
@pytest.mark.parametrize(("owner", "function"), [(os, "fsync"), (os, "replace"), (Path, "mkdir")])
def test_no_space_or_permission_leaves_nothing(source, tmp_path, monkeypatch, code, owner, function):
    before = tree(source.root)
    real, calls = getattr(owner, function), iter(range(10**6))

    def failing(*args, **kwargs):
        if next(calls) >= 3:
            raise OSError(code, os.strerror(code))
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(owner, function, failing)
        said = refused(
            rf"cannot write .*out: {os.strerror(code)}\. The source is un", annotate, source, MODELS, tmp_path / "out"
        )
    assert "\n" not in said
    assert tree(source.root) == before
    kept = "finished labels wait" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ([".out.partial"] if kept else []) + ["tiny"]
    expected = tree(annotate(source, MODELS, tmp_path / "expected"))
    assert tree(annotate(source, MODELS, tmp_path / "out")) == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["expected", "out", "tiny"]


def test_arrow_running_out_of_space(source, tmp_path, monkeypatch):
    def failing(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", failing)
    refused(r"No space left on device.*finished labels wait in", annotate, source, MODELS, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.partial", "tiny"]
    assert not list((tmp_path / ".out.partial").rglob("*.parquet*"))


def test_a_file_where_the_folder_should_be(source, tmp_path):
    (tmp_path / "file").touch()
    refused("cannot write", annotate, source, MODELS, tmp_path / "file" / "out")


@pytest.mark.parametrize("links", [True, False])
def test_videos_alone_are_shared_with_the_source_where_the_file_system_allows_it(source, tmp_path, monkeypatch, links):
    """LeRobot rewrites its metadata in place: through a link that would change the source."""
    if not links:
        monkeypatch.setattr(os, "link", lambda *args: (_ for _ in ()).throw(OSError(errno.EXDEV, "cross-device")))
    out = annotate(source, MODELS, tmp_path / "out")
    files = [path.relative_to(source.root) for path in source.root.rglob("*") if path.is_file()]
    shared = {path for path in files if (out / path).is_file() and (out / path).samefile(source.root / path)}
    videos = {path for path in files if path.parts[0] == "videos"}
    assert videos
    assert len(videos) < len(files)
    assert shared == (videos if links else set())
    assert all((out / path).read_bytes() == (source.root / path).read_bytes() for path in videos)


def test_a_data_file_without_episodes(source, tmp_path):
    shutil.copy(source.data_file(0), source.root / "data" / "chunk-000" / "file-999.parquet")
    refused(r"file-999\.parquet belongs to no episode", annotate, source, MODELS, tmp_path / "out")


def test_decoding_ahead_changes_no_byte(source, tmp_path, monkeypatch):
    expected = tree(annotate(source, MODELS, tmp_path / "one_by_one"))
    work = Work(source, MODELS, Options())
    alone = {index: one_unit(work, unit).rows for index, unit in enumerate(plan_units(source, 20))}
    monkeypatch.setattr(engines, "AHEAD_FRAMES", 10**6)  # everything at once
    monkeypatch.setattr(labels, "PIECE_FRAMES", 4)
    monkeypatch.setattr("lattok.utils.parallel.cores", lambda: 5)
    assert tree(annotate(open_dataset(source.root), MODELS, tmp_path / "ahead")) == expected
    rows = open_dataset(tmp_path / "ahead").columns(3, ["latent.embedding"])["latent.embedding"]
    (unit,) = (unit for unit in plan_units(source, 20) if unit.episodes == (3,))
    np.testing.assert_array_equal(rows, alone[unit.number]["latent.embedding"].reshape(25, 2))


def test_ctrl_c_stops_the_threads(source, tmp_path):
    class Interrupted(FakeLAM):
        def label_video(self, frames, stride):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="Run the same command"):
        annotate(source, {"latent": Interrupted()}, tmp_path / "out")
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("lattok")]
    annotate(source, {"latent": FakeLAM()}, tmp_path / "out")


def test_weights_are_hashed_once(source, tmp_path):
    calls = []

    class Counting(FakeLAM):
        def describe(self):
            calls.append(1)
            return super().describe()

    annotate(source, {"latent": Counting()}, tmp_path / "out")
    assert calls == [1]


def test_a_model_without_codes(source, tmp_path):
    class Continuous(FakeLAM):
        def label_video(self, frames, stride):
            out = super().label_video(frames, stride)
            return LatentActions(out.codes[:, :0], out.latents, out.latents)

    models = {"latent": Continuous()}
    labelled = open_dataset(annotate(source, models, tmp_path / "out", quantized=True))
    assert {key for key in labelled.features if key.startswith("latent.")} == {"latent.embedding", "latent.valid"}
    refused("`embedding`: expected True, since the model", annotate, source, models, tmp_path / "more", embedding=False)
    assert not (tmp_path / ".more.partial").exists()


def test_a_model_of_stage_1_is_refused(source, tmp_path):
    lam = FakeLAM()
    lam.language = "t5:google-t5/t5-base"
    message = "`models`: expected a stage-2 model for `latent`, got a stage-1 model .*train stage 2"
    refused(message, annotate, source, {"latent": lam}, tmp_path / "out")


def test_one_frame_episodes_have_labels_that_are_not_valid(make_dataset, tmp_path):
    dataset = make_dataset([1, 12, 1, 2])
    labelled = open_dataset(annotate(dataset, {"latent": FakeLAM()}, tmp_path / "out"))
    for episode in labelled.episodes:
        rows = labelled.columns(episode.index, ["latent.codes", "latent.embedding", "latent.valid"])
        assert [len(values) for values in rows.values()] == [episode.length] * 3
        np.testing.assert_array_equal(rows["latent.valid"], np.arange(episode.length) + 3 < episode.length)
        assert not rows["latent.embedding"][-1].any()  # the last frame with itself


def test_videos_shorter_than_the_stride(make_dataset, tmp_path):
    message = r"`stride`: .*got 3 frames \(0\.3 s\), which leaves 0 of 8\. The largest usable gap is 1 "
    refused(message, lambda: annotate(make_dataset([3, 2, 3]), {"latent": FakeLAM()}, tmp_path / "out"))
    refused(
        "The episodes are too short for pairs",
        lambda: annotate(make_dataset([1, 1], name="single"), {"latent": FakeLAM()}, tmp_path / "out"),
    )


def test_videos_of_several_sizes_are_resized_by_the_model(source, tmp_path):
    class AnySize(FakeLAM):
        def resize(self, frames):
            rows, columns = (np.arange(8) * size // 8 for size in frames.shape[1:3])
            return frames[:, rows][:, :, columns]

    path, _, _ = source.video_span(6, source.cameras[1])
    span = [e.index for e in source.episodes if source.video_span(e.index, source.cameras[1])[0] == path]
    frames = sum(source.episodes[i].length for i in span)
    path.unlink()
    encoder = VideoWriter(path, 10, (48, 64), "h264")
    encoder.add(np.full((frames, 48, 64, 3), 200, dtype=np.uint8))
    encoder.close()
    refused("expected frames of one size, got 32x32x3 from .*front and 48x64x3", source.frames, 6)
    labelled = open_dataset(annotate(source, {"latent": AnySize()}, tmp_path / "out"))
    assert not labelled.columns(6, ["latent.embedding"])["latent.embedding"].reshape(8, 2)[:, 1].any()


@pytest.mark.parametrize("threads", [0, 1025, 10**25])
def test_numbers_of_threads_that_no_machine_has(source, tmp_path, threads):
    """What `annotate` takes, `verify` takes from the record."""
    refused("`threads`: expected ", annotate, source, MODELS, tmp_path / "out", threads=threads)


@pytest.mark.parametrize("prefix", ["action.latent", "observation.latent", "La", "", "a/b", ".a", "a."])
def test_prefixes_that_are_refused(source, tmp_path, prefix):
    refused("`prefix`: expected lower-case letters", lambda: annotate(source, {prefix: FakeLAM()}, tmp_path / "out"))


@pytest.mark.parametrize("threads", [0, 4097, 10**25])
def test_threads_that_no_record_of_labels_may_name_are_refused(source, tmp_path, threads):
    refused(
        "`threads`: expected (a whole number of at least 1|at most 1,024), got ",
        lambda: annotate(source, {"latent": FakeLAM()}, tmp_path / "out", threads=threads),
    )
    assert not (tmp_path / "out").exists()


def test_prefixes_that_collide(source, tmp_path):
    out = annotate(source, {"latent": FakeLAM()}, tmp_path / "out")
    refused(r"`prefix`: expected one", lambda: annotate(open_dataset(out), {"latent": FakeLAM()}, tmp_path / "more"))
    info = json.loads(
        (out / "meta/info.json").read_text()
    )  # the columns stay in the data files, and would be there twice
    info["features"] = {key: feature for key, feature in info["features"].items() if not key.startswith("latent.")}
    (out / "meta/info.json").write_text(json.dumps(info))
    refused(r"got 'latent'", lambda: annotate(open_dataset(out), {"latent": FakeLAM()}, tmp_path / "more"))
    refused("prefixes", lambda: annotate(source, {"latent": FakeLAM(), "latent.env": FakeLAM()}, tmp_path / "more"))
    refused("`models`: expected at least one model", annotate, source, {}, tmp_path / "more")


def test_where_the_output_may_be(source, tmp_path):
    for inside in (source.root, source.root / "labels"):
        refused("`out`: expected a folder outside the source dataset", annotate, source, MODELS, inside)
    (tmp_path / "there").mkdir()
    refused("`out`: expected a folder that does not exist yet", annotate, source, MODELS, tmp_path / "there")
    assert (tmp_path / "there").exists()


def test_models_that_do_not_fit(source, tmp_path):
    tokenizer = FakeTokenizer()
    tokenizer.action_dim = 7
    message = r"`action` has 3 dimensions \(x, y, z\), but this tokenizer was trained on 7\. Select or add columns"
    refused(message, annotate, source, {"tok": tokenizer}, tmp_path / "out")
    refused(r"`action_key`", lambda: annotate(source, {"tok": FakeTokenizer()}, tmp_path / "out", action_key="act"))
    lam = FakeLAM()
    lam.cameras = ("front", "top")
    refused("`cameras`: expected names among front, wrist, got", annotate, source, {"latent": lam}, tmp_path / "out")
    with pytest.raises(LattokError, match=r"expected names among front, wrist, got 'side'\."):  # typed by oneself
        annotate(source, {"latent": lam}, tmp_path / "out", cameras=["front", "side"])
    refused("`cameras`: expected", lambda: annotate(source, {"latent": FakeLAM()}, tmp_path / "out", cameras=["front"]))
    lam.cameras = ("front", "wrist", "top")
    text = r"`dataset`: expected the 3 cameras of the model \(front, wrist, top\), got one with front, wrist\."
    refused(text, annotate, source, {"latent": lam}, tmp_path / "out")


def test_progress_counts_frames(source, tmp_path):
    seen = []
    annotate(
        source, {"tok": FakeTokenizer()}, tmp_path / "out", progress=lambda done, total: seen.append((done, total))
    )
    assert seen[-1] == (70, 70)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


def test_labels_of_a_unit_are_arrow_columns_of_fixed_width(source, tmp_path):
    out = annotate(source, MODELS, tmp_path / "out")
    schema = pq.read_schema(next((out / "data").rglob("*.parquet")))
    assert schema.field("tok.codes").type == pa.list_(pa.int64(), 2)
    assert schema.field("latent.codes").type == pa.int64()  # LeRobot's shape (1,) is a scalar column
    assert schema.field("latent.valid").type == pa.bool_()
    assert schema.field("latent.embedding").type == pa.list_(pa.float32(), 2)
