"""Inversion-recovery FISP: the gradient-spoiled fingerprinting sequence."""

from functools import lru_cache

import torch
from torch import Tensor

from mrsim._check import check_floats, check_shapes
from mrsim.epg.engine import run
from mrsim.epg.program import Event, Layout, Program, check_count
from mrsim.tissue import Tissue
from mrsim.tree import neutral, record, static


@record
class FISP:
    """A train of unbalanced gradient echoes, with or without an inversion before it."""

    flip: Tensor  # (pulse,) flip angles [rad]
    TR: Tensor  # (pulse,) or () repetition times [s]
    TE: Tensor | None = neutral(0.0)  # (pulse,) or () pulse to reading [s]
    phase: Tensor | None = neutral(0.0, like="flip")  # (pulse,) RF phase from +x [rad]
    TI: Tensor | None = None  # () inversion to first pulse [s]; None: no inversion
    efficiency: Tensor | None = neutral(1.0)  # () of the inversion, Z → -efficiency·Z
    states: int | None = static(None)  # orders kept; None: all that matter, exact


def fisp(tissue: Tissue, seq: FISP) -> Tensor:
    """Simulate a (inversion-recovery) FISP train from equilibrium.

    Each repetition is pulse, TE, reading (demodulated with the RF phase), TR - TE and
    one unit of dephasing. The inversion is crushed and does not scale with B1.

    Args:
        tissue: the voxel.
        seq: the train.

    Returns:
        (pulse,) complex signal [units of M0]; with phase 0, on resonance, -i times the
        positive real signal of a magnetisation along +z.

    Raises:
        TypeError: a field is no floating tensor, or dtypes differ.
        ValueError: shapes or devices do not match.

    Reference:
        Jiang 2015 (MRM 74:1621); Weigel 2015 (JMRI 41:266).

    >>> from mrsim import Tissue, epg
    >>> from mrsim.units import deg, ms
    >>> seq = epg.FISP(flip=[10 * deg] * 3, TR=12 * ms, TI=20 * ms)
    >>> epg.fisp(Tissue(T1=1.0, T2=0.1), seq).imag
    tensor([0.1668, 0.1602, 0.1528])
    """
    return run(tissue, fisp_program(seq))


def fisp_program(seq: FISP) -> Program:
    """Return the program of a FISP train.

    Args:
        seq: the train.

    Returns:
        Its events.

    Raises:
        TypeError: a field is no floating tensor, or dtypes differ.
        ValueError: shapes or devices do not match.
    """
    names = ("flip", "TR", "TE", "phase", "TI", "efficiency")
    check_floats("epg.fisp", **{n: getattr(seq, n) for n in names})
    shapes = {n: "pulse" for n in ("TR", "TE") if _per_pulse(getattr(seq, n))}
    check_shapes(
        "epg.fisp", seq, flip="pulse", phase="pulse", TI="", efficiency="", **shapes
    )
    pulses = check_count("epg.fisp", seq.flip)
    TR = seq.TR.expand(pulses)
    TE = torch.zeros_like(TR) if seq.TE is None else seq.TE.expand(TR.shape)
    flip, duration = _rows(seq.flip, seq.flip * 0), _rows(TE, TR - TE)
    phase = None if seq.phase is None else _rows(seq.phase, seq.phase)
    efficiency = None
    if seq.TI is not None:
        still = torch.zeros_like(flip[:1])
        flip, duration = torch.cat([still, flip]), torch.cat([seq.TI[None], duration])
        phase = None if phase is None else torch.cat([still, phase])
        if seq.efficiency is not None:
            efficiency = seq.efficiency.expand(flip.shape)
    return Program(
        flip=flip,
        duration=duration,
        phase=phase,
        demod=phase,
        efficiency=efficiency,
        layout=_layout(pulses, seq.TI is not None),
        states=seq.states,
    )


def _per_pulse(value: Tensor | None) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0


def _rows(first: Tensor, second: Tensor) -> Tensor:
    return torch.stack([first, second], 1).flatten()


@lru_cache
def _layout(pulses: int, inverted: bool) -> Layout:
    start = (Event(invert=True),) * inverted
    return start + (Event(pulse=True, read=True), Event(shift=1)) * pulses
