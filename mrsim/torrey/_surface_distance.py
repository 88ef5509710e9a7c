"""How far two surfaces are apart: the error of a recovered mesh."""

import torch
from torch import Tensor

from mrsim.torrey.mesh import Nodes, Topology

_AT_ONCE = 2**20  # pairs of points and triangles


def surface_distance(
    nodes: Nodes, topology: Topology, other: Nodes, other_topology: Topology
) -> Tensor:
    """Return the mean distance between the outer surfaces of two meshes.

    The mean over each surface of the distance to the nearest point of the other, then
    the mean of both; facets are sampled at three points each, by area.

    Args:
        nodes: positions of one mesh [mm].
        topology: its connectivity.
        other: positions of the other [mm].
        other_topology: its connectivity.

    Returns:
        () [mm].

    >>> from mrsim import torrey
    >>> five, six = (torrey.mesh_sphere(r * 1e-3, size=2e-3) for r in (5, 6))
    >>> round(float(torrey.surface_distance(*five, *six) * 1e3), 1)
    1.0
    """
    one = nodes.points[topology.point[topology.outer]]
    two = other.points[other_topology.point[other_topology.outer]]
    return (_mean(one, two) + _mean(two, one)) / 2


def _mean(facets: Tensor, others: Tensor) -> Tensor:
    a, b, c = facets.unbind(1)
    area = torch.linalg.cross(b - a, c - a).norm(dim=-1)
    weights = facets.new_tensor([[4, 1, 1], [1, 4, 1], [1, 1, 4]]) / 6
    points = torch.einsum("sc,fcx->fsx", weights, facets)
    chunk = max(1, _AT_ONCE // len(others))
    near = [_nearest(p, others) for p in points.reshape(-1, 3).split(chunk)]
    return (torch.cat(near).reshape(-1, 3).mean(1) * area).sum() / area.sum()


def _nearest(points: Tensor, facets: Tensor) -> Tensor:
    """Return the distance of each point to the nearest triangle."""
    p = points[:, None]
    best = _to_plane(p, facets)
    for k in range(3):
        a, b = facets[:, k], facets[:, (k + 1) % 3]
        along = b - a
        t = ((p - a) * along).sum(-1) / along.square().sum(-1)
        away = p - a - t.clamp(0, 1).unsqueeze(-1) * along
        best = torch.minimum(best, away.square().sum(-1))
    return best.amin(1).sqrt()


def _to_plane(p: Tensor, facets: Tensor) -> Tensor:
    """Return squared distances to planes, inf where the foot is outside the facet."""
    a, b, c = facets.unbind(1)
    normal = torch.linalg.cross(b - a, c - a)
    square = normal.square().sum(-1)
    height = ((p - a) * normal).sum(-1)
    inside = torch.ones_like(height, dtype=torch.bool)
    for u, v in ((a, b), (b, c), (c, a)):
        turn = torch.linalg.cross((v - u).expand_as(p - u), p - u)
        inside = inside & ((turn * normal).sum(-1) >= 0)
    return torch.where(inside, height.square() / square, torch.inf)
