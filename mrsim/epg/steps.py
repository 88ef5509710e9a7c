"""Everything of a simulation that does not depend on the state, vectorised.

The coefficients of all steps and readings are computed here at once; `mrsim.epg.walk`
then multiplies states by them. A coefficient has shape (step, *batch), with pool axes
after the step where pools exchange.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mrsim.epg.apart import carriers
from mrsim.epg.lineshape import absorption
from mrsim.epg.matrices import exponentials
from mrsim.epg.motion import coefficients, motion
from mrsim.epg.plan import Knot, Plan
from mrsim.epg.pools import Pools, equilibrium, generators, shares
from mrsim.epg.readings import make_readings
from mrsim.epg.rows import angle_of, chosen, column, index, left_of, phase_of, totals

_FULL = 2 * torch.pi


class Steps(NamedTuple):
    """Coefficients of the step into each knot after the first, and of the readings.

    What a program does not need is empty.
    """

    H: Tensor  # P - Q into half its rotated self
    h: Tensor  # ζ into it
    z: Tensor  # ζ into ζ
    d: Tensor  # P - Q into ζ
    half: Tensor  # one pool, real plans: signed transverse decay / 2
    re: Tensor  # one pool, complex plans: decay / 2, precession, turn of the frame
    im: Tensor
    E1: Tensor  # one pool
    grown: Tensor  # what Z0 regains, as ζ: (step, *batch) or (step, pool, *batch)
    mix_re: Tensor  # pools: (step, to, from, *batch) what half, re, im are for one
    mix_im: Tensor
    relax: Tensor  # pools: (step, to, from, *batch) of ζ
    bound: Tensor  # (step, bound, *batch) what a pulse leaves of bound pools
    order: Tensor  # (step, bound, *batch) ... of dipolar order
    cross: Tensor  # (step, bound, *batch) ... into each other
    loss: Tensor  # (kind, coefficient, *batch) diffusion's exponent in the order
    turn: Tensor  # (kind, coefficient, *batch) flow's phase in the order
    read: Tensor  # (2 · reading, part, pool, *batch) shares in Re, Im of the signal
    own: tuple[Tensor, ...]  # pools apart: (part, to, from, order, *batch) of P, Q, ζ
    start: tuple[Tensor, ...]  # (part, pool, order, *batch) P, Q, ζ or ζ at the start


def make_steps(
    plan: Plan,
    pools: Pools,
    names: tuple[str, ...],
    tensors: Sequence[Tensor],
    substeps: int,
) -> Steps:
    """Compute the coefficients of a plan.

    Args:
        plan: the plan.
        pools: the structure of the pools.
        names: what each tensor is.
        tensors: (event, *batch), (pool, *batch) or, for a voxel's fields, (*batch).
        substeps: parts of a wait whose gradient is on, where pools are apart.

    Returns:
        The coefficients.
    """
    x = lifted(dict(zip(names, tensors, strict=True)))
    last, knots = plan.knots[:-1], plan.knots[1:]
    like = x["duration"]
    kinds = index(plan.kinds[:-1], like)
    waits = [plan.knots[j].rows for j in plan.firsts]
    time = totals(waits, like)
    left = left_of(waits, x)
    theta = x["flip"][index([max(k.row, 0) for k in knots], like)]
    theta = theta * x["B1"] if "B1" in x else theta
    c, s = torch.cos(theta), torch.sin(theta)
    scale = column([1.0 if k.kind == "end" else 0.5 for k in knots], like)
    z = torch.where(
        column([k.kind == "pulse" for k in knots], like) > 0, c, _kept(knots, x, c)
    )
    none = like[:0]
    empty = {n: none for n in Steps._fields if n not in ("own", "start")}
    moved = motion(plan, x)
    loss, turn = coefficients(plan, moved, like)
    made = empty | {
        "H": c,
        "h": 0.5 * s,
        "z": z,
        "d": -2 * s,
        "loss": loss,
        "turn": turn,
        "read": make_readings(plan, pools, x, moved, substeps),
    }
    if plan.real:
        scale = scale * column([k.sign for k in knots], like)
        angle = None
    else:
        turns = [a.quadrant - b.quadrant for a, b in zip(last, knots, strict=True)]
        angle = angle_of(turns, time[kinds], x) + phase_of(last, x) - phase_of(knots, x)
    if pools.count > 1:
        made |= _pooled(pools, x, time, left, kinds, scale, angle)
        made |= saturated(pools, knots, x)
    else:
        made |= _single(knots, x, time[kinds], left, kinds, scale, angle, made)
    own = carriers(plan, pools, x, substeps) if pools.apart else ()
    return Steps(**made, own=own, start=_start(plan, pools, x))


def lifted(x: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give what has no axis of its own an axis of 1, to meet rows."""
    # a constant times a 0-d float32 dual has a float64 tangent
    batch = x["T1"].ndim
    return {n: v[None] if v.ndim == batch else v for n, v in x.items()}


def _single(
    knots: Sequence[Knot],
    x: dict[str, Tensor],
    time: Tensor,
    left: Tensor | None,
    kinds: Tensor,
    scale: Tensor,
    angle: Tensor | None,
    made: dict[str, Tensor],
) -> dict[str, Tensor]:
    """Fold the decay of one pool into the coefficients of the pulse that follows."""
    E1, E2 = torch.exp(-time / x["T1"]), torch.exp(-time / x["T2"])
    lost = torch.expm1(-time / x["T1"])
    if left is not None:
        stay = left[kinds]
        E1, E2, lost = E1 * stay, E2 * stay, lost * stay + (stay - 1)
    grown = 2 * lost * x["M0"] if "M0" in x else 2 * lost
    apart = column([k.regrow for k in knots], E1) > 0
    fold = torch.where(apart, torch.ones_like(E1), E1)
    scale = scale * E2
    found = {"E1": E1, "grown": grown, "h": made["h"] * fold, "z": made["z"] * fold}
    if angle is None:
        return found | {"half": scale, "H": scale * made["H"], "d": scale * made["d"]}
    return found | {"re": scale * torch.cos(angle), "im": scale * torch.sin(angle)}


def _pooled(
    pools: Pools,
    x: dict[str, Tensor],
    time: Tensor,
    left: Tensor | None,
    kinds: Tensor,
    scale: Tensor,
    angle: Tensor | None,
) -> dict[str, Tensor]:
    """Return the matrices that carry pools over each interval."""
    f = shares(pools, x)
    made = exponentials(*((L, time) for L in generators(pools, x, f)))
    UT, UZ = (U.movedim(2, 0) for U in made)
    if left is not None:
        UT, UZ = UT * left[:, None, None], UZ * left[:, None, None]
    rest = equilibrium(pools, x, f)
    UT, UZ = UT[kinds], UZ[kinds]
    grown = 2 * ((UZ * rest).sum(2) - rest)
    found = {"relax": UZ, "grown": grown}
    if pools.apart and angle is not None:
        scale = scale if left is None else scale * left[kinds]
        re, im = scale * torch.cos(angle), scale * torch.sin(angle)
        return found | {"re": re, "im": im}
    scale = scale[:, None, None]
    if angle is None:
        return found | {"mix_re": scale * UT}
    c, s = torch.cos(angle)[:, None, None], torch.sin(angle)[:, None, None]
    if not UT.is_complex():
        return found | {"mix_re": scale * c * UT, "mix_im": scale * s * UT}
    return found | {
        "mix_re": scale * (c * UT.real - s * UT.imag),
        "mix_im": scale * (s * UT.real + c * UT.imag),
    }


def saturated(
    pools: Pools, knots: Sequence[Knot], x: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Return what each pulse does to bound pools and their dipolar order."""
    if not pools.bound or not ({"saturation", "power"} & x.keys()):
        return {}
    like = x["duration"]
    rows = [max(k.row, 0) for k in knots]
    acts = [float(k.kind in ("pulse", "invert")) for k in knots]
    offset = x["offset"] if "offset" in x else torch.zeros_like(like[:1])
    amount = torch.zeros_like(like[:1])[:, None]
    if "saturation" in x:
        amount = amount + chosen(x["saturation"], rows)[:, None]
    if "power" in x:
        power = x["power"] * x["B1"].square() if "B1" in x else x["power"]
        G = absorption(offset[:, None], x["bound.T2"], pools.lineshape)
        both = torch.pi * power[:, None] * G
        amount = amount + chosen(both, rows)
    amount = amount * column(acts, like)[:, None]
    amount = amount.expand(-1, pools.bound, *amount.shape[2:])
    if not pools.dipolar:
        return {"bound": torch.exp(-amount)}
    field = _FULL * (15**0.5) * offset[:, None] * x["bound.T2"]
    e = chosen(field, rows)
    size = 1 + e * e
    one = -torch.expm1(-amount * size) / size
    dual = column([k.dual for k in knots], like)[:, None] > 0
    none = torch.zeros_like(one)
    return {
        "bound": torch.where(dual, torch.exp(-amount), 1 - one),
        "order": torch.where(dual, torch.exp(-amount * e * e), 1 - one * e * e),
        "cross": torch.where(dual, none, one * e),
    }


def _kept(knots: Sequence[Knot], x: dict[str, Tensor], like: Tensor) -> Tensor:
    """Return what an inversion or a spoiler leaves of Z."""
    sign = column([-1.0 if k.kind == "invert" else 1.0 for k in knots], like)
    if "efficiency" not in x:
        return sign
    share = chosen(x["efficiency"], [max(k.row, 0) for k in knots])
    inverts = column([k.kind == "invert" for k in knots], like) > 0
    return torch.where(inverts, -share, torch.ones_like(share))


def _start(plan: Plan, pools: Pools, x: dict[str, Tensor]) -> tuple[Tensor, ...]:
    like = x["duration"]
    batch = torch.broadcast_shapes(
        *(v.shape[v.ndim - like.ndim + 1 :] for v in x.values())
    )
    if "P_re" in x:
        size = len(plan.knots[0].orders)
        return tuple(
            torch.stack([_padded(x[f"{n}_{c}"], size, batch) for c in ("re", "im")])
            for n in ("P", "Q", "z")
        )
    if pools.count > 1:
        zeta = -2 * equilibrium(pools, x)
    else:
        zeta = -2 * (x["M0"] if "M0" in x else torch.ones_like(x["T1"]))
    zeta = zeta[:, None].expand(zeta.shape[0], 1, *batch)
    return (torch.stack([zeta] if plan.real else [torch.zeros_like(zeta), zeta]),)


def _padded(x: Tensor, size: int, batch: tuple[int, ...]) -> Tensor:
    return x[:, :size].expand(x.shape[0], size, *batch)
