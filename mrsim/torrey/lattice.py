"""Kuhn's subdivision of simplices and boxes (Kuhn 1960, IBM J Res Dev 4:518)."""

import itertools

import torch
from torch import Tensor


def kuhn_cube(dimension: int) -> Tensor:
    """Return the corners (0 or 1) of the simplices of a unit cube.

    Each walks from 0 to (1, …, 1) along the axes in one order.

    Returns:
        (dimension!, dimension + 1, dimension).
    """
    walks = []
    for order in itertools.permutations(range(dimension)):
        at = [0] * dimension
        walk = [tuple(at)]
        for axis in order:
            at[axis] = 1
            walk.append(tuple(at))
        walks.append(walk)
    return torch.tensor(walks)


def split_box(counts: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Cut a box of whole-number sides into unit cubes and these into simplices.

    Args:
        counts: number of cubes along each axis.

    Returns:
        The points' whole-number coordinates, last axis fastest, and the simplices as
        numbers of points.
    """
    sides = [torch.arange(n + 1) for n in counts]
    points = torch.cartesian_prod(*sides).reshape(-1, len(counts))
    lows = torch.cartesian_prod(*[s[:-1] for s in sides]).reshape(-1, len(counts))
    at = lows[:, None, None] + kuhn_cube(len(counts))
    stride = torch.tensor([n + 1 for n in counts])
    stride = stride.flip(0).cumprod(0).flip(0) // stride
    return points, (at * stride).sum(-1).reshape(-1, len(counts) + 1)


def split_simplex(dimension: int, count: int) -> tuple[Tensor, Tensor]:
    """Cut the simplex count ≥ x ≥ y ≥ … ≥ 0 into count^dimension equal ones.

    The faces of the pieces tile each face of the whole evenly, so that simplices that
    share a face stay conforming.

    Args:
        dimension: 2 or 3.
        count: number of pieces of each edge.

    Returns:
        The points' whole-number coordinates and the pieces as numbers of points.
    """
    points, cells = split_box((count,) * dimension)
    within = (points[:, :-1] >= points[:, 1:]).all(-1)
    kept = cells[within[cells].all(-1)]
    return points[within], (within.long().cumsum(0) - 1)[kept]
