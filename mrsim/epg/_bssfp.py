"""Balanced SSFP: the transient train and the steady state."""

import math
from functools import lru_cache

import torch
from torch import Tensor

from mrsim._check import check_floats, check_shapes
from mrsim.epg.engine import run
from mrsim.epg.program import Event, Layout, Program, check_count
from mrsim.tissue import Tissue
from mrsim.tree import neutral, record

_FIELDS = ("flip", "TR", "TE", "phase", "TI", "efficiency")


@record
class BSSFP:
    """A balanced train (TrueFISP, FIESTA); RF phases alternate by 180° by default."""

    flip: Tensor  # (pulse,) flip angles [rad]; () for the steady state
    TR: Tensor  # (pulse,) or () repetition times [s]
    TE: Tensor | None = None  # (pulse,) or () pulse to reading [s]; None: TR / 2
    phase: Tensor | None = None  # (pulse,) RF phase [rad]; None: 0, 180°, 0, …
    TI: Tensor | None = None  # () inversion to first pulse [s]; None: no inversion
    efficiency: Tensor | None = neutral(1.0)  # () of the inversion, Z → -efficiency·Z


def bssfp(tissue: Tissue, seq: BSSFP) -> Tensor:
    """Simulate a balanced train from equilibrium (also bSSFP fingerprinting).

    Nothing dephases within a TR, so one order is exact. Readings at TE after each pulse
    are demodulated with its phase.

    Args:
        tissue: the voxel.
        seq: the train.

    Returns:
        (pulse,) complex signal [units of M0].

    Raises:
        TypeError: a field is no floating tensor, or dtypes differ.
        ValueError: shapes or devices do not match.

    Reference:
        Scheffler & Lehnhardt 2003 (Eur Radiol 13:2409).

    >>> from mrsim import Tissue, epg
    >>> from mrsim.units import deg, ms
    >>> train = epg.BSSFP(flip=[35 * deg] * 3, TR=5 * ms)
    >>> epg.bssfp(Tissue(T1=1.0, T2=0.1), train).imag
    tensor([-0.5594, -0.0229, -0.5331])
    """
    check_floats("epg.bssfp", **{n: getattr(seq, n) for n in _FIELDS})
    each = {n: "pulse" for n in ("TR", "TE") if _per_pulse(getattr(seq, n))}
    check_shapes(
        "epg.bssfp", seq, flip="pulse", phase="pulse", TI="", efficiency="", **each
    )
    count = check_count("epg.bssfp", seq.flip)
    TR = seq.TR.expand(count)
    TE = TR / 2 if seq.TE is None else seq.TE.expand(count)
    flip = seq.flip.repeat_interleave(2)
    duration = torch.stack([TE, TR - TE], 1).flatten()
    phase = None if seq.phase is None else seq.phase.repeat_interleave(2)
    efficiency = None
    if seq.TI is not None:
        still = torch.zeros_like(flip[:1])
        flip, duration = torch.cat([still, flip]), torch.cat([seq.TI[None], duration])
        phase = None if phase is None else torch.cat([still, phase])
        if seq.efficiency is not None:
            efficiency = seq.efficiency.expand(flip.shape)
    program = Program(
        flip=flip,
        duration=duration,
        phase=phase,
        demod=phase,
        efficiency=efficiency,
        layout=_layout(count, seq.TI is not None, phase is None),
    )
    return run(tissue, program)


def bssfp_steady(tissue: Tissue, seq: BSSFP) -> Tensor:
    """Return the steady state of a balanced train with alternating phases.

    With E1,2 = e^{-TR/T1,2}, α = B1·flip and θ = 2π df TR + π, right after the pulse
    M+ = -i M0 (1 - E1) sin α (1 - E2 e^{-iθ}) / D,
    D = (1 - E1 cos α)(1 - E2 cos θ) - E2 (E1 - cos α)(E2 - cos θ)
    (Freeman & Hill 1971), then e^{-TE/T2 + i 2π df TE} to the reading.

    Args:
        tissue: the voxel.
        seq: the sequence with scalar ``flip``, ``TR`` and ``TE``.

    Returns:
        () complex signal in the frame of the last pulse [units of M0].

    Raises:
        TypeError: a field is no floating tensor, or dtypes differ.
        ValueError: shapes or devices do not match, or a phase or inversion is given.

    >>> from mrsim import Tissue, epg
    >>> from mrsim.units import deg, ms
    >>> seq = epg.BSSFP(flip=40 * deg, TR=10 * ms)
    >>> epg.bssfp_steady(Tissue(T1=1.0, T2=0.1), seq).abs()
    tensor(0.1564)
    """
    known = {n: getattr(tissue, n) for n in ("T1", "T2", "M0", "B1", "df")}
    check_floats("epg.bssfp_steady", **known, flip=seq.flip, TR=seq.TR, TE=seq.TE)
    check_shapes("epg.bssfp_steady", tissue, T1="", T2="", M0="", B1="", df="")
    check_shapes("epg.bssfp_steady", seq, flip="", TR="", TE="")
    if seq.phase is not None or seq.TI is not None:
        raise ValueError(
            "epg.bssfp_steady: the closed form is that of phases alternating by 180°"
            " without an inversion; leave phase and TI out, or simulate with epg.bssfp"
        )
    TE = seq.TR / 2 if seq.TE is None else seq.TE
    E2 = torch.exp(-seq.TR / tissue.T2)
    gone = -torch.expm1(-seq.TR / tissue.T1)
    flip = seq.flip if tissue.B1 is None else seq.flip * tissue.B1
    df = torch.zeros_like(tissue.T1) if tissue.df is None else tissue.df
    turn = (2 * math.pi * df[None])[0]
    a, b = -E2 * torch.cos(turn * seq.TR), -E2 * torch.sin(turn * seq.TR)
    c = torch.cos(flip)
    D = (1 - (1 - gone) * c) * (1 - a) - ((1 - gone) - c) * (E2 * E2 - a)
    size = gone * torch.sin(flip) * torch.exp(-TE / tissue.T2) / D
    size = size if tissue.M0 is None else size * tissue.M0
    cos, sin = torch.cos(turn * TE), torch.sin(turn * TE)
    re, im = b, a - 1
    return torch.complex(size * (re * cos - im * sin), size * (re * sin + im * cos))


def _per_pulse(value: Tensor | None) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0


@lru_cache
def _layout(pulses: int, inverted: bool, alternating: bool) -> Layout:
    quadrants = [2 * (i % 2) * alternating for i in range(pulses)]
    repeats = [
        event
        for q in quadrants
        for event in (Event(pulse=True, quadrant=q, read=True, receiver=q), Event())
    ]
    return (Event(invert=True),) * inverted + tuple(repeats)
