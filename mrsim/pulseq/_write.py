"""A program as a Pulseq sequence."""

import math
from typing import Any, NamedTuple

import numpy as np

from mrsim._check import require
from mrsim.epg import Event, Program

_RASTER = 1e-5  # of blocks and gradients [s]
_AREA = 1e3 / (2 * math.pi)  # 1/m for rad/mm


def sequence(
    program: Program,
    *,
    system: Any = None,
    unit: float | None = None,
    pulse: float = 2e-4,
    readout: float = 2e-4,
) -> Any:
    """Return a program as a ``pypulseq.Sequence``, to be checked and written by it.

    Each pulse becomes a rectangular one, centred at its row's start, with the length
    flip²/power where the program has a power; an off-resonant pulse without a flip gets
    its power and offset. Each reading is a readout of one sample, centred at its row's
    end. A row's gradient fills what they leave of its wait. Times are rounded to 10 µs.

    Args:
        program: the program of one voxel, outside transforms.
        system: ``pypulseq.Opts``; its default otherwise.
        unit: moment of one shift along z [rad/mm], where the program has no `moment`.
        pulse: length of pulses without a power [s].
        readout: length of readouts [s].

    Returns:
        The sequence; `load` turns it into the same program again.

    Raises:
        ImportError: pypulseq is missing.
        ValueError: a row has no time for its pulse, reading or gradient, or holds what
            Pulseq has no event for.

    >>> import mrsim.pulseq
    >>> from mrsim import epg
    >>> program = epg.gre_readout([0.3] * 4, TR=0.02, TE=0.01)
    >>> made = mrsim.pulseq.sequence(program, unit=10.0)
    >>> made.check_timing()[0]
    True
    """
    pp = require("pypulseq", "seq")
    system = system or pp.Opts()
    seq = pp.Sequence(system)
    rows = _rows(program, unit)
    plays = [_played(pp, system, row, pulse) for row in rows]
    read = _read(pp, system, readout)
    time, done = 0.0, 0.0  # of the program, and of the blocks so far
    lead = next((x.half for x in plays[:1] if x), 0.0)
    for k, row in enumerate(rows):
        start, time = time, time + row.wait
        played = plays[k]
        if played:
            if k and rows[k - 1].event.read:
                raise ValueError(_late(k, "its pulse coincides with a reading"))
            seq.add_block(*played.events)
            done = start + played.half
        following = plays[k + 1] if k + 1 < len(rows) else None
        if row.event.read:
            finish = time - read.half
        elif k + 1 < len(rows):
            finish = time - (following.half if following else 0.0)
        else:
            finish = max(time - lead, done)  # the lead comes first in the file
        gap = _rounded(finish) - _rounded(done)
        if gap < 0:
            raise ValueError(_late(k, f"it lacks {-gap:g} s for pulse and reading"))
        if gap > 0 or row.area.any():
            seq.add_block(*_gradients(pp, system, k, row.area, gap))
        done = finish
        if row.event.read:
            seq.add_block(*read.events(row.receiver))
            done = time + read.half
    return seq


class _Row(NamedTuple):
    event: Event
    wait: float
    phase: float
    receiver: float
    area: Any  # (3,) of the gradient [1/m]
    flip: float
    power: float
    offset: float


class _Played(NamedTuple):
    half: float  # of the block's length [s]
    events: Any


def _rows(program: Program, unit: float | None) -> list[_Row]:
    rows = len(program.layout)

    def column(name: str) -> Any:
        x = getattr(program, name)
        if x is None:
            return np.zeros(rows)
        x = x.detach().cpu().double().numpy()
        return np.broadcast_to(x, (rows, *x.shape[1:]))

    moment = column("moment")
    if moment.ndim == 1:
        given = moment if program.moment is not None else np.full(rows, unit or 0.0)
        moment = given[:, None] * np.array([0.0, 0.0, 1.0])
    share = 1.0 if program.efficiency is None else column("efficiency")
    if column("saturation").any() or np.any(share != 1.0):
        raise ValueError(
            "pulseq.sequence: saturation exponents and efficiencies below 1 belong to"
            " no pulse that could be written; leave them out"
        )
    made = []
    for k, event in enumerate(program.layout):
        if event.spoil or event.dual:
            what = "an ideal spoiler" if event.spoil else "power at two offsets"
            raise ValueError(
                f"pulseq.sequence: row {k} has {what}, which no event of Pulseq is;"
                f" use shifts, or pulses of their own"
            )
        area = np.array(event.shift) * moment[k] * _AREA
        if np.any(event.shift) and not area.any():
            raise ValueError(
                f"pulseq.sequence: row {k} has a shift without a moment; give unit"
                f" [rad/mm]"
            )
        angles = (event.quadrant, "phase"), (event.receiver, "demod")
        phase, receiver = (n * math.pi / 2 + column(name)[k] for n, name in angles)
        names = ("flip", "power", "offset")
        numbers = {name: float(column(name)[k]) for name in names}
        wait = float(column("duration")[k])
        made.append(_Row(event, wait, phase, receiver, area, **numbers))
    return made


def _played(pp: Any, system: Any, row: _Row, pulse: float) -> _Played | None:
    """Return the block of a row's pulse."""
    event, flip, offset = row.event, row.flip, 0.0
    if not (event.pulse or event.invert):
        return None
    flip = math.pi if event.invert else flip
    if row.power > 0 and not event.invert:
        if flip:
            pulse = flip**2 / row.power
        else:
            flip, offset = math.sqrt(row.power * pulse), row.offset
    pulse = max(round(pulse / 2e-6), 1) * 2e-6  # its middle lies on the raster of 1 µs
    around = max(system.rf_dead_time, system.rf_ringdown_time)
    half = math.ceil(round((pulse / 2 + around) / _RASTER, 6)) * _RASTER
    rf = pp.make_block_pulse(
        flip_angle=abs(flip),
        duration=pulse,
        delay=half - pulse / 2,
        freq_offset=offset,
        phase_offset=(row.phase + math.pi * (flip < 0) - math.pi * offset * pulse)
        % (2 * math.pi),
        use="inversion" if event.invert else "excitation",
        system=system,
    )
    return _Played(half, (rf, pp.make_delay(2 * half)))


def _read(pp: Any, system: Any, readout: float) -> _Played:
    """Return the length of a reading's block, and the block for a receiver phase."""
    half = math.ceil(round((readout / 2 + system.adc_dead_time) / _RASTER, 6)) * _RASTER

    def events(phase: float) -> tuple[Any, Any]:
        adc = pp.make_adc(
            num_samples=1,
            dwell=readout,
            delay=max(half - readout / 2, system.adc_dead_time),
            phase_offset=phase % (2 * math.pi),
            system=system,
        )
        return adc, pp.make_delay(2 * half)

    return _Played(half, events)


def _gradients(pp: Any, system: Any, row: int, area: Any, gap: float) -> list[Any]:
    made = [pp.make_delay(gap)] if gap > 0 else []
    for channel, size in zip("xyz", area, strict=True):
        if size:
            try:
                grad = pp.make_trapezoid(
                    channel=channel, area=size, duration=gap, system=system
                )
            except (AssertionError, ValueError) as e:
                raise ValueError(_late(row, f"no gradient fits: {e}")) from e
            made.append(grad)
    return made


def _rounded(time: float) -> float:
    return round(time / _RASTER) * _RASTER


def _late(row: int, why: str) -> str:
    return (
        f"pulseq.sequence: row {row} has no time for what it does: {why}; give longer"
        f" waits, shorter pulses and readouts, or stronger gradients"
    )
