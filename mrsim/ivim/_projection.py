"""The steps of variable projection, elementwise on tensors (sample, voxel).

S(b) = Σₖ aₖ exp(−b Dₖ). The rates D move in log(D + shift), by damped Newton steps on
the sum of squares that the best allowed amplitudes a leave.
"""

from collections.abc import Callable
from functools import cache, partial, reduce
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mrsim.ivim import small
from mrsim.ivim._limits import SHIFT, spread
from mrsim.tree import tree_map

_GRID = {1: (16,), 2: (16, 6), 3: (10, 6, 6)}
_LONGEST = 1.5  # step in log rate
_CURVED = 0.05  # pivots of the Hessian against those of Gauss and Newton
_FASTEST = 40.0  # exponent: products of smaller exponentials are subnormal, and slow


class Problem(NamedTuple):
    """The constraints of a fit, in ascending order of the rates; hashable."""

    rates: tuple[tuple[float, float], ...]  # bounds
    total: tuple[float, float]  # bounds of S0
    share: tuple[float, float]  # bounds of f


class Point(NamedTuple):
    """The sum of squares at some rates; derivatives in log(rate + shift)."""

    cost: Tensor  # ½ ‖y − Σ a exp(−b D)‖² at the best amplitudes
    rates: small.Vector
    amplitudes: small.Vector
    slope: small.Vector
    gauss: small.Matrix  # lower triangle of the projected JᵀJ
    curve: small.Matrix  # lower triangle of the Hessian
    damping: Tensor


Begin = Callable[[Tensor, Tensor], list[Point]]
Step = Callable[[Point, Tensor, Tensor], Point]


def plain(problem: Problem, starts: int) -> tuple[Begin, Step]:
    """Return the functions that make the first points and the next one."""
    return partial(_begin, problem, starts), partial(_step, problem)


def compiled(problem: Problem, starts: int) -> tuple[Begin, Step]:
    """Return those of `plain`, compiled for each shape on first use."""
    return optimised(_begin, problem, starts), optimised(_step, problem)


@cache
def optimised(f: Callable[..., Any], *known: Any) -> Callable[..., Any]:
    """Return ``f`` with its first arguments known, as torch.compile makes it."""
    return torch.compile(partial(f, *known), dynamic=False, fullgraph=True)


def race(points: list[Point], step: Step, y: Tensor, b: Tensor, steps: int) -> Point:
    """Give every start half of the steps, and the best of each voxel the other half."""
    half = steps // 2 if len(points) > 1 else 0
    for _ in range(half):
        points = [step(point, y, b) for point in points]
    best = points[0]
    for point in points[1:]:
        less = point.cost < best.cost
        best = tree_map(lambda new, old, m=less: torch.where(m, new, old), point, best)
    for _ in range(steps - half):
        best = step(best, y, b)
    return best


def _begin(problem: Problem, starts: int, y: Tensor, b: Tensor) -> list[Point]:
    """Evaluate the best point of the grid in each range of the last rate."""
    axes = _axes(problem, y)
    gain = _gain(axes, y, b)
    last = len(axes) - 1
    ranges = min(starts, axes[last].numel())
    parts = gain.tensor_split(ranges, last), axes[last].tensor_split(ranges, last)
    points = []
    for part, fastest in zip(*parts, strict=True):
        every = tuple(range(len(axes)))
        best = part >= part.amax(every)
        grid = zip([*axes[:-1], fastest], problem.rates, strict=True)
        rates = [torch.where(best, x, 0.0).amax(every).clamp(*pair) for x, pair in grid]
        points.append(_evaluate(problem, rates, y, b))
    return points


def _gain(axes: list[Tensor], y: Tensor, b: Tensor) -> Tensor:
    """Return how much of ½ ‖y‖² each point of the grid explains with amplitudes ≥ 0."""
    waves = [decay(b.mT, rate) for rate in axes]
    gram = [[(u * v).sum(-1, keepdim=True) for v in waves] for u in waves]
    moments = [w @ y for w in waves]
    found = small.times(small.inverse(gram), moments)
    conditions = [slow < fast for slow, fast in pairwise(axes)] + [
        x >= 0 for x in found
    ]
    alone = [h.clamp_min(0).square() / gram[k][k] for k, h in enumerate(moments)]
    return torch.where(
        reduce(torch.logical_and, conditions),
        small.dot(found, moments),
        reduce(torch.maximum, alone),
    )


def _axes(problem: Problem, like: Tensor) -> list[Tensor]:
    """Return the rates of the grid, each along an axis of its own, then (1,)."""
    out = []
    for k, pair in enumerate(problem.rates):
        rates = spread("D", *pair, _GRID[len(problem.rates)][k])
        shape = [1] * (len(problem.rates) + 1)
        shape[k] = len(rates)
        out.append(rates.to(like).reshape(shape))
    return out


def _evaluate(problem: Problem, rates: small.Vector, y: Tensor, b: Tensor) -> Point:
    size = range(len(rates))
    waves = [decay(b, d) for d in rates]
    gram, first, second = products(waves, b)
    moments = [(w * y).sum(0) for w in waves]
    if len(rates) == 2:
        a, free = small.boxed(gram, moments, problem.total, problem.share)
    else:
        a, free = small.nonnegative(gram, moments)
    rest = y - small.dot(a, waves)
    _, pull, twist = zip(*(powers(b) @ (w * rest) for w in waves), strict=True)

    unit = [d + SHIFT for d in rates]
    cross = [[-a[i] * first[i][j] for j in size] for i in size]
    gauss = _projected(a, second, cross, free, unit)
    for i in size:
        cross[i][i] = cross[i][i] + pull[i]
    curve = _projected(a, second, cross, free, unit)
    slope = [a[i] * pull[i] * unit[i] for i in size]
    for i in size:
        curve[i][i] = curve[i][i] + slope[i] - a[i] * twist[i] * unit[i] ** 2
    cost = rest.square().sum(0) / 2
    return Point(cost, rates, a, slope, gauss, curve, torch.full_like(cost, 1e-3))


def powers(b: Tensor) -> Tensor:
    """Return 1, b and b², one a row."""
    return torch.cat([torch.ones_like(b), b, b * b], -1).mT


def products(waves: small.Vector, b: Tensor) -> list[small.Matrix]:
    """Return Σ bⁿ eᵢ eⱼ for n = 0, 1, 2."""
    size, weights = range(len(waves)), powers(b)
    sums = [[weights @ (waves[i] * waves[j]) for j in range(i + 1)] for i in size]
    return [
        [[sums[max(i, j)][min(i, j)][n] for j in size] for i in size] for n in range(3)
    ]


def decay(b: Tensor, rate: Tensor) -> Tensor:
    """Return exp(−b rate), or e⁻⁴⁰ where that is larger."""
    return torch.exp((-b * rate).clamp_min(-_FASTEST))


def _projected(
    a: small.Vector,
    second: small.Matrix,
    cross: small.Matrix,
    free: small.Matrix,
    unit: small.Vector,
) -> small.Matrix:
    """Return the lower triangle of F_DD − F_Da free F_aD, in log rates."""
    passed = [small.times(free, row) for row in cross]
    return [
        [
            (a[i] * a[j] * second[i][j] - small.dot(cross[i], passed[j]))
            * (unit[i] * unit[j])
            for j in range(i + 1)
        ]
        for i in range(len(a))
    ]


def _step(problem: Problem, point: Point, y: Tensor, b: Tensor) -> Point:
    size = range(len(point.rates))
    held, slope, diagonal, gauss = _freed(problem, point)
    curve = _masked(point.curve, held, diagonal)
    pivots = zip(small.factor(curve)[1], small.factor(gauss)[1], strict=True)
    convex = reduce(torch.logical_and, [c > _CURVED * g for c, g in pivots])
    chosen = [small.where(convex, c, g) for c, g in zip(curve, gauss, strict=True)]
    for i in size:
        chosen[i][i] = chosen[i][i] + point.damping * diagonal[i]
    move = [x.clamp(-_LONGEST, _LONGEST) for x in small.solve(chosen, slope)]

    rates: small.Vector = []
    for i in size:
        rate = (point.rates[i] + SHIFT) * torch.exp(-move[i]) - SHIFT
        rate = torch.maximum(rate, rates[-1]) if rates else rate
        rates.append(rate.clamp(*problem.rates[i]))
    new = _evaluate(problem, rates, y, b)
    # where the cost is flat to rounding, the last digits of the rates still settle
    noise = torch.finfo(y.dtype).eps * (point.cost * y.square().sum(0)).sqrt()
    better = new.cost <= point.cost + noise
    out = tree_map(lambda n, o: torch.where(better, n, o), new, point)
    damping = torch.where(better, point.damping / 10, point.damping * 8)
    return out._replace(damping=damping.clamp(1e-9, 1e9))


def decrement(problem: Problem, point: Point) -> Tensor:
    """Return ‖P r‖², P the projector on the columns of the Jacobian that are free."""
    _, slope, _, gauss = _freed(problem, point)
    return small.dot(slope, small.solve(gauss, slope))


def _freed(
    problem: Problem, point: Point
) -> tuple[small.Vector, small.Vector, small.Vector, small.Matrix]:
    """Return which rates a bound holds, and slope, diagonal, matrix of the others."""
    held = []
    for pair, rate, slope in zip(problem.rates, point.rates, point.slope, strict=True):
        below, above = rate <= pair[0], rate >= pair[1]
        held.append((below & (slope >= 0)) | (above & (slope <= 0)))
    slope = [torch.where(h, 0.0, g) for h, g in zip(held, point.slope, strict=True)]
    entries = [row[-1] for row in point.gauss]
    diagonal = [torch.where(x > 0, x, 1.0) for x in entries]
    return held, slope, diagonal, _masked(point.gauss, held, diagonal)


def _masked(
    matrix: small.Matrix, held: small.Vector, diagonal: small.Vector
) -> small.Matrix:
    """Make rows and columns of held unknowns those of a diagonal matrix."""
    out = []
    for i, row in enumerate(matrix):
        off = [torch.where(held[i] | held[j], 0.0, row[j]) for j in range(i)]
        silent = held[i] | (row[i] == 0)
        out.append([*off, torch.where(silent, diagonal[i], row[i])])
    return out
