"""Multi-echo gradient echo: the spoiled steady state, read several times."""

from torch import Tensor

from mrsim.epg._checks import check_fits, check_sequence
from mrsim.epg._playing import repeated
from mrsim.epg._readouts import gre_readout
from mrsim.epg.blocks import Train, attach
from mrsim.epg.program import Program
from mrsim.tissue import Tissue
from mrsim.tree import record, static


@record
class MGRE(Train):
    """An ideally spoiled gradient-echo sequence with several echoes in each TR."""

    flip: Tensor  # () flip angle [rad]
    TR: Tensor  # () repetition time [s]
    TE: Tensor  # (echo,) echo times, increasing [s]
    repeats: int | None = static(None)  # pulses played; None: the steady state


def mgre(tissue: Tissue, seq: MGRE) -> Tensor:
    """Simulate the echoes of a spoiled multi-echo gradient-echo sequence.

    Each TR is a pulse, readings at every TE and an ideal spoiler. For one pool this is
    the closed form of `spgr` at every TE; exchanging, shifted and bound pools, flow
    through the slice and T2′ are simulated.

    Args:
        tissue: the voxel.
        seq: the sequence.

    Returns:
        (echo,) complex signal [units of M0]; -i times the positive signal of a
        magnetisation along +z.

    Raises:
        TypeError: a field is no floating tensor, or dtypes differ.
        ValueError: shapes or devices do not match, echoes are out of order or beyond
            TR, or repeats is no such number.

    >>> from mrsim import Tissue, epg
    >>> from mrsim.units import deg, ms
    >>> seq = epg.MGRE(flip=20 * deg, TR=20 * ms, TE=[2 * ms, 5 * ms, 8 * ms])
    >>> epg.mgre(Tissue(T1=1.0, T2=0.04), seq).imag
    tensor([-0.0816, -0.0757, -0.0703])
    """
    return repeated("epg.mgre", tissue, mgre_program(seq), seq.repeats)


def mgre_program(seq: MGRE) -> Program:
    """Return the program of one repetition.

    Args:
        seq: the sequence.

    Returns:
        Its events.

    Raises:
        TypeError: a field is no floating tensor, or dtypes differ.
        ValueError: shapes or devices do not match, or echoes are out of order or
            beyond TR.

    >>> from mrsim import epg
    >>> seq = epg.MGRE(flip=0.3, TR=0.02, TE=[0.002, 0.005, 0.008])
    >>> epg.mgre_program(seq).duration.sum()  # TR
    tensor(0.0200)
    """
    check_sequence("epg.mgre", seq, TE="echo")
    check_fits("epg.mgre", "echo times must increase", seq.TE.diff())
    check_fits("epg.mgre", "the last TE is longer than TR", seq.TR - seq.TE[-1])
    made = gre_readout(seq.flip[None], seq.TR, seq.TE[None], shift=0, spoil=True)
    return attach("epg.mgre", made, seq)
