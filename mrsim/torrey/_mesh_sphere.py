"""Layered balls: an icosahedron's twenty wedges, cut evenly and made round."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mrsim.torrey._ball import Ball, ball
from mrsim.torrey._ellipsoid import Ellipsoid, ellipsoid
from mrsim.torrey._memory import demand_elements
from mrsim.torrey._plausible import check_moved
from mrsim.torrey.chart import Chart, level_weights, ring_counts
from mrsim.torrey.lattice import split_simplex
from mrsim.torrey.mesh import Nodes, Topology, make_mesh, volumes
from mrsim.torrey.quality import orient
from mrsim.units import um

_EDGE = 1.1  # mean length of a surface edge against the distance of levels


def sphere_chart(rings: Sequence[int], grading: float = 1.0) -> tuple[Chart, Topology]:
    """Mesh a ball of layers that share their interfaces, one compartment each.

    Level k of n carries a geodesic icosahedron of frequency k, 10k² + 2 points, so that
    elements have about one size: 20n³ of them. Each level is blown up until the
    polyhedron has the volume of its sphere, which removes the leading error of flat
    facets.

    Args:
        rings: number of levels in each layer, from the inside; two in all at least.
        grading: above 1, levels crowd towards the outer surface of every layer.

    Returns:
        The chart for `ball` and `ellipsoid`, and the connectivity: compartments and
        interfaces count from the inside, the outer surface has one marker.

    Raises:
        ValueError: there are fewer than two levels.

    >>> from mrsim.torrey._mesh_sphere import sphere_chart
    >>> chart, topology = sphere_chart((2, 2))
    >>> topology.compartments, topology.elements.shape
    (2, torch.Size([1280, 4]))
    """
    count = sum(rings)
    if count < 2 or min(rings) < 1:
        raise ValueError(
            f"sphere_chart: rings must have at least one level a layer and two in all,"
            f" got {tuple(rings)}"
        )
    demand_elements("sphere_chart", 20.0 * count**3)
    corners, faces = icosahedron()
    lattice, cells = split_simplex(3, count)
    # a point is known by the whole-number weights of the twelve corners
    share = torch.stack(
        [lattice[:, 0] - lattice[:, 1], lattice[:, 1] - lattice[:, 2], lattice[:, 2]]
    )
    table = torch.zeros(len(faces), len(lattice), 12, dtype=torch.long)
    for k in range(3):
        place = faces[:, k].reshape(-1, 1, 1).expand(-1, len(lattice), 1)
        table = table.scatter_add(2, place, share[k].reshape(1, -1, 1).expand_as(place))
    known, number = table.reshape(-1, 12).unique(dim=0, return_inverse=True)
    elements = number.reshape(len(faces), -1)[:, cells].reshape(-1, 4)
    level = known.sum(-1)
    across = torch.nn.functional.normalize(known.double() @ corners, dim=-1)
    across = across * _blown_up(across, level, elements, count)[level][:, None]
    weight = level_weights(rings, grading, across)[level]
    chart = Chart(across=across, along=torch.zeros_like(level).double(), weight=weight)
    shells = torch.arange(len(rings)).repeat_interleave(torch.tensor(rings))
    compartment = shells[level[elements].amin(-1)]
    radii = 5 * um * torch.tensor(rings).double().cumsum(0) / count
    points = ball(chart, Ball(radii=radii)).points
    return chart, make_mesh(points, orient(points, elements), compartment)[1]


def _blown_up(across: Tensor, level: Tensor, elements: Tensor, count: int) -> Tensor:
    """Return by how much each level must grow to have its sphere's volume."""
    factors = [torch.ones((), dtype=across.dtype)]
    high = level[elements]
    for k in range(1, count + 1):
        # elements whose other corner is one level below have a facet on the level
        chosen = ((high == k).sum(-1) == 3) & (high.amin(-1) == k - 1)
        on = elements[chosen][high[chosen] == k].reshape(-1, 3)
        a, b, c = across[on].unbind(1)
        volume = (a * torch.linalg.cross(b, c)).sum(-1).abs().sum() / 6
        factors.append((4 * math.pi / 3 / volume) ** (1 / 3))
    return torch.stack(factors)


def icosahedron() -> tuple[Tensor, Tensor]:
    """Return the corners (12, 3), of length 1, and the faces (20, 3)."""
    golden = (1 + math.sqrt(5)) / 2
    signs = [(a, b) for a in (-1.0, 1.0) for b in (-golden, golden)]
    rows = [r for a, b in signs for r in ([0.0, a, b], [a, b, 0.0], [b, 0.0, a])]
    points = torch.tensor(rows, dtype=torch.float64)
    near = torch.cdist(points, points) < 2.1
    triples = torch.combinations(torch.arange(12), 3)
    i, j, k = triples.unbind(-1)
    faces = triples[near[i, j] & near[j, k] & near[i, k]]
    return torch.nn.functional.normalize(points, dim=-1), faces


def mesh_sphere(
    radii: Any, size: float, grading: float = 1.0
) -> tuple[Nodes, Topology]:
    """Mesh concentric spheres, one compartment a layer.

    Args:
        radii: outer radius of each layer [mm], ascending (layer,), or one number.
        size: wanted length of edges [mm].
        grading: above 1, levels crowd towards the outer surface of every layer.

    Returns:
        Positions and connectivity; volumes are those of the true spheres.

    >>> from mrsim.torrey._mesh_sphere import mesh_sphere
    >>> from mrsim.torrey.mesh import compartment_volumes
    >>> nodes, topology = mesh_sphere([3e-3, 5e-3], size=1e-3)
    >>> compartment_volumes(nodes, topology).cumsum(0) * 1e9
    tensor([113.0973, 523.5988], dtype=torch.float64)
    """
    outer = torch.as_tensor(radii, dtype=torch.float64)
    rings = ring_counts(outer, size, 1 / _EDGE)
    chart, topology = sphere_chart(rings, grading)
    return _plausible("mesh_sphere", ball(chart, Ball(radii=outer)), topology)


def mesh_ellipsoid(
    axes: Any, size: float, layers: Any = None
) -> tuple[Nodes, Topology]:
    """Mesh concentric ellipsoids of one shape.

    Args:
        axes: semi-axes of the outermost along x, y and z [mm] (3,).
        size: wanted length of edges, on the longest semi-axis [mm].
        layers: outer size of each layer against the outermost [1], ascending to 1.

    Returns:
        Positions and connectivity; volumes are those of the true ellipsoids.

    >>> from mrsim.torrey._mesh_sphere import mesh_ellipsoid
    >>> from mrsim.torrey.mesh import compartment_volumes
    >>> nodes, topology = mesh_ellipsoid([2e-3, 3e-3, 5e-3], size=1e-3)
    >>> compartment_volumes(nodes, topology) * 1e9
    tensor([125.6637], dtype=torch.float64)
    """
    semi = torch.as_tensor(axes, dtype=torch.float64)
    inside = None if layers is None else torch.as_tensor(layers, dtype=torch.float64)
    whole = semi.amax().reshape(1)
    outer = whole if inside is None else inside * whole
    chart, topology = sphere_chart(ring_counts(outer, size, 1 / _EDGE))
    shape = Ellipsoid(axes=semi, layers=inside)
    return _plausible("mesh_ellipsoid", ellipsoid(chart, shape), topology)


def _plausible(where: str, nodes: Nodes, topology: Topology) -> tuple[Nodes, Topology]:
    check_moved(where, volumes(nodes, topology))
    return nodes, topology
