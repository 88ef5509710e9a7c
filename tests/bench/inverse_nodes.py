"""Free nodes from noisy signals: rounds of descent, and how well nodes can be known."""

import sys

import torch
from inverse_signals import SHELLS, SIGMA, WATER, basis_of, both, grid, imaging
from torch import Tensor
from torch.func import hessian, jacrev, vjp, vmap

from mrsim import torrey
from mrsim.tree import tree_map
from mrsim.units import um

MODES = 20
STIFFNESS = (32.0, 16.0, 8.0, 8.0, 8.0)  # of the rounds
WILLMORE = 2e-3  # of the stiffness
GAIN = 0.01  # of the mean squared residual: less is what fits of noise gain


def seen(x: torrey.Nodes, topology: torrey.Topology, modes: int = MODES) -> Tensor:
    return imaging(basis_of(x, topology, WATER, modes))


def stiffness(x: torrey.Nodes, topology: torrey.Topology, rest: torrey.Nodes) -> Tensor:
    """Return what free nodes pay: distortion of elements, bending of the surface."""
    bent = torrey.willmore(x, topology)
    return torrey.distortion(x, topology, rest) + WILLMORE * bent


def released(data: Tensor, start: torrey.Nodes, topology: torrey.Topology) -> tuple:
    """Let all nodes go, in rounds that start at rest, till only noise is left.

    Iterated Tikhonov regularisation, stopped by the discrepancy principle: the mean
    squared residual is 1, or a round has gained no more than a fit of noise would.
    """

    def misfit(x: torrey.Nodes) -> Tensor:
        return ((seen(x, topology) - data) / SIGMA).square().mean()

    metric = torrey.smooth_metric(start, topology, length=4 * um)
    rest, history, left = start, [], [float(misfit(start))]
    for share in STIFFNESS:

        def loss(x: torrey.Nodes, rest: torrey.Nodes = rest, k=share) -> Tensor:
            return misfit(x) + k * stiffness(x, topology, rest)

        found = torrey.optimise_mesh(
            loss, rest, metric, iterations=20, tolerance=2e-3, progress=True
        )
        left.append(float(misfit(found.params)))
        history.append(found.history)
        print(f"mean squared residual {left[-1]:.4f}", file=sys.stderr)
        if left[-1] <= 1 or left[-2] - left[-1] < GAIN:
            break
        rest = found.params
    return found.params, rest, share, torch.cat(history), left


def jacobian(x: torrey.Nodes, topology: torrey.Topology) -> Tensor:
    """Return derivatives of all signals to all nodes (signal, 3 node) [1/mm].

    In two stages: signals to the reduced matrices, each apart, then those to the nodes.
    """
    basis, pull = vjp(lambda x: basis_of(x, topology, WATER, MODES), x)
    rows = vmap(jacrev(both), (None, 0, 0))(basis, *grid(SHELLS))
    rows = tree_map(lambda v: v.flatten(0, 1), rows)
    back = vmap(lambda row: pull(row)[0].points, chunk_size=90)
    return back(rows).flatten(1)


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


def centred_displacements(x: torrey.Nodes, topology: torrey.Topology) -> Tensor:
    """Return the map of displacements to those along the normal (node, 3 node).

    The centre of mass stays: no signal tells the place.
    """
    n, _ = normals(x, topology)
    count = len(n)
    each = torrey.volumes(x, topology).repeat_interleave(4) / 4
    at = topology.point[topology.elements].flatten()
    mass = x.points.new_zeros(count).index_add(0, at, each)
    still = torch.eye(count) - mass / mass.sum()
    return torch.einsum("ka,km->kma", n, still).flatten(1)


def node_bound(
    x: torrey.Nodes,
    rest: torrey.Nodes,
    share: float,
    topology: torrey.Topology,
    radius: float,
) -> dict:
    """Return the Cramér-Rao bound of the surface, moved along its normal.

    Free nodes are not determined by signals alone. With the stiffness that the fit has,
    whose curvature is R, an efficient estimate scatters with G F G, G = (F + R)⁻¹: the
    bound of all estimates with this bias. F + R itself is the posterior's precision.
    """

    def pays(points: Tensor) -> Tensor:
        moved = torrey.Nodes(points=points * um)
        return share * stiffness(moved, topology, rest)

    J = jacobian(x, topology) * um / SIGMA
    size = J.shape[-1]
    R = len(J) / 2 * hessian(pays)(x.points / um).reshape(size, size)
    low, turn = torch.linalg.eigh(R)
    R = (turn * low.clamp_min(1e-6)) @ turn.mT
    F = J.mT @ J
    G = torch.linalg.inv(F + R)
    along = centred_displacements(x, topology) @ G
    weight = normals(x, topology)[1]
    scatter = ((along @ F) * along).sum(-1)
    posterior = (along @ (F + R) * along).sum(-1)

    def mean(v: Tensor) -> float:  # of |normal displacement| over the surface
        sd = v.clamp_min(0).sqrt() * (2 / torch.pi) ** 0.5
        return float((weight * sd).sum() * um / radius)

    return {
        "scatter of an efficient estimate / radius": mean(scatter),
        "posterior scatter / radius": mean(posterior),
        "shape parameters that signals determine": float(torch.trace(G @ F)),
    }
