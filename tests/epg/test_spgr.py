"""Spoiled gradient echo: the ideal steady state and RF spoiling."""

import math

import pytest
import torch
from hypothesis import given
from strategies import flips, times, tissues

import mrsim
from mrsim import Tissue, epg
from mrsim.tree import replace
from mrsim.units import deg, ms

GREY = Tissue(T1=0.95, T2=0.09, M0=1.2, B1=0.9, df=11.0)
SEQ = epg.SPGR(flip=15 * deg, TR=10 * ms, TE=3 * ms, pulses=40)


@given(tissues(), flips, times)
def test_steady_state_repeats_itself(tissue: Tissue, flip: float, TR: float) -> None:
    made = epg.spgr(tissue, epg.SPGR(flip=flip, TR=TR)).real
    E1 = math.exp(-TR / float(tissue.T1))
    z = (1 - E1) / (1 - E1 * math.cos(flip))
    assert abs(float(made) - z * math.sin(flip)) < 1e-12


def test_ideal_spoiling_reaches_the_closed_form() -> None:
    shot = (epg.Event(pulse=True, read=True), epg.Event(spoil=True))
    count = 900
    flip = torch.stack([SEQ.flip, torch.zeros(())]).repeat(count)
    TE, TR = SEQ.TE, SEQ.TR
    assert TE is not None
    waits = torch.stack([TE, TR - TE]).repeat(count)
    program = epg.Program(flip=flip, duration=waits, layout=shot * count)
    last = epg.run(GREY, program)[-1]
    assert (last - -1j * epg.spgr(GREY, SEQ)).abs() < 1e-6


def test_closed_form_keeps_accuracy_at_short_TR() -> None:
    small = epg.SPGR(flip=0.1 * deg, TR=0.01 * ms)
    long = Tissue(T1=4.0, T2=2.0)
    exact = epg.spgr(long, small)
    made = epg.spgr(*(mrsim.to(x, torch.float32) for x in (long, small)))
    assert (made - exact).abs() < 1e-3 * exact.abs()


def test_off_resonance_turns_forward_until_TE() -> None:
    turn = epg.spgr(GREY, SEQ).angle()
    assert (turn - 2 * math.pi * 11 * 3 * ms).abs() < 1e-12


@pytest.mark.parametrize("increment", [0, 50, 117, 360, -117])
def test_train_is_a_program_of_quadratic_phases(increment: int) -> None:
    p = torch.arange(SEQ.pulses)
    phase = (p * (p + 1) // 2 * increment) * deg
    fisp = epg.FISP(flip=SEQ.flip.expand(SEQ.pulses), TR=SEQ.TR, TE=SEQ.TE, phase=phase)
    made = epg.spgr_spoiled(GREY, replace(SEQ, increment=increment))
    assert (made - epg.fisp(GREY, fisp)).abs().max() < 1e-10


def test_phases_stay_exact_in_single_precision() -> None:
    long = replace(SEQ, pulses=1500, states=12)
    exact = epg.spgr_spoiled(GREY, long)
    made = epg.spgr_spoiled(*(mrsim.to(x, torch.float32) for x in (GREY, long)))
    assert (made - exact).abs().max() < 2e-5


def test_first_pulse_excites_all() -> None:
    first = epg.spgr_spoiled(GREY, replace(SEQ, TE=None))[0]
    assert (first + 1.2j * torch.sin(0.9 * SEQ.flip)).abs() < 1e-14
