"""Sums and choices of a program's rows."""

from collections.abc import Mapping, Sequence
from functools import reduce
from operator import add

import torch
from torch import Tensor
from torch.autograd import forward_ad

from mrsim.epg.motion import weighted
from mrsim.epg.plan import Knot

_QUARTER, _FULL = torch.pi / 2, 2 * torch.pi
_FEW = 8  # rows that are summed faster one by one


def left_of(waits: Sequence[Sequence[int]], x: Mapping[str, Tensor]) -> Tensor | None:
    """Return the share of spins that each interval leaves in the slice."""
    if "thickness" not in x or "v" not in x:
        return None
    v = x["v"]
    speed = v.abs() if v.shape[0] == 1 else (v * v).sum(0, keepdim=True).sqrt()
    gone = (x["duration"] * speed / x["thickness"]).clamp(max=1.0)
    rows = [torch.ones_like(gone[:1])[0] for _ in waits]
    for i, wait in enumerate(waits):
        for r in wait:
            rows[i] = rows[i] * (1 - gone[r])
    return torch.stack(rows)


def chosen(values: Tensor, rows: Sequence[int]) -> Tensor:
    """Take rows of (event or 1, …)."""
    return values[index([r % values.shape[0] for r in rows], values)]


def totals(groups: Sequence[Sequence[int]], values: Tensor) -> Tensor:
    """Sum rows of ``values`` by group."""
    if not 0 < sum(map(len, groups)) <= _FEW:
        return weighted([[(r, 1.0) for r in group] for group in groups], values)
    none = () if all(groups) else (torch.zeros_like(values[0]),)
    each = [[values[r] for r in group] or none for group in groups]
    return torch.stack([reduce(add, some) for some in each])


def scaled(x: Tensor, number: float) -> Tensor:
    """Return a tensor times a number."""
    # a number meets dual numbers as a tensor without tangent, which takes long
    if forward_ad._current_level < 0:
        return x * number
    return torch.ops.aten.mul.Scalar(x, number)


def index(rows: Sequence[int], like: Tensor) -> Tensor:
    """Make row numbers a tensor."""
    return torch.tensor(rows, dtype=torch.long).to(like.device)


def column(values: Sequence[float], like: Tensor) -> Tensor:
    """Make constants (row,) that broadcast against (row, *batch)."""
    # made on the CPU: on meta, torch.tensor detaches in place, which jvp forbids
    column = torch.tensor(values, dtype=like.dtype).to(like.device)
    return column.reshape(-1, *(1,) * (like.ndim - 1))


def angle_of(quarters: Sequence[int], time: Tensor, x: Mapping[str, Tensor]) -> Tensor:
    """Return turns in units of 90° and the precession of a time, in rad."""
    angle = column([q % 4 for q in quarters], time) * _QUARTER
    return angle + _FULL * time * x["df"] if "df" in x else angle


def phase_of(knots: Sequence[Knot], x: Mapping[str, Tensor]) -> Tensor:
    """Return the differentiable phase of each knot's frame."""
    like = x["duration"]
    if "phase" not in x:
        return torch.zeros_like(like[:1])
    known = torch.cat([x["phase"], torch.zeros_like(x["phase"][:1])])
    return known[index([k.frame % known.shape[0] for k in knots], like)]
