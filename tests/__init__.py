"""Tests. Scripts share helpers with them, and so need what pytest's settings name: packages of integrations."""

import sys
from pathlib import Path

sys.path += [str(path) for path in sorted(Path(__file__).parents[1].glob("integrations/*/src"))]
