"""The passes of `mrsim.epg.kernels.passes` on a GPU, by Triton.

What depends on no state, some coefficients of each knot, kind of wait and reading, is
worked out here by torch, whose derivatives join those of the walk.
"""

import importlib
from collections.abc import Callable, Collection
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mrsim.epg.kernels.call import Physics
from mrsim.epg.kernels.table import Table
from mrsim.epg.kernels.triton_coefs import (
    Columns,
    Form,
    Key,
    Numbers,
    coefficients,
    form_of,
    numbers_of,
    raw_bar,
    signal,
    weight_bar,
    weights,
)

_BLOCK = 128  # lanes of a program, one for each thread
_SCRATCH = 2**29  # bytes of states of all programs
Given = tuple[Tensor, Tensor, Tensor]  # of knots, of waits, the start


def obstacle(device: torch.device) -> str:
    """Return why Triton cannot run a simulation; empty if it can.

    Args:
        device: where the tensors are.

    Returns:
        The reason.
    """
    if device.type != "cuda":
        return f"there is no kernel for {device.type}"
    if find_spec("triton") is None:
        return "triton is not installed"
    return ""


# ---------------------------------------------------------------------------- the walk


class _Job(NamedTuple):
    """What all passes of one call share."""

    physics: Physics
    table: Table
    integers: Numbers
    names: tuple[str, ...]

    def given(self, *values: Tensor) -> tuple[Tensor, ...]:
        columns = dict(zip(self.names, values, strict=True))
        made = coefficients(self.physics, self.integers, columns)
        return *made, *weights(self.physics, self.integers, columns)


def _job(physics: Physics, table: Table, columns: Columns) -> _Job:
    integers = numbers_of(Key(table, columns["relax"].device))
    return _Job(physics, table, integers, tuple(columns))


def _kernels() -> Any:
    # imported when one runs: triton is no dependency
    return importlib.import_module("mrsim.epg.kernels.triton_walk")


def _launch(
    kernel: str,
    job: _Job,
    form: Form,
    given: Given,
    moved: Given | None,
    ways: int,
    made: tuple[Tensor, ...],
) -> None:
    integers, table, (K, W, start) = job.integers, job.table, given
    dK, dW, dstart = moved or given
    knots, lanes = len(integers.knots), start.shape[-1]
    if not lanes or not knots:
        return
    f, z = (
        (1 + form.tangents) * form.parts * n * _BLOCK for n in (form.free, form.pools)
    )
    each, stored = table.places * f + table.orders * z, ()
    if kernel == "there_and_back":
        each, stored = 2 * each + integers.stored * (2 * f + z), (integers.stored,)
    room = _SCRATCH // (each * start.element_size() * ways)
    workers = min(-(-lanes // _BLOCK), max(1, room))
    with torch.cuda.device_of(K):  # a kernel runs where the process is
        getattr(_kernels(), kernel)[workers, ways](
            *(integers.knots, integers.clears, integers.places, K, dK, W, dW),
            *(start, dstart, start.new_empty(workers * ways * each), *made),
            *(knots, integers.waits, lanes, table.places, table.orders),
            *(len(integers.places), _BLOCK, 0, *stored),
            form=form,
            num_warps=max(1, _BLOCK // 32),
            enable_fp_fusion=True,
        )


def _there(
    job: _Job, given: Given, moved: Given | None = None
) -> tuple[Tensor, Tensor]:
    """Return raw (reading, part, pool, lane), and tangents with one more axis first."""
    form = form_of(job.physics, int(moved is not None), _BLOCK)
    like, ways = given[2], moved[2].shape[0] if moved else 1
    sizes = len(job.integers.places), form.parts, form.free, like.shape[-1]
    raw = like.new_zeros(sizes)
    draw = like.new_zeros(ways, *sizes) if moved else raw
    _launch("there", job, form, given, moved, ways, (raw, draw))
    return raw, draw


def _there_and_back(
    job: _Job, given: Given, bar: Tensor, moved: Given | None = None
) -> tuple[Tensor, Tensor, Given]:
    """Return raw, its tangents, and the cotangents of what is given.

    `bar` is (way, 1 or 2, reading, part, pool, lane), of raw and of its tangent; so are
    those of what is given, (way, 1 or 2, …).
    """
    form = form_of(job.physics, int(moved is not None), _BLOCK)
    raw = torch.zeros_like(bar[0, 0])
    draw = torch.zeros_like(bar[:, 0]) if moved else raw
    K, W, start = (x.new_zeros(*bar.shape[:2], *x.shape) for x in given)
    made = raw, draw, bar, K, W, start
    _launch("there_and_back", job, form, given, moved, len(bar), made)
    return raw, draw, (K, W, start)


# -------------------------------------------------------------------------- the passes


def _flat(xs: tuple[Tensor, ...], lead: int, batch: torch.Size) -> Given:
    """Return what a kernel reads, (…, lane) of one batch axis."""
    sizes = [x.shape[: lead + n] for x, n in zip(xs[:3], (2, 2, 1), strict=True)]
    K, W, start = (
        x.expand(*size, *batch).reshape(*size, -1).contiguous()
        for x, size in zip(xs, sizes, strict=False)
    )
    return K, W, start


def _along(job: _Job, columns: Columns, moves: Columns) -> Callable[..., Any]:
    """Return the function of tangents of the moved columns: those of `given`."""
    held = list(columns.values())
    at = [list(columns).index(n) for n in moves]
    sizes = [
        torch.broadcast_shapes(held[k].shape, t.shape[1:])
        for k, t in zip(at, moves.values(), strict=True)
    ]

    def given(*xs: Tensor) -> tuple[Tensor, ...]:
        now = list(held)
        for k, x in zip(at, xs, strict=True):
            now[k] = x
        return job.given(*now)

    def all_of(*ts: Tensor) -> tuple[Tensor, ...]:
        # jvp wants equal shapes, and no strides of 0
        full = [
            t.expand(len(t), *n).contiguous() for t, n in zip(ts, sizes, strict=True)
        ]
        return torch.func.vmap(lambda *t: torch.func.jvp(given, primals, t)[1])(*full)

    pairs = zip(at, sizes, strict=True)
    primals = tuple(held[k].expand(n).contiguous() for k, n in pairs)
    return all_of


def _wide(x: Tensor, batch: torch.Size) -> Tensor:
    return x.reshape(*x.shape[:-1], *batch)


def forward(
    physics: Physics,
    table: Table,
    columns: Columns,
    moves: Columns,
    out: Tensor | None,
    value: Tensor | None = None,
) -> None:
    """Walk there; see `mrsim.epg.kernels.passes.forward`.

    Args:
        physics: what the walk must do.
        table: the plan.
        columns: what it reads, all coefficients given.
        moves: tangents of some columns; none for the value.
        out: (leading, reading, *batch) complex, gets the signal's tangents.
        value: (reading, *batch) complex, gets the signal.
    """
    like = value if out is None else out[0]
    assert like is not None  # noqa: S101
    job, batch = _job(physics, table, columns), like.shape[1:]
    *given, re, im = job.given(*columns.values())
    flat, w = _flat(tuple(given), 0, batch), (re, im)
    if out is None:
        raw = _wide(_there(job, flat)[0], batch)
    else:
        tangents = _along(job, columns, moves)(*moves.values())
        both = _there(job, flat, _flat(tangents, 1, batch))
        raw, draw = (_wide(x, batch) for x in both)
        for k in range(len(out)):
            dw = tangents[3][k], tangents[4][k]
            kept, more = signal(w, draw[k]), signal(dw, raw)
            out[k] = torch.complex(kept[0] + more[0], kept[1] + more[1])
    if value is not None:
        value.copy_(torch.complex(*signal(w, raw)))


def _like(x: Tensor, like: Tensor) -> Tensor:
    """Sum over the batch axes along which ``like`` has one entry."""
    axes = [i for i, n in enumerate(like.shape) if n < x.shape[i]]
    return x.sum(axes, keepdim=True) if axes else x


def backward(
    physics: Physics,
    table: Table,
    columns: Columns,
    cotangents: Tensor,
    wanted: Collection[str] | None = None,
) -> dict[str, Tensor]:
    """Walk there and back; see `mrsim.epg.kernels.passes.backward`.

    Args:
        physics: what the walk must do.
        table: the plan.
        columns: what it reads.
        cotangents: (copy, reading, *batch) complex.
        wanted: the columns whose cotangents are; all by default.

    Returns:
        The columns' cotangents, (copy, number, *batch).
    """
    job, batch = _job(physics, table, columns), cotangents.shape[2:]
    made, pull, *_ = torch.func.vjp(job.given, *columns.values())
    *given, re, im = (x.detach() for x in made)
    bars = torch.stack([raw_bar(physics.parts, (re, im), y) for y in cotangents])
    flat = _flat(tuple(given), 0, batch)
    raw, _, found = _there_and_back(
        job, flat, bars.reshape(*bars.shape[:4], -1)[:, None]
    )
    raw = _wide(raw, batch)
    back = []
    for k, bar in enumerate(cotangents):
        all_bars = *(_wide(x[k, 0], batch) for x in found), *weight_bar(raw, bar)
        back.append([_like(x, y) for x, y in zip(all_bars, made, strict=True)])
    stacked = tuple(torch.stack(x) for x in zip(*back, strict=True))
    pairs = zip(columns, torch.func.vmap(pull)(stacked), strict=True)
    return {n: x for n, x in pairs if wanted is None or n in wanted}


def backward_of_forward(
    physics: Physics,
    table: Table,
    columns: Columns,
    moves: Columns,
    cotangents: Tensor,
    value: Tensor | None = None,
    wanted: Collection[str] | None = None,
    moved: bool = True,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Walk there with tangents, and back; see `mrsim.epg.kernels.passes`.

    Args:
        physics: what the walk must do.
        table: the plan.
        columns: what it reads.
        moves: tangents of some columns, (leading, number, *batch).
        cotangents: (leading, reading, *batch) complex, of the signal's tangents.
        value: (reading, *batch) complex, of the signal; zero by default.
        wanted: the columns whose cotangents are; all by default.
        moved: the cotangents of the tangents are wanted.

    Returns:
        The cotangents of the columns (number, *batch) and of the tangents.
    """
    job, batch = _job(physics, table, columns), cotangents.shape[2:]
    n = len(columns)

    def both(*xs: Tensor) -> Any:
        now = dict(zip(columns, xs[:n], strict=True))
        turned = dict(zip(moves, xs[n:], strict=True))
        return job.given(*xs[:n]), _along(job, now, turned)(*xs[n:])

    (made, turns), pull, *_ = torch.func.vjp(both, *columns.values(), *moves.values())
    first, second = ([x.detach() for x in xs] for xs in (made, turns))
    bars = _bars(physics.parts, first[3:], second[3:], cotangents, value)
    raw, draw, found = _there_and_back(
        *(job, _flat(tuple(first), 0, batch), bars.reshape(*bars.shape[:5], -1)),
        _flat(tuple(second), 1, batch),
    )
    raw, draw = _wide(raw, batch), _wide(draw, batch)
    late = [weight_bar(raw, bar) for bar in cotangents]
    early = [weight_bar(draw[k], bar) for k, bar in enumerate(cotangents)]
    early += [weight_bar(raw, value)] if value is not None else []
    back = (
        *(_wide(x[:, 0].sum(0), batch) for x in found),
        *(torch.stack(x).sum(0) for x in zip(*early, strict=True)),
    )
    back_of_moves = (
        *(_wide(x[:, 1], batch) for x in found),
        *(torch.stack(x) for x in zip(*late, strict=True)),
    )
    grads = pull(
        (
            tuple(_like(x, y) for x, y in zip(back, made, strict=True)),
            tuple(_like(x, y) for x, y in zip(back_of_moves, turns, strict=True)),
        )
    )
    pairs = zip(columns, grads[:n], strict=True)
    own = {name: x for name, x in pairs if wanted is None or name in wanted}
    return own, dict(zip(moves, grads[n:], strict=True)) if moved else {}


def _bars(
    parts: int, w: Any, dw: Any, cotangents: Tensor, value: Tensor | None
) -> Tensor:
    """Return the bars of raw and of its tangents, (way, 2, …)."""
    # the signal's tangent is w·draw + dw·raw
    made = []
    for k, bar in enumerate(cotangents):
        first = raw_bar(parts, (dw[0][k], dw[1][k]), bar)
        if value is not None and not k:
            first = first + raw_bar(parts, w, value)
        second = raw_bar(parts, w, bar)
        made.append(torch.stack(torch.broadcast_tensors(first, second)))
    return torch.stack(made)
