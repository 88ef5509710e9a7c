"""What moving spins lose: diffusion, flow, and wash-out of the slice.

Over a wait whose gradient shifts F by n orders, its wave vector goes from k0 = m·κ to
k1 = (m + n)·κ, κ the `moment` of one unit; that of Z stays. Apply these operators
before the `shift`.
"""

import torch
from torch import Tensor

from mrsim.epg.state import State


def diffuse(state: State, D: Tensor, moment: Tensor, time: Tensor, n: int) -> State:
    """Diffuse during a wait that shifts by n; n = 0 is a wait without gradient.

    F_m → F_m exp(-t (k0·D k0 + k0·D k1 + k1·D k1)/3) with signed wave vectors, and
    Z_m → Z_m exp(-t k0·D k0) (Weigel 2015, eqs. 28–31).

    Args:
        state: the state before the shift.
        D: () diffusivity, or (3, 3) tensor [mm²/s].
        moment: () wave vector of one unit, or (3,) with its direction [rad/mm].
        time: () duration t [s].
        n: orders that the gradient adds in this time.

    Returns:
        The state after the diffusion, before the shift.

    Raises:
        ValueError: a tensor meets a moment without direction.

    >>> import torch
    >>> from mrsim import epg
    >>> F = torch.ones(3, dtype=torch.complex64)
    >>> D, moment, time = torch.tensor([2e-3, 10.0, 0.5])
    >>> epg.diffuse(epg.State(F=F, Z=F[1:]), D, moment, time, 1).F.real
    tensor([0.9672, 0.9672, 0.7919])
    """
    if D.ndim == 2 and moment.shape != (3,):
        raise ValueError(
            f"epg.diffuse: a diffusion tensor needs a moment of shape (3,), got"
            f" {tuple(moment.shape)}"
        )
    along = moment @ D @ moment if D.ndim == 2 else D * (moment * moment).sum()
    m = _orders(state.F, time)
    b = m * m + m * n + n * n / 3
    k = _orders(state.Z, time, signed=False)
    rate = time[None] * along
    return State(F=state.F * torch.exp(-rate * b), Z=state.Z * torch.exp(-rate * k * k))


def flow(state: State, v: Tensor, moment: Tensor, time: Tensor, n: int) -> State:
    """Move during a wait that shifts by n.

    F_m → F_m exp(-i t v·(k0 + k1)/2), Z_m → Z_m exp(-i t v·k0) (Weigel 2015, eq. 48):
    in a frame at rest, spins come from where they were.

    Args:
        state: the state before the shift.
        v: () velocity along the gradient, or (3,) [mm/s].
        moment: () wave vector of one unit, or (3,) [rad/mm].
        time: () duration t [s].
        n: orders that the gradient adds in this time.

    Returns:
        The state after the motion, before the shift.

    Raises:
        ValueError: only one of velocity and moment has a direction.

    >>> import torch
    >>> from mrsim import epg
    >>> F = torch.ones(1, dtype=torch.complex64)
    >>> v, moment, time = torch.tensor([torch.pi, 1.0, 1.0])
    >>> epg.flow(epg.State(F=F, Z=F), v, moment, time, 1).F.imag
    tensor([-1.])
    """
    if v.shape != moment.shape:
        raise ValueError(
            f"epg.flow: give v and moment both as () along the gradient or as (3,), got"
            f" {tuple(v.shape)} and {tuple(moment.shape)}"
        )
    unit = time[None] * (v * moment).sum()
    F, Z = (
        unit * (_orders(state.F, time) + n / 2),
        unit * _orders(state.Z, time, signed=False),
    )
    return State(
        F=state.F * torch.complex(F.cos(), -F.sin()),
        Z=state.Z * torch.complex(Z.cos(), -Z.sin()),
    )


def wash_out(
    state: State, v: Tensor, thickness: Tensor, M0: Tensor, time: Tensor
) -> State:
    """Replace the spins that leave the slice by fresh ones.

    With w = min(|v| t/thickness, 1): F → (1-w) F, Z → (1-w) Z, Z_0 += w M0.

    Args:
        state: the state.
        v: () or (3,) velocity [mm/s].
        thickness: () of the slice [mm].
        M0: () equilibrium magnetisation, or (component,), 0 for dipolar orders.
        time: () duration t [s].

    Returns:
        The state after the wait.

    >>> import torch
    >>> from mrsim import epg
    >>> empty = epg.equilibrium(torch.tensor(0.0))
    >>> v, thickness, M0, time = torch.tensor([20.0, 5.0, 1.0, 0.1])
    >>> epg.wash_out(empty, v, thickness, M0, time).Z.real
    tensor([0.4000])
    """
    speed = v.abs() if v.ndim == 0 else (v * v).sum().sqrt()
    # with an axis: a constant and a 0-d float32 dual make a float64 tangent
    w = (time * speed / thickness)[None].clamp(max=1.0)
    Z = state.Z * (1 - w)
    fresh = w * M0[..., None]
    return State(F=state.F * (1 - w), Z=torch.cat([Z[..., :1] + fresh, Z[..., 1:]], -1))


def _orders(x: Tensor, like: Tensor, *, signed: bool = True) -> Tensor:
    """Return the order of each state of F, or of Z."""
    size = x.shape[-1]
    first = -(size // 2) if signed else 0
    return torch.arange(first, first + size, device=x.device).to(like.dtype)
