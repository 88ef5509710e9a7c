"""Slope and curvature of a cost, and priors that are of no unknown's shape."""

import pytest
import torch
from torch.func import vmap

from mrsim import Tissue
from mrsim.fit import Prior, levenberg_marquardt
from mrsim.fit.local import products

TIMES = torch.tensor([0.01, 0.03, 0.08])


@pytest.mark.parametrize("unknowns", [1, 8, 9, 17])
def test_products_of_any_number_of_unknowns(
    unknowns: int, generator: torch.Generator
) -> None:
    j = torch.randn(4, 30, unknowns, generator=generator)
    r = torch.randn(4, 30, generator=generator)
    slope, curve = vmap(products)(j, r)
    wanted = torch.einsum("vsp,vs->vp", j, r), torch.einsum("vsp,vsq->vpq", j, j)
    torch.testing.assert_close((slope, curve), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["mean", "sd"])
def test_a_prior_has_the_shape_of_its_unknown(name: str) -> None:
    given = {"mean": 0.1, "sd": 0.1} | {name: torch.ones(3)}
    known = {"T2": Prior(**given)}
    fit = levenberg_marquardt(
        lambda x, t: (-t / x.T2).exp(), "T2", sigma=0.1, prior=known
    )
    with pytest.raises(ValueError, match=r"prior of T2 .* of its shape \(\)"):
        fit((-TIMES / 0.05).exp(), Tissue(T1=1.0, T2=0.04), TIMES)
