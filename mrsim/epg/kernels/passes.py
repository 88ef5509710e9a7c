"""The passes of a compiled walk over columns, the numbers it reads.

A column has shape (number, *batch), with 1 for a batch axis where it is not mapped; a
tangent of it (leading, number, *batch). Nothing is expanded: the kernel takes strides.
"""

import importlib
from collections.abc import Collection, Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

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
    "demod": 8,
    "M0": 0,  # scales the signal alone
}
_WORTH = 200_000  # pulses that are worth a kernel of their own
_ID = {name: i for i, name in enumerate(INPUTS)}


def triton_passes() -> Any:
    """Return the same passes for a GPU."""
    return importlib.import_module("mrsim.epg.kernels.triton_passes")


def _on_gpu(like: Tensor) -> bool:
    return like.device.type != "cpu"


def forward(
    physics: Physics,
    table: Table,
    columns: Columns,
    moves: Columns,
    out: Tensor | None,
    value: Tensor | None = None,
) -> None:
    """Walk there.

    Args:
        physics: what the kernel is compiled for.
        table: the plan.
        columns: what it reads.
        moves: tangents of some columns; none for the value.
        out: (leading, reading, *batch) complex, gets the signal's tangents.
        value: (reading, *batch) complex, gets the signal.
    """
    like = value if out is None else out[0]
    assert like is not None  # noqa: S101
    if _on_gpu(like):
        triton_passes().forward(physics, table, columns, moves, out, value)
        return
    batch = tuple(like.shape[1:])
    arrays = [Array(_ID[n], VALUE, x) for n, x in columns.items()]
    first = [] if value is None else [Array(SIGNAL, VALUE, value)]
    if out is None:
        call.walk(physics, table, arrays + first, batch)
        return
    plan = _planned(physics, table, batch, moves)
    arrays += [Array(_ID[n], TANGENT, t, lead=True) for n, t in plan.moves.items()]
    arrays.append(Array(SIGNAL, TANGENT, out, lead=True))
    for masks, ways, late in plan.walks:
        variant = Variant(masks)
        call.walk(physics, table, arrays + first, batch, variant, 0, ways, late)
        first = []


class _Plan(NamedTuple):
    """How tangents are shared out to walks."""

    moves: Columns  # that are not zero
    walks: list[tuple[tuple[int, ...], tuple[int, ...], int]]  # masks, ways, late


def _planned(
    physics: Physics, table: Table, batch: tuple[int, ...], moves: Columns
) -> _Plan:
    """Leave out columns that do not move; see which coefficients each tangent moves."""
    (lead,) = {t.shape[0] for t in moves.values()}
    # small problems share one kernel of four tangents that can move everything
    if not physics.own or prod(batch) * table.count * lead < _WORTH:
        return _Plan(moves, _shared_out([ANY] * lead, [], MOST))
    moving = {n: _moving(t) for n, t in moves.items()}
    left = {n: t for n, t in moves.items() if any(moving[n])}
    masks, late = [0] * lead, [False] * lead
    for name in left:
        for i, on in enumerate(moving[name]):
            masks[i] |= _MOVES[name] * on
            late[i] |= on and name == "M0"
    alone = [i for i in range(lead) if late[i] and not masks[i]]
    return _Plan(left, _shared_out(masks, alone, 1))


def _shared_out(
    masks: Sequence[int], late: Sequence[int], least: int
) -> list[tuple[tuple[int, ...], tuple[int, ...], int]]:
    """Give each walk a few of the tangents, and the first one those of M0 alone."""
    ways = [i for i in range(len(masks)) if i not in late]
    walks = []
    for start in range(0, max(len(ways), 1), MOST):
        part = ways[start : start + MOST]
        more = list(late) if start == 0 else []
        wide = (ANY,) * (least - len(part)) if part else ()
        chosen = *(masks[i] for i in part), *wide
        walks.append((chosen, (*part, *more), len(more)))
    return walks


def _moving(t: Tensor) -> list[bool]:
    """Tell for each tangent whether it differs from zero."""
    for axis in range(1, t.ndim):
        if t.stride(axis) == 0:
            t = t.narrow(axis, 0, min(1, t.shape[axis]))
    return (t != 0).flatten(1).any(1).tolist()


def backward(
    physics: Physics,
    table: Table,
    columns: Columns,
    cotangents: Tensor,
    wanted: Collection[str] | None = None,
) -> dict[str, Tensor]:
    """Walk there and back.

    Args:
        physics: what the kernel is compiled for.
        table: the plan.
        columns: what it reads.
        cotangents: (copy, reading, *batch) complex, of the signal.
        wanted: the columns whose cotangents are; all by default.

    Returns:
        The columns' cotangents, (copy, number, *batch).
    """
    if _on_gpu(cotangents):
        return triton_passes().backward(physics, table, columns, cotangents, wanted)
    batch, copies = tuple(cotangents.shape[2:]), cotangents.shape[0]
    asked = {n: x for n, x in columns.items() if wanted is None or n in wanted}
    sums = _Sums(table, asked, batch, copies)
    arrays = [Array(_ID[n], VALUE, x) for n, x in columns.items()]
    arrays += sums.arrays(GRADIENT, TOTAL)
    arrays.append(Array(COTANGENT, VALUE, cotangents, lead=True))
    call.walk(physics, table, arrays, batch, Variant(back=True), copies)
    return sums.totals()


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
    """Walk there with tangents, and back.

    Args:
        physics: what the kernel is compiled for.
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
    if _on_gpu(cotangents):
        return triton_passes().backward_of_forward(
            physics, table, columns, moves, cotangents, value, wanted, moved
        )
    batch, lead = tuple(cotangents.shape[2:]), cotangents.shape[0]
    if moved:
        plan = _Plan(moves, _shared_out([ANY] * lead, [], MOST))
    else:
        plan = _planned(physics, table, batch, moves)
    asked = {n: x for n, x in columns.items() if wanted is None or n in wanted}
    ask_moved = {n: t[0] for n, t in moves.items()} if moved else {}
    arrays = [Array(_ID[n], VALUE, x) for n, x in columns.items()]
    arrays += [Array(_ID[n], TANGENT, t, lead=True) for n, t in plan.moves.items()]
    arrays.append(Array(COTANGENT, TANGENT, cotangents, lead=True))
    second = _Sums(table, ask_moved, batch, lead)
    arrays += second.arrays(MOVED_GRADIENT, MOVED_TOTAL)
    parts: list[dict[str, Tensor]] = []
    first = [] if value is None else [Array(COTANGENT, VALUE, value)]
    for masks, ways, late in plan.walks:
        sums = _Sums(table, asked, batch, 1)
        here = arrays + first + sums.arrays(GRADIENT, TOTAL)
        call.walk(physics, table, here, batch, Variant(masks, back=True), 1, ways, late)
        first = []
        parts.append({n: x[0] for n, x in sums.totals().items()})
    return {n: _added([p[n] for p in parts]) for n in asked}, second.totals()


def _added(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.stack(list(parts)).sum(0)


class _Sums:
    """Where cotangents of columns go, summed over axes they are not mapped on."""

    def __init__(
        self, table: Table, columns: Columns, batch: tuple[int, ...], lead: int
    ) -> None:
        self.columns, self.batch = columns, batch
        lanes = prod(batch)
        # one number for each row: sums of all lanes, thread by thread
        self.shared = {
            n: x.shape[0] for n, x in columns.items() if prod(x.shape[1:]) == 1 < lanes
        }
        sizes = call.threads(table, lanes), lead, sum(self.shared.values())
        self.sums = torch.zeros(sizes, dtype=torch.float64, device="cpu")
        self.made = {
            n: call.empty(x, (lead, x.shape[0], *batch), x.dtype)
            for n, x in columns.items()
            if n not in self.shared
        }

    def arrays(self, each: int, total: int) -> list[Array]:
        made = [Array(_ID[n], each, x, lead=True) for n, x in self.made.items()]
        if self.shared:
            parts = self.sums.split(list(self.shared.values()), 2)
            pairs = zip(self.shared, parts, strict=True)
            made += [Array(_ID[n], total, x) for n, x in pairs]
        return made

    def totals(self) -> dict[str, Tensor]:
        found = {n: self._own(x, self.columns[n]) for n, x in self.made.items()}
        if not self.shared:
            return found
        like = next(iter(self.columns.values()))
        whole = (self.sums[0] if len(self.sums) == 1 else self.sums.sum(0)).to(like)
        parts = whole.split(list(self.shared.values()), 1)
        for n, x in zip(self.shared, parts, strict=True):
            found[n] = x.reshape(*x.shape, *(1,) * len(self.batch))
        return {n: found[n] for n in self.columns}

    def _own(self, x: Tensor, like: Tensor) -> Tensor:
        own = like.shape[1:]
        axes = [i + 2 for i, n in enumerate(own) if n != self.batch[i]]
        return x.sum(axes, keepdim=True) if axes else x
