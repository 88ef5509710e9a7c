"""Derivatives of a bound that contains the simulator's own Jacobian.

The shape of code that every user of a differentiable simulator writes first: a cost of
the sequence with ``jacfwd`` of the signal inside, differentiated again, and mapped.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap
from torch.fx.experimental.proxy_tensor import make_fx

import mrsim
from mrsim import Tissue, epg
from mrsim.tree import replace
from mrsim.units import deg, ms

GREY = Tissue(T1=0.95, T2=0.09, M0=1.0, B1=0.95)
SEQ = epg.FSE(flip=[110 * deg, 80 * deg, 60 * deg, 70 * deg, 90 * deg], esp=8 * ms)


def bound(inner: Callable, flip: Tensor, theta: Tensor) -> Tensor:
    """Return the variance of T2 with M0 and B1 unknown, from a bare Jacobian."""

    def signal(x: Tensor) -> Tensor:
        T2, M0, B1 = x
        tissue = replace(GREY, T2=T2, M0=M0, B1=B1)
        return torch.view_as_real(epg.fse(tissue, replace(SEQ, flip=flip))).flatten()

    J = inner(signal)(theta)
    return 1e4 * torch.linalg.inv_ex(J.T @ J)[0][0, 0]


THETA = torch.tensor([0.09, 1.0, 0.95])
inners = pytest.mark.parametrize("inner", [jacfwd, jacrev])


def slope_by_differences(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    step = 1e-4
    ways = torch.eye(len(x)) * step
    return torch.stack(
        [
            (8 * (f(x + w) - f(x - w)) - (f(x + 2 * w) - f(x - 2 * w))) / (12 * step)
            for w in ways
        ],
        -1,
    )


def close(made: Tensor, wanted: Tensor, rtol: float) -> None:
    assert made.shape == wanted.shape
    assert made.isfinite().all()
    assert (made - wanted).abs().max() <= rtol * wanted.abs().max()


@inners
def test_gradient_of_a_bound(inner: Callable) -> None:
    def cost(flip: Tensor) -> Tensor:
        return bound(inner, flip, THETA)

    exact = grad(cost)(SEQ.flip)
    close(jacrev(cost)(SEQ.flip), exact, 1e-11)
    close(jacfwd(cost)(SEQ.flip), exact, 1e-11)
    close(slope_by_differences(cost, SEQ.flip), exact, 1e-8)
    held = SEQ.flip.clone().requires_grad_()
    cost(held).backward()
    close(held.grad, exact, 1e-11)


@inners
def test_hessian_of_a_bound(inner: Callable) -> None:
    def cost(flip: Tensor) -> Tensor:
        return bound(inner, flip, THETA)

    exact = hessian(cost)(SEQ.flip)
    close(exact, exact.T, 1e-10)
    close(jacrev(jacrev(cost))(SEQ.flip), exact, 1e-9)
    close(slope_by_differences(grad(cost), SEQ.flip), exact, 1e-7)


@inners
def test_third_derivative_of_a_bound(inner: Callable) -> None:
    way = torch.linspace(-1, 1, 5)

    def along(s: Tensor) -> Tensor:
        return bound(inner, SEQ.flip + s * way, THETA)

    zero = torch.zeros(())
    exact = grad(grad(grad(along)))(zero)
    close(jacfwd(hessian(along))(zero), exact, 1e-8)
    step = 1e-3
    curved = grad(grad(along))
    wanted = (curved(zero + step) - curved(zero - step)) / (2 * step)
    close(exact, wanted, 1e-4)


def test_protocols_and_tissues_are_mapped() -> None:
    def cost(flip: Tensor, theta: Tensor) -> Tensor:
        return bound(jacfwd, flip, theta)

    flips = torch.stack([SEQ.flip * s for s in (0.9, 1.0, 1.1)])
    thetas = torch.stack([THETA * s for s in (1.0, 1.02)])
    for f, rtol in ((cost, 1e-10), (grad(cost), 1e-10), (hessian(cost), 1e-9)):
        loop = torch.stack([torch.stack([f(x, t) for t in thetas]) for x in flips])
        inside = vmap(vmap(f, in_dims=(None, 0)), in_dims=(0, None))
        close(inside(flips, thetas), loop, rtol)
        outside = vmap(vmap(f, in_dims=(0, None)), in_dims=(None, 0), out_dims=1)
        close(outside(flips, thetas), loop, rtol)
    close(
        jacrev(lambda x: vmap(cost, in_dims=(None, 0))(x, thetas))(SEQ.flip),
        torch.stack([grad(cost)(SEQ.flip, t) for t in thetas]),
        1e-10,
    )


def test_public_bound_is_the_bare_one() -> None:
    def cost(flip: Tensor) -> Tensor:
        made = mrsim.crlb(epg.fse, "T2", "M0", "B1", sigma=1.0)
        return 1e4 * made(GREY, replace(SEQ, flip=flip)).T2

    def bare(flip: Tensor) -> Tensor:
        return bound(jacfwd, flip, THETA)

    close(cost(SEQ.flip), bare(SEQ.flip), 1e-9)
    close(grad(cost)(SEQ.flip), grad(bare)(SEQ.flip), 1e-8)
    close(hessian(cost)(SEQ.flip), hessian(bare)(SEQ.flip), 1e-7)


def test_every_field_of_the_sequence_at_once() -> None:
    full = replace(SEQ, phase=torch.full((5,), 0.1), excitation=torch.tensor(1.5))
    full = replace(full, states=4)

    def cost(seq: epg.FSE) -> Tensor:
        return mrsim.crlb(epg.fse, "T2", "M0", sigma=0.01)(GREY, seq).T2.sqrt()

    slope = grad(cost)(full)
    for name in ("flip", "esp", "phase", "excitation"):
        assert getattr(slope, name).isfinite().all()
        assert (getattr(slope, name) != 0).any()
    way = mrsim.tree.tree_map(lambda x: 0.1 * x, full)
    leaves = mrsim.tree.tree_leaves
    along = sum((a * b).sum() for a, b in zip(leaves(slope), leaves(way), strict=True))
    close(jvp(cost, (full,), (way,))[1], along, 1e-9)


@pytest.mark.xfail(
    raises=(RuntimeError, NotImplementedError),
    reason="torch refuses jvp inside linearize; torch.func.jvp and vjp do the same job",
)
def test_linearize() -> None:
    value, push = torch.func.linearize(
        lambda flip: torch.view_as_real(epg.fse(GREY, replace(SEQ, flip=flip))),
        SEQ.flip,
    )
    assert push(torch.ones(5)).shape == value.shape


def test_derivatives_can_be_traced() -> None:
    def f(flip: Tensor, T2: Tensor) -> Tensor:
        signal = epg.fse(replace(GREY, T2=T2), replace(SEQ, flip=flip))
        return torch.view_as_real(signal)

    many = vmap(jacfwd(f, 1), in_dims=(None, 0))
    T2 = torch.tensor([0.05, 0.1])
    graph = make_fx(many)(SEQ.flip, T2)
    close(graph(SEQ.flip, 2 * T2), many(SEQ.flip, 2 * T2), 1e-13)


def test_autograd_by_finite_differences() -> None:
    def f(flip: Tensor, T2: Tensor) -> Tensor:
        return epg.fse(replace(GREY, T2=T2), replace(SEQ, flip=flip))

    held = tuple(x.clone().requires_grad_() for x in (SEQ.flip, GREY.T2))
    assert torch.autograd.gradcheck(f, held, check_batched_grad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(f, held, fast_mode=True)


def test_modes_without_a_tape() -> None:
    wanted = grad(lambda q: epg.fse(GREY, q).abs().sum())(SEQ)
    with torch.no_grad():
        made = grad(lambda q: epg.fse(GREY, q).abs().sum())(SEQ)
    assert torch.equal(made.flip, wanted.flip)
    with torch.inference_mode():
        signal = vmap(epg.fse, in_dims=(0, None))(mrsim.expand(GREY, 2), SEQ)
    assert torch.equal(signal[1].clone(), epg.fse(GREY, SEQ))
