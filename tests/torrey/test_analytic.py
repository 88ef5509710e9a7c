"""Slabs, cylinders and spheres: limits, symmetries, derivatives, refusals."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad, hessian, jacfwd, vmap

from mrsim import torrey
from mrsim.torrey import Cylinder, Slab, Sphere, Water
from mrsim.tree import put, replace

U = [0.48, 0.6, 0.64]
PAIR = torrey.PGSE(q=9e4, direction=U, delta=5e-3, Delta=20e-3)
WATER = Water(D=2e-3)
LAYERED = Water(D=[2e-3, 1e-3], T2=[0.04, 0.08], kappa=[0.05], rho=[1.0, 0.7])
SHAPES = {
    "slab": Slab(edges=[-3e-3, 4e-3], normal=[0.6, 0, 0.8], degree=10),
    "cylinder": Cylinder(radius=5e-3, axis=[0.6, 0, 0.8], degree=10),
    "sphere": Sphere(radius=5e-3, degree=10),
}
SINGLE = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())


def error(a: Tensor, b: Tensor | complex) -> float:
    return float((a - b).abs().max())


@SINGLE
def test_a_gradient_that_may_turn_gives_the_same_where_it_does_not(shape: Any) -> None:
    twice = torrey.DoublePGSE(q=9e4, direction=U, delta=5e-3, Delta=2e-2, pause=1e-3)
    same = replace(twice, direction2=twice.direction)
    made = [torrey.analytic(shape, WATER, x) for x in (twice, same)]
    assert error(made[0], made[1]) <= 1e-11
    g = 9e4 * torch.tensor(U)
    vectors = torch.stack([g, 0 * g, -g, 0 * g])
    times = [0.0, 5e-3, 20e-3, 25e-3]
    wave = torrey.Waveform(times=times, vectors=vectors, linear=False)
    made = [torrey.analytic(shape, WATER, x) for x in (PAIR, wave)]
    assert error(made[0], made[1]) <= 1e-11


def test_a_turning_gradient_in_a_sphere_does_not_care_for_the_frame() -> None:
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator()))[0]
    one, two = torch.eye(3)[0], torch.tensor([0.0, 0.6, 0.8])
    base = torrey.DoublePGSE(
        q=9e4, direction=one, direction2=two, delta=4e-3, Delta=6e-3, pause=1e-3
    )
    other = replace(base, direction=turn @ one, direction2=turn @ two)
    shape = put(SHAPES["sphere"], "degree", 6)
    made = [torrey.analytic(shape, WATER, x) for x in (base, other)]
    assert error(made[0], made[1]) <= 1e-10
    along = torrey.analytic(shape, WATER, replace(base, direction2=one))
    assert error(made[0], along) >= 1e-3


def test_diffusion_along_a_cylinder_and_a_slab_is_free() -> None:
    b = torrey.b_value(PAIR)
    cylinder, slab = Cylinder(radius=5e-3), Slab(edges=[0.0, 4e-3])
    for shape, way in ((cylinder, 2), (slab, 1)):
        x = replace(PAIR, direction=torch.eye(3)[way])
        assert error(torrey.analytic(shape, WATER, x), (-2e-3 * b).exp()) <= 1e-12
    layers = Cylinder(radius=[3e-3, 5e-3])
    water = replace(LAYERED, D=torch.tensor(2e-3), T2=None)
    x = replace(PAIR, direction=torch.eye(3)[2])
    assert error(torrey.analytic(layers, water, x), (-2e-3 * b).exp()) <= 1e-11


@SINGLE
def test_wide_walls_leave_diffusion_free(shape: Any) -> None:
    wide = put(shape, "edges" if isinstance(shape, Slab) else "radius", torch.ones(1))
    if isinstance(shape, Slab):
        wide = put(shape, "edges", torch.tensor([-0.02, 0.02]))
    else:
        wide = put(shape, "radius", torch.tensor(0.02))
    x = torrey.PGSE(q=2e4, direction=U, delta=1e-3, Delta=2e-3)
    exact = (-2e-3 * torrey.b_value(x)).exp()
    made = torrey.analytic(put(wide, "degree", 16), WATER, x)
    walls = 4 / (3 * math.sqrt(math.pi)) * math.sqrt(2e-3 * 2e-3) / 0.02 * 3
    assert error(made, exact) <= 1.5 * walls * float(1 - exact)
    assert error(made, exact) > 0


@pytest.mark.parametrize("kind", [Cylinder, Sphere])
def test_layers_that_do_not_exchange_are_strangers(kind: Any) -> None:
    x = replace(PAIR, direction=torch.eye(3)[0])
    both = torrey.analytic_layers(kind(radius=[3e-3, 5e-3], degree=12), WATER_2, x)
    inner = torrey.analytic(kind(radius=3e-3, degree=12), Water(D=2e-3, T2=0.04), x)
    share = (3 / 5) ** (2 if kind is Cylinder else 3)
    assert error(both[0], share * inner) <= 1e-10
    slab = Slab(edges=[0.0, 3e-3, 7e-3], degree=12)
    both = torrey.analytic_layers(slab, WATER_2, x)
    alone = torrey.analytic(
        Slab(edges=[0.0, 4e-3], degree=12), Water(D=1e-3, T2=0.08), x
    )
    assert error(both[1], 4 / 7 * alone) <= 1e-10


WATER_2 = Water(D=[2e-3, 1e-3], T2=[0.04, 0.08])


@pytest.mark.parametrize("kind", [Cylinder, Sphere])
def test_open_interfaces_are_no_interfaces(kind: Any) -> None:
    x = replace(PAIR, direction=torch.eye(3)[0])
    water = Water(D=2e-3, kappa=1e5)
    made = torrey.analytic(kind(radius=[3e-3, 5e-3], degree=12), water, x)
    assert error(made, torrey.analytic(kind(radius=5e-3, degree=12), WATER, x)) <= 1e-5


def test_relaxing_surfaces_take_the_slow_mode_of_brownstein_and_tarr() -> None:
    D, a, rho = 2e-3, 5e-3, 0.02
    rates = torrey.analytic_rates(Sphere(radius=a), Water(D=D, relaxivity=[rho]))
    k = (rates[0] / D).sqrt() * a
    assert abs(1 - k / torch.tan(k) - rho * a / D) <= 1e-9
    still = replace(PAIR, q=torch.tensor(0.0), TE=torch.tensor(1.0))
    made = [
        torrey.analytic(
            Sphere(radius=a), Water(D=D, relaxivity=[rho]), replace(still, TE=t)
        )
        for t in (torch.tensor(0.2), torch.tensor(0.3))
    ]
    assert error(made[1] / made[0], torch.exp(-0.1 * rates[0])) <= 1e-8


def test_relaxation_weighs_the_whole_echo_time() -> None:
    x = replace(PAIR, TE=torch.tensor(0.05), start=torch.tensor(0.002))
    for shape in SHAPES.values():
        made = torrey.analytic(shape, Water(D=2e-3, T2=0.04), x)
        wanted = torrey.analytic(shape, WATER, PAIR) * math.exp(-0.05 / 0.04)
        assert error(made, wanted) <= 1e-11


def test_the_error_estimate_is_one() -> None:
    x = torrey.CosOGSE(q=2e5, direction=U, delta=2e-2, Delta=2.5e-2, steps=2)
    sphere = put(SHAPES["sphere"], "degree", 6)
    exact = torrey.analytic(put(sphere, "degree", 14), WATER, put(x, "steps", 12))
    estimate = torrey.analytic_error(sphere, WATER, x)
    wrong = error(torrey.analytic(sphere, WATER, x), exact)
    assert wrong / 3 <= estimate <= 3 * wrong


def test_derivatives_where_eigenvalues_are_equal_are_finite_and_right() -> None:
    shape, x = Sphere(radius=[3e-3, 5e-3], degree=4), PAIR

    def f(kappa: Tensor) -> Tensor:
        return torrey.analytic(shape, replace(LAYERED, kappa=kappa), x).real

    zero, step = torch.zeros(1), 1e-4 * torch.ones(1)
    wanted = (-3 * f(zero) + 4 * f(step) - f(2 * step)) / 2e-4
    assert abs(grad(f)(zero) - wanted) <= 1e-4 * abs(wanted)
    assert abs(jacfwd(f)(zero) - grad(f)(zero)) <= 1e-10


def test_directions_along_the_axis_have_derivatives_of_every_order() -> None:
    shape = put(SHAPES["cylinder"], "degree", 6)
    axis = shape.axis
    assert axis is not None

    def f(direction: Tensor) -> Tensor:
        x = replace(PAIR, q=torch.tensor(4e5), direction=direction)
        return torrey.analytic(shape, WATER, x).real

    slope, bend = grad(f)(axis), hessian(f)(axis)
    across = torch.tensor([0.8, 0.0, -0.6])
    assert abs(slope @ across) <= 1e-12
    h = 1e-2 * across
    wanted = (f(axis + h) + f(axis - h) - 2 * f(axis)) / 1e-4
    assert abs(across @ bend @ across - wanted) <= 2e-3 * abs(wanted)


def test_gradients_along_unequal_layers_are_refused() -> None:
    shape = Cylinder(radius=[3e-3, 5e-3], degree=4)
    with pytest.raises(ValueError, match="along layers of different D"):
        torrey.analytic(shape, LAYERED, PAIR)
    x = replace(PAIR, direction=torch.eye(3)[0])
    both = torch.stack([x.direction, PAIR.direction])
    made = vmap(
        lambda u: torrey.analytic(shape, LAYERED, replace(PAIR, direction=u)).real
    )(both)
    assert made.isfinite().tolist() == [True, False]


def test_wrong_records_are_refused() -> None:
    with pytest.raises(TypeError, match="Slab, Cylinder or Sphere"):
        torrey.analytic(WATER, WATER, PAIR)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"kappa of 2 layers must have shape \(1,\)"):
        torrey.analytic(
            Sphere(radius=[3e-3, 5e-3]), replace(LAYERED, kappa=torch.ones(2)), PAIR
        )
    with pytest.raises(ValueError, match="map over geometries"):
        torrey.analytic(Sphere(radius=torch.ones(2, 2)), WATER, PAIR)
    with pytest.raises(ValueError, match="edges must have shape"):
        torrey.analytic(Slab(edges=1.0), WATER, PAIR)
    with pytest.raises(TypeError, match="float32"):
        torrey.analytic(Sphere(radius=torch.tensor(5e-3).float()), WATER, PAIR)
