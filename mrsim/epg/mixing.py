"""What mixes pools: exchange while they relax, and saturation with dipolar order."""

import torch
from torch import Tensor

from mrsim.epg.inputs import checked
from mrsim.epg.matrices import exponentials
from mrsim.epg.operators import precess, split
from mrsim.epg.pools import (
    Pools,
    equilibrium as at_rest,
    longitudinal,
    transverse,
)
from mrsim.epg.program import Event, Program
from mrsim.epg.state import State, equilibrium
from mrsim.tissue import Tissue
from mrsim.tree import replace


def rest(tissue: Tissue) -> State:
    """Return a tissue's state at rest, with all its pools.

    Args:
        tissue: the voxel.

    Returns:
        A state of order 0, with a leading pool axis if there are pools.

    >>> from mrsim import Bound, Tissue, epg
    >>> solid = Bound(f=0.1, k=4.0, T1=1.0)
    >>> epg.rest(Tissue(T1=1.0, T2=0.1, bound=solid)).Z.real
    tensor([[0.9000],
            [0.1000]])
    """
    return equilibrium(*_at_rest(tissue))


def exchange(state: State, tissue: Tissue, time: Tensor) -> State:
    r"""Let all pools relax, exchange and precess at once (Bloch–McConnell).

    F → exp(L_T t) F and Z - M_eq → exp(L_Z t)(Z - M_eq), with relaxation and exchange
    in both generators and chemical shifts in L_T (Malik 2018, eqs. 4–11). Exchange
    with bound pools acts on Z alone. With one pool it is `relax` and `precess`.

    Args:
        state: the state.
        tissue: the voxel; B1, D, v and T2p do not enter.
        time: () duration t [s].

    Returns:
        The state after the wait.

    Raises:
        TypeError: a field is no floating tensor, or dtypes differ.
        ValueError: shapes or devices do not match.

    >>> import torch
    >>> from mrsim import Exchange, Tissue, epg
    >>> water = Exchange(T1=0.5, T2=0.02, f=0.2, k=10.0)
    >>> tissue = Tissue(T1=1.0, T2=0.1, exchange=water)
    >>> empty = epg.State(F=0 * epg.rest(tissue).F, Z=0 * epg.rest(tissue).Z)
    >>> epg.exchange(empty, tissue, torch.tensor(1e3)).Z.real
    tensor([[0.8000],
            [0.2000]])
    """
    x, pools = _pools(tissue)
    M, _ = _at_rest(tissue)
    F, Z = (y if state.F.ndim > 1 else y[None] for y in (state.F, state.Z))
    pairs = (transverse(pools, x), time[None]), (longitudinal(pools, x), time[None])
    UT, UZ = (U[:, :, 0] for U in exponentials(*pairs))
    kept = torch.cat([Z[:, :1] - (M if M.ndim else M[None])[:, None], Z[:, 1:]], 1)
    moved = UZ.to(Z.dtype) @ kept
    still = torch.cat([moved[:, :1] + M.reshape(-1, 1), moved[:, 1:]], 1)
    made = State(F=UT.to(F.dtype) @ F, Z=still)
    if state.F.ndim == 1:
        made = State(F=made.F[0], Z=made.Z[0])
    return made if tissue.df is None else precess(made, tissue.df, time)


def saturate(
    state: State,
    exponent: Tensor,
    field: Tensor | None = None,
    *,
    dual: bool = False,
) -> State:
    """Saturate bound pools: Z_b → e^{-W} Z_b, for every order.

    With dipolar order β (in units that make the matrix symmetric), (Z_b, β) →
    exp(-W [[1, -x], [-x, x²]]) (Z_b, β), where x is the offset in units of the dipolar
    local field, x = 2π·offset·√15·T2 for a super-Lorentzian (Varma 2015, eqs. 1–6).
    Irradiation at both offsets at once leaves the two apart: e^{-W} and e^{-W x²}.

    Args:
        state: the state, with pool axis.
        exponent: (bound,) W = π·∫(γB1)²dt·G(offset) [1].
        field: (bound,) x [1], for pools with dipolar order; ``None``: without.
        dual: the power is at both offsets.

    Returns:
        The state after the irradiation.

    Raises:
        ValueError: the state has another number of bound pools.

    >>> import torch
    >>> from mrsim import epg
    >>> rest = epg.equilibrium(torch.tensor([0.9, 0.1]), free=1)
    >>> epg.saturate(rest, torch.tensor([0.7])).Z.real
    tensor([[0.9000],
            [0.0497]])
    """
    free, others = split(state)
    count = len(exponent) if exponent.ndim == 1 else -1
    found = len(others[0]) if others else 0
    if count < 0 or found != count * (1 if field is None else 2):
        raise ValueError(
            f"epg.saturate: exponent must have shape (bound,), and the state one"
            f" component for each (two with field), got {tuple(exponent.shape)} and"
            f" {found} components"
        )
    Z = others[0]
    if field is None:
        return State(F=state.F, Z=torch.cat([free, torch.exp(-exponent)[:, None] * Z]))
    W, x = exponent[:, None], field[:, None]
    Zb, order = Z[:count], Z[count:]
    if dual:
        Zb, order = torch.exp(-W) * Zb, torch.exp(-W * x * x) * order
    else:  # W times the projector on (1, -x), whose square is 1 + x²
        size = 1 + x * x
        taken = -torch.expm1(-W * size) / size * (Zb - x * order)
        Zb, order = Zb - taken, order + x * taken
    return State(F=state.F, Z=torch.cat([free, Zb, order]))


def _pools(tissue: Tissue) -> tuple[dict[str, Tensor], Pools]:
    still = replace(tissue, D=None, v=None, T2p=None)
    if still.exchange is not None:
        still = replace(still, exchange=replace(still.exchange, D=None, v=None))
    one = torch.zeros_like(tissue.T1)[None]
    wait = Program(flip=one, duration=one, offset=one, layout=(Event(),))
    fields, pools = checked("epg.exchange", still, wait)
    return {n: v if v.ndim else v[None] for n, v in fields.items()}, pools


def _at_rest(tissue: Tissue) -> tuple[Tensor, int | None]:
    """Return M0 of every component, and how many are free pools."""
    x, pools = _pools(tissue)
    M = at_rest(pools, x)
    return (M if pools.count > 1 else M[0]), pools.free
