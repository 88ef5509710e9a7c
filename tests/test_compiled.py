"""Recorded graphs: the same values as the function, and no value kept in silence."""

from functools import partial
from typing import Any

import pytest
import torch
from compiled_models import X, close, counted
from torch import Tensor
from torch.func import grad, grad_and_value, hessian, jacfwd, jvp, vmap
from torch.utils._python_dispatch import TorchDispatchMode

import mrsim
from mrsim import Tissue, _compiled, epg, ivim
from mrsim._compiled import compiled
from mrsim._recorder import Recorder
from mrsim.units import deg, ms


def model(x: Tensor, scale: Tensor) -> Tensor:
    return (x.sin() * scale + 2.0).prod() + torch.tensor([1.0, 2.0]).sum()


TRANSFORMED = {
    "value": model,
    "grad": grad(model),
    "jvp": lambda x, s: jvp(model, (x, s), (x, s)),
    "vmap": vmap(model, in_dims=(0, None)),
    "vmap_grad": vmap(grad(model), in_dims=(0, None)),
    "hessian": hessian(model),
    "vmap_jacfwd_grad": vmap(jacfwd(grad(model)), in_dims=(0, None)),
}


@pytest.mark.parametrize("name", TRANSFORMED)
def test_equals_the_function_at_values_it_was_not_traced_at(name: str) -> None:
    f, calls = counted(TRANSFORMED[name])
    run, scale = compiled(f), torch.tensor(0.7)
    x = torch.stack([X, 2 * X]) if "vmap" in name else X
    for y in (x, 3 * x, -x):
        close(run(y, scale * y.sum()), TRANSFORMED[name](y, scale * y.sum()))
    assert len(calls) == 1


def test_each_kind_of_arguments_has_its_graph() -> None:
    f, calls = counted(lambda x, n: x * n)
    run = compiled(f)
    kinds = [(X, 1), (X[:2], 1), (X.float(), 1), (X, 1.0), (X, True), (X, X)]
    for repeat in range(2):
        for x, n in kinds:
            got = run(x + repeat, n)
            assert got.dtype == (x * n).dtype
            close(got, (x + repeat) * n)
    assert len(calls) == len(kinds)


def test_records_lists_and_what_is_no_tensor() -> None:
    def f(tissue: Tissue, more: dict[str, Any]) -> Any:
        M0 = 1.0 if tissue.M0 is None else tissue.M0
        return mrsim.replace(tissue, T1=2 * tissue.T1 * M0), [more["n"], None, "end"]

    run, full = compiled(f), Tissue(T1=1.0, T2=0.1, M0=0.5)
    for tissue in (full, mrsim.replace(full, T1=X.sum()), Tissue(T1=1.0, T2=0.1)):
        got, rest = run(tissue, {"n": 7})
        close(got, f(tissue, {"n": 7})[0])
        assert isinstance(got, Tissue)
        assert rest == [7, None, "end"]


def test_default_dtype_belongs_to_the_kind() -> None:
    run = compiled(lambda x: x * torch.tensor([1.0]))
    wide = run(X.float())
    torch.set_default_dtype(torch.float32)
    try:
        narrow = run(X.float())
    finally:
        torch.set_default_dtype(torch.float64)
    assert (wide.dtype, narrow.dtype) == (torch.float64, torch.float32)


@pytest.mark.parametrize("cut", [slice(None, None, 2), slice(1, 3)])
def test_views_of_other_tensors(cut: slice) -> None:
    def f(x: Tensor) -> Tensor:
        return torch.as_strided(x.contiguous(), (2,), (1,)) + x.reshape(-1)[:2]

    run, long = compiled(f), torch.arange(8.0)
    close(run(long[:4][cut]), 2 * long[:4][cut])
    close(run(long[4:][cut]), 2 * long[4:][cut])
    close(run(long.reshape(4, 2)[cut, 1]), 2 * long.reshape(4, 2)[cut, 1])


def test_conjugate_and_negative_views() -> None:
    run, z = compiled(lambda z: z * 1j), torch.complex(X, 2 * X)
    close(run(z), z * 1j)
    close(run(z.conj()), z.conj() * 1j)
    close(compiled(lambda x: x + 1)(z.conj().imag), 1 - 2 * X)


def test_random_numbers_are_drawn_anew() -> None:
    run = compiled(lambda x: x + torch.rand(4))
    assert not torch.equal(run(X), run(X))


def test_what_is_constant_is_a_new_tensor_in_every_call() -> None:
    def f(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        steps = torch.ones(4).cumsum(0)
        return x * steps, steps, torch.zeros_like(x)

    run = compiled(f)
    for _ in range(3):
        for got in run(X):
            got.add_(1.0)
    close(run(2 * X), f(2 * X))


def test_memory_that_is_written_into_is_made_anew() -> None:
    def f(x: Tensor) -> Tensor:
        total, first = torch.zeros(4), torch.ones(2)
        before = total + 1
        total[1:3] += first
        first.mul_(3.0)
        total.add_(x)
        return total * first.sum() + before

    run = compiled(f)
    for scale in (1.0, 2.0, 2.0):
        close(run(scale * X), f(scale * X))


def test_constants_are_not_worked_out_again() -> None:
    calls: list[int] = []

    def f(x: Tensor) -> Tensor:
        constant = torch.eye(4).exp().sum(0) * torch.zeros_like(x).cos()
        return (x * constant).sum()

    run = compiled(f)
    close(run(X), f(X))

    class Count(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            calls.append(1)
            return func(*args, **(kwargs or {}))

    graph = next(iter(_graphs(run).values()))
    with Count():
        (got,) = graph.play(2 * X)
    close(got, f(2 * X))
    assert len(calls) == 3  # 2 x, the product and the sum


def _graphs(run: Any) -> dict[Any, Any]:
    return next(
        c.cell_contents for c in run.__closure__ if isinstance(c.cell_contents, dict)
    )


def test_transforms_and_autograd_see_the_function_itself() -> None:
    run = compiled(lambda x: (x**3).sum())
    run(X)
    close(grad(run)(X), 3 * X**2)
    close(hessian(run)(X), torch.diag(6 * X))
    close(vmap(run)(X[:, None]), X**3)
    close(jvp(run, (X,), (X,))[1], (3 * X**3).sum())
    x = X.clone().requires_grad_()
    run(x).backward()
    close(x.grad, 3 * X**2)
    with torch.no_grad():
        assert not run(x).requires_grad
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(X, torch.ones(4))
        tangent = torch.autograd.forward_ad.unpack_dual(run(dual)).tangent
    close(tangent, (3 * X**2).sum())


def test_one_inside_another() -> None:
    inner = compiled(lambda x: x.sin())
    outer = compiled(lambda x: inner(x) * 2)
    close(outer(X), 2 * X.sin())
    close(outer(2 * X), 2 * (2 * X).sin())


def test_inference_mode() -> None:
    run = compiled(grad(lambda x: (x**3).sum()))
    with torch.inference_mode():
        close(run(X), 3 * X**2)
    close(run(2 * X), 12 * X**2)


def test_the_oldest_graphs_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_compiled, "_MOST", 2)
    f, calls = counted(lambda x, n: x * n)
    run = compiled(f)
    run(X, 1), run(X, 2)
    with pytest.warns(UserWarning, match="more than 2 traces"):
        run(X, 3)
    run(X, 3), run(X, 2)
    assert len(calls) == 3
    with pytest.warns(UserWarning, match="more than 2 traces"):
        run(X, 1)
    assert len(calls) == 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_crlb_gradient_of_a_train(dtype: torch.dtype) -> None:
    def cost(train: epg.FSE, tissue: Tissue) -> Tensor:
        return mrsim.crlb(epg.fse, "M0", "T2", sigma=0.01)(tissue, train).T2

    slope = grad_and_value(cost)
    run = compiled(slope)
    train = mrsim.to(epg.FSE(flip=[150 * deg, 120 * deg, 90 * deg], esp=8 * ms), dtype)
    tissue = mrsim.to(Tissue(T1=1.0, T2=0.08), dtype)
    run(train, tissue)
    train = mrsim.replace(train, flip=train.flip * 0.9)
    tissue = mrsim.replace(tissue, T2=tissue.T2 * 1.3)
    close(run(train, tissue), slope(train, tissue), 10 * torch.finfo(dtype).eps)


def test_fused_trains_are_few_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    if epg.engine_info().path != "fused":
        pytest.skip("no compiler here")
    recorders: list[Recorder] = []
    monkeypatch.setattr(
        _compiled, "Recorder", lambda f: recorders.append(Recorder(f)) or recorders[-1]
    )
    train = epg.FSE(flip=[2.0] * 6, esp=8 * ms)
    slope = grad(
        lambda q: mrsim.crlb(epg.fse, "M0", "T2", sigma=0.01)(tissue_of(q), q).T2
    )

    def tissue_of(q: epg.FSE) -> Tissue:
        return Tissue(T1=100 * q.esp + 0.2, T2=10 * q.esp)

    run = compiled(slope)
    close(run(train).flip, slope(train).flip)
    longer = mrsim.replace(train, flip=1.1 * train.flip)
    close(run(longer).flip, slope(longer).flip)
    assert 1 <= recorders[0].opaque_calls <= 4
    assert len(recorders) == 1
    assert len(recorders[0].graph.nodes) < 600


def gauss_newton(y: Tensor, p: ivim.Biexp, b: Tensor) -> ivim.Biexp:
    """One step of a fit: value, Jacobian, and elimination by hand."""
    value, jac = mrsim.value_and_jac(ivim.signal, "S0", "f", "D")(
        p, ivim.Acquisition(b=b)
    )
    J = torch.stack([jac.S0, jac.f, jac.D], -1)
    step = torch.linalg.inv_ex(J.mT @ J + 1e-9 * torch.eye(3))[0] @ (J.mT @ (y - value))
    return mrsim.replace(p, S0=p.S0 + step[0], f=p.f + step[1], D=p.D + step[2])


def fit_problem(size: int) -> tuple[Tensor, ivim.Biexp, Tensor]:
    b = torch.tensor([0.0, 50.0, 200.0, 400.0, 800.0])
    one = ivim.Biexp(S0=1.0, f=0.1, Dp=0.02, D=0.001)
    many = mrsim.expand(one, size)
    truth = mrsim.replace(many, f=torch.linspace(0.08, 0.15, size))
    y = vmap(ivim.signal, in_dims=(0, None))(truth, ivim.Acquisition(b=b))
    return y, many, b


@pytest.mark.parametrize("backend", ["graph", "eager"])
def test_steps_of_a_fit(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # whole graphs, without the 30 s of inductor and its C++ compiler
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    step = vmap(gauss_newton, in_dims=(0, 0, None))
    run = compiled(step, inductor=backend != "graph")
    y, p, b = fit_problem(5)
    for _ in range(4):
        close(run(y, p, b), step(y, p, b), 1e-12)
        p = run(y, p, b)
    close(p.f, torch.linspace(0.08, 0.15, 5), 1e-6)


@pytest.mark.slow
def test_machine_code() -> None:
    step = vmap(gauss_newton, in_dims=(0, 0, None))
    y, p, b = fit_problem(5)
    close(compiled(step, inductor=True)(y, p, b), step(y, p, b), 1e-10)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_several_devices() -> None:
    f, calls = counted(lambda x, y: x.sin() + y.to(x.device))
    run = compiled(f)
    for x, y in ((X, X), (X.cuda(), X), (X.cuda(), X.cuda())):
        got = run(x, 2 * y)
        assert got.device == x.device
        close(got, f(x, 2 * y))
    assert len(calls) == 6
