"""How tests ask for an error: one line that names the argument."""

from collections.abc import Callable
from typing import Any

import pytest

from lattok.utils.checks import LattokError


def refused(match: str, call: Callable[..., Any], *args: Any, **options: Any) -> None:
    """Ask that a call raises a `LattokError` of one line in which the pattern is found: as a rule the argument's name.

    What such a message says besides is tested once, in tests/utils/test_checks.py, and where it is computed.
    """
    with pytest.raises(LattokError, match=match) as error:
        call(*args, **options)
    assert "\n" not in str(error.value)
