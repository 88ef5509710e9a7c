"""The laws of every public simulator, for signals of meshes."""

from collections.abc import Callable
from typing import Any

import laws
import pytest
import torch
from cases import Case
from torch import Tensor
from torch.func import grad, jacfwd, jacrev, vmap
from torrey import meshes

import mrsim
from mrsim import torrey
from mrsim.tree import fields, get, promote, put, tree_leaves

MESH = meshes.pair(2, side=3e-3)
TIMES = {"q": 2.5e5, "direction": [0.6, 0.48, 0.64], "delta": 0.004, "Delta": 0.011}
PAIR = torrey.PGSE(**TIMES, start=0.001, TE=0.019)
ENCODINGS = {
    "double": torrey.DoublePGSE(**TIMES, pause=0.002, direction2=[0.0, 0.8, 0.6]),
    "cos": torrey.CosOGSE(**TIMES, steps=2),
    "sin": torrey.SinOGSE(**TIMES, steps=2),
    "trapezoid": torrey.Trapezoid(**TIMES, rise=0.0012, steps=2),
    "waveform": torrey.Waveform(
        times=[0.0, 0.003, 0.006, 0.008],
        vectors=[[2e5, 1e5, 0.0], [1e5, 0, 5e4], [-2e5, 1e4, 0], [-1e5, -9e4, 1e4]],
        TE=0.01,
        steps=1,
    ),
}


def mesh_like(x: Tensor) -> tuple[torrey.Nodes, torrey.Topology]:
    """Return the mesh in the precision and on the device of a tensor."""
    nodes, topology = MESH
    return mrsim.to(nodes, x.dtype, x.device), mrsim.to(topology, device=x.device)


def of_water(water: torrey.Water, encoding: Any) -> Tensor:
    return torrey.pgse(*mesh_like(water.D), water, encoding)


def of_nodes(nodes: torrey.Nodes, encoding: Any) -> Tensor:
    x = nodes.points
    water = mrsim.to(meshes.TWO, x.dtype, x.device)
    return torrey.pgse(nodes, mesh_like(x)[1], water, encoding)


def of_modes(water: torrey.Water, encoding: Any) -> Tensor:
    basis = torrey.laplace(*mesh_like(water.D), water, modes=11, method="dense")
    return torrey.signal_parts(basis, encoding)


WATER = Case("water", of_water, (meshes.TWO, PAIR))
NODES = Case("nodes", of_nodes, (MESH[0], PAIR))
MODES = Case("modes", of_modes, (meshes.TWO, PAIR))
OTHERS = [Case(n, of_water, (meshes.TWO, e)) for n, e in ENCODINGS.items()]


def absent_is_neutral(case: Case) -> None:
    """7: a field that is None equals the same field at its neutral value."""
    for owner, record in enumerate(case.args):
        for f in fields(record):
            if "neutral" not in f.metadata:
                continue
            without = put(record, f.name, None)
            given = promote(without, f.name)
            one, other = (
                (x, case.args[1]) if owner == 0 else (case.args[0], x)
                for x in (without, given)
            )
            laws.close(case.f(*one), case.f(*other), 1e-12)
            made = mrsim.jac(case.f, "D")
            laws.close(made(*one), made(*other), 1e-10)


def voxels_are_strangers(case: Case) -> None:
    """13: one NaN mesh changes no neighbour, in value or in derivatives."""
    first, encoding = case.args
    many = laws.stacked(first)
    hole = torch.tensor([False, True, False])
    loss = vmap(grad(lambda p: laws.as_real(case.f(p, encoding)).square().sum()))
    mapped = vmap(case.f, in_dims=(0, None))
    for name in laws.present(first):
        x = get(many, name)
        shape = (3,) + (1,) * (x.ndim - 1)
        bad = put(many, name, torch.where(hole.reshape(shape), torch.nan, x))
        for f in (lambda p: mapped(p, encoding), loss):
            for a, b in zip(tree_leaves(f(bad)), tree_leaves(f(many)), strict=True):
                laws.close(a[~hole], b[~hole], 1e-13)


CHEAP = [
    laws.one_is_its_slice,
    laws.forward_is_reverse_is_differences,
    laws.mapped_once_jacobians_are_loops,
    laws.single_precision_stays,
    laws.pure,
    laws.trees_come_back,
    laws.pieces_are_the_whole,
    laws.acquisitions_have_gradients,
    laws.meta_in_meta_out,
    laws.default_precision_does_not_matter,
]
DEEP = [
    laws.hessians_are_right,
    laws.gradients_commute_with_maps,
    voxels_are_strangers,
]
RUNS = [
    *((law, WATER) for law in [*CHEAP, *DEEP, absent_is_neutral]),
    *((law, NODES) for law in [*CHEAP[:4], laws.meta_in_meta_out]),
    *((law, MODES) for law in [*CHEAP[:4], laws.meta_in_meta_out, *DEEP[:1]]),
    *((laws.single_precision_stays, c) for c in OTHERS),
]


@pytest.mark.filterwarnings("ignore:Waveform. the gradients do not refocus")
@pytest.mark.parametrize("case", [WATER, NODES, MODES, *OTHERS], ids=lambda c: c.name)
def test_directional_differences(case: Case) -> None:
    """2: forward and reverse mode and small differences, along a way in every field."""
    f, leaves = laws.flat(case)
    forward = jacfwd(f, laws.every(leaves))(*leaves)
    reverse = jacrev(f, laws.every(leaves))(*leaves)
    laws.close(forward, reverse, 1e-9)
    for k, x in enumerate(leaves):
        way = torch.cos(torch.arange(x.numel() * 1.0)).reshape(x.shape) * x.abs().max()

        def at(s: float, k: int = k, way: Tensor = way) -> Tensor:
            return f(*(y + s * way if j == k else y for j, y in enumerate(leaves)))

        near, far = (at(s) - at(-s) for s in (2e-4, 4e-4))
        wanted = (8 * near - far) / (12 * 2e-4)
        made = forward[k].reshape(*wanted.shape, -1) @ way.flatten()
        laws.close(made, wanted, 1e-6, floor=1e-11)


@pytest.mark.parametrize(
    ("law", "case"), RUNS, ids=[f"{c.name}-{law.__name__}" for law, c in RUNS]
)
@pytest.mark.filterwarnings("ignore:Waveform. the gradients do not refocus")
def test_law(
    law: Callable[[Case], None], case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = laws.close
    # exponentials of matrices err by 1e-11 of their norm, in single precision by 1e-6;
    # the step of the law's differences in D is 2.5 % (finer ones are in test_modes.py)
    looser = {1e-11: 1e-9, 1e-9: 1e-8, 1e-6: 1e-5, 1e-3: 1e-2}

    def close(made: Any, wanted: Any, tolerance: float, floor: float = 1e-12) -> None:
        exact(made, wanted, looser.get(tolerance, tolerance), floor)

    monkeypatch.setattr(laws, "close", close)
    law(case)
