"""T1–T2 shuffling: fast-spin-echo trains with several repetition times."""

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
class Shuffling(Train):
    """A cycle of fast-spin-echo trains, each after a recovery of its own."""

    flip: Tensor  # (echo,) refocusing flip angles [rad]
    esp: Tensor  # () echo spacing [s]
    TR: Tensor  # (train,) time given to each train, its recovery first [s]
    phase: Tensor | None = neutral(0.0, like="flip")  # (echo,) from +x [rad]
    excitation: Tensor | None = neutral(math.pi / 2)  # () flip angle about +y [rad]
    moment: Tensor | None = neutral(0.0)  # () or (3,) of half an esp [rad/mm]
    repeats: int | None = static(None)  # cycles from equilibrium; None: steady state
    states: int | None = static(None)  # orders kept; None: all that matter, exact


def shuffling(tissue: Tissue, seq: Shuffling) -> Tensor:
    """Simulate T1–T2 shuffling: every echo of every train.

    A train is as in `fse`; an ideal spoiler follows it, then TR minus the train's
    length of recovery leads to the next. Row j tells of the recovery TR[j].

    Args:
        tissue: the voxel.
        seq: the sequence.

    Returns:
        (train, echo) complex signal of the last cycle [units of M0].

    Raises:
        TypeError: a field is no floating tensor, or dtypes differ.
        ValueError: shapes or devices do not match, repeats is no such number, or a TR
            is shorter than the train.

    Reference:
        Tamir 2017 (MRM 77:180) for the trains, with several TR for T1.

    >>> from mrsim import Tissue, epg
    >>> from mrsim.units import deg, ms
    >>> seq = epg.Shuffling(flip=[180 * deg] * 2, esp=10 * ms, TR=[0.5, 2.0])
    >>> epg.shuffling(Tissue(T1=1.0, T2=0.1), seq).real
    tensor([[0.3449, 0.3121],
            [0.7799, 0.7057]])
    """
    signal = repeated("epg.shuffling", tissue, shuffling_program(seq), seq.repeats)
    return signal.unflatten(0, (len(seq.TR), len(seq.flip)))


def shuffling_program(seq: Shuffling) -> Program:
    """Return the program of one cycle.

    Args:
        seq: the sequence.

    Returns:
        Its events.

    Raises:
        TypeError: a field is no floating tensor, or dtypes differ.
        ValueError: shapes or devices do not match, or a TR is shorter than the train.

    >>> from mrsim import epg
    >>> seq = epg.Shuffling(flip=[3.0] * 2, esp=0.01, TR=[0.5, 2.0])
    >>> epg.shuffling_program(seq).duration.sum()  # both TRs
    tensor(2.5000)
    """
    check_sequence("epg.shuffling", seq, flip="echo", phase="echo", TR="train")
    pulses = {"phase": seq.phase, "excitation": seq.excitation}
    train = fse_readout(seq.flip, seq.esp, **pulses, spoil=True)
    rest = seq.TR - len(seq.flip) * seq.esp
    check_fits("epg.shuffling", "a TR is shorter than the train", rest)
    parts = [part for recovery in rest for part in (wait(recovery), train)]
    made = attach("epg.shuffling", concat(*parts), seq)
    return replace(made, states=seq.states)
