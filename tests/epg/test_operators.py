"""Each operator by itself."""

import math

import playing
import pytest
import torch
from hypothesis import given, settings, strategies as st
from strategies import angles, flips, times
from torch import Tensor
from torch.func import jacfwd, jacrev, vmap
from worlds import World, worlds

import mrsim
from mrsim import Bound, Exchange, Tissue, epg
from mrsim.epg.mixing import exchange, rest, saturate
from mrsim.epg.operators import invert
from mrsim.epg.transport import diffuse, flow, wash_out
from mrsim.tree import put, replace

ORDERS = st.integers(0, 4)


def state(K: int, seed: int = 0) -> epg.State:
    """Return a random state of order K."""
    made = torch.Generator().manual_seed(10 * K + seed)
    F = torch.randn(2 * K + 1, dtype=torch.complex128, generator=made)
    Z = torch.randn(K + 1, dtype=torch.complex128, generator=made)
    return epg.State(F=F, Z=torch.cat([Z[:1].real + 0j, Z[1:]]))


def t(x: float | list[float]) -> Tensor:
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


TWO = Tissue(
    T1=1.0,
    T2=0.1,
    exchange=Exchange(T1=0.5, T2=0.02, f=0.2, k=10.0, df=[15.0]),
    bound=Bound(f=0.1, k=4.0, T1=1.0, T2=1e-5, T1D=6e-3),
)
TWO = replace(TWO, exchange=replace(TWO.exchange, df=t(15.0)))


def pooled(K: int, seed: int = 0) -> epg.State:
    """Return a random state of two free pools, a bound one and its dipolar order."""
    parts = [state(K, seed + i) for i in range(4)]
    return epg.State(
        F=torch.stack([x.F for x in parts[:2]]), Z=torch.stack([x.Z for x in parts])
    )


@given(ORDERS, flips, angles, st.floats(0.5, 1))
def test_pulses_and_inversions_act_on_free_pools(
    K: int, flip: float, phase: float, efficiency: float
) -> None:
    x = pooled(K)
    made = epg.rf(x, t(flip), t(phase))
    turned = invert(x, t(efficiency))
    for i in range(2):
        one = epg.State(F=x.F[i], Z=x.Z[i])
        close(epg.State(F=made.F[i], Z=made.Z[i]), epg.rf(one, t(flip), t(phase)))
        close(epg.State(F=turned.F[i], Z=turned.Z[i]), invert(one, t(efficiency)))
    for same in (made, turned):
        assert (same.Z[2:] == x.Z[2:]).all()
    assert turned.F.abs().max() == 0


@settings(max_examples=12)
@given(ORDERS, times, times)
def test_exchange_adds_up_and_ends_at_rest(K: int, a: float, b: float) -> None:
    twice = exchange(exchange(pooled(K), TWO, t(a)), TWO, t(b))
    close(twice, exchange(pooled(K), TWO, t(a + b)))
    end = exchange(pooled(K), TWO, t(1e3))
    assert end.F.abs().max() < 1e-12
    assert (end.Z[:, 0] - t([0.7, 0.2, 0.1, 0.0])).abs().max() < 1e-12
    assert end.Z[:, 1:].abs().sum() < 1e-12
    still = exchange(rest(TWO), TWO, t(a))
    assert (still.Z - rest(TWO).Z).abs().max() < 1e-13


@settings(max_examples=12)
@given(ORDERS, times, st.floats(-50, 50))
def test_exchange_of_one_pool_is_relaxation(K: int, time: float, df: float) -> None:
    one = Tissue(T1=0.9, T2=0.1, M0=1.3, df=df)
    wanted = epg.relax(state(K), t(0.9), t(0.1), t(1.3), t(time))
    close(exchange(state(K), one, t(time)), epg.precess(wanted, t(df), t(time)))
    apart = replace(TWO, exchange=replace(TWO.exchange, k=t(0.0)), bound=None)
    x = epg.State(F=pooled(K).F, Z=pooled(K).Z[:2])
    made = exchange(x, apart, t(time))
    T1, T2, M0 = t([1.0, 0.5]), t([0.1, 0.02]), t([0.8, 0.2])
    wanted = epg.precess(epg.relax(x, T1, T2, M0, t(time)), t([0.0, 15.0]), t(time))
    close(made, wanted)


def test_exchange_keeps_the_sum_of_pools_that_relax_alike() -> None:
    slow = Tissue(
        T1=50.0,
        T2=50.0,
        exchange=Exchange(
            T1=[50.0] * 2,
            T2=[50.0] * 2,
            f=[0.2, 0.3],
            k=[10.0, 70.0, 3.0],
            pairs=((0, 1), (1, 2), (2, 0)),
        ),
    )
    x = epg.State(F=torch.stack([pooled(2).F[0]] * 3), Z=pooled(2).Z[:3])
    made = exchange(x, slow, t(0.2))
    total = epg.State(F=x.F.sum(0), Z=x.Z.sum(0))
    wanted = epg.relax(total, t(50.0), t(50.0), t(1.0), t(0.2))
    close(epg.State(F=made.F.sum(0), Z=made.Z.sum(0)), wanted)
    assert (made.Z - x.Z).abs().max() > 0.1


@given(ORDERS, st.floats(0, 3), st.floats(-4, 4))
def test_saturation_takes_from_bound_pools(K: int, W: float, x: float) -> None:
    start = pooled(K)
    plain = epg.State(F=start.F, Z=start.Z[:3])
    made = saturate(plain, t(W)[None])
    close(
        made,
        epg.State(F=start.F, Z=torch.cat([start.Z[:2], math.exp(-W) * start.Z[2:3]])),
    )
    made = saturate(start, t(W)[None], t(x)[None])
    A = -W * torch.tensor([[1.0, -x], [-x, x * x]])
    value, vector = torch.linalg.eigh(A)
    E = vector @ torch.diag(value.exp()) @ vector.T
    assert (made.Z[2:] - (E + 0j) @ start.Z[2:]).abs().max() < 1e-12
    assert (made.Z[:2] == start.Z[:2]).all()
    both = saturate(start, t(W)[None], t(x)[None], dual=True)
    assert (both.Z[2] - math.exp(-W) * start.Z[2]).abs().max() < 1e-12
    assert (both.Z[3] - math.exp(-W * x * x) * start.Z[3]).abs().max() < 1e-12
    with pytest.raises(ValueError, match=r"got \(1,\) and 1 components"):
        saturate(plain, t(W)[None], t(x)[None])
    with pytest.raises(ValueError, match=r"shape \(bound,\)"):
        saturate(plain, t(W))


@given(ORDERS, st.integers(-3, 3), times, st.floats(0, 3e-3))
def test_diffusion_is_the_mean_square_of_the_wave_vector(
    K: int, n: int, time: float, D: float
) -> None:
    """In small steps in which the wave vector hardly moves."""
    moment, many = 30.0, 400
    made = diffuse(state(K), t(D), t(moment), t(time), n)
    m = torch.arange(-K, K + 1)
    middle = (torch.arange(many) + 0.5) / many
    b = ((m[:, None] + n * middle) * moment).square().mean(1) * time
    # the mid-point rule lacks n²/(12·many²)
    b = b + (n * moment) ** 2 / (12 * many**2) * time
    close(
        made,
        epg.State(
            F=state(K).F * torch.exp(-b * D),
            Z=state(K).Z * torch.exp(-time * D * (m[K:] * moment).square()),
        ),
    )
    tensor = diffuse(state(K), t(D) * torch.eye(3), t(moment) * unit(), t(time), n)
    close(tensor, made)


def unit() -> Tensor:
    return torch.tensor([2.0, -1.0, 2.0]) / 3


@given(ORDERS, st.integers(-3, 3), times, st.floats(-20, 20))
def test_flow_carries_the_pattern_along(K: int, n: int, time: float, v: float) -> None:
    """M(z) moves to z + vt; the gradient winds phase at the middle of the way."""
    moment = 0.7
    z = torch.linspace(0, 8, 7)
    made = epg.shift(flow(state(K), t(v), t(moment), t(time), n), n)
    across, along = magnetisation(made, moment * z)
    before, up = magnetisation(state(K), moment * (z - v * time))
    wound = torch.exp(1j * n * moment * (z - v * time / 2))
    size = 1e-12 * (1 + abs(v) * time)
    assert (across - before * wound).abs().max() < 100 * size
    assert (along - up).abs().max() < 100 * size
    vector = flow(state(K), v * unit(), moment * unit(), t(time), n)
    close(vector, flow(state(K), t(v), t(moment), t(time), n))
    with pytest.raises(ValueError, match="give v and moment both"):
        flow(state(K), v * unit(), t(moment), t(time), n)


def test_wash_out_replaces_spins() -> None:
    x, M0 = pooled(2), torch.tensor([0.7, 0.2, 0.1, 0.0])
    made = wash_out(x, t(20.0), t(5.0), M0, t(0.1))
    fresh = torch.zeros_like(x.Z)
    fresh = torch.cat([M0[:, None] + 0j, fresh[:, 1:]], 1)
    close(made, epg.State(F=0.6 * x.F, Z=0.6 * x.Z + 0.4 * fresh))
    way = wash_out(x, torch.tensor([12.0, 0.0, -16.0]), t(5.0), M0, t(0.1))
    close(way, made)
    gone = wash_out(x, t(-100.0), t(5.0), M0, t(0.1))
    close(gone, epg.State(F=0 * x.F, Z=fresh))


def test_a_diffusion_tensor_needs_a_direction() -> None:
    with pytest.raises(ValueError, match=r"moment of shape \(3,\), got \(\)"):
        diffuse(state(1), torch.eye(3), t(1.0), t(1.0), 1)


@settings(max_examples=15)
@given(worlds(diffusion=True, spread=False, wide=False))
def test_operators_are_the_engine(world: World) -> None:
    made, wanted = playing.signal(*world), epg.run(*world)
    size = 1.0 if world[0].M0 is None else float(world[0].M0)
    assert (made - wanted).abs().max() < 1e-11 * size


def _mixed(x: epg.State, a: Tensor, b: Tensor) -> epg.State:
    """Exchange with every parameter moved by the two numbers."""
    base = tissue = mrsim.to(TWO, a.dtype, a.device)
    many = epg.State(F=torch.stack([x.F] * 2), Z=torch.stack([x.Z] * 4))
    for n in ("T1", "T2", "exchange.k", "exchange.f", "exchange.df", "exchange.T2"):
        tissue = put(tissue, n, mrsim.tree.get(base, n) * (1 + a))
    for n in ("bound.k", "bound.f", "bound.T1D"):
        tissue = put(tissue, n, mrsim.tree.get(base, n) * (1 + b))
    made = exchange(many, tissue, a * b)
    return epg.State(F=made.F.sum(0), Z=made.Z.sum(0))


OPERATORS = {
    "exchange": _mixed,
    "saturate": lambda x, a, b: epg.State(
        F=x.F,
        Z=saturate(
            epg.State(F=x.F[None], Z=torch.stack([x.Z] * 3)), a[None], b[None]
        ).Z.sum(0),
    ),
    "diffuse": lambda x, a, b: diffuse(x, a, b, a * b, -2),
    "tensor": lambda x, a, b: diffuse(
        x,
        a * torch.ones_like(unit()).to(a)[:, None] * unit().to(a),
        b * unit().to(a),
        a,
        1,
    ),
    "flow": lambda x, a, b: flow(x, a, b, a * b, 1),
    "wash_out": lambda x, a, b: wash_out(x, a, a + b, b, a),
    "invert": lambda x, a, b: invert(x, a * b),
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
