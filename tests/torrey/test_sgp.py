"""Short gradient pulses: series, operators, limits."""

import pytest
import torch
from torch.func import grad, hessian

from mrsim import torrey
from mrsim.torrey import Cylinder, Slab, Sphere, Water
from mrsim.torrey._short_pulse import form_factor
from mrsim.torrey.geometry import Shape
from mrsim.tree import replace

U = [0.48, 0.6, 0.64]
PULSE = torrey.PGSE(q=6e5, direction=U, delta=1e-3, Delta=8e-3)
SHAPES = [
    Slab(edges=[-3e-3, 4e-3], normal=[0.6, 0, 0.8]),
    Cylinder(radius=4e-3),
    Sphere(radius=5e-3),
]
KINDS = pytest.mark.parametrize("shape", SHAPES, ids=lambda s: type(s).__name__)


@KINDS
def test_short_pulses_are_the_limit_of_pgse(shape: Shape) -> None:
    water = Water(D=2e-3)
    wanted = torrey.short_pulse(shape, water, PULSE)
    errors = []
    for scale in (1e-2, 1e-3):
        x = replace(PULSE, q=PULSE.q / scale, delta=PULSE.delta * scale)
        errors.append(float((torrey.analytic(shape, water, x) - wanted).abs()))
    assert errors[0] <= 2e-2
    assert errors[1] <= 0.15 * errors[0]


def test_the_series_of_a_slab_is_its_operator() -> None:
    water = Water(D=2e-3, T2=0.05)
    slow = replace(water, relaxivity=torch.zeros(2))
    for q in (0.0, 6e5, torch.pi / 7e-3 / 1e-3):
        x = replace(PULSE, q=torch.tensor(q))
        series = torrey.short_pulse(SHAPES[0], water, x)
        assert abs(series - torrey.short_pulse(SHAPES[0], slow, x)) <= 1e-11


@KINDS
def test_long_times_give_the_form_factor(shape: Shape) -> None:
    x = replace(PULSE, Delta=torch.tensor(0.3), direction=torch.tensor(U))
    across = replace(x, direction=torch.tensor([1.0, 0.0, 0.0]))
    shape = replace(shape, normal=None) if isinstance(shape, Slab) else shape
    made = torrey.short_pulse(shape, Water(D=2e-3), across)
    assert abs(made - torrey.short_pulse_limit(shape, across)) <= 1e-11


@pytest.mark.parametrize("dimension", [1, 2, 3])
def test_the_form_factor_is_smooth_and_even(dimension: int) -> None:
    y = torch.tensor([0.999999, 1.000001])
    near, far = form_factor(dimension, y)
    slope = grad(lambda v: form_factor(dimension, v))(y[0])
    assert abs(far - near - 2e-6 * slope) <= 1e-11
    zero = torch.tensor(0.0)
    wanted = -1 / (2 * (dimension + 2)), 1 / (4 * (dimension + 2) * (dimension + 4))
    assert abs(grad(lambda v: form_factor(dimension, v))(zero) - wanted[0]) <= 1e-15
    bend = hessian(lambda v: form_factor(dimension, v))(zero)
    assert abs(bend - wanted[1]) <= 1e-15


def test_the_form_factor_of_a_circle_is_bessels() -> None:
    x = torch.tensor([1.5, 30.0, 390.0, 410.0])
    made = form_factor(2, x**2)
    wanted = 2 * torch.special.bessel_j1(x) / x
    assert (made - wanted)[:3].abs().max() <= 1e-7  # torch's Bessel function errs so
    assert made[3].isnan()
