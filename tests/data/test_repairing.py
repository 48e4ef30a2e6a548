"""`lattok repair`: one contract over all repairs. A flaw is planted, inspection names it, and in the repaired copy it
does not; all other values stay, and so does the source."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet as pq
import pytest

import lattok
from lattok.cli import main
from lattok.data import Feature, LeRobotV3, LeRobotWriter, inspect_dataset, open_dataset, repair, repairing
from lattok.data.repairs import REPAIRS, FlawedPart, signs, wraps
from lattok.data.video import SMALLEST_AV1
from lattok.utils.checks import LattokError
from tests.data.edits import edit_info, set_column
from tests.data.formats.test_lerobot_v2 import write_film, write_v21
from tests.data.test_flaws import EPISODES, FPS, LENGTH, NAMES, clean
from tests.errors import refused
from tests.process_jobs import forked

FRONT, WRIST = "observation.images.front", "observation.images.wrist"
ROWS, STATS = Path("data/chunk-000/file-000.parquet"), Path("meta/stats.json")
LISTED = Path("meta/episodes/chunk-000/file-000.parquet")
VIDEO = f"videos/{FRONT}/chunk-000/file-000.mp4"


def write(root: Path, change: Callable[[np.ndarray, np.ndarray], object] | None = None) -> Path:
    """Four episodes of 60 frames at 10 fps, seen by two cameras."""
    values, frames = clean()
    if change is not None:
        change(values, frames)
    features = {"action": Feature("float32", (8,), NAMES)}
    features |= {key: Feature("video", (32, 32, 3), None) for key in (FRONT, WRIST)}
    with LeRobotWriter.create(root, FPS, features, video_codec="h264", encoder_threads=1) as writer:
        for e in range(EPISODES):
            films = {FRONT: frames[e], WRIST: frames[e, :, ::-1, ::-1]}
            writer.add_episode({"action": values[e]}, films, ("push", "pull")[e % 2])
    return root


def bytes_of(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def decoded(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def column(root: Path, name: str, change: Callable[[np.ndarray], object]) -> None:
    """Change a column [E, T] of all rows."""
    old = pq.read_table(root / ROWS)[name]
    values = old.to_numpy().reshape(EPISODES, LENGTH).copy()
    change(values)
    set_column(root / ROWS, name, [*values.reshape(-1)])


# flaws, by the repair: of numbers and pictures before they are written, and of files


def not_finite(values, frames):
    values[2, 40, 1] = np.nan


def flips(values, frames):
    values[1, 10:20, 4:] *= -1
    values[3, 30:, 4:] *= -1


def wrapping(values, frames):
    values[..., 3] = (values[..., 3] + 2 * np.pi) % (2 * np.pi)


def equal(values, frames):
    values[2], frames[2] = values[0], frames[0]


def black(values, frames):
    frames[1] = 0


def standing(values, frames):
    frames[3] = frames[3, :1]


def fills(values, frames):
    values[:, -1] = 0


def restart(root):
    column(root, "timestamp", lambda times: times[2, 30:].__isub__(np.float32(3)))


def jump(root):
    column(root, "timestamp", lambda times: times[1, 20:].__iadd__(np.float32(0.5)))


def jitter(root):
    noise = np.random.default_rng(0).normal(0, 0.015, (EPISODES, LENGTH)).astype(np.float32)
    noise[:, 0] = 0
    column(root, "timestamp", lambda times: times.__iadd__(noise))


def milliseconds(root):
    column(root, "timestamp", lambda times: times[1:3].__imul__(np.float32(1000)))


def miscounted(root):
    column(root, "frame_index", lambda frames: frames[1:].__iadd__(1))


def stale(root):
    stats = json.loads((root / STATS).read_text())
    stats["action"]["mean"] = [9.0] * 8
    (root / STATS).write_text(json.dumps(stats))


def stranger(root):
    shutil.copyfile(root / ROWS, root / "data/chunk-000/file-007.parquet")


def lost(root):
    edit_info(root, total_episodes=EPISODES + 1)


def shared(root):
    starts = pq.read_table(root / LISTED)[f"videos/{FRONT}/from_timestamp"].to_pylist()
    set_column(root / LISTED, f"videos/{FRONT}/from_timestamp", [starts[0], starts[0], *starts[2:]])


def shorter(root):
    stops = pq.read_table(root / LISTED)[f"videos/{WRIST}/to_timestamp"].to_pylist()
    set_column(root / LISTED, f"videos/{WRIST}/to_timestamp", [*stops[:3], stops[3] - 1.5])


def other_rate(root, rate=20, times=2):
    film = np.repeat(decoded(root / VIDEO), times, axis=0)
    with av.open(str(root / VIDEO), "w") as container:
        stream = container.add_stream("libx264", rate, options={"qp": "0"})
        stream.height, stream.width, stream.pix_fmt = *film.shape[1:3], "yuv444p"
        for image in film:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode())


WHOLE = [(e, 0, LENGTH) for e in range(EPISODES)]
FLAWS: list[tuple[str, Callable[..., None], list[tuple[int, int, int]]]] = [
    ("values", not_finite, [*WHOLE[:2], (2, 0, 40), (2, 41, 60), WHOLE[3]]),
    ("signs", flips, WHOLE),
    ("wraps", wrapping, WHOLE),
    ("copies", equal, [*WHOLE[:2], WHOLE[3]]),
    ("blank", black, [WHOLE[0], *WHOLE[2:]]),
    ("frozen", standing, WHOLE[:3]),
    ("last", fills, [(e, 0, LENGTH - 1) for e in range(EPISODES)]),
    ("times", restart, [*WHOLE[:2], (2, 0, 30), (2, 30, 60), WHOLE[3]]),
    ("times", jump, [WHOLE[0], (1, 0, 20), (1, 20, 60), *WHOLE[2:]]),
    ("clock", jitter, WHOLE),
    ("clock", milliseconds, WHOLE),
    ("numbers", miscounted, WHOLE),
    ("statistics", stale, WHOLE),
    ("unlisted", stranger, WHOLE),
    ("unreadable", lost, WHOLE),
    ("unreadable", shared, WHOLE[2:]),
    ("cut", shorter, [*WHOLE[:3], (3, 0, 45)]),
    ("video", other_rate, WHOLE),
]
OF_NUMBERS = {"values", "signs", "wraps", "copies", "blank", "frozen", "last"}
OTHERS = {"short", "meta"}  # what follows from others, and what cannot be opened


def test_every_repair_has_a_flaw():
    assert {name for name, *_ in FLAWS} == REPAIRS.keys() - OTHERS


@pytest.mark.parametrize(("name", "plant", "pieces"), FLAWS, ids=[plant.__name__ for _, plant, _ in FLAWS])
def test_a_planted_flaw_is_named_repaired_and_gone(tmp_path: Path, name: str, plant: Any, pieces: list[Any]):
    source = write(tmp_path / "arm", plant if name in OF_NUMBERS else None)
    truth = {key: decoded(source / VIDEO.replace(FRONT, key)) for key in (FRONT, WRIST)}
    if name not in OF_NUMBERS:
        plant(source)
    before = bytes_of(source)
    assert named(source, name)
    also = [name] if REPAIRS[name].asked else []
    planned = repair(source, also=also, dry_run=True)
    done = repair(source, tmp_path / "out", also=also)
    assert (done.path, planned.path, [path.name for path in sorted(tmp_path.iterdir())]) == (
        tmp_path / "out",
        None,
        ["arm", "out"],
    )
    assert planned == done._replace(path=None)
    assert name in {step.repair for step in done.steps}
    assert list(done.pieces) == pieces
    assert bytes_of(source) == before
    check(tmp_path / "out", source, truth, pieces, set() if name != "video" else {FRONT})
    assert not named(tmp_path / "out", name)
    refused("there is nothing to repair", repair, tmp_path / "out", tmp_path / "again", also=also)


def test_clips_are_in_the_folder_that_the_next_attempt_removes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Among temporary files those of a killed repair would stay."""
    source = write(tmp_path / "arm")
    other_rate(source)
    writer, places = repairing.VideoWriter, set[Path]()

    def seen(path: Path, *arguments: Any, **options: Any) -> Any:
        places.add(path.parent)
        return writer(path, *arguments, **options)

    monkeypatch.setattr(repairing, "VideoWriter", seen)
    repair(source, tmp_path / "out")
    assert places == {tmp_path / ".out.writing" / "clips"}
    assert not (tmp_path / ".out.writing").exists()


def named(root: Path, name: str) -> list[str]:
    return [
        each.what for each in inspect_dataset(open_dataset(root)).findings if each.problem in REPAIRS[name].problems
    ]


def check(out: Path, source: Path, truth: dict[str, np.ndarray], pieces: Any, encoded: set[str]) -> None:
    """Compare the copy with the rows of the source file and the frames of its films."""
    copy, rows = open_dataset(out), pq.read_table(source / ROWS)
    actions = np.stack(rows["action"].to_numpy()).reshape(EPISODES, LENGTH, 8)
    assert [episode.length for episode in copy.episodes] == [last - first for _, first, last in pieces]
    for number, (index, first, last) in enumerate(pieces):
        columns = copy.columns(number, ["action", "timestamp", "frame_index"])
        np.testing.assert_array_equal(columns["timestamp"], (np.arange(last - first) / FPS).astype(np.float32))
        np.testing.assert_array_equal(columns["frame_index"], np.arange(last - first))
        own = actions[index, first:last]
        changed = columns["action"] != own
        same_turn = np.isclose(np.abs(columns["action"] - own), 2 * np.pi, atol=1e-5) & (np.arange(8) == 3)
        other_sign = (columns["action"] == -own) & (np.arange(8) > 3)
        assert (~changed | same_turn | other_sign).all()
        assert copy.episodes[number].tasks == (("push", "pull")[index % 2],)
        for key, film in truth.items():
            shown = film.reshape(EPISODES, LENGTH, 32, 32, 3)[index, first:last]
            frames = copy.frames(number, [key])[:, 0]
            if key in encoded:
                assert np.abs(frames.astype(int) - shown).mean() < 4  # AV1
            else:
                np.testing.assert_array_equal(frames, shown)


@pytest.mark.parametrize(("name", "plant"), [("values", not_finite), ("signs", flips), ("unreadable", None)])
def test_version_2_1_becomes_3(tmp_path: Path, name: str, plant: Any):
    source = write_v21(tmp_path / "old", LeRobotV3(write(tmp_path / "arm", plant)))
    film = source / f"videos/chunk-000/{FRONT}/episode_000001.mp4"
    if plant is None:
        film.write_bytes(film.read_bytes()[: film.stat().st_size // 3])
    before = bytes_of(source)
    assert named(source, name)
    done = repair(source, tmp_path / "out")
    assert bytes_of(source) == before
    assert not named(tmp_path / "out", name)
    old, copy = open_dataset(source), open_dataset(tmp_path / "out")
    assert (copy.kind, name in {step.repair for step in done.steps}) == ("lerobot", True)
    assert (
        done.pieces
        == {
            "values": (*WHOLE[:2], (2, 0, 40), (2, 41, 60), WHOLE[3]),
            "signs": tuple(WHOLE),
            "unreadable": (WHOLE[0], *WHOLE[2:]),
        }[name]
    )
    for number, (index, first, last) in enumerate(done.pieces):
        np.testing.assert_array_equal(copy.frames(number), old.frames(index)[first:last])


def test_a_film_with_fewer_frames_than_rows_cuts_them(tmp_path: Path):
    source = write_v21(tmp_path / "old", LeRobotV3(write(tmp_path / "arm")))
    film = source / f"videos/chunk-000/{FRONT}/episode_000002.mp4"
    write_film(film, decoded(film)[:33], FPS)
    done = repair(source, tmp_path / "out")
    assert done.pieces == (*WHOLE[:2], (2, 0, 33), WHOLE[3])
    assert [step.what for step in done.steps] == [
        "1 episode (2) cut to the rows that all cameras show: 27 rows left out."
    ]
    assert not [each for each in inspect_dataset(tmp_path / "out").findings if each.severity == "error"]


@pytest.mark.parametrize("smallest", [1, 32], ids=["", "with an encoder that small frames end"])
def test_other_formats_become_lerobot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, smallest: int):
    monkeypatch.setattr("lattok.data.video.SMALLEST_AV1", max(smallest, SMALLEST_AV1))
    h5py = pytest.importorskip("h5py")
    from tests.data.formats.test_hdf5 import write_libero

    write_libero(tmp_path / "arm.hdf5", lengths=(50, 40))
    with h5py.File(tmp_path / "arm.hdf5", "r+") as file:
        file["data/demo_0/actions"][25] = np.nan
    before = bytes_of(tmp_path)
    done = repair(tmp_path / "arm.hdf5", tmp_path / "out")
    assert done.pieces == ((0, 0, 25), (0, 26, 50), (1, 0, 40))
    assert (tmp_path / "arm.hdf5").read_bytes() == before["arm.hdf5"]
    old, copy = open_dataset(tmp_path / "arm.hdf5"), open_dataset(tmp_path / "out")
    np.testing.assert_array_equal(copy.columns(1, ["action"])["action"], old.columns(0, ["action"])["action"][26:])


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("spoil", ["frames", "episodes", "tasks"])
def test_meta_that_contradicts_itself(tmp_path: Path, old: bool, spoil: str):
    source = write(tmp_path / "arm")
    source = write_v21(tmp_path / "old", LeRobotV3(source)) if old else source
    if spoil == "tasks":
        (source / "meta" / ("tasks.jsonl" if old else "tasks.parquet")).unlink()
    else:
        edit_info(source, **{f"total_{spoil}": 2})
    before = bytes_of(source)
    if spoil == "tasks":
        with pytest.raises(LattokError):
            open_dataset(source)
    done = repair(source, tmp_path / "out")
    assert [step.repair for step in done.steps] == ["meta"]
    assert (done.pieces, bytes_of(source)) == (tuple(WHOLE), before)
    assert [episode.tasks for episode in open_dataset(tmp_path / "out").episodes] == [("push",), ("pull",)] * 2


def test_frames_of_an_unknown_row_are_not_guessed(tmp_path: Path):
    """The same frames in a file of another rate: those of other moments would be found."""
    source = write(tmp_path / "arm")
    other_rate(source, rate=30, times=1)
    refused("no episode would be left.*which frame is which row's is not known", repair, source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("also_restarts", [False, True])
def test_two_rates_are_not_guessed(tmp_path: Path, also_restarts: bool):
    source = write(tmp_path / "arm")
    if also_restarts:
        restart(source)
    column(source, "timestamp", lambda times: times.__imul__(2))
    refused("say 5 fps.* Which one is right cannot be told", repair, source, tmp_path / "out")


def test_killed_half_way_it_leaves_no_half_folder_and_begins_again(tmp_path: Path):
    source = write(tmp_path / "arm", flips)
    with forked(killed, source, tmp_path / "out") as process:
        process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    repair(source, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["arm", "out"]
    refused("`out`: expected a folder that does not exist yet", repair, source, tmp_path / "out")


def killed(source: Path, out: Path) -> None:
    calls = iter(range(EPISODES + 2))

    def progress(done: int, total: int) -> None:
        if next(calls) == EPISODES + 1:  # of writing the second
            os.kill(os.getpid(), signal.SIGKILL)

    repair(source, out, progress=progress)


def test_what_the_command_says(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    write(Path("arm"), lambda values, frames: (not_finite(values, frames), wrapping(values, frames)))
    write(Path("clean"))
    assert main(["inspect", "arm"]) == 1
    *_, before, typed = capsys.readouterr().out.splitlines()
    assert (before, typed.split()) == (
        "Repair what needs no decision, in a copy:",
        ["lattok", "repair", "arm", "--out", "repaired"],
    )
    assert main(["repair", "arm", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "- 1 row with numbers that are not finite left out of 1 episode (2), and split there.\n" in said
    assert "Not repaired without --also wraps: `action` (roll) jumps by a whole turn" in said
    assert "Nothing was written. The copy would have 5 episodes, 239 frames.\n" in said
    assert main(typed.split()[1:]) == 0
    assert "Repaired, as LeRobot v3: repaired, 5 episodes, 239 frames\n" in capsys.readouterr().out
    assert main(["inspect", "repaired"]) == 0
    assert "lattok repair repaired --out repaired-2 --also wraps" in capsys.readouterr().out
    for words in (["clean", "--out", "x"], ["arm", "--out", "repaired"], ["arm"], ["arm", "--out", "x", "--also", "y"]):
        assert main(["repair", *words]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert main(["inspect", "clean"]) == 0
    assert "repair" not in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["arm", "clean", "repaired"]


def test_values_by_independent_maths():
    """What numpy unwraps, and quaternions of the same rotations."""
    rng = np.random.default_rng(1)
    angle = np.cumsum(rng.normal(0, 0.3, 400))
    wrapped = ((angle + np.pi) % (2 * np.pi) - np.pi).astype(np.float32)
    mended = wraps(np.column_stack([wrapped, wrapped]), FlawedPart(0, float(np.ptp(wrapped))))
    np.testing.assert_allclose(mended[:, 0], np.unwrap(wrapped.astype(np.float64)), atol=1e-5)
    np.testing.assert_array_equal(mended[:, 1], wrapped)
    four = np.column_stack([np.cos(angle / 2), np.sin(angle / 2), 0 * angle, 0 * angle])
    flipped = four * rng.choice([-1, 1], (400, 1))
    mended = signs(flipped, FlawedPart(0, 0.0))
    assert ((mended[1:] * mended[:-1]).sum(1) > 0).all()
    np.testing.assert_array_equal(np.abs(mended), np.abs(four))
    assert lattok.repair is repair
