"""Design problems and fits with known results, solved by the public optimisers."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from golden import Case, load, params
from models import Samples, Voxel, monoexp, spgr
from torch import Tensor
from torch.func import vmap

import mrsim
from mrsim import Tissue, design, epg, fit


def train(case: Case) -> tuple[epg.FSE, Callable[[Any], Tensor], dict[str, Any]]:
    """Return a problem's start, objective and limits."""
    tissue, limit = Tissue(**case["params"]), case["constraint"]
    start = epg.FSE(
        flip=case["start_flip_rad"], esp=case["ESP_s"], excitation=case["excitation_rad"]
    )
    bound = mrsim.crlb(epg.fse, *case["unknown"], sigma=1.0)
    limits = {
        "bounds": {"flip": (limit["flip_min_rad"], limit["flip_max_rad"])},
        "constraints": (design.rms("flip", limit["rms_flip_max_rad"]),),
    }
    return start, lambda q: getattr(bound(tissue, q), case["target"]), limits


def check_limits(flip: Tensor, limit: dict[str, float]) -> None:
    assert flip.min() >= limit["flip_min_rad"]
    assert flip.max() <= limit["flip_max_rad"]
    assert flip.square().mean().sqrt() <= limit["rms_flip_max_rad"] * (1 + 1e-6)


@pytest.mark.parametrize("case", params("design/design_problems_fse", "problems"))
def test_train_from_the_given_start(case: Case) -> None:
    start, cost, limits = train(case)
    found = design.minimise(cost, start, "flip", **limits)
    ratio = found.value / case["start_sd_T2_s"] ** 2
    assert ratio <= case["accept_variance_ratio_max_single_start"]
    assert found.value == pytest.approx(float(cost(found.record)), rel=1e-12)
    check_limits(found.record.flip, case["constraint"])


@pytest.mark.slow
@pytest.mark.parametrize("case", params("design/design_problems_fse", "problems"))
def test_train_from_many_starts(case: Case, generator: torch.Generator) -> None:
    start, cost, limits = train(case)
    starts = design.random_starts(
        start, "flip", **limits, count=256, generator=generator
    )
    found = design.multistart(cost, starts, "flip", **limits, polish=2)[0]
    gate = case.get("multistart_gate", case["accept_variance_ratio_max_multistart"])
    assert found.value / case["start_sd_T2_s"] ** 2 <= gate
    check_limits(found.record.flip, case["constraint"])


@pytest.mark.slow
@pytest.mark.parametrize("case", params("design/design_problems_mrf", "problems"))
def test_fingerprinting_schedule(case: Case) -> None:
    tissue, limit, count = Tissue(**case["params"]), case["constraint"], case["N"]
    bound = mrsim.crlb(epg.fisp, *case["unknown"], sigma=1.0)

    def objective(s: Samples) -> Tensor:
        seq = epg.FISP(
            flip=design.spline(s.x, count),
            TR=case["TR_s"],
            TE=case["TE_s"],
            TI=case["TI_s"],
        )
        variance = bound(tissue, seq)
        return variance.T1 / tissue.T1**2 + variance.T2 / tissue.T2**2

    lowest, highest = limit["flip_min_rad"], limit["flip_max_rad"]
    start = design.spline_fit(torch.tensor(case["start_flip_rad"]), 24)
    found = design.minimise(
        objective,
        Samples(x=start.clamp(lowest, highest)),
        "x",
        bounds={"x": (lowest, highest)},
        iterations=60,
        tolerance=1e-4,
    )
    assert found.value / case["start_objective"] <= case["accept_ratio_max"]
    assert found.record.x.min() >= lowest
    assert found.record.x.max() <= highest


FITS = load("design/nlls_fits")["fits"]


def fits(name: str, case: Case) -> Any:
    """Fit all voxels of a case from one poor start."""
    data, d = torch.tensor(case["data"]), case["design"]
    if name.startswith("monoexp"):
        start, seq = Voxel(M0=1.0, T2=0.1), Samples(x=d["TE_s"])
        one = fit.levenberg_marquardt(monoexp, "M0", "T2")
        return vmap(one, in_dims=(0, None, None))(data, start, seq)
    if name.startswith("vfa"):
        start = mrsim.expand(Voxel(M0=1.0, T1=1.0), len(data))
        start = mrsim.replace(start, B1=torch.tensor(case["B1"]))
        one = fit.levenberg_marquardt(spgr, "M0", "T1")
        seq = Samples(x=d["flip_rad"], TR=torch.tensor(d["TR_s"]))
        return vmap(one, in_dims=(0, 0, None))(data, start, seq)
    start = Tissue(M0=1.0, T1=d["T1_fixed_s"], T2=0.08, B1=0.95)
    seq = epg.FSE(flip=d["flip_rad"], esp=d["ESP_s"])
    one = fit.levenberg_marquardt(lambda *a: epg.fse(*a).real, "M0", "T2", "B1")
    return vmap(one, in_dims=(0, None, None))(data, start, seq)


@pytest.mark.parametrize("name", FITS)
def test_least_squares_minimum(name: str) -> None:
    case = FITS[name]
    found = fits(name, case)
    wanted = torch.tensor(case["nlls_minimiser"])
    made = torch.stack([getattr(found.params, n) for n in case["param_order"]], 1)
    assert found.converged.all()
    torch.testing.assert_close(made, wanted, rtol=1e-5, atol=0.0)
    torch.testing.assert_close(
        2 * found.cost, torch.tensor(case["sum_sq"]), rtol=1e-6, atol=0.0
    )
