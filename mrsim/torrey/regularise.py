"""Penalties that keep a mesh sound while its nodes are free to move."""

import math

import torch
from torch import Tensor

from mrsim.torrey.mesh import Nodes, Topology, compartment_volumes, corners


def distortion(nodes: Nodes, topology: Topology, rest: Nodes) -> Tensor:
    r"""Return how far elements are from their rest shape: the barrier of inversion.

    With F the map of an element from its rest shape,
    E = mean over elements of |F|² / (3 det(F)^⅔) − 1: 0 for turns and changes of size,
    ∞ where an element is flat or inverted.

    Args:
        nodes: positions [mm].
        topology: connectivity.
        rest: positions at which E is 0 [mm].

    Returns:
        () [1]; inf, with derivative 0, where an element is inverted.

    Source: isochoric neo-Hookean energy, Ogden 1984, Non-linear Elastic Deformations.

    >>> from mrsim import torrey
    >>> nodes, topology = torrey.mesh_sphere(5e-3, size=2e-3)
    >>> bool(torrey.distortion(nodes, topology, nodes).abs() < 1e-12)
    True
    """
    now, then = corners(nodes, topology), corners(rest, topology)
    here, there = ((x[:, 1:] - x[:, :1]).mT for x in (now, then))
    F = here @ torch.linalg.inv_ex(there)[0]
    a, b, c = F.unbind(-1)
    grown = (a * torch.linalg.cross(b, c)).sum(-1)
    sound = grown > 0
    safe = torch.where(sound, grown, 1.0)
    each = F.square().sum((-1, -2)) / (3 * safe ** (2 / 3)) - 1
    return torch.where(sound.all(), each.mean(), math.inf)


def volume_change(nodes: Nodes, topology: Topology, target: Tensor) -> Tensor:
    """Return the mean squared relative change of the compartments' volumes.

    Args:
        nodes: positions [mm].
        topology: connectivity.
        target: (compartment,) wanted volumes [mm³].

    Returns:
        () [1].

    >>> from mrsim import torrey
    >>> nodes, topology = torrey.mesh_sphere(5e-3, size=2e-3)
    >>> target = torrey.compartment_volumes(nodes, topology)
    >>> float(torrey.volume_change(nodes, topology, target / 2))
    1.0
    """
    return (compartment_volumes(nodes, topology) / target - 1).square().mean()


def surface_laplacian(nodes: Nodes, topology: Topology) -> Tensor:
    """Return how rough the surfaces are, by distances from the neighbours' mean.

    E = mean over surface points of |x − mean of neighbours|² / mean squared edge.

    Args:
        nodes: positions [mm].
        topology: connectivity; the outer surface and all interfaces count.

    Returns:
        () [1].

    Source: Taubin 1995, SIGGRAPH p. 351 (umbrella operator).

    >>> from mrsim import torrey
    >>> nodes, topology = torrey.mesh_sphere(5e-3, size=1e-3)
    >>> bool(torrey.surface_laplacian(nodes, topology) < 0.1)
    True
    """
    points, facets = nodes.points, surfaces(topology)
    start, stop = facets.flatten(), facets.roll(-1, 1).flatten()
    start, stop = torch.cat([start, stop]), torch.cat([stop, start])
    step = points[stop] - points[start]
    whole = torch.zeros_like(points).index_add(0, start, step)
    times = points.new_zeros(len(points)).index_add(
        0, start, torch.ones_like(step[:, 0])
    )
    on = times > 0
    away = whole / torch.where(on, times, 1.0).unsqueeze(-1)
    edge = step.square().sum(-1).mean()
    return away.square().sum() / (on.sum() * edge)


def willmore(nodes: Nodes, topology: Topology) -> Tensor:
    """Return the Willmore energy ∫ H² dA of all surfaces.

    H n = −Δx / 2 with the cotangent Laplacian and a third of the area of the facets
    around each point. 4π for a sphere of any size, the least of all closed surfaces.

    Args:
        nodes: positions [mm].
        topology: connectivity; the outer surface and all interfaces count.

    Returns:
        () [1].

    Source: Meyer et al. 2003, Visualization and Mathematics III, eq. 8.

    >>> from mrsim import torrey
    >>> nodes, topology = torrey.mesh_sphere(5e-3, size=1e-3)
    >>> round(float(torrey.willmore(nodes, topology)) / (4 * math.pi), 2)
    0.99
    """
    points, facets = nodes.points, surfaces(topology)
    tangle = points.new_zeros(points.shape)
    area = points.new_zeros(len(points))
    for k in range(3):
        i, j, m = (facets[:, (k + n) % 3] for n in range(3))
        u, v = points[i] - points[m], points[j] - points[m]
        twice = torch.linalg.cross(u, v).norm(dim=-1)
        pull = ((u * v).sum(-1) / (2 * twice)).unsqueeze(-1) * (points[j] - points[i])
        tangle = tangle.index_add(0, i, pull).index_add(0, j, -pull)
        area = area.index_add(0, i, twice / 6)
    on = area > 0
    return (tangle.square().sum(-1) / (4 * torch.where(on, area, 1.0)))[on].sum()


def surfaces(topology: Topology) -> Tensor:
    """Return the outer facets and the interfaces as numbers of points (facet, 3)."""
    both = torch.cat([topology.outer, topology.inner[:, 0]])
    return topology.point[both]


def relax_inside(nodes: Nodes, topology: Topology, sweeps: int = 5) -> Nodes:
    """Move points inside the compartments to the mean of their neighbours.

    Points of surfaces stay. A sweep that would invert an element is not made.

    Args:
        nodes: positions [mm].
        topology: connectivity.
        sweeps: number of sweeps.

    Returns:
        Positions, for going on with a mesh whose surface has moved far.

    >>> from mrsim import torrey
    >>> nodes, topology = torrey.mesh_sphere(5e-3, size=2e-3)
    >>> torrey.relax_inside(nodes, topology).points.shape
    torch.Size([147, 3])
    """
    points = nodes.points
    tetra = topology.point[topology.elements]
    fixed = torch.zeros(len(points), dtype=torch.bool, device=points.device)
    fixed = fixed.index_fill(0, surfaces(topology).flatten(), value=True)
    ones = points.new_ones(tetra.numel())
    times = points.new_zeros(len(points)).index_add(0, tetra.flatten(), ones)
    for _ in range(sweeps):
        middle = points[tetra].mean(1, keepdim=True).expand(-1, 4, 3).reshape(-1, 3)
        whole = torch.zeros_like(points).index_add(0, tetra.flatten(), middle)
        mean = whole / times.clamp_min(1).unsqueeze(-1)
        moved = torch.where(fixed.unsqueeze(-1), points, mean)
        made = Nodes(points=moved)
        here = corners(made, topology)
        a, b, c = (here[:, 1:] - here[:, :1]).unbind(1)
        if ((a * torch.linalg.cross(b, c)).sum(-1) <= 0).any():
            break
        points = moved
    return Nodes(points=points)
