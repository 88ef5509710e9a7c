"""P1 finite elements: small dense blocks, gathered, multiplied and added up.

M ξ' = −(K + Q + R + iγ g(t)·J) ξ with mass M, stiffness K, surfaces Q, relaxation R and
moments J. No sparse tensor is made: a product is gather → einsum → index_add, which all
transforms of torch.func know. Unequal spin densities enter by M_i = ρ_i m_i, which
keeps every matrix symmetric: the initial state is m = 1 everywhere.

Inside, lengths are µm and times ms, so that single precision does not underflow.
"""

import torch
from torch import Tensor

from mrsim._check import check_floats
from mrsim._remat import remat
from mrsim.torrey._plausible import check_moved
from mrsim.torrey.mesh import Nodes, Topology
from mrsim.torrey.water import Water, spread
from mrsim.tree import record

UM = 1e3  # µm in a mm
MS = 1e3  # ms in a s
_COLUMNS = 2**25  # entries of one gathered piece


@record
class Blocks:
    """Element and facet matrices of a mesh and its water [µm, ms]."""

    mass: Tensor  # (element, 4, 4) ∫ρ φφ [µm³]
    stiffness: Tensor  # (element, 4, 4) ∫ρ ∇φ·D∇φ [µm³/ms]
    moment: Tensor  # (3, element, 4, 4) ∫ρ x φφ [µm⁴]
    relaxation: Tensor | None = None  # (element, 4, 4) ∫ρ φφ/T2 [µm³/ms]
    inner: Tensor | None = None  # (facet, 6, 6) flux through interfaces [µm³/ms]
    outer: Tensor | None = None  # (facet, 3, 3) loss at the outer surface [µm³/ms]


def assemble(nodes: Nodes, topology: Topology, water: Water) -> Blocks:
    r"""Return the matrices of all elements and facets.

    With ∫l₁ᵃl₂ᵇl₃ᶜl₄ᵈ = 6V a!b!c!d!/(a+b+c+d+3)! the moments are exact cubics:
    J_ij = V/120 Σ_k x_k (1 + δ_ij + δ_ik + δ_jk + 2δ_ijk). An interface of
    permeability κ adds κ 2ρ_iρ_j/(ρ_i+ρ_j) ∫φφ [[1, −1], [−1, 1]].

    Args:
        nodes: positions [mm].
        topology: connectivity.
        water: diffusivity, relaxation, densities and surfaces.

    Returns:
        The blocks, in µm and ms.

    Raises:
        TypeError: dtypes differ.
        ValueError: a field of ``water`` has a wrong length.

    Reference:
        Li et al. 2019 (NeuroImage 202:116120), equations 5–12.

    >>> import torch
    >>> from mrsim import torrey
    >>> corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]) / 100
    >>> mesh = torrey.make_mesh(corners, [[0, 1, 2, 3]])
    >>> blocks = torrey.assemble(*mesh, torrey.Water(D=2e-3))
    >>> blocks.mass.sum()  # the volume [µm³]
    tensor(166.6667)
    """
    check_floats("torrey", points=nodes.points, **vars(water))
    w = spread("torrey", water, topology)
    points = nodes.points * UM
    x = points[topology.point[topology.elements]]
    slopes, volume = _gradients(x)
    check_moved("torrey", volume / UM**3)
    ones = torch.ones_like(w.D[:, 0, 0])
    rho = ones if w.rho is None else w.rho
    home = topology.compartment
    weight = (volume * rho[home])[:, None, None]
    eye = torch.eye(4, dtype=x.dtype, device=x.device)
    mass = weight * ((1 + eye) / 20)
    D = (w.D * (UM * UM / MS))[home]
    stiffness = weight * torch.einsum("mia,mab,mjb->mij", slopes, D, slopes)
    moment = weight * torch.einsum("mka,ijk->amij", x, _cubic(eye))
    relaxation = None
    if w.T2 is not None:
        relaxation = mass * (1 / (w.T2 * MS))[home][:, None, None]
    return Blocks(
        mass=mass,
        stiffness=stiffness,
        moment=moment,
        relaxation=relaxation,
        inner=_interfaces(points, topology, w.kappa, rho),
        outer=_surface(points, topology, w.relaxivity, rho),
    )


def _cubic(eye: Tensor) -> Tensor:
    """Return ∫l_i l_j l_k over the volume: 1/120, 2/120 or 6/120."""
    one, two, three = eye[:, :, None], eye[:, None, :], eye[None, :, :]
    return (1 + one + two + three + 2 * one * two) / 120


def _gradients(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of the four hat functions and the volume of tetrahedra."""
    a, b, c = (x[:, k] - x[:, 0] for k in (1, 2, 3))
    normals = [torch.linalg.cross(*pair) for pair in ((b, c), (c, a), (a, b))]
    six = (a * normals[0]).sum(-1)
    three = torch.stack(normals, 1) / six[:, None, None]
    return torch.cat([-three.sum(1, keepdim=True), three], 1), six / 6


def areas(points: Tensor, corners: Tensor) -> Tensor:
    """Return the areas of triangles, by numbers of points (facet, 3): (facet,)."""
    a, b, c = points[corners].unbind(1)
    n = torch.linalg.cross(b - a, c - a)
    return (n * n).sum(-1).sqrt() / 2


def _faces(area: Tensor) -> Tensor:
    """Return ∫φφ over triangles (facet, 3, 3)."""
    eye = torch.eye(3, dtype=area.dtype, device=area.device)
    return area[:, None, None] * ((1 + eye) / 12)


def _interfaces(
    points: Tensor, topology: Topology, kappa: Tensor | None, rho: Tensor
) -> Tensor | None:
    if kappa is None or not len(topology.inner):
        return None
    area = areas(points, topology.point[topology.inner[:, 0]])
    one, two = (rho[topology.home[topology.inner[:, k, 0]]] for k in (0, 1))
    flux = kappa[topology.inner_marker] * 2 * one * two / (one + two)
    block = _faces(area * flux)
    return torch.cat([torch.cat([block, -block], 2), torch.cat([-block, block], 2)], 1)


def _surface(
    points: Tensor, topology: Topology, relaxivity: Tensor | None, rho: Tensor
) -> Tensor | None:
    if relaxivity is None or not len(topology.outer):
        return None
    area = areas(points, topology.point[topology.outer])
    density = rho[topology.home[topology.outer[:, 0]]]
    return _faces(area * density * relaxivity[topology.outer_marker])


def diffusion_parts(blocks: Blocks, topology: Topology) -> list[tuple[Tensor, Tensor]]:
    """Return K + Q as pairs of dofs (block, side) and matrices (block, side, side)."""
    made = [(topology.elements, blocks.stiffness)]
    if blocks.inner is not None:
        made.append((topology.inner.flatten(1), blocks.inner))
    if blocks.outer is not None:
        made.append((topology.outer, blocks.outer))
    return made


def dense(parts: list[tuple[Tensor, Tensor]], size: int) -> Tensor:
    """Add blocks up to a dense matrix.

    Args:
        parts: pairs of dofs (block, side) and matrices (..., block, side, side).
        size: number of dofs.

    Returns:
        (..., dof, dof) matrix.
    """
    total = None
    for dofs, block in parts:
        spots = (dofs[:, :, None] * size + dofs[:, None, :]).flatten()
        flat = block.flatten(-3)
        made = flat.new_zeros(*flat.shape[:-1], size * size).index_add(-1, spots, flat)
        total = made if total is None else total + made
    assert total is not None  # noqa: S101
    return total.unflatten(-1, (size, size))


def apply(parts: list[tuple[Tensor, Tensor]], V: Tensor) -> Tensor:
    """Multiply the sum of blocks with columns, in bounded memory.

    Args:
        parts: pairs of dofs (block, side) and matrices (..., block, side, side); a
            stack of matrices shares one gather.
        V: (dof, column).

    Returns:
        (..., dof, column) products.
    """
    total = None
    for dofs, block in parts:
        stack = block.shape[:-3].numel()
        width = max(1, _COLUMNS // max(1, dofs.numel() * stack))
        if width >= V.shape[1]:
            made = _apply(dofs, block, V)
        else:
            made = torch.cat([_frugal(dofs, block, v) for v in V.split(width, 1)], -1)
        total = made if total is None else total + made
    assert total is not None  # noqa: S101
    return total


def _apply(dofs: Tensor, block: Tensor, V: Tensor) -> Tensor:
    gathered = V[dofs]
    local = torch.einsum("...mij,mjc->...mic", block, gathered).flatten(-3, -2)
    zero = local.new_zeros(*local.shape[:-2], V.shape[0], V.shape[1])
    return zero.index_add(-2, dofs.flatten(), local)


_frugal = remat(_apply)


def readout(blocks: Blocks, topology: Topology) -> Tensor:
    """Return ∫ρφ over each compartment (compartment, dof) [µm³], the signal."""
    rows = blocks.mass.sum(-1).flatten()
    size = len(topology.home)
    whole = rows.new_zeros(size).index_add(0, topology.elements.flatten(), rows)
    each = torch.arange(topology.compartments, device=rows.device)
    return whole * (topology.home == each[:, None]).to(rows.dtype)
