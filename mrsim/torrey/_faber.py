"""Faber series of the exponential: the fewest products for a matrix of known extent.

Where the numerical range of A lies in an ellipse with half axes a (real) and b
(imaginary), exp(−A) = Σ (−1)ᵏ dₖ Fₖ(A) converges like the largest |dₖ|. With
R = (a + b)/2 and p = (a − b)/(a + b) the polynomials follow F₀ = 1, F₁ = A/R,
F₂ = A F₁/R − 2p, Fₖ₊₁ = A Fₖ/R − p Fₖ₋₁, and exp(Rw + pR/w) = Σ dₖ (wᵏ + pᵏ/wᵏ):
Chebyshev's for a segment, p = ±1, and Taylor's for a disc, p = 0.

Reference: Ellacott 1983 (Math Comp 40:575), Faber polynomials of an ellipse.
"""

import math
from functools import lru_cache
from typing import NamedTuple

_SLACK = 2.0  # a may exceed what it holds by so much: rounding grows with exp of it
_MOST = 40.0  # real extent of one step, so that single precision does not overflow


class Series(NamedTuple):
    """How to exponentiate: in so many steps, each by one series."""

    steps: int
    radius: float  # R of a step
    focus: float  # p
    weights: tuple[float, ...]  # dₖ
    work: int  # products with the matrix, in all steps


@lru_cache(maxsize=256)
def series(real: float, imaginary: float, eps: float) -> Series:
    """Return the cheapest series for a rectangle about zero.

    Args:
        real: half its extent along the real axis.
        imaginary: half its extent along the imaginary axis.
        eps: error, relative to the largest value of the exponential.

    Returns:
        The series.
    """
    steps = max(1, math.ceil(real / _MOST))
    best = _one(real, imaginary, steps, eps)
    while best.work > 40 * best.steps:
        steps = 2 * steps
        other = _one(real, imaginary, steps, eps)
        if other.work >= best.work:
            break
        best = other
    return best


def _one(real: float, imaginary: float, steps: int, eps: float) -> Series:
    a, b = _ellipse(real / steps, imaginary / steps)
    R, p = (a + b) / 2, (a - b) / (a + b)
    weights = _weights(R, p)
    # weights belong to exp(A), whose largest value is exp(real / steps)
    goal = 0.1 * eps * math.exp(real / steps)
    rest, count = 0.0, len(weights)
    while count > 2 and rest + abs(weights[count - 1]) <= goal:
        count -= 1
        rest += abs(weights[count])
    return Series(steps, R, p, tuple(weights[:count]), steps * (count - 1))


def _ellipse(real: float, imaginary: float) -> tuple[float, float]:
    """Return the half axes of the ellipse of least a + b, in bounds, that holds it."""
    x, y = max(real, 1e-3), max(imaginary, 1e-3)
    wide = math.sqrt(x ** (2 / 3) + y ** (2 / 3))
    a = min(x ** (2 / 3) * wide, x + _SLACK)
    return a, y / math.sqrt(1 - (x / a) ** 2)


def _weights(R: float, p: float) -> list[float]:
    """Solve dₖ₋₁ = k/R dₖ + p dₖ₊₁ from far above, where the dₖ vanish, down."""
    start = int(3 * R) + 60
    d = [0.0] * (start + 2)
    d[start] = 1e-280
    for k in range(start, 0, -1):
        d[k - 1] = k / R * d[k] + p * d[k + 1]
        if abs(d[k - 1]) > 1e250:
            d = [x * 1e-250 for x in d]
    total = d[0] + math.fsum(d[k] * (1 + p**k) for k in range(1, start + 1))
    largest = math.exp(R * (1 + p)) / total
    return [x * largest for x in d]
