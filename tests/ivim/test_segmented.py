"""The clinic's fit in two steps."""

import math

import pytest
import torch
from ivim.fit_data import NAMES, Q, column, phantom
from torch.func import vmap

from mrsim import ivim


def test_segmented_is_exact_where_blood_is_gone() -> None:
    q = ivim.Acquisition(b=[0.0, 10.0, 30.0, 60.0, 120.0, 400.0, 600.0, 800.0])
    truth = ivim.Biexp(
        S0=column(1.0, 500.0),
        f=column(0.1, 0.3),
        Dp=column(0.06, 0.09),
        D=column(1e-3, 2e-3),
    )
    y = vmap(ivim.signal, in_dims=(0, None))(truth, q)
    found = ivim.segmented(y, q).params
    for name in NAMES:
        made, wanted = getattr(found, name), getattr(truth, name)
        torch.testing.assert_close(made, wanted, rtol=1e-5, atol=0.0)


def test_segmented_meets_its_bounds_in_double_precision() -> None:
    y = ivim.signal(ivim.Biexp(S0=1.0, f=0.3, Dp=0.05, D=1e-3), Q)
    torch.set_default_dtype(torch.float32)  # in which 0.1 is above 0.1
    try:
        fit = ivim.segmented(y, Q, bounds={"f": (0.0, 0.1)})
    finally:
        torch.set_default_dtype(torch.float64)
    assert fit.params.f == 0.1
    assert fit.at_bound[1]


def test_segmented_survives_bad_signals(generator: torch.Generator) -> None:
    y, _ = phantom(4, 0.02, generator)
    good = ivim.segmented(y, Q).params
    y[1, -1], y[2, -3:], y[3, 0] = -0.1, -1.0, math.nan
    fit = ivim.segmented(y, Q)
    found = fit.params
    assert fit.converged.tolist() == [True, True, False, False]
    assert (fit.covariance[0].diagonal() > 0).all()
    torch.testing.assert_close(found.D[0], good.D[0])
    assert found.D[1].isfinite()
    assert found.D[2].isnan()
    assert found.Dp[3].isnan()
    with pytest.raises(ValueError, match="lower the threshold"):
        ivim.segmented(y, Q, threshold=700.0)
