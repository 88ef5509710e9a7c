"""The isochromat twin of `mrsim.epg`: the same Program, spin by spin.

An independent check: magnetisation vectors at N positions along the gradient, with
plain rotations and no configuration states. With N larger than twice the largest order
the average over positions is exact.
"""

import math

import torch
from torch import Tensor

from mrsim.epg.program import Event, Program, checked
from mrsim.tissue import Tissue


def run(tissue: Tissue, program: Program, spins: int | None = None) -> Tensor:
    """Simulate a program with isochromats in one voxel.

    dM/dt = M × γB - relaxation for each position z_n = 2π n / N, the unit shift turning
    M+ by z_n over a wait; the signal is the mean of M+ e^{-i demod}.

    Args:
        tissue: the voxel.
        program: the sequence; its ``states`` must be ``None``.
        spins: number N of isochromats; by default the smallest exact one.

    Returns:
        (reading,) complex signal [units of M0].

    Raises:
        TypeError: a field is no floating tensor, or dtypes differ.
        ValueError: shapes or devices do not match, or the program is truncated.

    >>> from mrsim import Tissue, bloch, epg
    >>> from mrsim.units import deg, ms
    >>> train = epg.fse_program(epg.FSE(flip=[180 * deg] * 2, esp=10 * ms))
    >>> bloch.run(Tissue(T1=1.0, T2=0.1), train).real
    tensor([0.9048, 0.8187])
    """
    checked("bloch.run", tissue, program)
    if program.states is not None:
        raise ValueError(
            f"bloch.run: isochromats cannot drop orders, but the program keeps only"
            f" {program.states}; give it states=None"
        )
    total = sum(abs(event.shift) for event in program.layout)
    count = 2 * total + 1 if spins is None else spins
    like = program.flip
    z = torch.arange(count, dtype=like.dtype, device=like.device) * (
        2 * math.pi / count
    )
    rest = torch.ones_like(tissue.T1) if tissue.M0 is None else tissue.M0
    M = torch.zeros_like(z), torch.zeros_like(z), rest.expand(count)
    found = []
    for row, event in enumerate(program.layout):
        M = _operate(M, tissue, program, row, event)
        M = _wait(M, tissue, rest, program.duration[row], event.shift * z)
        if event.read:
            found.append(_read(M, program, row, event))
        if event.spoil:
            M = _spoil(M)
    none = torch.complex(rest, rest).new_zeros(0)
    return torch.stack(found) if found else none


Vector = tuple[Tensor, Tensor, Tensor]


def _operate(
    M: Vector, tissue: Tissue, program: Program, row: int, event: Event
) -> Vector:
    x, y, z = M
    if event.invert:
        full = torch.ones_like(tissue.T1)
        share = full if program.efficiency is None else program.efficiency[row]
        return torch.zeros_like(x), torch.zeros_like(y), -share * z
    if not event.pulse:
        return M
    flip = program.flip[row] if tissue.B1 is None else program.flip[row] * tissue.B1
    c, s = _quarter(
        event.quadrant, None if program.phase is None else program.phase[row], flip
    )
    along, across = c * x + s * y, c * y - s * x
    across, z = (
        flip.cos() * across - flip.sin() * z,
        flip.sin() * across + flip.cos() * z,
    )
    return c * along - s * across, s * along + c * across, z


def _quarter(
    quadrant: int, phase: Tensor | None, like: Tensor
) -> tuple[Tensor, Tensor]:
    """Return cos and sin of quadrant·90° + phase."""
    angle = torch.zeros_like(like) if phase is None else phase
    angle = angle + torch.full_like(angle, quadrant * math.pi / 2)
    return angle.cos(), angle.sin()


def _wait(
    M: Vector, tissue: Tissue, rest: Tensor, time: Tensor, turn: Tensor
) -> Vector:
    x, y, z = M
    if tissue.df is not None:
        turn = turn + 2 * math.pi * time[None] * tissue.df
    decay = torch.exp(-time / tissue.T2)
    c, s = decay * turn.cos(), decay * turn.sin()
    lost = -torch.expm1(-time / tissue.T1)
    return c * x - s * y, s * x + c * y, z + lost * (rest - z)


def _read(M: Vector, program: Program, row: int, event: Event) -> Tensor:
    x, y = M[0].mean(), M[1].mean()
    demod = None if program.demod is None else program.demod[row]
    c, s = _quarter(event.receiver, demod, x)
    return torch.complex(c * x + s * y, c * y - s * x)


def _spoil(M: Vector) -> Vector:
    still = torch.zeros_like(M[0])
    return still, still, M[2].mean().expand(M[2].shape)
