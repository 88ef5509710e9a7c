"""Points that files repeat."""

import torch
from torch import Tensor

_NEAR = 1e-7  # of the extent: what single precision in a file may part


def merge_points(points: Tensor) -> tuple[Tensor, Tensor]:
    """Make points that coincide one.

    Args:
        points: (point, 3).

    Returns:
        The points without repeats, and the new number of every old point.
    """
    extent = (points.amax(0) - points.amin(0)).amax().clamp_min(1e-300)
    grid = ((points - points.amin(0)) / (extent * _NEAR * 10)).round().long()
    _, number = grid.unique(dim=0, return_inverse=True)
    first = torch.full((int(number.max()) + 1,), len(points))
    first = first.scatter_reduce(0, number, torch.arange(len(points)), "amin")
    return points[first], number
