"""Programs of shaped pulses, and their averages over a slice."""

import math

import pytest
import torch
from epg.pulse_models import Z, euler, t, turn
from hypothesis import given
from strategies import tissues
from torch import Tensor
from torch.func import hessian, jacfwd, jacrev, vmap

import mrsim
from mrsim import Tissue, bloch, epg
from mrsim.epg.program import Event, Program
from mrsim.epg.pulses import Pulse, nominal_flip, profile
from mrsim.epg.slices import shaped, slice_average
from mrsim.epg.waveforms import hard_pulse, sinc_pulse
from mrsim.tree import replace
from mrsim.units import ms

GREY = Tissue(T1=1.0, T2=0.1)
LAYOUT = (
    Event(pulse=True, shift=1, read=True),
    Event(pulse=True, quadrant=1, shift=-1),
    Event(shift=1, read=True, receiver=3),
    Event(pulse=True, quadrant=2, shift=1, read=True),
)


PROGRAM = Program(
    flip=[1.4, math.pi, 0.0, 0.6],
    duration=[0.01, 0.02, 0.01, 0.005],
    phase=[0.3, 0.1, 0.0, -0.4],
    demod=[0.0, 0.2, 0.5, 1.0],
    layout=LAYOUT,
)


def spin_by_spin(
    tissue: Tissue, program: Program, pulse: Pulse, z: float, B1: float
) -> Tensor:
    """Return the signal of isochromats that the true pulse turns."""
    df = t(0.0) if tissue.df is None else tissue.df
    total = sum(abs(e.shift) for e in program.layout)  # pyright: ignore
    count = 2 * total + 1
    M = torch.zeros(count, 3)
    M[:, 2] = 1.0
    found = []
    up = torch.tensor([0.0, 0.0, 1.0])
    assert program.phase is not None
    assert program.demod is not None
    for row, event in enumerate(program.layout):
        if event.pulse:
            scale = program.flip[row] / nominal_flip(pulse) * B1
            about = event.quadrant * math.pi / 2 + program.phase[row]
            made = profile(pulse, t(z), scale[None][0], df)
            R = turn(up, about) @ euler(made) @ turn(up, -about)
            M = M @ R.T
        time = program.duration[row]
        E1, E2 = torch.exp(-time / tissue.T1), torch.exp(-time / tissue.T2)
        grid = torch.arange(count) * (2 * math.pi / count)
        rotated = []
        for n in range(count):
            angle = event.shift * grid[n] + 2 * math.pi * df * time
            rotated.append(turn(up, angle) @ M[n])
        M = torch.stack(rotated) * torch.stack([E2, E2, E1])
        M = M + torch.tensor([0, 0, 1.0]) * (1 - E1)
        if event.read:
            demod = event.receiver * math.pi / 2 + program.demod[row]
            mean = torch.complex(M[:, 0].mean(), M[:, 1].mean())
            found.append(mean * torch.exp(-1j * demod))
    return torch.stack(found)


@pytest.mark.parametrize("parts", [1, 2, 3])
@pytest.mark.parametrize("df", [None, 35.0])
@pytest.mark.parametrize("offset", [None, 120.0])
def test_shaped_programs_are_the_true_pulse(
    parts: int, df: float | None, offset: float | None
) -> None:
    tissue = replace(GREY, df=None if df is None else t(df))
    pulse = sinc_pulse(1.0, 2 * ms, 5.0, samples=32)
    pulse = replace(pulse, rephase=t(0.6), offset=None if offset is None else t(offset))
    for z, B1 in ((1.3, 1.0), (-2.4, 0.8)):
        here = shaped(PROGRAM, pulse, t(z), t(B1), tissue.df, parts)
        wanted = spin_by_spin(tissue, PROGRAM, pulse, z, B1)
        for simulate in (epg.run, bloch.run):
            assert (simulate(tissue, here) - wanted).abs().max() < 1e-12


def test_shaped_keeps_what_belongs_to_rows() -> None:
    wide = replace(
        PROGRAM,
        saturation=t(0.2)[None],
        power=[1.0, 2.0, 3.0, 4.0],
        moment=torch.ones(1),
        clock=(0, 1, 0, 2),
    )
    made = shaped(wide, hard_pulse(1.0, 1e-4), t(0.0), B1=t(2.0), parts=3)
    assert [e.pulse for e in made.layout] == [True] * 6 + [False] + [True] * 3
    assert made.clock == (3, 3, 0, 3, 3, 1, 0, 3, 3, 2)
    assert made.power is not None
    assert made.saturation is not None
    assert made.power.tolist() == [0, 0, 4, 0, 0, 8, 12, 0, 0, 16]
    assert made.saturation.tolist() == [0, 0, 0.2, 0, 0, 0.2, 0.2, 0, 0, 0.2]
    assert made.duration.sum() == wide.duration.sum()
    assert (made.flip[:3].sum() - 2 * 1.4).abs() < 1e-12
    with pytest.raises(ValueError, match="whole number of parts of at least 1, got 0"):
        shaped(wide, hard_pulse(1.0, 1e-4), t(0.0), parts=0)


@given(tissues(optional=True))
def test_a_slice_of_hard_pulses_is_the_program(tissue: Tissue) -> None:
    tissue = replace(tissue, df=None)
    made = slice_average(epg.run, tissue, PROGRAM, hard_pulse(0.7, 1e-4), Z)
    assert (made - epg.run(tissue, PROGRAM)).abs().max() < 1e-11


def test_slice_average_is_the_mean_of_positions() -> None:
    tissue = replace(GREY, B1=t(0.9), df=t(12.0))
    pulse = sinc_pulse(1.0, 2 * ms, 5.0, samples=32)
    weights = torch.linspace(1, 2, len(Z))
    each = [
        epg.run(replace(tissue, B1=None), shaped(PROGRAM, pulse, z, t(0.9), t(12.0)))
        for z in Z
    ]
    wanted = (torch.stack(each) * weights[:, None]).sum(0) / weights.sum()
    made = slice_average(epg.run, tissue, PROGRAM, pulse, Z, weights)
    assert (made - wanted).abs().max() < 1e-13
    even = slice_average(epg.run, tissue, PROGRAM, pulse, Z)
    assert (even - torch.stack(each).mean(0)).abs().max() < 1e-13


def test_slice_average_composes_and_keeps_single_precision() -> None:
    tissue = replace(GREY, B1=t(0.9), df=t(12.0))

    def f(x: Tissue, program: Program, z: Tensor) -> Tensor:
        pulse = sinc_pulse(1.0 + 0 * z[0], 2 * ms, 5.0, samples=16)
        return slice_average(epg.run, x, program, pulse, z)

    z = Z[::3]
    jac = mrsim.jac(f, "T1", "T2", "B1", "df")
    one = jac(tissue, PROGRAM, z)
    voxels = mrsim.grid(tissue, T2=[0.1, 0.05])
    many = vmap(jac, in_dims=(0, None, None))(voxels, PROGRAM, z)
    small = jac(*(mrsim.to(x, torch.float32) for x in (tissue, PROGRAM, z)))
    for name in ("T1", "T2", "B1", "df"):
        wanted = getattr(one, name)
        assert wanted.abs().max() > 0
        assert (getattr(many, name)[0] - wanted).abs().max() < 1e-12
        assert getattr(small, name).dtype == torch.complex64
        error = (getattr(small, name) - wanted).abs().max()
        assert error < 1e-3 * wanted.abs().max()
        step = 1e-5 * getattr(tissue, name)
        up, down = (
            f(replace(tissue, **{name: getattr(tissue, name) + s * step}), PROGRAM, z)
            for s in (1, -1)
        )
        assert ((up - down) / (2 * step) - wanted).abs().max() < 1e-6 * (
            1 + wanted.abs().max()
        )


def test_slices_have_derivatives_where_the_flip_is_180_degrees() -> None:
    """Also with respect to what turns about z, in the middle of the slice."""
    pulse = sinc_pulse(1.0, 2 * ms, 5.0, samples=16)
    still = replace(PROGRAM, phase=None, demod=None)

    def size(flip: Tensor, df: Tensor, z: Tensor, thick: Tensor) -> Tensor:
        tissue = replace(GREY, df=df)
        selective = sinc_pulse(1.0, 2 * ms, thick, samples=16)
        here = shaped(replace(still, flip=flip), selective, z, df=df)
        return torch.view_as_real(epg.run(tissue, here))[1].square().sum()

    assert pulse.dwell > 0
    args = PROGRAM.flip, t(0.0), t(0.0), t(5.0)
    forward = jacfwd(size, (0, 1, 2, 3))(*args)
    reverse = jacrev(size, (0, 1, 2, 3))(*args)
    for k, (a, b) in enumerate(zip(forward, reverse, strict=True)):
        assert (a - b).abs().max() < 1e-11
        way = torch.ones_like(args[k]) * 1e-5
        up, down = (
            size(*(x + s * way if i == k else x for i, x in enumerate(args)))
            for s in (1, -1)
        )
        assert abs((up - down) / 2e-5 - a.sum()) < 1e-7
    twice = hessian(size, 1)(*args)
    step = 1e-2
    up, mid, down = (size(args[0], t(s), *args[2:]) for s in (step, 0.0, -step))
    assert abs((up - 2 * mid + down) / step**2 - twice) < 1e-5 * (1 + twice.abs())
