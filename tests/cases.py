"""Every public simulator with generic inputs; the laws run for each entry.

A new simulator joins every law by adding its cases here.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import playing
import torch
from torch import Tensor

from mrsim import Bound, Exchange, Tissue, bloch, epg
from mrsim.tree import replace
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
MOVING = ("moment", "thickness")
QUADRANTS = _mixed(phase=None, demod=None)

TWO = Exchange(T1=500 * ms, T2=20 * ms, f=0.2, k=10.0)
THREE = Exchange(
    T1=[500 * ms, 1200 * ms],
    T2=[20 * ms, 60 * ms],
    f=[0.2, 0.1],
    k=[10.0, 25.0],
    df=[-11.0, 17.0],
    pairs=((0, 1), (1, 2)),
    directional=False,
)
SOLID = Bound(f=0.1, k=4.0, T1=1.0, T2=11e-6)
DIPOLAR = Bound(f=0.1, k=4.0, T1=1.0, T2=11e-6, T1D=6 * ms)
EVERYTHING = replace(
    FULL,
    exchange=THREE,
    bound=DIPOLAR,
    D=torch.tensor(2e-3, dtype=torch.float64),
    v=torch.tensor(3.0, dtype=torch.float64),
)
_ROWS = torch.arange(8.0, dtype=torch.float64)
IRRADIATED = _mixed(
    moment=[25.0],
    thickness=3.0,
    saturation=0.05 + 0.01 * _ROWS,
    power=3e4 + 2e3 * _ROWS,
    offset=4000 + 300 * _ROWS,
)
BRIEF = epg.Program(
    flip=_angles(0, 100, 60),
    duration=[4 * ms, 5 * ms, 6 * ms],
    phase=[0.0, 0.1, 0.4],
    demod=[0.0, 0.2, -0.1],
    efficiency=[0.97, 0.96, 0.95],
    moment=[25.0],
    thickness=3.0,
    saturation=[0.05, 0.06, 0.07],
    power=[3e4, 2e4, 1e4],
    offset=[4000.0, 4300.0, 5000.0],
    layout=(
        epg.Event(invert=True),
        epg.Event(pulse=True, shift=1, read=True),
        epg.Event(pulse=True, shift=-1, read=True, dual=True),
    ),
)
IRRADIATED = replace(
    IRRADIATED,
    layout=tuple(e._replace(dual=i == 5) for i, e in enumerate(IRRADIATED.layout)),
)
TENSOR = replace(
    FULL,
    D=torch.tensor(
        [[0.8, -0.4, 0.5], [-0.4, 0.7, -0.4], [0.5, -0.4, 0.9]], dtype=torch.float64
    )
    * 1e-3,
    v=torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64),
)
_WAYS = ((0, 0, 0), (1, 0, 0), (0, 1, -1), (1, 0, 0), (0, 0, 0), (0, 0, 2), (0, 1, -1))
SPATIAL = _mixed(moment=[[20.0, 25.0, 30.0]], thickness=3.0)
SPATIAL = replace(
    SPATIAL,
    layout=tuple(
        e._replace(shift=n)
        for e, n in zip(SPATIAL.layout, (*_WAYS, (0, 0, -2)), strict=True)
    ),
)
SPREAD = replace(FULL, T2p=torch.tensor(30 * ms, dtype=torch.float64))
APART = replace(
    FULL,
    exchange=replace(
        TWO,
        D=torch.tensor(1e-3, dtype=torch.float64),
        df=torch.tensor(-11.0, dtype=torch.float64),
    ),
    D=torch.tensor(2e-3, dtype=torch.float64),
    v=torch.tensor(3.0, dtype=torch.float64),
)
WOUND = epg.Program(
    flip=_angles(100, 60, 50),
    duration=[4 * ms, 5 * ms, 3 * ms],
    phase=[0.1, 0.4, 0.9],
    moment=[25.0],
    layout=(
        epg.Event(pulse=True, shift=1, read=True),
        epg.Event(pulse=True, shift=-1, read=True),
        epg.Event(pulse=True, read=True),
    ),
    substeps=1,
)

DRIFTING = Tissue(T1=950 * ms, T2=90 * ms, M0=1.3, B1=0.9, df=7.0, D=2e-3)
LAYERED = Tissue(
    T1=950 * ms,
    T2=90 * ms,
    B1=0.9,
    bound=Bound(f=0.15, k=4.0, T1=1.0, T2=11e-6),
)
FSE_TWICE = epg.FSE(flip=_angles(150, 120, 95), esp=9 * ms, TR=300 * ms, repeats=2)
SHUFFLING = epg.Shuffling(
    flip=_angles(150, 120), esp=9 * ms, TR=[300 * ms, 900 * ms], repeats=1
)
SLICE = epg.FISP(
    flip=_angles(20, 35, 50),
    TR=12 * ms,
    TI=25 * ms,
    moment=30.0,
    profile=[0.5, 1.0, 0.8],
)
MEMPRAGE = epg.MEMPRAGE(
    flip=_angles(8, 9, 10),
    TR=12 * ms,
    TI=300 * ms,
    TE=[2 * ms, 5 * ms],
    efficiency=0.96,
    cycle=900 * ms,
    centre=1,
    repeats=2,
)
MP2RAGE = epg.MP2RAGE(
    flip=_angles(4, 6),
    TI=[300 * ms, 900 * ms],
    TR=12 * ms,
    TE=4 * ms,
    cycle=1500 * ms,
    efficiency=0.96,
    shots=(1, 2),
    repeats=2,
)
MGRE = epg.MGRE(flip=20 * deg, TR=20 * ms, TE=[3 * ms, 7 * ms])
DESS = epg.DESS(flip=30 * deg, TR=15 * ms, TE=4 * ms, moment=20.0, states=3)
DWSSFP = epg.DWSSFP(
    flip=35 * deg, TR=25 * ms, TE=20 * ms, delta=8 * ms, moment=40.0, states=2
)
STEAM = epg.STEAM(TE=20 * ms, TM=100 * ms, flip=_angles(80, 95, 100), moment=20.0)
LOCKER = epg.LookLocker(
    flip=8 * deg,
    TR=200 * ms,
    TI=20 * ms,
    TE=4 * ms,
    efficiency=0.96,
    cycle=1500 * ms,
    pulses=3,
    repeats=2,
)
MTR = epg.MTR(flip=10 * deg, TR=30 * ms, power=2e4, offset=1900.0, delay=3 * ms)
CEST = epg.CEST(
    offset=[-60.0, 40.0],
    amplitude=200.0,
    duration=30 * ms,
    pause=10 * ms,
    shape=[0.6, 1.0],
    pulses=2,
)
PREPARED = epg.concat(
    epg.inversion(30 * ms, 0.95),
    epg.saturation(40 * ms, 70 * deg),
    epg.t2_preparation(25 * ms),
    epg.diffusion_preparation(30.0, 4 * ms, 9 * ms, TE=16 * ms),
    epg.fse_readout(_angles(150, 120), esp=9 * ms),
)
# the laws change one number at a time: no rows that must be equal
PREPARED = replace(
    PREPARED, clock=None, moment=torch.tensor([30.0], dtype=torch.float64)
)


def _with(**physics: Any) -> Tissue:
    return replace(STILL, **physics)


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
    Case("run-exchange", epg.run, (_with(exchange=TWO), QUADRANTS)),
    Case("fse-exchange", epg.fse, (_with(exchange=TWO), TRAIN), real=True),
    Case("run-bound", epg.run, (_with(bound=SOLID), IRRADIATED), silent=MOVING),
    Case("run-everything", epg.run, (EVERYTHING, BRIEF)),
    Case("run-3d", epg.run, (TENSOR, SPATIAL)),
    Case("run-t2p", epg.run, (SPREAD, _mixed())),
    Case("run-apart", epg.run, (APART, WOUND)),
    Case("fse-twice", epg.fse, (STILL, FSE_TWICE)),
    Case("shuffling", epg.shuffling, (STILL, SHUFFLING)),
    Case("fisp-slice", epg.fisp, (DRIFTING, SLICE)),
    Case("memprage", epg.memprage, (FULL, MEMPRAGE)),
    Case("mp2rage", epg.mp2rage, (FULL, MP2RAGE)),
    Case("mgre", epg.mgre, (FULL, MGRE)),
    Case("dess", epg.dess, (DRIFTING, DESS)),
    Case("dwssfp", epg.dwssfp, (DRIFTING, DWSSFP)),
    Case("steam", epg.steam, (DRIFTING, STEAM)),
    Case("look_locker", epg.look_locker, (FULL, LOCKER)),
    Case("mtr", epg.mtr, (LAYERED, MTR)),
    Case("cest", epg.cest, (replace(FULL, M0=None, exchange=TWO), CEST)),
    Case("run-blocks", epg.run, (DRIFTING, PREPARED)),
    Case("bloch", bloch.run, (FULL, _mixed())),
    Case("operators", playing.signal, (EVERYTHING, BRIEF)),
]
