"""One objective for many tissues: their average, their worst case, or between."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, vmap

from mrsim._batched import peak_bytes
from mrsim._check import concrete
from mrsim._remat import remat
from mrsim.tree import tree_leaves, tree_map

Cost = Callable[[Any, Any], Tensor]


def over(
    cost: Cost,
    tissues: Any,
    weights: Tensor | None = None,
    *,
    power: float = 1.0,
    memory: int | None = None,
) -> Callable[[Any], Tensor]:
    """Make an objective for `minimise` of a cost over many tissues.

    (Σ w costᵖ / Σ w)^(1/p) over the batch: the average for p = 1, the worst case for
    p = inf, a smooth step between for others (costs must then be positive).

    With ``memory`` tissues run in chunks that recompute themselves in reverse mode, so
    that the gradient of long schedules over many tissues needs no more.

    Args:
        cost: of one tissue and one sequence, a real number, such as ``lambda tissue, q:
            mrsim.crlb(f, "T2", sigma=1)(tissue, q).T2 / tissue.T2**2``.
        tissues: a batch: every leaf has the same first axis.
        weights: (tissue,) relative, such as `tissues` gives; equal by default. Tissues
            of weight 0 take no part.
        power: p ≥ 1.
        memory: bytes that a chunk of tissues may allocate with its gradient (one tissue
            at least), found by small probes at the first call; all at once if ``None``.

    Returns:
        A function of the sequence.

    Raises:
        ValueError: the power is below 1, or weights are of another number, negative or
            all 0.

    >>> import mrsim, torch
    >>> from mrsim import design
    >>> pair = mrsim.Tissue(T1=torch.ones(2), T2=torch.tensor([0.1, 0.3]))
    >>> late = lambda tissue, t: t / tissue.T2
    >>> costs = [design.over(late, pair, power=p) for p in (1.0, float("inf"))]
    >>> [round(float(c(torch.tensor(0.3))), 4) for c in costs]
    [2.0, 3.0]
    """
    if not power >= 1:
        raise ValueError(f"design.over: power must be at least 1, got {power}")

    count = len(tree_leaves(tissues)[0])
    given = torch.ones(count) if weights is None else weights
    sound = not concrete(given) or ((given >= 0).all() and given.any())
    if given.shape != (count,) or not sound:
        raise ValueError(
            f"design.over: weights must be {count} numbers, one for each tissue, none"
            f" negative and not all 0, got {given}"
        )
    chunks: dict[Any, int] = {}

    def objective(record: Any) -> Tensor:
        costs = _each(cost, tissues, record, memory, chunks)
        share = given.to(costs)
        share = share / share.sum()
        if math.isinf(power):
            return torch.where(share > 0, costs, -math.inf).amax()
        costs = torch.where(share > 0, costs, 0.0)
        if power == 1:
            return (share * costs).sum()
        # in units of the largest, so that no power overflows
        top = costs.detach().amax()
        usable = top.isfinite() & (top > 0)
        unit = torch.where(usable, top, 1.0)
        ratios = torch.where(usable, costs / unit, 1.0)
        mean = (share * ratios**power).sum() ** (1 / power)
        return torch.where(usable, unit * mean, top)

    return objective


def _each(
    cost: Cost, tissues: Any, record: Any, memory: int | None, chunks: dict[Any, int]
) -> Tensor:
    """Return the cost of every tissue, chunk by chunk where memory is limited."""
    every = vmap(cost, in_dims=(0, None))
    if memory is None:
        return every(tissues, record)
    key = tuple((v.shape, v.dtype, v.device) for v in tree_leaves(record))
    if key not in chunks:
        chunks[key] = _chunk(every, tissues, record, memory)
    size, count = chunks[key], len(tree_leaves(tissues)[0])
    if size >= count:
        return every(tissues, record)
    starts = range(0, count, size)
    parts = [tree_map(lambda v, i=i: v[i : i + size].clone(), tissues) for i in starts]
    return torch.cat([remat(every)(part, record) for part in parts])


def _chunk(every: Cost, tissues: Any, record: Any, memory: int) -> int:
    """Return how many tissues, with their gradient, fit into a number of bytes."""
    count = len(tree_leaves(tissues)[0])
    if count < 4:
        return max(1, count if memory else 1)
    plain = tree_map(torch.ones_like, tree_map(_bare, record))

    def used(n: int) -> int:
        some = tree_map(lambda v: v[:n].clone(), tissues)
        return peak_bytes(grad(lambda r: remat(every)(some, r).sum()), plain)

    low, high = used(1), used(3)
    return min(count, 1 + max(0, memory - low) // max(1, (high - low) // 2))


def _bare(x: Tensor) -> Tensor:
    """Return a plain tensor like one that a transform may follow."""
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)
