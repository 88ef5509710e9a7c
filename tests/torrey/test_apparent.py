"""Apparent diffusion: tensors of modes, HADC, short times, Gaussian signals, fits."""

import math
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad, hessian, jacfwd, jacrev, vmap
from torrey.fe_data import case, encoding, names

from mrsim import torrey
from mrsim.tree import put, replace

U = [0.48, 0.6, 0.64]
PAIR = torrey.PGSE(q=5e4, direction=U, delta=6e-3, Delta=2e-2)
CORNERS = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1.1, 1, 1]])
MESH = torrey.make_mesh(6e-3 * CORNERS, [[0, 1, 2, 3], [1, 2, 3, 4]], [0, 1])
WATER = torrey.Water(D=[2e-3, 1e-3], rho=[1.0, 0.7], kappa=[0.05])
WAVE = torrey.Waveform(
    times=[0, 2e-3, 4e-3, 6e-3, 8e-3],
    vectors=[[0.0, 0, 0], [1e5, 0, 0], [-1e5, 5e4, 0], [0, -5e4, 0], [0, 0, 0]],
    steps=8,
)
WAVES = {
    "pgse": PAIR,
    "double": torrey.DoublePGSE(
        q=5e4, direction=U, delta=3e-3, Delta=9e-3, pause=1e-3, direction2=[1.0, 0, 0]
    ),
    "cos": torrey.CosOGSE(q=1e5, direction=U, delta=1e-2, Delta=1.1e-2),
    "waveform": WAVE,
}


@cache
def basis() -> torrey.Basis:
    return torrey.laplace(*MESH, WATER)


@pytest.mark.parametrize("name", names("difftensor_mf_pgse"))
def test_tensors_of_modes(name: str) -> None:
    c = case(name)
    modes = len(c.data["eigenvalues"]) - 1
    made = torrey.laplace(*c.mesh, modes=modes)
    pairs = [s for s in c.sequences if s["type"] == "PGSE"]
    for about, wanted in zip(pairs, c.data["difftensor_mf_pgse"], strict=True):
        x = encoding(about, 1e-4, c.data["dirs"][0])
        error = torrey.apparent_tensor(made, x).numpy() - wanted
        assert abs(error).max() <= 1e-12 * abs(wanted).max()


@pytest.mark.parametrize("x", WAVES.values(), ids=WAVES.keys())
def test_the_exponent_is_the_slope_of_the_signal(x: Any) -> None:
    name = "vectors" if isinstance(x, torrey.Waveform) else "q"
    weak = put(x, name, 0.01 * getattr(x, name))
    made = torrey.apparent_exponent(basis(), weak)
    exact = -torrey.signal(basis(), weak).abs().log()
    assert abs(made - exact) <= 1e-4 * made
    assert abs(torrey.apparent_exponent(basis(), x) - 1e4 * made) <= 1e-8 * 1e4 * made
    wanted = torrey.apparent_exponent(basis(), x) / torrey.b_value(x)
    assert torrey.apparent_diffusion(basis(), x) == wanted


def test_the_tensor_gives_every_direction() -> None:
    D = torrey.apparent_tensor(basis(), PAIR)
    assert (D - D.mT).abs().max() == 0
    for u in torch.eye(3):
        made = torrey.apparent_diffusion(basis(), replace(PAIR, direction=u))
        assert abs(u @ D @ u - made) <= 1e-12 * made
    with pytest.raises(ValueError, match="must keep its direction"):
        torrey.apparent_tensor(basis(), WAVE)


def test_gaussian_signals_relax() -> None:
    mesh, water = MESH, replace(WATER, T2=torch.tensor(0.04))
    still = torrey.gaussian(basis(), PAIR)
    made = torrey.gaussian(torrey.laplace(*mesh, water), PAIR)
    assert abs(made - still * math.exp(-0.026 / 0.04)) <= 1e-12
    exact = torrey.signal(basis(), PAIR).real
    assert abs(still - exact) <= 0.05 * (1 - exact)


@pytest.mark.parametrize("x", WAVES.values(), ids=WAVES.keys())
def test_hadc_converges_to_the_complete_basis(x: Any) -> None:
    exact = torrey.apparent_diffusion(basis(), x)
    steps = 3 if x in (WAVES["cos"], WAVE) else 20
    errors = [
        abs(torrey.hadc(*MESH, WATER, x, n) / exact - 1) for n in (steps, 2 * steps)
    ]
    assert errors[1] <= 1e-3
    assert 3.5 <= errors[0] / errors[1] <= 5.5


def test_hadc_has_gradients_in_both_modes_under_maps() -> None:
    nodes, topology = MESH

    def f(points: Tensor, D: Tensor, kappa: Tensor, delta: Tensor) -> Tensor:
        water = replace(WATER, D=D, kappa=kappa)
        x = replace(PAIR, delta=delta)
        return torrey.hadc(torrey.Nodes(points=points), topology, water, x, 3)

    assert WATER.kappa is not None
    leaves = (nodes.points, WATER.D, WATER.kappa, PAIR.delta)
    reverse, forward = (d(f, (0, 1, 2, 3))(*leaves) for d in (jacrev, jacfwd))
    for k, (a, b) in enumerate(zip(reverse, forward, strict=True)):
        assert (a - b).abs().max() <= 1e-11 * a.abs().max()
        way = torch.linspace(1.0, 2.0, a.numel()).reshape(a.shape) * leaves[k]
        pair = [
            f(*(x + h * way if i == k else x for i, x in enumerate(leaves)))
            for h in (1e-4, -1e-4)
        ]
        wanted = (pair[0] - pair[1]) / 2e-4
        assert abs((a * way).sum() - wanted) <= 1e-6 * abs(wanted)
    many = torch.stack([PAIR.delta, 1.1 * PAIR.delta])
    made = vmap(lambda t: jacfwd(f)(*leaves[:3], t))(many)
    for t, row in zip(many, made, strict=True):
        assert (row - jacrev(f)(*leaves[:3], t)).abs().max() <= 1e-11
    with pytest.raises(NotImplementedError, match="order=2"):
        hessian(lambda t: f(*leaves[:3], t))(PAIR.delta)


def test_short_times_see_the_surface() -> None:
    nodes, topology = torrey.mesh_sphere([3e-3, 5e-3], size=1.5e-3)
    water = torrey.Water(D=torch.tensor([2e-3, 1e-3]))
    areas = torrey.surface_tensors(nodes, topology).diagonal(dim1=1, dim2=2).sum(-1)
    inner, outer = 4 * math.pi * 9e-6, 4 * math.pi * 25e-6
    assert (areas / torch.tensor([inner, inner + outer]) - 1).abs().max() <= 0.1
    delta, Delta = 1e-5, 3e-5
    x = torrey.PGSE(q=1e5, direction=U, delta=delta, Delta=Delta)
    powers = sum(s * t**3.5 for s, t in ((1, 4e-5), (1, 2e-5), (-2, 3e-5), (-2, 1e-5)))
    root = 4 / 35 * powers / (delta**2 * (Delta - delta / 3))
    volumes = torrey.compartment_volumes(nodes, topology)
    seen = torrey.surface_tensors(nodes, topology)
    share = torch.einsum("a,cab,b->c", x.direction, seen, x.direction) / volumes
    walls = 4 / (3 * math.sqrt(math.pi)) * water.D.sqrt() * root * share
    made = torrey.short_time(nodes, topology, water, x)
    assert (made - water.D * (1 - walls)).abs().max() <= 1e-12
    stronger = torrey.short_time(nodes, topology, water, replace(x, q=3 * x.q))
    assert (stronger / made - 1).abs().max() <= 1e-12  # whatever the strength
    exact = torrey.analytic(
        torrey.Sphere(radius=3e-3, degree=24),
        torrey.Water(D=2e-3),
        replace(x, q=torch.tensor(2e6)),
    )
    adc = -exact.real.log() / torrey.b_value(replace(x, q=torch.tensor(2e6)))
    assert abs(adc - made[0]) <= 0.15 * (2e-3 - made[0])


def test_adc_fits_know_polynomials() -> None:
    b = torch.linspace(0.0, 2000.0, 7)
    signals = torch.exp(-1.1e-3 * b + 0.3e-6 * b**2)
    assert abs(torrey.fit_adc(b, signals, 2) - 1.1e-3) <= 1e-12
    assert abs(torrey.fit_adc(b, signals) - 1.1e-3) >= 1e-4
    rows = torch.stack([signals, signals.square()])
    assert (
        vmap(lambda s: torrey.fit_adc(b, s, 2))(rows) / 1.1e-3
        - torch.tensor([1.0, 2.0])
    ).abs().max() <= 1e-9
    slope = grad(lambda s: torrey.fit_adc(b, s, 2))(signals)
    h = 1e-6 * signals
    wanted = torrey.fit_adc(b, signals + h, 2) - torrey.fit_adc(b, signals - h, 2)
    assert abs(slope @ (2 * h) - wanted) <= 1e-12
    with pytest.raises(ValueError, match="at least 3 samples"):
        torrey.fit_adc(b[:2], signals[:2], 2)


def test_tensor_fits_know_tensors() -> None:
    units = torch.nn.functional.normalize(
        torch.randn(12, 3, generator=torch.Generator().manual_seed(1)), dim=1
    )
    pairs = vmap(lambda u: torrey.with_b(replace(PAIR, direction=u), 700.0))(units)
    b = vmap(torrey.b_tensor)(pairs)
    D = torch.tensor([[1.2, 0.3, -0.1], [0.3, 0.8, 0.2], [-0.1, 0.2, 0.6]]) * 1e-3
    b = torch.cat([b, 0 * b[:1]])
    signals = 0.8 * torch.exp(-torch.einsum("nab,ab->n", b, D))
    made, S0 = torrey.fit_tensor(b, signals)
    assert (made - D).abs().max() <= 1e-14
    assert abs(S0 - 0.8) <= 1e-12
    with pytest.raises(ValueError, match="do not determine"):
        torrey.fit_tensor(b[:-1], signals[:-1])
    assert vmap(torrey.fit_tensor)(b[None, :-1], signals[None, :-1])[0].isnan().all()
    with pytest.raises(ValueError, match="at least 7 samples"):
        torrey.fit_tensor(b[:5], signals[:5])


def test_fits_of_signals_are_the_tensor_of_the_mesh() -> None:
    units = torch.nn.functional.normalize(
        torch.randn(10, 3, generator=torch.Generator().manual_seed(2)), dim=1
    )
    pairs = vmap(lambda u: torrey.with_b(replace(PAIR, direction=u), 1.0))(units)
    pairs = replace(pairs, q=torch.cat([0 * pairs.q[:1], pairs.q[1:]]))
    signals = vmap(torrey.signal, (None, 0))(basis(), pairs).real
    b = vmap(torrey.b_tensor)(pairs)
    made, _ = torrey.fit_tensor(b, signals)
    wanted = torrey.apparent_tensor(basis(), PAIR)
    assert (made - wanted).abs().max() <= 2e-3 * wanted.abs().max()
