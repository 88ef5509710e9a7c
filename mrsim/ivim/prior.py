"""Priors of IVIM parameters: normal distributions of logits, and the fit under one."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from mrsim.fit import Fit, levenberg_marquardt
from mrsim.ivim import ordered
from mrsim.ivim._signal import signal
from mrsim.ivim.acquisition import Acquisition
from mrsim.ivim.problem import Problem
from mrsim.tree import get, put, record

_EDGE = 4.0  # logits of estimates on a bound


@record
class Prior:
    """A normal distribution of logits, u = logit((θ − lower)/(upper − lower)).

    Without an upper bound the coordinate is log(θ − lower); of diffusivities that are
    ordered by parametrisation it is the logit of t, see `mrsim.ivim.ordered`.
    """

    mean: Tensor  # (p,) in the order of the record's fields
    covariance: Tensor  # (p, p)


def mode_fitter(
    problem: Problem, iterations: int, tolerance: float
) -> Callable[[Tensor, Any, Tensor, Prior], Fit]:
    """Make a function (y, start, sigma, prior) → posterior mode; unknowns are logits.

    Args:
        problem: what is fitted.
        iterations: most steps.
        tolerance: when a voxel is done.

    Returns:
        The function of (voxel, sample) data, logits and sigma (voxel,).
    """
    names = list(problem.box)

    def model(
        params: Any, acquisition: Acquisition, sigma: Tensor, prior: Prior
    ) -> Tensor:
        s = signal(from_logits(problem, params), acquisition)
        root = torch.linalg.cholesky_ex(prior.covariance)[0]
        u = flat(problem, params) - prior.mean
        white = torch.linalg.solve_triangular(root, u.unsqueeze(-1), upper=False)
        return torch.cat([s / sigma, white.squeeze(-1)])

    one = levenberg_marquardt(
        model, *names, iterations=iterations, tolerance=tolerance, sigma=1.0
    )
    mapped = vmap(one, in_dims=(0, 0, None, 0, None))

    def fit(y: Tensor, start: Any, sigma: Tensor, prior: Prior) -> Fit:
        scaled = y / sigma.unsqueeze(-1)
        target = torch.cat([scaled, y.new_zeros(len(y), len(names))], -1)
        return mapped(target, start, problem.acquisition, sigma, prior)

    return fit


def flat(problem: Problem, params: Any) -> Tensor:
    """Return the unknowns of a record along a last axis."""
    return torch.stack([get(params, n) for n in problem.box], -1)


def from_logits(problem: Problem, params: Any) -> Any:
    """Return the parameters whose logits a record holds."""
    for name, (low, high) in ordered.inner(problem.box, problem.names).items():
        u = get(params, name)
        x = u.exp() if math.isinf(high) else (high - low) * u.sigmoid()
        params = put(params, name, low + x)
    return ordered.to_outer(params, problem.box, problem.names)


def to_logits(problem: Problem, params: Any) -> Any:
    """Return the logits of `ordered` parameters, those on bounds pulled inside."""
    for name, (low, high) in ordered.inner(problem.box, problem.names).items():
        x = get(params, name) - low
        if math.isinf(high):
            u = x.clamp_min(torch.finfo(x.dtype).tiny).log()
        else:
            u = torch.logit((x / (high - low)).clamp(0, 1)).clamp(-_EDGE, _EDGE)
        params = put(params, name, u)
    return params
