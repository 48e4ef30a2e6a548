"""Several processes, accumulated parts and shards (FSDP2, with gloo on CPUs) log and learn what one process does."""

import json
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from accelerate import Accelerator
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch import nn

from lattok.samples.order import BatchSampler, Passes
from lattok.training import CHECKPOINT, RUN, LoopOptions, distributed, fit
from lattok.training.runlog import METRICS
from tests.errors import refused
from tests.process_jobs import together

DATA = torch.randn(64, 3, generator=torch.Generator().manual_seed(3))
SPEED = {"samples_per_second", "data_wait", "memory_gb"}
RUNS = {  # name: shards, accumulated parts, precision
    "plain": (False, 1, "no"),
    "parts": (False, 2, "no"),
    "plain-bf16": (False, 1, "bf16"),
    "shards": (True, 1, "no"),
    "shards-parts": (True, 4, "no"),
    "shards-bf16": (True, 1, "bf16"),
}
BEFORE, STEPS = 6, 9  # steps before a restart, and in all


class Batch(NamedTuple):
    x: torch.Tensor
    texts: list[str]
    target: torch.Tensor | None = None


class Policy(nn.Module):
    """A frozen part, a trained one, a parameter of its own, a buffer that grows, and texts in its batches."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.frozen = nn.Linear(3, 8).requires_grad_(False)
        self.body = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 3))
        self.queries = nn.Parameter(torch.randn(5))
        self.register_buffer("count", torch.zeros(0), persistent=False)

    def forward(self, batch: Batch):
        assert isinstance(batch, Batch)
        assert batch.target is None
        assert [type(text) for text in batch.texts] == [str] * len(batch.x)
        self.count = torch.cat([self.count, torch.ones(1)])
        if sharded := hasattr(self.queries, "full_tensor"):
            raise AssertionError(f"forward sees shards: {sharded}")
        out = self.body(self.frozen(batch.x))
        lengths = torch.tensor([float(len(text)) for text in batch.texts])
        action = ((out - batch.x).square().mean(-1) * lengths).mean()
        return {"action": action, "latent": self.queries.square().sum(), "figure": out.detach().mean()}


def train(out, steps, accumulate=1, precision="no", resume=False):
    """AdamW, a falling learning rate, clipped gradients."""
    loop = LoopOptions(
        steps=steps,
        batch_size=16,
        accumulate=accumulate,
        ema=0.7,
        precision=precision,
        lr=1e-2,
        optimizer="adamw",
        weight_decay=0.1,
        schedule="step",
        decay_every=4,
        clip_norm=0.5,
        device="cpu",
        log_every=1,
        save_every=3,
    )
    draw, model = BatchSampler([Passes(len(DATA), 0)], 16), Policy()

    def batches(step, process, processes):
        rows = draw(step)[process::processes]
        return Batch(DATA[rows], ["x" * (int(row) % 5) for row in rows])

    fit(model, batches, loop, out, loss_weights={"action": 1.0, "latent": 0.1, "other": 1.0}, resume=resume)
    return model


class Sharding(Accelerator):
    """As `accelerate launch` with examples/accelerate/fsdp2.yaml makes it; on CPUs accelerate has to be told."""

    def __init__(self, **options):
        super().__init__(**options)
        self.state.distributed_type = DistributedType.FSDP
        self.state.fsdp_plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2,
            auto_wrap_policy="transformer_based_wrap",
            transformer_cls_names_to_wrap=["Linear"],
            cpu_ram_efficient_loading=False,
        )
        if self.mixed_precision != "no":
            self.state.fsdp_plugin.set_mixed_precision(self.mixed_precision)


def _worker(rank, out):
    for name, (shards, parts, precision) in {**RUNS, "shards-begun": RUNS["shards"]}.items():
        distributed.Accelerator = Sharding if shards else Accelerator
        model = train(out / name, BEFORE, parts, precision)
        if name in RUNS:
            model = train(out / name, STEPS, parts, precision, resume=True)
        assert not any(hasattr(tensor, "full_tensor") for tensor in model.parameters())
        model(Batch(DATA[: 4 * rank], [""] * 4 * rank))  # by itself: nothing of the shards is left on it
        torch.save((dict(model.named_parameters()), model.count), out / f"{name}-{rank}.pt")


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """The folder with all `RUNS` of two processes."""
    if not hasattr(Accelerator, "is_fsdp2"):
        pytest.skip("this accelerate has no FSDP2")
    out = tmp_path_factory.mktemp("shared")
    together(_worker, out)
    return out


def logged(out):
    return [json.loads(line) for line in (out / RUN / METRICS).read_text().splitlines()]


def assert_same_log(one, other):
    assert [line["step"] for line in one] == [line["step"] for line in other]
    for first, second in zip(one, other, strict=True):
        assert first.keys() == second.keys()
        for name in first.keys() - SPEED:
            assert first[name] == pytest.approx(second[name], abs=1e-5), name


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    out = tmp_path_factory.mktemp("alone")
    return out, train(out, STEPS)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, run in RUNS.items() if run[2] == "no"])
def test_two_processes_log_and_learn_what_one_does(name, alone, shared):
    assert_same_log(logged(alone[0]), logged(shared / name))
    for rank in (0, 1):
        parameters, count = torch.load(shared / f"{name}-{rank}.pt", weights_only=True)
        assert len(count) == 1 + STEPS * RUNS[name][1]  # the buffer came back from the checkpoint
        for key, value in alone[1].named_parameters():
            torch.testing.assert_close(parameters[key], value, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_shards_are_rounded_as_whole_models_are(shared):
    assert_same_log(logged(shared / "plain-bf16"), logged(shared / "shards-bf16"))
    whole, shards = (torch.load(shared / f"{name}-bf16-0.pt", weights_only=True)[0] for name in ("plain", "shards"))
    for key, value in whole.items():
        torch.testing.assert_close(shards[key], value, atol=1e-5, rtol=0)
    exact = logged(shared / "plain")
    assert exact[-1]["loss/action"] != pytest.approx(logged(shared / "plain-bf16")[-1]["loss/action"], abs=1e-5)


@pytest.mark.slow
def test_one_process_goes_on_from_the_checkpoint_of_shards(alone, shared):
    saved = torch.load(shared / "shards-begun" / RUN / CHECKPOINT, weights_only=True)
    assert saved["step"] == BEFORE
    assert {name: tensor.shape for name, tensor in saved["model"].items() if name != "count"} == {
        name: p.shape for name, p in alone[1].named_parameters() if p.requires_grad
    }
    model = train(shared / "shards-begun", STEPS, resume=True)
    assert_same_log(logged(alone[0]), logged(shared / "shards-begun"))
    for key, value in alone[1].named_parameters():
        torch.testing.assert_close(model.get_parameter(key), value, atol=1e-5, rtol=0)


@pytest.mark.parametrize("parts", [2, 8])
def test_parts_of_a_batch_are_the_batch(parts, alone, tmp_path):
    model = train(tmp_path, STEPS, parts)
    assert_same_log(logged(alone[0]), logged(tmp_path))
    for key, value in alone[1].named_parameters():
        torch.testing.assert_close(model.get_parameter(key), value, atol=1e-5, rtol=0)


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path):
    refused("`batch_size`", train, tmp_path, 1, 3)


@pytest.mark.parametrize("name", ["ddp", "fsdp2"])
def test_the_example_configurations_are_what_accelerate_reads(name):
    if name == "fsdp2" and not hasattr(Accelerator, "is_fsdp2"):
        pytest.skip("this accelerate has no FSDP2")
    path = Path(__file__).parents[2] / "examples" / "accelerate" / f"{name}.yaml"
    config = load_config_from_file(str(path))
    known = {action.dest for action in launch_command_parser()._actions}
    assert set(config.fsdp_config) <= known
    assert config.fsdp_config.get("fsdp_version") == (2 if name == "fsdp2" else None)
    assert config.mixed_precision == "no"
