"""The least-squares fit of many voxels, and the covariance of estimates."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from mrsim._convert import as_tensor
from mrsim._covariance import covariance
from mrsim.fit import Fit, levenberg_marquardt
from mrsim.ivim import ordered
from mrsim.ivim._limits import Box
from mrsim.ivim._signal import signal
from mrsim.ivim.acquisition import Acquisition
from mrsim.ivim.bounds import fisher
from mrsim.ivim.problem import Problem
from mrsim.tree import replace

CHUNK = 2**16  # voxels


def inner_signal(problem: Problem) -> Callable[[Any, Acquisition], Tensor]:
    """Return the signal as a function of what `ordered.to_inner` makes of parameters.

    Args:
        problem: what is fitted.

    Returns:
        A function of parameters and acquisition.
    """

    def model(params: Any, acquisition: Acquisition) -> Tensor:
        natural = ordered.to_outer(params, problem.box, problem.names)
        return signal(natural, acquisition)

    return model


def fitter(
    problem: Problem,
    iterations: int = 30,
    tolerance: float = 1e-2,
    sigma: float | Tensor | None = None,
) -> Callable[[Tensor, Any], Fit]:
    """Make a function that fits (voxel, sample) data from starts with leaves (voxel,).

    Args:
        problem: what is fitted.
        iterations: most steps.
        tolerance: when a voxel is done.
        sigma: of the noise, for the covariance.

    Returns:
        The function; records hold what `ordered.to_inner` makes of the parameters.
    """
    one = levenberg_marquardt(
        inner_signal(problem),
        *problem.box,
        bounds=ordered.inner(problem.box, problem.names),
        iterations=iterations,
        tolerance=tolerance,
        sigma=sigma,
    )
    mapped = vmap(one, in_dims=(0, 0, None))
    return lambda y, start: mapped(y, start, problem.acquisition)


def outer(problem: Problem, found: Fit, sigma: float | Tensor | None) -> Fit:
    """Turn a fit into the model's own parameters.

    Args:
        problem: what was fitted.
        found: as of `fitter`.
        sigma: of the noise, for the covariance.

    Returns:
        The fit, with the covariance of the model's own parameters.
    """
    if not problem.names:
        return found
    params = ordered.to_outer(found.params, problem.box, problem.names)
    matrix = bound(params, problem.box, problem.acquisition, found.cost, sigma)
    return replace(found, params=params, covariance=matrix)


def bound(
    params: Any,
    box: Box,
    acquisition: Acquisition,
    cost: Tensor,
    sigma: float | Tensor | None,
) -> Tensor:
    """Return the Cramér-Rao bound of Gaussian noise at estimates.

    Args:
        params: leaves (voxel,).
        box: the unknowns.
        acquisition: the samples.
        cost: (voxel,) half the sum of squared residuals, which tells sigma if ``None``.
        sigma: of the noise.

    Returns:
        (voxel, p, p).
    """
    information = fisher(*box, sigma=1.0)
    unit = vmap(lambda p, q: covariance(information(p, q)), in_dims=(0, None))(
        params, acquisition
    )
    freedom = len(acquisition.b) - len(box)
    noise = 2 * cost / freedom if freedom > 0 else cost + math.inf
    if sigma is not None:
        noise = as_tensor(sigma, unit).to(unit).square().expand(noise.shape)
    told = (unit != 0) & unit.isfinite()
    return torch.where(told, unit * noise[..., None, None], unit)
