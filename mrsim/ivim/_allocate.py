"""Exact protocols: whole numbers of repeats on a grid of settings."""

import torch
from torch import Tensor
from torch.func import vmap

from mrsim.ivim._optimise import grid_shares
from mrsim.ivim.acquisition import Acquisition
from mrsim.ivim.protocol import Cost, Protocol, taken
from mrsim.tree import to


def allocate(
    cost: Cost, candidates: Acquisition, total: int, start: Tensor | None = None
) -> Protocol:
    """Find how often to repeat each candidate, in whole numbers.

    Optimal shares are rounded; then single repeats move from one candidate to another,
    each time the best move, as long as that lowers the cost (Fedorov 1972).

    Args:
        cost: a function of acquisition and weights.
        candidates: the settings that the scanner may take.
        total: number of acquisitions.
        start: (candidate,) shares or counts to start from; by default from `optimise`.

    Returns:
        The candidates taken and how often; the weights sum to the total.

    Raises:
        ValueError: so few acquisitions cannot make the cost finite.

    >>> from mrsim import ivim
    >>> liver = ivim.Biexp(f=[0.2305], Dp=[0.07002], D=[0.00109])
    >>> cost = ivim.relative_sd(liver, "f", "Dp", "D")
    >>> grid = ivim.Acquisition(b=[10.0 * i for i in range(81)])
    >>> found = ivim.allocate(cost, grid, 8)
    >>> found.acquisition.b.tolist(), found.weights.tolist()
    ([0.0, 10.0, 80.0, 800.0], [2.0, 3.0, 2.0, 1.0])
    """
    candidates = to(candidates, dtype=torch.float64)
    shares = grid_shares(cost, candidates) if start is None else start
    counts = _rounded(shares.to(candidates.b), total)
    value = cost(candidates, counts)
    while True:
        occupied = counts.nonzero().flatten()
        eye = torch.diag(torch.ones_like(counts))
        tried = counts + eye - eye[occupied].unsqueeze(1)  # [from, to, candidate]
        values = vmap(cost, (None, 0))(candidates, tried.flatten(0, 1))
        best = values.nan_to_num(torch.inf).argmin()
        if not values[best] < value * (1 - 1e-12):
            break
        counts, value = tried.flatten(0, 1)[best], values[best]
    if not value.isfinite():
        raise ValueError(
            f"ivim.allocate: {total} acquisitions cannot tell the unknowns apart;"
            f" take more, at least one for each unknown"
        )
    kept = counts.nonzero().flatten()
    return Protocol(acquisition=taken(candidates, kept), weights=counts[kept])


def _rounded(shares: Tensor, total: int) -> Tensor:
    """Round shares to counts, at least 1 each if possible (Pukelsheim 1992)."""
    largest = shares.argsort(descending=True)[:total]
    among = torch.zeros_like(shares).index_fill(0, largest, 1.0)
    shares = shares * among / (shares * among).sum()
    counts = ((total - (shares > 0).sum() / 2) * shares).ceil()
    for _ in range(2 * total):
        surplus = int(counts.sum()) - total
        if surplus == 0:
            break
        if surplus < 0:
            one = torch.where(shares > 0, counts / shares, torch.inf).argmin()
        else:
            one = torch.where(counts > 0, (counts - 1) / shares, -torch.inf).argmax()
        step = torch.zeros_like(counts).index_fill(0, one.reshape(1), 1.0)
        counts = counts - step if surplus > 0 else counts + step
    return counts
