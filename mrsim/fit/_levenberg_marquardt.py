"""Fit the model of one voxel by projected Levenberg-Marquardt."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mrsim._covariance import covariance
from mrsim.fit.driver import Problem, Solve
from mrsim.fit.local import Local, linearise
from mrsim.fit.unknowns import (
    Bounds,
    check_dtypes,
    filled,
    limits,
    refuse_closures,
    unknowns,
)
from mrsim.tree import get, record, tree_flatten, tree_unflatten

_CHUNK = 2**16  # samples measured at once on a CPU: what its caches hold


@record
class Fit:
    """The fit of one voxel; under vmap every leaf has the batch axis."""

    params: Any  # the record that was given as start, its unknowns at the minimum
    covariance: Tensor  # (p, p) of the unknowns, in the order of their names
    cost: Tensor  # () half the sum of squared residuals
    converged: Tensor  # () bool: at a minimum within the bounds that is unique
    at_bound: Tensor  # (p,) bool: the unknown lies on a bound
    iterations: Tensor  # () steps tried


def levenberg_marquardt(
    f: Callable[..., Tensor],
    *wanted: str,
    bounds: Bounds | None = None,
    iterations: int = 100,
    tolerance: float | None = None,
    sigma: float | Tensor | None = None,
) -> Callable[..., Fit]:
    """Make a function that fits ``f`` to the data of one voxel.

    It minimises ½ Σ |f(θ) − data|² over l ≤ θ ≤ u by damped Gauss-Newton steps
    (H + λ diag H) δ = −∇, H = Re JᴴJ, over the unknowns that no bound holds back
    (θ on it and −∇ outwards), clipped to the box; λ follows the gain ratio. It stops
    when ‖P r‖ ≤ tolerance·‖r‖, P the projector on the free columns of J: the step left
    is then below tolerance·√samples standard deviations.

    Args:
        f: signal model ``f(params, *args)``, real or complex, with params a record.
        *wanted: names of the unknown fields of params, dotted for nested records; other
            fields keep the start's values. No name: every field that is present.
        bounds: name → (lower, upper) [the field's unit]; ``None`` for no bound on that
            side. They hold exactly: the result never lies outside.
        iterations: most steps.
        tolerance: as above; by default 1e-6, or √eps where that is larger (float32).
        sigma: standard deviation of each real channel [units of data], for the
            covariance; estimated from the residual if ``None``.

    Returns:
        A function ``(data, start, *args)`` → `Fit`, for use under vmap:
        ``vmap(levenberg_marquardt(f, "M0", "T2"), in_dims=(0, 0, None))``. data has the
        shape and dtype kind of f's result: complex data are fitted as real and
        imaginary parts, real data need a real model. start is moved into the bounds.

        Where nothing can be fitted (data, start or the model there are not finite, or
        the data are all zero) the unknowns, cost and covariance are NaN and
        ``converged`` is False. Unknowns that the signal does not tell have the variance
        inf, and ``converged`` is False.

    Raises:
        ValueError: (when called) a name or a bound does not fit start, the shapes of
            data and signal differ, or f closes over a tensor that is mapped.
        TypeError: (when called) dtypes differ, or real meets complex.

    Reference:
        Levenberg 1944; Marquardt 1963; Kanzow, Yamashita and Fukushima 2004, J Comput
        Appl Math 172:375 (projection); Nielsen 1999, IMM-REP-1999-05 (damping).

    >>> import mrsim, torch
    >>> decay = lambda tissue, t: tissue.M0 * (-t / tissue.T2).exp()
    >>> t = torch.tensor([0.01, 0.05, 0.1])
    >>> data = 2 * (-t / 0.08).exp()
    >>> start = mrsim.Tissue(T1=1.0, T2=0.05)
    >>> found = levenberg_marquardt(decay, "M0", "T2")(data, start, t)
    >>> found.params.T2, found.converged
    (tensor(0.0800), tensor(True))
    """

    def fit(data: Tensor, start: Any, *args: Any) -> Fit:
        refuse_closures(f)
        base, chosen = unknowns(start, wanted)
        at = [get(base, n) for n in chosen]
        check_dtypes(data, dict(zip(chosen, at, strict=True)))
        lower, upper = limits(chosen, at, bounds or {})
        leaves, structure = tree_flatten((lower, upper, data, base, args))

        def measure(x: Tensor, *leaves: Any) -> Local:
            _, _, data, base, args = tree_unflatten(list(leaves), structure)
            return linearise(f, chosen, x, data, base, args)

        def begin(*leaves: Any) -> Tensor:
            base = tree_unflatten(list(leaves), structure)[3]
            return torch.cat([get(base, n).reshape(-1) for n in chosen])

        problem = Problem(
            measure=measure,
            begin=begin,
            iterations=iterations,
            tolerance=tolerance or max(1e-6, torch.finfo(lower.dtype).eps ** 0.5),
            chunk=None if data.is_cuda else max(1, _CHUNK // data.numel()),
        )
        x, cost, curve, converged, steps = Solve.apply(problem, *leaves)
        return Fit(
            params=filled(base, chosen, x),
            covariance=_covariance(cost, curve, _count(data), sigma),
            cost=cost,
            converged=converged,
            at_bound=(x <= lower) | (x >= upper),
            iterations=steps,
        )

    return fit


def _covariance(
    cost: Tensor, curve: Tensor, samples: int, sigma: float | Tensor | None
) -> Tensor:
    unit = covariance(curve)
    freedom = samples - len(unit)
    if sigma is not None:
        noise = torch.as_tensor(sigma).to(unit) ** 2
    else:
        noise = 2 * cost / freedom if freedom > 0 else torch.full_like(cost, math.inf)
    return torch.where((unit == 0) | unit.isinf(), unit, unit * noise)


def _count(data: Tensor) -> int:
    return data.numel() * (2 if data.is_complex() else 1)
