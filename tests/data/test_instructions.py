"""Several instructions in an episode: `task_index` of the row says which, whatever the order of the listed ones."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from lattok.annotation import annotate, verify
from lattok.data import Feature, LeRobotWriter, RobotDataset, export, open_dataset
from lattok.data.content import content_of
from lattok.data.instructions import frame_instructions
from lattok.evaluation.evidence import Case, EvalOptions
from lattok.evaluation.evidence.action_evidence import ActionEvidence
from lattok.image_lam.inverse import InverseDynamics
from lattok.recipes.idm import InverseDynamicsRecipe
from lattok.recipes.image_lam import ImageLAMRecipe
from lattok.recipes.several_robots import shown_alike
from lattok.samples.policy import PolicyWindows, WindowOptions
from tests.annotation.test_fill import model as inverse
from tests.conftest import CAMERAS, moving_square
from tests.data.edits import set_column
from tests.errors import refused
from tests.image_lam.clips.fakes import clip_lam

LENGTH, TEXTS = 12, ("reach", "grasp", "lift")
TOLD = [["reach"] * 5 + ["grasp"] * 7, ["grasp"] * 12, ["reach"] * 8 + ["grasp"] * 4]
TOLD += [["grasp"] * 3 + ["reach"] * 6 + ["lift"] * 3]


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    root, rng = tmp_path_factory.mktemp("several") / "data", np.random.default_rng(0)
    features = {"action": Feature("float32", (3,), ("x", "y", "z")), CAMERAS[0]: Feature("video", (32, 32, 3), None)}
    with LeRobotWriter.create(root, 10.0, features, video_codec="h264", encoder_threads=1) as writer:
        for told in TOLD:
            writer.add_episode({"action": rng.standard_normal((LENGTH, 3))}, {CAMERAS[0]: moving_square(rng, 12)}, told)
    return root


@pytest.fixture(params=["one order", "the other"])
def several(written, tmp_path, request) -> RobotDataset:
    """As LeRobot 0.6.1 writes it: the list of an episode is that of a set, in the order of a hash."""
    root = Path(shutil.copytree(written, tmp_path / "data"))
    (path,) = (root / "meta/episodes").rglob("*.parquet")
    back = request.param == "the other"
    lists = [sorted(set(told), key=TEXTS.index, reverse=back) for told in TOLD]
    set_column(path, "tasks", lists)
    assert pq.read_table(path)["tasks"].to_pylist()[3] == (["lift", "grasp", "reach"] if back else [*TEXTS])
    return open_dataset(root)


def told(texts: tuple[str, ...], numbers: np.ndarray) -> list[str]:
    return [texts[number] for number in numbers.tolist()]


def test_models_that_read_the_instruction_get_that_of_each_frame(several, tmp_path):
    clips = clip_lam(cameras=CAMERAS[:1])
    out = open_dataset(annotate(several, clips, tmp_path / "clips"))
    read = inverse(task_given=True, tasks=("grasp", "lift", "reach"))
    inferred = open_dataset(annotate(several, read, tmp_path / "inferred"))
    for index, texts in enumerate(TOLD):
        frames = several.frames(index, transform=clips.resize)
        each = {text: clips.label_video(frames, 4, text).latents for text in TEXTS}
        wanted = np.stack([each[text][t] for t, text in enumerate(texts)]).reshape(LENGTH, -1)
        np.testing.assert_allclose(out.columns(index, ["latent.embedding"])["latent.embedding"], wanted, atol=1e-5)
        frames = several.frames(index, transform=read.resize)
        said = {text: read.infer_actions(frames, 1, text).actions for text in TEXTS}
        wanted = np.stack([said[text][t] for t, text in enumerate(texts)])
        np.testing.assert_allclose(inferred.columns(index, ["latent.action"])["latent.action"], wanted, atol=1e-5)
    assert verify(out, {"latent": clips}).holds
    assert verify(inferred, {"latent": read}).holds


def test_evidence_about_inferred_actions_reads_each_frame(several, monkeypatch):
    read, seen = inverse(task_given=True, tasks=("grasp", "lift", "reach")), list[object]()
    own = InverseDynamics.infer_actions

    def infer(self, frames, unit=None, task="", states=None, **more):
        seen.append(task)
        return own(self, frames, unit, task, states, **more)

    monkeypatch.setattr(InverseDynamics, "infer_actions", infer)
    chosen = EvalOptions(episodes=[0, 3])
    ActionEvidence.gather(Case(read, several, chosen.split(several), chosen))
    assert seen[:2] == [TOLD[0], TOLD[3]]


def test_a_run_goes_on_where_the_list_has_another_order_and_not_where_the_rows_changed(several):
    def digest() -> str:
        dataset = open_dataset(several.root)
        return content_of(dataset, dataset.episodes).digest

    (listed,) = (several.root / "meta/episodes").rglob("*.parquet")
    (rows,) = (several.root / "data").rglob("*.parquet")
    before, numbers = digest(), pq.read_table(rows)["task_index"].to_pylist()
    set_column(listed, "tasks", [each[::-1] for each in pq.read_table(listed)["tasks"].to_pylist()])
    assert digest() == before
    numbers[3] = 1 - numbers[3]
    set_column(rows, "task_index", numbers)
    assert digest() != before


def test_text_encoders_learn_every_instruction_of_the_rows(several, tmp_path):
    vectors = tmp_path / "words.safetensors"
    save_file({text: torch.ones(2, 8) for text in TEXTS}, vectors)
    options = {"stage": 1, "language": "precomputed", "text_features": str(vectors), "episodes": "0,3"}
    recipe = ImageLAMRecipe.from_preset(several.root, tmp_path / "lam", "tiny", **options)
    words, _ = recipe.words([several], None)
    assert words is not None
    assert sorted(words.rows(TEXTS).tolist()) == [0, 1, 2]


def test_inverse_models_know_every_instruction(several, tmp_path):
    recipe = InverseDynamicsRecipe.from_preset(several.root, tmp_path / "idm", "tiny", task_given=True)
    assert recipe._config(*shown_alike([several], None), None).tasks == ("grasp", "lift", "reach")


def test_numbers_that_stand_for_no_instruction(several):
    (path,) = (several.root / "data").rglob("*.parquet")
    set_column(path, "task_index", np.full(48, 3).tolist())
    refused(
        "`task_index`: expected numbers of the 3 instructions, got 3 to 3 in ep",
        lambda: PolicyWindows(open_dataset(several.root), WindowOptions(4, cameras=(), size=16, state_key=None)),
    )


@pytest.mark.parametrize("column", ["note", "subtask_index"])
def test_another_column_says_what_to_do(column, tmp_path):
    """Texts in the rows, or the numbers of LeRobot's sub-tasks; an export has them as its instructions."""
    said = [["", *["reach"] * 5, *["grasp"] * 6], ["grasp"] * 12]
    number, dtype = {"": -1, "reach": 0, "grasp": 1}, "string" if column == "note" else "int64"
    texts = [np.array(each if column == "note" else [number[text] for text in each]) for each in said]
    features = {"action": Feature("float32", (3,), None), column: Feature(dtype, (1,), None)}
    with LeRobotWriter.create(tmp_path / "data", 10, features) as writer:
        for each in texts:
            writer.add_episode({"action": np.zeros((LENGTH, 3)), column: each}, {}, "lift")
    pq.write_table(
        pa.table({"subtask_index": [0, 1], "subtask": ["reach", "grasp"]}), tmp_path / "data/meta/subtasks.parquet"
    )
    dataset = open_dataset(tmp_path / "data", instruction=column)
    assert [episode.tasks for episode in dataset.episodes] == [("", "reach", "grasp"), ("grasp",)]
    assert told(*frame_instructions(dataset, dataset.episodes)) == [*said[0], *said[1]]
    out = open_dataset(export(dataset, tmp_path / "out").path)
    assert told(*frame_instructions(out, out.episodes)) == [*said[0], *said[1]]
    assert (
        content_of(dataset, dataset.episodes).digest != content_of(open_dataset(dataset.root), dataset.episodes).digest
    )
    refused("`instruction`: expected a column such as", open_dataset, dataset.root, instruction="frame_index")
