"""docs/paper_map.md: every name on it exists where it says, and its tables are what the code does."""

import importlib
import re
from pathlib import Path

import pytest

from lattok.backbones import BackboneConfig
from lattok.image_lam.clips import config
from lattok.labels import LatentSpec
from lattok.recipes.vla import VLARecipe
from lattok.vla.config import VLAConfig
from lattok.vla.strategies import STRATEGIES, hidden_index

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "paper_map.md").read_text(encoding="utf-8")
NAME, FILE = r"`(lattok\w*(?:\.\w+)+)`", r"`((?:integrations/\w+/src/)?lattok\w*/\S+\.py)`"
NAMES = sorted(set(re.findall(NAME, PAGE)))
NUMBERS = {"baseline": (0, 8), "la_align": (0, 8), "la_direct": (32, 0), "la_cond": (32, 8), "la_tok": (8, 0)}
NUMBERS |= {"la_direct_c": (32, 0), "la_cond_c": (32, 8), "la_tok_c": (8, 0), "ph_direct": (0, 32), "ph_cond": (0, 40)}


def find(name):
    """The object of a dotted name."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            value = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            value = getattr(value, part)
        return value
    raise AssertionError(name)


@pytest.mark.parametrize("name", NAMES)
def test_every_name_exists(name):
    if name.startswith("lattok.backbones.hf"):
        pytest.importorskip("transformers")
    find(name)


def test_defaults_of_what_is_left_open_are_those_of_the_options():
    rows = re.findall(r"^\| [^|]+ \| `lattok\.image_lam\.clips\.config\.(\w+)\.(\w+)` \| (\S+) \|$", PAGE, re.MULTILINE)
    assert len(rows) > 15
    for owner, name, default in rows:
        assert str(getattr(getattr(config, owner), name)).lower() == default, name


@pytest.mark.parametrize("name", NUMBERS)
def test_table_7_is_what_the_strategies_do(name):
    (row,) = (line for line in PAGE.splitlines() if f"| `{name}` |" in line)
    latent, action, weight = (cell.strip() for cell in row.split("|")[4:7])
    strategy = STRATEGIES[name]
    known = {"action_dim": 7, "cameras": ("front",), "camera_sizes": ((224, 224),)}
    codes = 1 if strategy.labels == "chunk" else 4
    spec = None if strategy.labels is None else LatentSpec(strategy.labels, 8, codes, 16, codes, 128)
    config = VLAConfig(**known, strategy=strategy, latent=spec, horizon=8)
    runs = {span: segment.count for span, segment in config.segments.items()}
    counts = [runs.pop("latent", 0), sum(runs.values())]
    page = {"0": 0, "H": 8, "P·H": 32, "P·H+H": 40}
    assert counts == [page[latent], page[action]] == list(NUMBERS[name])
    assert float(weight) == config.loss_weights.get("latent", 0)
    if name == "la_align":
        assert hidden_index(strategy.losses[0].layer, 28) == 17


@pytest.mark.parametrize(("column", "preset"), list(enumerate(("libero", "robotwin", "jaka"), start=2)))
def test_table_8_is_what_the_presets_are(column, preset):
    lines = PAGE[PAGE.index("## Training") : PAGE.index("## Appendices")].splitlines()
    cells = {
        line.split("|")[1].strip(): line.split("|")[column].strip().replace(",", "") for line in lines if "|" in line
    }
    given = VLARecipe.presets[preset]
    fields = {"steps": "steps", "batch size": "batch_size", "optimizer": "optimizer", "learning rate": "lr"}
    fields |= {
        "schedule": "schedule",
        "decay every": "decay_every",
        "decay factor": "decay_factor",
        "chunk H": "horizon",
    }
    for label, field in fields.items():
        assert cells[label] == str(given[field]), label
    assert BackboneConfig.name.startswith(f"Qwen/{cells['base VLM']}")
    paper = {"libero": (80_000, 8), "robotwin": (30_000, 25), "jaka": (30_000, 20)}
    assert (given["steps"], given["horizon"]) == paper[preset]
