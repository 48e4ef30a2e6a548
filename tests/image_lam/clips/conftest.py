"""Tiny backbones, the same as in their own tests."""

from tests.backbones.conftest import tiny as tiny
