"""What a release has saved loads in all later ones, gives the same, and is known by the same hashes."""

from pathlib import Path

import pytest
import torch

import lattok
from tests import golden
from tests.fuzz_artefacts import small_models


@pytest.mark.parametrize("folder", golden.stored(), ids=lambda folder: f"{folder.parent.name}-{folder.name}")
def test_an_artefact_of_a_release_is_what_it_was(folder: Path):
    model = lattok.load(folder)
    gave, identity = golden.expected(folder)
    assert golden.identity(model) == identity
    now = golden.gives(model)
    assert now.keys() == gave.keys()
    for name, values in gave.items():
        if values.dtype.is_floating_point:
            torch.testing.assert_close(now[name], values, atol=1e-4, rtol=1e-4)
        else:
            assert torch.equal(now[name], values), name


def test_every_family_of_a_release_is_there_and_all_are_small():
    kinds = {golden.expected(folder)[1]["type"] for folder in golden.stored() if folder.parent.name == "0.1"}
    assert kinds == {model.type for model in small_models(4).values()}
    for path in golden.HERE.rglob("*"):
        assert path.is_dir() or path.stat().st_size < 160_000, path
