"""What a fit returns."""

import math
from typing import Any

import torch
from torch import Tensor

from mrsim.fit.inverse import Inverse
from mrsim.tree import record


@record
class Fit:
    """The fit of one voxel; under vmap every leaf has the batch axis."""

    params: Any  # the record that was given as start, its unknowns at the minimum
    covariance: Tensor  # (p, p) of the unknowns, in the order of their names
    cost: Tensor  # () half the sum of squared residuals, or −log posterior, see the fit
    converged: Tensor  # () bool: at a minimum within the bounds that is unique
    at_bound: Tensor  # (p,) bool: the unknown lies on a bound
    iterations: Tensor  # () steps tried
    phase: Tensor | None = None  # () of complex amplitudes [rad], variable projection


def scaled(
    curve: Tensor,
    cost: Tensor,
    data: Tensor,
    sigma: Tensor | None,
    *,
    weighted: bool = False,
) -> Tensor:
    """Return the covariance of estimates from the curvature of the cost.

    Args:
        curve: (p, p) Re JᴴJ.
        cost: () half the sum of squared residuals.
        data: what was fitted.
        sigma: of the noise; ``None``: its square is 2 cost / (samples − p).
        weighted: the cost is a negative log-likelihood already.

    Returns:
        (p, p); inf for what the signal does not tell.
    """
    unit: Any = Inverse.apply(curve)
    if weighted:
        return unit
    freedom = data.numel() * (2 if data.is_complex() else 1) - len(unit)
    if sigma is not None:
        noise = sigma.square()
    else:
        noise = 2 * cost / freedom if freedom > 0 else torch.full_like(cost, math.inf)
    return torch.where((unit == 0) | unit.isinf(), unit, unit * noise)
