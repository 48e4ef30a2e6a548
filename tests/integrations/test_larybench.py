"""What LARYBench reads of models, read as its code does; its probe, and the command."""

import csv
import json
import re
from typing import Any

import numpy as np
import pytest
import torch

from lattok_larybench import export
from lattok_larybench.larybench import ProbeOptions, regression_probe
from tests.errors import refused
from tests.evaluation.worlds import STRIDE, Oracle, World, tiny_lam

NAMES = ("x", "y", "z", "gripper")
HELD_OUT = [3, 7]
CHOSEN: dict[str, Any] = {"episodes": HELD_OUT}


@pytest.fixture(scope="module")
def world() -> World:
    return World(names=NAMES, tasks=2)


@pytest.fixture(scope="module")
def models(world) -> dict[str, Any]:
    return {"org/oracle": tiny_lam(Oracle, world, tokens=3), "continuous": tiny_lam(quantizer="none")}


def test_larys_files_are_what_its_benchmark_reads_and_its_probe_finds_the_action(world, models, tmp_path, monkeypatch):
    """Read as its regression does: the table, tokens below LARY_LA_DIR, chunks below DATA_DIR."""
    out, probe = tmp_path / "lary", ProbeOptions(hidden=32, epochs=60, lr=3e-3)
    errors = export(world, models, out, probe=probe, **CHOSEN)
    for name, model in (("org-oracle", models["org/oracle"]), ("continuous", models["continuous"])):
        for split, episodes in (("train", {0, 1, 2, 4, 5, 6, 8, 9}), ("val", set(HELD_OUT))):
            with (out / "data" / f"{split}_la_planted_{STRIDE}_{name}.csv").open(newline="") as file:
                table = list(csv.DictReader(file))
            assert {int(re.findall(r"ep_(\d+)", row["src_img"])[0]) for row in table} == episodes
            for row in table[::25]:
                with np.load(out / "latent_actions" / row["la_path"]) as file:
                    held = dict(file)
                episode, t = map(int, re.findall(r"ep_(\d+)/frame_(\d+)", row["src_img"])[0])
                found = model.encode(world.frames(episode)[None, [t, t + STRIDE]])
                assert np.array_equal(held["indices"], found.codes[0])
                np.testing.assert_allclose(held["tokens"], found.quantized[0], atol=1e-5)
                chunk = np.load(out / row["action"])
                assert np.array_equal(chunk, world.actions[episode, t : t + STRIDE])
                assert row["action"].endswith(f"ep_{episode}/action_{t:06d}to{t + STRIDE - 1:06d}.npy")
    assert json.loads((out / "regression.json").read_text()) == errors
    assert list(errors["continuous"]) == ["all", "mean action", *NAMES]
    assert errors["org/oracle"]["all"] == pytest.approx(np.mean([errors["org/oracle"][name] for name in NAMES]))
    assert errors["org/oracle"]["all"] < 0.8 * errors["org/oracle"]["mean action"]
    assert errors["continuous"]["all"] > errors["org/oracle"]["all"]

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("lattok_larybench.larybench.regressed", stop)
    with pytest.raises(KeyboardInterrupt):
        export(world, models, tmp_path / "stopped", **CHOSEN)
    assert not (tmp_path / "stopped").exists()
    refused("`out`: expected a new or empty folder, got .* which holds something", export, world, models, out, **CHOSEN)


@pytest.mark.parametrize(
    ("given", "options", "says"),
    [
        ([], {}, r"`models`: expected folders, Hub ids or models, one or more of them, got \[\]"),
        ([tiny_lam(), tiny_lam()], {}, "`models`: expected models with different names, got only image-lam. Name each"),
        ({"a": tiny_lam()}, {"stride": "400"}, "a: `stride`: "),
        ({"org/a": tiny_lam(), "org-a": tiny_lam()}, {}, "`models`: expected names that differ as file names, got"),
    ],
)
def test_what_cannot_be_exported_gets_one_line_and_leaves_nothing(given, options, says, world, tmp_path):
    refused(f"^{says}", export, world, given, tmp_path / "out", **CHOSEN, **options)
    assert not (tmp_path / "out").exists()


def test_larys_probe_is_the_published_network():
    probe = regression_probe(6, 4, ProbeOptions(hidden=8)).double()
    x = torch.randn(5, 6, dtype=torch.float64)

    def normed(v):
        return (v - v.mean(1, keepdim=True)) / (v.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()

    weights = [p.detach() for name, p in probe.named_parameters() if p.ndim == 2]
    biases = [module.bias.detach() for module in probe.modules() if isinstance(module, torch.nn.Linear)]
    h = (normed(x) @ weights[0].T + biases[0]).clamp_min(0)
    for w, b in zip(weights[1:3], biases[1:3], strict=True):
        h = h + (normed(h) @ w.T + b).clamp_min(0)
    torch.testing.assert_close(probe(x), normed(h) @ weights[3].T + biases[3])
    assert ProbeOptions() == (4096, 2, 20, 256, 1e-4, 1e-4, 0.1)
