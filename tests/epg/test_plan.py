"""The window of states: lossless, no larger than it must be, quick to find."""

import time
from collections.abc import Iterator

import pytest
from hypothesis import given, strategies as st
from strategies import events

from mrsim import epg
from mrsim.epg.labels import make_axes
from mrsim.epg.plan import Plan, make_plan
from mrsim.epg.program import Layout


def fse(echoes: int) -> Layout:
    return epg.fse_program(epg.FSE(flip=[2.0] * echoes, esp=0.01)).layout


def fisp(pulses: int, *, inverted: bool) -> Layout:
    TI = 0.02 if inverted else None
    return epg.fisp_program(epg.FISP(flip=[0.5] * pulses, TR=0.01, TI=TI)).layout


def bssfp(pulses: int) -> Layout:
    seq = epg.BSSFP(flip=[0.5] * pulses, TR=0.01, TI=0.02)
    return epg.bssfp_program(seq).layout


def mprage(shots: int) -> Layout:
    seq = epg.MPRAGE(flip=[0.1] * shots, TR=0.01, TI=0.5, cycle=2.0)
    return epg.mprage_program(seq).layout


FSE = fse(96)


def plan_of(
    layout: Layout, *, quadrants: bool = True, states: int | None = None
) -> Plan:
    axes = make_axes(layout, None, timed=False)
    return make_plan(layout, axes, None, quadrants, states, None, final=False)


def rows(plan: Plan) -> int:
    """Count the orders of one array at all operations."""
    return sum(len(knot.orders) for knot in plan.knots[1:])


def test_train_needs_a_quarter_of_the_square() -> None:
    assert rows(plan_of(FSE)) == 2353
    assert {knot.orders.step for knot in plan_of(FSE).knots} == {2}
    assert max(len(knot.orders) for knot in plan_of(FSE).knots) == 48


def test_truncation_shrinks_the_window() -> None:
    cut = plan_of(FSE, states=10)
    assert max(knot.orders[-1] for knot in cut.knots if knot.orders) <= 9
    assert rows(cut) < 96 * 5
    assert plan_of(FSE, states=97) == plan_of(FSE)


@pytest.mark.parametrize(
    ("layout", "real"),
    [
        (FSE, True),
        (fisp(50, inverted=True), True),
        (fisp(50, inverted=False), True),
        (bssfp(50), True),
        (mprage(10), True),
    ],
)
def test_sequences_of_quadrants_are_real(layout: Layout, real: bool) -> None:
    assert plan_of(layout).real == real
    assert not plan_of(layout, quadrants=False).real


def test_pulses_about_both_axes_are_complex() -> None:
    x, y = (epg.Event(pulse=True, quadrant=q, shift=1) for q in (0, 1))
    seen = epg.Event(pulse=True, read=True)
    assert plan_of((x, x, seen)).real
    assert not plan_of((x, y, x, seen)).real


@pytest.mark.parametrize("final", [False, True])
def test_long_trains_are_planned_quickly_and_once(final: bool) -> None:
    layout = fisp(1000, inverted=True)
    axes = make_axes(layout, None, timed=False)
    make_plan.cache_clear()
    start = time.process_time()
    make_plan(layout, axes, None, quadrants=True, states=None, init=None, final=final)
    first = time.process_time() - start
    start = time.process_time()
    make_plan(layout, axes, None, quadrants=True, states=None, init=None, final=final)
    again = time.process_time() - start
    assert first < 2
    assert again < first / 10


def test_windows_grow_with_the_square_at_most() -> None:
    assert rows(plan_of(fisp(200, inverted=False))) <= 200**2 / 4 + 2 * 200


# ------------------------------------------------- the same sets, one state at a time

Node = tuple[int, str, int]  # time, F or Z, signed order


def _next(layout: Layout, row: int, kind: str, k: int) -> Iterator[tuple[str, int]]:
    """Yield where a state goes in a row: what it mixes with, then its shift."""
    event = layout[row]
    mixed = {(kind, k)}
    if event.pulse:
        mixed = {("F", k), ("F", -k), ("Z", k), ("Z", -k)}
    elif event.invert:
        mixed = {("Z", k)} if kind == "Z" else set()
    for to, order in mixed:
        yield to, order + event.shift * (to == "F")


def _survives(layout: Layout, row: int, kind: str, k: int) -> bool:
    return not layout[row].spoil or (kind, k) == ("Z", 0)


def reached(layout: Layout) -> list[set[tuple[str, int]]]:
    """Return what can be filled before each row."""
    found = [{("Z", 0)}]
    for row in range(len(layout)):
        after = {to for s in found[-1] for to in _next(layout, row, *s)}
        kept = {s for s in after if _survives(layout, row, *s)}
        mirrored = {(kind, -k) for kind, k in kept if kind == "Z"}
        found.append(kept | mirrored | {("Z", 0)})
    return found


def needed(layout: Layout) -> list[set[tuple[str, int]]]:
    """Return what a later reading can see, before each row."""
    span = sum(abs(e.shift) for e in layout)
    everything = [(kind, k) for kind in "FZ" for k in range(-span, span + 1)]
    found: list[set[tuple[str, int]]] = [set()]
    for row in reversed(range(len(layout))):
        later = {s for s in found[-1] if _survives(layout, row, *s)}
        later |= {("F", 0)} if layout[row].read else set()
        seen = {s for s in everything if later & {*_next(layout, row, *s)}}
        found.append(seen)
    return found[::-1]


@given(st.lists(events(), min_size=1, max_size=7))
def test_window_is_what_can_be_filled_and_seen(drawn: list[epg.Event]) -> None:
    layout = tuple(drawn)
    plan = plan_of(layout, quadrants=False)
    filled, seen = reached(layout), needed(layout)
    knots = [k for k in plan.knots if k.kind in ("pulse", "invert")]
    for knot in knots:
        both = filled[knot.row] & seen[knot.row]
        wanted = {abs(k) for _, k in both}
        kept = set(knot.orders)
        assert wanted <= kept
        if wanted:
            assert max(kept) <= max(wanted | _filled_by(layout, knot.row, filled))


def _filled_by(
    layout: Layout, row: int, filled: list[set[tuple[str, int]]]
) -> set[int]:
    """Return the orders that an operation fills and that are then seen."""
    alone = layout[row]._replace(shift=0)
    without = layout[row]._replace(pulse=False, invert=False)
    later = needed((*layout[:row], without, *layout[row + 1 :]))[row]
    made = {to for s in filled[row] for to in _next((alone,), 0, *s)}
    return {k for _, k in made & later}
