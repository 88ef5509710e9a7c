"""How states are named: one integer for the orders of all axes.

A state along one gradient axis is named by its order. With gradients in three
dimensions, and where T2′ has to know the net precession time, a state has a whole
number on each of several axes: orders, and for T2′ the signed count of waits of each
class of `Program.clock`. The numbers are digits of one integer in balanced mixed radix,
so that shifts remain sums, and opposite states opposite integers.
"""

from functools import lru_cache
from typing import NamedTuple

from mrsim.epg.program import Layout


class Axes(NamedTuple):
    """What a state's integer means."""

    sizes: tuple[int, ...] = ()  # odd number of digits on each axis; (): plain orders
    space: int = 1  # the first axes are gradient orders, the others count waits
    shifts: tuple[int, ...] = ()  # of each row, as integers
    rows: tuple[int, ...] = ()  # a row of each class of waits that is counted

    def digits(self, label: int) -> tuple[int, ...]:
        """Return the whole number on each axis."""
        if not self.sizes:
            return (label,)
        found = []
        for size in self.sizes:
            half = size // 2
            digit = (label + half) % size - half
            found.append(digit)
            label = (label - digit) // size
        return tuple(found)


@lru_cache(maxsize=256)
def make_axes(layout: Layout, clock: tuple[int, ...] | None, timed: bool) -> Axes:
    """Name the states of a layout.

    Args:
        layout: the program's structure.
        clock: its classes of equal durations.
        timed: T2′ needs the net precession time.

    Returns:
        The axes; plain orders if there is one gradient axis and no T2′.
    """
    wide = any(isinstance(event.shift, tuple) for event in layout)
    if not wide and not timed:
        return Axes(shifts=tuple(event.shift for event in layout))  # pyright: ignore[reportArgumentType]
    moves = [_vector(event.shift, wide) for event in layout]
    rows: tuple[int, ...] = ()
    if timed:
        classes = tuple(range(len(layout))) if clock is None else clock
        names = sorted(set(classes))
        rows = tuple(classes.index(name) for name in names)
        moves = [
            (*move, *(int(c == name) for name in names))
            for move, c in zip(moves, classes, strict=True)
        ]
    totals = [sum(abs(move[i]) for move in moves) for i in range(len(moves[0]))]
    sizes = tuple(2 * total + 1 for total in totals)
    weights = [1]
    for size in sizes[:-1]:
        weights.append(weights[-1] * size)
    shifts = tuple(sum(n * w for n, w in zip(m, weights, strict=True)) for m in moves)
    return Axes(sizes=sizes, space=3 if wide else 1, shifts=shifts, rows=rows)


def _vector(shift: int | tuple[int, int, int], wide: bool) -> tuple[int, ...]:
    if isinstance(shift, tuple):
        return shift
    if wide and shift:
        raise ValueError(
            f"epg.run: the layout mixes shifts of three integers with the shift"
            f" {shift}; write ({shift}, 0, 0), or along another axis"
        )
    return (0, 0, 0) if wide else (shift,)
