"""The passes of `mrsim.epg.kernels.passes` on a GPU, by Triton.

What depends on no state, six numbers for each knot and a weight for each reading, is
worked out here by torch, whose derivatives join those of the walk.
"""

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mrsim.epg.kernels.call import Physics
from mrsim.epg.kernels.table import Table
from mrsim.epg.kernels.triton_coefs import (
    Columns,
    Key,
    Numbers,
    coefficients,
    numbers_of,
    raw_bar,
    signal,
    weight_bar,
    weights,
)

_BLOCK = 128  # lanes of a program
_SCRATCH = 2**29  # bytes of states of all programs


def obstacle(physics: Physics, device: torch.device) -> str:
    """Return why Triton cannot run a simulation; empty if it can.

    Args:
        physics: what the kernel must do.
        device: where the tensors are.

    Returns:
        The reason.
    """
    if device.type not in ("cuda", "cpu"):
        return f"there is no kernel for {device.type}"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if physics.pools > 1 or physics.motion:
        return "pools, diffusion and flow run on the torch path on a GPU"
    return ""


# ---------------------------------------------------------------------------- the walk


def _kernels() -> Any:
    # imported when one runs: triton is no dependency
    return importlib.import_module("mrsim.epg.kernels.triton_walk")


def _launch(
    kernel: Any,
    parts: int,
    integers: Numbers,
    given: tuple[Tensor, Tensor],
    moved: tuple[Tensor, Tensor] | None,
    each: int,
    ways: int,
    made: tuple[Tensor, ...],
    *sizes: int,
) -> None:
    """Run a kernel; `each` is what the states of one lane need."""
    C, start = given
    dC, dstart = moved or given
    knots, lanes = len(integers.knots), C.shape[-1]
    if not lanes or not knots:
        return
    size = each * _BLOCK * C.element_size()
    workers = min(-(-lanes // _BLOCK), max(1, _SCRATCH // (size * ways)))
    scratch = C.new_empty(workers * ways * each * _BLOCK)
    kernel[workers, ways](
        *(integers.knots, integers.clears, integers.places, C, dC, start, dstart),
        *(scratch, *made, knots, lanes, *sizes),
        PARTS=parts,
        T=int(moved is not None),
        BLOCK=_BLOCK,
    )


def _flat(x: Tensor, lead: int, batch: torch.Size) -> Tensor:
    return x.expand(*x.shape[:lead], *batch).reshape(*x.shape[:lead], -1).contiguous()


def _there(
    parts: int,
    integers: Numbers,
    places: int,
    C: Tensor,
    start: Tensor,
    moved: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return raw (reading, part, lane), and its tangents with one more axis first."""
    lanes, tangents = C.shape[-1], moved is not None
    ways = moved[0].shape[0] if moved else 1
    readings, slots = len(integers.places), integers.slots * parts * (1 + tangents)
    raw = C.new_zeros(readings, parts, lanes)
    draw = C.new_zeros(ways, readings, parts, lanes) if moved else raw
    _launch(
        *(_kernels().there, parts, integers, (C, start), moved, slots, ways),
        *((raw, draw), places, slots, readings),
    )
    return raw, draw


def _there_and_back(
    parts: int,
    integers: Numbers,
    places: int,
    C: Tensor,
    start: Tensor,
    bar: Tensor,
    moved: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return raw, its tangents, and cotangents (way, 1 or 2, …) of C and start."""
    lanes, tangents, ways = C.shape[-1], moved is not None, bar.shape[0]
    readings, slots = len(integers.places), integers.slots * parts * (1 + tangents)
    each = 2 * slots + 3 * integers.stored * parts * (1 + tangents)
    raw = C.new_zeros(readings, parts, lanes)
    draw = C.new_zeros(ways, readings, parts, lanes)
    C_bar = C.new_zeros(ways, 1 + tangents, *C.shape)
    start_bar = C.new_zeros(ways, 1 + tangents, lanes)
    _launch(
        *(_kernels().there_and_back, parts, integers, (C, start), moved, each, ways),
        *((raw, draw, bar, C_bar, start_bar), places, slots, readings),
        integers.stored,
    )
    return raw, draw, C_bar, start_bar


# -------------------------------------------------------------------------- the passes


class _Job(NamedTuple):
    """What all passes of one call share."""

    parts: int
    integers: Numbers
    places: int
    intervals: int
    names: tuple[str, ...]

    def given(self, *values: Tensor) -> tuple[Tensor, ...]:
        columns = dict(zip(self.names, values, strict=True))
        C, start = coefficients(self.parts, self.integers, columns)
        return C, start, *weights(self.parts, self.integers, columns, self.intervals)


def _job(physics: Physics, table: Table, columns: Columns) -> _Job:
    like = columns["relax"]
    integers = numbers_of(Key(table, like.device))
    names = tuple(columns)
    return _Job(physics.parts, integers, table.places, table.intervals, names)


def _along(job: _Job, columns: Columns, moves: Columns) -> Callable[..., Any]:
    """Return the function of one tangent of each moved column: that of `given`."""
    held = list(columns.values())
    at = [list(columns).index(n) for n in moves]

    def given(*xs: Tensor) -> tuple[Tensor, ...]:
        now = list(held)
        for k, x in zip(at, xs, strict=True):
            now[k] = x
        return job.given(*now)

    primals = tuple(held[k].contiguous() for k in at)
    return lambda *ts: torch.func.jvp(given, primals, ts)[1]


def forward(
    physics: Physics, table: Table, columns: Columns, moves: Columns, out: Tensor
) -> None:
    """Walk there; see `mrsim.epg.kernels.passes.forward`.

    Args:
        physics: what the walk must do.
        table: the plan.
        columns: what it reads, all coefficients given.
        moves: tangents of some columns; none for the value.
        out: (leading, reading, *batch) complex.
    """
    job, batch = _job(physics, table, columns), out.shape[2:]
    C, start, *w = job.given(*columns.values())
    flat = _flat(C, 2, batch), _flat(start, 1, batch)[0]
    parts, shape = job.parts, (-1, job.parts, *batch)
    if not moves:
        raw, _ = _there(parts, job.integers, job.places, *flat)
        out[0] = torch.complex(*signal(parts, (w[0], w[1]), raw.reshape(shape)))
        return
    tangents = torch.func.vmap(_along(job, columns, moves))(*moves.values())
    dC, dstart, *dw = tangents
    moved = _flat(dC, 3, batch), _flat(dstart, 2, batch)[:, 0].contiguous()
    raw, draw = _there(parts, job.integers, job.places, *flat, moved)
    raw, draw = raw.reshape(shape), draw.reshape(len(draw), *shape)
    for k in range(len(draw)):
        kept = signal(parts, (w[0], w[1]), draw[k])
        more = signal(parts, (dw[0][k], dw[1][k]), raw)
        out[k] = torch.complex(kept[0] + more[0], kept[1] + more[1])


def _like(x: Tensor, like: Tensor, lead: int = 0) -> Tensor:
    """Sum over the batch axes along which ``like`` has one entry."""
    axes = [lead + i for i, n in enumerate(like.shape) if n < x.shape[lead + i]]
    return x.sum(axes, keepdim=True) if axes else x


def backward(
    physics: Physics, table: Table, columns: Columns, cotangents: Tensor
) -> dict[str, Tensor]:
    """Walk there and back; see `mrsim.epg.kernels.passes.backward`.

    Args:
        physics: what the walk must do.
        table: the plan.
        columns: what it reads.
        cotangents: (copy, reading, *batch) complex.

    Returns:
        The columns' cotangents, (copy, number, *batch).
    """
    job, batch = _job(physics, table, columns), cotangents.shape[2:]
    parts, shape = job.parts, (-1, job.parts, *batch)
    made, pull, *_ = torch.func.vjp(job.given, *columns.values())
    C, start, *w = (x.detach() for x in made)
    bars = torch.stack([raw_bar(parts, (w[0], w[1]), bar) for bar in cotangents])
    raw, _, C_bar, start_bar = _there_and_back(
        *(parts, job.integers, job.places, _flat(C, 2, batch)),
        *(_flat(start, 1, batch)[0], _flat(bars, 3, batch)),
    )
    raw, back = raw.reshape(shape), []
    for k, bar in enumerate(cotangents):
        whole = C_bar[k, 0].reshape(*C.shape[:2], *batch)
        first = start_bar[k, 0].reshape(1, *batch)
        w_bars = weight_bar(parts, raw, bar)
        back.append(
            [_like(x, y) for x, y in zip((whole, first, *w_bars), made, strict=True)]
        )
    stacked = tuple(torch.stack(x) for x in zip(*back, strict=True))
    found = torch.func.vmap(pull)(stacked)
    return dict(zip(columns, found, strict=True))


def backward_of_forward(
    physics: Physics,
    table: Table,
    columns: Columns,
    moves: Columns,
    cotangents: Tensor,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Walk there with tangents, and back; see `mrsim.epg.kernels.passes`.

    Args:
        physics: what the walk must do.
        table: the plan.
        columns: what it reads.
        moves: tangents of some columns, (leading, number, *batch).
        cotangents: (leading, reading, *batch) complex, of the signal's tangents.

    Returns:
        The cotangents of the columns (number, *batch) and of the tangents.
    """
    job, batch = _job(physics, table, columns), cotangents.shape[2:]
    parts, n, ways = job.parts, len(columns), len(cotangents)
    shape = -1, parts, *batch

    def both(*xs: Tensor) -> Any:
        now = dict(zip(columns, xs[:n], strict=True))
        turned = dict(zip(moves, xs[n:], strict=True))
        return job.given(*xs[:n]), torch.func.vmap(_along(job, now, turned))(*xs[n:])

    (made, moved), pull, *_ = torch.func.vjp(both, *columns.values(), *moves.values())
    C, start, *w = (x.detach() for x in made)
    dC, dstart, *dw = (x.detach() for x in moved)
    bars = torch.stack([raw_bar(parts, (w[0], w[1]), bar) for bar in cotangents])
    raw, draw, C_bar, start_bar = _there_and_back(
        *(parts, job.integers, job.places, _flat(C, 2, batch)),
        *(_flat(start, 1, batch)[0], _flat(bars, 3, batch)),
        (_flat(dC, 3, batch), _flat(dstart, 2, batch)[:, 0].contiguous()),
    )
    # the signal's tangent is w·draw + dw·raw: raw too has a cotangent, by dw
    late = torch.stack(
        [raw_bar(parts, (dw[0][k], dw[1][k]), cotangents[k]) for k in range(ways)]
    )
    _, _, more, more_start = _there_and_back(
        *(parts, job.integers, job.places, _flat(C, 2, batch)),
        *(_flat(start, 1, batch)[0], _flat(late, 3, batch)),
    )
    raw, draw = raw.reshape(shape), draw.reshape(ways, *shape)
    w_bars = [weight_bar(parts, draw[k], bar) for k, bar in enumerate(cotangents)]
    dw_bars = [weight_bar(parts, raw, bar) for bar in cotangents]
    first = (
        (C_bar[:, 0] + more[:, 0]).sum(0).reshape(*C.shape[:2], *batch),
        (start_bar[:, 0] + more_start[:, 0]).sum(0).reshape(1, *batch),
        *(torch.stack(x).sum(0) for x in zip(*w_bars, strict=True)),
    )
    second = (
        C_bar[:, 1].reshape(ways, *C.shape[:2], *batch),
        start_bar[:, 1].reshape(ways, 1, *batch),
        *(torch.stack(x) for x in zip(*dw_bars, strict=True)),
    )
    found = pull(
        (
            tuple(_like(x, y) for x, y in zip(first, made, strict=True)),
            tuple(_like(x, y) for x, y in zip(second, moved, strict=True)),
        )
    )
    pairs = dict(zip(columns, found, strict=False))
    return pairs, dict(zip(moves, found[n:], strict=True))
