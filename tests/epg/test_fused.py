"""The fused engine does what the torch path does, in every derivative and batch."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import CASES, FULL, PLAIN, STILL, TRAIN, TWO, Case, _mixed
from torch import Tensor
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap

import mrsim
from mrsim import Tissue, epg
from mrsim.epg import engine
from mrsim.epg.kernels import call, passes
from mrsim.tree import replace, tree_flatten, tree_leaves, tree_map, tree_unflatten
from mrsim.units import deg, ms

if epg.engine_info().path != "fused":
    pytest.skip("no compiled kernel here", allow_module_level=True)

MIXED = _mixed()
BATCH = torch.tensor([0.9, 1.0, 1.1])
FUSABLE = [
    c for c in CASES if c.f.__module__ != "mrsim.bloch" and c.name != "operators"
]


def _torch(f: Callable[..., Any], *args: Any) -> Any:
    with epg.use_engine("torch"):
        return f(*args)


def _close(made: Any, wanted: Any, tolerance: float = 1e-11) -> None:
    for a, b in zip(tree_leaves(made), tree_leaves(wanted), strict=True):
        a, b = a.detach(), b.detach()
        assert a.shape == b.shape
        size = max(float(b.abs().max()), 1e-3) if b.numel() else 1.0
        assert a.numel() == 0 or float((a - b).abs().max()) <= tolerance * size


# ------------------------------------------------------------------------- 12: values


@pytest.mark.parametrize("case", FUSABLE, ids=lambda case: case.name)
def test_double_precision_is_the_torch_path(case: Case) -> None:
    _close(case.f(*case.args), _torch(case.f, *case.args), 1e-12)


@pytest.mark.parametrize("case", FUSABLE[:12], ids=lambda case: case.name)
def test_single_precision_errs_as_little_as_the_torch_path(case: Case) -> None:
    exact = _torch(case.f, *case.args)
    small = tuple(mrsim.to(x, torch.float32) for x in case.args)
    made, other = case.f(*small), _torch(case.f, *small)
    error = float((made - exact).abs().max())
    assert error <= 2 * float((other - exact).abs().max()) + 1e-6


# ----------------------------------------------------------------------- compositions

TRANSFORMS: dict[str, Callable[[Callable[..., Tensor]], Callable[..., Any]]] = {
    "forward": lambda f: f,
    "jvp": lambda f: lambda *x: jvp(f, x, tuple(map(torch.cos, x)))[1],
    "jacfwd": lambda f: jacfwd(f, argnums=(0, 1, 2)),
    "jacrev": lambda f: jacrev(f, argnums=(0, 1, 2)),
    "grad": lambda f: grad(lambda *x: f(*x).square().sum(), argnums=(0, 1, 2)),
    "jacrev(jacfwd)": lambda f: jacrev(jacfwd(f), argnums=(0, 2)),
    "hessian": lambda f: hessian(lambda *x: f(*x).square().sum(), argnums=(0, 2)),
    "jacrev(jacrev)": lambda f: jacrev(jacrev(f), argnums=(0, 2)),
    "jacfwd(grad)": lambda f: jacfwd(grad(lambda *x: f(*x).square().sum()), argnums=2),
    "grad(CRLB)": lambda f: grad(_bound(f), argnums=2),
    "grad(grad(CRLB))": lambda f: grad(
        lambda *x: grad(_bound(f), argnums=2)(*x).square().sum(), argnums=2
    ),
}
MAPS: dict[str, Callable[[Callable[..., Any]], Callable[..., Any]]] = {
    "one": lambda g: lambda x: g(*(v[1] for v in x)),
    "tissues": lambda g: lambda x: vmap(g, (0, 0, None))(x[0], x[1], x[2][1]),
    "protocols": lambda g: lambda x: vmap(g, (None, None, 0))(x[0][1], x[1][0], x[2]),
    "both": lambda g: lambda x: vmap(vmap(g, (0, 0, None)), (None, None, 0))(*x),
}


def _bound(f: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def cost(*x: Tensor) -> Tensor:
        J = torch.stack(jacfwd(f, argnums=(0, 1))(*x), -1)
        a, b, c = (J[:, 0] ** 2).sum(), (J[:, 0] * J[:, 1]).sum(), (J[:, 1] ** 2).sum()
        return torch.log((a + c) / (a * c - b * b + 1e-3))

    return cost


def _signal(T2: Tensor, B1: Tensor, flip: Tensor) -> Tensor:
    train = epg.FSE(flip=flip, esp=torch.tensor(9 * ms))
    y = epg.fse(Tissue(T1=0 * T2 + 0.9, T2=T2, B1=B1), train)
    return torch.view_as_real(y).flatten()


def _phased(T2: Tensor, B1: Tensor, flip: Tensor) -> Tensor:
    zero = 0 * T2
    train = epg.FISP(flip=flip, TR=zero + 12 * ms, TE=zero + 4 * ms, phase=0.4 * flip)
    y = epg.fisp(Tissue(T1=zero + 0.9, T2=T2, B1=B1, df=zero + 7), train)
    return torch.view_as_real(y).flatten()


LONG = {"hessian", "jacrev(jacrev)", "jacfwd(grad)", "grad(grad(CRLB))"}


@pytest.mark.parametrize(
    ("transform", "mapped"),
    [(t, m) for t in TRANSFORMS for m in (MAPS if t not in LONG else ["one", "both"])],
)
def test_every_composition_is_the_torch_path(transform: str, mapped: str) -> None:
    x = (0.08 * BATCH, 0.95 * BATCH, torch.outer(BATCH, torch.tensor([2.1, 1.7, 2.6])))
    for f in (_signal, _phased):
        made = MAPS[mapped](TRANSFORMS[transform](f))
        _close(made(x), _torch(made, x), 1e-9)


def test_backward_and_double_backward() -> None:
    x = [torch.tensor(v).requires_grad_() for v in (0.08, 0.95, [2.1, 1.7, 2.6])]

    def slopes() -> list[Tensor]:
        made = torch.autograd.grad(_phased(*x).square().sum(), x, create_graph=True)
        twice = torch.autograd.grad(sum(g.square().sum() for g in made), x)
        return [*made, *twice]

    _close(slopes(), _torch(slopes), 1e-10)


# ----------------------------------------------------------------------- many, strange


def _voxels(count: int, dtype: torch.dtype = torch.float64) -> Tissue:
    share = torch.linspace(0.0, 1.0, count, dtype=dtype)
    return Tissue(T1=0.5 + share, T2=0.04 + 0.06 * share, B1=0.8 + 0.4 * share)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("count", [1, 7, 8, 9, 4001])
def test_any_number_of_spins_and_threads(count: int, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        tissue = _voxels(count)

        def power(t: Tissue, s: epg.FSE) -> Tensor:
            return vmap(epg.fse, (0, None))(t, s).real.square().sum()

        train = epg.FSE(flip=torch.full((40,), 2.0), esp=torch.tensor(5 * ms))
        _close(power(tissue, train), _torch(power, tissue, train))
        made = grad(power, (0, 1))
        _close(made(tissue, train), _torch(made, tissue, train))
        assert all(map(torch.equal, *map(tree_leaves, [made(tissue, train)] * 2)))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf, 0.0, 1e-30, 1e30])
def test_a_strange_spin_changes_only_itself(bad: float) -> None:
    tissue = _voxels(19)
    hole = torch.arange(19) == 11
    train = epg.FSE(flip=torch.full((20,), 2.0), esp=torch.tensor(5 * ms))
    jac = mrsim.jac(epg.fse, "T1", "T2", "B1")
    back = mrsim.jac(epg.fse, "T1", "T2", "B1", mode="reverse")
    for name in ("T1", "T2", "B1"):
        other = replace(tissue, **{name: getattr(tissue, name).where(~hole, bad)})
        for f in (epg.fse, jac, back):
            made, wanted = (vmap(f, (0, None))(t, train) for t in (other, tissue))
            for a, b in zip(tree_leaves(made), tree_leaves(wanted), strict=True):
                assert torch.equal(a[~hole], b[~hole])
        value = vmap(epg.fse, (0, None))
        made, wanted = (
            value(other, train)[11].real,
            _torch(value, other, train)[11].real,
        )
        if (name, bad) == ("T1", 0.0):  # the limit, where the torch path has NaN
            assert made.isfinite().all()
        else:
            assert torch.equal(made.isfinite(), wanted.isfinite())


@pytest.mark.parametrize("angle", [0.0, 1e-9, 3.0, 50.0, 2e4, 3e6, -1e5])
def test_angles_of_any_size(angle: float) -> None:
    tolerance = 1e-12 + 2e-15 * abs(angle)  # of the angles' own sums
    program = replace(MIXED, phase=MIXED.phase + angle, demod=MIXED.demod + angle)
    _close(epg.run(FULL, program), _torch(epg.run, FULL, program), tolerance)
    flip = replace(MIXED, flip=MIXED.flip + angle)
    _close(epg.run(FULL, flip), _torch(epg.run, FULL, flip), 1e-12)


def test_relaxation_of_any_size() -> None:
    scales = 10.0 ** torch.arange(-12.0, 13.0)
    tissue = Tissue(T1=0.9 * scales, T2=0.08 * scales)
    f = vmap(epg.fse, (0, None))
    _close(f(tissue, TRAIN), _torch(f, tissue, TRAIN), 1e-13)
    made = vmap(mrsim.jac(epg.fse, "T1", "T2"), (0, None))
    _close(made(tissue, TRAIN), _torch(made, tissue, TRAIN), 1e-11)


def test_batches_of_more_axes_than_a_kernel_counts() -> None:
    deep = (1, 2, 1, 1, 2, 1, 2, 1)
    T2 = torch.linspace(0.05, 0.12, 8).reshape(deep)

    def power(T2: Tensor, B1: Tensor) -> Tensor:
        f = lambda T2: epg.fse(replace(PLAIN, T2=T2, B1=B1), TRAIN).real  # noqa: E731
        for _ in deep:
            f = vmap(f)
        return f(T2).square().sum()

    assert len(deep) > call.AXES
    made = grad(power, (0, 1))
    _close(made(T2, torch.tensor(0.9)), _torch(made, T2, torch.tensor(0.9)))


def test_what_is_not_mapped_is_not_copied() -> None:
    seen: list[tuple[int, ...]] = []
    walk = call.walk

    def watched(physics: Any, table: Any, arrays: Any, *rest: Any) -> None:
        seen.extend(tuple(a.tensor.shape) for a in arrays if a.name == 0)
        walk(physics, table, arrays, *rest)

    call.walk = watched
    try:
        vmap(epg.fse, (0, None))(_voxels(9), TRAIN)
        vmap(mrsim.jac(epg.fse, "T2"), (0, None))(_voxels(9), TRAIN)
    finally:
        call.walk = walk
    assert seen
    assert {shape[-1] for shape in seen} == {1}


@pytest.mark.parametrize(
    ("names", "phased"), [(("M0", "T2", "B1"), False), (("M0", "df", "T1"), True)]
)
def test_tangents_that_move_little_are_the_torch_path(
    names: tuple[str, ...], phased: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernels of large problems know which coefficients each tangent moves."""
    monkeypatch.setattr(passes, "_WORTH", 0)
    tissue = replace(_voxels(11), M0=torch.linspace(0.5, 2.0, 11))
    if phased:
        tissue = replace(tissue, df=torch.linspace(-9.0, 20.0, 11))
    phase = torch.linspace(0.0, 0.4, 6) if phased else None
    train = epg.FSE(flip=torch.linspace(2, 3, 6), esp=torch.tensor(5 * ms), phase=phase)

    def both(t: Tissue, s: epg.FSE) -> Any:
        return vmap(mrsim.value_and_jac(epg.fse, *names), (0, None))(t, s)

    def power(t: Tissue, s: epg.FSE) -> Tensor:
        weights = (torch.cos(torch.arange(y.numel())) for y in tree_leaves(both(t, s)))
        parts = zip(tree_leaves(both(t, s)), weights, strict=True)
        return sum((w.view(y.shape) * (y.abs() ** 2)).sum() for y, w in parts)

    _close(both(tissue, train), _torch(both, tissue, train))
    made = grad(power, (0, 1))
    _close(made(tissue, train), _torch(made, tissue, train), 1e-10)


def test_many_tangents_are_a_few_walks() -> None:
    count = 0
    walk = call.walk

    def counted(*args: Any) -> None:
        nonlocal count
        count += 1
        walk(*args)

    call.walk = counted
    try:
        jacfwd(lambda flip: epg.fse(STILL, replace(TRAIN, flip=flip)).real)(TRAIN.flip)
        forward, count = count, 0
        jacrev(lambda flip: epg.fse(STILL, replace(TRAIN, flip=flip)).real)(TRAIN.flip)
    finally:
        call.walk = walk
    assert forward == -(-len(TRAIN.flip) // call.MOST)  # the first gives the value too
    assert count == 2


# ------------------------------------------------------------------------------ paths


def test_engine_info_says_which_path_runs_and_why() -> None:
    assert epg.engine_info(FULL, MIXED).path == "fused"
    spread = replace(FULL, T2p=torch.tensor(0.03))
    info = epg.engine_info(spread, MIXED)
    assert info.path == "torch"
    assert "T2′" in info.why
    with epg.use_engine("torch"):
        assert epg.engine_info(FULL, MIXED) == ("torch", "the torch path was asked for")
    with pytest.raises(ValueError, match="a tissue and a program"):
        epg.engine_info(FULL)
    with pytest.raises(ValueError, match="'gpu'"), epg.use_engine("gpu"):  # pyright: ignore
        pass


def test_an_unknown_path_in_the_environment_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MRSIM_ENGINE", "gpu")
    with pytest.raises(ValueError, match="MRSIM_ENGINE"):
        epg.fse(PLAIN, TRAIN)


def test_a_value_without_a_pass_of_tangents_is_written() -> None:
    """Forward mode over something else leaves the value to be worked out."""
    wanted = epg.fse(PLAIN, TRAIN)

    def f(x: Tensor) -> Tensor:
        return epg.fse(PLAIN, TRAIN).real * x

    value, move = jvp(f, (torch.tensor(2.0),), (torch.tensor(3.0),))
    _close((value, move), (2 * wanted.real, 3 * wanted.real), 1e-13)

    def both(T2: Tensor, x: Tensor) -> Tensor:
        return vmap(lambda x: epg.fse(replace(PLAIN, T2=T2), TRAIN).real * x)(x)

    x = (PLAIN.T2, torch.tensor([1.0, 2.0]))
    _close(jvp(both, x, x), _torch(jvp, both, x, x), 1e-12)


def test_the_environment_can_ask_for_the_torch_path(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MRSIM_ENGINE", "torch")
    seen = []
    monkeypatch.setattr(engine, "fused", lambda *_: seen.append(1))
    epg.fse(PLAIN, TRAIN)
    assert not seen
    assert epg.engine_info().path == "torch"


def test_tracing_takes_the_torch_path() -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    def f(T2: Tensor) -> Tensor:
        return epg.fse(replace(PLAIN, T2=T2), TRAIN).real

    graph = make_fx(f)(PLAIN.T2)
    _close(graph(2 * PLAIN.T2), f(2 * PLAIN.T2))


def test_pools_and_motion_have_all_derivatives() -> None:
    two = replace(STILL, exchange=TWO)
    drifting = replace(STILL, D=torch.tensor(2e-3), v=torch.tensor(3.0))
    train = replace(TRAIN, moment=torch.tensor(25.0))
    for tissue, seq in ((two, TRAIN), (drifting, train)):
        leaves, structure = tree_flatten((tissue, seq))

        def f(*xs: Tensor, structure: Any = structure) -> Tensor:
            y = epg.fse(*tree_unflatten(list(xs), structure))
            return torch.view_as_real(y)

        every = tuple(range(len(leaves)))

        def cost(*xs: Tensor) -> Tensor:
            return sum(j.square().sum() for j in jacfwd(f, every)(*xs))  # noqa: B023

        for made in (jacfwd(f, every), jacrev(f, every)):
            _close(made(*leaves), _torch(made, *leaves), 1e-9)
        batch = [torch.stack([x, 1.05 * x]) for x in leaves]
        made = vmap(grad(cost, every))
        _close(made(*batch), _torch(made, *batch), 1e-9)


def test_pools_in_chunks_are_pools_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from mrsim.epg.kernels import family

    many = tree_map(
        lambda x: torch.stack([x * s for s in torch.linspace(0.9, 1.1, 150)]),
        replace(STILL, exchange=TWO),
    )

    def power(t: Tissue, s: epg.FSE) -> Tensor:
        return vmap(epg.fse, (0, None))(t, s).abs().square().sum()

    made = grad(power, (0, 1))
    whole = made(many, TRAIN)
    monkeypatch.setattr(family, "_CHUNK", 1)  # 64 voxels each
    _close(made(many, TRAIN), whole, 1e-12)
    value = vmap(epg.fse, (0, None))
    _close(value(many, TRAIN), _torch(value, many, TRAIN), 1e-12)


def test_flips_in_degrees_are_not_needed() -> None:
    """Readings of a train of 180° pulses decay with T2 alone."""
    train = epg.FSE(flip=[180 * deg] * 200, esp=5 * ms)
    echoes = torch.arange(1, 201) * 5 * ms
    _close(epg.fse(PLAIN, train).real, torch.exp(-echoes / PLAIN.T2), 1e-12)
