"""What steps and labels dispatch is not more than what is stored: counts are exact, unlike times."""

import json

import pytest

from tests.backbones.conftest import need_transformers

need_transformers()

from benchmarks.common import environment  # noqa: E402
from benchmarks.speed import launches  # noqa: E402
from tests.accelerator import AVAILABLE  # noqa: E402

pytestmark = [pytest.mark.ci, pytest.mark.skipif(not AVAILABLE, reason="torch has no such devices")]


def test_nothing_launches_more_than_what_is_stored():
    stored = json.loads(launches.STORED.read_text())
    here = environment()
    if any(stored["environment"][name] != here[name] for name in ("torch", "transformers")):
        pytest.skip("other versions dispatch other operations")
    found = launches.small()
    assert found.keys() == stored["small"].keys()
    more = {
        f"{name}: {key}": (value, stored["small"][name][key])
        for name, figures in found.items()
        for key, value in figures.items()
        if value > stored["small"][name][key]
    }
    assert not more, "python -m benchmarks.speed.launches --small shows all; a new way has to pay for what it adds"
