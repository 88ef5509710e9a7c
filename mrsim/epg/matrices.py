"""Exponentials of small matrices of rates.

A matrix is a nested tuple of entries (1 or any, *batch); ``None`` is a structural zero.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mrsim import _remat
from mrsim._check import concrete

Matrix = tuple[tuple[Tensor | None, ...], ...]
_TERMS = 18  # of the Taylor series: 2e-17 at a norm of 1
_DOUBLINGS = 32  # of the series' argument: rates · time up to 4e9
_NEAR = 0.01  # δ² up to which cosh δ and sinh δ/δ are series


def exponential(L: Matrix, time: Tensor) -> Tensor:
    """Return exp(L·t), block by block: scalars and 2x2 in closed form, else a series.

    Args:
        L: a generator, entries (1, *batch).
        time: (any, *batch) times t [s].

    Returns:
        (to, from, any, *batch).
    """
    return exponentials((L, time))[0]


def exponentials(*given: tuple[Matrix, Tensor]) -> list[Tensor]:
    """Return exp(L·t) of several generators; blocks of one size are found at once.

    Args:
        *given: generators and times, see `exponential`.

    Returns:
        (to, from, any, *batch) of each.
    """
    alike: dict[tuple[int, torch.dtype], list[tuple[int, list[int], Tensor]]] = {}
    for i, (L, time) in enumerate(given):
        for block in _blocks(L):
            A = stacked([[_filled(L, a, b) for b in block] for a in block]) * time
            alike.setdefault((len(block), A.dtype), []).append((i, block, A))
    found: list[list[tuple[list[int], Tensor]]] = [[] for _ in given]
    for (size, _), parts in alike.items():
        matrices = [A for _, _, A in parts]
        made = _SMALL.get(size, _series)(_joined(matrices))
        split = made.split([A.shape[2] for A in matrices], 2)
        for (i, block, _), U in zip(parts, split, strict=True):
            found[i].append((block, U))
    return [_whole(len(L), blocks) for (L, _), blocks in zip(given, found, strict=True)]


def stacked(rows: Sequence[Sequence[Tensor | None]]) -> Tensor:
    """Return a matrix of (any, *batch) as one tensor (to, from, any, *batch)."""
    some = [entry for row in rows for entry in row if entry is not None]
    if len(some) < len(rows) ** 2:
        blank = torch.zeros_like(some[0])
        some = [blank if entry is None else entry for row in rows for entry in row]
    if len({entry.dtype for entry in some}) > 1:
        some = [entry + 0j for entry in some]
    made = torch.stack(broadcast(some))
    return made.reshape(len(rows), len(rows), *made.shape[1:])


def broadcast(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """Return tensors at their common shape."""
    if all(x.shape == tensors[0].shape for x in tensors):
        return tensors  # no work, which dual numbers would do twice
    return torch.broadcast_tensors(*tensors)


def _joined(matrices: Sequence[Tensor]) -> Tensor:
    if len({A.shape[3:] for A in matrices}) == 1:
        return torch.cat(list(matrices), 2) if len(matrices) > 1 else matrices[0]
    batch = torch.broadcast_shapes(*(A.shape[3:] for A in matrices))
    return torch.cat([A.expand(*A.shape[:3], *batch) for A in matrices], 2)


def _whole(size: int, blocks: Sequence[tuple[list[int], Tensor]]) -> Tensor:
    if len(blocks) == 1:
        return blocks[0][1]
    rows: list[list[Tensor | None]] = [[None] * size for _ in range(size)]
    for block, U in blocks:
        for i, row in zip(block, U.unbind(0), strict=True):
            for j, entry in zip(block, row.unbind(0), strict=True):
                rows[i][j] = entry
    return stacked(rows)


def _filled(L: Matrix, i: int, j: int) -> Tensor:
    entry = L[i][j]
    return L[i][i] * 0 if entry is None else entry  # pyright: ignore


def _blocks(L: Matrix) -> list[list[int]]:
    """Group the components that are coupled."""
    left, found = list(range(len(L))), []
    while left:
        block = [left.pop(0)]
        for i in block:
            near = [j for j in left if L[i][j] is not None or L[j][i] is not None]
            block += near
            left = [j for j in left if j not in near]
        found.append(sorted(block))
    return found


# ------------------------------------------------------------------------ closed forms


def _pair(A: Tensor) -> Tensor:
    """Exponentiate 2x2: e^m (cosh δ + (A - m) sinh δ/δ), m ± δ the eigenvalues."""
    return _remat.apply(_PAIR, A.contiguous())


def _exp(A: Tensor) -> Tensor:
    m, h, b, c, square = _parts(A)
    even, odd = _grown(m, square)
    up = odd * h
    return torch.stack([even + up, odd * b, odd * c, even - up]).reshape(A.shape)


def _push_exp(A: Tensor, move: Tensor) -> Tensor:
    """Return the derivative of `_exp`, along one tangent or many on a leading axis."""
    m, h, b, c, square = _parts(A)
    even, odd, slope = _grown(m, square, slope=True)
    dm, dh, db, dc = _centred(move, move.ndim - A.ndim)
    turned = torch.addcmul(b * dc + c * db, h, dh, value=2)
    deven = torch.addcmul(dm * even, odd, turned, value=0.5)
    dodd = torch.addcmul(dm * odd, slope, turned)
    up = torch.addcmul(dodd * h, odd, dh)
    sides = torch.addcmul(dodd * b, odd, db), torch.addcmul(dodd * c, odd, dc)
    made = torch.stack([deven + up, *sides, deven - up], move.ndim - A.ndim)
    return made.reshape(
        *made.shape[: move.ndim - A.ndim], 2, 2, *made.shape[-A.ndim + 2 :]
    )


def _parts(A: Tensor) -> tuple[Tensor, ...]:
    m, h, b, c = _centred(A, 0)
    return m, h, b, c, torch.addcmul(b * c, h, h)


def _centred(A: Tensor, axis: int) -> tuple[Tensor, ...]:
    a, b, c, d = A.flatten(axis, axis + 1).unbind(axis)
    return (a + d) / 2, (a - d) / 2, b, c


def _grown(m: Tensor, square: Tensor, *, slope: bool = False) -> list[Tensor]:
    """Return e^m times cosh δ, sinh δ/δ and perhaps its derivative by δ²."""
    near = square.abs() < _NEAR
    known = near.device.type == "cpu" and concrete(near)
    if known and near.all():
        return _series_grown(m, square, slope)
    safe = torch.where(near, 1.0, square)
    root = safe.sqrt()
    up, down = torch.exp(m + root), torch.exp(m - root)
    even, odd = (up + down) / 2, (up - down) / (2 * root)
    found = [even, odd, (even - odd) / (2 * safe)] if slope else [even, odd]
    if known and not near.any():
        return found
    few = _series_grown(
        torch.where(near, m, 0.0), torch.where(near, square, 0.0), slope
    )
    return [torch.where(near, x, y) for x, y in zip(few, found, strict=True)]


def _series_grown(m: Tensor, square: Tensor, slope: bool) -> list[Tensor]:
    """Return the same for small δ, by Taylor series in δ²."""
    base, one = torch.exp(m), torch.ones_like(square)
    made = []
    for first, *steps in _SHRINKING[: 2 + slope]:
        y = one
        for step in reversed(steps):
            y = torch.addcmul(one, square, y, value=step)
        made.append(base * y if first == 1 else base * (y * first))
    return made


# a Taylor series c0 (1 + c1 x (1 + c2 x (…))) of cosh √x, sinh √x/√x, its derivative
_SHRINKING = (
    (1, 1 / 2, 1 / 12, 1 / 30, 1 / 56, 1 / 90),
    (1, 1 / 6, 1 / 20, 1 / 42, 1 / 72, 1 / 110),
    (1 / 6, 1 / 10, 1 / 28, 1 / 54, 1 / 88, 1 / 130),
)
_PAIR = _remat.Segment(_exp, 1, trailing=True, push=_push_exp)


def _series(A: Tensor) -> Tensor:
    """Exponentiate by scaling, Taylor series and squaring, the mean rate taken out."""
    n = len(A)
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
    return torch.where(doublings > _DOUBLINGS, torch.nan, E)


def _product(A: Tensor, B: Tensor) -> Tensor:
    return (A[:, :, None] * B[None]).sum(1)


_SMALL = {1: torch.exp, 2: _pair}
