"""Splines: smooth schedules from few coefficients."""

import pytest
import torch
from hypothesis import given, strategies as st
from scipy.interpolate import BSpline
from torch.func import vmap

from mrsim import design


@pytest.mark.parametrize(("n", "k"), [(400, 24), (16, 5), (7, 4), (50, 50), (9, 6)])
def test_spline_is_the_clamped_cubic_b_spline(
    n: int, k: int, generator: torch.Generator
) -> None:
    inner = torch.linspace(0, n - 1, k - 2)
    knots = torch.cat([inner[:1].expand(3), inner, inner[-1:].expand(3)]).numpy()
    c = torch.randn(k, generator=generator)
    expected = BSpline(knots, c.numpy(), 3)(torch.arange(n).numpy())
    torch.testing.assert_close(
        design.spline(c, n), torch.tensor(expected), rtol=0, atol=1e-12
    )


@given(st.integers(4, 12), st.integers(2, 40))
def test_spline_stays_between_its_coefficients(k: int, n: int) -> None:
    basis = design.spline(torch.eye(k), n).mT
    assert (basis >= 0).all()
    torch.testing.assert_close(basis.sum(1), torch.ones(n))


def test_spline_fit_inverts_and_is_nearest(generator: torch.Generator) -> None:
    c = torch.randn(3, 6, generator=generator)
    torch.testing.assert_close(design.spline_fit(design.spline(c, 30), 6), c)
    x = torch.randn(30, generator=generator)
    basis = design.spline(torch.eye(6), 30).mT
    rest = x - design.spline(design.spline_fit(x, 6), 30)
    assert (basis.mT @ rest).abs().max() < 1e-12


def test_spline_keeps_dtype_and_composes_with_transforms() -> None:
    c = torch.linspace(0, 1, 5)
    assert design.spline(c.float(), 9).dtype == torch.float32
    assert design.spline_fit(torch.ones(9).float(), 5).dtype == torch.float32
    slopes = torch.func.jacfwd(lambda c: design.spline(c, 9))(c)
    torch.testing.assert_close(slopes, design.spline(torch.eye(5), 9).mT)
    batch = torch.stack([c, 2 * c])
    mapped = vmap(lambda c: design.spline_fit(design.spline(c, 9), 5))(batch)
    torch.testing.assert_close(mapped, batch)


def test_spline_explains_what_it_needs() -> None:
    with pytest.raises(ValueError, match="at least 4 coefficients"):
        design.spline(torch.ones(3), 10)
    with pytest.raises(ValueError, match="ask for at most 5"):
        design.spline_fit(torch.ones(5), 6)
    for call in (design.spline, design.spline_fit):  # would round the basis
        with pytest.raises(TypeError, match="floating-point"):
            call(torch.arange(8), 5)
