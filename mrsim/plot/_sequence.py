"""The diagram of a sequence: pulses, gradients, readings over time."""

import math
from itertools import accumulate
from typing import Any, NamedTuple

from torch import Tensor

from mrsim import epg
from mrsim.units import deg, ms

_RF, _INVERSION, _GRADIENT = "#0060b0", "#ae3ec9", "#2f9e44"
_SIGNAL, _SPOILER = "#c92a2a", "#adb5bd"
_APART = 0.04  # least distance of labels, in the program's duration
_HEIGHT = 0.72  # of the tallest mark, in lanes
_SIDES = ("x", "y", "−x", "−y")


class _Row(NamedTuple):
    start: float  # [ms]
    stop: float
    flip: float  # [°]
    phase: float | None  # [°] beside the quadrant
    event: epg.Event


def sequence(axes: Any, program: epg.Program) -> None:
    """Draw a sequence diagram: one lane for pulses, gradients and readings each.

    A pulse is as tall as its flip angle, and says its angle and axis where there is
    room; the area of a gradient's box is its shift; a reading is a triangle at its
    instant, an ideal spoiler a grey bar over all lanes. Gradients with three directions
    have three lanes. Zoom with ``axes.set_xlim`` [ms].

    Args:
        axes: of matplotlib.
        program: the sequence, of one voxel.

    Source: lanes as in Bernstein 2004, Handbook of MRI Pulse Sequences.

    >>> from matplotlib.figure import Figure
    >>> from mrsim import epg, plot
    >>> train = epg.FSE(flip=[2.1, 1.7], esp=8e-3)
    >>> axes = Figure().subplots()
    >>> plot.sequence(axes, epg.fse_program(train))
    >>> [label.get_text() for label in axes.get_yticklabels()]
    ['signal', 'gradient', 'RF']
    """
    rows = _rows(program)
    wide = any(isinstance(event.shift, tuple) for event in program.layout)
    lanes = ["signal", *(("Gz", "Gy", "Gx") if wide else ("gradient",)), "RF"]
    top, end = len(lanes) - 1, rows[-1].stop
    for y in range(len(lanes)):
        axes.hlines(y, 0, end, color="0.4", linewidth=0.8)
    _draw_pulses(axes, rows, top)
    for axis, y in enumerate(range(top - 1, 0, -1)):
        _draw_gradient(axes, rows, axis, y)
    read = [row.stop for row in rows if row.event.read]
    axes.plot(read, [0.14] * len(read), "v", color=_SIGNAL, markersize=7, clip_on=False)
    axes.vlines(read, 0, top, color=_SIGNAL, linewidth=0.5, alpha=0.35)
    spoiled = [row.stop for row in rows if row.event.spoil]
    axes.vlines(spoiled, -0.1, top + 0.1, color=_SPOILER, linewidth=4, alpha=0.7)
    axes.set_yticks(range(len(lanes)), lanes)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    room = 0.02 * end or 1.0
    axes.set(xlabel="time [ms]", xlim=(-room, end + room), ylim=(-0.4, top + 1.15))


def _rows(program: epg.Program) -> list[_Row]:
    number = len(program.layout)
    spread = {
        name: _numbers(getattr(program, name), number)
        for name in ("flip", "duration", "phase")
    }
    stops = list(accumulate(t / ms for t in spread["duration"] or ()))
    phases = spread["phase"] or [None] * number
    return [
        _Row(start, stop, flip / deg, None if phase is None else phase / deg, event)
        for start, stop, flip, phase, event in zip(
            [0.0, *stops], stops, spread["flip"] or (), phases, program.layout,
            strict=False,
        )
    ]  # fmt: skip


def _numbers(value: Tensor | None, number: int) -> list[float] | None:
    if value is None:
        return None
    return value.detach().double().cpu().expand(number).tolist()


def _draw_pulses(axes: Any, rows: list[_Row], y: int) -> None:
    pulses = [row for row in rows if row.event.pulse]
    largest = max((abs(row.flip) for row in pulses), default=1.0) or 1.0
    tops = [y + _HEIGHT * row.flip / largest for row in pulses]
    starts = [row.start for row in pulses]
    axes.vlines(starts, y, tops, color=_RF, linewidth=5 if len(pulses) < 25 else 1.5)
    marks = [
        (x, max(height, y), _angle(row))
        for x, height, row in zip(starts, tops, pulses, strict=True)
    ]
    inverted = [row.start for row in rows if row.event.invert]
    axes.vlines(inverted, y, y + _HEIGHT, color=_INVERSION, linewidth=7)
    marks += [(x, y + _HEIGHT, "inv") for x in inverted]
    last, least = -math.inf, rows[-1].stop * _APART
    for x, height, text in sorted(marks, key=lambda mark: (mark[0], -mark[1])):
        if x - last > least:
            at = {"ha": "center", "va": "bottom", "fontsize": "x-small"}
            axes.text(x, height + 0.05, text, **at)
            last = x


def _angle(row: _Row) -> str:
    if not row.phase:
        return rf"{row.flip:.0f}°$_{{{_SIDES[row.event.quadrant % 4]}}}$"
    total = (90 * row.event.quadrant + row.phase) % 360
    return rf"{row.flip:.0f}°$_{{{total:.0f}°}}$"


def _draw_gradient(axes: Any, rows: list[_Row], axis: int, y: int) -> None:
    moves = [
        row.event.shift[axis] if isinstance(row.event.shift, tuple) else row.event.shift
        for row in rows
    ]
    boxes = [
        (row.start, row.stop - row.start, move)
        for row, move in zip(rows, moves, strict=True)
        if move and row.stop > row.start
    ]
    largest = max((abs(move) / length for _, length, move in boxes), default=1.0)
    axes.bar(
        [start for start, _, _ in boxes],
        [_HEIGHT / 2 * move / length / largest for _, length, move in boxes],
        [length for _, length, _ in boxes],
        bottom=y, align="edge", color=_GRADIENT, alpha=0.55, edgecolor="white",
    )  # fmt: skip
