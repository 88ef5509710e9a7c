"""Padded tracks: which vertices count, and lengths that are safe to differentiate."""

import torch
from torch import Tensor


def inside(points: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Return which vertices count, and the points with all others at the first.

    Args:
        points: (..., vertex, 3).
        count: (...) or (..., 1) numbers of vertices, broadcast against the vertices.

    Returns:
        (..., vertex) bool, and the points; zeros for a track without vertices.
    """
    kept = torch.arange(points.shape[-2], device=points.device) < count
    first = torch.where(kept[..., :1].unsqueeze(-1), points[..., :1, :], 0.0)
    return kept, torch.where(kept.unsqueeze(-1), points, first)


def norm(x: Tensor) -> Tensor:
    """Return the length of vectors, with derivative 0 at 0."""
    square = x.square().sum(-1)
    apart = square > 0
    return torch.where(apart, torch.where(apart, square, 1.0).sqrt(), square)
