"""Boxes, and slabs of layers, cut into cubes and these into six tetrahedra."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mrsim._check import check_positive
from mrsim.torrey._memory import demand_elements
from mrsim.torrey.chart import ring_counts
from mrsim.torrey.faces import find_faces
from mrsim.torrey.lattice import split_box
from mrsim.torrey.mesh import Nodes, Topology, make_mesh
from mrsim.torrey.quality import orient


def mesh_box(sides: Any, counts: Sequence[int]) -> tuple[Nodes, Topology]:
    """Mesh a box about the origin.

    Args:
        sides: lengths along x, y and z [mm] (3,).
        counts: number of cubes along each.

    Returns:
        Positions and connectivity; outer markers 0 … 5 are −x, +x, −y, +y, −z, +z.

    Raises:
        ValueError: there are not three sides and counts, or a side is not positive.

    >>> from mrsim import torrey
    >>> nodes, topology = torrey.mesh_box([6e-3, 6e-3, 6e-3], (2, 2, 2))
    >>> topology.elements.shape, topology.outers
    (torch.Size([48, 4]), 6)
    """
    lengths = torch.as_tensor(sides, dtype=torch.float64)
    if tuple(lengths.shape) != (3,) or len(counts) != 3 or min(counts) < 1:
        raise ValueError(
            f"mesh_box: sides and counts must be three each, counts at least 1, got"
            f" {tuple(lengths.shape)} and {tuple(counts)}"
        )
    check_positive("mesh_box", sides=lengths)
    demand_elements("mesh_box", 6.0 * math.prod(counts))
    whole, elements = split_box(tuple(counts))
    points = (whole / torch.tensor(counts).double() - 0.5) * lengths
    return _walled(points, elements, torch.zeros(len(elements), dtype=torch.long), 5)


def mesh_slab(
    edges: Any, size: float, width: float | None = None
) -> tuple[Nodes, Topology]:
    """Mesh parallel layers across x, one compartment each.

    The two faces across x are walls; the sides along x let nothing through either, so
    that a gradient along x sees layers that are infinite in y and z.

    Args:
        edges: positions of the layers' edges along x [mm], ascending (layer + 1,).
        size: wanted length of edges of elements [mm].
        width: length in y and z [mm]; ``size`` by default: one cube.

    Returns:
        Positions and connectivity; outer markers are 0 for −x, 1 for +x, 2 for the
        sides; interfaces count from −x.

    Raises:
        ValueError: edges do not ascend, or a length is not positive.

    >>> from mrsim import torrey
    >>> nodes, topology = torrey.mesh_slab([0.0, 3e-3, 5e-3], size=1e-3)
    >>> torrey.compartment_volumes(nodes, topology) * 1e9
    tensor([3.0000, 2.0000], dtype=torch.float64)
    """
    ends = torch.as_tensor(edges, dtype=torch.float64)
    counts = ring_counts(ends[1:] - ends[0], size)
    check_positive("mesh_slab", width=width)
    across = size if width is None else width
    side = max(1, round(across / size))
    demand_elements("mesh_slab", 6.0 * sum(counts) * side**2)
    places = torch.cat(
        [ends[:1]]
        + [
            a + (b - a) * torch.arange(1, n + 1) / n
            for a, b, n in zip(ends[:-1], ends[1:], counts, strict=True)
        ]
    )
    whole, elements = split_box((sum(counts), side, side))
    yz = (whole[:, 1:].double() / side - 0.5) * across
    points = torch.cat([places[whole[:, :1]], yz], -1)
    layer = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    return _walled(points, elements, layer[whole[elements][..., 0].amin(-1)], 2)


def _walled(
    points: Tensor, elements: Tensor, compartment: Tensor, last: int
) -> tuple[Nodes, Topology]:
    """Mark the walls −x, +x, −y, … 0, 1, 2, …, and from ``last`` on all alike."""
    turned = orient(points, elements)
    faces = find_faces(turned, compartment)
    low, high = points.amin(0), points.amax(0)
    at = points[faces.outer]
    walls = torch.stack([(at == low).all(1), (at == high).all(1)], -1).flatten(1)
    marker = walls.long().argmax(-1).clamp_max(last)
    inner = 6 + faces.inner_home[:, 0]
    facets = torch.cat([faces.outer, faces.inner])
    return make_mesh(points, turned, compartment, facets, torch.cat([marker, inner]))
