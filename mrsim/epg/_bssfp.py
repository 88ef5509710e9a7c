"""Balanced SSFP: the transient train and the steady state."""

import math

import torch
from torch import Tensor

from mrsim._check import check_floats, check_shapes
from mrsim.epg._checks import check_closed, check_sequence
from mrsim.epg._inverted import PULSES, after_inversion
from mrsim.epg._playing import averaged
from mrsim.epg._readouts import gre_readout
from mrsim.epg.blocks import Train, attach
from mrsim.epg.program import Program
from mrsim.tissue import Tissue
from mrsim.tree import neutral, record


@record
class BSSFP(Train):
    """A balanced train (TrueFISP, FIESTA); RF phases alternate by 180° by default."""

    flip: Tensor  # (pulse,) flip angles [rad]; () for the steady state
    TR: Tensor  # (pulse,) or () repetition times [s]
    TE: Tensor | None = None  # (pulse,) or () pulse to reading [s]; None: TR / 2
    phase: Tensor | None = None  # (pulse,) RF phase [rad]; None: 0, 180°, 0, …
    TI: Tensor | None = None  # () inversion to first pulse [s]; None: no inversion
    efficiency: Tensor | None = neutral(1.0)  # () of the inversion, Z → -efficiency·Z
    profile: Tensor | None = None  # (position,) relative flips across the slice


def bssfp(tissue: Tissue, seq: BSSFP) -> Tensor:
    """Simulate a balanced train from equilibrium (also bSSFP fingerprinting).

    Nothing dephases within a TR, so one order is exact. Readings at TE after each pulse
    are demodulated with its phase. With a slice profile the signal is the mean over its
    positions.

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
    return averaged(tissue, bssfp_program(seq), seq.profile)


def bssfp_program(seq: BSSFP) -> Program:
    """Return the program of a balanced train; `profile` is none of its business.

    Args:
        seq: the train.

    Returns:
        Its events.

    Raises:
        TypeError: a field is no floating tensor, or dtypes differ.
        ValueError: shapes or devices do not match.

    >>> from mrsim import Tissue, epg
    >>> train = epg.BSSFP(flip=[0.6] * 3, TR=0.005)
    >>> epg.run(Tissue(T1=1.0, T2=0.1), epg.bssfp_program(train)).imag
    tensor([-0.5507, -0.0226, -0.5248])
    """
    check_sequence("epg.bssfp", seq, **PULSES)
    TE = seq.TR / 2 if seq.TE is None else seq.TE
    plain = seq.phase is None
    made = gre_readout(seq.flip, seq.TR, TE, phase=seq.phase, alternate=plain, shift=0)
    return attach("epg.bssfp", after_inversion(seq, made), seq)


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
        ValueError: shapes or devices do not match, a phase or inversion is given, or
            the tissue has pools or a T2′ that the formula does not know.

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
    unknown = "exchange", "bound", "T2p"
    check_closed("epg.bssfp_steady", "epg.steady of two pulses", tissue, seq, *unknown)
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
