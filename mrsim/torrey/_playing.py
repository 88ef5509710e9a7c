"""Playing an encoding: what happens to a state, segment by segment.

A segment acts on the state by a series, or is exponentiated where that is less work, or
decays by eigenvalues where nothing turns and nothing follows them.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mrsim.torrey._action import Extent, Range, act, extent_of, quicker, ranges
from mrsim.torrey._fence import constant
from mrsim.torrey.basis import Basis
from mrsim.torrey.encoding_profile import Pieces, Step

_AT_ONCE = 2**27  # bytes of propagators that are held together


def mirrored(made: Pieces) -> bool:
    """Tell whether a play is its own mirror image and conjugate, as of refocused pairs.

    Args:
        made: the pieces of an encoding.

    Returns:
        Whether its propagator is Eᴴ C E with a real symmetric C, E of the first half.
    """
    play, half = made.play, len(made.play) // 2
    for one, other in zip(play[:half], reversed(play), strict=False):
        part = made.segments[one.segment]
        still = _still(made, one.segment)
        if one.segment != other.segment:
            return False
        if not still and one.sign == other.sign:
            return False
        if len(part) > 1 and one.reverse == other.reverse:
            return False
    middle = play[half : len(play) - half]
    return half > 0 and all(_still(made, x.segment) for x in middle)


class Tools(NamedTuple):
    """How the segments of a play are played, each one by one of these."""

    calm: tuple[Tensor, Tensor] | None  # eigenvalues and eigenvectors of a constant L
    extents: dict[int, Extent]  # of segments that act
    whole: dict[int, Tensor]  # propagators
    middle: Tensor  # (1,) of `Range`
    both: tuple[tuple[Tensor, Tensor], ...]  # matrices that act, and mirrored ones


def prepare(basis: Basis, made: Pieces, play: Sequence[Step]) -> Tools:
    """Prepare what a play needs.

    Args:
        basis: of `laplace`.
        made: the pieces of an encoding.
        play: which of its segments, in the order of time.

    Returns:
        The tools of every segment in the play.
    """
    L, X = basis.decay, basis.position
    L = L if basis.relaxation is None else L + basis.relaxation
    plays = Counter(step.segment for step in play)
    calm = _calm(L, made, plays)
    if calm is not None:
        plays = Counter({k: n for k, n in plays.items() if not _still(made, k)})
    bounds = ranges(L, X)
    extents = {} if L.is_meta else _extents(L, X, made, bounds, plays)
    rates = L - bounds.middle * torch.eye(len(L), dtype=L.dtype, device=L.device)
    # states are rows, so that a mirrored play meets no transpose
    both = tuple((A.mT, B.mT.flatten(0, 1)) for A, B in ((rates, X), (rates.mT, X.mT)))
    chosen = [k for k in sorted(plays) if k not in extents]
    whole = _exponentials(L, X, made, chosen)
    return Tools(calm, extents, whole, bounds.middle, both)


def played(tools: Tools, made: Pieces, play: Sequence[Step], nu: Tensor) -> Tensor:
    """Return the state after a play.

    Args:
        tools: of `prepare`, for this play at least.
        made: the pieces of an encoding.
        play: segments in the order of time.
        nu: (2, mode) real and imaginary part of the state before.

    Returns:
        (2, mode) the state.
    """
    for k, sign, reverse in play:
        part = made.segments[k]
        if k in tools.extents:
            for p in reversed(part) if reverse else part:
                g = None if made.still[p] else made.vector[p] * sign
                how = (made.duration[p][None], g, tools.middle, tools.extents[k])
                nu = act(nu, *tools.both[reverse], *how)
        elif k in tools.whole:
            E = tools.whole[k]
            nu = _turned(E.mT if reverse else E, nu, sign)
        else:
            assert tools.calm is not None  # noqa: S101
            nu = _rested(tools.calm, made.duration[part[0]][None], nu)
    return nu


def _still(made: Pieces, segment: int) -> bool:
    """Tell whether nothing turns in a segment."""
    return made.still[made.segments[segment][0]]


def _calm(L: Tensor, made: Pieces, used: Iterable[int]) -> tuple[Tensor, Tensor] | None:
    """Return eigenvalues and eigenvectors of a constant L, for the rests."""
    rests = any(_still(made, k) for k in used)
    if not rests or not constant(L) or not L.isfinite().all():
        return None  # equal eigenvalues have no derivatives
    values, vectors = torch.linalg.eigh(L)
    return values, vectors


def _rested(calm: tuple[Tensor, Tensor], time: Tensor, nu: Tensor) -> Tensor:
    """Return exp(−τL) ν."""
    values, vectors = calm
    return ((nu @ vectors) * (-time * values).exp()) @ vectors.mT


def _extents(
    L: Tensor, X: Tensor, made: Pieces, bounds: Range, plays: Counter[int]
) -> dict[int, Extent]:
    """Return the extents of those segments that had better act than be whole."""
    used = [x for k in plays for x in made.segments[k]]
    copies = sum(2 - made.still[p] for p in used)
    large = copies * len(L) ** 2 * L.element_size() > _AT_ONCE
    followed = not constant(L, X)
    extents: dict[int, Extent] = {}
    for k, count in plays.items():
        part = made.segments[k]
        span = slice(part[0], part[-1] + 1)
        extent = extent_of(bounds, made.duration[span], made.vector[span])
        if large or quicker(extent, count, len(L), L.dtype, followed=followed):
            extents[k] = extent
    return extents


def _exponentials(
    L: Tensor, X: Tensor, made: Pieces, chosen: Sequence[int]
) -> dict[int, Tensor]:
    """Return the propagators of segments, exp(−τ(L + i g·X))."""
    moving = [p for k in chosen for p in made.segments[k] if not made.still[p]]
    stack: dict[int, Tensor] = {}
    if moving:
        tau = torch.stack([made.duration[p] for p in moving])[:, None, None]
        g = torch.stack([made.vector[p] for p in moving])
        turn = torch.einsum("pa,aij->pij", g, X)
        made_all = torch.matrix_exp(torch.complex(-tau * L, -tau * turn))
        stack = dict(zip(moving, made_all.unbind(0), strict=True))
    whole: dict[int, Tensor] = {}
    for k in chosen:
        part = made.segments[k]
        if _still(made, k):
            whole[k] = torch.matrix_exp(-made.duration[part[0]][None, None] * L)
        else:
            whole[k] = _product([stack[p] for p in part])
    return whole


def _product(factors: list[Tensor]) -> Tensor:
    """Multiply propagators in the order of time."""
    made = factors[0]
    for E in factors[1:]:
        made = E @ made
    return made


def _turned(E: Tensor, nu: Tensor, sign: int) -> Tensor:
    """Multiply with a propagator, or with its conjugate where the sign is negative."""
    if not E.is_complex():
        return (E @ nu.mT).mT
    real, imaginary = nu.unbind(0)
    made = E @ torch.complex(real, sign * imaginary)
    return torch.stack([made.real, sign * made.imag])
