"""Inspection finds what is planted, reports nothing in a clean dataset, and fits a terminal."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lattok.cli import main
from lattok.data import Feature, LeRobotV3, LeRobotWriter, RobotDataset, inspect_dataset, open_dataset, problems
from lattok.data.episodes import split_by_task
from lattok.data.inspection import without_lost
from lattok.data.problems import Dimension, Rows, column_figures
from lattok.data.schema import Damage
from lattok.data.views import DECLARATION, with_cameras
from lattok.types import Episode
from lattok.utils.checks import LattokError
from lattok.utils.findings import Problem
from tests.conftest import put_video
from tests.data.edits import add_feature, edit_info, read_info, set_column
from tests.errors import refused
from tests.real import BRIDGE, needs_real


def replant(dataset: LeRobotV3, key: str, change: Callable[[np.ndarray], np.ndarray]) -> LeRobotV3:
    """Change a column of the dataset's data file and open it again."""
    path = dataset.data_file(0)
    shape = dataset.features[key].shape
    values = np.array(pq.read_table(path)[key].to_pylist())
    flat = pa.array(change(values).reshape(-1).astype(dataset.features[key].dtype))
    column = flat if shape == (1,) else pa.FixedSizeListArray.from_arrays(flat, shape[0])
    set_column(path, key, column)
    return open_dataset(dataset.root)


def found(dataset: LeRobotV3) -> str:
    return "\n".join(f"{f.severity}: {f}" for f in inspect_dataset(dataset).findings)


def test_the_sample(sample):
    inspection = inspect_dataset(sample)
    assert {finding.severity for finding in inspection.findings} == {"note"}
    text = inspection.render()
    assert max(map(len, text.splitlines())) <= 88
    assert "episodes  50, 4,059 frames, 50.7 s at 80 fps" in text
    assert "observation.images.corner2 128x128, 80 fps, av1" in text
    assert "14 of 39 dimensions never change" in text
    assert "27 of 50 episodes are shorter than 1 s" in text


def test_a_clean_dataset_has_no_findings(make_dataset):
    inspection = inspect_dataset(make_dataset([20, 30]))
    assert inspection.findings == ()
    assert inspection.render().endswith("Nothing found that would hurt.")


def test_json_for_programs(make_dataset, capsys):
    """The keys stay; findings come with kind, all episodes and figures, also of a dataset that cannot be opened."""

    def plant(actions):
        actions[[21, 22, 55], 0] = np.nan
        return actions

    root = replant(make_dataset([20, 30, 25]), "action", plant).root
    assert main(["inspect", str(root), "--json"]) == 1
    told = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)  # no NaN, which JSON lacks
    keys = "schema dataset format robot fps scope convention episodes frames tasks cameras columns lag findings next"
    assert " ".join(told) == f"{keys} repair"
    assert (told["schema"], told["episodes"], told["frames"], told["next"]) == (1, 3, 75, [])
    assert {*told["cameras"][0]} == {"name", "frames", "fps", "width", "height", "codec", "hdr"}
    assert {*told["columns"][0]} == {"column", "dimension", "min", "mean", "std", "max"}
    (finding,) = (each for each in told["findings"] if each["severity"] == "error")
    assert " ".join(finding) == "kind severity what advice commands facts cost episodes places"
    assert (finding["kind"], finding["episodes"], finding["facts"]["count"]) == ("not-finite", [1, 2], 3)
    data = root / "data/chunk-000/file-000.parquet"
    data.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    for damaged, exit_code in ((data, 1), (root / "meta/tasks.parquet", 2)):
        damaged.write_bytes(data.read_bytes())
        assert main(["inspect", str(root), "--json"]) == exit_code
        told = json.loads(capsys.readouterr().out)
        assert "git-lfs-pointer" in {each["kind"] for each in told["findings"]}


@pytest.mark.parametrize("above", ["observation.", ""])  # openpi's own has no prefix
def test_what_equals_the_action_is_not_offered_as_state(tmp_path, rng, above):
    """By whatever name: a policy would copy it."""
    features = {f"{above}{name}": Feature("float32", (2,), None) for name in ("joint_command", "joint_pos", "gripper")}
    with LeRobotWriter.create(tmp_path / "arm", 10, features | {"action": Feature("float32", (4,), None)}) as writer:
        for _ in range(3):
            acts, other = rng.standard_normal((2, 20, 4))
            columns = {"action": acts, f"{above}joint_command": acts[:, 1:3], f"{above}joint_pos": other[:, :2]}
            writer.add_episode(columns | {f"{above}gripper": other[:, 2:]}, {}, "lift")
    (said,) = (each for each in inspect_dataset(tmp_path / "arm").findings if each.kind == "columns-in-parts")
    assert f'{{"observation.state": ["{above}joint_pos", "{above}gripper"]}}' in said.advice


def test_cameras_of_segments_are_said_and_left_out_as_typed(tmp_path):
    """BEHAVIOR-1K's show colours for objects, beside cameras with the same last names."""
    keys = [f"observation.images.{kind}.head" for kind in ("rgb", "seg_instance_id")]
    with LeRobotWriter.create(
        tmp_path / "arm", 10, {key: Feature("image", (16, 16, 3), None) for key in keys}
    ) as writer:
        writer.add_episode({}, {key: np.zeros((4, 16, 16, 3), np.uint8) for key in keys}, "lift")
    (said,) = (each for each in inspect_dataset(tmp_path / "arm").findings if each.kind == "segment-cameras")
    (tmp_path / "arm.json").write_text(said.advice[said.advice.index("{") : said.advice.rindex("}") + 1])
    assert open_dataset(tmp_path / "arm.json").cameras == (keys[0],)


@pytest.mark.parametrize(
    ("keys", "chosen"),
    [
        (("action.joint_position",), "action.joint_position"),
        (("actions", "actions_abs"), "actions"),  # openpi
        (("action.actions", "action.rel_actions_world"), None),  # one motion in other words: no parts of one action
    ],
)
def test_the_only_whole_action_is_in_the_next_command(tmp_path, rng, capsys, keys, chosen):
    with LeRobotWriter.create(tmp_path / "arm", 10, dict.fromkeys(keys, Feature("float32", (4,), None))) as writer:
        for _ in range(3):
            writer.add_episode({key: rng.standard_normal((20, 4)) for key in keys}, {}, "lift")
    assert main(["inspect", str(tmp_path / "arm")]) == 0
    said = capsys.readouterr().out
    assert (f"--action-key {chosen}" in said) == (chosen is not None)
    assert "To join them" not in said


def test_every_problem_of_a_dataset_has_a_kind():
    found = [each for each in vars(problems).values() if isinstance(each, Problem)]
    assert all(re.fullmatch("[a-z]+(-[a-z]+)*", each.kind) for each in found)


def test_constant_dimensions(make_dataset):
    dataset = replant(make_dataset([20, 30], cameras=False), "action", lambda a: a * [1, 0, 1])
    assert "warning: `action`: 1 of 3 dimensions never change (y)." in found(dataset)


def test_outliers_name_the_worst(make_dataset):
    def plant(actions):
        actions[24, 2] = 500.0
        return actions

    text = found(replant(make_dataset([20, 300], cameras=False), "action", plant))
    assert "warning: `action` (z) holds 1 wild value, the worst 500 in episode 1, frame 4" in text


def test_a_gripper_that_rarely_closes_is_no_outlier(make_dataset):
    def gripper(actions):
        actions[:, 2] = np.arange(len(actions)) % 20 == 0
        return actions

    assert "wild" not in found(replant(make_dataset([200], cameras=False), "action", gripper))


def test_nan(make_dataset):
    def plant(actions):
        actions[21:23, 0] = np.nan
        return actions

    text = found(replant(make_dataset([20, 30], cameras=False), "action", plant))
    assert "error: `action` (x) holds 2 values that are not finite, first in episode 1, frame 1." in text


def test_episodes_that_fail(make_dataset, tmp_path):
    dataset = make_dataset([20] * 4)
    add_feature(dataset.root, "next.success", "bool", [1])
    for failed, named in (((1, 3), [(1, 3)]), ((), []), (range(4), [])):  # all: nobody set it
        set_column(dataset.data_file(0), "next.success", [i % 20 == 19 and i // 20 not in failed for i in range(80)])
        told = [each for each in inspect_dataset(dataset.root).findings if each.kind == "failed-episodes"]
        assert [each.episodes for each in told] == named
        assert all("2 of 4 episodes did not succeed, going by `next.success`" in each.what for each in told)
    for e, name in enumerate(("is_episode_successful", "next.reward", "complementary_info.is_intervention")):
        other = make_dataset([20] * 4, name=f"flag{e}")
        add_feature(other.root, name, "float32", [1])
        set_column(other.data_file(0), name, [float(i % 20 == 19 and i // 20 not in (1, 3)) for i in range(80)])
        (told,) = (each for each in inspect_dataset(other.root).findings if f"`{name}`" in each.what)
        assert (told.kind, told.episodes) == (("failed-episodes", (1, 3)), ("interventions", (0, 2)))[e == 2]
    for place in ("success/a", "failed_episodes/b", "success/c"):
        film = tmp_path / "films" / place / "0.mp4"
        film.parent.mkdir(parents=True)
        put_video(film, np.zeros((20, 16, 16, 3), np.uint8), 10)
    (told,) = (each for each in inspect_dataset(tmp_path / "films").findings if each.kind == "failed-episodes")
    assert told.episodes == (0,)
    assert "(failed_episodes)" in told.what


def test_own_splits(make_dataset):
    """Of `splits` in info.json, which LeRobot reads nowhere, val judges, else test; one of all says nothing."""
    dataset = make_dataset([20] * 6)
    for splits, held_out in (({"train": "0:4", "val": "4:6"}, (4, 5)), ({"train": "0:5", "test": "5:6"}, (5,))):
        edit_info(dataset.root, splits=splits)
        opened = open_dataset(dataset.root)
        assert split_by_task(opened)[1] == list(opened.held_out) == list(held_out)
        assert [*splits][1] + " for evaluation" in found(opened)
    edit_info(dataset.root, splits={"train": "0:6"})
    assert open_dataset(dataset.root).findings == ()


def test_timestamps_of_another_rate(make_dataset):
    text = found(replant(make_dataset([20, 30], cameras=False), "timestamp", lambda t: t / 2))
    assert "error: Timestamps of 2 episodes (first: 0) do not fit fps = 10; the timestamps say 20 fps." in text


def test_videos_of_another_rate(make_dataset):
    dataset = make_dataset([20])
    path = dataset.video_span(0, dataset.cameras[0])[0]
    put_video(path, np.zeros((10, 32, 32, 3), dtype=np.uint8), fps=5)
    assert "runs at 5 fps, the dataset at 10." in found(dataset)


def test_missing_and_truncated_videos(make_dataset):
    dataset = make_dataset([20])
    front, wrist = (dataset.video_span(0, key)[0] for key in dataset.cameras)
    front.unlink()
    wrist.write_bytes(wrist.read_bytes()[:-400])
    text = found(dataset)
    assert "error: missing video file" in text
    assert "truncated or damaged" in text


def test_missing_data_files_are_reported_once(make_dataset):
    dataset = make_dataset([20, 30], cameras=False)
    dataset.data_file(0).unlink()
    findings = inspect_dataset(dataset).findings
    assert [f.severity for f in findings] == ["error", "note"]
    assert "missing data file" in findings[0].what
    assert "no cameras" in findings[1].what
    inspect_dataset(dataset).render()


def test_lengths_that_disagree_with_the_table(make_dataset):
    dataset = make_dataset([20, 30], cameras=False)
    path = dataset.data_file(0)
    pq.write_table(pq.read_table(path).slice(0, 45), path)
    assert "expected 30 rows of episode 1, got 25" in found(open_dataset(dataset.root))


def test_cameras_of_different_sizes(make_dataset):
    dataset = make_dataset([20])
    path = dataset.video_span(0, dataset.cameras[1])[0]
    put_video(path, np.zeros((20, 16, 64, 3), dtype=np.uint8), fps=10)
    assert "note: The cameras have different sizes." in found(dataset)


def test_long_names_fit_the_terminal(make_dataset):
    dataset = make_dataset([20, 30], tasks=["a very long instruction " * 20, "push"], cameras=False)
    features = read_info(dataset.root)["features"]
    features["action"]["names"] = ["robot0_eef_pos_0", "robot0_eef_pos_1", "left_arm_shoulder_pitch.position"]
    edit_info(dataset.root, features=features)
    text = inspect_dataset(open_dataset(dataset.root)).render()
    assert max(map(len, text.splitlines())) <= 88
    assert all(f" {name} " in text for name in ("robot…_pos_0", "robot…_pos_1", "left_…sition"))


def test_options_restrict_and_say_what_they_would_do(make_dataset):
    dataset = make_dataset([12, 15, 11, 14])
    text = inspect_dataset(dataset, episodes="0:2", cameras=["wrist"], stride=3, horizon=4).render()
    assert "episodes  2, 27 frames" in text
    assert "observation.images.front" not in text
    assert "With a stride of 3 frames, 22% of the frames have no partner." in text
    assert "With a horizon of 4, 22% of the chunks run over the end" in text
    assert "`stride`: expected a gap" in inspect_dataset(dataset, stride=9).render().replace("\n" + " " * 8, " ")
    refused("`horizon`: expected at most 1,000,000,000, got 10000", inspect_dataset, dataset, horizon=10**25)
    refused("`columns`: expected one of action, .*, got 'joints'", inspect_dataset, dataset, columns=["joints"])
    assert dataset.name + ": 4 episodes, 52 frames (5 s), 2 tasks, 2 cameras" in inspect_dataset(dataset).headline()


class Memory(RobotDataset):
    """A source of another format, held in memory: what every format gets from `inspect_dataset`."""

    kind, name, robot, fps, root = "rlds", "in memory", None, 10.0, Path("nowhere")
    tasks: tuple[str, ...] = ("lift",)
    cameras = ("observation.images.front",)
    damaged: tuple[Damage, ...] = ()

    def __init__(self, lengths: list[int], seed: int = 0):
        self.features = {
            "action": Feature("float32", (3,), None),
            "observation.images.front": Feature("image", (8, 6, 3), None),
        }
        self.episodes = tuple(Episode(i, length, self.tasks) for i, length in enumerate(lengths))
        rng = np.random.default_rng(seed)
        self.values = [rng.standard_normal((length, 3)).astype(np.float32) for length in lengths]
        self.broken: dict[int, str] = {}

    def files_of(self, index: int) -> tuple[Path, ...]:
        return (Path(f"shard-{index // 2}"),)

    def columns(self, index: int, keys: list[str]) -> dict[str, np.ndarray]:
        if index in self.broken:
            raise LattokError(self.broken[index])
        return {"action": self.values[index]}

    def frames(self, index, cameras=None, indices=None, transform=None) -> np.ndarray:
        if index in self.broken:
            raise LattokError(self.broken[index])
        return np.zeros((len(indices), 1, 8, 6, 3), dtype=np.uint8)


def test_a_source_of_any_format():
    source = Memory([20, 30, 10])
    source.damaged = (Damage(7, "shard-3: the CRC of record 2 is wrong. Copy it again."),)
    source.left_out = {"observation.pointcloud": "a nested dataset of another length"}
    source.broken = {1: "shard-0: record 1 of episode 1 is damaged."}
    inspection = inspect_dataset(source)
    text = " ".join(inspection.render().split())
    assert text.startswith("in memory (rlds) episodes 3, 60 frames")
    assert "observation.images.front 6x8, stored images" in text
    assert "error Episode 7: shard-3: the CRC of record 2 is wrong." in text
    assert text.count("error shard-0: record 1 of episode 1 is damaged.") == 1  # values and frames, said once
    assert "`observation.pointcloud` is left out: a nested dataset of another length." in text
    assert inspection.dimensions[0].maximum == max(source.values[i][:, 0].max() for i in (0, 2))


def test_video_without_actions_says_what_still_works():
    source = Memory([20, 20])
    del source.features["action"]
    source.kind, source.episodes = "video", tuple(Episode(i, 20, ()) for i in range(2))
    text = " ".join(inspect_dataset(source).render().split())
    assert "note There are no actions in this dataset. Latent action models of video can be trained" in text
    assert "2 of 2 episodes have no language instruction (first: 0)" in text


def test_whole_numbers_are_actions_too():
    source = Memory([20])
    source.features["action"] = Feature("int64", (3,), None)
    assert not [finding for finding in inspect_dataset(source).findings if "no actions" in finding.what]


def test_declared_action_spaces_are_shown(make_dataset):
    dataset = make_dataset([20, 30])
    path = dataset.root / DECLARATION
    path.write_text(json.dumps({"action": [{"part": "position"}]}))
    assert "  space     action: position (3)" in inspect_dataset(dataset).render()
    path.write_text(json.dumps({"action": "bridge"}))
    assert [f.severity for f in inspect_dataset(open_dataset(dataset.root)).findings] == ["error"]


def test_views_are_looked_into_as_what_is_behind_them(make_dataset):
    """Cameras under other names, and columns that a description makes: videos and data files are the same."""
    dataset = make_dataset([20, 30])
    camera = dataset.cameras[0]
    view = with_cameras(dataset, {"front": camera})
    assert found(view) == found(dataset)
    path = dataset.video_span(0, camera)[0]
    shutil.copy(dataset.data_file(0), dataset.data_file(0).with_name("file-009.parquet"))
    path.write_bytes(path.read_bytes()[:200])
    text = found(with_cameras(open_dataset(dataset.root), {"front": camera}))
    assert "file-009.parquet belongs to no episode" in text
    assert f"error: cannot decode video {path}" in text


def test_nothing_but_damage():
    source = Memory([])
    source.damaged = tuple(Damage(i, f"file {i} is truncated.") for i in range(30))
    text = inspect_dataset(source).render()
    assert "episodes  0, 0 frames" in text
    assert "… and 22 more of this kind." in text


def test_large_datasets_are_sampled_by_a_stated_rule(monkeypatch):
    monkeypatch.setattr("lattok.data.inspection.ALL_FRAMES_BY_ROW", 600)
    monkeypatch.setattr("lattok.data.inspection.EPISODES_PER_RUN", 4)
    monkeypatch.setattr("lattok.data.inspection.FILES_LOOKED_INTO", 5)
    monkeypatch.setattr("lattok.data.copies.MOST_FRAMES", (600, 600))
    source = Memory([30] * 40)
    read: list[int] = []
    columns = source.columns
    source.columns = lambda index, keys: read.append(index) or columns(index, keys)
    inspection, held_out = inspect_dataset(source), range(35, 40)  # whose actions may be unknown
    assert read == [*range(4), *range(8, 12), *range(16, 20), *range(28, 32), *range(36, 40), *held_out]
    assert "from 20 episodes, runs of 4 evenly spread; lengths from all" in inspection.scope
    assert "frames from 5 of 20 files, evenly spread" in inspection.scope
    assert "equal episodes were not looked for: too many rows would have to be read" in inspection.scope
    assert len(inspection.lengths) == 40
    monkeypatch.setattr("lattok.data.inspection.EPISODES_PER_RUN", 40)
    read.clear()
    inspect_dataset(source)
    assert read[:20] == list(range(20))  # no more where a run holds more
    assert {*read[20:]} <= {*held_out}


@pytest.mark.parametrize("sample", [500, 3000])
def test_figures_against_numpy(monkeypatch, rng, sample):
    """Quantiles of some rows tell outliers as those of all do."""
    monkeypatch.setattr("lattok.data.problems.SAMPLE_ROWS", sample)
    values = rng.standard_normal((3000, 2)) * [1, 100] + [5, -3]
    values[1234, 0], values[77, 1], values[2000, 1] = 900.0, np.nan, -np.inf
    rows = Rows(np.arange(3000) // 100, np.arange(3000) % 100, {"action": values})
    found = list(column_figures("action", ("x", "y"), rows))
    for d, figures in enumerate(each for each in found if isinstance(each, Dimension)):
        finite = values[np.isfinite(values[:, d]), d]
        np.testing.assert_allclose(figures[2:6], [finite.min(), finite.mean(), finite.std(), finite.max()], rtol=1e-12)
    bad, wild = (each.what for each in found if not isinstance(each, Dimension))
    assert bad == "`action` (y) holds 2 values that are not finite, first in episode 0, frame 77."
    assert "`action` (x) holds 1 wild value, the worst 900 in episode 12, frame 34" in wild


def test_a_corrupt_page_costs_its_episodes_only(make_dataset, monkeypatch):
    """The writer's page checksums tell damage in the values themselves; all others are read as single episodes are."""
    dataset = make_dataset([200, 100, 150, 300, 90], cameras=False)
    expected = {index: dataset.columns(index, ["action"])["action"] for index in (0, 1, 2, 4)}
    with monkeypatch.context() as patch:
        patch.setattr(LeRobotV3, "columns", lambda *_: pytest.fail("read episode by episode"))
        assert len(dict(dataset.columns_of(dataset.episodes, ["action"]))) == 5
    path = dataset.data_file(0)
    pq.write_table(pq.read_table(path), path, row_group_size=50, write_page_checksum=True, use_dictionary=False)
    value = open_dataset(dataset.root).columns(3, ["action"])["action"][120]
    content = bytearray(path.read_bytes())
    content[bytes(content).find(value.tobytes())] ^= 1
    path.write_bytes(content)
    damaged = open_dataset(dataset.root)
    known = dict(damaged.columns_of(damaged.episodes, ["action"]))
    assert isinstance(known[3], LattokError)
    for index, values in expected.items():
        np.testing.assert_array_equal(known[index]["action"], values)
    text = found(damaged)
    assert f"error: cannot read `action` from {path} (" in text
    assert "CRC" in text


def test_files_and_rows_that_nothing_lists(make_dataset):
    dataset = make_dataset([20, 30], cameras=False)
    path = dataset.data_file(0)
    table = pq.read_table(path)
    other = table.slice(0, 5).set_column(table.column_names.index("episode_index"), "episode_index", pa.array([7] * 5))
    pq.write_table(other, path.with_name("file-009.parquet"))
    pq.write_table(pa.concat_tables([table, other]), path)
    text = found(open_dataset(dataset.root))
    assert "file-009.parquet belongs to no episode of meta/episodes. Remove it" in text
    assert f"error: {path} holds rows of episode 7, which meta/episodes does not place there." in text


@needs_real
def test_the_real_bridge_sample():
    inspection = inspect_dataset(open_dataset(BRIDGE, fps=5))
    text = inspection.render()
    assert max(map(len, text.splitlines())) <= 88
    assert "episodes  25, 250 frames, 50.0 s at 5 fps" in text
    assert text.count("64x64, stored images") == 4
    assert {finding.severity for finding in inspection.findings} == {"note"}


def test_wide_columns_are_left_to_others():
    source = Memory([20])
    source.features["latent.embedding"] = Feature("float32", (512,), None)
    text = " ".join(inspect_dataset(source).render().split())
    assert "`latent.embedding`: more than 256 dimensions, so the values were not read." in text


def test_films_in_hdr_are_named(tmp_path):
    for name, curve in (("a", 18), ("b", 1)):
        with av.open(str(tmp_path / f"{name}.mp4"), "w") as container:
            stream = container.add_stream("h264", rate=10)
            stream.height, stream.width, stream.pix_fmt = 32, 32, "yuv420p"
            stream.codec_context.color_trc = curve
            for _ in range(3):
                container.mux(stream.encode(av.VideoFrame(32, 32, "yuv420p")))
            container.mux(stream.encode())
    (told,) = (each for each in inspect_dataset(tmp_path).findings if each.kind == "hdr")
    assert (told.episodes, "(HLG)" in told.what) == ((0,), True)


def test_a_camera_that_shows_nothing_is_noticed():
    source = Memory([20, 20])
    blank = next(iter(source.cameras))
    frames = source.frames

    def one_is_blank(episode_index, cameras=None, **options):
        found = frames(episode_index, cameras, **options)
        return np.full_like(found, 7) if cameras == [blank] else found

    source.frames = one_is_blank
    text = " ".join(inspect_dataset(source).render().split())
    assert text.count("shows nothing") == 1
    assert f"`{blank}` shows nothing: every frame that was looked at (1) is of one colour." in text


def test_the_next_command_is_found_without_reading_what_was_not_looked_at(make_dataset, monkeypatch, capsys):
    """Of a dataset on the Hub each file that is read is fetched first."""
    monkeypatch.setattr("lattok.data.inspection.ALL_NUMBERS", 40)
    monkeypatch.setattr("lattok.data.inspection.EPISODES_PER_RUN", 1)
    dataset, read, columns_of = make_dataset([12] * 8, cameras=False), [], LeRobotV3.columns_of

    def counted(self, episodes, *given, **named):
        read.extend(episode.index for episode in episodes)
        return columns_of(self, episodes, *given, **named)

    monkeypatch.setattr(LeRobotV3, "columns_of", counted)
    assert main(["inspect", str(dataset.root)]) == 0
    assert "lattok train action-vq" in capsys.readouterr().out
    assert 0 < len(set(read)) < 4


@pytest.mark.parametrize(("episodes", "typed"), [({0, 1}, ["--skip-damaged"]), ({0}, [])])
def test_exports_leave_out_what_cannot_be_read(episodes: set[int], typed: list[str]):
    told = {"file": "stats.json", "count": 2, "columns": "action", "frames": 1, "dataset": "data", "out": "exported"}
    found = [problems.OVERCOUNTED.finding(**told), problems.unreadable(LattokError("cannot read it."), [0])]
    exports = [each.commands for each in without_lost(found, episodes) if each.problem is problems.OVERCOUNTED]
    assert [each.words[-1] for commands in exports for each in commands] == typed
    assert [*without_lost(found[:1], episodes)] == found[:1]
