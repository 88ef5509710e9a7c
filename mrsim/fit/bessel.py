"""Modified Bessel functions as likelihoods need them: for all arguments, to any order.

``torch.special.i0e`` is exact but its derivative at 0 is not, and its derivatives at
large arguments cancel: series take over at both ends.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor

_SMALL = 1.0
_LARGE = 50.0
_TERMS = 12  # of the power series below _SMALL
_HANKEL = 20  # of the asymptotic series above _LARGE or order²


def log_i0(x: Tensor) -> Tensor:
    """Return log I₀(x), the logarithm of the modified Bessel function.

    Args:
        x: any real number, of any shape.

    Returns:
        Of x's shape and dtype.

    >>> import torch
    >>> from mrsim.fit import bessel
    >>> bessel.log_i0(torch.tensor([0.0, 1.0, 1e6]))
    tensor([0.0000e+00, 2.3591e-01, 9.9999e+05])
    """
    return log_bessel_scaled(x) + x


def bessel_ratio(x: Tensor, order: int = 0) -> Tensor:
    """Return I₍ₙ₊₁₎(x) / Iₙ(x), the derivative of log Iₙ(x) x⁻ⁿ.

    Args:
        x: any real number, of any shape.
        order: n ≥ 0.

    Returns:
        Of x's shape and dtype, between -1 and 1.

    >>> import torch
    >>> from mrsim.fit import bessel
    >>> bessel.bessel_ratio(torch.tensor([0.0, 1.0, 1e6]))
    tensor([0.0000, 0.4464, 1.0000])
    """
    small = torch.where(x.abs() < _SMALL, x, 0.0)
    near = small / (2 * order + 2) * (1 + _series(small, order + 1))
    far = x.sgn() * (1 - _shortfall(x.abs(), order))
    return torch.where(x.abs() < _SMALL, near / (1 + _series(small, order)), far)


def log_bessel_scaled(x: Tensor, order: int = 0) -> Tensor:
    """Return log[n! (2/x)ⁿ Iₙ(x)] − x, without cancellation for x ≥ 0.

    Args:
        x: any real number, of any shape.
        order: n ≥ 0; above 0 the work and memory grow by some √(32 max(50, n²)) + n.

    Returns:
        Of x's shape and dtype.
    """
    size, edge = x.abs(), max(_LARGE, order**2)
    small = torch.where(size < _SMALL, x, 0.0)
    middle = torch.where((size < _SMALL) | (size > edge), _SMALL, size)
    large = torch.where(size > edge, size, edge)
    value = _angles(middle, order)[0] if order else torch.special.i0e(middle).log()
    scale = math.lgamma(order + 1) - order * (large / 2).log()
    tail = scale - (2 * math.pi * large).log() / 2 + _hankel(large, order).log()
    far = torch.where(size > edge, tail, value) + (size - x)
    return torch.where(size < _SMALL, _series(small, order).log1p() - small, far)


def shortfall(x: Tensor, order: int = 0) -> Tensor:
    """Return 1 − I₍ₙ₊₁₎(x)/Iₙ(x) for x ≥ 0, exact also where it is small.

    Args:
        x: at least 0, of any shape.
        order: n ≥ 0.

    Returns:
        Of x's shape and dtype.
    """
    return torch.where(x < _SMALL, 1 - bessel_ratio(x, order), _shortfall(x, order))


def _shortfall(x: Tensor, order: int) -> Tensor:
    edge = max(_LARGE, order**2)
    middle = torch.where((x < _SMALL) | (x > edge), _SMALL, x)
    large = torch.where(x > edge, x, edge)
    if order:
        value = _angles(middle, order)[1]
    else:
        value = 1 - torch.special.i1e(middle) / torch.special.i0e(middle)
    lost = _hankel(large, order, order + 1) / _hankel(large, order)
    return torch.where(x > edge, lost, value)


def _series(x: Tensor, order: int) -> Tensor:
    """Return n! (2/x)ⁿ Iₙ(x) − 1 by its power series."""
    z, total = x.square() / 4, torch.zeros_like(x)
    for k in reversed(range(1, _TERMS)):
        total = z / (k * (k + order)) * (1 + total)
    return total


def _hankel(x: Tensor, order: int, other: int | None = None) -> Tensor:
    """Return √(2πx) e⁻ˣ Iₙ(x) by its asymptotic series, minus that of another order."""
    total = torch.zeros_like(x)
    for c in reversed(_coefficients(order, other)):
        total = c + total / x
    return total


@lru_cache
def _coefficients(order: int, other: int | None) -> list[float]:
    terms = [1.0]
    for k in range(1, _HANKEL):
        terms.append(terms[-1] * ((2 * k - 1) ** 2 - 4 * order**2) / (8 * k))
    if other is None:
        return terms
    pairs = zip(terms, _coefficients(other, None), strict=True)
    return [a - b for a, b in pairs]


def _angles(x: Tensor, order: int) -> tuple[Tensor, Tensor]:
    """Return the log of the mean of e^{x(cos θ − 1)}, and under it that of 1 − cos θ.

    Weights sin²ⁿθ; the midpoint rule converges exponentially, as all is periodic.
    """
    count = math.ceil(math.sqrt(32 * max(_LARGE, order**2))) + order
    theta = (torch.arange(count, dtype=torch.float64) + 0.5) * (math.pi / count)
    weights = 2 * order * theta.sin().log()
    height = (2 * (theta / 2).sin().square()).to(x)
    bell = (weights - weights.logsumexp(0)).to(x) - x.unsqueeze(-1) * height
    return bell.logsumexp(-1), bell.softmax(-1) @ height
