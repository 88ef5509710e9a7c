"""Which states a program needs, found once per layout.

A configuration state matters only if the pulses so far can have filled it and the
readings still to come can see it. Both sets are integer bitsets, swept forward and
backward over the layout; their intersection is the lossless window. Waits between two
pulses merge into one interval, whose readings look into the states at its start.

States are P_k = F_k, Q_k = conj(F_-k) and ζ_k = -2i Z_k for k ≥ 0, P and Q in the frame
of the last pulse. There the pulse is a real rotation, and real and imaginary parts mix
only through phases that are no multiples of 90°. If one part alone is alive at every
pulse, the program runs in real arithmetic.
"""

from functools import lru_cache
from typing import NamedTuple

from mrsim.epg.program import Layout

RE, IM = 0, 1
OWN, OTHER, ZERO = 0, 1, -1


class Piece(NamedTuple):
    """A run of states after a shift, and where it comes from."""

    source: int  # OWN, OTHER (to be conjugated) or ZERO
    start: int
    stop: int
    flip: bool = False


class Reading(NamedTuple):
    """One reading: the state at an interval's start that the gradient moves to F0."""

    row: int
    rows: tuple[int, ...]  # rows of the interval up to the reading: its time
    receiver: int  # quadrant taken off the signal
    source: int  # OWN: P, OTHER: Q, ZERO: nothing arrives
    index: int


class Knot(NamedTuple):
    """One operation, how the states come to it, and the interval that follows."""

    kind: str  # "start", "pulse", "invert", "spoil" or "end"
    row: int
    quadrant: int  # of the frame of P and Q
    frame: int  # row of the pulse whose phase the frame follows; -1 for none
    part: int  # in a real plan the part alive, RE or IM
    orders: range  # the window at the operation
    p: tuple[Piece, ...]  # how P, Q and ζ come from the knot before; () if absent
    q: tuple[Piece, ...]
    z: tuple[Piece, ...]
    regrow: bool  # Z0 regrows on the way here, and it matters
    sign: int  # in a real plan the sign that the frame's turn gives to P
    negate: bool  # ... and whether Q gets the opposite one
    keep_f: bool  # F is needed after the operation
    keep_z: bool
    rows: tuple[int, ...]  # rows whose waits follow the operation
    readings: tuple[Reading, ...]


class Plan(NamedTuple):
    """All knots of a program, and whether one real part is enough."""

    knots: tuple[Knot, ...]
    real: bool


class _Sets(NamedTuple):
    p: int
    q: int
    z: int


class _Span(NamedTuple):
    kind: str
    row: int
    quadrant: int
    frame: int
    rows: tuple[int, ...]
    partial: tuple[int, ...]  # total shift after each row
    reads: tuple[tuple[int, int], ...]  # position in rows and receiver's quadrant


Parts = tuple[_Sets, ...]
_NONE = _Sets(0, 0, 0)


@lru_cache(maxsize=256)
def make_plan(
    layout: Layout, quadrants: bool, states: int | None, init: int | None, final: bool
) -> Plan:
    """Plan a layout.

    Args:
        layout: the program's structure.
        quadrants: all phases are multiples of 90° and nothing precesses.
        states: keep |k| < states only; ``None`` keeps all that matter.
        init: the highest order of a given initial state; ``None`` for equilibrium.
        final: keep every state at the end.

    Returns:
        The plan; real if `quadrants` and one part is enough.
    """
    cut = _spans(layout, final)
    if quadrants and init is None and not final:
        before, after = _alive(cut, 2, states, init)
        if all(_one_part(b, a) for b, a in zip(before, after, strict=True)):
            return Plan(_knots(cut, before, after, states, True), True)
    before, after = _alive(cut, 1, states, init)
    return Plan(_knots(cut, before, after, states, False), False)


def _spans(layout: Layout, final: bool) -> list[_Span]:
    """Cut a layout into operations, each with the interval that follows it."""
    cuts = [_Span("start", -1, 0, -1, (), (), ())]
    for row, event in enumerate(layout):
        last = cuts[-1]
        if event.pulse:
            cuts.append(_Span("pulse", row, event.quadrant, row, (), (), ()))
        elif event.invert:
            cuts.append(_Span("invert", row, last.quadrant, last.frame, (), (), ()))
        last = cuts[-1]
        cuts[-1] = last._replace(
            rows=(*last.rows, row),
            partial=(*last.partial, _shift(last) + event.shift),
            reads=last.reads + ((len(last.rows), event.receiver),) * event.read,
        )
        if event.spoil:
            cuts.append(_Span("spoil", row, last.quadrant, last.frame, (), (), ()))
    if final:
        cuts.append(_Span("end", -1, 0, -1, (), (), ()))
    return cuts


def _alive(
    cut: list[_Span], parts: int, states: int | None, init: int | None
) -> tuple[list[Parts], list[Parts]]:
    """Return the sets alive before and after each operation, for each part."""
    none = (_NONE,) * parts
    filled = (1 << ((init or 0) + 1)) - 1
    begin = _Sets(0, 0, 1) if init is None else _Sets(filled, filled, filled)
    reach_before, reach_after = [none], [(*none[1:], begin)]
    for last, span in zip(cut, cut[1:], strict=False):
        came = tuple(_shifted(_clipped(s, last, states), _shift(last)) for s in reach_after[-1])
        came = _swapped(came) if _turn(last, span) % 2 else came
        if last.rows:
            came = (*came[:-1], came[-1]._replace(z=came[-1].z | 1))
        reach_before.append(came)
        reach_after.append(tuple(_operate(span.kind, s) for s in came))
    everything = tuple(_Sets(-1, -1, -1) for _ in none)
    need_before, need_after = [none], [none]
    for span, following in zip(cut[::-1], [None, *cut[:0:-1]], strict=True):
        need = need_before[0] if following else none
        if following:
            need = _swapped(need) if _turn(span, following) % 2 else need
            need = tuple(_clipped(_shifted(s, -_shift(span)), span, states) for s in need)
        need = tuple(_with_readings(s, span, states) for s in need)
        need_after.insert(0, need)
        kept = tuple(_operate(span.kind, s) for s in need)
        need_before.insert(0, everything if span.kind == "end" else kept)
    pairs = (reach_before, need_before), (reach_after, need_after)
    before, after = (
        [tuple(map(_both, r, n)) for r, n in zip(reach, need, strict=False)]
        for reach, need in pairs
    )
    return before, after


def _operate(kind: str, s: _Sets) -> _Sets:
    """Carry sets across an operation; the map is its own adjoint."""
    if kind == "pulse":
        mixed = s.p | s.q | s.z
        return _Sets(mixed, mixed, mixed)
    if kind == "end":
        return s
    return _Sets(0, 0, s.z & 1 if kind == "spoil" else s.z)


def _both(a: _Sets, b: _Sets) -> _Sets:
    return _Sets(a.p & b.p, a.q & b.q, a.z & b.z)


def _swapped(parts: Parts) -> Parts:
    """Exchange the parts of F (a frame turned by ±90°); Z has no frame."""
    if len(parts) == 1:
        return parts
    re, im = parts
    return (_Sets(im.p, im.q, re.z), _Sets(re.p, re.q, im.z))


def _shifted(s: _Sets, n: int) -> _Sets:
    if n < 0:
        q, p, z = _shifted(_Sets(s.q, s.p, s.z), -n)
        return _Sets(p, q, z)
    low = sum(((s.q >> (n - k)) & 1) << k for k in range(n))
    p, q = (s.p << n) | low, s.q >> n
    return _Sets(p, q | (p & 1), s.z)


def _shift(span: _Span) -> int:
    return span.partial[-1] if span.partial else 0


def _turn(last: _Span, span: _Span) -> int:
    return (last.quadrant - span.quadrant) % 4


def _bounds(span: _Span, states: int, upto: int | None = None) -> tuple[int, int]:
    """Return the highest orders of P and Q that a truncation lets through a span."""
    partial = (0, *span.partial[:upto])
    return states - 1 - max(partial), states - 1 + min(partial)


def _clipped(s: _Sets, span: _Span, states: int | None) -> _Sets:
    if states is None:
        return s
    p, q = (max(top + 1, 0) for top in _bounds(span, states))
    return _Sets(s.p & ((1 << p) - 1), s.q & ((1 << q) - 1), s.z)


def _read_order(span: _Span, position: int, states: int | None) -> int | None:
    """Return the signed order that is F0 at a reading; ``None`` if it is cut off."""
    order = -span.partial[position]
    if states is not None:
        top, bottom = _bounds(span, states, position + 1)
        if not -bottom <= order <= top:
            return None
    return order


def _with_readings(s: _Sets, span: _Span, states: int | None) -> _Sets:
    p, q, z = s
    for position, _ in span.reads:
        order = _read_order(span, position, states)
        if order is not None:
            p |= 1 << order if order >= 0 else 0
            q |= 1 << -order if order < 0 else 0
    return _Sets(p, q, z)


def _one_part(before: Parts, after: Parts) -> bool:
    return not all(any(b) or any(a) for b, a in zip(before, after, strict=True))


def _window(before: Parts, after: Parts) -> int:
    bits = 0
    for s in (*before, *after):
        bits |= s.p | s.q | s.z
    return bits


def _stride(windows: list[int], dense: bool) -> int:
    """Return 2 if every window lives on orders of one parity, else 1."""
    odd = int("10" * (max(w.bit_length() for w in windows) // 2 + 1), 2)
    alone = all(not (w >> _lowest(w)) & odd for w in windows if w)
    return 2 if alone and not dense else 1


def _lowest(bits: int) -> int:
    return (bits & -bits).bit_length() - 1


def _knots(
    cut: list[_Span],
    before: list[Parts],
    after: list[Parts],
    states: int | None,
    real: bool,
) -> tuple[Knot, ...]:
    windows = [_window(b, a) for b, a in zip(before, after, strict=True)]
    dense = cut[-1].kind == "end" or windows[0] > 1
    stride = _stride(windows, dense)
    orders = [
        range(0 if dense else _lowest(w), w.bit_length(), stride) if w else range(0)
        for w in windows
    ]
    parts = [
        RE if real and any((*b[RE], *a[RE])) else IM
        for b, a in zip(before, after, strict=True)
    ]
    ways = [((), (), ())]
    for j in range(1, len(cut)):
        ways.append(_ways(cut[j - 1], orders[j - 1], orders[j], before[j], states))
    knots = []
    for j, span in enumerate(cut):
        p, q, z = ways[j]
        next_f, _, next_z = ways[j + 1] if j + 1 < len(cut) else ((), (), ())
        readings = _readings(span, orders[j], after[j], states)
        turn = _turn(cut[j - 1], span) if j else 0
        flipped = turn % 2 and (turn == 1) == (parts[j - 1] == IM)
        knots.append(
            Knot(
                kind=span.kind,
                row=span.row,
                quadrant=span.quadrant,
                frame=span.frame,
                part=parts[j],
                orders=orders[j],
                p=p,
                q=q,
                z=z,
                regrow=bool(
                    z and cut[j - 1].rows and orders[j][0] == 0 and parts[j] == IM
                ),
                sign=-1 if turn == 2 or flipped else 1,
                negate=bool(turn % 2),
                keep_f=bool(next_f) or any(r.source != ZERO for r in readings),
                keep_z=bool(next_z),
                rows=span.rows,
                readings=readings,
            )
        )
    return tuple(knots)


def _ways(
    last: _Span, source: range, target: range, alive: Parts, states: int | None
) -> tuple[tuple[Piece, ...], tuple[Piece, ...], tuple[Piece, ...]]:
    top = _bounds(last, states) if states is not None else (1 << 30, 1 << 30)
    p: tuple[Piece, ...] = ()
    q, z = p, p
    if any(s.p | s.q for s in alive):
        p = _route(source, target, _shift(last), top)
        q = _route(source, target, -_shift(last), top[::-1])
    if any(s.z for s in alive):
        z = _route(source, target, 0, (1 << 30, -1))
    return p, q, z


def _route(
    source: range, target: range, n: int, top: tuple[int, int]
) -> tuple[Piece, ...]:
    """Say how the states of ``target`` come from those of ``source`` by a shift.

    Order k comes from order k - n of the same array, or, where that is negative, from
    order n - k of the other one, conjugated.
    """
    step = target.step
    split = max(0, min(len(target), -((target.start - n) // step)))
    below, above = target[:split], target[split:]
    pieces = []
    if below:
        mirrored = range(n - below[-1], n - below[0] + 1, step)
        pieces += [
            piece._replace(flip=piece.stop - piece.start > 1)
            for piece in _overlap(source, mirrored, top[1], OTHER)[::-1]
        ]
    if above:
        moved = range(above[0] - n, above[-1] - n + 1, step)
        pieces += _overlap(source, moved, top[0], OWN)
    return tuple(pieces)


def _overlap(source: range, wanted: range, top: int, kind: int) -> list[Piece]:
    step = wanted.step
    if not source or (wanted[0] - source[0]) % step:
        return [Piece(ZERO, 0, len(wanted))]
    first = max(wanted[0], source[0])
    last = min(wanted[-1], source[-1], top - (top - source[0]) % step)
    if first > last:
        return [Piece(ZERO, 0, len(wanted))]
    pieces = [
        Piece(ZERO, 0, (first - wanted[0]) // step),
        Piece(kind, (first - source[0]) // step, (last - source[0]) // step + 1),
        Piece(ZERO, 0, (wanted[-1] - last) // step),
    ]
    return [p for p in pieces if p.start < p.stop]


def _readings(
    span: _Span, orders: range, alive: Parts, states: int | None
) -> tuple[Reading, ...]:
    made = []
    for position, receiver in span.reads:
        order = _read_order(span, position, states)
        rows = span.rows[: position + 1]
        source, index = ZERO, 0
        if order is not None and any(s.p | s.q for s in alive) and abs(order) in orders:
            source = OWN if order >= 0 else OTHER
            index = orders.index(abs(order))
        made.append(Reading(rows[-1], rows, receiver, source, index))
    return tuple(made)
