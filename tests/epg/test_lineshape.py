"""Absorption lines of semisolid pools."""

import json
import math

import pytest
import torch
from golden import folder
from hypothesis import given, settings, strategies as st
from strategies import log_uniform
from torch import Tensor
from torch.func import grad, hessian, jacfwd, jacrev, vmap

from mrsim.epg.lineshape import absorption

SHAPES = ("superlorentzian", "lorentzian", "gaussian")
widths = log_uniform(5e-6, 50e-6)


def t(x: float) -> Tensor:
    return torch.tensor(x)


def integral(x: float, power: int = 0) -> float:
    """Return ∫_0^1 √(2/π)/w·w^-2n exp(-2x²/w²) du, w = |3u²-1|, by tanh-sinh panels."""
    h, total = 2.0**-7, 0.0
    magic = 1 / math.sqrt(3)
    for low, high in ((0.0, magic), (magic, 1.0)):
        for k in range(-500, 501):
            s = math.pi / 2 * math.sinh(k * h)
            near = 1 / (1 + math.exp(2 * s)) if s < 300 else 0.0  # distance from high
            far = 1 / (1 + math.exp(-2 * s)) if s > -300 else 0.0
            u = low + (high - low) * far
            if high == magic:  # w from the distance: no cancellation
                w = 3 * (high - low) * near * (magic + u)
            else:
                w = 3 * (high - low) * far * (magic + u)
            if w <= x / 30:
                continue
            step = (high - low) * 2 * near * far * math.pi / 2 * math.cosh(k * h) * h
            value = math.sqrt(2 / math.pi) / w * math.exp(-2 * (x / w) ** 2)
            total += step * value / w ** (2 * power)
    return total


def superlorentzian_data() -> list[tuple[float, float, float]]:
    data = json.loads(folder("epg/superlorentzian.json").read_text())
    rows = zip(data["T2b_s"], data["G_s"], strict=True)
    return [
        (f, T2, G) for T2, row in rows for f, G in zip(data["f_Hz"], row, strict=True)
    ]


@pytest.mark.parametrize(("f", "T2", "G"), superlorentzian_data())
def test_superlorentzian_is_the_reference(f: float, T2: float, G: float) -> None:
    made = absorption(t(f), t(T2), "superlorentzian")
    assert abs(made / G - 1) < 1e-10
    assert abs(T2 * integral(2 * math.pi * f * T2) / G - 1) < 1e-10


@settings(max_examples=10)
@given(log_uniform(0.012, 3.5))
def test_superlorentzian_and_its_derivative_are_the_integrals(x: float) -> None:
    f = t(1e6)  # far beyond the cut
    T2 = t(x) / (2 * math.pi * f)
    made = absorption(f, T2, "superlorentzian") / T2
    assert abs(made / integral(x) - 1) < 1e-9
    slope = grad(lambda f: absorption(f, T2, "superlorentzian"))(f) / T2
    wanted = -4 * x * integral(x, 1) * 2 * math.pi * T2
    assert abs(slope / wanted - 1) < 1e-7


@given(widths, st.sampled_from(SHAPES))
def test_lines_are_normalised_over_the_angular_frequency(T2: float, line: str) -> None:
    v = torch.linspace(-13.8, 13.8, 4001)  # f = sinh: dense near resonance
    f = 1e3 * v.sinh()
    G = absorption(f, t(T2), line)
    area = torch.trapezoid(2 * math.pi * G * 1e3 * v.cosh(), v)
    # the continuation takes some of the divergent peak: 4.7 % with 10 µs
    assert abs(area - 1) < (5e3 * T2 if line == "superlorentzian" else 1e-4)


@given(st.floats(-3e4, 3e4), widths, st.sampled_from(SHAPES))
def test_lines_are_even_positive_and_finite(f: float, T2: float, line: str) -> None:
    made = absorption(t(f), t(T2), line)
    assert made >= 0
    assert made.isfinite()
    assert made == absorption(t(-f), t(T2), line)


@pytest.mark.parametrize("line", SHAPES)
def test_closed_values_on_resonance(line: str) -> None:
    T2, zero = t(12e-6), t(0.0)
    made = absorption(zero, T2, line)
    wanted = {
        "lorentzian": 12e-6 / math.pi,
        "gaussian": 12e-6 / math.sqrt(2 * math.pi),
        "superlorentzian": 1.66927e-5,
    }[line]
    assert abs(made / wanted - 1) < 1e-5
    slope, curve = (f(lambda o: absorption(o, T2, line))(zero) for f in (grad, hessian))
    assert slope == 0
    assert curve < 0


@given(widths)
def test_continuation_is_smooth_at_the_cut(T2: float) -> None:
    def line(o: Tensor) -> Tensor:
        return absorption(o, t(T2), "superlorentzian")

    cut = t(1500.0)
    for f in (line, grad(line), hessian(line)):
        below, at, above = f(cut - 1e-6), f(cut), f(cut + 1e-6)
        assert abs(below / above - 1) < 1e-8
        assert abs(at / above - 1) < 1e-8


@settings(max_examples=12)
@given(st.floats(-2e4, 2e4), widths, st.sampled_from(SHAPES))
def test_derivatives_of_every_mode_and_order(f: float, T2: float, line: str) -> None:
    def value(o: Tensor, u: Tensor) -> Tensor:  # both of order one
        return 1e5 * absorption(1e4 * o, 1e-5 * u, line)

    args = t(f / 1e4), t(T2 / 1e-5)
    both = (0, 1)
    forward, reverse = jacfwd(value, both)(*args), jacrev(value, both)(*args)
    many = tuple(torch.stack([x, 0.9 * x]) for x in args)
    mapped = vmap(jacfwd(value, both))(*many)
    step = 1e-5
    for k in both:
        assert abs(forward[k] - reverse[k]) < 1e-12
        assert abs(forward[k] - mapped[k][0]) < 1e-12
        up, down = (
            [a + s * (i == k) for i, a in enumerate(args)] for s in (step, -step)
        )
        assert abs((value(*up) - value(*down)) / (2 * step) - forward[k]) < 1e-6
        up, down = (jacrev(value, both)(*x) for x in (up, down))
        for m in both:
            twice = jacfwd(jacrev(value, m), k)(*args)
            gap = abs((up[m] - down[m]) / (2 * step) - twice)
            edge = abs(abs(f) - 1500) < 1  # third derivatives jump at the cut
            assert gap < (1e-2 if edge else 1e-5)
    third = jacfwd(jacfwd(jacrev(value, 1), 1), 0)(*args)
    assert third.isfinite()


@pytest.mark.parametrize("line", SHAPES)
def test_shapes_broadcast_and_single_precision_holds(line: str) -> None:
    f, T2 = torch.tensor([0.0, 1e3, 5e3]), torch.tensor([9e-6, 14e-6])
    made = absorption(f[:, None], T2, line)
    assert made.shape == (3, 2)
    one = absorption(f[1], T2[0], line)
    assert made[1, 0] == one or abs(made[1, 0] / one - 1) < 1e-14
    small = absorption(f.float()[:, None], T2.float(), line)
    assert small.dtype == torch.float32
    assert (small / made - 1).abs().max() < 2e-5
    tangent = jacfwd(lambda x: absorption(f[2].float(), x, line))(T2[0].float())
    assert tangent.dtype == torch.float32
    inner = vmap(lambda a: vmap(lambda b: absorption(a, b, line))(T2))(f)
    assert (inner / made - 1).abs().max() < 1e-14


def test_the_width_of_nothing_absorbs_nothing() -> None:
    for line in SHAPES:
        made = absorption(t(2e3), torch.tensor([1e-9, 1e-12, 0.0]), line)
        assert (made <= torch.tensor([1e-7, 1e-10, 0.0])).all()


def test_unknown_lines_are_refused() -> None:
    with pytest.raises(ValueError, match="no lineshape 'voigt'; choose one of superl"):
        absorption(t(0.0), t(1e-5), "voigt")
