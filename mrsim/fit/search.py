"""The search for one voxel's minimum, which every kind of fit goes through."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mrsim.fit.driver import Problem, chunk, least
from mrsim.fit.implicit import Solve
from mrsim.fit.local import Local
from mrsim.tree import get, tree_flatten, tree_unflatten


def search(
    measure: Callable[..., Local],
    chosen: Sequence[str],
    ends: tuple[Tensor, Tensor],
    given: tuple[Any, ...],
    iterations: int,
    tolerance: float | None,
) -> tuple[Tensor, ...]:
    """Step from a record's values to the least cost between bounds.

    Args:
        measure: ``(x, *given)`` → the cost and its derivatives at x.
        chosen: the record's fields that make up x.
        ends: the lower and the upper bounds of x.
        given: the data, the record, then what else the minimum depends on.
        iterations: most steps.
        tolerance: when to stop; ``None`` for the dtype's.

    Returns:
        x, the cost, its curvature, whether it converged, and the steps tried.
    """
    leaves, structure = tree_flatten((*ends, *given))

    def flat(x: Tensor, *leaves: Any) -> Local:
        return measure(x, *tree_unflatten(list(leaves), structure)[2:])

    def begin(*leaves: Any) -> Tensor:
        base = tree_unflatten(list(leaves), structure)[3]
        return torch.cat([get(base, n).reshape(-1) for n in chosen])

    problem = Problem(
        measure=flat,
        begin=begin,
        iterations=iterations,
        tolerance=tolerance or least(ends[0]),
        chunk=chunk(given[0]),
    )
    return Solve.apply(problem, *leaves)
