"""Diffusion and flow: what they take from a state depends on its wave vector.

Over a wait in which the wave vector goes from k0 to k1 = k0 + g, F loses
exp(-t (k0·D k0 + k0·D g + g·D g/3)) and turns by exp(-i t v·(k0 + g/2)); Z, of constant
k, loses exp(-t k·D k) and turns by exp(-i t v·k) (Weigel 2015, eqs. 28–30, with signed
k). For a state of final order n both exponents are polynomials in n, whose coefficients
are sums over the rows of an interval.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from mrsim.epg.labels import Axes
from mrsim.epg.plan import Knot, Orders, Plan, Reading

Wait = tuple[int, tuple[int, ...], tuple[int, ...]]  # row, orders to come, its own
Weights = list[list[tuple[int, float]]]  # of rows, for each sum


def weighted(groups: Weights, values: Tensor) -> Tensor:
    """Sum rows of ``values`` (event or 1, *batch) with weights, group by group."""
    pairs = [(i, r, w) for i, group in enumerate(groups) for r, w in group]
    owner = _index([i for i, _, _ in pairs], values)
    rows = _index([r % values.shape[0] for _, r, _ in pairs], values)
    share = torch.tensor([w for _, _, w in pairs], dtype=values.dtype)
    share = share.to(values.device).reshape(-1, *(1,) * (values.ndim - 1))
    zeros = torch.zeros_like(values[:1]).expand(len(groups), *values.shape[1:])
    return zeros.index_add(0, owner, values[rows] * share)


def _index(rows: Sequence[int], like: Tensor) -> Tensor:
    return torch.tensor(rows, dtype=torch.long).to(like.device)


class Motion(NamedTuple):
    """What each row's wait adds to the exponents, for each unit of the axes."""

    loss: dict[tuple[int, int], Tensor]  # (event, *batch) of axes i ≤ j
    turn: dict[int, Tensor]  # (event, *batch) of axis i


def motion(plan: Plan, x: Mapping[str, Tensor]) -> Motion:
    """Return what diffusion and flow do in every row; empty where there is none.

    Args:
        plan: the plan.
        x: the tensors by name.

    Returns:
        Both, by axes.
    """
    if "moment" not in x:
        return Motion({}, {})
    return Motion(_losses(plan, x), _turns(plan, x))


def _losses(plan: Plan, x: Mapping[str, Tensor]) -> dict[tuple[int, int], Tensor]:
    """Return t·(wave vectors of axes i ≤ j)·D for each row: (event, *batch)."""
    if "D" not in x:
        return {}
    unit, D = units(plan.axes, x), x["D"]
    scalar = D.ndim == x["T1"].ndim
    found = {}
    for i, j in product(range(plan.axes.space), repeat=2):
        if i > j:
            continue
        terms = [
            unit[i][c]
            * unit[j][d]
            * (D if scalar else (D[c : c + 1, d] + D[d : d + 1, c]) / 2)
            for c in unit[i]
            for d in unit[j]
            if not scalar or c == d
        ]
        if terms:
            found[i, j] = x["duration"] * _sum(terms)
    return found


def _turns(plan: Plan, x: Mapping[str, Tensor]) -> dict[int, Tensor]:
    """Return t·(wave vector of axis i)·v for each row: (event, *batch)."""
    if "v" not in x:
        return {}
    v = x["v"]
    scalar = v.shape[0] == 1
    return {
        i: x["duration"]
        * _sum([k * (v if scalar else v[c : c + 1]) for c, k in unit.items()])
        for i, unit in enumerate(units(plan.axes, x))
    }


def units(axes: Axes, x: Mapping[str, Tensor]) -> list[dict[int, Tensor]]:
    """Return, for each axis of orders, the components of one unit's wave vector."""
    moment = x["moment"]
    vector = moment.ndim == x["duration"].ndim + 1
    parts = list(moment.unbind(1)) if vector else [moment]
    if axes.space == 1:
        return [dict(enumerate(parts))]
    parts = parts if vector else parts * 3
    return [{i: part} for i, part in enumerate(parts)]


def _sum(terms: Iterable[Tensor]) -> Tensor:
    first, *rest = terms
    for term in rest:
        first = first + term
    return first


def coefficients(plan: Plan, moved: Motion, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the polynomials of every kind of interval.

    Args:
        plan: the plan.
        moved: what each row adds.
        like: (event, *batch) any tensor, for what is empty.

    Returns:
        Loss (kind, 1 + axes + axes², *batch) and turn (kind, 1 + axes, *batch):
        constant, linear and quadratic coefficients; empty where there is none.
    """
    waits = [_waits(plan.axes, plan.knots[j].rows) for j in plan.firsts]
    none = like[:0]
    return (
        _losses_of(waits, moved.loss, plan.axes.space) if moved.loss else none,
        _turns_of(waits, moved.turn) if moved.turn else none,
    )


def _losses_of(
    waits: list[list[Wait]], loss: dict[tuple[int, int], Tensor], space: int
) -> Tensor:
    blank = torch.zeros_like(next(iter(loss.values()))[:1])
    const, lin = [blank], [[blank] for _ in range(space)]
    for (i, j), q in loss.items():
        const.append(weighted([[_constant(i, j, w) for w in ws] for ws in waits], q))
        for a, b in ((i, j), (j, i)):
            share = 0.5 if i == j else 1.0
            slope = [[(r, share * (s[b] - 2 * c[b])) for r, c, s in w] for w in waits]
            lin[a].append(weighted(slope, q))
    whole = [[(r, 1.0) for r, _, _ in w] for w in waits]
    quad = []
    for i, j in product(range(space), repeat=2):
        q = loss.get((min(i, j), max(i, j)))
        quad.append(blank if q is None else weighted(whole, q))
    parts = [_sum(const), *map(_sum, lin), *quad]
    return torch.stack(torch.broadcast_tensors(*parts), 1)


def _constant(i: int, j: int, wait: Wait) -> tuple[int, float]:
    row, c, s = wait
    return row, _form(i, j, tuple(-k for k in c), s)


def _form(i: int, j: int, k: Sequence[int], s: Sequence[int]) -> float:
    """Return what one row adds to the loss, for each unit of axes i and j."""
    both = 1.0 if i == j else 2.0
    return both * (k[i] * k[j] + (k[i] * s[j] + k[j] * s[i]) / 2 + s[i] * s[j] / 3)


def _turns_of(waits: list[list[Wait]], turn: dict[int, Tensor]) -> Tensor:
    const = [
        weighted([[(r, s[i] / 2 - c[i]) for r, c, s in w] for w in waits], u)
        for i, u in turn.items()
    ]
    whole = [[(r, 1.0) for r, _, _ in w] for w in waits]
    lin = [weighted(whole, u) for u in turn.values()]
    return torch.stack(torch.broadcast_tensors(_sum(const), *lin), 1)


def _waits(axes: Axes, rows: Sequence[int]) -> list[Wait]:
    """Return of each row: orders still to come when it starts, and its own shift."""
    left = sum(axes.shifts[r] for r in rows)
    found = []
    for r in rows:
        found.append((r, axes.digits(left), axes.digits(axes.shifts[r])))
        left -= axes.shifts[r]
    return found


def at_readings(
    plan: Plan, moved: Motion, found: Sequence[tuple[Knot, Reading]]
) -> tuple[Tensor | None, Tensor | None]:
    """Return the exponents of loss and turn that each reading gathers.

    Args:
        plan: the plan.
        moved: what each row adds.
        found: the readings.

    Returns:
        (reading, *batch) each; ``None`` where there is none.
    """
    starts = []
    for _, reading in found:
        k, waits = reading.order, []
        for r in reading.rows:
            s = plan.axes.shifts[r]
            waits.append((r, plan.axes.digits(k), plan.axes.digits(s)))
            k += s
        starts.append(waits)
    loss = [
        weighted([[(r, _form(i, j, k, s)) for r, k, s in w] for w in starts], q)
        for (i, j), q in moved.loss.items()
    ]
    turn = [
        weighted([[(r, k[i] + s[i] / 2) for r, k, s in w] for w in starts], u)
        for i, u in moved.turn.items()
    ]
    return (_sum(loss) if loss else None), (_sum(turn) if turn else None)


def features(
    axes: Axes, orders: Orders, which: str, degree: int, dtype: torch.dtype
) -> Tensor:
    """Return the monomials of every order of a window: (order, coefficient).

    Args:
        axes: what an order means.
        orders: the window.
        which: "p" for P_k, "q" for Q_k = conj F_-k, "z" for Z_k.
        degree: 2 for losses, 1 for turns.
        dtype: floating type.

    Returns:
        A constant tensor on the CPU.
    """
    rows = _monomials(axes, orders, which, degree)
    return torch.tensor(rows, dtype=dtype, device="cpu")


@lru_cache(maxsize=4096)
def _monomials(
    axes: Axes, orders: Orders, which: str, degree: int
) -> tuple[tuple[float, ...], ...]:
    rows = []
    for order in orders:
        n = axes.digits(order)[: axes.space]
        odd = {"p": 1.0, "q": -1.0, "z": 0.0 if degree == 2 else 1.0}[which]
        row = [0.0 if which == "z" else 1.0, *(odd * i for i in n)]
        row += [float(i * j) for i in n for j in n] if degree == 2 else []
        rows.append(tuple(row))
    return tuple(rows)
