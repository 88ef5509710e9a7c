"""What a truncation costs: a bound on the error of every reading."""

import math
from bisect import bisect_right
from itertools import accumulate

import torch
from torch import Tensor

from mrsim.epg.inputs import checked
from mrsim.epg.lineshape import absorption
from mrsim.epg.mixing import exchange, rest, saturate
from mrsim.epg.operators import invert, precess, relax, rf, shift, spoil
from mrsim.epg.program import Event, Program
from mrsim.epg.state import State
from mrsim.epg.transport import diffuse, flow, wash_out
from mrsim.tissue import Bound, Tissue

_QUARTER = math.pi / 2


def truncation_error(tissue: Tissue, program: Program) -> Tensor:
    r"""Bound the error that ``program.states`` leaves in each reading.

    |S - S_exact| ≤ ‖J‖ · (Σ_i ‖dropped_i‖²)^½. What the shifts i drop (|k| ≥ states)
    lives on outside. In ‖·‖² = Σ_p Σ_k (|F_pk|² + |Z_pk|²)/M_p pulses are unitary
    there, and relaxation, exchange (by detailed balance), saturation, diffusion and
    wash-out contract, so that what flows back inside has at most this energy in total.
    J is the reading's derivative with respect to all that could flow back. Drops that
    are fewer shifts than ``states`` away from the reading do not count.

    The bound is rigorous for waits that are not negative and efficiencies up to 1. It
    is 5 to 30 times the error where that is largest, and costs a Jacobian with a row
    for each reading.

    Args:
        tissue: the voxel.
        program: the sequence; with ``states=None`` nothing is dropped.

    Returns:
        (reading,) upper bound of the error's modulus [units of M0].

    Raises:
        TypeError: a field is no floating tensor, or dtypes differ.
        ValueError: shapes or devices do not match, or pools have a D or v of their own.

    >>> from mrsim import Tissue, epg
    >>> from mrsim.units import deg, ms
    >>> train = epg.FSE(flip=[120 * deg] * 32, esp=10 * ms, states=20)
    >>> epg.truncation_error(Tissue(T1=1.0, T2=0.1), epg.fse_program(train)).max()
    tensor(0.0108)
    """
    _, pools = checked("epg.truncation_error", tissue, program)
    like, layout, states = tissue.T1, program.layout, program.states
    reads = [row for row, event in enumerate(layout) if event.read]
    if states is None:
        return like.new_zeros(len(reads))
    if pools.apart:
        raise ValueError(
            "epg.truncation_error: there is no bound where pools have a D or v of their"
            " own (exchange.D, exchange.v); compare with states=None"
        )
    moved = list(accumulate(abs(_whole(event)) for event in layout))
    if not reads or moved[-1] < states:
        return like.new_zeros(len(reads))

    def play(leaks: Tensor) -> tuple[Tensor, Tensor]:
        return _play(tissue, program, states, leaks)

    leaks = like.new_zeros(moved[-1], pools.free, 2)
    jacobian, lost = torch.func.jacrev(play, has_aux=True)(leaks)
    dropped = torch.cat([torch.zeros_like(lost[:1]), lost.cumsum(0)])
    counted = [bisect_right(moved, moved[row] - states) for row in reads]
    return _norm(jacobian.flatten(2)) * _root(dropped[counted])


def _whole(event: Event) -> int:
    """Return a row's shift along the one axis that truncated programs have."""
    return event.shift if isinstance(event.shift, int) else 0


def _norm(x: Tensor) -> Tensor:
    """Return the spectral norm of each (2, n) matrix."""
    a, b = x.unbind(1)
    aa, bb, ab = (a * a).sum(1), (b * b).sum(1), (a * b).sum(1)
    return _root((aa + bb) / 2 + _root(((aa - bb) / 2).square() + ab.square()))


def _root(x: Tensor) -> Tensor:
    """Return the square root, with derivative 0 at 0."""
    return torch.where(x > 0, torch.where(x > 0, x, 1.0).sqrt(), 0.0)


def _play(
    tissue: Tissue, program: Program, states: int, leaks: Tensor
) -> tuple[Tensor, Tensor]:
    """Play a truncated program and add what flows back in.

    Args:
        tissue: the voxel.
        program: the sequence.
        states: orders kept.
        leaks: (shift, free, 2) Re and Im, of norm 1, of the orders that each unit shift
            brings inside.

    Returns:
        (reading, 2) Re and Im of F0, and (row,) the energy that each row drops.
    """
    state, used = rest(tissue), 0
    if state.F.ndim == 1:
        state = State(F=state.F[None], Z=state.Z[None])
    M0 = state.Z[:, 0].real
    weight = M0[: len(state.F), None]
    found, lost = [], []
    for row, event in enumerate(program.layout):
        n = _whole(event)
        state = _operate(state, tissue, program, row, event)
        state = shift(_wait(state, tissue, program, row, n, M0), n)
        F, Z = state.F, state.Z[:, : state.Z.shape[1] - abs(n)]
        size = F.shape[1]
        out = max(size // 2 + 1 - states, 0)
        outside = torch.cat([F[:, :out], F[:, size - out :]], 1)
        lost.append((torch.view_as_real(outside) ** 2 / weight[..., None]).sum())
        F = F[:, out : size - out]
        came = leaks[used : used + min(abs(n), F.shape[1] if out else 0)]
        F = _with(F, torch.view_as_complex(came).mT * weight.sqrt(), n)
        used += abs(n)
        size = F.shape[1] // 2 + 1
        blank = torch.zeros_like(Z[:, :1]).expand(-1, size - Z.shape[1])
        state = State(F=F, Z=torch.cat([Z, blank], 1))
        if event.read:
            found.append(torch.view_as_real(F[:, size - 1].sum()))
        state = spoil(state) if event.spoil else state
    return torch.stack(found), torch.stack(lost)


def _with(F: Tensor, came: Tensor, n: int) -> Tensor:
    """Add what a shift by n brings in from one end."""
    still = torch.zeros_like(F[:, came.shape[1] :])
    return F + torch.cat([came, still] if n > 0 else [still, came], 1)


def _operate(
    state: State, tissue: Tissue, program: Program, row: int, event: Event
) -> State:
    one = torch.ones_like(tissue.T1)
    if event.pulse:
        phase = torch.zeros_like(one) if program.phase is None else program.phase[row]
        flip = program.flip[row] if tissue.B1 is None else program.flip[row] * tissue.B1
        state = rf(state, flip, phase + event.quadrant * torch.full_like(one, _QUARTER))
    elif event.invert:
        state = invert(state, _row(program.efficiency, row, one))
    else:
        return state
    if tissue.bound is None:
        return state
    return _irradiate(state, tissue, tissue.bound, program, row, event)


def _irradiate(
    state: State,
    tissue: Tissue,
    bound: Bound,
    program: Program,
    row: int,
    event: Event,
) -> State:
    none = torch.zeros_like(tissue.T1)
    f = bound.f.reshape(-1)
    W = torch.zeros_like(f) + _row(program.saturation, row, none)
    offset = _row(program.offset, row, none)
    if program.power is not None and bound.T2 is not None:
        power = _row(program.power, row, none)
        power = power if tissue.B1 is None else power * tissue.B1.square()
        G = absorption(offset, bound.T2.reshape(-1), bound.lineshape)
        W = W + math.pi * power * G
    if bound.T1D is None or bound.T2 is None:
        return saturate(state, W)
    field = 2 * math.pi * math.sqrt(15) * bound.T2.reshape(-1) * offset
    return saturate(state, W, field, dual=event.dual)


def _row(values: Tensor | None, row: int, default: Tensor) -> Tensor:
    return default if values is None else values[row % len(values)]


def _wait(
    state: State, tissue: Tissue, program: Program, row: int, n: int, M0: Tensor
) -> State:
    time = program.duration[row]
    if program.moment is not None:
        moment = program.moment[row % len(program.moment)]
        if tissue.D is not None:
            state = diffuse(state, tissue.D, moment, time, n)
        if tissue.v is not None:
            state = flow(state, tissue.v, moment, time, n)
    if tissue.exchange is None and tissue.bound is None:
        state = relax(state, tissue.T1, tissue.T2, M0, time)
        state = state if tissue.df is None else precess(state, tissue.df, time)
    else:
        state = exchange(state, tissue, time)
    if tissue.v is not None and program.thickness is not None:
        state = wash_out(state, tissue.v, program.thickness, M0, time)
    return state
