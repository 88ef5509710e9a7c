"""Pulseq: files that others write, programs that come back, and what is refused."""

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden import DEFAULT

from mrsim import Bound, Tissue, epg
from mrsim.tree import replace
from mrsim.units import deg, ms

pp = pytest.importorskip("pypulseq")
pulseq = pytest.importorskip("mrsim.pulseq")

FILES = DEFAULT / "pulseq"
WATER = Tissue(T1=0.9, T2=0.08, B1=0.95, df=7.0, D=2e-3)
SYSTEM = pp.Opts(
    max_grad=30, grad_unit="mT/m", max_slew=150, slew_unit="T/m/s",
    rf_ringdown_time=20e-6, rf_dead_time=100e-6, adc_dead_time=10e-6,
)  # fmt: skip


def dry(program: epg.Program) -> epg.Program:
    """Return a program without the power that every real pulse has."""
    return replace(program, power=None, offset=None)


# ------------------------------------------------------ files of pypulseq's examples


def test_gradient_echo_of_the_examples() -> None:
    program = pulseq.load(FILES / "gre.seq")
    spoiler = 2 * math.pi * 1e-3 * np.array([2 * 256 / 0.256 + 507.8125, 0, 4 / 3e-3])
    p = torch.arange(256)
    phase = (p * (p + 1) // 2 * 117 % 360) * deg
    seq = epg.FISP(
        flip=torch.full((256,), 10 * deg),
        TR=12 * ms,
        TE=5 * ms,
        phase=phase,
        moment=program.moment[0],
    )
    made, wanted = epg.run(WATER, dry(program)), epg.fisp(WATER, seq)
    assert program.layout == epg.fisp_program(seq).layout
    assert (made - wanted).abs().max() < 2e-5  # the file has six digits
    assert (program.duration[:2] - torch.tensor([5e-3, 7e-3])).abs().max() < 1e-5
    x, y, z = program.moment[0].tolist()
    assert abs(x / spoiler[0] - 1) < 0.01
    assert abs(z / spoiler[2] - 1.5) < 0.02  # half the slice's gradient follows it
    assert y == 0
    assert program.power[0] > 0


def test_balanced_example_is_not_balanced() -> None:
    """The example never rewinds the first half of its slice gradient."""
    program = pulseq.load(FILES / "bssfp.seq")
    assert {e.shift for e in program.layout} == {0, 1}
    half = 2 * math.pi * 4 / (1e-3 * 3e-3) * 1e-3 * 0.5e-3 * 1e-3
    assert program.moment[0, 2] * 1e-3 > half
    balanced = pulseq.load(FILES / "bssfp.seq", axes="xy")
    seq = epg.BSSFP(flip=torch.full((64,), 10 * deg), TR=balanced.duration[:2].sum())
    seq = replace(seq, TE=balanced.duration[0], phase=torch.zeros(64))
    made = epg.run(replace(WATER, D=None), dry(balanced))
    assert (made - epg.bssfp(replace(WATER, D=None), seq)).abs().max() < 1e-5


def test_spin_echo_trains_of_the_examples() -> None:
    program = pulseq.load(FILES / "tse.seq")
    tissue = Tissue(T1=0.9, T2=0.08)
    train = epg.FSE(flip=torch.full((16,), 180 * deg), esp=12 * ms, TR=2.0, repeats=5)
    made = epg.run(tissue, dry(program)).reshape(4, 16)
    assert (made[-1] - epg.fse(tissue, train)).abs().max() < 1e-4
    assert (made.abs() - made[0].abs()).abs().max() < 0.1


# ------------------------------------------------------------------------- round trips

PROGRAMS = {
    "fse": epg.fse_program(
        epg.FSE(
            flip=[150 * deg, 120 * deg, 95 * deg],
            esp=10 * ms,
            phase=[0.1, -0.3, 0.2],
            moment=4.0,
        )
    ),
    "fisp": epg.fisp_program(
        epg.FISP(
            flip=[20 * deg, 35 * deg, 50 * deg],
            TR=[12 * ms, 14 * ms, 13 * ms],
            TE=3 * ms,
            phase=[0.0, 0.7, -0.4],
            TI=25 * ms,
            moment=[3.0, 4.0, 5.0],
        )
    ),
    "shifts": replace(
        epg.concat(
            epg.gre_readout([0.3], TR=10 * ms, TE=3 * ms, shift=3),
            epg.gre_readout([0.9, -0.4], TR=11 * ms, TE=4 * ms, shift=-2),
        ),
        moment=torch.tensor([5.0]),
    ),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_come_back(name: str, tmp_path: Path) -> None:
    program = PROGRAMS[name]
    seq = pulseq.sequence(program, system=SYSTEM)
    assert seq.check_timing()[0]
    wanted = epg.run(WATER, program)
    direct = epg.run(WATER, dry(pulseq.load(seq)))
    assert (direct - wanted).abs().max() < 1e-9
    seq.write(str(tmp_path / "x.seq"))
    written = epg.run(WATER, dry(pulseq.load(tmp_path / "x.seq")))
    assert (written - wanted).abs().max() < 5e-5


def test_three_axes_come_back() -> None:
    layout = (
        epg.Event(pulse=True, shift=(1, 0, 0)),
        epg.Event(pulse=True, shift=(0, 2, -1)),
        epg.Event(pulse=True, shift=(1, 0, 0), read=True),
        epg.Event(shift=(0, -1, 1)),
    )
    program = epg.Program(
        flip=[1.0, 2.0, 1.5, 0.0],
        duration=[10 * ms] * 4,
        moment=[[5.0, 6.0, 7.0]],
        layout=layout,
    )
    back = pulseq.load(pulseq.sequence(program, system=SYSTEM), encoded="")
    gaps = (epg.run(WATER, program) - epg.run(WATER, dry(back))).abs().max()
    assert gaps < 1e-9


def test_power_and_offset_come_back() -> None:
    block = epg.mt_preparation(3e3, 1500.0, interval=20 * ms, pulses=2)
    rows = tuple(event._replace(spoil=False) for event in block.layout)
    read = epg.gre_readout([0.3], TR=10 * ms, TE=3 * ms, shift=0)
    read = replace(read, power=torch.tensor([250.0, 0.0]))
    program = epg.concat(replace(block, layout=rows), read)
    back = pulseq.load(pulseq.sequence(program, system=SYSTEM, pulse=8 * ms))
    bound = Bound(f=0.1, k=4.0, T1=1.0, T2=11e-6)
    tissue = Tissue(T1=0.9, T2=0.08, bound=bound)
    assert (epg.run(tissue, program) - epg.run(tissue, back)).abs().max() < 1e-4
    assert (back.power[:3] - program.power[:3]).abs().max() < 1.0
    assert back.offset[:2].tolist() == [1500.0, 1500.0]


def test_played_again_and_again() -> None:
    """The file's lead comes last, so that its program is one period."""
    seq = epg.FISP(flip=[0.5, 0.3], TR=12 * ms, TE=4 * ms, moment=9.0)
    program = epg.fisp_program(seq)
    back = dry(pulseq.load(pulseq.sequence(program, system=SYSTEM)))
    assert (back.duration.sum() - 24 * ms).abs() < 1e-12
    a, b = (replace(p, states=30) for p in (program, back))
    there, here = (epg.run(WATER, p, epg.steady(WATER, p)) for p in (a, b))
    assert (there - here).abs().max() < 1e-9


# ------------------------------------------------------------------------- what happens


def played(*blocks: tuple[Any, ...]) -> Any:
    seq = pp.Sequence(SYSTEM)
    for block in blocks:
        seq.add_block(*block)
    return seq


HARD = pp.make_block_pulse(
    flip_angle=0.3, duration=4e-4, delay=1e-4, use="excitation", system=SYSTEM
)
READ = pp.make_adc(num_samples=8, duration=8e-4, delay=2e-5, system=SYSTEM)
DELAY = pp.make_delay(5e-3)


def test_adiabatic_inversions_are_ideal_ones() -> None:
    pulse = pp.make_adiabatic_pulse(
        pulse_type="hypsec", duration=10.24e-3, dwell=1e-5, delay=1e-4, system=SYSTEM,
        use="inversion",
    )  # fmt: skip
    program = pulseq.load(played((pulse,), (DELAY,), (HARD,), (READ,)))
    assert [e.invert for e in program.layout] == [True, False, False]
    assert [e.read for e in program.layout] == [False, True, False]
    assert program.power[0] > 1e4
    wild = pp.make_adiabatic_pulse(
        pulse_type="hypsec", duration=10.24e-3, dwell=1e-5, delay=1e-4, system=SYSTEM,
        use="excitation",
    )  # fmt: skip
    with pytest.raises(ValueError, match="modulated in phase or frequency"):
        pulseq.load(played((wild,), (READ,)))


def test_phases_offsets_and_labels() -> None:
    pulse = pp.make_sinc_pulse(
        flip_angle=0.7, duration=2e-3, slice_thickness=4e-3, return_gz=True,
        time_bw_product=4, phase_offset=0.4, freq_offset=900.0, delay=1e-4,
        system=SYSTEM, use="excitation",
    )  # fmt: skip
    rf, gz, _ = pulse
    back = pp.make_trapezoid("z", area=-gz.area / 2, duration=2e-3, system=SYSTEM)
    adc = pp.make_adc(8, duration=8e-4, delay=2e-5, phase_offset=0.9, system=SYSTEM)
    label = pp.make_label(type="SET", label="LIN", value=3)
    program = pulseq.load(played((rf, gz, label), (back,), (adc,)))
    assert (program.flip[0] - 0.7).abs() < 1e-6
    turn = 0.4 + 2 * math.pi * 900.0 * pp.calc_rf_center(rf)[0]
    assert abs(math.remainder(float(program.phase[0]) - turn, 2 * math.pi)) < 1e-6
    assert (program.demod[0] - 0.9).abs() < 1e-12
    assert program.layout[0].shift == 0


def test_encoded_axes_can_be_named() -> None:
    blip = pp.make_trapezoid("y", area=200.0, duration=1e-3, system=SYSTEM)
    blocks = ((HARD,), (blip,), (READ,), (HARD,), (blip,), (READ,))
    wound = pulseq.load(played(*blocks))
    assert [e.shift for e in wound.layout][:3] == [1, 0, 1]
    voxel = pulseq.load(played(*blocks), encoded="y")
    assert [e.shift for e in voxel.layout][:3] == [0, 1, 0]
    assert [e.shift for e in pulseq.load(played(*blocks), axes="xz").layout][:1] == [0]


def test_units_are_found_or_given() -> None:
    areas = [300.0, -200.0, 500.0]
    blocks = []
    for area in areas:
        grad = pp.make_trapezoid("x", area=area, duration=2e-3, system=SYSTEM)
        blocks += [(HARD,), (grad,)]
    seq = played(*blocks, (HARD,), (READ,))
    program = pulseq.load(seq)
    assert [e.shift for e in program.layout][:3] == [3, -2, 5]
    assert abs(float(program.moment[0, 0]) - 2 * math.pi * 0.1) < 1e-9
    half = pulseq.load(seq, unit=2 * math.pi * 0.05)
    assert [e.shift for e in half.layout][:3] == [6, -4, 10]
    with pytest.raises(ValueError, match="no whole multiples of one unit"):
        pulseq.load(seq, unit=2 * math.pi * 0.07)


def test_moments_without_a_unit() -> None:
    blocks = []
    for area in (300.0, 300.0 / math.pi, 300.0 * math.sqrt(2) / 9):
        grad = pp.make_trapezoid("x", area=area, duration=2e-3, system=SYSTEM)
        blocks += [(HARD,), (grad,)]
    with pytest.raises(ValueError, match="no whole multiples"):
        pulseq.load(played(*blocks, (HARD,), (READ,)), tolerance=1e-3)


def test_what_a_file_may_not_hold() -> None:
    ramp = pp.make_extended_trapezoid(
        "x", times=np.array([0, 5e-4, 1e-3]), amplitudes=np.array([0, 1e5, 0])
    )
    late = pp.make_block_pulse(
        flip_angle=0.3, duration=4e-4, delay=3e-4, use="excitation", system=SYSTEM
    )
    with pytest.raises(ValueError, match="along x changes during the pulse"):
        pulseq.load(played((late, ramp), (READ,)))
    output = pp.make_digital_output_pulse("osc0", duration=1e-3)
    assert len(pulseq.load(played((HARD,), (output,), (READ,))).layout) == 2
    soft = pp.make_soft_delay("TE", numID=0)
    with pytest.raises(ValueError, match="extension 'soft_delay'"):
        pulseq.load(played((HARD,), (DELAY, soft), (READ,)))
    trigger = pp.make_trigger("physio1", duration=1e-3)
    with pytest.raises(ValueError, match="extension 'trigger'"):
        pulseq.load(played((HARD,), (trigger,), (READ,)))
    with pytest.raises(ValueError, match="a pulse and a readout after it"):
        pulseq.load(played((HARD,), (DELAY,)))
    with pytest.raises(ValueError, match="a pulse and a readout after it"):
        pulseq.load(played((READ,), (HARD,)))
    near = pp.make_block_pulse(
        flip_angle=2.0, duration=4e-4, delay=1e-4, freq_offset=300.0, system=SYSTEM,
        use="excitation",
    )  # fmt: skip
    with pytest.raises(ValueError, match="300 Hz off resonance without"):
        pulseq.load(played((near,), (READ,)))


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # it leaves bad files open
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_damaged_files(tmp_path: Path) -> None:
    text = (FILES / "bssfp.seq").read_text()
    bad = tmp_path / "bad.seq"
    for cut in (100, len(text) // 2, len(text) - 40, len(text) - 4):
        bad.write_text(text[:cut])
        with pytest.raises(ValueError, match=r"truncated|signature|incomplete|cannot"):
            pulseq.load(bad)
    bad.write_text(text.replace("TotalDuration 0", "TotalDuration 1"))
    with pytest.raises(ValueError, match="does not match its signature"):
        pulseq.load(bad)
    body = text.partition("\n[SIGNATURE]")[0]
    bad.write_text(body)  # whole, but unsigned
    assert len(pulseq.load(bad).layout) == 128
    rows = body.split("[BLOCKS]\n")
    fewer = rows[0] + "[BLOCKS]\n" + "\n".join(rows[1].split("\n")[8:])
    bad.write_text(fewer)
    with pytest.raises(ValueError, match="the file is incomplete"):
        pulseq.load(bad)
    bad.write_text(body.replace("[SHAPES]", "[SHAPEZ]"))
    with pytest.raises(ValueError, match="cannot be read"):
        pulseq.load(bad)


REFUSED = [
    (epg.Event(pulse=True, shift=1), {}, "shift without a moment"),
    (epg.Event(pulse=True, spoil=True), {}, "an ideal spoiler"),
    (epg.Event(pulse=True, dual=True), {}, "power at two offsets"),
    (epg.Event(pulse=True, read=True), {"duration": 1e-4}, "no time"),
    (epg.Event(pulse=True), {"saturation": 0.1}, "belong to no pulse"),
    (epg.Event(invert=True), {"efficiency": 0.9}, "belong to no pulse"),
    (epg.Event(pulse=True, shift=1), {"moment": 900.0}, "no gradient fits"),
]


@pytest.mark.parametrize(("event", "change", "message"), REFUSED)
def test_what_cannot_be_written(
    event: epg.Event, change: dict[str, float], message: str
) -> None:
    fields = {"flip": [0.5], "duration": [1 * ms]}
    fields |= {name: [value] for name, value in change.items()}
    program = epg.Program(**fields, layout=(event,))
    with pytest.raises(ValueError, match=message):
        pulseq.sequence(program, system=SYSTEM)


def test_pulses_and_readings_take_time() -> None:
    at_once = epg.gre_readout([0.5, 0.5], TR=10 * ms, TE=10 * ms, shift=0)
    with warnings.catch_warnings(), pytest.raises(ValueError, match="no time"):
        pulseq.sequence(at_once, system=SYSTEM)
