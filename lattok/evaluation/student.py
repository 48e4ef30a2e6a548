"""Student's t for whole degrees of freedom, in closed form (Abramowitz & Stegun 26.7.3 and 26.7.4)."""

import math


def within(t: float, freedom: int) -> float:
    """Return the probability that |T| < t, for t of at least 0.

    >>> round(within(2.776445, 4), 4)
    0.95
    """
    angle = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    term, total, odd = (cosine if freedom % 2 else 1.0), 0.0, freedom % 2
    for power in range(odd, freedom - 1, 2):
        total += term
        term *= cosine**2 * (power + 1) / (power + 2)
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


def beyond(t: float, freedom: int) -> float:
    """Return the two-sided p value of a statistic."""
    return min(1.0, max(0.0, 1 - within(abs(t), freedom)))


def quantile(share: float, freedom: int) -> float:
    """Return the value that T is below with probability `share`, of .5 and more."""
    low, high = 0.0, 1.0
    while within(high, freedom) < 2 * share - 1:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if within(middle, freedom) < 2 * share - 1 else (low, middle)
    return high
