"""Recipes that lattok does not know: of another package, and of a family of tokenizers that has none of its own."""

from dataclasses import dataclass, field
from importlib.metadata import EntryPoint
from types import MappingProxyType
from typing import Any, Literal

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
from lattok.utils.options import GROUP

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
        model: UniformBinsConfig = field(default_factory=UniformBinsConfig)
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
    assert main(["train", "counting", "--help-all"]) == 0
    text = capsys.readouterr().out
    assert "(default: 8)" in text
    assert "Example: lattok train counting path/to/dataset --out my-model" in text
    monkeypatch.delitem(vars(RECIPES), "_theirs", raising=False)


@dataclass(frozen=True)
class Bag:
    """How it counts.

    Attributes:
        name: of the bag
        depth: of counting
    """

    name: Literal["paper", "cloth"] = "paper"
    depth: int = 2


@dataclass(frozen=True)
class BagConfig(UniformBinsConfig):
    """Bins in a bag."""

    bag: Bag = field(default_factory=Bag, metadata=GROUP)


def test_options_of_groups_are_typed_with_dots_or_dashes_and_only_what_was_typed_counts(tmp_path, capsys):
    made = []

    @dataclass(frozen=True)
    class BagRecipe(Recipe[UniformBins]):
        """Count bags."""

        kind = "bags"
        model: BagConfig = field(default_factory=BagConfig)
        presets = MappingProxyType({"deep": {"bag_depth": 7, "bins": 16}})
        default_preset = "deep"

        def train(self, resume: bool = False, resume_command: str = "") -> Any:
            """Keep the recipe."""
            made.append(self)

    words = ["train", "bags", "data", "--out", str(tmp_path / "out")]
    (tmp_path / "options.json").write_text('{"bag_depth": 3, "horizon": 5}')
    config = ["--config", str(tmp_path / "options.json")]
    assert main([*words, *config, "--bag.name", "cloth", "--horizon", "8"]) == 0  # 8 is the default, and was typed
    assert main([*words, "--bag=cloth", "--bag_depth=4"]) == 0
    assert main([*words, "--bag-depth", "5"]) == 0
    found = [(each.model.bag, each.model.bins, each.model.horizon) for each in made]
    assert found == [(Bag("cloth", 3), 16, 8), (Bag("cloth", 4), 16, 8), (Bag("paper", 5), 16, 8)]
    assert made[0].config(action_dim=2).bag == Bag("cloth", 3)
    capsys.readouterr()
    assert main([*words, "--bag", "plastic"]) == 2
    assert "`bag`: expected one of paper, cloth, got 'plastic'" in capsys.readouterr().err
    assert main([*words, "--help-all"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "--bag {paper,cloth} Of the bag. (default: paper) --bag-depth N Of counting. (default: 7)" in text


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
