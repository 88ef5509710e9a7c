"""IVIM fits against exact least squares, the oracle posterior and OSIPI's organs.

Cases are discovered in the files: new ones of the same format are checked too.
"""

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from golden import folder, load
from torch import Tensor

import mrsim
from mrsim import ivim

Data = dict[str, np.ndarray]
NAMES = ("f", "Dp", "D")
FIRST = 250  # voxels of the larger tests, also of a larger set


@cache
def arrays(name: str) -> Data:
    with np.load(folder("ivim") / f"{name}.npz") as file:
        return dict(file)


def levels(name: str) -> list[Any]:
    snr = arrays(name)["snr"]
    return [pytest.param(k, id=f"snr{x:g}") for k, x in enumerate(snr)]


def noisy(name: str, k: int, count: int = FIRST) -> tuple[Tensor, ivim.Acquisition]:
    data = arrays(name)
    y = torch.tensor(data["signal"][k, :count]).double()
    return y, ivim.Acquisition(b=torch.tensor(data["b"]))


def exact(k: int) -> tuple[Tensor, dict[str, tuple[float, float]]]:
    data = arrays("reference_fits")
    ends = zip(data["bounds_lo"], data["bounds_hi"], strict=True)
    box = dict(zip(data["param_names"], ends, strict=True))
    return torch.tensor(data["exact_lsq_cost"][k]), box


def excess(fit: Any, cost: Tensor) -> Tensor:
    return 2 * fit.cost / cost - 1


def error(params: Any, truth: np.ndarray, name: str) -> Tensor:
    column = torch.tensor(truth[..., NAMES.index(name)])
    return getattr(params, name) - column


# ------------------------------------------------------- exact least squares


@pytest.mark.parametrize("k", levels("reference_fits"))
@pytest.mark.parametrize("method", [ivim.varpro, ivim.least_squares])
def test_one_start_finds_the_exact_cost_in_most_voxels(method: Any, k: int) -> None:
    cost, box = exact(k)
    y, q = noisy("noisy_gauss", k, len(cost))
    found = excess(method(y, q, bounds=box), cost)
    assert (found <= 1e-3).double().mean() >= 0.95


@pytest.mark.parametrize("k", levels("reference_fits"))
def test_several_starts_find_the_exact_minimum(k: int) -> None:
    cost, box = exact(k)
    y, q = noisy("noisy_gauss", k, len(cost))
    found = ivim.varpro(y, q, bounds=box, starts=4, iterations=50)
    off = excess(found, cost)
    wanted = 0.99 if arrays("reference_fits")["snr"][k] >= 25 else 0.98
    assert (off <= 1e-9).double().mean() >= wanted
    assert off.amax() <= 0.05
    loose = excess(ivim.least_squares(y, q, bounds=box, starts=3), cost)
    assert (loose <= 1e-3).double().mean() >= 0.99


@pytest.mark.parametrize("k", levels("reference_fits"))
def test_single_precision_reaches_the_same_cost(k: int) -> None:
    cost, box = exact(k)
    y, q = noisy("noisy_gauss", k, len(cost))
    single = ivim.varpro(y.float(), mrsim.to(q, torch.float32), bounds=box)
    p = mrsim.to(single.params, torch.float64)
    model = torch.func.vmap(ivim.signal, in_dims=(0, None))(p, q)
    off = (model - y).square().sum(-1) / cost - 1
    assert (off <= 1e-3).double().mean() >= 0.95
    assert single.cost.dtype == single.covariance.dtype == torch.float32


# ------------------------------------------------------------ the posterior


@pytest.mark.parametrize("k", levels("reference_fits"))
def test_grid_posterior_is_the_oracle(k: int) -> None:
    data, count = arrays("reference_fits"), 10
    size = int(data["oracle_grid"][k])
    share = (torch.arange(size) + 0.5) / size
    points = mrsim.grid(
        ivim.Biexp(S0=1.0, f=0.1, Dp=0.01, D=0.001),
        f=0.05 + 0.5 * share,
        Dp=0.01 + 0.09 * share,
        D=0.0005 + 0.0025 * share,
    )
    y, q = noisy("noisy_gauss", k, count)
    found = ivim.grid_posterior(y, q, points, sigma=1 / data["snr"][k])
    for kind in ("mean", "sd"):
        for i, name in enumerate(data["oracle_names"]):
            wanted = torch.tensor(data[f"oracle_{kind}"][k, :count, i]).double()
            made = getattr(getattr(found, kind), name)
            torch.testing.assert_close(made, wanted, rtol=1e-7, atol=5e-8)


@pytest.mark.parametrize("k", levels("noisy_gauss")[::2])  # seconds each
def test_posterior_mode_beats_least_squares(k: int) -> None:
    y, q = noisy("noisy_gauss", k, FIRST // 2)
    truth = arrays("noisy_gauss")["truth"][k, : len(y)]
    plain = ivim.varpro(y, q, starts=2)
    found = ivim.posterior_mode(y, q)
    for i, name in enumerate(NAMES):
        off = error(found.params, truth, name)
        assert off.square().mean() < error(plain.params, truth, name).square().mean()
        sd = found.covariance.diagonal(dim1=-2, dim2=-1).sqrt()[:, i + 1]
        assert 0.45 < (off.abs() <= sd).double().mean() < 0.8


# ------------------------------------------------------------- Rician noise


@pytest.mark.parametrize("k", levels("noisy_rician"))
def test_likelihood_removes_the_bias_of_magnitudes(k: int) -> None:
    y, q = noisy("noisy_rician", k)
    snr = arrays("noisy_rician")["snr"][k]
    truth = arrays("noisy_rician")["truth"][k, : len(y)]
    plain = ivim.varpro(y, q, starts=2)
    found = ivim.maximum_likelihood(y, q, sigma=1 / snr, starts=3)
    assert (
        error(found.params, truth, "D").mean() > error(plain.params, truth, "D").mean()
    )
    model = torch.func.vmap(ivim.signal, in_dims=(0, None))
    likely = -ivim.rician(y, model(plain.params, q), 1 / snr).sum(-1)
    lower = (found.cost <= likely + 1e-6).double().mean()
    assert lower >= 0.97
    assert found.converged.double().mean() >= 0.9
    assert abs(sigma_of(y, q) * snr - 1) < 0.05


def sigma_of(y: Tensor, q: ivim.Acquisition) -> float:
    """Return the sigma that the fit estimates: the covariance scales with it."""
    unknown = ivim.maximum_likelihood(y, q)
    p, names = unknown.params, ("S0", "f", "Dp", "D")
    bound = torch.func.vmap(
        lambda p: mrsim.covariance(ivim.fisher(*names, sigma=1e-3)(p, q))
    )
    ratio = unknown.covariance[:, 0, 0] / bound(p)[:, 0, 0]
    return 1e-3 * float(ratio.nanmedian().sqrt())


# ----------------------------------------------------------- OSIPI's organs

ORGANS = load("ivim/osipi_organs")


def organs(quiet: bool) -> list[Any]:
    return [
        pytest.param(case, o, id=f"{name}-{o['name'].replace(' ', '_')}-{i}")
        for name, case in ORGANS["sets"].items()
        for i, o in enumerate(case["organs"])
        if (o["noise"] <= 1e-3) == quiet
    ]


def fitted(case: Any, organ: Any, method: Any) -> Any:
    y = torch.tensor(organ["data"])
    box = {"S0": (0.7, 1.3), "Dp": (0.01 if organ["f"] == 0 else 0.005, 0.2)}
    q = ivim.Acquisition(b=case["bvalues"])
    return method(y / y[0], q, bounds=box).params


def least_squares(y: Tensor, q: ivim.Acquisition, **options: Any) -> Any:
    return ivim.least_squares(y, q, starts=3, **options)


def varpro(y: Tensor, q: ivim.Acquisition, **options: Any) -> Any:
    return ivim.varpro(y, q, starts=3, iterations=30, **options)


def misses(p: Any, organ: Any, atol: dict[str, float], rtol: dict[str, float]) -> Any:
    checked = {"f": True, "D": organ["f"] < 0.8, "Dp": organ["f"] > 0.03}
    return {
        n: (float(getattr(p, n)), organ[n])
        for n in NAMES
        if checked[n]
        and abs(float(getattr(p, n)) - organ[n]) > atol[n] + rtol[n] * abs(organ[n])
    }


@pytest.mark.parametrize("method", [varpro, least_squares])
@pytest.mark.parametrize(("case", "organ"), organs(quiet=True))
def test_organs_pass_osipis_rule(case: Any, organ: Any, method: Any) -> None:
    rule = ORGANS["tolerance_rule"]
    p = fitted(case, organ, method)
    assert not misses(p, organ, rule["default_atol"], rule["default_rtol"])


TIGHT = {"f": 0.01, "Dp": 0.0, "D": 0.0}, {"f": 0.02, "Dp": 0.1, "D": 0.02}


@pytest.mark.parametrize(("case", "organ"), organs(quiet=True))
def test_organs_pass_the_tight_rule(case: Any, organ: Any) -> None:
    """Where they do not, the truth itself costs more than what is found."""
    p = fitted(case, organ, varpro)
    if misses(p, organ, *TIGHT):
        y = torch.tensor(organ["data"])
        q = ivim.Acquisition(b=case["bvalues"])
        truth = ivim.Biexp(S0=1 / y[0], **{n: organ[n] for n in NAMES})
        cost = [(ivim.signal(x, q) - y / y[0]).square().sum() for x in (p, truth)]
        assert cost[0] <= cost[1]
        pytest.skip("exact least squares fails it too")


def test_few_noisy_organs_fail() -> None:
    rule = ORGANS["tolerance_rule"]
    fails = [
        bool(
            misses(fitted(c, o, varpro), o, rule["default_atol"], rule["default_rtol"])
        )
        for c, o in (x.values for x in organs(quiet=False))
    ]
    assert sum(fails) <= 2


# ------------------------------------------- the image of Barbieri's notebook


@pytest.mark.parametrize("k", range(2))
def test_seed_image(k: int) -> None:
    data = arrays("seed_image")
    y = torch.tensor(data["dwi"][k]).double()[::3, ::3]
    q = ivim.Acquisition(b=torch.tensor(data["b"]))
    truth = np.stack([data[n] for n in NAMES], -1)[::3, ::3]
    plain = ivim.varpro(y, q, starts=2)
    mode = ivim.posterior_mode(y, q)
    wanted = [(0.0145, 0.0080, 3.9e-5), (0.085, 0.055, 2.2e-4)][k]
    for name, most in zip(NAMES, wanted, strict=True):
        rmse = error(plain.params, truth, name).square().mean().sqrt()
        assert rmse < most
        better = error(mode.params, truth, name).square().mean().sqrt()
        assert better < rmse
    assert plain.params.f.shape == y.shape[:-1]
