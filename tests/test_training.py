"""The loop: exact repetition and resume, Ctrl-C, logs, collapse warnings, two processes."""

import json
import math
import os
import signal

import pytest
import torch
from torch import nn

from lattok.checks import LattokError
from lattok.quantize import QuantizerConfig, VectorQuantizer
from lattok.runlog import METRICS, Meter, RunLog
from lattok.training import (
    CHECKPOINT,
    RUN,
    Interrupted,
    LoopOptions,
    SeededBatches,
    codebook_report,
    fit,
    learning_rate,
)


class Toy(nn.Module):
    """Dropout, a quantizer with a delayed start and a loss: everything that could break exact resume."""

    def __init__(self, dropout=0.2, **quantizer):
        super().__init__()
        torch.manual_seed(0)
        self.encode = nn.Sequential(nn.Linear(3, 8), nn.Dropout(dropout))
        options = {"dim": 8, "size": 4, "continuous_steps": 7, "revive_below": 0.2, **quantizer}
        self.quantizer = VectorQuantizer(QuantizerConfig(**options))
        self.decode = nn.Linear(8, 3)

    def forward(self, batch):
        (x,) = batch
        out = self.quantizer(self.encode(x))
        return {"reconstruction": (self.decode(out.vectors) - x).square().mean(), **out.losses}


WEIGHTS = {"reconstruction": 1.0, "commitment": 0.25}
DATA = torch.randn(64, 3, generator=torch.Generator().manual_seed(3))


def run(out, steps=20, interrupt_at=None, model=None, resume=False, **options):
    options = LoopOptions(**{"steps": steps, "batch_size": 16, "lr": 1e-2, "device": "cpu", "log_every": 5, **options})
    draw = SeededBatches(len(DATA), options.batch_size, options.seed)
    model = model or Toy()

    def batches(step, process, processes):
        if step == interrupt_at:
            os.kill(os.getpid(), signal.SIGINT)
        return (DATA[draw(step)[process::processes]],)

    fit(model, batches, options, out, loss_weights=WEIGHTS, resume=resume, resume_command="go on")
    return model


def tensors(model):
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def assert_same(first, second):
    for name, value in tensors(first).items():
        assert torch.equal(value, tensors(second)[name]), name


def steps_of(out):
    return [json.loads(line)["step"] for line in (out / RUN / METRICS).read_text().splitlines()]


def test_one_seed_gives_identical_weights_and_another_does_not(tmp_path):
    first, again = run(tmp_path / "a"), run(tmp_path / "b")
    assert_same(first, again)
    other = run(tmp_path / "c", seed=1)
    assert not torch.equal(first.decode.weight, other.decode.weight)


@pytest.mark.parametrize("interrupt_at", [2, 6, 7, 12])
def test_interrupted_and_resumed_equals_undisturbed(tmp_path, interrupt_at):
    whole = run(tmp_path / "whole")
    with pytest.raises(Interrupted, match=f"Saved at step {interrupt_at + 1} of 20 .*Continue with: go on"):
        run(tmp_path / "parts", interrupt_at=interrupt_at)
    torch.manual_seed(99)  # the state of the world after a restart is another one
    resumed = run(tmp_path / "parts", resume=True)
    assert_same(whole, resumed)
    assert steps_of(tmp_path / "whole") == steps_of(tmp_path / "parts") == [5, 10, 15, 20]


def test_metrics_after_the_checkpoint_are_dropped_on_resume(tmp_path):
    run(tmp_path, steps=10)
    with (tmp_path / RUN / METRICS).open("a") as file:
        file.write('{"step": 15, "loss": 1}\n{"step": 20, "lo')
    run(tmp_path, steps=20, resume=True)
    assert steps_of(tmp_path) == [5, 10, 15, 20]
    entry = json.loads((tmp_path / RUN / METRICS).read_text().splitlines()[2])
    assert {"loss", "loss/reconstruction", "loss/commitment", "grad_norm", "lr"} <= set(entry)


def test_bfloat16_trains_and_codes_stay_exact(tmp_path):
    model = run(tmp_path, precision="bf16")
    latents = torch.randn(50, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = model.quantizer(latents)
    assert torch.equal(rounded.codes, model.quantizer(latents).codes)
    assert rounded.vectors.dtype == torch.float32


def test_the_callers_random_numbers_are_left_alone(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    run(tmp_path, model=Toy2())
    assert torch.equal(torch.rand(3), expected)


class Toy2(Toy):
    """A toy that was built without touching the global generator."""

    def __init__(self):
        with torch.random.fork_rng():
            super().__init__()


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    run(tmp_path, steps=10, save_every=10)
    before = (tmp_path / RUN / CHECKPOINT).read_bytes()

    def full(state, path):
        path.write_bytes(b"half")
        raise RuntimeError("[enforce fail at inline_container.cc:671] . unexpected pos 3035456 vs 3035348")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="checkpoint not written"):
        run(tmp_path, steps=20, resume=True)
    assert (tmp_path / RUN / CHECKPOINT).read_bytes() == before
    assert not list((tmp_path / RUN).glob("*.tmp"))


def test_tensorboard_is_written(tmp_path):
    run(tmp_path)
    assert list((tmp_path / RUN / "tensorboard").glob("events*"))


def test_resuming_before_the_first_checkpoint_starts_anew(tmp_path):
    assert_same(run(tmp_path / "whole"), run(tmp_path / "parts", resume=True))


def test_a_damaged_checkpoint_is_one_line(tmp_path):
    run(tmp_path)
    (tmp_path / RUN / CHECKPOINT).write_bytes(b"rubbish")
    with pytest.raises(LattokError, match="expected a whole checkpoint"):
        run(tmp_path, resume=True)
    torch.save({"weights": 1}, tmp_path / RUN / CHECKPOINT)  # a file of somebody else
    with pytest.raises(LattokError, match="expected a whole checkpoint"):
        run(tmp_path, resume=True)


def test_another_error_while_a_checkpoint_is_written_is_not_a_full_disk(tmp_path, monkeypatch):
    def fails(state, path):
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(torch, "save", fails)
    with pytest.raises(RuntimeError, match="CUDA out of memory"):
        run(tmp_path)


def test_a_precision_that_accelerate_was_told_must_be_the_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    with pytest.raises(LattokError, match="`precision`: expected bf16, as accelerate was told, got no"):
        run(tmp_path)


def test_a_loss_that_is_not_finite_stops_with_its_name(tmp_path):
    model = Toy()
    nn.init.constant_(model.decode.weight, float("nan"))
    with pytest.raises(LattokError, match="`loss`: expected a finite number, got reconstruction not finite at step 1"):
        run(tmp_path, model=model)


def test_batches_visit_everything_once_per_pass():
    draw = SeededBatches(10, 4, seed=0)
    seen = torch.cat([draw(step) for step in range(5)])
    assert sorted(seen[:10].tolist()) == sorted(seen[10:].tolist()) == list(range(10))
    assert torch.equal(SeededBatches(10, 4, seed=0)(3), draw(3))  # a function of the step, not of history
    assert len(SeededBatches(3, 8, seed=0)(5)) == 8


def test_one_cycle_warms_up_peaks_and_ends_near_zero():
    options = LoopOptions(steps=100, lr=1.0, schedule="one_cycle")
    rates = [learning_rate(options, step) for step in range(100)]
    assert max(rates) == rates[10] == 1.0
    assert rates[0] < 0.05
    assert rates[-1] < 0.001
    assert {learning_rate(LoopOptions(steps=9, lr=0.5), step) for step in range(9)} == {0.5}


def quantizer_with(codes, size=16):
    quantizer = VectorQuantizer(QuantizerConfig(dim=2, size=size))
    quantizer.steps += 1
    quantizer.recent = codes
    return nn.ModuleDict({"control": quantizer})


def test_collapse_is_reported_with_numbers():
    report = codebook_report(quantizer_with(torch.randint(2, (500, 4))))
    assert len(report.warnings) == 1
    assert "codebook `control` is collapsing: 2 of 16 codes in use, perplexity 2.0" in report.warnings[0]
    assert report.values["codebook/control/used"] == 2


def test_tokens_that_repeat_one_another_are_reported():
    report = codebook_report(quantizer_with(torch.randint(16, (2000, 1)).expand(-1, 4)))
    assert len(report.warnings) == 1
    assert "its 4 tokens repeat one another: 16 rows, 4.0 bits jointly" in report.warnings[0]


def test_a_healthy_codebook_gives_no_warning():
    report = codebook_report(quantizer_with(torch.randint(16, (2000, 4))))
    assert report.warnings == []
    assert report.values["codebook/control/joint_bits"] > math.log2(1000)


def test_warnings_reach_the_terminal_and_the_log(tmp_path, capsys):
    model = Toy()
    model.quantizer = VectorQuantizer(QuantizerConfig(dim=8, size=64, start="normal", revive_below=0.0))
    run(tmp_path, model=model)
    assert "is collapsing" in capsys.readouterr().err
    assert "warnings" in (tmp_path / RUN / METRICS).read_text()


def test_a_warning_is_shown_once_and_its_end_too(tmp_path, capsys):
    log = RunLog(tmp_path, "run", 0, 40)
    for step, warnings in enumerate(
        [["codebook `q` is collapsing: 3 of 16"], ["codebook `q` is collapsing: 4 of 16"], []]
    ):
        log.write(10 * step + 10, {"loss": 1.0}, warnings)
    log.close()
    lines = [line for line in capsys.readouterr().err.splitlines() if "codebook" in line]
    assert lines == ["step 10: codebook `q` is collapsing: 3 of 16", "step 30: over: codebook `q` is collapsing"]


@pytest.mark.parametrize(("change", "text"), [({"steps": 0}, "`steps`"), ({"schedule": "x"}, "`schedule`")])
def test_bad_options(change, text):
    with pytest.raises(LattokError, match=text):
        LoopOptions(**change)


def _worker(rank, world, out):
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(world))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0", ACCELERATE_USE_CPU="true", CUDA_VISIBLE_DEVICES="")
    torch.set_num_threads(1)
    meeting = f"file://{out}/meeting-{world}"  # a port found free may be taken before it is used
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world)
    states = {}
    for warm in (0, 3):
        torch.manual_seed(0)
        config = QuantizerConfig(dim=4, size=8, levels=2, revive_below=0.3, continuous_steps=warm)
        quantizer = VectorQuantizer(config).train()
        x = torch.randn(9, 32, 4, generator=torch.Generator().manual_seed(0))
        for step, part in enumerate(x):
            torch.manual_seed(step + 100 * rank)  # what else draws random numbers differs between processes
            valid = torch.rand(32, generator=torch.Generator().manual_seed(step)) < 0.8
            quantizer(part[rank::world], valid=valid[rank::world])
        states.update({f"{warm}.{name}": tensor for name, tensor in quantizer.state_dict().items()})
    model = run(out / f"run-{world}", model=Toy(dropout=0.0, revive_below=0.1), clip_norm=1e9)
    if rank == 0:
        torch.save({**states, **model.state_dict()}, out / f"state-{world}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_learn_what_one_does(tmp_path):
    for world in (1, 2):
        torch.multiprocessing.spawn(_worker, args=(world, tmp_path), nprocs=world)
    one, two = (torch.load(tmp_path / f"state-{world}.pt", weights_only=True) for world in (1, 2))
    for name, value in one.items():
        torch.testing.assert_close(
            two[name], value, atol=1e-5, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        ({"start": "normal"}, "Start it from data: codebook_start=kmeans."),
        ({"revive_below": 0.0}, "Revive dead codes: revive_below=0.03."),
        ({}, "lower lr or start the codebook later"),
    ],
)
def test_the_warning_names_what_has_not_been_tried(options, remedy):
    quantizer = VectorQuantizer(QuantizerConfig(dim=2, size=16, **options))
    quantizer.steps += 1
    quantizer.recent = torch.zeros(100, 4, dtype=torch.long)
    assert remedy in codebook_report(nn.ModuleDict({"control": quantizer})).warnings[0]


def test_step_decay_multiplies_the_rate_every_so_often():
    options = LoopOptions(steps=80_000, lr=1e-4, schedule="step")  # Table 8
    assert learning_rate(options, 0) == learning_rate(options, 9_999) == 1e-4
    assert learning_rate(options, 10_000) == 0.5e-4
    assert learning_rate(options, 79_999) == pytest.approx(1e-4 / 2**7)
    options = LoopOptions(lr=1.0, schedule="step", decay_every=3, decay_factor=0.1)
    assert learning_rate(options, 7) == pytest.approx(0.01)


class Terms(nn.Module):
    """Loss terms as given, each times the only parameter but for those to detach."""

    def __init__(self, terms, detached=()):
        super().__init__()
        self.weight, self.terms, self.detached = nn.Parameter(torch.ones(())), terms, detached

    def forward(self, batch):
        return {k: (self.weight.detach() if k in self.detached else self.weight) * v for k, v in self.terms.items()}


def fit_terms(out, model, weights):
    options = LoopOptions(steps=1, batch_size=4, device="cpu")
    return fit(model, lambda *_: (torch.zeros(4),), options, out, loss_weights=weights)


def test_terms_without_a_weight_are_only_logged(tmp_path):
    model = Terms({"action": 2.0, "latent": 3.0, "accuracy": 0.25}, detached=["accuracy"])
    last = fit_terms(tmp_path, model, {"action": 1.0, "latent": 0.5, "absent": 1.0})
    expected = {"loss": 3.5, "loss/action": 2.0, "loss/latent": 3.0, "accuracy": 0.25, "grad_norm": 3.5, "lr": 1e-4}
    assert last == pytest.approx(expected)


def test_a_term_with_a_gradient_needs_a_weight(tmp_path):
    model = Terms({"action": 2.0, "latent": 3.0})
    with pytest.raises(LattokError, match="`latent`: expected a loss term with a weight in loss_weights, or without a"):
        fit_terms(tmp_path, model, {"action": 1.0})
    with pytest.raises(LattokError, match="`loss_weights`: expected a weight for one of the terms action, latent"):
        fit_terms(tmp_path / "none", model, {"other": 1.0})


def test_speed_and_memory_are_logged(tmp_path):
    run(tmp_path, steps=20, log_every=5)
    for line in (tmp_path / RUN / METRICS).read_text().splitlines():
        entry = json.loads(line)
        assert 0 < entry["samples_per_second"] < 1e7
        assert 0.05 < entry["memory_gb"] < 100  # torch alone takes more than 50 MB


def test_speed_is_that_of_the_interval(monkeypatch):
    clock = iter([10.0, 12.0, 16.0])
    monkeypatch.setattr("lattok.runlog.time.monotonic", lambda: next(clock))
    meter = Meter(batch_size=32, first=100, device=torch.device("cpu"))
    assert meter.read(110)["samples_per_second"] == pytest.approx(160)
    assert meter.read(150)["samples_per_second"] == pytest.approx(320)
