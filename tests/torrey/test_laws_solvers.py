"""The laws of every public simulator, for time steps, apparent diffusion and layers.

With `test_laws_torrey` (complete and reduced bases) and `test_laws_analytic` (no mesh,
Kärger, short times) every solver is under the laws, in all it is differentiated in:
points, D, T2, ρ, κ, surface relaxivity, and every field of the encoding.
"""

from collections.abc import Callable
from typing import Any

import laws
import pytest
import torch
from cases import Case
from torch import Tensor
from torch.func import jacfwd, jacrev, vmap
from torrey import meshes
from torrey.test_laws_analytic import voxels_are_strangers

import mrsim
from mrsim import record, torrey

CORNERS = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1.1, 1, 1]])
NODES, TOPOLOGY = torrey.make_mesh(6e-3 * CORNERS, [[0, 1, 2, 3], [1, 2, 3, 4]], [0, 1])
X = torrey.PGSE(
    q=8e4, direction=[0.48, 0.6, 0.64], delta=6e-3, Delta=2e-2, start=1e-3, TE=3e-2
)


@record
class Scene:
    """Water and points: the one argument that the laws map over."""

    water: torrey.Water
    points: Tensor


def case(name: str, f: Callable[..., Tensor], *, real: bool = False) -> Case:
    """Return the case of a solver of (nodes, topology, water, encoding)."""

    def run(scene: Any, x: Any) -> Tensor:
        topology = mrsim.to(TOPOLOGY, device=scene.points.device)
        return f(torrey.Nodes(points=scene.points), topology, scene.water, x)

    scene = Scene(water=meshes.TWO, points=NODES.points)
    none = ("water.T2", "start", "TE")  # of diffusion alone
    silent = {
        **dict.fromkeys(("hadc", "adc", "tensor"), none),
        "gaussian": ("start",),
        "free": ("start", "water.kappa", "water.relaxivity"),
    }.get(name, ())
    return Case(name, run, (scene, X), real=real, silent=silent)


def of_basis(f: Callable[..., Tensor], **how: Any) -> Callable[..., Tensor]:
    """Return a solver that finds its basis first."""
    return lambda n, t, w, x: f(torrey.laplace(n, t, w, **how), x)


def stepped(order: int) -> Callable[..., Tensor]:
    return lambda *args: torrey.stepped_parts(*args, steps=2, order=order)


def hadc(order: int) -> Callable[..., Tensor]:
    return lambda *args: torrey.hadc(*args, steps=2, order=order)


THIRD = of_basis(torrey.signal_parts, modes=5, method="dense", order=3)
STEPPED = case("stepped", stepped(1))
HADC = case("hadc", hadc(1), real=True)
ADC = case("adc", of_basis(torrey.apparent_diffusion), real=True)
TENSOR = case("tensor", of_basis(torrey.apparent_tensor), real=True)
GAUSSIAN = case("gaussian", of_basis(torrey.gaussian), real=True)
FREE = case("free", torrey.free_diffusion, real=True)
BENT = [  # these have second derivatives
    case("stepped", stepped(2)),
    case("hadc", hadc(2), real=True),
    *([ADC] if laws.NIGHTLY else []),
    *(GAUSSIAN, FREE),
]
TWISTED = [  # and these third ones
    case("complete", of_basis(torrey.signal_parts)),
    case("reduced", THIRD),
    case("stepped", stepped(3)),
    *([GAUSSIAN, FREE] if laws.NIGHTLY else []),
]
CHEAP = [
    laws.one_is_its_slice,
    laws.mapped_once_jacobians_are_loops,
    laws.single_precision_stays,
    laws.pure,
    laws.acquisitions_have_gradients,
    laws.meta_in_meta_out,
    laws.default_precision_does_not_matter,
    voxels_are_strangers,
]
RUNS = [
    *((law, c) for c in (STEPPED, HADC, ADC, GAUSSIAN, FREE) for law in CHEAP),
    *((law, TENSOR) for law in CHEAP[1:4]),
    *((laws.trees_come_back, c) for c in (STEPPED, HADC)),
    *((laws.pieces_are_the_whole, c) for c in (STEPPED, HADC)),
    *((laws.hessians_are_right, c) for c in BENT),
]


@pytest.mark.parametrize(
    ("law", "case"), RUNS, ids=[f"{c.name}-{law.__name__}" for law, c in RUNS]
)
def test_law(
    law: Callable[[Case], None], case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = laws.close  # matrix_exp errs by 1e-11 of its norm, 1e-6 in single precision

    def close(made: Any, wanted: Any, tolerance: float, floor: float = 1e-12) -> None:
        loose = {1e-6: 1e-5, 1e-3: 1e-2}.get(tolerance, max(30 * tolerance, 1e-9))
        exact(made, wanted, loose, 20 * floor)

    monkeypatch.setattr(laws, "close", close)
    law(case)


@pytest.mark.parametrize(
    "case", [STEPPED, HADC, ADC, TENSOR, GAUSSIAN, FREE], ids=lambda c: c.name
)
def test_derivatives_of_every_field(case: Case) -> None:
    """2: forward and reverse mode, maps of both, and differences, in every field."""
    f, leaves = laws.flat(case)
    forward = jacfwd(f, laws.every(leaves))(*leaves)
    reverse = jacrev(f, laws.every(leaves))(*leaves)
    laws.close(forward, reverse, 1e-8, floor=1e-9)
    names = [n for part in case.args for n in laws.present(part)]
    for k, x in enumerate(leaves):
        way = torch.cos(torch.arange(x.numel() * 1.0)).reshape(x.shape) * x.abs().max()

        def at(s: float, k: int = k, way: Tensor = way) -> Tensor:
            return f(*(y + s * way if j == k else y for j, y in enumerate(leaves)))

        near, far = (at(s) - at(-s) for s in (1e-3, 2e-3))
        wanted = (8 * near - far) / (12 * 1e-3)
        made = forward[k].reshape(*wanted.shape, -1) @ way.flatten()
        laws.close(made, wanted, 1e-6, floor=1e-10)
        if names[k] not in case.silent:
            assert made.abs().max() > 0, names[k]


@pytest.mark.parametrize("case", TWISTED, ids=lambda c: c.name)
def test_third_derivatives_and_maps_of_hessians(case: Case) -> None:
    """5: along a generic line through all fields, by every composition."""
    f, leaves = laws.loss(case)

    def line(t: Tensor) -> Tensor:
        return f(*(x * (1 + t * 0.1 * (k % 3 + 1)) for k, x in enumerate(leaves)))

    zero = torch.zeros(())
    third = jacfwd(jacfwd(jacrev(line)))
    exact = third(zero)
    for other in (jacrev(jacrev(jacrev(line))), jacfwd(jacrev(jacfwd(line)))):
        laws.close(other(zero), exact, 1e-7)
    step = torch.tensor([-2.0, -1.0, 1.0, 2.0]) * 0.01
    bends = vmap(jacfwd(jacrev(line)))(step)
    laws.close(bends, torch.stack([jacrev(jacfwd(line))(t) for t in step]), 1e-8)
    laws.close(vmap(third)(step[:2])[1], third(step[1]), 1e-8)
    differences = bends @ torch.tensor([1.0, -8.0, 8.0, -1.0]) / (12 * 0.01)
    laws.close(differences, exact, 1e-4)
