"""Tiny random models of every family, written once for all tests of a process."""

from collections.abc import Callable
from pathlib import Path

import pytest

REASON = "backbones of Hugging Face need transformers 5.4 or newer, peft (the extra vla), and a torch that they take"


def need_transformers() -> None:
    """Skip a module where pretrained backbones cannot be."""
    transformers = pytest.importorskip("transformers", minversion="5.4", reason=REASON)
    if not transformers.is_torch_available():  # peft could not be imported either
        pytest.skip(REASON, allow_module_level=True)
    pytest.importorskip("peft", minversion="0.18", reason=REASON)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`tiny(family)` is the folder of that family's tiny model. Do not write into it."""
    from tests.backbones.tiny import tiny_backbone

    root, made = tmp_path_factory.mktemp("tiny"), {}

    def folder(family: str) -> Path:
        if family not in made:
            made[family] = tiny_backbone(family, root / family)
        return made[family]

    return folder
