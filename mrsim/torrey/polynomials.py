"""Polynomials times angular harmonics in layers: tables of constants, made once.

In numpy: a tensor that is made and kept within a transform would belong to it.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Numbers = NDArray[np.float64]


class Table(NamedTuple):
    """Trial functions of the layers on the normalised coordinate s in [0, 1].

    Function i is B[i](s) in its layer times its angular harmonic.
    """

    layer: Tensor  # (function,) layer in which it lives
    harmonic: Tensor  # (function,) number of its angular harmonic
    order: Tensor  # (function,) m in a cylinder, l in a sphere
    nodes: Tensor  # (node,) of Gauss's rule on [0, 1]
    weights: Tensor  # (node,)
    value: Tensor  # (function, node)
    slope: Tensor  # (function, node) derivative by s
    ends: Tensor  # (2, function) values at s = 0 and s = 1
    angular: Tensor  # (operator, harmonic, harmonic) of the unit vector's components


def table(
    dimension: int, layers: int, degree: int, device: torch.device, *, turning: bool
) -> Table:
    """Return all functions of a total degree.

    Args:
        dimension: 1 slab, 2 cylinder, 3 sphere.
        layers: their number.
        degree: of the polynomials in space.
        device: where the table is needed.
        turning: whether the gradient turns. If not, only harmonics that are symmetric
            about it are needed, and the operators are the two halves (order up, order
            down) of the coordinate along it.

    Returns:
        The functions.
    """
    made = _numbers(dimension, layers, degree, turning)
    return Table(*(torch.from_numpy(x).to(device) for x in made))


@lru_cache(maxsize=32)
def _numbers(
    dimension: int, layers: int, degree: int, turning: bool
) -> tuple[NDArray[np.generic], ...]:
    """Return the fields of a `Table`."""
    orders, angular = harmonics(dimension, degree, turning=turning)
    nodes, weights = gauss(2 * degree + 6)
    rows: list[tuple[int, int, int]] = []
    value, slope, ends = [], [], []
    at = np.concatenate([nodes, [0.0, 1.0]])
    for layer in range(layers):
        core = dimension > 1 and layer == 0
        for h, order in enumerate(orders):
            f, df = _core(at, order, degree, dimension) if core else _shell(at, degree)
            count = len(f) if core else degree - order + 1
            rows.extend([(layer, h, order)] * count)
            value.append(f[:count, :-2])
            slope.append(df[:count, :-2])
            ends.append(f[:count, -2:])
    layer, harmonic, order = np.array(rows).T.copy()
    edges = np.concatenate(ends).T.copy()
    both = np.concatenate(value), np.concatenate(slope)
    return layer, harmonic, order, nodes, weights, *both, edges, angular


def gauss(count: int) -> tuple[Numbers, Numbers]:
    """Return Gauss–Legendre nodes and weights on [0, 1] (Golub and Welsch 1969)."""
    n = np.arange(1.0, count)
    off = n / np.sqrt(4 * n * n - 1)
    x, v = np.linalg.eigh(np.diag(off, 1) + np.diag(off, -1))
    return (1 + x) / 2, v[0] ** 2


def _shell(s: Numbers, degree: int) -> tuple[Numbers, Numbers]:
    """Return Legendre polynomials of 2s − 1 and their derivatives by s."""
    return _jacobi(s, degree, 0.0)


def _core(s: Numbers, order: int, degree: int, d: int) -> tuple[Numbers, Numbers]:
    """Return sᵐ Pₖ(2s² − 1), Jacobi's, of degree up to ``degree``, and derivatives."""
    p, dp = _jacobi(s * s, (degree - order) // 2, order + d / 2 - 1)
    lower = order * s ** max(order - 1, 0)
    return s**order * p, lower * p + s**order * dp * 2 * s


def _jacobi(t: Numbers, degree: int, b: float) -> tuple[Numbers, Numbers]:
    """Return Jacobi polynomials P^(0,b) of 2t − 1 and derivatives by t (DLMF 18.9)."""
    x = 2 * t - 1
    p, dp = [np.ones_like(x)], [np.zeros_like(x)]
    if degree:
        p.append((-b + (b + 2) * x) / 2)
        dp.append(np.full_like(x, (b + 2) / 2))
    for n in range(1, degree):
        c = 2 * n + b
        lead = 2 * (n + 1) * (n + b + 1) * c
        one, shift = (c + 1) * (c + 2) * c / lead, -(c + 1) * b * b / lead
        two = 2 * n * (n + b) * (c + 2) / lead
        line = one * x + shift
        p.append(line * p[n] - two * p[n - 1])
        dp.append(line * dp[n] + one * p[n] - two * dp[n - 1])
    return np.stack(p), 2 * np.stack(dp)


def harmonics(
    dimension: int, degree: int, *, turning: bool
) -> tuple[list[int], Numbers]:
    """Return the orders of orthonormal harmonics and operators between them."""
    if dimension == 1:
        return [0], np.ones((1, 1, 1))
    if turning:
        return _circle(degree) if dimension == 2 else _ball(degree)
    m = np.arange(float(degree))
    if dimension == 2:
        links = np.where(m == 0, 0.5**0.5, 0.5)
    else:
        links = (m + 1) / np.sqrt((2 * m + 1) * (2 * m + 3))
    up = np.diag(links, 1)
    return list(range(degree + 1)), np.stack([up, up.T])


def _circle(degree: int) -> tuple[list[int], Numbers]:
    """Return cos mφ and sin mφ, and the components of the unit vector."""
    count = 2 * degree + 4
    phi = np.arange(float(count)) * (2 * math.pi / count)
    waves = [np.ones_like(phi)]
    for m in range(1, degree + 1):
        waves += [2**0.5 * np.cos(m * phi), 2**0.5 * np.sin(m * phi)]
    f = np.stack(waves)
    unit = np.stack([np.cos(phi), np.sin(phi)])
    made = np.einsum("ip,ap,jp->aij", f, unit, f) / count
    return [(k + 1) // 2 for k in range(len(waves))], made


def _ball(degree: int) -> tuple[list[int], Numbers]:
    """Return real spherical harmonics, and the components of the unit vector."""
    t, weights = gauss(degree + 2)
    z = 2 * t - 1
    count = 2 * degree + 4
    phi = np.arange(float(count)) * (2 * math.pi / count)
    rho = np.sqrt(1 - z * z)
    orders, waves = [], []
    peak = np.ones_like(z)
    for m in range(degree + 1):
        if m:
            peak = peak * rho * ((2 * m + 1) / (2 * m)) ** 0.5
        turns = [np.cos(m * phi), np.sin(m * phi)] if m else [np.ones_like(phi)]
        before, now = np.zeros_like(z), peak
        for order in range(m, degree + 1):
            scale = 2**0.5 if m else 1.0
            orders += [order] * len(turns)
            waves += [scale * now[:, None] * turn for turn in turns]
            a = ((4 * (order + 1) ** 2 - 1) / ((order + 1) ** 2 - m * m)) ** 0.5
            b = ((order**2 - m * m) / (4 * order**2 - 1)) ** 0.5 if order else 0.0
            before, now = now, a * (z * now - b * before)
    f = np.stack(waves)
    unit = np.stack(
        [
            rho[:, None] * np.cos(phi),
            rho[:, None] * np.sin(phi),
            np.broadcast_to(z[:, None], (len(z), count)),
        ]
    )
    made = np.einsum("izp,azp,z,jzp->aij", f, unit, weights, f) / count
    return orders, made
