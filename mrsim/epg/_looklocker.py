"""Look-Locker: a relaxation curve sampled by small pulses after one inversion."""

from torch import Tensor

from mrsim.epg._checks import check_sequence, check_whole
from mrsim.epg._inverted import inverted_train
from mrsim.epg._playing import repeated
from mrsim.epg.blocks import Train
from mrsim.epg.program import Program
from mrsim.tissue import Tissue
from mrsim.tree import neutral, record, static


@record
class LookLocker(Train):
    """An inversion and equal, ideally spoiled pulses that watch the recovery."""

    flip: Tensor  # () flip angle [rad]
    TR: Tensor  # () time between pulses [s]
    TI: Tensor  # () inversion to the first pulse [s]
    TE: Tensor | None = neutral(0.0)  # () pulse to reading [s]
    efficiency: Tensor | None = neutral(1.0)  # () of the inversion, Z → -efficiency·Z
    cycle: Tensor | None = None  # () inversion to inversion [s]; None: one inversion
    pulses: int = static()  # after each inversion
    repeats: int | None = static(1)  # inversions played; None: the steady state


def look_locker(tissue: Tissue, seq: LookLocker) -> Tensor:
    """Simulate a Look-Locker train.

    Before its pulse n = 0, 1, … the magnetisation is M∞ + (M_0 - M∞)·(E1 cos flip)ⁿ
    with M∞ = M0 (1 - E1)/(1 - E1 cos flip), E1 = e^{-TR/T1}: it approaches M∞ with
    1/T1* = 1/T1 - ln(cos flip)/TR. The inversion does not scale with B1.

    Args:
        tissue: the voxel.
        seq: the sequence.

    Returns:
        (pulse,) complex signal of the last repeat [units of M0]; -i times the positive
        signal of a magnetisation along +z.

    Raises:
        TypeError: a field is no floating tensor, or dtypes differ.
        ValueError: shapes or devices do not match, pulses or repeats is no such
            number, the train is longer than the cycle, or there is no cycle to repeat.

    Reference:
        Look & Locker 1970 (Rev Sci Instrum 41:250); Kaptein 1976 (J Magn Reson 24:295).

    >>> from mrsim import Tissue, epg
    >>> from mrsim.units import deg, ms
    >>> seq = epg.LookLocker(flip=8 * deg, TR=0.3, TI=20 * ms, pulses=4)
    >>> epg.look_locker(Tissue(T1=1.0, T2=0.1), seq).imag
    tensor([ 0.1337,  0.0620,  0.0094, -0.0292])
    """
    where = "epg.look_locker"
    return repeated(where, tissue, look_locker_program(seq), seq.repeats)


def look_locker_program(seq: LookLocker) -> Program:
    """Return the program of one inversion, its pulses and the wait for the next.

    Args:
        seq: the sequence.

    Returns:
        Its events.

    Raises:
        TypeError: a field is no floating tensor, or dtypes differ.
        ValueError: shapes or devices do not match, pulses is no such number, the train
            is longer than the cycle, or there is no cycle to repeat.

    >>> from mrsim import Tissue, epg
    >>> seq = epg.LookLocker(flip=0.14, TR=0.3, TI=0.02, pulses=4)
    >>> epg.run(Tissue(T1=1.0, T2=0.1), epg.look_locker_program(seq)).imag
    tensor([ 0.1340,  0.0621,  0.0094, -0.0293])
    """
    where = "epg.look_locker"
    check_sequence(where, seq)
    check_whole(where, "pulses", seq.pulses)
    flips = seq.flip.expand(seq.pulses)
    late = "the pulses end after the cycle"
    return inverted_train(where, seq, flips, seq.TE, seq.TI, late)
