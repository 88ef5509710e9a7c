"""Everything of a simulation that does not depend on the state, vectorised.

The coefficients of all steps and readings are computed here at once; `mrsim.epg.walk`
then multiplies states by them. A coefficient has shape (step, *batch).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mrsim.epg.plan import OTHER, Knot, Plan

_QUARTER, _FULL = torch.pi / 2, 2 * torch.pi
_SCALARS = ("T1", "T2", "M0", "B1", "df")


class Steps(NamedTuple):
    """Coefficients of the step into each knot after the first, and of the readings."""

    H: Tensor  # P - Q into half its rotated self
    h: Tensor  # ζ into it
    z: Tensor  # ζ into ζ
    d: Tensor  # P - Q into ζ
    half: Tensor  # real plans: signed transverse decay / 2
    re: Tensor  # complex plans: decay / 2, precession and turn of the frame
    im: Tensor
    E1: Tensor
    grown: Tensor  # what Z0 regains, as ζ
    start: Tensor  # (3 or 1, part, order, *batch) P, Q, ζ or ζ at the first knot
    read: Tensor  # (2 · reading, part, *batch) a state's share in Re, Im of the signal


def make_steps(plan: Plan, names: tuple[str, ...], tensors: Sequence[Tensor]) -> Steps:
    """Compute the coefficients of a plan.

    Args:
        plan: the plan.
        names: what each tensor is.
        tensors: (event, *batch) or, for the tissue's fields, (*batch).

    Returns:
        The coefficients.
    """
    x = dict(zip(names, tensors, strict=True))
    x |= {n: v[None] for n, v in x.items() if n in _SCALARS}
    last, knots = plan.knots[:-1], plan.knots[1:]
    like = x["duration"]
    time = _totals([k.rows for k in last], like)
    E1, E2 = torch.exp(-time / x["T1"]), torch.exp(-time / x["T2"])
    grown = 2 * torch.expm1(-time / x["T1"])
    grown = grown * x["M0"] if "M0" in x else grown
    theta = x["flip"][_index([max(k.row, 0) for k in knots], like)]
    theta = theta * x["B1"] if "B1" in x else theta
    c, s = torch.cos(theta), torch.sin(theta)
    apart = _column([k.regrow for k in knots], like) > 0
    fold = torch.where(apart, torch.ones_like(E1), E1)
    scale = _column([1.0 if k.kind == "end" else 0.5 for k in knots], like) * E2
    none = scale[:0]
    if plan.real:
        half = scale * _column([k.sign for k in knots], like)
        H, d, re, im = half * c, -2 * half * s, none, none
    else:
        turns = [a.quadrant - b.quadrant for a, b in zip(last, knots, strict=True)]
        angle = _angle(turns, time, x) + _phase(last, x) - _phase(knots, x)
        re, im = scale * torch.cos(angle), scale * torch.sin(angle)
        H, d, half = c, -2 * s, none
    z = torch.where(
        _column([k.kind == "pulse" for k in knots], like) > 0, c, _kept(knots, x, c)
    )
    return Steps(
        H=H,
        h=0.5 * s * fold,
        z=z * fold,
        d=d,
        half=half,
        re=re,
        im=im,
        E1=E1,
        grown=grown,
        start=_start(plan, x),
        read=_readings(plan, x),
    )


def _kept(knots: Sequence[Knot], x: dict[str, Tensor], like: Tensor) -> Tensor:
    """Return what an inversion or a spoiler leaves of Z."""
    sign = _column([-1.0 if k.kind == "invert" else 1.0 for k in knots], like)
    if "efficiency" not in x:
        return sign
    share = x["efficiency"][_index([max(k.row, 0) for k in knots], like)]
    inverts = _column([k.kind == "invert" for k in knots], like) > 0
    return torch.where(inverts, -share, torch.ones_like(share))


def _totals(groups: Sequence[Sequence[int]], values: Tensor) -> Tensor:
    """Sum rows of ``values`` by group."""
    rows = _index([r for group in groups for r in group], values)
    owner = _index([i for i, group in enumerate(groups) for _ in group], values)
    zeros = torch.zeros_like(values[:1]).expand(len(groups), *values.shape[1:])
    return zeros.index_add(0, owner, values[rows])


def _index(rows: Sequence[int], like: Tensor) -> Tensor:
    return torch.tensor(rows, dtype=torch.long).to(like.device)


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    """Make constants (row,) that broadcast against (row, *batch)."""
    # made on the CPU: on meta, torch.tensor detaches in place, which jvp forbids
    column = torch.tensor(values, dtype=like.dtype).to(like.device)
    return column.reshape(-1, *(1,) * (like.ndim - 1))


def _angle(quarters: Sequence[int], time: Tensor, x: dict[str, Tensor]) -> Tensor:
    angle = _column([q % 4 for q in quarters], time) * _QUARTER
    return angle + _FULL * time * x["df"] if "df" in x else angle


def _phase(knots: Sequence[Knot], x: dict[str, Tensor]) -> Tensor:
    """Return the differentiable phase of each knot's frame."""
    like = x["duration"]
    if "phase" not in x:
        return torch.zeros_like(like[:1])
    known = torch.cat([x["phase"], torch.zeros_like(x["phase"][:1])])
    return known[_index([k.frame % known.shape[0] for k in knots], like)]


def _start(plan: Plan, x: dict[str, Tensor]) -> Tensor:
    batch = torch.broadcast_shapes(*(v.shape[1:] for v in x.values()))
    if "P_re" in x:
        size = len(plan.knots[0].orders)
        parts = [
            torch.stack(
                [x[f"{n}_{c}"][:size].expand(size, *batch) for c in ("re", "im")]
            )
            for n in ("P", "Q", "z")
        ]
        return torch.stack(parts)
    M0 = x["M0"] if "M0" in x else torch.ones_like(x["T1"])
    zeta = (-2 * M0).expand(1, *batch)
    parts = [zeta] if plan.real else [torch.zeros_like(zeta), zeta]
    return torch.stack(parts)[None]


def _readings(plan: Plan, x: dict[str, Tensor]) -> Tensor:
    """Return the decay and phase that each reading gathers since the last pulse."""
    like = x["duration"]
    pairs = [(k, r) for k in plan.knots for r in k.readings]
    time = _totals([r.rows for _, r in pairs], like)
    decay = torch.exp(-time / x["T2"])
    mirror = [r.source == OTHER for _, r in pairs]
    quarters = [k.quadrant - r.receiver for k, r in pairs]
    if plan.real:
        units = [
            _unit(k.part, m, q % 4)
            for (k, _), m, q in zip(pairs, mirror, quarters, strict=True)
        ]
        re, im = (_column([u[i] for u in units], like) * decay for i in (0, 1))
        return torch.cat([re, im])[:, None]
    angle = _angle(quarters, time, x) + _phase([k for k, _ in pairs], x)
    if "demod" in x:
        angle = angle - x["demod"][_index([r.row for _, r in pairs], like)]
    c, s = decay * torch.cos(angle), decay * torch.sin(angle)
    sign = _column([1.0 - 2.0 * m for m in mirror], like)
    return torch.cat([torch.stack([c, -sign * s], 1), torch.stack([s, sign * c], 1)])


def _unit(part: int, mirror: bool, quarter: int) -> tuple[float, float]:
    """Return the complex unit that a real state stands for, as (re, im)."""
    unit = (1, 1j)[part]
    unit = (unit.conjugate() if mirror else unit) * 1j**quarter
    return unit.real, unit.imag
