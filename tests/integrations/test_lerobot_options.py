"""Options of the LeRobot plugin, read without LeRobot."""

import ast
from pathlib import Path

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
