"""Shaped pulses: what a sampled waveform does to the spins of every slice position."""

import math

import torch
from torch import Tensor

from mrsim._check import check_floats
from mrsim.tree import neutral, record
from mrsim.units import GAMMA


@record
class Pulse:
    """A sampled pulse under a gradient; RF and gradient are constant in each sample.

    The carrier's phase is that of ``phase`` in the middle of the pulse.
    """

    B1: Tensor  # (sample,) amplitude, of either sign [T]
    dwell: Tensor  # () length of a sample [s]
    phase: Tensor | None = neutral(0.0, like="B1")  # (sample,) from +x [rad]
    gradient: Tensor | None = neutral(0.0)  # () or (sample,) along the slice [T/mm]
    offset: Tensor | None = neutral(0.0)  # () of the carrier from resonance [Hz]
    prephase: Tensor | None = neutral(0.0)  # () gradient area undone before, share [1]
    rephase: Tensor | None = neutral(0.0)  # () ... and after; 0.5: that of a symmetric


@record
class Profile:
    """What a pulse does at each position: a turn about z, a flip, a turn about z.

    Every rotation can be written so. A pulse of a Program has no turns; `shaped` moves
    them into the phases of what follows.
    """

    flip: Tensor  # (*position) flip angle about a transverse axis [rad]
    phase: Tensor  # (*position) of this axis from +x [rad]
    before: Tensor  # (*position) turn of M+ before the flip [rad]
    after: Tensor  # (*position) turn of M+ after it [rad]


def power(pulse: Pulse) -> Tensor:
    """Return ∫(γB1)² dt, what saturates semisolid pools.

    It goes with the square of the flip angle: a program whose pulses scale with its
    flips has ``power(pulse) · (flip / nominal_flip(pulse))²``.

    Args:
        pulse: the pulse.

    Returns:
        () [rad²/s].

    >>> from mrsim import epg
    >>> pulse = epg.hard_pulse(flip=1.0, duration=1e-3)
    >>> epg.power(pulse).round()
    tensor(1000.)
    """
    return (GAMMA * pulse.B1).square().sum() * pulse.dwell


def nominal_flip(pulse: Pulse) -> Tensor:
    """Return the flip angle on resonance, where no gradient acts: |γ ∫ B1 dt|.

    Its sign is that of the amplitudes' sum if the pulse has no `phase`.

    Args:
        pulse: the pulse.

    Returns:
        () [rad].

    >>> from mrsim import epg
    >>> epg.nominal_flip(epg.sinc_pulse(flip=1.5, duration=2e-3, thickness=5.0))
    tensor(1.5000)
    """
    x = GAMMA * pulse.B1
    if pulse.phase is None:
        return x.sum() * pulse.dwell
    x = torch.complex(x * pulse.phase.cos(), x * pulse.phase.sin())
    return x.sum().abs() * pulse.dwell


def spinor(
    pulse: Pulse,
    position: Tensor,
    scale: Tensor | None = None,
    df: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the Cayley–Klein parameters (a, b) of a pulse at every position.

    Each sample is the exact right-handed rotation about
    (γ B1 cos φ, γ B1 sin φ, γ G z + 2π (df - offset)). Afterwards
    M+' = conj(a)² M+ - b² conj(M+) + 2 conj(a) b Mz and
    Mz' = (|a|² - |b|²) Mz - 2 Re(a b conj(M+)) (Pauly 1991, eqs. 4–9).

    Args:
        pulse: the pulse; its `prephase` and `rephase` do not enter.
        position: (*position) along the gradient [mm].
        scale: (*position) of B1 relative to the pulse's, of either sign [1].
        df: (*position) off-resonance of the spins [Hz].

    Returns:
        a and b, complex (*position), in the frame of resonance.

    Raises:
        TypeError: a field is no floating tensor, or dtypes differ.
        ValueError: shapes or devices do not match.

    >>> import torch
    >>> from mrsim import epg
    >>> a, b = epg.spinor(epg.hard_pulse(flip=1.0, duration=1e-3), torch.zeros(1))
    >>> (2 * a.conj() * b).imag, (a.abs() ** 2 - b.abs() ** 2)
    (tensor([-0.8415]), tensor([0.5403]))
    """
    a, b = _spinor(pulse, position, scale, df)
    return a, b if scale is None else b * scale


def profile(
    pulse: Pulse,
    position: Tensor,
    scale: Tensor | None = None,
    df: Tensor | None = None,
) -> Profile:
    """Return the flip and the phases of a pulse at every position.

    The spinor a = cos(α/2) e^{-iψ/2}, b = -i e^{iφ} sin(α/2) is a flip α about φ
    between two turns by ψ/2 about z. `prephase` and `rephase` take the gradient's area
    off the turns, and the free precession that waits from and to the middle of the
    pulse contain is taken off as well. α has the sign of `scale`, so that it is smooth
    at 0. At α = 180° the turns are free, and have no derivatives: cut such a pulse in
    two, as `shaped` does.

    Args:
        pulse: the pulse.
        position: (*position) along the gradient [mm].
        scale: (*position) of B1 relative to the pulse's, of either sign [1].
        df: (*position) off-resonance of the spins [Hz].

    Returns:
        The profile.

    Raises:
        TypeError: a field is no floating tensor, or dtypes differ.
        ValueError: shapes or devices do not match.

    >>> import torch
    >>> from mrsim import epg
    >>> pulse = epg.sinc_pulse(flip=1.5, duration=2e-3, thickness=5.0)
    >>> epg.profile(pulse, torch.tensor([0.0, 5.0])).flip
    tensor([1.5000, 0.0184])
    """
    made = turned_flip(pulse, position, scale, df)
    before, after = surroundings(pulse, position, df)
    return Profile(
        flip=made.flip,
        phase=made.phase,
        before=made.before if before is None else made.before + before,
        after=made.after if after is None else made.after + after,
    )


def turned_flip(
    pulse: Pulse, position: Tensor, scale: Tensor | None, df: Tensor | None
) -> Profile:
    """Return the turns and the flip of the pulse alone; arguments as in `profile`."""
    a, b = _spinor(pulse, position, scale, df)
    size = b.abs() if scale is None else b.abs() * scale
    flip = torch.atan2(size, a.abs())[..., None] * 2
    half = -a.angle().expand(flip.shape[:-1])
    phase = (b.angle()[..., None] + math.pi / 2)[..., 0].expand(half.shape)
    return Profile(flip=flip[..., 0], phase=phase, before=half, after=half)


def surroundings(
    pulse: Pulse, position: Tensor, df: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """Return the turns around a pulse: gradients undone, precession counted twice."""
    before = after = None
    if df is not None:
        length = (len(pulse.B1) * pulse.dwell[None])[0]
        before = after = -(math.pi * length * df[..., None])[..., 0]
    if pulse.gradient is not None:
        area = GAMMA * pulse.gradient.expand(pulse.B1.shape).sum()[None] * pulse.dwell
        wound = area[0] * position
        if pulse.prephase is not None:
            undone = -pulse.prephase * wound
            before = undone if before is None else before + undone
        if pulse.rephase is not None:
            undone = -pulse.rephase * wound
            after = undone if after is None else after + undone
    return before, after


def inversion_efficiency(
    pulse: Pulse,
    position: Tensor,
    scale: Tensor | None = None,
    df: Tensor | None = None,
) -> Tensor:
    """Return how well a pulse inverts: -Mz after it from Mz = 1, |b|² - |a|².

    It is what ``Program.efficiency`` takes; relaxation during the pulse is left out.

    Args:
        pulse: the pulse.
        position: (*position) along the gradient [mm].
        scale: (*position) of B1 relative to the pulse's [1].
        df: (*position) off-resonance of the spins [Hz].

    Returns:
        (*position) efficiency, 1 for a perfect inversion.

    Raises:
        TypeError: a field is no floating tensor, or dtypes differ.
        ValueError: shapes or devices do not match.

    >>> import torch
    >>> from mrsim import epg
    >>> pulse = epg.hs_pulse(peak=15e-6, duration=10e-3)
    >>> epg.inversion_efficiency(pulse, torch.zeros(1), df=torch.tensor([0.0, 200.0]))
    tensor([0.9909, 0.9911])
    """
    a, b = spinor(pulse, position, scale, df)
    return (b.real.square() + b.imag.square()) - (a.real.square() + a.imag.square())


def _spinor(
    pulse: Pulse, position: Tensor, scale: Tensor | None, df: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return a and b/scale, which is smooth where the scale is 0."""
    _check(pulse, position, scale, df)
    shapes = [x.shape for x in (position, scale, df) if x is not None]
    rank = len(torch.broadcast_shapes(*shapes))

    def rows(x: Tensor) -> Tensor:
        return x.reshape(-1, *(1,) * rank)

    half = rows(pulse.B1) * GAMMA / 2 * pulse.dwell
    angle = torch.zeros_like(half) if pulse.phase is None else rows(pulse.phase)
    along = torch.zeros_like(half)
    if pulse.gradient is not None:
        along = along + rows(pulse.gradient) * position * GAMMA / 2 * pulse.dwell
    if df is not None:
        along = along + math.pi * pulse.dwell * df[None]
    if pulse.offset is not None:
        along = along - math.pi * pulse.dwell * rows(pulse.offset)
    factor = torch.ones_like(half[:1]) if scale is None else scale[None].square()
    along, half, angle, factor = torch.broadcast_tensors(along, half, angle, factor)
    cos, sin = _rotation(factor * half.square() + along.square())
    a = torch.complex(cos, -along * sin)
    b = torch.complex(half * sin * angle.sin(), -half * sin * angle.cos())
    a, b = _composed(a, b, factor[:1])
    if pulse.offset is not None:  # back from the carrier's frame, by half before, after
        turn = math.pi * len(pulse.B1) * pulse.dwell[None] * pulse.offset
        a = a * torch.complex(turn.cos(), -turn.sin())
    return a[0], b[0]


def _check(
    pulse: Pulse, position: Tensor, scale: Tensor | None, df: Tensor | None
) -> None:
    where = "epg.spinor"
    check_floats(where, **vars(pulse), position=position, scale=scale, df=df)
    samples = pulse.B1.shape
    shapes = {"B1": [samples], "phase": [samples], "gradient": [(), samples]}
    for name, value in vars(pulse).items():
        wanted = shapes.get(name, [()])
        if value is not None and (value.shape not in wanted or len(samples) != 1):
            raise ValueError(
                f"{where}: {name} must have shape () or (sample,), that of B1, got"
                f" {tuple(value.shape)} with B1 {tuple(samples)}; map over pulses with"
                f" vmap(epg.spinor, in_dims=(0, None))"
            )


def _rotation(q: Tensor) -> tuple[Tensor, Tensor]:
    """Return cos √q and sin √q / √q, smooth at 0."""
    near = q < 0.1
    few = torch.where(near, q, torch.zeros_like(q))
    root = torch.where(near, torch.ones_like(q), q).sqrt()
    cos, sin = torch.ones_like(q), torch.ones_like(q)
    for n in range(16, 0, -2):
        cos = 1 - few / (n * (n - 1)) * cos
        sin = 1 - few / (n * (n + 1)) * sin
    return torch.where(near, cos, root.cos()), torch.where(near, sin, root.sin() / root)


def _composed(a: Tensor, b: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
    """Multiply all samples, later ones from the left, two by two."""
    while len(a) > 1:
        even = len(a) - len(a) % 2
        a1, b1, a2, b2 = a[:even:2], b[:even:2], a[1:even:2], b[1:even:2]
        first = a2 * a1 - factor * b2.conj() * b1
        second = b2 * a1 + a2.conj() * b1
        a, b = torch.cat([first, a[even:]]), torch.cat([second, b[even:]])
    return a, b
