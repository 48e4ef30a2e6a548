"""Windows and pairs against loops that a reader can check by eye, and the draw of labelled pairs."""

import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from lattok.data import Feature, RobotDataset
from lattok.data.episodes import check_stride
from lattok.data.instructions import frame_instructions
from lattok.samples import ActionWindows, FramePairs, PairLabels
from lattok.samples.frame_pairs import _hash, draw_labelled
from lattok.types import ActionBatch, Episode, PairBatch
from lattok.utils.checks import LattokError, stride_in_frames
from tests.errors import refused


class Memory(RobotDataset):
    """A dataset in memory; every frame shows its own number."""

    root, name, fps, cameras = Path("memory"), "memory", 10.0, ("images.a", "images.b")
    features = {  # noqa: RUF012
        "action": Feature("float32", (2,), ("x", "y")),
        "gripper": Feature("float32", (1,), None),
        "state": Feature("float64", (3,), None),
        "images.a": Feature("video", (2, 2, 3), None),
    }

    def __init__(self, lengths: list[int], tasks: list[str] | None = None):
        tasks = tasks or ["t"] * len(lengths)
        self.episodes = tuple(Episode(i, n, (task,)) for i, (n, task) in enumerate(zip(lengths, tasks, strict=True)))
        rng = np.random.default_rng(sum(lengths))
        self.data = [
            {
                "action": rng.standard_normal((n, 2)).astype(np.float32),
                "gripper": rng.standard_normal(n).astype(np.float32),
                "state": rng.standard_normal((n, 3)),
            }
            for n in lengths
        ]

    def columns(self, index, keys):
        return {key: self.data[index][key] for key in keys}

    def frames(self, index, cameras=None, indices=None, transform=None):
        length = self.episodes[index].length
        frames = np.empty((length, len(cameras or self.cameras), 2, 2, 3), dtype=np.uint8)
        frames[:] = (10 * index + np.arange(length))[:, None, None, None, None]
        return frames


lengths = st.lists(st.integers(1, 12), min_size=1, max_size=6)


@settings(max_examples=60)
@given(lengths, st.integers(1, 9), st.integers(1, 4))
def test_windows_against_a_loop(lengths, horizon, step):
    dataset = Memory(lengths)
    windows = ActionWindows(dataset, horizon, step=step)
    i = 0
    chunks, valid = windows.all()
    for episode in dataset.episodes:
        actions = dataset.data[episode.index]["action"]
        for t in range(0, episode.length, step):
            for h in range(horizon):
                inside = t + h < episode.length
                np.testing.assert_array_equal(chunks[i, h], actions[t + h if inside else -1])
                assert bool(valid[i, h]) == inside
            assert (windows.episode_of[i], windows.frame_of[i]) == (episode.index, t)
            i += 1
    assert len(windows) == i
    some = torch.tensor([i - 1, 0])
    torch.testing.assert_close(windows.batch(some).chunks, chunks[some], rtol=0, atol=0)


@settings(max_examples=60)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=6), st.integers(1, 6))
def test_pairs_against_a_loop(lengths, stride):
    dataset = Memory(lengths)
    expected = [(e.index, t) for e in dataset.episodes for t in range(e.length - stride)]
    if 2 * len(expected) < sum(lengths):
        refused("`stride`", FramePairs, dataset, stride)
        return
    pairs = FramePairs(dataset, stride, state_key="state")
    batch = pairs.batch(torch.arange(len(pairs)))
    assert list(zip(pairs.episode_of.tolist(), pairs.frame_of.tolist(), strict=True)) == expected
    for i, (e, t) in enumerate(expected):
        assert (batch.frames[i, 0] == 10 * e + t).all()
        assert (batch.frames[i, 1] == 10 * e + t + stride).all()
        mean = dataset.data[e]["action"][t : t + stride].astype(np.float64).mean(0)
        np.testing.assert_allclose(batch.actions[i], mean, atol=1e-6)
        np.testing.assert_allclose(pairs.states[i], dataset.data[e]["state"][t], atol=1e-6)
    assert batch.frames.dtype == torch.uint8
    assert batch.frames.shape[1:] == (2, 2, 2, 2, 3)
    np.testing.assert_array_equal(batch.labelled, pairs.labelled)
    assert torch.equal(pairs.batch([0]).frames, batch.frames[:1])  # a list does as well


@settings(max_examples=40)
@given(st.lists(st.integers(1, 14), min_size=1, max_size=5), st.integers(1, 3), st.integers(1, 4), st.integers(1, 6))
def test_further_frames_and_action_chunks_against_a_loop(lengths, stride, further, steps):
    dataset = Memory(lengths, [f"task {i % 2}" for i in range(len(lengths))])
    longest = max(stride, further)
    expected = [(e.index, t) for e in dataset.episodes for t in range(e.length - longest)]
    labels = PairLabels(action_target="chunk", action_steps=steps)
    options = {"extra_strides": [further], "labels": labels}
    if 2 * len(expected) < sum(lengths):
        refused("stride.*`: expected a gap that leaves at least half", FramePairs, dataset, stride, **options)
        return
    pairs = FramePairs(dataset, stride, **options)
    batch = pairs.batch(torch.arange(len(pairs)))
    assert list(zip(pairs.episode_of.tolist(), pairs.frame_of.tolist(), strict=True)) == expected
    assert batch.frames.shape[1] == 3
    assert batch.actions.shape == (len(pairs), steps, 2)
    for i, (e, t) in enumerate(expected):
        assert batch.frames[i, :, 0, 0, 0, 0].tolist() == [10 * e + t, 10 * e + t + stride, 10 * e + t + further]
        actions = dataset.data[e]["action"]
        for n in range(steps):
            np.testing.assert_array_equal(batch.actions[i, n], actions[min(t + n, len(actions) - 1)])
        assert pairs.tasks[pairs.task_of[i]] == f"task {e % 2}"
    assert len(pairs.labelled) == len(pairs)


def test_tasks_are_the_instructions_of_the_chosen_episodes():
    dataset = Memory([4, 4, 4, 4], ["b", "a", "c", "b"])
    dataset.episodes = (*dataset.episodes[:2], dataset.episodes[2]._replace(tasks=("c", "a")), dataset.episodes[3])
    pairs = FramePairs(dataset, 1, episodes=[0, 2, 3])
    assert pairs.tasks == ("b", "c")
    assert pairs.task_of.tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 0]
    assert pairs.task_of.dtype == np.int64
    dataset.episodes = (dataset.episodes[0], dataset.episodes[1]._replace(tasks=()))
    assert FramePairs(dataset, 1).tasks == ("b", "")


def test_chunks_without_actions():
    pairs = FramePairs(Memory([6, 6]), 2, labels=PairLabels(action_key=None, action_target="chunk", action_steps=3))
    assert pairs.actions.shape == pairs.batch(torch.arange(8)).actions.shape == (8, 3, 0)


def test_the_first_action_is_that_of_the_earlier_frame():
    """Eq. 14 as printed: a_t, whatever happens in the rest of the gap."""
    dataset = Memory([5, 7])
    pairs = FramePairs(dataset, 2, labels=PairLabels(action_target="first"))
    for i, (episode, frame) in enumerate(zip(pairs.episode_of, pairs.frame_of, strict=True)):
        np.testing.assert_array_equal(pairs.actions[i], dataset.data[episode]["action"][frame])
    assert pairs.actions.shape == (3 + 5, 2)


def test_scalar_actions_are_vectors_of_one():
    windows = ActionWindows(Memory([5]), 2, action_key="gripper")
    assert windows.actions.shape == (5, 1)
    assert windows.action_names == ("0",)


def test_the_sample(sample):
    windows = ActionWindows(sample, 8, episodes="train")
    test = ActionWindows(sample, 8, episodes="test")
    assert len(windows) + len(test) == 4059
    assert windows.action_names == ("x", "y", "z", "gripper")
    assert windows.all().chunks.shape == (len(windows), 8, 4)


def test_pairs_of_the_sample_show_the_right_frames(sample, tmp_path, monkeypatch):
    monkeypatch.setattr("lattok.samples.frames.IN_MEMORY", 1000)
    seen = []
    pairs = FramePairs(
        sample,
        16,
        cameras=["gripperPOV", "corner2"],
        episodes=[3, 7],
        transform=lambda block: block[:, ::4, ::4],
        cache_dir=tmp_path / "cache",
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == []
    assert isinstance(pairs.frames, np.memmap)
    assert list((tmp_path / "cache").iterdir()) == []
    assert seen == [(43, 260), (260, 260)]
    batch = pairs.batch(torch.tensor([len(pairs) - 1]))
    frames = sample.frames(7)[:, ::-1, ::4, ::4]
    np.testing.assert_array_equal(batch.frames[0], np.stack([frames[200], frames[216]]))


def test_frames_decoded_by_many_threads_are_the_same(sample, monkeypatch):
    options = {"cameras": ["corner2"], "episodes": "0:12", "transform": lambda block: block[:, ::8, ::8]}
    monkeypatch.setattr("lattok.samples.frames.AHEAD", 10**5)
    many = []
    for decoders in (1, 7):
        monkeypatch.setattr("lattok.samples.frames.DECODERS", decoders)
        monkeypatch.setattr("lattok.samples.frames.cores", lambda: 16)
        many.append(FramePairs(sample, 16, **options).frames)
    expected = np.concatenate([sample.frames(i, ["corner2"])[:, :, ::8, ::8] for i in range(12)])
    for frames in many:
        np.testing.assert_array_equal(frames, expected)


def test_an_episode_that_cannot_be_read_stops_the_others():
    dataset, asked = Memory([20] * 60), []
    real = dataset.frames

    def frames(index, *arguments, **options):
        asked.append(index)
        if index == 3:
            raise LattokError("episode 3 is damaged")
        return real(index, *arguments, **options)

    dataset.frames = frames
    with pytest.raises(LattokError, match="^episode 3 is damaged$"):
        _ = FramePairs(dataset, 1).frames
    before = len(asked)
    assert not any(thread.name.startswith("lattok-ahead") for thread in threading.enumerate())
    assert len(asked) == before


def test_batches_may_carry_features_in_the_place_of_frames():
    """Known for all rows, or given with the batch: nothing is decoded then."""
    dataset = Memory([6, 6])
    dataset.frames = None
    pairs, rows = FramePairs(dataset, 2), torch.tensor([0, 5])
    batch = pairs.batch(rows, torch.ones(2, 2, 1, 3))
    assert (batch.frames.shape, batch.features.shape) == ((2, 2, 0), (2, 2, 1, 3))
    pairs.features = lambda rows: torch.from_numpy(rows)[..., None, None].float()
    batch = pairs.batch(rows, torch.empty(2, 2, 0, dtype=torch.uint8))
    assert batch.features.tolist() == [[[[0]], [[2]]], [[[7]], [[9]]]]


@pytest.mark.parametrize(
    ("text", "fps", "frames"), [("0.2s", 80, 16), ("16", 80, 16), (16, 30, 16), ("1 s", 30, 30), ("0.5s", 15, 8)]
)
def test_strides(text, fps, frames):
    assert stride_in_frames(text, fps) == frames


NONE = ["", "fast", "-1", "1.5", "0.2m", "nans", "infs", "1e400s", "-1s", "1e3", True, 2.0, "9" * 300, "9" * 5000 + "s"]


@pytest.mark.parametrize("text", NONE)
def test_strides_that_are_none(text):
    refused("`stride`", stride_in_frames, text, 80)


@pytest.mark.parametrize("text", [2**60, "9" * 12, "9" * 12 + "s", -(2**60)])
def test_strides_beyond_all_episodes(text):
    refused("`gaps`", stride_in_frames, text, 80, "gaps")


@pytest.mark.parametrize("text", [0, "0", "0s", "0.001s"])
def test_strides_of_nothing(text):
    refused("`stride`", stride_in_frames, text, 80)


def test_a_stride_that_is_too_long_names_a_usable_one():
    dataset = Memory([10, 10, 4])
    message = r"got 6 frames \(0\.6 s\), which leaves 8 of 24\. The largest usable gap is 4 \(0\.4 s\)\. "
    message += r"Take one, such as stride=2\."
    refused(message, FramePairs, dataset, 6)
    FramePairs(dataset, 4)
    refused("The episodes are too short", lambda: FramePairs(Memory([1, 1]), 1))


@settings(max_examples=100)
@given(lengths, st.integers(1, 14) | st.just(10**30))
def test_the_largest_usable_stride_against_a_loop(lengths, stride):
    usable = [s for s in range(1, 13) if 2 * sum(max(n - s, 0) for n in lengths) >= sum(lengths)]
    if stride in usable:
        check_stride(stride, np.array(lengths), 10.0)
        return
    largest = max(usable, default=0)
    says = rf"largest usable gap is {largest} \({largest / 10:.3g} s\)" if usable else "episodes are too short"
    refused(says, check_stride, stride, np.array(lengths), 10.0)


@pytest.mark.parametrize("stride", [0, -3, True, 2.0, "2"])
def test_a_stride_is_a_whole_number_of_frames(stride):
    refused("`stride`: expected a whole number of frames of at least", check_stride, stride, np.array([10, 10]), 10.0)


def test_bad_actions_are_named():
    dataset = Memory([4, 6])
    dataset.data[1]["action"][2, 1] = np.nan
    message = r"`action`: expected finite numbers, got nan in episode 1, frame 2, dimension 1 \(y\)"
    refused(message, ActionWindows, dataset, 4)
    with pytest.raises(LattokError, match=message):
        _ = FramePairs(dataset, 1).frames
    assert len(ActionWindows(dataset, 4, episodes=[0])) == 4
    dataset.data[1]["action"][2, 1] = np.inf
    refused("got inf", ActionWindows, dataset, 4)
    dataset.data[1]["action"][3] = np.nan
    with pytest.raises(LattokError, match="got inf in episode 1, frame 2"):  # the first one
        ActionWindows(dataset, 4)
    dataset.data[1]["action"][:] = np.nan
    refused("got NaN in all of episode 1. Infer them first: lattok annotate", ActionWindows, dataset, 4)
    dataset.data[0]["state"][1, 2] = 1e300  # float64, which float32 does not hold
    refused("`state`", ActionWindows, dataset, 4, "state")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda d: ActionWindows(d, 0), "`horizon`"),
        (lambda d: ActionWindows(d, 4, step=0), "`step`"),
        (lambda d: ActionWindows(d, 4, "act"), "`action_key`"),
        (lambda d: FramePairs(d, 1, state_key="pose"), "`state_key`"),
        (lambda d: FramePairs(d, 0), "`stride`"),
        (lambda d: FramePairs(d, 2.0), "`stride`"),
        (lambda d: PairLabels(labelled_fraction=5), "`labelled_fraction`"),
        (lambda d: PairLabels(labelled_fraction=1.5), "`labelled_fraction`"),
        (lambda d: PairLabels(labelled_fraction=-0.5), "`labelled_fraction`"),
        (lambda d: PairLabels(labelled="all"), "`labelled`"),
        (lambda d: PairLabels(action_steps=0), "`action_steps`"),
        (lambda d: PairLabels(action_steps=2), "`action_steps`"),
        (lambda d: PairLabels(action_target="last"), "`action_target`"),
        (lambda d: FramePairs(d, 1, extra_strides=[0]), "`extra_strides`"),
        (lambda d: FramePairs(d, 1, extra_strides=[5]), "`extra_strides`"),
        (lambda d: FramePairs(d, 1, cameras=["c"]), "`cameras`"),
    ],
)
def test_arguments(make, says):
    refused(says, lambda: make(Memory([6, 6])))


def test_without_actions_nothing_is_labelled():
    pairs = FramePairs(Memory([6, 6]), 2, labels=PairLabels(action_key=None, labelled_fraction=1.0))
    assert not pairs.labelled.any()
    assert pairs.batch(torch.arange(3)).actions.shape == (3, 0)
    assert pairs.actions.shape == (8, 0)


@pytest.mark.parametrize("target", ["mean", "first", "chunk"])
def test_actions_that_nobody_knows_supervise_nothing_and_touch_no_other_episode(target):
    dataset, labels = Memory([6, 7, 6]), PairLabels(action_target=target, labelled_fraction=1.0)
    whole = FramePairs(dataset, 2, labels=labels)
    dataset.data[1]["action"][:] = np.nan
    pairs = FramePairs(dataset, 2, labels=labels)
    known = pairs.episode_of != 1
    np.testing.assert_array_equal(pairs.labelled, known)
    np.testing.assert_allclose(pairs.actions[known], whole.actions[known], atol=1e-6)
    assert (pairs.actions[~known] == 0).all()
    for index in (0, 2):
        dataset.data[index]["action"][:] = np.nan
    refused("`action`", FramePairs, dataset, 2, labels=labels)
    assert not FramePairs(dataset, 2, labels=PairLabels(labelled_fraction=0)).labelled.any()


def test_what_is_labelled_and_read_by_default():
    """Five percent by the draw of seed 0; no states. With a fraction of 0 actions are read, but supervise nothing."""
    dataset = Memory([60, 60])
    pairs = FramePairs(dataset, 1)
    drawn = draw_labelled(pairs.episode_of, pairs.frame_of, {0: ("t",), 1: ("t",)}, 0.05, "pairs", 0)
    np.testing.assert_array_equal(pairs.labelled, drawn)
    assert pairs.labelled.sum() == 6
    assert pairs.states.shape == (118, 0)
    unlabelled = FramePairs(dataset, 1, labels=PairLabels(labelled_fraction=0))
    assert not unlabelled.labelled.any()
    np.testing.assert_array_equal(unlabelled.actions, pairs.actions)


def positions(lengths: list[int]) -> tuple[np.ndarray, np.ndarray]:
    episode = np.repeat(np.arange(len(lengths)), lengths)
    return episode, np.concatenate([np.arange(n) for n in lengths])


@pytest.mark.parametrize("unit", ["pairs", "episodes"])
def test_the_draw_is_stratified_over_tasks(unit):
    episode, frame = positions([100, 60, 40, 30, 10])
    tasks = {0: ("a",), 1: ("a",), 2: ("b",), 3: ("b",), 4: ("c",)}
    labelled = draw_labelled(episode, frame, tasks, 0.3, unit, seed=0)
    if unit == "pairs":
        assert [labelled[np.isin(episode, group)].sum() for group in ([0, 1], [2, 3], [4])] == [48, 21, 3]
    else:
        whole = [set(labelled[episode == e].tolist()) for e in range(5)]
        assert all(len(values) == 1 for values in whole)
        drawn = [True in values for values in whole]
        assert [sum(drawn[:2]), sum(drawn[2:4]), drawn[4]] == [1, 1, True]


@settings(max_examples=30)
@given(st.randoms(use_true_random=False), st.sampled_from(["pairs", "episodes"]), st.integers(-5, 2**70))
def test_the_draw_does_not_depend_on_order(random, unit, seed):
    episode, frame = positions([20, 15, 9])
    tasks = {0: ("a",), 1: ("b",), 2: ("a",)}
    labelled = draw_labelled(episode, frame, tasks, 0.2, unit, seed)
    order = list(range(len(episode)))
    random.shuffle(order)
    np.testing.assert_array_equal(draw_labelled(episode[order], frame[order], tasks, 0.2, unit, seed), labelled[order])


def test_seeds_draw_differently_and_evenly():
    episode, frame = positions([50] * 40)
    tasks = dict.fromkeys(range(40), ("a",))
    draws = np.stack([draw_labelled(episode, frame, tasks, 0.05, "pairs", seed) for seed in range(200)])
    assert (draws.sum(1) == 100).all()
    # 200 draws of 5 %: 10 expected per pair, standard deviation 3.1
    assert draws.sum(0).std() == pytest.approx((200 * 0.05 * 0.95) ** 0.5, rel=0.1)
    assert draws.reshape(200, 40, 50).mean((0, 1)).max() < 0.06


def splitmix64(state: int) -> int:
    """The number that Vigna's generator returns in this state."""
    mixed = (state + 0x9E3779B97F4A7C15) % 2**64
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ mixed >> shift) * factor % 2**64
    return mixed ^ mixed >> 31


@pytest.mark.parametrize("seed", [0, 1, 129, -1, 2**63 + 1, 2**70 + 5])
def test_the_hash_is_splitmix64(seed):
    """A model's report draws its labelled pairs once more from the seed, so the numbers stay the same for ever."""
    steps = [(1234567 + i * 0x9E3779B97F4A7C15) % 2**64 for i in range(3)]
    assert [*map(splitmix64, steps)] == [6457827717110365317, 3203168211198807973, 9817491932198370423]  # as published
    pairs = [(3, 0), (0, 7), (10**12, 2**40)]
    expected = [splitmix64(splitmix64(splitmix64(seed % 2**64) ^ episode) ^ frame) for episode, frame in pairs]
    assert _hash(seed, *np.array(pairs).T).tolist() == expected


@pytest.mark.parametrize("unit", ["pairs", "episodes"])
def test_the_draw_against_a_pass_per_task(unit, rng):
    episode, frame = positions(rng.integers(1, 30, 60).tolist())
    tasks = {e: (str(rng.integers(9)),) for e in range(60)}
    value = _hash(5, episode, frame if unit == "pairs" else np.zeros_like(frame))
    expected = np.zeros(len(episode), dtype=bool)
    for task in set(tasks.values()):
        own = np.array([tasks[e] == task for e in episode.tolist()])
        lowest = np.unique(value[own])
        expected |= own & (value <= lowest[max(1, round(0.3 * len(lowest))) - 1])
    np.testing.assert_array_equal(draw_labelled(episode, frame, tasks, 0.3, unit, 5), expected)


def test_an_instruction_for_every_episode_costs_no_more():
    dataset = Memory([2] * 30_000, [f"task {i}" for i in range(30_000)])
    episodes, lengths = dataset.episodes, np.full(30_000, 2)
    episode, frame = positions(lengths.tolist())
    start = time.process_time()
    tasks, number = frame_instructions(dataset, episodes)
    drawn = draw_labelled(episode, frame, {e.index: e.tasks for e in episodes}, 0.05, "pairs", 0)
    assert time.process_time() - start < 2
    assert drawn.reshape(-1, 2).sum(1).tolist() == [1] * len(episodes)
    np.testing.assert_array_equal(number, episode)
    assert tasks[-1] == "task 29999"


def test_extreme_fractions():
    episode, frame = positions([5, 5])
    tasks = {0: ("a",), 1: ("b",)}
    assert draw_labelled(episode, frame, tasks, 0.0, "pairs", 0).sum() == 0
    assert draw_labelled(episode, frame, tasks, 1e-9, "pairs", 0).sum() == 2
    assert draw_labelled(episode, frame, tasks, 1.0, "pairs", 0).all()
    refused("at least one labelled pair", draw_labelled, episode[:0], frame[:0], tasks, 0.1, "pairs", 0)


def test_frames_of_another_size_in_a_later_episode():
    dataset = Memory([4, 4])
    real = dataset.frames
    dataset.frames = lambda i, *args, **options: real(i, *args, **options)[:, :, : 2 - i]
    with pytest.raises(LattokError, match="`frames`"):
        _ = FramePairs(dataset, 1).frames


def test_episodes_of_one_frame_have_no_pairs_and_no_labels():
    pairs = FramePairs(Memory([1, 6, 1], ["a", "b", "c"]), 2, labels=PairLabels(labelled_fraction=1e-9))
    assert set(pairs.episode_of.tolist()) == {1}
    assert pairs.labelled.sum() == 1
    assert pairs.tasks == ("a", "b", "c")
    refused("`stride`", lambda: FramePairs(Memory([1, 1, 1]), 2))
    refused("`stride`", lambda: FramePairs(Memory([3, 3, 3]), 5))


def test_one_million_frames_are_indexed_at_once():
    dataset = SimpleNamespace(
        name="big",
        fps=30.0,
        cameras=(),
        features={"action": Feature("float32", (7,), None)},
        episodes=tuple(Episode(i, 250, ("a",)) for i in range(4000)),
        columns_of=lambda episodes, keys, checked: (
            (episode.index, {"action": np.zeros((250, 7), dtype=np.float32)}) for episode in episodes
        ),
    )
    windows = ActionWindows(dataset, 8)
    assert len(windows) == 10**6
    assert windows.batch(torch.tensor([999_999])).valid.sum() == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_a_data_loader_gives_the_batches_of_pairs_and_windows(make_dataset, workers):
    """With torch's own collation, in other processes too; frames are decoded there, or were read before."""
    dataset = make_dataset([9, 7, 8])
    pairs, windows = FramePairs(dataset, "0.2s", state_key="observation.state"), ActionWindows(dataset, 4)
    order = [5, 0, 11, 3]
    for samples, kind in ((pairs, PairBatch), (windows, ActionBatch)):
        loader = DataLoader(samples, batch_size=2, sampler=order, num_workers=workers)
        for fields, chosen in zip(loader, (order[:2], order[2:]), strict=True):
            wanted = samples.batch(chosen)
            found = kind(**fields)
            for one, other in zip(found, wanted, strict=True):
                assert (one is None) == (other is None)
                assert one is None or torch.equal(one, other)
    assert "frames" in vars(pairs)  # which `batch` has read


def test_samples_are_indexed_like_lists(make_dataset):
    pairs = FramePairs(make_dataset([9, 7]), 2, cameras=["front"])
    assert sorted(pairs[0]) == ["actions", "frames", "labelled"]
    assert "frames" not in vars(pairs)  # one sample is no reason to decode all of them
    assert torch.equal(pairs[-1]["frames"], pairs.batch([len(pairs) - 1]).frames[0])
    assert len(list(pairs)) == len(pairs) == 12
    with pytest.raises(IndexError):
        pairs[12]
