"""How a program is walked, found once per layout.

Waits between two operations merge into one interval, whose readings look into the
states at its start; `mrsim.epg.window` says which states matter.

States are P_k = F_k, Q_k = conj(F_-k) and ζ_k = -2i Z_k for k ≥ 0, P and Q in the frame
of the last pulse. There the pulse is a real rotation, and real and imaginary parts mix
only through phases that are no multiples of 90°. If one part alone is alive at every
pulse, the program runs in real arithmetic.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from mrsim.epg.program import Layout
from mrsim.epg.window import (
    FAR,
    Parts,
    Span,
    alive,
    kept,
    read_order,
    shift,
    spans,
    turn,
)

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


Way = tuple[tuple[Piece, ...], tuple[Piece, ...], tuple[Piece, ...]]
_NOWHERE: Way = ((), (), ())


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
    cut = spans(layout, final)
    if init is not None and states is not None:
        init = min(init, states - 1)
    if quadrants and init is None and not final:
        before, after = alive(cut, 2, states, init)
        if all(_one_part(b, a) for b, a in zip(before, after, strict=True)):
            return Plan(_knots(cut, before, after, states, real=True), real=True)
    before, after = alive(cut, 1, states, init)
    return Plan(_knots(cut, before, after, states, real=False), real=False)


def _one_part(before: Parts, after: Parts) -> bool:
    return not all(any(b) or any(a) for b, a in zip(before, after, strict=True))


def _window(before: Parts, after: Parts) -> int:
    bits = 0
    for s in (*before, *after):
        bits |= s.p | s.q | s.z
    return bits


def _lowest(bits: int) -> int:
    return (bits & -bits).bit_length() - 1


def _orders(windows: Sequence[int], dense: bool) -> list[range]:
    """Cover each window by a range, of stride 2 if each has orders of one parity."""
    odd = int("10" * (max(w.bit_length() for w in windows) // 2 + 1), 2)
    alone = all(not (w >> _lowest(w)) & odd for w in windows if w)
    stride = 2 if alone and not dense else 1
    return [
        range(0 if dense else _lowest(w), w.bit_length(), stride) if w else range(0)
        for w in windows
    ]


def _knots(
    cut: Sequence[Span],
    before: Sequence[Parts],
    after: Sequence[Parts],
    states: int | None,
    real: bool,
) -> tuple[Knot, ...]:
    windows = [_window(b, a) for b, a in zip(before, after, strict=True)]
    windows[0] |= 1  # even where nothing reads the initial state
    orders = _orders(windows, dense=cut[-1].kind == "end" or windows[0] > 1)
    parts = [
        RE if real and any((*b[RE], *a[RE])) else IM
        for b, a in zip(before, after, strict=True)
    ]
    ways = [_NOWHERE] + [
        _ways(cut[j - 1], orders[j - 1], orders[j], before[j], states)
        for j in range(1, len(cut))
    ]
    made = []
    for j, span in enumerate(cut):
        way, onward = ways[j], (*ways, _NOWHERE)[j + 1]
        readings = _readings(span, orders[j], after[j], states)
        quarters = turn(cut[j - 1], span) if j else 0
        flipped = quarters % 2 and (quarters == 1) == (parts[j - 1] == IM)
        grows = way[2] and cut[j - 1].rows and orders[j][0] == 0 and parts[j] == IM
        made.append(
            Knot(
                kind=span.kind,
                row=span.row,
                quadrant=span.quadrant,
                frame=span.frame,
                part=parts[j],
                orders=orders[j],
                p=way[0],
                q=way[1],
                z=way[2],
                regrow=bool(grows),
                sign=-1 if quarters == 2 or flipped else 1,
                negate=bool(quarters % 2),
                keep_f=bool(onward[0]) or any(r.source != ZERO for r in readings),
                keep_z=bool(onward[2]),
                rows=span.rows,
                readings=readings,
            )
        )
    return tuple(made)


def _ways(
    last: Span, source: range, target: range, come: Parts, states: int | None
) -> Way:
    """Say how P, Q and ζ come from one knot to the next; () for what does not."""
    p, q, z = _NOWHERE
    through = kept(last, states)
    mirrored = range(1 - through.stop, 1 - through.start)
    if any(s.p | s.q for s in come):
        p = _route(source, target, shift(last), through, mirrored)
        q = _route(source, target, -shift(last), mirrored, through)
    if any(s.z for s in come):
        z = _route(source, target, 0, range(FAR), range(0))
    return p, q, z


def _route(
    source: range, target: range, n: int, own: range, other: range
) -> tuple[Piece, ...]:
    """Say how the states of ``target`` come from those of ``source`` by a shift."""
    # order k comes from order k - n of the same array, or, where that is negative,
    # from order n - k of the other one, conjugated; own and other are let through
    step = target.step
    split = max(0, min(len(target), -((target.start - n) // step)))
    below, above = target[:split], target[split:]
    pieces: list[Piece] = []
    if below:
        mirrored = range(n - below[-1], n - below[0] + 1, step)
        pieces += [
            piece._replace(flip=piece.stop - piece.start > 1)
            for piece in _overlap(source, mirrored, other, OTHER)[::-1]
        ]
    if above:
        moved = range(above[0] - n, above[-1] - n + 1, step)
        pieces += _overlap(source, moved, own, OWN)
    return tuple(pieces)


def _overlap(source: range, wanted: range, through: range, kind: int) -> list[Piece]:
    step = wanted.step
    first = max(
        wanted[0], source[0], through.start + (source[0] - through.start) % step
    )
    top = through.stop - 1
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
    span: Span, orders: range, alive: Parts, states: int | None
) -> tuple[Reading, ...]:
    made = []
    for position, receiver in span.reads:
        order = read_order(span, position, states)
        rows = span.rows[: position + 1]
        source, index = ZERO, 0
        if order is not None and any(s.p | s.q for s in alive) and abs(order) in orders:
            source = OWN if order >= 0 else OTHER
            index = orders.index(abs(order))
        made.append(Reading(rows[-1], rows, receiver, source, index))
    return tuple(made)
