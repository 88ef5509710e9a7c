"""Spoiled gradient echo: RF-spoiled trains and the ideally spoiled steady state."""

import math
from functools import lru_cache

import torch
from torch import Tensor

from mrsim._check import check_floats, check_shapes
from mrsim.epg.engine import run
from mrsim.epg.program import Event, Layout, Program
from mrsim.tissue import Tissue
from mrsim.tree import neutral, record, static


@record
class SPGR:
    """A spoiled gradient-echo sequence (FLASH, T1-FFE)."""

    flip: Tensor  # () flip angle [rad]
    TR: Tensor  # () repetition time [s]
    TE: Tensor | None = neutral(0.0)  # () echo time [s]
    pulses: int = static(200)  # length of the RF-spoiled train
    increment: int = static(117)  # RF spoiling increment [whole degrees]
    states: int | None = static(None)  # orders kept; None: all that matter, exact


def spgr(tissue: Tissue, seq: SPGR) -> Tensor:
    """Return the signal of the ideally spoiled steady state.

    S = M0 sin α (1 - E1) / (1 - E1 cos α) e^{-TE/T2 + i 2π df TE} with E1 = e^{-TR/T1}
    and α = B1·flip (Ernst & Anderson 1966). For T2* decay give T2* as ``T2``.

    Args:
        tissue: the voxel.
        seq: the sequence; ``pulses`` and ``increment`` do not matter here.

    Returns:
        () complex signal [units of M0], real and positive on resonance.

    Raises:
        TypeError: a field is no floating tensor, or dtypes differ.
        ValueError: shapes or devices do not match.

    >>> from mrsim import Tissue, epg
    >>> from mrsim.units import deg, ms
    >>> epg.spgr(Tissue(T1=1.0, T2=0.08), epg.SPGR(flip=20 * deg, TR=10 * ms)).real
    tensor(0.0489)
    """
    _check("epg.spgr", tissue, seq)
    flip = seq.flip if tissue.B1 is None else seq.flip * tissue.B1
    gone = -torch.expm1(-seq.TR / tissue.T1)
    # 1 - E1 cos α without cancellation
    lost = gone * flip.cos() + 2 * (flip / 2).sin().square()
    signal = flip.sin() * gone / lost
    signal = signal if tissue.M0 is None else signal * tissue.M0
    angle = torch.zeros_like(signal)
    if seq.TE is not None:
        signal = signal * torch.exp(-seq.TE / tissue.T2)
        if tissue.df is not None:
            angle = angle + (2 * math.pi * seq.TE[None] * tissue.df)[0]
    return torch.complex(signal * angle.cos(), signal * angle.sin())


def spgr_spoiled(tissue: Tissue, seq: SPGR) -> Tensor:
    """Simulate an RF- and gradient-spoiled train from equilibrium.

    Pulse p has the phase p(p+1)/2 · increment (Zur 1991), reduced modulo 360° in
    integers, and readings are demodulated with it; one unit of dephasing in each TR.

    Args:
        tissue: the voxel.
        seq: the sequence.

    Returns:
        (pulses,) complex signal at TE after each pulse [units of M0].

    Raises:
        TypeError: a field is no floating tensor, dtypes differ, or the increment is not
            a whole number.
        ValueError: shapes or devices do not match, or pulses is no positive number.

    >>> from mrsim import Tissue, epg
    >>> from mrsim.units import deg, ms
    >>> seq = epg.SPGR(flip=20 * deg, TR=10 * ms, pulses=600)
    >>> epg.spgr_spoiled(Tissue(T1=1.0, T2=0.08), seq)[-1].abs()
    tensor(0.0470)
    """
    _check("epg.spgr_spoiled", tissue, seq)
    if not isinstance(seq.increment, int):
        raise TypeError(
            f"epg.spgr_spoiled: increment must be a whole number of degrees, so that"
            f" the quadratic phase stays exact, got {seq.increment!r}; other phases can"
            f" be given to epg.fisp"
        )
    if not isinstance(seq.pulses, int) or seq.pulses < 1:
        raise ValueError(
            f"epg.spgr_spoiled: pulses must be a whole number of at least 1, got"
            f" {seq.pulses!r}"
        )
    p = torch.arange(seq.pulses, device=seq.flip.device)
    degrees = p * (p + 1) // 2 * seq.increment % 360
    phase = (degrees.to(torch.float64) * (math.pi / 180)).to(seq.flip.dtype)
    TE = torch.zeros_like(seq.TR) if seq.TE is None else seq.TE
    twice = phase.repeat_interleave(2)
    program = Program(
        flip=seq.flip.expand(2 * seq.pulses),
        duration=torch.stack([TE, seq.TR - TE]).repeat(seq.pulses),
        phase=twice,
        demod=twice,
        layout=_layout(seq.pulses),
        states=seq.states,
    )
    return run(tissue, program)


def _check(where: str, tissue: Tissue, seq: SPGR) -> None:
    known = {n: getattr(tissue, n) for n in ("T1", "T2", "M0", "B1", "df")}
    check_floats(where, flip=seq.flip, TR=seq.TR, TE=seq.TE, **known)
    check_shapes(where, tissue, T1="", T2="", M0="", B1="", df="")
    check_shapes(where, seq, flip="", TR="", TE="")


@lru_cache
def _layout(pulses: int) -> Layout:
    return (Event(pulse=True, read=True), Event(shift=1)) * pulses
