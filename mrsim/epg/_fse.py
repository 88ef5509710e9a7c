"""Fast spin echo: a CPMG train with any refocusing flips and phases."""

import math
from functools import lru_cache

import torch
from torch import Tensor

from mrsim._check import check_floats, check_shapes
from mrsim.epg.engine import run
from mrsim.epg.program import Event, Layout, Program, check_count
from mrsim.tissue import Tissue
from mrsim.tree import neutral, record, static


@record
class FSE:
    """A fast-spin-echo train (CPMG, RARE, TSE)."""

    flip: Tensor  # (echo,) refocusing flip angles [rad]
    esp: Tensor  # () echo spacing [s]
    phase: Tensor | None = neutral(0.0, like="flip")  # (echo,) from +x [rad]
    excitation: Tensor | None = neutral(math.pi / 2)  # () flip angle about +y [rad]
    states: int | None = static(None)  # orders kept; None: all that matter, exact


def fse(tissue: Tissue, seq: FSE) -> Tensor:
    """Simulate a fast-spin-echo train from equilibrium.

    Excitation about +y, refocusing about +x (Carr–Purcell–Meiboom–Gill condition), one
    unit of dephasing in each half of the echo spacing; echo n is read at n·esp. With
    180° pulses S_n = M0·sin(excitation)·exp(-n·esp/T2). Flips scale with B1.

    Args:
        tissue: the voxel.
        seq: the train.

    Returns:
        (echo,) complex signal [units of M0]; CPMG echoes are real and positive.

    Raises:
        TypeError: a field is no floating tensor, or dtypes differ.
        ValueError: shapes or devices do not match.

    Reference:
        Hennig 1988 (J Magn Reson 78:397); Weigel 2015 (JMRI 41:266), eqs. 15–25.

    >>> import mrsim
    >>> from mrsim import epg
    >>> from mrsim.units import deg, ms
    >>> train = epg.FSE(flip=[180 * deg] * 3, esp=10 * ms)
    >>> epg.fse(mrsim.Tissue(T1=1.0, T2=100 * ms), train).real
    tensor([0.9048, 0.8187, 0.7408])
    """
    return run(tissue, fse_program(seq))


def fse_program(seq: FSE) -> Program:
    """Return the program of a fast-spin-echo train.

    Args:
        seq: the train.

    Returns:
        Its events.

    Raises:
        TypeError: a field is no floating tensor, or dtypes differ.
        ValueError: shapes or devices do not match.
    """
    fields = {"flip": seq.flip, "esp": seq.esp, "phase": seq.phase}
    check_floats("epg.fse", **fields, excitation=seq.excitation)
    shapes = {"flip": "echo", "esp": "", "phase": "echo", "excitation": ""}
    check_shapes("epg.fse", seq, **shapes)
    echoes = check_count("epg.fse", seq.flip)
    if seq.excitation is None:
        first = torch.full_like(seq.flip[:1], math.pi / 2)
    else:
        first = seq.excitation[None]
    still = torch.zeros_like(first)
    return Program(
        flip=torch.cat([first, _interleave(seq.flip)]),
        duration=(seq.esp / 2).expand(2 * echoes + 1),
        phase=None if seq.phase is None else torch.cat([still, _interleave(seq.phase)]),
        layout=_layout(echoes),
        states=seq.states,
    )


@lru_cache
def _layout(echoes: int) -> Layout:
    excite = Event(pulse=True, quadrant=1, shift=1)
    refocus = Event(pulse=True, shift=1, read=True)
    return (excite, *(refocus, Event(shift=1)) * echoes)


def _interleave(values: Tensor) -> Tensor:
    """Put each echo's value in its pulse row and zero in the row after."""
    return torch.stack([values, torch.zeros_like(values)], 1).flatten()
