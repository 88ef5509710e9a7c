"""A pulse sequence as data: one row per event, structure apart from physics."""

from typing import NamedTuple

from torch import Tensor

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
    efficiency: Tensor | None = neutral(1.0, like="flip")  # (event,) of the inversion [1]
    layout: Layout = static()  # one Event a row
    states: int | None = static(None)  # orders kept, |k| < states; None: all, exact
