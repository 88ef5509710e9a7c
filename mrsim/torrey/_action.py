"""Exponentials acting on a state, where that is less work than making the matrix.

exp(−τ(L + i g·X)) ν by Faber series: products of a batch of states with matrices that
are the same for every encoding. How many terms converge follows from the extents of L
and X, which are looked at behind the transforms.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mrsim._remat import remat
from mrsim.torrey._faber import series

_SMALLEST = 24  # modes below which the exponential of a matrix is as quick
_SLOWER = 8.0  # a term of the series than its share of a product of matrices
_FOLLOWED = 1.7  # the derivative of an exponential, against that of its action


class Range(NamedTuple):
    """What bounds the norms of a basis, as constants."""

    middle: Tensor  # (1,) of the eigenvalues of L [1/s]
    half: Tensor  # (1,) half their range [1/s]
    radius: Tensor  # (1,) bound of |u·X| for unit vectors u [mm]


def ranges(L: Tensor, X: Tensor) -> Range:
    """Return the range of L (mode, mode) and the radius of X (3, mode, mode)."""
    square = (X @ X).sum(0)
    made = torch.stack([L, (square + square.mT) / 2]).detach()
    values = torch.linalg.eigvalsh(made.nan_to_num(0.0))
    low, high = values[0, :1], values[0, -1:]
    return Range((low + high) / 2, (high - low) / 2, values[1, -1:].clamp_min(0).sqrt())


def look(x: Tensor) -> float:
    """Return the largest entry of a tensor, over all batches, as a number.

    Args:
        x: a tensor under any transform, but not on the meta device.

    Returns:
        Its largest value; nothing is differentiated.
    """
    seen: list[float] = []
    _Look.apply(seen.append, x.detach())
    return max(seen)


class _Look(torch.autograd.Function):
    @staticmethod
    def forward(tell: Any, x: Tensor) -> Tensor:
        tell(float(x.nan_to_num(0.0).max()))
        return x.new_zeros(())

    @staticmethod
    def setup_context(ctx: Any, _inputs: tuple[Any, ...], output: Any) -> None:
        ctx.mark_non_differentiable(output)

    @staticmethod
    def vmap(_info: Any, _in_dims: Any, tell: Any, x: Tensor) -> Any:
        return _Look.apply(tell, x), None


class Extent(NamedTuple):
    """Half the extents of τ(L − middle + i g·X) in the complex plane."""

    real: float
    imaginary: float


def extent_of(bounds: Range, duration: Tensor, vector: Tensor) -> Extent:
    """Return the largest extent over pieces and all batches.

    Args:
        bounds: of the basis.
        duration: (piece,) τ [s].
        vector: (piece, 3) g [rad/(mm s)].

    Returns:
        The numbers, rounded up to few digits, so that few series are made.
    """
    time = duration.detach().abs()
    g = (vector * vector).sum(-1).detach().sqrt()
    found = (look(time * bounds.half), look(time * g * bounds.radius))
    return Extent(*map(_rounded, found))


def _rounded(x: float) -> float:
    """Round up to a power of 1.02."""
    return 1.02 ** math.ceil(math.log(max(x, 1e-6), 1.02))


def quicker(
    extent: Extent, plays: int, modes: int, dtype: torch.dtype, *, followed: bool
) -> bool:
    """Tell whether a few plays are less work than one exponential of a matrix.

    Args:
        extent: of the segment.
        plays: how often it is played.
        modes: side of the matrices.
        dtype: of them.
        followed: whether a derivative is taken.

    Returns:
        Whether to act.
    """
    terms = series(*extent, torch.finfo(dtype).eps).work
    squarings = 8 + math.log2(1 + sum(extent))
    share = squarings * modes * (_FOLLOWED if followed else 1.0)
    return modes >= _SMALLEST and _SLOWER * plays * terms < share


def act(
    nu: Tensor,
    rates: Tensor,
    turns: Tensor,
    time: Tensor,
    vector: Tensor | None,
    middle: Tensor,
    extent: Extent,
) -> Tensor:
    """Return exp(−τ(L + i g·X)) ν.

    Args:
        nu: (2, mode) real and imaginary part of the state.
        rates: (mode, mode) Lᵀ − middle.
        turns: (3 mode, mode) the transposed X one below the other.
        time: (1,) τ.
        vector: (3,) g; ``None``: zero.
        middle: (1,) of `Range`.
        extent: of `extent_of`.

    Returns:
        (2, mode) the state after τ.
    """
    steps = series(*extent, torch.finfo(nu.dtype).eps).steps
    h = time / steps
    sunk = (-h * middle).exp()  # each time, so that nothing overflows
    for _ in range(steps):
        nu = sunk * _step(nu, rates, turns, h, vector, extent)
    return nu


def _summed(
    nu: Tensor,
    rates: Tensor,
    turns: Tensor,
    h: Tensor,
    g: Tensor | None,
    extent: Extent,
) -> Tensor:
    made = series(*extent, torch.finfo(nu.dtype).eps)
    near = h / -made.radius
    turn = None if g is None else (near * g)[:, None]
    before, term, total = nu, nu, made.weights[0] * nu
    for k, weight in enumerate(made.weights[1:]):
        new = near * (term @ rates)
        if turn is not None:
            real, imaginary = ((turn * term[:, None]).flatten(-2) @ turns).unbind(0)
            new = new + torch.stack([-imaginary, real])
        if k:
            new = torch.sub(new, before, alpha=(1 + (k == 1)) * made.focus)
        before, term = term, new
        total = torch.add(total, term, alpha=weight)
    return total


_step = remat(_summed)
