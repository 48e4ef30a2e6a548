"""Recipes that lattok does not know: of another package, and of a family of tokenizers that has none of its own."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import EntryPoint
from types import MappingProxyType
from typing import Any

import pytest
import torch

import lattok
from lattok.action_vq.bins import UniformBins, UniformBinsConfig
from lattok.cli import main
from lattok.hub import FAMILIES
from lattok.recipes import FitRecipe, Recipe, kinds, recipe_of
from lattok.recipes.common import RECIPES
from lattok.recipes.run_folder import finish
from lattok.utils import registry

OURS = {"kinds": RECIPES, "families": FAMILIES}


@pytest.fixture(autouse=True)
def as_it_was():
    kinds()  # whatever is loaded now stays
    before = {name: dict(known._known) for name, known in OURS.items()}
    yield
    for name, known in OURS.items():
        known._known = before[name]


def theirs() -> type[Recipe[Any]]:
    """A recipe as another package has it: it trains by counting."""

    @dataclass(frozen=True)
    class CountingRecipe(Recipe[UniformBins]):
        """Count what there is.

        - `few`: eight bins
        """

        kind = "counting"
        model_class = UniformBinsConfig
        presets = MappingProxyType({"few": {"bins": 8}, "many": {"bins": 1024}})
        default_preset = "few"
        common = ("bins",)

        def train(self, resume: bool = False, resume_command: str = "") -> UniformBins:
            """Count."""
            return finish({"": UniformBins(self.config(action_dim=2))}, self.folder(resume))[""]

    return CountingRecipe


def test_a_recipe_of_another_package_is_trained_listed_and_explained(tmp_path, monkeypatch, capsys):
    entry = EntryPoint("counting", "their_package.counting", "lattok.recipes")
    monkeypatch.setattr(EntryPoint, "load", lambda self: theirs())
    monkeypatch.setattr(registry, "entry_points", lambda group: (entry,) if group == "lattok.recipes" else ())
    monkeypatch.delitem(vars(RECIPES), "_theirs", raising=False)
    assert "counting" in kinds()
    assert (
        main(["train", "counting", "data", "--out", str(tmp_path / "bins"), "--horizon", "3", "--preset", "many"]) == 0
    )
    config = lattok.load(tmp_path / "bins").config
    assert (config.bins, config.horizon) == (1024, 3)
    assert main(["presets", "counting"]) == 0
    assert "few (default)\n    --bins 8\n" in capsys.readouterr().out
    assert main(["train", "--help"]) == 0
    assert "  counting      Count what there is.\n" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["train", "counting", "--help"])
    text = capsys.readouterr().out
    assert "(default: 8)" in text
    assert "Example: lattok train counting path/to/dataset --out my-model" in text
    monkeypatch.delitem(vars(RECIPES), "_theirs", raising=False)


def test_a_new_family_of_tokenizers_has_a_recipe_without_a_line(make_dataset, tmp_path, capsys):
    class Thirds(UniformBins):
        """Actions [B, H, m] to three codes each: more than nothing."""

        type = "thirds"

        @classmethod
        def fit(cls, chunks: Any, valid: Any = None, *, seed: int = 0, **options: Any):
            """As bins."""
            return super().fit(chunks, valid, seed=seed, **{**options, "bins": 3})

    dataset = make_dataset([12, 15, 11, 14], cameras=False)
    assert "thirds" in kinds()
    assert issubclass(recipe_of("thirds"), FitRecipe)
    assert main(["train", "thirds", str(dataset.root), "--out", str(tmp_path / "it"), "--horizon", "4"]) == 0
    assert capsys.readouterr().out.startswith("Saved in")
    loaded = lattok.load(tmp_path / "it")
    assert (type(loaded), loaded.config.bins) == (Thirds, 3)
    assert int(loaded.encode(torch.randn(5, 4, 3)).max()) <= 2
