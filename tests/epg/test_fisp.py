"""FISP trains: timing, inversion, phases."""

import replay
import torch
from hypothesis import given, strategies as st
from strategies import flips, tissues

from mrsim import Tissue, epg
from mrsim.tree import replace
from mrsim.units import deg, ms

GREY = Tissue(T1=0.95, T2=0.09)
SEQ = epg.FISP(flip=[20 * deg, 35 * deg, 50 * deg], TR=12 * ms)


def test_program_is_the_event_list() -> None:
    seq = epg.FISP(
        flip=[20 * deg, 35 * deg, 50 * deg],
        TR=[12 * ms, 14 * ms, 13 * ms],
        TE=[3 * ms, 4 * ms, 5 * ms],
        phase=[10 * deg, 70 * deg, 200 * deg],
    )
    events = []
    rows = [(20, 10, 3, 12), (35, 70, 4, 14), (50, 200, 5, 13)]
    for flip, phase, TE, TR in rows:
        events += [["rf", flip, phase], ["wait", TE, 0], ["adc", phase]]
        events += [["wait", TR - TE, 1]]
    wanted = epg.run(GREY, replay.program_of(events))
    assert (epg.fisp(GREY, seq) - wanted).abs().max() < 1e-14


@given(tissues(), st.floats(0.5, 1), st.floats(0, 0.5))
def test_first_pulse_sees_the_recovered_inversion(
    tissue: Tissue, efficiency: float, TI: float
) -> None:
    seq = replace(SEQ, TI=torch.tensor(TI), efficiency=torch.tensor(efficiency))
    z = 1 - (1 + efficiency) * torch.exp(-TI / tissue.T1)
    wanted = -1j * torch.sin(SEQ.flip[0]) * z
    assert (epg.fisp(tissue, seq)[0] - wanted).abs() < 1e-12


def test_inversion_does_not_scale_with_B1() -> None:
    seq = replace(SEQ, TI=torch.tensor(0.02))
    weak = replace(GREY, B1=torch.tensor(0.7))
    scaled = replace(seq, flip=0.7 * seq.flip)
    assert (epg.fisp(weak, seq) - epg.fisp(GREY, scaled)).abs().max() < 1e-14


def test_one_time_serves_all_pulses() -> None:
    one = replace(SEQ, TE=torch.tensor(3 * ms))
    each = replace(one, TR=SEQ.TR.expand(3), TE=one.TE.expand(3))
    assert torch.equal(epg.fisp(GREY, one), epg.fisp(GREY, each))


def test_reading_decays_and_turns_until_TE() -> None:
    late = replace(SEQ, TE=torch.tensor(4 * ms))
    away = replace(GREY, df=torch.tensor(20.0))
    first = epg.fisp(away, late)[0] / epg.fisp(GREY, SEQ)[0]
    wanted = torch.exp((-1 / GREY.T2 + 2j * torch.pi * 20) * 4 * ms)
    assert (first - wanted).abs() < 1e-12


@given(st.lists(flips, min_size=1, max_size=5), st.floats(-3, 3))
def test_demodulation_follows_the_pulse(train: list[float], phase: float) -> None:
    seq = epg.FISP(flip=train, TR=12 * ms)
    turned = replace(seq, phase=torch.full((len(train),), phase))
    assert (epg.fisp(GREY, turned) - epg.fisp(GREY, seq)).abs().max() < 1e-12


def test_signal_settles() -> None:
    long = epg.FISP(flip=torch.full((700,), 30 * deg), TR=12 * ms)
    tail = epg.fisp(GREY, long)[-50:]
    assert (tail - tail[-1]).abs().max() < 1e-4 * tail[-1].abs()


def test_truncated_fingerprint() -> None:
    long = epg.FISP(flip=torch.full((60,), 30 * deg), TR=12 * ms, TI=20 * ms)
    cut = epg.fisp(GREY, replace(long, states=5))
    program = replace(epg.fisp_program(long), states=5)
    assert (cut - replay.signal(GREY, program)).abs().max() < 1e-13
