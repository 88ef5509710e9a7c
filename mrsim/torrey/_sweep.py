"""Implicit time steps of a sparse system, as one constant linear operator.

P_j x_j = Q_j x_{j-1} + r_j with P = M + θhA, Q = M − (1 − θ)hA, A = K + i g·J. One
factorisation serves all steps of one length and gradient (scipy). All matrices are
symmetric, so that the adjoint is the same recursion backwards with conjugates.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mrsim._check import require
from mrsim.torrey._looped import stacked
from mrsim.torrey._sparse_matrix import factors, sparse_matrix


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
        one = partial(_States.apply, plan)
        return stacked(one, info.batch_size, in_dims[1:], inputs)


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
        one = partial(_Sweep.apply, plan, adjoint)
        return stacked(one, info.batch_size, in_dims[2:], inputs)


def _run(
    plan: Plan, fixed: Sequence[Tensor], r: Tensor, start: Any, *, adjoint: bool
) -> Tensor:
    if not all(x.isfinite().all() for x in fixed):
        return torch.full_like(r, torch.nan)  # no neighbour in a batch is harmed
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
    h, g, mass, moment, *parts = (x.detach().cpu().double().numpy() for x in fixed)
    places = [x.cpu().numpy() for x in plan.dofs]
    M = sparse_matrix(places[:1], [mass], plan.size)
    K = sparse_matrix(places, parts, plan.size)
    J = [sparse_matrix(places[:1], [x], plan.size) for x in moment]
    known: dict[Any, _System] = {}
    made = []
    for tau, q in zip(h, g, strict=True):
        key = (tau, *q)
        if key not in known:
            real = not q.any()
            A = K if real else K + 1j * (q[0] * J[0] + q[1] * J[1] + q[2] * J[2])
            Q = (M - (1 - plan.theta) * tau * A).tocsr()
            known[key] = _System(factors(M + plan.theta * tau * A), Q, real)
        made.append(known[key])
    return made


def _solve(system: _System, b: Any) -> Any:
    if not system.real or b.dtype.kind != "c":
        return system.factors.solve(b)
    numpy = require("numpy", "opt")
    both = system.factors.solve(numpy.concatenate([b.real, b.imag], 1))
    width = b.shape[1]
    return both[:, :width] + 1j * both[:, width:]
