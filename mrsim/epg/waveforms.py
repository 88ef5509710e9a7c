"""Waveforms of pulses, and transmit fields of several channels."""

import math

import torch
from torch import Tensor

from mrsim.epg.pulses import Pulse
from mrsim.units import GAMMA

Number = Tensor | float


def hard_pulse(flip: Number, duration: Number) -> Pulse:
    """Return a rectangular pulse.

    Args:
        flip: () flip angle on resonance [rad].
        duration: () its length [s].

    Returns:
        A pulse of one sample.

    >>> from mrsim import epg
    >>> epg.nominal_flip(epg.hard_pulse(flip=1.0, duration=1e-3))
    tensor(1.)
    """
    flip, duration = _tensors(flip, duration)
    return Pulse(
        B1=_amplitude(torch.ones_like(flip[None]), flip, duration), dwell=duration
    )


def sinc_pulse(
    flip: Number,
    duration: Number,
    thickness: Number | None = None,
    tbw: Number = 4.0,
    samples: int = 256,
) -> Pulse:
    r"""Return a Hann-windowed sinc with its slice gradient.

    B1 ∝ sinc(tbw·u) (1 + cos 2πu)/2 for u from -½ to ½, G = 2π tbw/(γ T thickness).

    Args:
        flip: () flip angle in the middle of the slice [rad].
        duration: () its length T [s].
        thickness: () of the slice [mm]; ``None``: no gradient.
        tbw: () time-bandwidth product [1].
        samples: number of samples.

    Returns:
        The pulse; half of its gradient's area is undone before, and half after.

    >>> from mrsim import epg
    >>> pulse = epg.sinc_pulse(flip=1.5, duration=2.56e-3, thickness=5.0)
    >>> 1e6 * pulse.gradient  # mT/m
    tensor(7.3396)
    """
    flip, duration, tbw = _tensors(flip, duration, tbw)
    u = _middles(samples, flip)
    shape = torch.sinc(tbw * u) * (0.5 + 0.5 * (2 * math.pi * u).cos())
    return _selective(shape, flip, duration, tbw, thickness)


def gauss_pulse(
    flip: Number,
    duration: Number,
    thickness: Number | None = None,
    tbw: Number = 2.0,
    samples: int = 256,
) -> Pulse:
    """Return a truncated Gaussian with its slice gradient.

    B1 ∝ exp(-u²/2σ²) for u from -½ to ½, σ = √(2 ln 2)/(π tbw), so that its spectrum
    has full width at half maximum tbw/T.

    Args:
        flip: () flip angle in the middle of the slice [rad].
        duration: () its length T [s].
        thickness: () of the slice [mm]; ``None``: no gradient.
        tbw: () time-bandwidth product [1].
        samples: number of samples.

    Returns:
        The pulse; half of its gradient's area is undone before, and half after.

    >>> from mrsim import epg
    >>> epg.nominal_flip(epg.gauss_pulse(flip=1.5, duration=2e-3))
    tensor(1.5000)
    """
    flip, duration, tbw = _tensors(flip, duration, tbw)
    u = _middles(samples, flip)
    width = math.sqrt(2 * math.log(2)) / math.pi
    shape = torch.exp(-((u * tbw / width) ** 2) / 2)
    return _selective(shape, flip, duration, tbw, thickness)


def hs_pulse(
    peak: Number,
    duration: Number,
    mu: Number = 4.9,
    beta: Number = 5.3,
    samples: int = 512,
) -> Pulse:
    """Return an adiabatic full passage with a hyperbolic secant.

    B1 = peak·sech(βu) e^{iμ ln sech(βu)} for u from -1 to 1 (Silver 1985). The
    frequency sweeps over μβ/(πT) to each side, and what lies within is inverted where
    γ·peak is well above 2√μ β/T, whatever B1.

    Args:
        peak: () amplitude in the middle [T].
        duration: () its length T [s].
        mu: () μ, of the sweep [1].
        beta: () β, of the truncation: sech 5.3 = 1 % at the ends [1].
        samples: number of samples.

    Returns:
        The pulse.

    >>> from mrsim import epg
    >>> 1e6 * epg.hs_pulse(peak=15e-6, duration=10e-3).B1[[0, 255]]
    tensor([ 0.1513, 14.9992])
    """
    peak, duration, mu, beta = _tensors(peak, duration, mu, beta)
    x = 2 * beta * _middles(samples, peak)
    return Pulse(
        B1=peak / x.cosh(),
        phase=-mu * x.cosh().log(),
        dwell=duration[None][0] / samples,
    )


def shim(maps: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return the transmit field of several channels: its size and its phase.

    The channels' complex fields add up: B1 = |Σ_c w_c B1_c|, φ = arg Σ_c w_c B1_c
    (Katscher 2003, eq. 2). Use B1 as ``Tissue.B1`` or a pulse's scale, and add φ to the
    phases of pulses.

    Args:
        maps: (channel, *position) complex fields relative to nominal [1].
        weights: (channel,) complex drives [1].

    Returns:
        B1 [1] and φ [rad], each (*position).

    Raises:
        ValueError: the channels differ in number.

    >>> import torch
    >>> from mrsim import epg
    >>> epg.shim(torch.tensor([0.5, 0.5j]), torch.tensor([1.0, -1j]))
    (tensor(1.), tensor(0.))
    """
    if weights.ndim != 1 or maps.shape[:1] != weights.shape:
        raise ValueError(
            f"epg.shim: weights must have shape (channel,) and maps (channel,"
            f" *position), got {tuple(weights.shape)} and {tuple(maps.shape)}"
        )
    field = (weights.reshape(-1, *(1,) * (maps.ndim - 1)) * maps).sum(0)
    return field.abs(), field.angle()


def _tensors(*values: Number) -> list[Tensor]:
    """Turn numbers into tensors like the first tensor among them."""
    like = next((v for v in values if isinstance(v, Tensor)), torch.empty(0))
    return [
        v
        if isinstance(v, Tensor)
        else torch.tensor(float(v), dtype=like.dtype, device=like.device)
        for v in values
    ]


def _middles(samples: int, like: Tensor) -> Tensor:
    """Return the middles of samples between -½ and ½."""
    if not isinstance(samples, int) or samples < 1:
        raise ValueError(
            f"a pulse needs a whole number of samples of at least 1, got {samples!r}"
        )
    i = torch.arange(samples, dtype=like.dtype, device=like.device)
    return (i + 0.5) / samples - 0.5


def _amplitude(shape: Tensor, flip: Tensor, dwell: Tensor) -> Tensor:
    """Scale a shape to its flip angle: B1 [T]."""
    return shape * flip / (GAMMA * shape.sum()[None] * dwell)


def _selective(
    shape: Tensor,
    flip: Tensor,
    duration: Tensor,
    tbw: Tensor,
    thickness: Number | None,
) -> Pulse:
    dwell = (duration[None] / len(shape))[0]
    B1 = _amplitude(shape, flip, dwell)
    if thickness is None:
        return Pulse(B1=B1, dwell=dwell)
    thick = _tensors(flip, thickness)[1]
    half = torch.full_like(dwell, 0.5)
    return Pulse(
        B1=B1,
        dwell=dwell,
        gradient=(2 * math.pi * tbw[None] / (GAMMA * duration * thick))[0],
        prephase=half,
        rephase=half,
    )
