"""Which states can reach a reading, as integer bitsets.

A configuration state matters only if the operations so far can have filled it and the
readings still to come can see it. Both sets are swept over the program, forward and
backward; their intersection is the lossless window.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from mrsim.epg.program import Layout


class Sets(NamedTuple):
    """Which orders k ≥ 0 of P, Q and Z there are: bit k."""

    p: int
    q: int
    z: int


class Span(NamedTuple):
    """One operation of a program and the interval that follows it."""

    kind: str
    row: int
    quadrant: int
    frame: int
    rows: tuple[int, ...]
    partial: tuple[int, ...]  # total shift after each row
    reads: tuple[tuple[int, int], ...]  # position in rows and receiver's quadrant


Parts = tuple[Sets, ...]
_NONE = Sets(0, 0, 0)
FAR = 1 << 30  # beyond every order


def spans(layout: Layout, final: bool) -> list[Span]:
    """Cut a layout into operations, each with the interval that follows it."""
    cuts = [Span("start", -1, 0, -1, (), (), ())]
    for row, event in enumerate(layout):
        last = cuts[-1]
        if event.pulse:
            cuts.append(Span("pulse", row, event.quadrant, row, (), (), ()))
        elif event.invert:
            cuts.append(Span("invert", row, last.quadrant, last.frame, (), (), ()))
        last = cuts[-1]
        cuts[-1] = last._replace(
            rows=(*last.rows, row),
            partial=(*last.partial, shift(last) + event.shift),
            reads=last.reads + ((len(last.rows), event.receiver),) * event.read,
        )
        if event.spoil:
            cuts.append(Span("spoil", row, last.quadrant, last.frame, (), (), ()))
    if final:
        cuts.append(Span("end", -1, 0, -1, (), (), ()))
    return cuts


def alive(
    cut: Sequence[Span], parts: int, states: int | None, init: int | None
) -> tuple[list[Parts], list[Parts]]:
    """Return the sets alive before and after each operation, for each part."""
    reach = _reach(cut, parts, states, init)
    need = _need(cut, parts, states)
    before, after = (
        [tuple(map(_both, r, n)) for r, n in zip(some, wanted, strict=True)]
        for some, wanted in zip(reach, need, strict=True)
    )
    return before, after


def _reach(
    cut: Sequence[Span], parts: int, states: int | None, init: int | None
) -> tuple[list[Parts], list[Parts]]:
    """Sweep forward: what can be filled before and after each operation."""
    none = (_NONE,) * parts
    filled = (1 << ((init or 0) + 1)) - 1
    begin = Sets(0, 0, 1) if init is None else Sets(filled, filled, filled)
    before: list[Parts] = [none]
    after: list[Parts] = [(*none[1:], begin)]
    for last, span in pairwise(cut):
        sets = tuple(
            _shifted(_clipped(s, last, states), shift(last)) for s in after[-1]
        )
        sets = _swapped(sets) if turn(last, span) % 2 else sets
        if last.rows:
            sets = (*sets[:-1], sets[-1]._replace(z=sets[-1].z | 1))
        before.append(sets)
        after.append(tuple(_operate(span.kind, s) for s in sets))
    return before, after


def _need(
    cut: Sequence[Span], parts: int, states: int | None
) -> tuple[list[Parts], list[Parts]]:
    """Sweep backward: what a reading (or the end) can see, before and after."""
    sets: Parts = (_NONE,) * parts
    before: list[Parts] = []
    after: list[Parts] = []
    following: Span | None = None
    for span in reversed(cut):
        if following is not None:
            sets = _swapped(sets) if turn(span, following) % 2 else sets
            sets = tuple(
                _clipped(_shifted(s, -shift(span)), span, states) for s in sets
            )
        sets = tuple(_with_readings(s, span, states) for s in sets)
        after.append(sets)
        all_of_it = Sets(-1, -1, -1) if span.kind == "end" else None
        sets = tuple(all_of_it or _operate(span.kind, s) for s in sets)
        before.append(sets)
        following = span
    after[0] = before[0] if cut[-1].kind == "end" else after[0]
    return before[::-1], after[::-1]


def _operate(kind: str, s: Sets) -> Sets:
    """Carry sets across an operation, in either direction."""
    if kind == "pulse":
        mixed = s.p | s.q | s.z
        return Sets(mixed, mixed, mixed)
    if kind == "end":
        return s
    return Sets(0, 0, s.z & 1 if kind == "spoil" else s.z)


def _both(a: Sets, b: Sets) -> Sets:
    return Sets(a.p & b.p, a.q & b.q, a.z & b.z)


def _swapped(parts: Parts) -> Parts:
    """Exchange the parts of F (a frame turned by ±90°); Z has no frame."""
    if len(parts) == 1:
        return parts
    re, im = parts
    return (Sets(im.p, im.q, re.z), Sets(re.p, re.q, im.z))


def _shifted(s: Sets, n: int) -> Sets:
    if n < 0:
        q, p, z = _shifted(Sets(s.q, s.p, s.z), -n)
        return Sets(p, q, z)
    low = sum(((s.q >> (n - k)) & 1) << k for k in range(n))
    p, q = (s.p << n) | low, s.q >> n
    both = (p | q) & 1  # P_0 and Q_0 are one state
    return Sets(p | both, q | both, s.z)


def shift(span: Span) -> int:
    """Return the orders that a span's gradients add in total."""
    return span.partial[-1] if span.partial else 0


def turn(last: Span, span: Span) -> int:
    """Return the turn from one span's frame to the next, in units of 90°."""
    return (last.quadrant - span.quadrant) % 4


def kept(span: Span, states: int | None, upto: int | None = None) -> range:
    """Return the signed orders that a truncation lets through a span, or its start."""
    if states is None:
        return range(1 - FAR, FAR)
    partial = (0, *span.partial[:upto])
    return range(1 - states - min(partial), states - max(partial))


def _clipped(s: Sets, span: Span, states: int | None) -> Sets:
    if states is None:
        return s
    through = kept(span, states)
    return Sets(
        s.p & _mask(through.start, through.stop),
        s.q & _mask(1 - through.stop, 1 - through.start),
        s.z,
    )


def _mask(start: int, stop: int) -> int:
    """Return the bits start ≤ k < stop, k ≥ 0."""
    return (1 << max(stop, 0)) - 1 & -1 << max(start, 0)


def read_order(span: Span, position: int, states: int | None) -> int | None:
    """Return the signed order that is F0 at a reading; ``None`` if it is cut off."""
    order = -span.partial[position]
    return order if order in kept(span, states, position + 1) else None


def _with_readings(s: Sets, span: Span, states: int | None) -> Sets:
    p, q, z = s
    for position, _ in span.reads:
        order = read_order(span, position, states)
        if order is not None:
            p |= 1 << order if order >= 0 else 0
            q |= 1 << -order if order < 0 else 0
    return Sets(p, q, z)
