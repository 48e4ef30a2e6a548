"""MLP probes against functions whose shape is known, with the linear probe beside them."""

import numpy as np
import pytest
import torch
from torch import Tensor

from lattok.evaluation.evidence.mlp_probes import CHOICES, Shape, Task, mlp_probes, train_networks
from lattok.evaluation.evidence.probes import Fold, Probe, linear_probe, merge_folds

ROWS, JUDGED = 600, 200
GROUPS = np.arange(ROWS) // 30
EVERYTHING = (Fold(torch.arange(ROWS), torch.arange(JUDGED)),)


def both(x: Tensor, y: Tensor, folds: tuple[Fold, ...] = EVERYTHING) -> tuple[Probe, Probe]:
    own, test, own_y, test_y = x[:ROWS], x[ROWS:], y[:ROWS], y[ROWS:]
    linear = [linear_probe(own[f], own_y[f], GROUPS[f.numpy()], test[h], test_y[h]) for f, h in folds]
    hidden = mlp_probes(own, own_y, GROUPS, test, test_y, folds, linear, seed=0)
    return merge_folds(linear, folds), merge_folds(hidden, folds)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(ROWS + JUDGED, 4, generator=torch.Generator().manual_seed(0))


def test_a_hidden_layer_reads_what_no_line_can(x: Tensor):
    linear, hidden = both(x, x[:, :1].abs() + x[:, 1:2])
    assert float(linear.r2) < 0.8
    assert float(hidden.r2) > 0.93
    torch.testing.assert_close(
        hidden.errors[:, 0], (hidden.predicted - (x[ROWS:, :1].abs() + x[ROWS:, 1:2]))[:, 0] ** 2
    )


def test_noise_and_straight_lines_are_left_to_the_linear_probe(x: Tensor):
    noise = torch.randn(len(x), 1, generator=torch.Generator().manual_seed(1))
    linear, hidden = both(x, noise)
    assert float(hidden.r2) < 0.05
    linear, hidden = both(x, x[:, :2] * 3 + noise)
    torch.testing.assert_close(hidden.r2, linear.r2, atol=0.02, rtol=0)


def test_it_is_a_function_of_its_seed(x: Tensor):
    torch.manual_seed(0)
    first = both(x, x[:, :1].abs())[1].predicted
    torch.manual_seed(1)
    assert torch.equal(both(x, x[:, :1].abs())[1].predicted, first)


def test_a_fold_never_sees_the_rows_it_does_not_train_on(x: Tensor):
    half = torch.arange(ROWS // 2)
    folds = (Fold(half, torch.arange(0, JUDGED, 2)), Fold(half + ROWS // 2, torch.arange(1, JUDGED, 2)))
    y = x[:, :1].abs()
    before = both(x, y, folds)[1].predicted
    spoiled = y.clone()
    spoiled[ROWS // 2 : ROWS] = 1000.0
    after = both(x, spoiled, folds)[1].predicted
    torch.testing.assert_close(before[::2], after[::2], atol=1e-3, rtol=0)
    assert not torch.equal(before[1::2], after[1::2])


def test_networks_side_by_side_equal_one_written_out(x: Tensor):
    tasks = [Task(torch.arange(100), x[:100, :1].square().double(), *choice) for choice in CHOICES[:2]]
    alone = train_networks(x.double(), tasks[:1], [x[:5].double()], seed=3)[0]
    assert alone.shape == (5, 1)
    shape = Shape(inputs=2, hidden=3, outputs=1)
    weights = torch.arange(13.0) / 10
    rows, active = torch.tensor([[1.0, -2.0]]), torch.tensor([[1.0, 1.0, 0.0]])
    hidden = np.maximum(rows.numpy() @ weights[:6].reshape(2, 3).numpy() + weights[6:9].numpy(), 0) * active.numpy()
    expected = hidden @ weights[9:12].reshape(3, 1).numpy() + weights[12].numpy()
    np.testing.assert_allclose(shape.output(weights, active, rows).numpy(), expected, rtol=1e-6)
