"""A pulse sequence as data: one row per event, structure apart from physics."""

import math
from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from mrsim.tree import neutral, record, static


class Event(NamedTuple):
    """What happens in one row, in this order: operation, wait, shift, reading, spoiler.

    Relaxation, precession and the gradient's shift act together during the wait.
    """

    pulse: bool = False  # an instantaneous pulse starts the row
    quadrant: int = 0  # the pulse's phase in units of 90°
    shift: int | tuple[int, int, int] = 0  # orders that the wait's gradient adds to F
    read: bool = False  # the row's wait ends with a reading of F0
    receiver: int = 0  # the reading's phase in units of 90°, taken off the signal
    spoil: bool = False  # the row ends with an ideal spoiler: only Z0 survives
    invert: bool = False  # an adiabatic inversion starts the row: Z → −efficiency·Z
    dual: bool = False  # the pulse's power is at +offset and -offset alike (ihMT)


Layout = tuple[Event, ...]
R = TypeVar("R")
_MOST = 100_000  # orders; a shift must not fill the memory by a slip
_KEPT = 256  # results that are remembered
torch.serialization.add_safe_globals([Event])


@record
class Program:
    """A sequence: ``[pulse or inversion] → wait with shift → [reading] → [spoiler]``.

    The structure (`layout`) is static, everything else is differentiable. A phase is
    ``quadrant · 90° + phase``; a sequence whose phases are all quadrants needs no
    `phase` and `demod` and can run in real arithmetic.

    `moment` is the wave vector that one unit of shift winds up; with an integer shift
    and (event, 3) it is a direction, with a shift of three integers one unit for each
    axis. A pulse multiplies Z of bound pools by exp(-`saturation`), and by
    exp(-π·B1²·`power`·G(`offset`)) with the pool's lineshape G. Rows of one class of
    `clock` must have equal durations; it saves work, and T2′ counts with it.
    """

    flip: Tensor  # (event,) nominal flip angle [rad]; ignored in rows without a pulse
    duration: Tensor  # (event,) length of the wait [s]
    phase: Tensor | None = neutral(0.0, like="flip")  # (event,) of the pulse [rad]
    demod: Tensor | None = neutral(0.0, like="flip")  # (event,) of the reading [rad]
    efficiency: Tensor | None = neutral(1.0, like="flip")  # (event,) inversion [1]
    moment: Tensor | None = neutral(0.0, like="flip")  # (event,) or (event, 3) [rad/mm]
    thickness: Tensor | None = neutral(math.inf)  # () of the slice, for wash-out [mm]
    saturation: Tensor | None = neutral(0.0, like="flip")  # (event,) of bound pools [1]
    power: Tensor | None = neutral(0.0, like="flip")  # (event,) ∫(γB1)²dt [rad²/s]
    offset: Tensor | None = neutral(0.0, like="flip")  # (event,) of the power [Hz]
    layout: Layout = static()  # one Event a row
    states: int | None = static(None)  # orders kept, |k| < states; None: all, exact
    clock: tuple[int, ...] | None = static(None)  # each row's class of equal durations
    substeps: int | None = static(None)  # of a gradient where pools do not commute


def check_structure(where: str, program: Program) -> None:
    """Check what of a program is structure.

    Args:
        where: the function that asks, for the message.
        program: the sequence.

    Raises:
        TypeError: the layout is no tuple of events.
        ValueError: it is empty, or an event is impossible.
    """
    layout, states, substeps = program.layout, program.states, program.substeps
    if not isinstance(layout, tuple):
        raise TypeError(
            f"{where}: layout must be a tuple of Event, got a"
            f" {type(layout).__name__}; write tuple(layout)"
        )
    if not layout:
        raise ValueError(f"{where}: the layout is empty; give at least one event")
    for name, value in (("states", states), ("substeps", substeps)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ValueError(
                f"{where}: {name} must be None or a whole number of at least 1, got"
                f" {value!r}"
            )
    _check_layout(where, layout)


def by_identity(f: Callable[..., R]) -> Callable[..., R]:
    """Let a function of structure remember its latest results, by its arguments' id.

    A layout of thousands of events takes long to compare, or to hash.

    Args:
        f: a function of objects that never change and hold no tensors.

    Returns:
        The same; it holds the arguments of what it remembers.
    """
    known: dict[tuple[int, ...], tuple[Any, R]] = {}

    @wraps(f)
    def found(*args: Any) -> R:
        key = tuple(map(id, args))
        made = known.get(key)
        if made is None:
            if len(known) >= _KEPT:
                known.clear()
            made = known[key] = args, f(*args)
        return made[1]

    return found


@by_identity
def _check_layout(where: str, layout: Layout) -> None:
    moved: dict[int, int] = {}  # most rows of a train are one and the same event
    orders = 0
    for row, event in enumerate(layout):
        if id(event) not in moved:
            moved[id(event)] = _checked_event(where, row, event)
        orders += moved[id(event)]
    if orders > _MOST:
        raise ValueError(
            f"{where}: the shifts add up to {orders} orders, more than {_MOST}; count"
            f" them in a larger unit, whose wave vector is Program.moment"
        )


def _checked_event(where: str, row: int, event: Event) -> int:
    """Check an event; return how many orders it moves."""
    if not isinstance(event, Event):
        raise TypeError(
            f"{where}: layout must hold Events, got a {type(event).__name__} in row"
            f" {row}; write Event(pulse=True, shift=1)"
        )
    if event.pulse and event.invert:
        raise ValueError(
            f"{where}: row {row} has a pulse and an inversion; give the inversion a"
            f" row of its own, of duration 0, before"
        )
    moves = event.shift if isinstance(event.shift, tuple) else (event.shift,)
    numbers = (*moves, event.quadrant, event.receiver)
    if len(moves) not in (1, 3) or not all(isinstance(n, int) for n in numbers):
        raise TypeError(
            f"{where}: shift (one or three), quadrant and receiver must be whole"
            f" numbers, got {(event.shift, *numbers[-2:])} in row {row}; the"
            f" gradient's unit is one shift, and other phases belong in phase and"
            f" demod"
        )
    return sum(map(abs, moves))
