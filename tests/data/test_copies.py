"""Episodes that equal others of the same dataset are named, and stay on one side of every split."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest

import lattok
from lattok.action_vq import UniformBins
from lattok.data import Feature, LeRobotWriter, inspect_dataset, open_dataset, select_episodes, split_by_task
from lattok.data.content import content_of, record_of
from lattok.data.copies import copies_of, copies_text, known_to_differ
from lattok.data.episodes import split_text
from lattok.evaluation.evidence import EvalOptions
from lattok.evaluation.questions.history import overlap
from lattok.recipes import recipe_for
from lattok.recipes.held_out import held_out_episodes
from tests.conftest import CAMERAS, put_video
from tests.data.rlds_sample import episode as recorded
from tests.data.rlds_sample import example, open_rlds, record, write_rlds

TWICE = [0, 1, 2, 3, 4, 5] * 2
PAIRS = tuple((i, i + 6) for i in range(6))
OPTIONS = {"horizon": 2}


def write(root: Path, order=TWICE, states: bool = False, tasks=("lift",), picture=lambda place, number: number, **more):
    """Episodes `order` of six, of 12 frames; `picture` says whose frames an episode shows, by its place and number."""
    rng = np.random.default_rng(0)
    actions, pixels = rng.standard_normal((6, 12, 3)), rng.integers(0, 255, (12, 12, 16, 16, 3), dtype=np.uint8)
    features = {"action": Feature("float32", (3,), None), CAMERAS[0]: Feature("image", (16, 16, 3), None)}
    features |= {"observation.state": Feature("float32", (2,), None)} if states else {}
    with LeRobotWriter.create(root, 10.0, features, **more) as writer:
        for place, number in enumerate(order):
            columns = {"action": actions[number]}
            columns |= {"observation.state": rng.standard_normal((12, 2))} if states else {}
            writer.add_episode(columns, {CAMERAS[0]: pixels[picture(place, number)]}, tasks[place % len(tasks)])
    return open_dataset(root)


def sides(dataset, spec) -> set[int]:
    return {episode.index for episode in select_episodes(dataset, spec)}


def test_copies_are_named_and_stay_together(tmp_path):
    dataset = write(tmp_path / "twice")
    assert copies_of(dataset) == PAIRS
    said = "12 of 12 episodes equal each other (0 = 6, 1 = 7, 2 = 8, 3 = 9, 2 more groups)"
    assert copies_text(dataset) == said
    finding = next(found for found in inspect_dataset(dataset).findings if said in found.what)
    assert finding.severity == "warning"
    train, test = split_by_task(dataset)
    assert (train, test) == ([0, 1, 2, 3, 6, 7, 8, 9], [4, 5, 10, 11])
    assert split_by_task(dataset, 1)[1] == [5, 11]
    for spec in ("50%", "1 per task", "2 per task seed 4"):
        chosen = sides(dataset, spec)
        assert chosen == {i for pair in PAIRS for i in pair if chosen & {*pair}} <= {*train}
    assert len(sides(dataset, "2 per task")) == 4
    assert sides(dataset, "100%") == {*train}


@pytest.mark.parametrize("tasks", [("lift",), ("lift", "push"), ("a", "b", "c", "d", "e")])
def test_a_split_without_copies_is_what_it_was(tmp_path, monkeypatch, tasks):
    dataset = write(tmp_path / "once", range(6), tasks=tasks)
    split = split_by_task(dataset)
    assert copies_of(dataset) == ()
    monkeypatch.setattr("lattok.data.episodes.first_of_copies", lambda dataset: {})
    assert split_by_task(dataset) == split


def test_rows_are_read_where_the_statistics_of_actions_agree_alone(tmp_path, monkeypatch):
    dataset, read = write(tmp_path / "some", [0, 1, 2, 3, 4, 5, 2]), list[list[int]]()
    columns_of = type(dataset).columns_of

    def counted(self, episodes, keys, checked=True):
        read.append([episode.index for episode in episodes])
        return columns_of(self, episodes, keys, checked)

    monkeypatch.setattr(type(dataset), "columns_of", counted)
    assert copies_of(dataset) == ((2, 6),)
    assert read == [[2, 6]]
    read.clear()
    assert split_by_task(dataset)[1] == split_by_task(dataset)[1]
    assert not any({2, 6} == {*each} for each in read)  # it is known by now
    for path in (dataset.root / "meta/episodes").rglob("*.parquet"):  # LeRobot may leave statistics out
        table = pq.read_table(path)
        pq.write_table(table.select([name for name in table.column_names if not name.startswith("stats/")]), path)
    read.clear()
    assert copies_of(open_dataset(dataset.root)) == ((2, 6),)
    assert read == [[*range(7)]]


def test_an_episode_that_was_cut_from_another_is_a_note(tmp_path, rng):
    whole = [rng.standard_normal((40, 3)) for _ in range(4)]
    still = np.repeat(rng.standard_normal((5, 3)), 8, axis=0)  # a robot that waits, as many do
    with LeRobotWriter.create(tmp_path / "cut", 10.0, {"action": Feature("float32", (3,), None)}) as writer:
        for actions in (*whole, whole[2][3:-2], whole[0][:24], whole[1][:18], whole[3], still, still[1:]):
            writer.add_episode({"action": actions}, {}, "lift")
    dataset = open_dataset(tmp_path / "cut")
    notes = [found.what for found in inspect_dataset(dataset).findings if "in common" in found.what]
    assert notes == ["Episodes have at least 100% of their actions in common, row by row: 0 and 5, 1 and 6, 2 and 4."]
    assert copies_of(dataset) == ((3, 7),)


def test_clean_datasets_have_neither_copies_nor_cuts(sample):
    assert copies_of(sample) == ()
    assert not [found for found in inspect_dataset(sample).findings if "in common" in found.what]


def test_a_script_that_repeats_itself_in_other_scenes_is_judged_as_ever(tmp_path):
    """Its actions are the same in every episode, and there are no states, but each scene is another one."""
    dataset = write(tmp_path / "script", [3] * 10, picture=lambda place, number: place)
    assert copies_of(dataset) == ()
    assert len(split_by_task(dataset)[1]) > 1
    notes = [found.what for found in inspect_dataset(dataset).findings if "in common" in found.what]
    assert len(notes) <= 1
    shown_twice = write(tmp_path / "twice", [3] * 4, picture=lambda place, number: place % 2)
    assert copies_of(shown_twice) == ((0, 2), (1, 3))


def test_other_states_are_another_episode(tmp_path):
    """The same commands, carried out again."""
    dataset = write(tmp_path / "again", states=True)
    assert copies_of(dataset) == ()
    assert known_to_differ(dataset, 0, 6)


def test_actions_that_nobody_knows_or_that_hardly_change_make_no_copies(make_dataset, tmp_path):
    features = {"action": Feature("float32", (3,), None)}
    with LeRobotWriter.create(tmp_path / "nan", 10.0, features) as writer:
        for value in (np.nan, np.nan, 0.0, 0.0):
            writer.add_episode({"action": np.full((12, 3), value)}, {}, "lift")
    dataset = open_dataset(tmp_path / "nan")
    assert copies_of(dataset) == ()
    assert record_of(content_of(dataset, dataset.episodes)) == {}


def test_videos_are_known_by_their_bytes(tmp_path):
    for i, name in enumerate(("a0", "a1", "a2", "a3")):
        (tmp_path / "v").mkdir(exist_ok=True)
        put_video(tmp_path / f"v/{name}.mp4", np.random.default_rng(i).integers(0, 255, (9, 16, 16, 3), np.uint8), 10)
        shutil.copy(tmp_path / f"v/{name}.mp4", tmp_path / f"v/b{i}.mp4")
    dataset = open_dataset(tmp_path / "v")
    assert copies_of(dataset) == tuple((i, i + 4) for i in range(4))
    assert split_by_task(dataset)[1] == [2, 3, 6, 7]
    content = content_of(dataset, dataset.episodes[:4], cameras=dataset.cameras)
    assert "8 of 8 episodes equal each other" in inspect_dataset(dataset).render().replace("\n        ", " ")
    assert verdicts(dataset, record_of(content), [[0, 3]], [4, 5]) == [
        ("2 of 2 held-out episodes equal training episodes: these figures are too good", False)
    ]


def test_formats_without_statistics(tmp_path):
    root = write_rlds(tmp_path / "rlds", (12, 9, 10))
    (path,) = root.glob("*.tfrecord*")
    same = record(example(recorded(0, 12)))
    path.write_bytes(b"".join([same, record(example(recorded(1, 12))), same]))
    assert copies_of(open_rlds(root)) == ((0, 2),)


def verdicts(dataset, content, episodes, held_out):
    trained = {"dataset": dataset.name, "episodes": episodes, "content": content}
    model, split = SimpleNamespace(trained_on=trained), SimpleNamespace(held_out=held_out)
    return [(each.text, each.holds) for each in overlap(SimpleNamespace(model=model, dataset=dataset, split=split))]


def test_the_verdict_tells_copies_in_the_same_dataset(tmp_path):
    dataset = write(tmp_path / "twice")
    content = record_of(content_of(dataset, dataset.episodes[:6]))
    said = "4 of 4 held-out episodes equal training episodes: these figures are too good"
    assert verdicts(dataset, content, [[0, 5]], [8, 9, 10, 11]) == [(said, False)]
    shown = write(tmp_path / "shown", picture=lambda place, number: place)
    content = record_of(content_of(shown, shown.episodes[:6]))
    said = "4 of 4 held-out episodes have the actions of training episodes, and look different"
    assert verdicts(shown, content, [[0, 5]], [8, 9, 10, 11]) == [(said, None)]
    assert known_to_differ(shown, 0, 6)
    assert not known_to_differ(dataset, 0, 6)


def test_a_copy_that_was_encoded_again_does_not_look_different(tmp_path, rng):
    features = {"action": Feature("float32", (3,), None), CAMERAS[0]: Feature("video", (64, 64, 3), None)}
    pixels = np.add.outer(np.arange(12) * 4, np.add.outer(np.arange(64), np.zeros((64, 3)))).astype(np.uint8)
    actions = rng.standard_normal((12, 3))
    with LeRobotWriter.create(tmp_path / "d", 10.0, features, video_codec="h264", encoder_threads=1) as writer:
        for _ in range(3):
            writer.add_episode({"action": actions}, {CAMERAS[0]: pixels}, "lift")
            writer.add_episode({"action": rng.standard_normal((12, 3))}, {CAMERAS[0]: pixels[::-1]}, "lift")
    dataset = open_dataset(tmp_path / "d")
    assert not known_to_differ(dataset, 0, 4)
    assert known_to_differ(dataset, 0, 1)


def test_training_and_evaluation_say_so_and_nothing_is_judged_by_a_copy(tmp_path, capsys):
    dataset = write(tmp_path / "twice")
    recipe = recipe_for(UniformBins).from_preset(dataset.root, tmp_path / "tok", **OPTIONS, episodes="0:8")
    tok = lattok.train(recipe)
    assert "warning: twice: 12 of 12 episodes equal each other (0 = 6, 1 = 7" in capsys.readouterr().err
    found = lattok.evaluate(tok, dataset, episodes="8:").verdicts
    assert ("4 of 4 held-out episodes equal training episodes: these figures are too good", False) in [
        (each.text, each.holds) for each in found
    ]
    clean = lattok.train(recipe_for(UniformBins).from_preset(dataset.root, tmp_path / "clean", **OPTIONS))
    assert not [each for each in lattok.evaluate(clean, dataset).verdicts if "too good" in each.text]
    assert EvalOptions(episodes=[0, 7]).split(dataset).train == [2, 3, 4, 5, 8, 9, 10, 11]
    assert held_out_episodes(dataset, "0:2,4", "action") == [5, 11]
    assert held_out_episodes(dataset, "0:4", "action") == [4, 5, 10, 11]


def test_a_dataset_of_one_episode_over_and_over_has_nothing_to_judge_by(tmp_path):
    dataset = write(tmp_path / "same", [0] * 8)
    assert copies_of(dataset) == (tuple(range(8)),)
    assert "(0 = 1 = 2 = 3 = …)" in copies_text(dataset)
    assert split_by_task(dataset) == ([*range(8)], [])
    assert split_text(dataset).startswith("0 of 8 episodes for evaluation, all for training")
