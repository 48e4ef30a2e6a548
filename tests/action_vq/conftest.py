"""Tokenizers that code coarse to fine, fitted once for all tests of a process. Do not change them."""

from __future__ import annotations

import pytest

from lattok import FSQ, ResidualVQ
from tests.action_vq import walks


@pytest.fixture(scope="session")
def residual() -> ResidualVQ:
    return ResidualVQ.fit(walks.saturating(), **walks.RESIDUAL)


@pytest.fixture(scope="session")
def fsq() -> FSQ:
    return FSQ.fit(walks.saturating(), **walks.FSQ)
