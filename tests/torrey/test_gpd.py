"""The Gaussian phase approximation: closed forms, limits, any waveform."""

import math
from typing import Any

import pytest
import torch
from torch.func import grad, jacfwd

from mrsim import torrey
from mrsim.torrey import Cylinder, Slab, Sphere, Water
from mrsim.torrey._gaussian_phase import roots
from mrsim.torrey.encoding_profile import pieces
from mrsim.torrey.exponents import exponents
from mrsim.tree import put, replace

X = [1.0, 0.0, 0.0]
PAIR = torrey.PGSE(q=9e4, direction=X, delta=5e-3, Delta=20e-3)
SHAPES = [Slab(edges=[0.0, 7e-3]), Cylinder(radius=5e-3), Sphere(radius=5e-3)]


@pytest.mark.parametrize(("dimension", "mean"), [(1, 3), (2, 4), (3, 5)])
def test_the_weights_sum_to_the_mean_square_position(dimension: int, mean: int) -> None:
    alpha = roots(dimension)
    total = (2 / (alpha**2 * (alpha**2 - (dimension - 1)))).sum()
    assert abs(total - 1 / mean) <= 2e-8


def test_pgse_is_the_formula_of_neuman() -> None:
    shape, D = Slab(edges=[0.0, 7e-3]), 2e-3
    n = torch.arange(400.0) * 2 + 1
    a2, rate = 8 * 7e-3**2 / (n * math.pi) ** 4, D * (n * math.pi / 7e-3) ** 2
    d, G = PAIR.delta, PAIR.Delta
    inner = 2 * rate * d - 2 + 2 * torch.exp(-rate * d) + 2 * torch.exp(-rate * G)
    inner = inner - torch.exp(-rate * (G - d)) - torch.exp(-rate * (G + d))
    wanted = torch.exp(-(PAIR.q**2) * (a2 * inner / rate**2).sum())
    assert abs(torrey.gaussian_phase(shape, Water(D=D), PAIR) - wanted) <= 1e-12


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: type(s).__name__)
def test_it_is_the_slope_of_the_exact_signal_at_weak_gradients(shape: Any) -> None:
    water = Water(D=2e-3, T2=0.05)
    for x in (
        replace(PAIR, q=torch.tensor(1e3), direction=torch.tensor([0.48, 0.6, 0.64])),
        torrey.CosOGSE(q=2e3, direction=X, delta=0.02, Delta=0.021, TE=0.05),
        torrey.Trapezoid(q=2e3, direction=X, delta=5e-3, Delta=9e-3, rise=1e-3),
    ):
        made = torrey.gaussian_phase(shape, water, x).log()
        still = torrey.analytic(shape, water, put(x, "q", 0 * x.q)).real.log()
        exact = torrey.analytic(shape, water, x).real.log()
        assert abs(made - exact) <= 1e-4 * abs(exact - still)


def test_waveforms_are_the_encodings_they_draw() -> None:
    wave = torrey.Waveform(
        times=[0.0, 5e-3, 20e-3, 25e-3],
        vectors=[[9e4, 0, 0], [0.0, 0, 0], [-9e4, 0, 0], [0.0, 0, 0]],
        linear=False,
    )
    for shape in SHAPES:
        made = torrey.gaussian_phase(shape, Water(D=2e-3), wave)
        wanted = torrey.gaussian_phase(shape, Water(D=2e-3), PAIR)
        assert abs(made - wanted) <= 1e-13


def test_exponents_are_exact_from_slow_to_fast_rates() -> None:
    played = pieces(torrey.profile(PAIR))
    rates = torch.tensor([0.0, 1e-9, 0.3, 49.99, 50.01, 1e7, 1e8])
    made = exponents(played, rates)[:, 0, 0]
    assert made[0] == 0
    assert abs(made[1] / (1e-9 * torrey.b_value(PAIR)) - 1) <= 1e-9
    fast = 2 * PAIR.q**2 * (PAIR.delta - 1 / rates[-2:]) / rates[-2:]
    assert ((made[-2:] / fast - 1).abs() <= 1e-7).all()
    near = torch.tensor([199.999, 200.001])
    assert abs(exponents(played, near)[:, 0, 0].diff()) <= 1e-5 * made[3]
    slope = jacfwd(lambda r: exponents(played, r)[0, 0, 0])
    for rate in (1e-9, 0.3, 200.0, 1e4):
        at = torch.tensor([rate])
        h = 1e-3 * max(rate, 1e-6)
        pair = exponents(played, torch.tensor([rate + h, rate - h]))[:, 0, 0]
        wanted = (pair[0] - pair[1]) / (2 * h)
        assert abs(slope(at)[0] - wanted) <= 1e-5 * abs(wanted)


def test_several_layers_and_relaxing_surfaces_are_refused() -> None:
    for shape, water in (
        (Sphere(radius=[3e-3, 5e-3]), Water(D=2e-3)),
        (Sphere(radius=5e-3), Water(D=2e-3, relaxivity=[0.01])),
    ):
        with pytest.raises(ValueError, match="one layer whose surface does not"):
            torrey.gaussian_phase(shape, water, PAIR)


def test_the_gradient_is_that_of_differences() -> None:
    def f(radius: torch.Tensor) -> torch.Tensor:
        return torrey.gaussian_phase(Sphere(radius=radius), Water(D=2e-3), PAIR)

    R, h = torch.tensor(5e-3), 1e-6
    assert abs(grad(f)(R) - (f(R + h) - f(R - h)) / (2 * h)) <= 1e-6 * abs(grad(f)(R))
