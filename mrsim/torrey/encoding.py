"""Diffusion encodings: one record a kind, and the profile that all solvers read.

Every encoding is the effective waveform γG(t): refocusing pulses are played by a change
of its sign. The echo comes at TE; where TE is ``None`` it comes at the end of the last
gradient. Records hold one signal's encoding; map over many with ``torch.func.vmap``.
"""

import math
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor

from mrsim._check import check_floats, check_shapes, concrete
from mrsim.torrey._plausible import check_encoding
from mrsim.torrey.encoding_profile import Profile, Step
from mrsim.tree import neutral, put, record, static


@record
class PGSE:
    """A pair of rectangular pulses (Stejskal and Tanner 1965)."""

    q: Tensor  # () γG [rad/(mm s)]
    direction: Tensor  # (3,) unit vector
    delta: Tensor  # () length of a pulse [s]
    Delta: Tensor  # () onset to onset [s]
    start: Tensor | None = neutral(0.0)  # () wait before the first pulse [s]
    TE: Tensor | None = None  # () echo time [s]; None: at the end of the last pulse


@record
class DoublePGSE:
    """Two pairs of rectangular pulses, one after the other."""

    q: Tensor  # () γG [rad/(mm s)]
    direction: Tensor  # (3,) unit vector of the first pair
    delta: Tensor  # () length of a pulse [s]
    Delta: Tensor  # () onset to onset within a pair [s]
    pause: Tensor  # () end of the first pair to onset of the second [s]
    direction2: Tensor | None = None  # (3,) of the second pair; None: the same
    start: Tensor | None = neutral(0.0)  # () wait before the first pulse [s]
    TE: Tensor | None = None  # () echo time [s]; None: at the end of the last pulse


@record
class Oscillation:
    """What the two kinds of oscillating pulses have in common."""

    q: Tensor  # () γG [rad/(mm s)]
    direction: Tensor  # (3,) unit vector
    delta: Tensor  # () length of a pulse [s]
    Delta: Tensor  # () onset to onset [s]
    start: Tensor | None = neutral(0.0)  # () wait before the first pulse [s]
    TE: Tensor | None = None  # () echo time [s]; None: at the end of the last pulse
    periods: int = static(1)  # n, in one pulse
    steps: int = static(10)  # time steps in a quarter period


@record
class CosOGSE(Oscillation):
    """Two oscillating pulses γG cos(2πnt/δ), the second refocused."""


@record
class SinOGSE(Oscillation):
    """Two oscillating pulses γG sin(2πnt/δ), the second refocused."""


@record
class Trapezoid:
    """A pair of trapezoidal pulses, each ``delta + rise`` long."""

    q: Tensor  # () γG of the plateau [rad/(mm s)]
    direction: Tensor  # (3,) unit vector
    delta: Tensor  # () onset of the rise to onset of the fall [s]
    Delta: Tensor  # () onset to onset of the pulses [s]
    rise: Tensor  # () length of a ramp, at most delta [s]
    start: Tensor | None = neutral(0.0)  # () wait before the first pulse [s]
    TE: Tensor | None = None  # () echo time [s]; None: at the end of the last ramp
    steps: int = static(4)  # time steps in a ramp


@record
class Waveform:
    """Any effective waveform in three dimensions."""

    times: Tensor  # (sample,) of the samples; the spins are excited at times[0] [s]
    vectors: Tensor  # (sample, 3) effective γG there [rad/(mm s)]
    TE: Tensor | None = None  # () echo time [s]; None: at the last sample
    linear: bool = static(
        default=True
    )  # straight between samples; else each holds to the next
    steps: int | None = static(default=None)  # between samples; None: 100 in the whole


def _padded(
    x: Any, played: Tensor, segments: list[tuple[str, Tensor, Tensor]], play: list[Step]
) -> Profile:
    """Add the waits before and after; ``played`` is the length of all gradients."""
    zero = torch.zeros_like(segments[0][2])
    start = getattr(x, "start", None)
    if start is not None:
        play = [Step(len(segments)), *play]
        segments = [*segments, ("rest", start, zero)]
        played = start + played
    if x.TE is not None:
        _fits(x, played, x.TE, "TE comes before the last gradient ends")
        play = [*play, Step(len(segments))]
        segments = [*segments, ("rest", x.TE - played, zero)]
    return Profile(
        duration=torch.stack([s[1] for s in segments]),
        level=torch.stack([s[2] for s in segments]),
        kinds=tuple(s[0] for s in segments),
        play=tuple(play),
        steps=getattr(x, "steps", 1),
    )


@singledispatch
def profile(encoding: Any) -> Profile:
    """Return the `Profile` of any encoding: its segments, which every solver reads.

    Args:
        encoding: any record of this file.

    Raises:
        TypeError: ``encoding`` is no encoding.

    >>> from mrsim import torrey
    >>> x = torrey.PGSE(q=50.0, direction=[1.0, 0, 0], delta=0.01, Delta=0.03)
    >>> torrey.profile(x).duration
    tensor([0.0100, 0.0200])
    """
    raise TypeError(
        f"torrey: an encoding must be PGSE, DoublePGSE, CosOGSE, SinOGSE, Trapezoid or"
        f" Waveform, got {type(encoding).__name__}; it comes last, after the mesh"
        f" and the water, or after the basis"
    )


@profile.register
def _pgse(encoding: PGSE) -> Profile:
    x = _checked(encoding)
    g = x.q * x.direction
    _fits(x, x.delta, x.Delta, "delta is longer than Delta")
    rest = x.Delta - x.delta
    segments = [("flat", x.delta, g), ("rest", rest, torch.zeros_like(g))]
    return _padded(x, x.Delta + x.delta, segments, [Step(0), Step(1), Step(0, -1)])


@profile.register
def _double(encoding: DoublePGSE) -> Profile:
    x = _checked(encoding)
    _fits(x, x.delta, x.Delta, "delta is longer than Delta")
    g, zero = x.q * x.direction, torch.zeros_like(x.direction)
    segments = [
        ("flat", x.delta, g),
        ("rest", x.Delta - x.delta, zero),
        ("rest", x.pause, zero),
    ]
    second = 0
    if x.direction2 is not None:
        second = len(segments)
        segments.append(("flat", x.delta, x.q * x.direction2))
    one, two = ([Step(k), Step(1), Step(k, -1)] for k in (0, second))
    pair = x.Delta + x.delta
    return _padded(x, pair + x.pause + pair, segments, [*one, Step(2), *two])


def _oscillating(x: Any, kind: str, turn: int) -> Profile:
    # a period is g, its mirror with the sign turn, −g and its mirror with −turn
    g = x.q * x.direction
    _fits(x, x.delta, x.Delta, "delta is longer than Delta")
    quarter = (x.delta[None] / (4 * x.periods))[0]
    rest = x.Delta - x.delta
    segments = [(kind, quarter, g), ("rest", rest, torch.zeros_like(g))]
    period = [Step(0), Step(0, turn, reverse=True)]
    period += [Step(0, -1), Step(0, -turn, reverse=True)]
    pulse = period * x.periods
    refocused = [Step(s.segment, -s.sign, s.reverse) for s in pulse]
    return _padded(x, x.Delta + x.delta, segments, [*pulse, Step(1), *refocused])


@profile.register
def _cos(encoding: CosOGSE) -> Profile:
    return _oscillating(_checked(encoding), "cos", -1)


@profile.register
def _sin(encoding: SinOGSE) -> Profile:
    return _oscillating(_checked(encoding), "sin", 1)


@profile.register
def _trapezoid(encoding: Trapezoid) -> Profile:
    x = _checked(encoding)
    g = x.q * x.direction
    zero = torch.zeros_like(g)
    pulse = x.delta + x.rise
    _fits(x, x.rise, x.delta, "rise is longer than delta")
    _fits(x, pulse, x.Delta, "delta + rise is longer than Delta")
    segments = [
        ("ramp", x.rise, zero),
        ("flat", x.delta - x.rise, g),
        ("rest", x.Delta - pulse, zero),
    ]
    one = [Step(0), Step(1), Step(0, reverse=True)]
    two = [Step(0, -1), Step(1, -1), Step(0, -1, reverse=True)]
    made = _padded(x, x.Delta + pulse, segments, [*one, Step(2), *two])
    return put(made, "end", torch.cat([g[None], made.level[1:]]))


@profile.register
def _waveform(encoding: Waveform) -> Profile:
    x = _checked(encoding)
    duration, level, end = x.times.diff(), x.vectors[:-1], x.vectors[1:]
    kinds = ["ramp" if x.linear else "flat"] * (len(x.times) - 1)
    if x.TE is not None:
        last = (x.TE - (x.times[-1] - x.times[0]))[None]
        duration = torch.cat([duration, last])
        level, end = (torch.cat([v, 0 * v[:1]]) for v in (level, end))
        kinds.append("rest")
    return Profile(
        duration=duration,
        level=level,
        end=end,
        kinds=tuple(kinds),
        play=tuple(map(Step, range(len(kinds)))),
        steps=x.steps or max(1, math.ceil(100 / (len(x.times) - 1))),
    )


def _checked(x: Any) -> Any:
    """Require one dtype and the shapes of one encoding."""
    where = type(x).__name__
    check_floats(where, **{n: v for n, v in vars(x).items() if n not in _STATIC})
    check_encoding(x)
    if isinstance(x, Waveform):
        check_shapes(where, x, times="sample", vectors="sample axis", TE="")
        if x.vectors.shape[1] != 3 or len(x.times) < 2:
            raise ValueError(
                f"Waveform: vectors must have shape (sample, 3) with at least two"
                f" samples, got {tuple(x.vectors.shape)}"
            )
        return x
    for name, v in vars(x).items():
        wanted = (3,) if name.startswith("direction") else ()
        if isinstance(v, Tensor) and tuple(v.shape) != wanted:
            raise ValueError(
                f"{where}: {name} must have shape {wanted} for one encoding, got"
                f" {tuple(v.shape)}; map over encodings with"
                f" vmap(torrey.signal, in_dims=(None, 0))"
            )
    return x


def _fits(x: Any, first: Tensor, second: Tensor, complaint: str) -> None:
    """Refuse times in the wrong order, where nothing traces them."""
    if concrete(first) and concrete(second) and float(first) > 1.00001 * float(second):
        raise ValueError(
            f"{type(x).__name__}: {complaint}, {float(first):g} s >"
            f" {float(second):g} s; all times are in seconds"
        )


_STATIC = {"periods", "steps", "linear"}
