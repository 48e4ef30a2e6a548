"""Tokenizers that have learned, fitted once for all tests of a process. Do not change them."""

import pytest

from tests.action_vq.families import learned


@pytest.fixture
def residual():
    return learned("residual-vq")


@pytest.fixture
def fsq():
    return learned("fsq")


@pytest.fixture
def vqbet():
    return learned("vqbet")
