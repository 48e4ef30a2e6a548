#!/usr/bin/env bash
# draccus, OmegaConf: --name=2024_01_02 is 20240102, 0123 is 83, and the task "pick the cup: red" or "pick #3" is another text
#
# Versions: draccus 0.11.6 (LeRobot 0.6.1 and OpenVLA read their flags by it), omegaconf 2.3.1
# Guess: A field declared as str gets the text behind the equals sign.
# Fact: Each value is read as YAML 1.1 first, and what comes out is turned into a text again: underscores leave numbers, a leading 0 is octal,
#   a colon between digits counts in sixties, a colon and a blank begin a mapping, a blank and # a comment, and yes is True. Runs, datasets
#   and instructions then have other names, without a word. OmegaConf's from_cli does it too; Hydra's own flags keep 0123, but not
#   2024_01_02. Quotes inside the quotes of the shell help.
# Output: 2024_01_02 -> 20240102, 0123 -> 83, 1.10 -> 1.1, yes -> True, 12:30:00 -> 45000, "pick #3" -> "pick",
#   "pick the cup: red" -> "{'pick the cup': 'red'}", null -> None; 2024-01-02 stays
# Needs: Python 3.12 or newer (PYTHON=), 20 MB
# Date: 2026-12-01
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv antlr4-python3-runtime==4.9.3 draccus==0.11.6 hydra-core==1.3.8 mergedeep==1.3.4 omegaconf==2.3.1 pyyaml==6.0.4 \
    toml==0.10.2 typing-inspect==0.9.0
venv/bin/python -W ignore - <<'PY'
from dataclasses import dataclass

import draccus
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf


@dataclass
class Run:
    name: str = "run"


GIVEN = ("2024_01_02", "0123", "1.10", "yes", "12:30:00", "pick #3", "pick the cup: red", "null", "2024-01-02", "'pick #3'")
found = {text: draccus.parse(Run, args=[f"--name={text}"]).name for text in GIVEN}
print("draccus", found)
assert found == {
    "2024_01_02": "20240102",
    "0123": "83",
    "1.10": "1.1",
    "yes": "True",
    "12:30:00": "45000",
    "pick #3": "pick",
    "pick the cup: red": "{'pick the cup': 'red'}",
    "null": None,
    "2024-01-02": "2024-01-02",
    "'pick #3'": "pick #3",
}

structured = {
    text: OmegaConf.merge(OmegaConf.structured(Run), OmegaConf.from_cli([f"name={text}"])).name for text in GIVEN[:2]
}
hydra = {text: str(OverridesParser.create().parse_override(f"name={text}").value()) for text in GIVEN[:2]}
print("omegaconf", structured, "hydra", hydra)
assert structured == {"2024_01_02": "20240102", "0123": "83"}
assert hydra == {"2024_01_02": "20240102", "0123": "0123"}
PY
