"""Pools of their own diffusivity or velocity, which exchange while they dephase.

The generator L - diag(D_p k² + i v_p·k) changes with the wave vector k. Where k is
constant its exponential is exact; where a gradient winds k up, each of
``program.substeps`` parts of the wait takes one fourth-order Magnus step (Blanes 2009,
eq. 256, Gauss points), with an error of order substeps⁻⁴.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mrsim.epg.labels import Axes
from mrsim.epg.matrices import Matrix, exponential, stacked
from mrsim.epg.motion import units
from mrsim.epg.plan import Plan
from mrsim.epg.pools import Pools, longitudinal, transverse

_GAUSS = 3**0.5 / 6


def carriers(
    plan: Plan, pools: Pools, x: Mapping[str, Tensor], substeps: int
) -> tuple[Tensor, ...]:
    """Return what carries P, Q and ζ into every knot after the first.

    Args:
        plan: the plan.
        pools: the structure of the pools.
        x: the tensors by name.
        substeps: parts of a wait whose gradient is on.

    Returns:
        For each knot three tensors (part, to, from, order, *batch): re and im.
    """
    F, Z = transverse(pools, x), longitudinal(pools, x)
    found: list[Tensor] = []
    for last, knot in zip(plan.knots[:-1], plan.knots[1:], strict=True):
        moved = sum(plan.axes.shifts[r] for r in last.rows)
        p = [order - moved for order in knot.orders]
        q = [-order - moved for order in knot.orders]
        z = list(knot.orders)
        P = _carried(plan, pools, x, F, last.rows, p, substeps)
        Q = _carried(plan, pools, x, F, last.rows, q, substeps)
        zeta = _carried(plan, pools, x, Z, last.rows, z, 0)
        # a lazy conj() has no batching rule
        found += [
            torch.stack(parts) for parts in (_parts(P), _parts(Q, -1), _parts(zeta))
        ]
    return tuple(found)


def _parts(U: Tensor, sign: int = 1) -> list[Tensor]:
    return [U.real, sign * U.imag]


def at_reading(
    plan: Plan,
    pools: Pools,
    x: Mapping[str, Tensor],
    rows: Sequence[int],
    order: int,
    substeps: int,
) -> Tensor:
    """Return what F of each pool adds to a reading: (pool, *batch), complex.

    Args:
        plan: the plan.
        pools: the structure of the pools.
        x: the tensors by name.
        rows: the waits from the last operation to the reading.
        order: the state's signed order after that operation.
        substeps: parts of a wait whose gradient is on.

    Returns:
        Complex shares.
    """
    U = _carried(plan, pools, x, transverse(pools, x), rows, [order], substeps)
    return U[:, :, 0].sum(0)


def _carried(
    plan: Plan,
    pools: Pools,
    x: Mapping[str, Tensor],
    L: Matrix,
    rows: Sequence[int],
    orders: list[int],
    substeps: int,
) -> Tensor:
    """Carry states of given orders over some waits; Z (substeps 0) keeps its order."""
    like = x["duration"]
    U = torch.eye(len(L), dtype=like.dtype.to_complex()).to(like.device)
    U = U.reshape(len(L), len(L), 1, *(1,) * (like.ndim - 1))
    for r in rows:
        s = plan.axes.shifts[r] if substeps else 0
        steps = substeps if s else 1
        time = x["duration"][r] / steps
        start, own = _wave(plan.axes, x, r, orders), _wave(plan.axes, x, r, [s])
        for j in range(steps):
            shares = [(j + 0.5 + c) / steps for c in ((-_GAUSS, _GAUSS) if s else (0,))]
            A = [
                _generator(
                    pools, x, L, [k + c * g for k, g in zip(start, own, strict=True)]
                )
                for c in shares
            ]
            U = _times(_magnus(A, time), U)
        orders = [order + s for order in orders]
    return U


def _wave(
    axes: Axes, x: Mapping[str, Tensor], row: int, orders: Sequence[int]
) -> list[Tensor]:
    """Return the components of the wave vectors of some orders: (order, *batch)."""
    found: dict[int, Tensor] = {}
    for i, unit in enumerate(units(axes, x)):
        n = [float(axes.digits(order)[i]) for order in orders]
        for c, moment in unit.items():
            k = moment[row % moment.shape[0]]
            count = torch.tensor(n, dtype=k.dtype).to(k.device)
            part = count.reshape(-1, *(1,) * k.ndim) * k
            found[c] = found[c] + part if c in found else part
    return list(found.values())


def _generator(
    pools: Pools, x: Mapping[str, Tensor], L: Matrix, wave: list[Tensor]
) -> Tensor:
    """Return L - diag(D k² + i v·k): (pool, pool, order, *batch), complex."""
    blank = torch.complex(wave[0], wave[0]) * 0
    entries: list[list[Any]] = [
        [None if e is None else blank + e for e in row] for row in L
    ]
    for p in range(len(L)):
        q = p if p < pools.free else 0  # bound pools move with the tissue's own
        if "exchange.D" in x:
            entries[p][p] = entries[p][p] - x["exchange.D"][q] * _square(wave)
        if "exchange.v" in x:
            entries[p][p] = entries[p][p] - 1j * x["exchange.v"][q] * wave[0]
    return stacked(entries)


def _square(wave: list[Tensor]) -> Tensor:
    total = wave[0] * wave[0]
    for k in wave[1:]:
        total = total + k * k
    return total


def _magnus(A: list[Tensor], time: Tensor) -> Tensor:
    """Return exp of one step's Magnus expansion of order 4 (one A: constant)."""
    omega = A[0] * time
    if len(A) == 2:
        swapped = _times(A[0], A[1]) - _times(A[1], A[0])
        omega = (A[0] + A[1]) / 2 * time - _GAUSS / 2 * time * time * swapped
    entries = tuple(tuple(row.unbind(0)) for row in omega.unbind(0))
    return exponential(entries, torch.ones_like(omega[0, 0].real))


def _times(A: Tensor, B: Tensor) -> Tensor:
    return (A[:, :, None] * B[None]).sum(1)
