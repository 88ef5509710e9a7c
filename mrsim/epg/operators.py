"""The extended-phase-graph operators, one by one, on a `State` of one voxel.

`mrsim.epg.run` fuses them; they are here to build, teach and check with. Shapes depend
on nothing but the integers given: a shift by n grows a state by n orders. Those of
exchange and saturation are in `mrsim.epg.mixing`, of diffusion and flow in
`mrsim.epg.transport`.
"""

import math

import torch
from torch import Tensor

from mrsim.epg.state import State


def rf(state: State, flip: Tensor, phase: Tensor) -> State:
    """Apply an instantaneous pulse.

    Right-handed rotation by ``flip`` about (cos φ, sin φ, 0), on (F_k, conj F_-k, Z_k)
    for every k and every free pool (Weigel 2015, eq. 15):
    F_k' = cos²(α/2) F_k + e^{2iφ} sin²(α/2) conj F_-k - i e^{iφ} sin α Z_k,
    Z_k' = -(i/2) e^{-iφ} sin α F_k + (i/2) e^{iφ} sin α conj F_-k + cos α Z_k.

    Args:
        state: the state.
        flip: () flip angle α, B1 included [rad].
        phase: () phase φ [rad].

    Returns:
        The state after the pulse.

    >>> import torch
    >>> from mrsim import epg
    >>> rest = epg.equilibrium(torch.tensor(1.0))
    >>> epg.rf(rest, torch.tensor(torch.pi / 2), torch.tensor(0.0)).F.imag
    tensor([-1.])
    """
    # with an axis: a constant times a 0-d float32 dual has a float64 tangent
    c, s = flip[None].cos(), flip[None].sin()
    c2, s2 = (1 + c) / 2, (1 - c) / 2
    turn = torch.complex(phase.cos(), phase.sin())[None]
    K = state.Z.shape[-1] - 1
    free, bound = split(state)
    Z = torch.cat([free.flip(-1)[..., :K].conj(), free], -1)
    mirror = state.F.flip(-1).conj()
    F = c2 * state.F + s2 * turn * turn * mirror - 1j * turn * s * Z
    F0, mirror0 = state.F[..., K:], mirror[..., K:]
    Z = 1j * (s / 2) * (turn * mirror0 - turn.conj() * F0) + c * free
    return State(F=F, Z=torch.cat([Z, *bound]))


def split(state: State) -> tuple[Tensor, list[Tensor]]:
    """Return Z of the free pools, and of the others where there are pools."""
    if state.F.ndim == 1:
        return state.Z, []
    return state.Z[: len(state.F)], [state.Z[len(state.F) :]]


def invert(state: State, efficiency: Tensor) -> State:
    """Invert adiabatically, with a crusher: Z_k → -efficiency·Z_k, F_k → 0.

    Args:
        state: the state; bound pools stay as they are.
        efficiency: () of the inversion [1].

    Returns:
        The state after it.

    >>> import torch
    >>> from mrsim import epg
    >>> rest = epg.equilibrium(torch.tensor(1.0))
    >>> epg.invert(rest, torch.tensor(0.9)).Z.real
    tensor([-0.9000])
    """
    free, bound = split(state)
    return State(F=torch.zeros_like(state.F), Z=torch.cat([-efficiency * free, *bound]))


def relax(state: State, T1: Tensor, T2: Tensor, M0: Tensor, time: Tensor) -> State:
    """Relax: F_k → F_k e^{-t/T2}, Z_k → Z_k e^{-t/T1}, Z_0 regrows to M0.

    Args:
        state: the state.
        T1: () longitudinal relaxation time [s], or (component,) of every pool.
        T2: () transverse relaxation time [s], or (free,) of every free pool.
        M0: () equilibrium magnetisation, or (component,).
        time: () duration t [s].

    Returns:
        The state after the wait (Weigel 2015, eqs. 21–22).

    >>> import torch
    >>> from mrsim import epg
    >>> one = torch.tensor(1.0)
    >>> epg.relax(epg.equilibrium(0 * one), one, one, one, one).Z.real
    tensor([0.6321])
    """
    Z = state.Z * torch.exp(-time / T1)[..., None]
    grown = (-torch.expm1(-time / T1) * M0)[..., None]
    return State(
        F=state.F * torch.exp(-time / T2)[..., None],
        Z=torch.cat([Z[..., :1] + grown, Z[..., 1:]], -1),
    )


def precess(state: State, df: Tensor, time: Tensor) -> State:
    """Precess off resonance: F_k → F_k e^{i 2π df t}.

    Args:
        state: the state.
        df: () off-resonance [Hz], or (free,) of every free pool.
        time: () duration t [s].

    Returns:
        The state after the wait.

    >>> import torch
    >>> from mrsim import epg
    >>> F = torch.ones(1, dtype=torch.complex64)
    >>> epg.precess(epg.State(F=F, Z=F), torch.tensor(0.25), torch.tensor(1.0)).F.imag
    tensor([1.])
    """
    angle = 2 * math.pi * df[..., None] * time
    return State(F=state.F * torch.complex(angle.cos(), angle.sin()), Z=state.Z)


def shift(state: State, n: int) -> State:
    """Dephase by a gradient: F_k → F_{k+n}; Z stays (Weigel 2015, eq. 25).

    Args:
        state: the state of order K.
        n: unit shifts, of either sign.

    Returns:
        The state, of order K + |n|.

    >>> import torch
    >>> from mrsim import epg
    >>> epg.shift(epg.equilibrium(torch.tensor(1.0)), 2).F.shape
    torch.Size([5])
    """
    F, Z = (
        torch.zeros_like(x[..., :1]).expand(*x.shape[:-1], size)
        for x, size in ((state.F, 2 * abs(n)), (state.Z, abs(n)))
    )
    parts = [F, state.F] if n > 0 else [state.F, F]
    return State(F=torch.cat(parts, -1), Z=torch.cat([state.Z, Z], -1))


def spoil(state: State) -> State:
    """Spoil ideally: only Z_0 survives.

    Args:
        state: the state.

    Returns:
        The state, of the same order.

    >>> import torch
    >>> from mrsim import epg
    >>> F = torch.ones(3, dtype=torch.complex64)
    >>> epg.spoil(epg.State(F=F, Z=F[:2])).Z.real
    tensor([1., 0.])
    """
    Z = torch.cat([state.Z[..., :1], torch.zeros_like(state.Z[..., 1:])], -1)
    return State(F=torch.zeros_like(state.F), Z=Z)
