"""Mixtures: proportions, draws and batches against brute force, and datasets that do not go together."""

import json
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lattok.data import action_spaces, declare, open_dataset, with_cameras
from lattok.data.alike import same_actions
from lattok.data.opening import has_actions, open_mixture, parse_source, same_cameras
from lattok.data.views import View
from lattok.image_lam.base import losses
from lattok.nn.normalize import Normalizer
from lattok.samples import ActionWindows, FramePairs, PairLabels, PolicyWindows, WindowOptions
from lattok.samples import batches as batching
from lattok.samples.augment import Augmentation, augment, draw
from lattok.samples.batches import BatchOptions, Instructions, PairBatches, PolicyBatches
from lattok.samples.frame_pairs import MixedPairs
from lattok.samples.order import BatchSampler, Passes, order_of
from lattok.samples.windows import MixedWindows
from lattok.utils.seeds import derive_seed
from tests.conftest import write_dataset
from tests.errors import refused
from tests.samples.policies import CAMERAS, Demonstrations


def passes(sizes, weights, batch, seed):
    """Batches of datasets that the shuffle window holds."""
    order = [Passes(size, derive_seed(seed, i)) if size else None for i, size in enumerate(sizes)]
    return BatchSampler(order, batch, weights)


weights = st.lists(st.floats(0.001, 100), min_size=1, max_size=9)


@settings(max_examples=80)
@given(weights, st.integers(0, 10**15), st.integers(1, 60))
@example([1.0, 0.5], 0, 60)
@example([0.1, 0.2, 0.3, 0.4], 10**14, 60)
def test_every_sample_raises_one_count_and_proportions_hold(weights, first, steps):
    mixed = passes([7] * len(weights), weights, 1, 0)
    bound = int(np.ceil(np.log2(len(weights)))) / 2
    before = mixed.counts(first)
    for n in range(first + 1, first + steps):
        counts = mixed.counts(n)
        assert sum(counts) == n
        assert sorted(now - was for now, was in zip(counts, before, strict=True)) == [0] * (len(weights) - 1) + [1]
        if n < 10**6:
            shares = np.array(weights) / sum(weights)
            assert np.abs(np.array(counts) - n * shares).max() <= bound + 1e-6
        before = counts
    assert mixed.counts(0) == [0] * len(weights)


def sequence(sizes, weights, batch, seed, samples):
    """The datasets' rows in the order of the samples, from batches of one size."""
    mixed = passes(sizes, weights, batch, seed)
    return torch.cat([mixed(step).sort().values for step in range(samples // batch)])


def test_samples_do_not_depend_on_the_batch_size():
    sizes, shares = [5, 0, 11, 3], [1.0, 9.0, 0.5, 0.25]
    one_by_one = [sequence(sizes, shares, 1, 3, 240)]
    for batch in (2, 8, 24, 120):
        same = sequence(sizes, shares, batch, 3, 240)
        expected = torch.cat([part.sort().values for part in torch.cat(one_by_one).split(batch)])
        assert torch.equal(same, expected)
    rows = one_by_one[0].numpy()
    starts = [0, 5, 5, 16, 19]
    for i, size in enumerate(sizes):
        drawn = rows[(rows >= starts[i]) & (rows < starts[i + 1])]
        for number in range(len(drawn) // max(1, size)):  # every pass has every sample once
            assert sorted(drawn[number * size : (number + 1) * size]) == list(range(starts[i], starts[i + 1]))
    count = {i: ((rows >= starts[i]) & (rows < starts[i + 1])).sum() for i in range(4)}
    assert count == {0: 137, 1: 0, 2: 69, 3: 34}  # of 240: 137.1, 68.6 and 34.3
    other = sequence(sizes, shares, 1, 4, 240).numpy()
    assert (np.searchsorted(starts, other, "right") == np.searchsorted(starts, rows, "right")).all()
    assert (other != rows).any()


def test_datasets_without_samples_leave_the_others_their_shares():
    several = passes([0, 0, 5, 3], [2.0, 3.0, 1.0, 0.5], 1, 0).counts
    for n in (0, 1, 2, 90):
        assert several(n) == [0, 0, *passes([5, 3], [1.0, 0.5], 1, 0).counts(n)]
    refused("`mix`", passes, [0, 0], [1.0, 1.0], 1, 0)


def test_every_dataset_and_every_pass_has_an_order_of_its_own():
    mixed = passes([16, 16], [0.5, 0.5], 32, 0)
    first, second, third = (mixed(step).view(2, 16) for step in range(3))
    orders = [
        *first - torch.tensor([[0], [16]]),
        *second - torch.tensor([[0], [16]]),
        *third - torch.tensor([[0], [16]]),
    ]
    assert len({tuple(order.tolist()) for order in orders}) == 6
    assert all(sorted(order.tolist()) == list(range(16)) for order in orders)


def test_processes_share_every_dataset_evenly():
    mixed = passes([50, 50], [1.0, 1.0], 16, 0)
    for step in range(20):
        whole = mixed(step)
        shares = [whole[process::4] for process in range(4)]
        assert torch.equal(torch.cat(shares).sort().values, whole.sort().values)
        assert all(int((share < 50).sum()) == 2 for share in shares)  # though every second sample is of one dataset


@pytest.mark.parametrize("text", ["data/a", "a:", ":1", "a:0", "a:-1", "a:nan", "a:inf", "a:x", ""])
def test_sources_are_path_and_weight(text):
    assert parse_source("C:/data:1/a:0.5") == ("C:/data:1/a", 0.5)
    refused("`mix`", parse_source, text)


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixed")
    return write_dataset(folder / "a", [12, 15], ("lift",)), write_dataset(folder / "b", [9, 20, 11], ("push", "wipe"))


@pytest.fixture(scope="module")
def both(roots):
    return [open_dataset(root) for root in roots]


def test_windows_are_normalised_with_their_own_datasets_statistics(both):
    windows = [ActionWindows(dataset, 4) for dataset in both]
    normalizers = [Normalizer(3).fit(part.actions) for part in windows]
    mixed = MixedWindows(windows, normalizers)
    assert len(mixed) == 27 + 40
    rows = torch.tensor([60, 3, 27, 26, 3])
    chunks, valid = mixed.batch(rows)
    for chunk, mask, row in zip(chunks, valid, rows.tolist(), strict=True):
        i, own = (1, row - 27) if row >= 27 else (0, row)
        expected = windows[i].batch(torch.tensor([own]))
        assert torch.equal(chunk, (expected.chunks[0] - normalizers[i].shift) / normalizers[i].scale)
        assert torch.equal(mask, expected.valid[0])


def test_pairs_without_actions_are_unlabelled_and_the_others_normalised(both):
    labels = PairLabels(labelled_fraction=0.5)
    parts = [
        FramePairs(both[0], 2, ["front"], labels),
        FramePairs(both[1], 3, ["front"], replace(labels, action_key=None)),
    ]
    pairs = MixedPairs(parts, [1.0, 1.0])
    assert (len(pairs), pairs.sizes, pairs.action_dim) == (23 + 31, [23, 31], 3)
    rows = torch.cat([torch.from_numpy(pairs.labelled.nonzero()[0]), torch.arange(23, 54)]).flip(0)
    batch = pairs.batch(rows)
    known = batch.labelled.numpy()
    assert known.sum() == pairs.labelled.sum() == 12
    np.testing.assert_allclose(batch.actions[known].mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(batch.actions[known].std(0, correction=0), 1, atol=1e-5)
    assert not batch.actions[~known].any()
    assert batch.text is None
    np.testing.assert_array_equal(batch.frames[0], parts[1].batch(torch.tensor([30])).frames[0])
    assert [pairs.tasks[task] for task in pairs.task_of[[0, 23, 53]]] == ["lift", "push", "wipe"]


def pairs_of(mixed, **options):
    """Pairs of one camera of datasets in memory: frame t of episode e shows 10 e + t."""
    labels = PairLabels(labelled_fraction=0.3)
    datasets = [Demonstrations(".", lengths) for lengths in ([12, 15], [9, 20, 11])]
    parts = [FramePairs(dataset, 2, ["front"], labels, **options) for dataset in datasets]
    return MixedPairs(parts, [3.0, 1.0]) if mixed else parts[1]


def drawn_by(batches, steps, shares=1):
    """The samples that each step asks its pairs for, and the batches; shares are put together again."""
    asked, gather = [], batches.pairs.batch

    def batch(indices, frames=None):
        asked.append(indices)
        return gather(indices, frames)

    def joined(parts):
        return torch.stack(parts, 1).flatten(0, 1)  # rows are dealt in turn

    with pytest.MonkeyPatch.context() as patch, batches.started(0, steps, range(shares), shares):
        patch.setattr(batches.pairs, "batch", batch)
        found = [[batches.gather(step, share, shares) for share in range(shares)] for step in range(steps)]
    rows = [joined(asked[step * shares : (step + 1) * shares]) for step in range(steps)]
    fields = ([parts for parts in zip(*step, strict=True) if parts[0] is not None and parts[0].ndim] for step in found)
    return rows, [list(map(joined, parts)) for parts in fields]


@pytest.fixture
def few_lanes(monkeypatch):
    """Two lanes, so that a small dataset is larger than a shuffle window of them all."""
    for name in ("order", "stream"):
        monkeypatch.setattr(f"lattok.samples.{name}.LANES", 2)


@pytest.mark.usefixtures("few_lanes")
@pytest.mark.parametrize(("labelled", "expected"), [(2, [2, 2]), (0, [1])])
def test_random_and_labelled_pairs_share_the_shuffle_window(monkeypatch, labelled, expected):
    given = []
    monkeypatch.setattr(batching, "order_of", lambda *args: given.append(args[5]) or order_of(*args))
    PairBatches(pairs_of(False), 6, labelled, 9, window=39)
    assert given == expected


@pytest.mark.usefixtures("few_lanes")
@pytest.mark.parametrize("kept", [True, False], ids=["kept", "decoded again"])
@pytest.mark.parametrize("windows", [False, True], ids=["whole", "windows"])
@pytest.mark.parametrize("mixed", [False, True], ids=["one", "mixed"])
def test_random_pairs_come_with_extra_ones_whose_actions_are_known(mixed, windows, kept):
    """Each pair once a pass, and each labelled one; a mixture in its proportions; shares are rows of one batch."""
    pairs, steps = pairs_of(mixed), 48
    frames = 67 if mixed else 40  # of all; one less does not hold them
    memory = None if kept else 80 * FramePairs(Demonstrations(".", [9]), 2, cameras=["front"]).reader.frame_bytes
    given = {"window": frames - windows, "memory": memory}
    words = Instructions.joined({"lift": torch.full((3, 2), 2.0), "push": torch.ones(1, 2)})
    batches = PairBatches(pairs, 6, 2, 9, words, **given)
    assert batches.samples == 8
    rows, found = drawn_by(batches, steps)
    frames, actions, labelled, texts, masks = map(torch.cat, zip(*found, strict=True))
    every = torch.cat(rows)
    for got, expected in zip((frames, actions, labelled), pairs_of(mixed).batch(every), strict=False):
        torch.testing.assert_close(got, expected)
    names = [pairs.tasks[task] for task in pairs.task_of[every]]
    for name, text, mask in zip(names, texts, masks, strict=True):
        assert (mask.tolist(), text.tolist()) == {
            "lift": ([True] * 3, [[2.0, 2.0]] * 3),
            "push": ([True, False, False], [[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]]),
        }[name]
    random, extra = (torch.cat(parts) for parts in zip(*(row.split([6, 2]) for row in rows), strict=True))
    assert set(random.tolist()) == set(range(len(pairs)))
    assert set(extra.tolist()) == set(pairs.labelled.nonzero()[0].tolist())
    for part in (random, extra):
        if mixed:
            assert float((part < pairs.sizes[0]).double().mean()) == pytest.approx(0.75, abs=0.03)
        elif not windows:
            counts = part.bincount()[part.unique()]
            assert counts.max() - counts.min() <= 1
    again, dealt = drawn_by(PairBatches(pairs, 6, 2, 9, words, **given), 8, shares=2)
    assert all(map(torch.equal, again, rows))
    assert all(
        torch.equal(one, other)
        for step, whole in zip(dealt, found, strict=False)
        for one, other in zip(step, whole, strict=True)
    )
    other, _ = drawn_by(PairBatches(pairs, 6, 2, 10, **given), 1)
    assert not torch.equal(other[0], rows[0])


@pytest.mark.parametrize("mixed", [False, True], ids=["one", "mixed"])
def test_shares_of_a_batch_weigh_labelled_pairs_as_the_whole_does(mixed):
    """However few of them a share has."""
    pairs = pairs_of(mixed)
    for step in range(6):
        whole = PairBatches(pairs, 6, 0, 9).gather(step, 0, 1)
        guess = torch.zeros_like(whole.actions)
        want = losses.action(guess, whole.actions, whole.labelled, whole.acted)
        assert want == losses.action(guess, whole.actions, whole.labelled)
        parts = [PairBatches(pairs, 6, 0, 9).gather(step, share, 6) for share in range(6)]
        each = [losses.action(part.actions * 0, part.actions, part.labelled, part.acted) for part in parts]
        torch.testing.assert_close(torch.stack(each).mean(), want)


def test_without_labelled_pairs_there_are_no_extra_ones():
    pairs = FramePairs(Demonstrations(".", [9, 8]), 2, labels=PairLabels(labelled_fraction=0.0), cameras=["front"])
    for memory in (None, 1e6):
        batches = PairBatches(pairs, 4, 2, 0, memory=memory)
        rows, found = drawn_by(batches, 3)
        assert (batches.samples, len(batches.stream.draws)) == (4, 1)
        assert [len(row) for row in rows] == [4] * 3
        assert all(len(parts) == 3 for parts in found)  # no text


def test_all_frames_of_a_pair_change_alike_and_each_process_changes_its_own():
    pairs, changes = pairs_of(False), Augmentation(brightness=0.4)
    batches = PairBatches(pairs, 4, 2, 9, changes=changes)
    stored, changed = batches.gather(3, 0, 1), batches(3, 0, 1)
    draws = draw(changes, 6, 1, 9, 3)
    expected = torch.stack([augment(stored.frames[:, k], draws, changes) for k in range(2)], 1)
    assert torch.equal(changed.frames, expected)
    assert not torch.equal(changed.frames, stored.frames)
    for share in range(3):
        assert torch.equal(batches(3, share, 3).frames, expected[share::3])
    for nothing in (None, Augmentation(crop=1.0)):
        assert torch.equal(PairBatches(pairs, 4, 2, 9, changes=nothing)(3, 0, 1).frames, stored.frames)


def test_all_frames_of_a_policys_sample_change_alike():
    samples = PolicyWindows(
        Demonstrations(".", [5, 3]), WindowOptions(4, size=4, interpolation="bilinear", gaps=(1, 3))
    )
    changes, batch = Augmentation(crop=0.5, brightness=0.4), 6
    batches = PolicyBatches(samples, BatchOptions(batch, 9, changes=changes))
    stored, changed = batches.gather(2, 0, 1), batches(2, 0, 1)
    draws = draw(changes, batch, len(CAMERAS), 9, 2)
    assert torch.equal(changed.images, augment(stored.images, draws, changes))
    later = torch.stack([augment(stored.later[:, k], draws, changes) for k in range(2)], 1)
    assert torch.equal(changed.later, later)
    assert not torch.equal(changed.images, stored.images)


def test_mixtures_are_opened_by_name(roots, tmp_path, monkeypatch):
    first, second = open_mixture([f"{roots[0]}:1", f"{roots[1]}:0.25"])
    assert (first.dataset.name, first.weight, second.dataset.name, second.weight) == ("a", 1.0, "b", 0.25)
    refused("`mix`", open_mixture, [f"{roots[0]}:1", f"{roots[0]}:2"])
    described = tmp_path / "again.json"
    described.write_text(json.dumps({"dataset": str(roots[0]), "name": "again"}))
    monkeypatch.setenv("LATTOK_DATA", str(roots[0].parent))
    assert open_mixture([f"{roots[0]}:1", f"{described}:2"])[1].dataset.name == "again"


def test_datasets_whose_actions_differ_are_refused_with_the_way_out(both, tmp_path, monkeypatch):
    assert same_actions(both, "action") == ("x", "y", "z")
    refused("`mix`", lambda: same_actions([both[0], Renamed("c", "observation.state", both[1])], "action"))
    other = Renamed("d", "action", both[1], ("x", "y", "gripper"))
    refused("got x, y, gripper in d. In description files, say what they", same_actions, [both[0], other], "action")
    plane = [{"part": "position", "axes": ["x", "y"]}, {"part": "gripper", "convention": "open_is_1"}]
    closed = [plane[0], {"part": "gripper", "convention": "closed_is_1"}]
    spoken = [declare(both[0], {"action": plane}), declare(other, {"action": plane})]
    assert same_actions(spoken, "action") == ("x", "y", "z")
    refused(r"of another action space", lambda: same_actions([spoken[0], declare(other, {"action": closed})], "action"))
    monkeypatch.setenv("LATTOK_DATA", str(both[1].root.parent))
    file = tmp_path / "converted.json"
    views = {"action_space": {"action": closed}, "actions": {"as": plane}, "cameras": {"top": "wrist"}}
    file.write_text(json.dumps({"dataset": str(both[1].root), **views}))
    converted = open_dataset(file)
    assert action_spaces(converted)["action"] == action_spaces(spoken[0])["action"]
    assert converted.cameras == ("observation.images.top",)
    assert same_actions([spoken[0], converted], "action") == ("x", "y", "z")
    for wrong in ({"as": "bridge", "to": 1}, "bridge", {"as": plane, "drop": "gripper"}, {"as": plane, "key": ["a"]}):
        file.write_text(json.dumps({"dataset": str(both[1].root), **views, "actions": wrong}))
        refused("`actions`", open_dataset, file)


def test_every_two_datasets_must_agree_whatever_their_order(both):
    parts = [{"part": "position", "axes": ["x", "y"]}, {"part": "gripper", "convention": "open_is_1"}]
    closed = [parts[0], {"part": "gripper", "convention": "closed_is_1"}]
    bare = Renamed("bare", "action", both[0])  # neither names nor a space
    spoken = declare(Renamed("s", "action", both[0]), {"action": parts})
    other = declare(Renamed("o", "action", both[0]), {"action": closed})
    for order in permutations([bare, spoken, other]):
        refused("`mix`", same_actions, order, "action")
    named, swapped = (Renamed(name, "action", both[0], tuple(name)) for name in ("xyz", "yxz"))
    for order in permutations([bare, named, swapped]):
        refused(r"expected the actions of (xyz \(x, y, z\)|yxz \(y, x, z\)) in every", same_actions, order, "action")
    assert same_actions([bare, spoken, declare(named, {"action": parts})], "action") == ("0", "1", "2")


class Renamed(View):
    """A dataset with another name, and one of its columns as `action`."""

    def __init__(self, name, key, dataset, names=None):
        super().__init__(dataset)
        self.name = name
        self.features = {"action": dataset.features[key]._replace(names=names)}


def test_cameras_by_name_or_the_only_one(both):
    assert same_cameras(both[1], ("observation.images.wrist", "front")) == both[1].cameras[::-1]
    alone = with_cameras(both[1], ["wrist"])
    assert same_cameras(alone, ("front",)) == ("observation.images.wrist",)
    refused("`cameras`", same_cameras, alone, ("front", "wrist"))


def test_cameras_under_other_names_show_the_same(both):
    view = with_cameras(both[0], {"top": "wrist", "side": "front"})
    assert view.cameras == ("observation.images.top", "observation.images.side")
    np.testing.assert_array_equal(view.frames(1), both[0].frames(1)[:, ::-1])
    np.testing.assert_array_equal(view.frames(1, ["side"], [3, 2]), both[0].frames(1, ["front"], [3, 2]))
    assert "observation.images.wrist" not in view.features
    assert with_cameras(both[0], {"arm.left-2": "wrist"}).cameras == ("observation.images.arm.left-2",)
    for wrong in ("", "a b", "a/b", ".", "left.", "observation.images."):
        refused("`cameras`", with_cameras, both[0], {wrong: "wrist"})
    refused("`cameras`", with_cameras, both[0], {"top": "wrist", "observation.images.top": "front"})
    for wrong in ("wrist", {"top": 3}, ["back"]):
        refused("`cameras`", with_cameras, both[0], wrong)


def test_a_video_has_no_actions_and_other_actions_are_no_video(both):
    assert has_actions(both[0], "action")
    refused("`action_key`", has_actions, both[0], "actions")
    video = Renamed("e", "action", both[0])
    video.features = {}
    assert not has_actions(video, "action")
