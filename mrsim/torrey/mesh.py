"""The mesh as two records: positions, which move, and connectivity, which does not.

P1 elements on tetrahedra. Magnetisation jumps across an interface, so that a point on
it carries one degree of freedom (dof) for each compartment that touches it. Its
position is held once: moving it moves all sides together.
"""

from typing import Any

import torch
from torch import Tensor

from mrsim.torrey.faces import (
    Faces,
    check_elements,
    find_faces,
    place_facets,
    signed,
)
from mrsim.tree import record, static


@record
class Nodes:
    """Positions of the points of a mesh: what a shape is differentiated in."""

    points: Tensor  # (point, 3) positions [mm]; a point of an interface occurs once


@record
class Topology:
    """Connectivity of a mesh: integers only. Degrees of freedom go by compartment."""

    elements: Tensor  # (element, 4) dofs of tetrahedra, positively oriented
    compartment: Tensor  # (element,) compartment of each element, from 0
    point: Tensor  # (dof,) the point of each dof; ascending in each compartment
    home: Tensor  # (dof,) the compartment of each dof, ascending
    outer: Tensor  # (facet, 3) dofs of the outer surface, normals outwards
    outer_marker: Tensor  # (facet,) row of Water.relaxivity
    inner: Tensor  # (facet, 2, 3) dofs of both sides of the interfaces, point by point
    inner_marker: Tensor  # (facet,) row of Water.kappa
    compartments: int = static()  # number of compartments
    outers: int = static()  # number of markers of the outer surface
    inners: int = static()  # number of markers of interfaces


def make_mesh(
    points: Any,
    elements: Any,
    compartment: Any = None,
    facets: Any = None,
    facet_marker: Any = None,
) -> tuple[Nodes, Topology]:
    """Check a tetrahedral mesh and number its degrees of freedom.

    Compartments and markers may be any integers: sorted, they become 0, 1, …. Markers
    of outer facets and of interfaces are numbered apart. Without ``facets`` the outer
    surface has one marker for each compartment that it bounds, and each pair of
    compartments that touch has one.

    Args:
        points: positions [mm] (point, 3).
        elements: tetrahedra, as numbers of points from 0 (element, 4).
        compartment: compartment of each element (element,); ``None``: one for all.
        facets: the outer and the interface triangles, as numbers of points (facet, 3).
        facet_marker: marker of each facet (facet,).

    Returns:
        The positions, of the dtype given (float64 if they were no array), and the
        connectivity.

    Raises:
        ValueError: an element is inverted, flat, a duplicate, overlaps another or is
            unmarked; three elements share a facet; a facet has no marker or is none.

    Source: duplicated interface nodes as in Li et al. 2019, NeuroImage 202:116120.

    >>> from mrsim.torrey.mesh import make_mesh
    >>> corners = [[0.0, 0, 0], [1e-2, 0, 0], [0, 1e-2, 0], [0, 0, 1e-2], [1e-2] * 3]
    >>> nodes, topology = make_mesh(corners, [[0, 1, 2, 3], [1, 2, 3, 4]], [7, 9])
    >>> nodes.points.shape[0], topology.point.shape[0], topology.inner.tolist()
    (5, 8, [[[1, 2, 3], [4, 5, 6]]])
    """
    positions = _positions(points)
    tetra = _integers("elements", elements, 4)
    given = torch.zeros_like(tetra[:, 0]) if compartment is None else compartment
    marks = _integers("compartment", given, None)
    check_elements(positions, tetra, marks)
    names, home_of = marks.unique(return_inverse=True)
    faces = find_faces(tetra, home_of)
    count = positions.shape[0]
    keys = home_of[:, None] * count + tetra
    dofs, numbered = keys.unique(return_inverse=True)

    def dof(home: Tensor, point: Tensor) -> Tensor:
        return torch.searchsorted(dofs, home[:, None] * count + point)

    outer_marker, inner_marker = _markers(faces, facets, facet_marker)
    outers, outer_row = outer_marker.unique(return_inverse=True)
    inners, inner_row = inner_marker.unique(return_inverse=True)
    low, high = faces.inner_home.unbind(-1)
    topology = Topology(
        elements=numbered,
        compartment=home_of,
        point=dofs % count,
        home=dofs // count,
        outer=dof(faces.outer_home, faces.outer),
        outer_marker=outer_row,
        inner=torch.stack([dof(low, faces.inner), dof(high, faces.inner)], 1),
        inner_marker=inner_row,
        compartments=len(names),
        outers=len(outers),
        inners=len(inners),
    )
    return Nodes(points=positions), topology


def corners(nodes: Nodes, topology: Topology) -> Tensor:
    """Return the positions of every element's corners.

    Args:
        nodes: positions [mm].
        topology: connectivity.

    Returns:
        (element, 4, 3) [mm].

    >>> from mrsim.torrey import mesh
    >>> tetra = [[0.0, 0, 0], [1e-2, 0, 0], [0, 1e-2, 0], [0, 0, 1e-2]]
    >>> mesh.corners(*mesh.make_mesh(tetra, [[0, 1, 2, 3]])).shape
    torch.Size([1, 4, 3])
    """
    return nodes.points[topology.point[topology.elements]]


def volumes(nodes: Nodes, topology: Topology) -> Tensor:
    """Return the signed volume of every element.

    V = (b − a)·((c − a) × (d − a)) / 6

    Args:
        nodes: positions [mm].
        topology: connectivity.

    Returns:
        (element,) [mm³]; negative for an element that is inverted.

    >>> from mrsim.torrey import mesh
    >>> tetra = [[0.0, 0, 0], [0.01, 0, 0], [0, 0.02, 0], [0, 0, 0.03]]
    >>> mesh.volumes(*mesh.make_mesh(tetra, [[0, 1, 2, 3]]))
    tensor([1.0000e-06], dtype=torch.float64)
    """
    return signed(corners(nodes, topology))


def compartment_volumes(nodes: Nodes, topology: Topology) -> Tensor:
    """Return the volume of every compartment.

    Args:
        nodes: positions [mm].
        topology: connectivity.

    Returns:
        (compartment,) [mm³].

    >>> from mrsim.torrey import mesh
    >>> tetra = [[0.0, 0, 0], [0.01, 0, 0], [0, 0.02, 0], [0, 0, 0.03]]
    >>> mesh.compartment_volumes(*mesh.make_mesh(tetra, [[0, 1, 2, 3]]))
    tensor([1.0000e-06], dtype=torch.float64)
    """
    each = volumes(nodes, topology)
    whole = each.new_zeros(topology.compartments)
    return whole.index_add(0, topology.compartment, each)


def _positions(points: Any) -> Tensor:
    array = hasattr(points, "__array__")
    made = torch.as_tensor(points, dtype=None if array else torch.float64)
    if not made.is_floating_point():
        made = made.double()
    if made.ndim != 2 or made.shape[-1] != 3:
        raise ValueError(
            f"make_mesh: points must have shape (point, 3) [mm], got"
            f" {tuple(made.shape)}"
        )
    return made


def _integers(name: str, values: Any, width: int | None) -> Tensor:
    made = torch.as_tensor(values)
    if made.is_floating_point() or made.dtype == torch.bool:
        raise TypeError(f"make_mesh: {name} must hold integers, got {made.dtype}")
    wanted = 1 if width is None else 2
    if made.ndim != wanted or (width and made.shape[-1] != width):
        shape = f"(count, {width})" if width else "(element,)"
        raise ValueError(
            f"make_mesh: {name} must have shape {shape}, got {tuple(made.shape)}"
        )
    return made.long()


def _markers(faces: Faces, facets: Any, given: Any) -> tuple[Tensor, Tensor]:
    """Return the marker of every outer facet and of every interface facet."""
    if facets is None:
        low, high = faces.inner_home.unbind(-1)
        return faces.outer_home, low * faces.homes + high
    triangles = _integers("facets", facets, 3)
    if given is None:
        raise ValueError(
            "make_mesh: facets came without facet_marker; give one integer for each"
        )
    marks = _integers("facet_marker", given, None)
    if len(marks) != len(triangles):
        raise ValueError(
            f"make_mesh: {len(triangles)} facets came with {len(marks)} markers;"
            f" give one integer for each"
        )
    return place_facets(faces, triangles, marks)
