"""Which states can reach a reading, as integer bitsets.

A configuration state matters only if the operations so far can have filled it and the
readings still to come can see it. Both sets are swept over the program, forward and
backward; their intersection is the lossless window.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from mrsim.epg.labels import Axes
from mrsim.epg.program import Layout

_MOST = 100_000  # states of one pulse; more is a combinatorial explosion


class Sets(NamedTuple):
    """Which orders k ≥ 0 of P, Q and Z there are: bit k, or a set of labels."""

    p: Any
    q: Any
    z: Any


class Algebra(NamedTuple):
    """A way to keep sets of orders; ``|`` and ``&`` work in each."""

    none: Any
    only: Callable[[int], Any]  # the set that holds one order k ≥ 0
    still: Callable[[Any], Any]  # what an ideal spoiler leaves
    shifted: Callable[[Sets, int], Sets]


class Span(NamedTuple):
    """One operation of a program and the interval that follows it."""

    kind: str
    row: int
    quadrant: int
    frame: int
    rows: tuple[int, ...]
    partial: tuple[int, ...]  # total shift after each row
    reads: tuple[tuple[int, int], ...]  # position in rows and receiver's quadrant
    dual: bool = False


Parts = tuple[Sets, ...]
FAR = 1 << 30  # beyond every order


def spans(layout: Layout, shifts: Sequence[int], final: bool) -> list[Span]:
    """Cut a layout into operations, each with the interval that follows it."""
    cuts = [Span("start", -1, 0, -1, (), (), ())]
    for row, event in enumerate(layout):
        last = cuts[-1]
        if event.pulse:
            cuts.append(Span("pulse", row, event.quadrant, row, (), (), (), event.dual))
        elif event.invert:
            cuts.append(
                Span("invert", row, last.quadrant, last.frame, (), (), (), event.dual)
            )
        last = cuts[-1]
        cuts[-1] = last._replace(
            rows=(*last.rows, row),
            partial=(*last.partial, shift(last) + shifts[row]),
            reads=last.reads + ((len(last.rows), event.receiver),) * event.read,
        )
        if event.spoil:
            cuts.append(Span("spoil", row, last.quadrant, last.frame, (), (), ()))
    if final:
        cuts.append(Span("end", -1, 0, -1, (), (), ()))
    return cuts


def alive(
    cut: Sequence[Span], parts: int, states: int | None, init: int | None, axes: Axes
) -> tuple[list[Parts], list[Parts]]:
    """Return the sets alive before and after each operation, for each part."""
    algebra = _algebra(axes)
    reach = _reach(cut, parts, states, init, axes, algebra)
    need = _need(cut, states, axes, algebra, reach)
    before, after = (
        [tuple(map(_both, r, n)) for r, n in zip(some, wanted, strict=True)]
        for some, wanted in zip(reach, need, strict=True)
    )
    return before, after


def _reach(
    cut: Sequence[Span],
    parts: int,
    states: int | None,
    init: int | None,
    axes: Axes,
    algebra: Algebra,
) -> tuple[list[Parts], list[Parts]]:
    """Sweep forward: what can be filled before and after each operation."""
    empty = Sets(*(algebra.none,) * 3)
    rest = algebra.only(0)
    filled = (1 << ((init or 0) + 1)) - 1
    begin = empty._replace(z=rest) if init is None else Sets(filled, filled, filled)
    before: list[Parts] = [(empty,) * parts]
    after: list[Parts] = [(*(empty,) * (parts - 1), begin)]
    for last, span in pairwise(cut):
        sets = tuple(
            algebra.shifted(_clipped(s, last, states), shift(last)) for s in after[-1]
        )
        sets = _swapped(sets) if turn(last, span) % 2 else sets
        if last.rows:
            sets = (*sets[:-1], sets[-1]._replace(z=sets[-1].z | rest))
        before.append(sets)
        after.append(tuple(_operate(span.kind, s, algebra) for s in sets))
        if axes.sizes and max(len(s.p) for s in after[-1]) > _MOST:
            raise ValueError(
                f"epg.run: more than {_MOST} states differ in their orders and net"
                f" precession times; give rows of equal duration one class in"
                f" Program.clock, or average over df instead of giving T2p"
            )
    return before, after


def _need(
    cut: Sequence[Span],
    states: int | None,
    axes: Axes,
    algebra: Algebra,
    reach: tuple[list[Parts], list[Parts]],
) -> tuple[list[Parts], list[Parts]]:
    """Sweep backward: what a reading (or the end) can see, before and after."""
    sets: Parts = (Sets(*(algebra.none,) * 3),) * len(reach[0][0])
    before: list[Parts] = []
    after: list[Parts] = []
    following: Span | None = None
    for span, come, left in reversed(list(zip(cut, *reach, strict=True))):
        if following is not None:
            sets = _swapped(sets) if turn(span, following) % 2 else sets
            sets = tuple(
                _clipped(algebra.shifted(s, -shift(span)), span, states) for s in sets
            )
        p = q = algebra.none
        for position, _ in span.reads:
            for order in read_orders(span, position, states, axes, left):
                if order < 0:
                    q = q | algebra.only(-order)
                else:
                    p = p | algebra.only(order)
        sets = tuple(Sets(s.p | p, s.q | q, s.z) for s in sets)
        after.append(come if span.kind == "end" else sets)
        sets = tuple(_operate(span.kind, s, algebra) for s in sets)
        sets = come if span.kind == "end" else sets
        before.append(sets)
        following = span
    return before[::-1], after[::-1]


def _operate(kind: str, s: Sets, algebra: Algebra) -> Sets:
    """Carry sets across an operation, in either direction."""
    if kind == "pulse":
        mixed = s.p | s.q | s.z
        return Sets(mixed, mixed, mixed)
    if kind == "end":
        return s
    left = algebra.still(s.z) if kind == "spoil" else s.z
    return Sets(algebra.none, algebra.none, left)


def _both(a: Sets, b: Sets) -> Sets:
    return Sets(a.p & b.p, a.q & b.q, a.z & b.z)


def _swapped(parts: Parts) -> Parts:
    """Exchange the parts of F (a frame turned by ±90°); Z has no frame."""
    if len(parts) == 1:
        return parts
    re, im = parts
    return (Sets(im.p, im.q, re.z), Sets(re.p, re.q, im.z))


def _shifted_bits(s: Sets, n: int) -> Sets:
    if n < 0:
        q, p, z = _shifted_bits(Sets(s.q, s.p, s.z), -n)
        return Sets(p, q, z)
    low = sum(((s.q >> (n - k)) & 1) << k for k in range(n))
    p, q = (s.p << n) | low, s.q >> n
    both = (p | q) & 1  # P_0 and Q_0 are one state
    return Sets(p | both, q | both, s.z)


def _shifted_labels(s: Sets, n: int) -> Sets:
    signed = {k + n for k in s.p} | {n - k for k in s.q}
    p = frozenset(k for k in signed if k >= 0)
    return Sets(p, frozenset(-k for k in signed if k <= 0), s.z)


_BITS = Algebra(0, lambda k: 1 << k, lambda z: z & 1, _shifted_bits)


def _algebra(axes: Axes) -> Algebra:
    if not axes.sizes:
        return _BITS

    def still(z: frozenset[int]) -> frozenset[int]:
        return frozenset(k for k in z if not any(axes.digits(k)[: axes.space]))

    return Algebra(frozenset(), lambda k: frozenset([k]), still, _shifted_labels)


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


def read_orders(
    span: Span, position: int, states: int | None, axes: Axes, left: Parts
) -> list[int]:
    """Return the signed orders, after the operation, that are F0 at a reading.

    There is one, or none if it is cut off; with net precession times there is one for
    each time.

    Args:
        span: the operation and its interval.
        position: the reading's position in the interval.
        states: the truncation.
        axes: what an order means.
        left: the sets after the operation.

    Returns:
        The orders at the interval's start.
    """
    moved = span.partial[position]
    if not axes.sizes:
        return [-moved] if -moved in kept(span, states, position + 1) else []
    orders = {k for s in left for k in s.p} | {-k for s in left for k in s.q}
    still = (0,) * axes.space
    return sorted(k for k in orders if axes.digits(k + moved)[: axes.space] == still)
