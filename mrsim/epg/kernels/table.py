"""A plan as a table of integers, which compiled kernels walk.

F of all signed orders lies in one array that the gradients never move: after a total
shift s, order m is at place ``centre + m - s``. The plan's P_k and Q_k are the places
``base ± k`` of a knot of base ``centre - s``; Q_k is the conjugate of F_-k, in a real
plan ±F_-k. ζ_k is at place k of a second array.

A pass over the table starts with ζ_0 = -2 M0 (its imaginary part) and goes through the
knots. At each of them, in this order:

1. the places listed in `clears` become zero, first of F, then of ζ;
2. F relaxes and turns over the interval of kind WAIT, ζ relaxes, and if REGROW ζ_0
   regrows; the frame turns by TURN · 90° + phase[BEFORE] - phase[FRAME] (-1: phase 0);
3. the operation of kind KIND acts on the orders FIRST + i·STEP, i < COUNT: a pulse of
   flip[ROW] turns (P_k, Q_k, ζ_k); an inversion multiplies ζ_k by -efficiency[ROW] and,
   like a spoiler, leaves no F. P_k goes to base + k, Q_k to base - k except for k = 0;
4. the readings READ … READ + READS look at places of F.

In a real plan Q_k = ENTER · F_-k before and LEAVE · F_-k after the pulse, and SIGN is
the sign of P + Q; one real number stands for each state, times 1 or i (a reading's
PART). STORE is the number of orders of all pulses before, for kernels that keep states.
"""

from array import array
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

from mrsim.epg.plan import IM, ZERO, Knot, Piece, Plan

PULSE, INVERT, SPOIL = 1, 2, 3
KNOT = (
    *("KIND", "ROW", "FIRST", "COUNT", "STEP", "BASE", "ENTER", "LEAVE", "SIGN"),
    *("WAIT", "REGROW", "TURN", "BEFORE", "FRAME", "CLEAR", "CLEARS_F", "CLEARS_Z"),
    *("READ", "READS", "STORE"),
)
READING = ("PLACE", "WAIT", "TURN", "FRAME", "DEMOD", "PART", "ORDER")
Integers = array  # of int64
_KINDS = {"pulse": PULSE, "invert": INVERT, "spoil": SPOIL}


class Table(NamedTuple):
    """All integers of a pass; no tensors, which transforms would wrap."""

    knots: Integers  # (knot, KNOT) of every knot after the first
    readings: Integers  # (reading, READING); PLACE -1: nothing arrives
    clears: Integers  # (place,) of F or ζ
    waits: Integers  # (kind + 1,) where each kind's rows start in `rows`
    rows: Integers  # (row,) the rows of each kind of interval and of reading
    kinds: tuple[tuple[int, ...], ...]  # the same; intervals first, then readings
    intervals: int  # how many kinds are of intervals
    samples: tuple[int, ...]  # of each kind of reading, one of its readings
    places: int  # of F
    orders: int  # of ζ
    tops: Integers  # (interval kind + 1,) where each one's orders start, -top … top
    steps: tuple[int, ...]  # interval kind before each knot
    real: bool

    @property
    def count(self) -> int:
        """How many knots there are."""
        return len(self.knots) // len(KNOT)

    @property
    def reads(self) -> int:
        """How many readings there are."""
        return len(self.readings) // len(READING)


@lru_cache(maxsize=256)
def make_table(plan: Plan, clock: tuple[int, ...] | None, moving: bool) -> Table:
    """Lower a plan of plain orders without given or final states.

    Args:
        plan: the plan.
        clock: classes of rows of equal durations, as the plan was made with.
        moving: orders matter to the readings, by diffusion or flow.

    Returns:
        The table.
    """
    shifts = plan.axes.shifts
    passed = [0, *accumulate(sum(shifts[r] for r in k.rows) for k in plan.knots)]
    used = [
        sign * k - s
        for knot, s in zip(plan.knots, passed, strict=False)
        for k in (*knot.orders[:1], *knot.orders[-1:])
        for sign in (-1, 1)
    ]
    centre = -min(used, default=0)
    readings, kinds, samples = _readings(plan, passed, centre, clock, moving)
    knots, clears = _knots(plan, passed, centre)
    tops = [0] * len(plan.firsts)
    for kind, knot in zip(plan.kinds, plan.knots[1:], strict=False):
        tops[kind] = max(tops[kind], *knot.orders[-1:], 0)
    groups = [plan.knots[j].rows for j in plan.firsts] + kinds
    return Table(
        knots=array("q", sum(knots, ())),
        readings=array("q", sum(readings, ())),
        clears=array("q", clears),
        waits=_starts([len(g) for g in groups]),
        rows=array("q", sum(groups, ())),
        kinds=tuple(groups),
        intervals=len(plan.firsts),
        samples=samples,
        places=max(used, default=0) + centre + 1,
        orders=max((k.orders[-1] for k in plan.knots if k.orders), default=0) + 1,
        tops=_starts([2 * top + 1 for top in tops]),
        steps=plan.kinds[: len(plan.knots) - 1],
        real=plan.real,
    )


def _starts(sizes: Sequence[int]) -> Integers:
    return array("q", [0, *accumulate(sizes)])


def _readings(
    plan: Plan,
    passed: Sequence[int],
    centre: int,
    clock: tuple[int, ...] | None,
    moving: bool,
) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]], tuple[int, ...]]:
    """Return the readings, and the rows and a sample of each of their kinds."""
    known: dict[tuple[object, ...], int] = {}
    kinds: list[tuple[int, ...]] = []
    samples: list[int] = []
    found = []
    for knot, s in zip(plan.knots, passed, strict=False):
        for r in knot.readings:
            waits = r.rows if clock is None else tuple(clock[row] for row in r.rows)
            moves = tuple(plan.axes.shifts[row] for row in r.rows)
            key = waits, moves, r.order if moving else None
            if key not in known:
                known[key] = len(known)
                kinds.append(r.rows)
                samples.append(len(found))
            place = -1 if r.source == ZERO else centre + r.order - s
            quarter = (knot.quadrant - r.receiver) % 4
            wait = len(plan.firsts) + known[key]
            found.append((place, wait, quarter, knot.frame, r.row, knot.part, r.order))
    return found, kinds, tuple(samples)


def _knots(
    plan: Plan, passed: Sequence[int], centre: int
) -> tuple[list[tuple[int, ...]], list[int]]:
    clears: list[int] = [order for order in plan.knots[0].orders if order]
    found: list[tuple[int, ...]] = []
    reads, stored = len(plan.knots[0].readings), 0
    for j, (last, knot) in enumerate(zip(plan.knots, plan.knots[1:], strict=False)):
        base = centre - passed[j + 1]
        F = [base + k for k in _empty(knot, knot.p)]
        F += [base - k for k in _empty(knot, knot.q)]
        Z = _empty(knot, knot.z)
        enter = -1 if last.part == IM else 1
        orders = knot.orders
        found.append(
            (
                *(_KINDS[knot.kind], knot.row, orders[0] if orders else 0),
                *(len(orders), orders.step if isinstance(orders, range) else 1),
                *(base, -enter if knot.negate else enter),
                *(-1 if knot.part == IM else 1, knot.sign if plan.real else 1),
                *(plan.kinds[j], knot.regrow, (last.quadrant - knot.quadrant) % 4),
                *(last.frame, knot.frame, len(clears), len(F), len(Z)),
                *(reads, len(knot.readings), stored),
            )
        )
        clears += F + Z
        reads += len(knot.readings)
        stored += len(orders)
    return found, clears


def _empty(knot: Knot, pieces: tuple[Piece, ...]) -> list[int]:
    """Return the orders of a knot to which nothing comes."""
    if not pieces:
        return list(knot.orders)
    found, at = [], 0
    for piece in pieces:
        size = piece.stop - piece.start
        if piece.source == ZERO:
            found += knot.orders[at : at + size]
        at += size
    return found
