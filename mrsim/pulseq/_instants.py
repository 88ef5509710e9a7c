"""What happens in a Pulseq file, and when."""

import hashlib
import math
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mrsim._check import require

_RADIANS = 2e-3 * math.pi  # rad/mm for 1/m
_FINE = 1000  # samples of a pulse given by its corners


class Instant(NamedTuple):
    """A pulse, a readout or the end of a file."""

    time: float  # [s]
    moment: Any  # (3,) wound up from the start of the file [rad/mm]
    kind: str  # "pulse", "invert", "read" or "end"
    flip: float = 0.0
    phase: float = 0.0  # of the pulse or the receiver [rad]
    power: float = 0.0
    offset: float = 0.0


def opened(source: Any) -> Any:
    """Return a sequence, read from an undamaged file.

    Args:
        source: the file's path, or a ``pypulseq.Sequence``.

    Returns:
        The ``pypulseq.Sequence``.

    Raises:
        ImportError: pypulseq is missing.
        ValueError: the file is damaged.
    """
    pypulseq = require("pypulseq", "seq")
    if not isinstance(source, str | Path):
        return source
    _check_whole(Path(source))
    seq = pypulseq.Sequence()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of older formats, which it converts
            seq.read(str(source))
    except Exception as e:  # pypulseq checks little
        raise ValueError(f"pulseq.load: {source} cannot be read: {e!r}") from e
    if not seq.block_events:
        raise ValueError(f"pulseq.load: {source} holds no blocks")
    total, said = float(sum(seq.block_durations.values())), seq.definitions
    if "TotalDuration" in said and abs(total - float(said["TotalDuration"])) > 1e-5:
        raise ValueError(
            f"pulseq.load: the blocks of {source} last {total:g} s, but it says"
            f" {float(said['TotalDuration']):g} s; the file is incomplete"
        )
    return seq


def _check_whole(path: Path) -> None:
    """Compare a file with its signature."""
    text, mark, signature = path.read_bytes().partition(b"\n[SIGNATURE]\n")
    words = signature.split()
    if b"Hash" in words[:-1] and b"md5" in words:
        if hashlib.md5(text).hexdigest().encode() != words[words.index(b"Hash") + 1]:
            raise ValueError(
                f"pulseq.load: {path} does not match its signature; it was changed or"
                f" damaged after it was written"
            )
    elif (  # a section without a blank line after it would keep pypulseq for ever
        mark or b"TotalDuration" not in text or not text.endswith((b"\n\n", b"\n\r\n"))
    ):
        raise ValueError(
            f"pulseq.load: {path} has no complete signature and no TotalDuration: it"
            f" is truncated, or nothing shows that it is not"
        )


def timeline(seq: Any) -> Iterator[Instant]:
    """Yield the pulses, the readouts and the end of a sequence.

    Args:
        seq: a ``pypulseq.Sequence``.

    Yields:
        What happens, in the order of time.

    Raises:
        ValueError: a program cannot represent it.
    """
    start, wound = 0.0, np.zeros(3)
    for number in seq.block_events:
        at = f"block {number}"
        block = _block(seq, number, at)
        lines = [_line(getattr(block, name, None)) for name in ("gx", "gy", "gz")]
        if getattr(block, "rf", None) is not None:
            rf = block.rf
            centre = rf.delay + require("pypulseq", "seq").calc_rf_center(rf)[0]
            moment = wound + [_area(line, centre) for line in lines]
            pulse = _pulse(rf, lines, at, seq.system)
            yield pulse._replace(time=start + centre, moment=moment)
        if getattr(block, "adc", None) is not None:
            adc = block.adc
            middle = adc.dwell * adc.num_samples / 2
            moment = wound + [_area(line, adc.delay + middle) for line in lines]
            phase = adc.phase_offset + _ppm(adc, "phase", seq.system)
            phase += 2 * math.pi * _frequency(adc, seq.system) * middle
            yield Instant(start + adc.delay + middle, moment, "read", phase=phase)
        start = start + float(block.block_duration)
        wound = wound + [_area(line, math.inf) for line in lines]
    yield Instant(start, wound, "end")


def _block(seq: Any, number: int, at: str) -> Any:
    try:
        block = seq.get_block(number)
    except (ValueError, KeyError, IndexError, TypeError) as e:
        raise ValueError(f"pulseq.load: {at} is incomplete in the file: {e}") from e
    triggers = (getattr(block, "trigger", None) or {}).values()
    inputs = [t for t in triggers if t.type == "trigger"]
    found = {n: getattr(block, n, None) for n in ("soft_delay", "rotation")}
    for name, value in ({"trigger": inputs} | found).items():
        if value:
            raise ValueError(
                f"pulseq.load: {at} has the extension {name!r}, which a program cannot"
                f" represent; labels and output pulses may stay"
            )
    return block


def _line(grad: Any) -> Any:
    """Return a gradient as corners (time, amplitude [1/m/s]) of a polygon."""
    if grad is None:
        return np.zeros((2, 1))
    if grad.type == "trap":
        times = [0.0, grad.rise_time, grad.flat_time, grad.fall_time]
        heights = [0.0, grad.amplitude, grad.amplitude, 0.0]
        return np.array([grad.delay + np.cumsum(times), heights])
    times, heights = list(grad.tt), list(grad.waveform)
    if times[0] > 0:
        times, heights = [0.0, *times], [grad.first, *heights]
    if times[-1] < grad.shape_dur:
        times, heights = [*times, grad.shape_dur], [*heights, grad.last]
    return np.array([grad.delay + np.array(times), heights])


def _area(line: Any, end: float) -> float:
    """Integrate a polygon up to a time [rad/mm]."""
    times, heights = line
    inside = times < end
    if not inside.all() and inside.any():
        last = np.interp(end, times, heights)
        times, heights = np.append(times[inside], end), np.append(heights[inside], last)
    elif not inside.any():
        return 0.0
    middles = (heights[1:] + heights[:-1]) / 2
    return float((middles * np.diff(times)).sum()) * _RADIANS


def _frequency(event: Any, system: Any) -> float:
    return float(event.freq_offset + _ppm(event, "freq", system))


def _ppm(event: Any, name: str, system: Any) -> float:
    share = getattr(event, f"{name}_ppm", 0.0)
    return float(share * 1e-6 * system.gamma * system.B0)


def _selects(rf: Any, lines: Sequence[Any], at: str) -> bool:
    """Tell whether a gradient is on during a pulse; it must then be constant."""
    found = False
    for axis, (times, heights) in zip("xyz", lines, strict=True):
        ends = rf.delay, rf.delay + rf.shape_dur
        during = heights[(times > ends[0]) & (times < ends[1])]
        during = np.append(during, np.interp(ends, times, heights, left=0.0, right=0.0))
        if np.ptp(during) > 1e-3 * np.abs(heights).max(initial=1e-9):
            raise ValueError(
                f"pulseq.load: in {at} the gradient along {axis} changes during the"
                f" pulse; such a pulse has no single flip angle"
            )
        found = found or bool(np.abs(during).max() > 0)
    return found


def _pulse(rf: Any, lines: Sequence[Any], at: str, system: Any) -> Instant:
    """Return what a pulse does at its centre; time and moment are still open."""
    selective = _selects(rf, lines, at)
    signal, times = np.asarray(rf.signal), np.asarray(rf.t)
    if times[0] == 0.0:  # corners of a polygon, not middles of samples
        fine = (np.arange(_FINE) + 0.5) * (times[-1] / _FINE)
        signal, times = np.interp(fine, times, signal), fine
    width = np.gradient(times)
    power = float((np.abs(2 * math.pi * signal) ** 2 * width).sum())
    if getattr(rf, "use", "") == "inversion":
        return Instant(0.0, None, "invert", power=power)
    centre = float(require("pypulseq", "seq").calc_rf_center(rf)[0])
    frequency = _frequency(rf, system)
    away = frequency != 0 and not selective
    turn = np.exp(2j * math.pi * frequency * (times - centre)) if away else 1.0
    total = (signal * width * turn).sum()
    whole = (signal * width).sum()
    straight = signal * np.exp(-1j * np.angle(whole))
    if np.abs(straight.imag).max() > 1e-2 * np.abs(signal).max():
        raise ValueError(
            f"pulseq.load: the pulse in {at} is modulated in phase or frequency, so"
            f" that its flip angle is not its integral; mark it for inversion if it is"
            f" adiabatic"
        )
    flip = 2 * math.pi * abs(total)
    if away and flip > 0.1:
        raise ValueError(
            f"pulseq.load: the pulse in {at} is {frequency:g} Hz off resonance without"
            f" a gradient and still turns spins on resonance; a program has no such"
            f" pulse"
        )
    phase = rf.phase_offset + _ppm(rf, "phase", system) + float(np.angle(total))
    phase += 2 * math.pi * frequency * centre
    offset = frequency if away else 0.0
    return Instant(0.0, None, "pulse", flip, phase, power, offset)
