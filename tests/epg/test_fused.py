"""The fused engine does what the torch path does, in every derivative and batch."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from both_paths import agree, on_torch
from cases import CASES, STILL, TRAIN, TWO, Case
from torch import Tensor
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap

import mrsim
from mrsim import Tissue, epg
from mrsim.tree import replace, tree_flatten, tree_unflatten
from mrsim.units import ms

if epg.engine_info().path != "fused":
    pytest.skip("no compiled kernel here", allow_module_level=True)

BATCH = torch.tensor([0.9, 1.0, 1.1])
FUSABLE = [
    c for c in CASES if c.f.__module__ != "mrsim.bloch" and c.name != "operators"
]


# ------------------------------------------------------------------------- 12: values


@pytest.mark.parametrize("case", FUSABLE, ids=lambda case: case.name)
def test_double_precision_is_the_torch_path(case: Case) -> None:
    agree(case.f(*case.args), on_torch(case.f, *case.args), 1e-12)


@pytest.mark.parametrize("case", FUSABLE[:12], ids=lambda case: case.name)
def test_single_precision_errs_as_little_as_the_torch_path(case: Case) -> None:
    exact = on_torch(case.f, *case.args)
    small = tuple(mrsim.to(x, torch.float32) for x in case.args)
    made, other = case.f(*small), on_torch(case.f, *small)
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
        agree(made(x), on_torch(made, x), 1e-9)


def test_backward_and_double_backward() -> None:
    x = [torch.tensor(v).requires_grad_() for v in (0.08, 0.95, [2.1, 1.7, 2.6])]

    def slopes() -> list[Tensor]:
        made = torch.autograd.grad(_phased(*x).square().sum(), x, create_graph=True)
        twice = torch.autograd.grad(sum(g.square().sum() for g in made), x)
        return [*made, *twice]

    agree(slopes(), on_torch(slopes), 1e-10)


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
            agree(made(*leaves), on_torch(made, *leaves), 1e-9)
        batch = [torch.stack([x, 1.05 * x]) for x in leaves]
        made = vmap(grad(cost, every))
        agree(made(*batch), on_torch(made, *batch), 1e-9)
