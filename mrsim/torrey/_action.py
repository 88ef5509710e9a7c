"""Exponentials acting on a state, where that is less work than making the matrix.

exp(−τ(L + i g·X)) ν by steps of a Taylor series: products of a batch of states with
matrices that are the same for every encoding. How many terms converge follows from the
norms, which are looked at behind the transforms.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mrsim._remat import remat

_SMALLEST = 24  # modes below which the exponential of a matrix is as quick
_SLOWER = 5.0  # a term of the series than its share of a product of matrices


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


def norm_of(bounds: Range, duration: Tensor, vector: Tensor) -> float:
    """Return a bound of ‖τ(L − middle + i g·X)‖ over pieces and all batches.

    Args:
        bounds: of the basis.
        duration: (piece,) τ [s].
        vector: (piece, 3) g [rad/(mm s)].

    Returns:
        The number.
    """
    g = (vector * vector).sum(-1).detach().sqrt()
    return look(duration.detach().abs() * (bounds.half + g * bounds.radius))


def series(norm: float, dtype: torch.dtype) -> tuple[int, int]:
    """Return the numbers of steps and of terms that converge for a norm."""
    eps = torch.finfo(dtype).eps
    # rounding grows with the exponential of a step's norm
    steps = max(1, math.ceil(norm / (3.0 if eps < 1e-10 else 1.0)))
    term, terms = 1.0, 0
    while term > 0.1 * eps:
        terms += 1
        term *= norm / steps / terms
    return steps, max(terms, 2)


def quicker(norm: float, plays: int, modes: int, dtype: torch.dtype) -> bool:
    """Tell whether a few plays are less work than one exponential of a matrix."""
    steps, terms = series(norm, dtype)
    squarings = 8 + math.log2(1 + norm)
    work = _SLOWER * plays * steps * terms
    return modes >= _SMALLEST and work < squarings * modes


def act(
    nu: Tensor,
    S: Tensor,
    time: Tensor,
    vector: Tensor | None,
    middle: Tensor,
    norm: float,
) -> Tensor:
    """Return exp(−τ(L + i g·X)) ν.

    Args:
        nu: (2, mode) real and imaginary part of the state.
        S: (mode, 4 mode) L and X side by side; L alone where nothing turns.
        time: (1,) τ.
        vector: (3,) g; ``None``: zero.
        middle: (1,) of `Range`.
        norm: bound of `norm_of`.

    Returns:
        (2, mode) the state after τ.
    """
    steps, terms = series(norm, nu.dtype)
    for _ in range(steps):
        nu = _step(nu, S, time / steps, vector, middle, terms)
    return nu


def _taylor(
    nu: Tensor, S: Tensor, h: Tensor, g: Tensor | None, middle: Tensor, terms: int
) -> Tensor:
    total = term = nu
    for k in range(1, terms + 1):
        product = (term @ S).unflatten(-1, (-1, len(S)))
        sunk = h * (product[:, 0] - middle * term)
        if g is not None:
            real, imaginary = (product[:, 1:] * (h * g)[:, None]).sum(1).unbind(0)
            sunk = sunk + torch.stack([-imaginary, real])
        term = sunk / -k
        total = total + term
    return (-h * middle).exp() * total


_step = remat(_taylor)
