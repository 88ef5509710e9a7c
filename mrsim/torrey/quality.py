"""How good the elements of a mesh are, and the repair of what is easily repaired."""

from typing import Any

import torch
from torch import Tensor

from mrsim.torrey.faces import signed
from mrsim.torrey.mesh import Nodes, Topology, compartment_volumes, corners
from mrsim.tree import record

# every edge of a tetrahedron: the two corners off it come last
_EDGES = torch.tensor(
    [[0, 1, 2, 3], [0, 2, 1, 3], [0, 3, 1, 2], [1, 2, 0, 3], [1, 3, 0, 2], [2, 3, 0, 1]]
)


@record
class Quality:
    """The shape of every element, and which is the worst."""

    volume: Tensor  # (element,) signed [mm³]; negative: inverted
    radius_ratio: Tensor  # (element,) 3 inradius / circumradius [1]; 1: regular
    smallest_angle: Tensor  # (element,) smallest dihedral angle [rad]; regular: 1.231
    largest_angle: Tensor  # (element,) largest dihedral angle [rad]; regular: 1.231
    compartment_volume: Tensor  # (compartment,) [mm³]
    worst: Tensor  # (element,) numbers of the elements, lowest radius ratio first


def mesh_quality(nodes: Nodes, topology: Topology) -> Quality:
    """Measure the shape of every element.

    With V the volume, A the areas of the faces and abc the products of lengths of
    opposite edges, inradius = 3|V|/ΣA and
    circumradius = √((p+q+r)(p+q−r)(p−q+r)(−p+q+r)) / 24|V|, p, q, r = the products.

    Args:
        nodes: positions [mm].
        topology: connectivity.

    Returns:
        The report; inverted elements have negative volume and radius ratio.

    Source: radius ratio ρ of Liu & Joe 1994, BIT 34:268, eq. 4.

    >>> from mrsim.torrey.mesh import make_mesh
    >>> from mrsim.torrey.quality import mesh_quality
    >>> tetra = [[0.0, 0, 0], [0.01, 0.01, 0], [0.01, 0, 0.01], [0, 0.01, 0.01]]
    >>> found = mesh_quality(*make_mesh(tetra, [[0, 2, 1, 3]]))
    >>> found.smallest_angle.rad2deg()
    tensor([70.5288], dtype=torch.float64)
    """
    tetra = corners(nodes, topology)
    volume = signed(tetra)
    ratio = radius_ratio(tetra)
    angles = dihedral_angles(tetra)
    return Quality(
        volume=volume,
        radius_ratio=ratio,
        smallest_angle=angles.amin(-1),
        largest_angle=angles.amax(-1),
        compartment_volume=compartment_volumes(nodes, topology),
        worst=ratio.argsort(),
    )


def radius_ratio(tetra: Tensor) -> Tensor:
    """Return 3 inradius / circumradius, with the sign of the volume.

    Args:
        tetra: corners (…, 4, 3) [mm].

    Returns:
        (…,) [1], in [−1, 1].

    >>> import torch
    >>> from mrsim.torrey.quality import radius_ratio
    >>> radius_ratio(torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]))
    tensor(0.7321)
    """
    a, b, c, d = tetra.unbind(-2)
    volume = signed(tetra)
    faces = ((b, c, d), (a, d, c), (a, b, d), (a, c, b))
    area = sum(torch.linalg.cross(y - x, z - x).norm(dim=-1) / 2 for x, y, z in faces)
    p = (b - a).norm(dim=-1) * (d - c).norm(dim=-1)
    q = (c - a).norm(dim=-1) * (d - b).norm(dim=-1)
    r = (d - a).norm(dim=-1) * (c - b).norm(dim=-1)
    product = (p + q + r) * (p + q - r) * (p - q + r) * (q + r - p)
    circum = product.clamp_min(torch.finfo(product.dtype).tiny).sqrt()
    return 216 * volume * volume.abs() / (area * circum)


def dihedral_angles(tetra: Tensor) -> Tensor:
    """Return the angles between the faces at the six edges.

    Args:
        tetra: corners (…, 4, 3) [mm].

    Returns:
        (…, 6) [rad], edges 01 02 03 12 13 23.

    >>> import torch
    >>> from mrsim.torrey.quality import dihedral_angles
    >>> corner = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    >>> dihedral_angles(corner)[:3].rad2deg()
    tensor([90., 90., 90.])
    """
    i, j, k, m = (tetra[..., n, :] for n in _EDGES.to(tetra.device).unbind(-1))
    along = torch.nn.functional.normalize(j - i, dim=-1)
    u, v = k - i, m - i
    u = u - (u * along).sum(-1, keepdim=True) * along
    v = v - (v * along).sum(-1, keepdim=True) * along
    sine = torch.linalg.cross(u, v).norm(dim=-1)
    return torch.atan2(sine, (u * v).sum(-1))


def orient(points: Any, elements: Any) -> Tensor:
    """Turn every inverted element over, by swapping its last two points.

    Args:
        points: positions (point, 3) [mm].
        elements: numbers of points (element, 4).

    Returns:
        (element, 4), all of positive volume.

    >>> from mrsim.torrey.quality import orient
    >>> orient([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], [[0, 2, 1, 3]])
    tensor([[0, 2, 3, 1]])
    """
    tetra = torch.as_tensor(elements).long()
    volume = signed(torch.as_tensor(points).double()[tetra])
    return torch.where((volume < 0)[:, None], tetra[:, [0, 1, 3, 2]], tetra)
