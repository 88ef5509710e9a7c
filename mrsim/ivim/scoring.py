"""Fisher scoring: the likelihood of magnitudes, through the steps of `mrsim.fit`."""

from typing import Any

import torch
from torch import Tensor

from mrsim._covariance import covariance
from mrsim.fit import Fit
from mrsim.fit.likelihood import noncentral_chi
from mrsim.fit.local import Local
from mrsim.fit.magnitude import expand
from mrsim.fit.search import search
from mrsim.fit.unknowns import filled, limits as flat_limits
from mrsim.ivim import ordered
from mrsim.ivim._signal import signal
from mrsim.ivim.acquisition import Acquisition
from mrsim.ivim.bounds import fisher
from mrsim.ivim.fits import inner_signal
from mrsim.ivim.problem import Problem
from mrsim.transform import value_and_jac
from mrsim.tree import get


def score(
    problem: Problem,
    coils: int,
    iterations: int,
    tolerance: float,
    data: Tensor,
    start: Any,
    sigma: Tensor,
    acquisition: Acquisition,
) -> Fit:
    """Fit the magnitudes of one voxel by damped Fisher scoring.

    Args:
        problem: what is fitted.
        coils: 1 for Rician noise, more for non-central chi.
        iterations: most steps.
        tolerance: when the voxel is done.
        data: (sample,).
        start: what `ordered.to_inner` makes of parameters.
        sigma: () standard deviation of each channel.
        acquisition: the samples.

    Returns:
        The fit, of the model's own parameters.
    """
    box, names = problem.box, problem.names
    lower, upper = flat_limits(start, list(box), ordered.inner(box, names))
    model = inner_signal(problem)

    def measure(x: Tensor, y: Tensor, base: Any, width: Tensor, q: Any) -> Local:
        s, jacobian = value_and_jac(model, *box)(filled(base, list(box), x), q)
        columns = torch.stack([get(jacobian, n) for n in box], -1)
        silent = torch.zeros_like(columns[0], dtype=torch.bool)
        return expand(y, s, columns, width, coils, silent)

    given = data, start, sigma, acquisition
    ends = lower, upper
    found = search(measure, list(box), ends, given, iterations, tolerance)
    x, _, _, converged, steps = found
    params = ordered.to_outer(filled(start, list(box), x), box, names)
    s = signal(params, acquisition)
    return Fit(
        params=params,
        covariance=covariance(
            fisher(*box, sigma=sigma, coils=coils)(params, acquisition)
        ),
        cost=-noncentral_chi(data, s, sigma, coils).sum(),
        converged=converged,
        at_bound=(x <= lower) | (x >= upper),
        iterations=steps,
    )
