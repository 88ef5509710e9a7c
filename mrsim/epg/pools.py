"""Pools that exchange: their equilibrium, rate matrices and matrix exponentials.

Free pools come first, then bound pools, then one dipolar order for each bound pool. A
matrix is a nested tuple of entries (1, *batch); ``None`` is a structural zero.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mrsim._check import concrete
from mrsim.tissue import Lineshape

Matrix = tuple[tuple[Tensor | None, ...], ...]
_TERMS = 18  # of the Taylor series: 2e-17 at a norm of 1
_DOUBLINGS = 32  # of the series' argument: rates · time up to 4e9


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
    return x[name][i : i + 1]


def shares(pools: Pools, x: Mapping[str, Tensor]) -> list[Tensor]:
    """Return each pool's share of M0, free pools first."""
    others = [_of(x, "exchange.f", i) for i in range(pools.free - 1)]
    others += [_of(x, "bound.f", i) for i in range(pools.bound)]
    first = torch.ones_like(x["T1"])
    for f in others:
        first = first - f
    return [first, *others]


def equilibrium(pools: Pools, x: Mapping[str, Tensor]) -> Tensor:
    """Return M0 of each pool, and no dipolar order: (pool, *batch)."""
    found = shares(pools, x)
    found += [torch.zeros_like(f) for f in found[pools.free :]] * pools.dipolar
    made = torch.cat(torch.broadcast_tensors(*found))
    return made * x["M0"] if "M0" in x else made


def rates(pools: Pools, x: Mapping[str, Tensor]) -> list[tuple[int, int, Tensor]]:
    """Return (from, to, rate [1/s]) of every exchange, both ways."""
    f = shares(pools, x)
    found = []
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


def longitudinal(pools: Pools, x: Mapping[str, Tensor]) -> Matrix:
    """Return the generator of Z's deviation from equilibrium: relaxation, exchange.

    Args:
        pools: the structure.
        x: the tissue's tensors by name, (1, *batch) or (pool, *batch).

    Returns:
        Rates [1/s], (pool, pool) entries.
    """
    R = [1 / x["T1"]]
    R += [1 / _of(x, "exchange.T1", i) for i in range(pools.free - 1)]
    R += [1 / _of(x, "bound.T1", i) for i in range(pools.bound)]
    made = _generator(R, rates(pools, x))
    if not pools.dipolar:
        return made
    blank = (None,) * pools.bound
    rows = [(*row, *blank) for row in made]
    for i in range(pools.bound):
        row: list[Tensor | None] = [None] * pools.count
        row[pools.free + pools.bound + i] = -1 / _of(x, "bound.T1D", i)
        rows.append(tuple(row))
    return tuple(rows)


def transverse(pools: Pools, x: Mapping[str, Tensor]) -> Matrix:
    """Return the generator of F: relaxation, exchange of free pools, chemical shifts.

    Args:
        pools: the structure.
        x: the tissue's tensors by name, (1, *batch) or (pool, *batch).

    Returns:
        Rates [1/s], (free, free) entries, complex where there are shifts. The tissue's
        own off-resonance is common to all pools and not in here.
    """
    R = [1 / x["T2"]]
    R += [1 / _of(x, "exchange.T2", i) for i in range(pools.free - 1)]
    among = [r for r in rates(pools, x) if max(r[0], r[1]) < pools.free]
    made = _generator(R, among)
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


def _generator(R: Sequence[Tensor], ways: Sequence[tuple[int, int, Tensor]]) -> Matrix:
    n = len(R)
    rows: list[list[Any]] = [[None] * n for _ in range(n)]
    for i in range(n):
        rows[i][i] = -R[i]
    for a, b, k in ways:
        rows[a][a] = rows[a][a] - k
        rows[b][a] = k if rows[b][a] is None else rows[b][a] + k
    return tuple(map(tuple, rows))


def exponential(L: Matrix, time: Tensor) -> Matrix:
    """Return exp(L·t), block by block: scalars and 2x2 in closed form, else a series.

    Args:
        L: a generator, entries (1, *batch).
        time: (any, *batch) times t [s].

    Returns:
        Entries (any, *batch); ``None`` between blocks.
    """
    rows: list[list[Tensor | None]] = [[None] * len(L) for _ in L]
    for block in _blocks(L):
        small = [[_filled(L, i, j) for j in block] for i in block]
        made = _SMALL.get(len(block), _series)(small, time)
        for i, row in zip(block, made, strict=True):
            for j, entry in zip(block, row, strict=True):
                rows[i][j] = entry
    return tuple(map(tuple, rows))


def stacked(U: Matrix) -> Tensor:
    """Return a matrix of (any, *batch) as one tensor (to, from, any, *batch)."""
    some = [entry for row in U for entry in row if entry is not None]
    blank = torch.zeros_like(some[0])
    flat = [blank if entry is None else entry for row in U for entry in row]
    if any(entry.is_complex() for entry in some):
        flat = [entry + 0j for entry in flat]
    return torch.stack(torch.broadcast_tensors(*flat)).unflatten(0, (len(U), len(U)))


def _filled(L: Matrix, i: int, j: int) -> Tensor:
    entry = L[i][j]
    return L[i][i] * 0 if entry is None else entry  # pyright: ignore


def _blocks(L: Matrix) -> list[list[int]]:
    """Group the pools that are coupled."""
    left, found = list(range(len(L))), []
    while left:
        block = [left.pop(0)]
        for i in block:
            near = [j for j in left if L[i][j] is not None or L[j][i] is not None]
            block += near
            left = [j for j in left if j not in near]
        found.append(sorted(block))
    return found


def _scalar(L: list[list[Tensor]], time: Tensor) -> list[list[Tensor]]:
    return [[torch.exp(L[0][0] * time)]]


def _pair(L: list[list[Tensor]], time: Tensor) -> list[list[Tensor]]:
    """Exponentiate 2x2: e^m (cosh δ + (Lt - m) sinh δ/δ), m ± δ the eigenvalues."""
    (a, b), (c, d) = L
    m, h = (a + d) / 2 * time, (a - d) / 2 * time
    b, c = b * time, c * time
    square = h * h + b * c
    near = square.abs() < 0.01
    safe = torch.where(near, torch.ones_like(square), square)
    root = safe.sqrt()
    up, down = torch.exp(m + root), torch.exp(m - root)
    few = torch.where(near, square, torch.zeros_like(square))
    base = torch.exp(torch.where(near, m, torch.zeros_like(m)))
    even = torch.where(near, base * _even(few), (up + down) / 2)
    odd = torch.where(near, base * _odd(few), (up - down) / (2 * root))
    return [[even + odd * h, odd * b], [odd * c, even - odd * h]]


def _even(x: Tensor) -> Tensor:
    """Return cosh √x for small x."""
    y = 1 + x / 56 * (1 + x / 90)
    return 1 + x / 2 * (1 + x / 12 * (1 + x / 30 * y))


def _odd(x: Tensor) -> Tensor:
    """Return sinh √x / √x for small x."""
    y = 1 + x / 72 * (1 + x / 110)
    return 1 + x / 6 * (1 + x / 20 * (1 + x / 42 * y))


def _series(L: list[list[Tensor]], time: Tensor) -> list[list[Tensor]]:
    """Exponentiate by scaling, Taylor series and squaring, the mean rate taken out."""
    n = len(L)
    flat = torch.broadcast_tensors(*(entry * time for row in L for entry in row))
    A = torch.stack(flat).unflatten(0, (n, n))
    mean = sum(A[i, i] for i in range(n)) / n
    eye = torch.eye(n, dtype=A.dtype).to(A.device).reshape(n, n, *(1,) * (A.ndim - 2))
    A = A - eye * mean
    size = A.detach().abs().sum(1).amax(0).clamp(min=1e-30)
    doublings = size.log2().ceil().clamp(min=0)
    most = _DOUBLINGS  # where nothing traces the rates, only as many as there must be
    if concrete(doublings) and doublings.numel():
        most = min(most, int(doublings.nan_to_num(0.0, 0.0, 0.0).max()))
    A = A * torch.exp2(-doublings)
    E = eye + A / _TERMS
    for k in range(_TERMS - 1, 0, -1):
        E = eye + _product(A, E) / k
    # the mean goes back before the squaring, so that nothing overflows
    E = E * torch.exp(mean * torch.exp2(-doublings))
    for k in range(most):
        E = torch.where(doublings > k, _product(E, E), E)
    E = torch.where(doublings > _DOUBLINGS, torch.nan, E)
    return [list(row.unbind(0)) for row in E.unbind(0)]


def _product(A: Tensor, B: Tensor) -> Tensor:
    return (A[:, :, None] * B[None]).sum(1)


_SMALL = {1: _scalar, 2: _pair}
