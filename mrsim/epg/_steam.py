"""Stimulated echo: three pulses, a mixing time between the last two (STEAM)."""

import math

import torch
from torch import Tensor

from mrsim.epg._checks import check_sequence
from mrsim.epg.blocks import Train, attach
from mrsim.epg.engine import run
from mrsim.epg.program import Event, Program
from mrsim.tissue import Tissue
from mrsim.tree import neutral, record


@record
class STEAM(Train):
    """A stimulated-echo acquisition."""

    TE: Tensor  # () echo time without the mixing time [s]
    TM: Tensor  # () mixing time, second to third pulse [s]
    flip: Tensor | None = None  # (3,) flip angles [rad]; None: 90° each
    moment: Tensor | None = neutral(0.0)  # () or (3,) of each half of TE [rad/mm]


def steam(tissue: Tissue, seq: STEAM) -> Tensor:
    r"""Simulate the stimulated echo of three pulses from equilibrium.

    Pulse, TE/2 with one unit of dephasing, pulse, TM with a crusher of three units,
    pulse, TE/2 with one unit, reading: S = M0/2 · Π sin(flip_i) · e^{-TE/T2 - TM/T1}.
    All other pathways are crushed. With a moment q per TE/2 the gradient is on all of
    TE/2 and b = q²·(TM + TE/3).

    Args:
        tissue: the voxel.
        seq: the sequence.

    Returns:
        () complex signal [units of M0], real and positive on resonance.

    Raises:
        TypeError: a field is no floating tensor, or dtypes differ.
        ValueError: shapes or devices do not match.

    Reference:
        Hahn 1950 (Phys Rev 80:580); Frahm 1985 (J Magn Reson 65:130).

    >>> from mrsim import Tissue, epg
    >>> from mrsim.units import ms
    >>> echo = epg.steam(Tissue(T1=1.0, T2=0.1), epg.STEAM(TE=20 * ms, TM=0.2))
    >>> echo.real
    tensor(0.3352)
    """
    return run(tissue, steam_program(seq))[0]


def steam_program(seq: STEAM) -> Program:
    """Return the program of a stimulated echo.

    Args:
        seq: the sequence.

    Returns:
        Its events.

    Raises:
        TypeError: a field is no floating tensor, or dtypes differ.
        ValueError: shapes or devices do not match.

    >>> from mrsim import Tissue, epg
    >>> program = epg.steam_program(epg.STEAM(TE=0.02, TM=0.2))
    >>> epg.run(Tissue(T1=1.0, T2=0.1), program).real
    tensor([0.3352])
    """
    pulses = check_sequence("epg.steam", seq, flip="pulse").get("pulse", 3)
    if pulses != 3:
        raise ValueError(f"epg.steam: flip must have shape (3,), got ({pulses},)")
    flip = seq.flip
    if flip is None:
        flip = torch.full_like(seq.TE.expand(3), math.pi / 2)
    made = Program(
        flip=flip,
        duration=torch.stack([seq.TE / 2, seq.TM, seq.TE / 2]),
        layout=_LAYOUT,
        clock=(0, 1, 0),
    )
    return attach("epg.steam", made, seq)


_LAYOUT = (
    Event(pulse=True, quadrant=1, shift=1),
    Event(pulse=True, quadrant=1, shift=3),
    Event(pulse=True, quadrant=3, shift=1, read=True),
)
