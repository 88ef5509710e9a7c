"""Smooth directions for free nodes: the gradient of a loss in a Sobolev metric."""

from collections.abc import Callable

import torch
from torch import Tensor

from mrsim.torrey.mesh import Nodes, Topology, corners, volumes

_LARGEST = 6000  # points: a dense matrix of 288 MB


def smooth_metric(
    nodes: Nodes, topology: Topology, length: float
) -> Callable[[Nodes], Nodes]:
    """Return the map from a gradient to a smooth displacement.

    d = (1 + ℓ² M⁻¹K)⁻² M⁻¹ g, each component apart; M and K are mass and stiffness of
    the mesh. Displacements shorter than ℓ are held back, so that neighbours move
    together and the inside follows the surface.

    Args:
        nodes: positions [mm] at the start; the metric stays when they move.
        topology: connectivity.
        length: ℓ [mm].

    Returns:
        A linear, symmetric, positive map for `optimise_mesh`.

    Raises:
        MemoryError: the mesh has too many points for a dense matrix.

    Source: Neuberger 2010, Sobolev Gradients and Differential Equations.

    >>> from mrsim import torrey
    >>> nodes, topology = torrey.mesh_sphere(5e-3, size=2e-3)
    >>> torrey.smooth_metric(nodes, topology, length=3e-3)(nodes).points.shape
    torch.Size([147, 3])
    """
    count = len(nodes.points)
    if count > _LARGEST:
        raise MemoryError(
            f"smooth_metric: {count} points would need {8 * count**2 / 1e9:.1f} GB;"
            f" it takes up to {_LARGEST}: coarsen the mesh, or give your own metric"
        )
    mass, stiffness = _matrices(nodes, topology)
    half = torch.linalg.cholesky_ex(torch.diag(mass) + length**2 * stiffness)[0]

    def metric(gradient: Nodes) -> Nodes:
        once = torch.cholesky_solve(gradient.points, half)
        twice = torch.cholesky_solve(mass[:, None] * once, half)
        return Nodes(points=twice)

    return metric


def _matrices(nodes: Nodes, topology: Topology) -> tuple[Tensor, Tensor]:
    """Return lumped mass and stiffness of the points, interfaces joined."""
    points = nodes.points.detach()
    fixed = Nodes(points=points)
    tetra = topology.point[topology.elements]
    volume = volumes(fixed, topology)
    at = corners(fixed, topology)
    inverse = torch.linalg.inv_ex(at[:, 1:] - at[:, :1])[0]
    slopes = torch.cat([-inverse.sum(-1, keepdim=True), inverse], -1).mT
    blocks = volume[:, None, None] * slopes @ slopes.mT
    count = len(points)
    mass = points.new_zeros(count).index_add(
        0, tetra.flatten(), (volume / 4).repeat_interleave(4)
    )
    place = (tetra[:, :, None] * count + tetra[:, None]).flatten()
    flat = points.new_zeros(count * count).index_add(0, place, blocks.flatten())
    least = mass.amax() * 1e-9  # points of no element
    return mass.clamp_min(float(least)), flat.reshape(count, count)
