"""Magnetisation preparations as programs."""

import math
from typing import Literal

from torch import Tensor

from mrsim.epg.blocks import rows
from mrsim.epg.program import Event, Program

Number = Tensor | float
_INVERSION = (Event(invert=True),)
_SIGNS = {  # of the composite pulses (Levitt, Freeman & Frenkiel 1982)
    4: "++--",
    8: "++---++-",
    16: "++---++---+++--+",
}


def inversion(
    TI: Number,
    efficiency: Number | None = None,
    *,
    saturation: Number | None = None,
    power: Number | None = None,
    offset: Number | None = None,
) -> Program:
    """Return an adiabatic inversion, Z → -efficiency·Z, and the time after it.

    It does not scale with B1 and destroys transverse magnetisation.

    Args:
        TI: () time after the inversion [s].
        efficiency: () 1 for a perfect one.
        saturation: () exponent of bound pools.
        power: () ∫(γB1)²dt for bound pools [rad²/s].
        offset: () of the power [Hz].

    Returns:
        A program of one row.

    >>> from mrsim import epg
    >>> epg.inversion(0.5).layout[0].invert
    True
    """
    given = {"saturation": saturation, "power": power, "offset": offset}
    given = {n: [x] for n, x in given.items() if x is not None}
    share = None if efficiency is None else [efficiency]
    return rows(_INVERSION, None, flip=[0.0], duration=[TI], efficiency=share, **given)


def saturation(delay: Number, flip: Number = math.pi / 2) -> Program:
    """Return a saturation: a pulse whose transverse magnetisation is spoiled.

    Args:
        delay: () recovery after the pulse [s].
        flip: () flip angle, scaled by B1 [rad].

    Returns:
        A program of one row.

    >>> from mrsim import Tissue, epg
    >>> read = epg.gre_readout([0.1], TR=0.01)
    >>> recovered = epg.concat(epg.saturation(0.7), read)
    >>> epg.run(Tissue(T1=1.0, T2=0.1), recovered).imag
    tensor([-0.0503])
    """
    layout = (Event(pulse=True, spoil=True),)
    return rows(layout, flip=[flip], duration=[delay])


def t2_preparation(
    TE: Number, pulses: Literal[4, 8, 16] = 4, *, composite: bool = True
) -> Program:
    """Return a T2 preparation: Z → Z·e^{-TE/T2}, robust against B1 and off-resonance.

    90° about +x, refocusing pulses R and their inverses R̄ in the order of MLEV-4
    (RRR̄R̄), -8 or -16, spaced TE/pulses, 90° about -x, an ideal spoiler. A composite R
    is 90°_x 180°_y 90°_x (Levitt & Freeman 1979), else it is 180°_y. All flips scale
    with B1.

    Args:
        TE: () time in the transverse plane [s].
        pulses: number of refocusing pulses.
        composite: refocus with composite pulses.

    Returns:
        A program; Z is what remains.

    Raises:
        ValueError: there is no MLEV scheme of so many pulses.

    Reference:
        Levitt 1982 (J Magn Reson 47:328); Brittain 1995 (MRM 33:689).

    >>> from mrsim import Tissue, epg
    >>> train = epg.concat(epg.t2_preparation(0.05), epg.gre_readout([0.1], TR=0.01))
    >>> epg.run(Tissue(T1=1.0, T2=0.1), train).imag
    tensor([-0.0606])
    """
    if pulses not in _SIGNS:
        raise ValueError(
            f"epg.t2_preparation: MLEV has 4, 8 or 16 pulses, got {pulses!r}"
        )
    right, straight = math.pi / 2, math.pi
    none, half, full = range(3)
    plays = [(right, 0, half)]  # flip, quadrant, wait
    for sign in _SIGNS[pulses]:
        x, y = (0, 1) if sign == "+" else (2, 3)
        if composite:
            plays += [(right, x, none), (straight, y, none), (right, x, full)]
        else:
            plays.append((straight, y, full))
    plays[-1] = (*plays[-1][:2], half)
    plays.append((right, 2, none))
    layout = [Event(pulse=True, quadrant=q) for _, q, _ in plays]
    layout[-1] = layout[-1]._replace(spoil=True)
    clock = tuple(kind for *_, kind in plays)
    times = 0.0, TE / (2 * pulses), TE / pulses
    flips = [flip for flip, *_ in plays]
    return rows(tuple(layout), clock, flip=flips, duration=[times[k] for k in clock])


def mt_preparation(
    power: Number,
    offset: Number,
    interval: Number = 0.0,
    pulses: int = 1,
    *,
    flip: Number = 0.0,
    dual: bool = False,
) -> Program:
    """Return a train of off-resonant pulses that saturate bound pools.

    Args:
        power: () ∫(γB1)²dt of one pulse [rad²/s].
        offset: () of the pulses from resonance [Hz].
        interval: () from pulse to pulse, and after the last one [s].
        pulses: how many.
        flip: () what a pulse does to free pools [rad]; 0 far from resonance.
        dual: the power is at both offsets, ± (inhomogeneous magnetisation transfer).

    Returns:
        A program of one row for each pulse; an ideal spoiler ends the last one.

    Reference:
        Henkelman 1993 (MRM 29:759); Varma 2015 (J Magn Reson 260:67) for two offsets.

    >>> from mrsim import epg
    >>> len(epg.mt_preparation(3e5, 2e3, interval=0.02, pulses=5).layout)
    5
    """
    one = Event(pulse=True, dual=dual)
    return rows(
        (*(one,) * (pulses - 1), one._replace(spoil=True)),
        (0,) * pulses,
        flip=[flip] * pulses,
        duration=[interval] * pulses,
        power=[power] * pulses,
        offset=[offset] * pulses,
    )


def diffusion_preparation(
    moment: Number, delta: Number, Delta: Number, TE: Number
) -> Program:
    r"""Return a diffusion preparation: Z → Z·e^{-TE/T2}·e^{-bD}.

    90° about +x, two gradient lobes of length δ whose starts lie Δ apart, 180° about +y
    between them, 90° about -x, an ideal spoiler; b = moment²·(Δ - δ/3) (Stejskal &
    Tanner 1965). Spins that move at v keep cos(moment·v·Δ).

    Args:
        moment: () or (3,) γGδ, what one lobe winds up [rad/mm].
        delta: () δ [s].
        Delta: () Δ ≥ δ [s].
        TE: () from excitation to tip-up, at least Δ + δ [s].

    Returns:
        A program; Z is what remains.

    >>> from mrsim import Tissue, epg
    >>> prepared = epg.diffusion_preparation(30.0, 0.01, 0.02, TE=0.04)
    >>> read = epg.gre_readout([1.0], TR=0.01)
    >>> tissue = Tissue(T1=1.0, T2=0.1, D=0.002)
    """
    outer, inner = (TE - Delta - delta) / 2, (Delta - delta) / 2
    right = math.pi / 2
    lobe = Event(shift=1)
    layout = (
        Event(pulse=True),
        lobe,
        Event(),
        Event(pulse=True, quadrant=1),
        lobe,
        Event(),
        Event(pulse=True, quadrant=2, spoil=True),
    )
    return rows(
        layout,
        (0, 1, 2, 2, 1, 0, 3),
        flip=[right, 0.0, 0.0, 2 * right, 0.0, 0.0, right],
        duration=[outer, delta, inner, inner, delta, outer, 0.0],
        moment=[moment] * len(layout),
    )
