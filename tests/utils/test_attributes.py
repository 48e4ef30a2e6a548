"""Unknown names: what is proposed exists, and objects otherwise behave as before."""

import copy
import pickle

import pytest
import torch

import lattok
from lattok.action_vq.base import ChunkTokenizer
from lattok.data import RobotDataset
from lattok.evaluation.report import Report
from lattok.image_lam import ImageLAM
from lattok.image_lam.inverse import InverseDynamics
from lattok.latent_actions import LatentActions
from lattok.utils.attributes import ELSEWHERE, FUNCTIONS, Suggests, unknown
from lattok.vla import LatentVLA

PUBLIC = (LatentVLA, ImageLAM, InverseDynamics, ChunkTokenizer, RobotDataset, Report, LatentActions)


def has(kind: type, name: str) -> bool:
    return hasattr(kind, name) or any(name in vars(each).get("__annotations__", ()) for each in kind.__mro__)


def test_every_name_that_can_be_proposed_exists_and_none_is_one_already():
    for name, meant in ELSEWHERE.items():
        for each in meant:
            assert any(has(kind, each) and not has(kind, name) for kind in PUBLIC), (name, each)
    assert set(FUNCTIONS) <= set(lattok.HOMES)


class Square(Suggests):
    sides = 4

    @property
    def area(self) -> float:
        return self.width**2  # pyright: ignore[reportAttributeAccessIssue]


def test_objects_are_copied_and_pickled_and_a_failing_property_names_what_it_lacks():
    square = Square()
    assert pickle.loads(pickle.dumps(copy.deepcopy(square))).sides == 4
    with pytest.raises(AttributeError, match="'Square' object has no attribute 'width'"):
        _ = square.area
    assert not hasattr(square, "corners")
    assert unknown(square, "_side") == "'Square' object has no attribute '_side'"
    assert unknown(square, "side") == "'Square' object has no attribute 'side'. Did you mean sides?"


def test_parts_of_models_are_found_within_a_compiled_graph():
    lam = lattok.load("sample/lam")

    def shifted(values: torch.Tensor) -> torch.Tensor:
        return values + lam.features.mean

    compiled = torch.compile(shifted, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(torch.zeros(3)), lam.features.mean)
