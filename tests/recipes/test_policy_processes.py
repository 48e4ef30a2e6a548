"""Two processes train the policy of one: the same losses, figures and weights, however labels are shared out."""

import json
from pathlib import Path

import pytest
import torch

import lattok
from tests.process_jobs import together
from tests.recipes.policies import SIZES, annotated

OPTIONS = {"backbone": "scratch", "steps": 3, "batch_size": 8, "device": "cpu", **SIZES}


def _train(dataset: Path, out: Path, strategy: str, **options):
    return lattok.train(lattok.VLARecipe.from_preset(dataset, out, strategy=strategy, **OPTIONS, **options))


def _worker(rank: int, dataset: Path, out: Path, strategy: str, options: dict[str, str]) -> None:
    _train(dataset, out / f"two-{strategy}", strategy, accumulate=2, **options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "head"),
    [("baseline", "regression"), ("la_tok", "regression"), ("la_align", "flow"), ("la_direct", "regression")],
)
def test_two_processes_train_the_policy_of_one(strategy: str, head: str, tmp_path: Path):
    dataset, options = annotated(tmp_path), {"head": head}
    one = _train(dataset, tmp_path / "one", strategy, **options).saved_tensors()
    together(_worker, dataset, tmp_path, strategy, options)
    two = lattok.load(tmp_path / f"two-{strategy}").saved_tensors()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=1e-5, rtol=0)
    logged = [_losses(tmp_path / name) for name in ("one", f"two-{strategy}")]
    for alone, shared in zip(*logged, strict=True):
        assert shared == pytest.approx(alone, abs=1e-5)


def _losses(run: Path) -> list[dict[str, float]]:
    lines = (run / "run/metrics.jsonl").read_text().splitlines()
    names = ("loss", "latent_")
    return [{k: v for k, v in json.loads(line).items() if k.startswith(names)} for line in lines]
