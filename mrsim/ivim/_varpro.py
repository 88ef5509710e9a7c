"""Variable projection: the fast fit of sums of exponentials."""

import math
from functools import partial, reduce
from itertools import pairwise

import torch
from torch import Tensor

from mrsim._check import check_floats, check_positive
from mrsim.fit import Fit
from mrsim.ivim import small
from mrsim.ivim._limits import Bounds, limits
from mrsim.ivim._projection import (
    Point,
    Problem,
    compiled as compiled_steps,
    decay,
    decrement,
    optimised,
    plain,
    products,
    race,
)
from mrsim.ivim.acquisition import Acquisition, check_data
from mrsim.ivim.exponential import Biexp, Simplified, Triexp
from mrsim.ivim.voxels import over_voxels
from mrsim.tree import tree_map

CHUNK = 8192
_RATES = {Biexp: ("D", "Dp"), Simplified: ("D",), Triexp: ("D0", "D1", "D2")}
_FRACTIONS = {Biexp: ("f",), Simplified: ("f",), Triexp: ("f1", "f2")}
_SILENT = 1e9  # mm²/s: a compartment of this rate shows at b = 0 only
_FLOOR = 30.0  # times eps: rounding noise of a residual against the data


def varpro(
    data: Tensor,
    acquisition: Acquisition,
    model: type = Biexp,
    *,
    bounds: Bounds | None = None,
    starts: int = 1,
    iterations: int = 8,
    tolerance: float | None = None,
    sigma: float | None = None,
    compiled: bool = False,
    progress: bool = False,
) -> Fit:
    """Fit a sum of exponentials by variable projection.

    It minimises ½ Σ (S(b) − data)² exactly over the amplitudes, S0 ≥ 0 and f within
    their bounds, and by damped Newton steps (Gauss-Newton where the Hessian is not
    positive) over the rates, from the best point of a grid. Rates stay ordered, D ≤ Dp.

    Args:
        data: (..., sample) signals of any voxels; non-positive ones are fine, and a
            voxel with NaN, or without signal, gives NaN.
        acquisition: the b values of all voxels; of each voxel by vmap.
        model: `Biexp`, `Simplified` or `Triexp`.
        bounds: name → (lower, upper) [the field's unit], exact; `limits` for names left
            out. The fractions of `Triexp` are at least 0, and have no other bounds.
        starts: how many ranges of the fastest rate have a start of their own; the best
            after half of the iterations goes on.
        iterations: steps of every voxel; 12 more for float64 accuracy.
        tolerance: ``converged`` means ‖P r‖ ≤ tolerance·‖r‖, P the projector on the
            free columns of the Jacobian; √eps of the dtype by default.
        sigma: standard deviation of the noise [units of data], for the covariance;
            estimated from each residual if ``None``.
        compiled: compile the steps by torch.compile: 4 times as fast, after 10 to 30 s
            for each number of samples, model and set of bounds (kept in torch's cache).
        progress: show a progress bar (needs tqdm, extra ``demo``).

    Returns:
        The fit, as of `mrsim.fit`: params is the model's record, every leaf (...).

    Raises:
        ValueError: a bound or the model is unknown, data and b do not match, or sigma,
            tolerance or starts is not positive.

    Reference:
        Golub and Pereyra 1973, SIAM J Numer Anal 10:413.

    >>> from mrsim import ivim
    >>> q = ivim.Acquisition(b=[0.0, 10.0, 40.0, 150.0, 400.0, 800.0])
    >>> data = ivim.signal(ivim.Biexp(S0=1.0, f=0.2, Dp=0.05, D=0.001), q)
    >>> ivim.varpro(data, q).params.Dp
    tensor(0.0500)
    """
    check_floats("ivim.varpro", data=data, b=acquisition.b)
    check_data(data, acquisition)
    check_positive("ivim.varpro", sigma=sigma, tolerance=tolerance, starts=starts)
    problem, box = _pose(model, limits(bounds, model))
    begin, step = (compiled_steps if compiled else plain)(problem, starts)
    known = problem, model, tuple(box.items()), tolerance, sigma
    summary = optimised(_summary, *known) if compiled else partial(_summary, *known)
    b = acquisition.b.unsqueeze(-1)

    def run(y: Tensor, _: object) -> Fit:
        size = CHUNK if compiled else len(y)
        full = torch.nn.functional.pad(y.mT, (0, size - len(y))).contiguous()
        point = race(begin(full, b), step, full, b, iterations)
        found = tree_map(lambda x: x[: len(y)], summary(point, full, b))
        params, rows, cost, converged, at_bound = found
        return Fit(
            params=model(**params),
            covariance=torch.stack([torch.stack(row, -1) for row in rows], -2),
            cost=cost,
            converged=converged,
            at_bound=torch.stack(at_bound, -1),
            iterations=torch.full_like(cost, iterations, dtype=torch.long),
        )

    return over_voxels(run, data, CHUNK, progress)


def _pose(
    model: type, box: dict[str, tuple[float, float]]
) -> tuple[Problem, dict[str, tuple[float, float]]]:
    if model not in _RATES:
        raise ValueError(
            f"ivim.varpro: the model must be Biexp, Simplified or Triexp, sums of"
            f" exponentials, got {model.__name__}; use ivim.least_squares"
        )
    rates = [box[name] for name in _RATES[model]]
    if any(u[0] > v[0] or u[1] > v[1] for u, v in pairwise(rates)):
        raise ValueError(
            f"ivim.varpro: the bounds of {', '.join(_RATES[model])} must ascend in this"
            f" order, got {rates}"
        )
    unable = box.keys() - {"S0", *_FRACTIONS[model], *_RATES[model]}
    free = math.inf
    if model is Triexp and (
        box["S0"] != (0, free) or {box["f1"], box["f2"]} - {(0.0, 0.5)}
    ):
        unable |= {"S0", "f1", "f2"}
    if unable:
        raise ValueError(
            f"ivim.varpro: it cannot bound or fit {', '.join(sorted(unable))} of"
            f" {model.__name__}; use ivim.least_squares"
        )
    if model is Simplified:
        rates.append((_SILENT, _SILENT))
    share = box.get("f", (0.0, 1.0))
    return Problem(tuple(rates), box["S0"], share), box


def _summary(
    problem: Problem,
    model: type,
    box: tuple[tuple[str, tuple[float, float]], ...],
    tolerance: float | None,
    sigma: float | None,
    point: Point,
    y: Tensor,
    b: Tensor,
) -> tuple[dict[str, Tensor], small.Matrix, Tensor, Tensor, list[Tensor]]:
    """Return the model's parameters, covariance, cost, convergence and bounds met."""
    s0 = reduce(torch.add, point.amplitudes)
    parts = [a / torch.where(s0 > 0, s0, 1.0) for a in point.amplitudes]
    named = {"S0": s0, **dict(zip(_FRACTIONS[model], parts[1:], strict=True))}
    named |= dict(zip(_RATES[model], point.rates, strict=False))

    freedom = len(b) - len(box)
    noise = 2 * point.cost / max(freedom, 1) if sigma is None else sigma**2
    fisher = _fisher(model, [n for n, _ in box], point, parts, b)
    if sigma is None and freedom < 1:
        fisher = [[0.0 * x for x in row] for row in fisher]
    unit = small.covariance(fisher)
    unique = reduce(torch.logical_and, [unit[i][i].isfinite() for i in range(len(box))])

    eps = torch.finfo(y.dtype).eps
    left = (tolerance or eps**0.5) ** 2 * 2 * point.cost
    exact = 2 * point.cost <= (_FLOOR * eps) ** 2 * y.square().sum(0)
    met = unique & (exact | (decrement(problem, point) <= left))
    fitted = point.cost.isfinite() & (s0 > 0)
    blank = torch.where(fitted, 0.0, math.nan).to(s0)
    return (
        {n: x + blank for n, x in named.items()},
        [[x * noise + blank for x in row] for row in unit],
        point.cost + blank,
        met & fitted,
        [((named[n] <= low) | (named[n] >= high)) & fitted for n, (low, high) in box],
    )


def _fisher(
    model: type, names: list[str], point: Point, parts: small.Vector, b: Tensor
) -> small.Matrix:
    """Return JᵀJ of the model's parameters, from that of amplitudes and rates."""
    size = range(len(point.rates))
    gram, first, second = products([decay(b, d) for d in point.rates], b)
    a = point.amplitudes
    full = [
        [gram[i][j] for j in size] + [-a[j] * first[i][j] for j in size] for i in size
    ] + [
        [-a[i] * first[i][j] for j in size] + [a[i] * a[j] * second[i][j] for j in size]
        for i in size
    ]
    one = torch.ones_like(point.cost)
    s0 = reduce(torch.add, a)
    columns: dict[str, dict[int, Tensor]] = {"S0": {}}
    rest = one
    for k, name in enumerate(_FRACTIONS[model], start=1):
        columns["S0"][k] = parts[k]
        columns[name] = {0: -s0, k: s0}
        rest = rest - parts[k]
    columns["S0"][0] = rest
    columns |= {name: {len(a) + k: one} for k, name in enumerate(_RATES[model])}
    return [
        [
            small.dot(
                [u * v for u in columns[x].values() for v in columns[z].values()],
                [full[i][j] for i in columns[x] for j in columns[z]],
            )
            for z in names[: k + 1]
        ]
        for k, x in enumerate(names)
    ]
