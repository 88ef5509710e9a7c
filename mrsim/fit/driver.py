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
_CHUNK = 2**18  # samples measured at once on a CPU: about what its caches hold


class Problem(NamedTuple):
    """A fit as functions of flat tensors, and which of these carry the batch."""

    measure: Callable[..., Local]  # (x, *leaves)
    begin: Callable[..., Tensor]  # (*leaves) → x at the start
    iterations: int
    tolerance: float
    chunk: int | None  # voxels measured at once
    mapped: tuple[bool, ...] = ()  # leaves whose first axis is the batch
    size: int = 0  # of the batch; 0 for one voxel


def chunk(data: Tensor) -> int | None:
    """Return how many voxels like this one to measure at once."""
    return None if data.is_cuda else max(1, _CHUNK // data.numel())


def least(like: Tensor) -> float:
    """Return the default tolerance of a dtype."""
    return max(1e-6, torch.finfo(like.dtype).eps ** 0.5)


class _State(NamedTuple):
    """Where every voxel stands; the batch axis comes last, where loops are long."""

    x: Tensor  # (p, voxel)
    local: Local
    damping: Tensor
    growth: Tensor  # of the damping at the next rejection
    stopped: Tensor
    converged: Tensor
    steps: Tensor


def drive(problem: Problem, leaves: Sequence[Any]) -> tuple[Tensor, ...]:
    """Step all voxels of a batch that are not finished, until none is left.

    Args:
        problem: the fit.
        leaves: lower and upper bounds, then what else its functions take.

    Returns:
        x (voxel, p), cost (voxel,), curve (voxel, p, p), converged (voxel,) and the
        steps tried (voxel,).
    """
    state = _judged(problem, _begun(problem, leaves), leaves)
    for _ in range(problem.iterations):
        live = (~state.stopped).nonzero()[:, 0]
        if not len(live):
            break
        given, some = leaves, state
        if len(live) < problem.size:
            pairs = zip(leaves, problem.mapped, strict=True)
            given = [v[live] if mapped else v for v, mapped in pairs]
            some = tree_map(lambda v, i=live: v.index_select(-1, i), state)
        some = _judged(problem, _step(problem, some, given), given)
        state = some if len(live) == problem.size else _merged(state, some, live)
    found = state.local
    x, curve = (v.movedim(-1, 0).contiguous() for v in (state.x, found.curve))
    return x, found.cost, curve, state.converged, state.steps


def _merged(state: _State, some: _State, at: Tensor) -> _State:
    return tree_map(lambda old, new: old.index_copy(-1, at, new), state, some)


def _begun(problem: Problem, leaves: Sequence[Any]) -> _State:
    if any(problem.mapped):
        x = vmap(problem.begin, in_dims=dims(problem))(*leaves).mT
    else:
        x = problem.begin(*leaves).unsqueeze(-1).expand(-1, problem.size)
    x = torch.clamp(x, *_ends(leaves)).contiguous()
    local = _measured(problem, x, leaves)
    alive = _finite(local) & x.isfinite().all(0) & (local.power > 0)
    one = torch.ones_like(local.cost)
    hole = torch.where(alive, 0 * one, math.nan)
    return _State(
        x=x + hole,
        local=local._replace(cost=local.cost + hole, curve=local.curve + hole),
        damping=_DAMPING * one,
        growth=2 * one,
        stopped=~alive,
        converged=torch.zeros_like(alive),
        steps=torch.zeros_like(alive, dtype=torch.long),
    )


def dims(problem: Problem) -> tuple[int | None, ...]:
    """Return where each leaf has the batch axis, as ``vmap`` wants it."""
    return tuple(0 if mapped else None for mapped in problem.mapped)


def _ends(leaves: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """Return the bounds, (p, voxel) or (p, 1)."""
    lower, upper = (v.mT if v.ndim > 1 else v.unsqueeze(-1) for v in leaves[:2])
    return lower, upper


def _measured(problem: Problem, x: Tensor, leaves: Sequence[Any]) -> Local:
    run = vmap(problem.measure, (0, *dims(problem)), chunk_size=problem.chunk)
    return tree_map(lambda v: v.movedim(0, -1).contiguous(), run(x.mT, *leaves))


def _finite(local: Local) -> Tensor:
    # a sum is finite where all its terms are
    whole = local.cost + local.slope.sum(0) + local.curve.sum((0, 1))
    return whole.isfinite()


def _scaled(
    state: _State, leaves: Sequence[Any]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return what a step solves: the unit-diagonal curve, the slope, the unit, held."""
    x, local, (lower, upper) = state.x, state.local, _ends(leaves)
    outwards = ((x <= lower) & (local.slope > 0)) | ((x >= upper) & (local.slope < 0))
    held = outwards | local.silent
    size = local.curve.diagonal().mT.sqrt()
    unit = torch.where(held, 0.0, 1 / torch.where(held, 1.0, size))
    curve = local.curve * unit * unit.unsqueeze(1)
    return _raised(curve, held.to(x)), -local.slope * unit, unit, held


def _raised(curve: Tensor, more: Tensor) -> Tensor:
    """Add to the diagonal of (p, p, voxel)."""
    eye = torch.eye(len(curve), dtype=curve.dtype, device=curve.device)
    return curve + eye.unsqueeze(-1) * more


def _judged(problem: Problem, state: _State, leaves: Sequence[Any]) -> _State:
    """Stop the voxels whose residual has nothing left along the free columns."""
    curve, slope, _, _ = _scaled(state, leaves)
    eps = torch.finfo(slope.dtype).eps
    newton, sound = _solve(curve, slope, 10 * eps * len(slope))
    left = (slope * newton).sum(0)
    noise = (_FLOOR * eps) ** 2 * state.local.power
    small = problem.tolerance**2 * 2 * state.local.cost
    done = left <= torch.maximum(small, noise)
    unique = sound & ~state.local.silent.any(0)
    stuck = state.damping > 1 / eps
    return state._replace(
        stopped=state.stopped | done | stuck,
        converged=state.converged | (done & unique & ~state.stopped),
    )


def _step(problem: Problem, state: _State, leaves: Sequence[Any]) -> _State:
    """Try one damped step and keep it where the cost falls."""
    curve, slope, unit, held = _scaled(state, leaves)
    extra = torch.where(held, 0.0, state.damping)
    move, _ = _solve(_raised(curve, extra), slope, 0.0)
    x = torch.clamp(state.x + unit * move, *_ends(leaves))
    taken = x - state.x
    old, new = state.local, _measured(problem, x, leaves)
    bend = (old.curve * taken).sum(1)
    promised = -((old.slope + bend / 2) * taken).sum(0)
    gained = old.cost - new.cost
    eps = torch.finfo(slope.dtype).eps
    blur = 4 * eps * (2 * old.cost * old.power).sqrt()
    good = (gained > -blur) & _finite(new)
    least = torch.finfo(slope.dtype).tiny
    ratio = (gained + blur) / (promised + blur).clamp(min=least)
    eased = state.damping * (1 - (2 * ratio - 1) ** 3).clamp(1 / 3, 2)
    damping = torch.where(good, eased, state.damping * state.growth)
    return state._replace(
        x=torch.where(good, x, state.x),
        local=tree_map(lambda n, o: torch.where(good, n, o), new, old),
        damping=damping.clamp(min=eps),
        growth=torch.where(good, 2.0, 2 * state.growth),
        steps=state.steps + 1,
    )


def _solve(a: Tensor, b: Tensor, least: float) -> tuple[Tensor, Tensor]:
    """Solve a y = b, a symmetric and positive, by elimination without pivoting.

    Args:
        a: (p, p, voxel).
        b: (p, voxel).
        least: what pivots must exceed.

    Returns:
        y (p, voxel), with 0 where the pivot is too small, and where none is (voxel,).
    """
    # elementwise over the batch: no voxel can raise for others
    rows = [
        [*line.unbind(), end] for line, end in zip(a.unbind(), b.unbind(), strict=True)
    ]
    size, sound = len(rows), []
    for k in range(size):
        pivot = rows[k][k]
        sound.append(pivot > least)
        factor = torch.where(sound[k], 1 / torch.where(sound[k], pivot, 1.0), 0.0)
        head = [v * factor for v in rows[k][k + 1 :]]
        for i in range(k + 1, size):
            tail = zip(rows[i][k + 1 :], head, strict=True)
            rows[i][k + 1 :] = [v - rows[i][k] * h for v, h in tail]
        rows[k][k + 1 :] = head
    found: list[Tensor] = []
    for k in reversed(range(size)):
        y = rows[k][size]
        for j, known in enumerate(found):
            y = y - rows[k][size - 1 - j] * known
        found.append(torch.where(sound[k], y, 0.0))
    return torch.stack(found[::-1]), torch.stack(sound).all(0)
