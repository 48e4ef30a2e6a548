"""The loop: exact repetition and resume, Ctrl-C, logs, collapse warnings, two processes."""

import errno
import importlib
import json
import math
import os
import resource
import shutil
import signal
import struct
import sys
import threading
import time
from contextlib import contextmanager
from itertools import count
from types import MappingProxyType, SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from lattok.cli import _of_system
from lattok.nn.quantize import QuantizerConfig, VectorQuantizer
from lattok.samples.order import BatchSampler, Passes
from lattok.training import CHECKPOINT, RUN, LoopOptions, checkpoints, fit, learning_rate
from lattok.training.distributed import AnySignal
from lattok.training.feed import BatchSource
from lattok.training.runlog import METRICS, Meter, RunLog, codebook_report, read_metrics
from lattok.utils import signals
from lattok.utils.checks import LattokError
from lattok.utils.signals import ASKING, Interrupted, deferred
from tests.errors import refused


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


def run(out, steps=20, interrupt_at=None, model=None, resume=False, rates=MappingProxyType({}), **options):
    options = LoopOptions(**{"steps": steps, "batch_size": 16, "lr": 1e-2, "device": "cpu", "log_every": 5, **options})
    draw = BatchSampler([Passes(len(DATA), options.seed)], options.batch_size)
    model = model or Toy()

    passes = count()

    def batches(step, process, processes):
        return (DATA[draw(step)[process::processes]],)

    def asked(module, args):
        if next(passes) == interrupt_at:
            os.kill(os.getpid(), signal.SIGINT)

    hook = model.register_forward_pre_hook(asked)
    fit(model, batches, options, out, loss_weights=WEIGHTS, rates=rates, resume=resume, resume_command="go on")
    hook.remove()
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


def decoder_at(rate):
    """Rates of a toy: that of the loop, but for the decoder."""
    return {"decode.": rate}


@pytest.mark.parametrize(
    ("options", "interrupt_at"),
    [
        *(({}, step) for step in (2, 6, 7, 12)),
        *(({"ema": 0.9}, step) for step in (3, 12, 19)),
        ({"rates": decoder_at(0.3)}, 7),
    ],
)
def test_interrupted_and_resumed_equals_undisturbed(tmp_path, options, interrupt_at):
    """Averages of the weights too, which a finished run still gives."""
    whole = run(tmp_path / "whole", **options)
    with pytest.raises(Interrupted, match=f"Saved at step {interrupt_at + 1} of 20 .*Continue with: go on"):
        run(tmp_path / "parts", interrupt_at=interrupt_at, **options)
    torch.manual_seed(99)  # the state of the world after a restart is another one
    for _ in range(2):
        assert_same(whole, run(tmp_path / "parts", resume=True, **options))
    assert steps_of(tmp_path / "whole") == steps_of(tmp_path / "parts") == [5, 10, 15, 20]


def test_a_codebook_starts_at_its_step_however_many_parts_a_batch_has(tmp_path):
    model, started = Toy(), []
    hook = model.register_forward_hook(lambda *_: started.append(model.quantizer.started))
    run(tmp_path / "run", model=model, accumulate=4)
    hook.remove()
    assert started == [False] * 28 + [True] * 52
    assert (model.quantizer.steps, model.quantizer.parts, model.quantizer.part) == (20, 1, 0)


def averaged_by_numpy(history, decay):
    """Average float64 arrays: the start, then the weights after each step."""
    average = history[0]
    for done, weights in enumerate(history[1:], 1):
        keep = min(decay, done / (9 + done))
        average = keep * average + (1 - keep) * weights
    return average


@pytest.mark.parametrize("decay", [0.5, 0.999])
def test_the_model_ends_with_averages_of_its_weights_and_the_last_buffers(decay, tmp_path, monkeypatch):
    history = {name: [] for name, _ in Toy().named_parameters()}
    forward = Toy.forward

    def logged(self, batch):
        for name, value in self.named_parameters():
            history[name].append(value.detach().double().numpy().copy())
        return forward(self, batch)

    monkeypatch.setattr(Toy, "forward", logged)
    model = run(tmp_path / "averaged", ema=decay)
    monkeypatch.undo()
    last = run(tmp_path / "last")  # averages change nothing that is learned
    for name, value in model.named_parameters():
        expected = averaged_by_numpy([*history[name], last.get_parameter(name).detach().double().numpy()], decay)
        np.testing.assert_allclose(value.detach().numpy(), expected, rtol=0, atol=1e-6)
        assert not torch.equal(value, last.get_parameter(name))
    for name, value in model.named_buffers():
        assert torch.equal(value, last.get_buffer(name)), name
    assert "average" not in torch.load(tmp_path / "last" / RUN / CHECKPOINT, weights_only=True)


def test_a_decay_is_below_one_and_averages_that_are_missing_are_an_error(tmp_path):
    refused("`ema`", LoopOptions, ema=1.0)
    run(tmp_path, steps=10)
    refused(r"got none that holds averages, as `ema` asks for\.", run, tmp_path, ema=0.9, resume=True)


def test_parts_learn_at_rates_of_their_own(tmp_path):
    before, moved = tensors(Toy()), {}
    for rate in (1.0, 0.1, 0.0):
        after = tensors(run(tmp_path / str(rate), steps=1, rates=decoder_at(rate)))
        moved[rate] = {name: (after[name] - before[name]).abs() for name in ("encode.0.weight", "decode.weight")}
        # the first step of Adam is the learning rate, whatever the gradient
        torch.testing.assert_close(moved[rate]["encode.0.weight"], torch.full((8, 3), 1e-2), rtol=1e-3, atol=0)
        torch.testing.assert_close(moved[rate]["decode.weight"], torch.full((3, 8), rate * 1e-2), rtol=1e-3, atol=0)
    assert_same(run(tmp_path / "one rate"), run(tmp_path / "two alike", rates=decoder_at(1.0)))
    refused(r"`rate of decode\.`", lambda: run(tmp_path / "wrong", rates=decoder_at(-1.0)))


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
    save = torch.save

    def full(state, file):
        with open("/dev/full", "wb") as device:
            os.dup2(device.fileno(), file.fileno())
        save(state, file)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match=f"checkpoint not written: No space left on device: .*{CHECKPOINT}"):
        run(tmp_path, steps=20, resume=True)
    assert (tmp_path / RUN / CHECKPOINT).read_bytes() == before
    assert not list((tmp_path / RUN).glob("*tmp"))


def test_a_limit_on_sizes_of_files_is_no_full_disk(tmp_path):
    """It used to be called one, with 48 GB free: torch does not say what the system said."""
    model, given = nn.Linear(300, 300), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, given[1]))
    try:
        with pytest.raises(OSError, match=r"checkpoint not written: File too large: .*state\.pt") as caught:
            checkpoints.save(model, torch.optim.AdamW(model.parameters()), tmp_path / "state.pt", 1, True, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, given)
    assert caught.value.errno == errno.EFBIG
    assert not list(tmp_path.iterdir())
    assert "Free space" not in _of_system(caught.value, ["train", "--out", "x"])


def test_tensorboard_is_written(tmp_path):
    pytest.importorskip("tensorboard")
    run(tmp_path)
    assert list((tmp_path / RUN / "tensorboard").glob("events*"))


def test_without_tensorboard_a_run_logs_the_same_figures(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    run(tmp_path / "with")
    monkeypatch.setitem(sys.modules, "tensorboard", None)  # as if it were not installed
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard")
    run(tmp_path / "without")
    assert not (tmp_path / "without" / RUN / "tensorboard").exists()
    read = [read_metrics(tmp_path / name / RUN / METRICS) for name in ("with", "without")]
    one, other = ([(entry["step"], entry["loss"]) for entry in each] for each in read)
    assert one == other


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_tracker_that_is_not_there(name, tmp_path, monkeypatch):
    refused("`tracker`", LoopOptions, tracker="board")
    monkeypatch.setattr("lattok.training.runlog.find_spec", lambda name: None)
    refused(rf"`tracker` {name} is not installed. Install it: pip .*\[{name}\]'", run, tmp_path, tracker=name)
    assert not (tmp_path / RUN).exists()


def wandb_records(path):
    """Records of a .wandb file: LevelDB's log format after seven bytes, which wandb's own packages no longer read."""
    data, place, block, record = path.read_bytes(), 7, 1 << 15, b""
    while place + 7 <= len(data):
        if block - place % block < 7:  # no room for a head
            place += block - place % block
        size, kind = struct.unpack_from("<HB", data, place + 4)  # after the checksum
        record += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or its last part
            yield record
            record = b""


def whole_records(path, parse):
    """All of them, to the last: wandb's own process may still be writing when the run is over here."""
    for _ in range(600):
        found = list(map(parse, wandb_records(path)))
        if found and found[-1].HasField("exit"):
            return found
        time.sleep(0.1)
    raise AssertionError(f"{path} never ends")


def test_wandb_gets_the_figures(tmp_path, monkeypatch):
    """Offline, with its real client; a run that goes on is the same one there."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB__SERVICE_WAIT", "300")  # its own process may start slowly beside other tests
    record_of = importlib.import_module("wandb.proto.wandb_internal_pb2").Record
    with pytest.raises(Interrupted):
        run(tmp_path, steps=20, interrupt_at=8, save_every=5, tracker="wandb")
    run(tmp_path, steps=20, save_every=5, resume=True, tracker="wandb")
    names, steps = set(), []
    for path in sorted((tmp_path / RUN / "wandb").glob("offline-run-*/*.wandb")):
        for record in whole_records(path, record_of.FromString):
            if record.HasField("run"):
                names.add(record.run.run_id)
            if record.HasField("history"):
                values = {"/".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
                steps.append(int(values["_step"]))
    assert len(names) == 1
    assert steps == [entry["step"] for entry in read_metrics(tmp_path / RUN / METRICS)]


def test_resuming_before_the_first_checkpoint_starts_anew(tmp_path):
    assert_same(run(tmp_path / "whole"), run(tmp_path / "parts", resume=True))


def _moments(**values):
    return lambda saved: saved["optimizer"]["state"][0].update(values)


def _tensor(name, change):
    return lambda saved: saved["model"].update({name: change(saved["model"][name])})


def _average(**values):
    return lambda saved: saved["average"].update(values)


CRAFTED = {
    "a list": lambda saved: [saved],
    "step is text": lambda saved: saved.update(step="x"),
    "no step": lambda saved: saved.update(step=None),
    "step is no number": lambda saved: saved.update(step=float("nan")),
    "step is negative": lambda saved: saved.update(step=-3),
    "step is a fraction": lambda saved: saved.update(step=7.5),
    "step is true": lambda saved: saved.update(step=True),
    "no model": lambda saved: saved.update(model=None),
    "model of texts": lambda saved: saved.update(model=dict.fromkeys(saved["model"], "x")),
    "another tensor": lambda saved: saved["model"].update(more=torch.zeros(1)),
    "weights of another shape": _tensor("decode.weight", lambda x: x[:, :2].clone()),
    "weights of another kind": _tensor("decode.weight", torch.Tensor.double),
    "weights in whole numbers": _tensor("decode.weight", torch.Tensor.long),
    "sparse weights": _tensor("decode.weight", torch.Tensor.to_sparse),
    "weights not finite": _tensor("encode.0.weight", lambda x: x * torch.nan),
    "buffer not finite": _tensor("quantizer.codebooks.0.cluster_size", lambda x: x * torch.inf),
    "buffer of another shape": _tensor("quantizer.codebooks.0.vectors", lambda x: x[:, :2].clone()),
    "a number becomes a row": _tensor("quantizer.steps", lambda x: x[None].repeat(9)),
    "no optimiser": lambda saved: saved.update(optimizer=None),
    "an empty optimiser": lambda saved: saved.update(optimizer={}),
    "optimiser of a list": lambda saved: saved["optimizer"].update(state=[1]),
    "moments of a number": lambda saved: saved["optimizer"]["state"].update({0: 3}),
    "moments of no parameter": lambda saved: saved["optimizer"]["state"].update({99: {}}),
    "moments by text": lambda saved: saved["optimizer"]["state"].update({"0": {}}),
    "no moments": lambda saved: saved["optimizer"]["state"].update({0: {}}),
    "other moments": _moments(more=torch.zeros(())),
    "moments of another shape": _moments(exp_avg=torch.zeros(2, 2)),
    "moments of text": _moments(exp_avg="x"),
    "moments not finite": _moments(exp_avg_sq=torch.full((8, 3), torch.nan)),
    "moments below zero": _moments(exp_avg_sq=torch.full((8, 3), -1.0)),
    "no averages": lambda saved: saved.pop("average") and None,
    "averages of a list": lambda saved: saved.update(average=[1]),
    "averages of another shape": _average(**{"decode.bias": torch.zeros(4)}),
    "averages of another kind": _average(**{"decode.bias": torch.zeros(3).double()}),
    "averages not finite": _average(**{"decode.bias": torch.full((3,), torch.inf)}),
    "moments of whole numbers": _moments(exp_avg=torch.zeros(8, 3, dtype=torch.long)),
}


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A run of ten steps, to be copied."""
    out = tmp_path_factory.mktemp("begun")
    run(out, steps=10, ema=0.9)
    return out


@pytest.mark.parametrize("craft", CRAFTED.values(), ids=CRAFTED)
def test_a_crafted_checkpoint_is_one_line_and_changes_nothing(craft, begun, tmp_path):
    shutil.copytree(begun, tmp_path, dirs_exist_ok=True)
    path = tmp_path / RUN / CHECKPOINT
    saved = torch.load(path, weights_only=True)
    torch.save(craft(saved) or saved, path)
    before, model = path.read_bytes(), Toy()
    start = {name: value.clone() for name, value in tensors(model).items()}
    refused(r"checkpoint\.pt`: expected ", run, tmp_path, model=model, resume=True, ema=0.9)
    assert path.read_bytes() == before
    assert all(torch.equal(value, start[name]) for name, value in tensors(model).items())


@pytest.mark.parametrize("size", [0, 3, 100, 0.5, 0.99])
def test_a_cut_checkpoint_is_one_line_with_the_way_out(size, tmp_path):
    whole = run(tmp_path / "whole")
    run(tmp_path, steps=10)
    path = tmp_path / RUN / CHECKPOINT
    content = path.read_bytes()
    path.write_bytes(content[: int(size if size >= 1 else size * len(content))])
    refused(r"cannot be read \(.+\)\. Put back a whole copy, or remove", run, tmp_path, resume=True)
    path.unlink()  # the way out
    assert_same(whole, run(tmp_path, resume=True))


def test_options_of_the_optimiser_are_the_recipes_whatever_a_checkpoint_says(tmp_path):
    whole = run(tmp_path / "whole")
    run(tmp_path, steps=10)
    path = tmp_path / RUN / CHECKPOINT
    saved = torch.load(path, weights_only=True)
    saved["optimizer"]["param_groups"][0] |= {"betas": "x", "eps": float("nan"), "params": [7]}
    torch.save(saved, path)
    assert_same(whole, run(tmp_path, resume=True))


def test_lines_of_others_in_the_metrics_are_dropped(tmp_path):
    run(tmp_path, steps=10)
    with (tmp_path / RUN / METRICS).open("ab") as file:
        file.write(b'[1]\n{}\n7\n{"step": "x"}\n{"step": true}\n\xff\xfe\n' + b"[" * 10**5 + b"\n")
    run(tmp_path, steps=20, resume=True)
    assert steps_of(tmp_path) == [5, 10, 15, 20]


@pytest.mark.parametrize("text", ["", "[1]\n", '{"step": 5}\n{"st', "x\n"])
def test_figures_that_others_need_are_whole_or_an_error_names_their_file(text, tmp_path):
    (tmp_path / METRICS).write_text(text)
    refused("metrics.jsonl: expected a line of figures", read_metrics, tmp_path / METRICS)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_every_request_to_stop_saves_and_handlers_are_as_before(number, tmp_path, monkeypatch):
    whole, before = run(tmp_path / "whole"), [signal.getsignal(n) for n in ASKING]
    monkeypatch.setattr(signal, "SIGINT", number)  # what `run` sends
    with pytest.raises(Interrupted, match="Saved at step 7 of 20 .*Continue with: go on") as caught:
        run(tmp_path / "parts", interrupt_at=6)
    monkeypatch.undo()
    assert caught.value.number == number
    assert [signal.getsignal(n) for n in ASKING] == before
    assert_same(whole, run(tmp_path / "parts", resume=True))


def test_one_request_that_comes_twice_is_one_and_a_later_one_stops_at_once(tmp_path, monkeypatch):
    with deferred() as asked:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)  # as a launcher passes it on
        assert asked() == signal.SIGTERM
    monkeypatch.setattr(signals, "GRACE_S", 0.0)
    reached = []

    def stop_at_once():
        with signals.raising(), deferred():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
            reached.append(1)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
            reached.append(2)

    with pytest.raises(Interrupted):
        stop_at_once()
    assert reached == [1]


def test_a_hang_up_that_is_ignored_stays_so(monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.raising(), deferred() as asked:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not asked()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_training_in_another_thread_leaves_signals_alone(tmp_path):
    before, seen = [signal.getsignal(n) for n in ASKING], []
    thread = threading.Thread(target=lambda: seen.append(run(tmp_path)))
    thread.start()
    thread.join()
    assert_same(seen[0], run(tmp_path / "main"))
    assert [signal.getsignal(n) for n in ASKING] == before


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")]
)
def test_memory_that_runs_out_is_one_line_with_the_way_out(error, tmp_path, monkeypatch):
    monkeypatch.setattr(Toy, "forward", lambda *_: (_ for _ in ()).throw(error))
    refused("out of memory: step 1 of 20 does not fit. Choose a smaller batch_size", run, tmp_path)


def test_other_errors_of_torch_are_not_a_lack_of_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(Toy, "forward", lambda *_: (_ for _ in ()).throw(RuntimeError("shapes")))
    with pytest.raises(RuntimeError, match="^shapes$"):
        run(tmp_path)


def test_a_batch_beyond_reason_is_refused(tmp_path):
    refused("`batch_size`", run, tmp_path, batch_size=10**15)
    assert len(BatchSampler([Passes(64, 0)], 2**16)(0)) == 2**16
    assert len(BatchSampler([Passes(2**17, 0)], 2**17)(0)) == 2**17


def test_random_numbers_differ_from_step_to_step(tmp_path):
    seen = []

    class Noisy(Toy):
        def forward(self, batch):
            seen.append(float(torch.rand(())))
            return super().forward(batch)

    run(tmp_path / "a", steps=4, model=Noisy())
    assert len(set(seen)) == 4
    run(tmp_path / "b", steps=4, model=Noisy())
    assert seen[:4] == seen[4:]
    run(tmp_path / "c", steps=4, model=Noisy(), seed=1)
    assert not set(seen[8:]) & set(seen[:8])


def test_another_error_while_a_checkpoint_is_written_is_not_a_full_disk(tmp_path, monkeypatch):
    def fails(state, path):
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(torch, "save", fails)
    with pytest.raises(RuntimeError, match="CUDA out of memory"):
        run(tmp_path)


def test_a_precision_that_accelerate_was_told_must_be_the_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    refused("`precision`", run, tmp_path)


def test_a_loss_that_is_not_finite_stops_with_its_name(tmp_path):
    model = Toy()
    nn.init.constant_(model.decode.weight, float("nan"))
    refused("`loss`", run, tmp_path, model=model)


class Diverging(Toy):
    """The reconstruction of the seventh step is not finite; what `then` does follows."""

    def __init__(self, then=lambda: None):
        super().__init__()
        self.calls, self.then = 0, then

    def forward(self, batch):
        self.calls += 1
        if self.calls > 7:
            self.then()
        terms = super().forward(batch)
        return terms | {"reconstruction": terms["reconstruction"] * (torch.inf if self.calls == 7 else 1)}


def test_a_run_that_diverges_names_the_step_and_keeps_the_state_before_it(tmp_path):
    """The loss is looked at where something is logged or saved, and before either."""
    refused("got reconstruction not finite at", lambda: run(tmp_path, model=Diverging(), log_every=5, save_every=5))
    saved = torch.load(tmp_path / RUN / CHECKPOINT, weights_only=True)
    assert saved["step"] == 5
    assert all(torch.isfinite(value).all() for value in saved["model"].values())
    assert steps_of(tmp_path) == [5]
    whole = run(tmp_path / "whole")
    assert_same(whole, run(tmp_path, resume=True))


class Corner(torch.nn.Module):
    """A loss that is finite where its gradient is not."""

    def __init__(self, at: float):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.full((3,), at))

    def forward(self, batch):
        return {"reconstruction": self.weight.abs().sqrt().sum()}


def test_a_gradient_that_is_not_finite_stops_before_weights_are_saved(tmp_path):
    """Such weights were saved over the last good ones, and a run of one step ended as if nothing was wrong."""
    for steps in (1, 2):
        refused("`loss`", run, tmp_path / str(steps), steps=steps, model=Corner(0.0), save_every=1)
        assert not (tmp_path / str(steps) / RUN / CHECKPOINT).exists()
    run(tmp_path / "off the corner", steps=2, model=Corner(1.0))


def test_an_error_that_follows_from_a_loss_not_finite_names_the_loss(tmp_path):
    def fails():
        raise RuntimeError("probability tensor contains inf, nan or element < 0")

    refused("got reconstruction not finite at step 7 in", lambda: run(tmp_path, model=Diverging(fails)))


def test_several_processes_hear_what_any_was_asked_before_the_last_step():
    others = iter([0, 15, 0])
    fake = SimpleNamespace(
        num_processes=2, device=torch.device("cpu"), gather=lambda mine: torch.cat([mine, mine * 0 + next(others)])
    )
    any_signal = AnySignal(fake)  # pyright: ignore[reportArgumentType]
    assert [any_signal(0), any_signal(0), any_signal(2)] == [0, 0, 15]


def test_batches_visit_everything_once_per_pass():
    draw = BatchSampler([Passes(10, 0)], 4)
    seen = torch.cat([draw(step) for step in range(5)])
    assert sorted(seen[:10].tolist()) == sorted(seen[10:].tolist()) == list(range(10))
    assert torch.equal(BatchSampler([Passes(10, 0)], 4)(3), draw(3))  # a function of the step, not of history
    assert len(BatchSampler([Passes(3, 0)], 8)(5)) == 8


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
    assert "codebook `control` is collapsing: 2 of 16 codes in use, perplexity 2.0" in report.warnings["control"]
    assert report.values["codebook/control/used"] == 2
    joint = nn.ModuleDict({"lam": nn.ModuleDict({"lam": quantizer_with(torch.randint(2, (500, 4)))})})
    assert codebook_report(joint).warnings["lam.lam.control"].endswith("is trained first, alone.")


def test_tokens_that_repeat_one_another_are_reported():
    report = codebook_report(quantizer_with(torch.randint(16, (2000, 1)).expand(-1, 4)))
    assert len(report.warnings) == 1
    assert "its 4 tokens repeat one another: 16 rows, 4.0 bits jointly" in report.warnings["control"]


def test_a_healthy_codebook_gives_no_warning():
    report = codebook_report(quantizer_with(torch.randint(16, (2000, 4))))
    assert report.warnings == {}
    assert report.values["codebook/control/joint_bits"] > math.log2(1000)


def test_warnings_reach_the_terminal_and_the_log(tmp_path, capsys):
    model = Toy()
    model.quantizer = VectorQuantizer(QuantizerConfig(dim=8, size=64, start="normal", revive_below=0.0))
    run(tmp_path, model=model)
    assert "is collapsing" in capsys.readouterr().err
    assert "warnings" in (tmp_path / RUN / METRICS).read_text()


def test_a_warning_is_shown_once_and_its_end_too(tmp_path, capsys):
    warnings = (["codebook `q` is collapsing: 3 of 16"], ["codebook `q` is collapsing: 4 of 16"], [])
    with RunLog(tmp_path, "run", 0, 40) as log:
        for step, given in enumerate(warnings):
            log.write(10 * step + 10, {"loss": 1.0}, given)
    lines = [line for line in capsys.readouterr().err.splitlines() if "codebook" in line]
    assert lines == ["step 10: codebook `q` is collapsing: 3 of 16", "step 30: over: codebook `q` is collapsing"]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"steps": 0}, "`steps`"),
        ({"schedule": "x"}, "`schedule`"),
        ({"seed": 10**25}, "`seed`"),
        ({"seed": 0.5}, "`seed`"),
        ({"threads": 10**25}, "`threads`"),
        ({"save_every": 10**25}, "`save_every`"),
    ],
)
def test_bad_options(change, text):
    refused(text, LoopOptions, **change)


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        ({"start": "normal"}, "Start it from data: codebook_start=kmeans."),
        ({"start": "kmeans", "update": "gradient"}, "Start it small: codebook_start=uniform."),
        ({"start": "uniform", "update": "gradient", "revive_below": 0.0}, "copies of used ones: codebook_restart_e"),
        ({"start": "uniform", "update": "gradient"}, "if it stays, use the `robust` preset"),
        ({"revive_below": 0.0}, "Revive dead codes: codebook_revive_below=0.03."),
        ({}, "lower lr or start the codebook later: codebook_continuous_steps."),
    ],
)
def test_the_warning_names_what_has_not_been_tried(options, remedy):
    quantizer = VectorQuantizer(QuantizerConfig(dim=2, size=16, **options))
    quantizer.steps += 1
    quantizer.recent = torch.zeros(100, 4, dtype=torch.long)
    assert remedy in codebook_report(nn.ModuleDict({"control": quantizer})).warnings["control"]
    quantizer.recent = torch.zeros(100, 4, dtype=torch.long)
    of_actions = remedy if "_start" in remedy else remedy.replace("codebook_", "")  # as its options are called
    assert of_actions in codebook_report(nn.ModuleDict({"quantizer": quantizer})).warnings["quantizer"]


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


def fit_terms(out, model, weights, **options):
    options = LoopOptions(**{"steps": 1, "batch_size": 4, "device": "cpu", **options})
    return fit(model, lambda *_: (torch.zeros(4),), options, out, loss_weights=weights)


def test_terms_without_a_weight_are_only_logged(tmp_path):
    model = Terms({"action": 2.0, "latent": 3.0, "accuracy": 0.25}, detached=["accuracy"])
    last = fit_terms(tmp_path, model, {"action": 1.0, "latent": 0.5, "absent": 1.0})
    expected = {"loss": 3.5, "loss/action": 2.0, "loss/latent": 3.0, "accuracy": 0.25, "grad_norm": 3.5, "lr": 1e-4}
    assert last == pytest.approx(expected)


def test_averages_move_by_less_than_bfloat16_can_tell(tmp_path):
    fit_terms(tmp_path, Terms({"action": 1.0}).bfloat16(), {"action": 1.0}, steps=200, lr=1e-2, ema=0.99)
    saved = torch.load(tmp_path / RUN / CHECKPOINT, weights_only=True)
    average, last = saved["average"]["weight"], saved["model"]["weight"].detach()
    assert (average.dtype, last.dtype) == (torch.float32, torch.bfloat16)
    assert last + 0.1 < average < last + 0.4  # a tenth of 200 steps of about 1e-2 behind


def test_a_term_with_a_gradient_needs_a_weight(tmp_path):
    model = Terms({"action": 2.0, "latent": 3.0})
    refused("`latent`", fit_terms, tmp_path, model, {"action": 1.0})
    refused("`loss_weights`", fit_terms, tmp_path / "none", model, {"other": 1.0})


def test_speed_and_memory_are_logged(tmp_path):
    run(tmp_path, steps=20, log_every=5)
    for line in (tmp_path / RUN / METRICS).read_text().splitlines():
        entry = json.loads(line)
        assert 0 < entry["samples_per_second"] < 1e7
        assert 0.05 < entry["memory_gb"] < 100  # torch alone takes more than 50 MB


def test_speed_is_that_of_the_interval(monkeypatch):
    clock = iter([10.0, 12.0, 16.0])
    monkeypatch.setattr("lattok.training.runlog.time.monotonic", lambda: next(clock))
    meter = Meter(batch_size=32, first=100, device=torch.device("cpu"))
    first, second = meter.read(110, 0.5), meter.read(150, 0.0)
    assert [told["samples_per_second"] for told in (first, second)] == pytest.approx([160, 320])
    assert [told["data_wait"] for told in (first, second)] == pytest.approx([0.25, 0])


def test_batches_are_made_ahead_and_what_steps_wait_for_them_is_told(tmp_path):
    """Batches that take a tenth of a second each: a slow model hardly waits for them, a fast one all the time."""

    def slow(step, process, processes):
        time.sleep(0.1)
        return (DATA[:16],)

    waits = {}
    for name, sleep in {"fast": 0.0, "slow": 0.3}.items():
        model = Toy()
        model.register_forward_pre_hook(lambda module, args, sleep=sleep: time.sleep(sleep))
        options = LoopOptions(steps=8, batch_size=16, device="cpu", log_every=4)
        fit(model, slow, options, tmp_path / name, loss_weights=WEIGHTS)
        waits[name] = read_metrics(tmp_path / name / RUN / METRICS)[-1]["data_wait"]
    assert waits["slow"] < 0.3 < 0.5 < waits["fast"] <= 1


def test_batches_know_when_a_run_begins_and_ends(tmp_path):
    told = []

    class Told(BatchSource):
        @contextmanager
        def started(self, first, last, own, shares):
            told.append((first, last, own, shares))
            yield
            told.append("over")

        def gather(self, step, share, shares):
            if step == 7:
                raise LattokError("no more")
            return (DATA[share:16:shares],)

    options = LoopOptions(steps=20, batch_size=16, accumulate=2, device="cpu")
    refused("^no more$", lambda: fit(Toy(), Told(), options, tmp_path, loss_weights=WEIGHTS))
    assert told == [(0, 20, [0, 1], 2)]  # and what it raised went through
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("lattok-ahead")]


def test_threads_are_part_of_the_options_and_the_callers_come_back(tmp_path, monkeypatch):
    seen = []
    forward = Toy.forward
    monkeypatch.setattr(
        Toy, "forward", lambda self, batch: (seen.append(torch.get_num_threads()), forward(self, batch))[1]
    )
    before = torch.get_num_threads()
    run(tmp_path, threads=3)
    assert set(seen) == {3}
    assert torch.get_num_threads() == before
