"""What sequences are made of: programs one after another, and their pulses.

A sequence of one's own is a `Program`, of rows or of blocks. The hyperecho (Hennig &
Scheffler 2001) is a 180° pulse amid any train, which then runs backwards:

>>> import torch
>>> from mrsim import Tissue, epg
>>> from mrsim.units import deg, ms
>>> def hyperecho(flip, phase, esp):
...     middle, none = torch.tensor([180 * deg]), torch.zeros(1)
...     flips = torch.cat([middle / 2, flip, middle, -flip.flip(0)])
...     phases = torch.cat([none, phase, none, -phase.flip(0)])
...     half = torch.tensor([esp / 2])
...     waits = torch.cat([half, 2 * half.expand(len(flips) - 2), half])
...     excite = epg.Event(pulse=True, quadrant=1, shift=1)
...     refocus = epg.Event(pulse=True, shift=2)
...     echo = epg.Event(pulse=True, shift=1, read=True)
...     layout = (excite, *(refocus,) * (len(flips) - 2), echo)
...     return epg.Program(flip=flips, phase=phases, duration=waits, layout=layout)
>>> flips, phases = torch.tensor([1.0, 0.4, 2.2]), torch.tensor([0.3, 1.1, -0.7])
>>> program = hyperecho(flips, phases, 10 * ms)
>>> epg.run(Tissue(T1=50.0, T2=50.0), program).abs()
tensor([0.9986])

It can be prepared, played again and again, and differentiated like any other:

>>> prepared = epg.concat(epg.t2_preparation(40 * ms), program)
>>> epg.run(Tissue(T1=1.0, T2=0.1), prepared).abs()
tensor([0.4173])
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from mrsim._check import check_floats, concrete
from mrsim.epg.program import Event, Layout, Program, by_identity
from mrsim.tree import fields, neutral, record, replace

_NEUTRAL: dict[str, float] = {"flip": 0.0, "duration": 0.0} | {
    f.name: f.metadata["neutral"]
    for f in fields(Program)
    if f.metadata.get("like") == "flip"
}
PULSES = ("saturation", "power", "offset")


@record
class Train:
    """What every sequence can say about its slice and its pulses.

    Pulses are counted as they are played, an excitation first, inversions not at all.
    """

    thickness: Tensor | None = neutral(math.inf)  # () of the slice, for wash-out [mm]
    saturation: Tensor | None = neutral(0.0)  # () or (pulse,) of bound pools [1]
    power: Tensor | None = neutral(0.0)  # () or (pulse,) ∫(γB1)²dt [rad²/s]
    offset: Tensor | None = neutral(0.0)  # () or (pulse,) of the power [Hz]


def concat(*programs: Program) -> Program:
    """Play programs one after another.

    Fields that only some of them have are filled with their neutral values. Rows of a
    program that is given twice share their `clock`.

    Args:
        *programs: the parts, at least one.

    Returns:
        One program.

    Raises:
        TypeError: the parts differ in dtype.
        ValueError: there is no part, or parts differ in what a program has one of:
            ``thickness``, ``states``, ``substeps``, the rank of ``moment``, the device.

    >>> from mrsim import Tissue, epg
    >>> from mrsim.units import deg, ms
    >>> shot = epg.gre_readout([10 * deg] * 2, TR=8 * ms, spoil=True)
    >>> played = epg.concat(epg.inversion(0.5), shot, epg.wait(0.3), shot)
    >>> epg.run(Tissue(T1=1.0, T2=0.1), played).imag
    tensor([ 0.0370,  0.0348, -0.0209, -0.0218])
    """
    if not programs:
        raise ValueError("epg.concat: there is nothing to play; give programs")
    first = programs[0]
    if len(programs) == 1:
        return first
    check_floats("epg.concat", **{f"flip_{i}": p.flip for i, p in enumerate(programs)})
    columns: dict[str, Any] = {}
    for name in _NEUTRAL:
        given = [getattr(p, name) for p in programs]
        ranks = {x.ndim for x in given if x is not None}
        if len(ranks) > 1:
            raise ValueError(
                f"epg.concat: {name} is (event,) in one part and (event, 3) in another;"
                f" give every part a direction"
            )
        if ranks:
            columns[name] = torch.cat(_filled(programs, name))
    for name in ("thickness", "states", "substeps"):
        columns[name] = _common(name, [getattr(p, name) for p in programs])
    layout = _joined(*(p.layout for p in programs))
    return replace(first, **columns, layout=layout, clock=_clock(programs))


@by_identity
def _joined(*layouts: Layout) -> Layout:
    return sum(layouts, ())


def _filled(programs: Sequence[Program], name: str) -> list[Tensor]:
    """Return a field's rows of each part, with neutral values where it is absent.

    Parts without shifts keep the moment of what is dephased before them.
    """
    given = [getattr(p, name) for p in programs]
    last = torch.full_like(next(x for x in given if x is not None)[:1], _NEUTRAL[name])
    found = []
    for program, value in zip(programs, given, strict=True):
        still = name == "moment" and not _shifts(program.layout)
        if value is None:
            value = last if still else torch.full_like(last, _NEUTRAL[name])
        last = value[-1:] if name == "moment" else last
        rows = len(program.layout)
        found.append(value.expand(rows, *value.shape[1:]) if len(value) == 1 else value)
    return found


@by_identity
def _shifts(layout: Layout) -> bool:
    return any(event.shift for event in layout)


def _common(name: str, values: Sequence[Any]) -> Any:
    given = [x for x in values if x is not None]
    for x in given[1:]:
        if x is not given[0] and not _equal(x, given[0]):
            raise ValueError(
                f"epg.concat: a program has one {name}, but its parts have"
                f" {given[0]!r} and {x!r}; leave it out of all parts but one"
            )
    return given[0] if given else None


def _equal(a: Any, b: Any) -> bool:
    if not isinstance(a, Tensor):
        return a == b
    return concrete(a) and concrete(b) and torch.equal(a, b)


def _clock(programs: Sequence[Program]) -> tuple[int, ...] | None:
    waits = [id(p.duration) for p in programs]
    if all(p.clock is None for p in programs) and len(set(waits)) == len(waits):
        return None
    clocks = (p.clock or _each_its_own(len(p.layout)) for p in programs)
    return _numbered(*map(waits.index, waits), *clocks)


@lru_cache
def _each_its_own(rows: int) -> tuple[int, ...]:
    return tuple(range(rows))


@by_identity
def _numbered(*given: Any) -> tuple[int, ...]:
    """Number classes of parts, given who has the same waits and each part's classes."""
    half = len(given) // 2
    pairs = zip(given[:half], given[half:], strict=True)
    keys = [(wait, kind) for wait, clock in pairs for kind in clock]
    numbers = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    return tuple(numbers[key] for key in keys)


def wait(duration: Tensor | float, shift: int = 0, *, spoil: bool = False) -> Program:
    """Return a wait, with or without a gradient.

    Args:
        duration: () length [s].
        shift: orders that the gradient adds.
        spoil: end it with an ideal spoiler.

    Returns:
        A program of one row.

    >>> from mrsim import Tissue, epg
    >>> shot = epg.gre_readout([0.2], TR=0.01)
    >>> train = epg.concat(epg.inversion(0.1), epg.wait(0.5), shot)
    >>> epg.run(Tissue(T1=1.0, T2=0.1), train).imag
    tensor([0.0194])
    """
    layout = (Event(shift=shift, spoil=spoil),)
    return rows(layout, flip=[0.0], duration=[duration])


def rows(
    layout: Layout,
    clock: tuple[int, ...] | None = None,
    **columns: Sequence[Tensor | float] | None,
) -> Program:
    """Return a program of numbers and tensors, which share the tensors' dtype.

    Args:
        layout: the events.
        clock: their classes of equal durations.
        **columns: field name and one value for each event.

    Returns:
        The program.
    """
    given = {name: values for name, values in columns.items() if values is not None}
    like = next(
        (x for values in given.values() for x in values if isinstance(x, Tensor)),
        torch.empty(0),
    )
    made: Any = {n: torch.stack([tensor(x, like) for x in v]) for n, v in given.items()}
    return Program(**made, layout=layout, clock=clock)


def tensor(x: Tensor | float, like: Tensor) -> Tensor:
    """Return a number as a tensor of the dtype and device of another."""
    if isinstance(x, Tensor):
        return x
    return torch.full((), x, dtype=like.dtype, device=like.device)


def silent(program: Program) -> Program:
    """Return a program without its readings.

    Args:
        program: any program.

    Returns:
        The same pulses, waits and gradients, none of them read.

    >>> from mrsim import Tissue, epg
    >>> shot = epg.gre_readout([0.2] * 2, TR=0.01)
    >>> played = epg.concat(epg.silent(shot), shot)  # the first two are dummies
    >>> epg.run(Tissue(T1=1.0, T2=0.1), played).shape
    torch.Size([2])
    """
    return replace(program, layout=_silent(program.layout))


@lru_cache
def _silent(layout: Layout) -> Layout:
    return tuple(event._replace(read=False) for event in layout)


def attach(where: str, program: Program, seq: Any) -> Program:
    """Give a program the slice, the pulse powers and the moment of a sequence's record.

    Args:
        where: the function that asks, for the message.
        program: the sequence's rows.
        seq: a `Train`, perhaps with ``moment`` of shape () or (3,).

    Returns:
        The program with these fields.

    Raises:
        ValueError: a field has another shape.
    """
    made = {} if seq.thickness is None else {"thickness": seq.thickness}
    moment = getattr(seq, "moment", None)
    if moment is not None:
        if tuple(moment.shape) not in ((), (3,)):
            raise ValueError(
                f"{where}: moment must have shape () or (3,), got"
                f" {tuple(moment.shape)}; it is the wave vector of one shift [rad/mm]"
            )
        made["moment"] = moment[None]
    for name in PULSES:
        value = getattr(seq, name)
        if value is not None:
            made[name] = _spread(where, name, value, program.layout)
    return replace(program, **made) if made else program


def _spread(where: str, name: str, value: Tensor, layout: Layout) -> Tensor:
    """Put one value for each pulse in its row, and zero in all others."""
    rows = _pulse_rows(layout)
    pulses = max(rows)
    if value.ndim > 1 or (value.ndim and len(value) != pulses):
        raise ValueError(
            f"{where}: {name} must have shape () or ({pulses},), one value for each"
            f" pulse played, got {tuple(value.shape)}"
        )
    each = torch.cat([torch.zeros_like(value.expand(pulses)[:1]), value.expand(pulses)])
    return each[torch.tensor(rows, device=value.device)]


@lru_cache
def _pulse_rows(layout: Layout) -> tuple[int, ...]:
    found, pulses = [], 0
    for event in layout:
        pulses += event.pulse
        found.append(pulses * event.pulse)
    return tuple(found)
