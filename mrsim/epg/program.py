"""A pulse sequence as data: one row per event, structure apart from physics."""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from mrsim._check import check_floats, check_shapes
from mrsim.tissue import Tissue
from mrsim.tree import neutral, record, static


class Event(NamedTuple):
    """What happens in one row, in this order: operation, wait, shift, reading, spoiler.

    Relaxation, precession and the gradient's shift act together during the wait.
    """

    pulse: bool = False  # an instantaneous pulse starts the row
    quadrant: int = 0  # the pulse's phase in units of 90°
    shift: int = 0  # orders that the wait's gradient adds to every transverse state
    read: bool = False  # the row's wait ends with a reading of F0
    receiver: int = 0  # the reading's phase in units of 90°, taken off the signal
    spoil: bool = False  # the row ends with an ideal spoiler: only Z0 survives
    invert: bool = False  # an adiabatic inversion starts the row: Z → −efficiency·Z


Layout = tuple[Event, ...]
torch.serialization.add_safe_globals([Event])


@record
class Program:
    """A sequence: ``[pulse or inversion] → wait with shift → [reading] → [spoiler]``.

    The structure (`layout`) is static, everything else is differentiable. A phase is
    ``quadrant · 90° + phase``; a sequence whose phases are all quadrants needs no
    `phase` and `demod` and can run in real arithmetic.
    """

    flip: Tensor  # (event,) nominal flip angle [rad]; ignored in rows without a pulse
    duration: Tensor  # (event,) length of the wait [s]
    phase: Tensor | None = neutral(0.0, like="flip")  # (event,) of the pulse [rad]
    demod: Tensor | None = neutral(0.0, like="flip")  # (event,) of the reading [rad]
    efficiency: Tensor | None = neutral(1.0, like="flip")  # (event,) inversion [1]
    layout: Layout = static()  # one Event a row
    states: int | None = static(None)  # orders kept, |k| < states; None: all, exact


_TISSUE = ("T1", "T2", "M0", "B1", "df")
_ROWS = ("flip", "duration", "phase", "demod", "efficiency")


def checked(where: str, tissue: Tissue, program: Program) -> dict[str, Tensor | None]:
    """Check a tissue and a program for one voxel; return their tensors by name.

    Args:
        where: the function that asks, for the message.
        tissue: the voxel.
        program: the sequence.

    Returns:
        Field name → tensor or ``None``, the program's first.

    Raises:
        TypeError: a field has the wrong type, or dtypes differ.
        ValueError: shapes, devices or the structure do not fit.
    """
    fields = {n: getattr(program, n) for n in _ROWS}
    fields |= {n: getattr(tissue, n) for n in _TISSUE}
    check_floats(where, **fields)
    if program.flip.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"{where}: a complex signal needs float32 or float64, got"
            f" {program.flip.dtype}; convert with mrsim.to(record, torch.float32)"
        )
    check_shapes(where, tissue, **dict.fromkeys(_TISSUE, ""))
    events = check_shapes(where, program, **dict.fromkeys(_ROWS, "event"))["event"]
    layout, states = program.layout, program.states
    if not isinstance(layout, tuple):
        raise TypeError(
            f"{where}: layout must be a tuple of Event, got a"
            f" {type(layout).__name__}; write tuple(layout)"
        )
    if events != len(layout) or not events:
        raise ValueError(
            f"{where}: the program has {events} rows of numbers and its layout has"
            f" {len(layout)} events; give one row for each event, and at least one"
        )
    if states is not None and (not isinstance(states, int) or states < 1):
        raise ValueError(
            f"{where}: states must be None (exact) or a whole number of orders of at"
            f" least 1, got {states!r}"
        )
    _check_layout(where, layout)
    return fields


def check_count(where: str, flip: Tensor) -> int:
    """Require a train of at least one pulse; return how many there are.

    Args:
        where: the function that asks, for the message.
        flip: (pulse,) flip angles.

    Returns:
        The number of pulses.

    Raises:
        ValueError: there is none.
    """
    if not len(flip):
        raise ValueError(f"{where}: flip holds no pulse; give at least one angle [rad]")
    return len(flip)


@lru_cache(maxsize=256)
def _check_layout(where: str, layout: Layout) -> None:
    for row, event in enumerate(layout):
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
        numbers = (event.shift, event.quadrant, event.receiver)
        if not all(isinstance(n, int) for n in numbers):
            raise TypeError(
                f"{where}: shift, quadrant and receiver must be whole numbers, got"
                f" {numbers} in row {row}; the gradient's unit is one shift, and other"
                f" phases belong in phase and demod"
            )
