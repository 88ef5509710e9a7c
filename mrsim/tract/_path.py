"""The derivative of a whole track: an adjoint that keeps points and directions only.

At fixed structure a track is p_{k+1} = p_k + h u(p_k). Tangents run from the seed to
the ends, cotangents back, and what happens at a point is looked up again on the way.
Every rule is plain torch of attached points, so it can be differentiated again.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mrsim import _remat
from mrsim._check import concrete, transforming
from mrsim.tract._direction import Change, Image
from mrsim.tract._step import step_pull, step_push
from mrsim.tract._world import (
    Plan,
    batch_of,
    column,
    columns,
    folded,
    spread,
    starts,
)
from mrsim.tree import filled, smooth

_FLUSH = 2**15  # steps whose cotangents wait for one addition to the image


def attach(plan: Plan, moving: Sequence[Tensor], *fixed: Tensor) -> Tensor:
    """Give the points of walked tracks their derivatives.

    Args:
        plan: what is static.
        moving: seed, values, inverse, step, model.
        *fixed: points, directions, length and seed index, as they were walked.

    Returns:
        The points.
    """
    return _Path.apply(plan, *moving, *fixed)  # pyright: ignore[reportReturnType]


class _Path(torch.autograd.Function):
    """(plan, 5 moving, points, directions, length, seed index) → points."""

    @staticmethod
    def forward(_plan: Plan, *tensors: Tensor) -> Tensor:
        return tensors[5].clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], _output: Tensor) -> None:
        ctx.plan = inputs[0]
        ctx.save_for_backward(*inputs[1:])
        ctx.save_for_forward(*inputs[1:])
        ctx.set_materialize_grads(False)

    @staticmethod
    def jvp(ctx: Any, _: Any, *tangents: Any) -> Tensor:
        active = tuple(k for k in range(5) if tangents[k] is not None)
        moves = (tangents[k] for k in active)
        rule = _Push(_push, ctx.plan, active)
        return _Rule.apply(rule, *ctx.saved_tensors, *moves)  # pyright: ignore[reportReturnType]

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor | None) -> Any:
        if cotangent is None:
            return (None,) * 10
        active = tuple(k for k in range(5) if ctx.needs_input_grad[1 + k])
        rule = _Push(_pull, ctx.plan, active, ctx.plan.rank)
        made = _Rule.apply(rule, *ctx.saved_tensors, cotangent)
        grads = dict(zip(active, made, strict=True))  # pyright: ignore[reportArgumentType]
        return None, *(grads.get(k) for k in range(9))

    @staticmethod
    def vmap(_info: Any, in_dims: Any, plan: Plan, *tensors: Tensor) -> Any:
        moved = folded(tensors, in_dims[1:])
        return _Path.apply(plan._replace(rank=plan.rank + 1), *moved), 0


class _Push(NamedTuple):
    """Which rule runs, for which of the moving inputs."""

    f: Callable[..., Any]
    plan: Plan
    active: tuple[int, ...]
    inner: int = 0  # batch axes that the inputs had when the rule was made

    def __call__(self, *tensors: Tensor) -> Any:
        return self.f(self, *tensors)


class _Rule(torch.autograd.Function):
    """A `_Push` of tensors; its own derivatives are those of its plain code."""

    @staticmethod
    def forward(rule: _Push, *tensors: Tensor) -> Any:
        return rule(*tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], _output: Any) -> None:
        ctx.rule = inputs[0]
        ctx.save_for_backward(*inputs[1:])
        ctx.save_for_forward(*inputs[1:])

    @staticmethod
    def jvp(ctx: Any, _: Any, *tangents: Tensor) -> Any:
        tensors = ctx.saved_tensors
        at = [k for k, x in enumerate(tensors) if smooth(x) and k not in (5, 6)]

        def along(*xs: Tensor) -> Any:
            n = len(tensors)
            primals = tuple(xs[k].contiguous() for k in at)
            f = filled(ctx.rule, xs[:n], at)
            return torch.func.jvp(f, primals, tuple(xs[n:]))[1]

        segment = _remat.Segment(along, len(tensors))
        return _remat.apply(segment, *tensors, *(tangents[k] for k in at))

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        tensors = ctx.saved_tensors
        at = [k for k, x in enumerate(tensors) if smooth(x) and k not in (5, 6)]

        def back(*xs: Tensor) -> Any:
            n = len(tensors)
            f = filled(ctx.rule, xs[:n], at)
            out, pull, *_ = torch.func.vjp(f, *(xs[k] for k in at))
            return pull(xs[n] if isinstance(out, Tensor) else tuple(xs[n:]))

        made = _remat.apply(_remat.Segment(back, len(tensors)), *tensors, *cotangents)
        grads = dict(zip(at, made, strict=True))
        return None, *(grads.get(k) for k in range(len(tensors)))

    @staticmethod
    def vmap(_info: Any, in_dims: Any, rule: _Push, *tensors: Tensor) -> Any:
        deeper = rule.plan._replace(rank=rule.plan.rank + 1)
        out = _Rule.apply(rule._replace(plan=deeper), *folded(tensors, in_dims[1:]))
        return out, 0 if isinstance(out, Tensor) else (0,) * len(out)


class _Flat(NamedTuple):
    """A batch of tracks in rows, and both halves of each as lanes."""

    image: Image
    h: Tensor  # (lanes or 1,)
    points: Tensor  # (S T, 3)
    directions: Tensor  # (S T, 3)
    ids: Tensor  # (lanes,) which track
    row: Tensor  # (lanes,) row of its seed
    way: Tensor  # (lanes,) -1 for the first half, 1 for the second
    count: Tensor  # (lanes,) steps
    live: list[int]  # lanes that take step k, the first ones; all where not known

    def at(self, k: int) -> tuple[int, Tensor, Tensor, Tensor, Tensor]:
        """Return for step k the lanes, whether they take it, rows: base, tip, edge."""
        n = self.live[k]
        on = self.count[:n] > k
        base = self.row[:n] + torch.where(on, k, 0) * self.way[:n]
        tip = base + torch.where(on, self.way[:n], 0)
        return n, on, base, tip, torch.minimum(base, tip)

    def part(self, n: int) -> Image:
        """Return the image for the first lanes."""
        values, *rest = self.image
        return Image(values, *(_cut(x, n) for x in rest))


def _cut(x: Tensor | None, n: int) -> Any:
    """Return the first lanes of what every lane has, or all share, if it is there."""
    return x if x is None or x.shape[-1] == 1 else x[..., :n]


def _flat(plan: Plan, batch: tuple[int, ...], tensors: Sequence[Tensor]) -> _Flat:
    _, values, inverse, step, model, points, directions, length, before = tensors[:9]
    size, T = math.prod(batch), plan.capacity
    wide = [x.expand((*batch, *x.shape[plan.rank :])) for x in tensors[5:9]]
    points, directions = (x.reshape(size * T, 3) for x in wide[:2])
    length, before = (x.reshape(size) for x in wide[2:])
    after = (length - before - 1).clamp(min=0)
    ids = torch.arange(size, device=points.device).repeat(2)
    count = torch.cat([before, after])
    way = torch.ones_like(ids).index_fill(0, ids[:size], -1)
    row = ids * T + before.repeat(2)
    live = [2 * size] * (T - 1)
    if concrete(count):
        count, order = count.sort(descending=True, stable=True)
        ids, way, row = ids[order], way[order], row[order]
        steps = torch.arange(int(count[0]) if size else 0, device=count.device)
        live = torch.searchsorted(-count, -steps).tolist()
    rows, first = _rows(plan, batch, values, ids)
    turn, h, fit = (_each(plan, batch, x, ids) for x in (inverse, step, model))
    image = Image(rows, first, turn, fit)
    return _Flat(image, h, points, directions, ids, row, way, count, live)


def _rows(
    plan: Plan, batch: tuple[int, ...], images: Tensor, ids: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Return the rows of all images, and that at which each lane's image starts."""
    split = spread(images, plan.rank, batch)
    first = starts(split, images.shape[-2])
    return split.values.flatten(0, 1), None if first is None else first[ids]


def _each(plan: Plan, batch: tuple[int, ...], leaf: Tensor, ids: Tensor) -> Tensor:
    """Return what each lane has of a small leaf, or all share."""
    return columns(column(spread(leaf, plan.rank, batch)), ids)


def _again(plan: Plan, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the tensors of a rule with the points' derivatives attached."""
    points = attach(plan, tensors[:5], *tensors[5:9]) if transforming() else tensors[5]
    return [*tensors[:5], points, *tensors[6:9]]


def _push(rule: _Push, *tensors: Tensor) -> Tensor:
    """Return the tangent of the points, from those of the active inputs."""
    plan, moves = rule.plan, dict(zip(rule.active, tensors[9:], strict=True))
    batch = batch_of(tensors, plan.rank)
    flat = _flat(plan, batch, _again(plan, tensors))

    def moved(k: int) -> Tensor | None:
        return _each(plan, batch, moves[k], flat.ids) if k in moves else None

    seed, turn, dh, fit = map(moved, (0, 2, 3, 4))
    values, first = None, None
    if 1 in moves:
        values, first = _rows(plan, batch, moves[1], flat.ids)
    lanes = len(flat.ids)
    dp = flat.points.new_zeros((3, lanes)) if seed is None else seed.expand(3, lanes)
    rows, parts = [flat.row], [dp / 2]  # each of the two halves brings the seed
    for k in range(len(flat.live)):
        n, on, base, tip, edge = flat.at(k)
        p, d = flat.points[base].t(), flat.directions[edge].t()
        change = Change(dp[:, :n], values, _cut(turn, n), _cut(fit, n))
        h, slip, start = (_cut(x, n) for x in (flat.h, dh, first))
        ahead = step_push(plan, flat.part(n), h, p, d, change, slip, start)
        dp = torch.where(on, ahead, dp[:, :n])
        rows.append(torch.where(on, tip, 0))
        parts.append(torch.where(on, dp, 0.0))
    made = torch.zeros_like(flat.points)
    made = made.index_add(0, torch.cat(rows), torch.cat(parts, 1).t())
    return made.reshape(*batch, plan.capacity, 3)


def _pull(rule: _Push, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Return the cotangents of the active inputs, from that of the points."""
    plan = rule.plan
    batch = batch_of(tensors, plan.rank)
    flat = _flat(plan, batch, _again(plan, tensors))
    cotangent = tensors[9].expand(*batch, plan.capacity, 3).reshape(-1, 3)
    into = {k: _Sum(rule, batch, tensors[k], flat.ids) for k in rule.active}
    back = flat.points.new_zeros((3, 0))
    for k in reversed(range(len(flat.live))):
        n, on, base, tip, edge = flat.at(k)
        more = torch.where(on, cotangent[tip].t(), 0.0)
        grown = back.new_zeros((3, n - back.shape[1]))
        back = torch.cat([back, grown], 1) + more
        p, d = flat.points[base].t(), flat.directions[edge].t()
        image, h = flat.part(n), _cut(flat.h, n)
        made = step_pull(plan, image, h, p, d, torch.where(on, back, 0.0))
        for key, x in ((2, made.inverse), (3, made.h), (4, made.model)):
            if key in into:
                into[key].add(x, n)
        if 1 in into:
            for corners, dc in made.values:
                into[1].scatter(corners, dc, n, flat.image.first)
        back = back + made.p
    lanes = len(flat.ids)
    whole = torch.cat([back, back.new_zeros((3, lanes - back.shape[1]))], 1)
    if 0 in into:
        into[0].add(whole + cotangent[flat.row].t() / 2, lanes)
    return tuple(into[k].total() for k in rule.active)


class _Sum:
    """Adds up cotangents, for every lane, into what the inputs of a rule were."""

    def __init__(
        self, rule: _Push, batch: tuple[int, ...], leaf: Tensor, ids: Tensor
    ) -> None:
        rank, inner = rule.plan.rank, rule.inner
        outer = batch[: rank - inner]
        self.shape = (*outer, *leaf.shape[rank - inner :])
        lead = (*outer, *leaf.shape[rank - inner : rank])
        self.count = math.prod(lead)
        slots = torch.arange(self.count, device=leaf.device).reshape(lead)
        self.slot = slots.expand(batch).reshape(-1)[ids]
        self.leaf = leaf
        self.parts: list[Tensor] = []
        self.slots: list[Tensor] = []
        self.rows: list[Tensor] = []
        self.sum = leaf.new_zeros((self.count, *leaf.shape[rank:]))

    def add(self, x: Tensor, n: int) -> None:
        wide = x.expand(*x.shape[:-1], n).movedim(-1, 0)
        self.sum = self.sum.index_add(0, self.slot[:n], wide.contiguous())

    def scatter(self, corners: Any, dc: Tensor, n: int, first: Tensor | None) -> None:
        size = self.leaf.shape[-2]
        rows = corners.rows if first is None else corners.rows - first[:n]
        self.rows.append((rows + self.slot[:n] * size).reshape(-1))
        self.parts.append((corners.weights[:, None] * dc).movedim(1, 2).flatten(0, 1))
        if sum(map(len, self.rows)) >= 8 * _FLUSH:
            self.flush()

    def flush(self) -> None:
        flat = self.sum.flatten(0, 1)
        flat = flat.index_add(0, torch.cat(self.rows), torch.cat(self.parts))
        self.sum = flat.reshape(self.sum.shape)
        self.rows, self.parts = [], []

    def total(self) -> Tensor:
        if self.rows:
            self.flush()
        return self.sum.reshape(self.shape)
