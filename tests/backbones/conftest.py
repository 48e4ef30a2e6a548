"""Tiny random models of every family, written once for all tests of a process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`tiny(family)` is the folder of that family's tiny model. Do not write into it."""
    from lattok.vla.testing import tiny_backbone

    root, made = tmp_path_factory.mktemp("tiny"), {}

    def folder(family: str) -> Path:
        if family not in made:
            made[family] = tiny_backbone(family, root / family)
        return made[family]

    return folder
