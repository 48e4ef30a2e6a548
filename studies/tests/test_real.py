"""Studies of real robots: figures against numpy, tables against those of the script that recounts them."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import lattok
from lattok.data import Feature, LeRobotWriter
from lattok.utils.checks import LattokError
from studies import real_policies, real_robots, real_tokenizers, real_video, recount, recount_real
from studies.real_robots import Hidden, from_states, shuffled
from studies.real_sets import RealSet, Recording, opened, write_vectors

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """Six episodes of an arm that is where it was told to be two steps before; names of both differ."""
    root, rng = tmp_path_factory.mktemp("real") / "arm", np.random.default_rng(1)
    features = {"actions": Feature("float32", (2,), ("r.a", "r.b")), "state": Feature("float32", (3,), ("x", "y", "z"))}
    with LeRobotWriter.create(root, 10.0, features) as writer:
        for _ in range(6):
            goal = np.repeat(np.cumsum(rng.normal(size=(12, 2)), 0), 4, 0).astype(np.float32)
            states = np.concatenate([goal[:2], goal])[:48]
            told = {"actions": goal[:48], "state": np.c_[states[:, 1], rng.normal(size=48), states[:, 0]]}
            writer.add_episode({key: each.astype(np.float32) for key, each in told.items()}, {}, task="go")
    return Recording("arm", RealSet("arm", "r.", (2, 0), 2, columns=("actions", "state")), lattok.open_dataset(root))


def test_what_hidden_actions_add_to_the_state_is_judged(recording: Recording):
    said, left_out = from_states(recording, [0, 3], past=False)
    r2 = Hidden(recording, [0, 3], 0).judge(said)
    columns = [recording.dataset.columns(i, ["actions", "state"]) for i in range(6)]
    true = [(c["actions"] - c["state"][:, [2, 0]]).astype(float) for c in columns]
    read = {i: said[i] - columns[i]["state"][:, [2, 0]] for i in said}
    middle = np.concatenate([true[0], true[3]]).mean(0)
    errors = sum(((read[i] - true[i]) ** 2).sum(0) for i in (1, 2, 4, 5))
    assert [*r2.values()] == pytest.approx(1 - errors / sum(((true[i] - middle) ** 2).sum(0) for i in (1, 2, 4, 5)))
    assert [*said] == [1, 2, 4, 5]
    assert min(*r2.values(), left_out) > 0.9
    assert max(Hidden(recording, [0, 3], 0).judge(shuffled(said, recording)).values()) < 0.2


def test_a_copy_has_every_second_row_and_further_columns(recording: Recording, tmp_path: Path):
    said, _ = from_states(recording, [0, 1, 2, 3, 4], past=True)
    truth = {i: recording.vectors(i)[0] for i in range(5)}
    found = write_vectors(recording, tmp_path / "copy", {"action.past": truth | said})
    columns = found.columns(5, ["action", "action.past", "observation.state"])
    np.testing.assert_allclose(columns["action"], recording.vectors(5)[0][::2])
    np.testing.assert_allclose(columns["action.past"], said[5][::2], rtol=1e-6)
    assert found.fps == 5
    assert recording.holders() == ([0, 1, 2, 3, 5], [4])


def test_a_folder_without_the_datasets_is_refused(tmp_path: Path):
    with pytest.raises(LattokError, match="piper"):
        opened(tmp_path, ["piper"])


def outcomes(name: str) -> dict[str, Any]:
    if name == "real_tokenizers":
        rows = (
            f"{where}.{row}.{seed}" for where in ("g1", "piper") for row in ("FSQ", "regression") for seed in (0, 1)
        )
        figures = ("error", "bits", "reconstruction", "mean_of_draws")
        return {key: {figure: RNG.random() for figure in figures[: 1 if "regr" in key else 4]} for key in rows}
    if name == "real_video":
        frames = ("0", "1", "2")
        keys = [cell.key for cell in real_video.cells()]
        return {key: {"r2": {each: {"a": RNG.normal(), "b": RNG.normal()} for each in frames}} for key in keys}
    keys = [f"{where}.{count}.{draw}" for where in ("g1", "bridge") for count in (1, 3, 10) for draw in range(3)]
    if name == "real_policies":
        return {key: {"error": {row: RNG.random() for row in real_policies.ROWS}} for key in keys}
    routes = ("proprio", "past proprio", "shuffled")
    return {
        key: {
            "left_out": {route: RNG.normal() for route in routes[:2]},
            "r2": {route: {"a": RNG.normal(), "b": RNG.normal()} for route in routes},
        }
        for key in keys
    }


@pytest.mark.parametrize("study", [real_robots, real_policies, real_tokenizers, real_video])
def test_a_script_of_its_own_counts_the_same(study: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    name = study.__name__.rpartition(".")[2]
    kept, count = outcomes(name), getattr(recount, name)
    for text, differ in ((study.table(kept), 0), (re.sub(r"\d\.\d+", "9.99", study.table(kept), count=1), 1)):
        (tmp_path / "t.md").write_text(text, encoding="utf-8")
        figures, wrong = recount.check(count(kept, recount.columns((tmp_path / "t.md").read_text())), "")
        assert figures > 15
        assert wrong == differ, capsys.readouterr().out


@pytest.mark.parametrize("count", [1, 3])
def test_another_implementation_reads_what_the_state_shows(tmp_path: Path, count: int):
    """Files as LeRobot v2.1 has them: the command is where the state is two frames later, and one more is noise."""
    rng, folder = np.random.default_rng(0), tmp_path / "data/chunk-000"
    folder.mkdir(parents=True)
    (tmp_path / "meta").mkdir()
    features = {"action": {"names": {"motors": ["a", "b"]}}}
    (tmp_path / "meta/info.json").write_text(json.dumps({"features": features}))
    for episode in range(6):
        states = np.cumsum(rng.normal(size=(80, 2)), 0)
        later = states[np.minimum(np.arange(80) + 2, 79)]
        actions = np.stack([later[:, 0], states[:, 1] + rng.normal(size=80)], 1)
        columns = {"episode_index": [episode] * 80, "action": actions.tolist(), "state": states.tolist()}
        pq.write_table(pa.table(columns), folder / f"episode_{episode:06d}.parquet")
    data, names = recount_real.episodes(tmp_path, "action", "state")
    assert (len(data), names) == (6, ["a", "b"])
    first, second = recount_real.again(data, [*range(count)], [0, 1])
    assert first > 0.999
    assert -0.5 < second < 0.05
