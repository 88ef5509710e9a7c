"""IVIM against 50-digit signals, Rice tables, CRLB tables and known designs.

Cases are discovered in the files: new ones of the same format are checked too.
"""

import dataclasses
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from golden import folder, load
from torch import Tensor
from torch.func import grad, vmap

import mrsim
from mrsim import ivim

Data = dict[str, np.ndarray]
RECORDS = [
    ivim.Biexp,
    ivim.Simplified,
    ivim.Triexp,
    ivim.Diffusive,
    ivim.Ballistic,
    ivim.Intermediate,
]
TYPES = [torch.float64, torch.float32]


@cache
def arrays(name: str) -> Data:
    with np.load(folder("ivim") / f"{name}.npz") as file:
        return dict(file)


def prefixes(name: str, suffix: str) -> list[str]:
    """Return what stands before a suffix in the names of a file's arrays."""
    return sorted(k.removesuffix(suffix) for k in arrays(name) if k.endswith(suffix))


# ----------------------------------------------------------------- forward_models


def record_of(names: list[str]) -> Any:
    """Return the record whose fields are the names, and optional ones."""

    def fits(kind: Any) -> bool:
        fields = dataclasses.fields(kind)
        needed = {f.name for f in fields if f.default is dataclasses.MISSING}
        return needed <= set(names) <= {f.name for f in fields}

    return next(filter(fits, RECORDS))


def voxels(model: str, dtype: torch.dtype) -> tuple[Any, ivim.Acquisition, list[str]]:
    data = arrays("forward_models")

    def columns(kind: str) -> dict[str, Tensor]:
        table = torch.tensor(data[f"{model}__{kind}"], dtype=dtype)
        names = data[f"{model}__{'param' if kind == 'params' else kind}_names"]
        return dict(zip(names.tolist(), table.unbind(-1), strict=True))

    params = columns("params")
    kind = record_of(list(params))
    return kind(**params), ivim.Acquisition(**columns("acq")), list(params)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("model", prefixes("forward_models", "__signal"))
def test_signal_and_jacobian(model: str, dtype: torch.dtype) -> None:
    params, q, names = voxels(model, dtype)
    double = dtype == torch.float64
    made = vmap(ivim.signal, in_dims=(0, None))(params, q).double()
    wanted = torch.tensor(arrays("forward_models")[f"{model}__signal"])
    assert (made - wanted).abs().max() <= (1e-12 if double else 1e-6)
    wanted = torch.tensor(arrays("forward_models")[f"{model}__jac"])
    size = wanted.abs().amax(1 if double else (0, 1), keepdim=True)
    for mode in ("forward", "reverse"):
        jacobian = mrsim.jac(ivim.signal, *names, mode=mode)
        record = vmap(jacobian, in_dims=(0, None))(params, q)
        columns = torch.stack([getattr(record, n) for n in names], -1)
        assert columns.dtype == dtype
        error = (columns.double() - wanted).abs()
        assert (error <= (1e-9 if double else 1e-4) * size).all()


# --------------------------------------------------------------------------- rice


def test_rice() -> None:
    data = {n: torch.tensor(x) for n, x in arrays("rice").items()}
    a, m = torch.meshgrid(data["a"], data["m"], indexing="ij")
    log_p = ivim.rician(m, a, 1.0)
    slope = grad(lambda a: ivim.rician(m, a, 1.0).sum())(a)
    mean, variance = ivim.moments(data["a"], 1.0)
    g = ivim.information(data["a"], 1.0, coils=1)[:, 0, 0]
    made = {"loglik": log_p, "dloglik_da": slope, "g": g, "mean": mean, "var": variance}
    for name, value in made.items():
        # where a log-density passes through 0 its digits are those of its terms
        torch.testing.assert_close(value, data[name], rtol=1e-12, atol=1e-14)


# --------------------------------------------------------------------- crlb_biexp

NAMES = ("S0", "f", "Dp", "D")


@pytest.mark.parametrize(("noise", "coils"), [("gauss", 0), ("rice", 1)])
@pytest.mark.parametrize("protocol", prefixes("crlb_biexp", "__b"))
def test_information_and_bounds(protocol: str, noise: str, coils: int) -> None:
    data = arrays("crlb_biexp")
    params = ivim.Biexp(**dict(zip(NAMES, data["params"].T, strict=True)))
    q = ivim.Acquisition(b=data[f"{protocol}__b"])
    rtol = 1e-5 if coils else 1e-8
    for k, sigma in enumerate(data["sigma"].tolist()):
        both = (
            vmap(f(*NAMES, sigma=sigma, coils=coils), in_dims=(0, None))(params, q)
            for f in (ivim.fisher, ivim.crlb)
        )
        information, variances = both
        close(information, data[f"{protocol}__fisher_{noise}"][k], rtol / 10)
        bounds = torch.stack([getattr(variances, n) for n in NAMES], -1).sqrt()
        close(bounds, data[f"{protocol}__crlb_std_{noise}"][k], rtol)
        if not coils:
            known = ivim.crlb(*NAMES[1:], sigma=sigma)
            variances = vmap(known, in_dims=(0, None))(params, q)
            bounds = torch.stack([getattr(variances, n) for n in NAMES[1:]], -1).sqrt()
            close(bounds, data[f"{protocol}__crlb_std_gauss_S0fixed"][k], rtol)
        else:
            s = torch.tensor(data[f"{protocol}__signal"])
            weight = ivim.information(s, sigma, coils)[..., 0, 0] * sigma**2
            close(weight, data[f"{protocol}__rice_weight"][k], 1e-9)


def close(made: Tensor, wanted: np.ndarray, rtol: float) -> None:
    torch.testing.assert_close(made, torch.tensor(wanted), rtol=rtol, atol=0)


# ----------------------------------------------------------------- b_optimisation

BLOOD = 1.75e-3
DESIGNS = {c["name"]: c for c in load("ivim/b_optimisation")["cases"]}


def cost_of(case: dict[str, Any], entry: str) -> tuple[Any, bool]:
    """Return the cost that an entry of a case was designed for: per tissue, summed."""
    theta = torch.tensor(case["theta_f_Dp_D"])
    unit = torch.tensor(case["normaliser"] or case["theta_f_Dp_D"])
    if "ivim_mri" in entry or "same_norm_as_ivim" in entry:
        unit = theta - torch.tensor([0.0, BLOOD, 0.0])
    simplified = "sIVIM" in entry

    def tissue(x: Tensor) -> Any:
        f, Dp, D = x.unbind(-1)
        return ivim.Simplified(f=f, D=D) if simplified else ivim.Biexp(f=f, Dp=Dp, D=D)

    names = ("f", "D") if simplified else ("f", "Dp", "D")
    mean = ivim.relative_sd(tissue(theta), *names, unit=tissue(unit))
    return (lambda q, weights: len(theta) * mean(q, weights)), simplified


def entries(*words: str) -> list[Any]:
    return [
        pytest.param(case, entry, id=f"{name}-{entry}")
        for name, case in DESIGNS.items()
        for entry, value in case.items()
        if isinstance(value, dict) and any(entry.startswith(w) for w in words)
        if "b" in value
    ]


CONTINUOUS = entries("continuous", "ivim_mri", "sIVIM")


@pytest.mark.parametrize(("case", "entry"), CONTINUOUS)
def test_cost_of_a_known_design(case: dict[str, Any], entry: str) -> None:
    cost, simplified = cost_of(case, entry)
    known = case[entry]
    b = torch.tensor(known["b"])
    q = ivim.Acquisition(b=torch.where(b < 1e-6, 0.0, b) if simplified else b)
    wanted = known.get("cost", known.get("cost_here"))
    made = float(cost(q, torch.tensor(known["a"])))
    # some stored costs are those of the solver's last but one point
    assert made == pytest.approx(wanted, rel=1e-6)


# designs for the same cost share one optimum
TARGETS = [p for p in CONTINUOUS if p.values[1] in ("continuous4", "sIVIM_own_opt")]
TARGETS += [p for p in CONTINUOUS if "same_norm" in p.values[1]]


@pytest.mark.parametrize(("case", "entry"), TARGETS)
def test_optimum_is_no_worse(case: dict[str, Any], entry: str) -> None:
    cost, simplified = cost_of(case, entry)
    top = float(case["bmax"])
    b, limits = torch.linspace(0, top, 61), (0.0, top)
    if simplified:
        b = torch.cat([torch.zeros(1), torch.linspace(200, top, 31)])
        limits = (200 * (b > 0), top * (b > 0))
    found = ivim.optimise(cost, ivim.Acquisition(b=b), "b", bounds={"b": limits})
    rivals = [
        case[e].get("cost", case[e].get("cost_here"))
        for c, e in (p.values for p in CONTINUOUS)
        if c is case and same_cost(e, entry)
    ]
    assert found.cost <= min(rivals) * (1 + 1e-6)
    assert found.gap <= 1e-4


def same_cost(one: str, other: str) -> bool:
    if "sIVIM" in one or "sIVIM" in other:
        return one == other
    marks = ("ivim_mri", "same_norm")
    return any(m in one for m in marks) == any(m in other for m in marks)


@pytest.mark.parametrize(("case", "entry"), entries("exact_N"))
def test_whole_repeats_are_no_worse(case: dict[str, Any], entry: str) -> None:
    cost, _ = cost_of(case, entry)
    known = case[entry]
    total = len(known["b"])
    same = cost(ivim.Acquisition(b=known["b"]), torch.ones(total))
    assert float(same) == pytest.approx(known["cost"], rel=1e-9)
    grid = ivim.Acquisition(b=torch.arange(0.0, case["bmax"] + 1, 10))
    made = ivim.allocate(cost, grid, total)
    assert made.weights.sum() == total
    assert float(cost(made.acquisition, made.weights)) <= known["cost"] * (1 + 1e-9)
