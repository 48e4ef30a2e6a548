"""Choosing episodes and splitting by task."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattok.data import Feature, read_vectors, select_episodes, split_by_task, with_cameras
from lattok.data.episodes import MORE, damaged_among, none_known, select_acting, split_text
from lattok.data.schema import Damage
from lattok.types import Episode
from lattok.utils.checks import LattokError
from tests.errors import refused


class Listed(SimpleNamespace):
    cameras, columns_apart, files, outlines, held_out = (), True, SimpleNamespace(commit=None), dict, ()
    __hash__ = object.__hash__


def episodes_of(tasks: list[str], length: int = 5, damaged: tuple[int, ...] = (), **more):
    """A stand-in with one episode per entry of `tasks`; those that are `damaged` are missing."""
    episodes = [Episode(i, length, (task,)) for i, task in enumerate(tasks) if i not in damaged]
    broken = tuple(Damage(i, f"{i}.bin is cut short.") for i in damaged)
    return Listed(episodes=tuple(episodes), damaged=broken, **{"features": {}, **more})


def with_actions(tasks: list[str], actions: dict[int, np.ndarray | str], filled: tuple[int, ...] = ()):
    """A stand-in whose actions are these, or zeros; those of text cannot be read, those `filled` a model inferred."""

    def columns_of(episodes, keys, checked):
        for each in episodes:
            action = actions.get(each.index, np.zeros((5, 2), dtype=np.float32))
            found = {"action": action, "inferred.filled": np.full(5, each.index in filled)}
            yield each.index, LattokError(action) if isinstance(action, str) else {key: found[key] for key in keys}

    features = dict.fromkeys(["action", *["inferred.filled"] * bool(filled)], Feature("float32", (2,), None))
    return episodes_of(tasks, features=features, columns_of=columns_of)


def indices(dataset, spec) -> list[int]:
    return [episode.index for episode in select_episodes(dataset, spec)]


def test_specifications():
    dataset = episodes_of(["a"] * 10)
    assert indices(dataset, None) == list(range(10))
    assert indices(dataset, "0:4") == [0, 1, 2, 3]
    assert indices(dataset, "0, 3, 5:9") == [0, 3, 5, 6, 7, 8]
    assert indices(dataset, "7:") == [7, 8, 9]
    assert indices(dataset, ":2") == [0, 1]
    assert indices(dataset, "8:10") == [8, 9]
    assert indices(dataset, [3, 1, 1]) == [1, 3]


def test_test_is_the_last_episode_of_every_task(sample):
    train, test = split_by_task(sample)
    assert test == list(range(4, 50, 5))
    assert sorted(train + test) == list(range(50))
    assert indices(sample, "test") == test
    assert indices(sample, "train") == train


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=20), st.integers(1, 3))
def test_split_against_a_plain_count(tasks: list[str], held_out: int):
    train, test = split_by_task(episodes_of(tasks), held_out)
    assert sorted(train + test) == list(range(len(tasks)))
    for task in set(tasks):
        group = [i for i, t in enumerate(tasks) if t == task]
        expected = group[-held_out:] if len(group) > held_out else []
        assert [i for i in test if tasks[i] == task] == expected


@given(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=150))
def test_few_tasks_hold_out_a_tenth_and_many_the_last_of_each(tasks: list[str]):
    train, test = split_by_task(episodes_of(tasks))
    assert sorted(train + test) == list(range(len(tasks)))
    last = [max(i for i, t in enumerate(tasks) if t == task) for task in set(tasks) if tasks.count(task) > 1]
    assert set(last) <= set(test)
    if len(last) >= 5 or len(tasks) < 4:
        assert test == sorted(last)
        return
    wanted = min(10, max(5, -(-len(tasks) // 10)), max(2, len(tasks) // 3))
    assert len(test) == max(wanted, len(last))
    for task in set(tasks):  # of a task the last ones, and all of it only where no other has one to spare
        group = [i for i, t in enumerate(tasks) if t == task]
        held = [i for i in group if i in test]
        assert held == group[len(group) - len(held) :]
        if held == group:
            assert all(len([i for i in train if tasks[i] == other]) <= 1 for other in set(tasks))


COUNTS = [
    (1, 0),
    (2, 1),
    (3, 1),
    (4, 2),
    (8, 2),
    (9, 3),
    (14, 4),
    (15, 5),
    (20, 5),
    (50, 5),
    (51, 6),
    (95, 10),
    (400, 10),
]


@pytest.mark.parametrize(("count", "held_out"), COUNTS)
def test_one_task_holds_out_a_tenth_at_least_five_where_two_thirds_are_left_to_train_on(count: int, held_out: int):
    assert split_by_task(episodes_of(["a"] * count))[1] == list(range(count - held_out, count))


NAN = np.full((5, 2), np.nan, dtype=np.float32)


@pytest.mark.parametrize("filled", [False, True])
def test_episodes_whose_actions_nobody_measured_do_not_judge(filled: bool):
    """Nor do they take all measured ones from the training."""
    unknown = tuple(range(20, 40))
    many = with_actions(["a"] * 40, {} if filled else dict.fromkeys(unknown, NAN), unknown if filled else ())
    assert split_by_task(many)[1] == list(range(15, 20))
    assert set(unknown) < set(split_by_task(many)[0])
    few = with_actions(["a", "b"] * 4, dict.fromkeys(range(4, 8), NAN))
    assert split_by_task(few)[1] == [2, 3]
    assert split_by_task(with_actions(["a"] * 6, dict.fromkeys(range(6), NAN)))[1] == [4, 5]  # none was measured


def test_actions_that_are_partly_nan_whole_numbers_or_cannot_be_read_change_nothing():
    part = NAN.copy()
    part[0] = 0
    odd = {4: part, 5: np.zeros((5, 2), dtype=np.int64), 3: "cut short"}
    for tasks in (["a"] * 6, ["a", "b", "c"] * 2):
        assert split_by_task(with_actions(tasks, odd)) == split_by_task(episodes_of(tasks))


def test_which_episodes_judge_is_said():
    assert (
        split_text(episodes_of(["a"] * 50))
        == "5 of 50 episodes for evaluation (45, 46, 47, 48 and 1 more), the others for training"
    )
    few = "; too few for intervals: record 15 episodes or more, of which 5 are held out"
    assert split_text(episodes_of(["a"] * 8)) == "2 of 8 episodes for evaluation (6, 7), the others for training" + few
    few_known = with_actions(["a"] * 20, dict.fromkeys(range(6, 20), NAN))
    assert split_text(few_known).endswith("record 15 episodes with known actions or more, of which 5 are held out")
    of_files = episodes_of(["a"] * 20, held_out=(16, 19))
    assert split_text(of_files).endswith("such as 0:15 to train and 15: to evaluate")
    assert split_text(episodes_of(["a"] * 3)) == "1 of 3 episodes for evaluation (2), the others for training" + few
    assert split_text(episodes_of(["a"])) == f"0 of 1 episode for evaluation, all for training; better: {MORE}"
    assert len(f"better: {MORE}") <= 88 - 12  # a line of inspect
    refused(
        "at least one episode, got 'test'. None can be held out", lambda: select_episodes(episodes_of(["a"]), "test")
    )
    assert (
        len(select_episodes(episodes_of(["a", "a"]), "test")) == len(select_episodes(episodes_of("abcd"), "test")) - 1
    )


@given(st.lists(st.one_of(st.integers(0, 9), st.tuples(st.integers(0, 9), st.integers(0, 12))), min_size=1))
def test_lists_of_ranges_against_python_sets(parts):
    spec = ",".join(f"{p[0]}:{p[1]}" if isinstance(p, tuple) else str(p) for p in parts)
    expected = {i for p in parts for i in (range(p[0], min(p[1], 10)) if isinstance(p, tuple) else [p])}
    dataset = episodes_of(["a"] * 10)
    if any(isinstance(p, tuple) and p[1] > 10 for p in parts):
        refused("`episodes`: expected ranges among the 10 episodes", indices, dataset, spec)
    elif expected:
        assert indices(dataset, spec) == sorted(expected)
    else:
        refused("`episodes`: expected a choice of at least one episode", indices, dataset, spec)


def test_shares_of_acting_episodes_are_drawn_from_known_ones():
    dataset = with_actions(["a"] * 9, dict.fromkeys((0, 1, 3, 5), np.full((5, 2), np.nan, np.float32)))
    assert select_acting(dataset, "1 per task", "action") < select_acting(dataset, "9 per task", "action") == {2, 4}
    assert select_acting(dataset, "0:2", "action") == {0, 1}
    refused(r"`action_episodes`: expected .* got '1 per tsk'", select_acting, dataset, "1 per tsk", "action")
    option = none_known(dataset, "action", [0, 1, 2], "0:2")[1]
    assert option == "It is known elsewhere: action_episodes=2."


@given(st.text(max_size=12))
def test_any_text_is_a_choice_or_a_clear_error(text: str):
    try:
        assert indices(episodes_of(["a", "a", "b"]), text)
    except LattokError as error:
        assert str(error).startswith("`episodes`: expected")  # noqa: PT017


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("a:b", '"train", "test", "10%", "5 per task", numbers or ranges such as'),
        ("0%", '"10%", "5 per task"'),
        ("101%", '"10%", "5 per task"'),
        ("00 per task", '"10%", "5 per task"'),
        ("10%,3", '"10%", "5 per task"'),
        ("3-5", "numbers or ranges"),
        ("0,12", "indices from 0 to 9, got 12"),
        ([0, 11], "indices from 0 to 9, got 11"),
        ([0.5], "whole numbers, got 0.5"),
        ([], "a choice of at least one episode"),
        ("5:5", "a choice of at least one episode, got '5:5'. A range ends before its second number"),
        ("", "numbers or ranges"),
    ],
)
def test_errors(spec, says):
    refused(says, lambda: select_episodes(episodes_of(["a"] * 10), spec))


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=40), st.integers(0, 3))
def test_shares_of_every_task_are_nested_and_leave_the_held_out_ones(tasks: list[str], seed: int):
    dataset, smaller = episodes_of(tasks), {}
    train, _ = split_by_task(dataset)
    of_task = {task: sum(tasks[i] == task for i in train) for task in {tasks[i] for i in train}}
    counts = {
        **{f"{n} per task": {t: min(n, of_task[t]) for t in of_task} for n in (1, 2, 7, 40)},
        **{f"{p}%": {t: max(1, round(p * of_task[t] / 100)) for t in of_task} for p in (0.5, 10, 33.3, 50, 100)},
    }
    for spec, expected in counts.items():
        found = indices(dataset, f"{spec} seed {seed}")
        assert {task: sum(tasks[i] == task for i in found) for task in of_task} == expected
        kind = spec[-1]
        assert smaller.get(kind, set()) <= set(found) <= set(train)
        smaller[kind] = set(found)
    assert smaller["k"] == smaller["%"] == set(train)


def test_shares_are_drawn_evenly_and_by_seed():
    dataset, drawn = episodes_of(["a"] * 21), []
    assert indices(dataset, " 3 per task ") == indices(dataset, "20 %") == indices(dataset, "3 per task seed 0")
    for seed in range(300):
        drawn += indices(dataset, f"4 per task seed {seed}")
    times = [drawn.count(index) for index in range(21)]
    assert times[16:] == [0] * 5  # held out
    assert min(times[:16]) > 45  # 75 are expected, with a deviation of 7.5
    assert max(times[:16]) < 105


def test_damaged_episodes_are_named_where_they_are_asked_for():
    dataset = episodes_of(["a"] * 6, damaged=(1, 5))
    assert indices(dataset, "0:3") == [0, 2]
    for spec in ("0,1", [0, 1], "1:2", "0:3,1"):
        refused("`episodes`: expected episodes that can be read, got 1. 1.bin is cut", select_episodes, dataset, spec)
    refused("indices from 0 to 4, got 6", select_episodes, dataset, "5,6", skip_damaged=True)
    assert [e.index for e in select_episodes(dataset, "0,1,4:", skip_damaged=True)] == [0, 4]
    assert select_episodes(dataset, "5:", skip_damaged=True) == []
    covered = {None: [1, 5], "0:3": [1], "4:": [5], "0,1": [1], "2:4": [], "train": []}
    for spec, expected in covered.items():
        assert [damage.episode_index for damage in damaged_among(dataset, spec)] == expected
    assert [damage.episode_index for damage in damaged_among(dataset, [4, 5])] == [5]


class Counted(tuple):
    """Counts how many episodes are looked at."""

    looked = 0

    def __getitem__(self, row):
        Counted.looked += 1
        return tuple.__getitem__(self, row)


def test_a_few_of_a_million_are_found_without_a_pass():
    episodes = Counted(Episode(3 * i, 5, ("a",)) for i in range(100_000))
    found = select_episodes(SimpleNamespace(episodes=episodes, damaged=()), [299_997, 0, 6])
    assert [episode.index for episode in found] == [0, 6, 299_997]
    assert Counted.looked < 100
    refused("indices from 0 to", lambda: select_episodes(SimpleNamespace(episodes=episodes, damaged=()), [6, 5]))


def test_held_out_is_a_count():
    refused("`held_out`: expected a whole number of at least 1, got 0", lambda: split_by_task(episodes_of(["a"]), 0))


def test_no_test_episodes():
    refused("at least one episode", lambda: select_episodes(episodes_of(["a"]), "test"))


@pytest.mark.parametrize("spec", ["0:900", "900:950", "900:", "10:", "0:3,9:11"])
def test_a_range_beyond_the_last_episode_is_refused_with_how_many_there_are(spec: str):
    dataset = episodes_of(["a"] * 10)
    refused(f"`episodes`: expected ranges among the 10 episodes of the dataset, got '{spec}'", indices, dataset, spec)
    assert indices(dataset, "0:10") == indices(dataset, "0:") == list(range(10))


def test_a_range_may_end_with_damaged_episodes():
    assert indices(episodes_of(["a"] * 10, damaged=(9,)), "7:10") == [7, 8]
    refused("expected ranges among the 10 episodes", lambda: indices(episodes_of(["a"] * 10, damaged=(9,)), "7:11"))


def test_vectors_of_many_episodes_are_read_file_by_file(make_dataset, monkeypatch):
    dataset = make_dataset([5, 3, 4, 6, 2])
    chosen = select_episodes(dataset, [4, 0, 2])
    alone = np.concatenate([dataset.columns(i, ["action"])["action"] for i in (0, 2, 4)])
    monkeypatch.setattr(type(dataset), "columns", lambda *_: pytest.fail("an episode was read by itself"))
    np.testing.assert_array_equal(read_vectors(dataset, "action_key", "action", chosen), alone)
    view = with_cameras(dataset, dataset.cameras[:1])
    np.testing.assert_array_equal(read_vectors(view, "action_key", "action", chosen), alone)
    refused("`episodes`: expected 2 different", read_vectors, dataset, "action_key", "action", [chosen[0]] * 2)
