"""The laws of every public simulator, for the IVIM models."""

from collections.abc import Callable

import laws
import pytest
import torch
from cases import Case
from torch.func import grad, vmap

import mrsim
from mrsim import ivim
from mrsim.tree import get, promote, put, tree_leaves

B = [3.0, 17.0, 60.0, 210.0, 790.0]
RELAXED = {"K": 0.8, "T1b": 1.6, "T1t": 0.9, "T2b": 0.17, "T2t": 0.05}
TIMED = {"TE": 0.07, "TR": [2.0, 2.5, 2.1, 2.2, 2.4]}
LOBES = {"delta": [0.009, 0.011, 0.013, 0.012, 0.014], "Delta": 0.031}
PAIRS = {"T": [0.09, 0.1, 0.11, 0.1, 0.095], "k": [1.0, -1.0, -1.0, 1.0, -1.0]}
C = [0.1, 0.02, 0.4, 0.2, 0.7]
G = [
    [0.6, 0.0, 0.8],
    [0.0, 1.0, 0.0],
    [0.36, 0.48, 0.8],
    [-0.6, 0.64, 0.48],
    [0.8, -0.6, 0.0],
]
D = [1.3e-3, 0.9e-3, 0.7e-3, 0.1e-3, -0.2e-3, 0.05e-3]
DP = [0.04, 0.03, 0.05, 0.004, -0.003, 0.002]

PLAIN = ivim.Acquisition(b=B)
VOXEL = {"f": 0.21, "D": 1.1e-3}
FLOW = VOXEL | {"v": 2.3, "Db": 1.6e-3}
MODELS = {
    "biexp": (ivim.Biexp(Dp=0.034, **VOXEL), PLAIN),
    "biexp-full": (
        ivim.Biexp(S0=1.7, Dp=0.034, **VOXEL, **RELAXED),
        ivim.Acquisition(b=B, **TIMED),
    ),
    # away from b = 0, where the model is not continuous
    "simplified": (ivim.Simplified(S0=1.7, **VOXEL), PLAIN),
    "triexp": (ivim.Triexp(f1=0.1, f2=0.2, D1=0.1, D2=0.02, D0=1e-3), PLAIN),
    "diffusive": (ivim.Diffusive(Dstar=0.02, **VOXEL), PLAIN),
    "ballistic": (
        ivim.Ballistic(S0=1.7, **FLOW, **RELAXED),
        ivim.Acquisition(b=B, c=C, **TIMED),
    ),
    "intermediate": (
        ivim.Intermediate(tau=0.023, **FLOW),
        ivim.Acquisition(b=B, **LOBES),
    ),
    "intermediate-long": (
        ivim.Intermediate(tau=0.9, **FLOW),
        ivim.Acquisition(b=B, **LOBES, **PAIRS),
    ),
    "dti": (
        ivim.DTI(S0=1.7, f=0.21, Dp=0.034, D=D),
        ivim.Acquisition(b=B, bvec=G),
    ),
    "dti-blood": (ivim.DTI(f=0.21, Dp=DP, D=D), ivim.Acquisition(b=B, bvec=G)),
}
CASES = [Case(name, ivim.signal, args) for name, args in MODELS.items()]


def absent_is_neutral(case: Case) -> None:
    """7: a field that is None equals the same field at its neutral value."""
    params, q = case.args
    for f in mrsim.tree.fields(params):
        if "neutral" in f.metadata:
            without = put(params, f.name, None)
            given = promote(without, f.name)
            laws.close(case.f(without, q), case.f(given, q), 1e-12)
            made = mrsim.jac(case.f, "D0" if "D0" in vars(params) else "D")
            laws.close(made(without, q), made(given, q), 1e-11)


def voxels_are_strangers(case: Case) -> None:
    """13: one NaN voxel changes no neighbour, in value or in derivatives."""
    params, q = case.args
    many = laws.stacked(params)
    hole = torch.tensor([False, True, False])
    loss = vmap(grad(lambda p: case.f(p, q).square().sum()))
    mapped = [
        vmap(f, in_dims=(0, None))
        for f in (case.f, mrsim.jac(case.f), mrsim.jac(case.f, mode="reverse"))
    ]
    for name in laws.present(params):
        x = get(many, name)
        shape = (3,) + (1,) * (x.ndim - 1)
        bad = put(many, name, torch.where(hole.reshape(shape), torch.nan, x))
        for f in (*(lambda p, f=f: f(p, q) for f in mapped), loss):
            pairs = zip(tree_leaves(f(bad)), tree_leaves(f(many)), strict=True)
            assert all(torch.equal(a[~hole], b[~hole]) for a, b in pairs)


OWN = [absent_is_neutral, voxels_are_strangers]
SHARED = [law for law in laws.LAWS if law.__name__ not in {f.__name__ for f in OWN}]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("law", [*SHARED, *OWN], ids=lambda law: law.__name__)
def test_law(law: Callable[[Case], None], case: Case) -> None:
    law(case)
