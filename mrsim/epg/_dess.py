"""Double-echo steady state: the FID and the echo of unbalanced SSFP."""

import torch
from torch import Tensor

from mrsim.epg._checks import check_fits, check_sequence
from mrsim.epg.blocks import Train, attach
from mrsim.epg.engine import run
from mrsim.epg.program import Event, Program
from mrsim.epg.steady import steady
from mrsim.tissue import Tissue
from mrsim.tree import neutral, record, static


@record
class DESS(Train):
    """Unbalanced SSFP with a reading on each side of the spoiler."""

    flip: Tensor  # () flip angle [rad]
    TR: Tensor  # () repetition time [s]
    TE: Tensor  # () pulse to FID, and echo to pulse [s]
    moment: Tensor | None = neutral(0.0)  # () or (3,) of the spoiler [rad/mm]
    states: int = static()  # orders kept, |k| < states


def dess(tissue: Tissue, seq: DESS) -> Tensor:
    """Simulate the two signals of a double-echo steady state.

    Each TR is a pulse, TE, the FID, one unit of dephasing in TR - 2·TE, the echo, TE.
    The steady state is that of the orders kept; it converges as the exponential of
    -states·TR/T2, or of the attenuation by diffusion.

    Args:
        tissue: the voxel.
        seq: the sequence.

    Returns:
        (2,) complex signals, FID and echo [units of M0].

    Raises:
        TypeError: a field is no floating tensor, or dtypes differ.
        ValueError: shapes or devices do not match, or TR is shorter than 2·TE.

    Reference:
        Gyngell 1988 (Magn Reson Imaging 6:415); Welsch 2009 (MRM 62:544).

    >>> from mrsim import Tissue, epg
    >>> from mrsim.units import deg, ms
    >>> seq = epg.DESS(flip=30 * deg, TR=20 * ms, TE=5 * ms, states=40)
    >>> epg.dess(Tissue(T1=1.0, T2=0.1), seq).abs()
    tensor([0.1142, 0.0758])
    """
    program = dess_program(seq)
    return run(tissue, program, steady(tissue, program))


def dess_program(seq: DESS) -> Program:
    """Return the program of one repetition.

    Args:
        seq: the sequence.

    Returns:
        Its events.

    Raises:
        TypeError: a field is no floating tensor, or dtypes differ.
        ValueError: shapes or devices do not match, or TR is shorter than 2·TE.

    >>> from mrsim import Tissue, epg
    >>> seq = epg.DESS(flip=0.5, TR=0.02, TE=0.005, states=40)
    >>> epg.run(Tissue(T1=1.0, T2=0.1), epg.dess_program(seq)).abs()  # from rest
    tensor([0.4560, 0.0000])
    """
    check_sequence("epg.dess", seq)
    middle = seq.TR - 2 * seq.TE
    check_fits("epg.dess", "TR is shorter than 2·TE", middle)
    still = torch.zeros_like(seq.flip)
    layout = Event(pulse=True, read=True), Event(shift=1, read=True), Event()
    made = Program(
        flip=torch.stack([seq.flip, still, still]),
        duration=torch.stack([seq.TE, middle, seq.TE]),
        layout=layout,
        states=seq.states,
        clock=(0, 1, 0),
    )
    return attach("epg.dess", made, seq)
