"""Blocks: what they do to the magnetisation, and how programs are joined."""

import math

import pytest
import replay
import torch
from hypothesis import given, settings, strategies as st
from strategies import tissues

from mrsim import Bound, Tissue, epg
from mrsim.epg.lineshape import absorption
from mrsim.tree import replace
from mrsim.units import deg, ms

GREY = Tissue(T1=0.95, T2=0.09)
LOOK = epg.gre_readout([90 * deg], TR=10 * ms)


def left(tissue: Tissue, *blocks: epg.Program) -> torch.Tensor:
    """Return Z after the blocks, seen by a perfect pulse."""
    ideal = replace(tissue, B1=None, D=None, v=None)
    state = epg.evolve(tissue, epg.concat(*blocks))[1]
    return epg.run(ideal, LOOK, state)[0] * 1j


@given(tissues(), st.floats(0, 2), st.floats(0.5, 1))
def test_inversion(tissue: Tissue, TI: float, efficiency: float) -> None:
    wanted = 1 - (1 + efficiency) * torch.exp(-TI / tissue.T1)
    assert (left(tissue, epg.inversion(TI, efficiency)) - wanted).abs() < 1e-12


@given(tissues(), st.floats(0, 2), st.floats(0, math.pi))
def test_saturation(tissue: Tissue, delay: float, flip: float) -> None:
    wanted = 1 - (1 - math.cos(flip)) * torch.exp(-delay / tissue.T1)
    assert (left(tissue, epg.saturation(delay, flip)) - wanted).abs() < 1e-12


@pytest.mark.parametrize("pulses", [4, 8, 16])
@pytest.mark.parametrize("composite", [True, False])
def test_t2_preparation(pulses: int, composite: bool) -> None:
    block = epg.t2_preparation(60 * ms, pulses, composite=composite)
    exact = math.exp(-0.06 / 0.09)
    assert (left(GREY, block) - exact).abs() < 1e-12
    # perfect pulses refocus any off-resonance
    away = replace(GREY, df=torch.tensor(37.0))
    assert (left(away, block) - exact).abs() < 1e-12


def test_t2_preparation_bears_imperfect_fields() -> None:
    """Composite pulses and the MLEV order keep what plain ones lose."""
    solid = Tissue(T1=50.0, T2=50.0, B1=0.85, df=20.0)

    def lost(pulses: int, composite: bool) -> float:
        block = epg.t2_preparation(40 * ms, pulses, composite=composite)
        return abs(float(left(solid, block).real) - math.exp(-0.04 / 50))

    assert lost(4, composite=True) < 1e-4
    assert lost(16, composite=True) < 1e-7
    assert lost(4, composite=False) > 1e-2
    assert lost(16, composite=False) < 1e-4


def test_mlev_order() -> None:
    def quadrants(pulses: int) -> str:
        layout = epg.t2_preparation(0.1, pulses, composite=False).layout[1:-1]
        return "".join("+" if e.quadrant == 1 else "-" for e in layout)

    assert quadrants(4) == "++--"
    assert quadrants(8) == "++---++-"
    assert quadrants(16) == "++---++---+++--+"
    with pytest.raises(ValueError, match="MLEV has 4, 8 or 16 pulses, got 5"):
        epg.t2_preparation(0.1, 5)


@settings(max_examples=15)
@given(st.floats(0, 60), st.floats(1e-4, 3e-3))
def test_diffusion_preparation_is_stejskal_and_tanners(q: float, D: float) -> None:
    delta, Delta, TE = 8 * ms, 20 * ms, 40 * ms
    block = epg.diffusion_preparation(q, delta, Delta, TE)
    wanted = math.exp(-TE / 0.09 - q**2 * (Delta - delta / 3) * D)
    made = left(replace(GREY, D=torch.tensor(D)), block)
    assert (made - wanted).abs() < 1e-12


def test_diffusion_preparation_along_a_direction() -> None:
    q = torch.tensor([10.0, -20.0, 15.0])
    D = torch.diag(torch.tensor([2e-3, 1e-3, 0.5e-3]))
    block = epg.diffusion_preparation(q, 8 * ms, 20 * ms, 40 * ms)
    b = (20 - 8 / 3) * ms
    wanted = math.exp(-0.04 / 0.09 - float(q @ D @ q) * b)
    made = epg.run(replace(GREY, D=D), epg.concat(block, LOOK))[0] * 1j
    assert (made - wanted).abs() < 1e-12


def test_moving_spins_keep_the_cosine_of_their_phase() -> None:
    v, q = 3.0, 12.0
    block = epg.diffusion_preparation(q, 8 * ms, 20 * ms, 40 * ms)
    wanted = math.exp(-0.04 / 0.09) * math.cos(q * v * 20 * ms)
    made = epg.run(replace(GREY, v=torch.tensor(v)), epg.concat(block, LOOK))[0] * 1j
    assert (made - wanted).abs() < 1e-12


def test_magnetisation_transfer_preparation() -> None:
    """Without exchange the bound pool alone is saturated; with it, the free one too."""
    bound = Bound(f=0.1, k=0.0, T1=1.0, T2=11e-6)
    tissue = replace(GREY, bound=bound)
    block = epg.mt_preparation(2e5, 2e3, interval=5 * ms, pulses=4)
    free = epg.evolve(tissue, block)[1].Z[0, 0].real
    assert abs(float(free) - 0.9) < 1e-12
    G = absorption(torch.tensor(2e3), torch.tensor(11e-6), "superlorentzian")
    z, W = torch.tensor(0.1), math.pi * 2e5 * G
    for _ in range(4):
        z = 0.1 + (z * torch.exp(-W) - 0.1) * math.exp(-5e-3)
    made = epg.evolve(tissue, block)[1].Z[1, 0].real
    assert (made - z).abs() < 1e-12
    linked = replace(tissue, bound=replace(bound, k=torch.tensor(5.0)))
    assert epg.evolve(linked, block)[1].Z[0, 0].real < 0.9 - 1e-3


def test_concatenation_is_playing_one_after_another() -> None:
    fields = {"M0": 1.2, "B1": 0.9, "df": 11.0}
    tissue = Tissue(T1=0.95, T2=0.09, **fields)
    parts = (
        epg.inversion(0.2, 0.95),
        epg.fisp_program(
            epg.FISP(flip=[0.3, 0.5], TR=12 * ms, TE=3 * ms, phase=[0.2, 1.0])
        ),
        epg.wait(30 * ms, shift=2),
        epg.fse_program(epg.FSE(flip=[2.1, 1.7], esp=9 * ms)),
    )
    state, found = None, []
    for part in parts:
        signal, state = epg.evolve(tissue, part, state)
        found.append(signal)
    whole = epg.concat(*parts)
    assert (epg.run(tissue, whole) - torch.cat(found)).abs().max() < 1e-14
    assert (replay.signal(tissue, whole) - torch.cat(found)).abs().max() < 1e-13


def test_clocks_of_parts_stay_apart_and_repeats_share_them() -> None:
    a = epg.gre_readout([0.1, 0.2], TR=10 * ms, TE=2 * ms)
    b = epg.wait(0.3)
    made = epg.concat(a, b, a)
    assert made.clock == (0, 1, 0, 1, 2, 0, 1, 0, 1)
    assert epg.concat(b, epg.wait(0.3)).clock is None
    assert epg.concat(b, b).clock == (0, 0)


def test_parts_without_gradients_keep_the_moment() -> None:
    """What is dephased goes on to diffuse during a plain wait."""
    wound = epg.concat(
        replace(epg.wait(10 * ms, shift=1), moment=torch.tensor([30.0])),
        epg.wait(20 * ms),
    )
    assert torch.equal(wound.moment, torch.tensor([30.0, 30.0]))
    plain = epg.concat(epg.wait(10 * ms), epg.wait(20 * ms, shift=1))
    assert plain.moment is None


def test_what_cannot_be_joined() -> None:
    with pytest.raises(ValueError, match="nothing to play"):
        epg.concat()
    a, b = epg.wait(0.1), epg.wait(0.2)
    with pytest.raises(ValueError, match="one states"):
        epg.concat(replace(a, states=3), replace(b, states=4))
    assert epg.concat(replace(a, states=3), b).states == 3
    with pytest.raises(ValueError, match="one thickness"):
        epg.concat(*(replace(x, thickness=x.duration[0]) for x in (a, b)))
    line, way = torch.ones(1), torch.ones(1, 3)
    with pytest.raises(ValueError, match="give every part a direction"):
        epg.concat(replace(a, moment=line), replace(b, moment=way))
    with pytest.raises(TypeError, match="float32"):
        epg.concat(a, epg.wait(torch.tensor(0.1, dtype=torch.float32)))


def test_blocks_follow_the_precision_of_their_tensors() -> None:
    time = torch.tensor(0.1, dtype=torch.float32)
    parts = (
        epg.inversion(time, 0.9, power=3e4, offset=100.0),
        epg.saturation(time),
        epg.t2_preparation(time),
        epg.mt_preparation(2e5, 2e3, time, 2),
        epg.diffusion_preparation(20.0, 0.01, 0.02, time),
        epg.wait(time),
        epg.gre_readout([0.1], TR=time),
        epg.fse_readout([0.1], esp=time),
    )
    whole = epg.concat(*parts)
    columns = (whole.flip, whole.duration, whole.moment, whole.power, whole.efficiency)
    assert all(x.dtype == torch.float32 for x in columns)


def test_powers_are_those_of_the_pulses_played() -> None:
    seq = epg.FISP(flip=[0.2, 0.3], TR=10 * ms, TI=20 * ms, power=[1e4, 2e4])
    program = epg.fisp_program(seq)
    assert program.power.tolist() == [0, 1e4, 0, 2e4, 0]
    one = epg.fisp_program(replace(seq, power=torch.tensor(1e4)))
    assert one.power.tolist() == [0, 1e4, 0, 1e4, 0]
    with pytest.raises(ValueError, match=r"power must have shape \(\) or \(2,\)"):
        epg.fisp_program(replace(seq, power=torch.ones(3)))
    with pytest.raises(ValueError, match=r"moment must have shape \(\) or \(3,\)"):
        epg.fisp_program(replace(seq, moment=torch.ones(2)))
