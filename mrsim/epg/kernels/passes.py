"""The passes of a compiled walk over columns, the numbers it reads.

A column has shape (number, *batch), with 1 for a batch axis where it is not mapped; a
tangent of it (leading, number, *batch). Nothing is expanded: the kernel takes strides.
"""

import importlib
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from mrsim.epg.kernels import call
from mrsim.epg.kernels.call import (
    ANY,
    COTANGENT,
    GRADIENT,
    INPUTS,
    MOST,
    MOVED_GRADIENT,
    MOVED_TOTAL,
    SIGNAL,
    TANGENT,
    TOTAL,
    VALUE,
    Array,
    Physics,
    Variant,
)
from mrsim.epg.kernels.table import Table

Columns = Mapping[str, Tensor]
_MOVES = {  # decay 1, regrowth 2, rotation 4, other 8 (see lanes.hpp)
    "flip": 4,
    "B1": 4,
    "phase": 1,
    "df": 1,
    "duration": 3,
    "T1": 2,
    "T2": 1,
    "efficiency": 8,
}
_WORTH = 200_000  # pulses that are worth a kernel of their own
_ID = {name: i for i, name in enumerate(INPUTS)}


def triton_passes() -> Any:
    """Return the same passes for a GPU."""
    return importlib.import_module("mrsim.epg.kernels.triton_passes")


def forward(
    physics: Physics,
    table: Table,
    columns: Columns,
    moves: Columns,
    out: Tensor,
) -> None:
    """Walk there.

    Args:
        physics: what the kernel is compiled for.
        table: the plan.
        columns: what it reads.
        moves: tangents of some columns; none for the value.
        out: (leading, reading, *batch) complex, gets the signal's tangents, or with a
            leading 1 its value.
    """
    if out.device.type != "cpu":
        triton_passes().forward(physics, table, columns, moves, out)
        return
    read = [Array(_ID[n], VALUE, x) for n, x in columns.items()]
    batch = tuple(out.shape[2:])
    if not moves:
        signal = Array(SIGNAL, VALUE, out, lead=True)
        call.walk(physics, table, [*read, signal], batch)
        return
    masks, moves = _sparse(physics, table, batch, moves)
    for i in range(0, out.shape[0], MOST):
        part = out[i : i + MOST]
        arrays = [*read, *_tangents(moves, i), Array(SIGNAL, TANGENT, part, lead=True)]
        variant = Variant(masks[i : i + MOST])
        call.walk(physics, table, arrays, batch, variant, 0, len(part))


def _sparse(
    physics: Physics, table: Table, batch: tuple[int, ...], moves: Columns
) -> tuple[tuple[int, ...], Columns]:
    """Leave out columns that do not move; say which coefficients each tangent moves."""
    # small problems share one kernel of four tangents that can move everything
    sizes = {len(t) for t in moves.values()}
    (lead,) = sizes
    moving = {n: _moving(t) for n, t in moves.items()}
    left = {n: t for n, t in moves.items() if any(moving[n])}
    if not physics.own or prod(batch) * table.count * lead < _WORTH:
        return (ANY,) * -(-lead // MOST) * MOST, left
    masks = [0] * lead
    for name in left:
        for i, on in enumerate(moving[name]):
            masks[i] |= _MOVES.get(name, 0) * on
    return tuple(masks), left


def _moving(t: Tensor) -> list[bool]:
    """Tell for each tangent whether it differs from zero."""
    for axis in range(1, t.ndim):
        if t.stride(axis) == 0:
            t = t.narrow(axis, 0, min(1, t.shape[axis]))
    return (t != 0).flatten(1).any(1).tolist()


def _tangents(moves: Columns, start: int) -> list[Array]:
    return [
        Array(_ID[n], TANGENT, t[start : start + MOST], lead=True)
        for n, t in moves.items()
    ]


def backward(
    physics: Physics, table: Table, columns: Columns, cotangents: Tensor
) -> dict[str, Tensor]:
    """Walk there and back.

    Args:
        physics: what the kernel is compiled for.
        table: the plan.
        columns: what it reads.
        cotangents: (copy, reading, *batch) complex, of the signal.

    Returns:
        The columns' cotangents, (copy, number, *batch).
    """
    if cotangents.device.type != "cpu":
        return triton_passes().backward(physics, table, columns, cotangents)
    batch, copies = tuple(cotangents.shape[2:]), cotangents.shape[0]
    threads = call.threads(table, prod(batch))
    sums = {n: _Sum(x, copies, threads, batch, moved=False) for n, x in columns.items()}
    arrays = [Array(_ID[n], VALUE, x) for n, x in columns.items()]
    arrays += [s.array(_ID[n]) for n, s in sums.items()]
    arrays.append(Array(COTANGENT, VALUE, cotangents, lead=True))
    call.walk(physics, table, arrays, batch, Variant(back=True), copies)
    return {n: s.total() for n, s in sums.items()}


def backward_of_forward(
    physics: Physics,
    table: Table,
    columns: Columns,
    moves: Columns,
    cotangents: Tensor,
    *,
    wanted: bool = True,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Walk there with tangents, and back.

    Args:
        physics: what the kernel is compiled for.
        table: the plan.
        columns: what it reads.
        moves: tangents of some columns, (leading, number, *batch).
        cotangents: (leading, reading, *batch) complex, of the signal's tangents.
        wanted: the cotangents of the tangents are wanted.

    Returns:
        The cotangents of the columns (number, *batch) and of the tangents.
    """
    if cotangents.device.type != "cpu":
        both = triton_passes().backward_of_forward
        return both(physics, table, columns, moves, cotangents)
    batch = tuple(cotangents.shape[2:])
    threads = call.threads(table, prod(batch))
    masks = (ANY,) * -(-len(cotangents) // MOST) * MOST
    if not wanted:
        masks, moves = _sparse(physics, table, batch, moves)
    first: list[dict[str, Tensor]] = []
    second: list[dict[str, Tensor]] = []
    for i in range(0, cotangents.shape[0], MOST):
        part = cotangents[i : i + MOST]
        count = part.shape[0]
        sums = {n: _Sum(x, 1, threads, batch, moved=False) for n, x in columns.items()}
        more = {
            n: _Sum(t[0], count, threads, batch, moved=True)
            for n, t in moves.items()
            if wanted
        }
        arrays = [Array(_ID[n], VALUE, x) for n, x in columns.items()]
        arrays += _tangents(moves, i)
        arrays += [s.array(_ID[n]) for group in (sums, more) for n, s in group.items()]
        arrays.append(Array(COTANGENT, VALUE, part, lead=True))
        variant = Variant(masks[i : i + MOST], back=True, moved=wanted)
        call.walk(physics, table, arrays, batch, variant, 1, count)
        first.append({n: s.total()[0] for n, s in sums.items()})
        second.append({n: s.total() for n, s in more.items()})
    return (
        {n: _added([f[n] for f in first]) for n in columns},
        {n: torch.cat([s[n] for s in second]) for n in moves if wanted},
    )


def _added(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.stack(list(parts)).sum(0)


class _Sum:
    """Where the cotangents of one column go, summed over axes it is not mapped on."""

    def __init__(
        self, like: Tensor, lead: int, threads: int, batch: tuple[int, ...], moved: bool
    ) -> None:
        self.like = like
        own = tuple(like.shape[1:])
        self.shared = prod(own) == 1 < prod(batch)
        self.axes = tuple(
            i + 2 for i, (a, b) in enumerate(zip(own, batch, strict=True)) if a < b
        )
        self.moved = moved
        if self.shared:
            sizes = (threads, lead, like.shape[0])
            self.made = torch.zeros(sizes, dtype=torch.float64, device="cpu")
        else:
            self.made = like.new_empty(lead, like.shape[0], *batch)

    def array(self, name: int) -> Array:
        if self.shared:
            return Array(name, MOVED_TOTAL if self.moved else TOTAL, self.made)
        role = MOVED_GRADIENT if self.moved else GRADIENT
        return Array(name, role, self.made, lead=True)

    def total(self) -> Tensor:
        if self.shared:
            summed = self.made.sum(0).to(self.like.dtype)
            return summed.reshape(*summed.shape, *(1,) * (self.like.ndim - 1))
        return self.made.sum(self.axes, keepdim=True) if self.axes else self.made
