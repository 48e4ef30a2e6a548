"""Store a small artefact of every family in tests/golden: python scripts/make_golden.py, once for a minor release."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests import golden

if __name__ == "__main__":
    print(golden.add())
