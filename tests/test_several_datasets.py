"""Models of several datasets: whatever their family, one is chosen by one rule."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch

import lattok
from lattok.action_vq import ActionVQConfig, P2TActionVQ
from lattok.image_lam.inverse import InverseDynamics, InverseDynamicsConfig, RobotConfig
from lattok.nn.normalize import for_dataset
from lattok.vla import LatentVLA
from tests.errors import refused
from tests.image_lam.clips.fakes import clip_lam, pixels
from tests.vla.fakes import config, observation


class Kind(NamedTuple):
    make: Callable[[], Any]
    map_of: Callable[[Any, int], Any]  # the actions' normaliser of one of the datasets
    in_use: Callable[[Any], Any]
    act: Callable[[Any], Any]  # what needs a choice
    heads: bool = False  # of each dataset, too
    owner: str = ""  # what errors call it


def generate(lam: Any) -> Any:
    return lam.generate(pixels(1, 2), lam.encode(pixels(1, 3, 2), "lift"))


def inverse() -> InverseDynamics:
    robots = tuple(RobotConfig(name, ("front",), (0,), 3) for name in "ab")
    sizes: Any = {"features": "pixels", "image_size": 16, "channels": (8,), "latent_dim": 4, "hidden": 8, "members": 1}
    return InverseDynamics(InverseDynamicsConfig(("front",), 3, robots=robots, **sizes)).eval()


SMALL = {"action_dim": 3, "horizon": 4, "dim": 8, "hidden": 8, "heads": 2}
KINDS = {
    "tokenizer": Kind(
        lambda: P2TActionVQ(ActionVQConfig(**SMALL, normalizers=("a", "b"))).eval(),
        lambda model, place: model.normalizers[place],
        lambda model: model.normalizer,
        lambda model: model.encode(torch.zeros(1, 4, 3)),
    ),
    "policy": Kind(
        lambda: LatentVLA.build(config(normalizers=("a", "b"))).eval(),
        lambda model, place: model.normalizers[place]["action"],
        lambda model: model.action_normalizer,
        lambda model: model.predict_chunk(observation(model.config)),
    ),
    "model": Kind(
        lambda: clip_lam(normalizers=("a", "b")),
        lambda model, place: model.normalizers[place],
        lambda model: model.action_normalizer,
        generate,
    ),
    "inverse": Kind(
        inverse,
        lambda model, place: model.normalizers[place].action_normalizer,
        lambda model: model.action_normalizer,
        lambda model: model.infer_actions(torch.zeros(3, 1, 16, 16, 3, dtype=torch.uint8), 1),
        heads=True,
        owner="model",
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_one_of_several_datasets_is_chosen(name, tmp_path):
    kind = KINDS[name]
    model = kind.make()
    for place in range(2):
        kind.map_of(model, place).shift.fill_(place + 1)
    said = model.config
    chosen = model.for_dataset("b")
    assert kind.in_use(chosen) is kind.map_of(model, 1)
    ours, theirs = ({id(each) for each in whole.parameters()} for whole in (chosen, model))
    assert ours < theirs if kind.heads else ours == theirs
    loaded = lattok.load(chosen.save_pretrained(tmp_path / "chosen"))
    assert kind.in_use(loaded).shift.tolist() == [2.0] * 3
    kind.act(loaded)
    every = lattok.load(model.save_pretrained(tmp_path / "every"))
    assert every.config == model.config == said
    assert [kind.in_use(every.for_dataset(each)).shift[0] for each in "ab"] == [1.0, 2.0]


@pytest.mark.parametrize("name", KINDS)
def test_without_a_choice_and_with_a_wrong_one_nothing_is_done(name):
    kind = KINDS[name]
    model, owner = kind.make(), kind.owner or name
    text = rf"`{owner}`: expected one of its datasets to be chosen \(a, b\), got none. {owner}.for_dataset\('a'\) has"
    refused(text, kind.act, model)
    refused(rf"`dataset`: expected one that this {owner} knows \(a, b\), got 'c'", model.for_dataset, "c")


def test_labels_of_video_need_no_choice():
    lam = KINDS["model"].make()
    assert for_dataset(lam, "c") is lam
