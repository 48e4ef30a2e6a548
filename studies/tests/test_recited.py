"""What policies that act by tokens know of the codes of chunks."""

from pathlib import Path

import pytest
import torch

from studies import recited
from studies.recited import watched
from tests.vla import fakes
from tests.vla.fakes import batch
from tests.vla.test_tokens import policy


@pytest.mark.parametrize("kind", ["residual", "fast"])
def test_what_is_kept_code_by_code_is_what_the_policy_learns_in_all(kind):
    model = policy(kind).eval()
    with watched(model.head) as rows, torch.no_grad():
        terms = model(batch(model.config))
    (kept,) = rows  # the policy's mean is that of samples
    assert float(kept[..., 0].nanmean(1).nanmean()) == pytest.approx(float(terms["action"]), abs=1e-6)
    assert float(kept[..., 1].nanmean()) == pytest.approx(float(terms["action_accuracy"]), abs=1e-6)
    assert kept[:, 0].isfinite().any()
    assert "judged" not in vars(model.head)


@pytest.mark.parametrize("kind", ["bins", None])
def test_the_error_is_that_of_the_chunks_that_the_policy_acts_by(kind, monkeypatch):
    """In units of each dimension's variance, over the steps inside episodes; without codes there is nothing else."""
    model = (policy(kind) if kind else fakes.policy()).eval()
    shown = batch(model.config)
    shown = shown._replace(valid=shown.valid.clone())
    shown.valid[0, 2:] = False

    class Windows(list):
        def batch(self, indices):
            return shown

    monkeypatch.setattr(recited, "PolicyWindows", lambda *_, **__: Windows([0]))
    monkeypatch.setattr(recited.lattok, "open_dataset", lambda _: None)
    found = recited.known(model, Path(), [0])
    inside = shown.valid.numpy()
    done, wanted = model.imitate(shown)[0].numpy()[inside], shown.actions.numpy()[inside]
    assert found["error"] == pytest.approx((((done - wanted) ** 2).mean(0) / wanted.var(0)).mean(), rel=1e-5)
    assert len(found) == (5 if kind else 1)


def test_rows_are_measured_once_all_their_policies_are_there(tmp_path):
    (tmp_path / "policies/action-free.acts-oat.1").mkdir(parents=True)
    (tmp_path / "policies/action-free.acts-oat.1/config.json").write_text("{}")
    some = [f"acts-oat.{seed}" for seed in (0, 2, 3, 4)]
    for name in ("baseline.0", "acts-rvq-at_once.0", *(f"acts-rvq.{seed}" for seed in range(5)), *some):
        (tmp_path / f"policies/plentiful.{name}").mkdir(parents=True)
        (tmp_path / f"policies/plentiful.{name}/config.json").write_text("{}")
    assert [cell.name for cell in recited.policies(tmp_path)] == [f"plentiful.acts-rvq.{seed}" for seed in range(5)]
