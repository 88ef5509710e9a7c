"""Bad input, in every function where a user would meet it."""

import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import vmap
from torrey import meshes

from mrsim import torrey
from mrsim.tree import replace, tree_map

MESH = meshes.box(2, 1, 1)
NODES, TOPOLOGY = MESH
BASIS = torrey.laplace(*MESH, meshes.WATER)
LONE = torrey.Waveform(  # a net moment
    times=[0.0, 5e-3, 1e-2], vectors=[[1e5, 0, 0], [1e5, 0, 0], [0, 0, 0]], linear=False
)
BALL = torrey.Sphere(radius=5e-3, degree=3)
SOLVERS: dict[str, Callable[[Any, Any], Tensor]] = {  # of nodes and an encoding
    "laplace": lambda n, _: torrey.laplace(n, TOPOLOGY, meshes.WATER).decay,
    "modes": lambda n, _: torrey.laplace_modes(n, TOPOLOGY, meshes.WATER, modes=3)[0],
    "simulate": lambda n, x: torrey.simulate(n, TOPOLOGY, meshes.WATER, x),
    "stepped": lambda n, x: torrey.stepped(n, TOPOLOGY, meshes.WATER, x, 2),
    "hadc": lambda n, x: torrey.hadc(n, TOPOLOGY, meshes.WATER, x, 2),
    "karger": lambda n, x: torrey.karger(n, TOPOLOGY, meshes.WATER, x),
    "free": lambda n, x: torrey.free_diffusion(n, TOPOLOGY, meshes.WATER, x),
    "short_time": lambda n, x: torrey.short_time(n, TOPOLOGY, meshes.WATER, x),
}
OF_ENCODING: dict[str, Callable[[Any], Tensor]] = {
    **{
        name: lambda x, f=f: f(NODES, x)
        for name, f in SOLVERS.items()
        if name not in {"laplace", "modes"}
    },
    "signal": lambda x: torrey.signal(BASIS, x),
    "parts": lambda x: torrey.signal_parts(BASIS, x),
    "signals": lambda x: torrey.signals(BASIS, tree_map(lambda y: y[None], x)),
    "exponent": lambda x: torrey.apparent_exponent(BASIS, x),
    "adc": lambda x: torrey.apparent_diffusion(BASIS, x),
    "gaussian": lambda x: torrey.gaussian(BASIS, x),
    "analytic": lambda x: torrey.analytic(BALL, meshes.WATER, x),
    "gaussian_phase": lambda x: torrey.gaussian_phase(BALL, meshes.WATER, x),
}
NEED_REFOCUSING = {
    *("hadc", "short_time", "exponent", "adc", "gaussian", "gaussian_phase")
}


@pytest.mark.parametrize("name", SOLVERS)
def test_lengths_in_um_are_warned_of_by_every_solver(name: str) -> None:
    with pytest.warns(UserWarning, match=r"more than any cell.*mrsim\.units\.um"):
        SOLVERS[name](torrey.Nodes(points=NODES.points / 1e-3), meshes.PAIR)


@pytest.mark.parametrize("name", SOLVERS)
def test_inverted_and_missing_points_are_refused_by_every_solver(name: str) -> None:
    flipped = NODES.points.index_fill(0, torch.tensor([11]), -9e-3)
    for points in (flipped, torch.where(NODES.points > 7e-3, torch.nan, NODES.points)):
        with pytest.raises(ValueError, match=r"element \d+ has the volume"):
            SOLVERS[name](torrey.Nodes(points=points), meshes.PAIR)


@pytest.mark.parametrize(
    "make",
    [
        lambda: torrey.mesh_sphere(5.0, size=2.5),
        lambda: torrey.mesh_ellipsoid([5.0, 4.0, 3.0], size=2.5),
        lambda: torrey.mesh_cylinder(5.0, length=5.0, size=2.5),
        lambda: torrey.mesh_axon(torrey.Axon(radii=[2.0], length=9.0), size=1.0),
        lambda: torrey.mesh_box([5.0] * 3, (2, 2, 2)),
        lambda: torrey.mesh_slab([0.0, 5.0], size=1.0),
        lambda: torrey.analytic(torrey.Sphere(radius=5.0), meshes.WATER, meshes.PAIR),
        lambda: torrey.gaussian_phase(
            torrey.Cylinder(radius=5.0), meshes.WATER, meshes.PAIR
        ),
        lambda: torrey.short_pulse(
            torrey.Slab(edges=[0.0, 5.0]), meshes.WATER, meshes.PAIR
        ),
    ],
)
def test_lengths_in_um_are_warned_of_where_shapes_are_made(
    make: Callable[[], Any],
) -> None:
    with pytest.warns(UserWarning, match=r"more than any cell.*mrsim\.units\.um"):
        make()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: torrey.mesh_sphere(5e-3, size=2e-6), "mesh of 4.16e+11 elements"),
        (lambda: torrey.mesh_cylinder(5e-3, 5e-3, size=1e-6), "cylinder_chart: a mesh"),
        (lambda: torrey.mesh_box([1e-2] * 3, (9999,) * 3), "mesh_box: a mesh of 6e+12"),
        (lambda: torrey.mesh_slab([0.0, 1e-2], 1e-7, width=1e-2), "mesh_slab: a mesh"),
        (
            lambda: torrey.mesh_neuron(torrey.example_neuron(1), size=1e-6),
            "mesh_neuron: a mesh",
        ),
    ],
)
def test_meshes_that_would_not_fit_are_told_before(
    make: Callable[[], Any], words: str
) -> None:
    with pytest.raises(MemoryError, match=re.escape(words)):
        make()


def test_modes_that_would_not_fit_are_told_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mrsim.torrey._memory.available", lambda _: 9000)
    mesh = meshes.box(2, 2, 1)
    with pytest.raises(MemoryError, match=r"2 modes of 18 degrees .* needs about"):
        torrey.laplace(*mesh, meshes.WATER, modes=2, method="sparse")
    with pytest.raises(MemoryError, match=r"stepped: .* states of 18"):
        torrey.stepped(*mesh, meshes.WATER, meshes.PAIR)
    with pytest.raises(MemoryError, match=r"hadc: .* states of 18"):
        torrey.hadc(*mesh, meshes.WATER, meshes.PAIR)


@pytest.mark.parametrize("name", OF_ENCODING)
def test_net_moments_are_told_in_every_function_of_an_encoding(name: str) -> None:
    told = "gradients do not refocus, the net moment is 1e.03 rad/mm"
    if name in NEED_REFOCUSING:
        with pytest.raises(ValueError, match=f"no meaning.*{told}"):
            OF_ENCODING[name](LONE)
        return
    with pytest.warns(UserWarning, match=told):
        OF_ENCODING[name](LONE)


@pytest.mark.parametrize("name", OF_ENCODING)
def test_milliseconds_are_warned_of_in_every_function_of_an_encoding(name: str) -> None:
    slow = replace(meshes.PAIR, delta=torch.tensor(4.0), Delta=torch.tensor(4.9))
    with pytest.warns(UserWarning, match="delta = 4 s looks like milliseconds"):
        OF_ENCODING[name](slow)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"delta": -4e-3}, "delta must not be negative, got -0.004 s"),
        ({"start": -1e-3}, "start must not be negative"),
        ({"delta": 0.012}, "delta is longer than Delta"),
        ({"TE": 0.012}, "TE comes before"),
    ],
)
def test_impossible_times_are_refused(change: dict[str, float], words: str) -> None:
    pair = replace(meshes.PAIR, **{n: torch.tensor(v) for n, v in change.items()})
    with pytest.raises(ValueError, match=words):
        torrey.signal(BASIS, pair)


def test_impossible_encodings_are_refused() -> None:
    times = {"q": 1e5, "direction": [1.0, 0, 0], "delta": 4e-3, "Delta": 1e-2}
    for kind, how in (
        (torrey.CosOGSE, {"steps": 0}),
        (torrey.SinOGSE, {"periods": 0}),
        (torrey.Trapezoid, {"rise": 1e-3, "steps": -1}),
    ):
        with pytest.raises(ValueError, match="must be at least 1"):
            torrey.signal(BASIS, kind(**times, **how))
    back = replace(LONE, times=torch.tensor([0.0, 5e-3, 4e-3]))
    with pytest.raises(ValueError, match=r"ascend, one goes back by 0.001 s"):
        torrey.signal(BASIS, back)
    with pytest.raises(TypeError, match=r"must be a PGSE.*analytic takes every"):
        torrey.short_pulse(BALL, meshes.WATER, LONE)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must ascend"):
        torrey.analytic(torrey.Sphere(radius=[5e-3, 3e-3]), meshes.WATER, meshes.PAIR)


def test_gradients_for_gamma_times_gradients_are_warned_of() -> None:
    with pytest.warns(UserWarning, match=r"q = 0.08 .*with_G\(encoding, 0.08 \* T / m"):
        torrey.signal(BASIS, replace(meshes.PAIR, q=torch.tensor(0.08)))
    with pytest.warns(UserWarning, match=r"G = 80 T/mm .*write 80 \* mT / m"):
        torrey.with_G(meshes.PAIR, 80.0)


def test_no_attenuation_is_no_diffusion_coefficient() -> None:
    still = replace(meshes.PAIR, q=torch.tensor(0.0))
    for name in ("hadc", "short_time", "adc"):
        with pytest.raises(ValueError, match="the encoding has b = 0"):
            OF_ENCODING[name](still)
    with pytest.raises(ValueError, match="the encoding has b = 0"):
        torrey.with_b(still, 900.0)
    with pytest.raises(ValueError, match="b must not be negative"):
        torrey.with_b(meshes.PAIR, -1.0)
    none = vmap(lambda q: torrey.apparent_diffusion(BASIS, replace(still, q=q)))
    assert none(still.q[None]).isnan().all()  # inside transforms: NaN, no number


def test_numbers_out_of_range_are_refused() -> None:
    args = (*MESH, meshes.WATER)
    for order in (0, -1):  # derivatives would be wrong
        with pytest.raises(ValueError, match="order must be at least 1"):
            torrey.laplace(*args, modes=3, order=order)
        for f in (torrey.stepped, torrey.hadc):
            with pytest.raises(ValueError, match="order must be at least 1"):
                f(*args, meshes.PAIR, 2, order=order)
    with pytest.raises(ValueError, match="theta from 1/2 to 1"):
        torrey.stepped(*args, meshes.PAIR, 2, theta=0.0)
    with pytest.raises(ValueError, match="at least one step, got 0"):
        torrey.stepped(*args, meshes.PAIR, 0)
    with pytest.raises(ValueError, match="steps must be at least 1"):
        torrey.karger(*args, meshes.PAIR, steps=0)
    with pytest.raises(ValueError, match="must be a positive time"):
        torrey.count_steps(meshes.PAIR, 0.0)
    with pytest.warns(UserWarning, match=r"length = 3 mm is longer.*mrsim\.units\.um"):
        torrey.laplace(*args, length=3.0)


def test_sound_input_is_silent() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for f in OF_ENCODING.values():
            f(meshes.PAIR)
