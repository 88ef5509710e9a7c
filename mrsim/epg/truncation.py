"""What a truncation costs: a bound on the error of every reading."""

from bisect import bisect_right
from itertools import accumulate

import torch
from torch import Tensor

from mrsim.epg.operators import precess, relax, rf, shift, spoil
from mrsim.epg.program import Event, Program, checked
from mrsim.epg.state import State, equilibrium
from mrsim.tissue import Tissue


def truncation_error(tissue: Tissue, program: Program) -> Tensor:
    r"""Bound the error that ``program.states`` leaves in each reading.

    |S - S_exact| ≤ ‖J‖ · (Σ_i ‖dropped_i‖²)^½. What the shifts i drop (|k| ≥ states)
    lives on outside: pulses are unitary there in ‖·‖² = Σ_k |F_k|² + |Z_k|² and
    relaxation contracts, so that what flows back inside has at most this energy in
    total. J is the reading's derivative with respect to all that could flow back. Drops
    that are fewer shifts than ``states`` away from the reading do not count.

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
        ValueError: shapes or devices do not match.

    >>> from mrsim import Tissue, epg
    >>> from mrsim.units import deg, ms
    >>> train = epg.FSE(flip=[120 * deg] * 32, esp=10 * ms, states=20)
    >>> epg.truncation_error(Tissue(T1=1.0, T2=0.1), epg.fse_program(train)).max()
    tensor(0.0108)
    """
    checked("epg.truncation_error", tissue, program)
    like, layout, states = tissue.T1, program.layout, program.states
    moved = list(accumulate(abs(event.shift) for event in layout))
    reads = [row for row, event in enumerate(layout) if event.read]
    if states is None or not reads or moved[-1] < states:
        return like.new_zeros(len(reads))

    def play(leaks: Tensor) -> tuple[Tensor, Tensor]:
        return _play(tissue, program, states, leaks)

    leaks = like.new_zeros(moved[-1], 2)
    jacobian, lost = torch.func.jacrev(play, has_aux=True)(leaks)
    dropped = torch.cat([torch.zeros_like(lost[:1]), lost.cumsum(0)])
    counted = [bisect_right(moved, moved[row] - states) for row in reads]
    return _norm(jacobian.flatten(2)) * _root(dropped[counted])


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
        leaks: (shift, 2) Re and Im of the orders that each unit shift brings inside.

    Returns:
        (reading, 2) Re and Im of F0, and (row,) the energy that each row drops.
    """
    rest = torch.ones_like(tissue.T1) if tissue.M0 is None else tissue.M0
    state, used = equilibrium(rest), 0
    found, lost = [], []
    for row, event in enumerate(program.layout):
        time = program.duration[row]
        state = _operate(state, tissue, program, row, event)
        state = relax(state, tissue.T1, tissue.T2, rest, time)
        state = state if tissue.df is None else precess(state, tissue.df, time)
        F, Z = shift(state, event.shift).F, state.Z
        out = max(len(F) // 2 + 1 - states, 0)
        outside = torch.view_as_real(torch.cat([F[:out], F[len(F) - out :]]))
        lost.append(outside.square().sum())
        F = F[out : len(F) - out]
        came = leaks[used : used + min(abs(event.shift), len(F) if out else 0)]
        F = _with(F, torch.view_as_complex(came), event.shift)
        used += abs(event.shift)
        size = len(F) // 2 + 1
        Z = torch.cat([Z, torch.zeros_like(F[: size - len(Z)])])
        state = State(F=F, Z=Z)
        if event.read:
            found.append(torch.view_as_real(F[size - 1]))
        state = spoil(state) if event.spoil else state
    return torch.stack(found), torch.stack(lost)


def _with(F: Tensor, came: Tensor, n: int) -> Tensor:
    """Add what a shift by n brings in from one end."""
    rest = torch.zeros_like(F[len(came) :])
    return F + torch.cat([came, rest] if n > 0 else [rest, came])


def _operate(
    state: State, tissue: Tissue, program: Program, row: int, event: Event
) -> State:
    one = torch.ones_like(tissue.T1)
    if event.pulse:
        phase = torch.zeros_like(one) if program.phase is None else program.phase[row]
        flip = program.flip[row] if tissue.B1 is None else program.flip[row] * tissue.B1
        return rf(state, flip, phase + event.quadrant * torch.pi / 2)
    if event.invert:
        share = one if program.efficiency is None else program.efficiency[row]
        return State(F=torch.zeros_like(state.F), Z=-share * state.Z)
    return state
