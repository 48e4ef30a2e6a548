import pytest
import torch

import lattok
from lattok.types import LatentTarget
from lattok.utils.checks import LattokError
from lattok.utils.files import read_json
from lattok.vla.observations import ActionQueues
from tests.errors import refused
from tests.vla.fakes import CAMERAS, batch, config, observation, policy

FRONT, WRIST = CAMERAS


def change(**changes):
    return lambda seen: {key: value for key, value in {**seen, **changes}.items() if value is not None}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (change(**{WRIST: None}), "`batch`"),
        (change(**{FRONT: torch.rand(4, 3, 16, 16)}), "expected images of 24x32, as in training, got 16x16"),
        (change(**{FRONT: 255 * torch.rand(4, 3, 24, 32)}), "expected values from 0 to 1"),
        (change(**{FRONT: torch.rand(3, 24, 32)}), "`observation.images.front`"),
        (change(**{FRONT: torch.zeros(4, 3, 24, 32, dtype=torch.uint8)}), r"or uint8 \[B, H, W, 3\]"),
        (change(**{FRONT: torch.rand(3, 3, 24, 32)}), "`observation.images.wrist`"),
        (change(**{FRONT: torch.rand(4, 24, 32, 3)}), "channels come first"),
        (change(task="open the drawer"), "`task`"),
        (change(task=["a", "b"]), "`task`"),
        (change(task=None), "`task`"),
        (change(task=["a", "b", "c", 4]), "`task`"),
        (change(**{"observation.state": None}), "`batch`"),
        (change(**{"observation.state": torch.zeros(4, 3)}), "`observation.state`"),
        (change(**{"observation.state": torch.zeros(5)}), "`observation.state`"),
        (change(**{"observation.state": torch.full((4, 5), torch.nan)}), "`observation.state`"),
        (change(**{"observation.state": [0.0] * 5}), "`observation.state`"),
        (lambda seen: "drawer", "`batch`"),
    ],
)
def test_an_observation_that_does_not_fit_is_one_line(changed, message: str):
    model = policy()
    refused(message, lambda: model.predict_chunk(changed(observation(model.config))))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"images": torch.zeros(4, 1, 16, 16, 3, dtype=torch.uint8)}, "`images`"),
        ({"images": torch.zeros(4, 2, 32, 32, 3, dtype=torch.uint8)}, "`images`"),
        ({"images": torch.zeros(4, 2, 16, 16, 3)}, "`images`"),
        ({"proprio": None}, "`proprio`"),
        ({"actions": torch.zeros(4, 5, 3)}, "`actions`"),
        ({"actions": torch.zeros(4, 4, 2)}, "`actions`"),
        ({"texts": "open"}, "`texts`"),
        ({"proprio": torch.zeros(3, 5)}, "`proprio`"),
        ({"actions": torch.zeros(3, 4, 3)}, "`actions`"),
        ({"latent": None}, "`latent`"),
    ],
)
def test_a_batch_that_does_not_fit_is_one_line(changed: dict, message: str):
    model = policy("la_direct")
    refused(message, lambda: model(batch(model.config)._replace(**changed)))


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (torch.zeros(4, 3, 2, dtype=torch.long), "`states`"),  # H
        (torch.zeros(4, 4, 3, dtype=torch.long), "`codes`"),  # P
        (torch.full((4, 4, 2), 7), "`codes`"),  # K
    ],
)
def test_labels_of_another_shape_are_one_line(codes: torch.Tensor, message: str):
    model = policy("la_direct")
    target = LatentTarget(codes, None, torch.ones(codes.shape[:2], dtype=torch.bool))
    refused(message, lambda: model(batch(model.config)._replace(latent=target)))


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
    refused(
        "`task`: .* got none. Put it into the observation: {\"task\": 'open the drawer', ", model.predict_chunk, single
    )


def test_a_policy_carries_out_as_many_actions_as_it_says():
    model = policy(n_action_steps=3)
    assert model.queues.n_action_steps == 3
    assert policy().queues.n_action_steps == model.config.horizon
    refused("`n_action_steps`", config, n_action_steps=5)
    refused("`fps`", config, fps=0)


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
        ({"cameras": "front"}, "`cameras`"),
        ({"camera_sizes": ((8, 8),)}, "`camera_sizes`"),
        ({"prompt": "{instruction}"}, "`prompt`"),
        ({"prompt": "{horizon:9000000000}"}, "`prompt`"),
        ({"prompt": "{task.foo}"}, "`prompt`"),
        ({"camera_sizes": (24, 32)}, "`camera_sizes`"),
        ({"head_layers": 5}, "`head_layers`"),
        ({"head_layers": (2, 2)}, "`head_layers`"),
        ({"backbone_lora_dropout": 1.5}, "`backbone_lora_dropout`"),
        ({"backbone_train": "frozen"}, "`backbone_train`"),
        ({"backbone_train": "lora"}, "`backbone_train`"),
        ({"head_heads": 5}, "`head_heads`"),
        ({"action_dim": 10**9}, "`action_dim`"),
        ({"proprio_dim": 10**9}, "numbers in a chunk and in proprio, got 4 steps of 3 dimensions, proprio_dim 1000000"),
        ({"normalize": "mean_std", "normalize_clip": True}, "`normalize_clip`"),
        ({"normalize_exceptions": ("9=identity",)}, r"NAME=KIND with a dimension among 0\.\.2, got '9=identity'"),
        ({"strategy": "la_direct", "latent": {"codebook_size": 0}}, "`latent`"),
        ({"strategy": "la_align", "latent": {"latent_dim": 0}}, "`latent`"),
        ({"strategy": "la_direct", "latent": {"steps": 5}}, "`latent`"),
        ({"strategy": "la_tok", "latent": {"horizon": 8}}, "for chunks of 4 steps, got labels of 4 steps, of chunks"),
        ({"strategy": "la_tok", "latent": {"target": "steps"}}, "`latent`"),
        ({"action_names": ("x",) * 9}, "`action_names`"),
        ({"proprio_names": ("x",)}, "`proprio_names`"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_one_line(changes: dict, message: str):
    refused(message, config, **changes)


def test_layers_that_the_backbone_has_not_are_one_line():
    refused("`head_layers`", policy, head_layers=(2, 4))
    refused("`head_layers`", policy, head_layers=(1, 2))


def test_numbers_and_padding_of_batches_are_checked():
    model = policy(camera_sizes=((16, 16),) * 2)
    data = batch(model.config)
    refused("`proprio`", lambda: model.predict_chunk(data._replace(proprio=torch.full_like(data.proprio, torch.nan))))
    found: dict = {key: data.images[:, i] for i, key in enumerate(CAMERAS)}
    found |= {"observation.state": data.proprio, "action": data.actions, "task": data.texts}
    refused("`action_is_pad`", lambda: model(found | {"action_is_pad": (~data.valid).int()}))
    for shape in ((len(data.valid), 1), (len(data.valid),)):  # which would be broadcast
        refused("`action_is_pad`", model, found | {"action_is_pad": torch.zeros(shape, dtype=torch.bool)})
    torch.testing.assert_close(
        model(found | {"action_is_pad": (~data.valid).numpy()})["action"],
        model(found | {"action_is_pad": ~data.valid})["action"],
    )
    for name, wrong in {"valid": data.valid[:1], "known": torch.ones(len(data.valid), 1, dtype=torch.bool)}.items():
        refused(f"`{name}`: expected bool", model, data._replace(**{name: wrong}))


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
        ({"observation.state": torch.full((4, 5), torch.nan)}, "`observation.state`"),
        ({FRONT: torch.full((4, 3, 24, 32), torch.nan)}, "expected values from 0 to 1, got nan"),
        ({FRONT: None}, "one of the 2 cameras"),
        ({"task": None}, "`task`"),
    ],
)
def test_every_observation_is_checked_while_planned_actions_are_carried_out(change, text):
    """A camera or a sensor that fails in the middle of a chunk must not go on unnoticed for the rest of it."""
    model = policy()
    good = observation(model.config)
    model.select_action(good)
    refused(text, model.select_action, {**good, **change})
    torch.testing.assert_close(model.select_action(good), model.predict_chunk(good)[:, 1])  # nothing was taken


@pytest.mark.parametrize("envs", [[0], [0, 0], [0, 1, 2]])
def test_environments_must_be_named_one_for_each_sample(envs: list[int]):
    refused("`env_ids`", lambda: ActionQueues(3).select(seen(0, 1), envs, Planner(), unchecked))


def test_environments_may_come_as_a_tensor_and_what_is_not_one_for_each_sample_is_left_alone():
    planner, queues = Planner(), ActionQueues(3)
    extra = {"timestamp": torch.zeros(1)}
    for _ in range(2):
        queues.select(seen(0, 1) | extra, torch.arange(2), planner, unchecked)
    queues.reset([1])
    queues.select(seen(0, 1) | extra, None, planner, unchecked)
    assert planner.sizes == [2, 1]


def test_environments_are_numbers():
    refused("`env_ids`: expected a list of environment numbers, got 'a'", ActionQueues(3).reset, "a")


def test_instructions_that_a_policy_did_not_learn_are_said(capsys):
    model = policy(instructions=("open the drawer", "close the drawer"))
    good = observation(model.config)
    for texts in (["open the drawer"] * 4, [" close the drawer "] * 4):
        model.select_action({**good, "task": texts})
    assert "did not learn" not in capsys.readouterr().err
    model.select_action({**good, "task": ["open teh drawer"] * 4})
    said = "did not learn the instruction 'open teh drawer'. Did you mean open the drawer?"
    assert capsys.readouterr().err.count(said) == 1


@pytest.mark.parametrize("steps", [0, 4, 1.5])
def test_at_most_a_chunk_is_carried_out(steps):
    with pytest.raises(LattokError, match="`n_action_steps`"):
        ActionQueues(3).n_action_steps = steps
    refused("`env_ids`", lambda: ActionQueues(3).reset(1))


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
