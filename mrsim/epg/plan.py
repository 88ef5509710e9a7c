"""How a program is walked, found once per layout.

Waits between two operations merge into one interval, whose readings look into the
states at its start; `mrsim.epg.window` says which states matter.

States are P_k = F_k, Q_k = conj(F_-k) and ζ_k = -2i Z_k for k ≥ 0, P and Q in the frame
of the last pulse. There the pulse is a real rotation, and real and imaginary parts mix
only through phases that are no multiples of 90°. If one part alone is alive at every
pulse, the program runs in real arithmetic.
"""

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache, reduce
from operator import or_
from typing import Any, NamedTuple

from mrsim.epg.labels import Axes
from mrsim.epg.program import Layout
from mrsim.epg.window import (
    FAR,
    Parts,
    Span,
    alive,
    kept,
    read_orders,
    shift,
    spans,
    turn,
)

RE, IM = 0, 1
OWN, OTHER, ZERO = 0, 1, -1
Orders = range | tuple[int, ...]


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
    order: int  # the state's signed order at the interval's start
    slot: int  # the reading's number in the program; with T2′ several states share one


class Knot(NamedTuple):
    """One operation, how the states come to it, and the interval that follows."""

    kind: str  # "start", "pulse", "invert", "spoil" or "end"
    row: int
    quadrant: int  # of the frame of P and Q
    frame: int  # row of the pulse whose phase the frame follows; -1 for none
    part: int  # in a real plan the part alive, RE or IM
    orders: Orders  # the window at the operation
    p: tuple[Piece, ...]  # how P, Q and ζ come from the knot before; () if absent
    q: tuple[Piece, ...]
    z: tuple[Piece, ...]
    regrow: bool  # Z0 regrows on the way here, and it matters
    sign: int  # in a real plan the sign that the frame's turn gives to P
    negate: bool  # ... and whether Q gets the opposite one
    keep_f: bool  # F is needed after the operation
    keep_z: bool
    dual: bool  # the pulse saturates at both offsets alike
    rows: tuple[int, ...]  # rows whose waits follow the operation
    readings: tuple[Reading, ...]


class Plan(NamedTuple):
    """All knots of a program, and whether one real part is enough."""

    knots: tuple[Knot, ...]
    real: bool
    axes: Axes  # what an order means
    kinds: tuple[int, ...]  # of each interval; those of one kind have equal waits
    firsts: tuple[int, ...]  # the first interval of each kind
    shared: frozenset[int]  # kinds of more than one interval
    slots: int  # readings of the program


Way = tuple[tuple[Piece, ...], tuple[Piece, ...], tuple[Piece, ...]]
_NOWHERE: Way = ((), (), ())


@lru_cache(maxsize=256)
def make_plan(
    layout: Layout,
    axes: Axes,
    clock: tuple[int, ...] | None,
    quadrants: bool,
    states: int | None,
    init: int | None,
    final: bool,
) -> Plan:
    """Plan a layout.

    Args:
        layout: the program's structure.
        axes: what an order means.
        clock: classes of rows of equal durations.
        quadrants: all phases are multiples of 90° and nothing precesses.
        states: keep |k| < states only; ``None`` keeps all that matter.
        init: the highest order of a given initial state; ``None`` for equilibrium.
        final: keep every state at the end.

    Returns:
        The plan; real if `quadrants` and one part is enough.
    """
    cut = spans(layout, axes.shifts, final)
    kinds = _kinds(cut, axes, clock)
    firsts: dict[int, int] = {}
    for j, kind in enumerate(kinds):
        firsts.setdefault(kind, j)
    plan = Plan(
        knots=(),
        real=False,
        axes=axes,
        kinds=kinds,
        firsts=tuple(firsts.values()),
        shared=frozenset(k for k, n in Counter(kinds).items() if n > 1),
        slots=sum(event.read for event in layout),
    )
    if init is not None and states is not None:
        init = min(init, states - 1)
    if quadrants and init is None and not final:
        before, after = alive(cut, 2, states, init, axes)
        if all(_one_part(b, a) for b, a in zip(before, after, strict=True)):
            knots = _knots(cut, before, after, states, axes, real=True)
            return plan._replace(knots=knots, real=True)
    before, after = alive(cut, 1, states, init, axes)
    return plan._replace(knots=_knots(cut, before, after, states, axes, real=False))


def _kinds(
    cut: Sequence[Span], axes: Axes, clock: tuple[int, ...] | None
) -> tuple[int, ...]:
    """Number the intervals so that those with equal waits and shifts are one kind."""
    if clock is None:
        return tuple(range(len(cut)))
    known: dict[tuple[tuple[int, int], ...], int] = {}
    waits = [tuple((clock[r], axes.shifts[r]) for r in span.rows) for span in cut]
    return tuple(known.setdefault(w, len(known)) for w in waits)


def _one_part(before: Parts, after: Parts) -> bool:
    return not all(any(b) or any(a) for b, a in zip(before, after, strict=True))


def _window(before: Parts, after: Parts) -> Any:
    return reduce(or_, (one for s in (*before, *after) for one in s))


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
    axes: Axes,
    real: bool,
) -> tuple[Knot, ...]:
    windows = [_window(b, a) for b, a in zip(before, after, strict=True)]
    if axes.sizes:
        orders = [tuple(sorted(w | {0} if not j else w)) for j, w in enumerate(windows)]
    else:
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
    slot = 0
    for j, span in enumerate(cut):
        way, onward = ways[j], (*ways, _NOWHERE)[j + 1]
        readings = _readings(span, orders[j], after[j], states, axes, slot)
        slot += len(span.reads)
        quarters = turn(cut[j - 1], span) if j else 0
        flipped = quarters % 2 and (quarters == 1) == (parts[j - 1] == IM)
        grows = way[2] and cut[j - 1].rows and 0 in orders[j] and parts[j] == IM
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
                dual=span.dual,
                rows=span.rows,
                readings=readings,
            )
        )
    return tuple(made)


def _ways(
    last: Span, source: Orders, target: Orders, come: Parts, states: int | None
) -> Way:
    """Say how P, Q and ζ come from one knot to the next; () for what does not."""
    p, q, z = _NOWHERE
    if isinstance(source, tuple) or isinstance(target, tuple):
        n = shift(last)
        if any(s.p or s.q for s in come):
            p, q = _pick(source, target, n), _pick(source, target, -n)
        return p, q, _pick(source, target, 0) if any(s.z for s in come) else ()
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


def _pick(source: Orders, target: Orders, n: int) -> tuple[Piece, ...]:
    """Say how the states of ``target`` come, one by one, joined where they can be."""
    at = {order: i for i, order in enumerate(source)}
    pieces: list[Piece] = []
    for order in target:
        i = at.get(abs(order - n), -1)
        kind = ZERO if i < 0 else OWN if order >= n else OTHER
        last = pieces[-1] if pieces else Piece(ZERO, 0, 0)
        if kind == last.source == ZERO:
            pieces[-1:] = [last._replace(stop=last.stop + 1)]
        elif kind == last.source and kind == OWN and i == last.stop:
            pieces[-1] = last._replace(stop=i + 1)
        elif kind == last.source and i == last.start - 1:
            pieces[-1] = last._replace(start=i, flip=True)
        else:
            pieces.append(Piece(kind, max(i, 0), max(i, 0) + 1))
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
    span: Span,
    orders: Orders,
    alive: Parts,
    states: int | None,
    axes: Axes,
    slot: int,
) -> tuple[Reading, ...]:
    made = []
    for position, receiver in span.reads:
        rows = span.rows[: position + 1]
        some = any(s.p or s.q for s in alive)
        found = read_orders(span, position, states, axes, alive) if some else []
        found = [order for order in found if abs(order) in orders]
        for order in found or [0]:
            source = ZERO if not found else OWN if order >= 0 else OTHER
            index = orders.index(abs(order)) if found else 0
            made.append(Reading(rows[-1], rows, receiver, source, index, order, slot))
        slot += 1
    return tuple(made)
