"""What diffusion takes from the states and how flow turns them, order by order."""

from typing import NamedTuple

import torch
from torch import Tensor

from mrsim.epg.coefs import State, quarter
from mrsim.epg.motion import features
from mrsim.epg.plan import Orders, Plan
from mrsim.epg.steps import Steps


class Factor(NamedTuple):
    """exp(-loss - i·turn) of every order of a window."""

    size: Tensor | None  # exp(-loss)
    c: Tensor | None  # of turn
    s: Tensor | None
    loss: Tensor | None  # tangents (copy, 1, 1, order, *batch)
    turn: Tensor | None


Known = dict[tuple[int, str], Factor]  # by kind of interval and state


def attenuated(
    plan: Plan, j: int, state: State, steps: Steps, tangents: Steps | None, known: Known
) -> State:
    """Multiply by what diffusion leaves and flow turns, order by order."""
    if not len(steps.loss) and not len(steps.turn):
        return state
    knot, kind = plan.knots[j + 1], plan.kinds[j]
    made = []
    for which, x in zip("pqz", state, strict=True):
        if x is None:
            made.append(None)
            continue
        orders = knot.orders
        if isinstance(orders, range) and kind in plan.shared:
            if (kind, which) not in known:
                top = max(max(k.orders, default=0) for k in plan.knots)
                known[kind, which] = _factor(
                    plan, range(top + 1), which, kind, steps, tangents
                )
            window = slice(orders.start, orders.stop, orders.step)
            factor = _sliced(known[kind, which], window, x.ndim - 4)
        else:
            factor = _factor(plan, orders, which, kind, steps, tangents)
        made.append(_faded(x, factor, -1 if which == "q" else 1))
    return made[0], made[1], made[2]


def _factor(
    plan: Plan,
    orders: Orders,
    which: str,
    kind: int,
    steps: Steps,
    tangents: Steps | None,
) -> Factor:
    made: list[Tensor | None] = []
    moved: list[Tensor | None] = []
    for name, degree in (("loss", 2), ("turn", 1)):
        value = getattr(steps, name)
        tangent = tangents and getattr(tangents, name)
        if not len(value):
            made.append(None)
            moved.append(None)
            continue
        monomials = features(plan.axes, orders, which, degree, value.dtype)
        monomials = monomials.to(value.device)
        made.append(torch.tensordot(monomials, value[kind], 1))
        if tangent is not None:
            change = torch.einsum("on,cn...->co...", monomials, tangent[:, kind])
            padded = torch.cat([torch.zeros_like(change[:1]), change])
            moved.append(padded[:, None, None])
        else:
            moved.append(None)
    loss, turn = made
    return Factor(
        size=None if loss is None else torch.exp(-loss),
        c=None if turn is None else torch.cos(turn),
        s=None if turn is None else torch.sin(turn),
        loss=moved[0],
        turn=moved[1],
    )


def _sliced(factor: Factor, window: slice, batch: int) -> Factor:
    """Take some orders; they are the axis before the batch."""
    at = (..., window, *(slice(None),) * batch)
    return Factor(*(None if v is None else v[at] for v in factor))


def _faded(x: Tensor, factor: Factor, sign: int) -> Tensor:
    """Multiply (re, im) states by exp(-loss - i·sign·turn)."""
    # with f the factor, the tangent of f·x is f·dx - (dloss + i·sign·dturn)·f·x
    made = x if factor.size is None else factor.size * x
    if factor.c is not None and factor.s is not None:
        s = factor.s if sign > 0 else -factor.s
        made = torch.addcmul(factor.c * made, s, quarter(made), value=-1)
    if factor.loss is not None:
        made = torch.addcmul(made, factor.loss, made[:1], value=-1)
    if factor.turn is not None:
        made = torch.addcmul(made, factor.turn, quarter(made[:1]), value=-sign)
    return made
