"""A simulation and its derivatives as passes of a fused kernel over fields.

With y the signal of some fields: `push` is dy along tangents (several at once, on a
leading axis), `pull` the cotangents of the fields from one of y (or several), and
`push_pull` those of fields and tangents from one of dy. Batches are cut where what the
kernel is given would take more memory than the states.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mrsim import _remat
from mrsim.epg.kernels.call import Physics
from mrsim.epg.kernels.given import given
from mrsim.epg.kernels.passes import backward, backward_of_forward, forward
from mrsim.epg.kernels.table import Table
from mrsim.epg.plan import Plan
from mrsim.epg.pools import Pools

_DIRECT = ("flip", "B1", "phase", "demod", "efficiency")
_OWN = frozenset((*_DIRECT, "duration", "T1", "T2", "M0", "df"))
_ROWS = frozenset(("flip", "phase", "demod", "efficiency", "duration"))
_CHUNK = 2**24  # bytes that are given to the kernel at a time


@dataclass(frozen=True, eq=False)  # no tuple: torch would look for tensors inside
class Job:
    """Everything about a simulation that is no tensor."""

    plan: Plan
    table: Table
    pools: Pools
    names: tuple[str, ...]  # of the fields
    physics: Physics
    reference: _remat.Segment  # the same in torch


@dataclass(frozen=True, eq=False)
class Rule:
    """One function of the family, of fields and what enters linearly after them."""

    job: Job
    kind: str = "value"  # or "push", "pull", "push_pull"
    at: tuple[int, ...] = ()  # fields with tangents, or with cotangents
    lead: bool = False  # tangents or cotangents, and results, have a leading axis
    wanted: bool = True  # push_pull: the cotangents of the tangents are wanted

    @property
    def fields(self) -> int:
        """How many inputs are fields."""
        return len(self.job.names)


# ----------------------------------------------------------------- fields and columns


def _columns(job: Job, fields: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return what the kernel reads: (number, *batch) each."""
    pairs = dict(zip(job.names, fields, strict=True))
    wanted = _OWN if job.physics.own else _DIRECT
    made = {n: x if n in _ROWS else x[None] for n, x in pairs.items() if n in wanted}
    if job.physics.own:
        return made
    return made | given(job.plan, job.table, job.pools, job.names, fields)


def _pushed(
    job: Job, fields: Sequence[Tensor], at: Sequence[int], moves: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Return the tangents of the columns: (leading, number, *batch)."""
    if job.physics.own:
        named = {job.names[k]: t for k, t in zip(at, moves, strict=True)}
        return {
            n: t if n in _ROWS else t[:, None] for n, t in named.items() if n in _OWN
        }

    def along(*tangents: Tensor) -> dict[str, Tensor]:
        def columns(*xs: Tensor) -> dict[str, Tensor]:
            return _columns(job, _with(fields, at, xs))

        return torch.func.jvp(columns, primals, tangents)[1]

    # jvp wants tangents of the primals' shapes, and no strides of 0
    shapes = [
        torch.broadcast_shapes(fields[k].shape, t.shape[1:])
        for k, t in zip(at, moves, strict=True)
    ]
    primals = tuple(
        fields[k].expand(n).contiguous() for k, n in zip(at, shapes, strict=True)
    )
    wide = [
        t.expand(t.shape[0], *n).contiguous()
        for t, n in zip(moves, shapes, strict=True)
    ]
    return torch.func.vmap(along)(*wide)


def _with(fields: Sequence[Tensor], at: Sequence[int], xs: Sequence[Tensor]) -> Any:
    made = list(fields)
    for k, x in zip(at, xs, strict=True):
        made[k] = x
    return made


# ------------------------------------------------------------------------- the family


def _value(rule: Rule, fields: Sequence[Tensor], _: Sequence[Tensor]) -> Tensor:
    out = _signal(rule.job, fields, ())
    _walk(rule, fields, (), out)
    return out[0]


def _push(rule: Rule, fields: Sequence[Tensor], moves: Sequence[Tensor]) -> Tensor:
    moves = _leading(rule, moves)
    out = _signal(rule.job, fields, moves)
    _walk(rule, fields, moves, out)
    return out if rule.lead else out[0]


def _leading(rule: Rule, xs: Sequence[Tensor]) -> list[Tensor]:
    return list(xs) if rule.lead else [x[None] for x in xs]


def _signal(job: Job, fields: Sequence[Tensor], moves: Sequence[Tensor]) -> Tensor:
    """Return memory for values or tangents: (re, im) of neighbouring lanes adjoin."""
    like, lead = fields[0], moves[0].shape[0] if moves else 1
    sizes = lead, job.table.reads, *_batch(job, fields, moves)
    return like.new_empty(sizes, dtype=like.dtype.to_complex())


def _walk(
    rule: Rule,
    fields: Sequence[Tensor],
    moves: Sequence[Tensor],
    out: Tensor,
) -> None:
    job, lead = rule.job, len(out) if moves else 0
    for cut, _ in _chunks(job, tuple(out.shape[2:]), lead):
        xs, ts = [cut(x) for x in fields], [cut(t) for t in moves]
        moved = _pushed(job, xs, rule.at, ts) if moves else {}
        forward(job.physics, job.table, _columns(job, xs), moved, cut(out))


def _pull(rule: Rule, fields: Sequence[Tensor], cotangents: Sequence[Tensor]) -> Any:
    job = rule.job
    bars = cotangents[0].resolve_conj().resolve_neg()
    bars = bars if rule.lead else bars[None]
    batch = _batch(job, fields, [bars])
    bars = bars.expand(*bars.shape[:2], *batch)
    sums = _Pieces(len(rule.at))
    for cut, axis in _chunks(job, batch, bars.shape[0]):
        xs = [cut(x) for x in fields]
        if job.physics.own:
            made = backward(job.physics, job.table, _columns(job, xs), cut(bars))
            grads = [_own_of(job, k, xs[k], made, bars.shape[0]) for k in rule.at]
        else:
            grads = _pulled_back(rule, xs, cut(bars))
        sums.add([fields[k] for k in rule.at], grads, axis)
    found = sums.whole()
    return tuple(found if rule.lead else (g[0] for g in found))


def _own_of(job: Job, k: int, x: Tensor, made: dict[str, Tensor], lead: int) -> Tensor:
    name = job.names[k]
    if name not in made:
        return x.new_zeros(lead, *x.shape)
    return made[name] if name in _ROWS else made[name][:, 0]


def _pulled_back(rule: Rule, fields: Sequence[Tensor], bars: Tensor) -> list[Tensor]:
    job, at = rule.job, rule.at

    def columns(*xs: Tensor) -> dict[str, Tensor]:
        return _columns(job, _with(fields, at, xs))

    made, pull, *_ = torch.func.vjp(columns, *(fields[k] for k in at))
    back = backward(job.physics, job.table, _plain(made), bars)
    return list(torch.func.vmap(pull)(back))


def _plain(columns: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n: x.detach() for n, x in columns.items()}


def _push_pull(rule: Rule, fields: Sequence[Tensor], linear: Sequence[Tensor]) -> Any:
    job, at = rule.job, rule.at
    moves = _leading(rule, linear[:-1])
    (bars,) = _leading(rule, [linear[-1].resolve_conj().resolve_neg()])
    batch = _batch(job, fields, [*moves, bars])
    bars = bars.expand(*bars.shape[:2], *batch)
    n = len(at)
    sums, more = _Pieces(n), _Pieces(n)
    for cut, axis in _chunks(job, batch, 2 * bars.shape[0]):
        xs, ts = [cut(x) for x in fields], [cut(t) for t in moves]
        if job.physics.own:
            columns, moved = _columns(job, xs), _pushed(job, xs, at, ts)
            first, second = backward_of_forward(
                job.physics, job.table, columns, moved, cut(bars), wanted=rule.wanted
            )
            first = {name: x[None] for name, x in first.items()}
            grads = [_own_of(job, k, xs[k], first, 1) for k in at]
            turns = [
                _own_of(job, k, t[0], second, len(t))
                for k, t in zip(at, ts, strict=True)
            ]
        else:
            grads, turns = _both_pulled_back(rule, xs, ts, cut(bars))
            grads = [g[None] for g in grads]
        sums.add([fields[k] for k in at], grads, axis)
        more.add([t[0] for t in moves], turns, axis)
    return (
        *(g[0] for g in sums.whole()),
        *(g if rule.lead else g[0] for g in more.whole()),
    )


def _both_pulled_back(
    rule: Rule, fields: Sequence[Tensor], moves: Sequence[Tensor], bars: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    job, at, n = rule.job, rule.at, len(rule.at)

    def columns(*xs: Tensor) -> Any:
        full = _with(fields, at, xs[:n])
        return _columns(job, full), _pushed(job, full, at, xs[n:])

    (made, moved), pull, *_ = torch.func.vjp(columns, *(fields[k] for k in at), *moves)
    back = backward_of_forward(
        job.physics, job.table, _plain(made), _plain(moved), bars
    )
    found = pull(back)
    return list(found[:n]), list(found[n:])


_KINDS = {"value": _value, "push": _push, "pull": _pull, "push_pull": _push_pull}


def evaluated(rule: Rule, *inputs: Tensor) -> Any:
    """Run one function of the family on plain tensors."""
    n = rule.fields
    return _KINDS[rule.kind](rule, inputs[:n], inputs[n:])


# --------------------------------------------------------------------- axes and chunks


def _batch(
    job: Job, fields: Sequence[Tensor], linear: Sequence[Tensor]
) -> tuple[int, ...]:
    ndim = fields[job.names.index("T1")].ndim
    if not ndim:
        return ()
    shapes = {x.shape[x.ndim - ndim :] for x in (*fields, *linear)}
    return tuple(torch.broadcast_shapes(*shapes))


def _chunks(job: Job, batch: tuple[int, ...], copies: int) -> Any:
    """Cut the largest batch axis so that what the kernel is given stays small."""
    numbers = 0 if job.physics.own else _given_size(job)
    size = max(batch, default=1)
    rest = max(torch.Size(batch).numel() // max(size, 1), 1)
    each = 8 * numbers * (1 + copies) * rest * 6  # intermediates
    step = size if not each else max(_CHUNK // each, 64)
    axis = -len(batch) + batch.index(size) if batch else 0
    for start in range(0, size, step):
        if step >= size:
            yield (lambda x: x), axis
            return
        yield _cut(axis, start, min(step, size - start)), axis


def _cut(axis: int, start: int, length: int) -> Callable[[Tensor], Tensor]:
    def cut(x: Tensor) -> Tensor:
        return x if x.shape[axis] == 1 else x.narrow(axis, start, length)

    return cut


def _given_size(job: Job) -> int:
    pools, kinds = job.pools, len(job.table.kinds)
    each = pools.count**2 + pools.free**2 + 2 * pools.count + 8
    steps = pools.bound * 3 * job.table.count if job.physics.bound else 0
    return kinds * each + steps


class _Pieces:
    """Cotangents of fields, chunk by chunk: summed where a field is shared."""

    def __init__(self, count: int) -> None:
        self.parts: list[list[Tensor]] = [[] for _ in range(count)]
        self.axes: list[int | None] = [None] * count

    def add(self, like: Sequence[Tensor], grads: Sequence[Tensor], axis: int) -> None:
        for i, (x, g) in enumerate(zip(like, grads, strict=True)):
            self.parts[i].append(g)
            self.axes[i] = axis if axis and x.shape[axis] > 1 else None

    def whole(self) -> list[Tensor]:
        return [
            p[0]
            if len(p) == 1
            else torch.stack(p).sum(0)
            if axis is None
            else torch.cat(p, axis)
            for p, axis in zip(self.parts, self.axes, strict=True)
        ]
