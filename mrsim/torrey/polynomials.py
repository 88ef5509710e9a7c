"""Polynomials times angular harmonics in layers: tables of constants, made once."""

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor


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


def moved(table: Table, device: torch.device) -> Table:
    """Return a table on a device."""
    return Table(*(x.to(device) for x in table))


@lru_cache(maxsize=32)
def table(dimension: int, layers: int, degree: int, *, turning: bool) -> Table:
    """Return all functions of a total degree.

    Args:
        dimension: 1 slab, 2 cylinder, 3 sphere.
        layers: their number.
        degree: of the polynomials in space.
        turning: whether the gradient turns. If not, only harmonics that are symmetric
            about it are needed, and the operators are the two halves (order up, order
            down) of the coordinate along it.

    Returns:
        The functions.
    """
    orders, angular = harmonics(dimension, degree, turning=turning)
    nodes, weights = gauss(2 * degree + 6)
    rows: list[tuple[int, int, int]] = []
    value, slope, ends = [], [], []
    at = torch.cat([nodes, torch.tensor([0.0, 1.0], dtype=torch.float64)])
    for layer in range(layers):
        core = dimension > 1 and layer == 0
        for h, order in enumerate(orders):
            f, df = _core(at, order, degree, dimension) if core else _shell(at, degree)
            count = len(f) if core else degree - order + 1
            rows.extend([(layer, h, order)] * count)
            value.append(f[:count, :-2])
            slope.append(df[:count, :-2])
            ends.append(f[:count, -2:])
    layer, harmonic, order = torch.tensor(rows).unbind(-1)
    return Table(
        layer=layer,
        harmonic=harmonic,
        order=order,
        nodes=nodes,
        weights=weights,
        value=torch.cat(value),
        slope=torch.cat(slope),
        ends=torch.cat(ends).T.contiguous(),
        angular=angular,
    )


def gauss(count: int) -> tuple[Tensor, Tensor]:
    """Return Gauss–Legendre nodes and weights on [0, 1] (Golub and Welsch 1969)."""
    n = torch.arange(1, count, dtype=torch.float64)
    off = n / (4 * n * n - 1).sqrt()
    x, v = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    return (1 + x) / 2, v[0].square()


def _shell(s: Tensor, degree: int) -> tuple[Tensor, Tensor]:
    """Return Legendre polynomials of 2s − 1 and their derivatives by s."""
    return _jacobi(s, degree, 0.0)


def _core(s: Tensor, order: int, degree: int, d: int) -> tuple[Tensor, Tensor]:
    """Return sᵐ Pₖ(2s² − 1), Jacobi's, of degree up to ``degree``, and derivatives."""
    p, dp = _jacobi(s * s, (degree - order) // 2, order + d / 2 - 1)
    lower = order * s ** max(order - 1, 0)
    return s**order * p, lower * p + s**order * dp * 2 * s


def _jacobi(t: Tensor, degree: int, b: float) -> tuple[Tensor, Tensor]:
    """Return Jacobi polynomials P^(0,b) of 2t − 1 and derivatives by t (DLMF 18.9)."""
    x = 2 * t - 1
    p, dp = [torch.ones_like(x)], [torch.zeros_like(x)]
    if degree:
        p.append((-b + (b + 2) * x) / 2)
        dp.append(torch.full_like(x, (b + 2) / 2))
    for n in range(1, degree):
        c = 2 * n + b
        lead = 2 * (n + 1) * (n + b + 1) * c
        one, shift = (c + 1) * (c + 2) * c / lead, -(c + 1) * b * b / lead
        two = 2 * n * (n + b) * (c + 2) / lead
        line = one * x + shift
        p.append(line * p[n] - two * p[n - 1])
        dp.append(line * dp[n] + one * p[n] - two * dp[n - 1])
    return torch.stack(p), 2 * torch.stack(dp)


def harmonics(
    dimension: int, degree: int, *, turning: bool
) -> tuple[list[int], Tensor]:
    """Return the orders of orthonormal harmonics and operators between them."""
    if dimension == 1:
        return [0], torch.ones(1, 1, 1, dtype=torch.float64)
    if turning:
        return _circle(degree) if dimension == 2 else _ball(degree)
    m = torch.arange(degree, dtype=torch.float64)
    if dimension == 2:
        links = torch.where(m == 0, 0.5**0.5, 0.5)
    else:
        links = (m + 1) / ((2 * m + 1) * (2 * m + 3)).sqrt()
    up = torch.diag(links, 1)
    return list(range(degree + 1)), torch.stack([up, up.T])


def _circle(degree: int) -> tuple[list[int], Tensor]:
    """Return cos mφ and sin mφ, and the components of the unit vector."""
    count = 2 * degree + 4
    phi = torch.arange(count, dtype=torch.float64) * (2 * math.pi / count)
    waves = [torch.ones_like(phi)]
    for m in range(1, degree + 1):
        waves += [2**0.5 * (m * phi).cos(), 2**0.5 * (m * phi).sin()]
    f = torch.stack(waves)
    unit = torch.stack([phi.cos(), phi.sin()])
    made = torch.einsum("ip,ap,jp->aij", f, unit, f) / count
    return [(k + 1) // 2 for k in range(len(waves))], made


def _ball(degree: int) -> tuple[list[int], Tensor]:
    """Return real spherical harmonics, and the components of the unit vector."""
    t, weights = gauss(degree + 2)
    z = 2 * t - 1
    count = 2 * degree + 4
    phi = torch.arange(count, dtype=torch.float64) * (2 * math.pi / count)
    rho = (1 - z * z).sqrt()
    orders, waves = [], []
    peak = torch.ones_like(z)
    for m in range(degree + 1):
        if m:
            peak = peak * rho * ((2 * m + 1) / (2 * m)) ** 0.5
        turns = [(m * phi).cos(), (m * phi).sin()] if m else [torch.ones_like(phi)]
        before, now = torch.zeros_like(z), peak
        for order in range(m, degree + 1):
            scale = 2**0.5 if m else 1.0
            orders += [order] * len(turns)
            waves += [scale * now[:, None] * turn for turn in turns]
            a = ((4 * (order + 1) ** 2 - 1) / ((order + 1) ** 2 - m * m)) ** 0.5
            b = ((order**2 - m * m) / (4 * order**2 - 1)) ** 0.5 if order else 0.0
            before, now = now, a * (z * now - b * before)
    f = torch.stack(waves)
    unit = torch.stack(
        [
            rho[:, None] * phi.cos(),
            rho[:, None] * phi.sin(),
            z[:, None].expand(-1, count),
        ]
    )
    made = torch.einsum("izp,azp,z,jzp->aij", f, unit, weights, f) / count
    return orders, made
