"""The laws of every public simulator, for models without a basis."""

from collections.abc import Callable
from functools import partial
from typing import Any

import laws
import pytest
import torch
from cases import Case
from torch import Tensor
from torch.func import grad, vmap

import mrsim
from mrsim import record, torrey
from mrsim.torrey import Cylinder, Slab, Sphere, Water
from mrsim.tree import fields, get, promote, put, tree_leaves

U = [0.48, 0.6, 0.64]
PAIR = torrey.PGSE(q=4e4, direction=U, delta=6e-3, Delta=2e-2, start=1e-3, TE=3e-2)
TURN = torrey.DoublePGSE(
    q=4e4, direction=U, delta=6e-3, Delta=2e-2, pause=3e-3, direction2=[0.0, 0.6, 0.8]
)
WAVE = torrey.SinOGSE(q=8e4, direction=U, delta=1.2e-2, Delta=2e-2, steps=1)
CORNERS = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1.1, 1, 1]])
NODES, TOPOLOGY = torrey.make_mesh(6e-3 * CORNERS, [[0, 1, 2, 3], [1, 2, 3, 4]], [0, 1])


@record
class Scene:
    """A geometry and its water: the one argument that the laws map over."""

    water: Water
    shape: Any


def of_shape(f: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda scene, x: f(scene.shape, scene.water, x)


def of_mesh(f: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def run(scene: Any, x: Any) -> Tensor:
        topology = mrsim.to(TOPOLOGY, device=scene.shape.points.device)
        return f(scene.shape, topology, scene.water, x)

    return run


ONE = Water(D=1.7e-3, T2=0.06)
TWO = Water(D=1.7e-3, T2=[0.04, 0.08], kappa=[0.05], rho=[1.0, 0.7])
# a hundredfold, so that the steps of differences are small against the radius
LARGE = Water(D=torch.tensor(17.0), T2=[0.04, 0.08], kappa=[5.0], rho=[1.0, 0.7])
WEAK = put(PAIR, "q", PAIR.q / 100)
SPHERE = Sphere(radius=[0.3, 0.5], degree=2)
TUBE = Cylinder(radius=5e-3, axis=[0.6, 0.0, 0.8], degree=2)
SLAB = Slab(edges=[-3e-3, 4e-3], normal=[0.6, 0.0, 0.8], degree=3)
WIDE = Scene(water=TWO, shape=NODES)
CASES = [
    Case("sphere", of_shape(torrey.analytic), (Scene(water=LARGE, shape=SPHERE), WEAK)),
    Case("tube", of_shape(torrey.analytic), (Scene(water=ONE, shape=TUBE), TURN)),
    Case("slab", of_shape(torrey.analytic), (Scene(water=ONE, shape=SLAB), WAVE)),
    Case("gpd", of_shape(torrey.gaussian_phase), (Scene(water=ONE, shape=TUBE), TURN)),
    Case(
        "sgp",
        of_shape(torrey.short_pulse),
        (Scene(water=ONE, shape=SLAB), PAIR),
        silent=("start", "TE"),
    ),
    Case("karger", of_mesh(partial(torrey.karger, steps=1)), (WIDE, PAIR), real=True),
    Case(  # its apparent diffusion knows the shape of a waveform, not its strength
        "short",
        of_mesh(torrey.short_time),
        (WIDE, PAIR),
        silent=("q", "start", "TE"),
    ),
]


def absent_is_neutral(case: Case) -> None:
    """7: a field that is None equals the same field at its neutral value."""
    scene, x = case.args
    for f in fields(scene.water):
        if "neutral" in f.metadata and f.name not in {"kappa", "relaxivity", "rho"}:
            without = put(scene, f"water.{f.name}", None)
            given = promote(without, f"water.{f.name}")
            laws.close(case.f(without, x), case.f(given, x), 1e-12)


def voxels_are_strangers(case: Case) -> None:
    """13: one NaN geometry changes no neighbour, in value or in derivatives."""
    scene, x = case.args
    many, hole = laws.stacked(scene), torch.tensor([False, True, False])

    def loss(s: Any) -> Tensor:
        return laws.as_real(case.f(s, x)).square().sum()

    for f in (lambda s: case.f(s, x), grad(loss)):
        for name in laws.present(scene):
            value = get(many, name)
            wide = hole.reshape(3, *[1] * (value.ndim - 1))
            bad = put(many, name, torch.where(wide, torch.nan, value))
            pairs = zip(
                tree_leaves(vmap(f)(bad)), tree_leaves(vmap(f)(many)), strict=True
            )
            assert all(torch.equal(a[~hole], b[~hole]) for a, b in pairs)


LAWS = [
    laws.one_is_its_slice,
    laws.forward_is_reverse_is_differences,
    laws.mapped_jacobians_are_loops,
    laws.single_precision_stays,
    laws.hessians_are_right,
    laws.pure,
    absent_is_neutral,
    laws.trees_come_back,
    laws.acquisitions_have_gradients,
    laws.meta_in_meta_out,
    voxels_are_strangers,
]


FEW = {
    laws.hessians_are_right: {"sphere", "tube", "sgp"},  # the rest takes long
}
PAIRS = [
    pytest.param(law, case, id=f"{case.name}-{law.__name__}")
    for case in CASES
    for law in LAWS
    if case.name in FEW.get(law, {case.name})
]


@pytest.mark.parametrize(("law", "case"), PAIRS)
def test_law(
    law: Callable[[Case], None], case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    # torch's matrix_exp is right to 1e-11 of its norm, not to rounding
    strict = laws.close

    def close(made: Any, wanted: Any, tolerance: float, floor: float = 1e-12) -> None:
        strict(made, wanted, max(10 * tolerance, 1e-7), max(20 * floor, 1e-8))

    monkeypatch.setattr(laws, "close", close)
    law(case)
