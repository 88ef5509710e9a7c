"""Algebra of a few unknowns for many voxels at once: nested lists of tensors.

An entry is a tensor of any batch shape, so that everything is elementwise: no batch of
tiny matrices is ever made, and torch.compile fuses it all. Singular and NaN voxels
change no other.
"""

import math
from collections.abc import Sequence
from functools import reduce
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

Vector = list[Tensor]
Matrix = list[list[Tensor]]

_PIVOT = 20.0  # times eps and p: rounding noise of a pivot with unit diagonal


def dot(x: Sequence[Tensor], y: Sequence[Tensor]) -> Tensor:
    """Return Σ xᵢ yᵢ."""
    total = x[0] * y[0]
    for u, v in zip(x[1:], y[1:], strict=True):
        total = total + u * v
    return total


def times(a: Matrix, x: Vector) -> Vector:
    """Return A x."""
    return [dot(row, x) for row in a]


def where(mask: Tensor, x: Sequence[Tensor], y: Sequence[Tensor]) -> Vector:
    """Choose each entry from x where the mask is True, else from y."""
    return [torch.where(mask, u, v) for u, v in zip(x, y, strict=True)]


def factor(a: Matrix) -> tuple[Matrix, Vector]:
    """Factor a symmetric matrix, A = L diag(d) Lᵀ.

    Args:
        a: (p, p); the lower triangle is read.

    Returns:
        The rows of L below its unit diagonal, and the pivots d, positive where A is
        positive definite. Neither is finite where A is singular.
    """
    rows: Matrix = []
    pivots: Vector = []
    for row in a:
        made: Vector = []
        below: Vector = []
        for x, d, earlier in zip(row, pivots, rows, strict=False):
            known = dot(below, earlier) if below else 0.0
            below.append(x - known)
            made.append(below[-1] / d)
        pivots.append(row[len(made)] - (dot(below, made) if below else 0.0))
        rows.append(made)
    return rows, pivots


def solve(a: Matrix, g: Vector) -> Vector:
    """Return A⁻¹ g of a symmetric matrix."""
    return _substitute(*factor(a), g)


def inverse(a: Matrix) -> Matrix:
    """Return A⁻¹ of a symmetric matrix."""
    return _inverted(*factor(a))


def _inverted(rows: Matrix, pivots: Vector) -> Matrix:
    one, zero = torch.ones_like(pivots[0]), torch.zeros_like(pivots[0])
    size = range(len(pivots))
    units = [[one if i == j else zero for i in size] for j in size]
    return [_substitute(rows, pivots, unit) for unit in units]


def _substitute(rows: Matrix, pivots: Vector, g: Vector) -> Vector:
    y: Vector = []
    for row, x in zip(rows, g, strict=True):
        y.append(x - dot(row, y) if row else x)
    out: Vector = []
    for i in reversed(range(len(pivots))):
        later = [rows[k][i] for k in range(i + 1, len(pivots))]
        x = y[i] / pivots[i]
        out.insert(0, x - dot(later, out) if later else x)
    return out


def covariance(fisher: Matrix) -> Matrix:
    """Invert a Fisher matrix: inf for what it does not tell, as `mrsim.covariance`.

    Args:
        fisher: (p, p); the lower triangle is read.

    Returns:
        C, (p, p). A parameter without information has the variance inf and no
        covariance; where the rest is singular, all variances are inf.
    """
    size = range(len(fisher))
    silent = [~(fisher[i][i] > 0) for i in size]
    unit = [torch.where(silent[i], 1.0, fisher[i][i]).rsqrt() for i in size]
    scaled: Matrix = []
    for i in size:
        row = [fisher[i][j] * unit[i] * unit[j] for j in range(i)]
        gone = [silent[i] | silent[j] for j in range(i)]
        row = [torch.where(g, 0.0, x) for g, x in zip(gone, row, strict=True)]
        scaled.append([*row, torch.ones_like(unit[i])])
    rows, pivots = factor(scaled)
    least = len(fisher) * _PIVOT * torch.finfo(unit[0].dtype).eps
    singular = ~reduce(torch.logical_and, [d > least for d in pivots])
    lost = [singular | x for x in silent]
    out = _inverted(rows, pivots)
    for i in size:
        out[i][i] = torch.where(lost[i], math.inf, out[i][i] * unit[i].square())
        for j in range(i):
            x = out[i][j] * (unit[i] * unit[j])
            out[i][j] = out[j][i] = torch.where(lost[i] | lost[j], 0.0, x)
    return out


class Amplitudes(NamedTuple):
    """Coefficients of a least-squares problem under constraints."""

    values: Vector
    free: Matrix  # inverse of G on the directions that no constraint holds: U(UᵀGU)⁻¹Uᵀ


def nonnegative(gram: Matrix, moments: Vector) -> Amplitudes:
    """Minimise ½ aᵀ G a − hᵀ a over a ≥ 0, by trying every set of positive entries.

    Args:
        gram: G, (p, p).
        moments: h, (p,).

    Returns:
        The minimiser.

    Reference:
        Lawson and Hanson 1974, Solving least squares problems, ch. 23.
    """
    zero = torch.zeros_like(moments[0])
    size = len(moments)
    best = zero, Amplitudes([zero] * size, [[zero] * size] * size)
    sets = [c for k in range(1, size + 1) for c in combinations(range(size), k)]
    for chosen in sets:
        part = inverse([[gram[i][j] for j in chosen] for i in chosen])
        some = times(part, [moments[i] for i in chosen])
        gain = dot(some, [moments[i] for i in chosen])
        allowed = gain > best[0]
        for x in some:
            allowed = allowed & (x >= 0)
        place = {i: k for k, i in enumerate(chosen)}
        values = [some[place[i]] if i in place else zero for i in range(size)]
        free = [
            [part[place[i]][place[j]] if {i, j} <= place.keys() else zero
             for j in range(size)]
            for i in range(size)
        ]  # fmt: skip
        best = (
            torch.where(allowed, gain, best[0]),
            Amplitudes(
                where(allowed, values, best[1].values),
                [where(allowed, *r) for r in zip(free, best[1].free, strict=True)],
            ),
        )
    return best[1]


def boxed(
    gram: Matrix,
    moments: Vector,
    total: tuple[float, float],
    share: tuple[float, float],
) -> Amplitudes:
    """Minimise ½ aᵀ G a − hᵀ a over a = S (1 − f, f) with S and f in intervals.

    The allowed set is convex, so that the minimiser is the free one or lies on one of
    four edges, each a clipped problem of one unknown.

    Args:
        gram: G, (2, 2).
        moments: h, (2,).
        total: lower and upper bound of S = a₁ + a₂, 0 ≤ lower; inf for none.
        share: lower and upper bound of f = a₂ / S, in [0, 1].

    Returns:
        The minimiser.
    """
    inside = inverse(gram)
    a, c = times(inside, moments)
    s = a + c
    allowed = (s >= total[0]) & (s <= total[1])
    allowed = allowed & (c >= share[0] * s) & (c <= share[1] * s)

    lines = [([0.0, 0.0], [1 - f, f], total) for f in share]
    lines += [([s, 0.0], [-s, s], share) for s in total if 0 < s < math.inf]
    edges = [_edge(*line, gram, moments) for line in lines]
    best = edges[0]
    for edge in edges[1:]:
        best = where(edge[0] < best[0], edge, best)
    _, *values, w11, w12, w22 = best
    free = [[w11, w12], [w12, w22]]
    return Amplitudes(
        where(allowed, [a, c], values),
        [where(allowed, x, y) for x, y in zip(inside, free, strict=True)],
    )


def _edge(
    origin: list[float],
    along: list[float],
    limits: tuple[float, float],
    gram: Matrix,
    moments: Vector,
) -> Vector:
    """Minimise over a = origin + t·along; return the value, a and the free inverse."""
    ((p, q), (_, r)), (u, v) = gram, moments
    curve = along[0] ** 2 * p + 2 * along[0] * along[1] * q + along[1] ** 2 * r
    rest = [u - p * origin[0] - q * origin[1], v - q * origin[0] - r * origin[1]]
    t = (along[0] * rest[0] + along[1] * rest[1]) / curve
    kept = t.clamp(*limits)
    x, y = (o + d * kept for o, d in zip(origin, along, strict=True))
    value = x * (p * x + 2 * q * y - 2 * u) + y * (r * y - 2 * v)
    w = torch.where(t == kept, 1 / curve, 0.0)
    return [value, x, y, w * along[0] ** 2, w * along[0] * along[1], w * along[1] ** 2]
