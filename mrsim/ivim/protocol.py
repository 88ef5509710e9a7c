"""Protocols: which samples to take and how often, and how well they measure.

The cost below is convex in the shares of the samples, so that the equivalence theorem
(Kiefer and Wolfowitz 1960) tells an optimum from what one more setting would improve.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, vmap

from mrsim.ivim.acquisition import Acquisition, check
from mrsim.ivim.bounds import crlb
from mrsim.tree import get, record, to, tree_leaves, tree_map

Cost = Callable[[Acquisition, Tensor], Tensor]


@record
class Protocol:
    """Settings and how the measurement is shared among them."""

    acquisition: Acquisition
    weights: Tensor  # (sample,) shares of the measurement, or numbers of repeats [1]


def relative_sd(
    tissues: Any,
    *unknowns: str,
    sigma: float | Tensor = 1.0,
    coils: int = 0,
    nuisance: Sequence[str] = ("S0",),
    unit: Any = None,
) -> Cost:
    """Make a cost of protocols: the sum of relative standard deviations.

    C = mean over tissues of Σᵢ √CRLBᵢ / unitᵢ. It is convex in the weights (1/CRLBᵢ is
    a Schur complement, concave) and falls as 1/√(number of acquisitions).

    Args:
        tissues: parameters of any model, every leaf with the axis (tissue,) first.
        *unknowns: fields whose errors count.
        sigma: standard deviation of the noise of one acquisition [signal units], ().
        coils: 0 Gaussian, 1 Rician, more: non-central chi.
        nuisance: further unknown fields, also ``"sigma"``.
        unit: a record like the tissues; their own values by default.

    Returns:
        A function of acquisition and weights.

    Raises:
        ValueError: the tissues have no axis, or their values are impossible.

    Reference:
        Zhang 2012 (Magn Reson Med 67:89); Jalnefjord 2019 (Magn Reson Med 82:1541).

    >>> import torch
    >>> from mrsim import ivim
    >>> liver = ivim.Biexp(f=[0.2305], Dp=[0.07002], D=[0.00109])
    >>> cost = ivim.relative_sd(liver, "f", "Dp", "D")
    >>> cost(ivim.Acquisition(b=[0.0, 10.0, 80.0, 800.0]), torch.full((4,), 0.25))
    tensor(54.3813)
    """
    if any(x.ndim == 0 for x in tree_leaves(tissues)):
        raise ValueError(
            "ivim.relative_sd: tissues need a first axis, one entry for each tissue;"
            " for a single one pass mrsim.expand(tissue, 1)"
        )
    check(tissues)
    bound = crlb(*unknowns, sigma=sigma, coils=coils, nuisance=nuisance)

    def one(tissue: Any, unit: Any, q: Acquisition, weights: Tensor) -> Tensor:
        variances = bound(tissue, q, weights)
        parts = [get(variances, n).sqrt() / get(unit, n) for n in unknowns]
        return torch.cat([part.reshape(-1) for part in parts]).sum()

    def cost(acquisition: Acquisition, weights: Tensor) -> Tensor:
        dtype = acquisition.b.dtype
        batch, units = (to(x, dtype=dtype) for x in (tissues, unit or tissues))
        each = vmap(one, in_dims=(0, 0, None, None))
        return each(batch, units, acquisition, weights).mean()

    return cost


def sensitivity(cost: Cost, protocol: Protocol, candidates: Acquisition) -> Tensor:
    """Return what a little more of each candidate brings, relative to the protocol.

    (∂C/∂wₓ) / Σₖ wₖ ∂C/∂wₖ with weights that sum to 1. Where C is convex in them, a
    protocol is optimal among the candidates if and only if no value exceeds 1, which
    its own settings then have.

    Args:
        cost: a function of acquisition and weights, such as `relative_sd` makes.
        protocol: with any weights.
        candidates: settings with the same fields.

    Returns:
        (candidate,) sensitivities [1].

    >>> import torch
    >>> from mrsim import ivim
    >>> liver = ivim.Biexp(f=[0.2305], Dp=[0.07002], D=[0.00109])
    >>> cost = ivim.relative_sd(liver, "f", "Dp", "D")
    >>> four = ivim.Acquisition(b=[0.0, 10.0, 80.0, 800.0])
    >>> usual = ivim.Protocol(acquisition=four, weights=torch.full((4,), 0.25))
    >>> ivim.sensitivity(cost, usual, ivim.Acquisition(b=[15.0, 400.0]))
    tensor([1.6899, 0.2319])
    """
    shares = protocol.weights / protocol.weights.sum()
    size = len(candidates.b)
    everything = joined(protocol.acquisition, candidates)
    weights = torch.cat([shares, shares.new_zeros(size)])
    slope = grad(lambda w: cost(everything, w))(weights)
    return slope[-size:] / (slope[:-size] * shares).sum()


def taken(acquisition: Acquisition, which: Tensor) -> Acquisition:
    """Return some samples of an acquisition; fields that all share stay."""
    return tree_map(lambda x: x[which] if x.ndim else x, acquisition)


def joined(first: Acquisition, second: Acquisition) -> Acquisition:
    """Return the samples of both acquisitions, with what the first's samples share."""
    return tree_map(lambda x, y: torch.cat([x, y]) if x.ndim else x, first, second)
