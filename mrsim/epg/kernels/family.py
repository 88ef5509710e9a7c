"""A simulation and its derivatives as passes of a fused kernel over fields.

With y the signal of some fields: `both` is y and dy along tangents (several at once, on
a leading axis), `pull` the cotangents of the fields from one of y (or several), and
`both_pull` those of fields and tangents from cotangents of y and dy. Batches are cut
where what the kernel is given would take more memory than the states.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mrsim import _remat
from mrsim.epg.kernels.call import Physics, empty
from mrsim.epg.kernels.given import given, given_along
from mrsim.epg.kernels.passes import backward, backward_of_forward, forward
from mrsim.epg.kernels.table import Table
from mrsim.epg.plan import Plan
from mrsim.epg.pools import Pools

_DIRECT = ("flip", "B1", "phase", "demod", "efficiency")
_OWN = frozenset((*_DIRECT, "duration", "T1", "T2", "M0", "df"))
_ROWS = frozenset(("flip", "phase", "demod", "efficiency", "duration"))
_CHUNK = 2**24  # bytes that are given to the kernel at a time
_CHUNK_ON_GPU = 2**30


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
    kind: str = "value"  # or "both", "pull", "both_pull"
    at: tuple[int, ...] = ()  # fields with tangents
    to: tuple[int, ...] = ()  # inputs, fields and tangents, whose cotangents are made
    lead: bool = False  # tangents or several cotangents, on a leading axis
    valued: bool = True  # both_pull: y too has a cotangent

    @property
    def fields(self) -> int:
        """How many inputs are fields."""
        return len(self.job.names)


# ----------------------------------------------------------------- fields and columns


def _direct(job: Job, fields: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return the fields that the kernel reads itself: (number, *batch) each."""
    pairs = dict(zip(job.names, fields, strict=True))
    wanted = _OWN if job.physics.own else _DIRECT
    return {
        n: x if n in _ROWS else x.unsqueeze(0) for n, x in pairs.items() if n in wanted
    }


def _columns(job: Job, fields: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return what the kernel reads: (number, *batch) each."""
    made = _direct(job, fields)
    if job.physics.own:
        return made
    return made | given(job.plan, job.table, job.pools, job.names, fields)


def _pushed(
    job: Job, fields: Sequence[Tensor], at: Sequence[int], moves: Sequence[Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the columns, and their tangents: (leading, number, *batch)."""
    named = {job.names[k]: t for k, t in zip(at, moves, strict=True)}
    wanted = _OWN if job.physics.own else _DIRECT
    moved = {
        n: t if n in _ROWS else t.unsqueeze(1) for n, t in named.items() if n in wanted
    }
    if job.physics.own:
        return _direct(job, fields), moved
    made = given_along(job.plan, job.table, job.pools, job.names, fields, named)
    return _direct(job, fields) | made[0], moved | made[1]


def _with(fields: Sequence[Tensor], at: Sequence[int], xs: Sequence[Tensor]) -> Any:
    made = list(fields)
    for k, x in zip(at, xs, strict=True):
        made[k] = x
    return made


# ------------------------------------------------------------------------- the family


def _value(rule: Rule, fields: Sequence[Tensor], _: Sequence[Tensor]) -> Tensor:
    job, batch = rule.job, _batch(rule.job, fields, ())
    y = _signal(job, fields, batch)
    for cut, _ in _chunks(job, batch, fields[0].device, 0):
        columns = _columns(job, [cut(x) for x in fields])
        forward(job.physics, job.table, columns, {}, None, cut(y))
    return y


def _both(
    rule: Rule, fields: Sequence[Tensor], moves: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    job, moves = rule.job, _leading(rule, moves)
    batch = _batch(job, fields, moves)
    y, out = _signal(job, fields, batch), _signal(job, fields, batch, moves[0].shape[0])
    for cut, _ in _chunks(job, batch, fields[0].device, out.shape[0]):
        xs, ts = [cut(x) for x in fields], [cut(t) for t in moves]
        columns, moved = _pushed(job, xs, rule.at, ts)
        forward(job.physics, job.table, columns, moved, cut(out), cut(y))
    return y, out if rule.lead else out[0]


def _leading(rule: Rule, xs: Sequence[Tensor]) -> list[Tensor]:
    return list(xs) if rule.lead else [x.unsqueeze(0) for x in xs]


def _signal(
    job: Job, fields: Sequence[Tensor], batch: tuple[int, ...], *lead: int
) -> Tensor:
    """Return memory for a signal: (re, im) of neighbouring lanes adjoin."""
    sizes = *lead, job.table.reads, *batch
    return empty(fields[0], sizes, fields[0].dtype.to_complex())


def _pull(rule: Rule, fields: Sequence[Tensor], cotangents: Sequence[Tensor]) -> Any:
    job, to = rule.job, rule.to
    bars = cotangents[0].resolve_conj().resolve_neg()
    bars = bars if rule.lead else bars[None]
    batch = _batch(job, fields, [bars])
    bars = bars.expand(*bars.shape[:2], *batch)
    sums = _Pieces(len(to))
    wanted = [job.names[k] for k in to]
    for cut, axis in _chunks(job, batch, fields[0].device, bars.shape[0]):
        xs = [cut(x) for x in fields]
        if job.physics.own:
            columns = _columns(job, xs)
            made = backward(job.physics, job.table, columns, cut(bars), wanted)
            grads = [_own_of(job, k, xs[k], made, bars.shape[0]) for k in to]
        else:
            grads = _pulled_back(rule, xs, cut(bars))
        sums.add([fields[k] for k in to], grads, axis)
    found = sums.whole()
    return tuple(found if rule.lead else (g[0] for g in found))


def _own_of(job: Job, k: int, x: Tensor, made: dict[str, Tensor], lead: int) -> Tensor:
    name = job.names[k]
    if name not in made:
        return x.new_zeros(lead, *x.shape)
    return made[name] if name in _ROWS else made[name][:, 0]


def _pulled_back(rule: Rule, fields: Sequence[Tensor], bars: Tensor) -> list[Tensor]:
    job, to = rule.job, rule.to

    def columns(*xs: Tensor) -> dict[str, Tensor]:
        return _columns(job, _with(fields, to, xs))

    made, pull, *_ = torch.func.vjp(columns, *(fields[k] for k in to))
    back = backward(job.physics, job.table, _plain(made), bars)
    return list(torch.func.vmap(pull)(back))


def _plain(columns: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n: x.detach() for n, x in columns.items()}


def _both_pull(rule: Rule, fields: Sequence[Tensor], linear: Sequence[Tensor]) -> Any:
    job, at, n = rule.job, rule.at, rule.fields
    moves = _leading(rule, linear[: len(at)])
    *values, bars = (x.resolve_conj().resolve_neg() for x in linear[len(at) :])
    bars = bars if rule.lead else bars[None]
    batch = _batch(job, fields, [*moves, *values, bars])
    bars = bars.expand(*bars.shape[:2], *batch)
    values = [x.expand(x.shape[0], *batch) for x in values]
    sums = _Pieces(len(rule.to))
    like = [fields[k] if k < n else moves[k - n][0] for k in rule.to]
    for cut, axis in _chunks(job, batch, fields[0].device, 2 * bars.shape[0]):
        xs, ts = [cut(x) for x in fields], [cut(t) for t in moves]
        bar, value = cut(bars), cut(values[0]) if values else None
        if job.physics.own:
            names = [job.names[k] for k in rule.to if k < n]
            first, second = backward_of_forward(
                *(job.physics, job.table, *_pushed(job, xs, at, ts)),
                *(bar, value, names, any(k >= n for k in rule.to)),
            )
            first = {name: x[None] for name, x in first.items()}
            grads = [
                _own_of(job, k, xs[k], first, 1)
                if k < n
                else _own_of(job, at[k - n], ts[k - n][0], second, bars.shape[0])
                for k in rule.to
            ]
        else:
            grads = _both_pulled_back(rule, xs, ts, bar, value)
        sums.add(like, grads, axis)
    pairs = zip(rule.to, sums.whole(), strict=True)
    return tuple(g if rule.lead and k >= n else g[0] for k, g in pairs)


def _both_pulled_back(
    rule: Rule,
    fields: Sequence[Tensor],
    moves: Sequence[Tensor],
    bars: Tensor,
    value: Tensor | None,
) -> list[Tensor]:
    job, at, n = rule.job, rule.at, rule.fields
    inputs = [*fields, *moves]

    def columns(*xs: Tensor) -> Any:
        full = _with(inputs, rule.to, xs)
        return _pushed(job, full[:n], at, full[n:])

    (made, moved), pull, *_ = torch.func.vjp(columns, *(inputs[k] for k in rule.to))
    back = backward_of_forward(
        *(job.physics, job.table, _plain(made), _plain(moved), bars, value)
    )
    pairs = zip(rule.to, pull(back), strict=True)
    return [g[None] if k < n else g for k, g in pairs]


_KINDS = {"value": _value, "both": _both, "pull": _pull, "both_pull": _both_pull}


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
    axes = zip(*shapes, strict=True)  # torch.broadcast_shapes takes as long as a spin
    return tuple([next((n for n in sizes if n != 1), 1) for sizes in axes])


def _chunks(job: Job, batch: tuple[int, ...], device: torch.device, copies: int) -> Any:
    """Cut the largest batch axis so that what the kernel is given stays small."""
    if not batch:
        yield (lambda x: x), 0
        return
    numbers, most = 0 if job.physics.own else _given_size(job), _CHUNK
    if device.type != "cpu":  # whose kernels are given sines too
        numbers += job.table.count * (4 + 2 * job.pools.bound)
        most = _CHUNK_ON_GPU
    size = max(batch)
    rest = max(torch.Size(batch).numel() // max(size, 1), 1)
    each = 8 * numbers * (1 + copies) * rest * 6  # intermediates
    step = max(most // each, 64) if each else max(size, 1)
    axis = -len(batch) + batch.index(size)
    for start in range(0, max(size, 1), step):  # one of an empty batch
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
