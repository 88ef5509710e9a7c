"""Negative amplitudes that cost: Newton's method for a batch of problems.

    minimise ½ xᵀP x − qᵀx + ½ w Σ min(0, h x)²

is piecewise quadratic and convex, so that damped Newton steps reach the minimum after
finitely many of them. Everything here is concrete, below all transforms.
"""

import torch
from torch import Tensor

from mrsim.tract.quadratic import amplitudes, back, factor, gram, pick

_HALVINGS = 12  # of a step, before it is taken as it is


def search(
    p: Tensor, q: Tensor, w: Tensor, rows: Tensor, iterations: int
) -> tuple[Tensor, Tensor]:
    """Find the rows that are negative at the minimum.

    Each step solves the problem at the rows that are negative now, and is shortened
    until the cost falls. It is the last one when the rows that are negative after it
    are those it was solved for.

    Args:
        p: (n, n), or (batch, n, n).
        q: (batch, n).
        w: (), or (batch,).
        rows: (m, n), or (batch, m, n).
        iterations: most steps.

    Returns:
        (batch, m) and (batch,) whether the minimum was reached; both bool.
    """
    count = len(q)
    x, amplitude = 0 * q, q.new_zeros(count, rows.shape[-2])
    active = torch.zeros_like(amplitude, dtype=torch.bool)
    done = torch.zeros(count, dtype=torch.bool, device=q.device)
    for step in range(iterations):
        live = (~done).nonzero()[:, 0]
        if not len(live):
            break
        pp, ww, hh = pick(p, live, 2), pick(w, live, 0), pick(rows, live, 2)
        weight, acting = ww.unsqueeze(-1).unsqueeze(-1), active[live]
        root = factor(pp + weight * gram(acting.to(q), hh))
        target = back(root, q[live])
        after = amplitudes(hh, target)
        ended = ((after < 0) == acting).all(-1)
        if step:
            ends = (x[live], target), (amplitude[live], after)
            t = _length(pp, q[live], ww, *ends)
            t = torch.where(ended, 1.0, t).unsqueeze(-1)
            target = x[live] + t * (target - x[live])
            after = amplitude[live] + t * (after - amplitude[live])
        x = x.index_copy(0, live, target)
        amplitude = amplitude.index_copy(0, live, after)
        active = active.index_copy(0, live, after < 0)
        done = done.index_copy(0, live, ended | ~target.isfinite().all(-1))
    return active, done & x.isfinite().all(-1)


def _length(
    p: Tensor,
    q: Tensor,
    w: Tensor,
    points: tuple[Tensor, Tensor],
    values: tuple[Tensor, Tensor],
) -> Tensor:
    """Return the share of a step to take: all if the cost falls, or the best half."""
    (x, target), (before, after) = points, values
    d, slope = target - x, after - before
    bend = (p @ d.unsqueeze(-1)).squeeze(-1)
    linear = (bend * x).sum(-1) - (q * d).sum(-1)
    square = (bend * d).sum(-1) / 2

    def cost(t: float) -> Tensor:
        lack = (before + t * slope).clamp_max(0).square().sum(-1)
        return t * linear + t * t * square + w / 2 * lack

    now, best = cost(0.0), cost(1.0)
    share = torch.ones_like(best)
    if bool((best <= now).all()):
        return share
    kept = best <= now
    for k in range(1, _HALVINGS):
        trial = cost(0.5**k)
        better = (trial < best) & ~kept
        best = torch.where(better, trial, best)
        share = torch.where(better, 0.5**k, share)
    return torch.where(best < now, share, 1.0)
