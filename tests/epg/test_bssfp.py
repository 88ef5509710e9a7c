"""Balanced SSFP: the train, and the steady state that it reaches."""

import math

import pytest
import torch
from hypothesis import given, strategies as st
from strategies import flips, tissues

from mrsim import Tissue, epg
from mrsim.tree import replace
from mrsim.units import deg, ms

GREY = Tissue(T1=0.3, T2=0.06, M0=1.2, B1=0.9)


@pytest.mark.parametrize("df", [0.0, 17.0, -41.0, 100.0, 130.0])
@pytest.mark.parametrize("TE", [None, 0.0, 2 * ms, 5 * ms])
def test_train_reaches_the_steady_state(df: float, TE: float | None) -> None:
    tissue = replace(GREY, df=torch.tensor(df))
    seq = epg.BSSFP(flip=40 * deg, TR=5 * ms, TE=TE)
    long = replace(seq, flip=seq.flip.expand(1600))
    last = epg.bssfp(tissue, long)[-1]
    assert (last - epg.bssfp_steady(tissue, seq)).abs() < 1e-9


@given(tissues(), flips, st.floats(0, 1))
def test_on_resonance_formula(tissue: Tissue, flip: float, share: float) -> None:
    TR = 6 * ms
    seq = epg.BSSFP(flip=flip, TR=TR, TE=share * TR)
    E1, E2 = (math.exp(-TR / float(T)) for T in (tissue.T1, tissue.T2))
    full = math.sin(flip) * (1 - E1) / (1 - (E1 - E2) * math.cos(flip) - E1 * E2)
    made = epg.bssfp_steady(tissue, seq)
    assert (made + 1j * full * E2**share).abs() < 1e-12


def test_default_phases_alternate() -> None:
    seq = epg.BSSFP(flip=[20 * deg, 35 * deg, 50 * deg, 40 * deg], TR=6 * ms)
    phased = replace(seq, phase=torch.tensor([0.0, 180.0, 0.0, 180.0]) * deg)
    assert (epg.bssfp(GREY, seq) - epg.bssfp(GREY, phased)).abs().max() < 1e-13
    middle = replace(seq, TE=seq.TR / 2)
    assert torch.equal(epg.bssfp(GREY, seq), epg.bssfp(GREY, middle))


def test_inversion_comes_first() -> None:
    seq = epg.BSSFP(flip=[30 * deg], TR=6 * ms, TE=0.0, TI=0.05, efficiency=0.9)
    z = 1.2 * (1 - 1.9 * torch.exp(-0.05 / GREY.T1))
    wanted = -1j * torch.sin(torch.tensor(0.9 * 30 * deg)) * z
    assert (epg.bssfp(GREY, seq)[0] - wanted).abs() < 1e-14


def test_bands_lie_at_half_a_turn() -> None:
    seq = epg.BSSFP(flip=40 * deg, TR=5 * ms)
    df = torch.linspace(-200, 200, 401)
    size = torch.stack([epg.bssfp_steady(replace(GREY, df=x), seq).abs() for x in df])
    assert df[size.argmin()].abs() == 100
    assert torch.allclose(size[:201], size[200:], atol=1e-12)


@pytest.mark.parametrize("field", ["phase", "TI"])
def test_closed_form_refuses_what_it_has_not(field: str) -> None:
    seq = epg.BSSFP(flip=40 * deg, TR=5 * ms)
    with pytest.raises(ValueError, match="leave phase and TI out"):
        epg.bssfp_steady(GREY, replace(seq, **{field: torch.tensor(0.1)}))
