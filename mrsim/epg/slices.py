"""Programs whose pulses are shaped, position by position, and their slice average."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import vmap

from mrsim.epg.program import Event, Program
from mrsim.epg.pulses import Pulse, nominal_flip, surroundings, turned_flip
from mrsim.tissue import Tissue
from mrsim.tree import replace

Simulator = Callable[[Tissue, Program], Tensor]


def shaped(
    program: Program,
    pulse: Pulse,
    position: Tensor,
    B1: Tensor | None = None,
    df: Tensor | None = None,
    parts: int = 2,
) -> Program:
    """Return a program with what a shaped pulse does at one position.

    Every pulse plays ``pulse``, scaled to the row's flip; flips stop being linear in
    B1, so B1 enters here (`slice_average` takes it from the tissue). The turns about z
    before and after a flip go into the phases of all later pulses and readings, as
    M+ = e^{iΨ} M̃+ with Ψ the sum of all turns so far: signals are exact, and
    transverse states at the end are M̃+. Waits count from the middles of pulses.

    A pulse becomes ``parts`` pulses without a wait between: the phases of a flip have
    no derivatives at 180°, those of its halves have.

    Args:
        program: the program; inversions stay as they are.
        pulse: the pulse, of any flip but 0.
        position: () along the slice's normal [mm].
        B1: () transmit field relative to nominal [1].
        df: () off-resonance during the pulses [Hz].
        parts: pieces of a pulse; 1 suffices where no flip comes near 180°.

    Returns:
        The program at this position, for a tissue without B1.

    Raises:
        TypeError: a field is no floating tensor, or dtypes differ.
        ValueError: shapes or devices do not match, or there is no part.

    >>> import torch
    >>> from mrsim import epg
    >>> train = epg.fse_program(epg.FSE(flip=[2.0, 2.0], esp=10e-3))
    >>> pulse = epg.sinc_pulse(flip=1.0, duration=2e-3, thickness=5.0)
    >>> len(epg.shaped(train, pulse, torch.tensor(5.0)).layout), len(train.layout)
    (7, 4)
    """
    if not isinstance(parts, int) or parts < 1:
        raise ValueError(
            f"epg.shaped: a pulse is cut into a whole number of parts of at least 1,"
            f" got {parts!r}"
        )
    scale = program.flip / nominal_flip(pulse)
    scale = scale if B1 is None else scale * B1
    made = [turned_flip(x, position, scale, df) for x in _pieces(pulse, parts)]
    flip, phase, before, after = (
        torch.stack([getattr(x, name) for x in made])
        for name in ("flip", "phase", "before", "after")
    )
    ends = surroundings(pulse, position, df)
    for k, end in enumerate(ends):
        if end is None:
            continue
        at = torch.arange(parts) == (0, parts - 1)[k]
        both = (before, after)[k] + at.to(flip)[:, None] * end
        before, after = (both, after) if k == 0 else (before, both)
    return _with_parts(program, B1, (flip, phase, before, after))


def _pieces(pulse: Pulse, parts: int) -> list[Pulse]:
    """Cut a pulse into equally long ones, if need be every sample as well."""
    samples = len(pulse.B1)
    fine = 1 if samples % parts == 0 else parts

    def cut(x: Tensor) -> tuple[Tensor, ...]:
        return x.repeat_interleave(fine).chunk(parts)

    B1 = cut(pulse.B1)
    phase = cut(torch.zeros_like(pulse.B1) if pulse.phase is None else pulse.phase)
    gradient = (pulse.gradient,) * parts
    if pulse.gradient is not None and pulse.gradient.ndim:
        gradient = cut(pulse.gradient)
    dwell = (pulse.dwell[None] / fine)[0]
    if pulse.offset is not None:  # the carrier's phase in the middle of each piece
        turn = 2 * math.pi * samples / parts * pulse.dwell[None] * pulse.offset
        phase = [x + turn * (k - (parts - 1) / 2) for k, x in enumerate(phase)]
    return [
        Pulse(B1=b, phase=p, gradient=g, dwell=dwell, offset=pulse.offset)
        for b, p, g in zip(B1, phase, gradient, strict=True)
    ]


def _with_parts(
    program: Program, B1: Tensor | None, made: tuple[Tensor, ...]
) -> Program:
    """Put flip, phase, before and after (part, event) into a program's pulses."""
    parts, like = len(made[0]), program.flip
    owner, piece, layout, clock = [], [], [], []
    classes = program.clock or (0,) * len(program.layout)
    for row, event in enumerate(program.layout):
        first = parts if event.pulse else 1
        cut = Event(pulse=True, quadrant=event.quadrant)
        layout += [cut] * (first - 1) + [event]
        clock += [max(classes) + 1] * (first - 1) + [classes[row]]
        owner += [row] * first
        piece += range(parts - first, parts)
    rows = torch.tensor(owner).to(like.device)
    where = torch.tensor(piece).to(like.device)
    pulse = like.new_tensor([float(e.pulse) for e in layout])
    last = like.new_tensor([float(k == parts - 1) for k in piece])
    flip, phase, before, after = (x[where, rows] * pulse for x in made)
    so_far = (before + after).cumsum(0)

    def column(name: str) -> Tensor | None:
        x = getattr(program, name)
        return x if x is None or x.shape[0] == 1 else x[rows]

    def once(name: str) -> Tensor | None:
        x = getattr(program, name)
        return None if x is None else x.expand(like.shape)[rows] * last

    power, demod = once("power"), column("demod")
    own = column("phase")
    return replace(
        program,
        flip=flip,
        duration=program.duration[rows] * last,
        phase=phase - (so_far - after) * pulse + (0 if own is None else own),
        demod=-so_far if demod is None else demod - so_far,
        saturation=once("saturation"),
        power=power if power is None or B1 is None else power * B1.square(),
        **{n: column(n) for n in ("efficiency", "moment", "offset")},
        layout=tuple(layout),
        clock=None if program.clock is None else tuple(clock),
    )


def slice_average(
    simulate: Simulator,
    tissue: Tissue,
    program: Program,
    pulse: Pulse,
    positions: Tensor,
    weights: Tensor | None = None,
    parts: int = 2,
) -> Tensor:
    """Average a program's signal over the positions of a slice.

    S = Σ_z w_z S(z) / Σ_z w_z, with the true flip and phase of the shaped pulse at
    every position, B1 and off-resonance included.

    Args:
        simulate: ``epg.run`` or another function of a tissue and a program.
        tissue: the voxel.
        program: the sequence, with nominal flips.
        pulse: the pulse that all its pulses play.
        positions: (position,) along the slice's normal [mm].
        weights: (position,) of the positions [1]; ``None``: equal.
        parts: pieces of a pulse, see `shaped`.

    Returns:
        (reading,) the mean signal.

    Raises:
        TypeError: a field is no floating tensor, or dtypes differ.
        ValueError: shapes or devices do not match.

    >>> import torch
    >>> from mrsim import Tissue, epg
    >>> train = epg.fse_program(epg.FSE(flip=[2.8, 2.8], esp=10e-3))
    >>> pulse = epg.sinc_pulse(flip=1.0, duration=2e-3, thickness=5.0)
    >>> z = torch.linspace(-5, 5, 21)
    >>> epg.slice_average(epg.run, Tissue(T1=1.0, T2=0.1), train, pulse, z).real
    tensor([0.2701, 0.3119])
    """
    plain = replace(tissue, B1=None)

    def at(position: Tensor) -> Tensor:
        here = shaped(program, pulse, position, tissue.B1, tissue.df, parts)
        return simulate(plain, here)

    signals = vmap(at)(positions)
    if weights is None:
        return signals.mean(0)
    return weights.to(signals.dtype) @ signals / weights.sum()
