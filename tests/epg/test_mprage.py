"""MPRAGE: timing, repeats, the recursion it must obey."""

import pytest
import torch
from hypothesis import given, strategies as st
from strategies import tissues
from torch.func import vmap

from mrsim import Tissue, epg
from mrsim.tree import replace
from mrsim.units import deg, ms

GREY = Tissue(T1=0.95, T2=0.09, M0=1.2, B1=0.9, df=20.0)
SEQ = epg.MPRAGE(
    flip=[8 * deg, 9 * deg, 10 * deg],
    TR=8 * ms,
    TI=0.3,
    TE=3 * ms,
    efficiency=0.96,
    cycle=0.9,
    centre=1,
    repeats=3,
)


def recursion(tissue: Tissue, seq: epg.MPRAGE) -> torch.Tensor:
    """Return the signal of magnetisations that only relax and turn."""
    M0 = torch.ones(()) if tissue.M0 is None else tissue.M0
    B1 = torch.ones(()) if tissue.B1 is None else tissue.B1
    df = torch.zeros(()) if tissue.df is None else tissue.df
    TE = torch.zeros(()) if seq.TE is None else seq.TE
    share = 1.0 if seq.efficiency is None else seq.efficiency
    z, signal = M0, []

    def grown(z: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        return M0 + (z - M0) * torch.exp(-time / tissue.T1)

    for _ in range(seq.repeats):
        before = seq.TI - seq.centre * seq.TR
        z, signal = grown(-share * z, before), []
        for flip in B1 * seq.flip:
            turned = torch.exp(2j * torch.pi * df * TE - TE / tissue.T2)
            signal.append(-1j * z * flip.sin() * turned)
            z = grown(z * flip.cos(), seq.TR)
        if seq.cycle is not None:
            z = grown(z, seq.cycle - before - len(seq.flip) * seq.TR)
    return torch.stack(signal)


@given(tissues(optional=True), st.integers(1, 4), st.integers(0, 2))
def test_train_obeys_the_recursion(tissue: Tissue, repeats: int, centre: int) -> None:
    seq = replace(SEQ, repeats=repeats, centre=centre)
    assert (epg.mprage(tissue, seq) - recursion(tissue, seq)).abs().max() < 1e-11


def test_one_inversion_needs_no_cycle() -> None:
    seq = replace(SEQ, repeats=1, cycle=None, TE=None, efficiency=None)
    assert (epg.mprage(GREY, seq) - recursion(GREY, seq)).abs().max() < 1e-12
    assert torch.equal(
        epg.mprage(GREY, seq), epg.mprage(GREY, replace(seq, cycle=SEQ.cycle))
    )


def test_repeats_settle() -> None:
    many, more = (epg.mprage(GREY, replace(SEQ, repeats=n)) for n in (30, 31))
    assert (many - more).abs().max() < 1e-10


def test_repeats_need_a_cycle() -> None:
    with pytest.raises(ValueError, match="3 repeats need the time from inversion"):
        epg.mprage(GREY, replace(SEQ, cycle=None))


@pytest.mark.parametrize("centre", [-1, 3])
def test_centre_is_one_of_the_shots(centre: int) -> None:
    with pytest.raises(ValueError, match=f"3 shots, 0 to 2, got {centre}"):
        epg.mprage(GREY, replace(SEQ, centre=centre))


@pytest.mark.parametrize("repeats", [0, -2, 1.5])
def test_repeats_are_counted(repeats: float) -> None:
    with pytest.raises(ValueError, match="repeats must be a whole number"):
        epg.mprage(GREY, replace(SEQ, repeats=repeats))


def test_times_must_fit_into_one_another() -> None:
    with pytest.raises(ValueError, match="TI is shorter than centre·TR"):
        epg.mprage(GREY, replace(SEQ, TI=torch.tensor(5 * ms)))
    with pytest.raises(ValueError, match="the train ends after the cycle"):
        epg.mprage(GREY, replace(SEQ, cycle=torch.tensor(0.305)))
    exact = replace(SEQ, cycle=SEQ.TI + 2 * SEQ.TR)
    assert epg.mprage(GREY, exact).isfinite().all()
    # inside a transform nothing looks at values
    cycles = torch.tensor([0.305, 0.9])
    vmap(lambda c: epg.mprage(GREY, replace(SEQ, cycle=c)))(cycles)


def test_steady_state_is_that_of_many_repeats() -> None:
    steady, many = (epg.mprage(GREY, replace(SEQ, repeats=n)) for n in (None, 40))
    assert (steady - many).abs().max() < 1e-13


def test_program_is_one_cycle() -> None:
    program = epg.mprage_program(SEQ)
    assert (program.duration.sum() - 0.9).abs() < 1e-12
    assert sum(event.read for event in program.layout) == 3
