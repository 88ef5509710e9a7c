"""Fast spin echo: closed forms, conventions, truncation."""

import math

import replay
import torch
from hypothesis import given, strategies as st
from strategies import flips, times, tissues

from mrsim import Tissue, epg
from mrsim.tree import replace
from mrsim.units import deg, ms

GREY = Tissue(T1=0.95, T2=0.09)


@given(tissues(), times, flips)
def test_perfect_refocusing_decays_with_T2(
    tissue: Tissue, esp: float, excitation: float
) -> None:
    seq = epg.FSE(flip=[180 * deg] * 5, esp=esp, excitation=excitation)
    wanted = math.sin(excitation) * torch.exp(-torch.arange(1, 6) * esp / tissue.T2)
    assert (epg.fse(tissue, seq) - wanted).abs().max() < 1e-12


@given(tissues(), times, flips)
def test_first_echo_is_hahns(tissue: Tissue, esp: float, flip: float) -> None:
    seq = epg.FSE(flip=[flip, 1.0], esp=esp)
    wanted = math.sin(flip / 2) ** 2 * torch.exp(-esp / tissue.T2)
    assert (epg.fse(tissue, seq)[0] - wanted).abs() < 1e-12


@given(tissues(), st.lists(flips, min_size=1, max_size=6))
def test_echoes_of_the_carr_purcell_condition_are_real(
    tissue: Tissue, train: list[float]
) -> None:
    seq = epg.FSE(flip=train, esp=8 * ms)
    assert epg.fse(tissue, seq).imag.abs().max() < 1e-13
    forced = replace(seq, phase=torch.zeros(len(train)))
    assert (epg.fse(tissue, forced) - epg.fse(tissue, seq)).abs().max() < 1e-13


def test_violated_condition_swaps_odd_echoes() -> None:
    """Refocusing about the excitation's axis gives echoes of alternating sign."""
    seq = epg.FSE(flip=[180 * deg] * 4, esp=8 * ms, phase=[90 * deg] * 4)
    decay = torch.exp(-torch.arange(1, 5) * 8 * ms / GREY.T2)
    wanted = decay * torch.tensor([-1.0, 1.0, -1.0, 1.0])
    assert (epg.fse(GREY, seq) - wanted).abs().max() < 1e-13


def test_B1_scales_excitation_and_refocusing() -> None:
    seq = epg.FSE(flip=[120 * deg, 100 * deg], esp=8 * ms)
    weak = replace(GREY, B1=torch.tensor(0.8))
    scaled = epg.FSE(flip=[96 * deg, 80 * deg], esp=8 * ms, excitation=72 * deg)
    assert (epg.fse(weak, seq) - epg.fse(GREY, scaled)).abs().max() < 1e-14


def test_off_resonance_refocuses_at_the_echo_of_a_perfect_pulse() -> None:
    seq = epg.FSE(flip=[180 * deg] * 3, esp=8 * ms)
    away = replace(GREY, df=torch.tensor(31.0))
    assert (epg.fse(away, seq) - epg.fse(GREY, seq)).abs().max() < 1e-13


def test_program_is_the_event_list() -> None:
    degrees = [150.0, 95.0, 130.0]
    events = [["rf", 90.0, 90.0], ["wait", 4.0, 1]]
    for flip in degrees:
        events += [["rf", flip, 0.0], ["wait", 4.0, 1], ["adc", 0.0], ["wait", 4.0, 1]]
    seq = epg.FSE(flip=[d * deg for d in degrees], esp=8 * ms)
    wanted = epg.run(GREY, replay.program_of(events))
    assert (epg.fse(GREY, seq) - wanted).abs().max() < 1e-14


def test_truncation_is_asked_for() -> None:
    seq = epg.FSE(flip=[60 * deg] * 24, esp=5 * ms)
    exact = epg.fse(GREY, seq)
    cut = epg.fse(GREY, replace(seq, states=6))
    assert (cut[:6] - exact[:6]).abs().max() < 1e-15
    assert (cut - exact).abs().max() > 1e-3
    assert (epg.fse(GREY, replace(seq, states=49)) - exact).abs().max() < 1e-15
