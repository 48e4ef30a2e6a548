"""One answer to what "auto" is, for training, labelling, evaluation and features."""

from types import SimpleNamespace

import pytest
import torch

from lattok.utils.devices import device_called, devices, module_of, moved, no_tf32
from tests.errors import refused


@pytest.fixture
def machine(monkeypatch):
    """A machine with so many GPUs, or with Apple's."""

    def is_(gpus=0, mps=False, rank=None):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
        monkeypatch.setenv("LOCAL_RANK", rank) if rank else monkeypatch.delenv("LOCAL_RANK", raising=False)

    return is_


@pytest.mark.parametrize(
    ("facts", "asked", "expected"),
    [
        ({}, "auto", "cpu"),
        ({"mps": True}, "auto", "mps"),
        ({"gpus": 2, "mps": True}, "auto", "cuda:0"),
        ({"gpus": 2, "rank": "1"}, "auto", "cuda:1"),
        ({"gpus": 2, "rank": "1"}, "cuda:0", "cuda:0"),
        ({"gpus": 2, "rank": "1"}, "cpu", "cpu"),
    ],
)
def test_a_name_stands_for_one_device(machine, facts, asked, expected):
    machine(**facts)
    assert device_called(asked) == torch.device(expected)


@pytest.mark.parametrize(
    ("facts", "asked", "text"),
    [
        ({}, "cuda", r"`device`: expected a device of this machine \(cpu\), got 'cuda'"),
        ({"gpus": 2}, "cuda:2", r"a device of this machine \(cuda:0, cuda:1, cpu\), got 'cuda:2'"),
        ({"mps": True}, "mps:1", r"a device of this machine \(mps, cpu\), got 'mps:1'"),
        ({"mps": True}, "mps:x", "`device`: expected auto, cpu, or an accelerator that torch .* 'mps:x'"),
        ({}, "gpu", "`device`: expected auto, cpu, or an accelerator that torch knows, such as cuda:1 .* got 'gpu'"),
    ],
)
def test_what_is_not_there_is_refused_with_what_is(machine, facts, asked, text):
    machine(**facts)
    refused(text, device_called, asked)


def test_other_kinds_are_found_in_their_modules_and_after_cuda(machine, monkeypatch):
    machine(gpus=1)
    there = SimpleNamespace(is_available=lambda: True, device_count=lambda: 2)
    monkeypatch.setattr(torch, "xpu", there)
    monkeypatch.setattr(torch, "hpu", there, raising=False)
    names = ["cuda:0", "xpu:0", "xpu:1", "hpu:0", "hpu:1", "cpu"]
    assert devices() == [torch.device(name) for name in names]
    assert [device_called(name) for name in names] == devices()
    assert module_of(torch.device("hpu:1")) is there
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert device_called("xpu") == torch.device("xpu:1")


def test_a_model_stays_where_it_is_unless_a_device_is_named():
    model = torch.nn.Linear(1, 1)
    assert moved(model, None) is moved(model, "auto") is model


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="torch below 2.9 has one way")
@pytest.mark.parametrize("precision", ["highest", "high"])
def test_products_of_a_gpu_are_exact_for_a_while(precision):
    """Whatever was set before, in either of torch's two ways, is set afterwards."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        with no_tf32(), no_tf32():
            assert (cudnn.conv.fp32_precision, matmul.fp32_precision) == ("ieee", "ieee")
        assert cudnn.allow_tf32
        assert matmul.allow_tf32 == (precision == "high")
        assert torch.get_float32_matmul_precision() == precision
        cudnn.allow_tf32 = False
        with no_tf32():
            pass
        assert not cudnn.allow_tf32
    finally:
        cudnn.allow_tf32 = True
        torch.set_float32_matmul_precision(before)
