"""The GPU's walk does what the torch path does, for all physics and derivatives.

Without a GPU the kernels run in Triton's interpreter on CPU tensors: tiny programs,
through the public functions.
"""

import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import laws
import pytest
import torch
from torch import Tensor
from torch.func import jvp, vjp, vmap

import mrsim
from mrsim import Bound, Exchange, Tissue, epg
from mrsim.epg import engine
from mrsim.epg.kernels import call, choice, passes, triton_passes
from mrsim.tree import tree_flatten, tree_leaves, tree_unflatten
from mrsim.units import deg, ms

if find_spec("triton") is None:
    pytest.skip("triton comes with torch's CUDA builds", allow_module_level=True)
GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"

FREE: dict[str, Any] = {"T1": 0.95, "T2": 0.09, "M0": 1.3, "B1": 0.9}
TWO = Exchange(T1=0.5, T2=0.02, f=0.2, k=10.0, df=-11.0)
THREE = Exchange(T1=[0.5, 1.2], T2=[0.02, 0.06], f=[0.2, 0.1], k=[10.0, 25.0])
SOLID = Bound(f=0.1, k=4.0, T1=1.0, T2=11e-6)
DIPOLAR = Bound(f=0.1, k=4.0, T1=1.0, T2=11e-6, T1D=6 * ms)
TURNED: Any = {"phase": [0, 0.3, 0.8, 0.4, -1, 0], "demod": [0, 0.2, 0.1, -0.1, 0, 2]}
IRRADIATED: Any = {"power": [0, 3e4, 2e4, 1e4, 2e4, 1e4], "offset": [4000.0] * 6}
WOUND: Any = {"moment": [25.0], "thickness": 3.0}
LAYOUT = (
    epg.Event(invert=True),
    epg.Event(pulse=True, shift=1, read=True),
    epg.Event(pulse=True, quadrant=1, shift=-1, read=True, dual=True),
    epg.Event(pulse=True, shift=1, spoil=True),
    epg.Event(pulse=True, shift=-1),
    epg.Event(pulse=True, quadrant=2, shift=2, read=True),
)


def program(**more: Any) -> epg.Program:
    flip = torch.tensor([0, 100, 60, 45, 70, 110], dtype=torch.float64) * deg
    duration = [4 * ms, 5 * ms, 6 * ms, 4 * ms, 5 * ms, 6 * ms]
    common: Any = {"flip": flip, "duration": duration, "efficiency": [0.97] * 6}
    return epg.Program(**common, layout=LAYOUT, **more)


def first(rows: int, whole: epg.Program) -> epg.Program:
    """Return the first rows of a program."""
    cut = {n: x[:rows] for n, x in vars(whole).items() if getattr(x, "ndim", 0) == 1}
    return mrsim.replace(whole, **cut, layout=LAYOUT[:rows])


def of(**fields: Any) -> Tissue:
    return Tissue(**FREE, **fields)


PHYSICS = {
    "real": (of(), program()),
    "complex": (of(df=12.0), program(**TURNED)),
    "two pools": (of(exchange=TWO), program()),
    "three pools": (of(exchange=THREE), program()),
    "bound": (of(bound=SOLID), program(saturation=[0.1, 0.05, 0.06, 0.07, 0.08, 0.09])),
    "dipolar": (of(bound=DIPOLAR), program(**IRRADIATED)),
    "diffusion": (of(D=2e-3), program(**WOUND)),
    "flow": (of(v=3.0), program(**WOUND, **TURNED)),
    "everything": (
        of(df=7.0, exchange=TWO, bound=DIPOLAR, D=2e-3, v=3.0),
        program(**WOUND, **IRRADIATED, **TURNED),
    ),
}


LONG, SHORT = 6, 3  # rows


@pytest.fixture(scope="module", autouse=True)
def kernels() -> Iterator[None]:
    """Kernels are made for a card or the interpreter where they are imported."""
    made = [f"triton_{name}" for name in ("numbers", "memory", "orders", "walk")]
    with pytest.MonkeyPatch.context() as patch:
        for name in made:
            patch.delitem(sys.modules, f"mrsim.epg.kernels.{name}", raising=False)
        yield


@pytest.fixture(autouse=True)
def on_triton(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Without a GPU send CPU tensors to kernels that are made for the interpreter."""
    if not GPU:
        monkeypatch.setenv("TRITON_INTERPRET", "1")
        monkeypatch.setattr(triton_passes, "_BLOCK", 4)
        monkeypatch.setattr(passes, "_on_gpu", lambda _: True)
        monkeypatch.setattr(call, "kernel", lambda *_: None)
        for module in (engine, choice):
            monkeypatch.setattr(module, "physics_of", given_waits)
    engine._jobs.clear()
    yield
    engine._jobs.clear()


def given_waits(*asked: Any, known: Any = choice.physics_of) -> Any:
    return known(*asked)._replace(own=False)


@pytest.fixture
def walks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which kernels ran: what takes another path leaves none."""
    ran: list[str] = []
    launch = triton_passes._launch

    def noted(kernel: str, *rest: Any) -> None:
        ran.append(kernel)
        launch(kernel, *rest)

    monkeypatch.setattr(triton_passes, "_launch", noted)
    return ran


def function(
    name: str, real: torch.dtype, rows: int = SHORT
) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
    """Return the signal (reading, re and im) as a function of everything, and that."""
    tissue, seq = mrsim.to(PHYSICS[name], real)
    args = mrsim.to((tissue, first(rows, seq)), device=DEVICE)
    leaves, spec = tree_flatten(args)

    def f(*xs: Tensor) -> Tensor:
        return torch.view_as_real(epg.run(*tree_unflatten(list(xs), spec)))

    return f, tuple(leaves)


def value(f: Any, xs: Any, _: Any) -> Any:
    """Programs of their own for each voxel, of one more axis."""
    size = torch.linspace(0.9, 1.1, 4).to(xs[0]).reshape(2, 2)
    spread = [torch.stack([x * k for k in size.flatten()]) for x in xs]
    return vmap(vmap(f))(*(x.unflatten(0, (2, 2)) for x in spread))


def tangents(f: Any, xs: Any, random: Any) -> Any:
    ways = tuple(random(2, *x.shape) * x for x in xs)
    return vmap(lambda *ts: jvp(f, xs, ts))(*ways)


def cotangents(f: Any, xs: Any, random: Any) -> Any:
    return vmap(vjp(f, *xs)[1])(random(2, 2, 2))


def reverse_over_forward(f: Any, xs: Any, random: Any) -> Any:
    moved, bars = (random(*xs[0].shape),), (random(2, 2), random(2, 2))

    def both(*x: Tensor) -> Any:
        return jvp(lambda first: f(first, *x[1:-1]), x[:1], x[-1:])

    return vjp(both, *xs, *moved)[1](bars)


WAYS = {
    value: ["there"],
    tangents: ["there"],
    cotangents: ["there_and_back"],
    reverse_over_forward: ["there_and_back"],
}


def close(made: Any, wanted: Any, tolerance: float, least: float = 1e-6) -> None:
    pairs = zip(tree_leaves(made), tree_leaves(wanted), strict=True)
    for a, b in pairs:
        assert a.shape == b.shape
        scale = max(float(b.abs().max()), least) if b.numel() else 1.0
        assert a.numel() == 0 or float((a - b).abs().max()) <= tolerance * scale


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("name", PHYSICS if laws.NIGHTLY else ["everything", "complex"])
def test_all_physics_and_derivatives(
    name: str, way: Callable[..., Any], walks: list[str]
) -> None:
    f, xs = function(name, torch.float64, LONG if way is value else SHORT)

    def random(*shape: int) -> Tensor:
        numbers = torch.Generator().manual_seed(sum(shape))
        return torch.randn(shape, generator=numbers, dtype=torch.float64).to(xs[0])

    made = way(f, xs, random)
    assert walks[-1:] == WAYS[way]
    with epg.use_engine("torch"):
        wanted = way(f, xs, random)
    close(made, wanted, 1e-12)


@pytest.mark.parametrize("name", ["complex", "bound", "everything"])
def test_single_precision(name: str) -> None:
    f, xs = function(name, torch.float32)

    def both() -> Any:
        y, pull, *_ = vjp(f, *xs)
        return y, pull(torch.ones_like(y))

    made = both()
    assert all(x.dtype == torch.float32 for x in tree_leaves(made))
    with epg.use_engine("torch"):
        wanted = both()
    close(made, wanted, 2e-5, least=1e-4)  # what is less is left of larger terms


def test_nan_spins_stay_alone() -> None:
    f, xs = function("two pools", torch.float64)
    each = vmap(lambda x: f(x, *xs[1:]))
    many = torch.stack([xs[0]] * 5)
    clean = each(many)
    many[1] = torch.nan
    made = each(many)
    assert made[1, 1].isnan().all()  # nothing reaches the first reading
    assert torch.equal(made[[0, 2, 3, 4]], clean[[0, 2, 3, 4]])


def test_more_lanes_than_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    f, xs = function("bound", torch.float64)
    many = torch.stack([xs[0] * (1 + 0.1 * k) for k in range(5)])

    def both(x: Tensor) -> Any:
        y, pull, *_ = vjp(lambda x: f(x, *xs[1:]), x)
        return y, pull(torch.ones_like(y))

    wide = vmap(both)(many)
    monkeypatch.setattr(triton_passes, "_BLOCK", 2)
    monkeypatch.setattr(triton_passes, "_SCRATCH", 1)
    close(vmap(both)(many), wide, 1e-15)


@pytest.mark.parametrize("name", ["complex", "bound", "everything"])
def test_nothing_is_left_on_the_cpu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    f, xs = function(name, torch.float32)
    far = tuple(x.to("meta") for x in xs)
    monkeypatch.setattr(engine, "obstacle", lambda *_: "")
    ran: list[str] = []

    def launch(
        kernel: str, job: Any, _: Any, given: Any, moved: Any, __: Any, made: Any
    ) -> None:
        ran.append(kernel)
        numbers = job.integers
        handed = *given, *(moved or ()), *made, numbers.knots, numbers.clears
        assert {x.device.type for x in (*handed, numbers.places)} == {"meta"}
        assert all(x.is_contiguous() for x in handed)

    monkeypatch.setattr(triton_passes, "_launch", launch)
    for way in WAYS:
        made = way(f, far, lambda *shape: torch.empty(shape, device="meta"))
        assert {x.device.type for x in tree_leaves(made)} == {"meta"}
    assert ran == ["there"] * 3 + ["there_and_back", "there", "there_and_back"]


def test_what_a_card_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    card = torch.device("cuda", 0)
    assert triton_passes.obstacle(card) == ""
    assert "mps" in triton_passes.obstacle(torch.device("mps"))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a card")
    assert choice.described(card) == "compiled by Triton for a card"
    assert "CPU" in choice.described(torch.device("cpu"))
    monkeypatch.setattr(triton_passes, "find_spec", lambda _: None)
    assert "not installed" in triton_passes.obstacle(card)


@pytest.mark.gpu
@pytest.mark.skipif(not GPU, reason="needs a CUDA device")
def test_public_functions_on_a_gpu() -> None:
    tissue, seq = PHYSICS["complex"]
    tissues = mrsim.expand(tissue, 1000)
    many = vmap(epg.run, in_dims=(0, None))
    there = mrsim.to(tissues, device="cuda"), mrsim.to(seq, device="cuda")
    assert epg.engine_info(tissue, seq).path == "fused"
    close(many(*there).cpu(), many(tissues, seq), 1e-12)
    slope = vmap(mrsim.jac(epg.run, "T1", "T2", "B1"), in_dims=(0, None))
    close(slope(*there).T2.cpu(), slope(tissues, seq).T2, 1e-12)
