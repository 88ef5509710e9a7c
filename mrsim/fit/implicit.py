"""A fit as a differentiable function of its data, by the implicit function theorem.

At a minimum θ(z) the slope g(θ, z) of the cost along the free unknowns is zero, so
dθ = −H⁻¹ (∂g/∂z) dz with H = ∂g/∂θ, the exact Hessian; an unknown that a bound holds
back moves with the bound. Nothing of the iterations is differentiated.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import jacfwd, jvp, vjp, vmap

from mrsim._remat import Segment, apply
from mrsim.fit.driver import Problem, dims, drive
from mrsim.tree import filled, smooth

_FIXED = 2  # outputs without derivative: converged, steps


class Solve(torch.autograd.Function):
    """(problem, lower, upper, *rest) → x, cost, curve, converged, steps.

    The whole batch goes in one call, below all transforms. Bounds, like all other
    leaves, are one for each voxel or one for all. Derivatives are rules of x and the
    leaves, themselves differentiable to any order.
    """

    @staticmethod
    def forward(problem: Problem, *leaves: Any) -> tuple[Tensor, ...]:
        """Fit the batch, or one voxel as a batch of one."""
        if problem.size:
            return drive(problem, leaves)
        one = problem._replace(mapped=(False,) * len(leaves), size=1)
        return tuple(v[0] for v in drive(one, leaves))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Save the minimum and what it depends on."""
        problem, *leaves = inputs
        x, _, _, converged, steps = output
        ctx.mark_non_differentiable(converged, steps)
        ctx.at = tuple(k for k, v in enumerate(leaves) if isinstance(v, Tensor))
        ctx.rest = tuple(None if isinstance(v, Tensor) else v for v in leaves)
        ctx.problem = problem
        saved = (converged, x, *(leaves[k] for k in ctx.at))
        ctx.save_for_backward(*saved)
        ctx.save_for_forward(*saved)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        """Return the cotangents of the leaves."""
        given = ctx.saved_tensors
        moving = [k for k, v in zip(ctx.at, given[2:], strict=True) if smooth(v)]
        rule = _rule(ctx, _pulled, moving, _FIXED + len(ctx.at))
        made = apply(rule, *given, *cotangents[:-_FIXED])
        grads = dict(zip(moving, made, strict=True))
        return None, *(grads.get(k) for k in range(len(ctx.rest)))

    @staticmethod
    def jvp(ctx: Any, _: Any, *tangents: Any) -> Any:
        """Return the tangents of x, cost and curve."""
        given = ctx.saved_tensors
        moving = [k for k, v in zip(ctx.at, given[2:], strict=True) if smooth(v)]
        rule = _rule(ctx, _pushed, moving, _FIXED + len(ctx.at))
        made = apply(rule, *given, *(tangents[k] for k in moving))
        return *made, *(None,) * _FIXED

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], problem: Problem, *leaves: Any
    ) -> tuple[Any, tuple[int, ...]]:
        """Fold the mapped axis into the batch."""
        places, size = in_dims[1:], info.batch_size
        inner = problem.mapped or (False,) * len(leaves)
        folds = zip(leaves, places, inner, strict=True)
        given = [_fold(x, d, i, size, problem.size) for x, d, i in folds]
        mapped = tuple(d is not None or i for d, i in zip(places, inner, strict=True))
        total = size * (problem.size or 1)
        out = Solve.apply(problem._replace(mapped=mapped, size=total), *given)
        if problem.size:
            out = tuple(v.unflatten(0, (size, problem.size)) for v in out)
        return out, (0,) * len(out)


def _fold(x: Any, dim: int | None, inner: bool, size: int, within: int) -> Any:
    """Bring a vmap's axis first, folded with the batch axis that there is already."""
    if dim is None and not inner:
        return x
    x = x.unsqueeze(0).expand(size, *x.shape) if dim is None else x.movedim(dim, 0)
    if not within:
        return x
    if not inner:
        x = x.unsqueeze(1).expand(size, within, *x.shape[1:])
    return x.flatten(0, 1)


def _rule(
    ctx: Any, one: Callable[..., Any], moving: Sequence[int], primals: int
) -> Segment:
    """Make a derivative rule of all voxels from that of one.

    Args:
        ctx: what the forward pass left.
        one: the rule of one voxel, of (measure, moving, converged, x, leaves, linear).
        moving: leaves that are differentiated.
        primals: how many inputs come before the tangents or cotangents.

    Returns:
        A function of (converged, x, *tensor leaves, *linear).
    """
    problem, rest, at = ctx.problem, ctx.rest, ctx.at

    def voxel(*inputs: Any) -> tuple[Tensor, ...]:
        now = dict(zip(at, inputs[2:primals], strict=True))
        leaves = [now.get(k, v) for k, v in enumerate(rest)]
        linear = inputs[primals:]
        return one(problem.measure, moving, *inputs[:2], leaves, linear)

    if not problem.size:
        return Segment(voxel, primals)
    axes = dict(enumerate(dims(problem)))
    tensors = tuple(axes[k] for k in at)
    pushing = one is _pushed
    linear = tuple(axes[k] for k in moving) if pushing else (0, 0, 0)
    mapped = vmap(voxel, (0, 0, *tensors, *linear), chunk_size=problem.chunk)

    def batch(*inputs: Any) -> tuple[Tensor, ...]:
        out = mapped(*inputs)
        if pushing:
            return out
        pairs = zip(moving, out, strict=True)
        return tuple(v if axes[k] == 0 else v.sum(0) for k, v in pairs)

    return Segment(batch, primals)


def _expanded(measure: Callable[..., Any]) -> Callable[..., tuple[Tensor, ...]]:
    def run(x: Tensor, *leaves: Any) -> tuple[Tensor, ...]:
        local = measure(x, *leaves)
        return local.slope, local.cost, local.curve

    return run


def _inverse(
    measure: Callable[..., Any], x: Tensor, leaves: Sequence[Any]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return H⁻¹ on the free unknowns, where x lies on a lower and on an upper bound.

    Rows and columns of H⁻¹ that belong to held unknowns are zero.
    """
    local = measure(x, *leaves)
    low = (x <= leaves[0]) & (local.slope >= 0)
    high = (x >= leaves[1]) & (local.slope <= 0) & ~low
    held = low | high
    curve = jacfwd(lambda x: measure(x, *leaves).slope)(x)
    free = torch.where(held | held.unsqueeze(-1), torch.diag_embed(held.to(x)), curve)
    size = free.diagonal().abs().sqrt()
    unit = 1 / torch.where(size > 0, size, 1.0)
    square = unit * unit.unsqueeze(-1)
    inverse = torch.linalg.inv_ex(free * square)[0] * square
    return torch.where(held | held.unsqueeze(-1), 0.0, inverse), low, high


def _pushed(
    measure: Callable[..., Any],
    moving: Sequence[int],
    converged: Tensor,
    x: Tensor,
    leaves: list[Any],
    tangents: Sequence[Tensor],
) -> tuple[Tensor, ...]:
    """Return the tangents of x, cost and curve of one voxel."""
    inverse, low, high = _inverse(measure, x, leaves)
    moves = dict(zip(moving, tangents, strict=True))
    bound = torch.where(low, moves[0], torch.where(high, moves[1], 0.0))
    f = filled(lambda *a: _expanded(measure)(*a), [x, *leaves], [0, *_next(moving)])
    at = (x.contiguous(), *(leaves[k].contiguous() for k in moving))
    first = jvp(f, at, (bound, *tangents))[1][0]
    # a bound at infinity is held by nothing and moves nothing
    hole = torch.where(converged, 0.0, math.nan).to(x)
    step = bound - inverse @ first + hole
    _, cost, curve = jvp(f, at, (step, *tangents))[1]
    return step, cost, curve


def _pulled(
    measure: Callable[..., Any],
    moving: Sequence[int],
    converged: Tensor,
    x: Tensor,
    leaves: list[Any],
    cotangents: Sequence[Tensor],
) -> tuple[Tensor, ...]:
    """Return the cotangents of the moving leaves of one voxel."""
    inverse, low, high = _inverse(measure, x, leaves)
    ours, cost, curve = cotangents
    f = filled(lambda *a: _expanded(measure)(*a), [x, *leaves], [0, *_next(moving)])
    _, pull, *_ = vjp(f, x, *(leaves[k] for k in moving))
    none = torch.zeros_like(x)
    direct: Any = pull((none, cost, curve))
    whole = ours + direct[0]
    back: Any = pull(
        (-(inverse @ whole), torch.zeros_like(cost), torch.zeros_like(curve))
    )
    pairs: Any = zip(direct[1:], back[1:], strict=True)
    made: list[Any] = [a + b for a, b in pairs]
    moved = whole + back[0]
    ends = {0: torch.where(low, moved, 0.0), 1: torch.where(high, moved, 0.0)}
    made = [ends.get(k, v) for k, v in zip(moving, made, strict=True)]
    # what nobody asks for stays 0 where it would be NaN
    asked = (ours != 0).any() | (cost != 0) | (curve != 0).any()
    hole = torch.where(converged, 0.0, math.nan)
    return tuple(torch.where(asked, v + hole.to(x), 0.0) for v in made)


def _next(moving: Sequence[int]) -> list[int]:
    return [k + 1 for k in moving]
