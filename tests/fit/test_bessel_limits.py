"""Bessel functions' order 0, and numbers of coils that no coil array has."""

import pytest
import torch
from torch.func import grad

from mrsim.fit import likelihood
from mrsim.fit.bessel import shortfall


@pytest.mark.parametrize("coils", [0, 0.5, -1])
def test_at_least_one_coil(coils: float) -> None:
    one = torch.ones(1)
    with pytest.raises(ValueError, match=f"integer of at least 1, got {coils}"):
        likelihood.noncentral_chi(one, one, 1.0, coils=coils)  # pyright: ignore


def test_one_coil_is_rice() -> None:
    m, s = torch.tensor([0.5, 1.0, 3.0]), torch.tensor([0.0, 2.0, 2.5])
    made = likelihood.noncentral_chi(m, s, 0.7, coils=1)
    torch.testing.assert_close(made, likelihood.rician(m, s, 0.7))


def test_the_shortfall_of_order_zero_at_every_size() -> None:
    """1 - I₁/I₀, small, in the middle and large, against the functions themselves."""
    x = torch.tensor([0.0, 1e-3, 0.3, 2.0, 9.0, 40.0, 300.0, 1e4])
    wanted = 1 - torch.special.i1e(x) / torch.special.i0e(x)
    made = shortfall(x, 0)
    torch.testing.assert_close(made, wanted, rtol=1e-9, atol=0)
    # (I₁/I₀)' = 1 - I₁/(x I₀) - (I₁/I₀)²
    for v in x[1:]:
        r = torch.special.i1e(v) / torch.special.i0e(v)
        slope = -(1 - r / v - r * r)
        made = grad(shortfall)(v, 0)
        torch.testing.assert_close(made, slope, rtol=1e-5, atol=1e-12)
