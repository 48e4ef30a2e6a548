"""The sound arm of `planted` as other libraries write it: each function returns what to type after `lattok inspect`,
the dataset or its description."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lattok.data import LeRobotV3, export
from tests.data.planted import FPS, FRONT, WRIST, Arm, clean, write

NANOSECONDS = 10**9


def described(root: Path, **options: Any) -> Path:
    """Write what the files do not say."""
    path = root.with_suffix(".json")
    path.write_text(json.dumps({"dataset": root.name, "fps": FPS, **options}))
    return path


def lerobot_v21(root: Path, arm: Arm) -> Path:
    from tests.data.formats.test_lerobot_v2 import write_v21

    return write_v21(root, LeRobotV3(write(root.with_name(f"{root.name}-v3"), arm)))


def rlds(root: Path, arm: Arm) -> Path:
    return export(write(root.with_name(f"{root.name}-v3"), arm), root, format="rlds").path


def robomimic(root: Path, arm: Arm) -> Path:
    """h5py: compressed chunks, a mask, the rate in `env_args`."""
    import h5py

    root.mkdir()
    with h5py.File(root / "arm.hdf5", "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": "Lift", "type": 1, "env_kwargs": {"control_freq": FPS}})
        for e, (action, state) in enumerate(zip(arm.action, arm.state, strict=True)):
            demo = data.create_group(f"demo_{e}")
            demo.attrs["num_samples"] = len(action)
            demo["actions"] = action.astype(np.float64)
            demo["dones"] = (np.arange(len(action)) == len(action) - 1).astype(np.int64)
            demo["obs/robot0_eef_pos"], demo["obs/robot0_eef_quat"] = state[:, :3], state[:, 5:]
            for key, name in ((FRONT, "agentview_image"), (WRIST, "robot0_eye_in_hand_image")):
                film = arm.films[key][e]
                demo.create_dataset(f"obs/{name}", data=film, compression="gzip", chunks=(1, *film.shape[1:]))
        file["mask/train"] = np.array([f"demo_{e}".encode() for e in range(len(arm.action))])
    return root


def zarr(root: Path, arm: Arm) -> Path:
    """Diffusion Policy's replay buffer."""
    import zarr as library

    options = {"zarr_format": 2} if int(library.__version__.split(".")[0]) >= 3 else {}
    top: Any = library.open_group(str(root / "arm.zarr"), mode="w", **options)
    arrays = {"data/action": np.concatenate(arm.action), "data/state": np.concatenate(arm.state)}
    arrays |= {"data/img": np.concatenate(arm.films[FRONT]), "data/wrist_img": np.concatenate(arm.films[WRIST])}
    arrays |= {"meta/episode_ends": np.cumsum([len(each) for each in arm.action])}
    for key, values in arrays.items():
        make = top.create_array if options else top.create_dataset
        make(key, data=values, chunks=(32, *values.shape[1:]))
    return described(root)


def npz(root: Path, arm: Arm) -> Path:
    root.mkdir()
    for e, (action, state) in enumerate(zip(arm.action, arm.state, strict=True)):
        films = {"images": arm.films[FRONT][e], "wrist_images": arm.films[WRIST][e]}
        np.savez_compressed(root / f"{e}.npz", actions=action, state=state, **films)
    return described(root)


def mcap(root: Path, arm: Arm) -> Path:
    """mcap-ros2-support: a camera, joints a little earlier, and a command a little later."""
    from mcap_ros2 import writer

    from tests.data.formats.test_mcap import TYPES, png

    (root / "push").mkdir(parents=True)
    for e, (action, state) in enumerate(zip(arm.action, arm.state, strict=True)):
        with (root / "push" / f"{e}.mcap").open("wb") as file:
            out = writer.Writer(file)
            schemas = {name: out.register_msgdef(name, text) for name, text in TYPES.items()}
            for t, time in enumerate((arm.times[e] * NANOSECONDS).round().astype(int).tolist()):
                stamp = {"sec": time // NANOSECONDS, "nanosec": time % NANOSECONDS}
                header = {"stamp": stamp, "frame_id": ""}
                joints = {"position": state[t].tolist(), "velocity": [], "effort": []}
                joints |= {"header": header, "name": [f"joint_{j}" for j in range(state.shape[1])]}
                picture = {"header": header, "format": "png", "data": png(arm.films[FRONT][e, t])}
                for late, topic, kind, message in (
                    (0, "/joint_states", "sensor_msgs/msg/JointState", joints),
                    (2, "/front", "sensor_msgs/msg/CompressedImage", picture),
                    (5, "/command", "std_msgs/msg/Float64MultiArray", {"data": action[t].tolist()}),
                ):
                    at = time + late * 10**6
                    out.write_message(topic, schemas[kind], message, log_time=at, publish_time=at)
            out.finish()
    return described(root, topics={FRONT: "/front", "observation.state": "/joint_states", "action": "/command"})


def pictures(root: Path, arm: Arm) -> Path:
    for e, film in enumerate(arm.films[FRONT]):
        (root / f"{e:02d}").mkdir(parents=True)
        for t, frame in enumerate(film):
            Image.fromarray(frame).save(root / f"{e:02d}" / f"{t:04d}.png")
    return described(root)


def videos(root: Path, arm: Arm) -> Path:
    from tests.data.formats.test_lerobot_v2 import write_film

    root.mkdir()
    for e, film in enumerate(arm.films[FRONT]):
        write_film(root / f"{e:02d}.mp4", film, FPS)
    return root


OTHERS: tuple[Callable[[Path, Arm], Path], ...] = (lerobot_v21, rlds, robomimic, zarr, npz, mcap, pictures, videos)


def written(folder: Path) -> dict[str, Path]:
    """Write other arms in all of them, by format."""
    return {make.__name__: make(folder / make.__name__, clean(3 + seed)) for seed, make in enumerate(OTHERS)}
