"""An inversion, a train of ideally spoiled gradient echoes, a wait for the next."""

from typing import Any

from torch import Tensor

from mrsim.epg._checks import check_fits
from mrsim.epg._preparations import inversion
from mrsim.epg._readouts import gre_readout
from mrsim.epg.blocks import attach, concat, wait
from mrsim.epg.program import Program

PULSES = {
    "flip": "pulse",
    "phase": "pulse",
    "TR": "pulse?",
    "TE": "pulse?",
    "profile": "position",
}
"""Shapes of a train whose every pulse may have times and a phase of its own."""


def after_inversion(seq: Any, train: Program) -> Program:
    """Put the inversion of a sequence before its train, if it has one.

    Args:
        seq: a sequence with ``TI`` and ``efficiency``.
        train: what follows.

    Returns:
        Its events.
    """
    if seq.TI is None:
        return train
    return concat(inversion(seq.TI, seq.efficiency), train)


def inverted_train(
    where: str, seq: Any, flip: Tensor, TE: Tensor | None, before: Tensor, late: str
) -> Program:
    """Return the program of one inversion, its train and the wait for the next.

    Args:
        where: the function that asks, for the message.
        seq: a `Train` with ``TR``, ``efficiency``, ``cycle`` and ``repeats``.
        flip: (pulse,) flip angles [rad].
        TE: as in `gre_readout` [s].
        before: () inversion to the first pulse [s].
        late: what to say where the train is longer than the cycle.

    Returns:
        Its events.

    Raises:
        ValueError: the train does not fit, or there is no cycle to repeat.
    """
    made = concat(
        inversion(before, seq.efficiency),
        gre_readout(flip, seq.TR, TE, shift=0, spoil=True),
    )
    if seq.cycle is not None:
        after = seq.cycle - before - len(flip) * seq.TR
        check_fits(where, late, after)
        made = concat(made, wait(after))
    elif seq.repeats != 1:
        raise ValueError(
            f"{where}: {seq.repeats} repeats need the time from inversion to"
            f" inversion; give cycle [s]"
        )
    return attach(where, made, seq)


def before_train(where: str, seq: Any, shots: int) -> Tensor:
    """Return the time from the inversion to the first shot, ``centre`` lying at TI.

    Args:
        where: the function that asks, for the message.
        seq: a sequence with ``TI``, ``TR`` and ``centre``.
        shots: how many there are.

    Returns:
        () time [s].

    Raises:
        ValueError: centre is none of the shots, or the time is negative.
    """
    if seq.centre not in range(shots):
        raise ValueError(
            f"{where}: centre must be one of the {shots} shots, 0 to {shots - 1},"
            f" got {seq.centre!r}"
        )
    before = seq.TI - seq.centre * seq.TR
    check_fits(where, "TI is shorter than centre·TR", before)
    return before
