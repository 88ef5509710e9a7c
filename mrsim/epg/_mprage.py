"""Magnetisation-prepared rapid gradient echo: MPRAGE and MPnRAGE."""

from torch import Tensor

from mrsim.epg._checks import check_sequence
from mrsim.epg._inverted import before_train, inverted_train
from mrsim.epg._playing import repeated
from mrsim.epg.blocks import Train
from mrsim.epg.program import Program
from mrsim.tissue import Tissue
from mrsim.tree import neutral, record, static


@record
class MPRAGE(Train):
    """Inversion, a wait and a train of ideally spoiled gradient echoes."""

    flip: Tensor  # (shot,) flip angles [rad]
    TR: Tensor  # () time between shots [s]
    TI: Tensor  # () inversion to the shot number `centre` [s]
    TE: Tensor | None = neutral(0.0)  # () pulse to reading [s]
    efficiency: Tensor | None = neutral(1.0)  # () of the inversion, Z → -efficiency·Z
    cycle: Tensor | None = None  # () inversion to inversion [s]; None: one inversion
    centre: int = static(0)  # shot that lies at TI (0 is the first)
    repeats: int | None = static(1)  # inversions played; None: the steady state


def mprage(tissue: Tissue, seq: MPRAGE) -> Tensor:
    """Simulate an MPRAGE train, every shot of it (MPnRAGE).

    From equilibrium: Z → -efficiency·Z, TI - centre·TR of recovery, then for each shot
    pulse, TE, reading, TR - TE and an ideal spoiler. With ``repeats`` > 1 the whole is
    repeated every ``cycle``. The inversion does not scale with B1.

    Args:
        tissue: the voxel.
        seq: the sequence.

    Returns:
        (shot,) complex signal of the last repeat [units of M0]; -i times the positive
        signal of a magnetisation along +z.

    Raises:
        TypeError: a field is no floating tensor, or dtypes differ.
        ValueError: shapes or devices do not match, centre or repeats is no such
            number, times do not fit, or there is no cycle to repeat.

    Reference:
        Mugler & Brookeman 1990 (MRM 15:152); Kecskemeti 2016 (MRM 75:1040).

    >>> from mrsim import Tissue, epg
    >>> from mrsim.units import deg, ms
    >>> seq = epg.MPRAGE(flip=[9 * deg] * 3, TR=8 * ms, TI=900 * ms, centre=1)
    >>> epg.mprage(Tissue(T1=1.0, T2=0.1), seq).imag
    tensor([-0.0282, -0.0289, -0.0296])
    """
    return repeated("epg.mprage", tissue, mprage_program(seq), seq.repeats)


def mprage_program(seq: MPRAGE) -> Program:
    """Return the program of one inversion, its train and the wait for the next.

    Args:
        seq: the sequence.

    Returns:
        Its events.

    Raises:
        TypeError: a field is no floating tensor, or dtypes differ.
        ValueError: shapes or devices do not match, centre or repeats is no such
            number, times do not fit, or there is no cycle to repeat.

    >>> from mrsim import Tissue, epg
    >>> seq = epg.MPRAGE(flip=[0.16] * 3, TR=0.008, TI=0.9, centre=1)
    >>> epg.run(Tissue(T1=1.0, T2=0.1), epg.mprage_program(seq)).imag
    tensor([-0.0287, -0.0294, -0.0301])
    """
    where = "epg.mprage"
    shots = check_sequence(where, seq, flip="shot")["shot"]
    before = before_train(where, seq, shots)
    late = "the train ends after the cycle"
    return inverted_train(where, seq, seq.flip, seq.TE, before, late)
