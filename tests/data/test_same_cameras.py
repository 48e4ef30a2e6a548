"""Cameras stand for a model's in order: one of its own names at another's place is refused, wherever they meet."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import lattok
from lattok.cli import main
from lattok.data import open_dataset
from lattok.data.alike import check_cameras, stand_ins
from lattok.recipes import ImageLAMRecipe
from tests.conftest import CAMERAS, write_dataset
from tests.errors import refused
from tests.recipes import policies
from tests.recipes.policies import TINY

TURNED = "`cameras`: expected front, wrist in this order, as the model looks at them, got wrist, front. "
TURNED += "Leave cameras out: it knows them by name."


def image_lam(place: Path, cameras: tuple[str, ...] = CAMERAS) -> Path:
    return policies.image_lam(*cameras).save_pretrained(place)


@pytest.mark.parametrize(
    ("given", "own", "right"),
    [
        ("a b", "a b", True),
        ("x.a x.b", "a b", True),
        ("b a", "a b", False),
        ("c d", "a b", True),
        ("b c", "a b", False),  # a is another's, and b is at its place
        ("a c", "a b", True),
        ("a b c", "a b", True),  # several models are compared
        ("a b", "b", False),
        ("l.a r.a", "l.a r.a", True),
        ("r.a l.a", "l.a r.a", False),
    ],
)
def test_names_that_a_model_knows_keep_their_places(given, own, right):
    if right:
        check_cameras(given.split(), own.split())
    else:
        refused("in this order, as the model looks at them", lambda: check_cameras(given.split(), own.split()))


def test_what_is_proposed_keeps_known_names_at_their_places():
    dataset: Any = SimpleNamespace(cameras=("i.wrist", "i.side", "i.front"))
    assert stand_ins(dataset, ["front", "top"]) == ["front", "wrist"]
    assert stand_ins(dataset, ["top", "wrist", "front"]) == ["side", "wrist", "front"]


def test_a_models_cameras_in_another_order_are_refused_by_every_command(tmp_path, capsys):
    data, lam = write_dataset(tmp_path / "data", [12, 14, 12]), str(image_lam(tmp_path / "lam"))
    out = ["--out", str(tmp_path / "out")]
    for words in (
        ["annotate", str(data), "--model", lam, *out],
        ["evaluate", lam, str(data), *out],
        ["compare", str(data), "--models", lam, *out],
        ["train", "image-lam", str(data), "--init", lam, "--steps", "1", *out],
    ):
        assert main([*words, "--cameras", "wrist", "front"]) == 2, words
        assert TURNED in capsys.readouterr().err, words
    assert not (tmp_path / "out").exists()
    policy = tmp_path / "policy"
    start = ["train", "vla", str(data), *TINY, "--steps", "1", "--cameras"]
    assert main([*start, "wrist", "front", "--out", str(policy)]) == 0
    assert main([*start, "front", "wrist", "--init", str(policy), *out]) == 2
    assert "`cameras`: expected ('observation.images.wrist', 'observation.images.front')" in capsys.readouterr().err


def test_a_model_goes_on_with_its_own_cameras_by_name(tmp_path):
    """Order in the dataset and the beginning of their names do not matter; of others nobody knows which they are."""
    data = write_dataset(tmp_path / "data", [12, 14, 12])
    lam = image_lam(tmp_path / "lam", ("wrist", "front"))
    options = {"steps": 1, "batch_size": 4, "device": "cpu"}
    made = lattok.train(ImageLAMRecipe.from_preset(data, tmp_path / "on", "tiny", init=str(lam), **options))
    assert made.cameras == CAMERAS[::-1]
    other = image_lam(tmp_path / "other", ("left", "front"))
    refused(
        r"as many as the model in init has \(left, front\), got 2 \(front, wrist\)",
        lambda: lattok.train(ImageLAMRecipe.from_preset(data, tmp_path / "no", "tiny", init=str(other), **options)),
    )
    refused(r"such as cameras=wrist", lambda: lattok.annotate(open_dataset(data), lattok.load(other), tmp_path / "a"))
