"""Fast spin echo: CPMG trains with any refocusing flips and phases."""

import math

from torch import Tensor

from mrsim.epg._checks import check_fits, check_sequence
from mrsim.epg._playing import repeated
from mrsim.epg._readouts import fse_readout
from mrsim.epg.blocks import Train, attach, concat, wait
from mrsim.epg.program import Program
from mrsim.tissue import Tissue
from mrsim.tree import neutral, record, replace, static


@record
class FSE(Train):
    """A fast-spin-echo train (CPMG, RARE, TSE), once or every TR."""

    flip: Tensor  # (echo,) refocusing flip angles [rad]
    esp: Tensor  # () echo spacing [s]
    phase: Tensor | None = neutral(0.0, like="flip")  # (echo,) from +x [rad]
    excitation: Tensor | None = neutral(math.pi / 2)  # () flip angle about +y [rad]
    TR: Tensor | None = None  # () excitation to excitation [s]; None: one train
    moment: Tensor | None = neutral(0.0)  # () or (3,) of half an esp [rad/mm]
    repeats: int | None = static(1)  # trains played; None: the steady state
    spoil: bool = static(default=False)  # an ideal spoiler ends each TR
    states: int | None = static(None)  # orders kept; None: all that matter, exact


def fse(tissue: Tissue, seq: FSE) -> Tensor:
    """Simulate a fast-spin-echo train from equilibrium, or the last of many.

    Excitation about +y, refocusing about +x (Carr–Purcell–Meiboom–Gill condition), one
    unit of dephasing in each half of the echo spacing; echo n is read at n·esp. With
    180° pulses S_n = M0·sin(excitation)·exp(-n·esp/T2). Flips scale with B1. Between
    the last echo and the next excitation no gradient is on.

    Args:
        tissue: the voxel.
        seq: the train.

    Returns:
        (echo,) complex signal of the last train [units of M0]; CPMG echoes are real and
        positive.

    Raises:
        TypeError: a field is no floating tensor, or dtypes differ.
        ValueError: shapes or devices do not match, repeats is no such number or has no
            TR, or the train is longer than TR.

    Reference:
        Hennig 1988 (J Magn Reson 78:397); Weigel 2015 (JMRI 41:266), eqs. 15–25.

    >>> import mrsim
    >>> from mrsim import epg
    >>> from mrsim.units import deg, ms
    >>> train = epg.FSE(flip=[180 * deg] * 3, esp=10 * ms)
    >>> epg.fse(mrsim.Tissue(T1=1.0, T2=100 * ms), train).real
    tensor([0.9048, 0.8187, 0.7408])
    """
    return repeated("epg.fse", tissue, fse_program(seq), seq.repeats)


def fse_program(seq: FSE) -> Program:
    """Return the program of one train, up to its last echo or, with a TR, its end.

    Args:
        seq: the train.

    Returns:
        Its events.

    Raises:
        TypeError: a field is no floating tensor, or dtypes differ.
        ValueError: shapes or devices do not match, repeats have no TR, or the train is
            longer than TR.

    >>> from mrsim import Tissue, bloch, epg
    >>> program = epg.fse_program(epg.FSE(flip=[2.0] * 3, esp=0.01))
    >>> tissue = Tissue(T1=1.0, T2=0.1)
    >>> epg.run(tissue, program).real, bloch.run(tissue, program).real
    (tensor([0.6407, 0.7808, 0.6297]), tensor([0.6407, 0.7808, 0.6297]))
    """
    check_sequence("epg.fse", seq, flip="echo", phase="echo")
    made = fse_readout(seq.flip, seq.esp, phase=seq.phase, excitation=seq.excitation)
    if seq.TR is None:
        if seq.repeats != 1:
            raise ValueError(
                f"epg.fse: repeats={seq.repeats!r} needs the time from excitation to"
                f" excitation; give TR [s]"
            )
    else:
        rest = seq.TR - len(seq.flip) * seq.esp
        check_fits("epg.fse", "the train is longer than TR", rest)
        made = concat(made, wait(rest, spoil=seq.spoil))
    made = attach("epg.fse", made, seq)
    return made if seq.states is None else replace(made, states=seq.states)
