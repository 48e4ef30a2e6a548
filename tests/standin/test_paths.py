"""What is done with artefacts on the stand-in: labels, reports, comparisons, rollouts and a server, as on the CPU."""

import copy
import pickle
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lattok
from lattok.annotation import annotate, verify
from lattok.annotation.engines import _Worker
from lattok.annotation.labels import Work
from lattok.annotation.units import Unit, UnitLabels
from lattok.cli import main
from lattok.evaluation import compare, evaluate
from lattok.evaluation.evidence import probes
from lattok.image_lam.inverse import InverseDynamics, InverseDynamicsConfig
from lattok.training import LoopOptions
from tests.accelerator import NAME, Device
from tests.conftest import CAMERAS
from tests.image_lam.clips.fakes import clip_lam
from tests.standin.conftest import IDM, make
from tests.vla import fakes

CHOSEN: dict[str, Any] = {"episodes": [1, 4]}
READS = 40  # of a batch of labels: arrays that are copied to the host


@pytest.fixture(autouse=True)
def _short_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "STEPS", 5)


@pytest.fixture(scope="module")
def models(folder: Path) -> dict[str, Any]:
    torch.manual_seed(0)
    idm = InverseDynamics(InverseDynamicsConfig(CAMERAS, 3, **IDM)).eval()
    idm.set_range(torch.tensor([[-3.0] * 3, [3.0] * 3]))
    made = {"lam": lattok.load(folder / "lam"), "vq": lattok.load(folder / "vq"), "idm": idm}
    return made | {"clips": clip_lam(), "bins": lattok.load(folder / "bins")}


def there(model: Any) -> Any:
    return copy.deepcopy(model).to(NAME)


def columns(folder: Path) -> dict[str, np.ndarray]:
    """Everything that was written, of all episodes."""
    dataset = lattok.open_dataset(folder)
    keys = [key for key in dataset.features if key.split(".")[0] in ("latent", "tokens", "more", "third")]
    assert keys
    return {key: np.concatenate([dataset.columns(e.index, [key])[key] for e in dataset.episodes]) for key in keys}


def test_labels_are_those_of_the_cpu(folder: Path, models: dict[str, Any], tmp_path: Path, device: Device):
    data = lattok.open_dataset(folder / "data")
    chosen = {"latent": models["lam"], "tokens": models["vq"], "more": models["idm"], "third": models["clips"]}
    expected = columns(annotate(data, chosen, tmp_path / "cpu"))
    device.waits.clear()
    moved = {name: there(model) for name, model in chosen.items()}
    device.waits.clear()
    out = annotate(data, moved, tmp_path / "device")
    assert len(device.waits) <= READS * len(chosen) * len(data.episodes)
    found = columns(out)
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        np.testing.assert_array_equal(found[key], values, key)
    assert verify(out, chosen).holds  # the CPU's own


class OneOfEach:
    """A worker on the CPU and one on the accelerator, as a cluster may have them; models come from either."""

    device: str | None = NAME

    def label(self, work: Work, units: Sequence[Unit]) -> Iterator[tuple[Unit, UnitLabels]]:
        workers = [_Worker(work._replace(models=copy.deepcopy(work.models)), where, 1) for where in ("cpu", NAME)]
        assert len(units) > 1
        for unit, worker in zip(units, cycle(workers), strict=False):
            yield unit, worker.label(pickle.loads(pickle.dumps(unit)))


def test_workers_on_different_devices_label_alike(
    folder: Path, models: dict[str, Any], tmp_path: Path, device: Device, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("lattok.annotation.UNIT_FRAMES", 1)
    data = lattok.open_dataset(folder / "data")
    chosen = {"latent": models["lam"], "tokens": models["vq"]}
    expected = columns(annotate(data, chosen, tmp_path / "cpu"))
    mixed = {"latent": models["lam"], "tokens": there(models["vq"])}
    out = annotate(data, mixed, tmp_path / "both", engine=OneOfEach())
    assert {key: values.tobytes() for key, values in columns(out).items()} == {
        key: values.tobytes() for key, values in expected.items()
    }


@pytest.mark.parametrize("name", ["lam", "vq", "bins", "idm", "clips"])
def test_reports_are_those_of_the_cpu(name: str, folder: Path, models: dict[str, Any], device: Device):
    assert_judged_alike(models[name], folder / "data")


def assert_judged_alike(model: Any, data: Path, **options: Any) -> None:
    expected, found = (evaluate(each, data, **CHOSEN, **options) for each in (model, there(model)))
    assert found.figures == pytest.approx(expected.figures, rel=0, abs=0, nan_ok=True)
    assert [each.text for each in found.verdicts] == [each.text for each in expected.verdicts]


def test_controls_are_trained_where_the_model_is(folder: Path, models: dict[str, Any], device: Device):
    loop = LoopOptions(steps=2, batch_size=4)
    assert_judged_alike(models["lam"], folder / "data", controls="trained", control_loop=loop)


@pytest.mark.parametrize("kind", ["vla, la_align", "vla, flow", "vla, tokens"])
def test_policies_are_judged_as_on_the_cpu(kind: str, folder: Path, tmp_path: Path, device: Device):
    assert_judged_alike(lattok.train(make(kind, folder, tmp_path / "policy", "cpu")), folder / "annotated")


def test_models_are_compared_as_on_the_cpu(folder: Path, models: dict[str, Any], device: Device):
    chosen = {"one": models["lam"], "two": models["clips"]}
    data = lattok.open_dataset(folder / "data")
    expected = compare(data, chosen, **CHOSEN)
    found = compare(data, chosen, device=NAME, **CHOSEN)
    same = {name: value for name, value in expected.figures.items() if "speed" not in name}
    assert {name: found.figures[name] for name in same} == pytest.approx(same, rel=0, abs=0, nan_ok=True)


@pytest.mark.skipif(find_spec("gymnasium") is None or find_spec("mujoco") is None, reason="the sim extra is missing")
@pytest.mark.parametrize("head", ["regression", "flow"])
def test_policies_act_as_on_the_cpu(head: str, device: Device):
    from lattok.sim import rollout
    from tests.sim.test_agents import SIZES

    policy = fakes.policy(head=head, **SIZES).eval()
    expected, found = rollout(policy, "toy", 1), rollout(there(policy), "toy", 1)
    assert found.episodes == expected.episodes


def test_a_server_answers_as_on_the_cpu(device: Device):
    vla_eval = pytest.importorskip("vla_eval", reason="needs vla-eval")
    from lattok_vla_eval import PolicyServer
    from tests.integrations.serving_worlds import Table
    from tests.integrations.test_vla_eval import ARGS

    policy, said = fakes.policy(action_dim=4, horizon=4).eval(), []
    episode = {"benchmark": "tests.integrations.serving_worlds:Table", "episodes_per_task": 1, "params": {"seed": 5}}
    for one in (policy, there(policy)):
        Table.log.clear()
        (result,) = vla_eval.evaluate(PolicyServer(one, **ARGS), {"benchmarks": [episode]}, no_save=True, docker=False)
        assert result.get("num_errors", 0) == 0
        said.append(np.stack([value["actions"] for kind, value in Table.log if kind == "action"]))
    np.testing.assert_array_equal(*said)


def test_the_command_line_takes_its_name(folder: Path, tmp_path: Path, device: Device, capsys):
    data, lam = str(folder / "data"), str(folder / "lam")
    given = ["--device", f"{NAME}:0"]
    assert main(["annotate", data, "--model", lam, "--out", str(tmp_path / "out"), *given]) == 0
    assert main(["verify", str(tmp_path / "out"), "--model", lam, *given]) == 0
    short = ["--precision", "bfloat16", "--out", str(tmp_path / "short")]
    assert main(["annotate", data, "--model", lam, *short, *given]) == 0
    assert main(["verify", str(tmp_path / "short"), "--model", lam, *given]) == 0
    assert main(["evaluate", str(folder / "bins"), data, "--out", str(tmp_path / "report"), *given]) == 0
    assert main(["doctor"]) in (0, 1)
    assert f"{NAME}:0 stand-in" in capsys.readouterr().out
