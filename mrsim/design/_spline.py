"""Clamped uniform cubic B-splines: smooth schedules from few coefficients."""

import torch
from torch import Tensor

from mrsim._check import check_floats

_DEGREE = 3


def spline(coefficients: Tensor, n: int) -> Tensor:
    """Sample a clamped uniform cubic B-spline at 0, 1, …, n − 1.

    x(t) = Σⱼ cⱼ Bⱼ(t) on [0, n − 1], four-fold knots at both ends and uniform ones
    between. The samples stay between the smallest and largest coefficient, so bounds on
    coefficients are bounds on samples.

    Args:
        coefficients: c (..., coefficient), at least 4.
        n: number of samples, at least 2.

    Returns:
        (..., n) samples; the first and last are the first and last coefficient.

    Raises:
        ValueError: fewer than 4 coefficients or 2 samples.
        TypeError: the coefficients are whole numbers.

    Reference:
        de Boor 1978, A Practical Guide to Splines, ch. IX.

    >>> import torch
    >>> from mrsim import design
    >>> design.spline(torch.tensor([0.0, 1.0, 2.0, 3.0]), 4)
    tensor([0., 1., 2., 3.])
    """
    check_floats("design.spline", coefficients=coefficients)
    return coefficients @ _basis(n, coefficients.shape[-1], coefficients).mT


def spline_fit(samples: Tensor, k: int) -> Tensor:
    """Return the least-squares coefficients of a clamped uniform cubic B-spline.

    Args:
        samples: values at 0, 1, …, n − 1, of shape (..., n).
        k: number of coefficients, from 4 to n.

    Returns:
        (..., k) coefficients: ``spline(spline_fit(x, k), n)`` is nearest to x.

    Raises:
        ValueError: k is below 4 or above n.
        TypeError: the samples are whole numbers.

    >>> import torch
    >>> from mrsim import design
    >>> line = torch.linspace(0, 1, 9)
    >>> (3 * design.spline_fit(line, 4)).round().abs()
    tensor([0., 1., 2., 3.])
    """
    check_floats("design.spline_fit", samples=samples)
    n = samples.shape[-1]
    if k > n:
        raise ValueError(
            f"spline_fit: {n} samples do not determine {k} coefficients;"
            f" ask for at most {n}"
        )
    return samples @ torch.linalg.pinv(_basis(n, k, samples.double())).to(samples).mT


def _basis(n: int, k: int, like: Tensor) -> Tensor:
    """Return the (n, k) values of the basis functions, by de Boor's recursion."""
    if k <= _DEGREE or n < 2:
        raise ValueError(
            f"spline: a cubic spline needs at least 4 coefficients and 2 samples,"
            f" got {k} and {n}"
        )
    spans = k - _DEGREE
    t = torch.arange(n, dtype=torch.float64, device=like.device) * (spans / (n - 1))
    inner = torch.arange(spans + 1, dtype=torch.float64, device=like.device)
    knots = torch.cat([inner[:1].expand(_DEGREE), inner, inner[-1:].expand(_DEGREE)])
    span = t.floor().clamp(max=spans - 1).long() + _DEGREE
    values = torch.nn.functional.one_hot(span, k + _DEGREE).double()
    for degree in range(1, _DEGREE + 1):
        width = knots[degree:] - knots[:-degree]
        ramp = (t[:, None] - knots[:-degree]) / torch.where(width > 0, width, 1.0)
        values = (ramp * values)[:, :-1] + ((1 - ramp) * values)[:, 1:]
    return values.to(like)
