"""Warnings about codebooks: silent while they start, early enough where they collapse, and always at the end."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from lattok.nn.quantize import QuantizerConfig, VectorQuantizer
from lattok.training.runlog import CodebookWatch, peak_memory

# codes in use of 256 at every 50th step of a sound run of 1000 steps (the demo's tokenizer)
SOUND = [38, 8, 8, 8, 63, 92, 130, 197, 225, 241, 244, 245, 246, 248, 249, 249, 249, 250, 253, 254]


def warned_at(used, steps, every=50, size=256, **options):
    """Steps at which a run warns, whose codebook uses so many codes evenly at every look."""
    quantizer = VectorQuantizer(QuantizerConfig(dim=2, size=size))
    quantizer.steps += 1
    model, watch, found = nn.ModuleDict({"control": quantizer}), CodebookWatch(steps, **options), []
    for i, count in enumerate(used):
        quantizer.recent = torch.arange(4 * size)[:, None] % count
        done = every * (i + 1)
        report = watch(model, done, last=done == steps)
        assert set(report.warnings) <= {"control"}
        found += [done] * bool(report.warnings)
    return found


def test_a_sound_start_is_no_reason_to_warn():
    assert warned_at(SOUND, 1000) == []


def test_a_codebook_that_collapses_is_reported_long_before_the_end():
    assert warned_at([8] * 20, 1000)[0] == 300
    assert warned_at([38, *[2] * 199], 50_000, every=100)[0] == 1100
    late = [*SOUND[:12], *[20] * 8]  # well at first
    assert warned_at(late, 1000)[0] == 650


def test_one_that_grows_is_given_time_and_one_that_stays_small_is_not():
    growing = [8, 8, 8, 8, 8, 12, 16, 22, 28, 34, 40, 48, 56, 66, 70, 80, 90, 99, 120, 150]
    assert warned_at(growing, 1000) == []
    assert warned_at([*growing[:9], *[28] * 11], 1000)[0] == 500


def test_what_is_collapsed_at_the_end_is_said_even_after_a_short_run():
    assert warned_at([8], 50) == [50]
    assert warned_at([8], 50, quiet=True) == []  # a trial run


@pytest.mark.parametrize("steps", [1000, 50_000])
def test_values_are_reported_at_every_look(steps):
    quantizer = VectorQuantizer(QuantizerConfig(dim=2, size=16))
    quantizer.steps += 1
    quantizer.recent = torch.randint(2, (500, 4))
    report = CodebookWatch(steps)(nn.ModuleDict({"control": quantizer}), 50)
    assert report.values["codebook/control/used"] == 2
    assert report.warnings == {}


@pytest.mark.ci
def test_peak_memory_is_that_of_the_process_and_not_of_who_began_it():
    """A job that a large Python process begins (a scheduler, a notebook, this test) reports its own."""
    large = torch.ones(2**28)  # 1 GiB
    own = peak_memory(torch.device("cpu"))
    assert own is not None
    assert own > large.nbytes
    program = "import torch\nfrom lattok.training.runlog import peak_memory\nprint(peak_memory(torch.device('cpu')))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert 2**26 < float(run.stdout) < large.nbytes
