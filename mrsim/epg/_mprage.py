"""Magnetisation-prepared rapid gradient echo: MPRAGE and its relatives."""

from functools import lru_cache

import torch
from torch import Tensor

from mrsim._check import check_floats, check_shapes
from mrsim.epg.engine import run
from mrsim.epg.program import Event, Layout, Program, check_count
from mrsim.tissue import Tissue
from mrsim.tree import neutral, record, static

_FIELDS = ("flip", "TR", "TI", "TE", "efficiency", "cycle")


@record
class MPRAGE:
    """Inversion, a wait and a train of ideally spoiled gradient echoes."""

    flip: Tensor  # (shot,) flip angles [rad]
    TR: Tensor  # () time between shots [s]
    TI: Tensor  # () inversion to the shot number `centre` [s]
    TE: Tensor | None = neutral(0.0)  # () pulse to reading [s]
    efficiency: Tensor | None = neutral(1.0)  # () of the inversion, Z → -efficiency·Z
    cycle: Tensor | None = None  # () inversion to inversion [s]; None: one inversion
    centre: int = static(0)  # shot that lies at TI (0 is the first)
    repeats: int = static(1)  # inversions played; readings are those of the last


def mprage(tissue: Tissue, seq: MPRAGE) -> Tensor:
    """Simulate an MPRAGE train.

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
            number, or repeats > 1 without a cycle.

    Reference:
        Mugler & Brookeman 1990 (MRM 15:152).

    >>> from mrsim import Tissue, epg
    >>> from mrsim.units import deg, ms
    >>> seq = epg.MPRAGE(flip=[9 * deg] * 3, TR=8 * ms, TI=900 * ms, centre=1)
    >>> epg.mprage(Tissue(T1=1.0, T2=0.1), seq).imag
    tensor([-0.0282, -0.0289, -0.0296])
    """
    check_floats("epg.mprage", **{n: getattr(seq, n) for n in _FIELDS})
    scalars = dict.fromkeys(("TR", "TI", "TE", "efficiency", "cycle"), "")
    check_shapes("epg.mprage", seq, flip="shot", **scalars)
    shots = check_count("epg.mprage", seq.flip)
    if seq.centre not in range(shots):
        raise ValueError(
            f"epg.mprage: centre must be one of the {shots} shots, 0 to {shots - 1},"
            f" got {seq.centre!r}"
        )
    if not isinstance(seq.repeats, int) or seq.repeats < 1:
        raise ValueError(
            f"epg.mprage: repeats must be a whole number of at least 1, got"
            f" {seq.repeats!r}"
        )
    if seq.repeats > 1 and seq.cycle is None:
        raise ValueError(
            f"epg.mprage: {seq.repeats} repeats need the time from inversion to"
            f" inversion; give cycle [s]"
        )
    TE = torch.zeros_like(seq.TR) if seq.TE is None else seq.TE
    before = seq.TI - seq.centre * seq.TR
    waits = torch.stack([TE, seq.TR - TE]).repeat(shots)
    after = before if seq.cycle is None else seq.cycle - before - shots * seq.TR
    duration = torch.cat([before[None], waits, after[None]]).repeat(seq.repeats)
    train = torch.stack([seq.flip, torch.zeros_like(seq.flip)], 1).flatten()
    still = torch.zeros_like(seq.flip[:1])
    flip = torch.cat([still, train, still]).repeat(seq.repeats)
    efficiency = None
    if seq.efficiency is not None:
        efficiency = seq.efficiency.expand(flip.shape)
    program = Program(
        flip=flip,
        duration=duration,
        efficiency=efficiency,
        layout=_layout(shots, seq.repeats),
    )
    return run(tissue, program)


@lru_cache
def _layout(shots: int, repeats: int) -> Layout:
    def one(*, read: bool) -> Layout:
        shot = Event(pulse=True, read=read), Event(spoil=True)
        return (Event(invert=True), *shot * shots, Event())

    return one(read=False) * (repeats - 1) + one(read=True)
