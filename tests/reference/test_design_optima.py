"""Golden optima: published-style design problems, and minima of least squares."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from golden import Case, load, params
from models import Samples, monoexp, spgr
from torch import Tensor
from torch.func import vmap

import mrsim
from mrsim import Tissue, design, epg
from mrsim.fit import levenberg_marquardt

FITS = load("design/nlls_fits")
FSE = params("design/design_problems_fse", "problems")
MRF = params("design/design_problems_mrf", "problems")


def spin_echo(case: Case) -> tuple[Callable[[Any], Tensor], epg.FSE, dict[str, Any]]:
    """Return the objective, the start, and the limits of a spin-echo problem."""
    limit = case["constraint"]
    tissue = Tissue(**case["params"])
    bound = mrsim.crlb(epg.fse, *case["unknown"], sigma=1.0)

    def objective(train: epg.FSE) -> Tensor:
        return getattr(bound(tissue, train), case["target"])

    start = epg.FSE(flip=case["start_flip_rad"], esp=case["ESP_s"])
    limits = {
        "bounds": {"flip": (limit["flip_min_rad"], limit["flip_max_rad"])},
        "constraints": (design.rms("flip", limit["rms_flip_max_rad"]),),
    }
    return objective, start, limits


def check_limits(case: Case, flip: Tensor) -> None:
    limit = case["constraint"]
    assert flip.min() >= limit["flip_min_rad"]
    assert flip.max() <= limit["flip_max_rad"]
    rms = float(flip.square().mean().sqrt())
    assert rms <= limit["rms_flip_max_rad"] * (1 + 1e-6)


@pytest.mark.parametrize("case", FSE)
def test_spin_echo_from_the_given_start(case: Case) -> None:
    objective, start, limits = spin_echo(case)
    found = design.minimise(objective, start, "flip", **limits)
    assert found.success
    assert found.start_value**0.5 == pytest.approx(case["start_sd_T2_s"], rel=1e-9)
    ratio = found.value / found.start_value
    assert ratio <= case["accept_variance_ratio_max_single_start"]
    check_limits(case, found.record.flip)


@pytest.mark.slow
@pytest.mark.parametrize("case", FSE)
def test_spin_echo_from_many_starts(case: Case, generator: torch.Generator) -> None:
    objective, start, limits = spin_echo(case)
    starts = design.random_starts(
        start, "flip", **limits, count=512, generator=generator
    )
    found = design.multistart(objective, starts, "flip", **limits)
    ratio = found[0].value / float(objective(start))
    assert ratio <= case["multistart_gate"]
    check_limits(case, found[0].record.flip)


@pytest.mark.slow
@pytest.mark.parametrize("case", MRF)
def test_fingerprinting_schedule(case: Case) -> None:
    limit = case["constraint"]
    low, high = limit["flip_min_rad"], limit["flip_max_rad"]
    tissue = Tissue(**case["params"])
    unknown = case["unknown"]

    def objective(train: epg.FISP) -> Tensor:
        v = mrsim.crlb(epg.fisp, *unknown, sigma=1.0)(tissue, train)
        return v.T1 / tissue.T1**2 + v.T2 / tissue.T2**2

    def smooth(train: epg.FISP) -> Tensor:
        flip = design.spline(train.flip, case["N"])
        return objective(mrsim.replace(train, flip=flip))

    times = {"TR": case["TR_s"], "TE": case["TE_s"], "TI": case["TI_s"]}
    given = epg.FISP(flip=case["start_flip_rad"], **times)
    value = float(objective(given))
    assert value == pytest.approx(case["start_objective"], rel=1e-7)
    coefficients = design.spline_fit(given.flip, 24).clamp(low, high)
    found = design.minimise(
        smooth,
        mrsim.replace(given, flip=coefficients),
        "flip",
        bounds={"flip": (low, high)},
        tolerance=1e-6,
    )
    assert found.value / value <= case["accept_ratio_max"]
    flip = design.spline(found.record.flip, case["N"])
    assert flip.min() >= low * (1 - 1e-12)
    assert flip.max() <= high * (1 + 1e-12)


def fse_real(tissue: Tissue, train: epg.FSE) -> Tensor:
    return epg.fse(tissue, train).real


def problem(name: str, protocol: Case) -> tuple[Any, ...]:
    """Return the model, a poor start, its bounds, and the model's arguments."""
    if name == "monoexp_T2":
        start = Tissue(T1=1.0, T2=0.3, M0=1.0)
        return monoexp, start, {"T2": (1e-3, 5.0)}, (Samples(x=protocol["TE_s"]),)
    if name == "vfa_T1_with_B1":
        start = Tissue(T1=0.3, T2=0.1, M0=5.0)
        samples = Samples(x=protocol["flip_rad"], TR=protocol["TR_s"])
        return spgr, start, {"T1": (0.01, 20.0)}, (samples,)
    train = epg.FSE(flip=protocol["flip_rad"], esp=protocol["ESP_s"])
    start = Tissue(T1=protocol["T1_fixed_s"], T2=0.04, M0=0.3, B1=0.75)
    return fse_real, start, {"T2": (1e-3, 1.0), "B1": (0.5, 1.1)}, (train,)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["f64", "f32"])
@pytest.mark.parametrize("name", FITS["fits"])
def test_least_squares_minimum(name: str, dtype: torch.dtype) -> None:
    case = FITS["fits"][name]
    data = torch.tensor(case["data"], dtype=dtype)
    model, start, bounds, args = problem(name, case["design"])
    starts = mrsim.expand(start, len(data))
    if "B1" in case:
        starts = mrsim.replace(starts, B1=torch.tensor(case["B1"]))
    starts, args = mrsim.to((starts, args), dtype=dtype)
    fit = levenberg_marquardt(model, *case["param_order"], bounds=bounds)
    found = vmap(fit, in_dims=(0, 0) + (None,) * len(args))(data, starts, *args)
    made = torch.stack([getattr(found.params, n) for n in case["param_order"]], 1)
    wanted = torch.tensor(case["nlls_minimiser"])
    assert found.converged.all()
    assert not found.at_bound.any()
    single = dtype == torch.float32
    torch.testing.assert_close(
        made.double(), wanted, rtol=1e-3 if single else FITS["rtol"], atol=0
    )
    torch.testing.assert_close(
        2 * found.cost.double(),
        torch.tensor(case["sum_sq"]),
        rtol=1e-2 if single else 1e-6,
        atol=1e-8 if single else 1e-14,
    )
