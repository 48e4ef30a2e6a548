"""What policies that act by tokens know of the codes of chunks."""

import pytest
import torch

from benchmarks.closed_loop.recited import watched
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
