"""Each operator by itself."""

import math

import pytest
import torch
from hypothesis import given, strategies as st
from strategies import angles, flips, times
from torch import Tensor
from torch.func import jacfwd, jacrev, vmap

import mrsim
from mrsim import epg

ORDERS = st.integers(0, 4)


def state(K: int, seed: int = 0) -> epg.State:
    """Return a random state of order K."""
    made = torch.Generator().manual_seed(10 * K + seed)
    F = torch.randn(2 * K + 1, dtype=torch.complex128, generator=made)
    Z = torch.randn(K + 1, dtype=torch.complex128, generator=made)
    return epg.State(F=F, Z=torch.cat([Z[:1].real + 0j, Z[1:]]))


def t(x: float) -> Tensor:
    return torch.tensor(x)


def close(a: epg.State, b: epg.State, tolerance: float = 1e-12) -> None:
    assert (a.F - b.F).abs().max() <= tolerance
    assert (a.Z - b.Z).abs().max() <= tolerance


def energy(x: epg.State) -> Tensor:
    squares = x.Z.abs().square()
    return x.F.abs().square().sum() + 2 * squares.sum() - squares[0]


def magnetisation(x: epg.State, z: Tensor) -> tuple[Tensor, Tensor]:
    """Return M+ and Mz at positions z."""
    K = len(x.Z) - 1
    k = torch.arange(-K, K + 1)
    wave = torch.exp(1j * k * z[:, None])
    Z = torch.cat([x.Z.flip(0)[:K].conj(), x.Z])
    return wave @ x.F, wave @ Z


@given(ORDERS, flips, angles)
def test_rf_is_a_right_handed_rotation_of_every_position(
    K: int, flip: float, phase: float
) -> None:
    z = torch.linspace(0, 6, 7)
    across, along = magnetisation(state(K), z)
    M = torch.stack([across.real, across.imag, along.real])
    n = torch.tensor([math.cos(phase), math.sin(phase), 0.0])
    turned = (
        M * math.cos(flip)
        + torch.linalg.cross(n[:, None].expand_as(M), M, dim=0) * math.sin(flip)
        + n[:, None] * (n @ M) * (1 - math.cos(flip))
    )
    across, along = magnetisation(epg.rf(state(K), t(flip), t(phase)), z)
    assert (
        torch.stack([across.real, across.imag, along.real]) - turned
    ).abs().max() < 1e-12
    assert along.imag.abs().max() < 1e-12


@given(ORDERS, flips, flips, angles)
def test_rf_adds_up_and_keeps_energy(K: int, a: float, b: float, phase: float) -> None:
    twice = epg.rf(epg.rf(state(K), t(a), t(phase)), t(b), t(phase))
    close(twice, epg.rf(state(K), t(a + b), t(phase)))
    close(epg.rf(state(K), t(a), t(phase + math.pi)), epg.rf(state(K), t(-a), t(phase)))
    assert (energy(twice) - energy(state(K))).abs() < 1e-10


@pytest.mark.parametrize("degrees", [0.0, 90.0, 180.0, 270.0])
def test_excitation_has_the_stated_phase(degrees: float) -> None:
    phase = t(math.radians(degrees))
    made = epg.rf(epg.equilibrium(t(1.0)), t(0.4), phase).F[0]
    assert (made + 1j * torch.exp(1j * phase) * math.sin(0.4)).abs() < 1e-15


@given(ORDERS, times, times)
def test_relaxation_adds_up_and_ends_at_rest(K: int, a: float, b: float) -> None:
    T1, T2, M0 = t(0.9), t(0.1), t(1.2)
    twice = epg.relax(epg.relax(state(K), T1, T2, M0, t(a)), T1, T2, M0, t(b))
    close(twice, epg.relax(state(K), T1, T2, M0, t(a + b)))
    rest = epg.relax(state(K), T1, T2, M0, t(1e3))
    close(rest, epg.State(F=0 * rest.F, Z=torch.cat([M0[None] + 0j, 0 * rest.Z[1:]])))
    close(epg.relax(state(K), T1, T2, M0, t(0.0)), state(K))


@given(ORDERS, times, st.floats(-50, 50))
def test_precession_turns_forward_and_back(K: int, time: float, df: float) -> None:
    made = epg.precess(state(K), t(df), t(time))
    turn = torch.exp(2j * math.pi * t(df) * time)
    close(made, epg.State(F=turn * state(K).F, Z=state(K).Z))
    close(epg.precess(made, t(-df), t(time)), state(K), 1e-10)


@given(ORDERS, st.integers(-4, 4), st.integers(-4, 4))
def test_shifts_wind_the_transverse_phase(K: int, n: int, m: int) -> None:
    z = torch.linspace(0, 6, 7)
    across, along = magnetisation(state(K), z)
    made = epg.shift(epg.shift(state(K), n), m)
    assert len(made.Z) == K + 1 + abs(n) + abs(m)
    turned, still = magnetisation(made, z)
    assert (turned - across * torch.exp(1j * (n + m) * z)).abs().max() < 1e-12
    assert (still - along).abs().max() < 1e-12


@given(ORDERS)
def test_spoiler_keeps_the_mean_of_z_alone(K: int) -> None:
    made = epg.spoil(state(K))
    assert made.F.abs().max() == 0
    assert made.Z[0] == state(K).Z[0]
    assert made.Z[1:].abs().sum() == 0
    close(epg.spoil(made), made)


OPERATORS = {
    "rf": lambda x, a, b: epg.rf(x, a, b),
    "relax": lambda x, a, b: epg.relax(x, a, b, a * b, a + b),
    "precess": lambda x, a, b: epg.precess(x, a, b),
    "shift": lambda x, *_: epg.shift(x, -2),
    "spoil": lambda x, *_: epg.spoil(x),
}


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("K", [0, 3])
def test_operators_compose_with_every_transform(name: str, K: int) -> None:
    def f(F: Tensor, Z: Tensor, a: Tensor, b: Tensor) -> Tensor:
        x = epg.State(F=torch.view_as_complex(F), Z=torch.view_as_complex(Z))
        made = OPERATORS[name](x, a, b)
        return torch.view_as_real(torch.cat([made.F, made.Z]).resolve_conj())

    x = state(K)
    args = torch.view_as_real(x.F), torch.view_as_real(x.Z), t(0.7), t(0.4)
    every = (0, 1, 2, 3)
    forward, reverse = jacfwd(f, every)(*args), jacrev(f, every)(*args)
    many = tuple(torch.stack([v, 1.1 * v]) for v in args)
    mapped = vmap(jacfwd(f, every))(*many)
    for a, b, c in zip(forward, reverse, mapped, strict=True):
        assert (a - b).abs().max() < 1e-12
        assert (a - c[0]).abs().max() < 1e-12
    for mode in (jacfwd, jacrev):
        twice = mode(jacrev(f, 2), 3)(*args)
        assert (twice - jacfwd(jacfwd(f, 3), 2)(*args)).abs().max() < 1e-12


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_keep_single_precision(name: str) -> None:
    x = state(2)
    small = epg.State(F=x.F.to(torch.complex64), Z=x.Z.to(torch.complex64))
    made = OPERATORS[name](small, *(t(v).float() for v in (0.7, 0.4)))
    assert made.F.dtype == made.Z.dtype == torch.complex64
    wanted = OPERATORS[name](x, t(0.7), t(0.4))
    close(made, wanted, 1e-5)
    meta = epg.State(F=small.F.to("meta"), Z=small.Z.to("meta"))
    args = (t(v).float().to("meta") for v in (0.7, 0.4))
    assert OPERATORS[name](meta, *args).F.is_meta


def test_a_state_is_a_record() -> None:
    x = epg.equilibrium(t(2.0))
    assert mrsim.tree.names(x)
    assert (x.Z == 2).all()
    assert x.F.abs().sum() == 0
