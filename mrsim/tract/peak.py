"""The peak of an FOD that a direction leads to, by MRtrix's own rule, and its slope.

Everything has the batch on the last axis: T (N, B) from `polynomial`, u (3, B).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from mrsim.tract.polynomial import apply_matrix, curvature, degree

MOST = 50  # steps of a search
LONGEST = 0.2  # rad, of one step
DONE = 1e-4  # rad, the step that ends the search
POLE = 1e-8  # 1 - z² below which azimuth has no meaning
_NEAR = 0.01  # rad, the longest polishing step


class Local(NamedTuple):
    """An FOD around a direction u, in the tangent frame (e, f), e uphill."""

    value: Tensor  # (B,) amplitude
    slope: Tensor  # (B,) |gradient|
    e: Tensor  # (3, B) unit vector along the gradient, 0 where there is none
    f: Tensor  # (3, B) u × e
    ee: Tensor  # (B,) second derivatives along great circles
    ef: Tensor
    ff: Tensor


def local(T: Tensor, u: Tensor) -> Local:
    """Return value, gradient and second derivatives on the sphere at u.

    Along the great circle through u and e, F'' = e·∇²F e − L F.
    """
    L = degree(T.shape[0])
    H = curvature(T, u)
    gradient = apply_matrix(H, u) / (L - 1)
    inward = dot(gradient, u)  # = L F
    g = gradient - inward * u
    slope = dot(g, g).sqrt()
    e = g / torch.where(slope > 0, slope, 1.0)
    f = cross(u, e)
    He = apply_matrix(H, e)
    ee, ef = dot(He, e) - inward, dot(He, f)
    ff = dot(apply_matrix(H, f), f) - inward
    return Local(inward / L, slope, e, f, ee, ef, ff)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Return the scalar product along the first axis, of length 3."""
    return (a * b).sum(0)


def cross(a: Tensor, b: Tensor) -> Tensor:
    """Return the vector product along the first axis."""
    return a.roll(-1, 0) * b.roll(-2, 0) - a.roll(-2, 0) * b.roll(-1, 0)


def unit(a: Tensor) -> Tensor:
    """Return vectors (3, ...) of length one; zero stays zero."""
    square = dot(a, a)
    return a / torch.where(square > 0, square, 1.0).sqrt()


def climb(T: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Take one step of Newton's method along the gradient.

    Returns:
        The next direction, the amplitude before it, and whether the search ends.
    """
    at = local(T, u)
    length = step_length(at.slope, at.ee, u[2], at.e[2])
    moved = u + length * at.e
    return moved / dot(moved, moved).sqrt(), at.value, ends(length)


def step_length(slope: Tensor, ee: Tensor, z: Tensor, e_z: Tensor) -> Tensor:
    """Return MRtrix's step along the gradient [rad].

    It is |F'/F''| with plain second derivatives by elevation and azimuth, which differ
    from those along a great circle by −|∇F| z e_z (s² − e_z²)/s⁴, s² = 1 − z². The
    difference vanishes at a peak, but it decides which peak is found.
    """
    s2 = 1 - z * z
    pole = s2 < POLE
    s2 = torch.where(pole, 1.0, s2)
    extra = slope * z * e_z * (s2 - e_z * e_z) / (s2 * s2)
    bend = ee - torch.where(pole, 0.0, extra)
    newton = slope / torch.where(bend == 0, torch.inf, bend)
    return newton.abs().clamp(max=LONGEST)


def ends(length: Tensor) -> Tensor:
    """Tell whether a step of this length ends the search."""
    return length < DONE


def _newton(at: Local) -> tuple[Tensor, Tensor, Tensor]:
    """Return Newton's step along e and f, and whether it leads to a near maximum."""
    det = at.ee * at.ff - at.ef * at.ef
    peaked = (at.ee < 0) & (det > 0)
    size = at.slope / torch.where(peaked, det, 1.0)
    a, b = -size * at.ff, size * at.ef
    return a, b, peaked & (a * a + b * b < _NEAR**2)


def refine(T: Tensor, u: Tensor) -> Tensor:
    """Take one step of Newton's method in two dimensions from near a peak."""
    at = local(T, u)
    a, b, sound = _newton(at)
    a, b = torch.where(sound, a, 0.0), torch.where(sound, b, 0.0)
    return unit(u + a * at.e + b * at.f)


def search(T: Tensor, u: Tensor, polish: int) -> tuple[Tensor, Tensor]:
    """Find the peaks that directions lead to.

    From each direction: steps dt = min(|F'/F''|, 0.2 rad) along the gradient, until
    dt < 1e-4 rad.

    Args:
        T (N, B): polynomial coefficients.
        u (3, B): unit vectors to start from.
        polish: Newton steps that follow.

    Returns:
        The peaks (3, B) and the amplitudes (B,) there, NaN where none was found within
        50 steps.

    Reference:
        Tournier et al. 2019, NeuroImage 202:116137 (MRtrix3, SH::get_peak).
    """
    u, value, done = climbs(T, u, 2)
    for _ in range(MOST - 2):
        left = (~done).nonzero()[:, 0]
        if not len(left):
            break
        some, size, stops = climbs(T[:, left], u[:, left], 1)
        u, value = u.index_copy(1, left, some), value.index_copy(0, left, size)
        done = done.index_copy(0, left, stops)
    for _ in range(polish):
        u = refine(T, u)
    return torch.where(done, u, torch.nan), torch.where(done, value, torch.nan)


def climbs(T: Tensor, u: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Take some steps of `climb`; directions whose search has ended stay.

    Returns:
        Directions, the amplitude before the last step, whether the search has ended.
    """
    u, value, done = climb(T, u)
    for _ in range(count - 1):
        further, size, ends = climb(T, u)
        u, value = torch.where(done, u, further), torch.where(done, value, size)
        done = done | ends
    return u, value, done
