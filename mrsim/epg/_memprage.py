"""Multi-echo MPRAGE: several readings after each pulse of an MPRAGE train."""

from torch import Tensor

from mrsim.epg._checks import check_sequence
from mrsim.epg._inverted import before_train, inverted_train
from mrsim.epg._playing import repeated
from mrsim.epg.blocks import Train
from mrsim.epg.program import Program
from mrsim.tissue import Tissue
from mrsim.tree import neutral, record, static


@record
class MEMPRAGE(Train):
    """Inversion, a wait and a train of ideally spoiled multi-echo shots."""

    flip: Tensor  # (shot,) flip angles [rad]
    TR: Tensor  # () time between shots [s]
    TI: Tensor  # () inversion to the shot number `centre` [s]
    TE: Tensor  # (echo,) pulse to readings, increasing [s]
    efficiency: Tensor | None = neutral(1.0)  # () of the inversion, Z → -efficiency·Z
    cycle: Tensor | None = None  # () inversion to inversion [s]; None: one inversion
    centre: int = static(0)  # shot that lies at TI (0 is the first)
    repeats: int | None = static(1)  # inversions played; None: the steady state


def memprage(tissue: Tissue, seq: MEMPRAGE) -> Tensor:
    """Simulate a multi-echo MPRAGE train, every echo of every shot.

    From equilibrium: Z → -efficiency·Z, TI - centre·TR of recovery, then for each shot
    a pulse, readings at every TE, an ideal spoiler at TR. With ``repeats`` > 1 the
    whole is repeated every ``cycle``. The inversion does not scale with B1.

    Args:
        tissue: the voxel.
        seq: the sequence.

    Returns:
        (shot, echo) complex signal of the last repeat [units of M0]; -i times the
        positive signal of a magnetisation along +z.

    Raises:
        TypeError: a field is no floating tensor, or dtypes differ.
        ValueError: shapes or devices do not match, centre or repeats is no such
            number, times do not fit, or there is no cycle to repeat.

    Reference:
        van der Kouwe 2008 (NeuroImage 40:559).

    >>> from mrsim import Tissue, epg
    >>> from mrsim.units import deg, ms
    >>> echoes = [2 * ms, 4 * ms]
    >>> seq = epg.MEMPRAGE(flip=[9 * deg] * 3, TR=8 * ms, TE=echoes, TI=900 * ms)
    >>> epg.memprage(Tissue(T1=1.0, T2=0.1), seq).imag
    tensor([[-0.0287, -0.0281],
            [-0.0293, -0.0287],
            [-0.0299, -0.0293]])
    """
    signal = repeated("epg.memprage", tissue, memprage_program(seq), seq.repeats)
    return signal.unflatten(0, (len(seq.flip), len(seq.TE)))


def memprage_program(seq: MEMPRAGE) -> Program:
    """Return the program of one inversion, its train and the wait for the next.

    Args:
        seq: the sequence.

    Returns:
        Its events.

    Raises:
        TypeError: a field is no floating tensor, or dtypes differ.
        ValueError: shapes or devices do not match, centre or repeats is no such
            number, times do not fit, or there is no cycle to repeat.

    >>> from mrsim import epg
    >>> seq = epg.MEMPRAGE(flip=[0.16] * 3, TR=0.008, TE=[0.002, 0.004], TI=0.9)
    >>> sum(event.read for event in epg.memprage_program(seq).layout)
    6
    """
    where = "epg.memprage"
    shots = check_sequence(where, seq, flip="shot", TE="echo")["shot"]
    before = before_train(where, seq, shots)
    late = "the train ends after the cycle"
    return inverted_train(where, seq, seq.flip, seq.TE[None], before, late)
