"""The walk through a plan: bilinear in coefficients and states.

States have shape (copy, part, order, *batch): one part in real plans, (re, im) in
others; one copy, or the value followed by its derivative along each tangent. A product
of a coefficient (c, dc) and a state (x, dx) is (c·x, c·dx + dc·x), so that value and
derivatives share one pass with few, wide operations.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mrsim.epg.plan import IM, OTHER, OWN, ZERO, Knot, Piece, Plan, Reading
from mrsim.epg.steps import Steps


class Coef(NamedTuple):
    """A coefficient of one step and, in a derivative pass, its tangents."""

    value: Tensor  # (*batch)
    tangent: Tensor | None  # (copy, 1, 1, *batch), first copy zero


class Rows(NamedTuple):
    """The coefficients of all steps, taken apart."""

    H: Sequence[Coef]
    h: Sequence[Coef]
    z: Sequence[Coef]
    d: Sequence[Coef]
    half: Sequence[Coef]
    re: Sequence[Coef]
    im: Sequence[Coef]
    E1: Sequence[Coef]
    grown: Sequence[Coef]


State = tuple[Tensor | None, Tensor | None, Tensor | None]


def walk(plan: Plan, steps: Steps, tangents: Steps | None = None) -> list[Tensor]:
    """Carry the states through all knots and collect the readings.

    Args:
        plan: the plan.
        steps: its coefficients.
        tangents: their tangents, with one more axis first; ``None`` for the value.

    Returns:
        Re and Im of the signal (copy, reading, *batch); for a plan with an end also
        P, Q and ζ as (copy, part, order, *batch).
    """
    count = len(Rows._fields)
    moved = tangents or (None,) * len(steps)
    rows = Rows(*(_coefs(v, t) for v, t in zip(steps[:count], moved, strict=False)))
    start = _copies(steps.start, tangents and tangents.start)
    zero = start[:, -1, :, :1] - start[:, -1, :, :1]
    state: State = None, None, start[:, -1]
    if start.shape[1] == 3:
        state = start[:, 0], start[:, 1], start[:, 2]
    found = [_look(r, state, zero) for r in plan.knots[0].readings]
    for j, knot in enumerate(plan.knots[1:]):
        negate = not plan.real or plan.knots[j].part == IM
        state = _gathered(knot, state, zero, negate)
        state = _regrown(state, rows.E1[j], rows.grown[j]) if knot.regrow else state
        operate = _pulse if knot.kind == "pulse" else _pass
        state = operate(state, knot, rows, j)
        found += [_look(r, state, zero) for r in knot.readings]
    signal = _signal(found, steps.read, tangents and tangents.read, zero)
    if plan.knots[-1].kind != "end":
        return signal
    blank = zero.expand(-1, -1, len(plan.knots[-1].orders), *zero.shape[3:])
    blank = blank.contiguous()  # jvp refuses outputs of stride 0
    return [*signal, *(blank if v is None else v for v in state)]


def _coefs(value: Tensor, tangent: Tensor | None) -> list[Coef]:
    values = value.unbind(0)
    if tangent is None:
        return [Coef(v, None) for v in values]
    padded = torch.cat([torch.zeros_like(tangent[:1]), tangent])[:, :, None, None]
    return [Coef(v, t) for v, t in zip(values, padded.unbind(1), strict=True)]


def _copies(value: Tensor, tangent: Tensor | None) -> Tensor:
    return value[None] if tangent is None else torch.cat([value[None], tangent])


def _times(c: Coef, x: Tensor) -> Tensor:
    y = c.value * x
    return y if c.tangent is None else torch.addcmul(y, c.tangent, x[:1])


def _plus_times(y: Tensor, c: Coef, x: Tensor) -> Tensor:
    y = torch.addcmul(y, c.value, x)
    return y if c.tangent is None else torch.addcmul(y, c.tangent, x[:1])


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
            parts.append(
                zero if size == 1 else zero.expand(-1, -1, size, *zero.shape[3:])
            )
            continue
        source = own if piece.source == OWN or other is None else other
        part = (
            source[:, :, piece.start : piece.stop] if size < source.shape[2] else source
        )
        part = part.flip(2) if piece.flip else part
        parts.append(_conj(part) if piece.source == OTHER and negate else part)
    return parts[0] if len(parts) == 1 else torch.cat(parts, 2)


def _conj(x: Tensor) -> Tensor:
    """Conjugate (re, im), or the imaginary part where it is the only one."""
    return -x if x.shape[1] == 1 else torch.cat([x[:, :1], -x[:, 1:]], 1)


def _regrown(state: State, E1: Coef, grown: Coef) -> State:
    """Relax ζ and add what Z0 regains (the last part is the imaginary one)."""
    P, Q, Z = state
    if Z is None:
        return state
    Z = _times(E1, Z)
    head = Z[:, -1:, :1] + grown.value
    if grown.tangent is not None:
        head = torch.cat([head[:1], Z[1:, -1:, :1] + grown.tangent[1:]])
    head = torch.cat([Z[:, :-1, :1], head], 1) if Z.shape[1] == 2 else head
    return P, Q, head if Z.shape[2] == 1 else torch.cat([head, Z[:, :, 1:]], 2)


def _turned(x: Tensor, re: Coef, im: Coef, sign: int) -> Tensor:
    """Multiply (re, im) states by re + i·sign·im."""
    quarter = torch.cat([-x[:, 1:], x[:, :1]] if sign > 0 else [x[:, 1:], -x[:, :1]], 1)
    return _plus_times(_times(re, x), im, quarter)


def _pulse(state: State, knot: Knot, rows: Rows, j: int) -> State:
    """Turn the states about the frame's x axis."""
    # there P + Q stays and (P - Q, ζ) turns by the flip angle; the decay of the wait
    # before is folded into the coefficients, never divided out
    P, Q, Z = state
    if P is None or Q is None:
        if Z is None:
            return None, None, None
        H = _times(rows.h[j], Z)
        return H, -H, _times(rows.z[j], Z) if knot.keep_z else None
    if rows.half:
        Q = -Q if knot.negate else Q
        A = _times(rows.half[j], P + Q)
    else:
        P, Q = (
            _turned(P, rows.re[j], rows.im[j], 1),
            _turned(Q, rows.re[j], rows.im[j], -1),
        )
        A = P + Q
    D = P - Q
    new = _times(rows.d[j], D) if knot.keep_z else None
    if Z is not None and new is not None:
        new = _plus_times(new, rows.z[j], Z)
    if not knot.keep_f:
        return None, None, new
    H = _times(rows.H[j], D)
    H = H if Z is None else _plus_times(H, rows.h[j], Z)
    return A + H, A - H, new


def _pass(state: State, knot: Knot, rows: Rows, j: int) -> State:
    """Carry the states over a spoiler, an inversion or to the end."""
    P, Q, Z = state
    Z = None if Z is None else _times(rows.z[j], Z)
    if knot.kind != "end" or P is None or Q is None:
        return None, None, Z
    re, im = rows.re[j], rows.im[j]
    return _turned(P, re, im, 1), _turned(Q, re, im, -1), Z


def _look(reading: Reading, state: State, zero: Tensor) -> Tensor:
    source = state[0] if reading.source == OWN else state[1]
    if reading.source == ZERO or source is None:
        return zero[:, :, 0]
    return source[:, :, reading.index]


def _signal(
    found: list[Tensor], read: Tensor, tangent: Tensor | None, zero: Tensor
) -> list[Tensor]:
    """Weight all readings at once with what they have gathered."""
    if not found:
        return [zero[:, 0, :0]] * 2
    raw = torch.stack(found, 1)
    twice = torch.cat([raw, raw], 1)
    made = read * twice
    if tangent is not None:
        padded = torch.cat([torch.zeros_like(tangent[:1]), tangent])
        made = torch.addcmul(made, padded, twice[:1])
    re, im = made.sum(2).chunk(2, 1)
    return [re, im]
