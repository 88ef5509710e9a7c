"""Coefficients that the kernel is given, of one interval or reading of each kind.

Where pools exchange, or something diffuses or flows, the physics of the waits is worked
out here, once for each kind of wait; the kernel does the rest.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mrsim.epg.kernels.table import Table
from mrsim.epg.motion import at_readings, coefficients, motion
from mrsim.epg.plan import Plan
from mrsim.epg.pools import (
    Pools,
    equilibrium,
    exponential,
    longitudinal,
    stacked,
    transverse,
)
from mrsim.epg.readings import gathered
from mrsim.epg.rows import left_of, totals
from mrsim.epg.steps import lifted, saturated

_FULL = 2 * torch.pi


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
    waits, reads = table.kinds[: table.intervals], table.kinds[table.intervals :]
    moved = motion(plan, x)
    made = _relaxed(pools, x, waits) | _read(plan, table, pools, x, reads)
    loss, turn = coefficients(plan, moved, x["duration"])
    if len(loss):
        made["loss"] = loss.flatten(0, 1)
    if len(turn):
        made["turn"] = turn.flatten(0, 1)
    for name, value in saturated(pools, plan.knots[1:], x).items():
        made[name] = value.flatten(0, 1)
    rest = equilibrium(pools, x) if pools.count > 1 else _size(x)
    return made | {"start": -2 * rest}


def _size(x: dict[str, Tensor]) -> Tensor:
    return x["M0"] if "M0" in x else torch.ones_like(x["T1"])


def _relaxed(
    pools: Pools, x: dict[str, Tensor], waits: Sequence[tuple[int, ...]]
) -> dict[str, Tensor]:
    time, left = totals(waits, x["duration"]), left_of(waits, x)
    made = {"angle": _FULL * time * x["df"]} if "df" in x else {}
    if pools.count == 1:
        relax, carry = torch.exp(-time / x["T1"]), torch.exp(-time / x["T2"])
        lost = torch.expm1(-time / x["T1"])
        if left is not None:
            relax, carry = relax * left, carry * left
            lost = lost * left + (left - 1)
        return made | {"relax": relax, "carry": carry, "grown": 2 * lost * _size(x)}
    carry = stacked(exponential(transverse(pools, x), time)).movedim(2, 0)
    relax = stacked(exponential(longitudinal(pools, x), time)).movedim(2, 0)
    if left is not None:
        carry, relax = carry * left[:, None, None], relax * left[:, None, None]
    rest = equilibrium(pools, x)
    made |= {
        "relax": relax.flatten(0, 2),
        "grown": 2 * ((relax * rest).sum(2) - rest).flatten(0, 1),
    }
    carry = carry.flatten(0, 2)
    if carry.is_complex():
        return made | {"carry": carry.real, "carry_im": carry.imag}
    return made | {"carry": carry}


def _read(
    plan: Plan,
    table: Table,
    pools: Pools,
    x: dict[str, Tensor],
    reads: Sequence[tuple[int, ...]],
) -> dict[str, Tensor]:
    if not reads:
        return {}
    time, left = totals(reads, x["duration"]), left_of(reads, x)
    re, im = gathered(pools, x, time)
    pairs = [(k, r) for k in plan.knots for r in k.readings]
    loss, turn = at_readings(plan, motion(plan, x), [pairs[i] for i in table.samples])
    decay = left
    if loss is not None:
        decay = torch.exp(-loss) if decay is None else decay * torch.exp(-loss)
    if decay is not None:
        re = re * decay[:, None]
        im = None if im is None else im * decay[:, None]
    made = {"read": re.flatten(0, 1)}
    if im is not None:
        made["read_im"] = im.flatten(0, 1)
    angle = _FULL * time * x["df"] if "df" in x else None
    if turn is not None:
        angle = -turn if angle is None else angle - turn
    return made if angle is None else made | {"read_angle": angle}
