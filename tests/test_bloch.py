"""The isochromat twin by itself; its agreement with epg is tested in epg."""

import math

import pytest
import torch

from mrsim import Tissue, bloch, epg
from mrsim.tree import replace
from mrsim.units import deg, ms

TISSUE = Tissue(T1=0.9, T2=0.08, M0=1.5)


def program(**rows: list[float]) -> epg.Program:
    layout = (
        epg.Event(pulse=True, shift=1, read=True),
        epg.Event(pulse=True, quadrant=1, shift=2, read=True),
        epg.Event(shift=-2, read=True),
    )
    given = {"flip": [1.2, 0.9, 0.0], "duration": [0.01, 0.02, 0.01]} | rows
    return epg.Program(**given, layout=layout)


def test_free_induction_and_recovery() -> None:
    layout = (epg.Event(pulse=True, read=True), epg.Event(pulse=True, read=True))
    flip = torch.tensor([math.pi / 2] * 2)
    seq = epg.Program(flip=flip, duration=torch.tensor([0.1, 0.0]), layout=layout)
    tissue = replace(TISSUE, df=torch.tensor(12.0))
    made = bloch.run(tissue, seq)
    turn = torch.exp(2j * math.pi * 12 * torch.tensor(0.1))
    first = -1.5j * torch.exp(-0.1 / tissue.T2) * turn
    assert (made[0] - first).abs() < 1e-12
    grown = 1.5 * (1 - torch.exp(-0.1 / tissue.T1))
    assert (made[1] - (first.real - 1j * grown)).abs() < 1e-12


def test_more_spins_change_nothing_and_too_few_do() -> None:
    exact = bloch.run(TISSUE, program())
    assert (bloch.run(TISSUE, program(), spins=64) - exact).abs().max() < 1e-14
    assert (bloch.run(TISSUE, program(), spins=6) - exact).abs().max() < 1e-14
    assert (bloch.run(TISSUE, program(), spins=2) - exact).abs().max() > 1e-3


def test_hahn_echo() -> None:
    seq = epg.FSE(flip=[120 * deg], esp=10 * ms)
    made = bloch.run(TISSUE, epg.fse_program(seq))
    wanted = 1.5 * math.sin(60 * deg) ** 2 * torch.exp(-0.01 / TISSUE.T2)
    assert (made - wanted).abs().max() < 1e-14


def test_isochromats_cannot_be_truncated() -> None:
    with pytest.raises(ValueError, match="keeps only 3; give it states=None"):
        bloch.run(TISSUE, replace(program(), states=3))
