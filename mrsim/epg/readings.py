"""What each reading gathers between the last operation and itself."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mrsim.epg.apart import at_reading
from mrsim.epg.matrices import exponential
from mrsim.epg.motion import Motion, at_readings, weighted
from mrsim.epg.plan import OTHER, Knot, Plan, Reading
from mrsim.epg.pools import Pools, transverse
from mrsim.epg.rows import angle_of, column, index, left_of, phase_of, totals


def make_readings(
    plan: Plan, pools: Pools, x: Mapping[str, Tensor], moved: Motion, substeps: int
) -> Tensor:
    """Return the decay and phase that each reading gathers since the last pulse."""
    like = x["duration"]
    pairs = [(k, r) for k in plan.knots for r in k.readings]
    groups = [r.rows for _, r in pairs]
    time = totals(groups, like)
    if pools.apart and pairs:
        made = [at_reading(plan, pools, x, r.rows, r.order, substeps) for _, r in pairs]
        re, im = torch.stack(made).real, torch.stack(made).imag
    else:
        re, im = gathered(pools, x, time)
    decay = _weight(plan, pairs, groups, x)
    loss, turn = at_readings(plan, moved, pairs) if pairs else (None, None)
    if loss is not None:
        decay = torch.exp(-loss) if decay is None else decay * torch.exp(-loss)
    if decay is not None:
        re = re * decay[:, None]
        im = None if im is None else im * decay[:, None]
    mirror = [r.source == OTHER for _, r in pairs]
    quarters = [k.quadrant - r.receiver for k, r in pairs]
    if plan.real:
        units = [
            _unit(k.part, m, q % 4)
            for (k, _), m, q in zip(pairs, mirror, quarters, strict=True)
        ]
        parts = [column([u[i] for u in units], like)[:, None] * re for i in (0, 1)]
        return torch.cat(parts)[:, None]
    angle = angle_of(quarters, time, x) + phase_of([k for k, _ in pairs], x)
    if "demod" in x:
        angle = angle - x["demod"][index([r.row for _, r in pairs], like)]
    angle = angle if turn is None else angle - turn
    c, s = torch.cos(angle)[:, None], torch.sin(angle)[:, None]
    if im is None:
        c, s = re * c, re * s
    else:
        c, s = re * c - im * s, re * s + im * c
    sign = column([1.0 - 2.0 * m for m in mirror], like)[:, None]
    return torch.cat([torch.stack([c, -sign * s], 1), torch.stack([s, sign * c], 1)])


def gathered(
    pools: Pools, x: Mapping[str, Tensor], time: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Return what a unit of F in each pool adds to the signal after a time."""
    if pools.count == 1:
        return torch.exp(-time / x["T2"])[:, None], None
    U = exponential(transverse(pools, x), time).sum(0).movedim(1, 0)
    return (U.real, U.imag) if U.is_complex() else (U, None)


def _weight(
    plan: Plan,
    pairs: Sequence[tuple[Knot, Reading]],
    groups: Sequence[Sequence[int]],
    x: Mapping[str, Tensor],
) -> Tensor | None:
    """Return the shares that wash-out and T2′ leave of each reading."""
    left = left_of(groups, x) if pairs else None
    if "T2p" not in x or not pairs:
        return left
    counts = []
    for _, r in pairs:
        moved = r.order + sum(plan.axes.shifts[row] for row in r.rows)
        counts.append(plan.axes.digits(moved)[plan.axes.space :])
    time = weighted(
        [
            [(plan.axes.rows[i], float(n)) for i, n in enumerate(ns) if n]
            for ns in counts
        ],
        x["duration"],
    )
    spread = torch.exp(-time.abs() / x["T2p"])
    return spread if left is None else left * spread


def _unit(part: int, mirror: bool, quarter: int) -> tuple[float, float]:
    """Return the complex unit that a real state stands for, as (re, im)."""
    unit = (1, 1j)[part]
    unit = (unit.conjugate() if mirror else unit) * 1j**quarter
    return unit.real, unit.imag
