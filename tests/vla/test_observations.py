import pytest
import torch

import lattok
from lattok.types import LatentTarget
from lattok.utils.checks import LattokError
from lattok.utils.files import read_json
from lattok.vla.observations import ActionQueues
from tests.vla.fakes import CAMERAS, batch, config, observation, policy

FRONT, WRIST = CAMERAS


def change(**changes):
    return lambda seen: {key: value for key, value in {**seen, **changes}.items() if value is not None}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            change(**{WRIST: None}),
            r"`batch`: expected `observation.images.wrist`, one of the 2 cameras \(front, wrist\)",
        ),
        (change(**{FRONT: torch.rand(4, 3, 16, 16)}), "expected images of 24x32, as in training, got 16x16"),
        (change(**{FRONT: 255 * torch.rand(4, 3, 24, 32)}), "expected values from 0 to 1"),
        (change(**{FRONT: torch.rand(3, 24, 32)}), r"`observation.images.front`: expected shape \[B, 3, H, W\]"),
        (change(**{FRONT: torch.zeros(4, 3, 24, 32, dtype=torch.uint8)}), r"or uint8 \[B, H, W, 3\]"),
        (
            change(**{FRONT: torch.rand(3, 3, 24, 32)}),
            "`observation.images.wrist`: expected 3 samples, as the other cameras have, got 4",
        ),
        (
            change(task="open the drawer"),
            "`task`: expected a list of instructions, one for each sample, got 'open the drawer'",
        ),
        (change(task=["a", "b"]), "`task`: expected 4 instructions, one for each sample, got 2"),
        (change(task=None), "`task`: expected a list of instructions, one for each sample, got None"),
        (change(task=["a", "b", "c", 4]), "`task`: expected a list of instructions"),
        (change(**{"observation.state": None}), "`batch`: expected `observation.state`, the robot's state"),
        (
            change(**{"observation.state": torch.zeros(4, 3)}),
            r"`observation.state`: expected 5 numbers \(a, .*\), got 3",
        ),
        (change(**{"observation.state": torch.zeros(5)}), r"`observation.state`: expected shape \[B, s\]"),
        (
            change(**{"observation.state": torch.full((4, 5), torch.nan)}),
            "`observation.state`: expected finite numbers, got nan in sample 0, dimension a",
        ),
        (change(**{"observation.state": [0.0] * 5}), "`observation.state`: expected a torch tensor, got list"),
        (lambda seen: "drawer", "`batch`: expected a mapping with LeRobot's keys, or a PolicyBatch, got str"),
    ],
)
def test_an_observation_that_does_not_fit_is_one_line(changed, message: str):
    model = policy()
    with pytest.raises(LattokError, match=message):
        model.predict_chunk(changed(observation(model.config)))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"images": torch.zeros(4, 1, 16, 16, 3, dtype=torch.uint8)}, "`images`: expected 2 cameras, got 1"),
        ({"images": torch.zeros(4, 2, 32, 32, 3, dtype=torch.uint8)}, "`images`: expected 16x16 pixels"),
        ({"images": torch.zeros(4, 2, 16, 16, 3)}, "`images`: expected uint8, got torch.float32"),
        ({"proprio": None}, "`proprio`: expected 5 numbers, as in training, got none"),
        ({"actions": torch.zeros(4, 5, 3)}, r"`actions`: expected 4 steps \(horizon\), got 5"),
        ({"actions": torch.zeros(4, 4, 2)}, "`actions`: expected 3 dimensions, got 2"),
        ({"texts": "open"}, "`texts`: expected a list of instructions"),
        ({"proprio": torch.zeros(3, 5)}, "`proprio`: expected 4 samples, as there are images, got 3"),
        ({"actions": torch.zeros(3, 4, 3)}, "`actions`: expected 4 samples, as there are images, got 3"),
        ({"latent": None}, "`latent`: expected latent actions, which la_direct learns from, got none"),
    ],
)
def test_a_batch_that_does_not_fit_is_one_line(changed: dict, message: str):
    model = policy("la_direct")
    with pytest.raises(LattokError, match=message):
        model(batch(model.config)._replace(**changed))


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (torch.zeros(4, 3, 2, dtype=torch.long), "`states`: expected 3 steps of 2 states"),  # H
        (torch.zeros(4, 4, 3, dtype=torch.long), "`codes`: expected 2 codes in each step, got 3"),  # P
        (torch.full((4, 4, 2), 7), "`codes`: expected 0 to 6, got 7 to 7 among valid codes"),  # K
    ],
)
def test_labels_of_another_shape_are_one_line(codes: torch.Tensor, message: str):
    model = policy("la_direct")
    target = LatentTarget(codes, None, torch.ones(codes.shape[:2], dtype=torch.bool))
    with pytest.raises(LattokError, match=message):
        model(batch(model.config)._replace(latent=target))


def test_a_policy_without_proprio_needs_none_and_a_uint8_camera_will_do():
    model = policy(proprio_dim=0)
    seen = observation(model.config)
    seen[FRONT] = (seen[FRONT] * 255).round().to(torch.uint8).movedim(1, -1)
    del seen["observation.state"]
    assert model.predict_chunk(seen).shape == (4, 4, 3)


def test_arrays_and_single_observations_will_do():
    model = policy()
    seen = observation(model.config)
    plan = model.predict_chunk(seen)
    arrays = {key: value.numpy() if isinstance(value, torch.Tensor) else value for key, value in seen.items()}
    torch.testing.assert_close(model.predict_chunk(arrays), plan, rtol=0, atol=0)
    for several in (seen, arrays):
        single = {key: value[2] for key, value in several.items()}
        torch.testing.assert_close(model.predict_chunk(single), plan[2])
        model.reset()
        for step in range(2):
            torch.testing.assert_close(model.select_action(single), plan[2, step])
    del single["task"]
    with pytest.raises(
        LattokError, match="`task`: expected the instruction of this single observation, a text, got none"
    ):
        model.predict_chunk(single)


def test_a_policy_carries_out_as_many_actions_as_it_says():
    model = policy(n_action_steps=3)
    assert model.queues.n_action_steps == 3
    assert policy().queues.n_action_steps == model.config.horizon
    with pytest.raises(LattokError, match="`n_action_steps`: expected at most 4, got 5"):
        config(n_action_steps=5)
    with pytest.raises(LattokError, match="`fps`: expected a number greater than 0, got 0"):
        config(fps=0)


def test_how_a_trained_policy_plans_is_saved_with_it(tmp_path):
    model, every = policy(), policy(n_action_steps=4)
    for made, steps in ((model, None), (every, 4)):  # unchanged: as it was written before
        made.save_pretrained(tmp_path / "first")
        assert read_json(tmp_path / "first" / "config.json")["n_action_steps"] == steps
    model.queues.n_action_steps = 2
    loaded = lattok.load(model.save_pretrained(tmp_path / "second"))
    assert (loaded.queues.n_action_steps, loaded.config.n_action_steps) == (2, 2)
    loaded.queues.n_action_steps = 4
    assert lattok.load(loaded.save_pretrained(tmp_path / "third")).config == policy().config


def test_other_columns_of_a_dataset_are_left_alone():
    model = policy()
    seen = observation(model.config)
    other = seen | {"observation.images.left": torch.rand(4, 3, 8, 8), "timestamp": torch.rand(4)}
    torch.testing.assert_close(model.predict_chunk(other), model.predict_chunk(seen))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cameras": "front"}, r"`cameras`: expected a value of type tuple\[str, ...\], got 'front'"),
        ({"camera_sizes": ((8, 8),)}, "`camera_sizes`: expected 2 sizes, one for each camera"),
        ({"prompt": "{instruction}"}, "`prompt`: expected a text with {task} and {horizon} at most"),
        ({"prompt": "{horizon:9000000000}"}, "`prompt`: expected a text with {task} and {horizon} at most"),
        ({"prompt": "{task:>9000000000}"}, "`prompt`: expected a text with {task} and {horizon} at most"),
        ({"prompt": "{task.foo}"}, "`prompt`: expected a text with {task} and {horizon} at most"),
        ({"camera_sizes": (24, 32)}, r"`camera_sizes`: expected a pair \(H, W\) for each camera"),
        ({"head_layers": 5}, "`head_layers`: expected indices of hidden states, got 5"),
        ({"head_layers": (2, 2)}, "`head_layers`: expected different hidden states in ascending order"),
        ({"backbone_lora_dropout": 1.5}, r"`backbone_lora_dropout`: expected a number in \[0, 1\), got 1.5"),
        ({"backbone_train": "frozen"}, "`backbone_train`: expected one of full, got 'frozen'"),
        ({"backbone_train": "lora"}, "`backbone_train`: expected one of full, got 'lora'"),
        ({"head_heads": 5}, "`head_heads`: expected a divisor of head_dim 32"),
        ({"action_dim": 10**9}, "`action_dim`: expected at most 65,536 numbers in a chunk and in proprio"),
        ({"proprio_dim": 10**9}, "numbers in a chunk and in proprio, got 4 steps of 3 dimensions, proprio_dim 1000000"),
        ({"proprio_dim": "many"}, "`proprio_dim`: expected a whole number"),
        ({"loss_reduction": "none"}, "`loss_reduction`: expected one of mean, sum, got 'none'"),
        ({"normalize": "mean_std", "normalize_clip": True}, "`normalize_clip`: expected False unless normalize is"),
        ({"normalize_exceptions": ("9=identity",)}, r"NAME=KIND with a dimension among 0\.\.2, got '9=identity'"),
        ({"action_loss": "huber"}, "`action_loss`: expected one of l2, l1"),
        (
            {"strategy": "la_direct", "latent": {"codebook_size": 0}},
            "`latent`: expected labels with codes and their nu",
        ),
        (
            {"strategy": "la_align", "latent": {"latent_dim": 0}},
            "`latent`: expected labels with vectors and their width",
        ),
        (
            {"strategy": "la_direct", "latent": {"steps": 5}},
            "`latent`: expected labels for chunks of 4 steps, got labels of",
        ),
        (
            {"strategy": "la_tok", "latent": {"horizon": 8}},
            "for chunks of 4 steps, got labels of 4 steps, of chunks of 8",
        ),
        (
            {"strategy": "la_tok", "latent": {"target": "steps"}},
            "`latent`: expected labels of chunk, for la_tok, got labels of",
        ),
        ({"action_names": ("x",) * 9}, "`action_names`: expected 3 names, one for each dimension, or none, got 9"),
        ({"proprio_names": ("x",)}, "`proprio_names`: expected 5 names, one for each dimension, or none, got 1"),
        ({"backbone_lora_rank": 0}, "`backbone_lora_rank`: expected a whole number of at least 1"),
        (
            {"backbone": "o/n", "backbone_train": "half"},
            "`backbone_train`: expected one of lora, full, all_but_vision,",
        ),
    ],
)
def test_a_configuration_that_makes_no_sense_is_one_line(changes: dict, message: str):
    with pytest.raises(LattokError, match=message):
        config(**changes)


def test_layers_that_the_backbone_has_not_are_one_line():
    with pytest.raises(LattokError, match="`head_layers`: expected hidden states from 0 to 3 of this backbone"):
        policy(head_layers=(2, 4))
    with pytest.raises(LattokError, match="`head_layers`: expected the last one, 3, among them"):
        policy(head_layers=(1, 2))


def test_numbers_and_padding_of_batches_are_checked():
    model = policy(camera_sizes=((16, 16),) * 2)
    data = batch(model.config)
    with pytest.raises(LattokError, match="`proprio`: expected finite numbers, got nan in sample 0"):
        model.predict_chunk(data._replace(proprio=torch.full_like(data.proprio, torch.nan)))
    found: dict = {key: data.images[:, i] for i, key in enumerate(CAMERAS)}
    found |= {"observation.state": data.proprio, "action": data.actions, "task": data.texts}
    with pytest.raises(LattokError, match="`action_is_pad`: expected bool"):
        model(found | {"action_is_pad": (~data.valid).int()})
    for shape in ((len(data.valid), 1), (len(data.valid),)):  # which would be broadcast
        with pytest.raises(LattokError, match=r"`action_is_pad`: expected bool \[\d+, \d+\], got torch.bool \["):
            model(found | {"action_is_pad": torch.zeros(shape, dtype=torch.bool)})
    torch.testing.assert_close(
        model(found | {"action_is_pad": (~data.valid).numpy()})["action"],
        model(found | {"action_is_pad": ~data.valid})["action"],
    )
    for name, wrong in {"valid": data.valid[:1], "known": torch.ones(len(data.valid), 1, dtype=torch.bool)}.items():
        with pytest.raises(LattokError, match=f"`{name}`: expected bool"):
            model(data._replace(**{name: wrong}))


class Planner:
    """Chunks whose action h of the n-th plan of sample "x" is [x, n, h]; remembers how many were asked for."""

    def __init__(self):
        self.sizes: list[int] = []

    def __call__(self, seen) -> torch.Tensor:
        self.sizes.append(len(seen["task"]))
        assert len(seen["state"]) == len(seen["task"])
        rows = [[[float(text), len(self.sizes), h] for h in range(5)] for text in seen["task"]]
        return torch.tensor(rows)


def unchecked(seen) -> None:
    """Look at no observation."""


def seen(*envs: int):
    return {"task": [str(env) for env in envs], "state": torch.tensor(envs)}


def test_each_environment_has_its_own_queue():
    planner, queues = Planner(), ActionQueues(3)

    def act(*envs: int):
        return queues.select(seen(*envs), list(envs), planner, unchecked).tolist()

    assert act(0, 1, 2) == [[0, 1, 0], [1, 1, 0], [2, 1, 0]]
    queues.reset([1])  # its next chunk starts in the middle of that of the others
    assert act(0, 1, 2) == [[0, 1, 1], [1, 2, 0], [2, 1, 1]]
    assert act(2, 0) == [[2, 1, 2], [0, 1, 2]]  # environments may be left out, in any order
    assert act(0, 1, 2) == [[0, 3, 0], [1, 2, 1], [2, 3, 0]]
    assert planner.sizes == [3, 1, 2]
    queues.reset()  # all
    act(0, 1, 2)
    assert planner.sizes == [3, 1, 2, 3]


def test_observations_are_checked_for_which_nothing_is_predicted():
    looked_at: list[list[str]] = []
    queues = ActionQueues(3)
    for envs in ((0, 1), (0, 2), (2, 1)):
        queues.select(seen(*envs), list(envs), Planner(), lambda part: looked_at.append(part["task"]))
    assert looked_at == [["0"], ["2", "1"]]


def test_another_instruction_is_planned_for():
    planner, queues = Planner(), ActionQueues(3)
    assert queues.select(seen(0, 1), None, planner, unchecked).tolist() == [[0, 1, 0], [1, 1, 0]]
    assert queues.select(seen(0, 7), None, planner, unchecked).tolist() == [[0, 1, 1], [7, 2, 0]]
    assert queues.select(seen(0, 1), None, planner, unchecked).tolist() == [[0, 1, 2], [1, 3, 0]]
    spaced = seen(0, 1) | {"task": ["0", " 1 "]}  # the prompt is the same
    assert queues.select(spaced, None, planner, unchecked).tolist() == [[0, 4, 0], [1, 3, 1]]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"observation.state": torch.full((4, 5), torch.nan)}, "`observation.state`: expected finite numbers, got nan"),
        ({"observation.state": torch.zeros(4, 3)}, "`observation.state`: expected 5 numbers .*, got 3"),
        ({"observation.state": torch.zeros(3, 5)}, "`observation.state`: expected 4 samples, as there are images"),
        ({FRONT: torch.rand(4, 3, 16, 16)}, "expected images of 24x32, as in training, got 16x16"),
        ({FRONT: torch.full((4, 3, 24, 32), torch.nan)}, "expected values from 0 to 1, got nan"),
        ({FRONT: torch.full((4, 3, 24, 32), 255.0)}, "expected values from 0 to 1, got 255"),
        ({FRONT: None}, "one of the 2 cameras"),
        ({"task": ["lift"] * 3}, "`task`: expected 4 instructions, one for each sample, got 3"),
        ({"task": None}, "`task`: expected a list of instructions"),
    ],
)
def test_every_observation_is_checked_while_planned_actions_are_carried_out(change, text):
    """A camera or a sensor that fails in the middle of a chunk must not go on unnoticed for the rest of it."""
    model = policy()
    good = observation(model.config)
    model.select_action(good)
    with pytest.raises(LattokError, match=text):
        model.select_action({**good, **change})
    torch.testing.assert_close(model.select_action(good), model.predict_chunk(good)[:, 1])  # nothing was taken


@pytest.mark.parametrize("envs", [[0], [0, 0], [0, 1, 2]])
def test_environments_must_be_named_one_for_each_sample(envs: list[int]):
    with pytest.raises(LattokError, match="`env_ids`: expected 2 different environments, one for each sample"):
        ActionQueues(3).select(seen(0, 1), envs, Planner(), unchecked)


def test_environments_may_come_as_a_tensor_and_what_is_not_one_for_each_sample_is_left_alone():
    planner, queues = Planner(), ActionQueues(3)
    extra = {"timestamp": torch.zeros(1)}
    for _ in range(2):
        queues.select(seen(0, 1) | extra, torch.arange(2), planner, unchecked)
    queues.reset([1])
    queues.select(seen(0, 1) | extra, None, planner, unchecked)
    assert planner.sizes == [2, 1]


@pytest.mark.parametrize("steps", [0, 4, 1.5])
def test_at_most_a_chunk_is_carried_out(steps):
    with pytest.raises(LattokError, match="`n_action_steps`: expected"):
        ActionQueues(3).n_action_steps = steps
    with pytest.raises(LattokError, match="`env_ids`: expected a list of environment numbers"):
        ActionQueues(3).reset(1)


def test_a_policy_carries_out_its_chunk():
    model = policy()
    first = observation(model.config)
    chunk = model.predict_chunk(first)
    for step in range(4):
        torch.testing.assert_close(
            model.select_action(first if step == 0 else observation(model.config, seed=step)), chunk[:, step]
        )
    model.reset()
    model.queues.n_action_steps = 1
    model.select_action(first)
    other = observation(model.config, seed=9)
    torch.testing.assert_close(model.select_action(other), model.predict_chunk(other)[:, 0])
