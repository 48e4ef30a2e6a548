"""How tests ask for an error: one line that names the argument."""

from collections.abc import Callable
from typing import Any

import pytest

from lattok.utils.checks import LattokError


def refused(match: str | None, call: Callable[..., Any], *args: Any, **options: Any) -> str:
    """Ask that a call raises a `LattokError` of one line in which the pattern is found, and return it.

    As a rule the pattern is the argument's name; None where the caller looks at the line itself. What such a message
    says besides is tested once, in tests/utils/test_checks.py, and where it is computed.
    """
    with pytest.raises(LattokError, match=match) as error:
        call(*args, **options)
    said = str(error.value)
    assert "\n" not in said
    return said
