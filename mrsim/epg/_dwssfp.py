"""Diffusion-weighted SSFP: the echo of unbalanced SSFP with a strong gradient."""

import torch
from torch import Tensor

from mrsim.epg._checks import check_fits, check_sequence
from mrsim.epg.blocks import Train, attach
from mrsim.epg.engine import run
from mrsim.epg.program import Event, Program
from mrsim.epg.steady import steady
from mrsim.tissue import Tissue
from mrsim.tree import record, static


@record
class DWSSFP(Train):
    """Unbalanced SSFP with one diffusion gradient in each TR, read as an echo."""

    flip: Tensor  # () flip angle [rad]
    TR: Tensor  # () repetition time [s]
    TE: Tensor  # () pulse to the reading of the echo, up to TR [s]
    delta: Tensor  # () length of the gradient, midway between pulse and reading [s]
    moment: Tensor  # () or (3,) γGδ of the gradient [rad/mm]
    states: int = static()  # orders kept, |k| < states


def dwssfp(tissue: Tissue, seq: DWSSFP) -> Tensor:
    """Simulate the echo of diffusion-weighted SSFP in its steady state.

    Each TR is a pulse, (TE - δ)/2, the gradient, (TE - δ)/2, the reading, TR - TE. All
    pathways that the orders kept allow are in, without the approximation of two
    transverse periods.

    Args:
        tissue: the voxel; ``D`` and ``v`` make the difference.
        seq: the sequence.

    Returns:
        () complex signal [units of M0].

    Raises:
        TypeError: a field is no floating tensor, or dtypes differ.
        ValueError: shapes or devices do not match, or times do not fit.

    Reference:
        Kaiser 1974 (J Chem Phys 60:2966); McNab & Miller 2010 (NMR Biomed 23:781).

    >>> from mrsim import Tissue, epg
    >>> from mrsim.units import deg, ms
    >>> seq = epg.DWSSFP(
    ...     flip=35 * deg, TR=40 * ms, TE=30 * ms, delta=8 * ms, moment=60.0, states=30
    ... )
    >>> echo = epg.dwssfp(Tissue(T1=1.0, T2=0.1, D=0.8e-3), seq)
    """
    program = dwssfp_program(seq)
    return run(tissue, program, steady(tissue, program))[0]


def dwssfp_program(seq: DWSSFP) -> Program:
    """Return the program of one repetition.

    Args:
        seq: the sequence.

    Returns:
        Its events.

    Raises:
        TypeError: a field is no floating tensor, or dtypes differ.
        ValueError: shapes or devices do not match, or times do not fit.

    >>> from mrsim import epg
    >>> seq = epg.DWSSFP(
    ...     flip=0.6, TR=0.04, TE=0.03, delta=0.008, moment=60.0, states=30
    ... )
    >>> program = epg.dwssfp_program(seq)
    >>> program.duration.sum(), program.moment
    (tensor(0.0400), tensor([60.]))
    """
    check_sequence("epg.dwssfp", seq)
    around, rest = (seq.TE - seq.delta) / 2, seq.TR - seq.TE
    check_fits("epg.dwssfp", "TE is shorter than delta", around)
    check_fits("epg.dwssfp", "TE is longer than TR", rest)
    flip = torch.cat([seq.flip[None], torch.zeros_like(seq.flip).expand(3)])
    layout = Event(pulse=True), Event(shift=1), Event(read=True), Event()
    made = Program(
        flip=flip,
        duration=torch.stack([around, seq.delta, around, rest]),
        layout=layout,
        states=seq.states,
        clock=(0, 1, 0, 2),
    )
    return attach("epg.dwssfp", made, seq)
