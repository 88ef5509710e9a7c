"""Coefficients that the kernel is given, of one interval or reading of each kind.

Where pools exchange, or something diffuses or flows, the physics of the waits is worked
out here, once for each kind of wait; the kernel does the rest.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mrsim import _levels
from mrsim.epg.kernels.table import Table
from mrsim.epg.matrices import exponentials
from mrsim.epg.motion import at_readings, coefficients, motion
from mrsim.epg.plan import Plan
from mrsim.epg.pools import Pools, equilibrium, generators, shares
from mrsim.epg.rows import left_of, scaled, totals
from mrsim.epg.steps import lifted, saturated

_FULL = 2 * torch.pi
_UNREAD = ("flip", "phase", "demod", "efficiency")  # here
_Carried = tuple[dict[str, Tensor], tuple[Tensor, Tensor | None]]


def given(
    plan: Plan,
    table: Table,
    pools: Pools,
    names: tuple[str, ...],
    tensors: Sequence[Tensor],
) -> dict[str, Tensor]:
    """Return what the kernel needs beside the fields it reads itself.

    Args:
        plan: the plan.
        table: the same as a table.
        pools: the structure of the pools.
        names: what each tensor is.
        tensors: (event, *batch), (pool, *batch) or, for a voxel's fields, (*batch).

    Returns:
        Name → (number, *batch), the numbers of each kind in a row.
    """
    x = lifted(dict(zip(names, tensors, strict=True)))
    time, left = totals(table.kinds, x["duration"]), left_of(table.kinds, x)
    carried = _single if pools.count == 1 else _pooled
    made, (re, im) = carried(pools, x, time, left, table.intervals)
    moved = motion(plan, x)
    pairs = [(k, r) for k in plan.knots for r in k.readings]
    loss, turn = at_readings(plan, moved, [pairs[i] for i in table.samples])
    if loss is not None:
        fading = torch.exp(-loss)[:, None]
        re, im = re * fading, None if im is None else im * fading
    if table.reads:
        made["read"] = re.flatten(0, 1)
    if table.reads and im is not None:
        made["read_im"] = im.flatten(0, 1)
    made |= _angles(x, time, turn, table.intervals)
    loss, turn = coefficients(plan, moved, x["duration"])
    if len(loss):
        made["loss"] = loss.flatten(0, 1)
    if len(turn):
        made["turn"] = turn.flatten(0, 1)
    for name, value in saturated(pools, plan.knots[1:], x).items():
        made[name] = value.flatten(0, 1)
    return made


def given_along(
    plan: Plan,
    table: Table,
    pools: Pools,
    names: tuple[str, ...],
    tensors: Sequence[Tensor],
    moves: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return what `given` does, and its derivatives along tangents.

    Args:
        plan: the plan.
        table: the same as a table.
        pools: the structure of the pools.
        names: what each tensor is.
        tensors: as in `given`.
        moves: (tangent, …) of some of them.

    Returns:
        Name → (number, *batch), and → (tangent, number, *batch).
    """
    # a last batch axis for the tangents is cheaper than a vmap, and a field without a
    # tangent is a constant to jvp, which takes long wherever it meets the others
    read = {n: x for n, x in zip(names, tensors, strict=True) if n not in _UNREAD}
    lead = len(next(iter(moves.values())))
    starts = [x.unsqueeze(-1).contiguous() for x in read.values()]
    ends = [torch.zeros_like(x) for x in starts]
    for i, n in enumerate(read):
        if n in moves:
            ends[i], starts[i] = map(
                torch.Tensor.contiguous,  # jvp wants no stride of 0
                torch.broadcast_tensors(moves[n].movedim(0, -1), starts[i]),
            )
    found: list[str] = []

    def columns(*xs: Tensor) -> list[Tensor]:
        made = given(plan, table, pools, tuple(read), xs)
        found[:] = made
        return list(made.values())

    values, pushed = _levels.jvp(columns, starts, ends, alone=True)
    first = (x.select(-1, 0).contiguous() for x in values)
    wide = (x if lead == 1 else x.expand(*x.shape[:-1], lead) for x in pushed)
    last = (x.movedim(-1, 0) for x in wide)
    return dict(zip(found, first, strict=True)), dict(zip(found, last, strict=True))


def _angles(
    x: dict[str, Tensor], time: Tensor, turn: Tensor | None, waits: int
) -> dict[str, Tensor]:
    made, angle = {}, None if turn is None else -turn
    if "df" in x:
        turned = scaled(time * x["df"], _FULL)
        made["angle"] = turned[:waits]
        angle = turned[waits:] if angle is None else turned[waits:] + angle
    return made if angle is None else made | {"read_angle": angle}


def _single(
    _: Pools, x: dict[str, Tensor], time: Tensor, left: Tensor | None, waits: int
) -> _Carried:
    """Return what relaxation does over waits, and to readings: re and im."""
    size = x["M0"] if "M0" in x else torch.ones_like(x["T1"])
    carry, gone = torch.exp(-time / x["T2"]), -time[:waits] / x["T1"]
    relax, lost = torch.exp(gone), torch.expm1(gone)
    if left is not None:
        stay = left[:waits]
        carry, relax = carry * left, relax * stay
        lost = lost * stay + (stay - 1)
    made = {"relax": relax, "carry": carry[:waits], "grown": 2 * lost * size}
    return made | {"start": -2 * size}, (carry[waits:, None], None)


def _pooled(
    pools: Pools, x: dict[str, Tensor], time: Tensor, left: Tensor | None, waits: int
) -> _Carried:
    """Return the same where pools exchange: matrices."""
    f = shares(pools, x)
    F, Z = generators(pools, x, f)
    carry, relax = exponentials((F, time), (Z, time[:waits]))
    if left is not None:
        carry, relax = carry * left, relax * left[:waits]
    rest = equilibrium(pools, x, f)
    grown = (relax * rest[:, None]).sum(1) - rest[:, None]
    made = {
        "relax": _listed(relax),
        "grown": scaled(grown.movedim(1, 0).flatten(0, 1), 2.0),
        "start": scaled(rest, -2.0),
    }
    read = carry[:, :, waits:].sum(0).movedim(1, 0)
    carry = _listed(carry[:, :, :waits])
    if carry.is_complex():
        made |= {"carry": carry.real, "carry_im": carry.imag}
        return made, (read.real, read.imag)
    return made | {"carry": carry}, (read, None)


def _listed(matrices: Tensor) -> Tensor:
    """Return matrices (to, from, any, *batch) one after the other."""
    return matrices.movedim(2, 0).flatten(0, 2)
