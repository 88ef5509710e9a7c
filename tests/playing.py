"""Programs with any physics, played by the operators one by one."""

import math
from collections.abc import Iterator

import torch
from replay import phased
from torch import Tensor

from mrsim import Tissue, epg
from mrsim.epg.lineshape import absorption
from mrsim.epg.mixing import exchange, rest, saturate
from mrsim.epg.operators import invert
from mrsim.epg.transport import diffuse, flow, wash_out


def steps(tissue: Tissue, program: epg.Program) -> Iterator[tuple[int, epg.State]]:
    """Yield each row and the state after its wait; one gradient axis, without T2′."""
    program = phased(program)
    assert program.phase is not None
    B1 = torch.ones_like(tissue.T1) if tissue.B1 is None else tissue.B1
    state = rest(tissue)
    M0 = state.Z[..., 0].real
    for row, event in enumerate(program.layout):
        assert isinstance(event.shift, int)
        if event.pulse:
            state = epg.rf(state, B1 * program.flip[row], program.phase[row])
        elif event.invert:
            state = invert(state, _at(program, "efficiency", row, torch.ones(())))
        if tissue.bound is not None and (event.pulse or event.invert):
            W, x = _saturation(tissue, program, row, B1)
            state = saturate(state, W, x, dual=event.dual)
        time = program.duration[row]
        moment = _at(program, "moment", row, torch.zeros(()))
        if tissue.D is not None:
            state = diffuse(state, tissue.D, moment, time, event.shift)
        if tissue.v is not None:
            v = tissue.v if program.moment is not None else 0 * moment
            state = flow(state, v, moment, time, event.shift)
        state = exchange(state, tissue, time)
        if tissue.v is not None and program.thickness is not None:
            state = wash_out(state, tissue.v, program.thickness, M0, time)
        state = epg.shift(state, event.shift)
        yield row, state
        if event.spoil:
            state = epg.spoil(state)


def signal(tissue: Tissue, program: epg.Program) -> Tensor:
    """Return a program's signal."""
    demod = phased(program).demod
    assert demod is not None
    found = []
    for row, state in steps(tissue, program):
        if program.layout[row].read:
            F0 = state.F[..., state.F.shape[-1] // 2].sum()
            found.append(F0 * torch.exp(-1j * demod[row]))
    return torch.stack(found)


def _at(program: epg.Program, name: str, row: int, default: Tensor) -> Tensor:
    x = getattr(program, name)
    return default if x is None else x[row % len(x)]


def _saturation(
    tissue: Tissue, program: epg.Program, row: int, B1: Tensor
) -> tuple[Tensor, Tensor | None]:
    bound = tissue.bound
    assert bound is not None
    none = torch.zeros(())
    T2 = torch.zeros_like(bound.f) if bound.T2 is None else bound.T2
    f, T2 = torch.atleast_1d(bound.f), torch.atleast_1d(T2)
    offset = _at(program, "offset", row, none)
    W = _at(program, "saturation", row, none) + 0 * f
    if program.power is not None:
        G = absorption(offset, T2, bound.lineshape)
        power = program.power[row % len(program.power)][None]
        W = W + math.pi * power * (B1 * B1) * G
    if bound.T1D is None:
        return W, None
    return W, 2 * math.pi * math.sqrt(15) * (offset * T2)
