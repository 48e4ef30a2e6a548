"""Episodes with several instructions, recorded by LeRobot: lattok and LeRobot name the same one at every frame."""

import importlib

import numpy as np
import pytest
import torch

from lattok import annotate, open_dataset
from lattok.data import export, split_by_task
from lattok.data.instructions import frame_instructions
from lattok.evaluation.evidence import Case, EvalOptions
from lattok.evaluation.evidence.action_evidence import ActionEvidence
from lattok.image_lam.inverse import InverseDynamics
from lattok.samples.policy import PolicyWindows, WindowOptions
from tests.annotation.test_fill import model as inverse
from tests.conftest import CAMERAS

pytestmark = pytest.mark.lerobot
LENGTH, TEXTS = 12, ("reach", "grasp", "lift")
TOLD = [["reach"] * 5 + ["grasp"] * 7, ["grasp"] * 12, ["lift"] * 8 + ["grasp"] * 4, ["grasp"] * 3 + ["reach"] * 9]


@pytest.fixture(scope="module")
def recorded(lerobot_dataset, tmp_path_factory):
    """A dataset that LeRobot itself wrote, frame by frame, and what LeRobot reads from it."""
    made = importlib.import_module("lerobot.datasets.lerobot_dataset").LeRobotDataset
    root, rng = tmp_path_factory.mktemp("recorded") / "data", np.random.default_rng(0)
    features = {
        "action": {"dtype": "float32", "shape": (3,), "names": ["x", "y", "z"]},
        CAMERAS[0]: {"dtype": "video", "shape": (64, 64, 3), "names": ["height", "width", "channels"]},
    }
    writer = made.create("org/name", 10, features, root=root, use_videos=True)
    for told in TOLD:
        for text in told:
            frame = {
                "action": rng.standard_normal(3).astype(np.float32),
                CAMERAS[0]: rng.integers(0, 255, (64, 64, 3), np.uint8),
                "task": text,
            }
            writer.add_frame(frame)
        writer.save_episode()
    getattr(writer, "finalize", lambda: None)()
    theirs = lerobot_dataset(root)
    return open_dataset(root), [theirs[row]["task"] for row in range(len(theirs))]


def named(texts, numbers) -> list[str]:
    return [texts[number] for number in numbers.tolist()]


def test_every_frame_has_the_instruction_that_lerobot_gives_it(recorded, lerobot_dataset, tmp_path):
    ours, tasks = recorded
    assert tasks == [text for told in TOLD for text in told]
    assert named(*frame_instructions(ours, ours.episodes)) == tasks
    windows = PolicyWindows(ours, WindowOptions(4, cameras=(), size=16, state_key=None))
    assert list(windows.batch(torch.arange(len(tasks))).texts) == tasks
    written = lerobot_dataset(export(ours, tmp_path / "exported").path)
    assert [written[row]["task"] for row in range(len(written))] == tasks
    assert split_by_task(ours, 1)[1] == [3]  # of the two that reach and grasp, whatever the order of their list


def test_models_read_the_instruction_of_each_frame(recorded, tmp_path, monkeypatch):
    ours, tasks = recorded
    model, seen = inverse(task_given=True, tasks=tuple(sorted(TEXTS))), list[object]()
    out = open_dataset(annotate(ours, model, tmp_path / "inferred"))
    for index in range(len(TOLD)):
        frames = ours.frames(index, transform=model.resize)
        each = {text: model.infer_actions(frames, 1, text).actions for text in TEXTS}
        said = tasks[LENGTH * index : LENGTH * (index + 1)]
        wanted = np.stack([each[text][t] for t, text in enumerate(said)])
        np.testing.assert_allclose(out.columns(index, ["latent.action"])["latent.action"], wanted, atol=1e-5)
    own = InverseDynamics.infer_actions

    def infer(self, frames, unit=None, task="", states=None, **more):
        seen.append(task)
        return own(self, frames, unit, task, states, **more)

    monkeypatch.setattr(InverseDynamics, "infer_actions", infer)
    chosen = EvalOptions(episodes=[0, 3])
    ActionEvidence.gather(Case(model, ours, chosen.split(ours), chosen))
    assert seen == [TOLD[0], TOLD[3]]
