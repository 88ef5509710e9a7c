"""Sequences against closed forms, recursions and programs written out."""

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st
from strategies import tissues
from torch.func import vmap

from mrsim import Bound, Exchange, Tissue, epg
from mrsim.tree import replace
from mrsim.units import deg, ms

GREY = Tissue(T1=0.95, T2=0.09, M0=1.2, B1=0.9, df=20.0)


def worst(a: torch.Tensor, b: torch.Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).abs().max())


# ------------------------------------------------------------- spoiled gradient echoes


@given(tissues(optional=True))
def test_echoes_of_a_spoiled_gradient_echo(tissue: Tissue) -> None:
    seq = epg.MGRE(flip=20 * deg, TR=20 * ms, TE=[2 * ms, 5 * ms, 9 * ms])
    each = [
        epg.spgr(tissue, epg.SPGR(flip=seq.flip, TR=seq.TR, TE=TE)) for TE in seq.TE
    ]
    assert worst(1j * epg.mgre(tissue, seq), torch.stack(each)) < 1e-11


def test_water_and_fat_beat() -> None:
    """Without exchange two shifted pools are a sum of two tissues."""
    fat = Exchange(T1=0.3, T2=0.05, f=0.3, k=0.0, df=-220.0)
    seq = epg.MGRE(flip=20 * deg, TR=20 * ms, TE=[2.3 * ms, 4.6 * ms])
    water = Tissue(T1=0.95, T2=0.09)
    other = Tissue(T1=0.3, T2=0.05, df=-220.0)
    wanted = 0.7 * epg.mgre(water, seq) + 0.3 * epg.mgre(other, seq)
    assert worst(epg.mgre(replace(water, exchange=fat), seq), wanted) < 1e-12


def test_spread_of_frequencies_adds_to_T2() -> None:
    seq = epg.MGRE(flip=20 * deg, TR=20 * ms, TE=[2 * ms, 9 * ms])
    spread = replace(GREY, T2p=torch.tensor(0.03))
    wanted = epg.mgre(GREY, seq) * torch.exp(-seq.TE / 0.03)
    assert worst(epg.mgre(spread, seq), wanted) < 1e-12
    assert worst(epg.mgre(spread, replace(seq, repeats=900)), wanted) < 1e-6


def test_echo_times_must_fit() -> None:
    seq = epg.MGRE(flip=20 * deg, TR=20 * ms, TE=[2 * ms, 9 * ms])
    with pytest.raises(ValueError, match="TE is longer than TR"):
        epg.MGRE(flip=20 * deg, TR=20 * ms, TE=[2 * ms, 30 * ms])
    with pytest.raises(ValueError, match="last TE is longer than TR"):
        epg.mgre(GREY, replace(seq, TR=torch.tensor(8 * ms)))
    with pytest.raises(ValueError, match="must increase"):
        epg.mgre(GREY, replace(seq, TE=seq.TE.flip(0)))


def test_closed_forms_refuse_pools() -> None:
    pool = Exchange(T1=0.3, T2=0.05, f=0.3, k=1.0)
    pools = replace(GREY, exchange=pool)
    with pytest.raises(ValueError, match="does not know the tissue's exchange"):
        epg.spgr(pools, epg.SPGR(flip=0.3, TR=10 * ms))
    spread = replace(GREY, T2p=torch.tensor(0.1))
    with pytest.raises(ValueError, match="does not know the tissue's T2p"):
        epg.bssfp_steady(spread, epg.BSSFP(flip=0.3, TR=10 * ms))
    flow = replace(GREY, v=torch.tensor(1.0))
    with pytest.raises(ValueError, match="does not know the tissue's v"):
        epg.spgr(flow, epg.SPGR(flip=0.3, TR=10 * ms, thickness=3.0))


def test_steady_closed_forms_are_those_of_the_programs() -> None:
    seq = epg.BSSFP(flip=40 * deg, TR=10 * ms, TE=3 * ms)
    pair = epg.bssfp_program(replace(seq, flip=seq.flip.expand(2)))
    made = epg.run(GREY, pair, epg.steady(GREY, pair))
    assert worst(made, epg.bssfp_steady(GREY, seq).expand(2)) < 1e-12


# -------------------------------------------------------------------- inverted trains


def test_multi_echo_mprage_is_mprage_at_every_echo() -> None:
    fields = {"flip": [8 * deg, 9 * deg, 10 * deg], "TR": 12 * ms, "TI": 0.3}
    fields |= {"efficiency": 0.96, "cycle": 0.9, "centre": 1, "repeats": None}
    TE = torch.tensor([2 * ms, 4 * ms, 7 * ms])
    made = epg.memprage(GREY, epg.MEMPRAGE(**fields, TE=TE))
    each = [epg.mprage(GREY, epg.MPRAGE(**fields, TE=t)) for t in TE]
    assert worst(made, torch.stack(each, 1)) < 1e-13


MP2 = epg.MP2RAGE(
    flip=[4 * deg, 5 * deg],
    TI=[0.7, 2.0],
    TR=7 * ms,
    cycle=4.0,
    efficiency=0.96,
    shots=(12, 20),
)


def marques(T1: float, seq: epg.MP2RAGE) -> list[float]:
    """Return the volumes of Marques 2010, eqs. A1-A5, with n/2 as shots."""
    before, after = seq.shots
    n = before + after
    TI, flip = seq.TI.tolist(), seq.flip.tolist()
    TR, cycle, eff = float(seq.TR), float(seq.cycle), float(seq.efficiency)
    E1 = math.exp(-TR / T1)
    EA = math.exp(-(TI[0] - before * TR) / T1)
    EB = math.exp(-(TI[1] - TI[0] - n * TR) / T1)
    EC = math.exp(-(cycle - TI[1] - after * TR) / T1)
    c = [math.cos(a) * E1 for a in flip]
    up = [(1 - E1) * (1 - x**n) / (1 - x) for x in c]
    top = (((1 - EA) * c[0] ** n + up[0]) * EB + 1 - EB) * c[1] ** n + up[1]
    steady = (top * EC + 1 - EC) / (1 + eff * (c[0] * c[1]) ** n * EA * EB * EC)
    half = (1 - E1) * (1 - c[0] ** before) / (1 - c[0])
    first = (-eff * steady * EA + 1 - EA) * c[0] ** before + half
    full = (-eff * steady * EA + 1 - EA) * c[0] ** n + up[0]
    half = (1 - E1) * (1 - c[1] ** before) / (1 - c[1])
    second = (full * EB + 1 - EB) * c[1] ** before + half
    return [first * math.sin(flip[0]), second * math.sin(flip[1])]


@pytest.mark.parametrize("T1", [0.4, 1.0, 2.5])
def test_mp2rage_is_the_formula_of_marques(T1: float) -> None:
    made = 1j * epg.mp2rage(Tissue(T1=T1, T2=0.05), MP2)
    assert worst(made, torch.tensor(marques(T1, MP2)) + 0j) < 1e-13
    many = 1j * epg.mp2rage(Tissue(T1=T1, T2=0.05), replace(MP2, repeats=30))
    assert worst(made, many) < 1e-12


def test_uniform_image_is_free_of_the_receiver() -> None:
    volumes = epg.mp2rage(GREY, MP2)
    other = epg.mp2rage(replace(GREY, M0=torch.tensor(3.0)), MP2) * (0.3 - 2j)
    made = epg.mp2rage_uniform(volumes)
    assert (made - epg.mp2rage_uniform(other)).abs() < 1e-12
    assert epg.mp2rage_uniform(torch.stack([volumes, volumes], 1)).shape == (2,)
    assert made.abs() <= 0.5


def test_trains_must_fit() -> None:
    early = replace(MP2, TI=torch.tensor([0.05, 2.0]))
    with pytest.raises(ValueError, match=r"before the one before it ends; 0\.034"):
        epg.mp2rage(GREY, early)
    with pytest.raises(ValueError, match="last train ends after the cycle"):
        epg.mp2rage(GREY, replace(MP2, cycle=torch.tensor(2.05)))
    for shots in ((1,), (1, 2.5), [3, 4], (0, 0), (-1, 2)):
        with pytest.raises(ValueError, match="shots must be"):
            epg.mp2rage(GREY, replace(MP2, shots=shots))
    assert (
        vmap(lambda c: epg.mp2rage(GREY, replace(MP2, cycle=c)))(
            torch.tensor([3.5, 4.0])
        )
        .isfinite()
        .all()
    )


@settings(max_examples=20)
@given(tissues(), st.floats(0.5, 1))
def test_look_locker_approaches_with_a_shorter_T1(
    tissue: Tissue, efficiency: float
) -> None:
    seq = epg.LookLocker(
        flip=8 * deg, TR=0.1, TI=20 * ms, pulses=6, efficiency=efficiency
    )
    E1, c = torch.exp(-0.1 / tissue.T1), math.cos(8 * deg)
    last = (1 - E1) / (1 - E1 * c)
    first = 1 - (1 + efficiency) * torch.exp(-0.02 / tissue.T1)
    z = last + (first - last) * (E1 * c) ** torch.arange(6)
    assert worst(1j * epg.look_locker(tissue, seq), math.sin(8 * deg) * z + 0j) < 1e-12


def test_look_locker_repeats() -> None:
    seq = epg.LookLocker(flip=0.2, TR=0.1, TI=0.02, pulses=4, cycle=1.0, repeats=None)
    many = epg.look_locker(GREY, replace(seq, repeats=40))
    assert worst(epg.look_locker(GREY, seq), many) < 1e-12
    with pytest.raises(ValueError, match="pulses end after the cycle"):
        epg.look_locker(GREY, replace(seq, cycle=torch.tensor(0.3)))
    with pytest.raises(ValueError, match="give cycle"):
        epg.look_locker(GREY, replace(seq, cycle=None))
    with pytest.raises(ValueError, match="pulses must be a whole number"):
        epg.look_locker(GREY, replace(seq, pulses=0))


# -------------------------------------------------------------------- unbalanced SSFP


@pytest.mark.parametrize("flip", [15 * deg, 50 * deg])
def test_dess_is_the_formula_of_gyngell(flip: float) -> None:
    T1, T2, TR = 0.6, 0.08, 10 * ms
    tissue = Tissue(T1=T1, T2=T2)
    fid, echo = epg.dess(tissue, epg.DESS(flip=flip, TR=TR, TE=0.0, states=120))
    E1, E2, c = math.exp(-TR / T1), math.exp(-TR / T2), math.cos(flip)
    p = 1 - E1 * c - E2**2 * (E1 - c)
    q = E2 * (1 - E1) * (1 + c)
    root, half = math.sqrt(p**2 - q**2), math.tan(flip / 2)
    assert (1j * fid - half * (1 - (E1 - c) * (1 - E2**2) / root)).abs() < 1e-12
    wanted = half * (1 - (1 - E1 * c) * (1 - E2**2) / root)
    assert (echo.abs() - abs(wanted)).abs() < 1e-12


def test_dess_times() -> None:
    seq = epg.DESS(flip=0.5, TR=10 * ms, TE=2 * ms, states=60)
    near = epg.dess(GREY, replace(seq, TE=torch.tensor(0.0)))
    turn = torch.exp((-1 / GREY.T2 + 2j * math.pi * GREY.df) * 2 * ms)
    late = epg.dess(GREY, seq)
    assert (late[0] - near[0] * turn).abs() < 1e-12
    assert (late[1] - near[1] / turn).abs() < 1e-12
    with pytest.raises(ValueError, match="TR is shorter than 2·TE"):
        epg.dess(GREY, replace(seq, TE=torch.tensor(6 * ms)))


def test_diffusion_weights_the_echo_of_dwssfp() -> None:
    seq = epg.DWSSFP(
        flip=30 * deg, TR=40 * ms, TE=30 * ms, delta=8 * ms, moment=60.0, states=40
    )
    still = Tissue(T1=0.6, T2=0.08, D=0.0)
    size = [
        epg.dwssfp(replace(still, D=torch.tensor(D)), seq).abs()
        for D in (0.0, 0.3e-3, 1e-3)
    ]
    assert size[0] > 1.2 * size[1] > 1.2 * size[2]
    # without diffusion it is the echo of DESS, up to the place of the gradient
    dess = epg.DESS(flip=seq.flip, TR=seq.TR, TE=10 * ms, states=40)
    assert (
        epg.dwssfp(still, seq) - epg.dess(still, replace(dess, moment=seq.moment))[1]
    ).abs() < 1e-12
    with pytest.raises(ValueError, match="TE is shorter than delta"):
        epg.dwssfp(still, replace(seq, delta=torch.tensor(0.035)))


# ------------------------------------------------------------ stimulated, spin echoes


@given(tissues(), st.lists(st.floats(0.1, 3), min_size=3, max_size=3))
def test_stimulated_echo(tissue: Tissue, flips: list[float]) -> None:
    seq = epg.STEAM(TE=20 * ms, TM=0.15, flip=flips)
    wanted = math.prod(map(math.sin, flips)) / 2
    wanted = wanted * torch.exp(-20 * ms / tissue.T2 - 0.15 / tissue.T1)
    assert (epg.steam(tissue, seq) - wanted).abs() < 1e-12


def test_stimulated_echo_is_weighted_by_diffusion() -> None:
    seq = epg.STEAM(TE=20 * ms, TM=0.15, moment=40.0)
    water = Tissue(T1=1.0, T2=0.1, D=1e-3)
    plain = epg.steam(replace(water, D=None), replace(seq, moment=None))
    b = 40.0**2 * (0.15 + 0.02 / 3)
    assert (epg.steam(water, seq) / plain - math.exp(-b * 1e-3)).abs() < 1e-12
    with pytest.raises(ValueError, match=r"flip must have shape \(3,\)"):
        epg.steam(water, replace(seq, flip=torch.ones(2)))


def test_shuffling_is_a_cycle_of_trains() -> None:
    seq = epg.Shuffling(flip=[150 * deg, 110 * deg], esp=9 * ms, TR=[0.4, 1.5])
    train = epg.FSE(flip=[150 * deg, 110 * deg], esp=9 * ms)
    state, rows = None, []
    for TR in [0.4, 1.5] * 12:
        rest = epg.wait(TR - 18 * ms)
        _, state = epg.evolve(GREY, rest, state)
        block = epg.fse_readout(train.flip, train.esp, spoil=True)
        signal, state = epg.evolve(GREY, block, state)
        rows.append(signal)
    assert worst(epg.shuffling(GREY, seq), torch.stack(rows[-2:])) < 1e-12
    first = epg.shuffling(GREY, replace(seq, repeats=1))
    assert worst(first, torch.stack(rows[:2])) < 1e-13
    with pytest.raises(ValueError, match="TR is shorter than the train"):
        epg.shuffling(GREY, replace(seq, TR=torch.tensor([0.01, 1.0])))


def test_fast_spin_echo_every_TR() -> None:
    seq = epg.FSE(flip=[120 * deg] * 4, esp=8 * ms, TR=0.3, repeats=3, states=40)
    train = epg.fse_readout(seq.flip, seq.esp)
    both = epg.concat(train, epg.wait(0.3 - 32 * ms), train, epg.wait(0.3 - 32 * ms))
    wanted = epg.run(GREY, epg.concat(both, train))[-4:]
    assert worst(epg.fse(GREY, seq), wanted) < 1e-13
    many = epg.fse(GREY, replace(seq, repeats=60))
    assert worst(epg.fse(GREY, replace(seq, repeats=None)), many) < 1e-11


def test_spoiled_fast_spin_echo_recovers_from_what_is_left() -> None:
    """Perfect pulses leave nothing along z: the next train sees 1 - E1."""
    tissue = Tissue(T1=0.8, T2=0.1)
    seq = epg.FSE(flip=[180 * deg] * 2, esp=10 * ms, TR=0.5, repeats=None, spoil=True)
    # after 90° Z regrows for 5, is inverted, 10, inverted, 485 ms
    z = 0.0
    for rest, sign in ((5, -1), (10, -1), (485, 1)):
        z = sign * (1 - (1 - z) * math.exp(-rest * ms / 0.8))
    wanted = z * torch.exp(-torch.tensor([0.01, 0.02]) / 0.1) + 0j
    assert worst(epg.fse(tissue, seq), wanted) < 1e-12


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"TR": None, "repeats": 2}, "repeats=2 needs the time"),
        ({"TR": torch.tensor(0.01)}, "train is longer than TR"),
        ({"repeats": 0}, "repeats must be a whole number"),
        ({"repeats": None}, "say how many to keep"),
    ],
)
def test_trains_that_cannot_be_played(change: dict, message: str) -> None:
    seq = epg.FSE(flip=[120 * deg] * 4, esp=8 * ms, TR=0.3)
    with pytest.raises(ValueError, match=message):
        epg.fse(GREY, replace(seq, **change))


# ------------------------------------------------------- slices, moments, bound pools


def test_slice_profile_is_a_mean_over_flips() -> None:
    profile = torch.tensor([0.3, 0.9, 1.0, 0.7])
    seq = epg.FISP(flip=[0.3, 0.5, 0.2], TR=12 * ms, TI=20 * ms, profile=profile)
    balanced = epg.BSSFP(flip=[0.3, 0.5, 0.2], TR=6 * ms, profile=profile)
    for f, x in ((epg.fisp, seq), (epg.bssfp, balanced)):
        plain = replace(x, profile=None)
        each = [f(replace(GREY, B1=0.9 * p), plain) for p in profile]
        assert worst(f(GREY, x), torch.stack(each).mean(0)) < 1e-14
        assert worst(f(GREY, replace(x, profile=torch.ones(1))), f(GREY, plain)) < 1e-14


def test_moments_reach_every_row() -> None:
    water = Tissue(T1=0.95, T2=0.09, D=2e-3)
    train = epg.FSE(flip=[180 * deg] * 3, esp=10 * ms, moment=30.0)
    b = 30.0**2 * 5 * ms * 2 / 3
    wanted = torch.exp(-torch.arange(1, 4) * (10 * ms / 0.09 + b * 2e-3)) + 0j
    assert worst(epg.fse(water, train), wanted) < 1e-12
    way = replace(train, moment=torch.tensor([0.0, 30.0, 0.0]))
    tensor = replace(water, D=torch.diag(torch.tensor([1e-3, 2e-3, 3e-3])))
    assert worst(epg.fse(tensor, way), wanted) < 1e-12


BOUND = Bound(f=0.12, k=3.0, T1=1.0, T2=11e-6)


def test_magnetisation_transfer_ratio() -> None:
    tissue = Tissue(T1=1.0, T2=0.08, bound=BOUND)
    seq = epg.MTR(flip=10 * deg, TR=30 * ms, power=2e4, offset=1900.0, delay=3 * ms)
    ratio = epg.mtr(tissue, seq)
    assert 0.05 < float(ratio) < 0.6
    one, other = epg.mtr_program(seq), epg.mtr_program(seq, on=False)
    last = [epg.run(tissue, epg.concat(*(p,) * 600))[-1].abs() for p in (one, other)]
    assert (ratio - (1 - last[0] / last[1])).abs() < 1e-9
    stronger = replace(seq, power=2 * seq.power)
    assert epg.mtr(tissue, stronger) > ratio
    apart = replace(tissue, bound=replace(BOUND, k=torch.tensor(0.0)))
    assert epg.mtr(apart, seq).abs() < 1e-12
    bare = replace(seq, power=None, offset=None, saturation=torch.tensor(0.4))
    assert 0 < epg.mtr(tissue, bare) < 1
    with pytest.raises(ValueError, match="without a bound pool"):
        epg.mtr(GREY, seq)
    with pytest.raises(ValueError, match="delay is longer than TR"):
        epg.mtr(tissue, replace(seq, delay=torch.tensor(0.05)))
