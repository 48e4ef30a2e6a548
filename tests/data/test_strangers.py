"""A dataset format and a writer of somebody else's package go through every verb; none of our names is touched.

The format is Diffusion Policy's zarr store, whose folder `meta/` once made it a broken LeRobot dataset.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.process_jobs import afresh

STRANGERS = Path(__file__).parent / "strangers"
MOST_LINES = 60
LENGTHS = (24, 31, 20, 27, 22, 25)

VERBS = """
import contextlib, io, json, numpy as np, lattok, lattok.labels
from lattok.cli import main
from lattok.evaluation.questions import learnability
from lattok.utils.checks import LattokError

learnability.STEPS = 20  # of 600: of its policy only the place in the report counts here

def run(*words, code=0):
    assert main([*map(str, words)]) == code, words

def refused(*words, **options):
    try:
        lattok.open_dataset(*words, **options)
    except LattokError as error:
        return str(error)

TINY = ("--steps", "3", "--batch-size", "4", "--device", "cpu")
dataset = lattok.open_dataset("pusht.zarr")
assert (dataset.kind, len(dataset.episodes), dataset.cameras) == ("zarr", 6, ("observation.images.img",))
assert dataset.address == "pusht.zarr"

run("inspect", "pusht.zarr")
run("train", "uniform-bins", "pusht.zarr", "--out", "bins", "--horizon", "4")
pairs = ("--preset", "tiny+robust", "--features", "pixels", "--image-size", "32", "--width", "16")
run("train", "image-lam", "pusht.zarr", "--out", "lam", *pairs, "--stride", "2", *TINY)
run("annotate", "pusht.zarr", "--model", "lam", "--out", "labels")
run("verify", "pusht.zarr", "--labels", "labels", "--model", "lam")
run("view", "pusht.zarr", "--labels", "labels", "--out", "page.html")
run("evaluate", "bins", "pusht.zarr", "--out", "report")
run("export", "pusht.zarr", "--labels", "labels", "--format", "zarr", "--out", "joined.zarr")
run("export", "pusht.zarr", "--labels", "labels", "--out", "joined", "--video-codec", "h264")
run("train", "vla", "joined.zarr", "--out", "policy", "--backbone", "scratch", "--strategy", "la_direct",
    "--horizon", "4", "--episodes", "0:4", "--state-key", "observation.state", *TINY)

# what the writer wrote is what the reader read, labels and how they were made included
joined = lattok.open_dataset("joined.zarr")
labelled = lattok.labels.with_labels(dataset, "labels")
keys = ["action", "observation.state", "latent.codes", "latent.valid"]
for episode in dataset.episodes:
    one, other = (each.columns(episode.index, keys) for each in (labelled, joined))
    assert all(np.array_equal(one[key], other[key]) for key in keys)
    assert np.array_equal(*(each.frames(episode.index) for each in (dataset, joined)))
assert "spec" in lattok.labels.spec.provenance_of(joined)["latent"]
run("verify", "joined.zarr", "--model", "lam")
assert lattok.open_dataset("joined").kind == "lerobot"

# the format by its name, everywhere that a dataset is named
assert lattok.open_dataset("pusht.zarr", format="zarr").address == "zarr::pusht.zarr"
assert lattok.open_dataset("zarr::pusht.zarr", fps=5).fps == 5
open("described.json", "w").write(json.dumps({"dataset": "pusht.zarr", "format": "zarr", "fps": 5}))
assert lattok.open_dataset("described.json").kind == "zarr"
run("inspect", "pusht.zarr", "--format", "zarr")
run("train", "uniform-bins", "pusht.zarr", "--format", "zarr", "--out", "named", "--horizon", "4")
assert json.load(open("named/run/recipe.json"))["dataset"] == "zarr::pusht.zarr"
open("second.json", "w").write(json.dumps({"dataset": "joined.zarr", "name": "second"}))
run("train", "action-vq", "--mix", "zarr::pusht.zarr:1", "second.json:1", "--out", "mixed", "--preset", "quick",
    "--horizon", "4", *TINY)
run("train", "action-vq", "--mix", "second.json:1", "--format", "zarr", "--out", "no", code=2)
assert "Did you mean zarr?" in refused("pusht.zarr", format="zar")
assert "format" in refused("zarr::pusht.zarr", format="rlds")
assert 'Write "format": "zarr" into' in refused("described.json", format="zarr")
assert "has no meta/info.json" in refused("pusht.zarr", format="lerobot")
run("export", "pusht.zarr", "--format", "zar", "--out", "no", code=2)
run("export", "joined", "--format", "hdf5", "--out", "no", code=2)
"""


def write_array(folder: Path, values: np.ndarray, rows: int) -> None:
    """Write an uncompressed zarr v2 array in chunks of so many rows."""
    folder.mkdir(parents=True)
    facts = {"zarr_format": 2, "shape": values.shape, "chunks": (rows, *values.shape[1:]), "dtype": values.dtype.str}
    facts |= {"compressor": None, "filters": None, "fill_value": 0, "order": "C"}
    (folder / ".zarray").write_text(json.dumps(facts))
    for i in range(-(-len(values) // rows)):
        chunk = np.zeros((rows, *values.shape[1:]), values.dtype)
        part = values[i * rows : (i + 1) * rows]
        chunk[: len(part)] = part
        chunk.tofile(folder / ".".join([str(i), *["0"] * (values.ndim - 1)]))


def write_replay_buffer(root: Path) -> None:
    """Write what Diffusion Policy's PushT has: data/action, data/state, data/img, and meta/episode_ends."""
    rng, total = np.random.default_rng(0), sum(LENGTHS)
    steps = np.cumsum(rng.standard_normal((total, 2)), axis=0).astype(np.float32)
    write_array(root / "data/action", steps, 50)
    write_array(root / "data/state", np.concatenate([steps, rng.standard_normal((total, 3))], 1, dtype=np.float32), 50)
    write_array(root / "data/img", rng.integers(0, 255, (total, 16, 16, 3), dtype=np.uint8), 10)
    write_array(root / "meta/episode_ends", np.cumsum(LENGTHS), 100)
    for folder in (root, root / "data", root / "meta"):
        (folder / ".zgroup").write_text('{"zarr_format": 2}')


@pytest.mark.parametrize("name", ["replay_buffer", "replay_buffer_writer"])
def test_each_takes_few_lines(name):
    assert len((STRANGERS / f"{name}.py").read_text().splitlines()) <= MOST_LINES


def test_a_format_and_a_writer_of_another_package_serve_every_verb(tmp_path):
    facts = tmp_path / "site" / "theirs-1.0.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    entries = "[lattok.datasets]\nzarr = replay_buffer\n[lattok.exports]\nzarr = replay_buffer_writer\n"
    (facts / "entry_points.txt").write_text(entries)
    write_replay_buffer(tmp_path / "pusht.zarr")
    afresh(VERBS, tmp_path, tmp_path / "site", STRANGERS)
