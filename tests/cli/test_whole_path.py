"""Every format up to a policy: by labels alone, actions alone, both, and from few known actions, as README does."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import lattok
from lattok.cli import main
from lattok.data import LeRobotV3
from tests.conftest import moving_square, put_video, write_dataset
from tests.data.formats import test_array_layouts as arrays
from tests.data.formats.test_lerobot_v2 import write_v21
from tests.recipes.policies import image_lam

ROOT = Path(__file__).parents[2]
TINY = ("--steps", "2", "--batch-size", "4", "--device", "cpu", "--seed", "0")
MORE = {"idm": ("--image-size", "32", *TINY), "vla": ("--horizon", "2", *TINY)}
LENGTHS = (8, 9, 8, 10, 9, 8)


class Way(NamedTuple):
    """A dataset of a format, in the current folder."""

    words: tuple[str, ...]  # what is typed for it
    acts: bool = True  # somebody recorded actions


def lerobot() -> Way:
    write_dataset(Path("data"), LENGTHS)
    return Way(("data",))


def lerobot_v21() -> Way:
    write_v21(Path("data"), LeRobotV3(write_dataset(Path("source"), LENGTHS)))
    return Way(("data",))


def rlds() -> Way:
    from tests.data.rlds_sample import write_rlds

    (write_rlds(Path("data"), LENGTHS) / "lattok.json").write_text('{"fps": 10}')
    return Way(("data",))


def hdf5() -> Way:
    pytest.importorskip("h5py")
    from tests.data.formats.test_hdf5 import write_libero

    Path("data").mkdir()
    for seed, name in enumerate(("open", "lift")):
        write_libero(Path("data") / f"{name}_demo.hdf5", name, LENGTHS[:3], seed)
    return Way(("data",))


def zarr() -> Way:
    arrays.diffusion_policy(Path.cwd(), lengths=LENGTHS)
    Path("source.json").write_text('{"dataset": "pusht.zarr", "format": "zarr", "fps": 10}')
    return Way(("source.json",))


def films() -> Way:
    for index, length in enumerate(LENGTHS):
        name = Path("data") / ("open", "close")[index % 2] / f"{index}.mp4"
        put_video(name, moving_square(np.random.default_rng(index), length), 10)
    return Way(("data",), acts=False)


def run(*words: str) -> None:
    assert main([*words, *MORE.get(words[1], ())] if words[0] == "train" else [*words]) == 0, shlex.join(words)


def readme() -> list[list[str]]:
    """The commands of README's block of the main job, as words."""
    (block,) = re.findall(r"```bash\n(lattok inspect DATASET.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    return [shlex.split(line, comments=True)[1:] for line in block.splitlines()]


@pytest.fixture(scope="module", params=[lerobot, lerobot_v21, rlds, hdf5, zarr, films], ids=lambda way: way.__name__)
def way(request, tmp_path_factory) -> tuple[Path, Way]:
    """A dataset of each format, its labels by an image model, and a robot's dataset with labels beside it."""
    with pytest.MonkeyPatch.context() as patch:
        place = tmp_path_factory.mktemp(request.param.__name__)
        patch.chdir(place)
        found: Way = request.param()
        image_lam().save_pretrained("lam")
        write_dataset(Path("robot"), LENGTHS)
        camera = lattok.open_dataset(found.words[0]).cameras[0]
        run("annotate", *found.words, "--model", "lam", "--out", "labels", "--cameras", camera, "--any-rate")
        run("annotate", "robot", "--model", "lam", "--out", "robot-labels", "--any-rate")
    return place, found


def policy(*words: str) -> tuple[str, ...]:
    seen = ("--cameras", lattok.open_dataset(words[0]).cameras[0]) if words[0] != "--mix" else ()
    return ("train", "vla", *words, "--backbone", "scratch", "--no-proprio", *seen)


def of_labels(found: Way) -> str:
    """Its labels alone, beside a robot whose actions say what to do."""
    alone = ("--latents-only", lattok.open_dataset("labels").name) if found.acts else ()
    run(*policy("--mix", "labels:1.0", "robot:1.0"), "--strategy", "la_direct", *alone, "--out", "seen")
    return "seen"


def of_actions(found: Way) -> str:
    if not found.acts:
        pytest.skip("nobody recorded any")
    run(*policy(*found.words), "--out", "acts")
    return "acts"


def of_both(found: Way) -> str:
    data = ("labels",) if found.acts else ("--mix", "labels:1.0", "robot-labels:1.0")
    run(*policy(*data), "--strategy", "la_direct", "--out", "both")
    return "both"


def of_few(found: Way) -> str:
    """README's block; films have no known actions, but a robot has."""
    known = "few" if found.acts else "robot"
    if found.acts:
        run("hide", *found.words, "--keep", "0,1,3,5", "--out", known)  # one of them is held out
    for words in readme():
        video = words[0] == "annotate" and not found.acts
        line = [found.words[0] if word == "DATASET" and video else word for word in words]
        line = [known if word == "DATASET" else word for word in line]
        line += ["--cameras", lattok.open_dataset(found.words[0]).cameras[0]] * video
        more = {} if found.acts else {"vla": ["--no-proprio"], "idm": ["--cameras", "front"]}
        run(*line, *more.get(line[1], []))
    return "my-policy"


@pytest.mark.ci
@pytest.mark.parametrize("kind", [of_labels, of_actions, of_both, of_few], ids=lambda kind: kind.__name__)
def test_a_format_leads_to_a_policy(way: tuple[Path, Way], kind: Callable[[Way], str], monkeypatch):
    place, found = way
    monkeypatch.chdir(place)
    made = lattok.load(kind(found))
    sizes = zip(made.config.cameras, made.config.camera_sizes, strict=True)
    observation = {camera: np.zeros((*size, 3), np.uint8) for camera, size in sizes}
    if made.config.proprio_dim:
        observation["observation.state"] = np.zeros(made.config.proprio_dim, np.float32)
    task = (*made.config.instructions, "lift")[0]
    assert made.predict_chunk({**observation, "task": task}).shape == (2, made.config.action_dim)
