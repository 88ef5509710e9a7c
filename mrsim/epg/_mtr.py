"""Magnetisation-transfer ratio of a spoiled gradient echo."""

import torch
from torch import Tensor

from mrsim._check import check_shapes
from mrsim.epg._checks import check_fits, check_sequence
from mrsim.epg.engine import run
from mrsim.epg.program import Event, Program
from mrsim.epg.steady import steady
from mrsim.tissue import Tissue
from mrsim.tree import neutral, record, static


@record
class MTR:
    """A spoiled gradient echo with a saturation pulse in each TR, and without."""

    flip: Tensor  # () flip angle of the excitation [rad]
    TR: Tensor  # () repetition time [s]
    power: Tensor | None = neutral(0.0)  # () ∫(γB1)²dt of the MT pulse [rad²/s]
    offset: Tensor | None = neutral(0.0)  # () of the MT pulse [Hz]
    saturation: Tensor | None = neutral(0.0)  # () exponent, instead of power [1]
    delay: Tensor | None = neutral(0.0)  # () MT pulse to excitation [s]
    dual: bool = static(default=False)  # the power is at both offsets, ± (ihMT)


def mtr(tissue: Tissue, seq: MTR) -> Tensor:
    """Return the magnetisation-transfer ratio 1 - |S_on|/|S_off| in steady state.

    Each TR is the MT pulse, a spoiler, ``delay``, the excitation, the reading and an
    ideal spoiler. The MT pulse acts on bound pools only: the tissue's ``bound`` must be
    there.

    Args:
        tissue: the voxel.
        seq: the sequence.

    Returns:
        () the ratio [1].

    Raises:
        TypeError: a field is no floating tensor, or dtypes differ.
        ValueError: shapes or devices do not match, times do not fit, or the tissue has
            no bound pool.

    Reference:
        Wolff & Balaban 1989 (MRM 10:135); Dousset 1992 (Radiology 182:483).

    >>> from mrsim import Bound, Tissue, epg
    >>> from mrsim.units import deg, ms
    >>> bound = Bound(f=0.12, k=3.0, T1=1.0, T2=11e-6)
    >>> seq = epg.MTR(flip=10 * deg, TR=30 * ms, power=2e4, offset=1500.0)
    >>> ratio = epg.mtr(Tissue(T1=1.0, T2=0.08, bound=bound), seq)
    """
    if tissue.bound is None:
        raise ValueError(
            "epg.mtr: without a bound pool nothing is transferred; give the tissue"
            " bound=mrsim.Bound(...)"
        )
    on, off = (
        torch.view_as_real(run(tissue, p, steady(tissue, p))).square().sum()
        for p in (mtr_program(seq), mtr_program(seq, on=False))
    )
    return 1 - (on / off).sqrt()


def mtr_program(seq: MTR, *, on: bool = True) -> Program:
    """Return the program of one repetition.

    Args:
        seq: the sequence.
        on: with the MT pulse.

    Returns:
        Its events.

    Raises:
        TypeError: a field is no floating tensor, or dtypes differ.
        ValueError: shapes or devices do not match, or times do not fit.

    >>> from mrsim import epg
    >>> seq = epg.MTR(flip=0.17, TR=0.03, power=2e4, offset=1500.0)
    >>> epg.mtr_program(seq).power, epg.mtr_program(seq, on=False).power
    (tensor([20000.,     0.,     0.]), None)
    """
    check_sequence("epg.mtr", seq)
    pulse = {"saturation": "", "power": "", "offset": ""}
    check_shapes("epg.mtr", seq, **pulse)
    still = torch.zeros_like(seq.TR)
    delay = still if seq.delay is None else seq.delay
    rest = seq.TR - delay
    check_fits("epg.mtr", "delay is longer than TR", rest)
    made = {}
    for name in pulse:
        value = getattr(seq, name)
        if on and value is not None:
            made[name] = torch.stack([value, still, still])
    return Program(
        flip=torch.stack([still, seq.flip, still]),
        duration=torch.stack([delay, still, rest]),
        **made,
        layout=(
            Event(pulse=True, spoil=True, dual=seq.dual),
            Event(pulse=True, read=True),
            Event(spoil=True),
        ),
    )
