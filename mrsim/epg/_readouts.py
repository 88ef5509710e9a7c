"""Readouts as programs: gradient-echo and spin-echo trains."""

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from mrsim.epg.blocks import tensor
from mrsim.epg.program import Event, Layout, Program
from mrsim.epg.rows import scaled


def gre_readout(
    flip: Tensor | Sequence[float],
    TR: Tensor | float,
    TE: Tensor | float | None = None,
    *,
    phase: Tensor | None = None,
    alternate: bool = False,
    shift: int = 1,
    spoil: bool = False,
    read: Sequence[int] | None = None,
) -> Program:
    """Return a train of gradient echoes.

    Each repetition is a pulse, TE, a reading demodulated with the pulse's phase, and
    the rest of TR with the gradient and perhaps an ideal spoiler.

    Args:
        flip: (pulse,) flip angles [rad].
        TR: () or (pulse,) repetition times [s].
        TE: () or (pulse,) from pulse to reading [s], 0 by default; (1, echo) or
            (pulse, echo) for several readings in each repetition.
        phase: (pulse,) RF phases from +x [rad].
        alternate: add 180° to every other pulse.
        shift: orders that the gradient adds in each TR; 0 for a balanced train.
        spoil: end each TR with an ideal spoiler.
        read: the pulses that are read; all by default.

    Returns:
        A program of ``echoes + 1`` rows for each pulse.

    >>> from mrsim import epg
    >>> len(epg.gre_readout([0.2, 0.3], TR=0.01).layout)
    4
    """
    flip, TR, TE = _tensors(flip, TR, 0.0 if TE is None else TE)
    pulses = len(flip)
    shared = TR.ndim == 0 and (TE.ndim == 0 or TE.shape[0] == 1 < TE.ndim)
    late = TE if TE.ndim == 2 else TE.expand(pulses)[:, None]
    late = late.expand(pulses, -1)
    echoes = late.shape[1]
    ends = torch.cat([late, TR.expand(pulses)[:, None]], 1)
    still = torch.zeros_like(flip)[:, None].expand(-1, echoes)
    turns = None
    if phase is not None:
        turns = phase[:, None].expand(-1, echoes + 1).flatten()
    kept = None if read is None else tuple(read)
    return Program(
        flip=torch.cat([flip[:, None], still], 1).flatten(),
        duration=torch.cat([late[:, :1], ends.diff(dim=1)], 1).flatten(),
        phase=turns,
        demod=turns,
        layout=_gre(pulses, echoes, alternate, shift, spoil, kept),
        clock=_cycles(tuple(range(echoes + 1)), pulses) if shared else None,
    )


def _tensors(
    flip: Tensor | Sequence[float], *times: Tensor | float
) -> tuple[Tensor, ...]:
    given = [x for x in (flip, *times) if isinstance(x, Tensor)]
    like = given[0] if given else torch.empty(0)
    if not isinstance(flip, Tensor):
        flip = torch.stack([tensor(x, like) for x in flip])
    return (flip, *(tensor(x, like) for x in times))


@lru_cache
def _cycles(classes: tuple[int, ...], count: int) -> tuple[int, ...]:
    return classes * count


@lru_cache
def _gre(
    pulses: int,
    echoes: int,
    alternate: bool,
    shift: int,
    spoil: bool,
    kept: tuple[int, ...] | None,
) -> Layout:
    rows = []
    for i in range(pulses):
        quadrant = 2 * (i % 2) * alternate
        echo = Event(read=kept is None or i in kept, receiver=quadrant)
        rows.append(echo._replace(pulse=True, quadrant=quadrant))
        rows += [echo] * (echoes - 1)
        rows.append(Event(shift=shift, spoil=spoil))
    return tuple(rows)


def fse_readout(
    flip: Tensor | Sequence[float],
    esp: Tensor | float,
    *,
    phase: Tensor | None = None,
    excitation: Tensor | float | None = None,
    spoil: bool = False,
) -> Program:
    """Return a fast-spin-echo train: excitation about +y, refocusing about +x.

    Args:
        flip: (echo,) refocusing flip angles [rad].
        esp: () echo spacing [s].
        phase: (echo,) phases of the refocusing pulses from +x [rad].
        excitation: () flip angle [rad]; 90° by default.
        spoil: end the train with an ideal spoiler.

    Returns:
        A program of two rows for each echo, which ends at the last echo.

    >>> from mrsim import epg
    >>> len(epg.fse_readout([3.1, 3.1], esp=0.01).layout)
    4
    """
    first = math.pi / 2 if excitation is None else excitation
    given = (first,) if isinstance(first, Tensor) else ()
    flip, esp, *_ = _tensors(flip, esp, *given)
    echoes = flip.shape[0]
    return Program(
        flip=_spaced(first, flip),
        duration=scaled(esp, 0.5).expand(2 * echoes),
        phase=None if phase is None else _spaced(0.0, phase),
        layout=_fse(echoes, spoil),
        clock=_cycles((0,), 2 * echoes),
    )


def _spaced(first: Tensor | float, values: Tensor) -> Tensor:
    """Put a value before others, and between them where no pulse reads it."""
    if not isinstance(first, Tensor):
        return torch.constant_pad_nd(values[:, None], (1, 0), first).flatten()
    return torch.stack([first.expand(len(values)), values], 1).flatten()


@lru_cache
def _fse(echoes: int, spoil: bool) -> Layout:
    excite = Event(pulse=True, quadrant=1, shift=1)
    refocus = Event(pulse=True, shift=1, read=True)
    pairs = (refocus, Event(shift=1)) * (echoes - 1)
    return (excite, *pairs, refocus._replace(spoil=spoil))
