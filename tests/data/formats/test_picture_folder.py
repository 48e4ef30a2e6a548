"""Folders of pictures: order, cameras, instructions, damaged ones."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lattok.data import inspect_dataset, open_dataset
from lattok.utils.findings import Finding
from tests.errors import refused

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{7:064d}\nsize 123456\n"


def write(folder: Path, count: int, seed: int = 0, size: tuple[int, int] = (6, 8)) -> np.ndarray:
    """Pictures im_0.png to im_N.png; returns them, uint8 [N, H, W, 3]."""
    folder.mkdir(parents=True, exist_ok=True)
    frames = np.random.default_rng(seed).integers(0, 256, (count, *size, 3), dtype=np.uint8)
    for i, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"im_{i}.png")
    return frames


def test_bridge_raw(tmp_path: Path):
    """Folders trajN with a folder for each camera, and what was said in lang.txt."""
    truth = {}
    for episode in (0, 2, 10):
        for camera in ("images0", "images1"):
            truth[episode, camera] = write(tmp_path / f"traj{episode}" / camera, 12, episode)
        write(tmp_path / f"traj{episode}" / "depth_images0", 12)
        (tmp_path / f"traj{episode}" / "lang.txt").write_text("confidence: 1\npush the block\n")
    dataset = open_dataset(tmp_path, fps=5)
    assert (dataset.kind, dataset.tasks) == ("pictures", ("push the block",))
    assert dataset.cameras == ("observation.images.images0", "observation.images.images1")
    assert [episode.length for episode in dataset.episodes] == [12] * 3
    for index, episode in enumerate((0, 2, 10)):
        frames = dataset.frames(index, indices=[11, 2, 10])
        np.testing.assert_array_equal(frames[:, 1], truth[episode, "images1"][[11, 2, 10]])
    assert dataset.columns(2, ["timestamp"])["timestamp"][1] == pytest.approx(0.2)
    assert sorted(dataset.left_out) == [f"traj{episode}/depth_images0" for episode in (0, 10, 2)]
    assert "images0, images1" in dataset.findings[0].what


def test_far_below_where_one_recording_lacks_a_picture(tmp_path: Path):
    """By date and group, as Bridge is unpacked; the actions are beside in pickles."""
    for episode in range(5):
        place = tmp_path / "2023-01-01" / "raw" / "group0" / f"traj{episode}"
        for camera in ("images0", "images1"):
            write(place / camera, 3 if (episode, camera) == (3, "images1") else 4, episode)
        (place / "policy_out.pkl").write_bytes(b"never read")
    dataset = open_dataset(tmp_path, fps=5)
    assert (len(dataset.cameras), [episode.index for episode in dataset.episodes]) == (2, [0, 1, 2, 4])
    assert (
        "traj3: expected as many pictures of every camera, got 4 in images0, 3 in images1" in dataset.damaged[0].reason
    )
    assert "(5 .pkl), which are not read" in kinds(tmp_path)["numbers-beside"].what


def test_a_camera_of_sixteen_bits_is_left_out(tmp_path: Path):
    """Whatever it is called; the other one works without flags."""
    for scene in ("a", "b"):
        frames = write(tmp_path / scene / "cam_rgb", 3)
        (tmp_path / scene / "cam_d").mkdir()
        for i, frame in enumerate(frames):
            Image.fromarray(frame[..., 0].astype(np.uint16) * 90).save(tmp_path / scene / "cam_d" / f"{i}.png")
    dataset = open_dataset(tmp_path, fps=5)
    assert (dataset.cameras, list(dataset.left_out)) == (("observation.images.cam_rgb",), ["cam_d"])
    np.testing.assert_array_equal(dataset.frames(1)[:, 0], frames)


@pytest.mark.parametrize("name", ["{:06d}_color_{}", "cam{1}_{0}", "frame_{0}.{1}"])
def test_pictures_of_several_cameras_in_one_folder(name: str, tmp_path: Path):
    """As Unitree's recorder names them; what names count is one film."""
    for scene in ("0", "1"):
        frames = write(tmp_path / scene / "all", 5)
        for i in range(5):
            (tmp_path / scene / "all" / f"im_{i}.png").unlink()
            for camera in (0, 1, 2):
                Image.fromarray(frames[i] // (camera + 1)).save(
                    tmp_path / scene / "all" / f"{name.format(i, camera)}.png"
                )
    dataset = open_dataset(tmp_path, fps=5)
    assert (len(dataset.cameras), [each.length for each in dataset.episodes]) == (3, [5, 5])
    for camera in (0, 1, 2):
        np.testing.assert_array_equal(dataset.frames(1, [dataset.cameras[camera]])[:, 0], frames // (camera + 1))


def test_cameras_above_folders_that_are_called_alike(tmp_path: Path):
    for scene in ("a", "b"):
        for camera in ("cam_1", "cam_2"):
            write(tmp_path / scene / camera / "color", 3)
    dataset = open_dataset(tmp_path, fps=5)
    assert (dataset.cameras, len(dataset.episodes)) == (("observation.images.cam_1", "observation.images.cam_2"), 2)


@pytest.mark.parametrize("names", [("1", "2"), ("ep_1", "ep_2"), ("front", "wrist")])
def test_folders_are_episodes_where_their_names_count_or_their_lengths_differ(tmp_path: Path, names: tuple[str, ...]):
    for task in ("pull", "push"):
        for length, name in enumerate(names, start=4):
            write(tmp_path / task / name, length if names[0] == "front" else 4)
    dataset = open_dataset(tmp_path, fps=5)
    assert len(dataset.cameras) == 1
    assert [episode.tasks[0] for episode in dataset.episodes] == ["pull", "pull", "push", "push"]


def test_frames_in_two_formats_are_not_taken_twice(tmp_path: Path):
    for scene in ("a", "b"):
        frames = write(tmp_path / scene, 5)
    for i, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / "b" / f"im_{i}.jpg")
    dataset = open_dataset(tmp_path, fps=5)
    assert (len(dataset.episodes), "one picture of a frame, got 2 called im_" in dataset.damaged[0].reason) == (1, True)


def test_missing_pictures_and_pointers_are_said(tmp_path: Path):
    for episode in range(4):
        write(tmp_path / f"traj{episode}", 9, episode, size=(16, 16))
    assert not {"missing-pictures", "git-lfs-pointer"} & kinds(tmp_path).keys()
    (tmp_path / "traj1" / "im_4.png").unlink()
    for path in (tmp_path / "traj2").iterdir():  # every fifth: as even as before
        path.rename(path.with_name(f"frame_{5 * int(path.stem[3:]):06d}.png"))
    (tmp_path / "traj3" / "im_3.png").write_text(POINTER)
    found = kinds(tmp_path)
    assert found["missing-pictures"].places == ((1, 4),)
    assert "before traj1/im_5.png" in found["missing-pictures"].what
    assert found["git-lfs-pointer"].episodes == (3,)


def kinds(folder: Path) -> dict[str, Finding]:
    return {each.kind: each for each in inspect_dataset(open_dataset(folder, fps=5)).findings}


def test_one_folder_and_a_captions_file(tmp_path: Path):
    frames = write(tmp_path / "one", 3)
    dataset = open_dataset(tmp_path / "one", fps=5)
    np.testing.assert_array_equal(dataset.frames(0)[:, 0], frames)
    assert dataset.encoded_images(0, dataset.cameras[0]) == [
        (tmp_path / "one" / f"im_{i}.png").read_bytes() for i in range(3)
    ]
    (tmp_path / "captions.csv").write_text("video,caption\none,lift it\n")
    assert open_dataset(tmp_path, fps=5).tasks == ("lift it",)


def test_without_a_rate_the_way_out_works_when_typed(tmp_path: Path):
    write(tmp_path / "films" / "a", 3)
    said = refused("`fps`: expected the frame rate, which pictures do not tell", open_dataset, tmp_path / "films")
    (tmp_path / "films.json").write_text(said.split("Write ")[1].split(" into ")[0])
    assert open_dataset(tmp_path / "films.json").fps == 10


def test_damaged_ones_keep_their_numbers(tmp_path: Path):
    for name in ("a", "b", "c", "d"):
        for camera in ("front", "wrist"):
            write(tmp_path / name / camera, 4)
    (tmp_path / "b" / "front" / "im_0.png").write_bytes(b"no picture")
    (tmp_path / "c" / "front" / "im_2.png").write_bytes(b"no picture")
    dataset = open_dataset(tmp_path, fps=5)
    assert [episode.index for episode in dataset.episodes] == [0, 2, 3]
    assert "not a readable JPEG or PNG" in dataset.damaged[0].reason
    refused(r"episode 2, .*im_2.png: not a readable", dataset.frames, 2)
    write(tmp_path / "d" / "front", 1, size=(3, 3))
    refused(r"expected a picture of 3x3 like those before", lambda: open_dataset(tmp_path, fps=5).frames(3, ["front"]))


@pytest.mark.parametrize(
    "names",
    [
        [str(1_700_000_000 + t / 20) for t in range(24)],  # time.time(), as Python writes it: .5 after .45
        [f"{1_305_031_102 + t / 30:.6f}" for t in range(24)],
        [f"0.{t}" for t in range(24)],  # numbers that count on
        [f"{t / 10:.1f}" for t in range(24)],  # ten a second, which are no cameras
        [f"left_{t / 8}" for t in range(24)],
    ],
)
def test_times_as_names(names: list[str], tmp_path: Path):
    for level, name in enumerate(names):
        Image.fromarray(np.full((16, 16, 3), level * 10, np.uint8)).save(tmp_path / f"{name}.png")
    dataset = open_dataset(tmp_path, fps=20)
    assert dataset.frames(0)[:, 0, 0, 0, 0].tolist() == [level * 10 for level in range(24)]
    assert "missing-pictures" not in {each.kind for each in dataset.file_findings()}


def test_names_with_two_numbers_that_count_are_said(tmp_path: Path):
    """Nobody can tell whether the second one is a camera."""
    for name in ("{0:04d}.{1}", "ep{1}_{0:02d}", "day_3_{0:02d}"):
        (tmp_path / f"of {name[:3]}").mkdir()
        for i in range(12):
            Image.new("RGB", (16, 16)).save(tmp_path / f"of {name[:3]}" / f"{name.format(i // 2, i % 2)}.png")
    (told,) = (each for each in open_dataset(tmp_path, fps=10).file_findings() if each.kind == "numbered-twice")
    assert (told.episodes, "(ep0_00.png, ep0_01.png)" in told.what) == ((1, 2), True)


def test_folders_of_steps_and_names_that_count(tmp_path: Path):
    for step in range(12):
        for camera, level in (("front", 40), ("wrist", 200)):
            place = tmp_path / f"stack/episode_0/step_{step}"
            place.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (16, 16), (level, step, 0)).save(place / f"{camera}.png")
    dataset = open_dataset(tmp_path, fps=10)
    assert [episode.length for episode in dataset.episodes] == [12]
    assert dataset.tasks == ("stack",)
    frames = dataset.frames(0, ["wrist"])[:, 0, 0, 0]
    np.testing.assert_array_equal(frames[:, :2], [(200, step) for step in range(12)])


@pytest.mark.parametrize(
    ("folders", "episodes", "cameras"),
    [
        (  # AVDC's
            {f"{task}/{camera}/{i:03d}": 3 + i + n for n, task in enumerate("ab") for camera in "xy" for i in range(2)},
            [3, 4, 4, 5],
            2,
        ),
        ({"left/1": 4, "right/1": 4, "left/2": 4, "right/2": 4}, [4, 4], 2),
        ({f"{task}/{name}/{i}": 4 for task in "ab" for name in "xy" for i in range(2)}, [4] * 8, 1),  # nothing tells
        ({"train/1": 4, "val/1": 4, "train/2": 5, "val/2": 5}, [4, 5, 4, 5], 1),
        (
            {
                "JPEGImages/480p/bear": 4,
                "Annotations/480p/bear": 4,
                "JPEGImages/480p/dog": 5,
                "Annotations/480p/dog": 5,
            },
            [4, 5],
            1,
        ),
        (
            {"episode0/front_rgb": 4, "episode0/front_mask": 4, "episode1/front_rgb": 5, "episode1/front_mask": 5},
            [4, 5],
            1,
        ),
        ({"rgb_frames/P01_01": 6, "flow_frames/P01_01/u": 3, "flow_frames/P01_01/v": 3}, [6], 1),  # EPIC's
        ({"put on mask/1": 4, "open it/1": 5}, [5, 4], 1),  # a task
        ({"masks/1": 4, "masks/2": 5}, [4, 5], 1),
    ],
)
def test_labels_beside_pictures_and_cameras_above_episodes(
    folders: dict[str, int], episodes: list[int], cameras: int, tmp_path: Path
):
    for seed, (folder, count) in enumerate(folders.items()):
        write(tmp_path / folder, count, seed)
    dataset = open_dataset(tmp_path, fps=5)
    assert ([episode.length for episode in dataset.episodes], len(dataset.cameras)) == (episodes, cameras)
    assert len(dataset.left_out) + sum(cameras for _ in episodes) == len(folders)
