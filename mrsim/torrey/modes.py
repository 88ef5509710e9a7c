"""Laplace modes of a mesh: the lowest ones, cut at a gap, differentiable.

(K + Q) V = M V Λ. The modes span an invariant subspace; every quantity here is a
function of matrices reduced to it, XᵣᵉᵈC⁻¹VᵀXVC⁻ᵀ with CCᵀ = VᵀMV, not of single modes:
degenerate modes inside the subspace do no harm, only the gap above it counts.
"""

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mrsim._check import warn
from mrsim.torrey._dense_modes import cut, dense_modes
from mrsim.torrey._fence import constant, fence
from mrsim.torrey._looped import looped, stacked
from mrsim.torrey._memory import demand
from mrsim.torrey._sparse_modes import count_below, pencil, solve_above, sparse_modes
from mrsim.torrey.assembly import (
    Blocks,
    apply,
    dense,
    diffusion_parts,
)
from mrsim.torrey.mesh import Topology

_TOO_HIGH = (
    "laplace: the derivative of order {} of the modes is not exact and is refused; ask"
    " for it with laplace(..., order={}), or take the full model (modes=None), which"
    " has every order"
)


class Plan(NamedTuple):
    """How to find modes: structure, no tensor that is differentiated."""

    dofs: tuple[Tensor, ...]  # of mass and stiffness, and of the surfaces
    size: int
    modes: int | None
    limit: float | None  # [1/ms] keep eigenvalues below
    sparse: bool


def subspace(blocks: Blocks, topology: Topology, plan: Plan, order: int) -> Tensor:
    """Return the lowest modes, differentiable to a given order.

    The modes V₀ at the given values are constants; V is found from them by ``order``
    steps of the chord iteration V ← V − S[KV − MVH], H = (VᵀMV)⁻¹VᵀKV, where S, the
    inverse of the derivative at V₀ on the complement, is constant too. The value does
    not change, each step makes one order more of the derivatives exact.

    Args:
        blocks: of the mesh and its water.
        topology: connectivity.
        plan: which modes, and how.
        order: the highest order of derivatives.

    Returns:
        (dof, mode) V, which spans the modes.
    """
    parts = diffusion_parts(blocks, topology)
    fixed = [blocks.mass.detach(), *(x.detach() for _, x in parts)]
    V0, lam, guards, above = _Lowest.apply(plan, *fixed)
    if constant(blocks.mass, *(x for _, x in parts)):
        return V0  # the steps would add zeros
    message = _TOO_HIGH.format(order + 1, order + 1)
    mass = [(topology.elements, fence(blocks.mass, order, message))]
    diffusion = [(dofs, fence(x, order, message)) for dofs, x in parts]
    V = V0
    for _ in range(order):
        MV, KV = apply(mass, V), apply(diffusion, V)
        gram = torch.linalg.cholesky_ex(V.mT @ MV)[0]
        residual = KV - MV @ torch.cholesky_solve(V.mT @ KV, gram)
        residual = residual - residual.detach()
        if plan.sparse:
            step = _Above.apply(plan, *fixed, V0, lam, guards, above, residual)
        else:
            step = guards @ ((guards.mT @ residual) / (above[:, None] - lam))
        V = V - step
    return V


def eigenpairs(blocks: Blocks, topology: Topology, plan: Plan) -> tuple[Tensor, Tensor]:
    """Return modes (dof, mode) and eigenvalues (mode,) [1/ms], without derivatives."""
    fixed = [x.detach() for _, x in diffusion_parts(blocks, topology)]
    return _Lowest.apply(plan, blocks.mass.detach(), *fixed)[:2]


def _find(plan: Plan, mass: Tensor, *diffusion: Tensor) -> tuple[Tensor, ...]:
    """Return the modes kept, their eigenvalues, and the guard modes and theirs."""
    if mass.is_meta or not all(x.isfinite().all() for x in (mass, *diffusion)):
        return _lost(plan, mass)
    if not plan.sparse:
        pairs = list(zip(plan.dofs, diffusion, strict=True))
        K = dense(pairs, plan.size)
        V, lam = dense_modes(K, dense([(plan.dofs[0], mass)], plan.size))
        if not lam.isfinite().all():
            return _lost(plan, mass)
        wanted = _wanted(plan, int((lam < (plan.limit or 0.0)).sum()))
        count = plan.size if wanted >= plan.size else cut(lam, wanted) or plan.size
        _report(plan, wanted, count)
        return V[:, :count], lam[:count], V[:, count:], lam[count:]
    p = pencil(list(plan.dofs), plan.size, mass, diffusion)
    wanted = _wanted(plan, count_below(p, plan.limit) if plan.limit else 0)
    guard = max(8, wanted // 4)
    columns = 4 * (wanted + guard) + 100  # Lanczos' basis and what it becomes
    demand(
        f"laplace: {wanted} modes of {plan.size} degrees of freedom",
        8 * columns * plan.size,
        mass.device,
        "ask for fewer modes or a longer length",
    )
    while wanted + guard < plan.size - 1:
        V, lam = sparse_modes(p, wanted + guard)
        count = cut(lam, wanted)
        if count is not None:
            _report(plan, wanted, count)
            made = V[:, :count], lam[:count], V[:, count:], lam[count:]
            return tuple(x.to(mass) for x in made)
        guard *= 2
    raise ValueError(
        f"laplace: {wanted} of {plan.size} dofs is too many modes for the sparse"
        f" solver; take fewer, or method='dense'"
    )


def _lost(plan: Plan, like: Tensor) -> tuple[Tensor, ...]:
    """Return what `_find` does, of NaN: for a mesh without modes, or without values."""
    kept = plan.modes or 1
    widths = (kept, 1 if plan.sparse else plan.size - kept)
    made = [like.new_full((plan.size + 1, w), torch.nan) for w in widths]
    return made[0][1:], made[0][0], made[1][1:], made[1][0]


def _wanted(plan: Plan, below: int) -> int:
    return plan.modes if plan.modes is not None else max(1, below)


def _report(plan: Plan, wanted: int, count: int) -> None:
    if count != wanted and plan.modes is not None:
        warn(
            f"laplace: {wanted} modes would cut through a group of equal eigenvalues,"
            f" where the derivative does not exist; {count} modes are kept"
        )


class _Lowest(torch.autograd.Function):
    """Constants: the inputs are detached, so that only vmap meets this Function."""

    @staticmethod
    def forward(plan: Plan, *blocks: Tensor) -> Any:
        return _find(plan, *blocks)

    @staticmethod
    def setup_context(ctx: Any, _inputs: tuple[Any, ...], output: Any) -> None:
        ctx.mark_non_differentiable(*output)

    @staticmethod
    def vmap(info: Any, in_dims: Any, plan: Plan, *blocks: Tensor) -> Any:
        one = partial(_Lowest.apply, plan)
        found = looped(one, info.batch_size, in_dims[1:], blocks)
        sound = [x for x in found if not x[1].is_meta and x[1].isfinite().all()]
        if sound:  # the others have no widths of their own
            lost = tuple(torch.full_like(y, torch.nan) for y in sound[0])
            found = [x if x[1].isfinite().all() else lost for x in found]
        counts = {x[1].shape[-1] for x in found}
        if len(counts) > 1:
            raise ValueError(
                f"laplace: the meshes of a batch have their gaps at different numbers"
                f" of modes, {sorted(counts)}; ask for the largest for all, or loop"
            )
        return tuple(torch.stack(x) for x in zip(*found, strict=True)), (0, 0, 0, 0)


class _Above(torch.autograd.Function):
    """The constant symmetric operator S of `subspace`, linear in the last input."""

    @staticmethod
    def forward(plan: Plan, mass: Tensor, *rest: Tensor) -> Tensor:
        *diffusion, V, lam, guards, above, B = rest
        if B.is_meta or not B.any():
            return torch.zeros_like(B)
        if not all(x.isfinite().all() for x in (mass, *rest)):
            return torch.full_like(B, torch.nan)
        p = pencil(list(plan.dofs), plan.size, mass, tuple(diffusion))
        known = torch.cat([V, guards], 1)
        return solve_above(p, known, guards, above, lam, B)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], _output: Any) -> None:
        ctx.plan, *fixed, _ = inputs
        ctx.save_for_backward(*fixed)
        ctx.save_for_forward(*fixed)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        made = _Above.apply(ctx.plan, *ctx.saved_tensors, g)
        return None, *(None for _ in ctx.saved_tensors), made

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return _Above.apply(ctx.plan, *ctx.saved_tensors, tangents[-1])

    @staticmethod
    def vmap(info: Any, in_dims: Any, plan: Plan, *inputs: Tensor) -> Any:
        dims, size = in_dims[1:], info.batch_size
        if all(d is None for d in dims[:-1]):
            *fixed, V, lam, guards, above, B = inputs
            many = B.movedim(dims[-1], 1).flatten(1)
            wide = lam.repeat(size)
            made = _Above.apply(plan, *fixed, V, wide, guards, above, many)
            return made.unflatten(1, (size, -1)), 1
        return stacked(partial(_Above.apply, plan), size, dims, inputs)
