"""A mesh and its water as a few reduced matrices, from which every signal follows."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from mrsim._check import concrete, warn
from mrsim.torrey._fence import constant
from mrsim.torrey._memory import demand
from mrsim.torrey._sparse_matrix import product
from mrsim.torrey.assembly import (
    MS,
    UM,
    Blocks,
    apply,
    assemble,
    dense,
    diffusion_parts,
    readout,
)
from mrsim.torrey.mesh import Nodes, Topology, compartment_volumes
from mrsim.torrey.modes import Plan, eigenpairs, subspace
from mrsim.torrey.water import Water, spread
from mrsim.tree import record

_DENSE = 450  # dofs up to which dense modes and their gradient are the quicker


@record
class Basis:
    """Operators of the Bloch–Torrey equation in an orthonormal basis of modes."""

    decay: Tensor  # (mode, mode) diffusion, permeability and surfaces [1/s]
    position: Tensor  # (3, mode, mode) relative to the centre [mm]
    weight: Tensor  # (compartment, mode) state at the start and weights of the signal
    centre: Tensor  # (3,) a point inside; signals do not depend on it [mm]
    amount: Tensor  # () Σ ρ V, which the signal is a share of [mm³]
    relaxation: Tensor | None = None  # (mode, mode) 1/T2 [1/s]


def laplace(
    nodes: Nodes,
    topology: Topology,
    water: Water,
    modes: int | None = None,
    length: float | None = None,
    order: int | None = None,
    method: str = "auto",
) -> Basis:
    """Return the operators of a mesh, exact or reduced to its slowest modes.

    Without ``modes`` and ``length`` the basis is complete: signals are those of the
    whole finite-element model and all derivatives of any order exist. Otherwise the
    modes of (K + Q) v = λ M v are kept whose eigenvalues are lowest: so many, or those
    with a length scale π √(D̄/λ) of at least ``length``. They are cut at a gap of the
    spectrum: where the number falls into a group of equal eigenvalues, the group is
    completed and a warning says so.

    Derivatives of the reduced operators are those of the invariant subspace. Exact up
    to ``order``, they raise beyond it.

    Args:
        nodes: positions [mm].
        topology: connectivity.
        water: properties of the water.
        modes: number of modes.
        length: shortest length scale [mm], SpinDoctor's way to choose their number.
        order: highest order of derivatives with respect to the mesh and the water;
            ``None``: 2 where modes are found by dense linear algebra, else 1.
        method: "dense", "sparse" (needs scipy, extra ``opt``) or "auto", by size.

    Returns:
        The basis. Differentiating signals in the encoding never touches the modes:
        find them once, then map `signal` over encodings.

    Raises:
        ValueError: there are not so many modes, or the arguments exclude each other,
            or an element is inverted.
        MemoryError: the basis would not fit; the message has the estimate.

    Reference:
        Li et al. 2020 (NMR Biomed 33:e4353), the numerical matrix formalism.

    >>> from mrsim import torrey
    >>> corners = [[0.0, 0, 0], [1e-2, 0, 0], [0, 1e-2, 0], [0, 0, 1e-2]]
    >>> mesh = torrey.make_mesh(corners, [[0, 1, 2, 3]])
    >>> water = torrey.Water(D=torch.tensor([2e-3], dtype=torch.float64))
    >>> torrey.laplace(*mesh, water).decay.shape
    torch.Size([4, 4])
    """
    size = len(topology.home)
    if order is not None and order < 1:
        raise ValueError(
            f"laplace: order must be at least 1, got {order}; without derivatives it"
            f" costs nothing"
        )
    plan = _plan("laplace", nodes, topology, water, (modes, length), method)
    if plan is None:
        _demand_complete(size, nodes.points)
        return _complete(assemble(nodes, topology, water), topology)
    blocks = assemble(nodes, topology, water)
    order = order or (1 if plan.sparse else 2)
    V = subspace(blocks, topology, plan, order)
    given = [V, *(x for x in vars(blocks).values() if x is not None)]
    plain = plan.sparse and constant(*given)
    return _reduced(blocks, topology, V, product if plain else apply)


def laplace_modes(
    nodes: Nodes,
    topology: Topology,
    water: Water,
    modes: int | None = None,
    length: float | None = None,
    method: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Return the eigenvalues and eigenfunctions of a mesh, as constants.

    (K + Q) v = λ M v, VᵀMV = 1: the part `laplace` keeps, for looking at. A group of
    equal eigenvalues has no derivatives of its own, so none are given.

    Args:
        nodes: positions [mm].
        topology: connectivity.
        water: properties of the water.
        modes: number of modes; ``None`` with ``length`` ``None``: all.
        length: shortest length scale [mm].
        method: "dense", "sparse" or "auto", as in `laplace`.

    Returns:
        (mode,) eigenvalues λ, ascending [1/s], and (dof, mode) eigenfunctions.

    Raises:
        ValueError: there are not so many modes, or the arguments exclude each other.

    >>> from mrsim import torrey
    >>> corners = [[0.0, 0, 0], [1e-2, 0, 0], [0, 1e-2, 0], [0, 0, 1e-2]]
    >>> mesh = torrey.make_mesh(corners, [[0, 1, 2, 3]])
    >>> water = torrey.Water(D=torch.tensor([2e-3], dtype=torch.float64))
    >>> torrey.laplace_modes(*mesh, water)[0][1:].round()
    tensor([ 400.,  400., 1600.], dtype=torch.float64)
    """
    size = len(topology.home)
    chosen = (size if modes is None and length is None else modes, length)
    plan = _plan("laplace_modes", nodes, topology, water, chosen, method)
    assert plan is not None  # noqa: S101
    blocks = assemble(nodes, topology, water)
    V, lam = eigenpairs(blocks, topology, plan)
    return lam * MS, V * UM**1.5


def _plan(
    where: str,
    nodes: Nodes,
    topology: Topology,
    water: Water,
    chosen: tuple[int | None, float | None],
    method: str,
) -> Plan | None:
    modes, length = chosen
    size = len(topology.home)
    if method not in {"auto", "dense", "sparse"}:
        raise ValueError(
            f"{where}: method must be 'auto', 'dense' or 'sparse', got {method!r}"
        )
    if modes is None and length is None:
        return None
    if modes is not None and length is not None:
        raise ValueError(f"{where}: give modes or length, not both")
    if modes is not None and not 1 <= modes <= size:
        raise ValueError(
            f"{where}: {modes} modes were asked of a mesh with {size} degrees of"
            f" freedom; take from 1 to {size}, or None for the complete basis"
        )
    sparse = size > _DENSE if method == "auto" else method == "sparse"
    if modes is not None and modes > size // 2:
        sparse = method == "sparse"
    if not sparse:
        _demand_complete(size, nodes.points)
    return Plan(
        dofs=_places(topology, water),
        size=size,
        modes=modes,
        limit=None if length is None else _limit(nodes, topology, water, length),
        sparse=sparse,
    )


def _places(topology: Topology, water: Water) -> tuple[Tensor, ...]:
    """Return the dofs of every part of K + Q, as `diffusion_parts` orders them."""
    made = [topology.elements]
    if water.kappa is not None and len(topology.inner):
        made.append(topology.inner.flatten(1))
    if water.relaxivity is not None and len(topology.outer):
        made.append(topology.outer)
    return tuple(made)


def _limit(nodes: Nodes, topology: Topology, water: Water, length: float) -> float:
    """Return the eigenvalue [1/ms] of a length scale, λ = π² D̄ / length²."""
    if concrete(nodes.points):
        low, high = nodes.points.detach().aminmax(dim=0)
        if length > float((high - low).norm()):
            warn(
                f"laplace: length = {length:g} mm is longer than the whole mesh"
                f" ({float((high - low).norm()):.3g} mm): only uniform modes are kept;"
                f" mrsim takes mm, write {length:g} * mrsim.units.um"
            )
    volume = compartment_volumes(nodes, topology).detach()
    D = spread("laplace", water, topology).D.detach()
    mean = (volume * D.diagonal(dim1=-2, dim2=-1).mean(-1)).sum() / volume.sum()
    try:
        return math.pi**2 * float(mean) / length**2 / MS
    except RuntimeError as e:
        raise ValueError(
            "laplace: length chooses a number of modes by value, which vmap over meshes"
            " or water does not allow; find it once outside, and give modes"
        ) from e


def _demand_complete(size: int, like: Tensor) -> None:
    if not like.is_meta:
        demand(
            f"laplace: a dense basis of {size} degrees of freedom",
            12 * size * size * like.element_size(),
            like.device,
            "ask for modes=... or length=... with method='sparse'",
        )


def _complete(blocks: Blocks, topology: Topology) -> Basis:
    """Take every finite element: M = CCᵀ, X → C⁻¹XC⁻ᵀ, no eigenvalues needed."""
    size = len(topology.home)
    C = torch.linalg.cholesky_ex(dense([(topology.elements, blocks.mass)], size))[0]
    inside = [blocks.moment, *_relaxing(blocks)]
    made = torch.cat([x if x.ndim == 4 else x[None] for x in inside])
    rest = dense([(topology.elements, made)], size)
    every = torch.cat([dense(diffusion_parts(blocks, topology), size)[None], rest])
    return _whitened(C, every, readout(blocks, topology))


def _reduced(
    blocks: Blocks, topology: Topology, V: Tensor, times: Callable[..., Tensor]
) -> Basis:
    inside = [blocks.mass[None], blocks.moment, *(x[None] for x in _relaxing(blocks))]
    made = V.mT @ times([(topology.elements, torch.cat(inside))], V)
    decay = V.mT @ times(diffusion_parts(blocks, topology), V)
    C = torch.linalg.cholesky_ex(_even(made[0]))[0]
    every = torch.cat([decay[None], made[1:]])
    return _whitened(C, every, readout(blocks, topology) @ V)


def _relaxing(blocks: Blocks) -> list[Tensor]:
    return [] if blocks.relaxation is None else [blocks.relaxation]


def _even(x: Tensor) -> Tensor:
    return (x + x.mT) / 2


def _whitened(C: Tensor, every: Tensor, weight: Tensor) -> Basis:
    # to the basis where the mass CCᵀ is one, and to s and mm; every: K + Q, J (3), R
    half = torch.linalg.solve_triangular(C, every, upper=False)
    every = _even(torch.linalg.solve_triangular(C, half.mT, upper=False))
    weight = torch.linalg.solve_triangular(C, weight.mT, upper=False).mT
    start = weight.sum(0)
    amount = (start * start).sum()
    centre = torch.einsum("i,aij,j->a", start, every[1:4], start) / amount
    eye = torch.eye(len(C), dtype=C.dtype, device=C.device)
    return Basis(
        decay=every[0] * MS,
        position=(every[1:4] - centre[:, None, None] * eye) / UM,
        weight=weight / amount[None].sqrt(),
        centre=centre / UM,
        amount=(amount[None] / UM**3)[0],
        relaxation=every[4] * MS if len(every) > 4 else None,
    )
