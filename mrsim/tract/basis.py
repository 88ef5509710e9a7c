"""Real spherical harmonics of even degree on the sphere, and the conventions in use.

The library's own basis is MRtrix's, ``tournier07``, with coefficient (l, m) at
index l(l+1)/2 + m. In Cartesian coordinates every harmonic is a polynomial,

    Y(l, ±m) = √2 Q(l, m, z) · Re, Im (x + iy)ᵐ,   Y(l, 0) = Q(l, 0, z),

so that neither values nor derivatives have poles.
"""

import functools
import math
from typing import Literal, get_args

import torch
from torch import Tensor

from mrsim._check import check_floats

Basis = Literal[
    "tournier07", "tournier07_legacy", "descoteaux07", "descoteaux07_legacy"
]


def terms(lmax: int) -> int:
    """Return how many even harmonics there are up to a degree: (l+1)(l+2)/2.

    Args:
        lmax: even, at least 0.

    Returns:
        The number of coefficients.

    Raises:
        ValueError: lmax is odd or negative.

    >>> terms(8)
    45
    """
    if lmax < 0 or lmax % 2:
        raise ValueError(
            f"lmax must be an even number from 0 on, got {lmax}; FODs and diffusion"
            f" signals are symmetric, odd degrees vanish"
        )
    return (lmax + 1) * (lmax + 2) // 2


def degree(count: int) -> int:
    """Return the lmax of a number of even harmonics.

    Args:
        count: 1, 6, 15, 28, 45, 66, …

    Returns:
        The degree.

    Raises:
        ValueError: no even lmax has this many coefficients.

    >>> degree(45)
    8
    """
    lmax = max(0, round((math.sqrt(8 * count + 1) - 3) / 2))
    if lmax % 2 or terms(lmax) != count:
        near = ", ".join(str(terms(n)) for n in range(0, 14, 2))
        odd = count in {n * n for n in range(2, 20)}
        why = "; a basis with odd degrees is not accepted" if odd else ""
        raise ValueError(
            f"{count} is no number of even spherical harmonics ({near}, … for lmax 0,"
            f" 2, 4, …){why}"
        )
    return lmax


@functools.cache
def orders(lmax: int) -> tuple[tuple[int, int], ...]:
    """Return (l, m) of every coefficient."""
    return tuple((n, m) for n in range(0, lmax + 1, 2) for m in range(-n, n + 1))


def harmonics(directions: Tensor, lmax: int, basis: Basis = "tournier07") -> Tensor:
    """Evaluate all even harmonics up to a degree: the basis' matrix.

    Args:
        directions: (..., 3) unit vectors [1]; they are not normalised here, so that
            derivatives are those of the polynomials.
        lmax: even degree.
        basis: ``"tournier07"`` (MRtrix 3), ``"descoteaux07"``, or dipy's legacy form
            of either.

    Returns:
        (..., coefficient); the amplitude of a function is this matrix times its
        coefficients.

    Raises:
        ValueError: lmax is odd, the basis unknown or the last axis not 3 long.
        TypeError: directions are no floating tensor.

    Reference:
        Tournier 2007, NeuroImage 35:1459; Tournier 2019, NeuroImage 202:116137;
        Descoteaux 2007, Magn Reson Med 58:497.

    >>> import torch
    >>> harmonics(torch.tensor([0.0, 0.0, 1.0]), 2)
    tensor([0.2821, 0.0000, -0.0000, 0.6308, -0.0000, -0.0000])
    """
    terms(lmax)
    check_floats("harmonics", directions=directions)
    if directions.shape[-1:] != (3,):
        raise ValueError(
            f"harmonics: directions must have shape (..., 3), got"
            f" {tuple(directions.shape)}"
        )
    x, y, z = directions.unbind(-1)
    waves = _waves(x, y, lmax)
    columns = {}
    for m in range(lmax + 1):
        for n, q in _legendre(z, m, lmax):
            cosine, sine = waves[m]
            columns[n, m] = q * cosine
            columns[n, -m] = q * cosine if m == 0 else q * sine
    rows = [columns[key] for key in orders(lmax)]
    made = torch.stack(rows, -1)
    if basis == "tournier07":
        return made
    source, factor = _relation(lmax, basis)
    scale = torch.tensor(factor, dtype=made.dtype, device=made.device)
    index = torch.tensor(source, device=made.device)
    return made.index_select(-1, index) * scale


def zonal(z: Tensor, lmax: int) -> Tensor:
    """Evaluate the harmonics that are symmetric about z, Y(l, 0).

    Args:
        z: (...) cosine of the angle to the axis [1].
        lmax: even degree.

    Returns:
        (..., degree) for l = 0, 2, …, lmax.

    Raises:
        ValueError: lmax is odd or negative.
        TypeError: z is no floating tensor.

    >>> import torch
    >>> zonal(torch.tensor(1.0), 2)
    tensor([0.2821, 0.6308])
    """
    terms(lmax)
    check_floats("zonal", z=z)
    return torch.stack([q for _, q in _legendre(z, 0, lmax)], -1)


def _waves(x: Tensor, y: Tensor, lmax: int) -> list[tuple[Tensor, Tensor]]:
    """Return √2 Re and √2 Im of (−x − iy)ᵐ; 1 for m = 0."""
    one = torch.ones_like(x)
    out, cosine, sine = [(one, 0 * one)], one, 0 * one
    root = math.sqrt(2)
    for _ in range(lmax):
        cosine, sine = -(cosine * x - sine * y), -(cosine * y + sine * x)
        out.append((root * cosine, root * sine))
    return out


def _legendre(z: Tensor, m: int, lmax: int) -> list[tuple[int, Tensor]]:
    """Return (l, P(l, m, z) / (1 − z²)^(m/2)), orthonormal, for all even l ≥ m.

    Recurrence in l: P(l) = f(l) (z P(l−1) − P(l−2) / f(l−1)), f² = (4l²−1)/(l²−m²).
    """
    start = math.prod((2 * k + 1) / (2 * k) for k in range(1, m + 1))
    now = torch.full_like(z, math.sqrt(start / (4 * math.pi)))
    before, last, out = torch.zeros_like(z), 1.0, []
    for n in range(m, lmax + 1):
        if n > m:
            f = math.sqrt((4 * n * n - 1) / (n * n - m * m))
            now, before, last = f * (z * now - before / last), now, f
        if n % 2 == 0:
            out.append((n, now))
    return out


def convert(coefficients: Tensor, source: Basis, target: Basis) -> Tensor:
    """Rewrite a function's coefficients in another basis.

    Args:
        coefficients: (..., coefficient) in the source basis.
        source: the basis they are in.
        target: the basis wanted.

    Returns:
        The coefficients of the same function.

    Raises:
        ValueError: the number of coefficients fits no even lmax, or a basis is unknown.

    >>> import torch
    >>> convert(torch.arange(6.0), "tournier07", "descoteaux07")
    tensor([ 0.,  5., -4.,  3.,  2.,  1.])
    """
    lmax = degree(coefficients.shape[-1])
    # basis_b[k] = factor[k] basis_t[source[k]], so c_t[source[k]] = factor[k] c_b[k]
    index, factor = _relation(lmax, source)
    scale = torch.tensor(factor, dtype=coefficients.dtype, device=coefficients.device)
    back = torch.tensor(index, device=coefficients.device).argsort()
    own = (coefficients * scale).index_select(-1, back)
    index, factor = _relation(lmax, target)
    scale = torch.tensor(factor, dtype=coefficients.dtype, device=coefficients.device)
    place = torch.tensor(index, device=coefficients.device)
    return own.index_select(-1, place) / scale


@functools.cache
def _relation(lmax: int, basis: str) -> tuple[list[int], list[float]]:
    """Return where in tournier07 each function of a basis lies, and its factor."""
    if basis not in get_args(Basis):
        raise ValueError(
            f"basis must be one of {', '.join(get_args(Basis))}, got {basis!r}"
        )
    place = {key: k for k, key in enumerate(orders(lmax))}
    index, factor = [], []
    for n, m in orders(lmax):
        # descoteaux07 has the cosines at m < 0; unless legacy it takes Y(l, m) of the
        # sign that m has, which turns the odd cosines' sign
        flip = basis.startswith("descoteaux07")
        sign = -1.0 if basis == "descoteaux07" and m < 0 and m % 2 else 1.0
        half = 1 / math.sqrt(2) if basis == "tournier07_legacy" and m else 1.0
        index.append(place[n, -m if flip else m])
        factor.append(sign * half)
    return index, factor
