"""Golden values of Fisher matrices and Cramér-Rao bounds.

The conventions are those of the README of the folder ``design``: times in s, noise of
standard deviation sigma in each real sample.
"""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from golden import Case, close, load, params
from models import Samples, Voxel, ir, ivim, monoexp, spgr
from torch import Tensor
from torch.func import grad, grad_and_value, jacrev, vmap

import mrsim
from mrsim import epg

MODELS = {"monoexp": monoexp, "spgr": spgr, "ir": ir, "ivim": ivim}


@pytest.mark.parametrize("case", params("design/crlb_models"))
def test_crlb_of_models(case: Case) -> None:
    rtol = load("design/crlb_models")["rtol"]
    model, unknown, sigma = MODELS[case["model"]], case["unknown"], case["sigma"]
    voxel = Voxel(**case["params"])
    (x,) = map(torch.tensor, case["design"].values())
    seq = Samples(x=x, TR=case.get("TR_s"))

    close(model(voxel, seq), case["signal"], rtol["signal"])
    jacobian = torch.tensor(case["jacobian"])
    made = mrsim.jac(model, *unknown)(voxel, seq)
    columns = torch.stack([getattr(made, n) for n in unknown], 1)
    close(columns, jacobian, rtol["jacobian"], jacobian.abs().amax(0))

    information = mrsim.fisher(model, *unknown, sigma=sigma)(voxel, seq)
    close(information, case["fisher"], rtol["fisher"])
    close(mrsim.covariance(information), case["crlb_cov"], case["rtol_crlb"])

    def variances(x: Tensor) -> Tensor:
        design = Samples(x=x, TR=seq.TR)
        bound = mrsim.crlb(model, *unknown, sigma=sigma)(voxel, design)
        return torch.stack([getattr(bound, n) for n in unknown])

    close(variances(x).sqrt(), case["crlb_sd"], case["rtol_crlb"])
    wanted = torch.tensor(case["dvar_ddesign"])
    size = wanted.abs().amax(1, keepdim=True)
    close(jacrev(variances)(x), wanted, case["rtol_dvar"], size)


def variances(f: Callable[..., Tensor], names: list[str], *args: Any) -> Tensor:
    bound = mrsim.crlb(f, *names, sigma=1.0)(*args)
    return torch.stack([getattr(bound, n) for n in names])


def check_jacobian(
    case: Case, rtol: Case, f: Callable[..., Tensor], *args: Any
) -> None:
    names = case["param_order"]
    signal, made = mrsim.value_and_jac(f, *names)(*args)
    columns = torch.stack([getattr(made, n) for n in names], 1)
    wanted = torch.tensor(case["jacobian"])
    assert (signal - torch.tensor(case["signal"])).abs().max() < rtol["signal_abs"]
    absent = [n in case.get("zero_columns", ()) for n in names]
    size = torch.where(torch.tensor(absent), 1.0, wanted.abs().amax(0))
    close(columns, wanted, rtol["jacobian"], size)


def check_set(wanted: Case, rtol: Case, f: Callable[..., Tensor], *args: Any) -> None:
    names, covariance = wanted["unknown"], torch.tensor(wanted["crlb_cov"])
    information = mrsim.fisher(f, *names, sigma=1.0)(*args)
    close(information, wanted["fisher"], rtol["crlb"])
    unit = covariance.diagonal().sqrt()
    made = mrsim.covariance(information)
    close(made, covariance, rtol["crlb"], unit * unit.unsqueeze(-1))
    close(variances(f, names, *args), covariance.diagonal(), rtol["crlb"])


def train(case: Case) -> tuple[mrsim.Tissue, epg.FSE]:
    seq = epg.FSE(
        flip=case["flip_rad"], esp=case["ESP_s"], excitation=case["excitation_rad"]
    )
    return mrsim.Tissue(**case["params"]), seq


@pytest.mark.parametrize("case", params("design/crlb_fse_epg"))
def test_jacobian_of_echo_train(case: Case) -> None:
    check_jacobian(case, load("design/crlb_fse_epg")["rtol"], epg.fse, *train(case))


@pytest.mark.parametrize("case", params("design/crlb_fse_epg"))
def test_crlb_of_echo_train(case: Case) -> None:
    for wanted in case["sets"]:
        if not wanted.get("singular"):
            check_set(
                wanted, load("design/crlb_fse_epg")["rtol"], epg.fse, *train(case)
            )


@pytest.mark.parametrize("case", params("design/crlb_fse_epg"))
def test_unidentifiable_unknowns_of_echo_train(case: Case) -> None:
    tissue, seq = train(case)
    for wanted in case["sets"]:
        if not wanted.get("singular"):
            continue
        names = wanted["unknown"]
        kept = [n for n in names if n not in case.get("zero_columns", ())]
        with pytest.warns(UserWarning, match="no effect on the signal") as caught:
            made = variances(epg.fse, names, tissue, seq)
        assert all(n in str(caught[0].message) for n in set(names) - set(kept))
        lost = torch.tensor([n not in kept for n in names])
        assert torch.equal(made.isinf(), lost)
        close(made[~lost], variances(epg.fse, kept, tissue, seq), 1e-12)

        slopes = jacrev(lambda q, n=names: variances(epg.fse, n, tissue, q))(seq)
        for slope in (slopes.flip, slopes.esp):
            assert slope.isfinite().all()
            assert (slope[lost] == 0).all()


@pytest.mark.parametrize("case", params("design/crlb_fse_epg"))
def test_gradient_of_echo_train(case: Case) -> None:
    tissue, seq = train(case)
    rtol = load("design/crlb_fse_epg")["rtol"]["grad_relmax"]
    for key, wanted in case.items():
        found = re.fullmatch(r"grad_var(T\d)_((?:[A-Z]+\d)+)_wrt_(\w+)", key)
        if not found:
            continue
        target, names, field = found.groups()
        bound = mrsim.crlb(epg.fse, *re.findall(r"[A-Z]+\d", names), sigma=1.0)
        slopes = grad(lambda q, c=bound, t=target: getattr(c(tissue, q), t))(seq)
        made = getattr(slopes, field)
        if wanted is None:  # the set is singular
            assert made.isfinite().all()
        elif any(wanted):
            close(made, wanted, rtol, max(map(abs, wanted)))
        else:
            assert made.abs().max() < 1e-9


@pytest.mark.parametrize("case", params("design/design_problems_fse", "problems"))
def test_objective_of_echo_train(case: Case) -> None:
    flips = torch.tensor([case["start_flip_rad"], case["best_known_flip_rad"]])
    bound = mrsim.crlb(epg.fse, *case["unknown"], sigma=1.0)
    tissue = mrsim.Tissue(**case["params"])

    def sd(flip: Tensor) -> Tensor:
        seq = epg.FSE(
            flip=flip,
            esp=torch.tensor(case["ESP_s"]),
            excitation=torch.tensor(case["excitation_rad"]),
        )
        return getattr(bound(tissue, seq), case["target"]).sqrt()

    made = vmap(sd)(flips)
    target = case["target"]
    close(made, [case[f"{w}_sd_{target}_s"] for w in ("start", "best_known")], 1e-7)
    close((made[1] / made[0]) ** 2, case["best_known_variance_ratio"], 1e-7)
    ramp = case["best_linear_ramp_baseline"]
    at = (torch.arange(case["N"]) / ramp["n_ramp"]).clamp_max(1)
    degrees = torch.lerp(
        *map(torch.tensor, (ramp["start_deg"], ramp["plateau_deg"])), at
    )
    ratio = (sd(torch.deg2rad(degrees)) / made[0]) ** 2
    close(ratio, ramp["variance_ratio_vs_constant"], 1e-7)


def schedule(case: Case) -> tuple[mrsim.Tissue, epg.FISP]:
    whole = load("design/crlb_mrf_fisp")
    seq = epg.FISP(
        flip=whole["flip_rad"], TR=whole["TR_s"], TE=whole["TE_s"], TI=whole["TI_s"]
    )
    return mrsim.Tissue(**case["params"]), seq


def relative(names: list[str], *args: Any) -> Tensor:
    """Return var(T1)/T1² + var(T2)/T2² with the named unknowns."""
    bound, tissue = mrsim.crlb(epg.fisp, *names, sigma=1.0)(*args), args[0]
    return bound.T1 / tissue.T1**2 + bound.T2 / tissue.T2**2


@pytest.mark.parametrize("case", params("design/crlb_mrf_fisp"))
def test_jacobian_of_fingerprints(case: Case) -> None:
    def turned(tissue: mrsim.Tissue, seq: epg.FISP) -> Tensor:  # pulses about -y
        return 1j * epg.fisp(tissue, seq)

    check_jacobian(case, load("design/crlb_mrf_fisp")["rtol"], turned, *schedule(case))


@pytest.mark.parametrize("case", params("design/crlb_mrf_fisp"))
def test_crlb_of_fingerprints(case: Case) -> None:
    for wanted in case["sets"]:
        check_set(
            wanted, load("design/crlb_mrf_fisp")["rtol"], epg.fisp, *schedule(case)
        )


@pytest.mark.parametrize("case", params("design/crlb_mrf_fisp"))
def test_gradient_of_fingerprints(case: Case) -> None:
    tissue, seq = schedule(case)
    rtol, names = load("design/crlb_mrf_fisp")["rtol"], ["M0", "T1", "T2"]
    slopes, value = grad_and_value(lambda q: relative(names, tissue, q))(seq)
    close(value, case["objective_var_rel_T1T2"], rtol["crlb"])
    for field in ("flip", "TR"):
        wanted = case[f"grad_objective_wrt_{field}"]
        if wanted is not None:
            size = max(map(abs, wanted))
            close(getattr(slopes, field), wanted, rtol["grad_relmax"], size)


@pytest.mark.parametrize("case", params("design/design_problems_mrf", "problems"))
def test_objective_of_fingerprints(case: Case) -> None:
    tissue = mrsim.Tissue(**case["params"])
    for which in ("start", "best_known"):
        seq = epg.FISP(
            flip=case[f"{which}_flip_rad"],
            TR=[case["TR_s"]] * case["N"],
            TE=case["TE_s"],
            TI=case["TI_s"],
        )
        bound = mrsim.crlb(epg.fisp, *case["unknown"], sigma=1.0)(tissue, seq)
        sd = [bound.T1.sqrt() / tissue.T1, bound.T2.sqrt() / tissue.T2]
        close(torch.stack(sd), case[f"{which}_sd_over_T"], 1e-7)
        close(sd[0] ** 2 + sd[1] ** 2, case[f"{which}_objective"], 1e-7)
