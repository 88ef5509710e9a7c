"""Sampled pulses: spinors, profiles, waveforms."""

import math

import pytest
import torch
from epg.pulse_models import Z, euler, t, turn
from hypothesis import given, settings, strategies as st
from strategies import angles, flips
from torch import Tensor
from torch.func import grad, hessian, jacfwd, jacrev, vmap

import mrsim
from mrsim.epg.pulses import (
    Pulse,
    inversion_efficiency,
    nominal_flip,
    power,
    profile,
    spinor,
)
from mrsim.epg.waveforms import gauss_pulse, hard_pulse, hs_pulse, shim, sinc_pulse
from mrsim.tree import replace
from mrsim.units import GAMMA, deg, ms


def random_pulse(seed: int, samples: int = 7, **changes: Tensor) -> Pulse:
    """Return a pulse with no symmetry: amplitudes, phases and gradients at random."""
    made = torch.Generator().manual_seed(seed)
    size, angle, slope = torch.randn(3, samples, generator=made)
    pulse = Pulse(B1=8e-6 * size, phase=angle, gradient=4e-6 * slope, dwell=t(1e-4))
    return replace(pulse, **changes)


def played(pulse: Pulse, z: Tensor, scale: Tensor, df: Tensor) -> Tensor:
    """Return a pulse's rotation matrix, sample by sample in small laboratory steps."""
    n, fine = len(pulse.B1), 1 if pulse.offset is None else 400
    R = torch.eye(3)
    dt = pulse.dwell / fine
    for i in range(n * fine):
        k = i // fine
        time = (i + 0.5) * dt - n * pulse.dwell / 2
        angle = t(0.0) if pulse.phase is None else pulse.phase[k]
        if pulse.offset is not None:
            angle = angle + 2 * math.pi * pulse.offset * time
        G = 0 if pulse.gradient is None else pulse.gradient.expand(n)[k]
        w = torch.stack(
            [
                GAMMA * scale * pulse.B1[k] * angle.cos(),
                GAMMA * scale * pulse.B1[k] * angle.sin(),
                GAMMA * G * z + 2 * math.pi * df,
            ]
        )
        R = turn(w, dt) @ R
    return R


def matrix(a: Tensor, b: Tensor) -> Tensor:
    """Return the rotation of Cayley–Klein parameters."""
    columns = []
    for x, y, z in torch.eye(3):
        M = torch.complex(x, y)
        plus = a.conj() ** 2 * M - b**2 * M.conj() + 2 * a.conj() * b * z
        up = (a.abs() ** 2 - b.abs() ** 2) * z - 2 * (a * b * M.conj()).real
        columns.append(torch.stack([plus.real, plus.imag, up]))
    return torch.stack(columns, 1)


@settings(max_examples=15)
@given(
    st.integers(0, 99),
    st.integers(1, 9),
    st.floats(-8, 8),
    st.floats(-2, 2),
    st.floats(-300, 300),
)
def test_spinor_is_the_product_of_rotations(
    seed: int, samples: int, z: float, scale: float, df: float
) -> None:
    pulse = random_pulse(seed, samples)
    args = t(z), t(scale), t(df)
    wanted = played(pulse, *args)
    a, b = spinor(pulse, *args)
    assert abs(a.abs() ** 2 + b.abs() ** 2 - 1) < 1e-13
    assert (matrix(a, b) - wanted).abs().max() < 1e-12
    made = profile(pulse, *args[:2])
    still = played(pulse, args[0], args[1], t(0.0))
    assert (euler(made) - still).abs().max() < 1e-12


def test_offset_is_a_carrier_whose_phase_holds_in_the_middle() -> None:
    pulse = random_pulse(3, 4, offset=t(700.0))
    args = t(2.0), t(1.2), t(40.0)
    error = (matrix(*spinor(pulse, *args)) - played(pulse, *args)).abs().max()
    assert error < 2e-5  # the steps of `played` hold the carrier still
    # a carrier off by Δ moves the slice by 2πΔ/(γG)
    flat = sinc_pulse(90 * deg, 2 * ms, 5.0)
    assert flat.gradient is not None
    moved = replace(flat, offset=t(500.0))
    z0 = 2 * math.pi * 500 / (GAMMA * flat.gradient)
    here = profile(moved, Z + z0)
    assert (here.flip - profile(flat, Z).flip).abs().max() < 1e-12


@given(st.integers(0, 99), st.floats(-2, 2), st.floats(-200, 200))
def test_profile_takes_gradients_and_precession_off(
    seed: int, scale: float, df: float
) -> None:
    pulse = random_pulse(seed, prephase=t(0.3), rephase=t(0.9))
    z = t(2.5)
    made = profile(pulse, z, t(scale), t(df))
    assert pulse.gradient is not None
    wound = GAMMA * pulse.gradient.sum() * pulse.dwell * z
    free = math.pi * 7 * pulse.dwell * df
    up = torch.tensor([0.0, 0.0, 1.0])
    bare = turn(up, 0.9 * wound + free) @ euler(made) @ turn(up, 0.3 * wound + free)
    assert (bare - played(pulse, z, t(scale), t(df))).abs().max() < 1e-12


@given(flips, angles)
def test_hard_pulse_flips_by_its_angle_about_its_phase(
    flip: float, phase: float
) -> None:
    pulse = replace(hard_pulse(flip, 1e-4), phase=t(phase)[None])
    made = profile(pulse, torch.zeros(()))
    if flip > 1e-6:
        assert abs(made.flip - flip) < 1e-12
        turned = (made.phase - phase + math.pi) % (2 * math.pi) - math.pi
        assert abs(turned) < 1e-10
    assert abs(power(pulse) - flip**2 / 1e-4) < 1e-9 * (1 + flip**2 / 1e-4)
    assert abs(nominal_flip(pulse).abs() - flip) < 1e-12


def test_short_pulses_are_instantaneous() -> None:
    args = torch.zeros(()), t(1.0), t(60.0)
    for duration, bound in ((1e-3, 0.2), (1e-6, 2e-4)):
        made = profile(hard_pulse(1.2, duration), *args)
        assert abs(made.flip - 1.2) < bound
        assert abs(made.before) < bound
        assert abs(made.after) < bound


def test_small_flips_are_the_fourier_transform() -> None:
    pulse = sinc_pulse(1e-4, 2 * ms, 5.0)
    made = profile(pulse, Z)
    time = (torch.arange(256) + 0.5) * pulse.dwell - 1e-3
    assert pulse.gradient is not None
    wave = torch.exp(1j * GAMMA * pulse.gradient * Z[:, None] * time)
    wanted = (wave @ (GAMMA * pulse.B1 * pulse.dwell + 0j)).real
    signed = made.flip * made.phase.cos()
    # piecewise-constant pulses have the envelope sinc of a sample
    assert (signed - wanted).abs().max() < 1e-3 * 1e-4
    assert (made.before.sin()).abs().max() < 1e-6  # linear phase, undone by halves


@pytest.mark.parametrize("make", [sinc_pulse, gauss_pulse])
def test_slices_have_their_thickness(make: type[Pulse]) -> None:
    pulse = make(0.2, 2 * ms, 5.0, tbw=6.0)  # pyright: ignore[reportCallIssue]
    flip = profile(pulse, torch.tensor([0.0, 2.5, 8.0])).flip
    assert abs(flip[0] - 0.2) < 1e-9
    assert abs(flip[1] / 0.2 - 0.5) < 0.03
    assert flip[2] < 0.01


def test_gradient_of_a_scale_of_zero_is_that_of_small_flips() -> None:
    pulse = sinc_pulse(1.0, 2 * ms, 5.0)

    def flip(scale: Tensor) -> Tensor:
        return profile(pulse, t(1.0), scale).flip

    slope = grad(flip)(t(0.0))
    assert abs(slope - flip(t(1e-5)) / 1e-5) < 1e-8
    assert slope > 0.5
    assert flip(t(-0.7)) == -flip(t(0.7))


def test_hyperbolic_secant_inverts_within_its_sweep() -> None:
    pulse = hs_pulse(25e-6, 10 * ms)
    still = torch.zeros(())
    inside = inversion_efficiency(pulse, still, df=torch.linspace(-600, 600, 25))
    assert (inside > 0.98).all()
    assert inversion_efficiency(pulse, still, df=t(2000.0)) < -0.99
    strong = inversion_efficiency(pulse, still, scale=torch.linspace(0.8, 2.0, 13))
    assert (strong > 0.99).all()  # whatever B1
    assert inversion_efficiency(pulse, still, scale=t(0.1)) < 0.5
    hard = inversion_efficiency(hard_pulse(math.pi, 1e-4), still)
    assert abs(hard - 1) < 1e-14


def test_channels_add_as_complex_fields() -> None:
    made = torch.Generator().manual_seed(1)
    maps = torch.randn(3, 5, dtype=torch.complex128, generator=made)
    weights = torch.randn(3, dtype=torch.complex128, generator=made)
    B1, phase = shim(maps, weights)
    field = sum(w * m for w, m in zip(weights, maps, strict=True))
    assert (B1 * torch.exp(1j * phase) - field).abs().max() < 1e-14
    # two channels of one phase add, of opposite phases cancel
    same = torch.tensor([0.5 + 0j, 0.5 + 0j])
    assert shim(same, torch.tensor([1.0 + 0j, 1.0 + 0j]))[0] == 1
    assert shim(same, torch.tensor([1.0 + 0j, -1.0 + 0j]))[0] == 0
    with pytest.raises(ValueError, match=r"got \(2,\) and \(3, 5\)"):
        shim(maps, weights[:2])


def test_every_field_of_a_pulse_has_derivatives() -> None:
    pulse = random_pulse(5, prephase=t(0.2), rephase=t(0.4), offset=t(100.0))

    def f(x: Pulse, z: Tensor, scale: Tensor, df: Tensor) -> Tensor:
        made = profile(x, z, scale, df)
        return torch.stack([made.flip, made.phase, made.before, made.after]).sum(0)

    args = pulse, t(1.5), t(0.8), t(20.0)
    reverse = jacrev(f, (0, 1, 2, 3))(*args)
    forward = jacfwd(f, (0, 1, 2, 3))(*args)
    a, b = (mrsim.tree.tree_leaves(x) for x in (reverse, forward))
    assert len(a) == 10
    for x, y in zip(a, b, strict=True):
        assert (x - y).abs().max() <= 1e-9 * (1 + x.abs().max())
        assert x.abs().max() > 0
    many = tuple(torch.stack([x, 1.1 * x]) for x in args[1:])
    mapped = vmap(jacfwd(f, 2), in_dims=(None, 0, 0, 0))(pulse, *many)
    assert abs(mapped[0] - forward[2]) < 1e-10
    assert hessian(f, 2)(*args).isfinite()


def test_waveforms_have_derivatives_and_single_precision() -> None:
    def flip(x: Tensor) -> Tensor:
        a = sinc_pulse(x[0], x[1] * ms, x[2], x[3], samples=9)  # u = 0 is a sample
        b = gauss_pulse(x[0], x[1] * ms, x[2], x[3], samples=9)
        c = hs_pulse(x[0] * 1e-5, x[1] * ms, x[2], x[3], samples=9)
        at = x.new_tensor(1.0)
        return sum(profile(p, at, df=50 * at).flip for p in (a, b, c))  # pyright: ignore

    x = torch.tensor([0.9, 2.0, 4.0, 3.0])
    slope = grad(flip)(x)
    assert (jacfwd(flip)(x) - slope).abs().max() < 1e-10
    for k in range(4):
        way = 1e-6 * torch.eye(4)[k]
        gap = (flip(x + way) - flip(x - way)) / 2e-6 - slope[k]
        assert gap.abs() < 1e-6
    assert hessian(flip)(x).isfinite().all()
    assert flip(x.float()).dtype == torch.float32
    assert jacfwd(flip)(x.float()).dtype == torch.float32
    assert abs(flip(x.float()) - flip(x)) < 1e-4


def test_bad_pulses_are_refused() -> None:
    pulse = random_pulse(0)
    with pytest.raises(ValueError, match=r"gradient must have shape .* got \(3,\)"):
        spinor(replace(pulse, gradient=torch.ones(3)), t(0.0))
    with pytest.raises(ValueError, match="B1 must have shape"):
        spinor(replace(pulse, B1=torch.ones(2, 7)), t(0.0))
    with pytest.raises(TypeError, match=r"float32|float64"):
        spinor(pulse, torch.zeros(1, dtype=torch.float32))
    with pytest.raises(ValueError, match="samples of at least 1, got 0"):
        sinc_pulse(1.0, 1e-3, samples=0)
