"""Implicit time steps of a sparse system, as one constant linear operator.

P_j x_j = Q_j x_{j-1} + r_j with P = M + θhA, Q = M − (1 − θ)hA, A = K + i g·J. One
factorisation serves all steps of one length and gradient (scipy). All matrices are
symmetric, so that the adjoint is the same recursion backwards with conjugates.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mrsim._check import require


class Plan(NamedTuple):
    """Structure of a sweep: no tensor that is differentiated."""

    dofs: tuple[Tensor, ...]  # (block, side) of mass, moments and the parts of K
    size: int
    steps: int
    theta: float
    phased: bool  # there are gradients: states are complex


class _System(NamedTuple):
    factors: Any
    Q: Any
    real: bool


def states(plan: Plan, fixed: Sequence[Tensor], r: Tensor) -> Tensor:
    """Return all states as constants, from the state 1 or, if real, 0.

    Args:
        plan: structure of the sweep.
        fixed: step lengths (step,), gradients (step, 3), mass, moment and parts of K.
        r: (dof, step) right-hand sides.

    Returns:
        (dof, step + 1) states.
    """
    return _States.apply(plan, *(x.detach() for x in fixed), r.detach())


def sweep(plan: Plan, fixed: Sequence[Tensor], r: Tensor) -> Tensor:
    """Return the states that right-hand sides make from the state 0, linear in them.

    Args:
        plan: structure of the sweep.
        fixed: constants as in `states`.
        r: (dof, step).

    Returns:
        (dof, step) states.
    """
    forward = False
    return _Sweep.apply(plan, forward, *(x.detach() for x in fixed), r)


class _States(torch.autograd.Function):
    @staticmethod
    def forward(plan: Plan, *inputs: Tensor) -> Tensor:
        *fixed, r = inputs
        start = r.new_full((plan.size, 1), 1.0 if plan.phased else 0.0)
        if r.is_meta:
            return torch.cat([start, r], 1)
        made = _run(plan, fixed, r, start, adjoint=False)
        return torch.cat([start, made], 1)

    @staticmethod
    def setup_context(ctx: Any, _inputs: tuple[Any, ...], output: Any) -> None:
        ctx.mark_non_differentiable(output)

    @staticmethod
    def vmap(info: Any, in_dims: Any, plan: Plan, *inputs: Tensor) -> Any:
        made = [
            _States.apply(plan, *_item(inputs, in_dims[1:], k))
            for k in range(info.batch_size)
        ]
        return torch.stack(made), 0


class _Sweep(torch.autograd.Function):
    @staticmethod
    def forward(plan: Plan, adjoint: bool, *inputs: Tensor) -> Tensor:
        *fixed, r = inputs
        if r.is_meta or not r.any():
            return torch.zeros_like(r)
        return _run(plan, fixed, r, None, adjoint=adjoint)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], _output: Any) -> None:
        ctx.plan, ctx.adjoint, *fixed, _ = inputs
        ctx.save_for_backward(*fixed)
        ctx.save_for_forward(*fixed)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        made = _Sweep.apply(ctx.plan, not ctx.adjoint, *ctx.saved_tensors, g)
        return None, None, *(None for _ in ctx.saved_tensors), made

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return _Sweep.apply(ctx.plan, ctx.adjoint, *ctx.saved_tensors, tangents[-1])

    @staticmethod
    def vmap(
        info: Any, in_dims: Any, plan: Plan, adjoint: bool, *inputs: Tensor
    ) -> Any:
        *fixed, r = inputs
        *dims, dim = in_dims[2:]
        if all(d is None for d in dims) and dim is not None:
            many = r.movedim(dim, -1)
            made = _Sweep.apply(plan, adjoint, *fixed, many.flatten(2))
            return made.unflatten(2, many.shape[2:]), many.ndim - 1
        made = [
            _Sweep.apply(plan, adjoint, *_item(inputs, in_dims[2:], k))
            for k in range(info.batch_size)
        ]
        return torch.stack(made), 0


def _item(inputs: Sequence[Tensor], dims: Sequence[Any], k: int) -> list[Tensor]:
    pairs = zip(inputs, dims, strict=True)
    return [x if d is None else x.select(d, k) for x, d in pairs]


def _run(
    plan: Plan, fixed: Sequence[Tensor], r: Tensor, start: Any, *, adjoint: bool
) -> Tensor:
    numpy = require("numpy", "opt")
    kind = numpy.complex128 if plan.phased else numpy.float64
    right = numpy.moveaxis(r.detach().cpu().numpy().astype(kind), 1, 0)
    if r.ndim == 2:
        right = right[..., None]
    systems = _systems(plan, fixed)
    x = numpy.zeros(right.shape[1:], kind)
    if start is not None:
        x = start.detach().cpu().numpy().astype(kind)
    made = numpy.empty_like(right)
    if adjoint:
        right = right.conj()
        for j in reversed(range(plan.steps)):
            x = _solve(systems[j], right[j] + x)
            made[j] = x
            x = systems[j].Q @ x
        made = made.conj()
    else:
        for j in range(plan.steps):
            x = _solve(systems[j], systems[j].Q @ x + right[j])
            made[j] = x
    made = torch.from_numpy(numpy.ascontiguousarray(numpy.moveaxis(made, 0, 1)))
    return (made if r.ndim == 3 else made[..., 0]).to(r)


def _systems(plan: Plan, fixed: Sequence[Tensor]) -> list[_System]:
    """Factorise every pair of step length and gradient once."""
    linalg = require("scipy.sparse.linalg", "opt")
    h, g, mass, moment, *parts = (x.detach().cpu().double().numpy() for x in fixed)
    M = _sparse(plan.dofs[:1], [mass], plan.size)
    K = _sparse(plan.dofs, parts, plan.size)
    J = [_sparse(plan.dofs[:1], [x], plan.size) for x in moment]
    known: dict[Any, _System] = {}
    made = []
    for tau, q in zip(h, g, strict=True):
        key = (tau, *q)
        if key not in known:
            real = not q.any()
            A = K if real else K + 1j * (q[0] * J[0] + q[1] * J[1] + q[2] * J[2])
            factors = linalg.splu(
                (M + plan.theta * tau * A).tocsc(),
                permc_spec="MMD_AT_PLUS_A",
                diag_pivot_thresh=0.0,
                options={"SymmetricMode": True},
            )
            Q = (M - (1 - plan.theta) * tau * A).tocsr()
            known[key] = _System(factors, Q, real)
        made.append(known[key])
    return made


def _solve(system: _System, b: Any) -> Any:
    if not system.real or b.dtype.kind != "c":
        return system.factors.solve(b)
    numpy = require("numpy", "opt")
    both = system.factors.solve(numpy.concatenate([b.real, b.imag], 1))
    width = b.shape[1]
    return both[:, :width] + 1j * both[:, width:]


def _sparse(dofs: Sequence[Tensor], blocks: Sequence[Any], size: int) -> Any:
    numpy, sparse = require("numpy", "opt"), require("scipy.sparse", "opt")
    places = [x.cpu().numpy() for x in dofs]
    rows = [numpy.repeat(p, p.shape[1], axis=1).ravel() for p in places]
    columns = [numpy.tile(p, (1, p.shape[1])).ravel() for p in places]
    values = numpy.concatenate([x.ravel() for x in blocks])
    where = numpy.concatenate(rows), numpy.concatenate(columns)
    return sparse.coo_matrix((values, where), shape=(size, size)).tocsc()
