"""Streamed samples: each once per pass, the same for any number of processes, with the frames that are theirs."""

import threading
from collections import Counter
from contextlib import nullcontext
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lattok.data import Feature, RobotDataset
from lattok.samples import FramePairs, PairLabels, PolicyWindows, WindowOptions
from lattok.samples.order import (
    FILES_PER_GROUP,
    FIRST_WINDOW,
    LANES,
    MAX_CLIP,
    BatchSampler,
    Draw,
    Lanes,
    Passes,
    Window,
    deal_clips,
    order_of,
    window_sizes,
)
from lattok.samples.stream import DecodedWindow, FrameStream, keep_frames
from lattok.types import Episode
from lattok.utils.checks import LattokError
from lattok.utils.parallel import Prefetcher
from lattok.utils.seeds import derive_seed
from tests.errors import refused

SIDE = 4


class Film(RobotDataset):
    """A dataset whose frames show episode and frame number, and which counts the frames that it decodes."""

    kind, name, fps, cameras = "film", "film", 10.0, ("images.a",)
    features = {  # noqa: RUF012
        "action": Feature("float32", (2,), ("x", "y")),
        "images.a": Feature("video", (SIDE, SIDE, 3), None),
    }

    def __init__(self, lengths, damaged_episodes=()):
        self.episodes = tuple(Episode(i, int(n), (f"task {i % 3}",)) for i, n in enumerate(lengths))
        self.tasks = ("task 0", "task 1", "task 2")
        self.torn, self.decoded, self.lock = set(damaged_episodes), Counter(), threading.Lock()

    def columns(self, episode_index, keys):
        length = self.episodes[episode_index].length
        return {"action": np.stack([np.full(length, episode_index), np.arange(length)], 1).astype(np.float32)}

    def blocks(self, episode_index, camera, indices):
        if episode_index in self.torn:
            raise LattokError(f"file-{episode_index}.mp4 is torn")
        with self.lock:
            self.decoded.update((episode_index, int(i)) for i in indices)
        frames = np.zeros((len(indices), SIDE, SIDE, 3), dtype=np.uint8)
        frames[..., 0], frames[..., 1], frames[..., 2] = episode_index, (indices % 256)[:, None, None], 7
        yield frames


def ordered(lengths, window, seed=0, in_file=0):
    """The order of episodes, of which so many lie in a file on the Hub."""
    episode_of = np.repeat(np.arange(len(lengths)), lengths)
    return Lanes(np.arange(sum(lengths)), episode_of, window, seed, episode_of // in_file if in_file else None)


many = st.lists(st.integers(0, 90), min_size=8, max_size=30).filter(lambda lengths: sum(lengths) >= LANES)


@settings(max_examples=30)
@given(many, st.integers(1, 70), st.integers(0, 5), st.integers(0, 3))
def test_a_pass_holds_every_sample_once(lengths, window, seed, in_file):
    """Each lane by itself goes through its part of every pass, and the parts of a pass are all of it."""
    lanes, total = ordered(lengths, window, seed, in_file), sum(lengths)
    for number in (0, 3):
        drawn = []
        for lane in range(LANES):
            size = total * (lane + 1) // LANES - total * lane // LANES
            drawn += [one(lanes, lane, draw) for draw in range(number * size, (number + 1) * size)]
        assert sorted(drawn) == list(range(total))


@settings(max_examples=30)
@given(
    st.lists(st.integers(1, 700), min_size=1, max_size=5).filter(lambda lengths: sum(lengths) >= LANES),
    st.integers(1, 400),
)
def test_clips_are_equal_parts_of_one_episode(lengths, window):
    lanes, ends = ordered(lengths, window), np.cumsum(lengths)
    owner = np.searchsorted(ends, lanes._starts, side="right")
    for episode, length in enumerate(lengths):
        mine = lanes._lengths[owner == episode]
        assert lanes._starts[owner == episode][0] == ends[episode] - length
        assert (mine.sum(), len(mine)) == (length, -(-length // min(window, MAX_CLIP)))
        assert mine.max() - mine.min() <= 1


@given(
    st.lists(st.tuples(st.integers(1, 300), st.booleans()), min_size=1, max_size=9).filter(
        lambda clips: sum(n for n, _ in clips) >= LANES
    )
)
@example([(104, False), (1, True), (1, True)])
def test_each_lane_gets_its_share_of_each_group_of_files(clips):
    """But for one sample, and one group after the other: counted sample by sample."""
    lengths, group = np.array([n for n, _ in clips]), np.cumsum([new for _, new in clips])
    ends, total = np.cumsum(lengths), int(lengths.sum())
    starts = 1000 * np.arange(len(clips))
    first, until = deal_clips(starts, ends, group)
    samples = np.concatenate([np.arange(a, a + n) for a, n in zip(first, np.diff(until, prepend=0), strict=True)])
    assert sorted(samples) == sorted(np.concatenate([a + np.arange(n) for a, n in zip(starts, lengths, strict=True)]))
    groups = group[samples // 1000]
    borders = [total * lane // LANES for lane in range(LANES + 1)]
    assert all((np.diff(groups[a:b]) >= 0).all() for a, b in pairwise(borders))
    for number in set(group.tolist()):
        had = np.array([np.count_nonzero(groups[a:b] <= number) for a, b in pairwise(borders)])
        assert (np.abs(had - (group <= number) @ lengths / LANES) < 1).all()


def one(lanes, lane, draw):
    window = lanes.window(lane, draw)
    assert draw in window
    return int(window.samples[draw - window.first])


def test_windows_are_small_at_first_and_then_hold_whole_clips():
    lanes = ordered([300] * 200, 64)
    first, sizes = 0, []
    while first < 60_000 // LANES:
        window = lanes.window(5, first)
        sizes.append(len(window.samples))
        first = window.first + len(window.samples)
    assert sizes[:3] == [FIRST_WINDOW, 2 * FIRST_WINDOW, 4 * FIRST_WINDOW]
    later = [lanes.window(5, 625 + draw).samples for draw in (0, 200, 400)]
    assert all(64 <= len(samples) <= 128 for samples in later)
    runs = [np.count_nonzero(np.diff(np.sort(samples)) > 1) + 1 for samples in later]  # of consecutive frames
    assert max(runs) <= 4
    assert not np.array_equal(np.sort(later[0]), later[0])


def test_every_window_has_an_order_of_its_own():
    """Of one clip alone nothing but windows is shuffled: each pass, lane and window by itself."""
    lanes = Lanes(np.arange(256), np.zeros(256, dtype=int), 256, 0)
    pairs = [lane for lane in range(LANES) if 256 * (lane + 1) // LANES - 256 * lane // LANES == 2]
    turned = np.array([[np.diff(lanes.window(lane, 2 * k).samples)[0] < 0 for lane in pairs] for k in range(1, 9)])
    for axis in (0, 1):  # passes, lanes
        assert 0.35 < turned.mean() < 0.65
        assert (turned.any(axis) & ~turned.all(axis)).mean() > 0.8
    few = ordered([MAX_CLIP] * 2 * LANES, 8)
    orders = [np.argsort(few.window(0, 8 * w).samples).tolist() for w in range(8, 40)]
    assert len(set(map(tuple, orders))) > 28


def test_files_of_the_hub_are_needed_one_group_after_the_other():
    """So that each is fetched once per pass where two groups have room: all lanes are in the same group, but for a
    window. Training begins with one file."""
    in_file, files = 20, 60
    lanes = ordered([100] * in_file * files, 40, in_file=in_file)
    size = 100 * in_file * files // LANES
    last, fetched, recent = 0, Counter(), []
    for draw in range(2 * size):
        now = {one(lanes, lane, draw) // 100 // in_file for lane in range(0, LANES, 5)}
        assert draw or len(now) == 1
        new = now - set(recent)
        fetched.update(new)
        recent = [file for file in recent if file not in now] + sorted(now)
        recent = recent[-2 * FILES_PER_GROUP :]
        last = max(last, len(now))
    assert last <= 2 * FILES_PER_GROUP
    assert set(fetched) == set(range(files))
    assert sum(fetched.values()) <= 2 * files + FILES_PER_GROUP
    later = {one(lanes, lane, draw) // 2000 for lane in range(0, LANES, 5) for draw in range(200, 260)}
    assert len(later) == 8  # of the fourth group: 1, 2, 4, 8, ...
    order = [[one(lanes, 7, number * size + draw) // 2000 for draw in range(0, size, 20)] for number in (1, 2)]
    assert order[0] != order[1]


def test_the_order_follows_from_seed_and_step_alone():
    lengths = [50, 70, 30, 90, 10]
    for made in (lambda seed: ordered(lengths, 20, seed), lambda seed: Passes(250, seed)):
        batches = BatchSampler([made(0)], 24)
        forwards = [batches(step).tolist() for step in range(40)]
        for step in (39, 3, 17):
            assert BatchSampler([made(0)], 24)(step).tolist() == forwards[step]
        assert BatchSampler([made(1)], 24)(5).tolist() != forwards[5]
    for processes in (2, 4, 8):  # a process has the same lanes at every step
        for process in range(processes):
            own = {draw.lane for step in range(40) for draw in batches.draws(step)[process::processes]}
            assert {lane % processes for lane in own} == {process}


def test_mixtures_keep_their_proportions_and_each_dataset_its_passes():
    parts = [ordered([100, 92], 16), ordered([300, 276], 16), None]
    batches = BatchSampler(parts, 32, [0.5, 0.5, 3.0])
    drawn = [divmod(one, 192) for step in range(120) for one in batches(step).tolist()]
    drawn = [(min(part, 1), sample) for part, sample in drawn]
    counts = Counter(part for part, _ in drawn)
    assert counts.keys() == {0, 1}
    assert abs(counts[0] - counts[1]) <= LANES
    samples = Counter(sample for part, sample in drawn if part == 0)
    assert set(samples) == set(range(192))  # ten passes, of which the last is not over
    assert set(samples.values()) <= {9, 10, 11}


def test_of_few_samples_each_comes_several_times_in_a_pass():
    batches = BatchSampler([ordered([20, 12], 5)], LANES)
    assert Counter(batches(0).tolist()) == Counter(dict.fromkeys(range(32), 3))


def test_passes_are_those_of_a_shuffled_sampler():
    """Against torch's own permutations; lanes deal the same draws out, whatever their number."""
    batches, order = BatchSampler([Passes(250, 7)], 24), Passes(250, 7)
    passes = [torch.randperm(250, generator=torch.Generator().manual_seed(derive_seed(7, k))) for k in range(5)]
    expected = torch.cat(passes)
    assert torch.equal(torch.cat([batches(step) for step in range(50)]), expected[:1200])
    for draw in batches.draws(30):
        window = order.window(draw.lane, draw.number)
        assert draw.number in window
        assert window.samples[draw.number - window.first] == expected[draw.number * LANES + draw.lane]
    few = Passes(np.array([3, 5, 8]), 1)  # fewer than there are lanes
    drawn = [few.window(g % LANES, g // LANES).samples.tolist() for g in range(900)]
    assert np.concatenate(drawn).tolist() == few.take(0, 900).tolist()


def pairs_of(film, **options):
    return FramePairs(film, 3, labels=PairLabels(labelled_fraction=0.5), **options)


def stream_of(pairs, batch=24, window=20, seed=0, memory=np.inf):
    _ = pairs.reader.shape  # which reads a frame
    pairs.reader.dataset.decoded.clear()
    samples = np.arange(len(pairs))
    order = Passes(samples, seed) if window is None else Lanes(samples, pairs.episode_of, window, seed)
    return FrameStream([pairs], [BatchSampler([order], batch)], memory)


LENGTHS = [40, 25, 60, 10, 33, 47, 52, 38]


def test_frames_are_those_of_the_samples():
    """Against frames that are all decoded, whatever the number of processes; and each is decoded once per pass."""
    whole, steps = pairs_of(Film(LENGTHS)), 22
    expected = None
    for processes in (1, 2, 4):
        taken, decoded = [[] for _ in range(steps)], Counter()
        for process in range(processes):
            film = Film(LENGTHS)
            pairs = pairs_of(film)
            stream = stream_of(pairs)
            with stream.started(0, steps, [process], processes):
                for step in range(steps):
                    indices, frames = stream.take(step, process, processes)
                    assert torch.equal(pairs.batch(indices, frames).frames, whole.batch(indices).frames)
                    taken[step].append(indices)
            decoded += film.decoded
        joined = [torch.stack(parts, 1).flatten() for parts in taken]  # rows of a batch are dealt in turn
        expected = expected or (joined, decoded)
        assert all(map(torch.equal, joined, expected[0]))
        assert decoded == expected[1]


def test_a_pass_decodes_little_more_than_its_frames():
    """More only where a clip is cut: between lanes, and between the small windows at the start."""
    film = Film([200] * 100)
    pairs = pairs_of(film)
    stream = stream_of(pairs, batch=96, window=200)
    steps = len(pairs) // LANES
    with stream.started(0, steps, [0], 1):
        for step in range(steps):
            stream.take(step, 0, 1)
    assert 20_000 <= film.decoded.total() <= 1.12 * 20_000


def test_a_run_that_goes_on_sees_what_it_would_have_seen():
    pairs = pairs_of(Film(LENGTHS))
    whole = stream_of(pairs)
    with whole.started(0, 40, [0], 1):
        expected = [whole.take(step, 0, 1) for step in range(40)]
    later = stream_of(pairs_of(Film(LENGTHS)))
    with later.started(23, 40, [0], 1):
        for step in range(23, 40):
            for got, want in zip(later.take(step, 0, 1), expected[step], strict=True):
                assert torch.equal(got, want)


def test_accumulated_shares_are_decoded_by_the_process_that_takes_them():
    film = Film(LENGTHS)
    pairs = pairs_of(film)
    stream, alone = stream_of(pairs), stream_of(pairs_of(Film(LENGTHS)))
    with stream.started(0, 6, [1, 3], 4):  # process 1 of 2, two parts
        for step in range(6):
            for share in (1, 3):
                indices, _ = stream.take(step, share, 4)
                assert torch.equal(indices, alone.take(step, 0, 1)[0][share::4])


def test_policy_windows_with_later_frames_and_labelled_extras():
    film = Film(LENGTHS)
    options = {"horizon": 4, "size": SIDE, "state_key": None, "gaps": (2, 5)}
    windows, whole = PolicyWindows(film, WindowOptions(**options)), PolicyWindows(film, WindowOptions(**options))
    some = [np.flatnonzero(np.isin(windows.episode_of, [1, 2, 4, 6]))]
    lanes, extra = ([Lanes(rows, windows.episode_of[rows], 16, seed=3)] for rows in (np.arange(len(windows)), *some))
    stream = FrameStream([windows], [BatchSampler(lanes, 8), BatchSampler(extra, 4)], np.inf)
    with stream.started(0, 9, [0], 1):
        for step in range(9):
            indices, frames = stream.take(step, 0, 1)
            assert set(windows.episode_of[indices[8:]].tolist()) <= {1, 2, 4, 6}
            got, expected = windows.batch(indices, frames), whole.batch(indices)
            assert torch.equal(got.images, expected.images)
            assert torch.equal(got.later, expected.later)
            assert torch.equal(got.actions, expected.actions)


def drawn(stream, steps=40, own=(0,)):
    """All that a stream gives, as one batch."""
    with stream.started(0, steps, own, len(own)):
        taken = [stream.take(step, share, len(own)) for step in range(steps) for share in own]
    return [torch.cat(parts) for parts in zip(*taken, strict=True)]


@pytest.mark.parametrize("own", [(0,), (0, 1)])
def test_episodes_that_cannot_be_read_are_left_out_and_named(own):
    pairs = pairs_of(Film(LENGTHS, damaged_episodes=(2, 5)))
    stream = stream_of(pairs)
    with pytest.warns(UserWarning, match=r"episode \d of film is left out: file-\d\.mp4 is torn") as told:
        indices, frames = drawn(stream, own=own)
    assert len(told) == 2
    assert {index for _, index in stream.left_out} == {2, 5}
    shown = pairs.episode_of[indices]
    assert set(shown.tolist()) == {0, 1, 3, 4, 6, 7}
    np.testing.assert_array_equal(frames[:, 0, 0, 0, 0, 0], shown)


@pytest.mark.filterwarnings("ignore:episode . of film is left out")
@pytest.mark.parametrize("damaged", [range(8), range(1, 8)])
def test_where_next_to_nothing_can_be_read_there_is_an_error_and_no_hang(damaged):
    film = Film(LENGTHS)
    stream = stream_of(pairs_of(film))
    film.torn = set(damaged)
    expected = r"\d of the first \d episodes cannot be read, the last one: file-\d\.mp4 is torn"
    refused(expected, drawn, stream)


@pytest.mark.parametrize(
    ("episodes", "torn", "tried", "refused"),
    [
        (8, 4, 7, False),  # half of all there are
        (8, 5, 8, True),
        (40, 8, 8, False),  # few
        (40, 9, 9, True),
        (40, 9, 18, False),  # half of those that were tried
        (40, 10, 19, True),
    ],
)
def test_how_many_episodes_may_be_damaged(episodes, torn, tried, refused):
    pairs = pairs_of(Film([10] * episodes))
    stream = stream_of(pairs)
    rows, errors = 10 * np.arange(tried), {index: LattokError("torn") for index in range(torn)}
    held = DecodedWindow(Window(0, rows), rows, np.empty(0), np.empty(0), errors)
    text = f"^{torn} of the first {tried} episodes cannot be read, the last one: torn$"
    outcome = pytest.raises(LattokError, match=text) if refused else nullcontext()
    with pytest.warns(UserWarning, match="is left out: torn") as told, outcome:
        stream._note(Draw(0, 0, 0), held)
    assert len(told) == torn


def test_processes_of_a_machine_share_its_memory_and_its_cores(monkeypatch):
    """A window of every lane is decoded ahead, of both draws, by a thread for each core."""
    pairs = pairs_of(Film(LENGTHS))
    lanes = [[Lanes(np.arange(len(pairs)), pairs.episode_of, size, 0)] for size in (20, 6)]
    made = []

    class Spy(Prefetcher):
        def __init__(self, work, jobs, room, threads):
            made.append((room, threads))
            super().__init__(work, jobs, room, threads)

    monkeypatch.setattr("lattok.samples.stream.Prefetcher", Spy)
    monkeypatch.setattr("lattok.samples.stream.cores", lambda: 12)
    for here in (1, 2, 32):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(here))
        stream = FrameStream([pairs], [BatchSampler(one, 4) for one in lanes], np.inf)
        with stream.started(0, 2, [0], 1):
            stream.take(0, 0, 1)
            assert stream._live
        assert not stream._live
    whole = LANES * (20 + 6) * SIDE * SIDE * 3
    assert made == [(whole, 8), (whole // 2, 6), (whole // 32, 1)]


def test_ahead_there_is_room_for_every_frame_of_a_draw():
    """Where all of a window would take too much: one draw of each lane, of a pair two frames."""
    frame = SIDE * SIDE * 3
    stream = stream_of(pairs_of(Film(LENGTHS)), memory=4 * LANES * frame)  # half of it is ahead
    assert stream._room() == 2 * LANES * frame


def test_frames_are_kept_where_they_fit_and_streamed_where_not(capsys):
    pairs, film = pairs_of(Film(LENGTHS)), Film(LENGTHS)
    size = pairs.reader.bytes
    assert size == sum(LENGTHS) * SIDE * SIDE * 3
    small = (size - 1) / 1e9
    assert keep_frames([pairs, pairs], 100, small, "cpu") == small * 1e9
    assert "frames" not in vars(pairs)
    assert capsys.readouterr().err.endswith(f"streamed through {100 * SIDE * SIDE * 3 / 1e6:.3g} MB of it\n")
    assert keep_frames([pairs, pairs], 100, (size + 1) / 1e9, "cpu") is None
    expected = [next(film.blocks(e, "images.a", np.arange(length))) for e, length in enumerate(LENGTHS)]
    assert np.array_equal(vars(pairs)["frames"][:, 0], np.concatenate(expected))
    assert keep_frames([pairs], None, 1, "cpu") is None  # samples without frames


def test_processes_that_cannot_share_the_lanes_are_refused():
    stream = stream_of(pairs_of(Film(LENGTHS)))
    refused("`accelerate`", lambda: stream.started(0, 9, [0], 5).__enter__())


def interrupted(stream):
    with stream.started(0, 10**6, [0], 1):
        stream.take(0, 0, 1)
        raise KeyboardInterrupt


def test_threads_end_with_the_stream():
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        interrupted(stream_of(pairs_of(Film([500] * 20))))
    assert threading.active_count() == before


def test_windows_fit_into_the_frames_that_are_given():
    pairs = pairs_of(Film(LENGTHS))
    assert window_sizes([pairs], [1.0], 2 * 43 * LANES) == [40]  # and three frames beyond each of its clips
    assert window_sizes([pairs], [1.0], 2 * 306 * LANES) == [300]
    assert window_sizes([pairs, pairs], [1.0, 3.0], 2 * 80 * LANES) == [17, 57]
    assert window_sizes([pairs], [1.0], 2 * 43 * 2 * LANES, streams=2) == [40]
    assert window_sizes([pairs], [1.0], 2 * 4 * LANES + 1) == [2]  # the further frames of 2 samples are 2
    refused("`shuffle_window`", window_sizes, [pairs], [1.0], 2 * LANES)


def test_a_window_as_large_as_the_data_shuffles_all_of_it_and_a_smaller_one_its_clips():
    """In a window of w frames no batch sees more than w / 2 samples ahead of what each lane has drawn."""
    pairs, frames = pairs_of(Film([40] * 200)), 8000
    for window in (None, frames, 10**9):
        (order,) = order_of([pairs], [1.0], window, 5)
        assert isinstance(order, Passes)
        assert order.take(0, len(pairs)).tolist() == Passes(len(pairs), 5).take(0, len(pairs)).tolist()
    (order,) = order_of([pairs], [1.0], frames - 1, 5)
    assert isinstance(order, Lanes)
    assert order.window_size == frames_in_lane(frames - 1)
    first = max(len(order.window(0, 0).samples), FIRST_WINDOW)
    later = order.window(0, first)
    runs = np.count_nonzero(np.diff(np.sort(later.samples)) > 1) + 1  # of neighbours: few clips
    assert runs <= 1 + -(-len(later.samples) // 37)


def frames_in_lane(window):
    """Samples of a window of one lane, counted up: their frames, and at most three beyond them, take half of it."""
    return max(n for n in range(1, window) if n + min(3, n) <= window / 2 / LANES)


@pytest.mark.parametrize("window", [None, 20], ids=["whole", "windows"])
@pytest.mark.parametrize("damaged", [(), (2, 5)], ids=["sound", "damaged"])
@pytest.mark.filterwarnings("ignore:episode . of film is left out")
def test_memory_and_processes_change_how_often_frames_are_decoded_and_nothing_else(window, damaged):
    """Room for one draw of each lane, for two, and for windows: the same samples, in place of torn ones as well."""
    steps, frame = 30, SIDE * SIDE * 3
    found, held = [], []
    for memory, processes in ((4 * LANES * frame, 1), (8 * LANES * frame, 2), (np.inf, 1), (np.inf, 4)):
        taken = [[] for _ in range(steps)]
        for process in range(processes):
            film = Film(LENGTHS, damaged)
            pairs = pairs_of(film)
            stream = stream_of(pairs, window=window, memory=memory)
            with stream.started(0, steps, [process], processes):
                for step in range(steps):
                    indices, frames = stream.take(step, process, processes)
                    np.testing.assert_array_equal(frames[:, 0, 0, 0, 0, 0], pairs.episode_of[indices])
                    np.testing.assert_array_equal(frames[:, 0, 0, 0, 0, 1], pairs.frame_of[indices])
                    taken[step].append(indices)
                held.append(max(len(one.window.samples) for one in stream._live.values()))
        found.append([torch.stack(parts, 1).flatten().tolist() for parts in taken])
    assert found[0] == found[1] == found[2] == found[3]
    assert held == [1, 2, 2, 3, 3, 3, 3, 3]  # of a lane, which has three a pass, in each process
    if not damaged:  # the samples are those that kept frames are gathered for
        kept = FrameStream([pairs], stream.draws)
        assert found[0] == [kept.take(step, 0, 1)[0].tolist() for step in range(steps)]


def test_windows_that_fit_are_decoded_as_a_whole():
    """Also those that are longer than their size, since they end with a clip: a cut one would be decoded twice."""
    pairs = pairs_of(Film([200] * 100))
    stream = stream_of(pairs, window=64)
    order = stream.draws[0].parts[0]
    sizes = []
    for draw in range(0, 200, 20):
        one = Draw(0, 5, draw)
        assert np.array_equal(stream._window(one).samples, order.window(5, draw).samples)
        sizes.append(len(stream._window(one).samples))
    assert max(sizes) > 64


def test_mixtures_are_read_again_in_the_same_order_and_too_little_memory_is_refused():
    films = Film([30, 20]), Film([25, 40])
    parts = [pairs_of(film) for film in films]
    batches = BatchSampler(order_of(parts, [1.0, 2.0], None, 3), 12, [1.0, 2.0])
    kept, again = FrameStream(parts, [batches]), FrameStream(parts, [batches], 14 * LANES * SIDE * SIDE * 3)
    with again.started(2, 9, [0], 1):
        for step in range(2, 9):
            rows, frames = again.take(step, 0, 1)
            assert torch.equal(rows, kept.take(step, 0, 1)[0])
            own = [parts[row >= len(parts[0])].batch([row - len(parts[0]) * (row >= len(parts[0]))]) for row in rows]
            assert torch.equal(frames, torch.cat([one.frames for one in own]))
    refused("`memory_gb`", FrameStream, parts, [batches], 2 * LANES * SIDE * SIDE * 3)


def test_a_frame_that_cannot_be_read_takes_no_other_with_it():
    """However many are asked for together."""
    film = Film([40])
    real = film.blocks

    def blocks(episode, camera, indices):
        if {7, 8, 30} & set(np.asarray(indices).tolist()):
            raise LattokError("torn")
        yield from real(episode, camera, indices)

    film.blocks = blocks
    reader = pairs_of(film).reader
    for rows in (np.arange(40), np.arange(5, 9), np.array([7]), np.array([0, 30])):
        frames, sound, errors = reader.rows(rows)
        np.testing.assert_array_equal(sound, ~np.isin(rows, [7, 8, 30]))
        np.testing.assert_array_equal(frames[sound, 0, 0, 0, 1], rows[sound])
        assert list(errors) == [0]
