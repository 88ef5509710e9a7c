"""Free nodes from noisy signals: the likeliest smooth displacement, and its bound."""

import math
import sys

import torch
from inverse_signals import IMAGING, SIGMA, WATER, basis_of, imaging
from torch import Tensor
from torch.func import jacrev, jvp, vmap

import mrsim
from mrsim import torrey
from mrsim.torrey.progress import progress_bar

MODES = 22
STEPS = 10
ENOUGH = 3  # of the cost: a step that gains less is the last
KEPT = 3e-5  # of the largest variance: displacements that are expected to be less stay


@mrsim.record
class Prior:
    """Displacements of nodes, points + Σ zₖ waysₖ: z is normal with variance 1."""

    points: Tensor  # (point, 3) at rest [mm]
    ways: Tensor  # (way, point, 3) [mm]


@mrsim.record
class Found:
    """The likeliest nodes, and what is known of them."""

    nodes: torrey.Nodes
    z: Tensor  # (way,)
    information: Tensor  # (way, way) that signals have of z
    residual: Tensor  # () mean squared, in shares of the variance


def seen(x: torrey.Nodes, topology: torrey.Topology, modes: int = MODES) -> Tensor:
    return imaging(basis_of(x, topology, WATER, modes))


def smooth_prior(rest: torrey.Nodes, length: float, radius: float) -> Prior:
    """Expect displacements that are alike at near nodes, and each way as likely.

    A Gaussian process with two scales: of a radius, alike over the length of the rod,
    and of a third of a radius, alike over 1.2.
    """
    apart = torch.cdist(rest.points, rest.points)

    def alike(size: float, reach: float) -> Tensor:
        return size**2 * (-((apart / reach) ** 2) / 2).exp()

    covariance = alike(radius, length) + alike(radius / 3, 1.2 * radius)
    variance, shape = torch.linalg.eigh(covariance)
    on = variance > KEPT * variance[-1]
    each = (shape[:, on] * variance[on].sqrt()).mT
    ways = torch.einsum("wp,ab->wapb", each, torch.eye(3)).flatten(0, 1)
    return Prior(points=rest.points, ways=ways)


def moved(prior: Prior, z: Tensor) -> torrey.Nodes:
    return torrey.Nodes(points=prior.points + torch.einsum("w,wpa->pa", z, prior.ways))


def slopes(x: torrey.Nodes, topology: torrey.Topology, ways: Tensor) -> Tensor:
    """Return derivatives of all signals along displacements (signal, way).

    In two stages: the reduced matrices along the ways, and signals in the matrices.
    """

    def basis(x: torrey.Nodes) -> torrey.Basis:
        return basis_of(x, topology, WATER, MODES, order=1)

    def along(way: Tensor) -> torrey.Basis:
        return jvp(basis, (x,), (torrey.Nodes(points=way),))[1]

    here, turned = basis(x), vmap(along, chunk_size=64)(ways)
    made = []
    for f, each in IMAGING:
        rows = vmap(jacrev(f), (None, 0, 0), chunk_size=30)(here, *each)
        made.append(
            sum(
                getattr(rows, name).flatten(0, 1).flatten(1)
                @ getattr(turned, name).flatten(1).mT
                for name in ("decay", "position", "weight")
            )
        )
    return torch.cat(made)


def released(data: Tensor, prior: Prior, topology: torrey.Topology) -> Found:
    """Let the nodes go: Gauss-Newton steps to the likeliest displacement.

    The cost Σ (residual/σ)² + Σ z² has nothing to tune but the prior; a step that does
    not lower it, or inverts an element, is halved.
    """

    def look(z: Tensor) -> tuple[float, Tensor]:
        x = moved(prior, z)
        if float(torrey.volumes(x, topology).min()) <= 0:
            return math.inf, data
        left = (seen(x, topology) - data) / SIGMA
        return float(left @ left + z @ z), left

    z = data.new_zeros(len(prior.ways))
    (cost, left), eye = look(z), torch.eye(len(z))
    bar = progress_bar(STEPS, True)
    for _ in range(STEPS):
        J = slopes(moved(prior, z), topology, prior.ways) / SIGMA
        way, size = torch.linalg.solve(J.mT @ J + eye, J.mT @ left + z), 1.0
        while (new := look(z - size * way))[0] >= cost and size > 0.01:
            size /= 2
        gained = cost - new[0]
        if gained > 0:
            z, (cost, left) = z - size * way, new
        bar(cost)
        if gained < ENOUGH:
            break
    residual = left.square().mean()
    print(f"mean squared residual {float(residual):.4f}", file=sys.stderr)
    return Found(nodes=moved(prior, z), z=z, information=J.mT @ J, residual=residual)


def normals(x: torrey.Nodes, topology: torrey.Topology) -> tuple[Tensor, Tensor]:
    """Return unit normals at the surface points (node, 3), and shares of the area."""
    facets = topology.point[topology.outer]
    a, b, c = x.points[facets].unbind(1)
    each = torch.linalg.cross(b - a, c - a) / 6
    whole = torch.zeros_like(x.points)
    for k in range(3):
        whole = whole.index_add(0, facets[:, k], each)
    area = whole.norm(dim=-1, keepdim=True)
    return whole / area.clamp_min(1e-30), (area / area.sum()).squeeze(-1)


def node_bound(
    found: Found, prior: Prior, topology: torrey.Topology, radius: float
) -> dict:
    """Return how well the surface is known along its normal, its centre being still.

    With F the information of signals and G = (F + 1)⁻¹, the likeliest displacement
    scatters with G F G, the bound of all estimates with its bias; G itself is the
    posterior's covariance.
    """
    x = found.nodes
    n, weight = normals(x, topology)
    mass = torrey.volumes(x, topology).repeat_interleave(4)
    at = topology.point[topology.elements].flatten()
    mass = mass.new_zeros(len(n)).index_add(0, at, mass)
    centre = torch.einsum("p,wpa->wa", mass / mass.sum(), prior.ways)
    along = torch.einsum("pa,wpa->pw", n, prior.ways - centre[:, None])
    F = found.information
    G = torch.linalg.inv(F + torch.eye(len(F)))

    def mean(covariance: Tensor) -> float:  # of |normal displacement| over the surface
        sd = ((along @ covariance) * along).sum(-1).clamp_min(0).sqrt()
        return float((weight * sd).sum() / radius) * (2 / math.pi) ** 0.5

    return {
        "scatter of an efficient estimate / radius": mean(G @ F @ G),
        "posterior scatter / radius": mean(G),
        "scatter of the prior / radius": mean(torch.eye(len(F))),
        "shape parameters that signals determine": float(torch.trace(G @ F)),
    }
