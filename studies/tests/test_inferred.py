"""Figures of inferred actions, against sums by hand."""

import numpy as np
import pytest

from studies.inferred import r2, systematic


def test_r2_and_the_systematic_error_against_loops():
    rng = np.random.default_rng(0)
    truth, cells = rng.standard_normal((40, 4)), np.repeat(np.arange(5), 8)
    guess = truth + 0.1 * rng.standard_normal((40, 4)) + 0.3 * (cells == 2)[:, None]
    for dim in range(4):
        left = sum((guess[i, dim] - truth[i, dim]) ** 2 for i in range(40))
        there = sum((truth[i, dim] - truth[:, dim].mean()) ** 2 for i in range(40))
        assert r2(guess, truth)[dim] == pytest.approx(1 - left / there)
    squares = []
    for cell in range(5):
        for dim in range(3):  # the gripper does not count
            squares.append(np.mean([guess[i, dim] - truth[i, dim] for i in range(40) if cells[i] == cell]) ** 2)
    assert systematic(guess - truth, cells) == pytest.approx(np.sqrt(np.mean(squares)))
    assert systematic(np.tile([1.0, 1.0, 1.0, 9.0], (40, 1)), cells) == pytest.approx(1.0)
