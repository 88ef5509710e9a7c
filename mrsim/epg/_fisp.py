"""Inversion-recovery FISP: the gradient-spoiled fingerprinting sequence (SSFP-MRF)."""

from torch import Tensor

from mrsim.epg._checks import check_sequence
from mrsim.epg._inverted import PULSES, after_inversion
from mrsim.epg._playing import averaged
from mrsim.epg._readouts import gre_readout
from mrsim.epg.blocks import Train, attach
from mrsim.epg.program import Program
from mrsim.tissue import Tissue
from mrsim.tree import neutral, record, replace, static


@record
class FISP(Train):
    """A train of unbalanced gradient echoes, with or without an inversion before it."""

    flip: Tensor  # (pulse,) flip angles [rad]
    TR: Tensor  # (pulse,) or () repetition times [s]
    TE: Tensor | None = neutral(0.0)  # (pulse,) or () pulse to reading [s]
    phase: Tensor | None = neutral(0.0, like="flip")  # (pulse,) RF phase from +x [rad]
    TI: Tensor | None = None  # () inversion to first pulse [s]; None: no inversion
    efficiency: Tensor | None = neutral(1.0)  # () of the inversion, Z → -efficiency·Z
    moment: Tensor | None = neutral(0.0)  # () or (3,) of the spoiler [rad/mm]
    profile: Tensor | None = None  # (position,) relative flips across the slice
    states: int | None = static(None)  # orders kept; None: all that matter, exact


def fisp(tissue: Tissue, seq: FISP) -> Tensor:
    """Simulate a (inversion-recovery) FISP train from equilibrium.

    Each repetition is pulse, TE, reading (demodulated with the RF phase), TR - TE and
    one unit of dephasing. The inversion is crushed and does not scale with B1. With a
    slice profile the signal is the mean over its positions.

    Args:
        tissue: the voxel.
        seq: the train.

    Returns:
        (pulse,) complex signal [units of M0]; with phase 0, on resonance, -i times the
        positive real signal of a magnetisation along +z.

    Raises:
        TypeError: a field is no floating tensor, or dtypes differ.
        ValueError: shapes or devices do not match.

    Reference:
        Jiang 2015 (MRM 74:1621); Weigel 2015 (JMRI 41:266).

    >>> from mrsim import Tissue, epg
    >>> from mrsim.units import deg, ms
    >>> seq = epg.FISP(flip=[10 * deg] * 3, TR=12 * ms, TI=20 * ms)
    >>> epg.fisp(Tissue(T1=1.0, T2=0.1), seq).imag
    tensor([0.1668, 0.1602, 0.1528])
    """
    return averaged(tissue, fisp_program(seq), seq.profile)


def fisp_program(seq: FISP) -> Program:
    """Return the program of a FISP train; `profile` is none of its business.

    Args:
        seq: the train.

    Returns:
        Its events.

    Raises:
        TypeError: a field is no floating tensor, or dtypes differ.
        ValueError: shapes or devices do not match.

    >>> from mrsim import Tissue, epg
    >>> seq = epg.FISP(flip=[0.2] * 3, TR=0.012, TI=0.02)
    >>> epg.run(Tissue(T1=1.0, T2=0.1), epg.fisp_program(seq)).imag
    tensor([0.1908, 0.1824, 0.1728])
    """
    check_sequence("epg.fisp", seq, **PULSES)
    train = gre_readout(seq.flip, seq.TR, seq.TE, phase=seq.phase)
    made = attach("epg.fisp", after_inversion(seq, train), seq)
    return replace(made, states=seq.states)
