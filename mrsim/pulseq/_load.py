"""A Pulseq file as a program."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from mrsim.epg import Event, Program
from mrsim.pulseq._instants import Instant, opened, timeline
from mrsim.pulseq._units import fitted, unencoded


def load(
    source: Any,
    *,
    axes: str = "xyz",
    encoded: str | None = None,
    unit: float | None = None,
    tolerance: float = 0.02,
) -> Program:
    """Return a Pulseq file as a program that starts in the middle of its first pulse.

    Each pulse acts at its centre: with its flip angle, phase and ∫(γB1)²dt; pulses for
    inversion are ideal ones, and off-resonant ones keep their power and offset. Each
    readout is read once, in its middle. What the file plays before the first pulse
    comes after all else, so that the program can be played again and again; this last
    row is left out if its moment is no whole number of units.

    Along an axis with phase encoding nothing is wound up until the last readout before
    the next pulse: the signal is that of a voxel, not of a point in k-space. Diffusion
    sees each row's gradient as constant.

    Args:
        source: the file's path, or a ``pypulseq.Sequence``.
        axes: the gradients that dephase; others are taken as balanced.
        encoded: axes with phase encoding; ``None``: those whose moment from a pulse to
            its readouts varies in the file.
        unit: of moments [rad/mm]; ``None``: the largest that fits.
        tolerance: how far moments may be from whole multiples [units].

    Returns:
        The program, in torch's default dtype. Its shifts are whole numbers along a
        direction common to all gradients, or else triples.

    Raises:
        ImportError: pypulseq is missing.
        ValueError: the file is damaged, or holds what a program cannot represent.

    >>> import mrsim.pulseq
    >>> from mrsim import epg
    >>> program = epg.gre_readout([0.3], TR=0.02, TE=0.01)
    >>> file = mrsim.pulseq.sequence(program, unit=10.0)  # or the path of a .seq file
    >>> mrsim.pulseq.load(file).flip
    tensor([0.3000, 0.0000])
    """
    *instants, end = timeline(opened(source))
    first = next((k for k, i in enumerate(instants) if i.kind != "read"), None)
    if first is None or all(i.kind != "read" for i in instants[first:]):
        raise ValueError("pulseq.load: the file needs a pulse and a readout after it")
    lead = instants[first]
    end = Instant(end.time + lead.time, end.moment + lead.moment, "end")
    played = [*instants[first:], end]
    moments = np.diff([i.moment for i in played], axis=0)
    moments = moments * [axis in axes for axis in "xyz"]
    moments = unencoded(played, moments, encoded, tolerance)
    fit = fitted(moments, unit, tolerance)
    if fit is None:
        played, moments = played[:-1], moments[:-1]
        fit = fitted(moments, unit, tolerance)
    if fit is None:
        seen = np.unique(moments.round(3), axis=0)[:6].tolist()
        raise ValueError(
            f"pulseq.load: the gradients' moments are no whole multiples of one unit,"
            f" among them {seen} rad/mm; give the axes that matter, those that are"
            f" encoded, or the unit"
        )
    return _program(played, *fit)


def _program(played: Sequence[Instant], shifts: Sequence[Any], scale: Any) -> Program:
    starts, ends = played[:-1], played[1:]
    layout = tuple(
        Event(
            pulse=a.kind == "pulse",
            invert=a.kind == "invert",
            shift=shift,
            read=b.kind == "read",
        )
        for a, b, shift in zip(starts, ends, shifts, strict=True)
    )
    waits = [round(b.time - a.time, 9) for a, b in zip(starts, ends, strict=True)]
    kinds = {wait: k for k, wait in enumerate(dict.fromkeys(waits))}
    like = torch.zeros(len(waits))

    def column(values: Iterable[float]) -> torch.Tensor:
        return like.new_tensor(list(values))

    def angles(kind: str, found: Sequence[Instant]) -> torch.Tensor:
        turns = (i.phase if i.kind == kind else 0.0 for i in found)
        return column(math.remainder(x, 2 * math.pi) for x in turns)

    offset = column(i.offset for i in starts)
    return Program(
        flip=column(i.flip for i in starts),
        duration=column(waits),
        phase=angles("pulse", starts),
        demod=angles("read", ends),
        power=column(i.power for i in starts),
        offset=offset if offset.any() else None,
        moment=column(scale)[None],
        layout=layout,
        clock=tuple(kinds[wait] for wait in waits),
    )
