"""Options of the LeRobot plugin, read without LeRobot."""

import ast
import re
from pathlib import Path

from packaging.requirements import Requirement

from lattok.utils.options import options_of
from lattok.vla import VLAConfig

PLUGIN = Path(__file__).parents[2] / "integrations/lerobot_policy_lattok/src/lerobot_policy_lattok"


def test_every_option_of_a_policy_is_one_of_the_plugin():
    """One that is missing there keeps each policy that uses it from being exported."""
    tree = ast.parse((PLUGIN / "configuration_lattok.py").read_text(encoding="utf-8"))
    (config,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "LattokConfig"]
    known = {ast.unparse(node.target) for node in config.body if isinstance(node, ast.AnnAssign)}
    options = {option.name for option in options_of(VLAConfig) if not option.field.metadata.get("from_data")}
    assert options - known == {"horizon", "action_key", "state_key"}  # the first is chunk_size, the others are fixed


def test_the_plugin_installs_what_lerobot_trains_with():
    """From 0.6 on, which needs Python 3.12, LeRobot reads datasets with an extra only."""
    text = (PLUGIN.parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    (block,) = re.findall(r"^dependencies = \[.*?^\]", text, re.DOTALL | re.MULTILINE)
    asked = [Requirement(line) for line in re.findall(r'^    "(.*)",', block, re.MULTILINE)]
    for python, extras in {"3.10": set(), "3.11": set(), "3.12": {"training"}, "3.13": {"training"}}.items():
        (found,) = [each for each in asked if each.marker is None or each.marker.evaluate({"python_version": python})]
        assert (found.name, found.extras) == ("lerobot", extras)
        assert "0.4.4" in found.specifier or extras
