"""What benchmarks/speed/vla_step.py compares with does the same, and its memory is measured right."""

from pathlib import Path

import pytest
import torch

from tests.backbones.conftest import need_transformers

need_transformers()

from benchmarks.reference.vla import StraightforwardVLA  # noqa: E402
from benchmarks.speed import gpu, vla_models, vla_step  # noqa: E402
from benchmarks.speed.vla_states import Alive  # noqa: E402
from lattok.backbones.hf import HFBackbone  # noqa: E402
from tests.backbones.tiny import tiny_backbone  # noqa: E402

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> HFBackbone:
    folder: Path = tiny_backbone("qwen3_vl", tmp_path_factory.mktemp("qwen"))
    return vla_models.make_backbone(folder, 2, vla_models.NARROW, torch.float32, CPU)


@pytest.mark.parametrize("strategy", ["baseline", "la_cond"])
def test_both_ways_predict_the_same_actions(backbone: HFBackbone, strategy: str) -> None:
    policy = vla_models.make_policy(strategy, backbone, CPU)
    plain, batch = StraightforwardVLA(policy, first_code=0), vla_models.make_batch(policy, CPU, count=2)
    assert vla_step.agreement_of(policy, plain, batch) < 1e-5
    assert ("latent" in plain(batch)) == (strategy != "baseline")


def test_the_sequence_is_as_long_as_it_says(backbone: HFBackbone) -> None:
    policy = vla_models.make_policy("la_direct", backbone, CPU)
    alive = Alive(backbone)
    policy.predict_chunk(vla_models.make_observation(policy, CPU))
    alive.close()
    assert alive.length == vla_models.LENGTH
    assert len(alive.hooks) == backbone.num_layers + 1
    assert alive.bytes() == 0


@pytest.mark.filterwarnings("ignore:Warning. Profiler clears events:UserWarning")  # of torch 2.11
def test_the_peak_counts_what_is_alive_at_once() -> None:
    def call() -> None:
        for _ in range(3):
            torch.empty(1000, 1000)  # 4 MB, released at once
        kept = torch.empty(500, 1000)
        torch.empty(1000, 1000)
        del kept

    assert vla_step.peak(call, CPU) == 6_000_000


def test_the_losses_are_the_same_objective() -> None:
    setting = vla_models.Setting(vla_models.NARROW, 2, 2, 1, torch.float32, CPU, ())
    value = vla_step.latent_loss(setting)["value"]
    assert value["difference"] <= 1e-6
    assert value["relative difference of gradients"] <= 1e-6


@pytest.mark.slow
def test_the_benchmark_for_gpus_runs_at_toy_sizes(tmp_path: Path) -> None:
    of = gpu.rates(CPU, peak=1.0, quick=True)
    labelled, trained = gpu.labelling(CPU, of, quick=True), gpu.la_cond(CPU, of, True, 5, tmp_path)
    assert labelled["bfloat16"]["frames_per_s"] > 0
    assert trained["frames_per_s"] == pytest.approx(2 * trained["samples_per_s"])  # two cameras
    reached = trained["tflop_per_step"] / trained["seconds_per_step"]
    assert trained["share_of_peak"] == pytest.approx(reached)
