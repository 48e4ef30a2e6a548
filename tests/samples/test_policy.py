"""Samples of policies against loops over the episodes: observations, actions, latent actions of columns and batches."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lattok.data import resize_pixels
from lattok.labels import LatentSpec
from lattok.nn.normalize import Normalizer
from lattok.samples.policy import MixedPolicyWindows, PolicyWindows, WindowOptions
from lattok.utils.checks import LattokError
from tests.errors import refused
from tests.samples.policies import CAMERAS, Demonstrations, StepTokenizer, WholeTokenizer

STEPS = LatentSpec("steps", 4, 2, 50, 1, 4, 2)
CHUNK = LatentSpec("chunk", 4, 1, 9, 1, 3, horizon=4, per_step=True, prefix="tok")
FEW = LatentSpec("chunk", 3, 1, 9, horizon=4, prefix="few")


def windows(dataset, horizon=4, **options):
    return PolicyWindows(dataset, WindowOptions(horizon, **{"size": 4, "interpolation": "bilinear", **options}))


def places(dataset):
    return [(e.index, t) for e in dataset.episodes for t in range(e.length)]


@settings(max_examples=30)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(1, 6))
def test_samples_against_a_loop(lengths, horizon):
    dataset = Demonstrations(".", lengths)
    samples = windows(dataset, horizon)
    batch = samples.batch(torch.arange(len(samples)))
    assert len(samples) == sum(lengths)
    assert batch.images.shape == (sum(lengths), 2, 4, 4, 3)
    assert batch.latent is None
    for i, (e, t) in enumerate(places(dataset)):
        values, last = dataset.values[e], lengths[e] - 1
        assert (samples.episode_of[i], samples.frame_of[i]) == (e, t)
        assert batch.images[i, :, 0, 0, 0].tolist() == [10 * e + t, 100 + 10 * e + t]
        assert batch.texts[i] == samples.tasks[samples.task_of[i]] == ("lift", "push")[e % 2]
        np.testing.assert_array_equal(batch.proprio[i], values["observation.state"][t])
        for h in range(horizon):
            np.testing.assert_array_equal(batch.actions[i, h], values["action"][min(t + h, last)])
            assert bool(batch.valid[i, h]) == (t + h <= last)


def test_parts_of_labels_that_nothing_learns_from_are_not_read():
    dataset = Demonstrations(".", [5, 3, 4])
    samples, whole = windows(dataset, latent=STEPS, parts=("codes",)), windows(dataset, latent=STEPS)
    batch, expected = (each.batch(torch.arange(12)).latent for each in (samples, whole))
    assert batch.embedding is None
    assert expected.embedding is not None
    assert torch.equal(batch.codes, expected.codes)
    assert torch.equal(batch.valid, expected.valid)
    assert samples.labels_hash not in (None, whole.labels_hash)


def test_actions_of_other_episodes_are_not_known():
    dataset = Demonstrations(".", [5, 3, 4])
    samples, whole = windows(dataset, latent=STEPS, action_episodes="0,2"), windows(dataset, latent=STEPS)
    batch, expected = (each.batch(torch.arange(12)) for each in (samples, whole))
    known = torch.tensor([e != 1 for e, _ in places(dataset)])
    assert torch.equal(samples.acted, known)
    assert torch.equal(batch.valid, expected.valid & known[:, None])
    for part, same in zip(batch.latent[:3], expected.latent[:3], strict=True):
        assert torch.equal(part, same)  # labels are known everywhere
    np.testing.assert_array_equal(samples.known_actions, np.concatenate([dataset.values[e]["action"] for e in (0, 2)]))
    made = windows(dataset, tokenizer=WholeTokenizer(), action_episodes=[0]).batch(torch.arange(12)).latent
    assert torch.equal(made.valid.any(1), torch.tensor([e == 0 for e, _ in places(dataset)]))  # from actions
    refused("`action_episodes`", windows, dataset, episodes=[0], action_episodes="1")
    samples.check_share(0.5)
    whole.check_share(0.0)
    refused(r"`acted_share` was given, but all actions are known\. Name those episodes", whole.check_share, 0.5)


def test_a_batch_may_look_again_later():
    dataset = Demonstrations(".", [5, 3])
    samples = windows(dataset, gaps=(1, 3))
    batch = samples.batch(torch.arange(8))
    assert batch.later.shape == (8, 2, 2, 4, 4, 3)
    for i, (e, t) in enumerate(places(dataset)):
        for f, gap in enumerate((1, 3)):
            seen = min(t + gap, dataset.episodes[e].length - 1)
            assert batch.later[i, f, :, 0, 0, 0].tolist() == [10 * e + seen, 100 + 10 * e + seen]
            assert bool(samples.reach[i, f]) == (t + gap < dataset.episodes[e].length)
    assert windows(dataset).batch(torch.arange(8)).later is None


def test_a_batch_may_look_back_and_feel_what_was_then():
    dataset = Demonstrations(".", [5, 3])
    samples = windows(dataset, gaps=(-2, 1), states_around=True)
    batch = samples.batch(torch.arange(8))
    states = samples.states.tolist()
    for i, (e, t) in enumerate(places(dataset)):
        first, last = i - t, i - t + dataset.episodes[e].length - 1
        rows = [max(i - 2, first), i, min(i + 1, last)]
        seen = [
            int(batch.later[i, 0, 0, 0, 0, 0]),
            int(batch.images[i, 0, 0, 0, 0]),
            int(batch.later[i, 1, 0, 0, 0, 0]),
        ]
        assert seen == [10 * e + row - first for row in rows]
        assert batch.proprio[i].tolist() == [number for row in rows for number in states[row]]


@settings(max_examples=30)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=4).filter(lambda lengths: max(lengths) > 3))
def test_labels_of_every_step_against_a_loop(lengths):
    dataset = Demonstrations(".", lengths)
    dataset.values[0]["latent.valid"][:1] = False  # and what follows may be valid
    samples = windows(dataset, latent=STEPS)
    target = samples.batch(torch.arange(len(samples))).latent
    assert target.codes.shape == (len(samples), 4, 2)
    assert target.embedding.shape == (len(samples), 4, 1, 4)
    for i, (e, t) in enumerate(places(dataset)):
        for h in range(4):
            inside = t + h < lengths[e]
            assert bool(target.valid[i, h]) == (inside and bool(dataset.values[e]["latent.valid"][t + h]))
            if inside:
                np.testing.assert_array_equal(target.codes[i, h], dataset.values[e]["latent.codes"][t + h])
                np.testing.assert_array_equal(target.embedding[i, h, 0], dataset.values[e]["latent.embedding"][t + h])
    assert samples.labelled.tolist() == target.valid.any(1).tolist()


def test_tokens_of_the_chunk_are_those_of_its_first_frame():
    dataset = Demonstrations(".", [6, 5])
    samples = windows(dataset, latent=CHUNK)
    target = samples.batch(torch.arange(11)).latent
    assert target.codes.shape == (11, 4, 1)
    assert target.embedding.shape == (11, 4, 1, 3)
    for i, (e, t) in enumerate(places(dataset)):
        np.testing.assert_array_equal(target.codes[i, :, 0], dataset.values[e]["tok.codes"][t])
        np.testing.assert_array_equal(target.embedding[i].flatten(), dataset.values[e]["tok.embedding"][t])
        # one token for each step: only steps of the episode supervise; episode 1 has no labels
        assert target.valid[i].tolist() == [e == 0 and t + h < 6 for h in range(4)]


def test_tokens_that_are_not_of_one_step_supervise_to_the_end():
    dataset = Demonstrations(".", [6])
    target = windows(dataset, latent=FEW).batch(torch.tensor([5, 0])).latent
    assert target.codes.shape == (2, 3, 1)
    assert target.codes[0, :, 0].tolist() == dataset.values[0]["few.codes"][5].tolist()
    assert target.embedding is None
    assert target.valid.all()


@pytest.mark.parametrize("kind", [StepTokenizer, WholeTokenizer])
def test_a_tokenizer_labels_whole_batches(kind):
    dataset, tokenizer = Demonstrations(".", [6, 5]), kind()
    samples = windows(dataset, tokenizer=tokenizer)
    tokenizer.calls = 0
    batch = samples.batch(torch.tensor([3, 10, 0]))
    assert tokenizer.calls == 1
    expected = kind().latent_actions(batch.actions)
    assert torch.equal(batch.latent.codes[..., 0], expected.codes)
    if kind is StepTokenizer:
        assert samples.latent == LatentSpec("chunk", 4, 1, 8, 1, 3, horizon=4, per_step=True)
        assert torch.equal(batch.latent.embedding[:, :, 0], expected.latents)
        assert torch.equal(batch.latent.valid, batch.valid)
    else:
        assert samples.latent == LatentSpec("chunk", 3, 1, 5, horizon=4)
        assert batch.latent.embedding is None
        assert batch.latent.valid.shape == (3, 3)
        assert batch.latent.valid.all()


def test_names_cameras_and_sizes():
    dataset = Demonstrations(".", [3, 3, 3])
    samples = windows(dataset, episodes=[1, 2])
    assert samples.cameras == CAMERAS
    assert samples.camera_sizes == ((6, 8), (4, 4))
    assert samples.action_names == ("x", "grip")
    assert samples.state_names == ("a", "b", "c")
    assert samples.tasks == ("push", "lift")
    assert samples.actions.shape == (6, 2)
    assert samples.states.shape == (6, 3)
    one = windows(dataset, cameras=["wrist"], state_key=None)
    assert (one.cameras, one.camera_sizes) == (CAMERAS[1:], ((4, 4),))
    assert one.states is None
    assert one.batch(torch.tensor([0])).proprio is None


def test_a_tokenizer_whose_codes_are_not_in_its_codebook_is_refused():
    class Beyond(StepTokenizer):
        def latent_actions(self, chunks, valid=None):
            found = super().latent_actions(chunks, valid)
            return replace(found, codes=found.codes + self.vocab_size)

    samples = windows(Demonstrations(".", [5, 3]), tokenizer=Beyond())
    refused("`tokenizer`: expected one whose codes lie from 0 to 7, got", lambda: samples.batch(torch.arange(4)))


def test_pixels_are_the_resized_frames(sample):
    samples = PolicyWindows(sample, WindowOptions(8, size=32, episodes=[0], cameras=["corner2"]))
    frames = torch.from_numpy(sample.frames(0, ["corner2"]))
    assert torch.equal(torch.from_numpy(samples.frames), resize_pixels(frames, 32, "bicubic"))
    assert samples.camera_sizes == (tuple(frames.shape[2:4]),)


def test_every_frame_has_the_text_of_its_sub_task():
    dataset = Demonstrations(".", [3, 2, 2])
    texts = [[" reach ", "", "lift"], None, ["", "go "]]
    dataset.subtasks = lambda index: texts[index]
    samples = windows(dataset, subtasks=True)
    expected = ["reach", "", "lift", "", "", "", "go"]
    assert samples.batch(torch.tensor([6, 0, 3])).subtasks == ["go", "reach", ""]
    assert samples.has_subtask.tolist() == [text != "" for text in expected]
    assert windows(dataset).batch(torch.arange(7)).subtasks is None  # not asked for
    lacking = windows(dataset, subtasks=True, episodes=[1])
    assert (lacking.has_subtask, lacking.batch(torch.arange(2)).subtasks) == (None, None)


def test_the_hash_of_labels_is_that_of_all_that_was_read():
    dataset = Demonstrations(".", [5, 4])
    whole = windows(dataset, latent=STEPS).labels_hash
    digest = hashlib.sha256()
    for part, kind in (("valid", bool), ("codes", np.int64), ("embedding", np.float32)):
        digest.update(b"".join(np.asarray(each[f"latent.{part}"], kind).tobytes() for each in dataset.values))
    assert whole == digest.hexdigest()
    assert windows(dataset).labels_hash is None
    assert windows(dataset, tokenizer=StepTokenizer()).labels_hash is None
    dataset.values[1]["latent.codes"][0, 1] ^= 1
    assert windows(dataset, latent=STEPS).labels_hash != whole


def test_labels_of_chunks_are_those_of_their_frames_and_of_batches_those_of_known_actions():
    dataset = Demonstrations(".", [6, 5, 2])
    of_first = [e != 1 for e, _ in places(dataset)]
    assert windows(dataset, latent=CHUNK).labelled.tolist() == of_first  # episode 1 has no labels
    assert (
        windows(dataset, tokenizer=StepTokenizer(), action_episodes=[0]).labelled.tolist() == [True] * 6 + [False] * 7
    )
    assert windows(dataset).labelled is None


def test_some_samples_are_decoded_without_the_others():
    dataset = Demonstrations(".", [5, 3])
    samples, rows = windows(dataset, gaps=(2,)), torch.tensor([6, 0, 0, 4])
    frames, expected = samples.decode(rows), samples.batch(rows)
    assert torch.equal(frames[:, 0], expected.images)
    assert torch.equal(frames[:, 1:], expected.later)
    assert windows(dataset, cameras=[]).batch(rows).images.shape == (4, 0, 4, 4, 3)

    def torn(index, cameras=None, indices=None, transform=None):
        raise LattokError("file is torn")

    samples = windows(dataset, gaps=(2,))
    _ = samples.reader.shape
    dataset.frames = torn
    refused("file is torn", samples.decode, rows)


def test_a_mixture_is_normalised_by_the_maps_of_each_dataset():
    """Row by row what its own dataset gives; a robot without a dimension, or sub-tasks, does not hide the others'."""
    datasets = [Demonstrations(".", [5, 3]), Demonstrations(".", [4])]
    datasets[1].absent = {"action": (1,)}
    datasets[0].subtasks = lambda index: ["go"] * 2 + [""] * (datasets[0].episodes[index].length - 2)
    options = {"latent": STEPS, "gaps": (2,), "subtasks": True, "action_episodes": [0]}
    parts = [windows(dataset, **options) for dataset in datasets]
    maps = [{"action": Normalizer(2).fit(part.actions), "proprio": Normalizer(3).fit(part.states)} for part in parts]
    mixed = MixedPolicyWindows(parts, [1.0, 2.0], maps)
    assert (len(mixed), mixed.sizes, mixed.weights) == (12, [8, 4], [1.0, 2.0])
    for name in ("acted", "reach", "labelled"):
        assert torch.equal(getattr(mixed, name), torch.cat([getattr(part, name) for part in parts]))
    assert mixed.has_subtask.tolist() == [*parts[0].has_subtask.tolist(), *[False] * 4]
    rows = torch.tensor([9, 2, 0, 11, 9])
    batch = mixed.batch(rows)
    for i, row in enumerate(rows.tolist()):
        part, own = divmod(row, 8)
        one = parts[part].batch(torch.tensor([own]))
        for values, raw, key in ((batch.actions, one.actions, "action"), (batch.proprio, one.proprio, "proprio")):
            torch.testing.assert_close(values[i], (raw[0] - maps[part][key].shift) / maps[part][key].scale)
        for name in ("images", "later", "valid"):
            assert torch.equal(getattr(batch, name)[i], getattr(one, name)[0])
        assert torch.equal(batch.latent.codes[i], one.latent.codes[0])
        assert batch.texts[i] == one.texts[0]
        assert batch.subtasks[i] == (one.subtasks or [""])[0]
        assert batch.known[i].tolist() == [True, part == 0]
    assert parts[1].batch(torch.tensor([0, 1])).known.tolist() == [[True, False]] * 2
    alike = MixedPolicyWindows(parts[:1] * 2, [1.0, 1.0], maps[:1] * 2).batch(rows)
    assert alike.known is None  # all robots have all
    plain = [windows(dataset, state_key=None) for dataset in (Demonstrations(".", [3]), Demonstrations(".", [2]))]
    bare = MixedPolicyWindows(plain, [1.0, 1.0], [{"action": maps[0]["action"]}] * 2)
    assert (bare.has_subtask, bare.labelled) == (None, None)
    assert [getattr(bare.batch(torch.arange(5)), name) for name in ("proprio", "subtasks", "latent")] == [None] * 3


def test_targets_of_another_column():
    dataset = Demonstrations(".", [5, 4])
    samples = windows(dataset, extra_keys=["expert_action"])
    found, own = samples.targets("expert_action"), samples.targets("action")
    assert torch.equal(own, samples.batch(torch.arange(9)).actions)
    for i, (e, t) in enumerate(places(dataset)):
        values = dataset.values[e]["expert_action"]
        for h in range(4):
            np.testing.assert_array_equal(found[i, h], values[min(t + h, len(values) - 1)])
    refused("`key`", samples.targets, "other")


@pytest.mark.parametrize("key", ["action", "observation.state", "expert_action"])
def test_a_number_that_is_not_finite_names_its_place(key):
    dataset = Demonstrations(".", [5, 4])
    dataset.values[1][key][2, 1] = np.nan
    refused(f"`{key}`: expected finite numbers, got nan in episode 1", windows, dataset, extra_keys=["expert_action"])
    windows(dataset, extra_keys=["expert_action"], episodes=[0])


def change(dataset, **values):
    for name, value in values.items():
        setattr(dataset, name, value)


def wider(dataset):
    for part in (dataset.features, *dataset.values):
        part["expert_action"] = part["observation.state"]


@pytest.mark.parametrize(
    ("alter", "options", "text"),
    [
        (lambda d: change(d, cameras=()), {}, "dataset `memory` has no cameras"),
        (lambda d: d.features.pop("observation.state"), {}, "`state_key`"),
        (wider, {"extra_keys": ["expert_action"]}, "`expert_action`"),
        (lambda d: None, {"action_key": "actions"}, "`action_key`"),
        (lambda d: None, {"cameras": ["side"]}, "`cameras`"),
        (lambda d: None, {"horizon": 5, "latent": STEPS}, "`latent`"),
        (lambda d: None, {"horizon": 5, "tokenizer": StepTokenizer()}, "`tokenizer`"),
        (lambda d: None, {"latent": CHUNK, "tokenizer": StepTokenizer()}, "Give one of them"),
        (lambda d: None, {"latent": replace(CHUNK, prefix="latent")}, "`latent.codes`"),
        (lambda d: d.values[0]["tok.codes"].fill(-1), {"latent": CHUNK}, "`tok.codes`"),
        (lambda d: d.values[0]["latent.codes"].fill(50), {"latent": STEPS}, "`latent.codes`"),
        (lambda d: d.values[0]["latent.embedding"].fill(np.inf), {"latent": STEPS}, "`latent.embedding`"),
        (lambda d: None, {"latent": CHUNK, "episodes": [1]}, "`tok.valid`"),
    ],
)
def test_what_does_not_fit_is_one_line(alter, options, text):
    dataset = Demonstrations(".", [5, 4])
    alter(dataset)
    refused(text, windows, dataset, **options)


def test_a_tokenizer_of_other_actions_is_refused():
    tokenizer = StepTokenizer()
    tokenizer.action_dim = 7
    refused("`tokenizer`", lambda: windows(Demonstrations(".", [5]), tokenizer=tokenizer))
