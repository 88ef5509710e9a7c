"""MP2RAGE: several trains of spoiled gradient echoes after each inversion."""

import torch
from torch import Tensor

from mrsim.epg._checks import check_fits, check_sequence
from mrsim.epg._playing import repeated
from mrsim.epg._preparations import inversion
from mrsim.epg._readouts import gre_readout
from mrsim.epg.blocks import Train, attach, concat, wait
from mrsim.epg.program import Program
from mrsim.tissue import Tissue
from mrsim.tree import neutral, record, static


@record
class MP2RAGE(Train):
    """Inversion and a train of ideally spoiled gradient echoes for each volume."""

    flip: Tensor  # (volume,) flip angles [rad]
    TI: Tensor  # (volume,) inversion to the shot that is read [s]
    TR: Tensor  # () time between shots [s]
    cycle: Tensor  # () inversion to inversion [s]
    TE: Tensor | None = neutral(0.0)  # () pulse to reading [s]
    efficiency: Tensor | None = neutral(1.0)  # () of the inversion, Z → -efficiency·Z
    shots: tuple[int, int] = static()  # of each train: before the one read, and from it
    repeats: int | None = static(None)  # inversions played; None: the steady state


def mp2rage(tissue: Tissue, seq: MP2RAGE) -> Tensor:
    """Simulate the centre of k-space of each volume of MP2RAGE.

    In each cycle Z → -efficiency·Z, then a train for each volume, whose shot number
    ``shots[0]`` (0 is the first) lies at its TI: pulse, TE, reading, TR - TE, an ideal
    spoiler. The inversion does not scale with B1.

    Args:
        tissue: the voxel.
        seq: the sequence.

    Returns:
        (volume,) complex signal of the last cycle [units of M0]; -i times the positive
        signal of a magnetisation along +z.

    Raises:
        TypeError: a field is no floating tensor, or dtypes differ.
        ValueError: shapes or devices do not match, shots or repeats are no such
            numbers, or the trains do not fit.

    Reference:
        Marques 2010 (NeuroImage 49:1271), with his steady state of appendix A.

    >>> from mrsim import Tissue, epg
    >>> from mrsim.units import deg, ms
    >>> seq = epg.MP2RAGE(
    ...     flip=[4 * deg, 5 * deg],
    ...     TI=[0.7, 2.5],
    ...     TR=7 * ms,
    ...     cycle=5.0,
    ...     shots=(80, 80),
    ... )
    >>> epg.mp2rage(Tissue(T1=1.0, T2=0.1), seq).imag
    tensor([-0.0046, -0.0587])
    """
    return repeated("epg.mp2rage", tissue, mp2rage_program(seq), seq.repeats)


def mp2rage_program(seq: MP2RAGE) -> Program:
    """Return the program of one cycle.

    Args:
        seq: the sequence.

    Returns:
        Its events.

    Raises:
        TypeError: a field is no floating tensor, or dtypes differ.
        ValueError: shapes or devices do not match, shots are no such numbers, or the
            trains do not fit.

    >>> from mrsim import epg
    >>> seq = epg.MP2RAGE(
    ...     flip=[0.07, 0.09], TR=0.007, TI=[0.8, 2.7], cycle=6.0, shots=(80, 80))
    >>> epg.mp2rage_program(seq).duration.sum().round()
    tensor(6.)
    """
    where = "epg.mp2rage"
    check_sequence(where, seq, flip="volume", TI="volume")
    before, after = _shots(seq.shots)
    starts = seq.TI - before * seq.TR
    parts, time = [], torch.zeros_like(seq.TR)
    for i, (flip, start) in enumerate(zip(seq.flip, starts, strict=True)):
        gap = start - time
        check_fits(where, "a train starts before the one before it ends", gap)
        parts.append(wait(gap) if i else inversion(gap, seq.efficiency))
        flips = flip.expand(before + after)
        parts.append(
            gre_readout(flips, seq.TR, seq.TE, shift=0, spoil=True, read=(before,))
        )
        time = start + (before + after) * seq.TR
    rest = seq.cycle - time
    check_fits(where, "the last train ends after the cycle", rest)
    return attach(where, concat(*parts, wait(rest)), seq)


def _shots(shots: tuple[int, int]) -> tuple[int, int]:
    whole = isinstance(shots, tuple) and len(shots) == 2
    if not (whole and all(isinstance(n, int) for n in shots)):
        raise ValueError(
            f"epg.mp2rage: shots must be two whole numbers, those before the shot that"
            f" is read and those from it on, got {shots!r}"
        )
    if shots[0] < 0 or shots[1] < 1:
        raise ValueError(
            f"epg.mp2rage: shots must be at least 0 before and 1 from the shot that is"
            f" read, got {shots!r}"
        )
    return shots


def mp2rage_uniform(signal: Tensor) -> Tensor:
    """Combine the two volumes of MP2RAGE free of receive field, M0 and T2*.

    Re(S1* S2) / (|S1|² + |S2|²), within ±0.5 (Marques 2010, eq. 3).

    Args:
        signal: (2, …) complex volumes.

    Returns:
        (…) real.

    >>> import torch
    >>> from mrsim import epg
    >>> epg.mp2rage_uniform(torch.tensor([1 + 1j, 1 + 1j]))
    tensor(0.5000)
    """
    a, b = torch.view_as_real(signal.resolve_conj())
    return (a * b).sum(-1) / (a * a + b * b).sum(-1)
