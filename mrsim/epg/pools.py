"""Pools that exchange: their equilibrium and the matrices of their rates.

Free pools come first, then bound pools, then one dipolar order for each bound pool.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mrsim.epg.matrices import Matrix, broadcast
from mrsim.tissue import Lineshape

Ways = list[tuple[int, int, Tensor]]  # from, to, rate [1/s]


class Pools(NamedTuple):
    """The structure of a tissue's pools; hashable."""

    free: int = 1
    bound: int = 0
    pairs: tuple[tuple[int, int], ...] = ()  # free pools that exchange
    partners: tuple[int, ...] = ()  # the free pool of each bound one
    directional: tuple[bool, bool] = (True, True)  # free pairs, bound pairs
    dipolar: bool = False
    shifted: bool = False  # chemical shifts
    lineshape: Lineshape = "superlorentzian"
    apart: bool = False  # pools of their own D or v, which do not commute

    @property
    def count(self) -> int:
        """The number of longitudinal components."""
        return self.free + self.bound * (2 if self.dipolar else 1)


SINGLE = Pools()


def _of(x: Mapping[str, Tensor], name: str, i: int) -> Tensor:
    values = x[name]
    return values if values.shape[0] == 1 else values[i : i + 1]


def shares(pools: Pools, x: Mapping[str, Tensor]) -> list[Tensor]:
    """Return each pool's share of M0, free pools first."""
    others = [_of(x, "exchange.f", i) for i in range(pools.free - 1)]
    others += [_of(x, "bound.f", i) for i in range(pools.bound)]
    if not others:
        return [torch.ones_like(x["T1"])]
    first = 1 - others[0]
    for f in others[1:]:
        first = first - f
    return [first, *others]


def equilibrium(
    pools: Pools, x: Mapping[str, Tensor], f: Sequence[Tensor] | None = None
) -> Tensor:
    """Return M0 of each pool, and no dipolar order: (pool, *batch).

    Args:
        pools: the structure.
        x: the tissue's tensors by name, (1, *batch) or (pool, *batch).
        f: what `shares` returns, where it is known.

    Returns:
        The magnetisations.
    """
    found = list(shares(pools, x) if f is None else f)
    found += [torch.zeros_like(f) for f in found[pools.free :]] * pools.dipolar
    made = torch.cat(list(broadcast(found)))
    return made * x["M0"] if "M0" in x else made


def rates(
    pools: Pools, x: Mapping[str, Tensor], f: Sequence[Tensor] | None = None
) -> Ways:
    """Return (from, to, rate [1/s]) of every exchange, both ways; f as `shares`."""
    f = shares(pools, x) if f is None else f
    found: Ways = []
    ways = [(a, b, "exchange.k", i) for i, (a, b) in enumerate(pools.pairs)]
    first = pools.free
    ways += [(a, first + i, "bound.k", i) for i, a in enumerate(pools.partners)]
    for a, b, name, i in ways:
        k = _of(x, name, i)
        if pools.directional[name == "bound.k"]:
            there, back = k, k * f[a] / f[b]
        else:
            there, back = k * f[b], k * f[a]
        found += [(a, b, there), (b, a, back)]
    return found


def generators(
    pools: Pools, x: Mapping[str, Tensor], f: Sequence[Tensor]
) -> tuple[Matrix, Matrix]:
    """Return the generators of F and Z, see `transverse`, `longitudinal`, `shares`."""
    ways = rates(pools, x, f)
    return transverse(pools, x, ways), longitudinal(pools, x, ways)


def longitudinal(
    pools: Pools, x: Mapping[str, Tensor], ways: Ways | None = None
) -> Matrix:
    """Return the generator of Z's deviation from equilibrium: relaxation, exchange.

    Args:
        pools: the structure.
        x: the tissue's tensors by name, (1, *batch) or (pool, *batch).
        ways: what `rates` returns, where it is known.

    Returns:
        Rates [1/s], (pool, pool) entries.
    """
    times = [x["T1"]]
    times += [_of(x, "exchange.T1", i) for i in range(pools.free - 1)]
    times += [_of(x, "bound.T1", i) for i in range(pools.bound)]
    ways = rates(pools, x) if ways is None else ways
    made = _generator([T.reciprocal() for T in times], ways)
    if not pools.dipolar:
        return made
    blank = (None,) * pools.bound
    rows = [(*row, *blank) for row in made]
    for i in range(pools.bound):
        row: list[Tensor | None] = [None] * pools.count
        row[pools.free + pools.bound + i] = -_of(x, "bound.T1D", i).reciprocal()
        rows.append(tuple(row))
    return tuple(rows)


def transverse(
    pools: Pools, x: Mapping[str, Tensor], ways: Ways | None = None
) -> Matrix:
    """Return the generator of F: relaxation, exchange of free pools, chemical shifts.

    Args:
        pools: the structure.
        x: the tissue's tensors by name, (1, *batch) or (pool, *batch).
        ways: what `rates` returns, where it is known.

    Returns:
        Rates [1/s], (free, free) entries, complex where there are shifts. The tissue's
        own off-resonance is common to all pools and not in here.
    """
    times = [x["T2"], *(_of(x, "exchange.T2", i) for i in range(pools.free - 1))]
    ways = rates(pools, x) if ways is None else ways
    among = [r for r in ways if max(r[0], r[1]) < pools.free]
    made = _generator([T.reciprocal() for T in times], among)
    if not pools.shifted:
        return made
    rows = [list(row) for row in made]
    for i in range(1, pools.free):
        turn = 2 * math.pi * _of(x, "exchange.df", i - 1)
        own = rows[i][i]
        rows[i][i] = turn * 1j if own is None else torch.complex(*_alike(own, turn))
    return tuple(map(tuple, rows))


def _alike(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    a, b = torch.broadcast_tensors(a, b)
    return a, b


def _generator(R: Sequence[Tensor], ways: Ways) -> Matrix:
    n = len(R)
    gone = list(R)
    rows: list[list[Any]] = [[None] * n for _ in range(n)]
    for a, b, k in ways:
        gone[a] = gone[a] + k
        rows[b][a] = k if rows[b][a] is None else rows[b][a] + k
    for i in range(n):
        rows[i][i] = -gone[i]
    return tuple(map(tuple, rows))
