"""What every encoding is made of: smooth segments and the order they are played in.

A segment is a vector waveform γG(s) on the normalised time s = t/duration in [0, 1]:

====== ============================ =====================================
kind   γG(s)                        use
====== ============================ =====================================
rest   0                            pauses, padding up to the echo
flat   level                        rectangular pulses
ramp   level + (end - level) s      trapezoids, sampled waveforms
cos    level cos(πs/2)              a quarter period of an oscillation
sin    level sin(πs/2)              a quarter period of an oscillation
====== ============================ =====================================

The play list repeats segments, negated (the sign that refocusing gives) and reversed in
time. A propagator of −γG is the complex conjugate of γG's, one of the reversed waveform
is the transpose: each segment is exponentiated once, however often it is played.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from mrsim.tree import record, static

_GAUSS = math.sqrt(3) / 6
_NEAR, _FAR = 0.5 + 2 * _GAUSS, 0.5 - 2 * _GAUSS


class Step(NamedTuple):
    """One entry of the play list."""

    segment: int
    sign: int = 1  # -1: the waveform is negated
    reverse: bool = False  # the waveform runs backwards


@record
class Profile:
    """An encoding as smooth segments of the effective waveform γG(t)."""

    duration: Tensor  # (segment,) [s]
    level: Tensor  # (segment, 3) γG of each kind, as above [rad/(mm s)]
    end: Tensor | None = None  # (segment, 3) γG at the end of ramps [rad/(mm s)]
    kinds: tuple[str, ...] = static()  # of each segment
    play: tuple[Step, ...] = static()  # the segments in the order of time
    steps: int = static(1)  # time steps per segment that is neither rest nor flat


@record
class Pieces:
    """A profile as constant pieces, fourth-order exact in time; see `pieces`."""

    duration: Tensor  # (piece,) [s]
    vector: Tensor  # (piece, 3) constant γG [rad/(mm s)]
    still: tuple[bool, ...] = static()  # of each piece: its vector is zero by nature
    segments: tuple[tuple[int, ...], ...] = static()  # pieces of each segment in time
    play: tuple[Step, ...] = static()  # as in the profile


def end_levels(profile: Profile) -> Tensor:
    """Return γG at the end of every ramp, the level elsewhere."""
    return profile.level if profile.end is None else profile.end


def value(profile: Profile, segment: int, s: float) -> Tensor:
    """Return γG of a segment at the normalised time s.

    Args:
        profile: of an encoding.
        segment: its number.
        s: time over duration, 0 … 1.

    Returns:
        (3,) γG [rad/(mm s)].

    >>> from mrsim.torrey.encoding_profile import Profile, Step, value
    >>> level = [[2.0, 0, 0]]
    >>> x = Profile(duration=[0.01], level=level, kinds=("cos",), play=(Step(0),))
    >>> value(x, 0, 1 / 3)
    tensor([1.7321, 0.0000, 0.0000])
    """
    level, kind = profile.level[segment], profile.kinds[segment]
    if kind == "rest":
        return torch.zeros_like(level)
    if kind == "ramp":
        return level * (1 - s) + end_levels(profile)[segment] * s
    if kind == "cos":
        return level * math.cos(math.pi / 2 * s)
    if kind == "sin":
        return level * math.sin(math.pi / 2 * s)
    return level


def pieces(profile: Profile, steps: int | None = None) -> Pieces:
    """Cut a profile into constant pieces.

    Rests and flat segments are one exact piece. Others take ``steps`` steps of the
    commutator-free Magnus integrator of fourth order, which is two constant pieces of
    half a step each, with vectors that weigh the two Gauss points: contractive for any
    step, since every piece is a propagator of the same equation.

    Args:
        profile: of an encoding.
        steps: per segment; ``None``: the profile's own.

    Returns:
        The pieces in the order of the segments.

    Reference:
        Blanes and Moan 2006 (Appl. Numer. Math. 56:1519), the scheme CF4.
    """
    steps = profile.steps if steps is None else steps
    duration, vector, still, segments = [], [], [], []
    for k, kind in enumerate(profile.kinds):
        count = 1 if kind in {"rest", "flat"} else 2 * steps
        segments.append(tuple(range(len(still), len(still) + count)))
        still.extend([kind == "rest"] * count)
        duration.append((profile.duration[k][None] / count).expand(count))
        if count == 1:
            vector.append(value(profile, k, 0.0)[None])
            continue
        for i in range(steps):
            one = value(profile, k, (i + 0.5 - _GAUSS) / steps)
            two = value(profile, k, (i + 0.5 + _GAUSS) / steps)
            vector.append(
                torch.stack([_NEAR * one + _FAR * two, _FAR * one + _NEAR * two])
            )
    return Pieces(
        duration=torch.cat(duration),
        vector=torch.cat(vector),
        still=tuple(still),
        segments=tuple(segments),
        play=profile.play,
    )


def order(made: Pieces) -> list[tuple[int, int]]:
    """Return the number and the sign of every piece, as played."""
    return [
        (k, step.sign)
        for step in made.play
        for k in made.segments[step.segment][:: -1 if step.reverse else 1]
    ]


def timeline(made: Pieces) -> tuple[Tensor, Tensor]:
    """Return durations and vectors of the pieces as played, signs and order included.

    Args:
        made: pieces of a profile.

    Returns:
        (played,) durations [s] and (played, 3) vectors γG [rad/(mm s)].
    """
    played, signs = zip(*order(made), strict=True)
    # made on the device itself it fails for meta tensors under jvp
    sign = torch.tensor(signs, dtype=made.vector.dtype).to(made.vector.device)
    chosen = torch.stack([made.vector[k] for k in played])
    return torch.stack([made.duration[k] for k in played]), sign[:, None] * chosen


def echo_time(profile: Profile) -> Tensor:
    """Return the time from the excitation to the echo () [s]."""
    return torch.stack([profile.duration[s.segment] for s in profile.play]).sum()


def _integrals(kind: str, a: Tensor, end: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return Φ(1), ∫Φ and ∫ΦΦᵀ over s of Φ(s) = ∫γG ds, in closed form."""
    aa = a[:, None] * a
    if kind == "rest":
        return 0 * a, 0 * a, 0 * aa
    if kind == "ramp":
        d = end - a
        ad, dd = a[:, None] * d, d[:, None] * d
        return a + d / 2, a / 2 + d / 6, aa / 3 + (ad + ad.mT) / 8 + dd / 20
    p = 2 / math.pi
    if kind == "cos":
        return p * a, p * p * a, p * p / 2 * aa
    if kind == "sin":
        return p * a, p * (1 - p) * a, p * p * (1.5 - 2 * p) * aa
    return a, a / 2, aa / 3


def moments(profile: Profile) -> tuple[Tensor, Tensor]:
    """Return the net moment and the b-tensor of a profile, exactly.

    F(t) = ∫γG, B = ∫F Fᵀ dt over the whole encoding.

    Args:
        profile: of an encoding.

    Returns:
        (3,) F at the echo [rad/mm] and (3, 3) B [s/mm²].
    """
    ends = end_levels(profile)
    made = [
        _integrals(kind, profile.level[k], ends[k])
        for k, kind in enumerate(profile.kinds)
    ]
    F = torch.zeros_like(profile.level[0])
    B = F[:, None] * F
    for step in profile.play:
        whole, first, second = made[step.segment]
        if step.reverse:
            cross = whole[:, None] * first
            second = whole[:, None] * whole - cross - cross.mT + second
            first = whole - first
        tau = profile.duration[step.segment][None]
        cross = F[:, None] * (step.sign * tau * first)
        B = B + tau * (F[:, None] * F + cross + cross.mT + tau * tau * second)
        F = F + step.sign * tau * whole
    return F, B
