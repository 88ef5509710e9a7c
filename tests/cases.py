"""Every public simulator with generic inputs; the laws run for each entry.

A new simulator joins every law by adding its cases here.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mrsim import Tissue, bloch, epg
from mrsim.units import deg, ms


class Case(NamedTuple):
    """A simulator with arguments that are special in no way."""

    name: str
    f: Callable[..., Tensor]
    args: tuple[Any, Any]  # tissue and sequence: records of one voxel
    real: bool = False  # the engine should run it in real arithmetic
    silent: tuple[str, ...] = ()  # acquisition fields without effect


def _mixed(**changes: Any) -> epg.Program:
    """Return a program with shifts of both signs and everything a row can have."""
    layout = (
        epg.Event(invert=True),
        epg.Event(pulse=True, shift=1, read=True),
        epg.Event(pulse=True, quadrant=1, shift=-2, read=True, receiver=3),
        epg.Event(shift=1, read=True),
        epg.Event(pulse=True, shift=-1, spoil=True),
        epg.Event(pulse=True, shift=2),
        epg.Event(pulse=True, quadrant=2, shift=2, read=True),
        epg.Event(pulse=True, shift=-2, read=True),
    )
    rows = torch.arange(8.0, dtype=torch.float64)
    fields = {
        "flip": (40 + 17 * rows) * deg,
        "duration": (3 + rows % 3) * ms,
        "phase": 0.3 * rows,
        "demod": 0.2 - 0.1 * rows,
        "efficiency": 0.97 - 0.01 * rows,
        "layout": layout,
    }
    return epg.Program(**(fields | changes))


def _angles(*degrees: float) -> list[float]:
    return [angle * deg for angle in degrees]


PLAIN = Tissue(T1=950 * ms, T2=90 * ms)
FULL = Tissue(T1=950 * ms, T2=90 * ms, M0=1.3, B1=0.9, df=7.0)
STILL = Tissue(T1=950 * ms, T2=90 * ms, M0=1.3, B1=0.9)

TRAIN = epg.FSE(flip=_angles(150, 120, 95, 130, 110), esp=9 * ms)
PHASED = epg.FSE(
    flip=_angles(150, 120, 95, 130),
    esp=9 * ms,
    phase=[0.1, -0.3, 0.2, 0.5],
    excitation=80 * deg,
)
SHORT = epg.FSE(flip=_angles(150, 120, 95, 130, 110), esp=9 * ms, states=3)
FISP = epg.FISP(flip=_angles(20, 35, 50, 40), TR=12 * ms)
FISP_PHASED = epg.FISP(
    flip=_angles(20, 35, 50, 40),
    TR=[12 * ms, 13 * ms, 11 * ms, 12 * ms],
    TE=[3 * ms, 4 * ms, 5 * ms, 3 * ms],
    phase=[0.0, 0.7, -0.4, 1.1],
)
FISP_INVERTED = epg.FISP(
    flip=_angles(20, 35, 50, 40),
    TR=12 * ms,
    TE=3 * ms,
    TI=25 * ms,
    efficiency=0.95,
)
SPGR = epg.SPGR(flip=20 * deg, TR=10 * ms, TE=4 * ms, pulses=5)
BSSFP = epg.BSSFP(flip=_angles(20, 35, 50, 40), TR=6 * ms)
BSSFP_INVERTED = epg.BSSFP(
    flip=_angles(20, 35, 50, 40),
    TR=6 * ms,
    TE=[2 * ms, 3 * ms, 2.5 * ms, 2 * ms],
    phase=[0.0, 2.9, -0.4, 3.1],
    TI=25 * ms,
    efficiency=0.95,
)
STEADY = epg.BSSFP(flip=35 * deg, TR=6 * ms, TE=2 * ms)
MPRAGE = epg.MPRAGE(
    flip=_angles(8, 9, 10),
    TR=8 * ms,
    TI=300 * ms,
    TE=3 * ms,
    efficiency=0.96,
    cycle=900 * ms,
    centre=1,
    repeats=2,
)
QUADRANTS = _mixed(phase=None, demod=None)

CASES = [
    Case("fse", epg.fse, (PLAIN, TRAIN), real=True),
    Case("fse-full", epg.fse, (FULL, PHASED)),
    Case("fse-states", epg.fse, (STILL, SHORT), real=True),
    Case("fisp", epg.fisp, (STILL, FISP), real=True),
    Case("fisp-phase", epg.fisp, (FULL, FISP_PHASED)),
    Case("fisp-inversion", epg.fisp, (STILL, FISP_INVERTED), real=True),
    Case("spgr", epg.spgr, (FULL, SPGR)),
    Case("spgr_spoiled", epg.spgr_spoiled, (FULL, SPGR)),
    Case("bssfp", epg.bssfp, (STILL, BSSFP), real=True),
    Case("bssfp-full", epg.bssfp, (FULL, BSSFP_INVERTED)),
    Case("bssfp_steady", epg.bssfp_steady, (FULL, STEADY)),
    Case("mprage", epg.mprage, (STILL, MPRAGE), real=True),
    Case("run", epg.run, (FULL, _mixed())),
    Case("run-quadrants", epg.run, (STILL, QUADRANTS)),
    Case("bloch", bloch.run, (FULL, _mixed())),
]
