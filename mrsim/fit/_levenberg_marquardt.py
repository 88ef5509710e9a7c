"""Fit the model of one voxel by projected Levenberg-Marquardt."""

from collections.abc import Callable
from typing import Any, Literal, get_args

from torch import Tensor

from mrsim._check import check_positive
from mrsim.fit.local import Local, squares, tangent
from mrsim.fit.magnitude import expand
from mrsim.fit.prior import Priors, add, numbers
from mrsim.fit.result import Fit, scaled
from mrsim.fit.search import search
from mrsim.fit.unknowns import (
    Bounds,
    check_data,
    check_names,
    filled,
    limits,
    noise,
    refuse_closures,
    unknowns,
)

Likelihood = Literal["gaussian", "rician"]


def levenberg_marquardt(
    f: Callable[..., Tensor],
    *wanted: str,
    bounds: Bounds | None = None,
    iterations: int = 100,
    tolerance: float | None = None,
    sigma: float | Tensor | None = None,
    prior: Priors | None = None,
    likelihood: Likelihood = "gaussian",
) -> Callable[..., Fit]:
    """Make a function that fits ``f`` to the data of one voxel.

    It minimises ½ Σ |f(θ) − data|² over l ≤ θ ≤ u by damped Gauss-Newton steps
    (H + λ diag H) δ = −∇, H = Re JᴴJ, over the unknowns that no bound holds back
    (θ on it and −∇ outwards), clipped to the box; λ follows the gain ratio. It stops
    when ‖P r‖ ≤ tolerance·‖r‖, P the projector on the free columns of J: the step left
    is then below tolerance·√samples standard deviations. With a prior, a sigma for each
    sample, or the Rician likelihood the cost is −log p(data | θ) p(θ) up to a constant,
    and H its expectation over data.

    The fit is differentiable, by the implicit function theorem and to any order, with
    respect to data, bounds, known fields, priors, sigma and args. Where ``converged``
    is False the derivatives are NaN (0 where nothing depends on the voxel).

    Args:
        f: signal model ``f(params, *args)``, real or complex, with params a record.
        *wanted: names of the unknown fields of params, dotted for nested records; other
            fields keep the start's values. No name: every field that is present.
        bounds: name → (lower, upper) [the field's unit]; ``None`` for no bound on that
            side. They hold exactly: the result never lies outside.
        iterations: most steps.
        tolerance: as above; by default 1e-6, or √eps where that is larger (float32).
        sigma: standard deviation of each real channel [units of data], () or like data;
            estimated from the residual if ``None``.
        prior: name → `Prior`; needs sigma.
        likelihood: ``"rician"`` for magnitudes of a real model ``f`` without noise;
            needs sigma.

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
        ValueError: sigma is missing, sigma or tolerance is not positive, a name is
            there twice or the likelihood unknown; (when called) a name, a bound or a
            prior does not fit start, the shapes of data and signal (or sigma) differ,
            or f closes over a tensor that is mapped.
        TypeError: wanted are no names; (when called) dtypes differ, or real meets
            complex.

    Reference:
        Levenberg 1944; Marquardt 1963; Kanzow, Yamashita and Fukushima 2004, J Comput
        Appl Math 172:375 (projection); Nielsen 1999, IMM-REP-1999-05 (damping); Sijbers
        1998, IEEE Trans Med Imaging 17:357 (Rician).

    >>> import mrsim, torch
    >>> decay = lambda tissue, t: tissue.M0 * (-t / tissue.T2).exp()
    >>> t = torch.tensor([0.01, 0.05, 0.1])
    >>> data = 2 * (-t / 0.08).exp()
    >>> start = mrsim.Tissue(T1=1.0, T2=0.05)
    >>> found = levenberg_marquardt(decay, "M0", "T2")(data, start, t)
    >>> found.params.T2, found.converged
    (tensor(0.0800), tensor(True))
    """
    check_names("levenberg_marquardt", wanted)
    check_positive("fit.levenberg_marquardt", sigma=sigma, tolerance=tolerance)
    priors, rician = dict(prior or {}), likelihood == "rician"
    _check_kind(likelihood, sigma, priors)

    def fit(data: Tensor, start: Any, *args: Any) -> Fit:
        refuse_closures(f)
        base, chosen = unknowns(start, wanted)
        check_data(data, base, chosen)
        lower, upper = limits(base, chosen, bounds or {})
        width = noise(sigma, lower, data.shape)
        each = width is not None and width.ndim > 0
        weighted = bool(priors) or rician or each
        known = width if weighted else None, numbers(priors, chosen, base, lower)
        given = (data, base, args, known)

        def measure(x: Tensor, data: Tensor, base: Any, args: Any, known: Any) -> Local:
            here = tangent(f, chosen, x, data, base, args)
            if rician:
                wide = known[0].expand(data.shape).reshape(-1)
                y, (s, j, silent) = data.reshape(-1), here
                local = expand(y, s, j, wide, 1, silent)
            else:
                local = squares(here, data, known[0])
            return add(local, x, chosen, base, priors, known[1]) if priors else local

        found = search(measure, chosen, (lower, upper), given, iterations, tolerance)
        x, cost, curve, converged, steps = found
        return Fit(
            params=filled(base, chosen, x),
            covariance=scaled(curve, cost, data, width, weighted=weighted),
            cost=cost,
            converged=converged,
            at_bound=(x <= lower) | (x >= upper),
            iterations=steps,
        )

    return fit


def _check_kind(likelihood: str, sigma: Any, priors: Priors) -> None:
    if likelihood not in get_args(Likelihood):
        raise ValueError(
            f"fit: likelihood must be 'gaussian' or 'rician', got {likelihood!r}"
        )
    if sigma is None and (priors or likelihood == "rician"):
        raise ValueError(
            "fit: a prior or the Rician likelihood weighs the data by their noise; give"
            " sigma, the standard deviation of each real channel"
        )
