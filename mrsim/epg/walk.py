"""The walk through a plan: bilinear in coefficients and states.

States have shape (copy, part, pool, order, *batch): one part in real plans, (re, im) in
others; one copy, or the value followed by its derivative along each tangent. A product
of a coefficient (c, dc) and a state (x, dx) is (c·x, c·dx + dc·x), so that value and
derivatives share one pass with few, wide operations.
"""

import torch
from torch import Tensor

from mrsim.epg.coefs import (
    Coef,
    Columns,
    Rows,
    State,
    mixed,
    plus_times,
    quarter,
    take_apart,
    times,
)
from mrsim.epg.fading import Known, attenuated
from mrsim.epg.plan import IM, OTHER, OWN, ZERO, Knot, Piece, Plan, Reading
from mrsim.epg.steps import Steps


def walk(plan: Plan, steps: Steps, tangents: Steps | None = None) -> list[Tensor]:
    """Carry the states through all knots and collect the readings.

    Args:
        plan: the plan.
        steps: its coefficients.
        tangents: their tangents, with one more axis first; ``None`` for the value.

    Returns:
        Re and Im of the signal (copy, reading, *batch); for a plan with an end also
        P, Q and ζ as (copy, part, pool, order, *batch).
    """
    rows = take_apart(steps, tangents)
    moved = tangents.start if tangents else (None,) * len(steps.start)
    start = [_copies(v, t) for v, t in zip(steps.start, moved, strict=True)]
    free = rows.free
    zero = start[-1][:, :, :1, :1] * 0
    state: State = None, None, start[-1]
    if len(start) == 3:
        state = start[0], start[1], start[2]
    found = [_look(r, state, zero, free) for r in plan.knots[0].readings]
    known: Known = {}
    for j, knot in enumerate(plan.knots[1:]):
        negate = not plan.real or plan.knots[j].part == IM
        state = _gathered(knot, state, zero, negate)
        state = attenuated(plan, j, state, steps, tangents, known)
        state = _carried(state, knot, rows, j)
        operate = _pulse if knot.kind == "pulse" else _pass
        state = operate(state, knot, rows, j)
        found += [_look(r, state, zero, free) for r in knot.readings]
    signal = _signal(plan, found, steps.read, tangents and tangents.read, zero)
    if plan.knots[-1].kind != "end":
        return signal
    sizes = free, free, steps.start[-1].shape[1]
    blanks = [_blank(zero, pools, len(plan.knots[-1].orders)) for pools in sizes]
    return signal + [b if v is None else v for v, b in zip(state, blanks, strict=True)]


def _blank(zero: Tensor, pools: int, orders: int) -> Tensor:
    # jvp refuses outputs of stride 0
    return zero.expand(-1, -1, pools, orders, *zero.shape[4:]).contiguous()


def _copies(value: Tensor, tangent: Tensor | None) -> Tensor:
    return value[None] if tangent is None else torch.cat([value[None], tangent])


def _gathered(knot: Knot, state: State, zero: Tensor, negate: bool) -> State:
    P, Q, Z = state
    return (
        _gather(knot.p, P, Q, zero, negate),
        _gather(knot.q, Q, P, zero, negate),
        _gather(knot.z, Z, None, zero, negate),
    )


def _gather(
    pieces: tuple[Piece, ...],
    own: Tensor | None,
    other: Tensor | None,
    zero: Tensor,
    negate: bool,
) -> Tensor | None:
    """Put a shifted array together; ``negate``: conjugation changes the last part."""
    if not pieces or own is None:
        return None
    parts = []
    for piece in pieces:
        size = piece.stop - piece.start
        if piece.source == ZERO:
            parts.append(zero.expand(-1, -1, own.shape[2], size, *zero.shape[4:]))
            continue
        source = own if piece.source == OWN or other is None else other
        part = source
        if size < source.shape[3]:
            part = source[:, :, :, piece.start : piece.stop]
        part = part.flip(3) if piece.flip else part
        parts.append(_conj(part) if piece.source == OTHER and negate else part)
    return parts[0] if len(parts) == 1 else torch.cat(parts, 3)


def _conj(x: Tensor) -> Tensor:
    """Conjugate (re, im), or the imaginary part where it is the only one."""
    return -x if x.shape[1] == 1 else torch.cat([x[:, :1], -x[:, 1:]], 1)


def _carried(state: State, knot: Knot, rows: Rows, j: int) -> State:
    """Relax and mix the pools, and let Z0 regrow (where it does not by itself)."""
    P, Q, Z = state
    if rows.own:
        p, q, z = rows.own[3 * j : 3 * j + 3]
        P = None if P is None else _swirled(P, *p, 1)
        Q = None if Q is None else _swirled(Q, *q, 1)
        Z = None if Z is None else _swirled(Z, *z, 1)
        Z = _regrown(Z, rows.grown[j]) if Z is not None and knot.regrow else Z
        return P, Q, Z
    if rows.relax:
        if Z is not None:
            Z = mixed(rows.relax[j], Z)
            Z = _regrown(Z, rows.grown[j]) if knot.regrow else Z
        return P, Q, Z
    if not knot.regrow or Z is None:
        return state
    return P, Q, _regrown(times(rows.E1[j], Z), rows.grown[j])


def _regrown(Z: Tensor, grown: Coef) -> Tensor:
    """Add what Z0 regains (the last part is the imaginary one)."""
    value = grown.value if grown.value.ndim > Z.ndim - 4 else grown.value[None, None]
    head = Z[:, -1:, :, :1] + value
    if grown.tangent is not None:
        head = torch.cat([head[:1], Z[1:, -1:, :, :1] + grown.tangent[1:]])
    head = torch.cat([Z[:, :-1, :, :1], head], 1) if Z.shape[1] == 2 else head
    return head if Z.shape[3] == 1 else torch.cat([head, Z[:, :, :, 1:]], 3)


def _turned(x: Tensor, re: Coef, im: Coef, sign: int) -> Tensor:
    """Multiply (re, im) states by re + i·sign·im."""
    y = quarter(x)
    return plus_times(times(re, x), im, y if sign > 0 else -y)


def _swirled(x: Tensor, re: Columns, im: Columns, sign: int) -> Tensor:
    """Multiply (re, im) states by the matrix re + i·sign·im over pools."""
    y = quarter(x) if sign > 0 else -quarter(x)
    made = mixed(re, x)
    for q, column in enumerate(im):
        made = plus_times(made, column, y[:, :, q : q + 1])
    return made


def _framed(P: Tensor, Q: Tensor, knot: Knot, rows: Rows, j: int) -> tuple[Tensor, ...]:
    """Return A = (P + Q)/2 and a multiple of P - Q in the pulse's frame, decayed."""
    if rows.half:
        Q = -Q if knot.negate else Q
        return times(rows.half[j], P + Q), P - Q
    if rows.re:
        P = _turned(P, rows.re[j], rows.im[j], 1)
        Q = _turned(Q, rows.re[j], rows.im[j], -1)
        return P + Q, P - Q
    if not rows.mix_im:
        Q = -Q if knot.negate else Q
        return mixed(rows.mix_re[j], P + Q), mixed(rows.mix_re[j], P - Q)
    P = _swirled(P, rows.mix_re[j], rows.mix_im[j], 1)
    Q = _swirled(Q, rows.mix_re[j], rows.mix_im[j], -1)
    return P + Q, P - Q


def _pulse(state: State, knot: Knot, rows: Rows, j: int) -> State:
    """Turn the states about the frame's x axis."""
    # there P + Q stays and (P - Q, ζ) turns by the flip angle; the decay of the wait
    # before is folded into the coefficients, never divided out
    P, Q, Z = state
    z = Z if Z is None or Z.shape[2] == rows.free else Z[:, :, : rows.free]
    if P is None or Q is None:
        if Z is None or z is None:
            return None, None, None
        H = times(rows.h[j], z)
        new = times(rows.z[j], z) if knot.keep_z else None
        return H, -H, _with_bound(new, Z, rows, j)
    A, D = _framed(P, Q, knot, rows, j)
    new = times(rows.d[j], D) if knot.keep_z else None
    if z is not None and new is not None:
        new = plus_times(new, rows.z[j], z)
    new = _with_bound(new, Z, rows, j)
    if not knot.keep_f:
        return None, None, new
    H = times(rows.H[j], D)
    H = H if z is None else plus_times(H, rows.h[j], z)
    return A + H, A - H, new


def _with_bound(
    new: Tensor | None, Z: Tensor | None, rows: Rows, j: int
) -> Tensor | None:
    """Put the bound pools, saturated, back beside the free ones."""
    free = rows.free
    pools = len(rows.relax[j]) if rows.relax else free
    if new is None or pools == free:
        return new
    if Z is None:
        rest = (new[:, :, :1] * 0).expand(-1, -1, pools - free, *new.shape[3:])
        return torch.cat([new, rest], 2)
    return torch.cat([new, _saturated(Z[:, :, free:], rows, j)], 2)


def _saturated(Z: Tensor, rows: Rows, j: int) -> Tensor:
    """Saturate bound pools, and couple them to their dipolar order."""
    if not rows.bound:
        return Z
    if not rows.order:
        return times(rows.bound[j], Z)
    b, o = Z.chunk(2, 2)
    return torch.cat(
        [
            plus_times(times(rows.bound[j], b), rows.cross[j], o),
            plus_times(times(rows.cross[j], b), rows.order[j], o),
        ],
        2,
    )


def _pass(state: State, knot: Knot, rows: Rows, j: int) -> State:
    """Carry the states over a spoiler, an inversion or to the end."""
    P, Q, Z = state
    if Z is not None:
        Z = _with_bound(times(rows.z[j], Z[:, :, : rows.free]), Z, rows, j)
    if knot.kind != "end" or P is None or Q is None:
        return None, None, Z
    if rows.re:
        re, im = rows.re[j], rows.im[j]
        return _turned(P, re, im, 1), _turned(Q, re, im, -1), Z
    columns = rows.mix_re[j], rows.mix_im[j]
    return _swirled(P, *columns, 1), _swirled(Q, *columns, -1), Z


def _look(reading: Reading, state: State, zero: Tensor, free: int) -> Tensor:
    source = state[0] if reading.source == OWN else state[1]
    if reading.source == ZERO or source is None:
        return zero[:, :, :, 0].expand(-1, -1, free, *zero.shape[4:])
    return source[:, :, :, reading.index]


def _signal(
    plan: Plan,
    found: list[Tensor],
    read: Tensor,
    tangent: Tensor | None,
    zero: Tensor,
) -> list[Tensor]:
    """Weight all readings at once with what they have gathered."""
    if not found:
        return [zero[:, 0, 0, :0]] * 2
    raw = torch.stack(found, 1)
    twice = torch.cat([raw, raw], 1)
    made = read * twice
    if tangent is not None:
        padded = torch.cat([torch.zeros_like(tangent[:1]), tangent])
        made = torch.addcmul(made, padded, twice[:1])
    re, im = made.sum((2, 3)).chunk(2, 1)
    if len(found) == plan.slots:
        return [re, im]
    slots = [r.slot for k in plan.knots for r in k.readings]
    owner = torch.tensor(slots).to(re.device)
    blank = (re[:, :1] * 0).expand(-1, plan.slots, *re.shape[2:])
    return [blank.index_add(1, owner, part) for part in (re, im)]
