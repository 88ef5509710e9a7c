"""The driver of a batch of fits: every voxel steps until it is done."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from mrsim.fit.local import Local
from mrsim.tree import tree_map

_FLOOR = 30.0  # times eps: rounding noise of a residual against ‖data‖
_DAMPING = 1e-2  # at the start
_NO_DERIVATIVE = (
    "fit: a fit has no derivatives; differentiate the bound on its variance"
    " (mrsim.crlb) or the model itself"
)


class Problem(NamedTuple):
    """A fit as functions of flat tensors, and which of these carry the batch."""

    measure: Callable[..., Local]  # (x, *leaves)
    begin: Callable[..., Tensor]  # (*leaves) → x at the start
    iterations: int
    tolerance: float
    chunk: int | None  # voxels measured at once
    mapped: tuple[bool, ...] = ()  # leaves whose first axis is the batch
    size: int = 0  # of the batch; 0 for one voxel


class Solve(torch.autograd.Function):
    """(problem, lower, upper, *rest) → x, cost, curve, converged, steps.

    The whole batch goes in one call, below all transforms. Bounds, like all other
    leaves, are one for each voxel or one for all.
    """

    @staticmethod
    def forward(problem: Problem, *leaves: Any) -> tuple[Tensor, ...]:
        """Fit the batch, or one voxel as a batch of one."""
        if problem.size:
            return _drive(problem, leaves)
        one = problem._replace(mapped=(False,) * len(leaves), size=1)
        return tuple(v[0] for v in _drive(one, leaves))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Save nothing."""

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        """Refuse."""
        raise NotImplementedError(_NO_DERIVATIVE)

    @staticmethod
    def jvp(ctx: Any, *_: Any) -> Any:
        """Refuse."""
        raise NotImplementedError(_NO_DERIVATIVE)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], problem: Problem, *leaves: Any
    ) -> tuple[Any, tuple[int, ...]]:
        """Fold the mapped axis into the batch."""
        dims, size = in_dims[1:], info.batch_size
        inner = problem.mapped or (False,) * len(leaves)
        folds = zip(leaves, dims, inner, strict=True)
        given = [_fold(x, d, i, size, problem.size) for x, d, i in folds]
        mapped = tuple(d is not None or i for d, i in zip(dims, inner, strict=True))
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


class _State(NamedTuple):
    """Where every voxel stands; each has the batch axis first."""

    x: Tensor
    local: Local
    damping: Tensor
    growth: Tensor  # of the damping at the next rejection
    stopped: Tensor
    converged: Tensor
    steps: Tensor


def _drive(problem: Problem, leaves: Sequence[Any]) -> tuple[Tensor, ...]:
    """Step all voxels that are not finished, until none is left."""
    state = _judged(problem, _begun(problem, leaves), leaves)
    for _ in range(problem.iterations):
        live = (~state.stopped).nonzero()[:, 0]
        if not len(live):
            break
        pairs = zip(leaves, problem.mapped, strict=True)
        given = [v[live] if mapped else v for v, mapped in pairs]
        some = tree_map(lambda v, live=live: v[live], state)
        some = _judged(problem, _step(problem, some, given), given)
        state = tree_map(
            lambda old, new, i=live: old.index_copy(0, i, new), state, some
        )
    found = state.local
    return state.x, found.cost, found.curve, state.converged, state.steps


def _begun(problem: Problem, leaves: Sequence[Any]) -> _State:
    if any(problem.mapped):
        x = vmap(problem.begin, in_dims=_dims(problem))(*leaves)
    else:
        x = problem.begin(*leaves).expand(problem.size, -1)
    x = torch.clamp(x, *leaves[:2])
    local = _measured(problem, x, leaves)
    alive = _finite(local) & x.isfinite().all(-1) & (local.power > 0)
    one = torch.ones_like(local.cost)
    hole = torch.where(alive, 0 * one, math.nan)
    blank = local._replace(
        cost=local.cost + hole, curve=local.curve + hole[:, None, None]
    )
    return _State(
        x=x + hole.unsqueeze(-1),
        local=blank,
        damping=_DAMPING * one,
        growth=2 * one,
        stopped=~alive,
        converged=torch.zeros_like(alive),
        steps=torch.zeros_like(alive, dtype=torch.long),
    )


def _dims(problem: Problem) -> tuple[int | None, ...]:
    return tuple(0 if mapped else None for mapped in problem.mapped)


def _measured(problem: Problem, x: Tensor, leaves: Sequence[Any]) -> Local:
    dims = (0, *_dims(problem))
    return vmap(problem.measure, dims, chunk_size=problem.chunk)(x, *leaves)


def _finite(local: Local) -> Tensor:
    return (
        local.cost.isfinite()
        & local.slope.isfinite().all(-1)
        & local.curve.isfinite().flatten(1).all(-1)
    )


def _scaled(
    state: _State, leaves: Sequence[Any]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return what a step solves: the unit-diagonal curve, the slope, the unit, held."""
    x, local, (lower, upper, *_) = state.x, state.local, leaves
    outwards = ((x <= lower) & (local.slope > 0)) | ((x >= upper) & (local.slope < 0))
    held = outwards | local.silent
    size = local.curve.diagonal(dim1=-2, dim2=-1).sqrt()
    unit = torch.where(held, 0.0, 1 / torch.where(held, 1.0, size))
    curve = local.curve * unit.unsqueeze(-1) * unit.unsqueeze(-2)
    return curve + torch.diag_embed(held.to(x)), -local.slope * unit, unit, held


def _judged(problem: Problem, state: _State, leaves: Sequence[Any]) -> _State:
    """Stop the voxels whose residual has nothing left along the free columns."""
    curve, slope, _, _ = _scaled(state, leaves)
    eps = torch.finfo(slope.dtype).eps
    newton, sound = _solve(curve, slope, 10 * eps * slope.shape[-1])
    left = (slope * newton).sum(-1)
    noise = (_FLOOR * eps) ** 2 * state.local.power
    small = problem.tolerance**2 * 2 * state.local.cost
    done = left <= torch.maximum(small, noise)
    unique = sound.all(-1) & ~state.local.silent.any(-1)
    stuck = state.damping > 1 / eps
    return state._replace(
        stopped=state.stopped | done | stuck,
        converged=state.converged | (done & unique & ~state.stopped),
    )


def _step(problem: Problem, state: _State, leaves: Sequence[Any]) -> _State:
    """Try one damped step and keep it where the cost falls."""
    curve, slope, unit, held = _scaled(state, leaves)
    extra = torch.where(held, 0.0, state.damping.unsqueeze(-1))
    move, _ = _solve(curve + torch.diag_embed(extra), slope, 0.0)
    x = torch.clamp(state.x + unit * move, *leaves[:2])
    taken = x - state.x
    old, new = state.local, _measured(problem, x, leaves)
    bend = (old.curve @ taken.unsqueeze(-1)).squeeze(-1)
    promised = -((old.slope + bend / 2) * taken).sum(-1)
    gained = old.cost - new.cost
    eps = torch.finfo(slope.dtype).eps
    blur = 4 * eps * (2 * old.cost * old.power).sqrt()
    good = (gained > -blur) & _finite(new)
    least = torch.finfo(slope.dtype).tiny
    ratio = (gained + blur) / (promised + blur).clamp(min=least)
    eased = state.damping * (1 - (2 * ratio - 1) ** 3).clamp(1 / 3, 2)
    damping = torch.where(good, eased, state.damping * state.growth)
    return state._replace(
        x=torch.where(good.unsqueeze(-1), x, state.x),
        local=tree_map(
            lambda n, o: torch.where(good.reshape(-1, *(1,) * (n.ndim - 1)), n, o),
            new,
            old,
        ),
        damping=damping.clamp(min=eps),
        growth=torch.where(good, 2.0, 2 * state.growth),
        steps=state.steps + 1,
    )


def _solve(a: Tensor, b: Tensor, least: float) -> tuple[Tensor, Tensor]:
    """Solve a y = b, a symmetric and positive, by elimination without pivoting.

    Returns:
        y, with 0 where the pivot is not above ``least``, and where it is.
    """
    # elementwise over the batch: as fast as LAPACK, and no voxel can raise for others
    size = a.shape[-1]
    eye = torch.eye(size, dtype=a.dtype, device=a.device)
    table = torch.cat([a, b.unsqueeze(-1)], -1)
    sound = []
    for k in range(size):
        pivot = table[..., k, k]
        sound.append(pivot > least)
        factor = torch.where(sound[k], 1 / torch.where(sound[k], pivot, 1.0), 0.0)
        row = table[..., k, :] * factor.unsqueeze(-1)
        column = table[..., k] - eye[k]
        table = table - column.unsqueeze(-1) * row.unsqueeze(-2)
    fine = torch.stack(sound, -1)
    return torch.where(fine, table[..., size], 0.0), fine
