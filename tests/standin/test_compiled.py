"""`torch.compile` of training: whole graphs, and with torch's own kernels the same numbers."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters

import lattok
from lattok.training import loop
from tests.standin.conftest import assert_same, make, on_host

# the compiler looks at `grad` of every tensor; outside of pytest it silences this itself
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")


@pytest.fixture(autouse=True)
def _graphs_of_torchs_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Graphs as the compiler sees them, computed by the kernels that they name: compiling these takes minutes."""
    own = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **options: own(function, backend="eager", **options))
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("kind", ["action-vq", "idm", "image-lam, flow", "vla, la_cond"])
def test_parts_of_models_are_whole_graphs(kind: str, folder: Path, tmp_path: Path):
    expected = lattok.train(make(kind, folder, tmp_path / "plain", "cpu"))
    assert not counters["stats"]
    found = lattok.train(make(kind, folder, tmp_path / "compiled", "cpu", compile=True))
    assert_same(on_host(found), on_host(expected))
    assert counters["stats"]["unique_graphs"] > 0
    assert not counters["graph_break"]
    assert not any("forward" in vars(part) for part in found.modules())  # as it was: nothing is compiled afterwards


def test_a_run_that_fails_leaves_the_model_as_it_was():
    model = torch.nn.ModuleDict({"encoder": torch.nn.Linear(2, 2), "other": torch.nn.Linear(2, 2)})
    own = lambda: [name for name, part in model.named_modules() if "forward" in vars(part)]  # noqa: E731
    with loop.compiled(model):
        assert own() == ["encoder"]

    def fails() -> None:
        with loop.compiled(model):
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert own() == []
