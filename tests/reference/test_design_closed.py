"""Optimal designs known in closed form: their place and the bounds there.

Each optimum is checked by a Newton step through the bound's own derivatives, and found
by the public optimiser from afar.
"""

import re
from collections.abc import Callable

import pytest
import torch
from golden import Case, close, params
from models import Samples, Voxel, adc, ir, ir3, monoexp, spgr, sr
from torch import Tensor
from torch.func import grad, hessian

import mrsim
from mrsim import design


def newton(cost: Callable[[Tensor], Tensor], *x: float) -> list[float]:
    """Take one Newton step, which leaves an optimum where it is."""
    at = torch.tensor(x)
    return (at - torch.linalg.solve(hessian(cost)(at), grad(cost)(at))).tolist()


def two_points(i: Case, e: Case) -> Case:
    voxel = Voxel(M0=i["M0"], T2=i["T2_s"])

    def variance(x: Tensor) -> Tensor:
        seq = Samples(x=torch.cat([torch.zeros(1), x]))
        return mrsim.crlb(monoexp, "M0", "T2", sigma=i["sigma"])(voxel, seq).T2

    (te,) = newton(variance, e["TE2_opt_s"])
    sd = variance(torch.tensor([te])).sqrt()
    return {"TE2_opt_s": te, "x_opt": te / i["T2_s"], "sd_T2_at_opt_s": sd}


def two_points_weighted(i: Case, e: Case) -> Case:
    voxel = Voxel(M0=i["M0"], T2=i["T2_s"])

    def variance(x: Tensor) -> Tensor:
        seq = Samples(x=torch.stack([torch.zeros(()), x[0]]))
        share = torch.stack([1 - x[1], x[1]])
        bound = mrsim.crlb(monoexp, "M0", "T2", sigma=i["sigma"], weights=share)
        return bound(voxel, seq).T2

    te, w2 = newton(variance, e["TE2_opt_s"], e["w2"])
    return {
        "TE2_opt_s": te,
        "x_opt": te / i["T2_s"],
        "ratio_w2_w0": w2 / (1 - w2),
        "w0": 1 - w2,
        "w2": w2,
        "sd_T2_times_sqrtN_s": variance(torch.tensor([te, w2])).sqrt(),
    }


def two_points_d_optimal(i: Case, e: Case) -> Case:
    voxel = Voxel(M0=i["M0"], T2=i["T2_s"])

    def criterion(x: Tensor) -> Tensor:
        seq = Samples(x=torch.cat([torch.zeros(1), x]))
        information = mrsim.fisher(monoexp, "M0", "T2", sigma=i["sigma"])(voxel, seq)
        return mrsim.logdet(information)

    (te,) = newton(criterion, e["TE2_opt_s"])
    return {"TE2_opt_s": te, "det_F_at_opt": criterion(torch.tensor([te])).exp()}


def one_point(i: Case, e: Case) -> Case:
    voxel = Voxel(M0=i["M0"], T2=i["T2_s"])

    def variance(x: Tensor) -> Tensor:
        return mrsim.crlb(monoexp, "T2", sigma=i["sigma"])(voxel, Samples(x=x)).T2

    (te,) = newton(variance, e["TE_opt_s"])
    return {"TE_opt_s": te, "sd_T2_at_opt_s": variance(torch.tensor([te])).sqrt()}


def adc_two_points(i: Case, e: Case) -> Case:
    voxel = Voxel(S0=i["S0"], D=i["D_mm2_per_s"])

    def equal(x: Tensor) -> Tensor:
        seq = Samples(x=torch.cat([torch.zeros(1), x]))
        return mrsim.crlb(adc, "S0", "D", sigma=i["sigma"])(voxel, seq).D

    def weighted(x: Tensor) -> Tensor:
        seq = Samples(x=torch.stack([torch.zeros(()), x[0]]))
        share = torch.stack([1 / (1 + x[1]), x[1] / (1 + x[1])])
        bound = mrsim.crlb(adc, "S0", "D", sigma=i["sigma"], weights=share)
        return bound(voxel, seq).D

    def known(x: Tensor) -> Tensor:
        return mrsim.crlb(adc, "D", sigma=i["sigma"])(voxel, Samples(x=x)).D

    (b,) = newton(equal, e["b2_opt_equal"])
    b2, ratio = newton(weighted, e["b2_opt_weighted"], e["ratio_n2_n1"])
    return {
        "b2_opt_equal": b,
        "b2_opt_weighted": b2,
        "ratio_n2_n1": ratio,
        "sd_D_equal": equal(torch.tensor([b])).sqrt(),
        "b_opt_S0known": newton(known, e["b_opt_S0known"])[0],
    }


def variable_flip_angle(i: Case, e: Case) -> Case:
    voxel, TR = Voxel(M0=i["M0"], T1=i["T1_s"]), torch.tensor(i["TR_s"])

    def signal(x: Tensor) -> Tensor:
        return spgr(voxel, Samples(x=x, TR=TR))

    def variance(x: Tensor) -> Tensor:
        bound = mrsim.crlb(spgr, "M0", "T1", sigma=i["sigma"])
        return bound(voxel, Samples(x=x, TR=TR)).T1

    def criterion(x: Tensor) -> Tensor:
        information = mrsim.fisher(spgr, "M0", "T1", sigma=i["sigma"])
        return mrsim.logdet(information(voxel, Samples(x=x, TR=TR)))

    def known(x: Tensor) -> Tensor:
        bound = mrsim.crlb(spgr, "T1", sigma=i["sigma"])
        return bound(voxel, Samples(x=x, TR=TR)).T1

    (ernst,) = newton(lambda x: signal(x).sum(), e["ernst_rad"])
    top = signal(torch.tensor(ernst))
    t1 = torch.tensor(newton(variance, *e["angles_T1opt_rad"]))
    d = torch.tensor(newton(criterion, *e["angles_Dopt_rad"]))
    return {
        "ernst_rad": ernst,
        "S_ernst": top,
        "angles_T1opt_rad": t1,
        "signal_over_ernst_at_opt": signal(t1) / top,
        "sd_T1_at_opt_s": variance(t1).sqrt(),
        "angles_Dopt_rad": d,
        "signal_over_ernst_at_Dopt": signal(d) / top,
        "angle_T1opt_M0known_rad": newton(known, e["angle_T1opt_M0known_rad"])[0],
    }


def recovery_one_point(i: Case, e: Case) -> Case:
    voxel = Voxel(M0=i["M0"], T1=i["T1_s"])

    def variance(model: Callable[..., Tensor], x: Tensor) -> Tensor:
        return mrsim.crlb(model, "T1", sigma=i["sigma"])(voxel, Samples(x=x)).T1

    (ti,) = newton(lambda x: variance(ir, x), e["TI_opt_s"])
    (same,) = newton(lambda x: variance(sr, x), e["TI_opt_s"])
    assert ti == pytest.approx(same, rel=1e-5)
    return {
        "TI_opt_s": ti,
        "sd_T1_SR_s": variance(sr, torch.tensor([ti])).sqrt(),
        "sd_T1_IR_s": variance(ir, torch.tensor([ti])).sqrt(),
    }


def recovery_three_unknowns(i: Case, e: Case) -> Case:
    voxel = Voxel(A=i["A"], B=i["B"], T1=i["T1_s"])

    def variance(x: Tensor) -> Tensor:
        last = torch.tensor(50 * i["T1_s"])
        seq = Samples(x=torch.stack([torch.zeros(()), x[0], last]))
        share = torch.stack([x[1], x[2], 1 - x[1] - x[2]])
        bound = mrsim.crlb(ir3, "A", "B", "T1", sigma=i["sigma"], weights=share)
        return bound(voxel, seq).T1

    best = newton(variance, e["TI_mid_opt_s"], e["w_TI0"], e["w_mid"])
    return {
        "TI_mid_opt_s": best[0],
        "w_TI0": best[1],
        "w_mid": best[2],
        "w_inf": 1 - best[1] - best[2],
        "sd_T1_times_sqrtN_s": variance(torch.tensor(best)).sqrt(),
    }


def recovery_two_unknowns(i: Case, e: Case) -> Case:
    voxel = Voxel(M0=i["M0"], T1=i["T1_s"])

    def variance(x: Tensor) -> Tensor:
        seq = Samples(x=torch.cat([torch.zeros(1), x]))
        return mrsim.crlb(ir, "M0", "T1", sigma=i["sigma"])(voxel, seq).T1

    (ti,) = newton(variance, e["TI2_opt_s"])
    sd = variance(torch.tensor([ti])).sqrt()
    return {"x_opt": ti / i["T1_s"], "TI2_opt_s": ti, "sd_T1_at_opt_s": sd}


def bssfp_peak(i: Case, e: Case) -> Case:
    ratio = i["T1_s"] / i["T2_s"]

    def signal(a: Tensor) -> Tensor:
        return (a.sin() / (ratio + 1 - a.cos() * (ratio - 1))).sum()

    (angle,) = newton(signal, e["angle_opt_rad"])
    return {"angle_opt_rad": angle, "M_over_M0_at_opt": signal(torch.tensor([angle]))}


def equispaced(i: Case, e: Case) -> Case:
    voxel = Voxel(M0=i["M0"], T2=i["T2_s"])

    def variance(d: Tensor, first: int) -> Tensor:
        seq = Samples(x=torch.arange(first, first + i["N"]) * d.sum())
        return mrsim.crlb(monoexp, "M0", "T2", sigma=i["sigma"])(voxel, seq).T2

    (one,) = newton(lambda d: variance(d, 1), e["d_opt_from_d"])
    (zero,) = newton(lambda d: variance(d, 0), e["d_opt_from_0"])
    return {
        "d_opt_from_d": one,
        "sd_T2_from_d": variance(torch.tensor(one), 1).sqrt(),
        "d_opt_from_0": zero,
        "sd_T2_from_0": variance(torch.tensor(zero), 0).sqrt(),
    }


CLOSED = {
    "T2_two_point_equal": two_points,
    "T2_two_point_weighted": two_points_weighted,
    "T2_two_point_Dopt": two_points_d_optimal,
    "T2_M0known": one_point,
    "ADC_two_point": adc_two_points,
    "VFA": variable_flip_angle,
    "SR_IR_M0known": recovery_one_point,
    "IR_3param_weighted": recovery_three_unknowns,
    "IR_2param_TI0": recovery_two_unknowns,
    "bSSFP_peak": bssfp_peak,
    "T2_equispaced": equispaced,
}


@pytest.mark.parametrize("case", params("design/closed_form_optima"))
def test_closed_form_optimum(case: Case) -> None:
    kind = re.sub(r"_[A-Za-z0-9]+=.*", "", case["id"])
    made = CLOSED[kind](case["inputs"], case["expected"])
    assert made.keys() == case["expected"].keys()
    for name, wanted in case["expected"].items():
        close(made[name], wanted, case["rtol"])


def found(cost: Callable[[Tensor], Tensor], *x: float) -> list[float]:
    """Minimise (or, where an optimum is a maximum, maximise) from 20 % below."""
    at = torch.tensor(x)
    sign = hessian(cost)(at).diagonal().sum().sign()
    start = Samples(x=0.8 * at)
    best = design.minimise(
        lambda s: sign * cost(s.x), start, "x", bounds={"x": (0.1 * at, 10 * at)}
    )
    assert best.success
    return best.record.x.tolist()


@pytest.mark.parametrize("case", params("design/closed_form_optima"))
def test_optimiser_finds_it(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "newton", found)
    kind = re.sub(r"_[A-Za-z0-9]+=.*", "", case["id"])
    made = CLOSED[kind](case["inputs"], case["expected"])
    for name, wanted in case["expected"].items():
        close(made[name], wanted, case["rtol_argmin"])
