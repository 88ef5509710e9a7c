"""Layered cylinders: a disc of triangles in even rings, drawn out into prisms."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mrsim.torrey._axon import Axon, axon
from mrsim.torrey._memory import demand_elements
from mrsim.torrey.chart import Chart, level_weights, ring_counts
from mrsim.torrey.faces import find_faces
from mrsim.torrey.lattice import split_simplex
from mrsim.torrey.mesh import Nodes, Topology, make_mesh
from mrsim.torrey.quality import orient
from mrsim.units import um


def cylinder_chart(
    rings: Sequence[int], slices: int, grading: float = 1.0
) -> tuple[Chart, Topology]:
    """Mesh a cylinder about z of layers that share their interfaces.

    Ring k carries 6k points; every slice of a triangle is three tetrahedra. Each ring
    is blown up until its polygon has the area of its circle, which removes the leading
    error of flat facets.

    Args:
        rings: number of rings in each layer, from the inside; two in all at least.
        slices: number of slices along the axis.
        grading: above 1, rings crowd towards the outer surface of every layer.

    Returns:
        The chart for `axon`, and the connectivity: compartments and interfaces count
        from the inside; outer markers are 0 for the side, 1 for the ends.

    Raises:
        ValueError: there are fewer than two rings, or no slice.

    >>> from mrsim import torrey
    >>> chart, topology = torrey.cylinder_chart((2, 1), slices=4)
    >>> topology.compartments, topology.outers, topology.elements.shape
    (2, 2, torch.Size([648, 4]))
    """
    count = sum(rings)
    if count < 2 or min(rings) < 1 or slices < 1:
        raise ValueError(
            f"cylinder_chart: rings must have at least one level a layer and two in"
            f" all, and slices be at least 1, got {tuple(rings)} and {slices}"
        )
    demand_elements("cylinder_chart", 18.0 * count**2 * slices)
    disc, level, triangles = _disc(count)
    flat, heights = len(disc), slices + 1
    at = torch.arange(heights).repeat_interleave(flat)
    bottom = triangles.sort(-1).values  # the same diagonal from both sides of a face
    a, b, c = bottom.unbind(-1)
    up = bottom + flat
    walks = [(a, b, c, up[:, 2]), (a, b, up[:, 1], up[:, 2]), (a, *up.unbind(-1))]
    prism = torch.stack([torch.stack(w, -1) for w in walks], 1).reshape(-1, 4)
    elements = (prism + flat * torch.arange(slices)[:, None, None]).reshape(-1, 4)
    weight = level_weights(rings, grading, disc)[level].repeat(heights, 1)
    chart = Chart(
        across=disc.repeat(heights, 1), along=at.double() / slices - 0.5, weight=weight
    )
    shells = torch.arange(len(rings)).repeat_interleave(torch.tensor(rings))
    compartment = shells[level[triangles].amin(-1)]
    compartment = compartment.repeat_interleave(3).repeat(slices)
    radii = um * torch.tensor(rings).double().cumsum(0)
    points = axon(chart, Axon(radii=radii, length=radii.new_tensor(slices * um))).points
    elements = orient(points, elements)
    facets, marker = _ends(elements, compartment, chart.along)
    return chart, make_mesh(points, elements, compartment, facets, marker)[1]


def _disc(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return points (point, 3) on rings of radius 1, their rings, and triangles."""
    lattice, cells = split_simplex(2, count)
    ring, step = lattice.unbind(-1)
    sector = torch.arange(6)[:, None]
    turn = (sector * ring + step) % (6 * ring).clamp_min(1)
    number = torch.where(ring > 0, 1 + 3 * ring * (ring - 1) + turn, 0)
    triangles = number[:, cells].reshape(-1, 3)
    total = 1 + 3 * count * (count + 1)
    level = torch.zeros(total, dtype=torch.long).index_put(
        (number.flatten(),), ring.repeat(6)
    )
    place = torch.zeros(total, dtype=torch.long).index_put(
        (number.flatten(),), turn.flatten()
    )
    step_angle = 2 * math.pi / (6 * level.clamp_min(1)).double()
    blown_up = (step_angle / step_angle.sin()).sqrt() * (level > 0)
    angle = step_angle * place
    rows = [angle.cos(), angle.sin(), 0 * angle]
    return blown_up[:, None] * torch.stack(rows, -1), level, triangles


def _ends(
    elements: Tensor, compartment: Tensor, along: Tensor
) -> tuple[Tensor, Tensor]:
    """Return all facets and their markers: side 0, ends 1, interfaces from 2."""
    faces = find_faces(elements, compartment)
    height = along[faces.outer]
    end = (height.amax(-1) - height.amin(-1)) < 1e-9
    marker = torch.cat([end.long(), 2 + faces.inner_home[:, 0]])
    return torch.cat([faces.outer, faces.inner]), marker


def mesh_cylinder(
    radii: Any, length: float, size: float, grading: float = 1.0
) -> tuple[Nodes, Topology]:
    """Mesh concentric cylinders about z, one compartment a layer.

    Args:
        radii: outer radius of each layer [mm], ascending (layer,), or one number.
        length: length along z [mm].
        size: wanted length of edges [mm].
        grading: above 1, rings crowd towards the outer surface of every layer.

    Returns:
        Positions and connectivity; volumes are those of the true cylinders.

    >>> from mrsim import torrey
    >>> nodes, topology = torrey.mesh_cylinder([3e-3, 5e-3], length=4e-3, size=1e-3)
    >>> torrey.compartment_volumes(nodes, topology) * 1e9
    tensor([113.0973, 201.0619], dtype=torch.float64)
    """
    shape = Axon(
        radii=torch.as_tensor(radii, dtype=torch.float64),
        length=torch.as_tensor(length, dtype=torch.float64),
    )
    return mesh_axon(shape, size, grading)


def mesh_axon(shape: Axon, size: float, grading: float = 1.0) -> tuple[Nodes, Topology]:
    """Mesh a bent, twisted, beaded axon of layers, one compartment each.

    Args:
        shape: its parameters.
        size: wanted length of edges [mm].
        grading: above 1, rings crowd towards the outer surface of every layer.

    Returns:
        Positions and connectivity; outer markers are 0 for the side, 1 for the ends.

    Raises:
        ValueError: the shape turns elements inside out.

    >>> from mrsim import torrey
    >>> shape = torrey.Axon(radii=[2e-3], length=8e-3, bend=80.0, bead=0.2)
    >>> nodes, topology = torrey.mesh_axon(shape, size=1e-3)
    >>> topology.outers, nodes.points.shape
    (2, torch.Size([171, 3]))
    """
    slices = max(1, round(float(shape.length.detach()) / size))
    chart, topology = cylinder_chart(ring_counts(shape.radii, size), slices, grading)
    nodes = axon(chart, shape)
    make_mesh(
        nodes.points.detach(), topology.point[topology.elements], topology.compartment
    )
    return nodes, topology
