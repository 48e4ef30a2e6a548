"""Inverse models of several datasets: each is as a model of its own that shares the encoder."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lattok.image_lam.inverse import InverseDynamics, InverseDynamicsConfig, RobotConfig
from lattok.types import PolicyBatch, Shares
from tests.errors import refused
from tests.image_lam.inverse.test_inverse import SMALL

ROBOTS = (
    RobotConfig("a", ("front", "wrist"), (0, 1), 3, ("x", "y", "gripper")),
    RobotConfig("b", ("eye",), (1,), 5, state_dim=2),
)


def shared(**options) -> InverseDynamics:
    torch.manual_seed(0)
    given = {**SMALL, "offsets": (0, 1, 2), **options}
    model = InverseDynamics(InverseDynamicsConfig(("front", "wrist"), 5, robots=ROBOTS, **given)).eval()
    for name, width in (("a", 3), ("b", 5)):
        model.view(name).set_range(torch.randn(50, width, generator=torch.Generator().manual_seed(width)))
    return model


def alone(model: InverseDynamics, name: str) -> InverseDynamics:
    """A model of one dataset that knows no others: the columns of other cameras are left out."""
    place = model.datasets.index(name)
    robot = ROBOTS[place]
    config = replace(model.config, robots=(), **{k: v for k, v in vars(robot).items() if k not in ("name", "places")})
    made = InverseDynamics(config).eval()
    tensors, views = {}, len(model.cameras)
    for key, value in model.saved_tensors().items():
        if key.startswith("normalizers."):
            if key.startswith(f"normalizers.{place}."):
                tensors[key.split(".", 2)[2]] = value
            continue
        if ".head." in key:
            before, after = key.split(".head.")
            if after.startswith(f"{place}."):
                tensors[f"{before}.head.{after.partition('.')[2]}"] = value
            continue
        if key.endswith("project.weight"):
            value = value.unflatten(1, (views, -1))[:, list(robot.places)].flatten(1)
        if "flow_head.2" in key or "ahead.told" in key:
            value = value.unflatten(0, (views, -1))[list(robot.places)].flatten(0, 1)
        tensors[key] = value
    made.load_tensors({key: value.clone() for key, value in tensors.items()}, "here")
    return made


@pytest.mark.parametrize("options", [{}, {"hidden": 0, "quantizer": "fsq", "tokens": 2}])
def test_a_chosen_one_is_as_one_that_knows_no_others(rng, options):
    model = shared(**options)
    for name, views in (("a", 2), ("b", 1)):
        frames = rng.integers(0, 256, (6, views, 16, 16, 3), dtype=np.uint8)
        found, expected = (each.infer_actions(frames, 1) for each in (model.for_dataset(name), alone(model, name)))
        np.testing.assert_allclose(found.actions, expected.actions, atol=1e-6)
        np.testing.assert_array_equal(found.codes, expected.codes)


@pytest.mark.parametrize("options", [{}, {"proprio": True, "loss_flow": 0.5, "loss_forward": 0.5}, {"reversible": 1}])
def test_terms_are_means_over_all_samples_and_heads_learn_from_their_own_alone(rng, options):
    robots = tuple(replace(robot, state_dim=2) for robot in ROBOTS) if options.get("proprio") else ROBOTS
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "ROBOTS", robots)
        model = shared(**options).train()
        source = torch.tensor([0, 1, 0, 1, 1, 1])
        frames = torch.from_numpy(rng.integers(0, 256, (6, 3, 2, 16, 16, 3), dtype=np.uint8))
        actions, states = (torch.from_numpy(rng.standard_normal(size).astype("f4")) for size in ((6, 1, 5), (6, 6)))
        valid = torch.tensor([1, 1, 1, 1, 0, 1], dtype=torch.bool)[:, None]
        known = torch.arange(5) < torch.tensor([3, 5])[source][:, None]
        batch = PolicyBatch(frames[:, 0], [""] * 6, states, actions, valid, later=frames[:, 1:], known=known)
        batch = batch._replace(source=source, shares=Shares(acted=torch.tensor(5.0)))
        found, expected = model(batch), {}
        for place, (name, robot) in enumerate(zip("ab", robots, strict=True)):
            mine, one = source == place, alone(model, name).train()
            own = frames[mine][:, :, list(robot.places)]
            part = PolicyBatch(
                own[:, 0], [""] * len(own), states[mine], actions[mine, :, : robot.action_dim], valid[mine]
            )
            for term, value in one(part._replace(later=own[:, 1:])).items():
                share = valid[mine].sum() / 5 if term == "action" else mine.sum() / 6
                expected[term] = expected.get(term, 0.0) + share * value
    assert found.keys() == expected.keys()
    for term, value in found.items():
        torch.testing.assert_close(value, expected[term], rtol=1e-5, atol=1e-6)
    model.zero_grad()
    rows = [1, 3, 5]
    only = batch._replace(images=batch.images[rows], later=batch.later[rows], texts=[""] * 3, proprio=states[rows])
    only = only._replace(actions=actions[rows], valid=valid[rows], known=known[rows], source=source[rows])
    model(only._replace(shares=Shares()))["action"].backward()
    trained = {name: p.grad is not None for name, p in model.named_parameters() if ".head." in name}
    assert trained
    assert trained == {name: ".head.1." in name for name in trained}


def test_configurations_that_say_no_such_thing_are_refused():
    config = shared().config
    refused("robots", replace, config, robots=(ROBOTS[0], ROBOTS[0]))
    refused("robots", replace, config, robots=ROBOTS[:1])
    refused("places", replace, config, robots=(ROBOTS[0], replace(ROBOTS[1], places=(2,))))
    refused("places", replace, config, robots=(ROBOTS[0], replace(ROBOTS[1], places=(0, 1))))
    refused("places", replace, config.of(0), places=(0,))
    refused(
        "`batch`: expected the dataset of each",
        shared().train(),
        PolicyBatch(*[torch.zeros(1)] * 5, later=torch.zeros(1)),
    )
