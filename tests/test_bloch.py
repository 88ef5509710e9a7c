"""The isochromat twin by itself; its agreement with epg is tested in epg."""

import math

import pytest
import torch

from mrsim import Bound, Exchange, Tissue, bloch, epg
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


def fid(duration: float, **tissue: object) -> torch.Tensor:
    """Return the signal of one pulse of 90° at the end of a wait."""
    layout = (epg.Event(pulse=True, read=True),)
    flip = torch.tensor([math.pi / 2])
    seq = epg.Program(flip=flip, duration=torch.tensor([duration]), layout=layout)
    return bloch.run(Tissue(T1=0.9, T2=0.08, **tissue), seq)[0]  # pyright: ignore


def test_static_spread_decays_and_refocuses() -> None:
    wanted = -1j * math.exp(-0.02 / 0.08 - 0.02 / 0.03)
    assert (fid(0.02, T2p=0.03) - wanted).abs() < 1e-14
    layout = (
        epg.Event(pulse=True, shift=1),
        epg.Event(pulse=True, quadrant=1, shift=1, read=True),
    )
    flip = torch.tensor([math.pi / 2, math.pi])
    for clock in (None, (0, 0)):
        seq = epg.Program(
            flip=flip, duration=torch.full((2,), 0.01), layout=layout, clock=clock
        )
        made = bloch.run(Tissue(T1=0.9, T2=0.08, T2p=0.03), seq)
        assert (made[0] + 1j * math.exp(-0.02 / 0.08)).abs() < 1e-14


def test_two_pools_beat_and_exchange() -> None:
    other = Exchange(T1=0.9, T2=0.08, f=0.5, k=0.0, df=20.0)
    beat = (1 + torch.exp(torch.tensor(2j * math.pi * 20 * 0.01))) / 2
    wanted = -1j * math.exp(-0.01 / 0.08) * beat
    assert (fid(0.01, exchange=other) - wanted).abs() < 1e-14
    # equal shares, equal rates: modes of the sum and of the difference (McConnell)
    k, w = 60.0, 2 * math.pi * 20
    root = torch.tensor(complex(k**2 - (w / 2) ** 2)).sqrt()
    time = 0.01
    even = torch.cosh(root * time) + k * torch.sinh(root * time) / root
    wave = torch.exp(torch.tensor(1j * w / 2 * time))
    wanted = -1j * math.exp(-time / 0.08 - k * time) * wave * even
    made = fid(time, exchange=replace(other, k=torch.tensor(k)))
    assert (made - wanted).abs() < 1e-13


def test_flow_turns_a_spin_echo() -> None:
    """By dk·v·τ, whatever the velocity (first gradient moment)."""
    layout = (
        epg.Event(pulse=True, shift=1),
        epg.Event(pulse=True, quadrant=1, shift=1, read=True),
    )
    seq = epg.Program(
        flip=[math.pi / 2, math.pi], duration=[0.01, 0.01], moment=[25.0], layout=layout
    )
    still = bloch.run(TISSUE, seq)
    made = bloch.run(replace(TISSUE, v=torch.tensor(3.0)), seq)
    turn = torch.exp(torch.tensor(1j * 25 * 3 * 0.01))
    assert (made - still * turn).abs().max() < 1e-14
    washed = replace(seq, moment=None, thickness=torch.tensor(0.1))
    made = bloch.run(replace(TISSUE, v=torch.tensor(-3.0)), washed)
    assert (made - 0.7 * 0.7 * still).abs().max() < 1e-14  # fresh spins lie along z


def test_bound_pool_is_saturated() -> None:
    layout = (epg.Event(pulse=True), epg.Event(pulse=True, read=True))
    seq = epg.Program(
        flip=[0.0, math.pi / 2],
        duration=[0.3, 0.0],
        saturation=[0.8, 0.0],
        layout=layout,
    )
    solid = Bound(f=0.2, k=5.0, T1=0.9)
    made = bloch.run(Tissue(T1=0.9, T2=0.08, bound=solid), seq)[0]
    # equal T1: total and difference relax apart; k_back = k·0.8/0.2
    E, X = math.exp(-0.3 / 0.9), math.exp(-0.3 * (5.0 + 20.0))
    lost = -0.2 * (1 - math.exp(-0.8))  # of the bound pool
    free = 0.8 + E * (0.8 * lost + X * (0 - 0.8 * lost))
    assert (made + 1j * free).abs() < 1e-13


def test_what_isochromats_cannot_do_is_refused() -> None:
    moving = replace(program(), moment=torch.ones(1))
    with pytest.raises(ValueError, match="neither diffuse nor hop"):
        bloch.run(replace(TISSUE, D=torch.tensor(1e-3)), moving)
    own = Exchange(T1=0.5, T2=0.02, f=0.2, k=10.0, v=1.0)
    with pytest.raises(ValueError, match="neither diffuse nor hop"):
        bloch.run(
            replace(TISSUE, v=torch.tensor(1.0), exchange=own),
            replace(moving, substeps=2),
        )
    layout = program().layout * 6
    rows = torch.full((18,), 0.01)
    long = epg.Program(flip=rows, duration=rows, layout=layout)
    with pytest.raises(ValueError, match=r"one class of program\.clock"):
        bloch.run(replace(TISSUE, T2p=torch.tensor(0.03)), long)
