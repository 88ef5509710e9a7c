"""Spoiled gradient echo: RF-spoiled trains and the ideally spoiled steady state."""

import math

import torch
from torch import Tensor

from mrsim._check import check_floats, check_shapes
from mrsim.epg._checks import check_closed, check_sequence, check_whole
from mrsim.epg._readouts import gre_readout
from mrsim.epg.blocks import Train, attach
from mrsim.epg.engine import run
from mrsim.epg.program import Program
from mrsim.tissue import Tissue
from mrsim.tree import neutral, record, replace, static


@record
class SPGR(Train):
    """A spoiled gradient-echo sequence (FLASH, T1-FFE)."""

    flip: Tensor  # () flip angle [rad]
    TR: Tensor  # () repetition time [s]
    TE: Tensor | None = neutral(0.0)  # () echo time [s]
    moment: Tensor | None = neutral(0.0)  # () or (3,) of the spoiler [rad/mm]
    pulses: int = static(200)  # length of the RF-spoiled train
    increment: int = static(117)  # RF spoiling increment [whole degrees]
    states: int | None = static(None)  # orders kept; None: all that matter, exact


def spgr(tissue: Tissue, seq: SPGR) -> Tensor:
    """Return the signal of the ideally spoiled steady state.

    S = M0 sin α (1 - E1) / (1 - E1 cos α) e^{-TE/T2 - TE/T2′ + i 2π df TE} with
    E1 = e^{-TR/T1} and α = B1·flip (Ernst & Anderson 1966).

    Args:
        tissue: the voxel.
        seq: the sequence; ``pulses`` and ``increment`` do not matter here.

    Returns:
        () complex signal [units of M0], real and positive on resonance.

    Raises:
        TypeError: a field is no floating tensor, or dtypes differ.
        ValueError: shapes or devices do not match, or the tissue has pools.

    >>> from mrsim import Tissue, epg
    >>> from mrsim.units import deg, ms
    >>> epg.spgr(Tissue(T1=1.0, T2=0.08), epg.SPGR(flip=20 * deg, TR=10 * ms)).real
    tensor(0.0489)
    """
    where = "epg.spgr"
    known = {n: getattr(tissue, n) for n in ("T1", "T2", "M0", "B1", "df", "T2p")}
    check_floats(where, flip=seq.flip, TR=seq.TR, TE=seq.TE, **known)
    check_shapes(where, tissue, **dict.fromkeys(known, ""))
    check_shapes(where, seq, flip="", TR="", TE="")
    check_closed(where, "epg.mgre", tissue, seq, "exchange", "bound")
    flip = seq.flip if tissue.B1 is None else seq.flip * tissue.B1
    gone = -torch.expm1(-seq.TR / tissue.T1)
    # 1 - E1 cos α without cancellation
    lost = gone * flip.cos() + 2 * (flip / 2).sin().square()
    signal = flip.sin() * gone / lost
    signal = signal if tissue.M0 is None else signal * tissue.M0
    angle = torch.zeros_like(signal)
    if seq.TE is not None:
        signal = signal * torch.exp(-seq.TE / tissue.T2)
        if tissue.T2p is not None:
            signal = signal * torch.exp(-seq.TE / tissue.T2p)
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
    return run(tissue, spgr_program(seq))


def spgr_program(seq: SPGR) -> Program:
    """Return the program of an RF- and gradient-spoiled train.

    Args:
        seq: the sequence.

    Returns:
        Its events.

    Raises:
        TypeError: a field is no floating tensor, dtypes differ, or the increment is not
            a whole number.
        ValueError: shapes or devices do not match, or pulses is no positive number.

    >>> from mrsim import Tissue, epg
    >>> program = epg.spgr_program(epg.SPGR(flip=0.35, TR=0.01, pulses=3))
    >>> epg.run(Tissue(T1=1.0, T2=0.08), program).abs()
    tensor([0.3429, 0.3223, 0.3067])
    """
    where = "epg.spgr_spoiled"
    check_sequence(where, seq)
    if not isinstance(seq.increment, int):
        raise TypeError(
            f"{where}: increment must be a whole number of degrees, so that the"
            f" quadratic phase stays exact, got {seq.increment!r}; other phases can be"
            f" given to epg.fisp"
        )
    check_whole(where, "pulses", seq.pulses)
    p = torch.arange(seq.pulses, device=seq.flip.device)
    degrees = p * (p + 1) // 2 * seq.increment % 360
    phase = (degrees.to(torch.float64) * (math.pi / 180)).to(seq.flip.dtype)
    made = gre_readout(seq.flip.expand(seq.pulses), seq.TR, seq.TE, phase=phase)
    return replace(attach(where, made, seq), states=seq.states)
